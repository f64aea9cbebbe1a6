"""The exact effect of changing several nodes at once, for many groups of nodes in one sweep.

What `mi_lab.ablate.sweep_nodes` is for single nodes: two heads that write the same thing can each be
silent alone and necessary together, and a value that two heads share moves only if both are patched.
A group is any set of nodes (`mi_lab.run.Node` with a position). The numbers are those of
`ablate_group`, group by group, but only what a group can have changed is computed again:

1. One clean pass keeps every layer's residual stream, q, k, v, z and MLP hidden layer.
2. In a group's lowest layer nothing before its nodes has changed: their new values are added, and only
   the *columns* (positions) of those nodes get a new residual stream.
3. In the layer above, q, k and v are new in those columns only; the others are the clean ones. From
   there on every position behind the group's first one is a column, none before it, by causality.
4. In the last layer, and for the logits, only answer positions are computed.

Groups with the same lowest layer and the same columns in it go through the model as one batch.
Exact up to fp32 rounding: equal to `run` with the same edits to 1e-5 (tested).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mi_lab.ablate import Reduce, Values, mean_values, reducer
from mi_lab.fast import fast_matmul
from mi_lab.forward import Params, attention, heads, mlp_block, mlp_hidden, project, unembed
from mi_lab.model import Transformer
from mi_lab.run import Node
from mi_lab.stack import Stack

Group = tuple[Node, ...]
Above = Callable[[Tensor, Tensor, int, list[int]], Tensor]
"""(z, resid_pre, layer, columns) -> resid_post, [group, b, column, ..]."""

CHUNK_FLOATS = 2**22  # the largest intermediate tensor: groups and questions are taken by it
KEPT = 4  # chunks of questions whose runs a `Prepared` keeps


class GroupSweep(NamedTuple):
    """groups; changed [group, question, ...]: reduced logits with that group changed; clean [question, ...]."""

    groups: tuple[Group, ...]
    changed: Tensor
    clean: Tensor

    @property
    def effect(self) -> Tensor:
        """Changed - clean [group, question, ...]."""
        return self.changed - self.clean


def sweep_groups(
    model: Transformer,
    tokens: Tensor,
    groups: Sequence[Sequence[Node]],
    *,
    answer: slice,
    value: Literal["mean", "zero"] | Values = "mean",
    donors: Tensor | None = None,
    reference: Tensor | None = None,
    reduce: Reduce | Literal["loss", "correct"] | None = None,
) -> GroupSweep:
    """Logits at the answer positions with all nodes of a group replaced, one group at a time.

    tokens: Int[question, pos]. donors: Int[question, pos], to take each node's value from the run on the
    donor in the same row (interchange). Without: value "mean" over `reference` (default `tokens`), of
    each layer, position and head itself; "zero"; or `Values`. reduce: as in `sweep_nodes`. An empty
    group changes nothing. Raises ValueError for nodes outside the model or at all positions, and for
    donors of another shape.

        >>> from mi_lab.model import TransformerConfig
        >>> config = TransformerConfig(n_layers=2, n_heads=2, d_model=8, d_head=4, n_ctx=5, d_vocab=7)
        >>> pair = (Node(0, 0, position=2), Node(0, 1, position=2))
        >>> tokens = torch.zeros(3, 5, dtype=torch.long)
        >>> sweep_groups(Transformer(config), tokens, [pair], answer=slice(2, 4), reduce="loss").effect.shape
        torch.Size([1, 3, 2])
    """
    return Prepared(model, tokens, answer=answer, value=value, donors=donors, reference=reference).sweep(
        groups, reduce=reduce
    )


class Prepared:
    """A sweep over groups whose clean runs are made once, for a search that asks again and again.

    Arguments as of `sweep_groups`, which is one such call. The runs are kept as long as they fill no more than
    `KEPT` chunks, and made again at each call where there are more questions. The weights must not change.
    """

    def __init__(
        self,
        model: Transformer,
        tokens: Tensor,
        *,
        answer: slice,
        value: Literal["mean", "zero"] | Values = "mean",
        donors: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> None:
        model.check_tokens(tokens)
        if donors is not None:
            model.check_tokens(donors)
            if donors.shape != tokens.shape:
                raise ValueError(
                    f"donors must have the shape of tokens {list(tokens.shape)}, not {list(donors.shape)}"
                )
        self.model, self.tokens, self.donors, self.answer = model, tokens, donors, answer
        with torch.no_grad(), fast_matmul(model.device):
            self.engine = _Engine(model, tokens.shape[1], answer)
            if donors is None:
                value = self.engine.values(value, tokens if reference is None else reference)
        self.value = value
        self.runs: dict[int, tuple[_Clean, Values]] = {}

    def sweep(
        self, groups: Sequence[Sequence[Node]], *, reduce: Reduce | Literal["loss", "correct"] | None = None
    ) -> GroupSweep:
        """As `sweep_groups`."""
        tokens, engine = self.tokens, self.engine
        chosen = tuple(tuple(dict.fromkeys(group)) for group in groups)
        for node in (node for group in chosen for node in group):
            if node.check(self.model.config, tokens.shape[1]).position is None:
                raise ValueError(f"node {node} is at all positions; a group's nodes need one each")
        # no answer can read what is behind the last of them
        felt = [tuple(node for node in group if _position(node) < engine.stop) for group in chosen]
        shrink = reducer(reduce, self.answer)
        changed: Tensor | None = None
        clean_parts = []
        step = min(len(tokens), engine.rows)
        with torch.no_grad(), fast_matmul(self.model.device):
            for begin in range(0, len(tokens), step):
                rows = tokens[begin : begin + step]
                clean, given = self._run(begin, step)
                base = shrink(clean.logits, rows)
                clean_parts.append(base)
                if changed is None:
                    changed = base.new_empty(len(chosen), len(tokens), *base.shape[1:])
                for places in _batches(felt, max(1, engine.rows // len(rows))):
                    logits = engine.changed(clean, given, [felt[i] for i in places])
                    changed[places, begin : begin + step] = shrink(logits, rows)
        assert changed is not None
        return GroupSweep(chosen, changed, torch.cat(clean_parts))

    def _run(self, begin: int, step: int) -> tuple[_Clean, Values]:
        """The clean run of these questions, and what takes the nodes' place."""
        if begin in self.runs:
            return self.runs[begin]
        clean = self.engine.clean(self.tokens[begin : begin + step])
        if self.donors is not None:
            given = self.engine.clean(self.donors[begin : begin + step]).values
        else:
            assert isinstance(self.value, Values)
            given = self.value.rows(begin, begin + step)
        if len(self.tokens) <= KEPT * step:
            self.runs[begin] = clean, given
        return clean, given


def sweep_positions(
    model: Transformer,
    tokens: Tensor,
    positions: Iterable[int] | None = None,
    *,
    answer: slice,
    reference: Tensor | None = None,
    reduce: Reduce | Literal["loss", "correct"] | None = None,
) -> Tensor:
    """Reduced logits [position, question, ...] with one position of the residual stream overwritten.

    Behind every layer, resid_post there becomes that layer's mean over `reference` (default `tokens`).
    Heads of layer 0 still see the token itself: this asks where something is computed, not what is read.
    positions: default all.
    """
    model.check_tokens(tokens)
    chosen = tuple(range(tokens.shape[1]) if positions is None else positions)
    if bad := [p for p in chosen if not 0 <= p < tokens.shape[1]]:
        raise ValueError(f"position {bad[0]} is outside 0..{tokens.shape[1] - 1}")
    with torch.no_grad(), fast_matmul(model.device):
        engine = _Engine(model, tokens.shape[1], answer)
        shrink = reducer(reduce, answer)
        reference = tokens if reference is None else reference
        sums = [engine.streams(rows) for rows in reference.split(engine.rows)]
        means = [torch.stack(layer).sum(0) / len(reference) for layer in zip(*sums)]
        parts = []
        for rows in tokens.split(engine.rows):
            clean = engine.clean(rows)
            logits = (
                engine.overwritten(clean, means, p) if p < engine.stop else clean.logits[None] for p in chosen
            )
            parts.append(torch.cat([shrink(x, rows) for x in logits]))
        return torch.cat(parts, 1)


def co_located(nodes: Sequence[Node], size: int) -> list[Group]:
    """Every group of `size` heads that share a layer and a position.

    >>> [[str(n) for n in g] for g in co_located([Node(0, h, 3) for h in range(3)], 2)]
    [['P3L0H0', 'P3L0H1'], ['P3L0H0', 'P3L0H2'], ['P3L0H1', 'P3L0H2']]
    """
    sites: dict[tuple[int | None, int], list[Node]] = {}
    for node in dict.fromkeys(nodes):
        if node.head is not None:
            sites.setdefault((node.position, node.layer), []).append(node)
    ordered = [sorted(heads, key=lambda node: node.head or 0) for heads in sites.values()]
    return [group for heads in ordered for group in itertools.combinations(heads, size)]


def _batches(groups: Sequence[Group], size: int) -> list[list[int]]:
    """Places of groups that share their lowest layer and its columns, at most `size` at a time."""
    alike: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for i, group in enumerate(groups):
        low = min((node.layer for node in group), default=0)
        columns = sorted({_position(node) for node in group if node.layer == low})
        alike.setdefault((low, tuple(columns)), []).append(i)
    return [places[i : i + size] for places in alike.values() for i in range(0, len(places), size)]


def _position(node: Node) -> int:
    assert node.position is not None
    return node.position


class _Clean(NamedTuple):
    """A clean pass; lists over layers. resid [b, pos, d_model]: resid_pre, and the last resid_post.

    qkv: [b, head, pos, d_head] each. values: z and MLP hidden of all layers.
    """

    resid: list[Tensor]
    qkv: list[list[Tensor]]
    values: Values
    logits: Tensor


class _Engine:
    """The sweep over one model and one length of sequence."""

    def __init__(self, model: Transformer, length: int, answer: slice) -> None:
        self.model, self.config, self.answer = model, model.config, answer
        self.params: Params = Stack.from_models([model]).params(0)
        self.first, self.stop, step = answer.indices(length)
        if step != 1 or self.first >= self.stop:
            raise ValueError(f"answer {answer} picks no run of positions out of {length}")
        config = self.config
        width = max(config.d_mlp, config.d_model, config.n_heads * max(length, config.d_head))
        self.rows = max(1, CHUNK_FLOATS // (length * max(width, config.vocab_out)))

    def values(self, value: Literal["mean", "zero"] | Values, reference: Tensor) -> Values:
        """What stands in for the nodes' own values."""
        if isinstance(value, Values):
            return value
        if value not in ("mean", "zero"):
            raise ValueError(f"value must be 'mean', 'zero' or Values, not {value!r}")
        mean = mean_values(self.model, reference)
        return mean if value == "mean" else Values(mean.z * 0.0, mean.post * 0.0)

    def clean(self, tokens: Tensor) -> _Clean:
        """Step 1."""
        read = tokens.long()
        resid = self.params["W_E"][read] + self.params["W_pos"][: read.shape[1]]
        resids, qkvs, zs, posts = [resid], [], [], []
        for layer in range(self.config.n_layers):
            q, k, v = heads(resid, self.params, layer, self.config)
            qkvs.append([q, k, v])
            z = attention(q, k, v, 0)
            mid = project(z, self.params, f"{layer}.W_O", f"{layer}.b_O") + resid
            posts.append(mlp_hidden(mid, self.params, layer, self.config))
            resid = mlp_block(mid, self.params, layer, self.config, posts[-1])
            resids.append(resid)
            zs.append(z.unflatten(-1, (self.config.n_heads, self.config.d_head)))
        logits = unembed(resid[:, self.first : self.stop], self.params, self.config)
        return _Clean(resids, qkvs, Values(torch.stack(zs), torch.stack(posts)), logits)

    def streams(self, tokens: Tensor) -> list[Tensor]:
        """resid_post of each layer summed over questions: [pos, d_model] each."""
        return [resid.sum(0) for resid in self.clean(tokens).resid[1:]]

    def changed(self, clean: _Clean, new: Values, groups: Sequence[Group]) -> Tensor:
        """Steps 2-4 for groups alike: logits [group, b, answer, vocab]."""
        n = len(groups)
        if not groups[0]:
            return clean.logits.repeat(n, 1, 1, 1)
        low = min(node.layer for node in groups[0])
        start = min(_position(node) for group in groups for node in group)
        columns = sorted({_position(node) for node in groups[0] if node.layer == low})
        z = clean.values.z[low][:, columns].expand(n, -1, -1, -1, -1)
        resid = self.through(z, clean.resid[low][:, columns], new, groups, low, columns)

        def above(z: Tensor, resid: Tensor, layer: int, columns: list[int]) -> Tensor:
            return self.through(z, resid, new, groups, layer, columns)

        return self.upwards(clean, resid, low + 1, columns, start, above)

    def overwritten(self, clean: _Clean, means: Sequence[Tensor], p: int) -> Tensor:
        """Logits [1, b, answer, vocab] with resid_post at position p replaced by means[layer] in every layer."""

        def mean(layer: int) -> Tensor:
            return means[layer][p].expand(1, len(clean.logits), 1, -1)

        def above(z: Tensor, resid: Tensor, layer: int, columns: list[int]) -> Tensor:
            out = self.through(z, resid, clean.values, [()], layer, columns)
            if p in columns:
                out[:, :, columns.index(p)] = mean(layer)[:, :, 0]
            return out

        return self.upwards(clean, mean(0), 1, [p], p, above)

    def upwards(
        self, clean: _Clean, resid: Tensor, lowest: int, columns: list[int], start: int, above: Above
    ) -> Tensor:
        """Steps 3 and 4 from resid_pre of layer `lowest` [group, b, column, d_model] on, clean but in `columns`.

        `above` makes resid_post of z and resid_pre in each layer; nothing before `start` ever changes.
        """
        last = self.config.n_layers - 1
        for layer in range(lowest, self.config.n_layers):
            begin = max(start, self.first) if layer == last else start
            late = [c >= begin for c in columns]
            q, k, v = heads(resid, self.params, layer, self.config)
            here = torch.tensor(columns, device=resid.device)
            after = here[late] - begin
            was_q, was_k, was_v = (x[:, :, : self.stop] for x in clean.qkv[layer])
            q = _replaced(was_q[:, :, begin:], q[..., late, :], after, 3)
            k, v = _replaced(was_k, k, here, 3), _replaced(was_v, v, here, 3)
            before = _replaced(clean.resid[layer][:, begin : self.stop], resid[:, :, late], after, 2)
            z = attention(q, k, v, begin).unflatten(-1, (self.config.n_heads, self.config.d_head))
            columns = list(range(begin, self.stop))
            resid = above(z, before, layer, columns)
        out = clean.logits.repeat(len(resid), 1, 1, 1)
        late = [c >= self.first for c in columns]
        after = torch.tensor(columns, device=out.device)[late] - self.first
        out[:, :, after] = unembed(resid[:, :, late], self.params, self.config)
        return out

    def through(
        self, z: Tensor, resid: Tensor, new: Values, groups: Sequence[Group], layer: int, columns: list[int]
    ) -> Tensor:
        """resid_post [group, b, column, d_model] of z and resid_pre, with the layer's nodes replaced."""
        place = {c: i for i, c in enumerate(columns)}
        nodes = [
            (g, place[_position(node)], node)
            for g, group in enumerate(groups)
            for node in group
            if node.layer == layer and node.position in place
        ]
        z = z.clone() if any(node.head is not None for _, _, node in nodes) else z
        for g, i, node in nodes:
            if node.head is not None:
                z[g, :, i, node.head] = new.of(node)
        mid = project(z.flatten(-2), self.params, f"{layer}.W_O", f"{layer}.b_O") + resid
        post = mlp_hidden(mid, self.params, layer, self.config)
        for g, i, node in nodes:
            if node.head is None:
                post[g, :, i] = new.of(node)
        return mlp_block(mid, self.params, layer, self.config, post)


def _replaced(clean: Tensor, new: Tensor, where: Tensor, axis: int) -> Tensor:
    """[group, *clean] with `new` at `where` along `axis`; `new` itself if that is everything."""
    if new.shape[axis] == clean.shape[axis - 1]:
        return new
    out = clean.repeat(len(new), *(1,) * clean.ndim)
    return out.index_copy_(axis, where, new)

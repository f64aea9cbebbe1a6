"""The exact effect of changing every node, one at a time: ablation and patching.

A node is one head or MLP at one position (`mi_lab.run.Node`). Its output is replaced by its mean,
by zero, or by what it computes on another question; the question is what that does to the answer.
Doing so with one forward pass per node recomputes mostly what has not changed. The same numbers,
sparsely, for a group of questions:

1. One clean pass keeps q, k, v, z and the residual stream of every layer.
2. For each position p, go up the layers. A changed z at (p, layer, head) changes resid_mid at p
   only: add the difference through W_O[head] and recompute this position's MLP. A changed MLP
   changes resid_post at p only. Such nodes are *fresh*.
3. In the layer above, a fresh node has a new query, key and value at p only; queries behind p
   attend to the one new column. From there on it is *live*: everything from p on has changed
   (never what is before p, by causality). All live nodes of p share one batch.
4. In the last layer only queries at the answer positions are computed. A node behind the last of
   them, or of the last layer and at no answer position, has no effect by construction.
5. Logits of the changed answer positions, beside clean ones elsewhere, go through `reduce`.

Exact up to fp32 rounding: equal to `run` with an edit per node to 1e-5 (tested on every shape).
When not: for a few nodes at once, or at all positions, that is `ablate_group`, one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mi_lab.model import Transformer, TransformerConfig
from mi_lab.run import Node, run
from mi_lab.stack import (
    Params,
    Stack,
    attention,
    fast_matmul,
    mlp_block,
    norm,
    project,
    split_heads,
)

Reduce = Callable[[Tensor, Tensor], Tensor]
"""(logits[..., batch, answer, vocab], tokens[batch, pos]) -> Tensor[..., batch, *rest]."""

CHUNK_FLOATS = 2**23  # the largest intermediate tensor, by which questions are grouped


class Values(NamedTuple):
    """What nodes compute: one row per question, or one row that stands for all (a mean, zero).

    z [layer, question | 1, pos, head, d_head]; post [layer, question | 1, pos, d_mlp].
    """

    z: Tensor
    post: Tensor

    def of(self, node: Node) -> Tensor:
        """The value of one node, in the shape `run`'s edit wants."""
        return (self.post if node.head is None else self.z)[(node.layer, *node.index)]

    def rows(self, start: int, stop: int) -> Values:
        """The questions start..stop-1 (a single row stands for any)."""
        return self if self.z.shape[1] == 1 else Values(self.z[:, start:stop], self.post[:, start:stop])


Value = Literal["mean", "zero", "resample"] | Values


class Sweep(NamedTuple):
    """nodes; changed [node, question, ...]: reduced logits with that node changed; clean [question, ...]."""

    nodes: tuple[Node, ...]
    changed: Tensor
    clean: Tensor

    @property
    def effect(self) -> Tensor:
        """Changed - clean [node, question, ...]; with reduce="loss" in nats, positive if the node helped."""
        return self.changed - self.clean

    def of(self, node: Node) -> Tensor:
        """What is left after changing this node: [question, ...]."""
        if node not in self.nodes:
            raise ValueError(f"node {node} is not in this sweep of {len(self.nodes)} nodes")
        return self.changed[self.nodes.index(node)]

    def grid(self, per_node: Tensor) -> Tensor:
        """[layer, component, pos] from one number per node; NaN elsewhere. Heads first, the MLP last."""
        if per_node.shape != (len(self.nodes),):
            raise ValueError(
                f"one number for each of {len(self.nodes)} nodes is needed, not {list(per_node.shape)}"
            )
        if any(node.position is None for node in self.nodes):
            raise ValueError("a node at all positions has no place in a grid over positions")
        heads = max((node.head for node in self.nodes if node.head is not None), default=-1) + 1
        rows = heads + any(node.head is None for node in self.nodes)
        size = [max(x) + 1 for x in zip(*((node.layer, node.position or 0) for node in self.nodes))]
        out = per_node.new_full((size[0], rows, size[1]), torch.nan)
        for node, value in zip(self.nodes, per_node):
            out[node.layer, rows - 1 if node.head is None else node.head, node.position] = value
        return out


def all_nodes(config: TransformerConfig, positions: int | Iterable[int] | None = None) -> tuple[Node, ...]:
    """Every head, and MLP if there is one, at every position (a number of them, or which)."""
    positions = config.n_ctx if positions is None else positions
    positions = range(positions) if isinstance(positions, int) else positions
    parts = [*range(config.n_heads), *([None] if config.d_mlp else [])]
    return tuple(Node(layer, h, p) for p in positions for layer in range(config.n_layers) for h in parts)


def sweep_nodes(
    model: Transformer,
    tokens: Tensor,
    nodes: Sequence[Node] | None = None,
    *,
    answer: slice,
    value: Value = "mean",
    reduce: Reduce | Literal["loss", "correct"] | None = None,
    reference: Tensor | None = None,
    generator: torch.Generator | None = None,
    chunk: int | None = None,
) -> Sweep:
    """Logits at the answer positions with each node replaced, one at a time.

    nodes: default `all_nodes` of these sequences. value: "mean" over `reference` (default `tokens`)
    for each layer, position and head; "zero"; "resample", the value on another question, drawn
    with `generator` from `reference`; or `Values` of your own. reduce: None for
    the logits [node, question, answer, vocab], which can be large; "loss" (nats) or "correct" of
    the next token, [node, question, answer]; or a function (logits, tokens) -> tensor. chunk:
    questions at a time; default by memory.

    Error: exact, equal to `run` with the node edited to 1e-5 (tested).
    Cost: one clean pass and, for each node, the positions behind it in the layers above it.

        >>> config = TransformerConfig(n_layers=2, n_heads=2, d_model=8, d_head=4, n_ctx=5, d_vocab=7)
        >>> tokens = torch.zeros(3, 5, dtype=torch.long)
        >>> sweep_nodes(Transformer(config), tokens, answer=slice(2, 4), reduce="loss").effect.shape
        torch.Size([20, 3, 2])
    """
    with torch.no_grad(), fast_matmul(model.device):
        engine = _Engine(model, tokens, answer, chunk)
        donor = engine.donor(value, reference, generator)
        return engine.sweep(nodes, donor, reducer(reduce, answer))


def patch_nodes(
    model: Transformer,
    tokens: Tensor,
    donors: Tensor,
    nodes: Sequence[Node] | None = None,
    *,
    answer: slice,
    reduce: Reduce | Literal["loss", "correct"] | None = None,
    chunk: int | None = None,
) -> Sweep:
    """As `sweep_nodes`, with each node's value taken from the run on the donor in the same row.

    donors: Int[question, pos], as many as tokens (interchange intervention).
    """
    if donors.shape != tokens.shape:
        raise ValueError(
            f"donors must have the shape of tokens {list(tokens.shape)}, not {list(donors.shape)}"
        )
    model.check_tokens(donors)
    with torch.no_grad(), fast_matmul(model.device):
        engine = _Engine(model, tokens, answer, chunk)
        return engine.sweep(nodes, engine.from_run(donors), reducer(reduce, answer))


def ablate_group(
    model: Transformer,
    tokens: Tensor,
    nodes: Sequence[Node],
    *,
    answer: slice = slice(None),
    value: Value = "mean",
    reduce: Reduce | Literal["loss", "correct"] | None = None,
    reference: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Reduced logits [question, ...] with all these nodes replaced at once. Arguments as `sweep_nodes`.

    Cost: one forward pass, and one over the reference.
    """
    reduce = reducer(reduce, answer)
    with torch.no_grad(), fast_matmul(model.device):
        engine = _Engine(model, tokens, slice(None), None)
        donor = engine.donor(value, reference, generator)
        out = []
        for start, rows in engine.chunks():
            values = donor(start, start + len(rows))
            edit = {node: values.of(node) for node in nodes}
            out.append(reduce(run(model, rows, edit=edit).logits[:, answer], rows))
        return torch.cat(out)


def node_values(model: Transformer, tokens: Tensor) -> Values:
    """What every node computes on every question."""
    with torch.no_grad(), fast_matmul(model.device):
        engine = _Engine(model, tokens, slice(None), None)
        passes = [engine.clean(rows).values for _, rows in engine.chunks()]
        return Values(torch.cat([v.z for v in passes], 1), torch.cat([v.post for v in passes], 1))


def mean_values(model: Transformer, tokens: Tensor) -> Values:
    """What every node computes on average over these questions."""
    with torch.no_grad(), fast_matmul(model.device):
        engine = _Engine(model, tokens, slice(None), None)
        return engine.mean(tokens)


def reducer(reduce: Reduce | Literal["loss", "correct"] | None, answer: slice) -> Reduce:
    """The function that `reduce` names."""
    if reduce is None:
        return lambda logits, tokens: logits
    if callable(reduce):
        return reduce
    if reduce not in ("loss", "correct"):
        raise ValueError(f"reduce must be None, 'loss', 'correct' or a function, not {reduce!r}")

    def next_token(logits: Tensor, tokens: Tensor) -> Tensor:
        first, stop, _ = answer.indices(tokens.shape[1])
        if stop >= tokens.shape[1]:
            raise ValueError(f"position {stop - 1} predicts token {stop}, which the sequences do not have")
        right = tokens[:, first + 1 : stop + 1].long()
        if reduce == "correct":
            return logits.argmax(-1) == right
        index = right.expand(logits.shape[:-1]).unsqueeze(-1)
        return logits.logsumexp(-1) - logits.gather(-1, index).squeeze(-1)

    return next_token


class _Clean(NamedTuple):
    """A clean pass over `tokens` [b, pos]: lists over layers; q, k, v [b, head, pos, d_head]."""

    tokens: Tensor
    qkv: list[tuple[Tensor, Tensor, Tensor]]
    mid: list[Tensor]
    post: list[Tensor]
    values: Values
    logits: Tensor


Donor = Callable[[int, int], Values]  # the values for questions start..stop-1


class _Engine:
    """The sweep of one model over one set of questions."""

    def __init__(self, model: Transformer, tokens: Tensor, answer: slice, chunk: int | None) -> None:
        model.check_tokens(tokens)
        self.config, self.tokens = model.config, tokens
        self.first, self.stop, step = answer.indices(tokens.shape[1])
        if step != 1 or self.first >= self.stop or not len(tokens):
            raise ValueError(f"answer {answer} picks no run of positions out of {list(tokens.shape)} tokens")
        weights = Stack.empty(model.config, 1, model.device).flat.to(model.embed.W_E.dtype)
        stack = Stack(model.config, weights)
        stack.copy_in(0, dict(model.state_dict()))
        self.params: Params = stack.params(0)
        config, pos = model.config, self.stop
        if chunk is None:
            nodes = config.n_layers * (config.n_heads + 1)
            row = max(
                config.d_mlp, config.d_model, config.n_heads * max(pos, config.d_head), config.vocab_out
            )
            chunk = max(1, CHUNK_FLOATS // (nodes * pos * row))
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1 question, not {chunk}")
        self.size = chunk
        self._last: _Clean | None = None

    def chunks(self) -> list[tuple[int, Tensor]]:
        """(number of the first question, questions) of each group."""
        return [(i, self.tokens[i : i + self.size]) for i in range(0, len(self.tokens), self.size)]

    def clean(self, tokens: Tensor) -> _Clean:
        """Step 1, at positions before `stop`; the last pass is kept in case it is asked for again."""
        last = self._last
        if (
            last is not None
            and last.tokens.data_ptr() == tokens.data_ptr()
            and len(last.tokens) == len(tokens)
        ):
            return last
        config, params = self.config, self.params
        read = tokens[:, : self.stop].long()
        resid = params["W_E"][read] + params["W_pos"][: self.stop]
        qkv, mids, posts, zs, hidden = [], [], [], [], []
        for layer in range(config.n_layers):
            p = f"{layer}."
            q, k, v = self.heads(resid, layer, "QKV")
            z = attention(q, k, v, 0)
            mid = resid + project(z, params, p + "W_O", p + "b_O")
            h = mid[..., :0]
            if config.d_mlp:
                h = project(norm(mid, params, p + "ln2", config), params, p + "W_in", p + "b_in")
                h = torch.relu(h) if config.act == "relu" else torch.nn.functional.gelu(h)
                resid = mid + project(h, params, p + "W_out", p + "b_out")
            else:
                resid = mid
            qkv.append((q, k, v))
            mids.append(mid)
            posts.append(resid)
            zs.append(z.unflatten(-1, (config.n_heads, config.d_head)))
            hidden.append(h)
        logits = self.unembed(resid[:, self.first :])
        values = Values(torch.stack(zs), torch.stack(hidden))
        self._last = _Clean(tokens, qkv, mids, posts, values, logits)
        return self._last

    def heads(self, resid: Tensor, layer: int, which: str) -> list[Tensor]:
        """Queries, keys or values [.., head, pos, d_head] of resid_pre [.., pos, d_model]."""
        p = f"{layer}."
        x = norm(resid, self.params, p + "ln1", self.config)
        return [split_heads(project(x, self.params, f"{p}W_{w}", f"{p}b_{w}"), self.config) for w in which]

    def unembed(self, resid: Tensor) -> Tensor:
        return project(norm(resid, self.params, "ln_final", self.config), self.params, "W_U", "b_U")

    def mean(self, tokens: Tensor) -> Values:
        """Values averaged over these questions."""
        total: Values | None = None
        for rows in tokens.split(self.size):
            new = [x.sum(1, keepdim=True) for x in self.clean(rows).values]
            total = Values(*new) if total is None else Values(total.z + new[0], total.post + new[1])
        assert total is not None
        return Values(total.z / len(tokens), total.post / len(tokens))

    def from_run(self, donors: Tensor) -> Donor:
        """Each question's values from its donor's run."""
        return lambda start, stop: self.clean(donors[start:stop]).values

    def donor(self, value: Value, reference: Tensor | None, generator: torch.Generator | None) -> Donor:
        """Where the new values come from."""
        config, n = self.config, len(self.tokens)
        if reference is not None and (reference.ndim != 2 or reference.shape[1] != self.tokens.shape[1]):
            raise ValueError(
                f"reference must be Int[n, {self.tokens.shape[1]}] as the tokens, not {list(reference.shape)}"
            )
        if isinstance(value, Values):
            pos, heads = self.tokens.shape[1], (config.n_heads, config.d_head)
            for name, x, shape in (("z", value.z, heads), ("post", value.post, (config.d_mlp,))):
                wanted = (config.n_layers, n, pos, *shape)
                if x.shape not in (wanted, (config.n_layers, 1, pos, *shape)):
                    raise ValueError(f"values.{name} must have shape {list(wanted)}, not {list(x.shape)}")
            return value.rows
        if value == "zero":
            z, like = (config.n_layers, 1, self.tokens.shape[1]), self.params["W_E"]
            zero = Values(like.new_zeros(*z, config.n_heads, config.d_head), like.new_zeros(*z, config.d_mlp))
            return zero.rows
        if value == "mean":
            return self.mean(self.tokens if reference is None else reference).rows
        if value != "resample":
            raise ValueError(f"value must be 'mean', 'zero', 'resample' or Values, not {value!r}")
        if generator is None:
            raise ValueError("value='resample' draws at random: give it generator=torch.Generator()...")
        if reference is not None:
            index = torch.randint(len(reference), (n,), generator=generator, device=generator.device)
            return self.from_run(reference[index.to(reference.device)])
        if n < 2:
            raise ValueError("value='resample' needs a second question, or a reference")
        order = torch.randperm(n, generator=generator, device=generator.device).to(self.tokens.device)
        donors = torch.empty_like(self.tokens)
        donors[order] = self.tokens[order.roll(1)]  # one cycle: no question is its own donor
        return self.from_run(donors)

    def sweep(self, nodes: Sequence[Node] | None, donor: Donor, reduce: Reduce) -> Sweep:
        """Steps 2-5 for each position and each group of questions."""
        config, n = self.config, self.tokens.shape[1]
        nodes = all_nodes(config, n) if nodes is None else tuple(nodes)
        at: dict[int, dict[int, list[int]]] = {}  # position -> layer -> places in `nodes`
        for i, node in enumerate(nodes):
            node.check(config, n)
            if node.position is None:
                raise ValueError(f"node {node} is at all positions: use ablate_group")
            last = node.layer == config.n_layers - 1
            if node.position < self.stop and not (last and node.position < self.first):
                at.setdefault(node.position, {}).setdefault(node.layer, []).append(i)
        changed: Tensor | None = None
        clean_parts = []
        for start, rows in self.chunks():
            clean = self.clean(rows)
            values = donor(start, start + len(rows))
            base = reduce(clean.logits, rows)
            clean_parts.append(base)
            if changed is None:
                changed = base.new_empty(len(nodes), len(self.tokens), *base.shape[1:])
            part = changed[:, start : start + len(rows)]
            part[:] = base
            for position, layers in at.items():
                order = [i for layer in sorted(layers) for i in layers[layer]]
                for_layers = {layer: [nodes[i].head for i in places] for layer, places in layers.items()}
                logits = self.position(clean, values, position, for_layers)
                part[order] = reduce(logits, rows)
        assert changed is not None
        return Sweep(nodes, changed, torch.cat(clean_parts))

    def position(self, clean: _Clean, values: Values, p: int, layers: dict[int, list[int | None]]) -> Tensor:
        """Logits [node, b, answer, vocab] of the nodes at position p, in order of their layers."""
        config, params = self.config, self.params
        last = config.n_layers - 1
        live: Tensor | None = None  # resid_pre [node, b, p.., d_model]
        fresh: Tensor | None = None  # resid_pre at p [node, b, 1, d_model]
        for layer in range(min(layers), config.n_layers):
            if live is not None or fresh is not None:
                begin = max(p, self.first) if layer == last else p  # first query, step 4
                q, k, v = self.changed_heads(clean, live, fresh, layer, p, begin)
                z = project(attention(q, k, v, begin), params, f"{layer}.W_O", f"{layer}.b_O")
                parts = [] if live is None else [live[:, :, begin - p :]]
                if fresh is not None:  # 3
                    behind = clean.post[layer - 1][:, max(p + 1, begin) :].expand(len(fresh), -1, -1, -1)
                    parts.append(behind if begin > p else torch.cat([fresh, behind], dim=2))
                live = mlp_block(
                    z.add_(torch.cat(parts) if len(parts) > 1 else parts[0]), params, layer, config
                )
            fresh = self.fresh(clean, values, layer, p, layers[layer]) if layer in layers else None  # 2
        done = []
        for resid in (live, fresh):  # 5
            if resid is not None:
                new, behind = self.unembed(resid), max(p, self.first) - self.first
                old = clean.logits.expand(len(resid), -1, -1, -1)
                stop = behind + new.shape[2]
                done.append(torch.cat([old[:, :, :behind], new, old[:, :, stop:]], dim=2))
        return torch.cat(done)

    def fresh(self, clean: _Clean, values: Values, layer: int, p: int, heads: list[int | None]) -> Tensor:
        """resid_post at position p [node, b, 1, d_model] with each of these components replaced."""
        mid = clean.mid[layer][:, p]
        out = mid.expand(len(heads), -1, -1).clone()
        of_heads = [i for i, head in enumerate(heads) if head is not None]
        if of_heads:
            which = [head for head in heads if head is not None]
            difference = values.z[layer, :, p] - clean.values.z[layer, :, p]  # [b, head, d_head]
            W_O = self.params[f"{layer}.W_O"].unflatten(0, (self.config.n_heads, -1))
            added = torch.einsum("bne,ned->nbd", difference[:, which], W_O[which])
            out[of_heads] = mlp_block(mid + added, self.params, layer, self.config)
        if len(of_heads) < len(heads):
            post = values.post[layer, :, p]
            new = mid + project(post, self.params, f"{layer}.W_out", f"{layer}.b_out")
            out[[i for i, head in enumerate(heads) if head is None]] = new
        return out.unsqueeze(2)

    def changed_heads(
        self, clean: _Clean, live: Tensor | None, fresh: Tensor | None, layer: int, p: int, begin: int
    ) -> list[Tensor]:
        """Queries from `begin` on, whole k and v [node, b, head, pos, d_head]; live nodes, then fresh."""
        parts: list[list[Tensor]] = []
        if live is not None:
            late = live[:, :, begin - p :]
            q, (k, v) = self.heads(late, layer, "Q")[0], self.heads(live, layer, "KV")
            before = [x[:, :, :p].expand(len(live), -1, -1, -1, -1) for x in clean.qkv[layer][1:]]
            parts.append([q, *(torch.cat(pair, dim=3) for pair in zip(before, (k, v)))])
        if fresh is not None:
            part = []
            for x, new, start in zip(clean.qkv[layer], self.heads(fresh, layer, "QKV"), (begin, 0, 0)):
                x = x[:, :, start:].expand(len(fresh), -1, -1, -1, -1).clone()
                if start <= p:
                    x[:, :, :, p - start] = new[:, :, :, 0]
                part.append(x)
            parts.append(part)
        return parts[0] if len(parts) == 1 else [torch.cat(pair) for pair in zip(*parts)]

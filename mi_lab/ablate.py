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
from torch.nn.functional import pad

from mi_lab.fast import fast_matmul
from mi_lab.forward import Params, attention, heads, mlp_block, mlp_hidden, project, unembed
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.run import Node, run

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
        changed, clean = self.changed, self.clean
        return changed.float() - clean.float() if changed.dtype == torch.bool else changed - clean

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
    """A clean pass over `tokens` [b, pos]; lists over layers. qkv [b, head, pos, d_head]; mid, post
    [b, pos, d_model]. In the last layer only positions from the first answer on are computed."""

    tokens: Tensor
    qkv: list[list[Tensor]]
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
        self.params = _params(model)
        config = model.config
        if chunk is None:
            nodes = config.n_layers * (config.n_heads + 1)
            row = max(config.d_mlp, config.d_model, config.n_heads * max(self.stop, config.d_head))
            chunk = max(1, CHUNK_FLOATS // (nodes * self.stop * max(row, config.vocab_out)))
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
            begin = self.first if layer == config.n_layers - 1 else 0
            q, k, v = heads(resid, params, layer, config, begin)
            z = attention(q, k, v, begin)
            mid = project(z, params, f"{layer}.W_O", f"{layer}.b_O").add_(resid[:, begin:])
            h = mlp_hidden(mid, params, layer, config)
            resid = mlp_block(mid, params, layer, config, h)
            qkv.append([q, k, v])
            mids.append(pad(mid, (0, 0, begin, 0)))
            posts.append(resid)
            zs.append(pad(z, (0, 0, begin, 0)).unflatten(-1, (config.n_heads, config.d_head)))
            hidden.append(pad(h, (0, 0, begin, 0)) if config.d_mlp else h.new_empty(*read.shape, 0))
        values = Values(torch.stack(zs), torch.stack(hidden))
        self._last = _Clean(tokens, qkv, mids, posts, values, unembed(resid, params, config))
        return self._last

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
        """Steps 2-5 for each group of questions."""
        config, n = self.config, self.tokens.shape[1]
        nodes = all_nodes(config, n) if nodes is None else tuple(nodes)
        for node in nodes:
            if node.check(config, n).position is None:
                raise ValueError(f"node {node} is at all positions: use ablate_group")
        plan = _plan(nodes, config.n_layers - 1, self.first, self.stop)
        idle = sorted(set(range(len(nodes))) - {i for group in plan for i in group.places})
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
            part[idle] = base
            fresh = [self.fresh(clean, values, group) for group in plan]
            if plan and plan[-1].layer == config.n_layers - 1:
                part[plan[-1].places] = reduce(self.last_logits(clean, fresh[-1], plan[-1]), rows)
            for p in sorted(
                {p for group in plan if group.layer < config.n_layers - 1 for p in group.positions}
            ):
                places, logits = self.live_logits(clean, fresh, plan, p)
                part[places] = reduce(logits, rows)
        assert changed is not None
        return Sweep(nodes, changed, torch.cat(clean_parts))

    def fresh(self, clean: _Clean, values: Values, group: _Group) -> Tensor:
        """Step 2 for all nodes of a layer: resid_post at the node's position, [node, b, 1, d_model]."""
        layer, config = group.layer, self.config
        mid = clean.mid[layer].transpose(0, 1)  # [pos, b, d_model]
        n = group.n_heads
        out = mid.new_empty(len(group.places), *mid.shape[1:])
        if n:
            stop = mid.shape[0]
            difference = values.z[layer, :, :stop] - clean.values.z[layer]
            W_O = self.params[f"{layer}.W_O"].unflatten(0, (config.n_heads, config.d_head))
            rows = difference.permute(2, 1, 0, 3).flatten(1, 2)  # [head, pos*b, d_head]
            added = (rows @ W_O).unflatten(1, (stop, -1))[group.heads[:n], group.positions[:n]]
            out[:n] = mlp_block(added.add_(mid[group.positions[:n]]), self.params, layer, config)
        if n < len(out):
            post = values.post[layer, :, group.positions[n:]].transpose(0, 1)
            out[n:] = mlp_block(mid[group.positions[n:]], self.params, layer, config, post)
        return out.unsqueeze(2)

    def last_logits(self, clean: _Clean, fresh: Tensor, group: _Group) -> Tensor:
        """Step 5 for nodes of the last layer, which change one position: [node, b, answer, vocab]."""
        out = clean.logits.repeat(len(fresh), 1, 1, 1)
        where = torch.tensor(group.positions, device=out.device) - self.first
        out[torch.arange(len(fresh), device=out.device), :, where] = unembed(fresh, self.params, self.config)[
            :, :, 0
        ]
        return out

    def live_logits(
        self, clean: _Clean, fresh: list[Tensor], plan: list[_Group], p: int
    ) -> tuple[list[int], Tensor]:
        """Steps 3-5 for the nodes at position p below the last layer: places, [node, b, answer, vocab]."""
        config, last = self.config, self.config.n_layers - 1
        new = {}  # layer -> (places, fresh nodes of p)
        for group, resid in zip(plan, fresh):
            if p in group.positions and group.layer < last:
                which = [i for i, position in enumerate(group.positions) if position == p]
                new[group.layer] = ([group.places[i] for i in which], resid[which])
        places: list[int] = []
        live: Tensor | None = None  # resid_pre [node, b, p.., d_model]
        for layer in range(min(new) + 1, config.n_layers):
            begin = max(p, self.first) if layer == last else p  # the first query, step 4
            parts, resids = [], []
            if live is not None:
                q, *kv = heads(live, self.params, layer, config, begin - p)
                before = [x[:, :, :p].expand(len(live), -1, -1, -1, -1) for x in clean.qkv[layer][1:]]
                parts.append([q, *(torch.cat(pair, dim=3) for pair in zip(before, kv))])
                resids.append(live[:, :, begin - p :])
            if layer - 1 in new:  # 3
                places += new[layer - 1][0]
                column = new[layer - 1][1]
                parts.append(self.one_column(clean, column, layer, p, begin))
                behind = clean.post[layer - 1][:, max(p + 1, begin) :].expand(len(column), -1, -1, -1)
                resids.append(behind if begin > p else torch.cat([column, behind], dim=2))
            q, k, v = parts[0] if len(parts) == 1 else [torch.cat(pair) for pair in zip(*parts)]
            mid = project(attention(q, k, v, begin), self.params, f"{layer}.W_O", f"{layer}.b_O")
            for resid, rows in zip(resids, mid.split([len(resid) for resid in resids])):
                rows.add_(resid)
            live = mlp_block(mid, self.params, layer, config)
        assert live is not None
        out = clean.logits.repeat(len(live), 1, 1, 1)
        out[:, :, max(p - self.first, 0) :] = unembed(live, self.params, config)
        return places, out

    def one_column(self, clean: _Clean, fresh: Tensor, layer: int, p: int, begin: int) -> list[Tensor]:
        """Clean q (from position `begin` on), k, v with those of position p replaced by the fresh nodes'."""
        out = []
        starts = (self.first if layer == self.config.n_layers - 1 else 0, 0, 0)
        news = heads(fresh, self.params, layer, self.config)
        for x, new, start, cut in zip(clean.qkv[layer], news, starts, (begin, 0, 0)):
            x = x[:, :, cut - start :]
            if cut > p:
                out.append(x.expand(len(fresh), -1, -1, -1, -1))
                continue
            x = x.repeat(len(fresh), 1, 1, 1, 1)
            x[:, :, :, p - cut] = new[:, :, :, 0]
            out.append(x)
        return out


class _Group(NamedTuple):
    """The nodes of one layer that can have an effect; heads first (n_heads of them), then MLPs."""

    layer: int
    places: list[int]  # in the caller's nodes
    positions: list[int]
    heads: list[int]  # -1 for an MLP
    n_heads: int


def _plan(nodes: Sequence[Node], last: int, first: int, stop: int) -> list[_Group]:
    """The nodes by layer, from the first one up, without those that step 4 rules out."""
    plan = []
    for layer in range(last + 1):
        here = [
            (node.head is None, node.position or 0, -1 if node.head is None else node.head, i)
            for i, node in enumerate(nodes)
            if node.layer == layer and (first if layer == last else 0) <= (node.position or 0) < stop
        ]
        if here:
            mlp, positions, heads, places = map(list, zip(*sorted(here)))
            plan.append(_Group(layer, places, positions, heads, len(here) - sum(mlp)))
    return plan


def _params(model: Transformer) -> Params:
    """The model's weights under `mi_lab.stack`'s names; only those of q, k, v are copied."""
    out: Params = {}
    for name, value in model.state_dict().items():
        *path, leaf = name.split(".")
        if leaf in ("W_Q", "W_K", "W_V"):
            value = value.transpose(0, 1).flatten(1)
        elif leaf in ("W_O", "b_Q", "b_K", "b_V"):
            value = value.flatten(0, 1)
        if path[-1] in ("ln1", "ln2", "ln_final"):
            leaf = f"{path[-1]}.{leaf}"
        out[f"{path[1]}.{leaf}" if path[0] == "blocks" else leaf] = value
    return out

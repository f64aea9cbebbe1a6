"""The engine of `mi_lab.ablate`: what every node does to the logits, one node at a time, sparsely.

For a group of questions:

1. One clean pass keeps q, k, v, z and the residual stream of every layer.
2. For each position p, go up the layers. A changed z at (p, layer, head) changes resid_mid at p
   only: add the difference through W_O[head] and recompute this position's MLP. A changed MLP
   changes resid_post at p only. Such nodes are *fresh*.
3. In the layer above, a fresh node has a new query, key and value at p only; queries behind p
   attend to the one new column. From there on it is *live*: everything from p on has changed
   (never what is before p, by causality). All live nodes of p share one batch, and so do those of a few
   positions side by side, from the first of these on: fewer and larger products, of fewer shapes (oneDNN
   compiles a kernel for every shape, and keeps a thousand of them).
4. In the last layer only queries at the answer positions are computed. A node behind the last of
   them, or of the last layer and at no answer position, has no effect by construction.
5. Logits of the changed answer positions, beside clean ones elsewhere, go through `reduce`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from mi_lab.forward import Params, attention, heads, mlp_block, mlp_hidden, project, unembed
from mi_lab.model import Transformer
from mi_lab.run import Node

Reduce = Callable[[Tensor, Tensor], Tensor]
"""(logits[..., batch, answer, vocab], tokens[batch, pos]) -> Tensor[..., batch, *rest]."""

CHUNK_FLOATS = 2**23  # the largest intermediate tensor, by which questions and positions are grouped
ABREAST = 4  # positions side by side: more make fewer products, and compute more for nothing


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


def reducer(reduce: Reduce | Literal["loss", "correct"] | None, answer: slice) -> Reduce:
    """The function that `reduce` names."""
    if reduce is None:
        return _logits
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


def _logits(logits: Tensor, tokens: Tensor) -> Tensor:
    """The reduction of those who want the logits themselves."""
    return logits


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


class Engine:
    """The sweep of one model over one set of questions."""

    def __init__(self, model: Transformer, tokens: Tensor, answer: slice, chunk: int | None) -> None:
        model.check_tokens(tokens)
        self.config, self.tokens = model.config, tokens
        self.first, self.stop, step = answer.indices(tokens.shape[1])
        if step != 1 or self.first >= self.stop or not len(tokens):
            raise ValueError(f"answer {answer} picks no run of positions out of {list(tokens.shape)} tokens")
        self.params = _params(model)
        config = model.config
        widest = max(
            config.d_mlp, config.d_model, config.n_heads * max(self.stop, config.d_head), config.vocab_out
        )
        self.row = self.stop * widest  # numbers for one question with one node changed
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1 question, not {chunk}")
        self.chunk = chunk
        self.whole = chunk or self.room(config.n_layers * (config.n_heads + 1))  # questions in a plain pass
        self._last: _Clean | None = None

    def room(self, nodes: int) -> int:
        """Of how many questions the largest tensor has its size, with so many nodes changed side by side."""
        return max(1, CHUNK_FLOATS // (nodes * self.row))

    def chunks(self, size: int) -> list[tuple[int, Tensor]]:
        """(number of the first question, questions) of each group of `size`."""
        return [(i, self.tokens[i : i + size]) for i in range(0, len(self.tokens), size)]

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
        for rows in tokens.split(self.whole):
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

    def sweep(self, nodes: Sequence[Node], donor: Donor, reduce: Reduce) -> tuple[Tensor, Tensor]:
        """Steps 2-5 for each group of questions: reduced logits [node, question, ...], and clean ones."""
        config, (n_questions, n) = self.config, self.tokens.shape
        for node in nodes:
            if node.check(config, n).position is None:
                raise ValueError(f"node {node} is at all positions: use ablate_group")
        plan = _plan(nodes, config.n_layers - 1, self.first, self.stop)
        counts = Counter(p for group in plan if group.layer < config.n_layers - 1 for p in group.positions)
        busiest = max(counts.values(), default=1)
        size = min(n_questions, self.chunk or self.room(ABREAST * busiest))
        blocks = _blocks(sorted(counts), min(ABREAST, max(1, self.room(busiest) // size)), self.first)
        idle = sorted(set(range(len(nodes))) - {i for group in plan for i in group.places})
        changed: Tensor | None = None
        clean_parts = []
        for start, rows in self.chunks(size):
            clean = self.clean(rows)
            values = donor(start, start + len(rows))
            base = reduce(clean.logits, rows)
            clean_parts.append(base)
            if changed is None:
                changed = base.new_empty(len(nodes), len(self.tokens), *base.shape[1:])
            part = changed[:, start : start + len(rows)]
            fresh = [self.fresh(clean, values, group) for group in plan]
            late = plan[-1] if plan and plan[-1].layer == config.n_layers - 1 else None
            if late and reduce is _logits:  # one pass over memory: all clean, then the positions that change
                part.copy_(base)
                self.last_logits(part, late.places, fresh[-1], late)
            else:
                part[idle] = base
                if late:
                    out = clean.logits.repeat(len(late.places), 1, 1, 1)
                    self.last_logits(out, list(range(len(out))), fresh[-1], late)
                    part[late.places] = reduce(out, rows)
            for block in blocks:
                places, logits = self.live_logits(clean, fresh, plan, block)
                part[places] = reduce(logits, rows)
        assert changed is not None
        return changed, torch.cat(clean_parts)

    def fresh(self, clean: _Clean, values: Values, group: _Group) -> Tensor:
        """Step 2 for all nodes of a layer: resid_post at the node's position, [node, b, 1, d_model]."""
        layer, config = group.layer, self.config
        mid = clean.mid[layer].transpose(0, 1)  # [pos, b, d_model]
        n = group.n_heads
        out = mid.new_empty(len(group.places), *mid.shape[1:])
        if n:
            where = group.positions[:n]
            low, high = min(where), max(where) + 1
            difference = values.z[layer, :, low:high] - clean.values.z[layer, :, low:high]
            W_O = self.params[f"{layer}.W_O"].unflatten(0, (config.n_heads, config.d_head))
            rows = difference.permute(2, 1, 0, 3).flatten(1, 2)  # [head, pos*b, d_head]
            every = (rows @ W_O).unflatten(1, (high - low, -1))
            added = every[group.heads[:n], [p - low for p in where]]
            out[:n] = mlp_block(added.add_(mid[where]), self.params, layer, config)
        if n < len(out):
            post = values.post[layer, :, group.positions[n:]].transpose(0, 1)
            out[n:] = mlp_block(mid[group.positions[n:]], self.params, layer, config, post)
        return out.unsqueeze(2)

    def last_logits(self, out: Tensor, places: list[int], fresh: Tensor, group: _Group) -> None:
        """Step 5 for nodes of the last layer, which change one position: into out[place, b, answer, vocab]."""
        index, where = torch.tensor([places, group.positions], device=out.device)
        out[index, :, where - self.first] = unembed(fresh, self.params, self.config)[:, :, 0]

    def live_logits(
        self, clean: _Clean, fresh: list[Tensor], plan: list[_Group], block: range
    ) -> tuple[list[int], Tensor]:
        """Steps 3-5 for the nodes of a block below the last layer: places, [node, b, answer, vocab]."""
        config, last, p = self.config, self.config.n_layers - 1, block.start
        new = {}  # layer -> (places, positions, fresh nodes of the block)
        for group, resid in zip(plan, fresh):
            which = [i for i, position in enumerate(group.positions) if position in block]
            if which and group.layer < last:
                at = torch.tensor([group.positions[i] for i in which], device=resid.device)
                new[group.layer] = ([group.places[i] for i in which], at, resid[which])
        places: list[int] = []
        positions: list[Tensor] = []
        live: Tensor | None = None  # resid_pre [node, b, p.., d_model]
        for layer in range(min(new) + 1, config.n_layers):
            begin = max(p, self.first) if layer == last else p  # the first query, step 4
            start = self.first if layer == last else 0  # of the clean pass's queries
            where, at, column = new.get(layer - 1, ([], None, None))  # 3
            olds = [None] * 3 if live is None else heads(live, self.params, layer, config, begin - p)
            news = [None] * 3 if column is None else heads(column, self.params, layer, config)
            # a block stands before `begin` as a whole, or from there on
            there = None if at is None or begin > p else at - begin
            q, k, v = (
                _joined(x[:, :, cut - first :], live_from - cut, old, own, place)
                for x, old, own, cut, first, live_from, place in zip(
                    clean.qkv[layer], olds, news, (begin, 0, 0), (start, 0, 0), (begin, p, p), (there, at, at)
                )
            )
            mid = project(attention(q, k, v, begin), self.params, f"{layer}.W_O", f"{layer}.b_O")
            if live is not None:
                mid[: len(live)] += live[:, :, begin - p :]
            if column is not None:
                assert at is not None
                places += where
                positions.append(at)
                behind = clean.post[layer - 1][:, None, begin:]
                mid[-len(column) :] += _joined(behind, 0, None, column.unsqueeze(2), there).squeeze(2)
            live = mlp_block(mid, self.params, layer, config)
        assert live is not None
        logits = unembed(live, self.params, config)
        out = clean.logits.repeat(len(live), 1, 1, 1)
        stands = torch.arange(max(p, self.first), self.stop, device=logits.device)
        behind = stands >= torch.cat(positions)[:, None]  # what stands before a node is clean to the last bit
        part = out[:, :, max(p - self.first, 0) :]
        torch.where(behind[:, None, :, None], logits, part, out=part)
        return places, out


def _joined(
    clean: Tensor, start: int, live: Tensor | None, fresh: Tensor | None, at: Tensor | None
) -> Tensor:
    """`clean` [b, head, pos, d] as live nodes change it, then as fresh ones do: [node, b, head, pos, d].

    live [node, b, head, pos - start, d] is all from place `start` on, fresh [node, b, head, 1, d] the place
    `at[node]`; None: their places are not among `clean`, and nothing changes.
    """
    n = 0 if live is None else len(live)
    if live is None and fresh is not None and at is None:
        return clean.expand(len(fresh), *clean.shape)
    out = clean.new_empty(n + (0 if fresh is None else len(fresh)), *clean.shape)
    if live is not None:
        out[:n, :, :, :start] = clean[:, :, :start]
        out[:n, :, :, start:] = live
    if fresh is not None:
        out[n:] = clean
        if at is not None:
            out[torch.arange(n, len(out), device=at.device), :, :, at] = fresh.squeeze(3)
    return out


class _Group(NamedTuple):
    """The nodes of one layer that can have an effect; heads first (n_heads of them), then MLPs."""

    layer: int
    places: list[int]  # in the caller's nodes
    positions: list[int]
    heads: list[int]  # -1 for an MLP
    n_heads: int


def _blocks(positions: list[int], span: int, first: int) -> list[range]:
    """These positions in runs of at most `span`, half of it from `first` on; none reaches over `first`.

    From there on what a run computes for nothing is a larger part: the last layer's queries end at `stop`.
    """
    out: list[range] = []
    for p in positions:
        start = out[-1].start if out else p
        if out and p < start + (span if p < first else max(1, span // 2)) and not start < first <= p:
            out[-1] = range(start, p + 1)
        else:
            out.append(range(p, p + 1))
    return out


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

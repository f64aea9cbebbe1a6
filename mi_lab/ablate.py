"""The exact effect of changing every node, one at a time: ablation and patching.

A node is one head or MLP at one position (`mi_lab.run.Node`). Its output is replaced by its mean,
by zero, or by what it computes on another question; the question is what that does to the answer.
Doing so with one forward pass per node recomputes mostly what has not changed; `mi_lab.ablate_engine`
computes the rest only.

Exact up to fp32 rounding: equal to `run` with an edit per node to 1e-5 (tested on every shape).
When not: for a few nodes at once, or at all positions, that is `ablate_group`, one forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mi_lab.ablate_engine import Donor, Engine
from mi_lab.ablate_engine import Reduce as Reduce
from mi_lab.ablate_engine import Value as Value
from mi_lab.ablate_engine import Values as Values
from mi_lab.ablate_engine import reducer as reducer
from mi_lab.fast import fast_matmul
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.run import Node, run


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
        engine = Engine(model, tokens, answer, chunk)
        donor = engine.donor(value, reference, generator)
        return _sweep(engine, nodes, donor, reducer(reduce, answer))


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
        engine = Engine(model, tokens, answer, chunk)
        return _sweep(engine, nodes, engine.from_run(donors), reducer(reduce, answer))


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
        engine = Engine(model, tokens, slice(None), None)
        donor = engine.donor(value, reference, generator)
        out = []
        for start, rows in engine.chunks(engine.whole):
            values = donor(start, start + len(rows))
            edit = {node: values.of(node) for node in nodes}
            out.append(reduce(run(model, rows, edit=edit).logits[:, answer], rows))
        return torch.cat(out)


def node_values(model: Transformer, tokens: Tensor) -> Values:
    """What every node computes on every question."""
    with torch.no_grad(), fast_matmul(model.device):
        engine = Engine(model, tokens, slice(None), None)
        passes = [engine.clean(rows).values for _, rows in engine.chunks(engine.whole)]
        return Values(torch.cat([v.z for v in passes], 1), torch.cat([v.post for v in passes], 1))


def mean_values(model: Transformer, tokens: Tensor) -> Values:
    """What every node computes on average over these questions."""
    with torch.no_grad(), fast_matmul(model.device):
        engine = Engine(model, tokens, slice(None), None)
        return engine.mean(tokens)


def _sweep(engine: Engine, nodes: Sequence[Node] | None, donor: Donor, reduce: Reduce) -> Sweep:
    """The sweep of these nodes, or of all that the sequences have."""
    nodes = all_nodes(engine.config, engine.tokens.shape[1]) if nodes is None else tuple(nodes)
    return Sweep(nodes, *engine.sweep(nodes, donor, reduce))

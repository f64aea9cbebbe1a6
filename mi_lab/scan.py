"""Which positions and nodes does a model use, and what for? A scan makes the table of them.

    table = scan(model, task, tokens, by="S")      # a NodeTable
    table.where(kind="head", impacts=19)           # heads that answer token 19 needs

A *node* is one head or one MLP at one position. It is useful if some question that the model answers
right turns wrong when the node's output is replaced by its mean, and a *position* is useful if that
happens when the residual stream there is replaced by its mean behind every layer (so a position where
tokens are only read, by heads further on, is not: nothing is computed there). Every layer is replaced
by its own mean; the authors of the arithmetic paper took layer 0's for all (dossier, E5).

Every node is tested on every question, exactly (`mi_lab.ablate`). What a scan cannot see: nodes that
stand in for one another, each silent alone. For those see `mi_lab.sufficiency.redundant`.
Source: the node tables of "Arithmetic in Transformers Explained", section 7 of the dossier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mi_lab.ablate import sweep_nodes
from mi_lab.groups import sweep_positions
from mi_lab.model import Transformer
from mi_lab.node_table import Count, NodeTable, Row, fingerprint
from mi_lab.run import Node, run
from mi_lab.studies.base import Task, predict, targets

BATCH = 256  # questions in one plain forward pass


@torch.no_grad()
def scan(
    model: Transformer,
    task: Task,
    tokens: Tensor,
    *,
    by: str | Sequence[str] = (),
    labels: Sequence[str] | None = None,
    reference: Tensor | None = None,
    nodes: Sequence[Node] | None = None,
    keys: int = 4,
    least: float = 0.01,
) -> NodeTable:
    """The table of all nodes, or of `nodes`, from solved questions Int[n, n_ctx].

    by: variables of the task, Int[n], whose values are classes: by="S" gives the classes S0, S1, ..;
    a value below 0 means that it does not apply to the question. labels: a text for each position
    (default its number). reference: what means are taken over (default `tokens`, also those answered
    wrong). keys, least: how many keys of a head are kept, and the attention they need.

    Cost: one exact sweep over positions and one over nodes.
    Raises ValueError if the model answers none of the questions right.
    """
    tokens = task.solve(tokens).to(model.device)
    reference = tokens if reference is None else reference.to(model.device)
    names = tuple(labels) if labels is not None else tuple(map(str, range(tokens.shape[1])))
    if len(names) != tokens.shape[1] or len({*names}) != len(names):
        raise ValueError(f"labels must be {tokens.shape[1]} different texts, one for each position")
    right = (predict(model, task, tokens, batch=BATCH) == targets(task, tokens)).all(1)
    if not right.any():
        raise ValueError(
            f"this model answers none of the {len(tokens)} questions right: nothing can turn wrong"
        )
    dropped, tokens = int((~right).sum()), tokens[right]
    classes = _classes(task, tokens, [by] if isinstance(by, str) else by)

    def outcome(logits: Tensor, rows: Tensor) -> Tensor:
        """[.., question, answer, 2]: is the token wrong, and its loss."""
        wanted = targets(task, rows).long()
        loss = logits.logsumexp(-1) - logits.gather(-1, wanted.expand(logits.shape[:-1])[..., None])[..., 0]
        return torch.stack([(logits.argmax(-1) != wanted).to(loss), loss], -1)

    clean = torch.cat([outcome(model(part)[:, task.answer], part) for part in tokens.split(BATCH)])

    def row(node: Node | None, position: int, found: Tensor, attends: Any = ()) -> Row:
        wrong = found[..., 0] > 0
        fails = wrong.any(1)
        within = {name: Count(int(fails[where].sum()), int(where.sum())) for name, where in classes.items()}
        loss = float((found[..., 1] - clean[..., 1]).double().mean())
        impact = tuple(wrong.double().mean(0).tolist())
        return Row(node, position, Count(int(fails.sum()), len(tokens)), impact, within, loss, attends)

    replaced = sweep_positions(model, tokens, answer=task.answer, reference=reference, reduce=outcome)
    positions = tuple(row(None, p, found) for p, found in enumerate(replaced))
    sweep = sweep_nodes(model, tokens, nodes, answer=task.answer, reference=reference, reduce=outcome)
    looks = _means(model, tokens, [f"blocks.{layer}.attn.pattern" for layer in range(model.config.n_layers)])
    rows = []
    for node, found in zip(sweep.nodes, sweep.changed):
        attends = ()
        if node.head is not None:
            weights, index = looks[node.layer][node.head, node.position].topk(min(keys, tokens.shape[1]))
            attends = tuple((int(i), round(float(w), 6)) for i, w in zip(index, weights) if w >= least)
        rows.append(row(node, node.position, found, attends))  # type: ignore[arg-type]
    answer = (task.answer.start, task.answer.stop)
    return NodeTable(tuple(rows), positions, names, answer, len(tokens), dropped, fingerprint(model))


def _classes(task: Task, tokens: Tensor, by: Sequence[str]) -> dict[str, Tensor]:
    """Bool[n] of each class: {"S0": .., "S1": ..}."""
    variables, out = task.variables(tokens), {}
    for name in by:
        if name not in variables or variables[name].ndim != 1:
            known = ", ".join(key for key, value in variables.items() if value.ndim == 1)
            raise ValueError(f"{name!r} is no variable with one value per question; there are: {known}")
        value = variables[name]
        out |= {f"{name}{int(v)}": value == v for v in value.unique() if v >= 0}
    return out


def _means(model: Transformer, tokens: Tensor, names: Sequence[str]) -> list[Tensor]:
    """The mean of each activation over questions."""
    runs = (run(model, part, record=names) for part in tokens.split(BATCH))
    sums = zip(*([out[name].sum(0) for name in names] for out in runs))
    return [torch.stack(parts).sum(0) / len(tokens) for parts in sums]

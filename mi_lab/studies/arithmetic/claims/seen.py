"""What the circuit claims share: models, scans and searches, each made once for the same weights.

A claim asks for what it needs (`nodes`, `evidence`, `kept_early`); another claim that asks for the same, of the same
weights, gets what is there. Searches are cut by family, so that a claim about SA does not wait for ST.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mi_lab.locate import Located
from mi_lab.model import Transformer
from mi_lab.node_table import NodeTable, fingerprint
from mi_lab.once import once as _once
from mi_lab.run import Node
from mi_lab.studies.arithmetic import circuit
from mi_lab.studies.arithmetic.claims.common import model, seeded, untrained
from mi_lab.studies.arithmetic.counts import task_of
from mi_lab.subtask import Evidence, SubTask, answers_with, draw_pairs

ADDERS = ("add_d3_l2_h3", "add_d5_l2_h3", "add_d6_l2_h3")
LONGER = ADDERS[1:]
Made = TypeVar("Made")
PAIRS = 200  # random pairs behind every interchange: the least that the dossier asks for
SCANNED = "500 questions, half as in training and half of all classes alike"
MOVED = f"{PAIRS} random pairs for every sub-task"


def once(network: Transformer, what: tuple[Any, ...], make: Callable[[], Made]) -> Made:
    """`make()`, or what it gave before for the same weights and the same question (`mi_lab.once`)."""
    return _once((fingerprint(network), *what), make)


def nodes(recipe: str, seed: int, *, again: int = 0) -> NodeTable:
    """The scan of a published model; again: on other questions."""
    network, task = model(recipe, seed), task_of(recipe)
    return once(network, ("scan", again), lambda: circuit.map_of(network, task, seed=circuit.SEED + again))


def evidence(recipe: str, seed: int, *families: str, twin: bool = False) -> Located:
    """What `circuit.explain` finds for these families; twin: in a model of the same shape with fresh weights."""
    network, task = untrained(recipe, seed) if twin else model(recipe, seed), task_of(recipe)

    def find(family: str) -> Located:
        return once(
            network, ("explain", family),
            lambda: circuit.explain(network, task, families=(family,), n=PAIRS, keep=1).located,
        )  # fmt: skip

    parts = [find(family) for family in families]
    return Located(tuple(e for part in parts for e in part), sum(part.tested for part in parts))


def kept_early(recipe: str, seed: int, *families: str) -> Located:
    """What `circuit.early` finds for these families."""
    network, task = model(recipe, seed), task_of(recipe)
    return once(network, ("early", families), lambda: circuit.early(network, task, families, n=PAIRS).located)


def moved(network: Transformer, subtask: SubTask, group: Sequence[Node], n: int = PAIRS) -> float:
    """How often the whole answer is as predicted with this group taken from the store run; 0 for no group."""
    if not group:
        return 0.0
    pairs, _ = draw_pairs(subtask, n, seeded(subtask.index or 0))
    found = answers_with(network, pairs, [tuple(group)], subtask.task.answer)[0]
    return float((found == pairs.expected).all(-1).double().mean())


def best(found: Sequence[Evidence], at: int | None = None) -> Evidence | None:
    """The evidence with the highest match, complete at this position if one is named."""
    rows = [e for e in found if at is None or e.position == at]
    return max(rows, key=lambda e: e.match.rate, default=None)


def wrong(e: Evidence, kind: str) -> float:
    """The largest rate of a kind of control, "wrong index"; 0 where there is none."""
    return max((count.rate for name, count in e.controls.items() if name.startswith(kind)), default=0.0)


def heads_at(network: Transformer, layer: int, position: int) -> tuple[Node, ...]:
    """All heads of one layer at one position."""
    return tuple(Node(layer, head, position) for head in range(network.config.n_heads))

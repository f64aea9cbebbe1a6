"""P17, P17B, P17C: which algorithm? Hypotheses about what edges and the root token carry, run on every model.

Forward reachability (edges gather what lies below them), pointer jumping (edges gather what lies
above) and chaining (edges hold only themselves) are told apart by renaming nodes, see
`mi_lab.studies.pathfinding.roads`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mi_lab.claims import Accept, Claim, Control, Measurement
from mi_lab.model import Transformer
from mi_lab.once import shared
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.circuit import untrained_twin
from mi_lab.studies.pathfinding.claims.common import OURS, Asked, Row, by_model
from mi_lab.studies.pathfinding.roads import Direction, memory_test, pointer_test
from mi_lab.studies.pathfinding.task import PathfindingTask

N = 100
REACH = 15  # levels: as far as the tree goes
# The full size, and the small models that solve their task in backward order.
MODELS = ("paper", "middle", "quick")

HYPOTHESES: tuple[tuple[str, Direction, int], ...] = (
    ("edge", "up", 0),
    ("up", "up", REACH),
    ("down", "down", REACH),
    ("both", "both", REACH),
    ("nothing", "none", 0),
)


def asked(
    recipe: str, seed: int, order: str, *, twin: bool, trees: int, draw: int
) -> tuple[tuple[Transformer, PathfindingTask, Tensor, dict[str, Tensor]], torch.Generator]:
    """A model (or its twin) and hard trees with P >= 3, and what donors' names are drawn with."""
    model = m.model(recipe, seed)
    model = untrained_twin(model, seed) if twin else model
    task = m.task_of(recipe, order=order)
    some = m.trees(task, 30 * N, trees)
    some = some.where(some.truth["hard"] & (some.truth["length"] >= 3), N)
    return (model, task, some.tokens, some.truth), torch.Generator().manual_seed(m.EVALUATION + draw)


@functools.lru_cache(maxsize=64)
@shared
def roads(recipe: str, seed: int, order: str, *, twin: bool = False) -> Row:
    """Recovered logit difference at the first step, worst layer for each hypothesis.

    Trees whose other side is at least as deep, P >= 3. Worst over layers 0 .. L-2: after
    the last one nothing reads edges any more.
    """
    args, generator = asked(recipe, seed, order, twin=twin, trees=0, draw=17)
    row: Row = {}
    inner = range(args[0].config.n_layers - 1)
    for name, direction, k in HYPOTHESES:
        found = memory_test(*args, inner, direction, k, generator=generator)
        worst = min(found, key=lambda r: r.recovered)
        row[f"memory {name}"] = worst.recovered
        row[f"memory {name}, correct"] = worst.correct
        row["clean, correct"] = worst.clean_correct
        if name not in ("edge", "both"):
            pointers = pointer_test(*args, inner, direction, k, generator=generator)
            row[f"pointer {name}"] = min(r.recovered for r in pointers)
    return row


def right(row: Row) -> bool:
    """A share of what isn't there means nothing: the model must be right on these trees to begin with."""
    return row["clean, correct"] >= 0.8


def where_right(row: Row) -> Row:
    """The row with its shares left out (NaN) where the model is wrong on these trees anyway."""
    return row if right(row) else {k: v if k.endswith("correct") else math.nan for k, v in row.items()}


def _measure(order: str, *, twin: bool = False) -> Asked:
    return by_model(
        lambda name, seed: where_right(roads(name, seed, order, twin=twin)), "memory down",
        sample=f"{N} trees with the other side as deep, P >= 3; a donor for every edge",
    ).of(*(name for name in MODELS if m.published(name)))  # fmt: skip


def exchanged(real: Callable[[bool], Measurement], given: Mapping[str, str]) -> Callable[[bool], Measurement]:
    """The memory's numbers of one hypothesis (value) in the place of another's (key): it must fail."""

    def run(fast: bool) -> Measurement:
        found = real(fast)
        changed = {f"memory {to}": found.values[f"memory {of}"] for to, of in given.items()}
        return Measurement(found.units, {**found.values, **changed}, found.headline, found.sample)

    return run


SWAPPED: Mapping[str, str] = {"up": "down", "down": "up"}
RENAMED: Mapping[str, str] = {
    "edge": "nothing",
    "up": "nothing",
    "down": "nothing",
}  # everything renamed, the edge itself too

P17 = Claim(
    "P17",
    "Forward reachability: edges gather the nodes below them",
    f"{OURS}; the competing algorithm of Saparov et al. 2024",
    "In backward order the tokens of an edge carry the names of its descendants: donors that share only those "
    "serve, donors that share only its ancestors don't.",
    "not in the paper, whose model climbs from the goal",
    Accept(
        "the model is right on >= .8 of these trees; memory, worst layer: descendants recover >= .85 of the first "
        "step's logit difference, ancestors <= .70",
        lambda r: right(r) and r["memory down"] >= 0.85 and r["memory up"] <= 0.70,
    ),
    _measure("backward"),
    (
        Control("ancestors and descendants exchanged", exchanged(_measure("backward"), SWAPPED)),
        Control("everything renamed", exchanged(_measure("backward"), RENAMED)),
        Control("untrained twin", _measure("backward", twin=True)),
    ),
    "Donors share the tree's shape: whether depth is used is not asked. Formed after a look at small models "
    "(8 and 10 nodes), before the full-size model was trained.",
)
P17B = Claim(
    "P17B",
    "Pointer jumping: edges gather the nodes above them",
    f"{OURS}; the reading suggested by the dossier's section 6C",
    "In random order the tokens of an edge carry the names of its ancestors: donors that share only those "
    "serve, donors that share only its descendants don't.",
    "not in the paper",
    Accept(
        "the model is right on >= .8 of these trees; memory, worst layer: ancestors recover >= .85 of the first "
        "step's logit difference, descendants <= .70",
        lambda r: right(r) and r["memory up"] >= 0.85 and r["memory down"] <= 0.70,
    ),
    _measure("random"),
    (
        Control("ancestors and descendants exchanged", exchanged(_measure("random"), SWAPPED)),
        Control("everything renamed", exchanged(_measure("random"), RENAMED)),
    ),
    "In backward order it is impossible: a parent's edge stands behind its children's.",
)
P17C = Claim(
    "P17C",
    "Chaining: edges hold nothing but themselves, the path token climbs",
    f"the paper's account as a hypothesis; test {OURS}",
    "Renaming everything but the edge itself in every edge's state changes nothing; the root token carries the "
    "goal's ancestors.",
    "deduction heads at the path token",
    Accept(
        "the model is right on >= .8 of these trees; memory: the edge alone recovers >= .90 in every layer; "
        "pointer: the goal's ancestors recover >= .90",
        lambda r: right(r) and r["memory edge"] >= 0.90 and r["pointer up"] >= 0.90,
    ),
    _measure("backward"),
    (
        Control("everything renamed", exchanged(_measure("backward"), RENAMED)),
        Control("untrained twin", _measure("backward", twin=True)),
    ),
    "Registers would break the first half at long distances: the test asks for P >= 3, most of it short.",
)


def must_fail(
    measure: Asked,
    twin: Asked,
    text: str = "ancestors and descendants exchanged",
    swapped: Mapping[str, str] = SWAPPED,
    renamed: Mapping[str, str] = RENAMED,
) -> tuple[Control, ...]:
    """The controls of a claim about what edges carry after one layer."""
    return (
        Control(text, exchanged(measure, swapped)),
        Control("everything renamed", exchanged(measure, renamed)),
        Control("untrained twin", twin),
    )

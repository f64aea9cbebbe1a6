"""P24, P25, P35: which trees in random order are hard: those whose path is listed from the root down."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mi_lab.claims import Accept, Claim, Control
from mi_lab.model import Transformer
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.claims.common import OURS, Asked, Row, per_seed
from mi_lab.studies.pathfinding.listing import relisted

N = 1000  # trees of each path length
LENGTHS = range(3, 7)
WAYS = (("goal first", True), ("root first", False))  # of listing a path: deepest first?
LAW = ("paper", "many")  # trained on backward and random order, the paper's law
BOTH = "every"  # goes on from `many` with trees listed from the root down as well
LONG = "long"  # goes on from `every` for seven times as long
SAMPLE = f"{N:,} trees in random order of each P in 3..6, those that are hard, each written in two orders"


def first_right(model: Transformer, some: m.Trees, tokens: Tensor) -> float:
    """Share of these prompts (tokens: `some`, written in another order) whose first step is right."""
    root = some.task.root_position
    found = m.logits(model, tokens[:, : root + 1], slice(root, None))[:, 0].argmax(-1)
    return float((found == some.tokens[:, root + 1]).float().mean())


def both_ways(model: Transformer, recipe: str, lengths: Sequence[int], n: int, *, other: bool = False) -> Row:
    """Hard first steps right for each P with the path's edges (or the other side's) listed either way, "P = 3, .."."""
    row: Row = {}
    for length in lengths:
        some = m.trees(m.task_of(recipe, order="random", shortest=length, longest=length), n, 24)
        some = some.where(some.truth["hard"])
        for way, deepest in WAYS:
            tokens = relisted(some, deepest_first=deepest, other=other)
            row[f"P = {length}, {way}"] = first_right(model, some, tokens)
    return row


def _ordered(model: Transformer, *, other: bool = False) -> Row:
    """First steps right with the path's edges (or the other side's) from the goal up, and from the root down."""
    found = both_ways(model, "paper", LENGTHS, N, other=other)
    row = {way: sum(found[f"P = {p}, {way}"] for p in LENGTHS) / len(LENGTHS) for way, _ in WAYS}
    return {"gain": row["goal first"] - row["root first"], **row, **found}


def ordered(headline: str, *recipes: str, other: bool = False, twin: bool = False) -> Asked:
    """How often the first step is right with a path's edges listed either way, for these recipes' models."""
    return per_seed(recipes, lambda model: _ordered(model, other=other), headline, sample=SAMPLE, twin=twin)


P24 = Claim(
    "P24",
    "In random order a path is hard to find that is listed from the root down",
    OURS,
    "The same trees, their path's edges in the same places: listed from the goal up, so that every edge stands behind "
    "the one below it, the full-size models that were trained on the paper's law find the first step more often than "
    "listed from the root down.",
    "not in the paper",
    Accept("first steps right more often by >= .1, mean over P = 3..6", lambda r: r["gain"] >= 0.1),
    ordered("gain", *LAW),
    (
        Control(
            "the edges on the other side of the root instead, deepest first and last",
            ordered("gain", *LAW, other=True),
        ),
        Control("untrained twin", ordered("gain", LAW[-1], twin=True)),
    ),
    "Formed after seeing that `paper` is right more often on trees that happen to be listed so, and tried once on it "
    "and on `many` in mid-training, which goes on from it: two points of one run. Hard means that depth can't tell the "
    "side; a coin gets one in two.",
)
P25 = Claim(
    "P25",
    "Trained on trees listed from the root down, the model finds those paths too",
    OURS,
    "The full-size model that went on with edges in every order finds the first step in random order also where the "
    "path is listed from the root down.",
    "not in the paper, whose law has no such trees",
    Accept("first steps right in >= .9 root first, mean over P = 3..6", lambda r: r["root first"] >= 0.9),
    ordered("root first", BOTH),
    (
        Control("the models trained on the paper's law", ordered("root first", *LAW)),
        Control("untrained twin", ordered("root first", BOTH, twin=True)),
    ),
    "Written down while `every` was in its first hundred steps. It also has more steps and a rate that falls to 0, "
    "which the control `many` has not: the order of the edges isn't the only difference.",
)
P35 = Claim(
    "P35",
    "With seven times the training, the model finds paths listed from the root down",
    OURS,
    "The full-size model that went on from `every` for 28,000 steps finds the first step in random order also where "
    "the path is listed from the root down.",
    "not in the paper, whose law has no such trees",
    P25.accept,
    ordered("root first", LONG),
    (
        Control("the model it went on from", ordered("root first", BOTH)),
        Control("untrained twin", ordered("root first", LONG, twin=True)),
    ),
    "P25's question and bar, put to `long` after seeing, at step 20,428, that it found .96 of whole forward trees and "
    ".85 of random ones, and before this was measured. One run.",
)

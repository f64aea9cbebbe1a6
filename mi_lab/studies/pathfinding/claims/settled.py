"""P40..P45: the full-size model that went on longest: is the task solved, and by which road?

P40 to P43 were written down on 30 November while the second of its four stages was in its first thousand
steps, P44 and P45 in the middle of it. (The last stage was split in two towards the end of it.)
"""

from __future__ import annotations

import functools

from mi_lab.claims import Accept, Claim, Control
from mi_lab.studies.pathfinding.claims.common import OURS
from mi_lab.studies.pathfinding.claims.edges import BELOW, P22, after, after_third, controls, told_apart
from mi_lab.studies.pathfinding.claims.heads import N, backward_heads
from mi_lab.studies.pathfinding.claims.order import LONG, P35, ordered
from mi_lab.studies.pathfinding.claims.roads import must_fail, right
from mi_lab.studies.pathfinding.claims.solved import P1, solved

SETTLED = "settled"
WRITTEN = "Written down while the second of its four stages was in its first thousand steps. One run"


HEADS = f"{N:,} backward trees, heads at P >= 2"

P40 = Claim(
    "P40",
    "Gone on in four stages, the full-size model solves the task",
    OURS,
    "The full-size model that went on from `long` with edges in random order, then with the paths of middling length, "
    "then with the paper's law again, writes the whole path and its stop for trees it never saw.",
    P1.reported,
    P1.accept,
    solved(SETTLED),
    (
        Control("the model it went on from", solved(LONG, share=5)),
        Control("untrained twin", solved(SETTLED, share=5, twin=True)),
    ),
    f"P1's question and bar. {WRITTEN}. Unlike the paper's model, it has been shown forward trees, by `every` and "
    "`long`, which it goes on from; many goals to a tree and a loss at every layer are ours too.",
)
P41 = Claim(
    "P41",
    "It finds paths that are listed from the root down",
    OURS,
    "The full-size model that went on longest finds the first step in random order also where the path is listed from "
    "the root down.",
    P35.reported,
    P35.accept,
    ordered("root first", SETTLED),
    (
        Control("the model it went on from", ordered("root first", LONG)),
        Control("untrained twin", ordered("root first", SETTLED, twin=True)),
    ),
    f"P35's question and bar. {WRITTEN}; the stage's model was looked at in between, at step 10,000: .93.",
)
P42 = Claim(
    "P42",
    "After its third layer edges carry what lies below them, in backward order",
    OURS,
    "In backward order, after layer 2 of the full-size model that went on longest, donors for the edges' tokens serve "
    "if they share the names of an edge's descendants, and not if they share those of its ancestors or of the edge "
    "alone.",
    P22.reported,
    P22.accept,
    BELOW.of(SETTLED),
    must_fail(BELOW.of(SETTLED), after_third("backward", 22, SETTLED, "down", twin=True)),
    f"P22's question, bar and trees. {WRITTEN}; `long`, which it goes on from, had been seen to do so.",
)
P43 = Claim(
    "P43",
    "It has no deduction heads",
    OURS,
    "The full-size model that went on longest solves the backward order without a head that climbs one level a layer "
    "from the goal.",
    "the paper's model has them in L1, L2 and L3",
    Accept(
        "exact >= .98 (backward order, P1's bar), D_1, D_2 and D_3 <= .2 at P >= 2",
        lambda r: r["exact"] >= 0.98 and max(r["D1"], r["D2"], r["D3"]) <= 0.2,
    ),
    backward_heads(SETTLED, 3, sample=HEADS),
    (
        Control("untrained twin", backward_heads(SETTLED, 3, sample=HEADS, twin=True)),
        Control(
            "models that were shown the climb, on their trees of 10 nodes (`unaided`)",
            backward_heads("unaided", 3, sample=HEADS),
        ),
    ),
    f"P15's question at full size. {WRITTEN}; `long` had been seen to have none.",
)
SEEN = (
    "Formed on 60 other trees and an earlier model: `middling` at step 4,000, with some twenty-five sets of names, "
    "before `settled` was begun. One run"
)
PIECES = functools.partial(after, 1, "random", 44, "random", SETTLED, "fragment")
P44 = Claim(
    "P44",
    "In random order an edge carries the piece of the tree that is listed so far",
    OURS,
    "In random order, after layer 1, donors for the edges' tokens serve if they share the names of all nodes that the "
    "edges listed up to there tie to an edge, and not if they share only those above and below it among them, all its "
    "ancestors, all its descendants, the edge listed before it, or as many other nodes.",
    "not in the paper",
    Accept(
        "the model is right on >= .8 of these trees; the piece recovers >= .7 of the first step's logit difference; "
        "the edge alone, ancestors, descendants, the line so far, the edge before and as many other names <= .6 each",
        told_apart("fragment", 0.7, "edge", "up", "down", "line", "neighbour", "as many", most=0.6),
    ),
    PIECES(),
    controls(PIECES(), PIECES(twin=True), "fragment", "as many", "as many other names in its place"),
    f"{SEEN}. A piece has 5.4 names on average, of 10.7 that an edge could know. .7 is no more than most of it.",
)
P45 = Claim(
    "P45",
    "In random order nothing in the edges is needed any more after the fourth layer",
    OURS,
    "In random order, after layer 3, all nodes in the edges' tokens can be renamed, and the first step stays as it "
    "was: by then the tokens behind the edges have read what they need.",
    "not in the paper",
    Accept(
        "the model is right on >= .8 of these trees; with everything renamed >= .9 of the first step's logit "
        "difference is left",
        lambda r: right(r) and r["memory nothing"] >= 0.9,
    ),
    after(3, "random", 45, "random", SETTLED, "nothing"),
    (
        Control("two layers earlier", after(1, "random", 45, "random", SETTLED, "nothing")),
        Control("untrained twin", after(3, "random", 45, "random", SETTLED, "nothing", twin=True)),
    ),
    f"{SEEN}. It doesn't say which of the tokens behind the edges holds what.",
)

"""P20: by which way the goal comes to the root token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mi_lab.claims import Accept, Claim, Control, Measurement
from mi_lab.model import Transformer
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.circuit import untrained_twin
from mi_lab.studies.pathfinding.claims.common import OURS, Row, table
from mi_lab.studies.pathfinding.delivery import told, two_goals

N = 600
SAMPLE = f"{N:,} trees of the training law, those with a leaf on each side whose first step is right for both goals"
MODELS = ("waves", "paper")  # the second goes on from the first


def _told(model: Transformer, before: int) -> Row:
    """`told` at the position that stands `before` places in front of the root token, after the fifth layer; and with
    the states after each of the first five layers from the other run."""
    some = m.trees(m.task_of("paper"), N, 20)
    pairs, place = two_goals(some), some.task.root_position - before
    try:
        moved, kept = told(model, pairs, position=place, layer=4)
        every, _ = told(model, pairs, position=place, layer=range(5))
    except ValueError:  # an untrained twin finds no first step
        return {"told": 0.0, "stays": 0.0, "told, L0-L4": 0.0}
    return {"told": moved.value, "stays": kept.value, "told, L0-L4": every.value}


def _measure(
    names: Sequence[str] = MODELS, *, before: int = 1, twin: bool = False
) -> Callable[[bool], Measurement]:
    def run(fast: bool) -> Measurement:
        units = [(name, seed) for name in names for seed in m.seeds_of(name, fast)]
        models = [m.model(name, seed) for name, seed in units]
        rows = [
            _told(untrained_twin(model, seed) if twin else model, before)
            for model, (_, seed) in zip(models, units, strict=True)
        ]
        return table(
            [f"{name} seed {seed}" for name, seed in units],
            rows,
            "told",
            sample=SAMPLE,
            sources=m.sources(*names),
        )

    return run


P20 = Claim(
    "P20",
    "The goal reaches the root token by way of ':'",
    f"{OURS}: the paper has the root token fetch the goal in its first layer (P3)",
    "In the full-size models whose positions begin as waves, the state of ':' after the fifth layer tells the root "
    "token the goal: taken from the same tree with a goal on the other side, it turns the first step.",
    "not in the paper",
    Accept("first step follows the state's goal in >= .8", lambda r: r["told"] >= 0.8),
    _measure(),
    (
        Control("the goal's own token instead", _measure(before=2)),
        Control("'|' instead", _measure(before=3)),
        Control("the model that began with random positions", _measure(("plateau",))),
        Control("untrained twin", _measure(MODELS[-1:], twin=True)),
    ),
    "Formed after seeing the attention of `waves` in mid-training (step 4,513): its root token looks at nothing but "
    "':' in its last layer. One seed. The root token of `paper` reads ':' in earlier layers too: 'L0-L4' has the "
    "states of ':' after all five layers from the other run, and is no part of the claim.",
)

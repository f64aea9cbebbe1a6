"""P20: by which way the goal comes to the root token."""

from __future__ import annotations

from mi_lab.claims import Accept, Claim, Control
from mi_lab.model import Transformer
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.claims.common import OURS, Row, per_seed
from mi_lab.studies.pathfinding.delivery import told, two_goals

N = 600
SAMPLE = f"{N:,} trees of the training law, those with a leaf on each side whose first step is right for both goals"
MODELS = ("waves", "paper")  # the second goes on from the first


def _told(model: Transformer, before: int = 1) -> Row:
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


P20 = Claim(
    "P20",
    "The goal reaches the root token by way of ':'",
    f"{OURS}: the paper has the root token fetch the goal in its first layer (P3)",
    "In the full-size models whose positions begin as waves, the state of ':' after the fifth layer tells the root "
    "token the goal: taken from the same tree with a goal on the other side, it turns the first step.",
    "not in the paper",
    Accept("first step follows the state's goal in >= .8", lambda r: r["told"] >= 0.8),
    per_seed(MODELS, _told, "told", sample=SAMPLE),
    (
        Control(
            "the goal's own token instead",
            per_seed(MODELS, lambda model: _told(model, 2), "told", sample=SAMPLE),
        ),
        Control("'|' instead", per_seed(MODELS, lambda model: _told(model, 3), "told", sample=SAMPLE)),
        Control(
            "the model that began with random positions", per_seed("plateau", _told, "told", sample=SAMPLE)
        ),
        Control("untrained twin", per_seed(MODELS[-1], _told, "told", sample=SAMPLE, twin=True)),
    ),
    "Formed after seeing the attention of `waves` in mid-training (step 4,513): its root token looks at nothing but "
    "':' in its last layer. One seed. The root token of `paper` reads ':' in earlier layers too: 'L0-L4' has the "
    "states of ':' after all five layers from the other run, and is no part of the claim.",
)

"""P21: what a loss at every layer does to a model that is stuck."""

from __future__ import annotations

from collections.abc import Callable

from mi_lab import zoo
from mi_lab.claims import Accept, Claim, Control, Measurement
from mi_lab.model import Transformer
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.claims.common import OURS, table

N = 5000
STEP = 4000  # both go on at a constant rate up to here
EARLY, LATE = "waves", "not_deep"
STEPS = "paper_steps/seed-0"


def _gain(name: str, load: Callable[[], Transformer]) -> Callable[[bool], Measurement]:
    """Hard first steps and exact match after STEP more steps, beside those of the model both went on from."""

    def run(fast: bool) -> Measurement:
        some = m.trees(m.task_of("paper"), N // (5 if fast else 1), 21)
        before, after = m.accuracy(m.model(EARLY, 0), some), m.accuracy(load(), some)
        row = {
            "gain": after.hard - before.hard, "hard": after.hard, "hard before": before.hard,
            "exact": after.exact.value, "exact before": before.exact.value,
        }  # fmt: skip
        return table(["seed 0"], [row], "gain", sample=f"{N:,} trees", sources=m.sources(EARLY, name))

    return run


P21 = Claim(
    "P21",
    "A loss at every layer leads the stuck model on",
    OURS,
    f"From the same weights and at the same constant rate, {STEP:,} steps with a loss at every layer (read by the "
    "final LayerNorm and unembedding) teach first steps that depth cannot tell; with a loss at the last alone they "
    "do not.",
    "not in the paper",
    Accept("hard first steps right more often by >= .05 than before", lambda r: r["gain"] >= 0.05),
    _gain(STEPS, lambda: zoo.load(f"pathfinding/{STEPS}", STEP)) if m.published(LATE) else None,
    (Control("a loss at the last layer alone", _gain(LATE, lambda: m.model(LATE, 0))),),
    "One run of each kind, formed after seeing the first 3,000 steps. The control read other trees than this run, the "
    "ones that the model they both come from had read before.",
)

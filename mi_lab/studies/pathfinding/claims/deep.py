"""P21, P23: what leads a model on that is stuck: a loss at every layer, and many goals for one tree."""

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
    "ones that the model they both come from had read before. Neither run's weights at this step are shipped.",
)


FAR = 2000  # trees of each path length
MANY, ONE = "many", "not_many"


def _far(model: Transformer, length: int, fast: bool) -> float:
    """First steps right in random order where the goal is `length` levels down and depth doesn't tell the side."""
    task = m.task_of("paper", order="random", shortest=length, longest=length)
    some = m.trees(task, FAR // (4 if fast else 1), 23)
    return m.accuracy(model, some).hard


def _learned(name: str) -> Callable[[bool], Measurement]:
    """Hard first steps of goals three and four levels down, beside those of the model it went on from."""

    def run(fast: bool) -> Measurement:
        before, after = m.model("paper", 0), m.model(name, 0)
        row: dict[str, float] = {"gain": 0.0}
        for length in (3, 4):
            row |= {
                f"P = {length}": _far(after, length, fast),
                f"P = {length}, before": _far(before, length, fast),
            }
        row["gain"] = row["P = 3"] - row["P = 3, before"]
        return table(
            ["seed 0"], [row], "gain", sample=f"{FAR:,} trees in random order of each path length",
            sources=m.sources("paper", name),
        )  # fmt: skip

    return run


P23 = Claim(
    "P23",
    "Many goals for one tree teach a look-up sooner",
    OURS,
    "From the same weights and in as much time, 2,000 steps with eight more goals to every tree teach the "
    "full-size model first steps to goals three levels down in random order; with one goal to a tree they are not "
    "learned.",
    "not in the paper",
    Accept("hard first steps at P = 3 right more often by >= .05 than before", lambda r: r["gain"] >= 0.05),
    _learned(MANY) if m.published(ONE) else None,
    (Control("one goal to a tree, for 3,000 steps", _learned(ONE)),),
    "One run of each kind, formed after seeing step 750 (.72 before, .80 then, on other trees). A step with one goal "
    "takes two thirds of the time. Both runs draw their trees from one seed. The weights of `not_many` are not "
    "shipped.",
)

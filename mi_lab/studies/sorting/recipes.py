"""Training recipes of the sorting study; shapes are the paper's.

Which weight decay? The paper says "Adam with weight decay", most likely the coupled form (L2 inside
the gradient). It decides the result, so all three are here: `paper` (coupled), `adamw` (decoupled),
`no_decay`. Learning rate, batch and steps of the paper are not known; these are ours.
"""

from __future__ import annotations

from dataclasses import replace

from mi_lab.model import TransformerConfig
from mi_lab.studies.sorting.task import SortingTask
from mi_lab.train import Recipe

SEEDS = tuple(range(8))
CHECKPOINTS = (
    0, 25, 50, 75, 100, 125, 150, 175, 200, 250, 300, 350, 400, 500, 600,
    700, 800, 1000, 1250, 1500, 2000, 2500, 3000, 4000, 5000, 6000,
)  # fmt: skip
FEW = (250, 500, 1000, 2000, 4000)
SHORT = 3000  # steps of the variants whose structure, not its late stage, is asked about


def config(task: SortingTask, **changes: object) -> TransformerConfig:
    """One layer, attention only, 2 heads of 48, d_model 96, LayerNorm before attention and at the end."""
    shape = TransformerConfig(
        n_layers=1, n_heads=2, d_model=96, d_head=48, n_ctx=task.n_ctx, d_vocab=len(task.vocab)
    )
    return replace(shape, **changes)  # type: ignore[arg-type]


PAPER = Recipe(
    name="paper",
    task=SortingTask(),
    config=config(SortingTask()),
    optimiser="adam",
    lr=1e-3,
    weight_decay=0.005,
    batch=256,
    steps=6000,
    decay="linear",
    final_lr=0.01,
    seeds=SEEDS,
    checkpoints=CHECKPOINTS,
    description="Baseline: L = 10, V = 51, Adam with coupled L2 0.005.",
)


def _variant(name: str, description: str, task: SortingTask | None = None, **changes: object) -> Recipe:
    shape = {k: changes.pop(k) for k in ("n_heads", "norm") if k in changes}
    task = task or PAPER.task  # type: ignore[assignment]
    return replace(
        PAPER,
        name=name,
        description=description,
        task=task,
        config=config(task, **shape),  # type: ignore[arg-type]
        **{"checkpoints": FEW, **changes},  # type: ignore[arg-type]
    )


_all = [
    PAPER,
    _variant("adamw", "Decoupled weight decay 0.005.", optimiser="adamw", checkpoints=CHECKPOINTS),
    _variant("no_decay", "No weight decay.", weight_decay=0.0, checkpoints=CHECKPOINTS),
    *(
        _variant(
            f"window_{w}",
            f"Lists from a random window of {w} numbers: mean gap {(w + 1) / 11:.2f} at the same L and V.",
            SortingTask(window=w),
        )
        for w in (12, 14, 20, 30)
    ),
    _variant("v21", "L = 10, V = 21: mean gap 2 by a smaller vocabulary.", SortingTask(n_numbers=21)),
    _variant("l5_v27", "L = 5, V = 27: mean gap 4.67.", SortingTask(length=5, n_numbers=27)),
    _variant("l7_v37", "L = 7, V = 37: mean gap 4.75.", SortingTask(length=7, n_numbers=37)),
    *(_variant(f"heads_{h}", f"{h} head{'s' * (h > 1)} of 48.", n_heads=h, steps=SHORT) for h in (1, 3, 4)),
    _variant("no_norm", "Without LayerNorm.", norm=None, steps=SHORT),
    _variant(
        "quick",
        "For live training: the paper's recipe, stopped after a quarter of its schedule.",
        steps=1500,
        horizon=6000,
        seeds=(100,),
        checkpoints=tuple(step for step in CHECKPOINTS if step <= 1500),
    ),
]
recipes: dict[str, Recipe] = {recipe.name: recipe for recipe in _all}
# Recipes whose models are not (yet) among the published checkpoints; `quick` is trained in the chapter.
UNPUBLISHED = ("l5_v27", "l7_v37", "quick")

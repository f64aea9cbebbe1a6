"""From training folders to what the package ships: `python -m mi_lab.studies.sorting.publish RUNS`.

RUNS is the `out` of `fit` (or `mi-lab train --out`). For every recipe found there this writes
`mi_lab/published/sorting/NAME.safetensors` (all seeds at the last step, fp16, with provenance),
for recipes behind a development claim also `NAME_steps/seed-S.safetensors`, and the curves of
development. Everything is computed from the fp16 weights that readers will load.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mi_lab import publish as published
from mi_lab.metrics import score
from mi_lab.publish import Place, finished, provenance, weights, write_seeds, write_steps
from mi_lab.studies.sorting import measure
from mi_lab.studies.sorting.circuit import attribution, copying_margin, count_runs
from mi_lab.studies.sorting.recipes import CHECKPOINTS, recipes
from mi_lab.train import Recipe

PUBLISHED = published.PUBLISHED / "sorting"
CURVES = Path(__file__).parent / "curves"
KEPT_STEPS = {  # weights in mid-training, for the explorers and the LLC
    "paper": dict.fromkeys(range(1, 8), (250, 500, 1000, 2000, 4000))
    | {0: tuple(step for step in CHECKPOINTS if step % 50 == 0)},
    "no_decay": {0: (250, 500, 1000, 2000, 4000)},
    "adamw": {0: (250, 500, 1000, 2000, 4000)},
}


def publish(runs: Path, recipe: Recipe) -> str:
    """Write one recipe's files; returns a line that says what was written."""
    places = finished(runs, recipe)
    if not places:
        return f"{recipe.name}: no finished seed in {runs / recipe.name}"
    about = provenance("sorting", recipe, places)
    final = [weights(place, recipe, recipe.steps) for place in places.values()]
    task = measure.task_of(recipe.name)
    losses = [score(s.model(0), task, measure.lists(task, 2000)) for s in final]
    about["metrics"] = {
        "token accuracy": [round(float(x.correct.float().mean()), 5) for x in losses],
        "list accuracy": [round(float(x.correct.all(1).float().mean()), 5) for x in losses],
        "loss": [round(float(x.nll.mean()), 5) for x in losses],
        "sample": "2,000 fresh lists per seed, teacher-forced",
    }
    write_seeds(PUBLISHED / f"{recipe.name}.safetensors", recipe, places, about)
    for seed, steps in KEPT_STEPS.get(recipe.name, {}).items():
        if seed in places:
            path = PUBLISHED / f"{recipe.name}_steps" / f"seed-{seed}.safetensors"
            write_steps(path, recipe, seed, places[seed], steps, about)
    if len(recipe.checkpoints) > 10:
        curves(recipe, places)
    return f"{recipe.name}: {len(places)} seeds"


@torch.no_grad()
def curves(recipe: Recipe, places: dict[int, Place]) -> None:
    """Development at every kept step: see `measure.development` for the arrays."""
    task = measure.task_of(recipe.name)
    tokens, more = measure.lists(task, 1000, seed=41), measure.lists(task, 1000, seed=42)
    names = ("loss", "token", "list", "owner_share", "dla_runs", "own", "other", "norm")
    margins, table = [], {name: [] for name in names}
    for place in places.values():
        rows: dict[str, list[float]] = {name: [] for name in names}
        margins.append([])
        for step in recipe.checkpoints:
            model = weights(place, recipe, step).model(0)
            margins[-1].append(copying_margin(model, task).numpy())
            scores = score(model, task, tokens)
            found = attribution(model, task, tokens)
            own, other = measure.dissociation(model, task, found.owner, more, "mean")
            norm = sum(float(p.pow(2).sum()) for p in model.parameters()) ** 0.5
            values = (
                float(scores.nll.mean()),
                float(scores.correct.float().mean()),
                float(scores.correct.all(1).float().mean()),
                found.share,
                float(count_runs(found.owner)),
                max(1.0 if x != x else x for x in own),
                min(1.0 if x != x else x for x in other),
                norm,
            )
            for name, value in zip(names, values, strict=True):
                rows[name].append(value)
        for name in names:
            table[name].append(rows[name])
    CURVES.mkdir(exist_ok=True)
    arrays = {name: np.array(value, dtype=np.float32) for name, value in table.items()}
    np.savez_compressed(
        CURVES / f"{recipe.name}.npz",
        steps=np.array(recipe.checkpoints),
        seeds=np.array(list(places)),
        margin=np.array(margins, dtype=np.float16),
        **arrays,  # type: ignore[arg-type]
    )


if __name__ == "__main__":
    published.main("sorting", recipes, publish)

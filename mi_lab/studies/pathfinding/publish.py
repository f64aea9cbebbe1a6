"""From training folders to what the package ships: `python -m mi_lab.studies.pathfinding.publish RUNS`.

RUNS is the `out` of `fit` (or `mi-lab train --out`). For every recipe found there this writes
`mi_lab/published/pathfinding/NAME.safetensors` (all seeds at the last step, fp16, with provenance);
for the full-size model also a few steps in mid-training and the curves of its development.
Everything is computed from the fp16 weights that readers will load.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mi_lab import publish as published
from mi_lab.model import Transformer
from mi_lab.publish import Place, finished, provenance, weights, write_seeds, write_steps
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.many_goals import plain
from mi_lab.studies.pathfinding.recipes import KEPT_STEPS, recipes
from mi_lab.studies.pathfinding.roads import memory_test
from mi_lab.train import Recipe

PUBLISHED = published.PUBLISHED / "pathfinding"
CURVES = Path(__file__).parent / "curves"
REACH = 15
FEW = 12  # kept steps that are all shown


def publish(runs: Path, recipe: Recipe) -> str:
    """Write one recipe's files; returns a line that says what was written."""
    places = finished(runs, recipe)
    if not places:
        return f"{recipe.name}: no finished seed in {runs / recipe.name}"
    about = provenance("pathfinding", recipe, places)
    some = m.trees(m.task_of(recipe.name), 2000, 2)
    found = [m.accuracy(weights(place, recipe, recipe.steps).model(0), some) for place in places.values()]
    about["metrics"] = {
        "exact": [round(a.exact.value, 5) for a in found],
        "branches": [round(a.branch, 5) for a in found],
        "sample": "2,000 fresh trees of the training law per seed",
    }
    write_seeds(PUBLISHED / f"{recipe.name}.safetensors", recipe, places, about)
    for seed, steps in KEPT_STEPS.get(recipe.name, {}).items():
        if seed in places:
            path = PUBLISHED / f"{recipe.name}_steps" / f"seed-{seed}.safetensors"
            write_steps(path, recipe, seed, places[seed], steps, about)
    if recipe.name in KEPT_STEPS:
        curves(runs, recipe, places)
    return f"{recipe.name}: {len(places)} seeds, exact {about['metrics']['exact']}"


def development_row(model: Transformer, recipe: str) -> dict[str, list[float]]:
    """One step of the development story; every entry a list, so that rows stack into arrays.

    by_length: exact match for P = 1.. (500 trees of each order). branch, hard: `measure.Accuracy`.
    deduction: D_1.. (P4). edge, up, down: recovered difference of the memory test after each inner layer.
    """
    backward, random = (m.trees(m.task_of(recipe, order=order), 750, 3) for order in ("backward", "random"))
    a, b = m.accuracy(model, backward), m.accuracy(model, random)
    task = backward.task
    far = backward.where(backward.truth["hard"] & (backward.truth["length"] >= 3), 40)
    inner = range(model.config.n_layers - 1)
    row = {
        "by_length": [(x + y) / 2 for x, y in zip(a.by_length, b.by_length, strict=True)],
        "exact": [a.exact.value, b.exact.value],
        "branch": [a.branch, b.branch],
        "hard": [a.hard, b.hard],
        "deduction": m.deduction(
            model, m.Trees(task, backward.tokens[:300], {k: v[:300] for k, v in backward.truth.items()})
        ),
    }
    for name, direction, k in (("edge", "up", 0), ("up", "up", REACH), ("down", "down", REACH)):
        found = memory_test(
            model, task, far.tokens, far.truth, inner, direction, k,  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(m.EVALUATION + 18),
        )  # fmt: skip
        row[name] = [r.recovered for r in found]
    return row


def curves(runs: Path, recipe: Recipe, places: dict[int, Place]) -> None:
    """Development at every kept step, or every other one of many: the arrays of `development_row`, [seed, step, ..].

    A grown model's story goes on from those it was grown from: their steps count, as far as their runs are
    in `runs`, and the ones on trees of its own size are shown.
    """
    steps: list[int] = []
    table: dict[str, list[list[list[float]]]] = {}
    for seed in places:
        steps, rows, before = [], [], 0
        for part in reversed(m.lineage(recipe)):
            place = finished(runs, part).get(seed)
            if place is None:  # its donor was taken from where it is published, and has curves of its own
                continue
            if plain(part.task).n_ctx == plain(recipe.task).n_ctx:
                every = 1 if len(part.kept) <= FEW else 2
                shown = sorted({*part.kept[::every], part.steps} - ({0} if rows else set()))
                rows += [development_row(weights(place, part, s).model(0), recipe.name) for s in shown]
                steps += [before + s for s in shown]
            before += part.steps
        for name in rows[0]:
            table.setdefault(name, []).append([row[name] for row in rows])
    CURVES.mkdir(exist_ok=True)
    arrays = {name: np.array(value, dtype=np.float32) for name, value in table.items()}
    np.savez_compressed(
        CURVES / f"{recipe.name}.npz",
        steps=np.array(steps),
        seeds=np.array(list(places)),
        **arrays,  # type: ignore[arg-type]
    )


if __name__ == "__main__":
    published.main("pathfinding", recipes, publish)

"""Launch-bound training: many models as one stack at batch 1, against HookedTransformer loops.

At batch 1 a step is mostly the launching of small operations; it stands in for a GPU that waits for Python.
A stack trains S models with the launches of one. Same models, loss, optimiser and precision (torch's
defaults) on both sides, data drawn beforehand; the number is time per model and step. `single` is our own
path for one model. Gate before the clock: every model's logits equal its HookedTransformer's to 2e-5.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import arguments, gate, interleave, median_and_spread, ratio, report_cases, row
from hooked import hooked, loop

from mi_lab.fast import fast_matmul
from mi_lab.forward import forward
from mi_lab.stack import Stack, onednn_pays
from mi_lab.step import Step
from mi_lab.studies.pathfinding.recipes import recipes as pathfinding
from mi_lab.studies.sorting.recipes import recipes as sorting

CASES = {
    "sorting, 16 models": (sorting["paper"], 16, 16, (7.0, 10.0)),
    "pathfinding, 8 models": (pathfinding["waves"], 8, 3, (3.0, 4.0)),
}


def measure(name: str, rounds: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    recipe, models, steps, (ask, stretch) = CASES[name]
    recipe = replace(recipe, batch=1, precision="fp32", warmup=0)
    stack = Stack.init(recipe.config, range(models))
    tokens = recipe.task.sample(8, generator=torch.Generator().manual_seed(3))
    size = recipe.task.n_ctx

    def settings(count: int):
        return fast_matmul(onednn=onednn_pays(recipe.config, size, count))

    with torch.no_grad(), settings(models):
        answer = recipe.task.answer
        ours = forward(stack.params(), recipe.config, tokens.expand(models, -1, -1), answer)
        theirs = torch.stack([hooked(stack.model(i))(tokens)[:, answer] for i in range(models)])
        off = {"logits": float((ours - theirs).abs().max())}
    checked = gate(name, off, {"logits": 2e-5})
    together = Step(recipe, stack, [torch.Generator().manual_seed(i) for i in range(models)])
    alone = Step(recipe, Stack.init(recipe.config, [0]), [torch.Generator().manual_seed(0)])
    together.draw()
    alone.draw()
    peer = loop(hooked(alone.stack.model(0)), recipe, alone.pool[0])

    def stacked() -> None:
        with settings(models):
            for _ in range(steps):
                together(note=False)

    def single() -> None:
        with settings(1):
            for _ in range(steps):
                alone(note=False)

    def theirs_loop() -> None:
        for _ in range(steps):
            peer()

    variants: dict[str, Callable[[], None]] = {
        "stacked": stacked, "single": single, "HookedTransformer": theirs_loop,
    }  # fmt: skip
    times = interleave(variants, rounds, per=steps)
    times["stacked"] = [x / models for x in times["stacked"]]
    line = row(f"{name}: a step at batch 1, per model", ratio(times, "HookedTransformer", "stacked"), ask,
               stretch=stretch, single=ratio(times, "HookedTransformer", "single")["median"])  # fmt: skip
    about = {"largest_differences": checked, "ms": {k: median_and_spread(v) for k, v in times.items()}}
    return [line], about


def main() -> None:
    args = arguments(__doc__, rounds=5)
    report_cases("Stacked models where a step is mostly launches", CASES, measure, args, "transformer-lens")


if __name__ == "__main__":
    main()

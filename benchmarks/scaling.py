"""How time and memory grow: against digits, width, layers, seeds, nodes and questions.

One knob at a time, the others as in the compact addition model (5 digits, 2 layers, width 96, batch 32), on
one CPU thread. Time: CPU time of a training step, of a sweep over that many nodes, of an evaluation of that
many questions; the points of a curve are measured round-robin. Memory: how far the resident size rises above
what it was before (Linux: the peak is reset through /proc/self/clear_refs, and freed memory is given back
before each point). The exponent is the slope of log y against log x over all points; its range is two
standard errors of the fit, which a curve that bends makes wide.

The limits were fixed before anything was measured, by what each knob makes linear: digits, layers, nodes,
questions and models may cost no more than in proportion (attention, quadratic in digits, is a small part),
width no more than its square, and the memory of a stream of questions may not grow.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import arguments, exponent, gate, interleave, machine, report, row

from mi_lab.ablate import all_nodes, sweep_nodes
from mi_lab.fast import fast_matmul
from mi_lab.model import Transformer
from mi_lab.recipe import Recipe
from mi_lab.run import run
from mi_lab.stack import Stack
from mi_lab.step import POOL, Step
from mi_lab.stream import evaluate
from mi_lab.studies.arithmetic.recipes import compact, config
from mi_lab.studies.arithmetic.task import ArithmeticTask

Work = Callable[[], Any]
BASE = replace(compact("add", 5, 2, 3), batch=32)


def training(recipe: Recipe, models: int = 1) -> Work:
    """One training step of so many stacked models; the data are there."""
    generators = [torch.Generator().manual_seed(i) for i in range(models)]
    step = Step(recipe, Stack.init(recipe.config, range(models)), generators)
    step.draw()

    def work() -> None:
        with fast_matmul():
            step(note=False)
            step.at.remainder_(POOL)

    return work


def digits(n: int) -> Work:
    task = ArithmeticTask(n, "+")
    return training(replace(BASE, task=task, config=config(task)))


def shape(layers: int = 2, width: int = 96) -> Work:
    return training(replace(BASE, config=config(BASE.task, layers, 3, width)))  # type: ignore[arg-type]


def nodes(n: int) -> Work:
    model = Transformer(BASE.config, generator=torch.Generator().manual_seed(0)).eval()
    tokens = BASE.task.sample(64, generator=torch.Generator().manual_seed(1))
    every = all_nodes(BASE.config, BASE.task.answer.stop)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(2)).tolist()
    some = [every[i] for i in order[:n]]
    return lambda: sweep_nodes(model, tokens, some, answer=BASE.task.answer, reduce="loss")


def questions(n: int) -> Work:
    model = Transformer(BASE.config, generator=torch.Generator().manual_seed(0)).eval()
    return lambda: evaluate(model, BASE.task, n, free_running=False, batch=256)


# knob: points, what is measured, largest exponent of time and of memory
CURVES: dict[str, tuple[tuple[int, ...], Callable[[int], Work], float, float]] = {
    "digits": ((2, 4, 8, 16), digits, 1.2, 1.2),
    "width": ((48, 96, 192, 384), lambda n: shape(width=n), 2.0, 1.5),
    "layers": ((1, 2, 4, 8), lambda n: shape(layers=n), 1.1, 1.1),
    "models in a stack": (
        (1, 2, 4, 8),
        lambda n: training(replace(BASE, batch=2), n),
        1.0,
        1.1,
    ),
    "nodes of a sweep": ((16, 32, 64, 128), nodes, 1.1, 1.1),
    "questions": ((1000, 4000, 16_000), questions, 1.1, 0.1),
}


def memory(work: Work) -> float | None:
    """MiB that the resident size rises above its start while this runs; None where it can't be told."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        begun = _status("VmRSS")
        work()
        return (_status("VmHWM") - begun) / 1024
    except (OSError, AttributeError):
        return None


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def checks() -> dict[str, float]:
    """The sweep that is measured equals a full recomputation, the stream one batch."""
    model = Transformer(BASE.config, generator=torch.Generator().manual_seed(0)).eval()
    tokens = BASE.task.sample(8, generator=torch.Generator().manual_seed(1))
    some = all_nodes(BASE.config, BASE.task.answer.stop)[::17]
    swept = sweep_nodes(model, tokens, some, answer=BASE.task.answer, value="zero").changed
    full = [run(model, tokens, edit={node: 0.0}).logits[:, BASE.task.answer] for node in some]
    a = evaluate(model, BASE.task, 512, free_running=False, batch=256).n
    return {"sweep": float((swept - torch.stack(full)).abs().max()), "asked": float(abs(a - 512))}


def main() -> None:
    args = arguments(__doc__, rounds=5)
    checked = gate("scaling", checks(), {"sweep": 1e-5, "asked": 0.0})
    rows, curves = [], {}
    for knob, (points, make, time_limit, memory_limit) in CURVES.items():
        work = {str(n): make(n) for n in points}
        times = interleave(work, args.rounds)
        seconds = [sorted(times[str(n)])[args.rounds // 2] for n in points]
        mib = [memory(work[str(n)]) for n in points]
        curves[knob] = {"points": points, "ms": [round(1e3 * s, 3) for s in seconds], "mib": mib}
        fits = [("time", seconds, time_limit)]
        if all(m is not None and m > 0 for m in mib):
            fits.append(("memory", mib, memory_limit))  # type: ignore[arg-type]
        for what, values, limit in fits:
            fit = exponent([float(n) for n in points], values)
            middle, error = fit["exponent"], fit["standard_error"]
            value = {
                "median": middle,
                "min": round(middle - 2 * error, 3),
                "max": round(middle + 2 * error, 3),
            }
            name = f"{what} against {knob} ({points[0]:,} to {points[-1]:,})"
            rows.append(row(name, value, limit, unit="exponent", most=True))
    report(
        {
            "title": "How time and memory grow (exponents)",
            "rows": rows,
            "curves": curves,
            "largest_differences": checked,
            "machine": machine(),
        },
        args.json,
    )


if __name__ == "__main__":
    main()

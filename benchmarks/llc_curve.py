"""A learning-coefficient curve over 16 checkpoints of one run: `estimate_all` against devinterp in a loop.

The checkpoints of a short run of the sorting model (trained here, 200 steps), each with the same SGLD: 2
chains of 15 draws at batch 256, settings of `llc_vs_devinterp.py`. That is far too short for a value worth
reading; it is long enough for a time per draw, of which a curve is made (the fixed cost of a call counts
for more than in longer chains, on both sides). The other side calls devinterp 2.0.1
once for each checkpoint, on a HookedTransformer. Gate: both see the same loss at every checkpoint (1e-4);
whether the estimates themselves agree is the question of `llc_vs_devinterp.py`, with longer chains.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import arguments, gate, interleave, machine, median_and_spread, ratio, report, row
from hooked import hooked
from llc_vs_devinterp import SETTINGS, TASK, devinterp_llc

from mi_lab.llc import estimate_all
from mi_lab.recipe import log_steps
from mi_lab.stack import Stack
from mi_lab.studies.sorting.recipes import recipes
from mi_lab.train import fit

SHORT = replace(SETTINGS, draws=15, chains=2)
STEPS = log_steps(200, 16, first=10)


def main() -> None:
    args = arguments(__doc__, rounds=1)
    history = fit(
        replace(recipes["paper"], steps=200, checkpoints=STEPS), seeds=(0,), device="cpu", progress=False
    )
    steps = sorted(history.checkpoints)
    stack = Stack(history.recipe.config, torch.cat([history.checkpoints[step].flat for step in steps]))
    tokens = TASK.sample(2048, generator=torch.Generator().manual_seed(99))
    latest: dict[str, Any] = {}

    def ours() -> None:
        latest["ours"] = estimate_all(stack, tokens, TASK.answer, SHORT)

    def theirs() -> None:
        twins = [hooked(stack.model(i)) for i in range(len(stack))]
        latest["theirs"] = [devinterp_llc(twin, tokens, SHORT) for twin in twins]

    times = interleave({"mi_lab": ours, "devinterp": theirs}, args.rounds, warm_up=False)
    pairs = list(zip(latest["ours"], latest["theirs"], strict=True))
    off = {"initial_loss": max(abs(a.initial_loss / b["initial_loss"] - 1) for a, b in pairs)}
    checked = gate("llc_curve", off, {"initial_loss": 1e-4})
    change = [a.value - float(b["per_chain"].mean()) for a, b in pairs]
    error = statistics.stdev(change) / len(change) ** 0.5
    report(
        {
            "title": "Learning coefficient along training",
            "rows": [
                row(f"a curve of {len(steps)} checkpoints, against devinterp in a loop",
                    ratio(times, "devinterp", "mi_lab"), 10.0, stretch=20.0),
            ],
            "steps": steps,
            "settings": vars(SHORT),
            "largest_differences": checked,
            "curve": {
                "ours": [round(a.value, 2) for a, _ in pairs],
                "devinterp": [round(float(b["per_chain"].mean()), 2) for _, b in pairs],
                "mean_difference_in_standard_errors": round(statistics.mean(change) / error, 2),
            },
            "seconds": {name: median_and_spread(x, unit=1) for name, x in times.items()},
            "machine": machine("devinterp", "transformer-lens"),
        },
        args.json,
    )  # fmt: skip


if __name__ == "__main__":
    main()

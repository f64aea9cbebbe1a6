"""Record the LLC curves: `python -m mi_lab.studies.sorting.record_llc [SEED ...]`, 3 to 5 minutes a seed.

For every published seed of `paper`, at a few steps of training, each estimator of `mi_lab.llc`; and
for the final model the falsifier: W_V times 2, W_O by 2, the same function. Writes
`curves/llc.json`; a seed recorded before is kept unless named.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from mi_lab import zoo
from mi_lab.checkpoint import device_name, versions, write_atomically
from mi_lab.llc import ESTIMATORS, LLC, estimate, rescale
from mi_lab.studies.sorting import measure

STEPS = (250, 500, 1000, 2000, 4000, 6000)
BATCH = 64
EXAMPLES = 8192
FACTOR = 2.0
OUT = Path(__file__).parent / "curves" / "llc.json"


def point(step: int, found: LLC) -> dict[str, Any]:
    """What is kept of one estimate."""
    loss = found.loss.mean(0)
    every = max(1, len(loss) // 60)
    return {
        "step": step,
        "value": round(float(found.value), 3),
        "se_chains": round(float(found.se_chains), 3),
        "se_draws": round(float(found.se_draws), 3),
        "initial_loss": round(float(found.initial_loss), 6),
        "end_loss": round(float(found.end_loss), 6),
        "warnings": list(found.warnings),
        "trace": [round(float(x), 5) for x in loss[::every]],
    }


def record(seed: int) -> dict[str, Any]:
    """All estimators of one seed over training, and the rescaling falsifier on its final model."""
    task = measure.task_of("paper")
    tokens = measure.lists(task, EXAMPLES, seed=81)
    out: dict[str, Any] = {"estimators": {}, "rescaled": {}}
    for name, settings in ESTIMATORS.items():
        settings = replace(settings, batch=BATCH)
        points = []
        for step in STEPS:
            model = measure.model("paper", seed) if step == 6000 else measure.model_at("paper", seed, step)
            points.append(point(step, estimate(model, tokens, task.answer, settings, seed=seed)))
        twin = estimate(rescale(model, FACTOR), tokens, task.answer, settings, seed=seed)
        out["estimators"][name] = points
        out["rescaled"][name] = {
            "value": round(float(twin.value), 3),
            "ratio": float(twin.value) / points[-1]["value"],
        }
        print(seed, name, [p["value"] for p in points], "rescaled", out["rescaled"][name], flush=True)
    return out


def main(seeds: list[int]) -> None:
    """Record the named seeds, or all that are missing."""
    old: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {"estimators": {}, "rescaled": {}}
    known = set(old["estimators"].get("rms_l2", {}))
    todo = seeds or [s for s in zoo.read("sorting/paper").labels if str(s) not in known]
    for seed in todo:
        found = record(seed)
        for kind in ("estimators", "rescaled"):
            for name, value in found[kind].items():
                old[kind].setdefault(name, {})[str(seed)] = value
        old["settings"] = {
            name: {
                **asdict(replace(s, batch=BATCH)),
                "text": f"{s.chains} chains, {s.burn_in} + {s.draws} draws, batch {BATCH}, {EXAMPLES:,} lists",
            }
            for name, s in ESTIMATORS.items()
        }
        old |= {
            "command": "python -m mi_lab.studies.sorting.record_llc",
            "checkpoint": zoo.sha256("sorting/paper"),
            "device": device_name("cpu"),
            "versions": versions(),
            "factor": FACTOR,
        }
        write_atomically(OUT, (json.dumps(old, separators=(",", ":")) + "\n").encode())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main([int(s) for s in sys.argv[1:]])

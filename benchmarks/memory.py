"""Peak memory of an evaluation of a million questions, beside one of ten thousand.

`mi_lab.stream.evaluate` draws, answers and forgets questions a batch at a time. Each count runs in a process
of its own, whose largest resident size the system reports; torch and the model are part of it. The model is
a fresh one-layer sorter, since memory does not depend on what it has learned; it is shown the right answer
so far. Gate: the streamed result equals that of all questions in one go, on 4,096 of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import arguments, gate, machine, report, row

from mi_lab.model import Transformer
from mi_lab.stream import evaluate
from mi_lab.studies.sorting.recipes import recipes
from mi_lab.studies.sorting.task import SortingTask

TASK = SortingTask(length=4, n_numbers=16)
COUNTS = (10_000, 100_000, 1_000_000)
BATCH = 2048

CHILD = """
import json, resource, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from memory import TASK, BATCH, model
from mi_lab.stream import evaluate
begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = evaluate(model(), TASK, int(sys.argv[2]), free_running=False, batch=BATCH)
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"before_mib": begun / 1024, "peak_mib": used.ru_maxrss / 1024, "asked": result.n,
                  "cpu_seconds": used.ru_utime + used.ru_stime}))
"""


def model() -> Transformer:
    """One layer of the paper's width."""
    config = recipes["paper"].config
    small = type(config)(**{**config.to_dict(), "n_ctx": TASK.n_ctx, "d_vocab": len(TASK.vocab)})
    return Transformer(small, generator=torch.Generator().manual_seed(0)).eval()


def in_one_go(n: int) -> float:
    """Exact match of the same questions, all in memory at once."""
    tokens = TASK.sample(n, generator=torch.Generator().manual_seed(0))
    return float(TASK.grade(model(), tokens, free_running=False).float().mean())


def peak(n: int) -> dict[str, Any]:
    """A process that asks n questions."""
    here = str(Path(__file__).parent)
    path = os.pathsep.join([str(Path(__file__).parents[1]), here])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, here, str(n)], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    return json.loads(done.stdout)


def main() -> None:
    args = arguments(__doc__, rounds=1)
    # one batch of all 4,096 against streamed batches: other questions are drawn for another batch size,
    # so the stream gets the same batch
    streamed = evaluate(model(), TASK, 4096, free_running=False, batch=4096).exact.value
    off = {"exact_match": abs(streamed - in_one_go(4096))}
    checked = gate("memory", off, {"exact_match": 0.0})
    found = {str(n): peak(n) for n in COUNTS}
    largest = found[str(COUNTS[-1])]["peak_mib"]
    grown = largest - found[str(COUNTS[0])]["peak_mib"]
    one = {
        "median": round(largest / 1024, 3),
        "min": round(largest / 1024, 3),
        "max": round(largest / 1024, 3),
    }
    more = {k: round(grown / 1024, 3) for k in ("median", "min", "max")}
    report(
        {
            "title": "Memory of an evaluation",
            "rows": [
                row("peak memory of a 1,000,000-question evaluation", one, 1.5, unit="GiB", most=True),
                row("of which more than with 10,000 questions", more, None, unit="GiB", most=True),
            ],
            "processes": found,
            "batch": BATCH,
            "largest_differences": checked,
            "machine": machine(),
        },
        args.json,
    )


if __name__ == "__main__":
    main()

"""What every benchmark shares: interleaved CPU-time rounds, medians, and the machine they ran on."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch


def arguments(doc: str | None, rounds: int = 7) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    parser.add_argument("--json", type=Path, help="write the result here (default: print only)")
    parser.add_argument("--rounds", type=int, default=rounds, help="interleaved rounds per variant")
    args = parser.parse_args()
    torch.set_num_threads(1)
    return args


def interleave(
    variants: dict[str, Callable[[], Any]], rounds: int, per: int = 1, warm_up: bool = True
) -> dict[str, list[float]]:
    """CPU seconds per unit of work: one warm-up each, then the variants round-robin in this process."""
    for run in variants.values() if warm_up else ():
        run()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            begun = time.process_time()
            run()
            times[name].append((time.process_time() - begun) / per)
    return times


def median_and_spread(seconds: list[float], unit: float = 1e3) -> dict[str, float | int]:
    """Median, smallest and largest, in ms unless `unit` says otherwise."""
    values = [x * unit for x in seconds]
    names = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {k: round(v, 4) for k, v in names.items()} | {"rounds": len(values)}


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> dict[str, float]:
    """How many times as fast: median of the rounds' own ratios, with the smallest and largest."""
    each = [a / b for a, b in zip(times[slow], times[fast], strict=True)]
    return {
        "median": round(statistics.median(each), 3),
        "min": round(min(each), 3),
        "max": round(max(each), 3),
    }


def row(
    what: str,
    value: dict[str, float],
    ask: float | None,
    *,
    stretch: float | None = None,
    unit: str = "times",
    most: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """One line of the table: a value (median, min, max) against what issue 6 asks for.

    most: the value may be at most `ask`, not at least. ask None: measured, nothing asked.
    """
    better = (lambda x, y: x <= y) if most else (lambda x, y: x >= y)
    met = None if ask is None else better(value["median"], ask)
    return {"what": what, "value": value, "unit": unit, "ask": ask, "most": most, "stretch": stretch} | {
        "met": met,
        **more,
    }


def gate(name: str, differences: dict[str, float], limits: dict[str, float]) -> dict[str, float]:
    """Both sides compute the same thing, or no clock starts."""
    for key, limit in limits.items():
        if not differences[key] <= limit:
            raise SystemExit(f"{name}: {key} differ by {differences[key]:.3g}, more than {limit:g}: no claim")
    return {key: float(f"{value:.3g}") for key, value in differences.items()}


def exponent(x: list[float], y: list[float]) -> dict[str, float]:
    """Slope of log y against log x by least squares, with its standard error."""
    a = torch.tensor(x, dtype=torch.float64).log()
    b = torch.tensor(y, dtype=torch.float64).log()
    a = a - a.mean()
    slope = float((a * b).sum() / (a * a).sum())
    rest = b - b.mean() - slope * a
    error = math.sqrt(float((rest * rest).sum()) / max(len(x) - 2, 1) / float((a * a).sum()))
    return {"exponent": round(slope, 3), "standard_error": round(error, 3)}


def machine(*packages: str) -> dict[str, Any]:
    """CPU, load and versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0] if names else cpu
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "nice": os.nice(0),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "quiet": os.getloadavg()[0] < 1.5,  # else other work ran beside this: see benchmarks/README.md
        "clock": "time.process_time, one thread",
        "versions": {"python": platform.python_version(), "torch": torch.__version__}
        | {name: importlib.metadata.version(name) for name in packages},
    }


def report(result: dict[str, Any], path: Path | None) -> None:
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if path is not None:
        path.write_text(text)


def report_cases(
    title: str,
    cases: Iterable[str],
    measure: Callable[[str, int], tuple[list[dict[str, Any]], dict[str, Any]]],
    args: argparse.Namespace,
    *packages: str,
) -> None:
    """Measure each case (name, rounds) -> (its rows, what else is told of it), and report all of them."""
    measured = {name: measure(name, args.rounds) for name in cases}
    report(
        {
            "title": title,
            "rows": [line for rows, _ in measured.values() for line in rows],
            "cases": {name: about for name, (_, about) in measured.items()},
            "machine": machine(*packages),
        },
        args.json,
    )

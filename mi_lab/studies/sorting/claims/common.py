"""What every claim of the study shares: sources, tables of numbers, one row per seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mi_lab.claims import Measurement
from mi_lab.model import Transformer
from mi_lab.studies.sorting import measure as m
from mi_lab.studies.sorting.circuit import (
    untrained_twin,
)

PAPER_ABSTRACT = "abstract"
SECOND_HAND = "second-hand summary of the paper; wording and metric ours"
OUTLINE = "outline of the authors' forum post"

Rows = list[dict[str, float]]


def table(units: list[str], rows: Rows, headline: str, **more: Any) -> Measurement:
    """A Measurement from one dict of numbers per unit."""
    values = {name: tuple(float(row[name]) for row in rows) for name in rows[0]}
    return Measurement(tuple(units), values, headline, **more)


def per_seed(
    recipe: str,
    row: Callable[[Transformer, int], dict[str, float]],
    headline: str,
    *,
    sample: str,
    twin: bool = False,
) -> Callable[[bool], Measurement]:
    """A measure with one row per published seed; `twin` replaces each model by an untrained one."""

    def run(fast: bool) -> Measurement:
        seeds = m.seeds_of(recipe, fast)
        rows = []
        for seed in seeds:
            model = m.model(recipe, seed)
            rows.append(row(untrained_twin(model, seed) if twin else model, seed))
        names = [f"seed {seed}" for seed in seeds]
        return table(names, rows, headline, sample=sample, sources=m.sources(recipe))

    return run

"""What every claim of the study shares: sources, tables of numbers, one row per seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mi_lab.claims import Measurement
from mi_lab.model import Transformer
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.circuit import untrained_twin

ABSTRACT = "abstract"
FIGURES = "outputs stored in the authors' notebooks; acceptance numbers ours"
CODE = "the authors' code; acceptance numbers ours"
OURS = "ours"

Row = dict[str, float]


def table(units: list[str], rows: list[Row], headline: str, **more: Any) -> Measurement:
    """A Measurement from one dict of numbers per unit."""
    values = {name: tuple(float(row[name]) for row in rows) for name in rows[0]}
    return Measurement(tuple(units), values, headline, **more)


def per_seed(
    recipe: str | Sequence[str],
    row: Callable[[Transformer], Row],
    headline: str,
    *,
    sample: str,
    twin: bool = False,
) -> Callable[[bool], Measurement]:
    """A measure with one row per published seed of one recipe, or of several; `twin` replaces each model by an
    untrained one."""
    recipes = (recipe,) if isinstance(recipe, str) else tuple(recipe)

    def run(fast: bool) -> Measurement:
        units = [(name, seed) for name in recipes for seed in m.seeds_of(name, fast)]
        rows = []
        for name, seed in units:
            model = m.model(name, seed)
            rows.append(row(untrained_twin(model, seed) if twin else model))
        return table(
            [f"{name} seed {seed}" for name, seed in units], rows, headline, sample=sample,
            sources=m.sources(*recipes),
        )  # fmt: skip

    return run

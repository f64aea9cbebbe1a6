"""What every claim of the study shares: sources, tables of numbers, one row per seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mi_lab.claims import Measure, Measurement
from mi_lab.model import Transformer
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.circuit import untrained_twin

ABSTRACT = "abstract"
FIGURES = "outputs stored in the authors' notebooks; acceptance numbers ours"
CODE = "the authors' code; acceptance numbers ours"
OURS = "ours"

Row = dict[str, float]


@dataclass(frozen=True)
class Asked:
    """A measure that knows which recipe's models it asks, and can ask another one's the same."""

    make: Callable[[tuple[str, ...]], Measure]
    recipes: tuple[str, ...] = ("paper",)

    def __call__(self, fast: bool) -> Measurement:
        """Measure: a `Measure` like any other."""
        return self.make(self.recipes)(fast)

    def of(self, *recipes: str) -> Asked:
        """The same question to other models of the same task."""
        return replace(self, recipes=recipes)


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
) -> Asked:
    """A measure with one row per published seed of one recipe, or of several; `twin` replaces each model by an
    untrained one."""

    def one(name: str, seed: int) -> Row:
        model = m.model(name, seed)
        return row(untrained_twin(model, seed) if twin else model)

    recipes = (recipe,) if isinstance(recipe, str) else tuple(recipe)
    return by_model(one, headline, sample=sample).of(*recipes)


def by_model(row: Callable[[str, int], Row], headline: str, *, sample: str) -> Asked:
    """A measure with one row per published seed, from `row(recipe, seed)`."""

    def make(recipes: tuple[str, ...]) -> Measure:
        def run(fast: bool) -> Measurement:
            units = [(name, seed) for name in recipes for seed in m.seeds_of(name, fast)]
            return table(
                [f"{name} seed {seed}" for name, seed in units], [row(name, seed) for name, seed in units], headline,
                sample=sample, sources=m.sources(*recipes),
            )  # fmt: skip

        return run

    return Asked(make)

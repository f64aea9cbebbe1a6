"""What every claim of the study shares: models and counts, one row per model, and what to say where one is missing."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mi_lab import zoo
from mi_lab.claims import Claim, Measurement
from mi_lab.model import Transformer
from mi_lab.studies.arithmetic import classes, counts
from mi_lab.studies.arithmetic.measure import Failures, right
from mi_lab.studies.arithmetic.recipes import recipes
from mi_lab.studies.arithmetic.task import ArithmeticTask

PAPER = "paper"
TABLES = "the paper's tables (a revision later than v9)"
OURS = "ours"
# Far from the seeds of training and of `zoo_results`. Below 2^32, because torch's CPU generator drops the higher bits.
EVALUATION = 0xA417_0000
N_LIVE = 4_000  # fresh questions beside recorded counts
COUNTS = "recorded counts: 100,000 uniform questions of each operation, or all there are"
BY_CLASS = "recorded counts: 20,000 questions of each class, weighted by their exact shares"

Row = dict[str, float]
Unit = tuple[str, int]
"""A published model: recipe and seed."""


def table(units: list[str], rows: list[Row], headline: str, **more: Any) -> Measurement:
    """A Measurement from one dict of numbers per unit."""
    values = {name: tuple(float(row[name]) for row in rows) for name in rows[0]}
    return Measurement(tuple(units), values, headline, **more)


@functools.lru_cache(maxsize=128)
def seeds(recipe: str) -> tuple[int, ...]:
    """Published seeds of a recipe, shipped or not, from the file's head only; () if there is none.

    Of what is not shipped the counts are at hand; a claim that asks for the weights raises `zoo.NotShipped`.
    """
    path = zoo.files().get(f"arithmetic/{recipe}")
    if path is None:
        return tuple(counts.left_out().get(recipe, ()))
    with safe_open(str(path), framework="pt") as file:
        return tuple(json.loads(file.metadata()["mi_lab"])["labels"])


def units(*names: str, fast: bool = False) -> list[Unit]:
    """Every published model of these recipes; one per recipe if `fast`."""
    return [(name, seed) for name in names for seed in seeds(name)[: 1 if fast else None]]


def label(unit: Unit) -> str:
    """As units are called in the ledger."""
    return f"{unit[0]} seed {unit[1]}"


@functools.lru_cache(maxsize=32)
def model(recipe: str, seed: int) -> Transformer:
    """A published model, loaded once."""
    return zoo.load(f"arithmetic/{recipe}", seed)


def untrained(recipe: str, seed: int) -> Transformer:
    """A model of the same shape with fresh weights."""
    return Transformer(recipes[recipe].config, generator=torch.Generator().manual_seed(1000 + seed)).eval()


def sources(*names: str) -> dict[str, str]:
    """SHA-256 of the checkpoints that a measurement used."""
    return {name: zoo.sha256(f"arithmetic/{name}") for name in names if seeds(name)}


def seeded(offset: int) -> torch.Generator:
    """Questions that are the same for every model."""
    return torch.Generator().manual_seed(EVALUATION + offset)


def wrong(found: Transformer, task: ArithmeticTask, tokens: Tensor) -> Tensor:
    """Bool[n]: is the whole answer wrong?"""
    return ~right(found, task, tokens)


def counted(recipe: str, seed: int) -> dict[str, Failures]:
    """The recorded counts of a published model. RuntimeError if those of its present weights are not complete."""
    found = counts.failures_of(recipe, seed)
    plan = counts.plan_of(recipe, seed)
    known = {key: [count.wrong, count.n] for key, count in found.items()}
    if missing := [item.key for item in counts.blocks(recipe, seed, plan, known)]:
        raise RuntimeError(
            f"{recipe} seed {seed} has not been counted in full ({missing[0]} is missing): "
            f"python -m mi_lab.studies.arithmetic.zoo_results {recipe}"
        )
    return found


def uniform(recipe: str, seed: int, operator: str) -> Failures:
    """Recorded failures of one operation: on all questions where all were asked, else on uniform ones."""
    found = counted(recipe, seed)
    return found.get(f"every {operator}") or found[f"uniform {operator}"]


def per_unit(
    names: tuple[str, ...], row: Callable[[str, int], Row], headline: str, *, sample: str
) -> Callable[[bool], Measurement]:
    """A measure with one row per published model of these recipes."""

    def run(fast: bool) -> Measurement:
        there = units(*names, fast=fast)
        rows = [row(*unit) for unit in there]
        return table([label(u) for u in there], rows, headline, sample=sample, sources=sources(*names))

    return run


def per_million(recipe: str, seed: int, operator: str) -> float:
    """Recorded failures per million of one operation."""
    return uniform(recipe, seed, operator).per_million


def per_million_by_class(recipe: str, seed: int, operator: str) -> float:
    """The same from the recorded counts of the classes, each weighted by its share of all questions."""
    rates = {
        key.removeprefix("class "): count.wrong / count.n
        for key, count in counted(recipe, seed).items()
        if key.startswith("class ")
    }
    return 1e6 * classes.weighted(counts.task_of(recipe).digits, operator, rates)


def paired(
    names: Mapping[str, str],
    operators: Mapping[str, str],
    row: Callable[[Row], Row],
    headline: str,
    rate: Callable[[str, int, str], float] = per_million,
    sample: str = COUNTS,
) -> Callable[[bool], Measurement]:
    """A measure over the seeds that all recipes share. names, operators: name of a number -> recipe, operator.

    rate: wrong answers per million of a recipe, seed and operator.
    """

    def run(fast: bool) -> Measurement:
        common = sorted(set.intersection(*(set(seeds(name)) for name in names.values())))[
            : 1 if fast else None
        ]
        rows = [
            row({key: rate(name, seed, operators[key]) for key, name in names.items()}) for seed in common
        ]
        used = sources(*dict.fromkeys(names.values()))
        return table([f"seed {seed}" for seed in common], rows, headline, sample=sample, sources=used)

    return run


def needing(claim: Claim, wanted: Mapping[str, int], together: int = 0) -> Claim:
    """The claim, or the same claim as not testable, if models that it needs are missing.

    wanted: recipe -> number of seeds that must be published. together: number of models that all of
    these recipes must have in sum.
    """
    short = [
        f"{name} has {len(seeds(name))} of {n} seeds" for name, n in wanted.items() if len(seeds(name)) < n
    ]
    if not short and together > (there := sum(len(seeds(name)) for name in wanted)):
        short = [f"{there} of {together} models of {', '.join(wanted)}"]
    if not short:
        return claim
    why = f"Not trained yet: {'; '.join(short)}."
    return replace(claim, measure=None, controls=(), limits=f"{why} {claim.limits}".strip())

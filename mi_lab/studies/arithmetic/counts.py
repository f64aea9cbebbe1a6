"""What has been counted: failures of every published model, by the weights they belong to.

`zoo_results` does the counting and writes `zoo_results.json`; this module says what is to be counted and
reads it back. A count belongs to the SHA-256 of a model's weights: other weights have none. Counts stay when
the weights are left out of the repository (`mi_lab.publish.unship`), which keeps their hashes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mi_lab import zoo
from mi_lab.checkpoint import sha256_of
from mi_lab.studies.arithmetic import classes, edges
from mi_lab.studies.arithmetic.measure import Failures
from mi_lab.studies.arithmetic.recipes import COUNTED_IN_FULL, EVERY_QUESTION, recipes
from mi_lab.studies.arithmetic.task import ArithmeticTask

FILE = Path(__file__).parent / "zoo_results.json"
BLOCK = 20_000  # questions counted at a time: what is lost when the command is stopped
FREE = 200  # questions of each class that are asked without showing the answer so far


class Plan(NamedTuple):
    """Questions per operation, class and edge set."""

    uniform: int
    per_class: int
    per_edge: int


PASSING = Plan(100_000, 20_000, 2_000)
EVERY = Plan(1_000_000, 20_000, 2_000)
FULL = Plan(1_000_000, 100_000, 10_000)


class Item(NamedTuple):
    """One block of questions for one model.

    kind: "uniform", "every" (all there are), "class", "edge" or "free running". block: its place, and seed.
    """

    recipe: str
    seed: int
    weights: str
    kind: str
    name: str
    block: int
    n: int

    @property
    def key(self) -> str:
        """Where its count stands: "uniform +", "class S3", "edge equal -", "free running"."""
        return f"{self.kind} {self.name}".rstrip()


@functools.lru_cache(maxsize=1)
def recorded() -> dict[str, Any]:
    """The file's models: SHA-256 of the weights -> recipe, seed, device, versions and counts."""
    return json.loads(FILE.read_text())["models"] if FILE.exists() else {}


@functools.lru_cache(maxsize=256)
def weights_of(recipe: str, seed: int) -> str:
    """SHA-256 of one model's weights, in fp16, shipped or not; other seeds of its file play no part."""
    if recipe in left_out():
        return left_out()[recipe][seed]
    found = zoo.read(f"arithmetic/{recipe}")
    return sha256_of(found.stack.flat[found.labels.index(seed)])


def failures_of(recipe: str, seed: int) -> dict[str, Failures]:
    """What has been counted for a published model: {"uniform +": wrong of n, "class S3": .., "edge equal -": ..}.

    Empty for a model whose present weights have not been measured.
    """
    entry = recorded().get(weights_of(recipe, seed), {"counts": {}})
    return {key: Failures(*count) for key, count in entry["counts"].items()}


def published() -> dict[str, tuple[int, ...]]:
    """Recipe -> seeds of everything published here that a recipe is known for."""
    names = [name.removeprefix("arithmetic/") for name in zoo.names() if name.startswith("arithmetic/")]
    return {name: zoo.read(f"arithmetic/{name}").labels for name in names if name in recipes}


def left_out() -> dict[str, dict[int, str]]:
    """Recipe -> seed -> SHA-256 of the weights of models that were published, and are not shipped."""
    there, out = zoo.files(), {}
    for name, about in zoo.not_shipped().items():
        study, _, recipe = name.partition("/")
        if study == "arithmetic" and recipe in recipes and name not in there:
            out[recipe] = dict(zip(about["labels"], about["weights"], strict=True))
    return out


def counted_models() -> dict[str, tuple[int, ...]]:
    """Recipe -> seeds of everything that has or should have counts: what is published, and what was."""
    return published() | {name: tuple(weights) for name, weights in left_out().items()}


# ---- what is to be counted ----


def plan_of(recipe: str, seed: int) -> Plan:
    """How much is asked of one model of a recipe in the end."""
    if recipe in COUNTED_IN_FULL:
        return FULL
    return EVERY if seed in EVERY_QUESTION.get(recipe, ()) else PASSING


def blocks(recipe: str, seed: int, plan: Plan, known: Mapping[str, Sequence[int]]) -> Iterator[Item]:
    """What is still to be counted for one model; `known` counts by key are left out."""
    task = task_of(recipe)
    wanted = {("class", name): plan.per_class for name in classes.names(task)}
    for name in edges.names(task):
        for operator in edges.EDGES[name].operations:
            if operator in task.operations:
                wanted["edge", f"{name} {operator}"] = plan.per_edge
    every = task.digits <= 3  # few enough to ask all of them
    for operator in task.operations:
        wanted["uniform", operator] = PASSING.uniform if every else plan.uniform
        if every and plan.uniform > PASSING.uniform:
            wanted["every", operator] = 100**task.digits
    wanted["free running", ""] = FREE * len(classes.names(task))
    weights = weights_of(recipe, seed)
    for (kind, name), n in wanted.items():
        size = {"edge": PASSING.per_edge, "free running": n}.get(kind, BLOCK)
        done = known.get(f"{kind} {name}".rstrip(), (0, 0))[1]
        for first in range(done, n, size):
            yield Item(recipe, seed, weights, kind, name, first // size, min(size, n - first))


def task_of(recipe: str) -> ArithmeticTask:
    """The recipe's task, as what it is."""
    task = recipes[recipe].task
    assert isinstance(task, ArithmeticTask)
    return task

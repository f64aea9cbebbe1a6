"""What every published model can and can't do, counted: `python -m mi_lab.studies.arithmetic.zoo_results`.

For each model of `mi_lab/published/arithmetic`: wrong answers on uniform questions of each operation, on
questions of every class, on the edge sets, and on how many questions answering by itself differs from
being shown the right answer so far. The counts stand in `zoo_results.json`, by the SHA-256 of the
model's weights: what has been counted for these very weights is not counted again, so the command may be
stopped at any moment and run again as models are added.

All are counted in passing first, then `COUNTED_IN_FULL` with 10^6 uniform questions per operation (at
three digits: every question there is), 10^5 of each class and 10^4 of each edge set.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from mi_lab import zoo
from mi_lab.checkpoint import device_name, versions, write_atomically
from mi_lab.studies.arithmetic import classes, edges, measure
from mi_lab.studies.arithmetic.exhaustive import Part, wrong_in
from mi_lab.studies.arithmetic.measure import Failures
from mi_lab.studies.arithmetic.publish import sha256_of
from mi_lab.studies.arithmetic.recipes import COUNTED_IN_FULL, recipes
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.base import generate, predict

FILE = Path(__file__).parent / "zoo_results.json"
BLOCK = 20_000  # questions counted at a time: what is lost when the command is stopped
FREE = 200  # of each class: does the model need to be shown the answer so far?


class Plan(NamedTuple):
    """Questions per operation, class and edge set."""

    uniform: int
    per_class: int
    per_edge: int


PASSING = Plan(100_000, 20_000, 2_000)
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


# ---- what has been counted ----


@functools.lru_cache(maxsize=1)
def _recorded() -> dict[str, Any]:
    return json.loads(FILE.read_text())["models"] if FILE.exists() else {}


@functools.lru_cache(maxsize=256)
def weights_of(recipe: str, seed: int) -> str:
    """SHA-256 of one published model's weights, in fp16; other seeds of its file play no part."""
    found = zoo.read(f"arithmetic/{recipe}")
    return sha256_of(found.stack.flat[found.labels.index(seed)])


def counts(recipe: str, seed: int) -> dict[str, Failures]:
    """What has been counted for a published model: {"uniform +": wrong of n, "class S3": .., "edge equal -": ..}.

    Empty for a model whose present weights have not been measured.
    """
    entry = _recorded().get(weights_of(recipe, seed), {"counts": {}})
    return {key: Failures(*count) for key, count in entry["counts"].items()}


def published() -> dict[str, tuple[int, ...]]:
    """Recipe -> seeds of everything published here that a recipe is known for."""
    names = [name.removeprefix("arithmetic/") for name in zoo.names() if name.startswith("arithmetic/")]
    return {name: zoo.read(f"arithmetic/{name}").labels for name in names if name in recipes}


# ---- counting ----


def plan_of(recipe: str) -> Plan:
    """How much is asked of the models of a recipe in the end."""
    return FULL if recipe in COUNTED_IN_FULL else PASSING


def blocks(recipe: str, seed: int, plan: Plan, known: Mapping[str, Sequence[int]]) -> Iterator[Item]:
    """What is still to be counted for one model; `known` counts by key are left out."""
    task = _task(recipe)
    wanted = {("class", name): plan.per_class for name in classes.names(task)}
    for name in edges.names(task):
        for operator in edges.EDGES[name].operations:
            if operator in task.operations:
                wanted["edge", f"{name} {operator}"] = plan.per_edge
    every = task.digits <= 3  # few enough to ask all of them
    for operator in task.operations:
        wanted["uniform", operator] = PASSING.uniform if every else plan.uniform
        if every and plan == FULL:
            wanted["every", operator] = 100**task.digits
    wanted["free running", ""] = FREE * len(classes.names(task))
    weights = weights_of(recipe, seed)
    for (kind, name), n in wanted.items():
        size = {"edge": PASSING.per_edge, "free running": n}.get(kind, BLOCK)
        done = known.get(f"{kind} {name}".rstrip(), (0, 0))[1]
        for first in range(done, n, size):
            yield Item(recipe, seed, weights, kind, name, first // size, min(size, n - first))


def count(item: Item) -> int:
    """Wrong answers in one block (free running: answers that differ from those given when shown the right ones)."""
    torch.set_num_threads(1)
    model, task = zoo.read(f"arithmetic/{item.recipe}").model(item.seed), _task(item.recipe)
    generator = torch.Generator().manual_seed(item.block)
    if item.kind == "free running":
        each = item.n // len(classes.names(task))
        tokens = torch.cat(
            [classes.sample(task, name, each, generator=generator) for name in classes.names(task)]
        )
        shown = predict(model, task, tokens)
        alone = generate(model, task, tokens)[:, task.answer.start + 1 :]
        return int((shown != alone).any(1).sum())
    if item.kind == "class":
        tokens = classes.sample(task, item.name, item.n, generator=generator)
    elif item.kind == "edge":
        name, operator = item.name.split()
        tokens = edges.sample(task, name, item.n, operator=operator, generator=generator)
    elif item.kind == "every":
        first = item.block * BLOCK
        return len(wrong_in(model, task, Part(item.name, first, first + item.n)))
    else:
        tokens = measure.uniform_questions(task, item.name, item.n, seed=item.block)
    return int((~measure.right(model, task, tokens)).sum())


def _task(recipe: str) -> ArithmeticTask:
    task = recipes[recipe].task
    assert isinstance(task, ArithmeticTask)
    return task


class Book:
    """The file of counts, written after every block."""

    def __init__(self, path: Path = FILE) -> None:
        self.path = path
        self.models: dict[str, Any] = json.loads(path.read_text())["models"] if path.exists() else {}

    def known(self, weights: str) -> dict[str, list[int]]:
        """Counts by key for these weights."""
        return self.models.get(weights, {"counts": {}})["counts"]

    def add(self, item: Item, wrong: int) -> None:
        """Note one block."""
        entry = self.models.setdefault(
            item.weights,
            {
                "recipe": item.recipe, "seed": item.seed, "digest": recipes[item.recipe].digest,
                "device": device_name("cpu"), "versions": versions(), "counts": {},
            },
        )  # fmt: skip
        before = entry["counts"].get(item.key, [0, 0])
        entry["counts"][item.key] = [before[0] + wrong, before[1] + item.n]

    def write(self) -> None:
        """Write the file, models in the order of their names."""
        order = sorted(self.models.items(), key=lambda kv: (kv[1]["recipe"], kv[1]["seed"], kv[0]))
        about = {
            "format": "mi_lab arithmetic zoo/1",
            "command": "python -m mi_lab.studies.arithmetic.zoo_results",
            "models": dict(order),
        }
        write_atomically(self.path, (json.dumps(about, indent=1) + "\n").encode())


def measure_all(
    names: Sequence[str] = (), *, book: Book | None = None, executor: Executor | None = None, progress: bool = True
) -> int:  # fmt: skip
    """Count what is missing for these recipes (default: all published); returns the number of questions asked.

    Raises ValueError for a recipe that is not published.
    """
    there = published()
    for name in names:
        if name not in there:
            raise ValueError(f"{name!r} is not published; there are {', '.join(there)}")
    book = book or Book()
    asked = 0
    for full in (False, True):
        todo: list[Item] = []
        for name in names or there:
            plan = plan_of(name) if full else PASSING
            for seed in there[name]:
                todo += blocks(name, seed, plan, book.known(weights_of(name, seed)))
        with tqdm(
            total=sum(x.n for x in todo), unit=" questions", unit_scale=True, disable=not progress
        ) as bar:
            pending: list[tuple[Item, Future[int] | None]] = [
                (item, executor.submit(count, item) if executor else None) for item in todo
            ]
            for item, future in pending:
                bar.set_postfix_str(f"{item.recipe} {item.seed} {item.key}", refresh=False)
                book.add(item, future.result() if future else count(item))
                book.write()
                bar.update(item.n)
                asked += item.n
    _recorded.cache_clear()
    return asked


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Count what published models get wrong.")
    parser.add_argument("names", nargs="*", metavar="RECIPE", help="default: all that are published")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.workers == 1:
        print(f"{measure_all(args.names):,} questions asked; {FILE}")
        return
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        print(f"{measure_all(args.names, executor=pool):,} questions asked; {FILE}")


if __name__ == "__main__":
    main()

"""What every published model can and can't do, counted: `python -m mi_lab.studies.arithmetic.zoo_results`.

For each model of `mi_lab/published/arithmetic`: wrong answers on uniform questions of each operation, on
questions of every class, on the edge sets, and on how many questions answering by itself differs from
being shown the right answer so far. The counts stand in `zoo_results.json`, by the SHA-256 of the
model's weights: what has been counted for these very weights is not counted again, so the command may be
stopped at any moment and run again as models are added.

All are counted in passing first, then `COUNTED_IN_FULL` with 10^6 uniform questions per operation (at
three digits: every question there is), 10^5 of each class and 10^4 of each edge set; `EVERY_QUESTION` with
every question there is, classes and edge sets in passing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mi_lab import zoo
from mi_lab.checkpoint import device_name, versions, write_atomically
from mi_lab.studies.arithmetic import classes, edges, measure
from mi_lab.studies.arithmetic import counts as c
from mi_lab.studies.arithmetic.counts import Item
from mi_lab.studies.arithmetic.exhaustive import Part, wrong_in
from mi_lab.studies.arithmetic.recipes import recipes
from mi_lab.studies.base import generate, predict


def count(item: Item) -> int:
    """Wrong answers in one block (free running: answers that differ from those given when shown the right ones)."""
    torch.set_num_threads(1)
    model, task = zoo.read(f"arithmetic/{item.recipe}").model(item.seed), c.task_of(item.recipe)
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
        first = item.block * c.BLOCK
        return len(wrong_in(model, task, Part(item.name, first, first + item.n)))
    else:
        tokens = measure.uniform_questions(task, item.name, item.n, seed=item.block)
    return int((~measure.right(model, task, tokens)).sum())


class Book:
    """The file of counts, written after every block."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path = path or c.FILE
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
    there = c.published()
    for name in names:
        if name not in there:
            raise ValueError(f"{name!r} is not published; there are {', '.join(there)}")
    book = book or Book()
    asked = 0
    for full in (False, True):
        todo: list[Item] = []
        for name in names or there:
            for seed in there[name]:
                plan = c.plan_of(name, seed) if full else c.PASSING
                todo += c.blocks(name, seed, plan, book.known(c.weights_of(name, seed)))
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
    c.recorded.cache_clear()
    return asked


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Count what published models get wrong.")
    parser.add_argument("names", nargs="*", metavar="RECIPE", help="default: all that are published")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.workers == 1:
        print(f"{measure_all(args.names):,} questions asked; {c.FILE}")
        return
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        print(f"{measure_all(args.names, executor=pool):,} questions asked; {c.FILE}")


if __name__ == "__main__":
    main()

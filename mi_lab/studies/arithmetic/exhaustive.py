"""The proof by cases: `python -m mi_lab.studies.arithmetic.exhaustive add_d3_l2_h3`.

At three digits there are 10^6 questions per operation, few enough to ask all of them: no interval, no
sample, no class left out. The command asks a published model every question it has, on all cores, shows
how far it is, prints those that it gets wrong with the answer it gives by itself, and ends with
status 1 if there are any, 2 for wrong input. Cost: about a minute and a half of one core per 10^6
questions for 2 layers of width 96.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from mi_lab import zoo
from mi_lab.checkpoint import sha256
from mi_lab.model import Transformer
from mi_lab.studies.arithmetic import measure
from mi_lab.studies.arithmetic.recipes import recipes
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.base import generate

CHUNK = 20_000  # questions between two moves of the progress bar
SHOWN = 100  # wrong answers printed


class Part(NamedTuple):
    """Questions number first .. stop - 1 of one operation: first operand = number // 10^digits."""

    operator: str
    first: int
    stop: int


def parts(task: ArithmeticTask, chunk: int = CHUNK) -> Iterator[Part]:
    """All questions of a task. Raises ValueError above 3 digits, where a proof would take hours."""
    if task.digits > 3:
        raise ValueError(
            f"{100**task.digits:.0e} questions of {task.digits} digits are too many to ask; up to 3 digits they "
            "are not"
        )
    for operator in task.operations:
        for first in range(0, 100**task.digits, chunk):
            yield Part(operator, first, min(first + chunk, 100**task.digits))


def wrong_in(model: Transformer, task: ArithmeticTask, part: Part) -> Tensor:
    """Int[wrong, n_ctx]: the questions of one part that the model gets wrong, with the right answer."""
    number, size = torch.arange(part.first, part.stop), 10**task.digits
    questions = task.questions(number // size, number % size, part.operator)  # type: ignore[arg-type]
    return questions[~measure.right(model, task, questions)]


def described(model: Transformer, task: ArithmeticTask, wrong: Tensor) -> list[str]:
    """One line a question: the right answer, and what the model writes by itself."""
    said = generate(model, task, wrong)
    lines = []
    for right, mine in zip(wrong, said):
        question, _, answer = task.decode(right).partition("=")
        lines.append(f"{question}={answer}, the model says {task.decode(mine).partition('=')[2]}")
    return lines


def _work(name: str, seed: int, part: Part) -> Tensor:
    torch.set_num_threads(1)
    model = zoo.read(f"arithmetic/{name}").model(seed)
    return wrong_in(model, _task(name), part)


def _task(name: str) -> ArithmeticTask:
    task = recipes[name].task
    assert isinstance(task, ArithmeticTask)
    return task


def check(name: str, seed: int, *, workers: int, progress: bool = True) -> tuple[int, Tensor]:
    """Number of questions asked, and Int[wrong, n_ctx] in the order of the questions."""
    todo = list(parts(_task(name)))
    asked = sum(part.stop - part.first for part in todo)
    found: dict[Part, Tensor] = {}
    bar = tqdm(total=asked, unit=" questions", unit_scale=True, disable=not progress, dynamic_ncols=True)
    with bar, ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_work, name, seed, part): part for part in todo}
        for future in as_completed(futures):
            part = futures[future]
            found[part] = future.result()
            bar.update(part.stop - part.first)
            bar.set_postfix_str(f"{sum(map(len, found.values()))} wrong", refresh=False)
    return asked, torch.cat([found[part] for part in todo])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its status."""
    parser = argparse.ArgumentParser(
        prog="python -m mi_lab.studies.arithmetic.exhaustive",
        description="Ask a published 3-digit model every question there is.",
    )
    parser.add_argument("name", help="e.g. add_d3_l2_h3; `mi-lab zoo` lists what is published")
    parser.add_argument("--seed", type=int, help="which model of the file (default: the first)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: cores)")
    args = parser.parse_args(argv)
    name = args.name.removeprefix("arithmetic/")
    try:
        found = zoo.read(f"arithmetic/{name}")
        seed = found.labels[0] if args.seed is None else args.seed
        model, task = found.model(seed), _task(name)
        list(parts(task))
        if args.workers < 1:
            raise ValueError(f"--workers must be at least 1, not {args.workers}")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    begun = time.perf_counter()
    asked, wrong = check(name, seed, workers=args.workers)
    for line in described(model, task, wrong[:SHOWN]):
        print(line)
    if len(wrong) > SHOWN:
        print(f"and {len(wrong) - SHOWN:,} more")
    print(
        f"{name} seed {seed}: {len(wrong):,} of all {asked:,} questions wrong; {time.perf_counter() - begun:.0f} s; "
        f"checkpoint SHA-256 {sha256(zoo.find(f'arithmetic/{name}'))}"
    )
    return 1 if len(wrong) else 0


if __name__ == "__main__":
    sys.exit(main())

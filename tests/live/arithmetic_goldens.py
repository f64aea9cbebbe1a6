"""What Python says of many arithmetic questions, for the page's own programs.

python -m tests.live.arithmetic_goldens FILE writes it as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from mi_lab.studies.arithmetic import classes
from mi_lab.studies.arithmetic.algorithms import ALGORITHMS
from mi_lab.studies.arithmetic.interchanges import FAMILIES, declare, names
from mi_lab.studies.arithmetic.stepping import steps
from mi_lab.studies.arithmetic.task import ArithmeticTask

FILE = "arithmetic.questions"
OMITTED = ("far", "deep", "through", "sign")  # the page offers the others
MOVED = [family for family, (_, what) in FAMILIES.items() if what not in OMITTED]


def able(operator: str) -> list[str]:
    return [name for name, one in ALGORITHMS.items() if operator in one.operations]


def kinds(task: ArithmeticTask, tokens: torch.Tensor) -> list[str]:
    """The class of each question: "S3"."""
    values = task.variables(tokens)
    return [
        next(f"{kind}{int(values[kind][i])}" for kind in "SMN" if values[kind][i] >= 0)
        for i in range(len(tokens))
    ]


def answered(task: ArithmeticTask, tokens: torch.Tensor, operator: str) -> dict[str, Any]:
    """Questions with their class and what every algorithm answers."""
    texts = [task.decode(row) for row in tokens]
    found = {name: ALGORITHMS[name].answers(task, tokens) for name in able(operator)}
    return {
        "digits": task.digits,
        "questions": [text.partition("=")[0] for text in texts],
        "right": [text.partition("=")[2] for text in texts],
        "classes": kinds(task, tokens),
        "answers": {name: [task.decode(row) for row in rows] for name, rows in found.items()},
    }


def drawn(digits: int, operator: str, generator: torch.Generator, plain: int, each: int) -> torch.Tensor:
    """Some uniform questions and some of every class."""
    task = ArithmeticTask(digits, operator, enrichment="none")  # type: ignore[arg-type]
    some = [classes.sample(task, c, each, generator=generator) for c in classes.names(task)]
    return torch.cat([task.sample(plain, generator=generator), *some])


def moves(digits: int, operations: str, generator: torch.Generator) -> list[list[str]]:
    """[sub-task, clean question, store question, answer that an interchange must give]."""
    task = ArithmeticTask(digits, operations)  # type: ignore[arg-type]
    out = []
    for name in names(task, *MOVED):
        subtask = declare(task, name)
        clean, store = subtask.draw(6, generator)
        for row, other, answer in zip(clean, store, subtask.predict(clean, store)):
            one, two = (task.decode(x).partition("=")[0] for x in (row, other))
            out.append([name, one, two, task.decode(answer)])
    return out


def cases() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    pairs = torch.arange(10_000)
    every = []
    for operator in "+-":
        task = ArithmeticTask(2, operator)  # type: ignore[arg-type]
        every.append(answered(task, task.questions(pairs // 100, pairs % 100), operator))
    sampled, stepped = [], []
    for digits in range(1, 16):
        for operator in "+-":
            task = ArithmeticTask(digits, operator)  # type: ignore[arg-type]
            sampled.append(answered(task, drawn(digits, operator, generator, 100, 20), operator))
            for row in drawn(digits, operator, generator, 2, 1)[:9]:
                text = task.decode(row)
                for name in able(operator):
                    found = [one._asdict() for one in steps(task, text, name)]
                    stepped.append([name, text.partition("=")[0], found])
    return {
        "every": every,
        "sampled": sampled,
        "stepped": stepped,
        "moves": [
            [digits, operations, moves(digits, operations, generator)]
            for digits in (2, 3, 5, 6)
            for operations in ("+", "-", "+-")
        ],
        "classes": [
            [n, o, [c for c in classes.names(ArithmeticTask(n, o)) if "_" not in c]]  # type: ignore[arg-type]
            for n in range(1, 9)
            for o in ("+", "-", "+-")
        ],
    }


def write(path: Path) -> None:
    """All of it, as JSON."""
    path.write_text(json.dumps(cases()))


if __name__ == "__main__":
    write(Path(sys.argv[1]))

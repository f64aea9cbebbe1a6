"""Named edge cases: questions that uniform digits almost never show and where real models fail.

The paper's subtraction models fail on equal operands and on operands 1 to 9 apart (000041-000047);
the others are the longest cascades and the shortest numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mi_lab.studies.arithmetic.task import ArithmeticTask

Pair = tuple[Tensor, Tensor]
Draw = Callable[[ArithmeticTask, int, dict], Pair]
"""draw(task, n, random options) -> digits x, y Int[n, digits], most significant first."""


class Edge(NamedTuple):
    """operations: those it is about. shortest: number of digits from which on it exists."""

    operations: str
    description: str
    draw: Draw
    shortest: int = 1


def sample(
    task: ArithmeticTask,
    name: str,
    n: int,
    *,
    operator: str | None = None,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Int[n, n_ctx]: questions of a named edge set; keys of `EDGES`.

    operator: "+" or "-"; None takes what the set and the task have in common, half and half if both.
    Raises ValueError for an unknown set, a foreign operator or too few digits.
    """
    if name not in EDGES:
        raise ValueError(f"there is no edge set {name!r}; there are {', '.join(EDGES)}")
    edge = EDGES[name]
    common = [o for o in edge.operations if o in task.operations and operator in (None, o)]
    if not common:
        raise ValueError(
            f"the edge set {name!r} is about {edge.operations!r}, "
            f"asked for is {operator or task.operations!r} in a task with {task.operations!r}"
        )
    if task.digits < edge.shortest:
        raise ValueError(f"{name!r} needs at least {edge.shortest} digits, this task has {task.digits}")
    options = {"generator": generator, "device": device}
    x, y = edge.draw(task, n, options)
    if len(common) == 2:
        minus = torch.rand((n, 1), **options) < 0.5
    else:
        minus = torch.full((n, 1), common[0] == "-", device=device)
    return task.complete(x, y, minus)


def names(task: ArithmeticTask) -> tuple[str, ...]:
    """The edge sets that a task has."""
    return tuple(
        name
        for name, edge in EDGES.items()
        if task.digits >= edge.shortest and any(o in task.operations for o in edge.operations)
    )


def _uniform(task: ArithmeticTask, n: int, options: dict, low: int = 0, high: int = 10) -> Tensor:
    return torch.randint(low, high, (n, task.digits), **options)


def _swapped(x: Tensor, y: Tensor, options: dict) -> Pair:
    """Each question one way round or the other."""
    turn = torch.rand((len(x), 1), **options) < 0.5
    return torch.where(turn, y, x), torch.where(turn, x, y)


def _equal(task: ArithmeticTask, n: int, options: dict) -> Pair:
    x = _uniform(task, n, options)
    return x, x


def _apart(distance: int) -> Draw:
    def draw(task: ArithmeticTask, n: int, options: dict) -> Pair:
        low = torch.randint(10**task.digits - distance, (n,), **options)
        return _swapped(task.digits_of(low), task.digits_of(low + distance), options)

    return draw


def _constant(digit: int) -> Draw:
    def draw(task: ArithmeticTask, n: int, options: dict) -> Pair:
        x = _uniform(task, n, options)
        return _swapped(torch.full_like(x, digit), x, options)

    return draw


def _sum_of_nines(task: ArithmeticTask, n: int, options: dict) -> Pair:
    x = _uniform(task, n, options)
    return x, 9 - x


def _full_carry(task: ArithmeticTask, n: int, options: dict) -> Pair:
    x, y = _sum_of_nines(task, n, options)
    units = torch.randint(1, 10, (n,), **options)
    least = 10 - units  # the smallest digit that carries with it
    x[:, -1], y[:, -1] = units, least + (torch.rand(n, **options) * units).long()
    return x, y


def _full_borrow(task: ArithmeticTask, n: int, options: dict) -> Pair:
    x = _uniform(task, n, options)
    y = x.clone()
    for column, more, less in ((0, x, y), (-1, y, x)):  # the first number is larger, its units are smaller
        high = torch.randint(1, 10, (n,), **options)
        more[:, column], less[:, column] = high, (torch.rand(n, **options) * high).long()
    return x, y


def _short(task: ArithmeticTask, n: int, options: dict) -> Pair:
    x, y = _uniform(task, n, options), _uniform(task, n, options)
    keep = torch.arange(task.digits, device=x.device) >= (task.digits + 1) // 2
    return x * keep, y * keep


EDGES: dict[str, Edge] = {
    "equal": Edge("+-", "Equal operands: the difference is +0.", _equal),
    **{
        f"difference_{d}": Edge("-", f"Operands {d} apart, either one the larger.", _apart(d))
        for d in range(1, 10)
    },
    "nines": Edge("+-", "One operand is all nines.", _constant(9)),
    "zero": Edge("+-", "One operand is 0.", _constant(0)),
    "sum_of_nines": Edge("+", "Every column sums to 9: no carry anywhere.", _sum_of_nines),
    "full_carry": Edge("+", "The units carry and every other column passes it on.", _full_carry),
    "full_borrow": Edge("-", "The units borrow through equal columns from the first.", _full_borrow, 2),
    "short": Edge("+-", "The upper half of both numbers is 0.", _short, 2),
}

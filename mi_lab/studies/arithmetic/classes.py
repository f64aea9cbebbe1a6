"""Complexity classes and edge cases: how often they occur, exactly, and questions of each to order.

Uniform questions hide rare classes: at 5 digits, 45 additions in a million are S5, so that a model
wrong on half of them still scores 99.998 %. Here every class can be drawn by itself, every question of
it with the same probability, and its share of all questions is an exact fraction.

How: a class is a finite automaton that reads the columns of a question from the highest to the
units. A column is one of a few symbols (addition: it carries, it sums to 9, neither; subtraction: >, <,
0 over 0, other equal digits), and a state is how many columns right above would pass a carry on,
the longest cascade so far, and whether the larger number is known. Weights summed over the paths
give the frequencies; sampling one symbol after the other, each in proportion to the weight of all
that can still follow, gives the questions.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from mi_lab.studies.arithmetic.subtasks import CAPS
from mi_lab.studies.arithmetic.task import ENRICHED, EQUAL, NINES, ArithmeticTask

OPERATION = {"S": "+", "M": "-", "N": "-", "N_swapped": "-"}
PASSES = ("nine", "0=0", "=")  # symbols that pass a carry or borrow on
SURE = {"S": "carry", "M": "<", "N": "<", "N_swapped": ">"}  # the symbol that makes one
LARGER = {"M": ">", "N": "<", "N_swapped": "<"}  # the highest unequal column of such a question
Columns = dict[tuple[int, int], Fraction]


class State(NamedTuple):
    """Of the columns read so far. passing: columns just above that pass a carry on. best: longest cascade.

    phase: 0 only 0 over 0 so far, 1 only equal digits, 2 it is known which number is larger.
    """

    passing: int
    best: int
    phase: int


def symbol(kind: str, x: int, y: int) -> str:
    """What the automaton of a class sees in a column."""
    if kind == "S":
        return "carry" if x + y >= 10 else "nine" if x + y == 9 else "low"
    return ">" if x > y else "<" if x < y else "0=0" if x == 0 else "="


def follow(kind: str, state: State, seen: str) -> State | None:
    """The state after one more column; None if the question belongs to another operation or sign."""
    cap = CAPS[kind]
    if seen in PASSES:
        if kind == "N" and state.phase == 0 and seen == "0=0":  # above the highest digit: does not count
            return state
        return State(min(state.passing + 1, cap - 1), state.best, max(state.phase, 1))
    if state.phase < 2 and seen != LARGER[kind]:
        return None
    best = max(state.best, 1 + state.passing) if seen == SURE[kind] else state.best
    return State(0, best, 2)


def start(kind: str) -> State:
    """Before any column; additions have no larger number to find."""
    return State(0, 0, 2 if kind == "S" else 0)


def ends(kind: str, state: State) -> bool:
    """Is a question that ends in this state of this kind? Equal numbers give 0, which counts as M."""
    return state.phase == 2 or kind == "M"


# ---- frequencies ----


def uniform_columns() -> Columns:
    """Every pair of digits with 1/100."""
    return {(x, y): Fraction(1, 100) for x in range(10) for y in range(10)}


def enriched_columns(operation: str) -> Columns:
    """A column of an enriched question; see `task` (subtractions: those with unequal operands)."""
    out: Counter[tuple[int, int]] = Counter()
    share = Fraction(str(NINES))
    for (x, y), p in uniform_columns().items():
        if operation == "+":
            out[x, y] += p * (1 - share)  # type: ignore[assignment]
            out[9 - y, y] += p * share  # type: ignore[assignment]
        else:
            out[x, min(y + 1, 9)] += p  # type: ignore[assignment]
    return dict(out)  # type: ignore[arg-type]


def equal_columns() -> Columns:
    """Two equal digits."""
    return {(x, x): Fraction(1, 10) for x in range(10)}


def frequencies(digits: int, kind: str, columns: Columns | None = None) -> tuple[Fraction, ...]:
    """Exact share of each class of a kind among questions of independent columns; the last holds the rest.

    columns: the law of one column; uniform digits unless said. Shares of M and N add up to one.

        >>> [f"{float(100 * p):g}" for p in frequencies(3, "S")[:4]]
        ['16.6375', '74.3625', '8.55', '0.45']
    """
    _check_kind(kind)
    weights: Counter[str] = Counter()
    for (x, y), p in (columns or uniform_columns()).items():
        weights[symbol(kind, x, y)] += p  # type: ignore[assignment]
    now: dict[State, Fraction] = {start(kind): Fraction(1)}
    for _ in range(digits):
        after: dict[State, Fraction] = {}
        for state, p in now.items():
            for seen, weight in weights.items():
                reached = follow(kind, state, seen)
                if reached is not None:
                    after[reached] = after.get(reached, Fraction(0)) + p * weight
        now = after
    out = [Fraction(0)] * (CAPS[kind] + 1)
    for state, p in now.items():
        if ends(kind, state):
            out[min(state.best, CAPS[kind])] += p
    return tuple(out)


def sampled_frequencies(task: ArithmeticTask, kind: str) -> tuple[Fraction, ...]:
    """Exact share of each class among the task's own additions (kind S) or subtractions, enrichment included."""
    _check_kind(kind)
    operation, n = OPERATION[kind], task.digits
    share = Fraction(str(ENRICHED[task.enrichment]))
    parts = [(1 - share, uniform_columns())]
    if operation == "+":
        parts += [(share, enriched_columns("+"))]
    else:
        equal = Fraction(str(EQUAL))
        parts += [(share * (1 - equal), enriched_columns("-")), (share * equal, equal_columns())]
    tables = [[weight * p for p in frequencies(n, kind, law)] for weight, law in parts if weight]
    return tuple(sum(column, Fraction(0)) for column in zip(*tables, strict=True))


def weighted(digits: int, operator: str, rates: Mapping[str, float]) -> float:
    """A rate on uniform questions of one operation from its rates in the classes, weighted by their exact shares.

    rates: class name -> rate, for S0.. or for all of M0.. and N0.., which make up the subtractions. Far sharper than
    asking uniform questions, where most of what fails is rare. Raises KeyError for a class that occurs and is missing.

        >>> weighted(3, "+", {"S0": 0.0, "S1": 0.0, "S2": 0.01, "S3": 0.5})
        0.003105
    """
    kinds = {"+": ("S",), "-": ("M", "N")}[operator]
    return sum(
        float(share) * rates[f"{kind}{level}"]
        for kind in kinds
        for level, share in enumerate(frequencies(digits, kind))
        if share
    )


# ---- questions of one class ----


def names(task: ArithmeticTask) -> tuple[str, ...]:
    """The classes that occur in a task: "S0" .. "S3" for 3-digit addition.

    >>> names(ArithmeticTask(3, "-"))
    ('M0', 'M1', 'M2', 'N1', 'N2', 'N3', 'N_swapped0', 'N_swapped1', 'N_swapped2')
    """
    kinds = [kind for kind, operation in OPERATION.items() if operation in task.operations]
    return tuple(
        f"{kind}{level}" for kind in kinds for level, p in enumerate(frequencies(task.digits, kind)) if p
    )


def parse(name: str) -> tuple[str, int]:
    """("S", 3) from "S3". Raises ValueError for what is no class."""
    match = re.fullmatch(r"(S|M|N|N_swapped)(\d)", name)
    if not match or int(match[2]) > CAPS[match[1]]:
        raise ValueError(f"there is no class {name!r}; there are S0..S5, M0..M4, N1..N4, N_swapped0..4")
    return match[1], int(match[2])


def sample(
    task: ArithmeticTask,
    name: str,
    n: int,
    *,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Int[n, n_ctx]: questions of one class, each of them with the same probability.

    name: "S3", "M0", "N_swapped2", ..; the highest one (S5, M4, N4) includes longer cascades. Digits are
    uniform: the task's enrichment plays no part. Raises ValueError for a class that the task doesn't have.
    """
    kind, level = parse(name)
    if OPERATION[kind] not in task.operations:
        raise ValueError(f"{name} is a class of {OPERATION[kind]!r}, this task has {task.operations!r}")
    machine = _machine(kind, level, task.digits)
    if not machine.cumulative[0][0, -1]:
        raise ValueError(f"no question of {task.digits} digits is in class {name}")
    options = {"generator": generator, "device": device}
    state = torch.zeros(n, dtype=torch.long, device=device)
    columns = []
    for cumulative in machine.cumulative:
        seen = _pick(cumulative.to(device)[state], torch.rand((n, 1), dtype=torch.float64, **options))
        choice = torch.rand(n, dtype=torch.float64, **options) * machine.sizes.to(device)[seen]
        columns.append(machine.pairs.to(device)[seen, choice.long()])
        state = machine.following.to(device)[state, seen]
    x, y = torch.stack(columns, dim=1).unbind(-1)
    return task.complete(x, y, torch.full((n, 1), kind != "S", device=device))


def _pick(cumulative: Tensor, uniform: Tensor) -> Tensor:
    """Int[n]: an index per row of cumulative weights [n, choices]; none with weight 0."""
    total = cumulative[:, -1:]
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return (target >= cumulative).sum(1)


class Machine(NamedTuple):
    """An automaton as tables. cumulative: per column [state, symbol], weight of what can follow, summed
    over symbols; following Int[state, symbol]; pairs Int[symbol, 100, 2], of which `sizes` are in use.
    """

    cumulative: tuple[Tensor, ...]
    following: Tensor
    pairs: Tensor
    sizes: Tensor


@functools.lru_cache(maxsize=256)
def _machine(kind: str, level: int, digits: int) -> Machine:
    groups: dict[str, list[tuple[int, int]]] = {}
    for x, y in uniform_columns():
        groups.setdefault(symbol(kind, x, y), []).append((x, y))
    states = [start(kind)]
    for state in states:  # grows while it is read
        for seen in groups:
            reached = follow(kind, state, seen)
            if reached is not None and reached not in states:
                states.append(reached)
    dead = len(states)  # one more state, which nothing leaves
    following = torch.full((dead + 1, len(groups)), dead)
    for i, state in enumerate(states):
        for j, seen in enumerate(groups):
            reached = follow(kind, state, seen)
            if reached is not None:
                following[i, j] = states.index(reached)
    sizes = torch.tensor([len(pairs) for pairs in groups.values()], dtype=torch.float64)
    fits = [ends(kind, s) and min(s.best, CAPS[kind]) == level for s in states]
    ahead = torch.tensor([*fits, False], dtype=torch.float64)
    cumulative = []
    for _ in range(digits):
        weights = sizes / 100 * ahead[following]
        cumulative.append(weights.cumsum(1))
        ahead = weights.sum(1)
    table = torch.zeros(len(groups), 100, 2, dtype=torch.long)
    for j, pairs in enumerate(groups.values()):
        table[j, : len(pairs)] = torch.tensor(pairs)
    return Machine(tuple(reversed(cumulative)), following, table, sizes)


def _check_kind(kind: str) -> None:
    if kind not in CAPS:
        raise ValueError(f"there is no kind of class {kind!r}; there are {', '.join(CAPS)}")

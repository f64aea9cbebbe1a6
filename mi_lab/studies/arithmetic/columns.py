"""Questions whose columns are in chosen states, for tests that move one value and nothing else.

A *column* is a pair of digits, D_k over D'_k. Addition (S), subtraction with an answer >= 0 (M) and
with a negative one (N) are three *kinds* of one skeleton: a column has a value of its own and is in one
of three *states*: it is sure to carry (borrow), it passes on what comes from below, or neither (clear).

Digits here are units first, as everywhere in this study but in the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mi_lab.studies.arithmetic.subtasks import cascade
from mi_lab.studies.arithmetic.task import ArithmeticTask

PASSING = 0.3  # share of the columns that are made to pass a carry on, where nothing else is said
SURE, PASS, CLEAR = "sure", "pass", "clear"
DEFINITE, ANY = (SURE, CLEAR), (SURE, PASS, CLEAR)
Digits = tuple[Tensor, Tensor]
"""d, e Int[n, digits], units first."""
PAIRS = torch.cartesian_prod(torch.arange(10), torch.arange(10))


class Kind(NamedTuple):
    """One of the three skeletons. base, sure, passes: functions of a column's two digits; sign: of a carry."""

    base: Callable[[Tensor, Tensor], Tensor]
    sure: Callable[[Tensor, Tensor], Tensor]
    passes: Callable[[Tensor, Tensor], Tensor]
    sign: int

    def carries(self, digits: Digits) -> Tensor:
        """Bool[n, digits]: the carry out of each column."""
        return cascade(self.sure(*digits), self.passes(*digits))

    def written(self, digits: Digits) -> Tensor:
        """Int[n, digits]: the answer's digits for numbers of this kind, without the leading one."""
        into = torch.nn.functional.pad(self.carries(digits)[:, :-1].long(), (1, 0))
        return (self.base(*digits) + self.sign * into) % 10


KINDS: dict[str, Kind] = {
    "S": Kind(lambda d, e: (d + e) % 10, lambda d, e: d + e >= 10, lambda d, e: d + e == 9, 1),
    "M": Kind(lambda d, e: (d - e) % 10, lambda d, e: d < e, lambda d, e: d == e, -1),
    "N": Kind(lambda d, e: (e - d) % 10, lambda d, e: d > e, lambda d, e: d == e, -1),
}


def kinds(task: ArithmeticTask) -> tuple[str, ...]:
    """The kinds that a task has.

    >>> kinds(ArithmeticTask(3)), kinds(ArithmeticTask(3, "-"))
    (('S',), ('M', 'N'))
    """
    return ("S",) * ("+" in task.operations) + ("M", "N") * ("-" in task.operations)


def column(kind: str, states: tuple[str, ...], n: int, generator: torch.Generator) -> Tensor:
    """Int[n, 2]: two digits in one of these states, each state as likely, and each pair within it."""
    sure, passes = KINDS[kind].sure(*PAIRS.T), KINDS[kind].passes(*PAIRS.T)
    masks = {SURE: sure, PASS: passes, CLEAR: ~sure & ~passes}
    pools = [PAIRS[masks[state]] for state in states]
    found = torch.stack([pool[torch.randint(len(pool), (n,), generator=generator)] for pool in pools])
    return found[torch.randint(len(states), (n,), generator=generator), torch.arange(n)]


def put(digits: Digits, k: int, pair: Tensor) -> None:
    """Overwrite column k with pairs Int[n, 2]."""
    digits[0][:, k], digits[1][:, k] = pair[:, 0], pair[:, 1]


def random_digits(
    task: ArithmeticTask,
    kind: str,
    n: int,
    generator: torch.Generator,
    *,
    states: Mapping[int, tuple[str, ...]],
    passing: Tensor | float = PASSING,
) -> Digits:
    """Numbers with columns in these states, `states[k]`; the others are random.

    passing: share of the others that are made to pass, one for all or Float[digits]. In subtractions
    the top column is clear unless said otherwise, so that the answer has the sign of its kind.
    """
    d, e = torch.randint(10, (2, n, task.digits), generator=generator)
    made = torch.rand((n, task.digits), generator=generator) < passing
    e = torch.where(made, 9 - d if kind == "S" else d, e)
    fixed = dict(states) if kind == "S" else {task.digits - 1: (CLEAR,)} | dict(states)
    for k, which in fixed.items():
        put((d, e), k, column(kind, which, n, generator))
    return d, e


def question(task: ArithmeticTask, digits: Digits, minus: Tensor | bool) -> Tensor:
    """Int[n, n_ctx]: the solved question. minus: Bool[n, 1], or one for all."""
    d, e = digits
    minus = torch.full((len(d), 1), minus) if isinstance(minus, bool) else minus
    return task.complete(d.flip(1), e.flip(1), minus)


def digits_of(task: ArithmeticTask, tokens: Tensor) -> Digits:
    """The way back: digits of a question, units first."""
    x, y, _ = task.operands(tokens)
    return x.flip(1), y.flip(1)

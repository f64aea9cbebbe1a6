"""The paper's sub-tasks as declarations for `mi_lab.subtask`: pairs of questions, and what must come out.

Addition, subtraction with an answer >= 0 and subtraction with a negative one are three *kinds* with the
same skeleton: a column has a value of its own, may be *sure* to carry (borrow), may *pass* one on, or
neither (*clear*). So each family of sub-tasks exists three times:

                          S       M       N     taken from the store question, the clean answer becomes
    base                  SA      MD      ND    A_k with the column's own value; the carry into k stays
    sure                  SC      MB      NB    A_{k+1} with the carry of a column that does not pass
    passes                SS      MZ      NZ    A_{k+1} with the carry as if k passed (or did not pass) one on
    carry                 SV      MV      NV    A_{k+1} with the carry out of k, whatever column k is
    through               SU      MU      NU    the same where column k passes: the carry comes from below
    tri-state             ST      MT      NT    every digit above k, by the whole ripple

and for models that subtract: GT_k, the sign, decided by column k since all above it are equal; for
mixed ones OPR_k and SGN_k, digit A_k as the other operation, or the other sign, would have it.

All digits are random, fillers included; passing columns are drawn more often than by chance, so that
ripples are seen. Where only A_{k+1} is to change, column k + 1 does not pass. A ripple is judged in a
free run (`SubTask.free_running`): these models read a carry off the digit that they have just written,
and the clean answer would contradict the patch. Where a sign might change on the way (M, N) the top
column decides it in both questions. With `fillers="same"` the store question differs from the clean
one in a single column: then a node may hold much else beside the value, and a hit says less.

Sources: the paper's sub-tasks; `authors_pair` is the authors' own test of ST, with digits all alike.
Random fillers, whole ripples, deliveries and the interchange of operator and sign are ours.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from mi_lab.studies.arithmetic.columns import (
    ANY,
    CLEAR,
    DEFINITE,
    KINDS,
    PASS,
    PASSING,
    SURE,
    Digits,
    Kind,
    column,
    digits_of,
    put,
    question,
    random_digits,
)
from mi_lab.studies.arithmetic.subtasks import cascade
from mi_lab.studies.arithmetic.task import MINUS, PLUS, ArithmeticTask
from mi_lab.subtask import SubTask

ABOVE = 0.6  # share of passing columns above a tri-state, where the ripple runs
Fillers = Literal["random", "same"]

ENDINGS = {  # what a sub-task moves -> the family's name in each kind
    "base": ("SA", "MD", "ND"), "sure": ("SC", "MB", "NB"), "passes": ("SS", "MZ", "NZ"),
    "carry": ("SV", "MV", "NV"), "through": ("SU", "MU", "NU"), "tri": ("ST", "MT", "NT"),
}  # fmt: skip
FAMILIES: dict[str, tuple[str, str]] = {
    name: (kind, what) for what, found in ENDINGS.items() for kind, name in zip(KINDS, found)
} | {"GT": ("M", "sign"), "OPR": ("S", "operator"), "SGN": ("M", "signed")}
LOCAL = ("sure", "passes", "carry", "through")
TEXT = {
    "base": "the column's own digit, for A_k",
    "sure": "the carry or borrow of column k, which does not pass one on, for A_{k+1}",
    "passes": "whether column k passes a carry or borrow on, for A_{k+1}",
    "carry": "the carry or borrow out of column k, for A_{k+1}",
    "through": "the carry or borrow that comes through column k, for A_{k+1}",
    "tri": "the tri-state of column k, for every digit above it",
    "sign": "which number is larger, by column k, for the sign",
    "operator": "which operation, for A_k",
    "signed": "which sign, for A_k",
}


def names(task: ArithmeticTask, *families: str) -> tuple[str, ...]:
    """The sub-tasks that a task has, of these families or all of `FAMILIES`: "SA0", "SA1", ..

    >>> names(ArithmeticTask(3), "SC", "SU")
    ('SC0', 'SC1', 'SC2', 'SU1', 'SU2')
    """
    out = []
    for family in families or FAMILIES:
        if family not in FAMILIES:
            raise ValueError(f"there is no family {family!r}; there are {', '.join(FAMILIES)}")
        kind, what = FAMILIES[family]
        wanted = {"operator": "+-", "signed": "-", "sign": "-"}.get(what, "+" if kind == "S" else "-")
        if wanted in task.operations:
            out += [f"{family}{k}" for k in _indices(task.digits, kind, what)]
    return tuple(out)


def _indices(n: int, kind: str, what: str) -> range:
    """Digits k for which the sub-task exists."""
    top = n if kind == "S" else n - 1  # the digit above the top column is a carry, but never a borrow
    if what in ("passes", "through"):
        return range(1, top)
    return range(top if what in ("sure", "carry", "tri") else n)


def declare(task: ArithmeticTask, name: str, *, fillers: Fillers = "random") -> SubTask:
    """The sub-task of this name, "ST2". Raises ValueError for one that the task does not have."""
    match = re.fullmatch(r"([A-Za-z]+)(\d+)", name)
    if not match or match[1] not in FAMILIES or name not in names(task, match[1]):
        raise ValueError(f"{name!r} is no sub-task of this task; there are {', '.join(names(task))}")
    if fillers not in ("random", "same"):
        raise ValueError(f"fillers must be 'random' or 'same', not {fillers!r}")
    family, k = match[1], int(match[2])
    kind, what = FAMILIES[family]
    looks: tuple[str, ...] = (f"D{k}", f"D'{k}")
    if what in ("carry", "through"):  # from wherever it was kept
        looks = ()
    if what in ("operator", "signed"):
        looks = (family,)
    return SubTask(
        family,
        partial(_draw, task, kind, what, k, fillers),
        partial(_predict, task, kind, what, k),
        task,
        index=k,
        operands=tuple(map(task.position, looks)),
        text=TEXT[what],
        free_running=what == "tri" and k < task.digits - 1,  # above the top column nothing ripples
    )


def declared(task: ArithmeticTask, *families: str, fillers: Fillers = "random") -> tuple[SubTask, ...]:
    """All sub-tasks of these families (default all) that the task has."""
    return tuple(declare(task, name, fillers=fillers) for name in names(task, *families))


def predicting(task: ArithmeticTask, name: str) -> int:
    """The position that predicts a token of the answer: "A2", "SGN".

    >>> predicting(ArithmeticTask(3), "A0")
    11
    """
    return task.position(name) - 1


def whole_column(task: ArithmeticTask, k: int) -> SubTask:
    """T_k: everything that column k says, its digit and its carry; the answer to clean with store's column in it.

    An additions-only test of the rejected algorithm that keeps each column's sum D_k + D'_k, 0 to 18.
    Raises ValueError for a column that the task does not have.
    """
    if "+" not in task.operations or not 0 <= k < task.digits:
        raise ValueError(f"whole columns are of additions, k from 0 to {task.digits - 1}, not {k}")

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        one, two = (random_digits(task, "S", n, generator, states={}) for _ in range(2))
        return question(task, one, False), question(task, two, False)

    def predict(clean: Tensor, store: Tensor) -> Tensor:
        mine, other = digits_of(task, clean), digits_of(task, store)
        made: Digits = (mine[0].clone(), mine[1].clone())
        put(made, k, torch.stack([digits[:, k] for digits in other], 1))
        answer = slice(task.answer.start + 1, task.answer.stop + 1)
        return question(task, made, False)[:, answer]

    return SubTask(
        "T", draw, predict, task, index=k, text="the whole column, digit and carry", free_running=True
    )


def authors_pair(task: ArithmeticTask, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The authors' pair for ST_k, and our whole answer to it: clean, store Int[1, n_ctx], expected Int[1, answer].

    Clean 333+666, store 222+797: a carry in column k among sums of 9. They count any change; the ripple
    that ST_k stands for leaves the digits up to k at 9, makes those above 0 and the first one 1.
    """
    n = task.digits
    twos, threes, sixes, sevens = (torch.full((1, n), x) for x in (2, 3, 6, 7))
    sevens[0, n - 1 - k] = 9  # 2 + 9 carries, 2 + 7 does not
    plus = torch.zeros(1, 1, dtype=torch.bool)
    clean, store = task.complete(threes, sixes, plus), task.complete(twos, sevens, plus)
    return clean, store, declare(task, f"ST{k}").predict(clean, store)


# ---- pairs ----


def _draw(
    task: ArithmeticTask, kind: str, what: str, k: int, fillers: Fillers, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """n pairs of questions, clean and store."""
    clean, store = (_digits(task, kind, what, k, n, generator) for _ in range(2))
    if what == "passes":  # the column below carries, so that passing on or not makes a difference
        put(clean, k - 1, column(kind, (SURE,), n, generator))
    if fillers == "same":  # only the column that decides is another one
        where = k - 1 if what == "through" else k
        pair = torch.stack([digits[:, where] for digits in store], 1)
        if what == "through":
            put(clean, where, column(kind, DEFINITE, n, generator))
            pair = column(kind, DEFINITE, n, generator)
        store = (clean[0].clone(), clean[1].clone())
        put(store, where, pair)
    one, two = (_question(task, digits, kind, what, generator) for digits in (clean, store))
    return one, two


def _digits(task: ArithmeticTask, kind: str, what: str, k: int, n: int, generator: torch.Generator) -> Digits:
    """Random digits, with column k in a state that has the value in question."""
    top = task.digits - 1
    states = {
        "sure": {k: DEFINITE}, "passes": {k: (PASS, CLEAR)}, "carry": {k: ANY}, "through": {k: (PASS,)},
        "tri": {k: ANY}, "sign": dict.fromkeys(range(k + 1, top + 1), (PASS,)) | {k: DEFINITE},
    }.get(what, {})  # fmt: skip
    if what in LOCAL and k + 1 < (task.digits if kind == "S" else top):
        states[k + 1] = DEFINITE
    passing = torch.full((task.digits,), PASSING)
    passing[k + 1 :] = ABOVE if what == "tri" else PASSING
    if what == "operator":  # numbers that both operations can have
        kind = "M"
    return random_digits(task, kind, n, generator, states=states, passing=passing)


def _question(
    task: ArithmeticTask, digits: Digits, kind: str, what: str, generator: torch.Generator
) -> Tensor:
    """Tokens; for operator and sign one way or the other."""
    d, e = digits
    coin = torch.rand((len(d), 1), generator=generator) < 0.5
    if what == "signed":
        d, e = torch.where(coin, e, d), torch.where(coin, d, e)
    return question(task, (d, e), coin if what == "operator" else kind != "S")


# ---- predictions ----


def _predict(task: ArithmeticTask, kind: str, what: str, k: int, clean: Tensor, store: Tensor) -> Tensor:
    """Int[n, answer]: the clean answer with this sub-task's value from the store question."""
    right = clean[:, task.answer.start + 1 : task.answer.stop + 1].clone()
    mine, other = digits_of(task, clean), digits_of(task, store)
    if what == "sign":
        right[:, 0] = torch.where(other[0][:, k] < other[1][:, k], MINUS, PLUS)
        return right
    if what in ("operator", "signed"):
        plus, minus = ("S", "M") if what == "operator" else ("M", "N")
        place = task.position("OPR" if what == "operator" else "SGN")
        digits = torch.where(store[:, place] == MINUS, *(KINDS[x].written(mine)[:, k] for x in (minus, plus)))
        right[:, task.digits + 1 - k] = digits  # the answer is the sign, A_n, .., A_0
        return right
    rule = KINDS[kind]
    base, sure, passes = (f(*mine) for f in (rule.base, rule.sure, rule.passes))
    carry = cascade(sure, passes)
    into = _into(carry)
    if what == "base":
        base[:, k] = rule.base(*other)[:, k]
        return _answer(right, rule, base, into)
    below = carry[:, k - 1] if k else torch.zeros_like(carry[:, 0])
    new = rule.sure(*other)[:, k] | (rule.passes(*other)[:, k] & below)
    if what in ("carry", "through"):
        new = rule.carries(other)[:, k]
    if what == "tri":
        sure[:, k], passes[:, k] = new, False
        into = _into(cascade(sure, passes))
    else:
        into[:, k + 1] = new.long()
    return _answer(right, rule, base, into)


def _into(carry: Tensor) -> Tensor:
    """Int[n, digits + 1]: the carry into each digit of the answer, from that out of each column."""
    return torch.nn.functional.pad(carry.long(), (1, 0))


def _answer(right: Tensor, rule: Kind, base: Tensor, into: Tensor) -> Tensor:
    """The answer with these columns and carries; its sign, and in subtractions its top digit, stay."""
    digits = torch.cat([(base + rule.sign * into[:, :-1]) % 10, into[:, -1:]], 1).flip(1)
    out = torch.cat([right[:, :1], digits], 1)
    if rule.sign < 0:
        out[:, 1] = right[:, 1]
    return out

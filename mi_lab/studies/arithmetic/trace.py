"""The paper's algorithm step by step on one question, as a reader of the tokens would run it.

    for step in trace(ArithmeticTask(3), "199+802="):
        print(step)

A model sees the tokens from left to right. With each digit of the second number one column is
complete, its tri-state is known, and every carry that was waiting for it can be folded further; at "="
no U is left. Then one token of the answer is written at each position.
"""

from __future__ import annotations

from typing import NamedTuple

from mi_lab.studies.arithmetic.task import VOCAB, ArithmeticTask

TRI_STATE = {1: "1", 0: "0", None: "U"}


class TraceStep(NamedTuple):
    """What is known after one token.

    position, token: the token that is read. column: the digit index that it completes, or None.
    states: tri-state of each complete column, "ST3" or "MT3" (1: carries or borrows, 0: does not, U:
    depends on the columns below). carries: the folds so far, "SV3", "MV3" or "NV3". writes: name, value and
    reason of the token that is predicted here, or None.
    """

    position: int
    token: str
    column: int | None
    states: dict[str, str]
    carries: dict[str, str]
    writes: tuple[str, str, str] | None

    def __str__(self) -> str:
        known = "  ".join(f"{k}={v}" for k, v in (self.states | self.carries).items())
        wrote = "  ->  {} = {}  ({})".format(*self.writes) if self.writes else ""
        return f"P{self.position:<2} {self.token}  {known}{wrote}"


def trace(task: ArithmeticTask, question: str) -> tuple[TraceStep, ...]:
    """Every position from the first token to the one that predicts A_0. Errors as in `task.encode`.

    For a subtraction the folds are MV, the borrows of D - D', until the sign is known at "="; if it is
    negative they are NV, those of D' - D, from there on.
    """
    tokens = task.encode(question)
    n = task.digits
    variables = {k: v[0].tolist() for k, v in task.variables(tokens[None]).items()}
    minus, negative = bool(variables["OPR"]), bool(variables["SGN"])
    d, e = variables["D"], variables["D'"]
    tri, fold = ("MT", "MV") if minus else ("ST", "SV")
    states: dict[str, str] = {}
    folds: dict[int, int | None] = {}
    steps = []
    for position in range(3 * n + 3):
        column = 2 * n - position if n < position <= 2 * n else None
        if column is not None:
            value = _tri_state(d[column], e[column], minus, lowest=column == 0)
            states[f"{tri}{column}"] = TRI_STATE[value]
            folds[column] = None
            folds = {k: value if known is None else known for k, known in folds.items()}
        if position == 2 * n + 1 and negative:  # the sign is known: from here on the swapped numbers count
            states = {
                f"NT{k}": TRI_STATE[_tri_state(e[k], d[k], True, lowest=k == 0)] for k in reversed(range(n))
            }
            fold, folds = "NV", {k: variables["NV"][k] for k in reversed(range(n))}
        carries = {f"{fold}{k}": TRI_STATE[known] for k, known in folds.items()}
        token = VOCAB[int(tokens[position])]
        writes = _writes(task, position, variables)
        steps.append(TraceStep(position, token, column, dict(states), carries, writes))
    return tuple(steps)


def _tri_state(d: int, e: int, minus: bool, lowest: bool) -> int | None:
    """1, 0 or None for U; nothing can come in below the units."""
    if minus:
        sure, waits = d < e, d == e
    else:
        sure, waits = d + e >= 10, d + e == 9
    return None if waits and not lowest else int(sure)


def _writes(task: ArithmeticTask, position: int, v: dict) -> tuple[str, str, str] | None:
    """Name, value and reason of the token predicted at a position."""
    n = task.digits
    if position < 2 * n + 1:
        return None
    if position == 2 * n + 1:
        why = "an addition" if not v["OPR"] else f"MV{n - 1} = {v['MV'][n - 1]}"
        return "SGN", "-" if v["SGN"] else "+", why
    k = 3 * n + 2 - position
    base, fold = ("ND", "NV") if v["SGN"] else ("MD", "MV") if v["OPR"] else ("SA", "SV")
    value = str(v["A"][k])
    if k == n:
        return f"A{k}", value, "a difference has no more digits" if v["OPR"] else f"SV{n - 1}"
    if k == 0:
        return "A0", value, f"{base}0"
    sign = "-" if v["OPR"] else "+"
    return f"A{k}", value, f"{base}{k} {sign} {fold}{k - 1} = {v[base][k]} {sign} {v[fold][k - 1]}"

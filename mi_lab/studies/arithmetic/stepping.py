"""Any of the algorithms step by step on one question: what `trace` does for the paper's, for its rivals too.

    for step in steps(ArithmeticTask(4), "1999+8002=", "look_back_2"):
        print(step)

A reader of the tokens, from left to right, knows after each of them what the algorithm can know by
then. The names are `trace`'s: ST, MT, NT are what a column says by itself, SV, MV, NV the carry or
borrow out of it *as this algorithm has it*, right or wrong. Others are of one rival each: SC (MB, NB),
all that "sc_only" sees of a column; T, the sums of "t_cascade"; R and RV, the digits of D - D' and the
borrows of the second pass of "two_pass".

The answers are those of `algorithms`, the steps of "st_sv" those of `trace` (both tested).
"""

from __future__ import annotations

from typing import NamedTuple

from mi_lab.studies.arithmetic.algorithms import ALGORITHMS
from mi_lab.studies.arithmetic.task import VOCAB, ArithmeticTask
from mi_lab.studies.arithmetic.trace import TRI_STATE, TraceStep

WHOLE = 99
WINDOWS = {  # columns that a carry may come from: in the middle, and out of the highest column
    "look_back_2": (2, 2), "three_heads": (2, 3), "sc_only": (1, 1),
}  # fmt: skip
Tri = int | None
"""1: carries, 0: does not, None: U, it depends on the column below."""


def steps(task: ArithmeticTask, question: str, algorithm: str = "st_sv") -> tuple[TraceStep, ...]:
    """Every position from the first token to the one that predicts A_0; see `trace.TraceStep`.

    From the sign on the tokens are those that the algorithm wrote, right or wrong.

    algorithm: a key of `ALGORITHMS`. Raises ValueError for another, for an operator that it can't do,
    and as `task.encode`.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"there is no algorithm {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    tokens = task.encode(question)
    n = task.digits
    x, y, minus = task.operands(tokens[None])
    operator = "-" if minus[0, 0] else "+"
    if operator not in ALGORITHMS[algorithm].operations:
        raise ValueError(
            f"{algorithm!r} has the operations {ALGORITHMS[algorithm].operations!r}, not {operator!r}"
        )
    reader = _reader(algorithm, x[0].flip(0).tolist(), y[0].flip(0).tolist(), operator == "-")
    out: list[TraceStep] = []
    for position in range(3 * n + 3):
        column = 2 * n - position if n < position <= 2 * n else None
        known = reader.known(column if column is not None else n if position <= n else 0, position > 2 * n)
        token = out[-1].writes[1] if position > 2 * n + 1 and out[-1].writes else VOCAB[int(tokens[position])]
        writes = None if position < 2 * n + 1 else reader.writes(3 * n + 2 - position, known)
        out.append(TraceStep(position, token, column, known.states, known.carries, writes))
    return tuple(out)


class _Known(NamedTuple):
    states: dict[str, str]
    carries: dict[str, str]


def _reader(algorithm: str, d: list[int], e: list[int], minus: bool) -> _Fold:
    kind = {"t_cascade": _Sums, "ripple": _Ripple, "two_pass": _TwoPass}.get(algorithm, _Fold)
    return kind(algorithm, d, e, minus)


def _tri_states(algorithm: str, d: list[int], e: list[int], minus: bool) -> list[Tri]:
    """What each column says, units first; nothing comes in below the units."""
    sure = [x < y if minus else x + y >= 10 for x, y in zip(d, e)]
    waits = [x == y if minus else x + y == 9 for x, y in zip(d, e)]
    blind = algorithm == "sc_only"
    return [None if w and k and not blind else int(s) for k, (s, w) in enumerate(zip(sure, waits))]


class _Fold:
    """Carries folded from tri-states, from as many columns as the algorithm looks at."""

    def __init__(self, algorithm: str, d: list[int], e: list[int], minus: bool) -> None:
        self.algorithm, self.d, self.e, self.minus, self.n = algorithm, d, e, minus, len(d)
        self.negative = minus and d[::-1] < e[::-1]
        self.windows = WINDOWS.get(algorithm, (WHOLE, WHOLE))
        self.first = _tri_states(algorithm, d, e, minus)
        self.swapped = _tri_states(algorithm, e, d, minus)

    def carry(self, tri: list[Tri], k: int, lowest: int) -> Tri:
        """The carry out of column k from the columns lowest.. that have been read."""
        window = self.windows[k == self.n - 1]
        for j in range(k, k - window, -1):
            if j < lowest:
                return None
            if tri[j] is not None:
                return tri[j]
        return 0  # it looks no further

    def known(self, lowest: int, signed: bool) -> _Known:
        """After reading the columns from `lowest` on; signed: the sign is known too."""
        swapped = signed and self.negative
        tri = self.swapped if swapped else self.first
        letter = "N" if swapped else "M" if self.minus else "S"
        local = ("B" if self.minus else "C") if self.algorithm == "sc_only" else "T"
        columns = range(self.n - 1, lowest - 1, -1)
        return _Known(
            {f"{letter}{local}{k}": TRI_STATE[tri[k]] for k in columns},
            {f"{letter}V{k}": TRI_STATE[self.carry(tri, k, lowest)] for k in columns},
        )

    def writes(self, k: int, known: _Known) -> tuple[str, str, str]:
        """Name, value and reason of answer token k; n + 1 is the sign."""
        n = self.n
        if k == n + 1:
            return "SGN", "-" if self.negative else "+", self.why()
        letter, sign = ("N" if self.negative else "M", "-") if self.minus else ("S", "+")
        base = self.base(k) if k < n else 0
        if k == n:
            if self.minus:
                return f"A{k}", "0", "a difference has no more digits"
            return f"A{k}", known.carries[f"SV{n - 1}"], f"SV{n - 1}"
        what = f"{letter}{'A' if letter == 'S' else 'D'}"
        if k == 0:
            return "A0", str(base), f"{what}0"
        carry = known.carries[f"{letter}V{k - 1}"]
        value = (base - int(carry) if self.minus else base + int(carry)) % 10
        return f"A{k}", str(value), f"{what}{k} {sign} {letter}V{k - 1} = {base} {sign} {carry}"

    def base(self, k: int) -> int:
        """SA_k, MD_k or ND_k."""
        d, e = self.d[k], self.e[k]
        if not self.minus:
            return (d + e) % 10
        return (e - d if self.negative and self.algorithm != "misprinted_nd" else d - e) % 10

    def why(self) -> str:
        """What the sign follows from; an algorithm that looks back a little compares the whole numbers."""
        if not self.minus:
            return "an addition"
        if self.windows[0] < WHOLE:
            return "D < D'" if self.negative else "D >= D'"
        return f"MV{self.n - 1} = {int(self.negative)}"


class _Ripple(_Fold):
    """Nothing before the units are read; then everything."""

    def known(self, lowest: int, signed: bool) -> _Known:
        found = super().known(lowest, signed)
        return _Known({}, found.carries if lowest == 0 else {})


class _Sums(_Fold):
    """T_k: the column's sum, corrected by the columns below it that have been read; open until the units."""

    def known(self, lowest: int, signed: bool) -> _Known:
        sums, carry = {}, 0
        for k in range(lowest, self.n):
            total = self.d[k] + self.e[k] + carry
            sums[k], carry = total, total // 10
        columns = sorted(sums, reverse=True)
        open_ = {f"SV{k}": "U" if lowest else str(sums[k] // 10) for k in columns}
        return _Known({f"T{k}": str(sums[k]) for k in columns}, open_)

    def writes(self, k: int, known: _Known) -> tuple[str, str, str]:
        if k == self.n + 1:
            return "SGN", "+", self.why()
        sums = known.states
        if k == self.n:
            return f"A{k}", str(int(sums[f"T{k - 1}"]) // 10), f"T{k - 1} // 10 = {sums[f'T{k - 1}']} // 10"
        return f"A{k}", str(int(sums[f"T{k}"]) % 10), f"T{k} mod 10 = {sums[f'T{k}']} mod 10"


class _TwoPass(_Fold):
    """D - D' as if it were positive; if it is not, that is negated."""

    def known(self, lowest: int, signed: bool) -> _Known:
        if not (signed and self.negative):
            return super().known(lowest, False)
        columns = range(self.n - 1, -1, -1)
        r = self.remainders()
        borrows = [int(any(r[: k + 1])) for k in range(self.n)]
        return _Known({f"R{k}": str(r[k]) for k in columns}, {f"RV{k}": str(borrows[k]) for k in columns})

    def remainders(self) -> list[int]:
        """The digits of D - D' modulo 10^n."""
        into = [0, *(self.carry(self.first, k, 0) or 0 for k in range(self.n - 1))]
        return [(x - y - b) % 10 for x, y, b in zip(self.d, self.e, into)]

    def writes(self, k: int, known: _Known) -> tuple[str, str, str]:
        if not self.negative or k >= self.n:
            return super().writes(k, known)
        r = known.states[f"R{k}"]
        if k == 0:
            return "A0", str(-int(r) % 10), f"-R0 = -{r}"
        carry = known.carries[f"RV{k - 1}"]
        return f"A{k}", str((-int(r) - int(carry)) % 10), f"-R{k} - RV{k - 1} = -{r} - {carry}"

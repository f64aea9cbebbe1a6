"""The paper's algorithms and their rivals as programs, run on many questions at once.

A program sees digits d, e Int[n, digits], units first, and knows which operation is asked for; it
returns whether the answer is negative, Bool[n], and its digits Int[n, digits + 1], units first. Its
text follows the paper's definitions column by column (see `subtasks` for the terms), not the fast form
in which `subtasks` computes the truth, so that each checks the other.

Beside every program stands the *theory* of its errors: on which questions it must be wrong. At three
digits both are checked on all questions. Some rivals are exact arithmetic: no answer tells them from
the paper's algorithm, only what the model does on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mi_lab.studies.arithmetic.subtasks import U, longest
from mi_lab.studies.arithmetic.task import MINUS, PLUS, ArithmeticTask

Answer = tuple[Tensor, Tensor]
Program = Callable[[Tensor, Tensor], Answer]
Theory = Callable[[dict[str, Tensor]], Tensor]


class Algorithm(NamedTuple):
    """How to add, how to subtract (None: it can't), and on which questions that goes wrong.

    wrong: Bool[n] from `task.variables`. role: "paper", "predecessor" (the one-layer model), "rejected"
    (tried and given up by the authors) or "control" (made to fail).
    """

    description: str
    role: Literal["paper", "predecessor", "rejected", "control"]
    add: Program | None
    subtract: Program | None
    wrong: Theory

    @property
    def operations(self) -> str:
        """ "+", "-" or "+-"."""
        return "+" * (self.add is not None) + "-" * (self.subtract is not None)

    def answers(self, task: ArithmeticTask, tokens: Tensor) -> Tensor:
        """Int[n, digits + 2]: what it answers, sign first, as tokens.

        Raises ValueError for questions with an operator that it can't do.
        """
        x, y, minus = task.operands(tokens)
        d, e, subtract = x.flip(1), y.flip(1), minus[:, 0]
        sign = torch.full((len(x), 1), PLUS, device=tokens.device)
        digits = torch.zeros(len(x), task.digits + 1, dtype=torch.long, device=tokens.device)
        for program, rows, symbol in ((self.add, ~subtract, "+"), (self.subtract, subtract, "-")):
            if not rows.any():
                continue
            if program is None:
                raise ValueError(f"this algorithm has the operations {self.operations!r}, not {symbol!r}")
            negative, columns = program(d[rows], e[rows])
            sign[rows] = torch.where(negative, MINUS, PLUS)[:, None]
            digits[rows] = columns
        return torch.cat([sign, digits.flip(1)], dim=1)

    def first_error(self, task: ArithmeticTask, tokens: Tensor) -> Tensor:
        """Int[n]: index of the first wrong answer token (0 is the sign); -1 where all are right."""
        truth = task.solve(tokens)[:, -task.digits - 2 :]
        wrong = self.answers(task, tokens) != truth
        return torch.where(wrong.any(1), wrong.int().argmax(1), -1)


# ---- addition ----


def tri_add(x: Tensor, y: Tensor) -> Tensor:
    """TriAdd: what the higher column says, unless it says U; then what the lower one says."""
    return torch.where(x == U, y, x)


def carries_by_tri_add(d: Tensor, e: Tensor) -> Tensor:
    """SV Int[n, digits]: ST_k folded with the columns below, from k down to the units."""
    total = d + e
    st = torch.where(total >= 10, 1, torch.where(total == 9, U, 0))
    st[:, 0] = (total[:, 0] >= 10).long()  # nothing comes in below the units
    sv = []
    for k in range(d.shape[1]):
        value = st[:, k]
        for j in range(k - 1, -1, -1):
            value = tri_add(value, st[:, j])
        sv.append(value)
    return torch.stack(sv, dim=1)


def look_back(columns: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The carry out of k from the `columns` columns at and below k only; from more, none is assumed."""

    def carries(d: Tensor, e: Tensor) -> Tensor:
        carry, nine = d + e >= 10, d + e == 9
        out = carry.clone()
        passed = nine.clone()  # all columns from k down to here sum to 9
        for back in range(1, min(columns, d.shape[1])):
            out[:, back:] |= passed[:, back:] & carry[:, :-back]
            passed[:, back:] &= nine[:, :-back]
        return out.long()

    return carries


def carries_by_heads(heads: int) -> Callable[[Tensor, Tensor], Tensor]:
    """What one layer of so many heads can read, a column each: as `look_back(heads - 1)`, one further at the top.

    One head is needed for SA_k, except for the leading digit, which has none.
    """

    def carries(d: Tensor, e: Tensor) -> Tensor:
        out = look_back(heads - 1)(d, e)
        out[:, -1] = look_back(heads)(d, e)[:, -1]
        return out

    return carries


def carries_by_ripple(d: Tensor, e: Tensor) -> Tensor:
    """Right to left, as at school: needs the units before anything else."""
    out = [torch.zeros_like(d[:, 0])]
    for k in range(d.shape[1]):
        out.append((d[:, k] + e[:, k] + out[-1] >= 10).long())
    return torch.stack(out[1:], dim=1)


def carries_by_t(d: Tensor, e: Tensor) -> Tensor:
    """T1_k = D_k + D'_k (0..18), then T_{j+1,k} = T1_k + T_{j,k-1} // 10, as often as there are digits."""
    t1 = d + e
    t = t1
    for _ in range(d.shape[1]):
        t = t1 + shifted(t // 10)
    return t // 10


def shifted(carries: Tensor) -> Tensor:
    """What comes into each column from what goes out of them."""
    return torch.nn.functional.pad(carries[:, :-1], (1, 0))


def adding(carries: Callable[[Tensor, Tensor], Tensor]) -> Program:
    """A_k = (SA_k + carry into k) mod 10, and the last carry as leading digit."""

    def add(d: Tensor, e: Tensor) -> Answer:
        out = carries(d, e)
        digits = ((d + e) % 10 + shifted(out)) % 10
        return torch.zeros(len(d), dtype=torch.bool, device=d.device), torch.cat([digits, out[:, -1:]], 1)

    return add


# ---- subtraction ----


def borrows_by_fold(d: Tensor, e: Tensor) -> Tensor:
    """MV Int[n, digits]: MT_k (+1, 0, -1 for >, =, <) folded with the columns below; -1 is a borrow."""
    mt = (d - e).sign()
    mv = []
    for k in range(d.shape[1]):
        value = mt[:, k]
        for j in range(k - 1, -1, -1):
            value = torch.where(value == 0, mt[:, j], value)
        mv.append((value == -1).long())
    return torch.stack(mv, dim=1)


def borrows_by_look_back(columns: int) -> Callable[[Tensor, Tensor], Tensor]:
    """As `look_back`, for borrows: a 9 is an equal column, a carry a smaller one."""
    carries = look_back(columns)
    # the sum of a column tells >, = and < apart as it tells below 9, 9 and above
    return lambda d, e: carries(9 + (e - d).sign(), torch.zeros_like(d))


def subtracting(borrows: Callable[[Tensor, Tensor], Tensor], misprinted: bool = False) -> Program:
    """Two peer cases: MD_k - borrow if D >= D', else ND_k - borrow of the swapped numbers.

    The sign is known from the top borrow before any digit is written. misprinted: ND as one page of the
    authors' documentation has it, which repeats MD.
    """

    def subtract(d: Tensor, e: Tensor) -> Answer:
        negative = borrows_by_fold(d, e)[:, -1] == 1
        md, nd = (d - e) % 10, (d - e if misprinted else e - d) % 10
        digits = torch.where(negative[:, None], nd - shifted(borrows(e, d)), md - shifted(borrows(d, e))) % 10
        return negative, torch.nn.functional.pad(digits, (0, 1))

    return subtract


def subtract_in_two_passes(d: Tensor, e: Tensor) -> Answer:
    """D - D' with borrows; if one is left over at the top, negate the result in a second pass."""
    mv = borrows_by_fold(d, e)
    digits = ((d - e) % 10 - shifted(mv)) % 10
    zero = torch.zeros_like(digits)
    negated = ((zero - digits) % 10 - shifted(borrows_by_fold(zero, digits))) % 10
    negative = mv[:, -1] == 1
    return negative, torch.nn.functional.pad(torch.where(negative[:, None], negated, digits), (0, 1))


# ---- the catalogue ----


def never(v: dict[str, Tensor]) -> Tensor:
    """Exact arithmetic."""
    return torch.zeros_like(v["OPR"], dtype=torch.bool)


def cascade_above(columns: int) -> Theory:
    """Wrong where a cascade is longer than that: classes S, M and N_swapped above `columns`."""
    return lambda v: (v["S"] > columns) | (v["M"] > columns) | (v["N_swapped"] > columns)


def cascade_below_the_top(columns: int) -> Theory:
    """Wrong where an addition has such a cascade without the highest column, which a spare head covers."""

    def wrong(v: dict[str, Tensor]) -> Tensor:
        inner = longest(v["SC"][:, :-1].bool(), v["SS"][:, :-1].bool())
        return (v["OPR"] == 0) & (inner > columns)

    return wrong


def misprint_shows(v: dict[str, Tensor]) -> Tensor:
    """Negative answers with a digit difference other than 0 and 5, where d - e and e - d differ mod 10."""
    return (v["SGN"] == 1) & (v["MD"] % 5 != 0).any(1)


_fold_add, _fold_subtract = adding(carries_by_tri_add), subtracting(borrows_by_fold)
ALGORITHMS: dict[str, Algorithm] = {
    "st_sv": Algorithm(
        "The paper's: tri-states ST folded by TriAdd into carries SV; subtraction alike with MT, MV and, for "
        "negative answers, ND, NV; the operator and the sign select.",
        "paper", _fold_add, _fold_subtract, never,
    ),
    "look_back_2": Algorithm(
        "The one-layer model: a carry comes from the next column, or through it from the one below.",
        "predecessor", adding(look_back(2)), subtracting(borrows_by_look_back(2)), cascade_above(2),
    ),
    "three_heads": Algorithm(
        "All that one layer of three heads can do: look-back 2, and 3 for the leading digit, which needs no SA.",
        "control", adding(carries_by_heads(3)), None, cascade_below_the_top(2),
    ),
    "sc_only": Algorithm(
        "A carry comes from the next column only.",
        "control", adding(look_back(1)), subtracting(borrows_by_look_back(1)), cascade_above(1),
    ),
    "boolean_expansion": Algorithm(
        "Each carry as SC_{k-1} or SS_{k-1} & SC_{k-2} or SS_{k-1} & SS_{k-2} & SC_{k-3} ...",
        "rejected", adding(look_back(99)), None, never,
    ),
    "t_cascade": Algorithm(
        "Sums T1 = D + D' (0..18), corrected by the column below once per digit; all digits ready at '='.",
        "rejected", adding(carries_by_t), None, never,
    ),
    "ripple": Algorithm(
        "Right to left, as at school; no carry is known before the units of the second number are read.",
        "control", adding(carries_by_ripple), None, never,
    ),
    "two_pass": Algorithm(
        "A negative difference is computed as if it were positive and then negated.",
        "rejected", _fold_add, subtract_in_two_passes, never,
    ),
    "misprinted_nd": Algorithm(
        "The paper's, with ND_k = (D_k - D'_k) mod 10 as misprinted in the authors' documentation.",
        "control", _fold_add, subtracting(borrows_by_fold, misprinted=True), misprint_shows,
    ),
}  # fmt: skip

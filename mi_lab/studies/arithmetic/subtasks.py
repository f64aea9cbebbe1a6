"""The paper's sub-tasks and complexity classes as ground truth, for every question at once.

k is the index of a digit, 0 = units; D_k and D'_k are the digits of the first and second number. All
tensors here have k on the last axis in that order: `variables(...)["SA"][:, 0]` belongs to the units.
Sources: paper, section on the sub-tasks, and the authors' code; where the two differ, see below.

Addition        SA (D_k + D'_k) mod 10      SC [D_k + D'_k >= 10]     SS [D_k + D'_k = 9]
                ST 1 if the sum is >= 10, 0 if <= 8 (k = 0: <= 9), else U: it depends on the column below
                SV the carry out of column k: the fold TriAdd(..TriAdd(ST_k, ST_{k-1}).., ST_0)
Subtraction     MD (D_k - D'_k) mod 10      MB [D_k < D'_k]           MZ [D_k = D'_k]
                MT +1, 0, -1 for >, =, <    GT [D_k > D'_k]           MV the borrow out of column k
Negative        ND NB NZ NT NV: the same with the numbers swapped
Mixed           OPR 1 for "-"               SGN 1 for a negative answer

The complexity class of a question is its longest cascade: S for additions, M for subtractions with an
answer >= 0, N for those with a negative one (-1 elsewhere).

- S0 no column carries; S1 a carry with no 9 right above it; S2 a carry and one 9 above it; .. S5: four or more;
- M0 no column borrows; M1 a borrow with no equal column right above; M2 with one; .. M4: three or more;
- N1..N4 as the authors' code has it: M's definition, with the *unswapped* borrow columns [D_k < D'_k]
  and equal columns counted only up to the highest digit that is not zero. So 011-999 counts as
  borrowing, though 999-011 does not borrow anywhere;
- N_swapped 0..4: M's definition on the swapped numbers, which is what a model has to compute.
"""

from __future__ import annotations

import torch
from torch import Tensor

U = 2  # ST's third value: "use the column below"
CAPS = {"S": 5, "M": 4, "N": 4, "N_swapped": 4}  # the highest class, which holds everything above it too


def variables(x: Tensor, y: Tensor, minus: Tensor) -> dict[str, Tensor]:
    """Every sub-task and class of questions with digits x, y Int[n, digits], minus Bool[n, 1].

    x and y are most significant first. Per digit, Int[n, digits] in units-first order: D, D' and the
    sub-tasks of the module's text, computed for both operations whatever the operator is (a probe may
    ask for the sum in a subtraction). A [n, digits + 1]: the answer's digits, A_0 first. Per question,
    Int[n]: OPR, SGN and the classes S, M, N, N_swapped, -1 where they do not apply.
    """
    d, e = x.flip(1), y.flip(1)
    total = d + e
    carry, nine, less, same, more = total >= 10, total == 9, d < e, d == e, d > e
    st = torch.where(nine, U, carry.long())
    st[:, 0] = carry[:, 0].long()
    sv, mv, nv = cascade(carry, nine), cascade(less, same), cascade(more, same)
    md, nd = (d - e).remainder(10), (e - d).remainder(10)
    subtract = minus[:, 0]
    negative = subtract & mv[:, -1]
    answer = torch.where(minus, md - below(mv), total + below(sv))
    answer = torch.where(negative[:, None], nd - below(nv), answer).remainder(10)
    top = (sv[:, -1:] & ~minus).long()
    # N's equal columns stop at the highest column that is not 0 over 0
    inside = (total > 0).flip(1).cumsum(1).flip(1) > 0
    classes = {
        "S": (~subtract, longest(carry, nine)),
        "M": (subtract & ~negative, longest(less, same)),
        "N": (negative, longest(less, same & inside)),
        "N_swapped": (negative, longest(more, same)),
    }
    out = {
        "D": d, "D'": e, "A": torch.cat([answer, top], 1),
        "SA": total.remainder(10), "SC": carry, "SS": nine, "ST": st, "SV": sv,
        "MD": md, "MB": less, "MZ": same, "MT": more.long() - less.long(), "MV": mv, "GT": more,
        "ND": nd, "NB": more, "NZ": same, "NT": less.long() - more.long(), "NV": nv,
        "OPR": subtract, "SGN": negative,
    }  # fmt: skip
    out |= {name: run.clamp(max=CAPS[name]).masked_fill(~has, -1) for name, (has, run) in classes.items()}
    return {name: value.long() for name, value in out.items()}


def cascade(sure: Tensor, passes: Tensor) -> Tensor:
    """Bool[n, digits]: the carry out of each column, where a column is `sure` to carry or `passes` one on.

    Units first. The carry out of k is that of the nearest column at or below k that does not pass.
    """
    place = torch.arange(sure.shape[1], device=sure.device)
    last = torch.where(passes, 0, place + 1).cummax(1).values  # 1 + that column; 0: there is none
    return torch.where(last > 0, sure.gather(1, (last - 1).clamp(min=0)), False)


def below(carry: Tensor) -> Tensor:
    """Int[n, digits]: the carry into each column from the carries out, units first."""
    return torch.nn.functional.pad(carry[:, :-1].long(), (1, 0))


def longest(sure: Tensor, passes: Tensor) -> Tensor:
    """Int[n]: the longest run of one sure column and the passing columns right above it; 0 without any."""
    run = torch.zeros(len(sure), dtype=torch.long, device=sure.device)
    best = run
    for k in range(sure.shape[1]):
        run = torch.where(sure[:, k], 1, torch.where(passes[:, k] & (run > 0), run + 1, 0))
        best = torch.maximum(best, run)
    return best

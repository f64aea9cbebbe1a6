"""A1, A2: the paper's algorithms as programs, without a model. Are they arithmetic, and are their rivals not?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mi_lab.claims import Accept, Claim, Control, Measurement
from mi_lab.studies.arithmetic.algorithms import ALGORITHMS
from mi_lab.studies.arithmetic.claims.common import PAPER, seeded, table
from mi_lab.studies.arithmetic.measure import every_question
from mi_lab.studies.arithmetic.task import ArithmeticTask

EXHAUSTIVE = 3
LONGEST = 15
N = 20_000  # random questions of each length above three digits, half of them enriched


def _answers(name: str, operator: str) -> Callable[[bool], Measurement]:
    """Wrong answers of a program: all questions up to three digits, then random ones."""
    program = ALGORITHMS[name]

    def run(fast: bool) -> Measurement:
        labels, rows = [], []
        for digits in range(1, LONGEST + 1):
            task = ArithmeticTask(digits, operator, enrichment="as_described")  # type: ignore[arg-type]
            if digits < EXHAUSTIVE or (digits == EXHAUSTIVE and not fast):
                questions = list(every_question(task, operator))  # type: ignore[arg-type]
            else:
                plain = replace(task, enrichment="none")
                questions = [some.sample(N // 2, generator=seeded(digits)) for some in (task, plain)]
            found = [program.first_error(task, tokens) >= 0 for tokens in questions]
            labels.append(f"{digits} digit{'s' * (digits > 1)}")
            rows.append({"wrong": sum(int(x.sum()) for x in found), "asked": sum(map(len, found))})
        sample = f"all questions up to 3 digits; {N:,} random ones of each length from 4 to 15, half of them enriched"
        return table(labels, rows, "wrong", sample=sample)

    return run


NONE_WRONG = Accept("no wrong answer, at any length", lambda r: r["wrong"] == 0, quorum=1.0)

A1 = Claim(
    "A1",
    "ST, TriAdd and SV add exactly",
    f"{PAPER}, section on the algorithm",
    "Tri-states ST, folded by TriAdd into carries SV and added to SA, give the right sum of every question.",
    "0 wrong of 10^6 (dossier); no simulation in the paper",
    NONE_WRONG,
    _answers("st_sv", "+"),
    (
        Control("look-back 2, the one-layer model's algorithm", _answers("look_back_2", "+")),
        Control("carries from the next column only", _answers("sc_only", "+")),
    ),
    "A program's answers say nothing of what a model does: the authors' rejected T cascade, the boolean expansion "
    "and the right-to-left ripple are exact too. Only interventions tell them apart (A7, A9, A11).",
)
A2 = Claim(
    "A2",
    "MD and MV, ND and NV and the sign subtract exactly",
    f"{PAPER}, section on subtraction; ND from the formula, not from its misprint",
    "Differences less cascaded borrows, of the swapped numbers where the top borrow says that the answer is "
    "negative, give the right difference of every question.",
    "0 wrong of 10^6 (dossier); no simulation in the paper",
    NONE_WRONG,
    _answers("st_sv", "-"),
    (
        Control("ND as misprinted in the authors' documentation", _answers("misprinted_nd", "-")),
        Control("borrows looked for in two columns only", _answers("look_back_2", "-")),
    ),
    "The rejected two-pass algorithm, which negates a negative difference, subtracts exactly as well.",
)
CLAIMS = (A1, A2)

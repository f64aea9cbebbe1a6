"""A6, A22: what is learned first, and from which questions? From recorded development and the sampler itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mi_lab.claims import Accept, Claim, Control, Measurement
from mi_lab.studies.arithmetic import classes
from mi_lab.studies.arithmetic.claims.common import PAPER, Row, needing, seeded, sources, table
from mi_lab.studies.arithmetic.measure import Development, development
from mi_lab.studies.arithmetic.task import ArithmeticTask

MASTERED = 0.99


def mastered(steps: np.ndarray, share: np.ndarray, level: float = MASTERED) -> float:
    """The first kept step from which on the share [step] stays at `level`; infinite if it never does.

    >>> mastered(np.array([0, 10, 20, 30]), np.array([0.0, 1.0, 0.5, 1.0]))
    30.0
    """
    below = np.flatnonzero(share < level)
    first = 0 if not len(below) else int(below[-1]) + 1
    return float(steps[first]) if first < len(steps) else math.inf


def tokens_row(curves: Development, seed: int, *, backwards: bool = False) -> Row:
    """Step from which each answer token is right; backwards: with the tokens' names in reverse order."""
    n = curves.token.shape[2] - 2
    names = ["SGN", *(f"A{k}" for k in range(n, -1, -1))]
    found = [mastered(curves.steps, curves.token[seed, :, i]) for i in range(n + 2)]
    row = dict(zip(names, reversed(found) if backwards else found))
    others = [step for name, step in row.items() if name not in ("SGN", f"A{n}")]
    return {
        "SGN": row["SGN"], "leading digit": row[f"A{n}"], "first other digit": min(others),
        "last digit": max(others), "units": row["A0"],
    }  # fmt: skip


def classes_row(curves: Development, seed: int) -> Row:
    """Step from which each class is answered; S3+ is the last of S3 and above."""
    found = {
        str(name): mastered(curves.steps, curves.right[seed, :, i]) for i, name in enumerate(curves.classes)
    }
    higher = [step for name, step in found.items() if name in ("S3", "S4", "S5")]
    return {"S3+": max(higher), **{name: found[name] for name in ("S0", "S1", "S2", "S3")}}


def _development(
    recipe: str, row: Callable[[Development, int], Row], headline: str
) -> Callable[[bool], Measurement]:
    def run(fast: bool) -> Measurement:
        curves = development(recipe)
        there = curves.seeds.tolist()[: 1 if fast else None]
        return table(
            [f"{recipe} seed {seed}" for seed in there], [row(curves, i) for i in range(len(there))], headline,
            sample=f"{len(curves.steps)} kept steps; 2,000 uniform questions and 2,000 of each class at each",
            sources=sources(recipe),
        )  # fmt: skip

    return run


BOTH = {"add_d5_l2_h3": 3, "add_d5_l1_h3": 1}
A6 = needing(
    Claim(
        "A6",
        "Digits are learned separately: sign and leading digit first",
        f"{PAPER} and its predecessor: separate phases; acceptance ours",
        "The sign and the leading digit are right before any other digit.",
        "shown as loss curves per digit; steps not known",
        Accept(
            "from the kept step on that SGN and A_n stay >= 99 % right, no other digit has done so earlier",
            lambda r: max(r["SGN"], r["leading digit"]) <= r["first other digit"],
        ),
        _development("add_d5_l2_h3", tokens_row, "leading digit"),
        (
            Control(
                "the same curves with the tokens named backwards",
                _development("add_d5_l2_h3", lambda c, i: tokens_row(c, i, backwards=True), "leading digit"),
            ),
        ),
        "A_0 needs no carry and A_n is 0 or 1: both are easy. Kept steps are a factor of 1.3 apart.",
    ),
    {"add_d5_l2_h3": 3},
)
A6B = needing(
    Claim(
        "A6b",
        "Easy classes first: S0, S1, S2, then S3 and above",
        f"{PAPER} and its predecessor; acceptance ours",
        "Questions are mastered in the order of their longest cascade.",
        "not reported by class",
        Accept(
            "steps from which on 99 % are right: S0 <= S1 <= S2 <= S3+, all reached",
            lambda r: r["S0"] <= r["S1"] <= r["S2"] <= r["S3+"] < math.inf,
        ),
        _development("add_d5_l2_h3", classes_row, "S3+"),
        (Control("one-layer twin", _development("add_d5_l1_h3", classes_row, "S3+")),),
        "Kept steps are a factor of 1.3 apart; two classes may share one.",
    ),
    BOTH,
)

# ---- A22 ----
N_HISTOGRAM = 200_000
CELLS = (("+", "S", 3), ("+", "S", 6), ("+", "S", 10), ("-", "M", 3), ("-", "M", 6), ("-", "N_swapped", 6))


def histogram_row(task: ArithmeticTask, asked: ArithmeticTask, kind: str, n: int) -> Row:
    """How far n questions sampled from `task` are from the exact law of `asked`, in standard deviations.

    Classes of which fewer than ten questions are expected are taken together with the one below.
    """
    expected = [float(p) for p in classes.sampled_frequencies(asked, kind)]
    level = task.variables(task.sample(n, generator=seeded(22)))[kind]
    seen = [int((level == i).sum()) for i in range(len(expected))]
    while len(expected) > 1 and n * expected[-1] < 10:
        expected[-2:], seen[-2:] = [expected[-2] + expected[-1]], [seen[-2] + seen[-1]]
    scores = [
        abs(count - n * p) / math.sqrt(n * p * (1 - p)) for count, p in zip(seen, expected) if 0 < p < 1
    ]
    high = 3 if kind == "S" else 2
    return {
        "largest deviation": max(scores),
        "classes": len(scores),
        "share of the rare ones": sum(seen[high:]) / n,
        "expected": sum(expected[high:]),
    }


def _histogram(*, plain: bool = False) -> Callable[[bool], Measurement]:
    """Every operation, length and enrichment; plain: questions without enrichment in the place of the enriched."""

    def run(fast: bool) -> Measurement:
        labels, rows = [], []
        n = N_HISTOGRAM // (10 if fast else 1)
        for enrichment in ("as_coded", "as_described"):
            for operator, kind, digits in CELLS:
                asked = ArithmeticTask(digits, operator, enrichment=enrichment)  # type: ignore[arg-type]
                task = replace(asked, enrichment="none") if plain else asked
                labels.append(f"{kind}, {digits} digits, {enrichment.replace('_', ' ')}")
                rows.append(histogram_row(task, asked, kind, n))
        return table(labels, rows, "largest deviation", sample=f"{n:,} sampled questions each")

    return run


A22 = Claim(
    "A22",
    "Training questions hold the rare classes, as often as is said",
    f"{PAPER} says 60 % of the batches are enriched, its code enriches 40 %; acceptance ours",
    "The sampler's complexity classes have the exact frequencies that follow from the enrichment.",
    "5/21/34/28/11/2 % of S0..S5, which is the number of columns that carry and not the cascade's length",
    Accept("every class within 4 standard deviations", lambda r: r["largest deviation"] <= 4, quorum=1.0),
    _histogram(),
    (Control("no enrichment", _histogram(plain=True)),),
    "Enrichment is drawn per question here, per batch in the authors' code: the same shares, another variance.",
)


def _trend(recipes: tuple[str, str, str]) -> Callable[[bool], Measurement]:
    """Per seed, the step from which on S3 stays right, for growing shares of enriched questions."""

    def run(fast: bool) -> Measurement:
        curves = [development(name) for name in recipes]
        common = sorted(set.intersection(*(set(c.seeds.tolist()) for c in curves)))[: 1 if fast else None]
        rows = []
        for seed in common:
            steps = [classes_row(c, c.seeds.tolist().index(seed))["S3+"] for c in curves]
            # never mastered: twice the last step, so that a mean can be taken
            known = [min(step, 2 * float(c.steps[-1])) for step, c in zip(steps, curves)]
            rows.append(dict(zip(("none", "40 %", "60 %"), known)) | {"saved": known[0] - known[1]})
        return table(
            [f"seed {seed}" for seed in common], rows, "saved", sample="2,000 questions of S3 at each kept step",
            sources=sources(*recipes),
        )  # fmt: skip

    return run


SHARES = ("add_d3_l2_h3_plain", "add_d3_l2_h3", "add_d3_l2_h3_described")
A22B = needing(
    Claim(
        "A22b",
        "Rare classes are learned sooner with enrichment",
        f"{PAPER}: the reason it gives for enriching; acceptance ours",
        "The more questions are enriched, the sooner S3 is mastered.",
        "no number",
        Accept(
            "S3 stays >= 99 % right from an earlier step with 40 % than with none, and with 60 % than with none",
            lambda r: r["40 %"] < r["none"] and r["60 %"] < r["none"],
        ),
        _trend(SHARES),
        (Control("none in the place of 40 %", _trend((SHARES[0], SHARES[0], SHARES[2]))),),
        "3-digit models, where S3 is 0.45 % of uniform questions; the share of columns is not varied.",
    ),
    dict.fromkeys(SHARES, 3),
)
CLAIMS = (A6, A6B, A22, A22B)

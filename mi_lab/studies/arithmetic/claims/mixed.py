"""A15, A16, A17, A20: subtraction, both operations in one model, and what an addition model gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mi_lab.claims import Accept, Claim, Control, Measurement
from mi_lab.studies.arithmetic import classes
from mi_lab.studies.arithmetic.claims.common import (
    OURS,
    PAPER,
    TABLES,
    Row,
    counted,
    model,
    needing,
    per_unit,
    seeds,
    sources,
    table,
    uniform,
    wrong,
)
from mi_lab.studies.arithmetic.counts import task_of
from mi_lab.studies.arithmetic.measure import uniform_questions
from mi_lab.studies.arithmetic.recipes import recipes
from mi_lab.studies.arithmetic.task import MINUS, PLUS

COUNTS = "recorded counts: 100,000 uniform questions of each operation, or all there are"
BY_CLASS = "recorded counts: 20,000 questions of each class, weighted by their exact shares"


def per_million(recipe: str, seed: int, operator: str) -> float:
    """Recorded failures per million of one operation."""
    return uniform(recipe, seed, operator).per_million


def per_million_by_class(recipe: str, seed: int, operator: str) -> float:
    """The same from the recorded counts of the classes, each weighted by its share of all questions."""
    rates = {
        key.removeprefix("class "): count.wrong / count.n
        for key, count in counted(recipe, seed).items()
        if key.startswith("class ")
    }
    return 1e6 * classes.weighted(task_of(recipe).digits, operator, rates)


def _paired(
    names: Mapping[str, str],
    operators: Mapping[str, str],
    row: Callable[[Row], Row],
    headline: str,
    rate: Callable[[str, int, str], float] = per_million,
    sample: str = COUNTS,
) -> Callable[[bool], Measurement]:
    """A measure over the seeds that all recipes share. names, operators: name of a number -> recipe, operator.

    rate: wrong answers per million of a recipe, seed and operator.
    """

    def run(fast: bool) -> Measurement:
        common = sorted(set.intersection(*(set(seeds(name)) for name in names.values())))[
            : 1 if fast else None
        ]
        rows = [
            row({key: rate(name, seed, operators[key]) for key, name in names.items()}) for seed in common
        ]
        used = sources(*dict.fromkeys(names.values()))
        return table([f"seed {seed}" for seed in common], rows, headline, sample=sample, sources=used)

    return run


# ---- A15 ----
def _alone(recipe: str) -> Callable[[bool], Measurement]:
    """Subtraction against addition of the same shape, seed by seed; `recipe` is what stands for subtraction."""
    minus = recipe.startswith("sub")
    return _paired(
        {"sub/M": recipe, "add/M": "add_d3_l2_h3"}, {"sub/M": "-" if minus else "+", "add/M": "+"},
        lambda r: {"more": r["sub/M"] - r["add/M"], **r}, "more",
    )  # fmt: skip


A15 = needing(
    Claim(
        "A15",
        "Subtraction alone is less accurate than addition alone",
        TABLES,
        "A model of the same shape, trained at least as long, fails on more subtractions than additions.",
        "1..6,672 per million, by seed (n = 6: 2 and 3,889; n = 8: 1 and 487), against 0..3 for addition",
        Accept("more failures per million than the addition model of the same seed", lambda r: r["more"] > 0),
        _alone("sub_d3_l2_h3"),
        (Control("addition in the place of subtraction", _alone("add_d3_l2_h3")),),
        "Three digits, 2 layers, 3 heads; subtraction trains twice as many steps, which favours it.",
    ),
    {"sub_d3_l2_h3": 3, "add_d3_l2_h3": 3},
)

# ---- A16 ----
N_WRONG = 4_000
MIXED = tuple(
    n for n in recipes if n.startswith("mix_") and task_of(n).digits in (5, 6, 7, 8) and "_80" not in n
)
SMALL = ("mix_d3_l2_h3", "mix_d3_l3_h4")


def _both(recipe: str, seed: int) -> Row:
    found = counted(recipe, seed)
    rate = {key: count.wrong / count.n for key, count in found.items()}
    return {
        "add/M": per_million(recipe, seed, "+"),
        "sub/M": per_million(recipe, seed, "-"),
        **{
            f"worst {kind}": max(
                r for key, r in rate.items() if key.startswith(f"class {kind}") and "_" not in key
            )
            for kind in "SMN"
        },
        "worst edge set": max(r for key, r in rate.items() if key.startswith("edge ")),
    }


def _wrong_operator(recipe: str, seed: int) -> Row:
    """The operator token exchanged, graded against the answer to the question as it was."""
    task = task_of(recipe)
    row: Row = {}
    for operator, name, other in (("+", "add/M", MINUS), ("-", "sub/M", PLUS)):
        tokens = uniform_questions(task, operator, N_WRONG, seed=0xA417_0016)
        tokens[:, task.digits] = other
        row[name] = 1e6 * float(wrong(model(recipe, seed), task, tokens).float().mean())
    return row | {name: float("nan") for name in ("worst S", "worst M", "worst N", "worst edge set")}


LEARNED = Accept(
    "failures per million: additions <= 5, subtractions <= 10", lambda r: r["add/M"] <= 5 and r["sub/M"] <= 10
)
SAMPLE = "recorded counts: 100,000 to 10^6 uniform questions per operation, 20,000 to 100,000 of each class"


def _learned(id: str, title: str, names: tuple[str, ...], source: str, reported: str, limits: str) -> Claim:
    return Claim(
        id,
        title,
        source,
        "A model trained on both operations adds and subtracts almost without error.",
        reported,
        LEARNED,
        per_unit(names, _both, "sub/M", sample=SAMPLE),
        (
            Control(
                "the wrong operator token",
                per_unit(
                    names, _wrong_operator, "sub/M", sample=f"{N_WRONG:,} uniform questions per operation"
                ),
            ),
        ),
        limits,
    )


A16 = needing(
    _learned(
        "A16", "One model learns both operations: 5 to 8 digits", MIXED, TABLES,
        "per million, n = 5..8: additions 0..2, subtractions 0..7; n = 10: 2 and 295; n = 13: 399 and 4,164",
        "From scratch, 66 % subtractions. Rates in classes M and N and on edge sets stand beside it, without a bar.",
    ),
    dict.fromkeys(MIXED, 0),
    together=3,
)  # fmt: skip
A16B = needing(
    _learned(
        "A16b", "One model learns both operations: 3 digits", SMALL,
        f"{OURS}, with A16's acceptance; formed after the first seed of mix_d3_l2_h3 had been seen to fail",
        "no model of three digits in the paper",
        "Two layers of three heads and three of four, 4,000 steps from scratch.",
    ),
    {"mix_d3_l2_h3": 1},
)  # fmt: skip


# ---- A17 ----
class Transfer(NamedTuple):
    """Three recipes that differ in what they start from."""

    scratch: str
    started: str
    shuffled: str


SMALL_TRANSFER, TRANSFER = (
    Transfer(f"mix_d{n}_l2_h3_80", f"ins1_mix_d{n}_l2_h3", f"ins1_mix_d{n}_l2_h3_shuffled") for n in (3, 5)
)
SCRATCH, STARTED, SHUFFLED = SMALL_TRANSFER
BETTER = Accept(
    "fewer failures than from scratch, and than with the shuffled donor, of the same seed",
    lambda r: r["gain"] > 0 and r["gain over shuffled"] > 0,
)


def _transfer(of: Transfer, **options: Any) -> Callable[[bool], Measurement]:
    """Subtraction failures from scratch, from the donor and from a shuffled one, seed by seed."""
    return _paired(
        {"scratch": of.scratch, "started": of.started, "shuffled donor": of.shuffled},
        dict.fromkeys(("scratch", "started", "shuffled donor"), "-"),
        lambda r: {
            "gain": r["scratch"] - r["started"], "gain over shuffled": r["shuffled donor"] - r["started"], **r,
        },
        "gain",
        **options,
    )  # fmt: skip


def _no_transfer(of: Transfer) -> Transfer:
    return of._replace(started=of.shuffled)


A17 = needing(
    Claim(
        "A17",
        "Starting from an addition model improves subtraction",
        f"{PAPER}, abstract and tables; acceptance ours",
        "At an equal share of subtraction and equal steps, a mixed model that starts from an addition model fails on "
        "fewer subtractions than one from scratch, and than one that starts from the same weights in random order.",
        "subtractions wrong per million, from scratch and started, n = 5..11: 0 and 52, 0 and 0..5, 6 and 1, 7 and "
        "1,196, 33 and 4, 295 and 7, 13 and 1,120; the share of subtraction differs (66 and 80 %)",
        BETTER,
        _transfer(SMALL_TRANSFER),
        (
            Control(
                "the shuffled donor in the place of the true one", _transfer(_no_transfer(SMALL_TRANSFER))
            ),
        ),
        "Three digits, 2 layers, 3 heads, 80 % subtraction in all three. The interval is a bootstrap over seeds of the "
        "paired difference. Donors with permuted heads, with W_O, whole, and of subtraction are not part of it.",
    ),
    dict.fromkeys(SMALL_TRANSFER, 3),
)
EXACT: dict[str, Any] = {"rate": per_million_by_class, "sample": BY_CLASS}
A17B = needing(
    Claim(
        "A17b",
        "Starting from an addition model improves subtraction: 5 digits",
        f"{OURS}, with A17's acceptance; written down before any of these models was trained",
        "As A17 at the paper's smallest size. The failures are those of uniform questions, put together from the rates "
        "in all classes, so that a few in a million can be told from none.",
        "n = 5: 0 per million from scratch (three layers of four heads), 52 started (two of three)",
        BETTER,
        _transfer(TRANSFER, **EXACT),
        (
            Control(
                "the shuffled donor in the place of the true one", _transfer(_no_transfer(TRANSFER), **EXACT)
            ),
        ),
        "Two layers of three heads, 80 % subtraction in all three, 7,500 steps of 64. The interval is a bootstrap over "
        "seeds of the paired difference.",
    ),
    dict.fromkeys(TRANSFER, 3),
)


# ---- A20 ----
RESETS = ("ins1_mix_d6_l3_h4", "ins2_mix_d6_l4_h4", "ins3_mix_d6_l4_h3")
SMALL_RESETS = tuple(f"{kind}_mix_d3_l4_h3" for kind in ("ins1", "ins2", "ins3"))
SHUFFLED_RESETS = tuple(f"{name}_shuffled" for name in SMALL_RESETS)
LITTLE_AND_MUCH = Accept(
    "subtraction failures per million, plus one: ins3 >= 10 times ins1, ins2 <= 10 times ins1",
    lambda r: r["ins3 / ins1"] >= 10 and r["ins2 / ins1"] <= 10,
)


def _resets(ins1: str, ins2: str, ins3: str) -> Callable[[bool], Measurement]:
    """Subtraction failures with heads, or heads and MLPs, put back, over those with nothing put back."""
    names = {"ins1": ins1, "ins2": ins2, "ins3": ins3}
    return _paired(
        names, dict.fromkeys(names, "-"),
        lambda r: {f"{name} / ins1": (r[name] + 1) / (r["ins1"] + 1) for name in ("ins3", "ins2")} | r,
        "ins3 / ins1",
    )  # fmt: skip


A20 = needing(
    Claim(
        "A20",
        "Putting donor weights back during training does not help",
        TABLES,
        "Heads put back every 100 steps cost little, heads and MLPs put back much.",
        "subtractions wrong per million: ins1 0..5, ins2 8, ins3 3,120; GrokFast twins 294..5,246",
        LITTLE_AND_MUCH,
        _resets(*RESETS),
        (Control("ins2 and ins3 exchanged", _resets(RESETS[0], RESETS[2], RESETS[1])),),
        "GrokFast is not built here. The shapes are the paper's, three layers against four; ins1 has had twice as many "
        "questions as the other two, and more steps. A20b compares like with like.",
    ),
    dict.fromkeys(RESETS, 1),
)
A20B = needing(
    Claim(
        "A20b",
        "Putting donor weights back does not help: one shape, 3 digits",
        f"{OURS}, with A20's acceptance and the dossier's control, written down before any of these models was trained",
        "Four layers of three heads each, the same steps. Heads of the donor put back every 100 steps cost little, "
        "heads and MLPs much; and it is the donor's circuit that does so: with its entries shuffled it is otherwise.",
        "no model of three digits in the paper",
        LITTLE_AND_MUCH,
        _resets(*SMALL_RESETS),
        (
            Control("ins2 and ins3 exchanged", _resets(SMALL_RESETS[0], SMALL_RESETS[2], SMALL_RESETS[1])),
            Control("weights of a shuffled donor put back", _resets(*SHUFFLED_RESETS)),
        ),
        "The donor has two layers, so half of the model is free in any case.",
    ),
    dict.fromkeys((*SMALL_RESETS, *SHUFFLED_RESETS), 3),
)
CLAIMS = (A15, A16, A16B, A17, A17B, A20, A20B)

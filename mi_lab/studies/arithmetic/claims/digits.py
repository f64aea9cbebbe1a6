"""A7, A8, A21: what happens where a digit is written, and where nothing happens."""

from __future__ import annotations

import math
from collections.abc import Callable

from mi_lab.claims import Accept, Claim, Control, Measurement
from mi_lab.node_table import Row as Found
from mi_lab.studies.arithmetic.claims.common import (
    OURS,
    PAPER,
    Row,
    label,
    needing,
    per_unit,
    sources,
    table,
    units,
)
from mi_lab.studies.arithmetic.claims.seen import ADDERS, LONGER, MOVED, SCANNED, best, evidence, nodes, wrong
from mi_lab.studies.arithmetic.claims.tristates import authors_row
from mi_lab.studies.arithmetic.counts import task_of
from mi_lab.studies.arithmetic.interchanges import predicting

USEFUL = 0.01  # share of questions that a node must turn wrong, as in A13


# ---- A7 ----
def one_digit(rows: list[Found]) -> float:
    """Share of these nodes that turn exactly one token of the answer wrong; 0 without nodes."""
    hits = [sum(share > 0 for share in row.impact) == 1 for row in rows]
    return sum(hits) / len(hits) if hits else 0.0


def places_row(recipe: str, seed: int, *, before: bool = False) -> Row:
    """A7's numbers; before: the nodes before the sign in the place of those from it on."""
    task, found = task_of(recipe), nodes(recipe, seed)
    sign = task.position("SGN")
    useful = [row for row in found if row.fail.hits]
    late = [row for row in useful if (row.position < sign) == before]
    # what the T cascade (H2) has no use for: a head that reads a column again where its digit is written
    costs = []
    for k in range(task.digits):
        pair = [f"D{k}", f"D'{k}"]
        there = found.where(
            kind="head", layer=0, positions=[predicting(task, f"A{k}")], attends=pair, above=-1
        )
        costs.append(max((row.fail.rate for row in there), default=0.0))
    return {
        "one digit": one_digit(late),
        "nodes": len(late),
        "useful": sum(row.fail.rate >= USEFUL for row in late),
        "first useful position": min(found.useful_positions, default=math.inf),
        "operator": task.position("OPR"),
        "late operand head": min(costs),
    }


def _in_place(r: Row) -> bool:
    return r["one digit"] >= 0.95 and r["first useful position"] > r["operator"]


A7 = needing(
    Claim(
        "A7",
        'After "=" a position serves one digit; the early question is not used',
        f"{PAPER}: universal in its models; acceptance from the dossier",
        "From the sign on each useful node matters for exactly one token of the answer; nothing before the second "
        "number is computed with.",
        "all models; compact ones: useful positions P7-P11 (n = 3), P6-P17 (n = 5)",
        Accept(
            "of the nodes from the sign on that turn some question wrong, >= 95 % turn one token wrong; no position up "
            "to the operator is useful",
            _in_place,
        ),
        per_unit(ADDERS, places_row, "one digit", sample=SCANNED),
        (
            Control(
                "nodes before the sign in their place",
                per_unit(ADDERS, lambda r, s: places_row(r, s, before=True), "one digit", sample=SCANNED),
            ),
        ),
        "`late operand head`: what the most useful head costs that reads a column where its digit is written, for the "
        "digit where this is least. The rejected T cascade (H2) has no use for such heads and predicts 0; where it is "
        "0 here, several heads stand in for one another or H2 is right. That no position before D'_0 can know of a "
        "ripple from the units follows from causality alone.",
    ),
    {"add_d3_l2_h3": 1, "add_d5_l2_h3": 1},
)


# ---- A8 ----
def sums_row(recipe: str, seed: int, *, control: str = "", twin: bool = False) -> Row:
    """A8's numbers; control: its rate ("wrong index") in the place of the match."""
    task, found = task_of(recipe), evidence(recipe, seed, "SA", twin=twin)
    rates, heads, noise = [], [], []
    for k in range(task.digits):
        e = best(found.of(f"SA{k}", held=False), predicting(task, f"A{k}"))
        rates.append(0.0 if e is None else wrong(e, control) if control else e.match.rate)
        seen = e is not None and all(weight >= 0.1 for weight in e.attends.values())
        heads.append(len(e.nodes) if e is not None and seen else math.inf)
        noise.append(0.0 if e is None else max((c.rate for c in e.controls.values()), default=0.0))
    return {
        "worst digit": min(rates),
        "digits": sum(rate >= 0.9 and size < math.inf for rate, size in zip(rates, heads)),
        "of": task.digits,
        "most heads": max((size for size in heads if size < math.inf), default=0),
        "largest control": max(noise),
    }


def _sums(control: str) -> Callable[[bool], Measurement]:
    return per_unit(LONGER, lambda r, s: sums_row(r, s, control=control), "worst digit", sample=MOVED)


def _all_sums(r: Row) -> bool:
    return r["digits"] == r["of"] and r["largest control"] <= 0.2


A8 = needing(
    Claim(
        "A8",
        "The sum of a column is made just in time, by one head or co-located ones",
        f"{PAPER}; the whole-answer test on random pairs is the dossier's",
        "Where A_k is predicted, one head of the first layer or several together read D_k and D'_k and carry SA_k: "
        "moved from another question, they change that digit and nothing else.",
        "every k; compact n = 5: pairs at P13-P17; n = 3: SA_0 and SA_1 pairs, SA_2 none",
        Accept(
            "every k: the whole answer is as predicted in >= .9 of pairs, both digits get >= .1 of the attention, and "
            "no control reaches more than .2",
            _all_sums,
        ),
        per_unit(LONGER, sums_row, "worst digit", sample=MOVED),
        (
            *(
                Control(name, _sums(kind))
                for name, kind in (
                    ("prediction of another digit", "wrong index"),
                    ("same heads, one position off", "wrong position"),
                    ("all other heads at the place", "wrong head"),
                )
            ),
            Control(
                "untrained twins",
                per_unit(ADDERS[:1], lambda r, s: sums_row(r, s, twin=True), "worst digit", sample=MOVED),
            ),
        ),
        "Five digits and more, as the dossier asks; for three see A21.",
    ),
    {"add_d5_l2_h3": 1},
)  # fmt: skip


# ---- A21 ----
def same_row(recipe: str, seed: int, *, kind: str = "trained") -> Row:
    """A7, A8 and A9 on one model, and how many sub-tasks get a tag; kind: "untrained" for a twin with fresh weights."""
    task, twin = task_of(recipe), kind == "untrained"
    found = evidence(recipe, seed, "SA", "SC", "ST", twin=twin)
    right = kind == "trained"
    place = (
        places_row(recipe, seed)
        if right
        else {"one digit": 0.0, "first useful position": math.inf, "operator": 0.0}
    )
    tri = authors_row(recipe, seed, twin=twin)
    return {
        "tags": len({e.subtask for e in found if e.holds()}),
        "one digit": place["one digit"],
        "first useful": place["first useful position"] - place["operator"],
        "sums": sums_row(recipe, seed, twin=twin)["digits"] / task.digits,
        "strong, shown": tri["strong, shown"] / tri["of"],
        "strong, alone": tri["strong, alone"] / tri["of"],
    }  # fmt: skip


def _same(r: Row) -> bool:
    return r["one digit"] >= 0.95 and r["first useful"] > 0 and r["sums"] == 1 and r["strong, shown"] >= 0.75


SMALL = ("add_d3_l2_h3", "add_d5_l2_h3")
TWIN = "add_d3_l2_h3_shuffled_answers"


def _wrong_answers(fast: bool) -> Measurement:
    there = units(TWIN, fast=fast)
    rows = [same_row(*unit, kind="shuffled") for unit in there]
    return table([label(u) for u in there], rows, "tags", sample=MOVED, sources=sources(TWIN))


A21 = needing(
    Claim(
        "A21",
        "Compact models show the same circuit",
        f"{OURS}: the dossier's; no compact model in the paper",
        "At a fifth of the paper's width the same is found: one digit for each position, sums just in time, tri-states "
        "early.",
        "one seed each of 3 and 5 digits, with A9 in part",
        Accept("A7 and A8, the latter for three digits too, and A9's strong test for 3 of 4 columns", _same),
        per_unit(SMALL, same_row, "tags", sample=f"{SCANNED}; {MOVED}"),
        (
            Control(
                "untrained twins",
                per_unit(SMALL[:1], lambda r, s: same_row(r, s, kind="untrained"), "tags", sample=MOVED),
            ),
            Control("trained on the answers of other questions", _wrong_answers),
        ),
        "`tags`: sub-tasks of SA, SC and ST that are found; the twins are to have none. A scan of a model that answers "
        "nothing right is not possible; its columns are 0 there. Less redundant than wide models: not testable without "
        "one.",
    ),
    {"add_d3_l2_h3": 3, "add_d5_l2_h3": 3, TWIN: 1},
)
CLAIMS: tuple[Claim, ...] = (A7, A8, A21)

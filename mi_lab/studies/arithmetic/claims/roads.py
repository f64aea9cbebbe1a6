"""A9b, A9c: does a digit take its carry from copies made early, or look it up when it is written?"""

from __future__ import annotations

from collections.abc import Callable

from mi_lab.claims import Accept, Claim, Control, Measurement
from mi_lab.studies.arithmetic.carries import Route, routes
from mi_lab.studies.arithmetic.claims.common import (
    OURS,
    Row,
    label,
    model,
    needing,
    sources,
    table,
    units,
    untrained,
)
from mi_lab.studies.arithmetic.counts import task_of

RECIPES = ("add_d3_l2_h3", "add_d5_l2_h3", "add_d6_l2_h3")
FAR = {
    3: 2,
    5: 3,
    6: 3,
}  # digits -> from so many columns on a carry is far; 3 and 5 as seen in the first seeds


def row(found: tuple[Route, ...], digits: int, *, others: bool = False) -> Row:
    """The worst rate of each road. others: the copies of all other columns in the place of those of column k."""
    inner = [r for r in found if r.j < digits]  # the leading digit is written where the sign is read
    near = [r for r in inner if r.j - r.k == 1]
    far = [r for r in inner if r.j - r.k >= FAR[digits]]
    return {
        "near, by late copies": min((r.other if others else r.late).rate for r in near),
        "near, by early copies": max(r.early.rate for r in near),
        "far, by early copies": min((r.other if others else r.early).rate for r in far),
        "far, by late copies": max(r.late.rate for r in far),
        "same state": max(r.same.rate for r in found),
    }


def _measure(fast: bool, *, twin: bool = False, others: bool = False) -> Measurement:
    there = units(*RECIPES, fast=fast)
    rows = []
    for name, seed in there:
        task = task_of(name)
        network = untrained(name, seed) if twin else model(name, seed)
        rows.append(row(routes(network, task), task.digits, others=others))
    return table(
        [label(unit) for unit in there], rows, "far, by early copies",
        sample="64 pairs for every column and digit", sources=sources(*RECIPES),
    )  # fmt: skip


def _claim(name: str, title: str, statement: str, says: str, met: Callable[[Row], bool]) -> Claim:
    claim = Claim(
        name,
        title,
        f"{OURS}, formed after the first seeds of 3 and 5 digits",
        statement,
        "not tested in the paper, where ST is computed once, early, and late carry heads are optional",
        Accept(f"{says}; copies with the same state: <= .05; all digits but the leading one", met),
        lambda fast: _measure(fast),
        (
            Control("untrained twin", lambda fast: _measure(fast, twin=True)),
            Control("copies of all other columns", lambda fast: _measure(fast, others=True)),
        ),
        "Copies are heads that give each digit of the column at least a tenth of their attention.",
    )
    return needing(claim, {"add_d3_l2_h3": 1, "add_d5_l2_h3": 1})


CLAIMS: tuple[Claim, ...] = (
    _claim(
        "A9b",
        "Far carries come from early copies",
        "A carry that begins several columns away comes from copies of its column's state made before the first digit.",
        "three or more columns away (two at 3 digits): early copies move the digit in >= .9 of pairs, late ones <= .1",
        lambda r: (
            r["far, by early copies"] >= 0.9 and r["far, by late copies"] <= 0.1 and r["same state"] <= 0.05
        ),
    ),
    _claim(
        "A9c",
        "Near carries are looked up late",
        "A carry from the next column is looked up where the digit is written.",
        "from the next column late copies move the digit in >= .9 of pairs, early ones in <= .1",
        lambda r: (
            r["near, by late copies"] >= 0.9 and r["near, by early copies"] <= 0.1 and r["same state"] <= 0.05
        ),
    ),
)

"""The zoo: every model of the paper's tables beside ours of the same configuration.

    zoo_table()              # sortable, in the book and in a notebook
    rows()                  # the same as data

The paper's counts are failures per million questions, which its later tables give as whole numbers; the
default of the authors' test draws *enriched* questions and the tables don't say which were asked. Ours
are on plain uniform questions. Intervals are Clopper-Pearson, 95 %; each of our seeds stands by itself.
"""

from __future__ import annotations

from typing import NamedTuple

from mi_lab.metrics import Interval, clopper_pearson
from mi_lab.sortable import Cell, Column, SortableTable
from mi_lab.studies.arithmetic import counts
from mi_lab.studies.arithmetic.measure import Failures
from mi_lab.studies.arithmetic.paper_table import ROWS, PaperRow
from mi_lab.studies.arithmetic.recipes import recipes

MILLION = 1_000_000
PAPER_BATCH = 64
OPERATIONS = {"+": "add", "-": "sub"}


class ZooRow(NamedTuple):
    """One configuration. paper: its row of the paper, None for those that only we have. recipe: our recipe's
    name. seeds: trained ones, shipped or not. failures: {"+": {seed: wrong of n}, "-": ..},
    for the seeds that were counted. hardest: class and count of the worst of all seeds, None if nothing was counted.
    """

    paper: PaperRow | None
    recipe: str
    seeds: tuple[int, ...]
    failures: dict[str, dict[int, Failures]]
    hardest: tuple[str, Failures] | None

    @property
    def name(self) -> str:
        """The authors' name of the model, or ours."""
        return self.paper.name if self.paper is not None else self.recipe


def uniform_failures(recipe: str, seed: int, operator: str) -> Failures | None:
    """On uniform questions of one operation; on all there are, where all were asked. None: not counted."""
    counted = counts.failures_of(recipe, seed)
    return counted.get(f"every {operator}") or counted.get(f"uniform {operator}")


def hardest_class(recipe: str, seeds: tuple[int, ...]) -> tuple[str, Failures] | None:
    """The class with the highest rate of wrong answers in any of these seeds (N by the authors' definition)."""
    found = [
        (key.removeprefix("class "), count)
        for seed in seeds
        for key, count in counts.failures_of(recipe, seed).items()
        if key.startswith("class ") and "swapped" not in key
    ]
    return max(found, key=lambda pair: pair[1].wrong / pair[1].n, default=None)


def rows() -> tuple[ZooRow, ...]:
    """The paper's rows in its order, then the configurations that only we have."""
    there = counts.counted_models()
    out = []
    known = {row.cell for row in ROWS}
    for row in ROWS:
        out.append(_row(row, row.cell, there.get(row.cell, ())))
    for name in recipes:
        if name not in known and name in there:
            out.append(_row(None, name, there[name]))
    return tuple(out)


def _row(paper: PaperRow | None, recipe: str, seeds: tuple[int, ...]) -> ZooRow:
    failures: dict[str, dict[int, Failures]] = {}
    for operator in OPERATIONS:
        counted = {seed: uniform_failures(recipe, seed, operator) for seed in seeds}
        failures[operator] = {seed: count for seed, count in counted.items() if count is not None}
    return ZooRow(paper, recipe, seeds, failures, hardest_class(recipe, seeds))


COLUMNS = (
    Column("model", note="kind, digits, layers, heads; below it the paper's steps and seed"),
    Column("digits", True),
    Column("add/M, paper", True, "wrong additions per million, with the interval if a million were asked"),
    Column("add/M, ours", True, "wrong additions per million uniform questions, a line per seed"),
    Column("sub/M, paper", True, "wrong subtractions per million, with the interval if a million were asked"),
    Column("sub/M, ours", True, "wrong subtractions per million uniform questions, a line per seed"),
    Column(
        "hardest class, ours",
        True,
        "wrong per million in the class with the most, drawn by itself; worst seed",
    ),
    Column("steps, paper", True, "steps times questions in each; sorted by their product"),
    Column("steps, ours", True, "steps times questions in each; sorted by their product"),
)
CAPTION = (
    "Failures per million questions with Clopper-Pearson 95 % intervals: the paper's model, and ours of the same "
    "configuration at a fifth of its width. Where it says 'not shipped', the counts and the hash of the weights are "
    "kept, and the weights are not. A header sorts, pressed again the other way round."
)
NOT_TRAINED = Cell("not trained yet")
NOT_COUNTED = Cell("not counted yet")
NOT_THERE = Cell("not in the paper")


def zoo_table() -> SortableTable:
    """All configurations as a table that a reader can sort."""
    return SortableTable(COLUMNS, [_cells(row) for row in rows()], CAPTION)


def _cells(row: ZooRow) -> list[Cell]:
    paper = row.paper
    recipe, task = recipes[row.recipe], counts.task_of(row.recipe)
    ours = {}
    for operator, name in OPERATIONS.items():
        if operator not in task.operations:
            ours[name] = Cell(f"no {name}")
        else:
            ours[name] = _ours(row.failures[operator]) if row.seeds else NOT_TRAINED
    hardest = NOT_COUNTED if row.seeds else NOT_TRAINED
    if row.hardest is not None:
        name, count = row.hardest
        hardest = Cell((name, per_million(count.rate)), count.per_million)
    shipped = recipe.name not in counts.left_out()
    our_steps = _steps(recipe.steps, recipe.batch, *(() if shipped else ("not shipped",)))
    if paper is None:
        return [
            Cell((row.name, "ours only"), row.name), Cell(str(task.digits), task.digits),
            NOT_THERE, ours["add"], NOT_THERE, ours["sub"], hardest, NOT_THERE, our_steps,
        ]  # fmt: skip
    steps = None if paper.kilosteps is None else 1000 * paper.kilosteps
    which = "GrokFast" if paper.grokfast else f"{paper.kilosteps}K steps, seed {paper.seed}"
    return [
        Cell((paper.cell, which), row.name),
        Cell(str(paper.digits), paper.digits),
        _reported(paper.add_failures),
        ours["add"],
        _reported(paper.sub_failures),
        ours["sub"],
        hardest,
        Cell("unknown") if steps is None else _steps(steps, PAPER_BATCH),
        our_steps,
    ]


def _steps(steps: int, batch: int, *more: str) -> Cell:
    """How long a model trained."""
    return Cell((f"{steps:,} × {batch}", *more), steps * batch)


def _reported(failures: int | None) -> Cell:
    """A count of the paper."""
    if failures is None:
        return Cell("not given")
    return Cell(per_million(clopper_pearson(failures, MILLION)), failures)


def _ours(counted: dict[int, Failures]) -> Cell:
    """A line per seed, sorted by their median."""
    if not counted:
        return NOT_COUNTED
    rates = sorted(count.per_million for count in counted.values())
    middle = (rates[(len(rates) - 1) // 2] + rates[len(rates) // 2]) / 2
    return Cell(tuple(per_million(count.rate) for count in counted.values()), middle)


def per_million(rate: Interval) -> str:
    """A rate and its interval, times a million.

    >>> per_million(clopper_pearson(2, 1_000_000))
    '2 [0.24, 7.2]'
    >>> per_million(clopper_pearson(12621, 1_000_000))
    '12,621 [12,403, 12,842]'
    """
    return "{} [{}, {}]".format(*(_number(1e6 * x) for x in rate))


def _number(x: float) -> str:
    return f"{x:,.0f}" if x >= 9.95 else f"{x:.2g}"

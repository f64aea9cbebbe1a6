"""Speed as a reader sees it: what was measured, against what was asked, and under which load.

Every script of the repository's folder `benchmarks/` writes a JSON with `rows`: a value (median, smallest,
largest), what issue 6 asks for, and whether it is met. `recorded` reads them, `table` shows them in the book
and in Jupyter, `mi-lab bench` in a shell. A missed bar is shown as missed.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mi_lab.ledger import prose

BADGES = {
    True: '<span class="mi-verdict reproduced">met</span>',
    False: '<span class="mi-verdict not-reproduced">missed</span>',
}
FOLDER = Path(__file__).parents[1] / "benchmarks"


class Row(NamedTuple):
    """One line.

    met: None where nothing was asked. most: the value may be at most `ask`, not at least. bound: what nothing
    of its kind could exceed on that machine, where that is known.
    """

    what: str
    median: float
    low: float
    high: float
    unit: str
    ask: float | None
    stretch: float | None
    most: bool
    met: bool | None
    bound: float | None = None

    @property
    def measured(self) -> str:
        """The median, and in brackets how much there was to have."""
        limit = "" if self.bound is None else f" (of {number(self.bound, self.unit)})"
        return number(self.median, self.unit) + limit


class Record(NamedTuple):
    """What one script left: its rows, and on which machine, when and beside which load (1-minute average)."""

    name: str
    title: str
    rows: tuple[Row, ...]
    machine: dict[str, Any]

    @property
    def where(self) -> str:
        """The machine in words."""
        made = self.machine
        versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        load = made["load_average"][0]
        state = "quiet" if load < 1.5 else f"other work beside it, load {load:g}"
        date = f"{made['date']}, " if "date" in made else ""
        return f"{date}{made['cpu']}, {made['cores']} cores ({state}); {versions}"


def scripts(folder: Path = FOLDER) -> dict[str, Path]:
    """Name -> script. Raises ValueError where the folder is missing, as in an installed package."""
    found = {path.stem: path for path in sorted(folder.glob("*.py")) if _runs(path)}
    if not found:
        raise ValueError(
            "benchmarks stand in the repository's folder benchmarks/, not in the installed package"
        )
    return found


def _runs(path: Path) -> bool:
    return 'if __name__ == "__main__":' in path.read_text("utf8")


def recorded(folder: Path = FOLDER) -> tuple[Record, ...]:
    """The results of all scripts that have one in the form of this table."""
    found = []
    for name, path in scripts(folder).items():
        result = path.with_suffix(".json")
        if result.exists() and "rows" in (data := json.loads(result.read_text("utf8"))):
            rows = tuple(_row(line) for line in data["rows"])
            found.append(Record(name, data["title"], rows, data["machine"]))
    return tuple(found)


def _row(line: dict[str, Any]) -> Row:
    value = line["value"]
    return Row(
        line["what"], value["median"], value["min"], value["max"], line["unit"], line["ask"],
        line["stretch"], line["most"], line["met"], line.get("bound"),
    )  # fmt: skip


def number(x: float, unit: str) -> str:
    """A value with its unit, short.

    >>> number(2.914, "times"), number(0.7312, "share"), number(0.4261, "GiB"), number(1.018, "exponent")
    ('2.9 x', '73 %', '0.43 GiB', '1.02')
    """
    if unit == "times":
        return f"{x:.0f} x" if x >= 20 else f"{x:.1f} x" if x >= 2.05 else f"{x:.2f} x"
    return f"{100 * x:.0f} %" if unit == "share" else f"{x:.2f}" + f" {unit}" * (unit != "exponent")


def asked(row: Row) -> str:
    """What was asked, in words."""
    if row.ask is None:
        return ""
    return f"{'at most' if row.most else 'at least'} {number(row.ask, row.unit)}"


def outcome(row: Row) -> str:
    """met, missed, or nothing."""
    return "" if row.met is None else "met" if row.met else "missed"


class Table:
    """Records as text and as HTML, one table each."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = tuple(records)

    def __repr__(self) -> str:
        lines = []
        for record in self.records:
            lines += ["", f"{record.title} [{record.name}]", f"  {record.where}"]
            for row in record.rows:
                lines.append(f"  {row.what:67} {row.measured:16} {asked(row):17} {outcome(row)}".rstrip())
        return "\n".join(lines[1:])

    def _repr_html_(self) -> str:
        return "".join(_html(record) for record in self.records)


def table(*names: str, folder: Path = FOLDER) -> Table:
    """The recorded results, of the named scripts or of all. ValueError for a name without a result."""
    records = {record.name: record for record in recorded(folder)}
    if unknown := [name for name in names if name not in records]:
        raise ValueError(f"there is no result of {', '.join(unknown)}; there are: {', '.join(records)}")
    return Table([records[name] for name in names] or records.values())


def _html(record: Record) -> str:
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("what", "outcome", "measured", "asked", "range")
    )
    body = ""
    for row in record.rows:
        low, high = (number(x, row.unit) for x in (row.low, row.high))
        span = "" if low == high else f"{low} to {high}"
        badge = "" if row.met is None else BADGES[row.met]
        numbers = "".join(f"<td>{html.escape(text)}</td>" for text in (row.measured, asked(row), span))
        body += f'<tr><th scope="row">{prose(row.what)}</th><td>{badge}</td>{numbers}</tr>'
    caption = f"{prose(record.title)}. <code>mi-lab bench {record.name}</code>. {html.escape(record.where)}."
    return (
        f'<figure class="mi-ledger mi-live"><div class="mi-ledger-scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div><figcaption>{caption}</figcaption></figure>"
    )

"""Tables that a reader sorts: plain HTML that works with mouse, keyboard, phone and screen reader.

    SortableTable((Column("model"), Column("failures", number=True)), rows, "Failures per million.")

Each header is a button; it sorts upwards, pressed again downwards, and says so (`aria-sort`). What is not
known stands last either way. A table wider than the page scrolls by itself, with its first column in
place. Twenty lines of script travel with the first table; without them, and in a terminal, the rows stand
as they were given. Colours are those of the page, light or dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple


class Column(NamedTuple):
    """name: the header. number: right-aligned, sorted by value. note: what it means, for hovering and readers."""

    name: str
    number: bool = False
    note: str = ""


class Cell(NamedTuple):
    """text: what is shown, a line per part. value: what it is sorted by; None for what is not known."""

    text: str | tuple[str, ...]
    value: float | str | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """The text, line by line."""
        return (self.text,) if isinstance(self.text, str) else self.text


STYLE = """
.mi-sortable { margin: 0.6rem 0 1.2rem; font-family: var(--mi-sans, system-ui, sans-serif); }
.mi-sortable-scroll { overflow: auto; max-height: 80vh; border-block: 1px solid var(--mi-rule, #8886); }
.mi-sortable table { border-collapse: collapse; font-size: 0.86rem; font-variant-numeric: tabular-nums;
  margin: 0; width: 100%; }
.mi-sortable th, .mi-sortable td { padding: 0.25rem 0.6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--mi-rule, #8883);
  background: var(--mi-paper, Canvas); color: var(--mi-ink, CanvasText); }
.mi-sortable .mi-number { text-align: right; white-space: nowrap; }
.mi-sortable .mi-unknown { color: var(--mi-quiet, GrayText); font-style: italic; }
.mi-sortable thead th { position: sticky; top: 0; z-index: 1; vertical-align: bottom; padding: 0; }
.mi-sortable tbody th { position: sticky; left: 0; font-weight: 600; white-space: nowrap; }
.mi-sortable tbody th small { font-weight: 400; color: var(--mi-quiet, GrayText); }
.mi-sortable thead th:first-child { left: 0; z-index: 2; }
.mi-sortable button { all: unset; box-sizing: border-box; width: 100%; min-height: 2.75em; padding: 0.3rem 0.6rem;
  cursor: pointer; font-weight: 650; display: flex; gap: 0.3em; align-items: end; }
.mi-sortable .mi-number button { justify-content: flex-end; }
.mi-sortable button:focus-visible { outline: 3px solid var(--mi-accent, Highlight); outline-offset: -3px; }
.mi-sortable button::after { content: "\\2195"; opacity: 0.45; }
.mi-sortable [aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
.mi-sortable [aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
@media (max-width: 40rem) { .mi-sortable tbody th { white-space: normal; min-width: 7.5rem; overflow-wrap: anywhere; } }
@media print { .mi-sortable-scroll { max-height: none; } }
"""
SCRIPT = """
(() => {
  if (window.miSortable) return;
  window.miSortable = true;
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".mi-sortable thead button");
    if (!button) return;
    const head = button.closest("th"), row = head.parentElement, body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending", number = head.classList.contains("mi-number");
    const key = (tr) => tr.cells[head.cellIndex].dataset.sort;
    const compare = (a, b) => (number ? a - b : a.localeCompare(b));
    const rows = [...body.rows].map((tr, i) => [key(tr), i, tr]);
    rows.sort(([a, i], [b, j]) => {
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined) || i - j;
      return (up ? 1 : -1) * compare(a, b) || i - j;
    });
    for (const th of row.cells) th.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...rows.map(([, , tr]) => tr));
  });
})();
"""


class SortableTable:
    """Rows of cells under columns; the first column names the row."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], caption: str) -> None:
        """Raises ValueError if a row has another number of cells than there are columns, or a value is NaN."""
        self.columns, self.rows, self.caption = tuple(columns), tuple(map(tuple, rows)), caption
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"row {i} has {len(row)} cells for {len(self.columns)} columns")
            for column, cell in zip(self.columns, row):
                if column.number and not (cell.value is None or _finite(cell.value)):
                    raise ValueError(
                        f"{column.name} of row {i} must be a finite number or None, not {cell.value!r}"
                    )

    def __repr__(self) -> str:
        """Columns in line, for a terminal."""
        texts = [[column.name for column in self.columns]]
        texts += [[" ".join(cell.lines) for cell in row] for row in self.rows]
        widths = [max(len(line[i]) for line in texts) for i in range(len(self.columns))]
        lines = []
        for line in texts:
            parts = [
                text.rjust(width) if column.number else text.ljust(width)
                for column, text, width in zip(self.columns, line, widths)
            ]
            lines.append("  ".join(parts).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        label = html.escape(self.caption, quote=True)
        head = "".join(map(_head, self.columns))
        body = "".join(
            "<tr>" + "".join(map(_cell, range(len(row)), self.columns, row)) + "</tr>" for row in self.rows
        )
        return (
            f'<figure class="mi-sortable mi-live"><style>{STYLE}</style>'
            f'<div class="mi-sortable-scroll" tabindex="0" role="region" aria-label="{label}">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
            f"<figcaption>{label}</figcaption><script>{SCRIPT}</script></figure>"
        )


def _finite(value: float | str) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _head(column: Column) -> str:
    title = f' title="{html.escape(column.note, quote=True)}"' if column.note else ""
    css = ' class="mi-number"' if column.number else ""
    button = f'<button type="button"{title}>{html.escape(column.name)}</button>'
    return f'<th scope="col" aria-sort="none"{css}>{button}</th>'


def _cell(i: int, column: Column, cell: Cell) -> str:
    value = cell.value if column.number or cell.value is not None else " ".join(cell.lines)
    css = " ".join(
        filter(None, ("mi-number" * column.number, "mi-unknown" * (column.number and value is None)))
    )
    of_class = f' class="{css}"' if css else ""
    sort = "" if value is None else f' data-sort="{html.escape(str(value), quote=True)}"'
    first, *more = map(html.escape, cell.lines)
    text = "<br>".join([first, *(f"<small>{line}</small>" if i == 0 else line for line in more)])
    return f'<th scope="row"{of_class}{sort}>{text}</th>' if i == 0 else f"<td{of_class}{sort}>{text}</td>"

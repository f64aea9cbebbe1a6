"""One map for every fact about nodes: rows are heads and MLPs by layer, columns are positions.

    node_map(table.facts("fail"), "Questions that turn wrong", percent=True, labels=table.labels)
    node_map(table.facts("loss"), "..", tags=located.tags())

Numbers become colour (orange above zero, purple below, as in every heat map of the book) and, if there
is room, print; tags become text. A cell with an outline and nothing in it was measured and is zero; no
cell at all means that nothing was measured. The drawing is plain SVG in the page's ink, right in light
and dark; screen readers get a title and a description with the largest values, the pointer one for
every cell. Cells carry `data-node="P14L2H3"`, for pages that let the reader click them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from mi_lab.plot import NEGATIVE, NEUTRAL, POSITIVE, Picture
from mi_lab.run import Node

CELL, ROW, LEFT, TOP = 30, 22, 62, 34  # width and height of a cell, margins; px
CHARACTER = 5.4  # mean width of one in tags, px at 9.5 px size
STRONGEST = 0.62  # opacity of the largest value: ink on top of it stays readable in light and dark
Fact = float | str


def node_map(
    facts: Mapping[Node, Fact],
    caption: str,
    *,
    tags: Mapping[Node, str] | None = None,
    labels: Sequence[str] | None = None,
    positions: Sequence[int] | None = None,
    percent: bool = False,
    numbers: bool = True,
    largest: float | None = None,
    title: str = "",
) -> Picture:
    """A `Picture` of one fact per node, a number or a text.

    tags: text to print on top of numbers, instead of them. labels: the token at each position.
    positions: columns to show; default from the first to the last that has a fact. percent: numbers
    are fractions, printed times 100. numbers: print them. largest: the number with the strongest
    colour; default the largest there is. title: what the map is called by a screen reader.

    Raises ValueError for nodes at all positions, positions without a label, and no facts at all.
    """
    both: dict[Node, Fact] = {**(tags or {}), **facts}
    if not both:
        raise ValueError("a node map needs at least one node")
    for node in both:
        if node.position is None:
            raise ValueError(f"node {node} is at all positions: it has no place in a map over positions")
    columns = _columns(both, positions)
    if labels is not None and (bad := [p for p in columns if p >= len(labels)]):
        raise ValueError(f"position {bad[0]} has no label; there are {len(labels)}")
    values = {node: float(x) for node, x in facts.items() if not isinstance(x, str)}
    values = {node: x for node, x in values.items() if not math.isnan(x)}
    finite = [abs(x) for x in values.values() if math.isfinite(x)]
    top = largest or max(finite, default=0.0) or 1.0
    words = {node: x for node, x in facts.items() if isinstance(x, str)} | dict(tags or {})
    rows = sorted({(n.layer, n.head is None, n.head or 0) for n in both})
    texts = [str(p) if labels is None else labels[p] for p in columns]
    widths = [
        max(
            CELL,
            8 + CHARACTER * max((len(words[n]) for n in words if n.position == p), default=0),
            6 + CHARACTER * len(text),
        )
        for p, text in zip(columns, texts)
    ]
    left = {p: LEFT + sum(widths[:i]) for i, p in enumerate(columns)}
    width = LEFT + sum(widths) + 4
    heights = {row: TOP + ROW * i + 6 * row[0] for i, row in enumerate(rows)}  # a gap between layers
    bottom = max(heights.values()) + ROW
    parts = [_header(columns, texts, left, widths), _sides(rows, heights)]
    for node in sorted(both, key=lambda n: (n.layer, n.head is None, n.head or 0, n.position or 0)):
        if node.position in left:
            i = columns.index(node.position)
            y = heights[node.layer, node.head is None, node.head or 0]
            word = words.get(node, "")
            cell = _cell(node, values.get(node), word, top, percent, numbers, node in facts)
            parts.append(f'<g transform="translate({left[node.position]:g} {y})">{cell(widths[i])}</g>')
    height = bottom + 6
    if values:
        parts.append(_legend(top, any(x < -top / 100 for x in values.values()), percent, bottom + 12))
        height = bottom + 34
    name = title or caption
    said = f"{name}. {_summary(values, words, rows, columns, percent)}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="100%" '
        f'style="max-width:{max(width, 220) * 1.15:.0f}px;height:auto;'
        f'font-family:var(--mi-sans, system-ui, sans-serif)" font-size="9.5" fill="currentColor">'
        f"<title>{escape(name)}</title><desc>{escape(said)}</desc>{''.join(parts)}</svg>"
    )
    return Picture(svg, caption, said)


def _columns(nodes: Mapping[Node, Fact], positions: Sequence[int] | None) -> list[int]:
    if positions is not None:
        if not positions or min(positions) < 0:
            raise ValueError(f"positions to show must be whole numbers from 0 on, not {list(positions)}")
        return sorted(set(positions))
    there = [node.position or 0 for node in nodes]
    return list(range(min(there), max(there) + 1))


def _header(
    columns: Sequence[int], texts: Sequence[str], left: Mapping[int, float], widths: Sequence[float]
) -> str:
    """Tokens, and below them positions."""
    out = []
    for p, text, width in zip(columns, texts, widths):
        x = left[p] + width / 2
        out.append(f'<text x="{x:g}" y="13" text-anchor="middle" font-weight="600">{escape(text)}</text>')
        out.append(
            f'<text x="{x:g}" y="26" text-anchor="middle" fill-opacity="0.7" font-size="8">P{p}</text>'
        )
    return "".join(out)


def _sides(rows: Sequence[tuple[int, bool, int]], heights: Mapping[tuple[int, bool, int], int]) -> str:
    return "".join(
        f'<text x="{LEFT - 6}" y="{heights[row] + ROW / 2 + 3:g}" text-anchor="end">'
        f"L{row[0]} {'MLP' if row[1] else f'H{row[2]}'}</text>"
        for row in rows
    )


def _cell(
    node: Node, value: float | None, word: str, top: float, percent: bool, numbers: bool, measured: bool
):
    """A function of the cell's width that draws it."""
    printed = "" if value is None else _number(value, percent)
    said = ", ".join(filter(None, [printed + (" %" if printed and percent else ""), word])) or "nothing"

    def draw(width: float) -> str:
        box = f'x="0.5" y="0.5" width="{width - 1:g}" height="{ROW - 1}" rx="2"'
        colour, opacity = f"var(--mi-neutral, {NEUTRAL})", 0.14 if word else 0.0
        if value is not None:
            sign = ("positive", POSITIVE) if value >= 0 else ("negative", NEGATIVE)
            colour = f"var(--mi-{sign[0]}, {sign[1]})"
            opacity = STRONGEST * min(1.0, abs(value) / top)
        line = f' stroke="currentColor" stroke-opacity="{0.18 if measured else 0.08}"'
        # a number too small for two digits in a cell is colourless anyway
        shown = word or (printed if numbers and value and len(printed) <= 5 else "")
        text = (
            f'<text x="{width / 2:g}" y="{ROW / 2 + 3.2:g}" text-anchor="middle">{escape(shown)}</text>'
            if shown
            else ""
        )
        return (
            f'<g class="mi-node" data-node="{node.name}"><title>{node.name}: {escape(said)}</title>'
            f'<rect {box} fill="{colour}" fill-opacity="{round(opacity, 3):g}"{line}/>{text}</g>'
        )

    return draw


def _legend(top: float, signed: bool, percent: bool, y: float) -> str:
    """Seven steps of colour from 0 (or -top) to top; no gradient, whose id could clash with another's."""
    steps = [i / 6 for i in range(7)]
    shades = [-x for x in reversed(steps[1:])] + steps if signed else steps
    out = []
    for i, x in enumerate(shades):
        sign = ("positive", POSITIVE) if x >= 0 else ("negative", NEGATIVE)
        out.append(
            f'<rect x="{LEFT + 14 * i}" y="{y:g}" width="14" height="8" '
            f'fill="var(--mi-{sign[0]}, {sign[1]})" fill-opacity="{round(STRONGEST * abs(x), 3):g}"/>'
        )
    unit = " %" if percent else ""
    low, end = "0" if not signed else _number(-top, percent), LEFT + 14 * len(shades)
    out.append(f'<rect x="{LEFT}" y="{y:g}" width="{end - LEFT}" height="8" fill="none" stroke="currentColor" '
               'stroke-opacity="0.3"/>')  # fmt: skip
    out.append(f'<text x="{LEFT - 5}" y="{y + 8:g}" text-anchor="end" font-size="8.5">{low}</text>')
    out.append(f'<text x="{end + 5}" y="{y + 8:g}" font-size="8.5">{_number(top, percent)}{unit}</text>')
    return "".join(out)


def _number(value: float, percent: bool) -> str:
    """Two digits.

    >>> _number(0.474, True), _number(0.004, True), _number(-1.25, False)
    ('47', '0.4', '-1.2')
    """
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    x = 100 * value if percent else value
    return f"{x:.0f}" if abs(x) >= 9.95 else f"{x:.2g}"


def _summary(
    values: Mapping[Node, float],
    words: Mapping[Node, str],
    rows: Sequence[tuple[int, bool, int]],
    columns: Sequence[int],
    percent: bool,
) -> str:
    """The map in words: its size, the largest values, the first tags."""
    out = [f"{len(rows)} heads and MLPs by {len(columns)} positions, P{columns[0]} to P{columns[-1]}"]
    ranked = sorted((n for n in values if values[n]), key=lambda n: -abs(values[n]))[:6]
    unit = " %" if percent else ""
    if ranked:
        out.append("largest: " + ", ".join(f"{n.name} {_number(values[n], percent)}{unit}" for n in ranked))
    if words:
        more = f" and {len(words) - 12} more" if len(words) > 12 else ""
        out.append("tags: " + ", ".join(f"{n.name} {word}" for n, word in list(words.items())[:12]) + more)
    return "; ".join(out) + "."

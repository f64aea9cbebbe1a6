"""Charts made by hand: small SVGs that keep 11 px labels on a phone, with a value on every point.

Made by hand rather than by matplotlib because explorers bake hundreds of them into a page: two
kilobytes each, drawn in a millisecond. Colours are the theme's (`mi_lab.plot`); lines also differ in
dash and marker. Legends are HTML beside the chart and wrap below it where there is no room.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mi_lab.plot import HEADS, NEGATIVE, NEUTRAL, POSITIVE, Picture

PAPER = "var(--mi-paper, Canvas)"

STYLE = """
.mi-charts{font-family:var(--mi-sans,system-ui,sans-serif)}
figure.mi-figure.mi-charts svg{min-width:0;display:block}
.mi-charts .mi-row{display:flex;flex-wrap:wrap;gap:.4rem 1.2rem;align-items:flex-start}
.mi-charts .mi-panel{flex:1 1 15rem;min-width:0;max-width:22.5rem}
.mi-charts .mi-panel.mi-tight{flex:1 1 13.5rem;max-width:19rem}
.mi-charts .mi-panel.mi-wide{max-width:36rem;min-width:29rem}
.mi-charts .mi-panel>b{display:block;font-size:.92rem}
.mi-charts .mi-halo{paint-order:stroke;stroke:var(--mi-paper,Canvas);stroke-width:3px;stroke-linejoin:round}
.mi-charts svg text{fill:currentColor}
.mi-charts ul.mi-key{list-style:none;margin:.2rem 0;padding:0;font-size:.88rem;
display:flex;flex-wrap:wrap;gap:.1rem .9rem}
.mi-charts ul.mi-key li{display:flex;gap:.4rem;align-items:center;margin:0}
.mi-charts ul.mi-key svg{width:30px;height:12px;flex:none}
.mi-charts .mi-strip{display:flex;flex-wrap:wrap;gap:.3rem .35rem;font-size:.88rem;line-height:1.2;margin:.3rem 0}
.mi-charts .mi-word{display:inline-flex;gap:1px;white-space:nowrap}
.mi-charts .mi-tok{border:1px solid var(--c,currentColor);border-bottom-width:3px;padding:.1rem .28rem;min-width:.7rem;
text-align:center;border-radius:3px;
background:color-mix(in srgb,var(--c,transparent) calc(var(--w,.1)*100%),transparent)}
.mi-charts .mi-tok.mi-own{border-style:double;border-width:3px;font-weight:700}
.mi-charts .mi-cells rect{stroke:currentColor;stroke-opacity:.15;fill:var(--c)}
.mi-charts .mi-cells rect.n{fill:var(--mi-negative,#5e3c99)}
.mi-charts .mi-scroll{overflow-x:auto}
.mi-charts table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;margin:.3rem 0;
display:table!important;width:auto}
.mi-charts td,.mi-charts th{padding:.15rem .5rem!important;text-align:left;border-bottom:1px solid var(--mi-rule,#8885);
background:none}
.mi-charts .mi-yes{color:var(--mi-good,#006b4e)}.mi-charts .mi-no{color:var(--mi-bad,#a63c00);font-weight:700}
""".replace("\n", "")


def colour(name: int | str) -> str:
    """A CSS colour of the book's theme: a head's number, "positive", "negative" or "neutral"."""
    if isinstance(name, int):
        return f"var(--mi-head-{name % 4}, {HEADS[name % 4]})"
    plain = {"positive": POSITIVE, "negative": NEGATIVE, "neutral": NEUTRAL}[name]
    return f"var(--mi-{name}, {plain})"


class Drawing(Picture):
    """A Picture whose body may be several SVGs and HTML; each SVG names itself to screen readers."""

    def inner(self) -> str:
        """Body and caption, without the frame and its style."""
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        return self.svg + caption

    def _repr_html_(self) -> str:
        return (
            f'<figure class="mi-figure mi-live mi-charts" style="margin:1em 0"><style>{STYLE}</style>'
            f"{self.inner()}</figure>"
        )


class Series(NamedTuple):
    """A line: NaN leaves a gap. low, high: a band. look: index of colour, dash and marker; faded: kept quiet."""

    name: str
    x: ArrayLike
    y: ArrayLike
    look: int | str = 0
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    faded: bool = False


_DASHES = ("", "6 3", "2 3")


def _style(look: int | str) -> tuple[str, str, bool]:
    """CSS colour, dash pattern, hollow marker."""
    if isinstance(look, str):
        name, _, dash = look.partition(":")
        return colour(name), _DASHES[int(dash or 1)], True
    return colour(look), _DASHES[look // 4 % 3], look >= 4


def line_chart(
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    title: str,
    span: tuple[float, float] = (0.0, 1.0),
    percent: bool = True,
    x_ticks: Sequence[float] | None = None,
    x_names: Sequence[str] | None = None,
    mark: float | None = None,
    height: int = 220,
) -> str:
    """Lines with bands in one frame, as SVG. span: of the y axis; mark: a dashed vertical line at this x."""
    left, right, top, bottom, width = 52, 352, 10, height - 40, 360
    xs = [float(v) for s in series for v in np.asarray(s.x, dtype=float)]
    low, high = min(xs), max(xs)
    room = (high - low) or 1.0

    def px(value: float) -> float:
        return left + 8 + (value - low) / room * (right - left - 16)

    def py(value: float) -> float:
        return bottom - (min(max(value, span[0]), span[1]) - span[0]) / (span[1] - span[0]) * (bottom - top)

    parts = [_y_axis(span, py, left, right, percent)]
    ticks = list(x_ticks) if x_ticks is not None else _ticks(low, high)
    names = x_names or [f"{t:g}" for t in ticks]
    for tick, name in zip(ticks, names, strict=True):
        side = "end" if len(name) > 3 and px(tick) > right - 16 else "middle"
        parts.append(
            f'<text x="{px(tick):.1f}" y="{bottom + 16}" text-anchor="{side}">{html.escape(name)}</text>'
        )
    parts.append(
        f'<text x="{(left + right) / 2}" y="{height - 6}" text-anchor="middle">{html.escape(x)}</text>'
    )
    if mark is not None:
        at = px(mark)
        parts.append(f'<path d="M{at:.1f} {top}V{bottom}" stroke="currentColor" stroke-dasharray="3 3"/>')
    parts += [_band(s, px, py) for s in series if s.low is not None and s.high is not None]
    parts += [_line(s, px, py, percent) for s in sorted(series, key=lambda s: not s.faded)]
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title, quote=True)}" font-size="13" '
        f'style="width:100%;height:auto"><title>{html.escape(title)}</title><desc>{html.escape(y)} against '
        f"{html.escape(x)}</desc>{''.join(parts)}</svg>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """At most nine round numbers: 1, 2 or 5 times a power of ten apart.

    >>> _ticks(0, 5000), _ticks(1, 8), _ticks(1, 15)[:3]
    ([0.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [1.0, 3.0, 5.0])
    """
    least = max(1.0, (high - low) / 8)
    power = 10 ** math.floor(math.log10(least))
    step = int(next(m * power for m in (1, 2, 5, 10) if m * power >= least))
    first = math.ceil(low) if step < 5 else math.ceil(low / step) * step
    return [float(v) for v in range(first, math.floor(high) + 1, step)]


def _y_axis(span: tuple[float, float], py, left: int, right: int, percent: bool) -> str:
    step = next(s for s in (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 1e9) if (span[1] - span[0]) / s <= 5)
    values = np.arange(math.ceil(span[0] / step), math.floor(span[1] / step) + 1) * step
    out = []
    for value in values:
        name = f"{value * 100:.0f} %" if percent else f"{value:g}"
        strong = 0.6 if abs(value) < 1e-9 else 0.18
        out.append(
            f'<path d="M{left} {py(value):.1f}H{right}" stroke="currentColor" stroke-opacity="{strong}"/>'
            f'<text x="{left - 5}" y="{py(value) + 4.5:.1f}" text-anchor="end">{name.replace("-", "−")}</text>'
        )
    return "".join(out)


def _band(series: Series, px, py) -> str:
    rows = [
        (float(a), float(b), float(c))
        for a, b, c in zip(*(np.asarray(v, dtype=float) for v in (series.x, series.low, series.high)))
        if b == b and c == c
    ]
    up = "L".join(f"{px(a):.1f} {py(c):.1f}" for a, _, c in rows)
    down = "L".join(f"{px(a):.1f} {py(b):.1f}" for a, b, _ in reversed(rows))
    return f'<path d="M{up}L{down}z" fill="{_style(series.look)[0]}" fill-opacity=".2"/>' if rows else ""


def _line(series: Series, px, py, percent: bool) -> str:
    ink, dash, hollow = _style(series.look)
    points = [(float(a), float(b)) for a, b in zip(np.asarray(series.x, float), np.asarray(series.y, float))]
    line, pen = "", "M"
    for a, b in points:
        if b != b:
            pen = "M"
            continue
        line += f"{pen}{px(a):.1f} {py(b):.1f}"
        pen = "L"
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    drawn = (
        f'<path d="{line}" fill="none" stroke="{ink}" stroke-width="{1.2 if series.faded else 2.2}"{dashed}/>'
    )
    if not series.faded:
        fill = PAPER if hollow else ink
        for a, b in points:
            if b == b:
                value = f"{b:.1%}" if percent else f"{b:.3g}"
                at = f'cx="{px(a):.1f}" cy="{py(b):.1f}"'
                title = f"<title>{html.escape(series.name)}, {a:g}: {value}</title>"
                drawn += f'<circle {at} r="3" fill="{fill}" stroke="{ink}">{title}</circle>'
    quiet = ' opacity=".45"' if series.faded else ""
    return f"<g{quiet}>{drawn}</g>"


def legend(series: Sequence[Series]) -> str:
    """The lines' names with a swatch each."""
    items = []
    for s in series:
        ink, dash, hollow = _style(s.look)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        items.append(
            f'<li><svg viewBox="0 0 30 12" aria-hidden="true"><path d="M1 6H29" stroke="{ink}" stroke-width="2.2"'
            f'{dashed}/><circle cx="15" cy="6" r="3" fill="{PAPER if hollow else ink}" stroke="{ink}"/></svg>'
            f"{html.escape(s.name)}</li>"
        )
    return f'<ul class="mi-key">{"".join(items)}</ul>'


def panel(svg: str, heading: str = "", below: str = "") -> str:
    """One drawing of a row, at most 27 rem wide."""
    name = f"<b>{html.escape(heading)}</b>" if heading else ""
    return f'<div class="mi-panel">{name}{svg}{below}</div>'


def row(*panels: str) -> str:
    """Panels side by side, below each other where there is no room."""
    return f'<div class="mi-row">{"".join(panels)}</div>'


def heat_map(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    x: str = "",
    y: str = "",
    largest: float = 1.0,
    numbers: bool = True,
    mark: Sequence[tuple[int, int]] = (),
    look: int | str = 0,
    percent: bool = False,
    width: int = 360,
    zeros: bool = True,
) -> str:
    """A matrix as SVG, rows downwards: transparent at 0, `look` above, purple below. NaN is left empty.

    numbers: written into the cells; zeros: also into those that hold 0. mark: cells with a frame.
    """
    array = np.asarray(values, dtype=float)
    if array.shape != (len(rows), len(columns)):
        raise ValueError(
            f"values must be [{len(rows)}, {len(columns)}] like the names, not {list(array.shape)}"
        )
    left = 8 + 7 * max(map(len, rows)) + (16 if y else 0)
    cell = (width - left - 4) / len(columns)
    tall = min(max(cell, 16), 26) if numbers else min(cell, 26)
    top, height = 4, 4 + tall * len(rows) + 22 + (18 if x else 0)
    parts, cells = [], []
    every = max(1, math.ceil(7.5 * max(map(len, columns)) / cell))
    for j, name in enumerate(columns):
        if j % every == 0:
            parts.append(
                f'<text x="{left + (j + 0.5) * cell:.1f}" y="{top + tall * len(rows) + 15:.1f}" '
                f'text-anchor="middle">{html.escape(name)}</text>'
            )
    skip = max(1, math.ceil(12 / tall))
    for i, name in enumerate(rows):
        middle = top + (i + 0.5) * tall
        if i % skip == 0:
            parts.append(
                f'<text x="{left - 5}" y="{middle + 4.3:.1f}" text-anchor="end">{html.escape(name)}</text>'
            )
        cells += [
            _cell(
                value,
                f"{name}, {columns[j]}",
                (left + j * cell, top + i * tall, cell, tall),
                largest,
                numbers and (zeros or abs(value) > 1e-6),
                percent,
            )
            for j, value in enumerate(array[i])
            if value == value
        ]
    parts.append(f'<g class="mi-cells" text-anchor="middle" style="--c:{colour(look)}">{"".join(cells)}</g>')
    for i, j in mark:
        at = f'x="{left + j * cell + 1:.1f}" y="{top + i * tall + 1:.1f}"'
        size = f'width="{cell - 2:.1f}" height="{tall - 2:.1f}"'
        parts.append(f'<rect {at} {size} fill="none" stroke="currentColor" stroke-width="2"/>')
    middle = top + tall * len(rows) / 2
    if x:
        parts.append(
            f'<text x="{(left + width) / 2:.0f}" y="{height - 5:.0f}" text-anchor="middle">{html.escape(x)}</text>'
        )
    if y:
        parts.append(
            f'<text transform="translate(12 {middle:.0f}) rotate(-90)" text-anchor="middle">{html.escape(y)}</text>'
        )
    full = html.escape(title, quote=True)
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{full}" font-size="12.5" '
        f'style="width:100%;height:auto"><title>{full}</title>{"".join(parts)}</svg>'
    )


def _cell(
    value: float,
    name: str,
    box: tuple[float, float, float, float],
    largest: float,
    numbers: bool,
    percent: bool,
) -> str:
    x, y, wide, tall = box
    said = _number(value, percent)
    sign = ' class="n"' if value < 0 else ""
    strength = min(abs(value) / largest, 1) * 0.75
    at = f'x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall:.1f}"'
    rect = f'<rect{sign} {at} fill-opacity="{strength:.2f}"/>'
    text = ""
    if numbers and (abs(value) / largest >= 0.005 or largest > 1):
        text = f'<text x="{x + wide / 2:.1f}" y="{y + tall / 2 + 4.3:.1f}">{said}</text>'
    return f"<g><title>{html.escape(name)}: {said}</title>{rect}{text}</g>"


def _number(value: float, percent: bool) -> str:
    if percent:
        return f"{value * 100:.0f}"
    text = f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"
    return text.replace("0.", ".", 1).replace("-", "−") if abs(value) < 1 else text.replace("-", "−")

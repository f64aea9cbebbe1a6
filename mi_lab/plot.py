"""Static figures with one theme: inline SVG that takes the page's own colours.

Every figure is a `Picture`: drawn with matplotlib, shown as SVG in which ink is `currentColor` and
heads are CSS variables, so that one drawing is right in light and in dark mode, prints, scales on a
phone, and weighs a few kilobytes. A head keeps its colour in every figure of the book (Okabe-Ito,
told apart by colour-blind readers). Heat maps fade to transparent at zero, so that the page shows
through, and use purple below zero and orange above.

A figure function takes numbers and returns a Picture; it never trains and never measures.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

HEADS = ("#0072b2", "#d55e00", "#009e73", "#b0558a")
NEGATIVE, POSITIVE, NEUTRAL = "#5e3c99", "#b35806", "#6b7280"
CELLS = ("#7a55c0", "#cf6a0d")  # below and above zero in heat maps: pixels, so one tone for both modes
INK = "#010203"  # stands for the page's ink; replaced by currentColor
_CSS = {
    INK: "currentColor",
    **{c: f"var(--mi-head-{i}, {c})" for i, c in enumerate(HEADS)},
    NEUTRAL: f"var(--mi-neutral, {NEUTRAL})",
    POSITIVE: f"var(--mi-positive, {POSITIVE})",
    NEGATIVE: f"var(--mi-negative, {NEGATIVE})",
}
_RC = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: the page's font, selectable, searchable
    "svg.hashsalt": "mi_lab",  # the same ids at every run
    "image.interpolation": "nearest",
}


class Picture:
    """An SVG with a caption that says what to look for. `alt` is read out instead of the drawing."""

    def __init__(self, svg: str, caption: str, alt: str = "") -> None:
        self.svg, self.caption, self.alt = svg, caption, alt or caption

    def _repr_html_(self) -> str:
        alt = html.escape(self.alt, quote=True)
        svg = self.svg.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        return f'<figure class="mi-figure mi-live" style="margin:1em 0">{svg}{caption}</figure>'

    def __repr__(self) -> str:
        return f"Picture: {self.caption}"


def head_colour(head: int) -> str:
    """The colour of head 0, 1, 2 or 3 (again from the first on) in every figure."""
    return HEADS[head % len(HEADS)]


@contextmanager
def canvas(
    rows: int = 1, columns: int = 1, *, width: float = 7.2, height: float = 2.4, **grid: Any
) -> Iterator:
    """matplotlib axes [rows, columns] under the book's theme; keyword arguments go to `subplots`."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()  # a reader's own style would move things about
        mpl.rcParams.update(_RC)  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, columns, squeeze=False, **grid)


def picture(figure: Any, caption: str, alt: str = "") -> Picture:
    """A drawn figure as a Picture; call it inside `canvas`."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    for colour, css in _CSS.items():
        svg = svg.replace(colour, css)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)  # the page's font instead of matplotlib's list
    svg = re.sub(r'width="([\d.]+)pt" height="([\d.]+)pt"', _responsive, svg, count=1)
    return Picture(_short(svg), caption, alt)


def _responsive(match: re.Match[str]) -> str:
    width = float(match.group(1)) * 4 / 3
    return f'width="100%" style="max-width:{width:.0f}px;height:auto;font-family:var(--mi-sans, system-ui, sans-serif)"'


def _short(svg: str) -> str:
    """Two decimals are a hundredth of a pixel: round, and drop comments and white space between tags."""
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r"(\d+\.\d{2})\d+", r"\1", svg)
    return re.sub(r">\s+<", "><", svg).strip()


def signed_rgba(values: ArrayLike, largest: float | None = None) -> np.ndarray:
    """RGBA of signed values: purple below zero, orange above, transparent at zero."""
    x = np.asarray(values, dtype=float)
    top = largest or _largest(x)
    strength = np.clip(np.abs(x) / top, 0, 1)
    out = np.empty((*x.shape, 4))
    for i in range(3):
        out[..., i] = np.where(x < 0, _rgb(CELLS[0])[i], _rgb(CELLS[1])[i])
    out[..., 3] = np.nan_to_num(strength) ** 0.8
    return out


def unsigned_rgba(values: ArrayLike, colour: str = HEADS[0], largest: float | None = None) -> np.ndarray:
    """RGBA of values from 0 on: one colour, transparent at zero."""
    x = np.asarray(values, dtype=float)
    top = largest or _largest(x)
    out = np.empty((*x.shape, 4))
    out[..., :3] = _rgb(colour)
    out[..., 3] = np.clip(np.nan_to_num(x) / top, 0, 1)
    return out


def _largest(x: np.ndarray) -> float:
    """The largest absolute value; holes and infinities don't count."""
    return max(float(np.abs(x[np.isfinite(x)]).max(initial=0.0)), 1e-12)


def _rgb(colour: str) -> tuple[float, float, float]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))  # type: ignore[return-value]


def heatmaps(
    matrices: Sequence[ArrayLike],
    titles: Sequence[str],
    caption: str,
    *,
    x: str,
    y: str,
    largest: float | None = None,
    colours: Sequence[str] | None = None,
    width: float = 7.2,
    tick_every: int = 10,
    alt: str = "",
) -> Picture:
    """Matrices side by side on one signed scale, rows downwards."""
    arrays = [np.asarray(m, dtype=float) for m in matrices]
    top = largest or max(map(_largest, arrays))
    height = width / len(arrays) * arrays[0].shape[0] / arrays[0].shape[1] + 0.45
    with canvas(1, len(arrays), width=width, height=height) as (figure, axes):
        for i, (ax, array, title) in enumerate(zip(axes[0], arrays, titles, strict=True)):
            ax.imshow(signed_rgba(array, top), aspect="auto")
            ax.set_title(title, color=colours[i] if colours else INK)
            ax.set_xlabel(x)
            ax.set_xticks(range(0, array.shape[1], tick_every))
            ax.set_yticks(range(0, array.shape[0], tick_every))
            for side in ax.spines.values():
                side.set_visible(True)
        axes[0][0].set_ylabel(y)
        return picture(figure, caption, alt)


def strips(
    margins: ArrayLike,
    caption: str,
    *,
    titles: Sequence[str] = (),
    x: str = "number",
    width: float = 7.2,
    alt: str = "",
) -> Picture:
    """Copying margins [panel, head, number] as bars up (copies) and down (suppresses), a panel each."""
    array = np.asarray(margins, dtype=float)
    array = array[None] if array.ndim == 2 else array
    panels, heads, numbers = array.shape
    with canvas(panels, 1, width=width, height=1.1 + 1.15 * panels, sharex=True) as (figure, axes):
        for row in range(panels):
            ax = axes[row][0]
            for head in range(heads):
                where = np.arange(numbers) + (head - (heads - 1) / 2) * 0.8 / heads
                label = f"head {head}" if row == 0 else None
                ax.bar(where, array[row, head], 0.8 / heads, color=head_colour(head), label=label)
            ax.axhline(0, color=INK, linewidth=0.6)
            ax.set_ylabel("copying margin")
            if titles:
                ax.set_title(titles[row])
        axes[0][0].legend(ncols=heads, loc="lower right", bbox_to_anchor=(1, 0.98))
        axes[-1][0].set_xlabel(x)
        return picture(figure, caption, alt)


def lines(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    caption: str,
    *,
    x: str,
    y: str,
    colours: Mapping[str, str] | None = None,
    bands: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    mark: Sequence[tuple[float, str]] = (),
    width: float = 7.2,
    height: float = 2.6,
    alt: str = "",
) -> Picture:
    """Named curves {name: (x, y)}, with optional bands {name: (low, high)} and marked x positions."""
    palette = (*HEADS, NEUTRAL)
    with canvas(width=width, height=height) as (figure, axes):
        ax = axes[0][0]
        for i, (name, (xs, ys)) in enumerate(series.items()):
            colour = (colours or {}).get(name, palette[i % len(palette)])
            ax.plot(np.asarray(xs), np.asarray(ys), color=colour, label=name)
            if bands and name in bands:
                low, high = (np.asarray(b) for b in bands[name])
                ax.fill_between(np.asarray(xs), low, high, color=colour, alpha=0.18, linewidth=0)
        for position, text in mark:
            ax.axvline(position, color=INK, linewidth=0.7, linestyle=(0, (3, 3)))
            ax.annotate(
                text, (position, 1), xycoords=("data", "axes fraction"), fontsize=8, ha="left", va="bottom"
            )
        if log_x:
            first = min(float(np.min(xs)) for xs, _ in series.values())
            if first > 0:
                ax.set_xscale("log")
            else:  # step 0 has no logarithm: linear up to 100, logarithmic behind
                ax.set_xscale("symlog", linthresh=100, linscale=0.5)
                ax.set_xlim(left=0)
        if log_y:
            ax.set_yscale("log")
        ax.set_xlabel(x)
        ax.set_ylabel(y)
        if len(series) > 1:
            ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return picture(figure, caption, alt)


def dots(
    groups: Mapping[str, ArrayLike],
    caption: str,
    *,
    y: str,
    x: str = "",
    colours: Mapping[str, str] | None = None,
    line: float | None = None,
    width: float = 7.2,
    height: float = 2.4,
    alt: str = "",
) -> Picture:
    """One dot per seed in each named group, a bar at the mean, and a dashed line at a threshold."""
    with canvas(width=width, height=height) as (figure, axes):
        ax = axes[0][0]
        for i, (name, values) in enumerate(groups.items()):
            points = np.asarray(values, dtype=float)
            colour = (colours or {}).get(name, HEADS[0])
            shift = (np.arange(len(points)) - (len(points) - 1) / 2) * 0.5 / max(len(points), 1)
            ax.scatter(i + shift, points, s=16, color=colour, linewidths=0)
            if np.isfinite(points).any():
                ax.plot([i - 0.32, i + 0.32], [np.nanmean(points)] * 2, color=INK, linewidth=1.2)
        if line is not None:
            ax.axhline(line, color=NEUTRAL, linewidth=1, linestyle=(0, (4, 3)))
        ax.set_xticks(range(len(groups)), list(groups))
        ax.set_ylabel(y)
        ax.set_xlabel(x)
        return picture(figure, caption, alt)

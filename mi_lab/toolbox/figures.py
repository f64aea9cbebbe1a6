"""Figures of the toolbox chapter: numbers in, Drawings out. No function here runs a tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mi_lab.charts import Drawing, Series, heat_map, legend, line_chart, panel, row
from mi_lab.handmade import HEADS, LETTERS, RepeatTask
from mi_lab.model import Transformer
from mi_lab.run import Node, run

NAMES = {node: name for name, node in HEADS.items()}


def name_of(node: Node) -> str:
    """Such as "L1H0 match"."""
    return f"{node} {NAMES.get(node, '')}".strip()


def attention(model: Transformer, tokens: Tensor, heads: Sequence[Node], caption: str) -> Drawing:
    """Attention patterns of some heads on one sequence Int[pos], a panel each: from (down) to (across)."""
    words = list(RepeatTask().decode(tokens))
    found = run(model, tokens[None], record="blocks.*.attn.pattern")
    panels = []
    for node in heads:
        pattern = found[f"blocks.{node.layer}.attn.pattern"][0, node.head]
        pattern = pattern.masked_fill(torch.ones_like(pattern, dtype=torch.bool).triu(1), torch.nan)
        title = f"attention of {name_of(node)}"
        drawn = heat_map(
            pattern,
            words,
            words,
            title=title,
            x="to",
            y="from",
            numbers=False,
            look=node.head or 0,
            width=240,
        )
        panels.append(panel(drawn, name_of(node)))
    return Drawing(row(*panels), caption)


def tables(
    matrices: Mapping[str, ArrayLike],
    caption: str,
    *,
    x: str,
    y: str,
    rows: Sequence[str] = LETTERS,
    columns: Sequence[str] = LETTERS,
    largest: float = 12.0,
    look: int | str = 0,
) -> Drawing:
    """Named matrices side by side on one scale, a number in every cell that isn't 0."""
    panels = []
    for name, m in matrices.items():
        title = f"{name}: {y} by {x}"
        drawn = heat_map(
            m, rows, columns, title=title, x=x, y=y, largest=largest, look=look, width=300, zeros=False
        )
        panels.append(panel(drawn, name))
    return Drawing(row(*panels), caption)


def compare(
    values: ArrayLike,
    rows: Sequence[str | Node],
    columns: Sequence[str],
    caption: str,
    *,
    largest: float,
    x: str = "",
    percent: bool = False,
    mark: Sequence[tuple[int, int]] = (),
    look: int | str = 0,
) -> Drawing:
    """One number for each row and column, the cells to look at framed."""
    names = [name_of(name) if isinstance(name, Node) else name for name in rows]
    drawn = heat_map(
        values, names, columns, title=caption, x=x, largest=largest, mark=mark, look=look, percent=percent, width=440
    )  # fmt: skip
    return Drawing(
        row(f'<div class="mi-panel" style="max-width:36rem;flex-basis:22rem">{drawn}</div>'), caption
    )


def curves(
    series: Mapping[str, tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike]],
    caption: str,
    *,
    x: str,
    y: str,
    span: tuple[float, float],
    percent: bool = False,
    x_names: Sequence[str] | None = None,
    looks: Mapping[str, int | str] | None = None,
) -> Drawing:
    """Named lines {name: (x, y)} or, with a band of one standard error, {name: (x, y, error)}."""
    lines = []
    for i, (name, (xs, ys, *error)) in enumerate(series.items()):
        xs, ys = torch.as_tensor(xs).tolist(), torch.as_tensor(ys).tolist()
        look = (looks or {}).get(name, i)
        if error:
            low, high = ([a + s * e for a, e in zip(ys, torch.as_tensor(error[0]).tolist())] for s in (-1, 1))
            lines.append(Series(name, xs, ys, look, low, high))
        else:
            lines.append(Series(name, xs, ys, look))
    ticks = None if x_names is None else list(range(len(x_names)))
    drawn = line_chart(
        lines, x=x, y=y, title=caption, span=span, percent=percent, x_ticks=ticks, x_names=x_names
    )
    named = legend(lines) if len(lines) > 1 else ""
    return Drawing(f'<div class="mi-panel" style="max-width:34rem">{drawn}{named}</div>', caption)

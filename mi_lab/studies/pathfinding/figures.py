"""Static figures of the pathfinding chapter: a model and a tree, or numbers in; Drawings out.

Functions that take a model run it on one tree; all others are given their numbers and measure nothing.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mi_lab import charts
from mi_lab.charts import Drawing, Series, colour
from mi_lab.metrics import wilson
from mi_lab.model import Transformer
from mi_lab.studies.pathfinding import baselines
from mi_lab.studies.pathfinding.drawing import TOKEN_COLOURS, Trail, draw_tree
from mi_lab.studies.pathfinding.explorers import tree as stage
from mi_lab.studies.pathfinding.layout import Tree
from mi_lab.studies.pathfinding.task import PathfindingTask

Counts = tuple[ArrayLike, ArrayLike]
"""(questions right, questions) by path length."""


# ---- one tree ----


def tree(task: PathfindingTask, text: str, caption: str = "", *, trails: Sequence[Trail] = ()) -> Drawing:
    """One question as a tree; trails: ways up that single tokens remember, in colour."""
    drawn = draw_tree(Tree.read(task, task.encode(text)), trails=trails, scale=1.15)
    usual = "The square is the root, the double ring the goal, the thick line the way that is asked for."
    return Drawing(charts.row(charts.panel(drawn)), caption or usual)


def prompt_strip(task: PathfindingTask, text: str, caption: str = "", *, beside: bool = True) -> Drawing:
    """All tokens of one question with their roles; `beside` the tree they describe."""
    tokens = task.encode(text)
    words = [task.vocab[t] for t in tokens.tolist()]
    edges, root = 3 * task.n_edges, task.root_position
    path = len(Tree.read(task, tokens).path())

    def chip(at: int) -> str:
        if at < edges - 1:
            role = ("source", "target", "comma")[at % 3]
        elif at < root:
            role = ("bar", "goal", "colon")[at - edges + 1]
        else:
            role = "root" if at == root else "path" if at < root + path else "stop"
        ink: dict[str, int | str] = {**TOKEN_COLOURS, "goal": "positive", "path": 3}
        tint = colour(ink.get(role, "neutral"))
        own = " mi-own" if role in ("goal", "root") else ""
        fill = {"goal": 0.3, "root": 0.3, "path": 0.3, "stop": 0}.get(role, 0.1)
        return (
            f'<span class="mi-tok{own}" style="--c:{tint};--w:{fill}" title="position {at}: {role}">'
            f"{html.escape(words[at])}</span>"
        )

    starts = [*range(0, edges, 3), *range(edges, root + path + 1)]
    shown = root + path + 1
    groups = [
        f'<span class="mi-word">{"".join(map(chip, range(a, b)))}</span>'
        for a, b in zip(starts, [*starts[1:], shown])
        if a < b
    ]
    rest = len(words) - shown
    more = f"<span>… and {rest} more commas</span>" if rest > 0 else ""
    roles = (
        ("source", 0),
        ("target", 1),
        ("comma", 2),
        ("path", 3),
        ("goal", "positive"),
        ("root", "neutral"),
    )
    names = "".join(
        f'<li><span class="mi-tok{" mi-own" if name in ("goal", "root") else ""}" style="--c:{colour(c)};--w:.3">'
        f"&nbsp;</span>{name}</li>"
        for name, c in roles
    )
    strip = f'<div class="mi-strip">{"".join(groups)}{more}</div><ul class="mi-key">{names}</ul>'
    usual = (
        f"{len(words)} tokens: {task.n_edges} edges of a source, a target and a comma, the goal, and from the root "
        "on the path, which the model writes. Each comma follows its edge and says nothing itself."
    )
    drawn = charts.panel(draw_tree(Tree.read(task, tokens))) if beside else ""
    return Drawing(charts.row(drawn, charts.panel(strip)), caption or usual)


def attention_by_layer(
    model: Transformer,
    task: PathfindingTask,
    text: str,
    caption: str = "",
    *,
    query: str = "root",
    lens: stage.Lens | None = None,
) -> Drawing:
    """One tree a layer: what one token looks at (arrows), and what it would answer (shading).

    query: one of `explorers.tree.QUERIES`. lens: in place of the logit lens.
    """
    seen = stage.look(model, task, text, lens)
    position = stage.query_position(task, seen, query)
    start = stage.query_spot(task, seen, position)
    panels = []
    for layer in range(model.config.n_layers):
        shade = {}
        if position >= task.root_position:
            shade = {k: float(p) for k, p in enumerate(seen.lens[layer, position]) if p >= 0.01}
        drawn = draw_tree(
            seen.tree, shade=shade, arrows=stage.arrows(task, seen, layer, position), start=start,
            title=f"Layer {layer}: attention from {seen.words[position]}",
        )  # fmt: skip
        off = {k: w for k, w in stage.elsewhere(task, seen, layer, position).items() if w >= 0.05}
        said = ", ".join(f"{name} {w:.2f}" for name, w in off.items())
        below = (
            f'<p style="font-size:.85rem;margin:0">{html.escape("also: " + said) if said else "&nbsp;"}</p>'
        )
        panels.append(charts.panel(drawn, f"Layer {layer}", below))
    usual = (
        f"Arrows: what the token {seen.words[position]} looks at in each layer; a wider arrow is more attention, its "
        "colour the kind of token. Shading: the node it would answer after this layer. Do the arrows climb?"
    )
    # a fixed width keeps labels above 11 px: three in a row on a page, one on a phone
    tight = "".join(p.replace('class="mi-panel"', 'class="mi-panel mi-tight"') for p in panels)
    return Drawing(charts.row(tight) + stage.key_to_beads(), caption or usual)


# ---- attention in numbers ----


def relation_heatmap(
    values: Mapping[str, Mapping[str, ArrayLike]], caption: str, *, query: str = "comma", least: float = 0.05
) -> Drawing:
    """What edge tokens look at, in the tree's terms. values: order of edges -> relation -> [layer] mean attention.

    As `circuit.attention_by_relation` names them; rows that stay below `least` in all panels are left out.
    """
    rows = {name: np.asarray(v, dtype=float) for table in values.values() for name, v in table.items()}
    names = [
        name
        for name in rows
        if any(
            np.nanmax(np.nan_to_num(np.asarray(t[name], dtype=float))) >= least
            for t in values.values()
            if name in t
        )
    ]
    panels = []
    for order, table in values.items():
        blank = np.full_like(next(iter(rows.values())), np.nan)
        array = np.stack([np.asarray(table.get(name, blank), dtype=float) for name in names])
        svg = charts.heat_map(
            array, names, [f"L{i}" for i in range(array.shape[1])],
            title=f"Attention of {query} tokens by relation, {order} edges",
            largest=max(1e-9, min(1.0, float(np.nanmax(array)))), look=TOKEN_COLOURS.get(query, 0),
        )  # fmt: skip
        panels.append(charts.panel(svg, f"{order} edges"))
    return Drawing(charts.row(*panels), caption)


def ancestors_heatmap(values: ArrayLike, caption: str, *, title: str = "") -> Drawing:
    """Attention of the root token to the goal's ancestors: values [layer, k], mean over trees."""
    array = np.asarray(values, dtype=float)
    svg = charts.heat_map(
        array, [f"L{i}" for i in range(len(array))], ["goal", *(str(k) for k in range(1, array.shape[1]))],
        title=title or "Attention of the root token to ancestors of the goal", x="levels above the goal",
        mark=[(layer, layer - 1) for layer in range(1, len(array)) if layer <= array.shape[1]],
    )  # fmt: skip
    return Drawing(charts.row(charts.panel(svg, title)), caption)


def composition(matrix: ArrayLike, caption: str, *, title: str = "score of >u for node v") -> Drawing:
    """A [node, node] matrix of claim P5; the largest entry of each row is framed."""
    array = np.asarray(matrix, dtype=float)
    array = array - array.mean(1, keepdims=True)  # a constant per row changes no attention
    names = [str(k) for k in range(len(array))]
    best = [(i, int(j)) for i, j in enumerate(array.argmax(1))]
    right = sum(i == j for i, j in best)
    svg = charts.heat_map(
        array, names, names, title=f"{title}: {right} of {len(array)} rows peak on the diagonal", x="target >u",
        y="node v", largest=float(np.abs(array).max()) or 1.0, numbers=False, mark=best, look="positive",
    )  # fmt: skip
    return Drawing(charts.row(charts.panel(svg, title)), caption)


# ---- curves by path length ----


def _counted(name: str, counts: Counts, look: int | str) -> Series:
    hits, total = (np.asarray(v, dtype=int) for v in counts)
    some = [wilson(int(h), int(n)) if n else None for h, n in zip(hits, total)]
    y, low, high = ([getattr(i, k) if i else np.nan for i in some] for k in ("value", "low", "high"))
    return Series(name, np.arange(1, len(y) + 1), y, look, low, high)


def policies(
    task: PathfindingTask, truth: Mapping[str, Tensor], *, climb: int | None = None
) -> dict[str, np.ndarray]:
    """{policy: success by path length} on these trees, for `accuracy_by_length`. climb: also with climbing."""

    def mean(**options) -> np.ndarray:
        return baselines.by_length(baselines.success(truth, **options), truth, task.longest_path).numpy()

    out = {
        "random descent": mean(policy="random"),
        "never into a wrong leaf": mean(policy="lookahead"),
        "into the deeper subtree": mean(policy="deeper"),
    }
    if climb is not None:
        out[f"climb {climb}, else deeper"] = mean(policy="chain", climb=climb, otherwise="deeper")
    return out


def accuracy_by_length(
    models: Mapping[str, Counts],
    caption: str,
    *,
    beside: Mapping[str, ArrayLike] | None = None,
    title: str = "Exact match by path length",
) -> Drawing:
    """Exact match with Wilson bands, a line a model (or a knock-out), over the baselines `beside` (dashed)."""
    lines = [_counted(name, counts, i) for i, (name, counts) in enumerate(models.items())]
    for i, (name, y) in enumerate((beside or {}).items()):
        array = np.asarray(y, dtype=float)
        lines.append(
            Series(name, np.arange(1, len(array) + 1), array, f"neutral:{i % 2 + 1}" if i < 2 else i + 4)
        )
    chart = charts.line_chart(lines, x="path length P", y="exact match", title=title, height=250)
    return Drawing(charts.row(charts.panel(chart), charts.panel(charts.legend(lines))), caption)


def listings(models: Mapping[str, Mapping[str, float]], lengths: Sequence[int], caption: str) -> Drawing:
    """First steps right by P with the path listed from the goal up and from the root down, a panel a model.

    models: {name: numbers of claim P24}, keyed "P = 3, goal first" and so on.
    """
    lines: list[Series] = []
    panels = []
    for name, row in models.items():
        both = (("goal first", 0), ("root first", 1))
        lines = [
            Series(f"listed {way}", lengths, [row[f"P = {p}, {way}"] for p in lengths], look)
            for way, look in both
        ]
        lines.append(Series("a coin", lengths, [0.5] * len(lengths), "neutral:1"))
        chart = charts.line_chart(
            lines, x="path length P", y="first step right", title=f"{name}: first steps right", x_ticks=list(lengths),
        )  # fmt: skip
        panels.append(charts.panel(chart, name))
    return Drawing(charts.row(*panels) + charts.legend(lines), caption)


def knockouts(
    values: Mapping[str, Counts], caption: str, *, beside: Mapping[str, ArrayLike] | None = None
) -> Drawing:
    """Accuracy by path length with pathways closed, as `accuracy_by_length`."""
    return accuracy_by_length(values, caption, beside=beside, title="Exact match with pathways closed")


def scrub_table(
    values: ArrayLike | Tensor,
    hypotheses: Sequence[str] = ("H1", "H2", "H3"),
    donors: Sequence[str] = ("same ancestor", "random"),
) -> dict[str, dict[str, np.ndarray]]:
    """`scrubbing.Figure`'s arrays [hypothesis, donor, layer, P - 1] by name, for figures and `scrub_explorer`."""
    array = np.asarray(values, dtype=float)
    return {h: {d: array[i, j] for j, d in enumerate(donors)} for i, h in enumerate(hypotheses)}


def scrub_curves(
    curves: Mapping[str, ArrayLike], caption: str, *, first: int = 1, low: float = -1.0
) -> Drawing:
    """Share recovered by path length, a panel a hypothesis (or donor rule), a line a layer: arrays [layer, P]."""
    panels, key = [], ""
    for name, values in curves.items():
        array = np.asarray(values, dtype=float)
        x = np.arange(first, first + array.shape[1])
        lines = [Series(f"layer {i}", x, row, i) for i, row in enumerate(array)]
        chart = charts.line_chart(
            lines, x="path length P", y="recovered", title=f"{name}: share recovered", span=(low, 1.1)
        )
        panels.append(charts.panel(chart, name))
        key = charts.legend(lines)
    return Drawing(charts.row(*panels) + key, caption)


def development(
    steps: Sequence[int], exact: ArrayLike, caption: str, *, overall: ArrayLike | None = None
) -> Drawing:
    """Exact match by path length over training. exact [step, P]: a row a step, downwards."""
    array = np.asarray(exact, dtype=float)
    names = [f"{step:,}" for step in steps]
    columns = [str(p) for p in range(1, array.shape[1] + 1)]
    if overall is not None:
        array = np.concatenate([array, np.asarray(overall, dtype=float)[:, None]], 1)
        columns.append("all")
    svg = charts.heat_map(
        array, names, columns, title="Exact match by training step and path length", x="path length P",
        percent=True, look=2, width=520,
    )  # fmt: skip
    wide = charts.panel(svg).replace('class="mi-panel"', 'class="mi-panel mi-wide"')
    return Drawing(f'<div class="mi-scroll">{charts.row(wide)}</div>', caption)


def development_curves(
    steps: Sequence[int], series: Mapping[str, ArrayLike], caption: str, *, y: str
) -> Drawing:
    """Named curves over training steps (evenly spaced as recorded, so that a logarithmic grid stays readable)."""
    x = np.arange(len(steps))
    lines = [Series(name, x, values, i) for i, (name, values) in enumerate(series.items())]
    every = max(1, -(-len(steps) // 5))
    ticks = list(range(0, len(steps), every))
    names = [f"{steps[i] / 1000:.3g}k" if steps[i] >= 1000 else str(steps[i]) for i in ticks]
    chart = charts.line_chart(
        lines, x="training step", y=y, title=f"{y} over training", x_ticks=ticks, x_names=names, height=240
    )
    return Drawing(charts.row(charts.panel(chart, y), charts.panel(charts.legend(lines))), caption)


# ---- which road ----


def road_table(
    values: Mapping[str, Mapping[str, float]],
    caption: str,
    *,
    holds: float = 0.9,
    fails: float = 0.5,
    given: str = "right to begin with",
    say: Callable[[float], str] = lambda v: f"{round(v, 2) + 0.0:.0%}",  # + 0.0: no -0 %
) -> Drawing:
    """Models down, hypotheses across: share recovered, "holds" from `holds` on, "fails" below `fails`.

    given: a column that is no hypothesis, and gets no verdict.
    """
    columns = list(dict.fromkeys(name for row in values.values() for name in row))

    def cell(name: str, value: float | None) -> str:
        if value is None or value != value:
            return "<td>–</td>"
        if name == given:
            return f"<td>{html.escape(say(value))}</td>"
        word, ink = (
            ("holds", 2) if value >= holds else ("fails", 1) if value < fails else ("in part", "neutral")
        )
        share = round(100 * min(max(value, 0.0), 1.0))
        bar = (
            f"linear-gradient(90deg,color-mix(in srgb,{colour(ink)} 28%,transparent) {share}%,transparent 0)"
        )
        return f'<td style="background:{bar};min-width:5.5rem"><b>{html.escape(say(value))}</b> {word}</td>'

    head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in columns)
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>{"".join(cell(c, row.get(c)) for c in columns)}</tr>'
        for name, row in values.items()
    )
    table = f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"
    return Drawing(f'<div class="mi-scroll">{table}</div>', caption)


def mean_by_relation(table: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """`circuit.attention_by_relation`'s [n, layer, head] as {relation: [layer]}: mean over prompts, heads summed."""
    return {name: torch.nanmean(values, 0).sum(-1).numpy() for name, values in table.items()}

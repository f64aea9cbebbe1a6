"""Explorers of curves over path length: resampling hypotheses, and policies that need no search."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from mi_lab import charts
from mi_lab.charts import Drawing, Series
from mi_lab.live import Choice, Slider
from mi_lab.live.baked import Baked
from mi_lab.studies.pathfinding import baselines
from mi_lab.studies.pathfinding.task import PathfindingTask

Curves = Mapping[str, Mapping[str, ArrayLike | Callable[[], ArrayLike]]]
"""hypothesis -> donor rule -> [layer, P], share recovered; or a function that measures it when asked."""


class Scrubbed(NamedTuple):
    """What is shown: the curves [layer, P] of one hypothesis by donor rule."""

    hypothesis: str
    rule: str
    layer: str
    curves: dict[str, np.ndarray]
    first: int


def scrub_explorer(curves: Curves, *, first: int = 1, explain: Mapping[str, str] | None = None) -> Baked:
    """Choose hypothesis and donor rule and see what the answer keeps, by layer and path length.

    curves: recorded arrays, or functions that measure. first: path length of the first column (or 0 if columns are
    something else). explain: a sentence for a hypothesis or a rule, for the caption.
    """
    names, rules = tuple(curves), tuple(dict.fromkeys(r for c in curves.values() for r in c))

    @functools.lru_cache(maxsize=64)
    def array(name: str, rule: str) -> np.ndarray:
        found = curves[name][rule]
        return np.asarray(found() if callable(found) else found, dtype=float)

    layers = tuple(map(str, range(len(array(names[0], next(iter(curves[names[0]])))))))

    def compute(hypothesis: str, rule: str, layer: str) -> Scrubbed:
        if rule not in curves[hypothesis]:
            raise ValueError(
                f"{hypothesis} was not measured with {rule}; there is {', '.join(curves[hypothesis])}"
            )
        wanted = curves[hypothesis] if layer != "all" else (rule,)
        return Scrubbed(hypothesis, rule, layer, {r: array(hypothesis, r) for r in wanted}, first)

    return Baked(
        "Put another tree's state in its place",
        {"hypothesis": names[0], "rule": next(iter(curves[names[0]])), "layer": "all"},
        {
            "hypothesis": Choice("hypothesis", names),
            "rule": Choice("donor", rules),
            "layer": Slider("layer", ("all", *layers)),
        },
        compute,
        functools.partial(draw_scrubbed, explain=explain or {}),
        "Keep the hypothesis and change the donor: a hypothesis holds where its own donors keep the answer and "
        "random ones destroy it.",
        grid={"hypothesis": None, "rule": None, "layer": None},
    )


def draw_scrubbed(result: Scrubbed, explain: Mapping[str, str]) -> Drawing:
    """All layers with one donor rule, or one layer with all of them."""
    width = next(iter(result.curves.values())).shape[1]
    x = np.arange(result.first, result.first + width)
    chosen = result.curves[result.rule]
    if result.layer == "all":
        lines = [Series(f"layer {i}", x, row, i) for i, row in enumerate(chosen)]
    else:
        lines = [
            Series(rule, x, values[int(result.layer)], i if rule == result.rule else f"neutral:{i % 2 + 1}")
            for i, (rule, values) in enumerate(result.curves.items())
        ]
    finite = np.concatenate([np.asarray(s.y, dtype=float) for s in lines])
    low = float(np.nanmin(finite, initial=0.0))
    span = (max(-2.0, np.floor(low * 2) / 2), 1.1)
    which = "all layers" if result.layer == "all" else f"layer {result.layer}"
    title = f"{result.hypothesis}, donor: {result.rule}, {which}"
    chart = charts.line_chart(lines, x="path length P", y="recovered", title=title, span=span, height=260)
    body = charts.row(charts.panel(chart, title), charts.panel(charts.legend(lines)))
    said = " ".join(explain[k] for k in (result.hypothesis, result.rule) if k in explain)
    shown = chosen if result.layer == "all" else chosen[int(result.layer)][None]
    kept = f"Recovered between {np.nanmin(shown):.0%} and {np.nanmax(shown):.0%}."
    cut = " Lower values lie on the frame." if low < span[0] else ""
    return Drawing(body, f"{said} 100 %: the donor's state is as good as the own one. {kept}{cut}".strip())


class Policies(NamedTuple):
    """Success by path length of each policy; totals over P up to longest."""

    n_nodes: int
    climb: int
    longest: int
    success: dict[str, np.ndarray]
    measured: dict[str, np.ndarray]


@functools.lru_cache(maxsize=16)
def policy_table(n_nodes: int, trees: int = 12_000) -> dict[str, np.ndarray]:
    """{policy: success by path length} for trees of n nodes: exact for each tree, averaged over many."""
    task = PathfindingTask(n_nodes=n_nodes)
    truth = task.variables(task.sample(trees, generator=torch.Generator().manual_seed(3)))

    def mean(policy: str, **options) -> np.ndarray:
        return baselines.by_length(baselines.success(truth, policy, **options), truth, n_nodes - 1).numpy()

    out = {name: mean(name) for name in baselines.POLICIES[:3]}
    for climb in range(1, min(n_nodes, 9)):
        for fallback in baselines.POLICIES[:3]:
            out[f"chain({climb}) + {fallback}"] = mean("chain", climb=climb, otherwise=fallback)
    return out


def policy_explorer(
    *,
    nodes: tuple[int, ...] = (6, 8, 10, 12, 16),
    measured: Mapping[str, tuple[int, ArrayLike]] | None = None,
    start: int = 16,
) -> Baked:
    """What can be had without searching: policies by tree size, layers and longest path. No model.

    measured: {name: (n_nodes, exact match by path length)}, drawn where the size fits.
    """
    longest = (4, 7, 10, 15)
    given = {name: (n, np.asarray(y, dtype=float)) for name, (n, y) in (measured or {}).items()}

    def compute(n: int, layers: int, longest: int) -> Policies:
        top = min(longest, n - 1)
        table, climb = policy_table(n), min(layers - 1, n - 1)
        names = [*baselines.POLICIES[:3]]
        if climb:
            names += [f"chain({climb}) + {k}" for k in baselines.POLICIES[:3]]
        shown = {name: table[name][:top] for name in names}
        return Policies(n, climb, top, shown, {k: y[:top] for k, (size, y) in given.items() if size == n})

    return Baked(
        "Policies that do not search",
        {"n": start, "layers": 6, "longest": 15},
        {
            "n": Slider("nodes n", nodes),
            "layers": Slider("layers L", (1, 2, 3, 4, 5, 6, 7, 8)),
            "longest": Slider("longest path", longest),
        },
        compute,
        draw_policies,
        "At n = 16 and L = 6, what is left for registers to explain once the deeper subtree is a fallback?",
        grid={"n": None, "layers": None, "longest": None},
    )


_POLICY_NAMES = {
    "random": "random descent",
    "lookahead": "never into a wrong leaf",
    "deeper": "into the deeper subtree",
}


def draw_policies(result: Policies) -> Drawing:
    """Success by path length; fallbacks dashed, the same with climbing solid."""
    x = np.arange(1, result.longest + 1)
    lines = []
    for i, (name, kind) in enumerate(_POLICY_NAMES.items()):
        lines.append(Series(kind, x, result.success[name], i + 4))
        if result.climb:
            both = result.success[f"chain({result.climb}) + {name}"]
            lines.append(Series(f"climb {result.climb} levels, else {kind}", x, both, i))
    for name, y in result.measured.items():
        lines.append(Series(name, x, y, 3))
    title = f"Success by path length, trees of {result.n_nodes} nodes, {result.climb} levels climbed"
    chart = charts.line_chart(lines, x="path length P", y="whole path right", title=title, height=260)
    body = charts.row(charts.panel(chart), charts.panel(charts.legend(lines)))
    rows = {s.name: float(np.nanmean(np.asarray(s.y, dtype=float))) for s in lines}
    best = max(rows, key=lambda name: rows[name])
    return Drawing(
        body,
        f"n = {result.n_nodes}, {result.climb} climbing steps ({result.climb + 1} layers), path lengths 1 to "
        f"{result.longest}, each as often: random descent {rows['random descent']:.1%}, best here: {best}, "
        f"{rows[best]:.1%}.",
    )

"""Static figures of the sorting chapter: numbers in, Pictures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mi_lab import plot
from mi_lab.circuits import ov_circuit, qk_circuit
from mi_lab.live import AttentionView
from mi_lab.model import Transformer
from mi_lab.plot import Picture
from mi_lab.run import run
from mi_lab.studies.sorting import measure
from mi_lab.studies.sorting.circuit import copying_margin, structure
from mi_lab.studies.sorting.task import SortingTask


def circuits(model: Transformer, task: SortingTask, kind: str = "ov", caption: str = "") -> Picture:
    """OV or QK tables of every head over the numbers; `caption` replaces the one for a split model."""
    n = task.n_numbers
    heads = range(model.config.n_heads)
    colours = [plot.head_colour(h) for h in heads]
    if kind == "ov":
        tables = ov_circuit(model).full()[:, :n, :n]
        usual = (
            "What attending to a number (row) adds to the logit of each number (column). Look for the "
            "orange diagonals: where a head has one, it copies. The two heads' diagonals hardly overlap."
        )
        names = [f"OV, head {h}" for h in heads]
        x, y = "number written", "number attended to"
    elif kind == "qk":
        tables = qk_circuit(model)[:, :n, :n]
        tables = tables - tables.mean(-1, keepdim=True)  # a constant per row changes no attention
        usual = (
            "How much a current number (row) wants to look at each number (column), row means removed. Look "
            "just right of the diagonal: the smallest larger numbers are wanted most."
        )
        names = [f"QK, head {h}" for h in heads]
        x, y = "number looked at", "current number"
    else:
        raise ValueError(f"kind must be 'ov' or 'qk', not {kind!r}")
    return plot.heatmaps(list(tables.detach()), names, caption or usual, x=x, y=y, colours=colours)


def margins(models: Mapping[str, Transformer], task: SortingTask, caption: str) -> Picture:
    """Copying margins of several models, a panel each."""
    array = torch.stack([copying_margin(model, task) for model in models.values()]).detach()
    return plot.strips(array.numpy(), caption, titles=list(models))


def development_image(recipe: str = "paper", seed: int = 0) -> Picture:
    """Copying margin of each head over training: step down, number across; loss and overlap beside."""
    curves = measure.development(recipe)
    index = [int(s) for s in curves["seeds"]].index(seed)
    steps, margin = curves["steps"].astype(int), curves["margin"][index]
    heads = margin.shape[1]
    overlap = [structure(torch.tensor(m)).overlap for m in margin]
    with plot.canvas(1, heads + 1, width=7.6, height=3.4, width_ratios=[2.2] * heads + [1.6]) as (
        figure,
        axes,
    ):
        top = float(np.abs(margin).max())
        rows = [i for i, s in enumerate(steps) if s in (0, 50, 100, 250, 500, 1000, 2000, 6000)]
        for head in range(heads):
            ax = axes[0][head]
            ax.imshow(plot.signed_rgba(margin[:, head], top), aspect="auto")
            ax.set_title(f"copying margin, head {head}", color=plot.head_colour(head))
            ax.set_xlabel("number")
            ax.set_yticks(rows, [str(steps[i]) for i in rows] if head == 0 else [])
        axes[0][0].set_ylabel("training step")
        ax = axes[0][heads]
        where = np.arange(len(steps))
        ax.plot(curves["loss"][index] / curves["loss"][index].max(), where, color=plot.NEUTRAL, label="loss")
        ax.plot(overlap, where, color=plot.HEADS[2], label="overlap")
        ax.set_ylim(len(steps) - 0.5, -0.5)
        ax.set_yticks(rows, [])
        ax.set_xlim(0, 1.02)
        ax.set_xlabel("share of largest")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        return plot.picture(
            figure,
            f"Seed {seed}, from top to bottom. First the loss falls and both heads turn orange everywhere (overlap); "
            "then, from about step 250 to 1,000, each gives up the numbers of the other.",
        )


def overlap_over_training(recipes: Sequence[str], titles: Mapping[str, str]) -> Picture:
    """Share of numbers copied by both heads, mean over seeds with the range, for several recipes."""
    series: dict[str, Any] = {}
    bands: dict[str, Any] = {}
    for recipe in recipes:
        curves = measure.development(recipe)
        overlap = np.array([[structure(torch.tensor(m)).overlap for m in seed] for seed in curves["margin"]])
        series[titles[recipe]] = (curves["steps"], overlap.mean(0))
        bands[titles[recipe]] = (overlap.min(0), overlap.max(0))
    return plot.lines(
        series,
        "Share of numbers that both heads copy; line: mean over eight seeds, band: lowest to highest. Only "
        "coupled weight decay brings it down to a tenth.",
        x="training step",
        y="overlap",
        bands=bands,
        log_x=True,
    )


def gap_dots(recipes: Sequence[str], what: str = "suppress") -> Picture:
    """A dot a model against the mean gap: share of suppressed numbers, or of the busiest head's numbers."""
    captions = {
        "suppress": "Each dot is a trained model; the bar is the mean. Suppression (15 % threshold) is absent at the "
        "smallest gaps, strongest between 2 and 3, and middling in the split baseline at the right.",
        "busiest": "Each dot is a trained model; the bar is the mean. At 1 one head copies every number; at .5 the "
        "two heads share them evenly.",
    }
    if what not in captions:
        raise ValueError(f"what must be 'suppress' or 'busiest', not {what!r}")

    def value(recipe: str, seed: int) -> float:
        if what == "suppress":
            return measure.suppress_share(recipe, seed)
        return measure.division(copying_margin(measure.model(recipe, seed), measure.task_of(recipe)))[0]

    groups = {
        f"{measure.task_of(r).expected_gap:.2f}": [value(r, s) for s in measure.seeds_of(r)] for r in recipes
    }
    label = {"suppress": "suppressed numbers", "busiest": "busiest head's share"}[what]
    return plot.dots(groups, captions[what], y=label, x="mean gap")


def attention(model: Transformer, task: SortingTask, text: str) -> AttentionView:
    """Attention of every head on one list with its right answer."""
    tokens = task.encode(text)
    name = "blocks.0.attn.pattern"
    pattern = run(model, tokens[None], record=(name,))[name][0]
    return AttentionView(
        [task.vocab[t] for t in tokens.tolist()],
        pattern,
        "Rows look at columns. Below SEP, follow a row: the head that owns the next number finds it in the list.",
    )


def llc(
    estimators: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], titles: Mapping[str, str]
) -> Picture:
    """LLC over training, one panel per estimator, one line per seed; hollow points carry a warning."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    with plot.canvas(1, len(estimators), width=7.6, height=2.7) as (figure, axes):
        for ax, (name, seeds) in zip(axes[0], estimators.items(), strict=True):
            for seed, points in seeds.items():
                steps = [p["step"] for p in points]
                values = [p["value"] for p in points]
                colour = plot.HEADS[int(seed) % 4]
                ax.plot(steps, values, color=colour, alpha=0.75, linewidth=1.2)
                for p in points:
                    face = "none" if p["warnings"] else colour
                    ax.scatter(
                        p["step"], p["value"], s=14, facecolors=face, edgecolors=colour, linewidths=0.9
                    )
            ax.axhline(0, color=plot.INK, linewidth=0.6)
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_title(titles[name])
            ax.set_xlabel("training step")
        axes[0][0].set_ylabel("estimate of the LLC")
        return plot.picture(
            figure,
            "The same checkpoints, three estimators; a line a seed, hollow where a diagnostic objects. Look at the "
            "direction: it depends on the estimator, and so would any story told from one of them.",
        )

"""Forbid some tokens to look at some others, and see which questions survive."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_lab import charts
from mi_lab.charts import Drawing, Series
from mi_lab.live import Choice
from mi_lab.live.baked import Baked
from mi_lab.metrics import wilson
from mi_lab.model import Transformer
from mi_lab.run import run
from mi_lab.stack import fast_matmul
from mi_lab.studies.pathfinding import baselines, measure
from mi_lab.studies.pathfinding.circuit import CLASSES, token_class
from mi_lab.studies.pathfinding.drawing import draw_tree
from mi_lab.studies.pathfinding.explorers.prompts import examples
from mi_lab.studies.pathfinding.layout import Tree
from mi_lab.studies.pathfinding.task import PathfindingTask

EDGE = ("source", "target", "comma")
PATHWAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "nothing": ((), (), "any"),
    "path → targets": (("path",), ("target",), "any"),
    "path → sources": (("path",), ("source",), "any"),
    "path → commas": (("path",), ("comma",), "any"),
    "path → goal": (("path",), ("goal",), "any"),
    "path → earlier path": (("path",), ("path",), "other"),
    "comma → other commas": (("comma",), ("comma",), "other"),
    "comma → other edges' nodes": (("comma",), ("source", "target"), "other"),
    "comma → its own edge": (("comma",), ("source", "target"), "own"),
    "target → its own source": (("target",), ("source",), "own"),
    "target → other edges": (("target",), EDGE, "other"),
    "source → other edges": (("source",), EDGE, "other"),
    "goal, | and : → edges": (("bar", "goal", "colon"), EDGE, "any"),
}
"""Name -> classes of the queries, classes of the keys, and of which edges: "own", "other" or "any"."""

Edit = dict[str, Callable[[Tensor], Tensor]]


def pathway(task: PathfindingTask, name: str) -> Tensor:
    """Bool[query, key]: what this pathway of PATHWAYS carries; a token never loses sight of itself."""
    queries, keys, whose = PATHWAYS[name]
    kinds = token_class(task)
    at = torch.arange(len(kinds))
    edge = torch.where(at < 3 * task.n_edges - 1, at // 3, task.n_edges + at)  # the others are on their own
    hit = torch.isin(kinds, torch.tensor([CLASSES.index(k) for k in queries], dtype=torch.long))[:, None]
    hit = hit & torch.isin(kinds, torch.tensor([CLASSES.index(k) for k in keys], dtype=torch.long))
    same = edge[:, None] == edge
    if whose != "any":
        hit &= same if whose == "own" else ~same
    return hit & (at[:, None] != at)


def layer_choices(n_layers: int) -> dict[str, range]:
    """Where to knock out: everywhere, from a layer on, or in one layer."""
    later = {f"{i} and later": range(i, n_layers) for i in range(1, n_layers - 1)}
    return {"all": range(n_layers), **later, **{f"{i} only": range(i, i + 1) for i in range(n_layers)}}


def knock_out(task: PathfindingTask, names: Sequence[str], layers: range) -> Edit:
    """The edit for `run` that closes these pathways: scores become −∞, the attention goes elsewhere."""
    mask = torch.stack([pathway(task, name) for name in names]).any(0)

    def edit(scores: Tensor) -> Tensor:
        n = scores.shape[-1]
        return scores.masked_fill(mask[:n, :n].to(scores.device), -torch.inf)

    return {f"blocks.{layer}.attn.scores": edit for layer in layers} if bool(mask.any()) else {}


def right_by_length(
    model: Transformer, task: PathfindingTask, tokens: Tensor, edit: Edit, *, batch: int = 256
) -> list[int]:
    """Questions answered without a mistake, by path length 1.. ."""
    length = task.variables(tokens)["length"]
    hits = torch.zeros(task.longest_path + 1, dtype=torch.long)
    with fast_matmul(model.device):
        for rows, lengths in zip(tokens.split(batch), length.split(batch)):
            found = run(model, rows, edit=edit).logits[:, task.answer]
            good = measure.right_tokens(task, rows, found).all(1)
            hits += torch.bincount(lengths[good], minlength=len(hits))
    return hits[1:].tolist()


def record_knockouts(
    model: Transformer, task: PathfindingTask, *, n: int = 1000, seed: int = 71, progress: bool = False
) -> dict[str, Any]:
    """Every pathway in every choice of layers: plain JSON, for `knockout_explorer(.., recorded=..)`.

    {"count": [P], "hits": {"path → targets | all": [P], ..}}; cost: one pass over n trees a pathway and choice.
    """
    from tqdm import tqdm

    tokens = _trees(task, n, seed)
    count = torch.bincount(task.variables(tokens)["length"], minlength=task.longest_path + 1)[1:].tolist()
    hits = {_key("nothing", "nothing", "all"): right_by_length(model, task, tokens, {})}
    cells = [(p, c) for p in PATHWAYS if p != "nothing" for c in layer_choices(model.config.n_layers)]
    for name, choice in tqdm(cells, disable=not progress):
        edit = knock_out(task, [name], layer_choices(model.config.n_layers)[choice])
        hits[_key(name, "nothing", choice)] = right_by_length(model, task, tokens, edit)
    return {"count": count, "hits": hits}


def _trees(task: PathfindingTask, n: int, seed: int) -> Tensor:
    return measure.trees(replace(task, trees=None), n, seed).tokens  # never trained on


def _key(name: str, second: str, choice: str) -> str:
    names = [p for p in PATHWAYS if p in (name, second) and p != "nothing"]
    return f"{' + '.join(names) or 'nothing'} | {choice if names else 'all'}"


class Knocked(NamedTuple):
    """What is closed, and what is left: questions right of `count`, by path length, and one question's path."""

    closed: str
    layers: str
    hits: list[int]
    clean: list[int]
    count: list[int]
    random: list[float]
    tree: Tree
    walked: list[int]


def knockout_explorer(
    model: Transformer,
    task: PathfindingTask,
    *,
    recorded: Mapping[str, Any] | None = None,
    text: str = "",
    n: int = 300,
    seed: int = 71,
) -> Baked:
    """Close one or two pathways in some layers; see accuracy by path length, and one path.

    recorded: from `record_knockouts`; without it, and for what it doesn't hold, n trees are measured, and
    the page without a kernel has two choices of layers only.
    text: the question whose path is drawn.
    """
    text = text or examples(task)[0]
    example = task.solve(task.encode(text)[None])
    tree = Tree.read(task, example[0])
    choices = layer_choices(model.config.n_layers)

    @functools.lru_cache(maxsize=1)
    def trees() -> tuple[Tensor, list[int]]:
        tokens = _trees(task, n, seed)
        count = torch.bincount(task.variables(tokens)["length"], minlength=task.longest_path + 1)
        return tokens, count[1:].tolist()

    @functools.lru_cache(maxsize=1)
    def descent() -> list[float]:
        truth = task.variables(_trees(task, 5000, 5))
        return baselines.by_length(baselines.success(truth), truth, task.longest_path).tolist()

    @functools.lru_cache(maxsize=512)
    def measured(name: str, second: str, choice: str) -> tuple[list[int], list[int]]:
        if recorded and _key(name, second, choice) in recorded["hits"]:
            return recorded["hits"][_key(name, second, choice)], recorded["count"]
        tokens, count = trees()
        return right_by_length(model, task, tokens, knock_out(task, [name, second], choices[choice])), count

    def compute(first: str, second: str, layers: str) -> Knocked:
        hits, count = measured(first, second, layers)
        clean, clean_count = measured("nothing", "nothing", "all")
        if clean_count != count:  # a pair that was not recorded: compare on the same trees
            clean = right_by_length(model, task, trees()[0], {})
        edit = knock_out(task, [first, second], choices[layers])
        walked = _walk(model, task, example, tree, edit)
        closed = _key(first, second, layers).partition(" | ")[0]
        return Knocked(closed, layers, hits, clean, count, descent(), tree, walked)

    names = tuple(PATHWAYS)
    return Baked(
        "Close a pathway",
        {"first": "path → commas", "second": "nothing", "layers": "all"},
        {
            "first": Choice("forbid", names),
            "second": Choice("also forbid", names),
            "layers": Choice("in layers", tuple(choices)),
        },
        compute,
        draw_knocked,
        "Close «path → commas», then «path → targets»: which one does this model live on, and from which layer?",
        grid={
            "first": None,
            "layers": None if recorded else [c for c in choices if c in ("all", "1 and later")],
        },
    )


def _walk(model: Transformer, task: PathfindingTask, tokens: Tensor, tree: Tree, edit: Edit) -> list[int]:
    """The path as far as it is right, and the first mistake if it is a node."""
    way = tree.path()
    chosen = run(model, tokens, edit=edit).logits[0, task.root_position :].argmax(-1).tolist()
    walked = [tree.root]
    for token, right in zip(chosen, way[1:]):
        if not task.first_target <= token < task.first_bare:
            break
        walked.append(token - task.first_target)
        if walked[-1] != right:
            break
    return walked


def draw_knocked(result: Knocked) -> Drawing:
    """One path beside accuracy by path length."""
    x = range(1, len(result.count) + 1)

    def curve(name: str, hits: Sequence[int], look: int | str) -> Series:
        some = [wilson(h, c) if c else None for h, c in zip(hits, result.count)]
        y, low, high = (
            [getattr(i, k) if i else float("nan") for i in some] for k in ("value", "low", "high")
        )
        return Series(name, x, y, look, low, high)

    lines = [
        curve("all pathways open", result.clean, 0),
        curve(f"closed: {result.closed}", result.hits, 1),
        Series("random descent", x, result.random, "neutral:1"),
    ]
    if result.closed == "nothing":
        lines.pop(1)
    total, clean = (sum(h) / sum(result.count) for h in (result.hits, result.clean))
    where = "" if result.closed == "nothing" else f", layers: {result.layers}"
    title = f"Exact match by path length, closed: {result.closed}{where}"
    chart = charts.line_chart(lines, x="path length P", y="exact match", title=title)
    way = result.tree.path()
    fine = result.walked == way
    steps = " → ".join(map(str, result.walked))
    end = (
        '<span class="mi-yes">✓ right</span>'
        if fine
        else f'<span class="mi-no">✗</span> (right: {" → ".join(map(str, way))})'
    )
    said = f'<p style="font-size:.9rem;margin:.2rem 0">One path: {html.escape(steps)} {end}</p>'
    tree = charts.panel(draw_tree(result.tree, walked=result.walked), below=said)
    body = charts.row(charts.panel(chart + charts.legend(lines)), tree)
    return Drawing(
        body,
        f"Closed: {result.closed}{where}. Whole paths right: {clean:.1%} before, {total:.1%} now, of "
        f"{sum(result.count):,} trees; bands: 95 % (Wilson).",
    )

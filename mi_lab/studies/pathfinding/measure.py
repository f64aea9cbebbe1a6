"""Measurements of the pathfinding study, one function per question; claims and chapter share them.

Everything is deterministic: evaluation trees come from generators seeded here, with seeds that no
training run uses, and are the same for every model of a task.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mi_lab import zoo
from mi_lab.forward import exits
from mi_lab.metrics import Interval, wilson
from mi_lab.model import Transformer
from mi_lab.run import run
from mi_lab.stack import Stack, fast_matmul, forward
from mi_lab.studies.pathfinding.baselines import by_length
from mi_lab.studies.pathfinding.circuit import patterns, to_ancestors
from mi_lab.studies.pathfinding.many_goals import ManyGoals, plain
from mi_lab.studies.pathfinding.recipes import recipes
from mi_lab.studies.pathfinding.task import Order, PathfindingTask
from mi_lab.train import DATA_SEED, POOL, Recipe

# Far from every training generator. Below 2^32, because torch's CPU generator drops the higher bits.
EVALUATION = 0xE7A1_0000
HERE = Path(__file__).parent
Truth = Mapping[str, Tensor]


class Trees(NamedTuple):
    """Evaluation trees: their task, tokens Int[n, pos] and ground truth (`PathfindingTask.variables`)."""

    task: PathfindingTask
    tokens: Tensor
    truth: dict[str, Tensor]

    def where(self, keep: Tensor, limit: int | None = None) -> Trees:
        """Those trees only (Bool[n]), at most `limit` of them."""
        index = keep.nonzero()[:limit, 0]
        return Trees(self.task, self.tokens[index], {k: v[index] for k, v in self.truth.items()})


def task_of(recipe: str, **knobs: object) -> PathfindingTask:
    """The task of a recipe with fresh trees, some knobs changed."""
    return replace(plain(recipes[recipe].task), **{"trees": None, **knobs})  # type: ignore[arg-type]


@functools.lru_cache(maxsize=64)
def trees(task: PathfindingTask, n: int, seed: int = 0) -> Trees:
    """n fresh trees of this task, the same for every model."""
    tokens = task.sample(n, generator=torch.Generator().manual_seed(EVALUATION + seed))
    return Trees(task, tokens, task.variables(tokens))


def published(recipe: str) -> bool:
    """Are models of this recipe published, or were they?"""
    name = f"pathfinding/{recipe}"
    return name in zoo.files() or name in zoo.not_shipped()


def seeds_of(recipe: str, fast: bool = False) -> tuple[int, ...]:
    """Published seeds of a recipe; the first one if `fast`."""
    return zoo.read(f"pathfinding/{recipe}").labels[: 1 if fast else None]


@functools.lru_cache(maxsize=64)
def model(recipe: str, seed: int) -> Transformer:
    """A published model, loaded once."""
    return zoo.load(f"pathfinding/{recipe}", seed)


@functools.lru_cache(maxsize=8)
def development(recipe: str = "paper") -> dict[str, np.ndarray]:
    """Published curves of a recipe over training: steps [step], and the entries of
    `publish.development_row`, [seed, step, ..]."""
    with np.load(HERE / "curves" / f"{recipe}.npz") as data:
        return {name: data[name] for name in data.files}


@functools.lru_cache(maxsize=1)
def _figures() -> dict[str, Any]:
    return json.loads((HERE / "curves" / "figures.json").read_text())["models"]


def recorded_figures(recipe: str = "paper", seed: int = 0) -> dict[str, Any]:
    """What `record` measured on one model: scrub, relations, lengths, knockouts, and the weights' sha256.

    Raises ValueError for a model that was not recorded.
    """
    found = _figures()
    if f"{recipe}:{seed}" not in found:
        raise ValueError(f"{recipe} seed {seed} was not recorded; there are {', '.join(found)}")
    return found[f"{recipe}:{seed}"]


def sources(*names: str) -> dict[str, str]:
    """SHA-256 of the checkpoints that a measurement used."""
    return {name: zoo.sha256(f"pathfinding/{name}") for name in names}


@torch.no_grad()
def logits(model: Transformer, tokens: Tensor, answer: slice, *, chunk: int = 256) -> Tensor:
    """Logits[n, answer, vocab] by the fast forward."""
    params = Stack.from_models([model]).params(0)
    with fast_matmul(model.device):
        return torch.cat([forward(params, model.config, rows, answer) for rows in tokens.split(chunk)])


def right_tokens(task: PathfindingTask, tokens: Tensor, found: Tensor) -> Tensor:
    """Bool[n, answer]: argmax of logits [n, answer, vocab] is right, or the position isn't graded."""
    weights = task.weights(tokens)
    right = found.argmax(-1) == tokens[:, task.answer.start + 1 : task.answer.stop + 1]
    return right if weights is None else right | (weights == 0)


def exact(model: Transformer, some: Trees) -> Tensor:
    """Bool[n]: whole path and stop right (free-running and teacher-forced agree, see the task)."""
    found = logits(model, some.tokens, some.task.answer)
    return right_tokens(some.task, some.tokens, found).all(1)


def token_accuracy(model: Transformer, some: Trees) -> float:
    """Share of graded tokens that are right: 0.89 for random descent."""
    weights = some.task.weights(some.tokens)
    right = right_tokens(some.task, some.tokens, logits(model, some.tokens, some.task.answer))
    return float(right.float().mean() if weights is None else (right * weights).sum() / weights.sum())


class Accuracy(NamedTuple):
    """exact: overall, Wilson 95 %. by_length [P]. branch: share of real choices that are right, with the
    right path so far. hard: first steps right on trees whose other side is at least as deep."""

    exact: Interval
    by_length: tuple[float, ...]
    branch: float
    hard: float
    n: int


def accuracy(model: Transformer, some: Trees) -> Accuracy:
    """Everything P1 asks, on these trees."""
    truth = some.truth
    right = right_tokens(some.task, some.tokens, logits(model, some.tokens, some.task.answer))
    whole = right.all(1)
    hard = truth["hard"]
    return Accuracy(
        wilson(int(whole.sum()), len(whole)),
        tuple(by_length(whole, truth, some.task.longest_path).tolist()),
        float(right[truth["branch"]].float().mean()),
        float(right[hard, 0].float().mean()) if hard.any() else float("nan"),
        len(whole),
    )


@torch.no_grad()
def exact_by_layer(model: Transformer, some: Trees, *, chunk: int = 256) -> list[float]:
    """Share of whole paths right if each layer's residual stream is read as the last one is (`mi_lab.forward.exits`).

    What a layer knows in the model's own output terms; it may know more in others.
    """
    answer = some.task.answer
    right = some.tokens[:, answer.start + 1 : answer.stop + 1]
    weights = some.task.weights(some.tokens)
    ignored = torch.zeros_like(right, dtype=torch.bool) if weights is None else weights == 0
    layers = said_by_layer(model, some, chunk=chunk)
    return [float(((x == right) | ignored).all(1).float().mean()) for x in layers]


@torch.no_grad()
def said_by_layer(model: Transformer, some: Trees, *, chunk: int = 256) -> list[Tensor]:
    """Int[n, answer] for each layer: the token it names if its residual stream is read as the last one is."""
    params, answer = Stack.from_models([model]).params(0), some.task.answer
    parts = [exits(params, model.config, tokens, answer) for tokens in some.tokens.split(chunk)]
    return [torch.cat(layer).argmax(-1) for layer in zip(*parts, strict=True)]


@functools.lru_cache(maxsize=2)
def training_fingerprints(recipe: Recipe, seed: int) -> Tensor:
    """Int64[trees]: hashes of every tree and goal that a seed was trained on, by drawing its data again (sorted).

    With what the models were trained on that it was grown from, as far as those trees have as many nodes.
    """
    sizes = {plain(part.task).n_nodes for part in lineage(recipe)}
    found: dict[str, Tensor] = {}
    for part in lineage(recipe):
        task = part.task
        assert isinstance(task, PathfindingTask | ManyGoals)
        if plain(task).n_nodes < max(sizes):
            continue
        generator = torch.Generator().manual_seed(DATA_SEED + part.data + seed)
        pools = -(-part.steps // POOL)
        drawn = [task.fingerprint(task.sample(POOL * part.batch, generator=generator)) for _ in range(pools)]
        found[part.digest] = torch.cat(drawn)[: part.steps * part.batch].flatten()
    return torch.cat(list(found.values())).unique()


def lineage(recipe: Recipe) -> list[Recipe]:
    """The recipe and those whose models it was grown from, itself first, each once."""
    out = [recipe]
    for donor in getattr(recipe.start, "donors", ()):
        out += [part for part in lineage(donor) if part not in out]
    return out


def among(fingerprints: Tensor, sorted_others: Tensor) -> Tensor:
    """Bool[n]: is each hash one of the others?"""
    place = torch.searchsorted(sorted_others, fingerprints.contiguous()).clamp(max=len(sorted_others) - 1)
    return sorted_others[place] == fingerprints


def ancestors_attended(model: Transformer, some: Trees, *, count: int = 8) -> Tensor:
    """Float[n, layer, k]: attention of the root token to `>anc_k` of the goal, heads summed."""
    position = some.task.root_position
    seen = patterns(model, some.tokens[:, : position + 1], [position])[:, :, :, 0].sum(2)
    return to_ancestors(some.truth, seen, count=count)


def deduction(model: Transformer, some: Trees) -> list[float]:
    """D_1, D_2, ..: mean attention of the root token in layer l to `>anc_{l-1}`, over trees with P >= l (P4)."""
    seen = ancestors_attended(model, some)
    enough = some.truth["length"]
    layers = range(1, model.config.n_layers)
    return [float(seen[enough >= layer, layer, layer - 1].nanmean()) for layer in layers]


# ---- attention knock-out ----


def positions(task: PathfindingTask, kind: str) -> list[int]:
    """Positions of a token class: sources, targets, commas (with `|`), tail (`|`, goal, `:`), path, or the
    authors' seven registers (`registers`: source A_12, comma, A_13, comma, A_14, `|`, goal)."""
    edge, root = 3 * task.n_edges, task.root_position
    table = {
        "sources": list(range(0, edge, 3)),
        "targets": list(range(1, edge, 3)),
        "commas": list(range(2, edge, 3)),
        "edges": list(range(edge - 1)),
        "tail": [edge - 1, edge, edge + 1],
        "path": list(range(root, task.answer.stop)),
        "registers": [edge - 9, edge - 7, edge - 6, edge - 4, edge - 3, edge - 1, edge],
    }
    if kind not in table:
        raise ValueError(f"token classes are {', '.join(table)}, not {kind!r}")
    return table[kind]


@torch.no_grad()
def blocked(
    model: Transformer,
    some: Trees,
    queries: Sequence[int],
    keys: Sequence[int],
    *,
    layers: Iterable[int] | None = None,
    own_edge: bool = True,
    chunk: int = 128,
) -> Tensor:
    """Bool[n, answer]: graded tokens right when these queries can't look at these keys (before the softmax).

    layers: default all but the first, which gathers edges and goal. own_edge: whether a token of an edge may
    still look at the tokens of its own edge. A token may always look at itself.
    """
    layers = range(1, model.config.n_layers) if layers is None else layers
    pos = some.task.answer.stop
    hit = torch.zeros(pos, pos, dtype=torch.bool)
    hit[torch.tensor(queries)[:, None], torch.tensor(keys)] = True
    hit.fill_diagonal_(False)
    if own_edge:
        edge = torch.arange(pos) // 3
        same = (edge[:, None] == edge) & (torch.arange(pos) < 3 * some.task.n_edges)
        hit &= ~(same & same.T)

    def edit(scores: Tensor) -> Tensor:
        return scores.masked_fill(hit, -torch.inf)

    edits = {f"blocks.{layer}.attn.scores": edit for layer in layers}
    found = []
    with fast_matmul(model.device):
        for rows in some.tokens.split(chunk):
            out = run(model, rows[:, :pos], edit=edits).logits[:, some.task.answer]
            found.append(right_tokens(some.task, rows, out))
    return torch.cat(found)


__all__ = [
    "Accuracy", "Order", "Trees", "accuracy", "among", "ancestors_attended", "blocked", "deduction",
    "development", "exact", "lineage", "logits", "model", "positions", "published", "recorded_figures", "right_tokens",
    "seeds_of", "sources", "task_of", "token_accuracy", "training_fingerprints", "trees",
]  # fmt: skip

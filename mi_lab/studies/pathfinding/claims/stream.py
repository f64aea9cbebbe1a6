"""P6, P13: what a lens and probes read off the residual stream, from one pass for both.

They ask only what can be read: they ask it of models that solve the task, and beside what shuffled labels give.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from mi_lab.claims import Accept, Claim, Control
from mi_lab.lens import logit_lens
from mi_lab.model import Transformer
from mi_lab.once import shared
from mi_lab.probe import normalised, probe
from mi_lab.sites import capture, residual_sites
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.claims.common import CODE, FIGURES, Row
from mi_lab.studies.pathfinding.claims.subjects import Subject, by_seed, clean, control, renamed
from mi_lab.studies.pathfinding.task import PathfindingTask

N_STREAM = 2500  # trees for lens and tree


@functools.lru_cache(maxsize=8)
@shared
def readings(s: Subject) -> Row:
    """P6's and P13's numbers."""
    row = stream_readings(s.model, m.task_of(s.recipe), s.some(N_STREAM))
    return row | {"exact": float(clean(s)[1].float().mean())}


def stream_readings(model: Transformer, task: PathfindingTask, n: int) -> Row:
    """Lens and tree probes on the residual stream, of trees of the training law."""
    some, root = m.trees(task, n, 3), task.root_position
    sites = residual_sites(model, range(root - 3, task.answer.stop))
    x = capture(model, some.tokens[:, : task.answer.stop], sites)
    return lens_row(model, some, {k: v[:, 3:] for k, v in x.items()}) | tree_row(
        some, {k: v[:, :4] for k, v in x.items()}
    )


def lens_row(model: Transformer, some: m.Trees, x: Mapping[str, Tensor]) -> Row:
    """Bias-free maps from the normalised stream x[site] [n, answer, d] to the next node.

    Held-out macro-F1 after each layer; and for each length P <= layers - 1 the median of the first layer,
    counted from 1, whose map says x1 at the root (layers + 1 if none does).
    """
    truth, layers = some.truth, model.config.n_layers
    row: Row = {}
    says: dict[str, list[Tensor]] = {"": [], ", shuffled": []}
    held = torch.empty(0)
    for layer in range(layers):
        rows = normalised(x[f"L{layer}"], model.config.eps)
        found = probe(rows, truth["correct"], intercept=False, held_out=0.4)
        held = found.example.unique()
        for name, one in (("", found), (", shuffled", control(found))):
            row[f"F1 L{layer}{name}"] = one.f1
            says[name].append(one.scores(rows[held, 0]).argmax(-1) == truth["correct"][held, 0])
    node = slice(some.task.first_target, some.task.first_bare)
    there = truth["correct"][held] >= 0
    for layer in (0, layers - 1):
        plain = logit_lens(model, x[f"L{layer}"][held])[..., node].argmax(-1)
        row[f"logit lens L{layer}, accuracy"] = float((plain == truth["correct"][held])[there].float().mean())
    for name, hits in says.items():
        f1 = torch.tensor([row[f"F1 L{layer}{name}"] for layer in range(layers)])
        row[f"largest drop{name}"] = float((f1[:-1] - f1[1:]).max())
        row[f"rise{name}"] = float(f1[-1] - f1[0])
        hit = torch.stack([*hits, torch.ones_like(hits[0])])
        first = hit.float().argmax(0) + 1
        length = truth["length"][held]
        lengths = range(1, layers)
        for p in lengths:
            row[f"first layer, P = {p}{name}"] = float(first[length == p].float().median())
        short = length < layers
        row[f"first layer = P{name}"] = float((first == length)[short].float().mean())
        row[f"farthest off{name}"] = max(abs(row[f"first layer, P = {p}{name}"] - p) for p in lengths)
    return row


def tree_row(some: m.Trees, x: Mapping[str, Tensor]) -> Row:
    """How well the tree can be read off one vector: edge F1 of the best linear probe over x[site] [n, p, d].

    A ridge map to all n^2 possible edges; each node is given the parent with the highest score, but
    for the node whose best is lowest, the root. A threshold would understate it: a rare yes is seldom said.
    "planted": the tree written into the last vector by a random linear map, as strong as what is there.
    """
    edges = _edges(some)
    found = {
        (name, p): _edge_f1(some, value[:, p], edges)
        for name, value in x.items()
        for p in range(value.shape[1])
    }
    (name, p), (best, shuffled) = max(found.items(), key=lambda item: item[1][0])
    vector = x[name][:, p]
    random = torch.randn(
        edges.shape[1], vector.shape[1], generator=torch.Generator().manual_seed(m.EVALUATION)
    )
    tree = edges.float() @ random
    size = [(v - v.mean(0)).square().mean().sqrt() for v in (vector, tree)]
    planted, _ = _edge_f1(some, vector + tree * (size[0] / size[1]), edges)
    names = list(x)
    return {
        "tree F1": best,
        "tree F1, shuffled": shuffled,
        "tree F1, planted": planted,
        "tree F1, root only": max(found[name, 3][0] for name in x),
        "best tree: after layer": names.index(name) - 1.0,
        "best tree: tokens before the root": 3.0 - p,
    }


def _edges(some: m.Trees) -> Tensor:
    """Bool[n, child * parent]."""
    parent, nodes = some.truth["parent"], some.task.n_nodes
    return (parent[:, :, None] == torch.arange(nodes)).flatten(1)


def _edge_f1(some: m.Trees, x: Tensor, edges: Tensor) -> tuple[float, float]:
    """Edge F1 on held-out trees, and that of the same probe on other trees' edges."""
    result = probe(x, edges, held_out=0.2)
    held, nodes = result.example, some.task.n_nodes
    out = []
    for one in (result, control(result)):
        scores = one.scores(x[held]).unflatten(-1, (nodes, nodes))
        best = scores.masked_fill(torch.eye(nodes, dtype=torch.bool), -torch.inf).max(-1)
        right = one.truth.unflatten(-1, (nodes, nodes)).gather(2, best.indices.unsqueeze(-1))[..., 0]
        right = right.scatter(1, best.values.argmin(1, keepdim=True), False)
        out.append(float(right.float().sum() / (len(held) * (nodes - 1))))  # as many are said as are true
    return out[0], out[1]


def _lens(s: Subject) -> Row:
    return {name: x for name, x in readings(s).items() if "tree" not in name and name != "exact"}


def _tree(s: Subject) -> Row:
    found = readings(s)
    return {name: x for name, x in found.items() if name not in _lens(s)}


def _shuffled_lens(row: Row) -> Row:
    return {name: row.get(f"{name}, shuffled", value) for name, value in row.items()}


P6_SAMPLE = f"{N_STREAM:,} trees of the training law, 1,000 of them held out"
P6 = Claim(
    "P6",
    "A lens sees the highlighted node climb",
    FIGURES,
    "A linear map from each layer's residual at the path tokens to the next node gets better from layer to layer, "
    "and at the root says x1 first in layer P (counted from 1).",
    "macro-F1 .220 .251 .344 .483 .755 1.000, on the examples it was fitted on, only those the model gets right",
    Accept(
        "held-out F1 falls by no more than .01 from any layer to the next and rises by >= .30 in all; the median first "
        "layer (from 1) whose map says x1 at the root is P for every P = 1..5",
        lambda r: r["largest drop"] <= 0.01 and r["rise"] >= 0.30 and r["farthest off"] == 0,
    ),
    by_seed(_lens, "first layer = P", sample=P6_SAMPLE),
    (
        Control(
            "untrained twin",
            by_seed(_lens, "first layer = P", sample=f"{N_STREAM // 4} trees", twin=True),
        ),
        Control(
            "shuffled labels",
            by_seed(lambda s: _shuffled_lens(_lens(s)), "first layer = P", sample=P6_SAMPLE),
        ),
    ),
    "A rising lens is common to all algorithms that work layer by layer; that the layer equals P is what backward "
    "chaining predicts. Correlation only: P7 is the causal test. All examples are scored, also those the model "
    "gets wrong. The logit lens is given beside it; it may well pass, so it is no control.",
)
P13 = Claim(
    "P13",
    "The tree is not linearly present in one vector",
    f"{CODE}; adjacency probes",
    "No single residual vector of a model that solves the task holds the whole tree in linear form.",
    "linear probes: precision .38 and .46, recall .43 and .06 (two variants); MLP up to .97 and .96",
    Accept(
        "edge F1 of the best linear probe <= .50 at each of the last four prompt tokens after every layer; the model "
        "is right on >= .90 of the trees with P = 2..13",
        lambda r: r["tree F1"] <= 0.50 and r["exact"] >= 0.90,
    ),
    by_seed(_tree, "tree F1", sample=f"{N_STREAM:,} trees, a fifth held out; 28 vectors"),
    (
        Control(
            "the tree planted in the best vector by a random linear map",
            by_seed(lambda s: renamed(_tree(s), tree_F1="tree F1, planted"), "tree F1", sample="the same"),
        ),
        Control(
            "untrained twin",
            by_seed(_tree, "tree F1", sample=f"{N_STREAM // 4} trees", twin=True),
        ),
    ),
    "An absence, shown for 28 vectors and a ridge map only; a better linear probe or another vector could "
    "still find more. An untrained model has no tree in one vector either: it fails here because it doesn't solve the "
    "task. Non-linear presence is not asked.",
)

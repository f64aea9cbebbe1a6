"""P12: do the last layers look one step ahead, and turn away from nodes without children?"""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor

from mi_lab.claims import Accept, Claim, Control
from mi_lab.erase import erase
from mi_lab.lens import attribute_keys, logit_lens
from mi_lab.model import Transformer
from mi_lab.probe import ProbeResult, probe_sites
from mi_lab.run import knock_out
from mi_lab.sites import Site
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.claims.common import FIGURES, Row
from mi_lab.studies.pathfinding.claims.subjects import Subject, by_seed, clean
from mi_lab.studies.pathfinding.task import PathfindingTask

N_EFFECT = 300
N_CHILDREN = 1500
N_HIDDEN = 1000
CLIP = 0.07  # the authors'


def edge_effects(model: Transformer, some: m.Trees, *, clip: float | None = None) -> Tensor:
    """What the last two layers hand from each edge's three tokens to the root's logits, [n, edge, 3, node]."""
    task, root = some.task, some.task.root_position
    nodes = list(range(task.first_target, task.first_bare))
    last = range(model.config.n_layers - 2, model.config.n_layers)
    total = sum(
        attribute_keys(model, some.tokens[:, : root + 1], layer, root, outputs=nodes, clip=clip).sum(1)
        for layer in last
    )
    assert isinstance(total, Tensor)
    return total[:, : 3 * task.n_edges].unflatten(1, (task.n_edges, 3))


def signs(some: m.Trees, effect: Tensor, *, other_trees: bool = False) -> dict[str, float]:
    """Do edges A>B away from the root add to A and subtract from B, counted from the median node?

    effect [n, edge, node]. Edges of the root and the one into the goal are left out. "trees": share of
    trees where the means over edges have both signs; "edges": share of single edges that do. other_trees:
    A and B are those of the next tree.
    """
    task = some.task
    source = some.tokens[:, 0 : 3 * task.n_edges : 3] - task.first_bare
    target = some.tokens[:, 1 : 3 * task.n_edges : 3] - task.first_target
    counts = (source != some.truth["root"][:, None]) & (target != some.truth["goal"][:, None])
    if other_trees:
        source, target, counts = source.roll(1, 0), target.roll(1, 0), counts.roll(1, 0)
    above = effect - effect.median(-1, keepdim=True).values
    plus = above.gather(2, source.unsqueeze(-1))[..., 0]
    minus = above.gather(2, target.unsqueeze(-1))[..., 0]
    n = counts.sum(1).clamp(min=1)
    mean = [torch.where(counts, x, 0).sum(1) / n for x in (plus, minus)]
    there = counts.any(1)
    return {
        "trees": float(((mean[0] > 0) & (mean[1] < 0))[there].float().mean()),
        "edges": float(((plus > 0) & (minus < 0))[counts].float().mean()),
        "on A": float(mean[0][there].mean()),
        "on B": float(mean[1][there].mean()),
        "on B, edges of the root": float(minus[source == some.truth["root"][:, None]].mean()),
    }


def effect_row(model: Transformer, task: PathfindingTask, n: int) -> Row:
    """The signs of direct effects on trees that five steps of chaining don't solve: P from 6 on."""
    some = m.trees(replace(task, shortest=task.n_nodes // 2 - 2, longest=task.n_nodes - 2), n, seed=5)
    row: Row = {}
    for name, clip in (("clipped", CLIP), ("unclipped", None)):
        effect = edge_effects(model, some, clip=clip)
        row |= {f"{k}, {name}": v for k, v in signs(some, effect[:, :, 1]).items()}
        row[f"trees, {name}, all three tokens"] = signs(some, effect.sum(2))["trees"]
        row[f"trees, {name}, other trees"] = signs(some, effect[:, :, 1], other_trees=True)["trees"]
    return row


def children_row(model: Transformer, task: PathfindingTask, n: int) -> Row:
    """F1 of probes for the current node's children, over all answers flattened, the best of three sites.

    Trees with P = 10 (two thirds of the longest), path tokens blocked from the registers, the last four path
    positions left out. "branch": only where the node has two children, so that the answer
    alone, the child on the path, doesn't do.
    """
    length = task.longest_path * 2 // 3
    some = m.trees(replace(task, shortest=length, longest=length), n, seed=6)
    root, layers = task.root_position, model.config.n_layers
    path = range(root, root + length - 3)
    current = some.truth["current"][:, : len(path)]
    child = some.truth["child"].gather(1, current.unsqueeze(-1).expand(-1, -1, 2))
    nodes = torch.arange(task.n_nodes)
    children = (child.unsqueeze(-1) == nodes).any(2)  # [n, pos, node]
    inner = children & ~some.truth["leaf"].unsqueeze(1)
    blocked = knock_out(list(path), m.positions(task, "registers"))
    edit = {f"blocks.{i}.attn.scores": blocked for i in range(1, layers)}
    sites = {
        "L-2 in": Site(layers - 2, "resid_pre", path),
        "L-2 mid": Site(layers - 2, "resid_mid", path),
        "L-1 mid": Site(layers - 1, "resid_mid", path),
    }
    double = {f"{name}, inner": site for name, site in sites.items()}
    labels = dict.fromkeys(sites, children) | dict.fromkeys(double, inner)
    tokens = some.tokens[:, : path.stop]
    table = probe_sites(model, tokens, sites | double, labels, edit=edit, pooled=True, kind="logistic")
    row: Row = {}
    best = max((table[name] for name in sites), key=lambda r: r.micro_f1)
    assert best.control is not None
    row["children F1"], row["children F1, branch"] = best.micro_f1, _branch_f1(best)
    row["children F1, shuffled"] = best.control.micro_f1
    row["children F1, branch, shuffled"] = _branch_f1(best.control)
    row["inner children F1"] = max(table[name].micro_f1 for name in double)
    # what the right answer alone would score: one child said, always right
    row["children F1, answer alone"] = float(2 / (1 + children.sum(-1).float().mean()))
    row["children F1, branch, answer alone"] = 2 / 3
    return row


def _branch_f1(result: ProbeResult) -> float:
    two = result.truth.sum(1) == 2
    said, true = result.predicted[two], result.truth[two]
    return float(2 * (said & true).sum() / (said.sum() + true.sum()))


def blind_choices(model: Transformer, task: PathfindingTask, n: int) -> Row:
    """First steps with the goal hidden: away from leaves, and into the deeper of two inner children?"""
    some = m.trees(replace(task, hide_goal=True), n, seed=7)
    root, truth = task.root_position, some.truth
    found = m.logits(model, some.tokens[:, : root + 1], slice(root, root + 1))[:, 0]
    right, other = truth["correct"][:, 0], truth["other"][:, 0]
    there = other >= 0
    pair = torch.stack([right, other.clamp(min=0)], 1)
    height = truth["height"].gather(1, pair)
    logit = found.gather(1, pair + task.first_target)
    deeper = (logit[:, 0] > logit[:, 1]) == (height[:, 0] > height[:, 1])
    differ = there & (height[:, 0] != height[:, 1])
    inner = differ & (height > 0).all(1)
    leaf = differ & (height == 0).any(1)
    return {
        "deeper of two inner children": float(deeper[inner].float().mean()),
        "inner child rather than a leaf": float(deeper[leaf].float().mean()),
    }


@torch.no_grad()
def inner_erasure(model: Transformer, some: m.Trees, right: Tensor, mid: Tensor) -> Row:
    """Exact match with "children that are not leaves" erased from the last resid_mid [n, answer, d].

    Fitted on one half of the trees, all path positions together, measured on the other.
    """
    task, truth, half = some.task, some.truth, len(right) // 2
    current = truth["current"]
    child = truth["child"].gather(1, current.clamp(min=0).unsqueeze(-1).expand(-1, -1, 2))
    inner = (child.unsqueeze(-1) == torch.arange(task.n_nodes)).any(2) & ~truth["leaf"].unsqueeze(1)
    eraser = erase(mid[:half], inner[:half], keep=(current >= 0)[:half], pooled=True)
    block = model.blocks[-1]
    row: Row = {"exact": float(right[half:].float().mean())}
    for name, one in (("inner children erased", eraser), ("random", eraser.random(seed=1))):
        x = one(mid[half:])
        x = x + block.mlp(block.ln2(x), lambda _, value: value)
        found = m.right_tokens(task, some.tokens[half:], logit_lens(model, x)).all(1)
        row[f"exact, {name}"] = float(found.float().mean())
    return row


@functools.lru_cache(maxsize=8)
def lookahead(s: Subject) -> Row:
    """P12's numbers."""
    model, task = s.model, m.task_of(s.recipe)
    return (
        effect_row(model, task, s.some(N_EFFECT))
        | children_row(model, task, s.some(N_CHILDREN))
        | blind_choices(model, task, s.some(N_HIDDEN))
        | inner_erasure(model, *clean(s))
    )


def _instead(s: Subject, kind: str) -> Row:
    """A control's row: children F1 of shuffled labels, or of the answer alone."""
    row = lookahead(s)
    names = ("children F1", "children F1, branch")
    return row | {name: row[f"{name}, {kind}"] for name in names}


def _other_trees(s: Subject) -> Row:
    row = lookahead(s)
    names = ("trees, clipped", "trees, unclipped")
    return row | {name: row[f"{name}, other trees"] for name in names}


SAMPLE = (
    f"{N_EFFECT} trees with P = 6..14 for effects, {N_CHILDREN:,} with P = 10 for probes, {N_HIDDEN:,} with the goal "
    "hidden"
)
P12 = Claim(
    "P12",
    "One-step lookahead: the last layers turn away from leaves",
    FIGURES,
    "Where chaining doesn't reach, the last two layers find the current node's children: at the root each edge A>B "
    "adds to A and subtracts from B, so that nodes without children sink.",
    "+5..+9 on A, -10 on B, about 0 for the root's edges (one tree); probes for children: F1 about .9 (from memory)",
    Accept(
        "both signs right in >= .90 of trees, clipped at .07 and unclipped; children F1 >= .90, also where a node has "
        "two; with the goal hidden, the deeper of two inner children is taken in < .75 of trees (else "
        "depth is what counts, not leaves)",
        lambda r: (
            r["trees, clipped"] >= 0.90
            and r["trees, unclipped"] >= 0.90
            and r["children F1"] >= 0.90
            and r["children F1, branch"] >= 0.90
            and r["deeper of two inner children"] < 0.75
        ),
    ),
    by_seed(lookahead, "trees, unclipped", sample=SAMPLE),
    (
        Control("untrained twin", by_seed(lookahead, "trees, unclipped", sample="a quarter", twin=True)),
        Control("edges of another tree", by_seed(_other_trees, "trees, unclipped", sample=SAMPLE)),
        Control(
            "shuffled children",
            by_seed(lambda s: _instead(s, "shuffled"), "children F1, branch", sample=SAMPLE),
        ),
        Control(
            "the right answer alone",
            by_seed(lambda s: _instead(s, "answer alone"), "children F1, branch", sample=SAMPLE),
        ),
    ),
    "Direct effects only, at the edges' target tokens as the authors took them (the row also has all three tokens). "
    "The child on the path is the answer, which late layers hold anyway: erasing 'inner children' there "
    "erases the answer too, so its cost is shown but not judged. The bound on depth is the middle between chance "
    "and always, ours; trees with a hidden goal were never trained on.",
)

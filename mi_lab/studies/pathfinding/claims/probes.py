"""P2, P3: what probes read off the residual stream, and what erasing it costs.

A probe alone proves nothing here: after one layer of untrained, uniform attention much can be decoded
too. So both rest on their erasures.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor

from mi_lab.claims import Accept, Claim, Control
from mi_lab.erase import Erasure, erase_sites
from mi_lab.model import Transformer
from mi_lab.probe import probe_sites
from mi_lab.run import Edit, knock_out, run
from mi_lab.sites import Site, truncated
from mi_lab.stack import fast_matmul
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.baselines import by_length
from mi_lab.studies.pathfinding.circuit import patterns, position_scores
from mi_lab.studies.pathfinding.claims.common import FIGURES, Row
from mi_lab.studies.pathfinding.claims.subjects import (
    N_TEST,
    Subject,
    by_seed,
    clean,
    control,
    graded,
    renamed,
)
from mi_lab.studies.pathfinding.task import PathfindingTask

N_PROBE = 2000  # trees for probes
N_FIRST = 400  # for first steps


# ---- P2 ----


def edge_probes(model: Transformer, task: PathfindingTask, n: int) -> Row:
    """Macro-F1 of probes for an edge's other node, before and after layer 0's attention, and where it looks."""
    some, edge = m.trees(task, n), 3 * task.n_edges
    tokens = some.tokens[:, : edge - 1]
    source = tokens[:, 0::3] - task.first_bare
    target = tokens[:, 1::3] - task.first_target
    sources, targets = range(0, edge, 3), range(1, edge, 3)
    sites = {
        "before": Site(0, "resid_pre", targets),
        "after": Site(0, "resid_mid", targets),
        "target at source, after": Site(0, "resid_mid", sources),
    }
    labels = {"before": source, "after": source, "target at source, after": target}
    found = probe_sites(model, tokens, sites, labels, pooled=True)
    row = {name: found[name].f1 for name in sites}
    row |= {f"{name}, shuffled": control(found[name]).f1 for name in ("before", "after")}
    seen = patterns(truncated(model, 1), tokens[:200])[:, 0].sum(1)  # [n, query, key]
    own = seen[:, list(targets), list(sources)]
    scores = position_scores(model, *[model.pos_embed.W_pos[: edge - 1]] * 2).sum(0)
    scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(), -torch.inf)
    return row | {
        "attention to own source": float(own.mean()),
        "it is the largest": float(
            (seen[:, list(targets)].argmax(-1) == torch.tensor(sources)).float().mean()
        ),
        "it is so by position alone": float(
            (scores[list(targets)].argmax(-1) == torch.tensor(sources)).float().mean()
        ),
    }


def edge_erasure(model: Transformer, task: PathfindingTask, test: m.Trees, before: Tensor, n: int) -> Row:
    """What it costs to erase every edge's source label from its target token after layer 0's attention.

    test: trees to pay it on; before Bool[n]: those that are right without.
    """
    some, edge = m.trees(task, n), 3 * task.n_edges
    source = some.tokens[:, 0:edge:3] - task.first_bare
    sites = {
        "targets": Site(0, "resid_mid", range(1, edge, 3)),
        "commas": Site(0, "resid_mid", range(2, edge, 3)),
    }
    # only layer 0 is looked at: the same erasers as with all layers, sooner
    both = erase_sites(truncated(model, 1), some.tokens[:, :edge], sites, source)
    erasure = Erasure({"targets": both.sites["targets"]}, {"targets": both.erasers["targets"]})
    choices = {"erased": erasure, "random": erasure.random(seed=1), "erased at commas too": both}
    row: Row = {"clean": float(before.float().mean())}
    for name, one in choices.items():
        right, _ = graded(model, test, edit=one.edit)
        lost = by_length(before.float() - right.float(), test.truth, test.task.longest_path)
        row[name] = float(right.float().mean())
        row[f"least cost, {name}"] = float(lost[test.task.shortest - 1 :].min())
    return row


@functools.lru_cache(maxsize=8)
def concatenation(s: Subject) -> Row:
    """P2's numbers."""
    model, task = s.model, m.task_of(s.recipe)
    test, right, _ = clean(s)
    return edge_probes(model, task, N_PROBE) | edge_erasure(model, task, test, right, N_PROBE)


P2_SAMPLE = f"{N_PROBE:,} trees for probes and erasers, {N_TEST:,} with P = 2..13 for what erasing costs"
P2 = Claim(
    "P2",
    "Layer 0 concatenates edges",
    FIGURES,
    "After layer 0's attention the target token of an edge holds the edge's source as well, linearly, and "
    "the model needs it there.",
    "source label at targets, F1: .083 before, 1.000 after (value vectors, an older model); erasure: not saved; "
    "attention to the own source .31-.38, the largest weight, by position",
    Accept(
        "source at targets, macro-F1: <= .12 before, >= .99 after; erasing it costs >= 30 points of exact match "
        "at every P = 2..13, a random subspace of equal rank < 2 on average",
        lambda r: (
            r["before"] <= 0.12
            and r["after"] >= 0.99
            and r["least cost, erased"] >= 0.30
            and r["clean"] - r["random"] < 0.02
        ),
    ),
    by_seed(concatenation, "after", sample=P2_SAMPLE),
    (
        Control(
            "untrained twin",
            by_seed(concatenation, "after", sample=f"the same, {N_TEST // 4} test trees", twin=True),
        ),
        Control(
            "equal-rank random subspace",
            by_seed(
                lambda s: {**concatenation(s), "least cost, erased": concatenation(s)["least cost, random"]},
                "least cost, erased", sample=P2_SAMPLE,
            ),
        ),
        Control(
            "shuffled labels",
            by_seed(
                lambda s: renamed(concatenation(s), before="before, shuffled", after="after, shuffled"),
                "after", sample=P2_SAMPLE,
            ),
        ),
    ),
    "One probe and one map for all 15 target positions; erasers are fitted at each by itself. The random "
    "subspace is uniform where the covariance is the identity. Sources may also reach commas, which are left "
    "alone: an erasure that costs little can mean that the edge is kept there. An untrained twin's attention "
    "mixes sources into targets too: the probe alone proves nothing.",
)  # fmt: skip


# ---- P3 ----


def goal_probes(model: Transformer, task: PathfindingTask, n: int) -> Row:
    """Macro-F1 of probes for the goal at the root and the path behind it, as long as it isn't written there."""
    some, root = m.trees(task, n), task.root_position
    tokens = some.tokens[:, : task.answer.stop]
    path = range(root, task.answer.stop)
    steps = torch.arange(len(path))
    goal = torch.where(steps < some.truth["length"][:, None], some.truth["goal"][:, None], -1)
    sites = {"before": Site(0, "resid_pre", path), "after": Site(0, "resid_mid", path)}
    found = probe_sites(model, tokens, sites, goal, pooled=True)
    at_root = probe_sites(
        model, tokens, {"root": Site(0, "resid_mid", [root])}, some.truth["goal"], control=None
    )
    seen = patterns(truncated(model, 1), tokens[:200, : root + 1], [root])[:, 0, :, 0].sum(1)
    row = {name: found[name].f1 for name in sites} | {"after, root only": at_root["root"].f1}
    row |= {f"{name}, shuffled": control(found[name]).f1 for name in sites}
    return row | {
        "attention to goal": float(seen[:, task.goal_position].mean()),
        "it is the largest": float((seen.argmax(-1) == task.goal_position).float().mean()),
    }


def hard_trees(task: PathfindingTask, n: int, seed: int) -> m.Trees:
    """Trees whose other side is at least as deep, P = 5..7 (n = 16; else the two lengths below n / 2)."""
    middle = task.n_nodes // 2 - 1
    some = m.trees(replace(task, shortest=max(2, middle - 2), longest=middle), 4 * n, seed)
    return some.where(some.truth["hard"], n)


def goal_erasure(model: Transformer, fit: m.Trees, test: m.Trees, far: m.Trees) -> Row:
    """First steps, with the goal erased from the root token after layer 0, and with later reading forbidden.

    "blocked": from layer 1 on the root may not look at the goal and the colon, the only other
    tokens that can know the goal; what is left of it is layer 0's copy. fit: trees for the eraser; far:
    trees that depth alone answers.
    """
    root = test.task.root_position
    sites = {"root": Site(0, "resid_post", [root])}
    erasure = erase_sites(truncated(model, 1), fit.tokens[:, : root + 1], sites, fit.truth["goal"])
    random = erasure.random(seed=1)
    layers = range(1, model.config.n_layers)
    blocked = {f"blocks.{i}.attn.scores": knock_out(root, [root - 2, root - 1]) for i in layers}
    return {
        "clean": _first_steps(model, test),
        "erased": _first_steps(model, test, erasure.edit),
        "random": _first_steps(model, test, random.edit),
        "blocked": _first_steps(model, test, blocked),
        "blocked, erased": _first_steps(model, test, {**blocked, **erasure.edit}),
        "blocked, random": _first_steps(model, test, {**blocked, **random.edit}),
        "far, erased": _first_steps(model, far, erasure.edit),
    }


@torch.no_grad()
def _first_steps(model: Transformer, some: m.Trees, edit: Edit | None = None) -> float:
    root, right = some.task.root_position, []
    with fast_matmul(model.device):
        for rows in some.tokens.split(64):
            out = run(model, rows[:, : root + 1], edit=edit).logits[:, root]
            right.append(out.argmax(-1) == rows[:, root + 1])
    return float(torch.cat(right).float().mean())


@functools.lru_cache(maxsize=8)
def goal_copy(s: Subject) -> Row:
    """P3's numbers."""
    model, task = s.model, m.task_of(s.recipe)
    far = m.trees(
        replace(task, shortest=task.n_nodes // 2, longest=task.n_nodes - 2), s.some(N_FIRST) // 2, 2
    )
    row = goal_erasure(model, hard_trees(task, N_PROBE, 1), hard_trees(task, s.some(N_FIRST), 2), far)
    return goal_probes(model, task, N_PROBE) | row


P3_SAMPLE = (
    f"{N_PROBE:,} trees for probes, {N_FIRST} with P = 5..7 and the other side as deep for first steps"
)
P3 = Claim(
    "P3",
    "Layer 0 copies the goal to the path tokens",
    FIGURES,
    "After layer 0's attention the root and the path tokens behind it hold the goal, linearly, and the first step "
    "needs that copy where depth doesn't tell.",
    "attention to the goal .19-.36, the largest weight; probe and erasure: not saved",
    Accept(
        "goal at path tokens, macro-F1: <= .12 before, >= .99 after; hard stratum, first steps: >= .80 to begin "
        "with, <= .60 once the goal is erased after layer 0; or, if it is read again later: >= .80 with "
        "later reading blocked and <= .60 with that and the erasure",
        lambda r: (
            r["before"] <= 0.12
            and r["after"] >= 0.99
            and r["clean"] >= 0.80
            and (r["erased"] <= 0.60 or (r["blocked"] >= 0.80 and r["blocked, erased"] <= 0.60))
        ),
    ),
    by_seed(goal_copy, "after", sample=P3_SAMPLE),
    (
        Control(
            "untrained twin",
            by_seed(goal_copy, "after", sample=f"the same, {N_FIRST // 4} first steps", twin=True),
        ),
        Control(
            "equal-rank random subspace",
            by_seed(
                lambda s: renamed(goal_copy(s), erased="random", blocked__erased="blocked, random"),
                "erased", sample=P3_SAMPLE,
            ),
        ),
        Control(
            "shuffled labels",
            by_seed(
                lambda s: renamed(goal_copy(s), before="before, shuffled", after="after, shuffled"),
                "after", sample=P3_SAMPLE,
            ),
        ),
    ),
    "Only the first step is tested causally. Where P >= 8 depth alone answers it, so that erasing the goal should "
    "cost little there. Blocking later reads stands for the dossier's second erasure, and is stricter: "
    "erasing the goal everywhere would harm any model that ever brings it to the root.",
)  # fmt: skip

"""What heads look at, said in the tree's own terms.

Attention goes from token to token; what it means is a relation in the tree: my own edge, my
parent's edge, a child's edge, the goal's ancestor at distance k. These functions translate. With
one head per layer a pattern is [layer, query, key]; with several they are kept apart.

Relations of edge j to edge i (an edge is named by its lower end): 0 the same edge, d > 0 when j is
the edge into the d-th ancestor of i's lower end, -d when j is the edge into a d-th descendant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mi_lab.model import LayerNorm, Transformer
from mi_lab.run import run
from mi_lab.sites import untrained_twin as untrained_twin
from mi_lab.studies.pathfinding.task import PathfindingTask

UNRELATED = 99
CLASSES = ("source", "target", "comma", "bar", "goal", "colon", "path")


@torch.no_grad()
def patterns(
    model: Transformer, tokens: Tensor, queries: list[int] | slice = slice(None), *, chunk: int = 128
) -> Tensor:
    """Float[n, layer, head, query, key]: attention from these positions."""
    out = []
    for rows in tokens.split(chunk):
        found = run(model, rows, record="blocks.*.attn.pattern").recorded.values()
        out.append(torch.stack([pattern[:, :, queries] for pattern in found], 1))
    return torch.cat(out)


def token_class(task: PathfindingTask, length: int | None = None) -> Tensor:
    """Int[pos]: index into CLASSES of each position."""
    edge = 3 * task.n_edges
    kinds = torch.full((task.n_ctx if length is None else length,), CLASSES.index("path"))
    kinds[:edge] = torch.arange(edge) % 3
    kinds[edge - 1 : edge + 2] = torch.tensor([CLASSES.index(k) for k in ("bar", "goal", "colon")])
    return kinds


def mass_by_class(task: PathfindingTask, pattern: Tensor) -> Tensor:
    """Float[.., class]: attention [.., key] summed over the tokens of each class."""
    kinds = token_class(task, pattern.shape[-1]).to(pattern.device)
    out = pattern.new_zeros(*pattern.shape[:-1], len(CLASSES))
    return out.index_add_(-1, kinds, pattern)


def to_ancestors(truth: Mapping[str, Tensor], pattern: Tensor, *, count: int) -> Tensor:
    """Float[n, .., k]: attention [n, .., key] to the target `>anc_k` of the goal, k = 0..count-1.

    NaN where anc_k is the root (it has no edge above it) or beyond.
    """
    ancestor = truth["ancestor"][:, :count]
    where = truth["position"].gather(1, ancestor.clamp(min=0))
    missing = (ancestor < 0) | (where < 0)
    shape = (len(ancestor), *(1,) * (pattern.ndim - 2), count)
    index = where.clamp(min=0).view(shape).expand(*pattern.shape[:-1], count)
    return pattern.gather(-1, index).masked_fill(missing.view(shape), torch.nan)


def relations(task: PathfindingTask, tokens: Tensor, truth: Mapping[str, Tensor]) -> Tensor:
    """Int[n, edge i, edge j]: how j is related to i (see the module's text), UNRELATED if not at all."""
    target = tokens[:, 1 : 3 * task.n_edges : 3] - task.first_target
    parent = truth["parent"]
    above = target[:, :, None].expand(-1, -1, task.n_edges)  # walk from i's lower end, compare with j's
    goal = target[:, None, :]
    out = torch.full(above.shape, UNRELATED, device=tokens.device)
    at = target
    for distance in range(task.n_nodes):
        hit = at[:, :, None] == goal
        out[hit] = distance
        if distance:
            out.transpose(1, 2)[hit] = -distance
        at = torch.where(at >= 0, parent.gather(1, at.clamp(min=0)), -1)
        if (at < 0).all():
            break
    return out


def attention_by_relation(
    task: PathfindingTask,
    pattern: Tensor,
    relation: Tensor,
    *,
    query: str = "comma",
    reach: int = 3,
) -> dict[str, Tensor]:
    """What tokens of edges look at: {name: Float[n, layer, head]}, mean over the edges of each prompt.

    pattern [n, layer, head, query, key] of all edge tokens. query: "source", "target" or "comma" (the last
    edge has none). Names "own target", "parent comma", "grandchild source", ..: the attention that the
    query's edge gives to that token, averaged over edges for which such an edge exists and was read
    before; "other" is what is left. Two children count together.
    """
    edges = task.n_edges
    offset = CLASSES.index(query)
    rows = torch.arange(edges - (query == "comma")) * 3 + offset
    out: dict[str, Tensor] = {}
    relation = relation[:, : len(rows)]
    names = {0: "own", 1: "parent", 2: "grandparent", -1: "child", -2: "grandchild"}
    total = pattern.new_zeros(pattern.shape[:3])
    for kind, key in enumerate(("source", "target", "comma")):
        columns = torch.arange(edges - (key == "comma")) * 3 + kind
        part = pattern[:, :, :, rows][..., columns]
        seen = columns[None, :] <= rows[:, None]
        for distance in range(-reach, reach + 1):
            name = names.get(distance, f"{abs(distance)} {'up' if distance > 0 else 'down'}")
            hit = (relation[:, :, : len(columns)] == distance) & seen
            there = hit.any(-1)
            mass = (part * hit[:, None, None]).sum(-1)
            count = there.sum(-1).clamp(min=1)[:, None, None]
            value = mass.sum(-1) / count
            out[f"{name} {key}"] = value.masked_fill(~there.any(-1)[:, None, None], torch.nan)
            total = total + mass.sum(-1) / len(rows)
    out["other"] = 1 - total
    return out


@torch.no_grad()
def composition_matrix(
    model: Transformer, task: PathfindingTask, layer: int = 1, *, scaled: bool = False
) -> Tensor:
    """S[v, u] (claim P5): how well node v, moved by layer 0's OV and MLP, matches the key of `>u` in `layer`.

    From the weights alone: r = o + MLP_0(LN2(o)) with o = W_E[v] W_V W_O + b_O of layer 0, S = (r W_Q)
    (W_E[>u] W_K)^T of `layer`. scaled: with ln1, the biases and 1/sqrt(d_head), as the model computes
    it. Heads are summed.
    """
    embed = model.embed.W_E
    bare = embed[task.first_bare : task.first_bare + task.n_labels]
    target = embed[task.first_target : task.first_target + task.n_labels]
    zero, block = model.blocks[0], model.blocks[layer]
    if scaled:
        bare, target = zero.ln1(bare), block.ln1(target)
    o = torch.einsum("vd,hde,hef->vf", bare, zero.attn.W_V, zero.attn.W_O) + zero.attn.b_O
    if scaled:
        o = o + torch.einsum("he,hef->f", zero.attn.b_V, zero.attn.W_O)
    r = o + zero.mlp(zero.ln2(o), lambda name, value: value)
    if scaled:
        r = block.ln1(r)
    q, k = torch.einsum("vd,hde->hve", r, block.attn.W_Q), torch.einsum("vd,hde->hve", target, block.attn.W_K)
    if scaled:
        q, k = q + block.attn.b_Q[:, None], k + block.attn.b_K[:, None]
        q = q / math.sqrt(model.config.d_head)
    return (q @ k.transpose(1, 2)).sum(0)


@torch.no_grad()
def position_scores(model: Transformer, queries: Tensor, keys: Tensor, *, layer: int = 0) -> Tensor:
    """Attention scores from rows of the residual stream alone, [head, query, key], in units of the softmax.

    queries, keys [.., d_model]: rows of W_pos or W_E; each goes through ln1 by itself. Claims P2, P9.
    """
    block = model.blocks[layer]
    norm = block.ln1 if isinstance(block.ln1, LayerNorm) else (lambda x: x)
    q = torch.einsum("qd,hde->hqe", norm(queries), block.attn.W_Q) + block.attn.b_Q[:, None]
    k = torch.einsum("kd,hde->hke", norm(keys), block.attn.W_K) + block.attn.b_K[:, None]
    return q @ k.transpose(1, 2) / math.sqrt(model.config.d_head)

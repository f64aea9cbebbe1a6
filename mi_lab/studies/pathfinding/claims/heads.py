"""P4, P5, P9, P15, P16: deduction heads at the path token, in attention and in weights."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_lab.claims import Accept, Claim, Control
from mi_lab.model import Transformer
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.circuit import composition_matrix, patterns, position_scores
from mi_lab.studies.pathfinding.claims.common import FIGURES, Asked, Row, per_seed

N = 2000


def _deduction(model: Transformer, *, recipe: str = "paper", shifted: bool = False) -> Row:
    some = m.trees(m.task_of(recipe), N)
    if shifted:  # a node of the same depth as anc_k, off the goal's line of ancestors, where there is one
        some = some._replace(truth={**some.truth, "ancestor": _cousins(some.truth)})
    found = m.deduction(model, some)
    return {f"D{layer + 1}": value for layer, value in enumerate(found)}


def _cousins(truth: m.Truth) -> Tensor:
    """[n, k]: another node at the depth of anc_k, the smallest label; -1 if it is alone there."""
    ancestor, depth = truth["ancestor"], truth["depth"]
    at = depth.gather(1, ancestor.clamp(min=0))
    label = torch.arange(depth.shape[1])
    same = (depth[:, None, :] == at[:, :, None]) & (label != ancestor[:, :, None])
    first = torch.where(same, label, depth.shape[1]).amin(2)
    return torch.where((ancestor >= 0) & (first < depth.shape[1]), first, -1)


_climbs = Accept("D_1, D_2 and D_3 >= .6", lambda r: min(r["D1"], r["D2"], r["D3"]) >= 0.6)

P4 = Claim(
    "P4",
    "Deduction heads climb one level per layer",
    FIGURES,
    "From layer 1 on the root token attends to the edge into the goal's ancestor at distance l - 1 in layer l.",
    "one tree, P = 9: .19 (goal), .71, .98, .80, .19, .19; clean heads in L1-L3",
    _climbs,
    per_seed("paper", _deduction, "D1", sample=f"{N:,} trees of the training law, those with P >= l"),
    (
        Control("untrained twin", per_seed("paper", _deduction, "D1", sample="the same", twin=True)),
        Control(
            "another node of the same depth",
            per_seed("paper", lambda model: _deduction(model, shifted=True), "D1", sample="the same trees"),
        ),
    ),
    "Attention is a hint; P7 and P17 decide. A model may reach the accuracy of P1 without such heads: then this "
    "claim is about the authors' model, not about the task.",
)


def _composition(model: Transformer, *, layer: int = 1) -> Row:
    task = m.task_of("paper")
    plain, scaled = (composition_matrix(model, task, layer, scaled=s) for s in (False, True))
    right = torch.arange(task.n_nodes)
    return {
        "rows": float((plain.argmax(1) == right).sum()),
        "rows_scaled": float((scaled.argmax(1) == right).sum()),
        "margin": float((plain.diagonal() - _best_other(plain)).median()),
    }


def _best_other(matrix: Tensor) -> Tensor:
    return matrix.masked_fill(torch.eye(len(matrix), dtype=torch.bool), -torch.inf).amax(1)


P5 = Claim(
    "P5",
    "The climb is visible in the weights alone",
    FIGURES,
    "A node's bare embedding, moved by layer 0's OV and MLP, is a layer-1 query that fits the key of the same "
    "node as a target.",
    "a perfect 16 x 16 identity, by eye",
    Accept("the diagonal is the row's maximum for >= 15 of 16 nodes", lambda r: r["rows"] >= 15),
    per_seed("paper", _composition, "rows", sample="weights only"),
    (
        Control("untrained twin", per_seed("paper", _composition, "rows", sample="weights only", twin=True)),
        Control(
            "layer 3 in the place of layer 1",
            per_seed("paper", lambda model: _composition(model, layer=3), "rows", sample="weights only"),
        ),
    ),
    "The same identity can serve any reader of a node's name, at the root or at an edge: it doesn't say who asks.",
)


def register_chains(model: Transformer, some: m.Trees, *, shuffle: bool = False) -> tuple[Tensor, Tensor]:
    """For each position 0 .. root: how strongly it climbs (claim P9), and its start preference.

    chain [pos]: mean over trees of the layer-2 attention to `>parent(v)`, v being the node of the target token
    that got most attention in layer 1, where v has a parent edge that was read before; preference [pos]:
    largest probability of softmax over bare tokens of the position's own layer-0 query. shuffle: parents from
    another tree (the null).
    """
    task, truth = some.task, some.truth
    end = task.root_position + 1
    seen = patterns(model, some.tokens[:, :end])[:, 1:3].sum(2)  # [n, layer 1 or 2, query, key]
    first = 3 * task.n_edges - 2
    top = seen[:, 0, :, 1 : first + 1 : 3].argmax(-1)  # edge index with the most attended target
    targets = some.tokens[:, 1 : first + 1 : 3] - task.first_target
    node = targets.gather(1, top)
    parent_of, where_of = truth["parent"], truth["position"]
    if shuffle:
        parent_of, where_of = parent_of.roll(1, 0), where_of.roll(1, 0)
    parent = parent_of.gather(1, node)
    where = torch.where(parent >= 0, where_of.gather(1, parent.clamp(min=0)), -1)
    there = (where >= 0) & (where < torch.arange(end))
    mass = seen[:, 1].gather(2, where.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    chain = torch.where(there, mass, 0).sum(0) / there.sum(0).clamp(min=1)
    scores = position_scores(model, model.pos_embed.W_pos[:end], model.embed.W_E[task.first_bare :])
    return chain, scores.softmax(-1).amax(-1)[0]


def _registers(model: Transformer, *, shuffle: bool = False) -> Row:
    some = m.trees(m.task_of("paper"), 600)
    chain, preference = register_chains(model, some, shuffle=shuffle)
    tail = torch.arange(len(chain)) >= 30
    good = (chain >= 0.6) & (preference > 0.5) & tail
    return {
        "positions": float(good.sum()),
        "climbing": float(((chain >= 0.6) & tail).sum()),
        "preferring": float(((preference > 0.5) & tail).sum()),
        "best_chain": float(chain[tail].max()),
    }


P9 = Claim(
    "P9",
    "Register tokens pick a start node by position and climb from it",
    FIGURES,
    "Late positions with nothing else to do prefer some node in layer 0 and chain upward from it in L1-L2.",
    "positions 36, 38, 39, 41, 42, 44, 45, 46 with preferences of .55-1.0 and chains of .83-1.0 in single trees",
    Accept("at least 4 positions with preference > .5 and chain score >= .6", lambda r: r["positions"] >= 4),
    per_seed("paper", _registers, "positions", sample="600 trees, positions 30..47"),
    (
        Control("untrained twin", per_seed("paper", _registers, "positions", sample="600 trees", twin=True)),
        Control(
            "parents taken from another tree",
            per_seed("paper", lambda model: _registers(model, shuffle=True), "positions", sample="600 trees"),
        ),
    ),
    "Which positions and nodes is a matter of the seed: existence is tested. Registers that hold more than one "
    "path, or climb from their own edge, are not counted here; P17 sees them.",
)


def _backward(model: Transformer, recipe: str, levels: int) -> Row:
    some = m.trees(m.task_of(recipe, order="backward"), N)
    found = m.deduction(model, some.where(some.truth["length"] >= 2))
    return {
        "exact": float(m.exact(model, some).float().mean()),
        **{f"D{k + 1}": found[k] for k in range(levels)},
    }


def backward_heads(recipe: str, levels: int, *, sample: str, twin: bool = False) -> Asked:
    """Whole paths right in backward order, and the first deduction scores where P >= 2, for one recipe's models."""
    return per_seed(recipe, lambda model: _backward(model, recipe, levels), "exact", sample=sample, twin=twin)


P15 = Claim(
    "P15",
    "Equal accuracy, another algorithm",
    "measured for the dossier, one seed",
    "Three layers on trees of 8 nodes solve the backward order without any deduction head.",
    "98.4 % exact, D_1 = .01, D_2 <= .03 at P >= 2 (one seed)",
    Accept(
        "exact >= .96 (backward order), D_1 and D_2 <= .2 at P >= 2",
        lambda r: r["exact"] >= 0.96 and max(r["D1"], r["D2"]) <= 0.2,
    ),
    backward_heads("quick", 2, sample=f"{N:,} backward trees of 8 nodes"),
    (
        Control("untrained twin", backward_heads("quick", 2, sample="the same", twin=True)),
        Control(
            "models that were shown the climb, on their trees of 10 nodes (`unaided`)",
            backward_heads("unaided", 2, sample=f"{N:,} trees"),
        ),
    ),
    "Which algorithm it is instead: P17.",
)


def _deduction_and_exact(model: Transformer) -> Row:
    return _deduction(model) | {"exact": float(m.exact(model, m.trees(m.task_of("paper"), N)).float().mean())}


P16 = Claim(
    "P16",
    "The mechanism is what this configuration learns",
    "the paper analysed one model; the claim is ours",
    "Every full-size run that solves the task has deduction heads.",
    "one model",
    Accept("D_1, D_2 and D_3 >= .6 in every model", _climbs.test, quorum=1.0),
    per_seed("paper", _deduction_and_exact, "D1", sample=f"{N:,} trees"),
    (
        Control(
            "untrained twin",
            per_seed("paper", _deduction, "D1", sample="the same", twin=True),
        ),
    ),
    "Few full-size runs exist: each costs hours of one CPU core.",
)

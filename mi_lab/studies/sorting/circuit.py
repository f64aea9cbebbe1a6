"""The circuits of a list sorter, and how to tell vocabulary-splitting from copy-suppression.

One head can sort: attend to the *smallest number above the current one* (QK) and copy it (OV).
With several heads the question is who copies what. The OV diagonal says it: OV_h[k, k] - mean of
the row is head h's *copying margin* c_h(k), how strongly attending to number k raises k itself.

- vocabulary-splitting: every number is copied by exactly one head, in contiguous ranges;
- overlap: several heads copy the same numbers;
- copy-suppression: one head copies a number and another writes against it.

Definitions and thresholds: sorting dossier, section 4. The paper's own metric is not known.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mi_lab.circuits import direct_logit_attribution, head_outputs, ov_circuit, qk_circuit
from mi_lab.metrics import auc, pearson, spearman
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.run import run
from mi_lab.sites import untrained_twin as untrained_twin
from mi_lab.studies.base import targets
from mi_lab.studies.sorting.task import SortingTask

THRESHOLD = 0.15  # of the largest smoothed margin: what counts as copying or suppressing


class Structure(NamedTuple):
    """Who copies what. overlap, single, suppress: fractions of numbers.

    overlap: copied by two heads or more; single: by exactly one; suppress: copied by one head while
    another writes against it. owner [number]: the head that copies it most. runs: constant runs of
    owner. margin [head, number]: c_h(k) in logits, unsmoothed.
    """

    overlap: float
    single: float
    suppress: float
    runs: int
    owner: Tensor
    margin: Tensor


def copying_margin(model: Transformer, task: SortingTask) -> Tensor:
    """c_h(k) = OV_h[k, k] - mean over j != k of OV_h[k, j]: Float[head, number], logits."""
    n = task.n_numbers
    ov = ov_circuit(model).full()[:, :n, :n]
    diagonal = ov.diagonal(dim1=1, dim2=2)
    return diagonal - (ov.sum(2) - diagonal) / (n - 1)


def smooth(margin: Tensor) -> Tensor:
    """Mean over a window of 3 neighbours (2 at the ends)."""
    padded = torch.nn.functional.pad(margin, (1, 1))
    total = padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]
    count = torch.full_like(margin, 3.0)
    count[..., 0] = count[..., -1] = 2.0
    return total / count


def structure(margin: Tensor, *, interior: int = 0) -> Structure:
    """The `Structure` of copying margins [head, number]; `interior` leaves out that many at each end."""
    soft = smooth(margin)
    threshold = THRESHOLD * soft.abs().max()
    keep = slice(interior, margin.shape[1] - interior)
    up, down = (soft > threshold)[:, keep].sum(0), (soft < -threshold)[:, keep].sum(0)
    owner = soft.argmax(0)
    return Structure(
        overlap=float((up >= 2).float().mean()),
        single=float((up == 1).float().mean()),
        suppress=float(((up >= 1) & (down >= 1)).float().mean()),
        runs=count_runs(owner),
        owner=owner,
        margin=margin,
    )


def count_runs(labels: Tensor) -> int:
    """Number of constant stretches."""
    return int((labels.diff() != 0).sum()) + 1


def runs_null(margin: Tensor, *, permutations: int = 2000, seed: int = 0) -> Tensor:
    """Runs of the owner labels when the labels (of the unsmoothed margin) are permuted: Int[permutations].

    Permuting each head's margins separately would be a poor null: one dominant head shrinks it.
    """
    owner = margin.argmax(0)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(permutations, len(owner), generator=generator).argsort(1)
    return (owner[order].diff(dim=1) != 0).sum(1) + 1


class Attention(NamedTuple):
    """How well a head's QK table prefers the smallest number above the current one.

    rho: mean Spearman correlation of QK[q, k] with k over k > q (ideal: -1).
    auc: mean over q of P(QK[q, k > q] > QK[q, k <= q]). near: the argmax over k > q lies in q+1 .. q+3.
    """

    rho: float
    auc: float
    near: float


def attention_order(model: Transformer, task: SortingTask) -> list[Attention]:
    """`Attention` of every head, from weights alone."""
    n = task.n_numbers
    out = []
    number = torch.arange(n)
    for qk in qk_circuit(model)[:, :n, :n]:
        rho = [float(spearman(qk[q, q + 1 :], number[q + 1 :].float())) for q in range(n - 3)]
        best = torch.stack([qk[q, q + 1 :].argmax() + 1 for q in range(n - 1)])
        # per query: attention only ever compares keys of one row
        sides = [auc(qk[q], number > q) for q in range(n - 1)]
        near = float((best <= 3).float().mean())
        out.append(Attention(sum(rho) / len(rho), sum(sides) / len(sides), near))
    return out


def qk_similarity(model: Transformer, task: SortingTask) -> tuple[float, float]:
    """Correlation of the first two heads' QK over k > q: raw, and with the mean distance trend removed."""
    n = task.n_numbers
    qk = qk_circuit(model)[:2, :n, :n]
    number = torch.arange(n)
    distance = number[None, :] - number[:, None]
    above = distance > 0
    raw = float(pearson(qk[0][above], qk[1][above]))
    trend = torch.zeros(2, n)
    for d in range(1, n):
        trend[:, d] = qk[:, distance == d].mean(1)
    rest = qk - trend[:, distance.clamp(min=0)]
    return raw, float(pearson(rest[0][above], rest[1][above]))


class Attribution(NamedTuple):
    """Direct logit attribution by target. effect [head, number]: D_h(t), mean of o_h . centred
    unembedding of t over positions whose target is t. owner [number]: argmax. share: mean over t
    of max_h D_h / sum_h max(D_h, 0). count [number]: positions."""

    effect: Tensor
    owner: Tensor
    share: float
    count: Tensor


@torch.no_grad()
def attribution(model: Transformer, task: SortingTask, tokens: Tensor) -> Attribution:
    """Who writes which number, measured on data."""
    z = run(model, tokens, record=("blocks.0.attn.z",))["blocks.0.attn.z"][:, task.answer]
    right = targets(task, tokens)
    effect = direct_logit_attribution(model, head_outputs(model, z), right)  # [batch, answer, head]
    heads, n = effect.shape[-1], task.n_numbers
    flat, values = right.flatten(), effect.flatten(0, 1).T
    count = torch.bincount(flat, minlength=n)
    mean = torch.zeros(heads, n).index_add_(1, flat, values) / count.clamp(min=1)
    positive = mean.clamp(min=0).sum(0)
    share = torch.where(positive > 0, mean.max(0).values / positive.clamp(min=1e-12), torch.ones(n))
    return Attribution(mean, mean.argmax(0), float(share[count > 0].mean()), count)


@torch.no_grad()
def hand_made_sorter(
    task: SortingTask, config: TransformerConfig, *, a: float = 20.0, b: float = 2.0
) -> Transformer:
    """A sorter written down by hand: what the QK and OV story needs, and nothing else.

    Tokens are one-hot in the residual stream. QK[q, k] = -b (k - q) for k > q, -c below, and -b k
    for SEP as the query, which starts with the minimum; OV copies with strength a. The score table
    has as many independent rows as there are numbers, more than d_head: so each head serves its own
    range of *current* tokens and looks at SEP, where its OV is zero, for all others. Splitting is
    what makes the exact solution fit. Copying goes through d_head cosines: exact from d_head = n on;
    with half as many a must be large, and with fewer, neighbours blur into one another.

    Raises ValueError if the shape can't hold it. Source: claim S2, sufficiency.
    """
    n, d, heads, d_head = task.n_numbers, config.d_model, config.n_heads, config.d_head
    rows = -(-(n + 1) // heads)
    if config.n_layers != 1 or config.d_mlp:
        raise ValueError("the hand-made sorter is one attention-only layer")
    needed = max(rows, -(-n // 2)) + 1
    if d < n + 1 or d_head < needed:
        raise ValueError(
            f"{n} numbers need d_model >= {n + 1} and d_head >= {needed} with {heads} heads, "
            f"not {d} and {d_head}"
        )
    model = Transformer(config)
    for parameter in model.parameters():
        parameter.zero_()
    for name, parameter in model.named_parameters():
        if name.endswith(".w"):
            parameter.fill_(1.0)
    model.embed.W_E[: n + 1, : n + 1] = torch.eye(n + 1)
    # LayerNorm turns the one-hot e_t into s (e_t - 1/d); undo both so that weights act on e_t
    s = 1.0
    if config.norm:
        s = float((1 / d * (1 - 1 / d) + config.eps) ** -0.5)
    number = torch.arange(n).float()
    c = abs(b) * n + 60.0  # below every allowed score by a margin that softmax takes for -inf
    score = torch.full((n + 1, n + 1), -c)
    distance = number[None, :] - number[:, None]
    score[:n, :n] = torch.where(distance > 0, -b * distance, torch.tensor(-c))
    score[n, :n] = -b * number
    attn = model.blocks[0].attn
    basis = torch.linalg.qr(
        torch.cos(torch.pi * (number[:, None] + 0.5) * torch.arange(min(n, d_head)) / n)
    ).Q

    def write(weight: Tensor, bias: Tensor, table: Tensor) -> None:
        """Make e_t -> table[t] through the LayerNorm."""
        weight[: n + 1, : table.shape[1]] = table / s
        if config.norm:
            bias[: table.shape[1]] = table.sum(0) / d

    for head in range(heads):
        mine = torch.arange(head * rows, min((head + 1) * rows, n + 1))
        queries, keys = torch.zeros(n + 1, rows + 1), torch.zeros(n + 1, rows + 1)
        queries[mine, torch.arange(len(mine))] = 1.0
        keys[:, : len(mine)] = score[mine].T
        other = torch.ones(n + 1, dtype=torch.bool)
        other[mine] = False
        queries[other, rows] = 1.0
        keys[n, rows] = c  # every other query else looks at SEP
        write(attn.W_Q[head], attn.b_Q[head], queries * d_head**0.5)
        write(attn.W_K[head], attn.b_K[head], keys)
        values = torch.zeros(n + 1, basis.shape[1])
        values[:n] = basis
        write(attn.W_V[head], attn.b_V[head], values)
        attn.W_O[head, : basis.shape[1], :n] = a * basis.T
    model.unembed.W_U[:n, :n] = torch.eye(n)
    model.unembed.b_U[n:] = -1e4
    return model.eval()

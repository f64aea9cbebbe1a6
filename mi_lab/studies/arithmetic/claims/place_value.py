"""A3d: how one layer reads more columns than look-back 2 allows."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_lab.claims import Accept, Claim, Control, Measurement
from mi_lab.model import Transformer
from mi_lab.run import run
from mi_lab.stack import fast_matmul
from mi_lab.studies.arithmetic import classes
from mi_lab.studies.arithmetic.claims.common import OURS, Row, model, needing, per_unit, seeded
from mi_lab.studies.arithmetic.counts import task_of
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.base import targets

N = 1500  # questions of each class
SCORES, PATTERN = "blocks.0.attn.scores", "blocks.0.attn.pattern"
Reads = dict[int, tuple[int, int]]
"""Position -> the two positions of a column."""


def columns_below(task: ArithmeticTask, back: int) -> Reads:
    """Where A_k is written -> where D and D' of column k - back stand, for every k that has such a column."""
    return {
        task.position(f"A{k}") - 1: (task.position(f"D{k - back}"), task.position(f"D'{k - back}"))
        for k in range(back, task.digits + 1)
    }


@torch.no_grad()
def share_of_the_next(found: Transformer, task: ArithmeticTask, tokens: Tensor) -> float:
    """Attention to column k - 3 over attention to column k - 2, of the head that looks most at k - 2; mean over k."""
    pattern = run(found, tokens, record=(PATTERN,))[PATTERN].mean(0)  # [head, query, key]
    near, far = columns_below(task, 2), columns_below(task, 3)
    shares = []
    for at in far:
        looks = pattern[:, at, list(near[at])].sum(-1)
        shares.append(pattern[looks.argmax(), at, list(far[at])].sum() / looks.max())
    return float(torch.stack(shares).mean())


@torch.no_grad()
def wrong_without(found: Transformer, task: ArithmeticTask, tokens: Tensor, back: int | None) -> float:
    """Share of wrong answers when no head of layer 0 may look at column k - back where A_k is written."""
    closed = torch.zeros(task.n_ctx, task.n_ctx, dtype=torch.bool)
    for at, keys in columns_below(task, back).items() if back is not None else ():
        closed[at, list(keys)] = True

    def close(scores: Tensor) -> Tensor:
        size = scores.shape[-1]
        return scores.masked_fill(closed[:size, :size], -torch.inf)

    with fast_matmul(found.device):
        logits = run(found, tokens, edit={SCORES: close}).logits[:, task.answer]
    return float((logits.argmax(-1) != targets(task, tokens)).any(1).float().mean())


def row(found: Transformer, task: ArithmeticTask, back: int) -> Row:
    """A3d's numbers with column k - back closed."""
    some = {name: classes.sample(task, name, N, generator=seeded(61)) for name in ("S1", "S2", "S3")}
    return {
        "k - 3 : k - 2": share_of_the_next(found, task, some["S3"][:500]),
        "S3 wrong": wrong_without(found, task, some["S3"], None),
        "closed, S3 wrong": wrong_without(found, task, some["S3"], back),
        "closed, S2 wrong": wrong_without(found, task, some["S2"], back),
        "closed, S1 wrong": wrong_without(found, task, some["S1"], back),
    }


def _measure(recipe: str, back: int) -> Measurement:
    task = task_of(recipe)
    sample = f"{N:,} questions of each class per seed"
    return per_unit(
        (recipe,), lambda r, s: row(model(r, s), task, back), "closed, S3 wrong", sample=sample
    )(False)  # fmt: skip


A3D = needing(
    Claim(
        "A3d",
        "One head reads two columns by place value",
        f"{OURS}, formed after looking at one seed",
        "In one layer the head that reads column k - 2 gives a tenth or so of its attention to column k - 3: the two "
        "arrive as one number whose next place is worth a fraction. Without that share cascades of S3 break.",
        "not in the paper, whose account of one layer ends at column k - 2",
        Accept(
            "attention to k - 3 is .05-.35 of that to k - 2; without it >= half of S3 wrong, <= 2 % of S1 and S2",
            lambda r: (
                0.05 <= r["k - 3 : k - 2"] <= 0.35
                and r["closed, S3 wrong"] >= 0.5
                and max(r["closed, S2 wrong"], r["closed, S1 wrong"]) <= 0.02
            ),
        ),
        lambda _: _measure("add_d5_l1_h3", 3),
        (
            Control("column k - 4 closed instead", lambda _: _measure("add_d5_l1_h3", 4)),
            Control("two-layer twin", lambda _: _measure("add_d5_l2_h3", 3)),
        ),
        "Closing is a knock-out before the softmax: the head's attention goes to what is left, above all to k - 2.",
    ),
    {"add_d5_l1_h3": 1, "add_d5_l2_h3": 1},
)
CLAIMS: tuple[Claim, ...] = (A3D,)

"""Many small regressions at once: the arithmetic behind probes, erasers and lenses.

S data sets (one per site) stand on a leading axis: x [S, n, d], targets y [S, n, k], and keep
Bool[S, n] says which rows count. All of them are solved in one batch:

- `ridge`: least squares with an L2 penalty, in closed form. One eigendecomposition of the covariance
  (`spectrum`) serves every penalty and every set of targets, so that the penalty is chosen by
  generalised cross-validation for free (Golub, Heath & Wahba 1979).
- `logistic`: multinomial, or one yes-no question per target. The Hessian is bounded by a multiple
  of the covariance (Böhning 1992), so in the covariance's eigenbasis, rescaled, a gradient step of
  length 1 never overshoots; Nesterov's momentum with restarts (O'Donoghue & Candès 2015) does the rest.
- `mlp`: one hidden layer, mini-batches, AdamW: what is there, but not linearly.

Sums are in float64: residual streams have directions a thousand times fainter than others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Linear(NamedTuple):
    """x W + b for S maps at once: weight [S, d, k], bias [S, k]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[S, n, d] -> [S, n, k]."""
        return torch.baddbmm(self.bias.unsqueeze(1).to(x), x, self.weight.to(x))

    def row(self, i: int) -> Linear:
        """Map i alone, S = 1."""
        return Linear(self.weight[i : i + 1], self.bias[i : i + 1])


class Hidden(NamedTuple):
    """relu(x first) second for S networks at once."""

    first: Linear
    second: Linear

    def __call__(self, x: Tensor) -> Tensor:
        """[S, n, d] -> [S, n, k]."""
        return self.second(self.first(x).relu())

    def row(self, i: int) -> Hidden:
        """Network i alone, S = 1."""
        return Hidden(self.first.row(i), self.second.row(i))


class Spectrum(NamedTuple):
    """mean [S, d]; values [S, d], vectors [S, d, d]: of the covariance, ascending; n [S]: rows that count."""

    mean: Tensor
    values: Tensor
    vectors: Tensor
    n: Tensor


def spectrum(x: Tensor, keep: Tensor, *, centre: bool = True) -> Spectrum:
    """Mean and eigendecomposed covariance (over n, not n-1); about the origin if not `centre`."""
    n = keep.sum(1)
    weight = keep.unsqueeze(1).to(x)
    mean = (weight @ x).squeeze(1) / n.unsqueeze(-1) if centre else x.new_zeros(len(x), x.shape[-1])
    rows = x - mean.unsqueeze(1)
    if not keep.all():
        rows *= weight.mT
    values, vectors = torch.linalg.eigh(rows.mT @ rows / n.view(-1, 1, 1))
    return Spectrum(mean, values.clamp(min=0), vectors, n)


def covariance_with(x: Tensor, y: Tensor, keep: Tensor, s: Spectrum) -> tuple[Tensor, Tensor]:
    """Cov(x, y) [S, d, k] about the means (about x's origin if the spectrum is), and y's mean [S, k]."""
    y = y * keep.unsqueeze(-1)
    mean_y = y.sum(1) / s.n.unsqueeze(-1)
    return x.mT @ y / s.n.view(-1, 1, 1) - s.mean.unsqueeze(-1) * mean_y.unsqueeze(1), mean_y


def ridge(x: Tensor, y: Tensor, keep: Tensor, s: Spectrum, penalty: float | None, centred: bool) -> Linear:
    """argmin of mean |y - x W - b|^2 + penalty * (mean variance of x) |W|^2; b = 0 if not `centred`.

    penalty None: the best of 31 values by generalised cross-validation, for each data set by itself.
    """
    cross, mean_y = covariance_with(x, y, keep, s)
    turned = s.vectors.mT @ cross  # [S, d, k], in the eigenbasis
    scale = s.values.mean(1, keepdim=True).clamp(min=1e-30)
    if penalty is not None:
        chosen = penalty * scale
    else:
        grid = torch.logspace(-8, 2, 31, dtype=x.dtype, device=x.device) * scale  # [S, penalties]
        power = turned.square().sum(-1).unsqueeze(-1)  # [S, d, 1]
        values, lam = s.values.unsqueeze(-1), grid.unsqueeze(1)
        spread = y - mean_y.unsqueeze(1) if centred else y
        total = (spread.square() * keep.unsqueeze(-1)).sum((1, 2)) / s.n
        left = total.unsqueeze(-1) - (power * (values + 2 * lam) / (values + lam).square()).sum(1)
        free = (s.n - int(centred)).unsqueeze(-1) - (values / (values + lam)).sum(1)
        score = torch.where(free > 1, left.clamp(min=0) / free.clamp(min=1).square(), torch.inf)
        # at a tie (a perfect fit) the strongest penalty
        best = grid.shape[1] - 1 - score.flip(1).argmin(1, keepdim=True)
        chosen = grid.gather(1, best)
    weight = s.vectors @ (turned / (s.values + chosen).unsqueeze(-1))
    bias = mean_y - (s.mean.unsqueeze(1) @ weight).squeeze(1) if centred else torch.zeros_like(mean_y)
    return Linear(weight, bias)


def logistic(
    x: Tensor, y: Tensor, keep: Tensor, s: Spectrum, penalty: float, *, multi: bool, steps: int
) -> Linear:
    """argmin of mean cross-entropy + penalty/2 * (mean variance of x) |W|^2; fp32.

    multi: k yes-no questions instead of one choice out of k. steps: at most; ends earlier once no
    entry of the gradient exceeds 1e-5.
    """
    bound = 0.25 if multi else 0.5
    lam = penalty * s.values.mean(1, keepdim=True)
    scale = (bound * s.values + lam).clamp(min=1e-30).sqrt()
    basis = s.vectors / scale.unsqueeze(1)  # [S, d, coordinate]
    rows = ((x - s.mean.unsqueeze(1)) @ basis).float()
    rows = F.pad(rows, (0, 1), value=1 / math.sqrt(bound))  # the bias, as one more coordinate
    decay = F.pad((lam / scale.square()).float(), (0, 1)).unsqueeze(-1)
    y, share = y.float(), (keep / s.n.unsqueeze(-1)).float().unsqueeze(-1)
    here = rows.new_zeros(len(x), rows.shape[-1], y.shape[-1])
    ahead, t = here, rows.new_ones(len(x), 1, 1)
    for _ in range(steps):
        logits = rows @ ahead
        wrong = ((logits.sigmoid() if multi else logits.softmax(-1)) - y) * share
        gradient = rows.mT @ wrong + decay * ahead
        new = ahead - gradient
        uphill = (gradient * (new - here)).sum((1, 2), keepdim=True) > 0
        t = torch.where(uphill, torch.ones_like(t), t)
        later = (1 + (1 + 4 * t * t).sqrt()) / 2
        ahead, here, t = new + (t - 1) / later * (new - here), new, later
        if gradient.abs().max() < 1e-5:
            break
    weight = basis @ here[:, :-1].to(basis)
    bias = here[:, -1].to(basis) / math.sqrt(bound) - (s.mean.unsqueeze(1) @ weight).squeeze(1)
    return Linear(weight, bias)


def mlp(
    x: Tensor, y: Tensor, keep: Tensor, s: Spectrum, penalty: float, *, multi: bool, hidden: int,
    steps: int, generator: torch.Generator,
) -> Hidden:  # fmt: skip
    """A network of `hidden` units per data set, all trained side by side; fp32.

    penalty: AdamW's weight decay. steps: batches of 256 rows; the learning rate falls from 3e-3 to 0 over
    them as a half cosine.
    """
    sets, n, d = x.shape
    size = s.values.mean(1).clamp(min=1e-30).sqrt().view(-1, 1, 1)
    rows, y, counts = ((x - s.mean.unsqueeze(1)) / size).float(), y.float(), keep.float()

    def draw(fan_in: int, fan_out: int) -> Linear:
        w = torch.randn(sets, fan_in, fan_out, generator=generator).to(rows) / math.sqrt(fan_in)
        return Linear(w, w.new_zeros(sets, fan_out))

    net = Hidden(draw(d, hidden), draw(hidden, y.shape[-1]))
    weights = [w.requires_grad_() for w in (*net.first, *net.second)]
    optimiser = torch.optim.AdamW(weights, lr=3e-3, weight_decay=penalty)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    epochs = -(-steps // -(-n // 256))
    order = (part for _ in range(epochs) for part in torch.randperm(n, generator=generator).split(256))
    with torch.enable_grad():
        for _, index in zip(range(steps), order):
            index = index.to(x.device)
            logits, right, share = net(rows[:, index]), y[:, index], counts[:, index]
            if multi:
                loss = F.binary_cross_entropy_with_logits(logits, right, reduction="none").mean(-1)
            else:
                loss = -(logits.log_softmax(-1) * right).sum(-1)
            optimiser.zero_grad()
            # summed over data sets: their gradients don't meet
            ((loss * share).sum(1) / share.sum(1).clamp(min=1)).sum().backward()
            optimiser.step()
            schedule.step()
    w, b, second = net.first.weight.detach() / size.float(), net.first.bias.detach(), net.second
    moved = b - (s.mean.unsqueeze(1).float() @ w).squeeze(1)  # so that it reads x as it is
    return Hidden(Linear(w, moved), Linear(second.weight.detach(), second.bias.detach()))

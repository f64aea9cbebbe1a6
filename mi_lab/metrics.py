"""Metrics: loss and exact match by position and by class, rank statistics, intervals.

Uniform accuracy hides rare classes, so `by_class` stands beside every mean. Intervals are exact
(Clopper-Pearson) or Wilson for counts, and percentile bootstraps for anything measured per seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_lab.model import Transformer
from mi_lab.studies.base import Task, targets


class Interval(NamedTuple):
    """low <= value <= high; 95 % unless said."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def _check_counts(hits: int, n: int) -> None:
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"hits must be between 0 and n >= 1, not {hits} of {n}")


def wilson(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a fraction; good at any n.

    >>> print(wilson(98, 100))
    0.98 [0.93, 0.9945]
    """
    _check_counts(hits, n)
    z = _normal_quantile(0.5 + confidence / 2)
    p, zz = hits / n, z * z / n
    middle = (p + zz / 2) / (1 + zz)
    half = z / (1 + zz) * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return Interval(p, max(0.0, middle - half), min(1.0, middle + half))


def clopper_pearson(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """The exact binomial interval: never too narrow; for "0 failures in a million".

    >>> f"{clopper_pearson(0, 1_000_000).high:.3g}"
    '3.69e-06'
    """
    _check_counts(hits, n)
    tail = (1 - confidence) / 2
    # low: P(X >= hits | p) = tail; high: P(X <= hits | p) = tail
    low = 0.0 if hits == 0 else _bisect(lambda p: _beta_cdf(p, hits, n - hits + 1) - tail)
    high = 1.0 if hits == n else _bisect(lambda p: _beta_cdf(p, hits + 1, n - hits) - (1 - tail))
    return Interval(hits / n, low, high)


def bootstrap(
    values: Sequence[float],
    statistic: Callable[[Tensor], Tensor] = lambda x: x.mean(-1),
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over units (seeds): `statistic` maps [.., n] to [..].

    With fewer than two values the interval is the value itself: one seed says nothing about others.
    """
    x = torch.tensor(list(values), dtype=torch.float64)
    value = float(statistic(x))
    if len(x) < 2:
        return Interval(value, value, value)
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(x), (resamples, len(x)), generator=generator)
    spread = statistic(x[index])
    tail = (1 - confidence) / 2
    low, high = torch.quantile(spread, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(value, low, high)


def ranks(x: Tensor) -> Tensor:
    """Ranks along the last axis, from 0; ties share their mean rank."""
    less = (x.unsqueeze(-1) > x.unsqueeze(-2)).sum(-1)
    equal = (x.unsqueeze(-1) == x.unsqueeze(-2)).sum(-1)
    return less + (equal - 1) / 2


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Rank correlation along the last axis; 0 where one side is constant."""
    return pearson(ranks(x).double(), ranks(y).double())


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Correlation along the last axis; 0 where one side is constant."""
    x = x - x.mean(-1, keepdim=True)
    y = y - y.mean(-1, keepdim=True)
    scale = x.norm(dim=-1) * y.norm(dim=-1)
    return torch.where(scale > 0, (x * y).sum(-1) / scale.clamp(min=1e-30), torch.zeros_like(scale))


def auc(scores: Tensor, positive: Tensor) -> float:
    """P(score of a positive > score of a negative), ties counted half. Error: exact."""
    yes, no = scores[positive].double(), scores[~positive].double()
    if not len(yes) or not len(no):
        raise ValueError(f"auc needs positives and negatives, got {len(yes)} and {len(no)}")
    no = no.sort().values
    below = torch.searchsorted(no, yes, right=False).double()
    upto = torch.searchsorted(no, yes, right=True).double()
    return float(((below + upto) / 2).mean() / len(no))


class Scores(NamedTuple):
    """Per example and answer position, teacher-forced, from one forward pass.

    nll: nats. correct: Bool. probability: of the right token. confidence: of the argmax.
    entropy: of the output distribution, nats. All [n, answer].
    """

    nll: Tensor
    correct: Tensor
    probability: Tensor
    confidence: Tensor
    entropy: Tensor


def score_logits(logits: Tensor, right: Tensor) -> Scores:
    """Scores of logits [.., vocab] against right tokens [..]."""
    logp = F.log_softmax(logits, -1)
    nll = -logp.gather(-1, right.unsqueeze(-1)).squeeze(-1)
    p = logp.exp()
    confidence, best = p.max(-1)
    return Scores(nll, best == right, (-nll).exp(), confidence, -(p * logp.clamp(min=-1e4)).sum(-1))


@torch.no_grad()
def score(model: Transformer, task: Task, tokens: Tensor, *, batch: int = 4096) -> Scores:
    """Scores of a model on solved sequences, teacher-forced."""
    parts = [score_logits(model(c)[:, task.answer], targets(task, c)) for c in tokens.split(batch)]
    return Scores(*(torch.cat(x) for x in zip(*parts, strict=True)))


def by_class(values: Tensor, classes: Tensor) -> dict[int, tuple[float, int]]:
    """Mean and count of `values` in each class: {class: (mean, n)}; both tensors of one shape."""
    if values.shape != classes.shape:
        raise ValueError(f"values {list(values.shape)} and classes {list(classes.shape)} must match")
    return {
        int(c): (float(values[classes == c].double().mean()), int((classes == c).sum()))
        for c in classes.unique()
    }


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """ECE: mean |accuracy - confidence| over equal-width confidence bins, weighted by bin size."""
    confidence, correct = confidence.flatten().double(), correct.flatten().double()
    index = (confidence * bins).long().clamp(max=bins - 1)
    sums = torch.zeros(2, bins, dtype=torch.float64)
    sums[0].index_add_(0, index, confidence)
    sums[1].index_add_(0, index, correct)
    return float((sums[0] - sums[1]).abs().sum() / len(confidence))


def _bisect(f: Callable[[float], float]) -> float:
    """The root in (0, 1) of an increasing f, to the last bits of what f can tell."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if f(middle) < 0 else (low, middle)
    return (low + high) / 2


def _normal_quantile(p: float) -> float:
    return float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64)))


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta I_x(a, b) by its continued fraction (Lentz). Error: about 1e-12."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_cdf(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny, c, d = 1e-300, 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    result = d
    for m in range(1, 1000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + numerator * d
            c = 1 + numerator / c
            d = 1 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            result *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return math.exp(log_front) * result / a

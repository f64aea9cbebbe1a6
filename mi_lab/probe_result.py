"""What a probe found: held-out predictions and the scores made of them.

`mi_lab.probe` fits probes and returns these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_lab import regress
from mi_lab.metrics import Interval

Kind = Literal["ridge", "logistic", "mlp"]
Metric = Literal["f1", "micro_f1", "accuracy"]
CHUNK_FLOATS = 2**24  # of bootstrap weights drawn at once


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """One fitted probe and its held-out predictions.

    predicted, truth: Int[rows], or Bool[rows, k] for yes-no questions; example Int[rows]: which
    example a row comes from (several rows if positions are pooled). control: the same probe on control
    labels, or None. n_train: rows it was fitted on. map: from x to scores, see `scores`.
    """

    kind: Kind
    predicted: Tensor
    truth: Tensor
    example: Tensor
    n_classes: int
    n_train: int
    map: regress.Linear | regress.Hidden
    control: ProbeResult | None = None

    @property
    def multi(self) -> bool:
        """Yes-no questions instead of one class."""
        return self.truth.ndim == 2

    def scores(self, x: Tensor) -> Tensor:
        """x [.., d] -> score of each class [.., k]: the highest wins (yes-no: from 0.5, or a logit of 0, on)."""
        return self.map(x.reshape(1, -1, x.shape[-1])).reshape(*x.shape[:-1], self.n_classes)

    @property
    def per_class(self) -> Tensor:
        """F1 of each class [k]; NaN for one that was neither there nor predicted."""
        return _f1(self._counts(by_example=False))

    @property
    def f1(self) -> float:
        """Macro-F1: the mean of `per_class`, so that a rare class weighs as much as a common one."""
        return float(_macro_f1(self._counts(by_example=False)))

    @property
    def micro_f1(self) -> float:
        """F1 of all (row, label) pairs flattened; for one class per row that is the accuracy."""
        return float(_micro_f1(self._counts(by_example=False)))

    @property
    def accuracy(self) -> float:
        """Share of held-out rows (yes-no: of answers) that are right."""
        return float((self.predicted == self.truth).double().mean())

    @property
    def majority(self) -> float:
        """Accuracy of always saying the most frequent class (yes-no: the more frequent answer)."""
        if self.multi:
            yes = self.truth.double().mean(0)
            return float(torch.maximum(yes, 1 - yes).mean())
        return float(torch.bincount(self.truth).max() / len(self.truth))

    @property
    def selectivity(self) -> float:
        """Accuracy minus accuracy on the control labels (Hewitt & Liang 2019). Needs a control."""
        if self.control is None:
            raise ValueError(
                "this probe has no control: fit it with control='shuffled' or labels of your own"
            )
        return self.accuracy - self.control.accuracy

    def interval(
        self, metric: Metric = "f1", *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
    ) -> Interval:
        """Percentile bootstrap over held-out *examples*: rows of one example stay together."""
        measures = {"f1": _macro_f1, "micro_f1": _micro_f1, "accuracy": _accuracy(self.multi)}
        if metric not in measures:
            raise ValueError(f"metric must be one of {', '.join(measures)}, not {metric!r}")
        counts = self._counts(by_example=True)  # [examples, 4, k]
        generator = torch.Generator().manual_seed(seed)
        values = []
        for part in torch.arange(resamples).split(max(1, CHUNK_FLOATS // len(counts))):
            drawn = torch.randint(len(counts), (len(part), len(counts)), generator=generator)
            times = torch.zeros(drawn.shape).scatter_add_(1, drawn, torch.ones(drawn.shape))
            values.append(
                measures[metric]((times.double() @ counts.flatten(1)).unflatten(1, counts.shape[1:]))
            )
        tail = (1 - confidence) / 2
        low, high = torch.cat(values).quantile(torch.tensor([tail, 1 - tail]).double()).tolist()
        return Interval(float(measures[metric](counts.sum(0))), low, high)

    def _counts(self, *, by_example: bool) -> Tensor:
        """[4, k], or [examples, 4, k]: right, predicted, true, rows, for each class."""
        predicted, truth = (
            x.double() if self.multi else F.one_hot(x, self.n_classes).double()
            for x in (self.predicted.cpu(), self.truth.cpu())
        )
        rows = torch.stack([predicted * truth, predicted, truth, torch.ones_like(truth)], 1)
        if not by_example:
            return rows.sum(0)
        names, index = self.example.cpu().unique(return_inverse=True)
        return torch.zeros(len(names), *rows.shape[1:]).double().index_add_(0, index, rows)

    def __str__(self) -> str:
        text = f"{self.kind} probe, {self.n_classes} {'questions' if self.multi else 'classes'}: "
        text += f"F1 {self.interval()}, accuracy {self.accuracy:.4g} (majority {self.majority:.4g})"
        if self.control is not None:
            text += f"; control labels F1 {self.control.f1:.4g}, accuracy {self.control.accuracy:.4g}"
        return f"{text}; {len(self.truth)} held-out rows"


@dataclass(frozen=True, eq=False)
class ProbeTable:
    """Probes by site: one for each of its positions, or one for all of them.

    results, positions: by site; a position is None if positions are pooled or differ between sequences.
    """

    results: dict[str, tuple[ProbeResult, ...]]
    positions: dict[str, tuple[int | None, ...]]

    def __getitem__(self, site: str) -> ProbeResult:
        """The only probe of a site; `results[site]` has them all."""
        if site not in self.results:
            raise KeyError(f"{site!r} is no site of this table; sites: {', '.join(self.results)}")
        if len(self.results[site]) > 1:
            raise KeyError(f"{site!r} has {len(self.results[site])} probes, one per position: use .results")
        return self.results[site][0]

    def grid(self, metric: Metric | Literal["selectivity"] = "f1") -> Tensor:
        """[site, position]: a score of every probe; NaN where a site has fewer positions than others."""
        out = torch.full((len(self.results), max(map(len, self.results.values()))), torch.nan)
        for row, results in zip(out, self.results.values()):
            row[: len(results)] = torch.tensor([getattr(r, metric) for r in results])
        return out

    def rows(self) -> Iterator[dict[str, Any]]:
        """One record per probe: site, position, scores, those on control labels, number of held-out rows."""
        for site, results in self.results.items():
            for position, r in zip(self.positions[site], results):
                control = r.control
                yield {
                    "site": site,
                    "position": position,
                    "f1": r.f1,
                    "accuracy": r.accuracy,
                    "control_f1": None if control is None else control.f1,
                    "control_accuracy": None if control is None else control.accuracy,
                    "n": len(r.truth),
                }

    def __str__(self) -> str:
        lines = []
        for row in self.rows():
            where = row["site"] if row["position"] is None else f"{row['site']}, position {row['position']}"
            control = "" if row["control_f1"] is None else f", control {row['control_f1']:.3f}"
            lines.append(f"{where}: F1 {row['f1']:.3f}{control}")
        return "\n".join(lines)


def _f1(counts: Tensor) -> Tensor:
    """F1 of each class from counts [.., 4, k]: 2 right / (predicted + true); NaN for 0 / 0."""
    right, predicted, true, _ = counts.unbind(-2)
    return 2 * right / (predicted + true)


def _macro_f1(counts: Tensor) -> Tensor:
    return _f1(counts).nanmean(-1)


def _micro_f1(counts: Tensor) -> Tensor:
    return _f1(counts.sum(-1, keepdim=True)).squeeze(-1)


def _accuracy(multi: bool) -> Callable[[Tensor], Tensor]:
    def accuracy(counts: Tensor) -> Tensor:
        right, predicted, true, rows = counts.unbind(-2)
        wrong = (predicted + true - 2 * right).sum(-1)
        # a wrong class is one prediction too many and one missing
        return 1 - wrong / rows.sum(-1) if multi else 1 - wrong / 2 / rows[..., 0]

    return accuracy

"""S9: the local learning coefficient through training, under three estimators."""

from __future__ import annotations

import math

import torch

from mi_lab.claims import Accept, Claim, Control, Measurement
from mi_lab.studies.sorting import measure as m
from mi_lab.studies.sorting.circuit import (
    structure,
)
from mi_lab.studies.sorting.claims.common import table


# S9: learning coefficient ---------------------------------------------------------------------
def _llc(estimator: str, *, same_function: bool = False):
    def run(fast: bool) -> Measurement:
        data = m.llc_curves()
        curves, rescaled = data["estimators"][estimator], data["rescaled"][estimator]
        development = m.development("paper")
        steps = [int(s) for s in development["steps"]]
        known = [int(s) for s in development["seeds"]]
        rows = []
        seeds = list(curves)[: 3 if fast else None]
        for seed in seeds:
            points = sorted(curves[seed], key=lambda p: p["step"])
            at = [p["step"] for p in points]
            value = [p["value"] for p in points]
            if same_function:  # the final model, then the same function with W_V times 2 and W_O by 2
                value = [value[-1]] * (len(value) - 1) + [rescaled[seed]["value"]]
            margins = development["margin"][known.index(int(seed))]
            overlap = [structure(torch.tensor(c)).overlap for c in margins]
            fallen = next((s for s, o in zip(steps, overlap, strict=True) if s >= 250 and o < 0.4), steps[-1])
            top = max(range(len(value)), key=value.__getitem__)
            rows.append(
                {
                    "peak_step": float(at[top]),
                    "overlap_falls_at": float(fallen),
                    "peak": value[top],
                    "at_1000": value[at.index(1000)],
                    "end": value[-1],
                    "fall": 1 - value[-1] / value[top] if value[top] > 0 else math.nan,
                    "lowest": min(value),
                    "rescaled": rescaled[seed]["ratio"],
                    "flagged": float(sum(bool(p["warnings"]) for p in points)),
                }
            )
        return table(
            [f"seed {s}" for s in seeds], rows, "fall", sample=data["settings"][estimator]["text"],
            sources=m.sources("paper"), details={"recorded by": data["command"], "versions": data["versions"]},
        )  # fmt: skip

    return run


def _falls(r: dict[str, float]) -> bool:
    """Positive throughout, highest while heads overlap, a fifth lower at the end, and blind to rescaling."""
    moved = abs(1 - r["rescaled"])
    return r["lowest"] > 0 and r["peak_step"] <= r["overlap_falls_at"] and r["fall"] >= max(0.2, moved)


FALLS = Accept(
    "positive throughout; the peak comes no later than overlap falls below .4; the end lies at least 20 % below "
    "the peak, and further than W_V x 2, W_O / 2 (the same function) moves the estimate; 6 of 8 seeds",
    _falls,
)


def _s9(suffix: str, estimator: str, title: str, limits: str) -> Claim:
    return Claim(
        "S9" + suffix,
        title,
        "authors' forum post; estimator, settings and values unknown",
        "Overlap is the complex mode: the local learning coefficient falls when heads specialise.",
        "falls; no number known",
        FALLS,
        _llc(estimator),
        (
            Control(
                "the same function with other weights (W_V times 2, W_O by 2)",
                _llc(estimator, same_function=True),
            ),
        ),
        limits,
    )


_RECORDED = " Estimates are recorded (record_llc), not run again here; a test repeats one of them."
S9 = _s9(
    "",
    "rms_l2",
    "LLC falls at specialisation (noise by tensor, loss + L2)",
    "Under coupled decay a checkpoint is (nearly) a minimum of this potential; step 250 is mid-training."
    + _RECORDED,
)
S9B = _s9(
    "b",
    "isotropic",
    "LLC falls at specialisation (equal noise, loss only)",
    "Weight decay nearly halves the weights, so a perturbation of fixed size grows relative to them."
    + _RECORDED,
)
S9C = _s9(
    "c",
    "rms",
    "LLC falls at specialisation (noise by tensor, loss only)",
    "Blind to scale, but a checkpoint under L2 is no minimum of the loss alone: chains walk downhill."
    + _RECORDED,
)

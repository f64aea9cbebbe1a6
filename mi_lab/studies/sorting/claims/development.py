"""S3, S8, S10: vocabulary-splitting in the weights, its development, and weight decay."""

from __future__ import annotations

import torch

from mi_lab.claims import Accept, Claim, Control, Measurement
from mi_lab.model import Transformer
from mi_lab.studies.sorting import measure as m
from mi_lab.studies.sorting.circuit import (
    copying_margin,
    runs_null,
    structure,
    untrained_twin,
)
from mi_lab.studies.sorting.claims.common import PAPER_ABSTRACT, SECOND_HAND, per_seed, table


# S3, S8, S10: structure over training -----------------------------------------------------------
def _static(recipe: str, *, twin: bool = False, permuted: bool = False):
    task = m.task_of(recipe)

    def run(fast: bool) -> Measurement:
        curves = m.development(recipe)
        steps = [int(s) for s in curves["steps"]]
        seeds = [int(s) for s in curves["seeds"]][: 3 if fast else None]
        units, rows = [], []
        for i, seed in enumerate(seeds):
            early = torch.tensor(curves["margin"][i, steps.index(250)])
            model = m.model(recipe, seed)
            if twin:
                margin = early = copying_margin(untrained_twin(model, seed), task)
            else:
                margin = copying_margin(model, task)
            null = runs_null(margin).float()
            if permuted:
                order = torch.randperm(margin.shape[1], generator=torch.Generator().manual_seed(seed))
                margin = margin[:, order]
            found = structure(margin)
            units.append(f"seed {seed}")
            rows.append(
                {
                    "overlap_250": structure(early).overlap,
                    "overlap": found.overlap,
                    "single": found.single,
                    "suppress": found.suppress,
                    "runs": float(found.runs),
                    "unsmoothed_runs": float((margin.argmax(0).diff() != 0).sum()) + 1,
                    "null_1_percent": float(null.quantile(0.01)),
                }
            )
        return table(units, rows, "single", sample="weights alone", sources=m.sources(recipe))

    return run


S3 = Claim(
    "S3",
    "Vocabulary-splitting, in the weights",
    PAPER_ABSTRACT + "; the paper's metric is unknown",
    "At the end each head has a positive OV diagonal in its own contiguous, non-overlapping range.",
    "shown as pictures; no number known",
    Accept(
        "overlap >= .6 at step 250; at the end single >= .8, at most 7 runs, and fewer unsmoothed runs "
        "than the 1st percentile of permuted owner labels; 6 of 8 seeds",
        lambda r: (
            r["overlap_250"] >= 0.6
            and r["single"] >= 0.8
            and r["runs"] <= 7
            and r["unsmoothed_runs"] < r["null_1_percent"]
        ),
    ),
    _static("paper"),
    (
        Control("untrained twin", _static("paper", twin=True)),
        Control("permuted numbers", _static("paper", permuted=True)),
    ),
    "With Adam and coupled L2. Ranges alternate between the heads (3 to 7 stretches), they are not one block each.",
)


def _stages(recipe: str):
    def run(fast: bool) -> Measurement:
        curves = m.development(recipe)
        steps = [int(s) for s in curves["steps"]]
        at = {step: steps.index(step) for step in (250, 500, 2000)}
        seeds = [int(s) for s in curves["seeds"]][: 3 if fast else None]
        rows = []
        for i in range(len(seeds)):
            overlap = {s: structure(torch.tensor(curves["margin"][i, j])).overlap for s, j in at.items()}
            loss = {s: float(curves["loss"][i, j]) for s, j in at.items()}
            rows.append(
                {
                    "overlap_250": overlap[250],
                    "overlap_2000": overlap[2000],
                    "drop": overlap[250] - overlap[2000],
                    "loss_250": loss[250],
                    "loss_500": loss[500],
                    "loss_2000": loss[2000],
                }
            )
        text = "published weights every few steps; loss on 1,000 fresh lists"
        return table([f"seed {s}" for s in seeds], rows, "drop", sample=text, sources=m.sources(recipe))

    return run


S8 = Claim(
    "S8",
    "Development goes through an overlap stage, then specialisation",
    SECOND_HAND + "; the stage boundaries are unknown",
    "First all heads come to copy overlapping ranges, later they specialise.",
    "three stages by loss and LLC; steps unknown",
    Accept(
        "overlap >= .6 at step 250 and a drop of >= .4 by step 2,000; 6 of 8 seeds",
        lambda r: r["overlap_250"] >= 0.6 and r["drop"] >= 0.4,
    ),
    _stages("paper"),
    (Control("no weight decay", _stages("no_decay")), Control("AdamW, decoupled decay", _stages("adamw"))),
    "The loss also falls during specialisation (0.07 to 0.04): there is no long flat plateau here.",
)


def _split_causally(recipe: str, *, twin: bool = False):
    task = m.task_of(recipe)

    def row(model: Transformer, seed: int) -> dict[str, float]:
        found = structure(copying_margin(model, task))
        causal = m.causal_summary(model, task, n=1000)
        return {"overlap": found.overlap, "single": found.single, "ov_runs": float(found.runs), **causal}

    return per_seed(recipe, row, "single", sample="weights; ablation on 1,000 fresh lists", twin=twin)


SPLIT = Accept(
    "token ownership separates: accuracy on own numbers <= .25 for every removed head (mean and zero), or "
    "single >= .8; on others >= .92",
    lambda r: (
        (max(r["own_mean"], r["own_zero"]) <= 0.25 or r["single"] >= 0.8)
        and min(r["other_mean"], r["other_zero"]) >= 0.92
    ),
)
S10 = Claim(
    "S10",
    "Splitting appears without weight decay too",
    PAPER_ABSTRACT,
    "Vocabulary-splitting is present with and without weight decay, so it is a preference of training itself.",
    "claimed; measure unknown",
    SPLIT,
    _split_causally("no_decay"),
    (Control("untrained twin", _split_causally("no_decay", twin=True)),),
    "After 6,000 steps. Contiguous preference without separation would be a weaker sense of splitting: "
    "compare `ov_runs` and `runs` with S3.",
)
S10B = Claim(
    "S10b",
    "Splitting appears with decoupled weight decay",
    "companion of S10; ours",
    "AdamW with the same coefficient splits the vocabulary as coupled L2 does.",
    "not in the paper, which says 'Adam with weight decay'",
    SPLIT,
    _split_causally("adamw"),
    (Control("untrained twin", _split_causally("adamw", twin=True)),),
)

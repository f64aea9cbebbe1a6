"""Local learning coefficient of a trained sorting model: `mi_lab.llc` against devinterp 2.0.1.

Both run the same SGLD on the same weights and the same 8,192 lists: nbeta 1e4, step size 1e-6,
localization 1e3, batch 256, every chain its own order of the data, no burn-in (devinterp averages
burn-in too), loss on the ten sorted positions. First the agreement: values within two standard
errors of their difference, chains as the unit. Then the clock: 4 chains x 200 draws, CPU time of one
thread, interleaved. Bars: at most 15 s, at least 4 times as fast.

devinterp wants a loss [batch, seq - 1] and averages it over all of it, so the ten scored positions
are padded with zeros and multiplied by 2; without the factor, nbeta is silently halved. It gets a
HookedTransformer, the model its users have, and for comparison our plain `Transformer`. How to run
it: README.md.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import arguments, interleave, machine, median_and_spread, ratio, report, row
from hooked import hooked

from mi_lab.checkpoint import load_tensors
from mi_lab.llc import LLC, SGLD, estimate
from mi_lab.model import Transformer
from mi_lab.stack import Stack
from mi_lab.studies.sorting.recipes import PAPER
from mi_lab.train import fit

SETTINGS = SGLD(nbeta=1e4, step_size=1e-6, localization=1e3, draws=200, chains=4, batch=256)
MAX_SECONDS, BAR = 15.0, 4.0
TASK = PAPER.task


def trained(path: Path | None) -> tuple[Transformer, str]:
    """The checkpoint at `path` (fit's own format), or a fresh run of 500 steps."""
    if path is not None:
        flat, meta = load_tensors(path)
        return Stack(PAPER.config, flat["flat"]).model(0), f"{path.name}, step {meta.get('step')}"
    recipe = replace(PAPER, steps=500, checkpoints=())
    return fit(recipe, seeds=(0,), device="cpu", progress=False).model(), "trained here, 500 steps, seed 0"


def scored_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """[batch, seq - 1]: twice the cross entropy at the scored half, 0 at the other half."""
    logits = model(tokens[:, :-1])[:, TASK.length :]
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, TASK.length + 1 :].flatten(), reduction="none")
    factor = (tokens.shape[1] - 1) / TASK.length
    return F.pad(factor * loss.view(len(tokens), -1), (TASK.length, 0))


def devinterp_llc(model: nn.Module, tokens: Tensor, settings: SGLD, seed: int = 100) -> dict[str, Any]:
    """devinterp's estimate; its results go to a temporary folder."""
    from datasets import Dataset
    from devinterp.slt.llc import llc

    folder = tempfile.mkdtemp()
    data = Dataset.from_dict({"input_ids": tokens.tolist()}).with_format("torch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = llc(
                model,
                data,
                {},
                lr=settings.step_size,
                n_beta=settings.nbeta,
                localization=settings.localization,
                num_chains=settings.chains,
                num_draws=settings.draws,
                num_burnin_steps=0,
                batch_size=settings.batch,
                num_init_loss_batches=len(tokens) // settings.batch,
                match_sampling_input_ids_across_chains=False,
                init_seed=seed,
                loss_fn=scored_loss,
                device="cpu",
                output_path=Path(folder) / "samples.zarr",
            ).load()
    finally:
        shutil.rmtree(folder)
    per_chain = torch.from_numpy(result.llc_per_chain.values.copy()).double()
    return {"per_chain": per_chain, "initial_loss": float(result.init_loss)}


def agreement(ours: LLC, theirs: dict[str, Any]) -> dict[str, Any]:
    """Difference of the two means in standard errors; the scatter of the chains is the error."""
    per_chain = theirs["per_chain"]
    value, error = float(per_chain.mean()), float(per_chain.std() / math.sqrt(len(per_chain)))
    combined = math.hypot(error, ours.se_chains)
    return {
        "ours": {"value": ours.value, "standard_error": ours.se_chains, "initial_loss": ours.initial_loss},
        "devinterp": {"value": value, "standard_error": error, "initial_loss": theirs["initial_loss"]},
        "difference_in_standard_errors": abs(ours.value - value) / combined,
        "relative_difference": abs(ours.value - value) / value,
        "passes": abs(ours.value - value) <= 2 * combined,
    }


def main() -> None:
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--checkpoint", type=Path, help="a step-*.safetensors of `mi-lab train paper`")
    known, rest = extra.parse_known_args()
    sys.argv[1:] = rest
    args = arguments(__doc__, rounds=1)
    model, name = trained(known.checkpoint)
    tokens = TASK.sample(8192, generator=torch.Generator().manual_seed(99))
    models = {"devinterp, HookedTransformer": hooked(model), "devinterp, plain model": model}
    latest: dict[str, Any] = {}

    def run_ours() -> None:
        latest["ours"] = estimate(model, tokens, TASK.answer, SETTINGS, seed=0)

    def run_theirs(which: str) -> None:
        latest[which] = devinterp_llc(models[which], tokens, SETTINGS)

    variants = {"mi_lab": run_ours} | {which: (lambda which=which: run_theirs(which)) for which in models}
    times = interleave(variants, args.rounds, warm_up=False)
    checks = {which: agreement(latest["ours"], latest[which]) for which in models}
    speedups = {which: ratio(times, which, "mi_lab") for which in models}
    seconds = {which: median_and_spread(values, unit=1) for which, values in times.items()}
    main_one = "devinterp, HookedTransformer"
    report(
        {
            "title": "Learning coefficient of one model, 4 chains of 200 draws",
            "rows": [
                row("one model, against devinterp", speedups[main_one], BAR),
                row("seconds", {k: seconds["mi_lab"][k] for k in ("median", "min", "max")}, MAX_SECONDS,
                    unit="s", most=True),
                *(row(f"difference from {which}, in standard errors", dict.fromkeys(("median", "min", "max"),
                      round(check["difference_in_standard_errors"], 3)), 2.0, unit="SE", most=True)
                  for which, check in checks.items()),
            ],
            "model": name,
            "settings": vars(SETTINGS),
            "agreement": checks,
            "diagnostics_of_ours": latest["ours"].warnings,
            "seconds": seconds,
            "speedup": speedups,
            "machine": machine("devinterp", "transformer-lens"),
        },
        args.json,
    )  # fmt: skip


if __name__ == "__main__":
    main()

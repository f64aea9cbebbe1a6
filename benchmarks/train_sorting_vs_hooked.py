"""Training step of the sorting study's paper size: `mi_lab.train.fit` against a HookedTransformer loop.

Both draw their data from the same sampler, 256 lists per step, and train the same one-layer model
with Adam and coupled weight decay, in fp32 on one CPU thread. The other side is the loop one would
write with TransformerLens 3.9: whole-sequence logits, cross entropy on the sorted half, torch's
default optimiser and precision. The time of `fit` includes its data, schedule, logging and clipping
code. `fit` also makes glibc keep freed memory (`stack.keep_freed_memory`), which in one process
speeds up the other side too, by a fifth. Gate before the clock: same weights, same loss, logits and
gradients (fp32, 1e-4 of the largest). Bar: at least 2.5 times as fast. How to run it: README.md.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F
from transformer_lens import HookedTransformer, HookedTransformerConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import arguments, interleave, machine, median_and_spread, ratio, report, row

from mi_lab.fast import medium_is_accurate
from mi_lab.model import Transformer
from mi_lab.stack import Stack, backward, fast_matmul, forward, to_reference
from mi_lab.studies.sorting.recipes import PAPER
from mi_lab.train import fit

warnings.filterwarnings("ignore", message="HookedTransformer is deprecated")
BAR = 2.5
STEPS = 64  # per round; two of fit's data pools
TASK = PAPER.task


def hooked() -> HookedTransformer:
    shape = PAPER.config
    return HookedTransformer(
        HookedTransformerConfig(
            n_layers=shape.n_layers,
            n_heads=shape.n_heads,
            d_model=shape.d_model,
            d_head=shape.d_head,
            n_ctx=shape.n_ctx,
            d_vocab=shape.d_vocab,
            attn_only=True,
            normalization_type="LN",
            seed=0,
            device="cpu",
        )
    )


def hooked_loss(model: HookedTransformer, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(tokens[:, :-1])[:, TASK.length :]
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, TASK.length + 1 :].flatten())


def gate() -> dict[str, float]:
    """Largest differences between the two computations on the same weights and lists."""
    reference = Transformer(PAPER.config, generator=torch.Generator().manual_seed(3))
    theirs = hooked()
    kept = theirs.load_state_dict(reference.state_dict(), strict=False)
    assert not kept.unexpected_keys, kept.unexpected_keys
    assert all(name.endswith(("mask", "IGNORE")) for name in kept.missing_keys), kept.missing_keys
    tokens = TASK.sample(PAPER.batch, generator=torch.Generator().manual_seed(4))
    loss = hooked_loss(theirs, tokens)
    loss.backward()
    stack = Stack.from_models([reference])
    grad = torch.zeros_like(stack.flat)
    with fast_matmul():
        leaves = stack.leaves(grad)
        logits = forward(leaves, PAPER.config, tokens, TASK.answer)
        our_loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, TASK.length + 1 :].flatten())
        backward(our_loss, leaves)
        logits, our_loss, loss = logits.detach(), float(our_loss.detach()), float(loss.detach())
    want = theirs(tokens[:, :-1])[:, TASK.length :].detach()
    named = to_reference(stack.views(grad[0]), PAPER.config)
    parameters = dict(theirs.named_parameters())
    largest = max(float(p.grad.abs().max()) for p in parameters.values())
    errors = {
        "logits": float((logits - want).abs().max() / want.abs().max()),
        "loss": abs(our_loss - loss) / loss,
        "gradient": max(float((named[k] - p.grad).abs().max()) for k, p in parameters.items()) / largest,
    }
    assert max(errors.values()) < 1e-4, errors
    return errors


class Enough(Exception):
    """Ends `fit` after one round."""


def main() -> None:
    args = arguments(__doc__)
    errors = gate()
    model = hooked()
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def theirs() -> None:
        model.load_state_dict(start)  # each round from the start, as fit does
        generator = torch.Generator().manual_seed(1)
        optimiser = torch.optim.Adam(
            model.parameters(), lr=PAPER.lr, betas=PAPER.betas, weight_decay=PAPER.weight_decay
        )
        for _ in range(STEPS):
            tokens = TASK.sample(PAPER.batch, generator=generator)
            optimiser.zero_grad()
            hooked_loss(model, tokens).backward()
            optimiser.step()

    recipe = replace(PAPER, checkpoints=(STEPS,))

    def stop(step: int, stack: Stack) -> None:
        raise Enough

    def ours() -> None:
        try:
            fit(recipe, seeds=(0,), device="cpu", progress=False, callback=stop)
        except Enough:
            return
        raise AssertionError("fit went past its round")

    times = interleave({"hooked": theirs, "fit": ours}, args.rounds, STEPS)
    speedup = ratio(times, "hooked", "fit")
    step = median_and_spread(times["fit"])
    report(
        {
            "title": "`fit` whole: data, schedule, log, step; sorting paper, batch 256",
            "rows": [row("sorting: `fit` against the HookedTransformer loop", speedup, BAR)],
            "gate_relative_errors": errors,
            "ms_per_step": {name: median_and_spread(value) for name, value in times.items()},
            "fit_steps_per_second": round(1e3 / step["median"], 1),
            "minutes_for_6000_steps": round(step["median"] * 6000 / 6e4, 2),
            "speedup": speedup,
            "medium_is_accurate_fp32": medium_is_accurate(),
            "machine": machine("transformer-lens"),
        },
        args.json,
    )


if __name__ == "__main__":
    main()

"""Training steps of the three studies' paper shapes: `mi_lab.step` against a HookedTransformer loop.

Both train the same weights on the same batches with the same loss, optimiser and clipping, in fp32 on one
CPU thread; the data are drawn beforehand (they are another claim). The other side is the loop one would
write with TransformerLens 3.9: logits of the whole sequence, torch's default optimiser. "At torch's
defaults" it runs as torch comes; "at equal precision" its products take the route that ours take
(`mi_lab.fast`), which is the same thing where oneDNN is no faster. Our settings that last for the whole
process (freed memory is kept) help the other side too.

Gate before the clock: logits to 2e-5 in fp32, and gradients to 1e-9 of the largest in float64.

Share of the peak: the products of a step with the answer cut (counted by torch, causal halves in full) over
the best rate that a large product reaches in the same rounds. What the table of the first layer saves (most
of the sorting model's products) counts as done, as in the plan. `bound`: how many times as fast a step would
be if it did nothing but the products that are really computed, at that rate.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import arguments, gate, interleave, median_and_spread, ratio, report_cases, row
from hooked import hooked, loop, task_loss
from torch.utils.flop_counter import FlopCounterMode

from mi_lab.fast import fast_matmul
from mi_lab.forward import forward
from mi_lab.model import Transformer
from mi_lab.recipe import Recipe
from mi_lab.stack import Stack, backward, onednn_pays, to_reference
from mi_lab.step import Step
from mi_lab.studies.arithmetic.recipes import recipes as arithmetic
from mi_lab.studies.pathfinding.recipes import recipes as pathfinding
from mi_lab.studies.sorting.recipes import recipes as sorting

# recipe, steps a round, (ask, stretch) at torch's defaults, at equal precision, share of the peak
CASES: dict[str, tuple[Recipe, int, tuple[tuple[float, float], ...]]] = {
    "sorting": (replace(sorting["paper"], batch=512), 8, ((2.9, 3.5), (2.2, 2.5), (0.45, 0.60))),
    "addition": (replace(arithmetic["paper"], batch=64), 1, ((2.8, 3.2), (1.5, 1.8), (0.85, 0.90))),
    "pathfinding": (pathfinding["waves"], 1, ((2.4, 3.0), (1.5, 1.8), (0.65, 0.75))),
}


def differences(recipe: Recipe, model: Transformer) -> dict[str, float]:
    """Largest differences of logits (fp32) and of gradients (float64, relative to the largest)."""
    task = recipe.task
    tokens = task.sample(64, generator=torch.Generator().manual_seed(3))
    twin = hooked(model)
    with torch.no_grad(), fast_matmul():
        ours = forward(Stack.from_models([model]).params(0), recipe.config, tokens, task.answer)
        logits = float((ours - twin(tokens)[:, task.answer]).abs().max())
    twin.cfg.dtype = torch.float64  # else it casts the attention pattern to fp32
    twin, exact = twin.double(), Stack(recipe.config, Stack.from_models([model]).flat.double())
    tokens = tokens[:16]
    task_loss(twin(tokens)[:, task.answer], task, tokens).backward()
    gradient = torch.zeros_like(exact.flat)
    leaves = exact.leaves(gradient)
    backward(task_loss(forward(leaves, recipe.config, tokens, task.answer), task, tokens), leaves)
    mine = to_reference(exact.views(gradient[0]), recipe.config)
    theirs = {name: p.grad for name, p in twin.named_parameters()}
    off = max(float((mine[name] - theirs[name]).abs().max()) for name in mine)
    return {"logits": logits, "gradients_float64": off / float(gradient.abs().max())}


def products(recipe: Recipe, batch: int) -> float:
    """GFLOP of matrix products in one step of so many examples."""
    stack = Stack.init(recipe.config, [0])
    step = Step(replace(recipe, batch=batch), stack, [torch.Generator().manual_seed(1)])
    step.draw()
    with FlopCounterMode(display=False) as counter:
        step(note=False)
    return counter.get_total_flops() / 1e9


def peak(settings: Callable[[], Any]) -> Callable[[], None]:
    """One large product, 17.2 GFLOP, the shape at which fp32 products are fastest."""
    a, b, out = torch.randn(2048, 2048), torch.randn(2048, 2048), torch.empty(2048, 2048)

    def run() -> None:
        with settings():
            torch.mm(a, b, out=out)

    return run


def measure(name: str, rounds: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    recipe, steps, bars = CASES[name]
    recipe = replace(recipe, precision="fp32", warmup=0, start=None)
    model = Transformer(recipe.config, generator=torch.Generator().manual_seed(0))
    checked = gate(name, differences(recipe, model), {"logits": 2e-5, "gradients_float64": 1e-9})
    tokens, config = recipe.batch * recipe.task.n_ctx, recipe.config
    size = (tokens, config.d_model, max(config.d_mlp, config.n_heads * config.d_head))

    def settings():
        return fast_matmul(onednn=onednn_pays(config, tokens, 1), size=size)

    stack = Stack.from_models([model])
    step = Step(recipe, stack, [torch.Generator().manual_seed(1)])
    step.draw()
    batches = step.pool[0]
    with settings() as onednn:
        step()
    # a batch of 4 is too small for the table of the first layer
    work, computed = products(recipe, 4) * recipe.batch / 4, products(recipe, recipe.batch)
    theirs = {key: loop(hooked(model), recipe, batches) for key in ("defaults", "equal")}
    precision = "medium" if onednn else "highest"

    def ours() -> None:
        with settings():
            for _ in range(steps):
                step(note=False)

    def defaults() -> None:
        for _ in range(steps):
            theirs["defaults"]()

    def equal() -> None:
        torch.set_float32_matmul_precision(precision)
        for _ in range(steps):
            theirs["equal"]()
        torch.set_float32_matmul_precision("highest")

    variants: dict[str, Callable[[], None]] = {"mi_lab": ours, "defaults": defaults, "equal": equal}
    if not onednn:  # the very same thing: no need to measure it twice
        del variants["equal"]
    times = interleave(variants | {"peak": peak(settings)}, rounds)
    times = {key: [x / (1 if key == "peak" else steps) for x in values] for key, values in times.items()}
    times.setdefault("equal", times["defaults"])
    rate = 2 * 2048**3 / 1e9 / min(times["peak"])
    share = [work / rate / t for t in times["mi_lab"]]
    middle = sorted(share)[len(share) // 2]
    bound = sorted(times["defaults"])[len(share) // 2] / (computed / rate)
    versus = "HookedTransformer loop"
    rows = [
        row(f"{name}: against the {versus} at torch's defaults", ratio(times, "defaults", "mi_lab"),
            bars[0][0], stretch=bars[0][1], bound=round(bound, 2)),
        row(f"{name}: against the {versus} at equal precision", ratio(times, "equal", "mi_lab"),
            bars[1][0], stretch=bars[1][1]),
        row(f"{name}: share of the measured peak of matrix products",
            {"median": round(middle, 3), "min": round(min(share), 3), "max": round(max(share), 3)},
            bars[2][0], stretch=bars[2][1], unit="share"),
    ]  # fmt: skip
    about = {
        "batch": recipe.batch,
        "products_gflop": round(work, 2),
        "computed_gflop": round(computed, 2),
        "peak_gflop_per_s": round(rate, 1),
        "route": "oneDNN" if onednn else "torch's default",
        "largest_differences": checked,
        "ms": {key: median_and_spread(values) for key, values in times.items()},
    }
    return rows, about


def main() -> None:
    args = arguments(__doc__, rounds=5)
    report_cases(
        "A training step, the paper shapes of the three studies", CASES, measure, args, "transformer-lens"
    )


if __name__ == "__main__":
    main()

"""One training step of a stack, over buffers that never move, so that it can be replayed.

Data, forward and backward pass, clipping, optimiser and log are functions of tensors that are made once.
No Python number decides what a step does: which batch is due, the learning rate and the place in the
log follow from a counter on the device. So the same code runs step by step on a CPU and, recorded
once, as a CUDA graph that is replayed (`mi_lab.capture`); what it does can be tested without a GPU.

1. `draw`: a pool of batches for each model, from its own generator;
2. forward and backward on all models at once, on the pool's next batch;
3. amplify what is slow in the gradient (GrokFast), and clip each model's by its own norm, if the recipe says so;
4. one fused optimiser step on the one buffer that holds all weights, at the scheduled rate;
5. loss and accuracy into the log; the counter goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_lab.forward import Layout, exits, forward
from mi_lab.recipe import Recipe
from mi_lab.stack import Stack, backward
from mi_lab.studies.base import targets

POOL = 32  # batches drawn at a time
LOG = 1024  # steps whose loss and accuracy are kept on the device


class Step:
    """The step of one stack, and everything it reads and writes.

    pool Int[model, POOL, batch, n_ctx]; at Int[1], finished steps; rates [steps], the schedule;
    loss, accuracy [model, LOG]: of step s in column s mod LOG, NaN where it was not noted.
    """

    def __init__(self, recipe: Recipe, stack: Stack, generators: Sequence[torch.Generator]) -> None:
        self.recipe, self.stack, self.generators = recipe, stack, list(generators)
        device, models, task = stack.device, len(stack), recipe.task
        self.pool = torch.zeros(models, POOL, recipe.batch, task.n_ctx, dtype=torch.long, device=device)
        self.at = torch.zeros(1, dtype=torch.long, device=device)
        # the optimiser's kernels want float32 on a GPU; on a CPU they read the rate as a double
        kind = torch.float64 if device.type == "cpu" else torch.float32
        rates = [recipe.lr_at(step) for step in range(recipe.steps)]
        self.rates = torch.tensor(rates, dtype=kind, device=device)
        self.rate = self.rates[:1].clone()
        self.loss = torch.full((models, LOG), torch.nan, device=device)
        self.accuracy = self.loss.clone()
        layout = getattr(task, "layout", None)
        self.layout = None if layout is None else Layout(*(x.to(device) for x in layout))
        self.grad = torch.zeros_like(stack.flat)
        self.leaves = stack.leaves(self.grad)
        self.parameter = torch.nn.Parameter(stack.flat)
        self.parameter.grad = self.grad
        # GrokFast's running mean of the gradient
        self.slow = torch.zeros_like(self.grad) if recipe.grokfast else None
        optimiser = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
        self.optimiser = optimiser(
            [self.parameter], lr=self.rate, betas=recipe.betas, weight_decay=recipe.weight_decay,
            fused=True, capturable=device.type == "cuda",
        )  # fmt: skip
        self.optimiser._warned_capturable_if_run_uncaptured = True  # type: ignore  # the first steps do

    def draw(self) -> None:
        """1. The next POOL batches of every model."""
        task, batch = self.recipe.task, self.recipe.batch
        for row, generator in zip(self.pool, self.generators, strict=True):
            tokens = task.sample(POOL * batch, generator=generator, device=self.stack.device)
            row.copy_(tokens.view(POOL, batch, task.n_ctx))

    def __call__(self, note: bool = True) -> None:
        """2-5. Without `note` the accuracy is not worked out, and neither number is kept."""
        tokens = self.pool.index_select(1, self.at % POOL).squeeze(1)
        loss, logits = self._backward(tokens)
        if self.slow is not None:
            self._amplify(self.slow)
        if self.recipe.clip is not None:
            norm = self.grad.norm(dim=1, keepdim=True)
            self.grad.mul_((self.recipe.clip / norm).clamp(max=1.0))
        self.rate.copy_(self.rates.index_select(0, self.at))
        self.optimiser.step()
        self.at.add_(1)
        if note:
            place = self.at % LOG
            self.loss.index_copy_(1, place, loss[:, None])
            self.accuracy.index_copy_(1, place, self._accuracy(logits, tokens)[:, None])

    def _amplify(self, slow: Tensor) -> None:
        """GrokFast: bring the gradient's running mean up to date, and add it to the gradient."""
        assert self.recipe.grokfast is not None
        alpha, strength = self.recipe.grokfast
        fresh = torch.where(self.at == 0, 1.0, 1 - alpha)  # the first gradient is the first mean
        slow.lerp_(self.grad, fresh)
        self.grad.add_(slow, alpha=strength)

    def _backward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Loss[model] and logits; gradients go to `self.grad`."""
        recipe, task = self.recipe, self.recipe.task
        inputs = (
            tokens[0] if len(self.stack) == 1 else tokens
        )  # plain matrix products instead of batched ones
        with torch.autocast(self.stack.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            if recipe.exits:
                *earlier, logits = exits(self.leaves, recipe.config, inputs, task.answer, self.layout)
            else:
                earlier, logits = [], forward(self.leaves, recipe.config, inputs, task.answer, self.layout)
        logits = logits.float()
        weights = task.weights(tokens.flatten(0, 1))
        right = tokens[..., task.answer.start + 1 : task.answer.stop + 1]
        loss = total = self._loss(logits, right, weights)
        if earlier:
            before = sum(
                self._loss(x.float(), aim, weights)
                for x, aim in zip(earlier, self._aims(tokens, right, len(earlier)), strict=True)
            )
            total = loss + recipe.exits * before / len(earlier)
        backward(total.sum(), self.leaves)  # models share no weights, so the sum gives each its own gradient
        return loss.detach(), logits.detach()

    def _aims(self, tokens: Tensor, right: Tensor, layers: int) -> Tensor:
        """Int[layers, model, batch, answer]: what the earlier layers are to say; the answer, unless the task tells."""
        aims = getattr(self.recipe.task, "aims", None)
        if aims is None:
            return right.expand(layers, *right.shape)
        return aims(tokens.flatten(0, 1), layers).view(layers, *right.shape)

    def _loss(self, logits: Tensor, right: Tensor, weights: Tensor | None) -> Tensor:
        """Mean cross-entropy [model] of the answer tokens that count, in nats."""
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), right.reshape(-1), reduction="none")
        loss = loss.view(right.shape)
        if weights is None:
            return loss.mean((1, 2))
        weights = weights.view(right.shape).to(loss)
        return (loss * weights).sum((1, 2)) / weights.sum((1, 2))

    @torch.no_grad()
    def _accuracy(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Fraction [model] of the answer tokens that count which are right."""
        task, flat = self.recipe.task, tokens.flatten(0, 1)
        guess = logits.reshape(len(flat), -1, logits.shape[-1]).argmax(-1)
        right = (guess == targets(task, flat)).float()
        weights = task.weights(flat)
        weights = torch.ones_like(right) if weights is None else (weights > 0).to(right)
        right, weights = (x.view(len(self.stack), -1).sum(1) for x in (right * weights, weights))
        return right / weights

    def noted(self, steps: Sequence[int]) -> tuple[list[list[float]], list[list[float]]]:
        """Loss and accuracy [step][model] of these steps, all among the last LOG; waits for the device."""
        columns = torch.tensor([step % LOG for step in steps], device=self.at.device)
        pair = torch.stack([self.loss, self.accuracy]).index_select(2, columns).transpose(1, 2)
        loss, accuracy = pair.tolist()
        return loss, accuracy

    def moments(self) -> dict[str, Tensor]:
        """The optimiser's state: exp_avg and exp_avg_sq, and GrokFast's mean if there is one, shaped as the weights."""
        state = self.optimiser.state[self.parameter]
        out = {name: state[name] for name in ("exp_avg", "exp_avg_sq")}
        return out if self.slow is None else out | {"slow": self.slow}

    def set(self, step: int, exp_avg: Tensor, exp_avg_sq: Tensor, slow: Tensor | None = None) -> None:
        """Go on after `step` finished steps, with what `moments` gave then."""
        if self.slow is not None:
            assert slow is not None
            self.slow.copy_(slow)
        self.at.fill_(step)
        device = self.at.device
        self.optimiser.state[self.parameter] = {
            "step": torch.tensor(float(step), device=device),
            "exp_avg": exp_avg.to(device),
            "exp_avg_sq": exp_avg_sq.to(device),
        }

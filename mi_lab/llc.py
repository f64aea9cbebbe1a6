"""Local learning coefficient: how many effective dimensions a minimum has, by stacked SGLD chains.

    lambda-hat = nbeta * (E_chain[L] - L(w*)),     nbeta = n * beta, the inverse temperature

The chain walks around the trained weights w* with the step

    w <- w - (eps/2) (nbeta grad L + gamma (w - w*)) + N(0, eps)

API, in the order you need it:

    tokens = task.sample(8192, generator=generator)              # the data set that defines L
    result = estimate(model, tokens, task.answer, ESTIMATORS["rms"], seed=0)
    result.value, result.standard_error, result.warnings         # read the warnings before the value
    results = estimate_all(stack, tokens, task.answer, settings) # seeds or checkpoints, one LLC each
    rescale(model, 2.0)                                          # the same function with other weights
    sgld(with_grad(loss), start, settings)                       # any loss over a buffer [chain, n]

**The number belongs to the estimator.** Three ways to choose noise and potential, each with its
failure mode (all in `ESTIMATORS`; sorting study, claim S9):

- "isotropic": the same noise for every weight, L is the cross entropy. Fails under a change of
  scale: when weight decay shrinks the weights, a perturbation of fixed size grows relative to them
  and the estimate rises although the function need not have changed. `rescale` shows it.
- "rms": noise in proportion to each tensor's root mean square at w*, L is the cross entropy. Blind
  to `rescale` by construction. Fails when w* is no minimum of L: a model trained with coupled weight
  decay is none of the cross entropy alone, the chain walks downhill and the estimate is negative.
- "rms_l2": the same noise, L is the cross entropy plus (l2/2)|w|^2, which such a model does
  minimise. Fails in mid-training, where w* is a minimum of nothing, and is not blind to `rescale`
  (the penalty isn't). What is estimated is the learning coefficient of that potential.

Every one fails in two more ways that the value doesn't show and the diagnostics do: a chain that
leaves the basin gives a clean-looking number that is about another place (`left_basin`), and a
chain that is too short gives a number that is about its length (`not_equilibrated`).

When not to use it: on an untrained model, where the quantity is undefined.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_lab.fast import fast_matmul
from mi_lab.model import Transformer
from mi_lab.stack import Stack, backward, forward, onednn_pays, stacking_pays


@dataclass(frozen=True)
class SGLD:
    """Settings of a chain; `dataclasses.replace` varies them.

    nbeta: inverse temperature n*beta, in 1/nats. step_size: eps, the variance of one step's noise, in
        squared weights ("isotropic") or squared tensor RMS ("rms"). localization: gamma, the pull back
        to w*, in the inverse of the same unit.
    draws: averaged steps per chain. burn_in: steps before them, in the trace but not in the average.
    chains: independent chains. batch: examples per step, drawn in epochs from the data.
    preconditioner: "isotropic", or "rms": everything is done in weights divided by the RMS that their
        tensor has at w*; a tensor of zeros stays as it is. l2: weight of the penalty (l2/2)|w|^2 in L.
    """

    nbeta: float
    step_size: float
    localization: float = 0.0
    draws: int = 200
    burn_in: int = 0
    chains: int = 4
    batch: int = 256
    preconditioner: Literal["isotropic", "rms"] = "isotropic"
    l2: float = 0.0

    def __post_init__(self) -> None:
        checks = [
            ("nbeta", 0 < self.nbeta < math.inf, "positive"),
            ("step_size", 0 < self.step_size < math.inf, "positive"),
            ("localization", 0 <= self.localization < math.inf, "0 or positive"),
            ("draws", self.draws >= 8, "at least 8: quarters of the chain are compared"),
            ("burn_in", self.burn_in >= 0, "0 or positive"),
            ("chains", self.chains >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("preconditioner", self.preconditioner in ("isotropic", "rms"), "'isotropic' or 'rms'"),
            ("l2", 0 <= self.l2 < math.inf, "0 or positive"),
        ]
        for name, ok, wanted in checks:
            if not ok:
                raise ValueError(f"{name} must be {wanted}; it is {getattr(self, name)!r}")
        if self.step_size * self.localization >= 2:
            raise ValueError(
                f"step_size * localization must be below 2, or the pull back overshoots; "
                f"it is {self.step_size * self.localization:g}"
            )

    @property
    def steps(self) -> int:
        """Steps of one chain: burn_in + draws."""
        return self.burn_in + self.draws


ESTIMATORS: dict[str, SGLD] = {
    "isotropic": SGLD(nbeta=1e4, step_size=1e-6, localization=1e3, draws=200, burn_in=200),
    "rms": SGLD(nbeta=1e4, step_size=2.8e-4, localization=4.0, draws=300, burn_in=300, preconditioner="rms"),
    "rms_l2": SGLD(
        nbeta=1e4, step_size=2.8e-4, localization=4.0, draws=300, burn_in=300, preconditioner="rms", l2=0.005
    ),
}
"""The three estimators of the sorting study, see the module's text; l2 is the training's weight decay."""


class Chains(NamedTuple):
    """What `sgld` recorded, each [chain, step], burn-in included; a stopped chain goes on as NaN.

    loss: without the penalty. excess: loss plus penalty, minus the same at w* on the same examples.
    """

    loss: Tensor
    excess: Tensor


class LLC(NamedTuple):
    """An estimate with what is needed to distrust it.

    value: lambda-hat, the mean over finite chains; dimensionless. se_chains: its standard error from
    the scatter of the chains (NaN for one chain). se_draws: from the autocorrelated draws inside each.
    per_chain [chain]. loss [chain, step]: cross entropy in nats. excess [chain, step]: potential minus
    its value at w* on the same examples, nats. initial_loss, end_loss: cross entropy at w* on all data,
    and in the last twentieth of the draws, of the worst chain.
    drift, drift_error: mean of the last quarter minus that of the third, in units of `value`.
    left_basin: end_loss >= 5 initial_loss + 0.05. not_a_minimum: the value is negative, or a chain
    ends below w*. not_equilibrated: |drift| is beyond what its error allows. nonfinite: chains whose
    loss stopped being finite.
    """

    value: float
    se_chains: float
    se_draws: float
    per_chain: Tensor
    loss: Tensor
    excess: Tensor
    initial_loss: float
    end_loss: float
    drift: float
    drift_error: float
    left_basin: bool
    not_a_minimum: bool
    not_equilibrated: bool
    nonfinite: tuple[int, ...]
    settings: SGLD
    seconds: float

    @property
    def standard_error(self) -> float:
        """The larger of the two standard errors."""
        return max((x for x in (self.se_chains, self.se_draws) if math.isfinite(x)), default=math.nan)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why not to believe the value, in sentences; empty if nothing was found."""
        out = []
        if self.nonfinite:
            which = ", ".join(map(str, self.nonfinite))
            out.append(f"the loss of chain {which} stopped being finite: lower step_size")
        if self.left_basin:
            out.append(
                f"a chain left the basin (loss {self.initial_loss:.4f} at w*, {self.end_loss:.4f} at its "
                "end): lower step_size or raise localization"
            )
        if self.not_a_minimum:
            out.append(
                "chains fall below the start: w* is not a minimum of this potential, the value means nothing"
            )
        if self.not_equilibrated:
            out.append(
                f"not equilibrated: the last quarter differs from the third by {self.drift:.3g} "
                f"+- {self.drift_error:.2g}; raise burn_in"
            )
        return tuple(out)


class Draw(NamedTuple):
    """Loss [chain] at w, `base` [chain]: loss at w* on the same examples, and grad [chain, n] of the loss."""

    loss: Tensor
    base: Tensor
    grad: Tensor


LossAndGrad = Callable[[Tensor], Draw]
"""Called once per step with the weights [chain, n]; may return the same gradient buffer each time."""


def with_grad(loss: Callable[[Tensor], Tensor], start: Tensor) -> LossAndGrad:
    """A loss over weights [.., n] -> [..], made ready for `sgld` by autograd; start [n] is w*."""
    base = loss(start).detach()

    def loss_and_grad(w: Tensor) -> Draw:
        leaf = w.detach().requires_grad_()
        value = loss(leaf)
        (grad,) = torch.autograd.grad(value.sum(), leaf)
        return Draw(value.detach(), base.expand_as(value), grad)

    return loss_and_grad


def sgld(
    loss_and_grad: LossAndGrad,
    weights: Tensor,
    settings: SGLD,
    generators: Sequence[torch.Generator],
    scale: Tensor | None = None,
) -> Chains:
    """Run chains from `weights` [chain, n], which end where the chains do.

    generators: one per chain, or fewer, in which case the rows are that many chains for each of
    several models and a chain's noise is the same in all of them. scale [chain, n]: size of a weight.

    1. loss and gradient; 2. note them; 3. the penalty's gradient; 4. drift and pull; 5. noise.
    """
    eps, nbeta, l2 = settings.step_size, settings.nbeta, settings.l2
    start = weights.clone()
    noise = weights.new_empty(len(generators), weights.shape[1])
    variance = None if scale is None else scale.square()
    penalty = 0.5 * l2 * start.square().sum(1)
    loss = weights.new_full((settings.steps, len(weights)), math.nan)
    excess = loss.clone()
    for step in range(settings.steps):
        draw = loss_and_grad(weights)  # 1
        loss[step] = draw.loss  # 2
        excess[step] = draw.loss - draw.base
        if l2:
            excess[step] += 0.5 * l2 * weights.square().sum(1) - penalty
        if step % 50 == 49 and not loss[step].isfinite().any():
            break
        grad = draw.grad
        if l2:
            grad.add_(weights, alpha=l2)  # 3
        if variance is not None:
            grad.mul_(variance)
        weights.add_(grad, alpha=-0.5 * eps * nbeta)  # 4
        weights.lerp_(start, 0.5 * eps * settings.localization)
        for row, generator in zip(noise, generators, strict=True):  # 5
            row.normal_(generator=generator)
        rows = noise if len(noise) == len(weights) else noise.repeat(len(weights) // len(noise), 1)
        if scale is None:
            weights.add_(rows, alpha=math.sqrt(eps))
        else:
            weights.addcmul_(rows, scale, value=math.sqrt(eps))
    return Chains(loss.T.contiguous(), excess.T.contiguous())


def summarise(chains: Chains, settings: SGLD, initial_loss: float, seconds: float = 0.0) -> LLC:
    """From traces [chain, step] to an estimate with standard errors and diagnostics."""
    loss, excess = chains.loss.double().cpu(), chains.excess.double().cpu()
    draws = settings.nbeta * excess[:, settings.burn_in :]
    fine = (draws.isfinite() & loss[:, settings.burn_in :].isfinite()).all(1)
    per_chain = draws.mean(1)
    good, ended = draws[fine], loss[fine, settings.steps - max(1, settings.draws // 20) :].mean(1)
    n = len(good)
    nan = math.nan
    value = float(per_chain[fine].mean()) if n else nan
    se_chains = float(per_chain[fine].std() / math.sqrt(n)) if n > 1 else nan
    se_draws = math.sqrt(sum(error_of_mean(x) ** 2 for x in good)) / n if n else nan
    end_loss = float(ended.max()) if n else nan
    quarter = settings.draws // 4
    third, last = good[:, -2 * quarter : -quarter], good[:, -quarter:]
    change = last.mean(1) - third.mean(1)
    drift = float(change.mean()) if n else nan
    if n > 2:  # chains that drift together are told from noise by their agreement
        drift_error, allowed = float(change.std() / math.sqrt(n)), 2 + 4 / (n - 1)  # about t at 95 %
    else:
        errors = [error_of_mean(x) for part in (third, last) for x in part]
        drift_error, allowed = (math.hypot(*errors) / n if n else nan), 2.0
    return LLC(
        value=value,
        se_chains=se_chains,
        se_draws=se_draws,
        per_chain=per_chain,
        loss=chains.loss.cpu(),
        excess=chains.excess.cpu(),
        initial_loss=initial_loss,
        end_loss=end_loss,
        drift=drift,
        drift_error=drift_error,
        left_basin=end_loss >= 5 * initial_loss + 0.05,
        not_a_minimum=bool(n and (value < 0 or (last.mean(1) < 0).any())),
        not_equilibrated=abs(drift) > allowed * drift_error,
        nonfinite=tuple(i for i, ok in enumerate(fine.tolist()) if not ok),
        settings=settings,
        seconds=seconds,
    )


def error_of_mean(x: Tensor) -> float:
    """Standard error of the mean of an autocorrelated series [step].

    sqrt(variance * tau / n), tau = 1 + 2 sum of autocorrelations, summed over pairs of lags as long
    as the pairs are positive (Geyer's initial positive sequence).
    """
    n = len(x)
    centred = x - x.mean()
    power = torch.fft.rfft(centred, 2 * n).abs().square()
    covariance = torch.fft.irfft(power)[:n] / n
    variance = float(covariance[0])
    if variance <= 0 or n < 4:
        return 0.0
    pairs = covariance[: n - n % 2].view(-1, 2).sum(1)
    negative = (pairs <= 0).nonzero()
    stop = int(negative[0]) if len(negative) else len(pairs)
    spread = 2 * float(pairs[:stop].sum()) - variance
    return math.sqrt(max(spread, variance / n) / n)


def estimate(
    model: Transformer,
    tokens: Tensor,
    answer: slice,
    settings: SGLD,
    *,
    seed: int = 0,
    weights: Tensor | None = None,
) -> LLC:
    """Local learning coefficient of one trained model.

    tokens Int[n, pos]: the data that define L; answer: positions whose prediction counts (a task's
    `answer`); weights Float[n, answer]: how much each counts (a task's `weights`), None means equally.
    Error: Monte Carlo, see `LLC`. Each draw is compared with the loss at w* on its own examples, so
    that the choice of examples cancels. Cost: chains * (burn_in + draws) forward and backward passes.
    Chapter: The toolbox.
    """
    return estimate_all(Stack.from_models([model]), tokens, answer, settings, seed=seed, weights=weights)[0]


def estimate_all(
    stack: Stack,
    tokens: Tensor,
    answer: slice,
    settings: SGLD,
    *,
    seed: int = 0,
    weights: Tensor | None = None,
    callback: Callable[[int], None] | None = None,
) -> tuple[LLC, ...]:
    """One estimate per model of a stack (seeds, or checkpoints of one run).

    Chain c has the same noise and the same batches for every model, so that differences between
    models are sharper than each value. A chain's numbers don't depend on what is stacked beside it,
    up to rounding. callback(models done): for a progress bar.
    """
    if tokens.ndim != 2 or not 1 <= settings.batch <= len(tokens):
        raise ValueError(
            f"tokens must be [n, pos] with n >= batch = {settings.batch}, not {list(tokens.shape)}"
        )
    stack.model(0).check_tokens(tokens)
    first, stop, _ = answer.indices(tokens.shape[1])
    if not 0 <= first < stop < tokens.shape[1]:
        raise ValueError(f"answer must lie before the last of {tokens.shape[1]} positions, not {answer}")
    tokens, answer = tokens.to(stack.device).long(), slice(first, stop)
    shape = (len(tokens), stop - first)
    weights = torch.ones(shape, device=stack.device) if weights is None else weights.to(stack.flat)
    if weights.shape != shape:
        raise ValueError(f"weights must have shape {list(shape)}, not {list(weights.shape)}")
    counts = weights.sum(1)
    n_tokens = settings.batch * tokens.shape[1]
    together = stacking_pays(stack.config, n_tokens, stack.device)
    large = onednn_pays(stack.config, n_tokens, len(stack) * settings.chains if together else 1)
    out = []
    with fast_matmul(stack.device, onednn=large):
        groups = [list(range(len(stack)))] if together else [[i] for i in range(len(stack))]
        for models in groups:
            begun = time.monotonic()
            start = stack.flat.detach()[models]
            each = [Stack(stack.config, w[None]) for w in start]
            base = torch.stack([example_loss(one, tokens, answer, weights) for one in each])
            initial = base.double().sum(1) / counts.double().sum()
            scale = tensor_rms(stack, start) if settings.preconditioner == "rms" else None
            runs = [list(range(settings.chains))] if together else [[c] for c in range(settings.chains)]
            traces = []
            for chains in runs:
                rows = [m for m in range(len(models)) for _ in chains]  # models outermost
                generators = [torch.Generator(stack.device).manual_seed(seed + c) for c in chains]
                walkers = Stack(stack.config, start[rows].clone())
                data = _Data(walkers, tokens, answer, weights, base[rows], generators, settings.batch)
                sizes = None if scale is None else scale[rows]
                traces.append(sgld(data, data.stack.flat, settings, generators, sizes))
            seconds = (time.monotonic() - begun) / len(models)
            for i in range(len(models)):
                mine = [Chains(*(x.view(len(models), -1, settings.steps)[i] for x in t)) for t in traces]
                merged = Chains(torch.cat([t.loss for t in mine]), torch.cat([t.excess for t in mine]))
                out.append(summarise(merged, settings, float(initial[i]), seconds))
                if callback is not None:
                    callback(len(out))
    return tuple(out)


class _Data:
    """Loss and gradient of all rows of a stack, each on the next batch of its chain."""

    def __init__(
        self,
        stack: Stack,
        tokens: Tensor,
        answer: slice,
        weights: Tensor,
        base: Tensor,
        generators: Sequence[torch.Generator],
        batch: int,
    ) -> None:
        self.stack, self.tokens, self.answer, self.weights, self.base = stack, tokens, answer, weights, base
        self.generators, self.batch = generators, batch
        self.grad = torch.zeros_like(stack.flat)
        self.leaves = stack.leaves(self.grad)
        self.at = len(tokens)

    def __call__(self, flat: Tensor) -> Draw:
        if self.at + self.batch > len(self.tokens):  # a new epoch; what doesn't fill a batch is left out
            device = self.tokens.device
            order = [torch.randperm(len(self.tokens), generator=g, device=device) for g in self.generators]
            self.order = torch.stack(order).repeat(len(flat) // len(order), 1)
            self.at = 0
        index = self.order[:, self.at : self.at + self.batch]
        self.at += self.batch
        weights = self.weights[index]
        count = weights.sum((1, 2))
        summed = losses(self.leaves, self.stack, self.tokens[index], self.answer, weights)
        loss = summed.sum(1) / count
        backward(loss.sum(), self.leaves)  # rows share no weights
        return Draw(loss.detach(), self.base.gather(1, index).sum(1) / count, self.grad)


def losses(params: dict[str, Tensor], stack: Stack, tokens: Tensor, answer: slice, weights: Tensor) -> Tensor:
    """Weighted sum of each example's losses, [model, batch], in nats; tokens [model, batch, pos]."""
    single = params["W_E"].ndim == 2
    logits = forward(params, stack.config, tokens[0] if single else tokens, answer)
    right = tokens[..., answer.start + 1 : answer.stop + 1]
    loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), right.reshape(-1), reduction="none")
    return (loss.view(right.shape) * weights).sum(-1)


@torch.no_grad()
def example_loss(stack: Stack, tokens: Tensor, answer: slice, weights: Tensor) -> Tensor:
    """Weighted sum of each example's losses under a stack of one model, [n]."""
    params = stack.params(0)
    parts = zip(tokens.split(1024), weights.split(1024), strict=True)
    return torch.cat([losses(params, stack, t[None], answer, w[None])[0] for t, w in parts])


def tensor_rms(stack: Stack, flat: Tensor) -> Tensor:
    """For each weight of flat [model, n] the root mean square of its tensor."""
    scale = torch.empty_like(flat)
    values = stack.views(flat)
    for name, view in stack.views(scale).items():
        rms = values[name].flatten(1).square().mean(1).sqrt()
        view.copy_(rms.view(-1, *(1,) * (view.ndim - 1)).expand_as(view))
    return scale


def rescale(model: Transformer, factor: float) -> Transformer:
    """The same function with other weights: W_V and b_V times `factor`, W_O divided by it, in all heads.

    A falsifier: nothing that is said about the function may depend on it.
    """
    if not math.isfinite(factor) or factor == 0:
        raise ValueError(f"factor must be finite and not 0; it is {factor!r}")
    twin = Transformer(model.config).to(model.device)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for block in twin.blocks:
            block.attn.W_V.mul_(factor)
            block.attn.b_V.mul_(factor)
            block.attn.W_O.div_(factor)
    return twin.eval()

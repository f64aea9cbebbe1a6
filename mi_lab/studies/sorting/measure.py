"""Measurements of the sorting study, one function per question; claims and chapter share them.

Everything is deterministic: evaluation lists come from generators seeded here, with seeds that no
training run uses.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mi_lab import zoo
from mi_lab.circuits import direct_logit_attribution, head_outputs, ov_circuit
from mi_lab.metrics import Scores, expected_calibration_error, score_logits
from mi_lab.model import LayerNorm, Transformer
from mi_lab.run import run
from mi_lab.stack import Stack, forward
from mi_lab.studies.base import generate, predict, targets
from mi_lab.studies.sorting.circuit import (
    THRESHOLD,
    attribution,
    copying_margin,
    count_runs,
    smooth,
    structure,
)
from mi_lab.studies.sorting.recipes import recipes
from mi_lab.studies.sorting.task import SortingTask

# Far from every training generator. Below 2^32, because torch's CPU generator drops the higher bits.
EVALUATION = 0xE7A1_0000
HERE = Path(__file__).parent


def lists(task: SortingTask, n: int, seed: int = 0) -> Tensor:
    """n fresh solved lists of this task, the same for every model."""
    return task.sample(n, generator=torch.Generator().manual_seed(EVALUATION + seed))


def task_of(recipe: str) -> SortingTask:
    """The task of a recipe."""
    return recipes[recipe].task  # type: ignore[return-value]


def seeds_of(recipe: str, fast: bool = False) -> tuple[int, ...]:
    """Published seeds of a recipe; the first three if `fast`."""
    return zoo.read(f"sorting/{recipe}").labels[: 3 if fast else None]


@functools.lru_cache(maxsize=512)
def model(recipe: str, seed: int) -> Transformer:
    """A published model, loaded once."""
    return zoo.load(f"sorting/{recipe}", seed)


@functools.lru_cache(maxsize=512)
def model_at(recipe: str, seed: int, step: int) -> Transformer:
    """A published model in mid-training."""
    return zoo.load(f"sorting/{recipe}_steps/seed-{seed}", step)


@functools.lru_cache(maxsize=8)
def development(recipe: str) -> dict[str, np.ndarray]:
    """Published curves of a recipe over training.

    steps [step]; margin [seed, step, head, number]; loss, token, list [seed, step] on fresh lists;
    owner_share, own, other, dla_runs [seed, step]; norm [seed, step]: of all weights.
    """
    with np.load(HERE / "curves" / f"{recipe}.npz") as data:
        return {name: data[name].astype(np.float32) for name in data.files}


@functools.lru_cache(maxsize=1)
def llc_curves() -> dict[str, Any]:
    """Published LLC measurements, with their settings and provenance."""
    return json.loads((HERE / "curves" / "llc.json").read_text())


def sources(*names: str) -> dict[str, str]:
    """SHA-256 of the checkpoints that a measurement used."""
    return {name: zoo.sha256(f"sorting/{name}") for name in names}


def last_logits(model: Transformer) -> Callable[[Tensor], Tensor]:
    """The fast forward for generation: tokens [n, pos] -> logits [n, 1, vocab] of the last position."""
    params = Stack.from_models([model]).params(0)

    def logits(tokens: Tensor) -> Tensor:
        last = tokens.shape[1] - 1
        return forward(params, model.config, tokens, slice(last, last + 1))

    return logits


class Accuracy(NamedTuple):
    """token: teacher-forced. token_generated, list: by the model's own generation."""

    token: float
    token_generated: float
    list: float


def accuracy(model: Transformer, task: SortingTask, n: int, *, shuffled: bool = False) -> Accuracy:
    """Accuracy on n fresh lists; `shuffled` grades against a random order of the numbers, the control."""
    tokens = lists(task, n)
    right = targets(task, tokens)
    if shuffled:
        order = torch.rand(right.shape, generator=torch.Generator().manual_seed(1)).argsort(1)
        right = right.gather(1, order)
    forced = predict(model, task, tokens) == right
    free = generate(last_logits(model), task, tokens)[:, task.length + 1 :] == right
    return Accuracy(*(float(x.float().mean()) for x in (forced, free, free.all(1))))


class Ablation(NamedTuple):
    """Accuracy on the targets that the removed head owns, and on the others, per head."""

    own: tuple[float, ...]
    other: tuple[float, ...]


@torch.no_grad()
def removed(model: Transformer, task: SortingTask, tokens: Tensor, head: int, how: str) -> Tensor:
    """Logits [n, answer, vocab] with one head's z replaced.

    how: "zero"; "mean" (over the batch, per position); "resample" (another list's, same position).
    """

    def edit(z: Tensor) -> Tensor:
        z = z.clone()
        if how == "zero":
            z[:, :, head] = 0.0
        elif how == "mean":
            z[:, :, head] = z[:, :, head].mean(0)
        elif how == "resample":
            z[:, :, head] = z[:, :, head].roll(1, 0)
        else:
            raise ValueError(f"how must be 'zero', 'mean' or 'resample', not {how!r}")
        return z

    return run(model, tokens, edit={"blocks.0.attn.z": edit}).logits[:, task.answer]


def dissociation(model: Transformer, task: SortingTask, owner: Tensor, tokens: Tensor, how: str) -> Ablation:
    """Remove each head in turn; `owner` [number] must come from other data than `tokens`."""
    right = targets(task, tokens)
    own, other = [], []
    for head in range(model.config.n_heads):
        hit = removed(model, task, tokens, head, how).argmax(-1) == right
        mine = owner[right] == head
        own.append(float(hit[mine].float().mean()) if mine.any() else float("nan"))
        other.append(float(hit[~mine].float().mean()) if (~mine).any() else float("nan"))
    return Ablation(tuple(own), tuple(other))


def random_contiguous_owner(owner: Tensor, seed: int = 0) -> Tensor:
    """A control for ownership: the same head sizes, but contiguous ranges at a random rotation."""
    generator = torch.Generator().manual_seed(seed)
    shift = int(torch.randint(len(owner), (1,), generator=generator))
    return owner.sort().values.roll(shift)


def causal_summary(
    model: Transformer, task: SortingTask, *, n: int = 2000, relabel: str = "own"
) -> dict[str, float]:
    """Double dissociation in numbers: worst `own` and `other` over heads, under zero and mean ablation.

    Ownership from one half of the data, accuracies from the other. relabel: "own", "swapped" or
    "random" (contiguous ranges of equal sizes), the two controls. A head that owns nothing has own = 1.
    """
    first, second = lists(task, n, seed=11), lists(task, n, seed=12)
    found = attribution(model, task, first)
    owner = found.owner
    if relabel == "swapped":
        owner = (owner + 1) % model.config.n_heads
    elif relabel == "random":
        owner = random_contiguous_owner(owner)
    out = {"runs": float(count_runs(found.owner)), "owner_share": found.share}
    for how in ("zero", "mean"):
        own, other = dissociation(model, task, owner, second, how)
        out[f"own_{how}"] = max(1.0 if x != x else x for x in own)
        out[f"other_{how}"] = min(1.0 if x != x else x for x in other)
    return out


class Roles(NamedTuple):
    """Which head suppresses which numbers. region [number]: Bool, where one head's smoothed margin
    is above the threshold and the suppressor's below minus it."""

    suppressor: int
    copier: int
    region: Tensor


def roles(margin: Tensor, against: float = THRESHOLD) -> Roles:
    """The suppressor is the head with the most numbers it writes against while another copies them.

    against: how far below zero counts, as a share of the largest margin; 0 takes any negative margin,
    for a suppressor that is weak everywhere.
    """
    soft = smooth(margin)
    largest = soft.abs().max()
    up, down = soft > THRESHOLD * largest, soft < -against * largest
    suppressed = torch.stack([down[h] & up.any(0) for h in range(len(margin))])
    head = int(suppressed.sum(1).argmax())
    region = suppressed[head]
    rest = [h for h in range(len(margin)) if h != head]
    copier = max(rest, key=lambda h: int((up[h] & region).sum())) if rest else head
    return Roles(head, copier, region)


@torch.no_grad()
def suppression_role(
    model: Transformer,
    task: SortingTask,
    margin: Tensor,
    *,
    n: int = 3000,
    control: str | None = None,
    against: float = THRESHOLD,
) -> dict[str, float]:
    """What the suppressor does where it suppresses (positions whose target lies in its region).

    written: mean D of the suppressor there over the copier's, negative when it writes against the
    right token. ratio: its attention to the right source over that to each other list position.
    d_entropy, d_nll, d_ece, d_accuracy: change on removing it (mean ablation; `*_zero`, `*_resample`
    too); `*_frozen`: with the final LayerNorm's scale kept from the clean run.
    All but `region` are NaN where fewer than 50 positions are suppressed.
    control "random": a random direction of equal norm stands in the suppressor's place, with its
    attention shuffled over list positions.
    """
    who = roles(margin, against)
    tokens = lists(task, n, seed=21)
    right, source = targets(task, tokens), task.variables(tokens)["source"]
    where = who.region[right]
    if int(where.sum()) < 50:
        changes = [f"d_{name}{how}" for name in _PARTS for how in ("", "_zero", "_resample")]
        undefined = (
            "written",
            "ratio",
            "entropy",
            "accuracy",
            *changes,
            "d_entropy_frozen",
            "d_entropy_zero_frozen",
        )
        return {"region": float(who.region.float().mean()), **dict.fromkeys(undefined, float("nan"))}
    names = ("blocks.0.attn.z", "blocks.0.attn.pattern", "blocks.0.resid_post")
    clean = run(model, tokens, record=names)
    outputs = head_outputs(model, clean[names[0]][:, task.answer])
    resid = clean[names[2]][:, task.answer]
    pattern = clean[names[1]][:, who.suppressor, task.answer, : task.length]
    generator = torch.Generator().manual_seed(3)
    mine = outputs[:, :, who.suppressor]
    if control == "random":
        direction = torch.randn(mine.shape[-1], generator=generator)
        stand_in = direction / direction.norm() * mine.norm(dim=-1, keepdim=True)
        resid = resid - mine + stand_in
        mine = stand_in
        order = torch.rand(pattern.shape, generator=generator).argsort(-1)
        pattern = pattern.gather(-1, order)
    effect = direct_logit_attribution(model, mine, right)
    copier = direct_logit_attribution(model, outputs[:, :, who.copier], right)
    on_source = pattern.gather(-1, source.unsqueeze(-1)).squeeze(-1)
    elsewhere = (pattern.sum(-1) - on_source) / (task.length - 1)
    base = _part(score_logits(_unembed(model, resid), right), where)
    out = {
        "region": float(who.region.float().mean()),
        "written": float(effect[where].mean() / copier[where].mean().clamp(min=1e-6)),
        "ratio": float(on_source[where].mean() / elsewhere[where].mean()),
        "entropy": base["entropy"],
        "accuracy": base["accuracy"],
    }
    swaps = {"": mine.mean(0), "_zero": torch.zeros_like(mine[:1]), "_resample": mine.roll(1, 0)}
    for suffix, value in swaps.items():
        after = _part(score_logits(_unembed(model, resid - mine + value), right), where)
        for name in _PARTS:
            out[f"d_{name}{suffix}"] = after[name] - base[name]
    for suffix in ("", "_zero"):
        logits = _unembed(model, resid - mine + swaps[suffix], scale_of=resid)
        frozen = _part(score_logits(logits, right), where)
        out[f"d_entropy{suffix}_frozen"] = frozen["entropy"] - base["entropy"]
    return out


def _unembed(model: Transformer, resid: Tensor, scale_of: Tensor | None = None) -> Tensor:
    """Logits of a final residual stream; with `scale_of`, LayerNorm divides by that stream's deviation."""
    norm = model.ln_final
    if scale_of is None or not isinstance(norm, LayerNorm):
        return norm(resid) @ model.unembed.W_U + model.unembed.b_U
    centred = resid - resid.mean(-1, keepdim=True)
    scale = (scale_of.var(-1, correction=0, keepdim=True) + model.config.eps).sqrt()
    return (centred / scale * norm.w + norm.b) @ model.unembed.W_U + model.unembed.b_U


_PARTS = ("entropy", "nll", "ece", "accuracy")


def _part(scores: Scores, where: Tensor) -> dict[str, float]:
    return {
        "entropy": float(scores.entropy[where].mean()),
        "nll": float(scores.nll[where].mean()),
        "ece": expected_calibration_error(scores.confidence[where], scores.correct[where]),
        "accuracy": float(scores.correct[where].float().mean()),
    }


@torch.no_grad()
def suppressed_directly(model: Transformer, task: SortingTask, n: int = 2000) -> tuple[float, float]:
    """From data: fraction of numbers where some head's D is below -10 % of the largest D, and the
    mean of D over the numbers that `roles` calls suppressed (logits)."""
    found = attribution(model, task, lists(task, n, seed=31))
    margin = margin_of(model, task)
    who = roles(margin)
    fraction = float((found.effect < -0.1 * found.effect.max()).any(0).float().mean())
    inside = found.effect[who.suppressor][who.region & (found.count > 0)]
    return fraction, float(inside.mean()) if len(inside) else float("nan")


def margin_of(model: Transformer, task: SortingTask) -> Tensor:
    """Copying margins [head, number] of a model."""
    return copying_margin(model, task)


def suppress_share(recipe: str, seed: int, *, interior: int = 0) -> float:
    """Fraction of numbers under copy-suppression at the end of training."""
    return structure(margin_of(model(recipe, seed), task_of(recipe)), interior=interior).suppress


@torch.no_grad()
def pattern_change(net: Transformer, tokens: Tensor, *, layer: int, head: int, removed_head: int) -> float:
    """Largest change of a head's attention pattern when a head of layer 0 is removed; 0: bit-identical."""

    def edit(z: Tensor) -> Tensor:
        z = z.clone()
        z[:, :, removed_head] = 0.0
        return z

    name = f"blocks.{layer}.attn.pattern"
    before = run(net, tokens, record=(name,))[name][:, head]
    after = run(net, tokens, record=(name,), edit={"blocks.0.attn.z": edit})[name][:, head]
    return float((before - after).abs().max())


@torch.no_grad()
def copies_itself(net: Transformer, task: SortingTask, owner: Tensor) -> list[tuple[float, float]]:
    """Per head: fraction of numbers whose OV row is largest at itself, among (its own, other) numbers."""
    n = task.n_numbers
    ov = ov_circuit(net).full()[:, :n, :n]
    right = ov.argmax(-1) == torch.arange(n)
    out = []
    for head in range(net.config.n_heads):
        mine = owner == head
        own = float(right[head][mine].float().mean()) if mine.any() else float("nan")
        other = float(right[head][~mine].float().mean()) if (~mine).any() else float("nan")
        out.append((own, other))
    return out


def division(margin: Tensor) -> tuple[float, float]:
    """(share of the numbers whose largest smoothed margin is the busiest head's, share of numbers where
    some other head's margin is below zero)."""
    soft = smooth(margin)
    owner = soft.argmax(0)
    counts = torch.bincount(owner, minlength=len(soft))
    others = [h for h in range(len(soft)) if h != int(counts.argmax())]
    below = (soft[others] < 0).any(0).float().mean() if others else torch.tensor(0.0)
    return float(counts.max() / soft.shape[1]), float(below)

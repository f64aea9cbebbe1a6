"""What a reader can operate in the sorting chapter: each explorer computes numbers, then draws them."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mi_lab import plot
from mi_lab.circuits import ov_circuit
from mi_lab.live import Choice, Explorer, Slider, Text, Toggles
from mi_lab.metrics import score_logits
from mi_lab.model import Transformer
from mi_lab.plot import Picture
from mi_lab.run import run
from mi_lab.studies.base import targets
from mi_lab.studies.sorting import measure
from mi_lab.studies.sorting.circuit import Structure, copying_margin, structure

EXAMPLE = "46,11,27,5,39,8,30,19,2,33"
GAP_RECIPES = ("window_12", "window_14", "window_20", "window_30", "paper")


class Stepped(NamedTuple):
    """One list, one output position: probabilities [vocab], attention [head, key], everything written so far."""

    tokens: Tensor
    words: list[str]
    position: int
    probability: Tensor
    attention: Tensor
    produced: list[str]
    right: list[str]
    heads_on: tuple[bool, ...]


def step_through(text: str, output: int, heads: tuple[bool, ...], model: Transformer, task: Any) -> Stepped:
    """The model's own answer to a typed list up to `output` (1-based), with some heads switched off."""
    tokens = task.encode(text)[None]
    off = [h for h, on in enumerate(heads) if not on]

    def edit(z: Tensor) -> Tensor:
        z = z.clone()
        z[:, :, off] = 0.0
        return z

    length = task.length
    name = "blocks.0.attn.pattern"
    found = None
    for i in range(output):
        part = tokens[:, : length + 1 + i]
        found = run(model, part, record=(name,), edit={"blocks.0.attn.z": edit} if off else None)
        tokens = tokens.clone()
        tokens[0, length + 1 + i] = found.logits[0, -1].argmax()
    assert found is not None
    words = [task.vocab[t] for t in tokens[0].tolist()]
    return Stepped(
        tokens[0],
        words,
        length + output - 1,
        found.logits[0, -1].softmax(-1),
        found[name][0, :, -1],
        words[length + 1 : length + 1 + output],
        [task.vocab[t] for t in task.solve(tokens)[0, length + 1 :].tolist()],
        heads,
    )


def draw_step(result: Stepped) -> Picture:
    """Attention of each head over the tokens so far, and the output probabilities."""
    shown = result.words[: result.position + 1]
    heads = len(result.heads_on)
    with plot.canvas(1, 2, width=7.6, height=0.9 + 0.55 * heads + 1.1, width_ratios=[1.7, 1]) as (
        figure,
        axes,
    ):
        left, right = axes[0]
        for head in range(heads):
            weights = result.attention[head].numpy()
            cells = plot.unsigned_rgba(weights[None], plot.head_colour(head), 1.0)
            left.imshow(cells, extent=(-0.5, len(shown) - 0.5, head + 0.5, head - 0.5), aspect="auto")
            for key, weight in enumerate(weights):
                if weight > 0.2:
                    left.text(key, head, f"{weight:.1f}".lstrip("0"), ha="center", va="center", fontsize=7)
        left.set_ylim(heads - 0.5, -0.5)
        left.set_xlim(-0.5, len(shown) - 0.5)
        names = [f"head {h}" + ("" if on else " (off)") for h, on in enumerate(result.heads_on)]
        left.set_yticks(range(heads), names)
        left.set_xticks(range(len(shown)), shown, fontsize=7.5)
        left.set_title(f"attention from «{shown[-1]}»")
        best = result.probability.topk(5)
        correct = result.right[len(result.produced) - 1]
        labels = [str(i) for i in best.indices.tolist()]
        numbers = len(result.probability) - 1
        labels = ["SEP" if i == str(numbers) else i for i in labels]
        colours = [plot.HEADS[2] if label == correct else plot.NEUTRAL for label in labels]
        right.barh(range(5), best.values.numpy(), color=colours)
        right.set_yticks(range(5), labels)
        right.invert_yaxis()
        right.set_xlim(0, 1)
        right.set_title("next number (right: green)")
        right.set_xlabel("probability")
        *before, now = result.produced
        place = f"after {', '.join(before)}" if before else "first"
        state = "which is right" if now == correct else f"where {correct} would be right"
        caption = (
            f"Output {len(result.produced)} of {len(result.right)}: {place} the model "
            f"writes {now}, {state}. Which head looks at the number that comes next?"
        )
        return plot.picture(figure, caption)


def list_explorer(recipe: str = "paper", text: str = EXAMPLE) -> Explorer:
    """Type a list, step through the outputs, switch heads off, scrub through training."""
    task = measure.task_of(recipe)
    steps = (0, 100, 250, 500, 1000, 2000, 6000)

    def compute(text: str, output: int, step: int, seed: int, heads: tuple[bool, ...]) -> Stepped:
        if step == 6000:
            model = measure.model(recipe, seed)
        elif seed == 0 or step in (250, 500, 1000, 2000):
            model = measure.model_at(recipe, seed, step)
        else:
            raise ValueError(
                f"step {step} is published for seed 0 only; seed {seed} has 250 to 2000 and 6000"
            )
        return step_through(text, output, heads, model, task)

    seeds = measure.seeds_of(recipe)
    return Explorer(
        "Step through a list",
        {"text": text, "output": 3, "step": 6000, "seed": 0, "heads": (True, True)},
        {
            "text": Text("list"),
            "output": Slider("output", tuple(range(1, task.length + 1))),
            "step": Slider("training step", steps),
            "seed": Choice("seed", seeds),
            "heads": Toggles("heads", ("head 0", "head 1")),
        },
        compute,
        draw_step,
        "Switch head 1 off and step on: which numbers go wrong?",
    )


class Circuits(NamedTuple):
    """The circuits of one model at one step. ov [head, number, number]."""

    step: int
    margin: Tensor
    ov: Tensor
    structure: Structure


@functools.lru_cache(maxsize=128)
def circuits_at(recipe: str, seed: int, step: int) -> Circuits:
    """Copying margins and OV tables at one published training step."""
    task = measure.task_of(recipe)
    model = measure.model_at(recipe, seed, step)
    n = task.n_numbers
    margin = copying_margin(model, task)
    return Circuits(step, margin, ov_circuit(model).full()[:, :n, :n], structure(margin))


def draw_circuits(result: Circuits) -> Picture:
    """OV tables above, copying margins below."""
    heads, numbers = result.margin.shape
    with plot.canvas(2, heads, width=7.4, height=5.2, height_ratios=[2.2, 1]) as (figure, axes):
        top = float(result.ov.abs().max())
        for head in range(heads):
            ax = axes[0][head]
            ax.imshow(plot.signed_rgba(result.ov[head].numpy(), top), aspect="auto")
            ax.set_title(f"OV, head {head}", color=plot.head_colour(head))
            ax.set_xlabel("number written")
            ax = axes[1][head]
            ax.bar(range(numbers), result.margin[head].numpy(), 0.85, color=plot.head_colour(head))
            ax.axhline(0, color=plot.INK, linewidth=0.6)
            low, high = float(result.margin.min()), float(result.margin.max())
            ax.set_ylim(min(low * 1.1, -0.05 * high), high * 1.1)
            ax.set_xlabel("number")
        axes[0][0].set_ylabel("number attended to")
        axes[1][0].set_ylabel("copying margin")
        s = result.structure
        return plot.picture(
            figure,
            f"Step {result.step}: {s.overlap:.0%} of the numbers are copied by both heads, {s.single:.0%} by one, "
            f"{s.suppress:.0%} by one against the other. Watch the orange diagonals divide the numbers between them.",
        )


def development_explorer(recipe: str = "paper") -> Explorer:
    """A slider over real checkpoints of one run: OV tables and copying margins."""
    from mi_lab import zoo

    steps = zoo.read(f"sorting/{recipe}_steps/seed-0").labels
    return Explorer(
        "Development of the circuits",
        {"step": 1000},
        {"step": Slider("training step", steps)},
        lambda step: circuits_at(recipe, 0, step),
        draw_circuits,
        "Drag from 100 to 1000: when does the overlap go?",
    )


class Gap(NamedTuple):
    """One data distribution: its mean gap, the shares over seeds, one seed's margins."""

    recipe: str
    gap: float
    seed: int
    margin: Tensor
    gaps: np.ndarray
    suppress: float
    single: float


@functools.lru_cache(maxsize=128)
def gap_model(recipe: str, seed: int) -> Gap:
    """Structure at one mean gap, and the histogram of gaps in its lists."""
    task = measure.task_of(recipe)
    margin = copying_margin(measure.model(recipe, seed), task)
    gaps = task.variables(measure.lists(task, 2000))["gap"].flatten()
    found = structure(margin)
    counts = torch.bincount(gaps, minlength=16)[:16].float()
    return Gap(
        recipe, task.expected_gap, seed, margin, (counts / len(gaps)).numpy(), found.suppress, found.single
    )


def draw_gap(result: Gap) -> Picture:
    """Histogram of gaps beside the copying margins."""
    heads, numbers = result.margin.shape
    with plot.canvas(1, 2, width=7.6, height=2.5, width_ratios=[1, 2.2]) as (figure, axes):
        left, right = axes[0]
        left.bar(range(len(result.gaps)), result.gaps, color=plot.NEUTRAL)
        left.axvline(result.gap, color=plot.INK, linewidth=0.8, linestyle=(0, (3, 3)))
        left.set_xlabel("gap between neighbours")
        left.set_title(f"mean gap {result.gap:.2f}")
        for head in range(heads):
            where = np.arange(numbers) + (head - (heads - 1) / 2) * 0.4
            right.bar(
                where, result.margin[head].numpy(), 0.4, color=plot.head_colour(head), label=f"head {head}"
            )
        right.axhline(0, color=plot.INK, linewidth=0.6)
        right.set_xlabel("number")
        right.set_title("copying margin")
        right.legend(ncols=heads, loc="lower right", bbox_to_anchor=(1, 0.98))
        return plot.picture(
            figure,
            f"Lists with a mean gap of {result.gap:.2f}, seed {result.seed}: {result.suppress:.0%} of the numbers are "
            f"copied by one head and suppressed by the other, {result.single:.0%} have a single copier. "
            "Bars below zero suppress.",
        )


def gap_explorer() -> Explorer:
    """Drag the mean gap at fixed list length and vocabulary."""
    by_gap = {round(measure.task_of(r).expected_gap, 2): r for r in GAP_RECIPES}
    seeds = tuple(sorted(set.intersection(*(set(measure.seeds_of(r)) for r in GAP_RECIPES))))
    return Explorer(
        "The gap decides the mode",
        {"gap": min(by_gap), "seed": seeds[0]},
        {"gap": Slider("mean gap", tuple(sorted(by_gap))), "seed": Choice("seed", seeds)},
        lambda gap, seed: gap_model(by_gap[gap], seed),
        draw_gap,
        "Go from the smallest gap to the largest, then compare seeds.",
    )


class Removed(NamedTuple):
    """Accuracy, entropy and probability by target number [number] with some heads removed."""

    accuracy: np.ndarray
    entropy: float
    clean_entropy: float
    token: float
    heads_on: tuple[bool, ...]
    how: str


def ablation_explorer(recipe: str = "paper", *, n: int = 1000) -> Explorer:
    """Remove heads by zero, mean or resample ablation; see which numbers the model still gets right."""
    task = measure.task_of(recipe)

    @functools.lru_cache(maxsize=64)
    def compute(heads: tuple[bool, ...], how: str, seed: int) -> Removed:
        model = measure.model(recipe, seed)
        tokens = measure.lists(task, n, seed=61)
        right = targets(task, tokens)

        def edit(z: Tensor) -> Tensor:
            z = z.clone()
            for head, on in enumerate(heads):
                if not on:
                    old = z[:, :, head]
                    new = {
                        "zero": torch.zeros_like(old),
                        "mean": old.mean(0).expand_as(old),
                        "resample": old.roll(1, 0),
                    }
                    z[:, :, head] = new[how]
            return z

        with torch.no_grad():
            clean = score_logits(run(model, tokens).logits[:, task.answer], right)
            after = score_logits(
                run(model, tokens, edit={"blocks.0.attn.z": edit}).logits[:, task.answer], right
            )
        hits = torch.zeros(task.n_numbers).index_add_(0, right.flatten(), after.correct.flatten().float())
        count = torch.bincount(right.flatten(), minlength=task.n_numbers).clamp(min=1)
        return Removed(
            (hits / count).numpy(), float(after.entropy.mean()), float(clean.entropy.mean()),
            float(after.correct.float().mean()), heads, how,
        )  # fmt: skip

    def draw(result: Removed) -> Picture:
        off = [h for h, on in enumerate(result.heads_on) if not on]
        with plot.canvas(width=7.4, height=2.2) as (figure, axes):
            ax = axes[0][0]
            colour = plot.head_colour(off[0]) if len(off) == 1 else plot.NEUTRAL
            ax.bar(range(len(result.accuracy)), result.accuracy, 0.85, color=colour)
            ax.set_ylim(0, 1.02)
            ax.set_xlabel("number to be written")
            ax.set_ylabel("accuracy")
            what = f"without head {' and '.join(map(str, off))} ({result.how})" if off else "all heads on"
            ax.set_title(what)
            return plot.picture(
                figure,
                f"Accuracy by target, {what}: {result.token:.1%} of all tokens right, entropy "
                f"{result.clean_entropy:.2f} to {result.entropy:.2f} nats. The numbers that fall to zero are those "
                "the removed head owned.",
            )

    return Explorer(
        "Remove a head",
        {"heads": (True, False), "how": "mean", "seed": 0},
        {
            "heads": Toggles("heads", ("head 0", "head 1")),
            "how": Choice("replace by", ("zero", "mean", "resample")),
            "seed": Choice("seed", measure.seeds_of(recipe)),
        },
        compute,
        draw,
        "Remove head 0 instead: the two pictures are each other's negative.",
    )


def hand_made_explorer() -> Explorer:
    """The sorter written down by hand: two strengths, LayerNorm, heads, a list."""
    from dataclasses import replace

    from mi_lab.studies.sorting.circuit import hand_made_sorter
    from mi_lab.studies.sorting.recipes import PAPER

    task = measure.task_of("paper")

    def compute(
        text: str, output: int, copying: float, sharpness: float, norm: str, heads: tuple[bool, ...]
    ) -> Stepped:
        config = replace(PAPER.config, norm="LN" if norm == "LayerNorm" else None)
        model = hand_made_sorter(task, config, a=copying, b=sharpness)
        return step_through(text, output, heads, model, task)

    return Explorer(
        "A sorter written by hand",
        {
            "text": EXAMPLE,
            "output": 4,
            "copying": 20.0,
            "sharpness": 1.0,
            "norm": "LayerNorm",
            "heads": (True, True),
        },
        {
            "text": Text("list"),
            "output": Slider("output", tuple(range(1, task.length + 1))),
            "copying": Slider("copying strength a", (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)),
            "sharpness": Slider("sharpness b", (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)),
            "norm": Choice("normalisation", ("LayerNorm", "none")),
            "heads": Toggles("heads", ("head 0", "head 1")),
        },
        compute,
        draw_step,
        "Blunt the attention (b to 0.05) until it makes its first mistake, then switch a head off.",
    )

"""Visible checks for the chapter's exercises. Each raises AssertionError with a hint, or says that it holds.

A check compares a reader's function with an independent computation on models and lists that the
reader didn't see.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mi_lab.model import Transformer
from mi_lab.run import run
from mi_lab.studies.sorting import measure
from mi_lab.studies.sorting.circuit import copying_margin, hand_made_sorter, untrained_twin
from mi_lab.studies.sorting.recipes import recipes
from mi_lab.studies.sorting.task import SortingTask


def _close(mine: object, right: object, what: str) -> None:
    a, b = (torch.as_tensor(x, dtype=torch.float32) for x in (mine, right))
    assert a.shape == b.shape, f"{what}: expected shape {list(b.shape)}, got {list(a.shape)}"
    gap = float((a - b).abs().max())
    assert gap < 1e-3, f"{what}: differs from the expected numbers by up to {gap:.3g}"


def _said(text: str) -> str:
    print(text)
    return text


def check_expected_gap(expected_gap: Callable[[int, int], float]) -> str:
    """`expected_gap(length, n_numbers)`: mean gap of `length` different numbers from `n_numbers`."""
    for length, numbers in ((10, 51), (6, 31), (5, 12), (2, 3)):
        right = (numbers + 1) / (length + 1)
        mine = expected_gap(length, numbers)
        assert abs(mine - right) < 1e-6, (
            f"for L = {length}, V = {numbers} you say {mine:.4g}, a simulation says {right:.4g}. "
            "Hint: L sorted points cut 0..V-1 into L + 1 pieces that all have the same mean."
        )
    return _said("Right: (V + 1) / (L + 1).")


def check_sorter(next_number: Callable[[Tensor, int], int]) -> str:
    """`next_number(numbers, current)`: the smallest number above `current` (-1 at the start)."""
    tokens = measure.lists(SortingTask(), 50, seed=71)
    for row in tokens:
        numbers, current = row[:10], -1
        for right in row[11:].tolist():
            mine = int(next_number(numbers, current))
            assert mine == right, f"after {current} in {numbers.tolist()} comes {right}, you say {mine}"
            current = right
    return _said("Right: fifty lists sorted, one number at a time.")


def check_margin(margin: Callable[[Transformer], Tensor]) -> str:
    """`margin(model)`: copying margins [head, number], from the OV table."""
    task = SortingTask()
    for model in (measure.model("paper", 3), untrained_twin(measure.model("paper", 0))):
        _close(margin(model), copying_margin(model, task), "copying margin")
    return _said("Right: OV[k, k] minus the mean of the other outputs, for each head.")


def check_ablation(without: Callable[[Transformer, Tensor, int], Tensor]) -> str:
    """`without(model, tokens, head)`: logits [n, pos, vocab] with that head's z set to its batch mean."""
    task, model = SortingTask(), measure.model("paper", 2)
    tokens = measure.lists(task, 40, seed=72)
    for head in (0, 1):
        right = measure.removed(model, task, tokens, head, "mean")
        mine = without(model, tokens, head)
        _close(mine[:, task.answer], right, f"logits without head {head}")
    return _said("Right: the mean over the batch, separately at each position.")


def check_null(pvalue: Callable[[Tensor], float]) -> str:
    """`pvalue(owner)`: share of random orders of `owner` with at most as many runs as observed."""
    blocks = torch.tensor([0] * 12 + [1] * 20 + [0] * 19)
    generator = torch.Generator().manual_seed(5)
    shuffled = blocks[torch.randperm(51, generator=generator)]
    low, high = float(pvalue(blocks)), float(pvalue(shuffled))
    assert low < 0.01, f"three blocks in 51 numbers are no accident, yet you give p = {low:.3g}"
    assert high > 0.05, f"a shuffled order must not look special, yet you give p = {high:.3g}"
    return _said("Right: contiguity is significant in blocks and not in a shuffle.")


def check_calibration(ece: Callable[[Tensor, Tensor], float]) -> str:
    """`ece(confidence, correct)`: expected calibration error with 15 equal bins."""
    generator = torch.Generator().manual_seed(6)
    confidence = torch.rand(20_000, generator=generator)
    honest = torch.rand(20_000, generator=generator) < confidence
    boaster = torch.rand(20_000, generator=generator) < confidence * 0.5
    assert float(ece(confidence, honest)) < 0.02, "whoever is right as often as they say has an ECE near 0"
    right = 0.25
    mine = float(ece(confidence, boaster))
    assert abs(mine - right) < 0.02, f"right half as often as claimed gives about {right}, you say {mine:.3g}"
    return _said("Right: small for an honest model, a quarter for the boaster.")


def check_hand_made(strengths: Callable[[], tuple[float, float]]) -> str:
    """`strengths()`: (a, b) for which the hand-made sorter fails on at least a tenth of the lists."""
    a, b = strengths()
    assert min(a, b) > 0, "both strengths must be positive"
    task = SortingTask()
    model = hand_made_sorter(task, recipes["paper"].config, a=a, b=b)
    accuracy = measure.accuracy(model, task, 300).list
    assert accuracy < 0.9, f"with a = {a}, b = {b} it still sorts {accuracy:.0%} of the lists"
    return _said(f"Right: list accuracy {accuracy:.0%}. Too blunt an attention copies a mixture.")


def check_attention(share: Callable[[Transformer, Tensor], Tensor]) -> str:
    """`share(model, tokens)`: attention of each head to the right source, mean over outputs: [head]."""
    task, model = SortingTask(), measure.model("paper", 7)
    tokens = measure.lists(task, 60, seed=73)
    pattern = run(model, tokens, record=("blocks.0.attn.pattern",))["blocks.0.attn.pattern"][
        :, :, task.answer
    ]
    source = task.variables(tokens)["source"][:, None, :, None].expand(-1, pattern.shape[1], -1, 1)
    _close(share(model, tokens), pattern.gather(-1, source).mean((0, 2, 3)), "attention to the source")
    return _said("Right: and neither head alone looks there all the time.")

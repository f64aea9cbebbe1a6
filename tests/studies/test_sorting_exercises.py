"""The chapter's checks: each takes the right solution, and sends typical wrong ones away with a hint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mi_lab.circuits import ov_circuit
from mi_lab.metrics import expected_calibration_error
from mi_lab.model import Transformer
from mi_lab.run import run
from mi_lab.studies.sorting import exercises as x
from mi_lab.studies.sorting.task import SortingTask

TASK = SortingTask()


# Expected gap ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "wrong",
    [
        lambda length, numbers: numbers / length,
        lambda length, numbers: (numbers - 1) / (length - 1),
        lambda length, numbers: 52 / 11,  # the paper's size only
    ],
)
def test_a_wrong_mean_gap_is_told_the_right_one_and_how_to_see_it(wrong):
    with pytest.raises(AssertionError, match=r"you say .*, a simulation says .*L \+ 1 pieces"):
        x.check_expected_gap(wrong)


def test_the_mean_gap_is_accepted():
    assert x.check_expected_gap(lambda length, numbers: (numbers + 1) / (length + 1)).startswith("Right")


def test_the_simulation_that_the_hint_speaks_of_says_so():
    tokens = SortingTask(length=6, n_numbers=31).sample(20_000, generator=torch.Generator().manual_seed(0))
    mean = float(SortingTask(length=6, n_numbers=31).variables(tokens)["gap"].float().mean())
    assert mean == pytest.approx(32 / 7, abs=0.03)


# Sorter ---------------------------------------------------------------------------------------------
def next_number(numbers: Tensor, current: int) -> int:
    return int(numbers[numbers > current].min())


def test_the_next_number_is_accepted(capsys):
    x.check_sorter(next_number)
    assert capsys.readouterr().out.startswith("Right: fifty lists")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda numbers, current: int(numbers.min()),
        lambda numbers, current: current + 1,
        lambda numbers, current: int(numbers[numbers > current].max()),
        lambda numbers, current: int(numbers[numbers > max(current, 0)].min()),  # forgets a 0
    ],
)
def test_a_wrong_next_number_is_shown_the_list_where_it_fails(wrong):
    with pytest.raises(AssertionError, match=r"after -?\d+ in \[.*\] comes \d+, you say -?\d+"):
        x.check_sorter(wrong)


# Copying margin -------------------------------------------------------------------------------------
def margin(model: Transformer) -> Tensor:
    ov = ov_circuit(model).full()[:, :51, :51]
    own = ov.diagonal(dim1=1, dim2=2)
    return own - (ov.sum(2) - own) / 50


def test_the_copying_margin_is_accepted():
    assert x.check_margin(margin).startswith("Right")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda m: ov_circuit(m).full()[:, :51, :51].diagonal(dim1=1, dim2=2), "differs .* by up to"),
        (
            lambda m: (
                ov_circuit(m).full()[:, :51, :51].diagonal(dim1=1, dim2=2)
                - ov_circuit(m).full()[:, :51, :51].mean(2)
            ),
            "differs .* by up to",
        ),  # the mean with itself in it: a fiftieth off
        (lambda m: ov_circuit(m).full().diagonal(dim1=1, dim2=2), r"expected shape \[2, 51\], got \[2, 52\]"),
        (lambda m: margin(m).T, r"expected shape \[2, 51\], got \[51, 2\]"),
    ],
)
def test_a_wrong_margin_is_told_what_differs(wrong, hint):
    with pytest.raises(AssertionError, match=f"copying margin: {hint}"):
        x.check_margin(wrong)


# Ablation -------------------------------------------------------------------------------------------
def without(change: Callable[[Tensor, int], Tensor]) -> Callable[[Transformer, Tensor, int], Tensor]:
    """A solution that puts `change(z, head)` in place of z."""

    def solution(model: Transformer, tokens: Tensor, head: int) -> Tensor:
        def edit(z: Tensor) -> Tensor:
            z = z.clone()
            z[:, :, head] = change(z, head)
            return z

        return run(model, tokens, edit={"blocks.0.attn.z": edit}).logits

    return solution


def test_mean_ablation_is_accepted():
    assert x.check_ablation(without(lambda z, h: z[:, :, h].mean(0))).startswith("Right")


@pytest.mark.parametrize(
    "wrong",
    [
        without(lambda z, h: torch.zeros_like(z[:, :, h])),
        without(lambda z, h: z[:, :, h].mean((0, 1))),  # one mean for all positions
        without(lambda z, h: z[:, :, 1 - h].mean(0)),  # the other head's mean
        lambda model, tokens, head: run(model, tokens).logits,
    ],
)
def test_another_ablation_is_told_for_which_head_it_differs(wrong):
    with pytest.raises(AssertionError, match="logits without head 0: differs"):
        x.check_ablation(wrong)


def test_logits_of_the_answer_only_are_told_the_shape():
    solution = without(lambda z, h: z[:, :, h].mean(0))
    with pytest.raises(AssertionError, match="expected shape"):
        x.check_ablation(lambda *a: solution(*a)[:, TASK.answer])


# Null -----------------------------------------------------------------------------------------------
def runs(owner: Tensor) -> int:
    return int((owner.diff() != 0).sum()) + 1


def pvalue(owner: Tensor) -> float:
    generator = torch.Generator().manual_seed(0)
    observed = runs(owner)
    orders = [owner[torch.randperm(len(owner), generator=generator)] for _ in range(300)]
    return sum(runs(order) <= observed for order in orders) / len(orders)


def test_the_share_of_random_orders_is_accepted():
    assert x.check_null(pvalue).startswith("Right")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda owner: 1 - pvalue(owner), "three blocks in 51 numbers are no accident"),
        (lambda owner: 0.0, "a shuffled order must not look special"),
        (lambda owner: 1.0, "three blocks in 51 numbers are no accident"),
        # compares with a random labelling instead of a random order of the same labels: always small
        (lambda owner: pvalue(owner.sort().values), "a shuffled order must not look special"),
    ],
)
def test_a_wrong_p_value_is_told_which_case_it_gets_wrong(wrong, hint):
    with pytest.raises(AssertionError, match=hint):
        x.check_null(wrong)


# Calibration ----------------------------------------------------------------------------------------
def test_the_calibration_error_is_accepted():
    assert x.check_calibration(expected_calibration_error).startswith("Right")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda c, right: float((c - right.float()).abs().mean()), "ECE near 0"),  # without bins
        (lambda c, right: float((c.mean() - right.float().mean()).abs()) / 2, "you say 0.12"),
        (lambda c, right: 0.0, "gives about 0.25, you say 0"),
        (lambda c, right: 1 - float(right.float().mean()), "ECE near 0"),  # the error rate
    ],
)
def test_a_wrong_calibration_error_is_told_what_it_should_be(wrong, hint):
    with pytest.raises(AssertionError, match=hint):
        x.check_calibration(wrong)


# The sorter written by hand -------------------------------------------------------------------------
def test_blunt_attention_is_accepted():
    assert x.check_hand_made(lambda: (20.0, 0.05)).startswith("Right: list accuracy")


@pytest.mark.parametrize(
    ("strengths", "hint"),
    [
        ((20.0, 1.0), "it still sorts 100% of the lists"),
        ((50.0, 2.0), "it still sorts"),
        ((20.0, 0.0), "both strengths must be positive"),
        ((-1.0, 0.05), "both strengths must be positive"),
    ],
)
def test_strengths_that_sort_or_cheat_are_sent_back(strengths, hint):
    with pytest.raises(AssertionError, match=hint):
        x.check_hand_made(lambda: strengths)


# Attention to the source ----------------------------------------------------------------------------
def share(model: Transformer, tokens: Tensor) -> Tensor:
    pattern = run(model, tokens, record=("blocks.0.attn.pattern",))["blocks.0.attn.pattern"]
    right = tokens[:, TASK.length + 1 :]
    source = (tokens[:, None, : TASK.length] == right[:, :, None]).float()  # [list, output, key]
    return (pattern[:, :, TASK.answer, : TASK.length] * source[:, None]).sum(-1).mean((0, 2))


def at_shift(model: Transformer, tokens: Tensor) -> Tensor:
    """Reads the row of the number itself instead of the row that predicts it: off by one."""
    pattern = run(model, tokens, record=("blocks.0.attn.pattern",))["blocks.0.attn.pattern"]
    source = (tokens[:, None, : TASK.length] == tokens[:, TASK.length + 1 :, None]).float()
    return (pattern[:, :, TASK.length + 1 :, : TASK.length] * source[:, None]).sum(-1).mean((0, 2))


def test_attention_to_the_source_is_accepted():
    assert x.check_attention(share).startswith("Right")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (at_shift, "differs"),
        (lambda model, tokens: torch.ones(2) / 10, "differs"),
        (lambda model, tokens: share(model, tokens).flip(0), "differs"),
        (lambda model, tokens: share(model, tokens).mean(), r"expected shape \[2\], got \[\]"),
    ],
)
def test_a_wrong_share_of_attention_is_told_what_differs(wrong, hint):
    with pytest.raises(AssertionError, match=f"attention to the source: {hint}"):
        x.check_attention(wrong)


# All of them ----------------------------------------------------------------------------------------
CHECKS: dict[str, Callable[..., Any]] = {n: f for n, f in vars(x).items() if n.startswith("check_")}


def test_there_are_at_least_six_and_each_is_tested_here():
    from pathlib import Path

    text = Path(__file__).read_text()
    assert len(CHECKS) >= 6
    for name, check in CHECKS.items():
        assert text.count(f"x.{name}(") >= 2, name
        assert check.__doc__


@pytest.mark.parametrize("name", [n for n in CHECKS if n != "check_hand_made"])
def test_a_function_that_gives_nothing_back_is_not_accepted(name):
    with pytest.raises((AssertionError, TypeError, RuntimeError, ValueError)):
        CHECKS[name](lambda *_: None)


@pytest.mark.parametrize("name", ["check_margin", "check_attention"])
def test_holes_are_not_accepted(name):
    solution = {"check_margin": margin, "check_attention": share}[name]
    with pytest.raises(AssertionError, match="differs"):
        CHECKS[name](lambda *given: solution(*given) * float("nan"))

"""The checks of the toolbox's exercises let right answers through and stop wrong ones with a hint."""

from __future__ import annotations

import pytest
import torch

from mi_lab.handmade import LETTERS
from mi_lab.run import run
from mi_lab.toolbox import exercises as x


def scores(back: int) -> torch.Tensor:
    out = torch.zeros(9, 9)
    for p in range(back, 9):
        out[p, p - back] = 30.0
    return out


def attribute(model, tokens):
    found = run(model, tokens, record="blocks.*.attn.z")
    out = torch.zeros(len(tokens), 3, 2)
    for layer in range(3):
        for head in range(2):
            wrote = found[f"blocks.{layer}.attn.z"][:, 5, head] @ model.blocks[layer].attn.W_O[head]
            out[:, layer, head] = (wrote @ model.unembed.W_U)[range(len(tokens)), tokens[:, 6]]
    return out


def resampled(model, tokens, donors, node):
    def edit(z):
        z = z.clone()
        z[:, :, node.head] = run(model, donors, record=node.activation)[node.activation][:, :, node.head]
        return z

    return run(model, tokens, edit={node.activation: edit}).logits


TWINS = {"cells": {f"L1H1.ov.{c}.{c}": 12.0 for c in LETTERS}}
RIGHT = {
    "check_two_back": lambda: scores(2),
    "check_next_letter": lambda: 12 * torch.eye(6).roll(1, 1),
    "check_attribution": attribute,
    "check_resample": resampled,
    "check_twins": lambda: TWINS,
    "check_control": lambda labels, g: labels[torch.randperm(len(labels), generator=g)],
    "check_key": lambda tokens, p: tokens[:, p - 3],
    "check_loss": lambda w: w[..., :3].square().sum(-1),
}
WRONG = [
    ("check_two_back", lambda: scores(1), "the letter after the next: after \\^abcda the model writes bcd"),
    ("check_two_back", lambda: torch.zeros(6, 6), "9 rows and 9 columns"),
    ("check_next_letter", lambda: 12 * torch.eye(6), "next letter of the alphabet"),
    ("check_next_letter", lambda: 12 * torch.eye(6).roll(-1, 1), "next letter of the alphabet"),
    ("check_attribution", lambda m, t: attribute(m, t).flip(2), "direct effects: differs"),
    ("check_attribution", lambda m, t: attribute(m, t)[:, 0], "expected shape"),
    ("check_resample", lambda m, t, d, n: run(m, d).logits, "L0H0: differs"),
    ("check_resample", lambda m, t, d, n: run(m, t).logits, "L0H0: differs"),
    ("check_twins", dict, "with L1H0 ablated"),
    ("check_twins", lambda: {**TWINS, "copy": 20.0, "backup": 0.0, "suppress": 25.0}, "ablated"),
    ("check_control", lambda labels, g: labels, "true ones still"),
    ("check_control", lambda labels, g: torch.randint(6, labels.shape, generator=g), "as frequent as before"),
    ("check_control", lambda labels, g: labels.sort().values.roll(60), "another generator"),
    ("check_control", lambda labels, g: labels[:3], "as many labels"),
    ("check_key", lambda tokens, p: tokens[:, p], "of the answers survive"),
    ("check_key", lambda tokens, p: torch.arange(len(tokens)), "different keys"),
    ("check_key", lambda tokens, p: tokens, "one number per sequence"),
    ("check_loss", lambda w: w[..., :2].square().sum(-1), "not 1.5"),
    ("check_loss", lambda w: 1 + w.square().sum(-1), "at w = 0 must be 0"),
    ("check_loss", lambda w: w.sum(-1), "below 0"),
    ("check_loss", lambda w: 0 * w.sum(-1), "not 1.5"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name, capsys):
    assert getattr(x, name)(RIGHT[name]).startswith("Right")
    assert "Right" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG)
def test_a_wrong_answer_is_stopped_with_a_hint(name, answer, hint):
    with pytest.raises(AssertionError, match=hint):
        getattr(x, name)(answer)


def test_every_check_has_a_right_and_a_wrong_answer():
    checks = {name for name in dir(x) if name.startswith("check_")}
    assert checks == set(RIGHT) == {name for name, _, _ in WRONG}


def test_a_backup_spoils_the_twins():
    with pytest.raises(AssertionError, match="a third head does their work"):
        x.check_twins(lambda: {**TWINS, "backup": 12.0, "copy": 1.0})


def test_fourth_powers_count_a_quarter_and_pairs_less_than_a_half():
    losses = {
        "squares": lambda w: w.square().sum(-1) / 2,
        "fourth": lambda w: w.pow(4).sum(-1),
        "pairs": lambda w: (w[..., ::2] * w[..., 1::2]).square().sum(-1) / 2,
    }
    found = x.learning_coefficients(losses, 32, x.SHORT)
    for name, want in (("squares", 16.0), ("fourth", 8.0)):
        assert abs(found[name].value - want) < 3 * found[name].standard_error + 0.4
    # a half each in the limit; at nbeta = 1000 the logarithm of nbeta, known from theory, is still there
    assert found["pairs"].value < 6.0

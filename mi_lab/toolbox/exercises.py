"""Visible checks for the toolbox's exercises. Each raises AssertionError with a hint, or says that it holds.

A check compares a reader's function with an independent computation on sequences, or puts it to work in
a hand-made model and watches what the model then does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mi_lab.ablate import ablate_group
from mi_lab.circuits import head_outputs
from mi_lab.handmade import HEADS, LETTERS, TABLES, RepeatTask, repeater
from mi_lab.llc import LLC, SGLD, Chains, sgld, summarise, with_grad
from mi_lab.model import Transformer
from mi_lab.run import Node, run
from mi_lab.scrub import Swap, match, remember, scrub

TASK = RepeatTask()
FULL: dict[str, Any] = {"suppress": 4.0, "backup": 8.0, "lean": 40.0}
SHORT = SGLD(nbeta=1000, step_size=1e-4, localization=1.0, draws=2000, burn_in=1000, chains=4)


def _said(text: str) -> str:
    print(text)
    return text


def _close(mine: Tensor, right: Tensor, what: str) -> None:
    mine = torch.as_tensor(mine, dtype=torch.float32)
    assert mine.shape == right.shape, f"{what}: expected shape {list(right.shape)}, got {list(mine.shape)}"
    gap = float((mine - right).abs().max())
    assert gap < 1e-3, f"{what}: differs from the expected numbers by up to {gap:.3g}"


def _with_table(key: str, values: Any) -> Transformer:
    """The plain model with one whole table replaced."""
    table = TABLES[key]
    values = torch.as_tensor(values, dtype=torch.float32)
    wanted = (len(table.rows), len(table.columns))
    assert values.shape == wanted, (
        f"{key} is a table of {wanted[0]} rows and {wanted[1]} columns, not {list(values.shape)}"
    )
    model = repeater()
    with torch.no_grad():
        table.block(model).copy_(table.scale * values)
    return model


def _writes(model: Transformer, right: Tensor, what: str) -> None:
    """Does the model predict these tokens [n, 3]?"""
    tokens = TASK.every()
    said = model(tokens)[:, TASK.answer].argmax(-1)
    wrong = (said != right).any(1).nonzero().flatten()
    if len(wrong):
        i = int(wrong[0])
        question, mine, wanted = (
            "".join(TASK.vocab[t] for t in x.tolist()) for x in (tokens[i, :6], said[i], right[i])
        )
        raise AssertionError(f"{what}: after {question} the model writes {mine}, it should be {wanted}")


def check_two_back(scores: Callable[[], Any]) -> str:
    """`scores()`: QK table [9, 9] of L0H0, [this position][position looked at], for a model that skips a letter."""
    tokens = TASK.every()
    _writes(_with_table("L0H0.qk", scores()), tokens[:, [3, 4, 5]], "the letter after the next")
    return _said('Right: what is noted as "previous" decides what is found.')


def check_next_letter(written: Callable[[], Any]) -> str:
    """`written()`: OV table [6, 6] of L1H0, [letter looked at][letter written], that moves every letter on by one."""
    tokens = TASK.every()
    right = (tokens[:, TASK.answer.start - 3 : TASK.answer.stop - 3] + 1) % len(LETTERS)
    _writes(_with_table("L1H0.ov", written()), right, "the next letter of the alphabet")
    return _said("Right: where it looks has not changed, what it writes has.")


def check_attribution(attribute: Callable[[Transformer, Tensor], Tensor]) -> str:
    """`attribute(model, tokens)`: what every head adds to the right letter's logit at position 5, [n, layer, head]."""
    tokens = TASK.every()[::7]
    for model in (repeater(), repeater(**FULL), repeater(suppress=9.0, copy=7.0)):
        found = run(model, tokens, record="blocks.*.attn.z")
        rows = [head_outputs(model, found[f"blocks.{i}.attn.z"], i)[:, 5] for i in range(3)]
        right = torch.stack(rows, 1) @ model.unembed.W_U
        right = right.gather(-1, tokens[:, None, None, 6:7].expand(-1, 3, 2, 1))[..., 0]
        _close(attribute(model, tokens), right, "direct effects")
    return _said("Right: z, through W_O, through the right letter's column of W_U.")


def check_resample(resampled: Callable[[Transformer, Tensor, Tensor, Node], Tensor]) -> str:
    """`resampled(model, tokens, donors, node)`: logits [n, 9, 7] with that head's z taken from the donors' run."""
    generator = torch.Generator().manual_seed(11)
    tokens, donors = (TASK.sample(30, generator=generator) for _ in range(2))
    model = repeater(**FULL)
    for node in HEADS.values():
        z = run(model, donors, record=node.activation)[node.activation][node.index]
        _close(resampled(model, tokens, donors, node), run(model, tokens, edit={node: z}).logits, f"{node}")
    return _said("Right: every head's output on another question, put in its place.")


def check_twins(strengths: Callable[[], Mapping[str, Any]]) -> str:
    """`strengths()`: arguments of `repeater` for which L1H0 and L1H1 are each enough, and not both dispensable."""
    model, tokens = repeater(**strengths()), TASK.every()
    match_head, twin = HEADS["match"], HEADS["lookalike"]
    right = {}
    for name, nodes in {
        "no head": [],
        "L1H0": [match_head],
        "L1H1": [twin],
        "both": [match_head, twin],
    }.items():
        hits = ablate_group(model, tokens, nodes, answer=TASK.answer, value="mean", reduce="correct")
        right[name] = float(hits.float().mean())
    for name in ("no head", "L1H0", "L1H1"):
        assert right[name] > 0.999, f"with {name} ablated {right[name]:.0%} are right; it should be all"
    assert right["both"] < 0.4, (
        f"with both ablated {right['both']:.0%} are still right: a third head does their work. Is a backup on?"
    )
    return _said("Right: one at a time, each of them looks dispensable.")


def check_control(control: Callable[[Tensor, torch.Generator], Tensor]) -> str:
    """`control(labels, generator)`: labels Int[n] that a probe can't learn, as frequent as the true ones."""
    labels = TASK.variables(TASK.every())["previous"][:, 3]
    mine = control(labels, torch.Generator().manual_seed(3))
    assert mine.shape == labels.shape, (
        f"as many labels as before: {list(labels.shape)}, not {list(mine.shape)}"
    )
    same = torch.equal(labels.bincount(minlength=6), mine.bincount(minlength=6))
    assert same, "each class must be as frequent as before, or the control is easier or harder by that alone"
    agree = float((mine == labels).float().mean())
    assert agree < 0.35, f"{agree:.0%} of the labels are the true ones still; by chance it is a sixth"
    again = control(labels, torch.Generator().manual_seed(4))
    assert not torch.equal(mine, again), "another generator must give other labels"
    return _said("Right: the same classes, dealt out anew.")


def check_key(key: Callable[[Tensor, int], Tensor]) -> str:
    """`key(tokens, position)`: Int[n], all that layer 1's attention output at that answer position depends on."""
    model, tokens = repeater(), TASK.every()
    positions = tuple(range(5, 8))
    keys = {p: torch.as_tensor(key(tokens, p)).long() for p in positions}
    for p, values in keys.items():
        assert values.shape == (len(tokens),), f"one number per sequence, not {list(values.shape)}"
        kinds = len(values.unique())
        assert kinds <= len(LETTERS), (
            f"position {p}: {kinds} different keys. It can be said with {len(LETTERS)}"
        )
    pool = remember(model, tokens, (Swap(1, positions),), answer=TASK.answer)
    generator = torch.Generator().manual_seed(5)
    donor = torch.stack([match(keys[p], keys[p], generator=generator) for p in positions], 1)
    said = scrub(model, tokens, pool, donor, answer=TASK.answer).logits.argmax(-1)
    kept = float((said == tokens[:, 6:9]).float().mean())
    assert kept > 0.999, f"with donors of equal key {kept:.0%} of the answers survive; it should be all"
    return _said("Right: the letter to be copied, and nothing else.")


def learning_coefficients(
    losses: Mapping[str, Callable[[Tensor], Tensor]], n: int, settings: SGLD, *, seed: int = 0
) -> dict[str, LLC]:
    """Learning coefficients at 0 of losses over n weights [.., n] -> [..], chains of all in one walk.

    >>> found = learning_coefficients({"two": lambda w: w[..., :2].square().sum(-1)}, 4, SHORT)["two"]
    >>> abs(found.value - 1.0) < 3 * found.standard_error + 0.1
    True
    """
    chains = settings.chains

    def together(w: Tensor) -> Tensor:
        rows = w.expand(len(losses) * chains, n).reshape(len(losses), chains, n)
        return torch.cat([loss(part) for loss, part in zip(losses.values(), rows)])

    start = torch.zeros(n)
    generators = [torch.Generator().manual_seed(seed + c) for c in range(chains)]
    found = sgld(with_grad(together, start), start.repeat(len(losses) * chains, 1), settings, generators)
    parts = zip(found.loss.split(chains), found.excess.split(chains))
    return {name: summarise(Chains(*part), settings, 0.0) for name, part in zip(losses, parts)}


def check_loss(loss: Callable[[Tensor], Tensor]) -> str:
    """`loss(w)`: a loss over 8 weights [.., 8] -> [..], 0 at w = 0 and nowhere below, with coefficient 3/2."""
    assert float(loss(torch.zeros(8))) == 0.0, "the loss at w = 0 must be 0"
    generator = torch.Generator().manual_seed(6)
    assert (loss(torch.randn(500, 8, generator=generator)) >= 0).all(), "somewhere the loss is below 0"
    found = learning_coefficients({"yours": loss}, 8, SHORT)["yours"]
    assert not found.left_basin, "the chains ran away: no wall holds them"
    gap = abs(found.value - 1.5)
    assert gap < 3 * found.standard_error + 0.1, (
        f"the estimate is {found.value:.2f} +- {found.standard_error:.2f}, not 1.5. "
        "Hint: every weight with a squared term counts 1/2, one with a fourth power 1/4."
    )
    return _said(f"Right: {found.value:.2f} +- {found.standard_error:.2f}.")

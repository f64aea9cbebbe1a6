"""Path patching against `run` with everything else frozen by hand, and what must not get through."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mi_lab.model import Transformer, TransformerConfig
from mi_lab.paths import Receiver, path_patch
from mi_lab.run import Node, run

SHAPES = {
    "attention only": {"n_layers": 3, "norm": None},
    "with norm": {"n_layers": 3},
    "with MLP": {"n_layers": 3, "d_mlp": 12, "act": "gelu"},
}


def case(shape, seed=0):
    config = TransformerConfig(
        **{
            "n_heads": 2,
            "d_model": 10,
            "d_head": 5,
            "n_ctx": 6,
            "d_vocab": 9,
            "init_std": 0.6,
            **SHAPES[shape],
        }
    )
    generator = torch.Generator().manual_seed(seed)
    tokens, donors = torch.randint(9, (2, 4, 6), generator=generator)
    return Transformer(config, generator=generator), tokens, donors


def by_hand(model, tokens, donors, senders, receiver, recomputed=False):
    """Freeze every head (and every MLP, unless recomputed) at its clean value, change the senders, keep
    the receiver's input; then a clean run with that input."""
    values = ["blocks.*.attn.z", *(["blocks.*.mlp.post"] if model.config.d_mlp else [])]
    clean, other = run(model, tokens, record=values), run(model, donors, record=values)
    edit = {
        name: value
        for name, value in clean.recorded.items()
        if not (recomputed and name.endswith("mlp.post"))
    }
    for node in senders:
        edit[node] = other[node.activation][node.index]
    if receiver.into == "logits":
        return run(model, tokens, edit=edit).logits
    layer = receiver.layer
    name = f"blocks.{layer}.mlp.pre" if receiver.into == "mlp" else f"blocks.{layer}.attn.{receiver.into}"
    read = run(model, tokens, edit=edit, record=name)[name]

    def place(value):
        at = slice(None) if receiver.position is None else receiver.position
        value = value.clone()
        if receiver.into == "mlp":
            value[:, at] = read[:, at]
        else:
            value[:, at, receiver.head] = read[:, at, receiver.head]
        return value

    return run(model, tokens, edit={name: place}).logits


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mlps", ["frozen", "recomputed"])
@pytest.mark.parametrize(
    ("sender", "receiver"),
    [
        ("L0H1", Receiver("q", 1, 0)),
        ("L0H1", Receiver("k", 2, 1)),
        ("P2L0H0", Receiver("v", 2, 0)),
        ("P2L0H0", Receiver("v", 2, 0, position=2)),
        ("P5L1H1", Receiver("q", 2, 1, position=5)),
        ("P1L0H1", Receiver("logits")),
    ],
)
def test_equals_freezing_by_hand(shape, mlps, sender, receiver):
    model, tokens, donors = case(shape)
    node = Node.parse(sender)
    got = path_patch(model, tokens, donors, node, receiver, mlps=mlps)
    wanted = by_hand(model, tokens, donors, [node], receiver, mlps == "recomputed")
    assert torch.allclose(got, wanted, atol=1e-5)
    if receiver.into != "logits":
        assert (got - model(tokens)).abs().max() > 1e-4  # something gets through


@pytest.mark.parametrize("mlps", ["frozen", "recomputed"])
@pytest.mark.parametrize(
    "receiver", [Receiver("mlp", 0), Receiver("mlp", 2, position=3), Receiver("k", 1, 1)]
)
def test_equals_freezing_by_hand_for_mlps_and_several_senders(mlps, receiver):
    model, tokens, donors = case("with MLP")
    senders = [Node(0, 0), Node(0, 1, position=3)]
    if receiver.layer:
        senders.append(Node(0, None, position=3))
    got = path_patch(model, tokens, donors, senders, receiver, mlps=mlps)
    wanted = by_hand(model, tokens, donors, senders, receiver, mlps == "recomputed")
    assert torch.allclose(got, wanted, atol=1e-5)


def test_the_same_question_as_donor_changes_nothing():
    model, tokens, _ = case("with MLP")
    for receiver in (Receiver("q", 1, 0), Receiver("mlp", 1), Receiver("logits")):
        got = path_patch(model, tokens, tokens, Node(0, 1), receiver)
        assert torch.allclose(got, model(tokens), atol=1e-5)


def test_a_route_that_is_cut_carries_nothing():
    """The receiver's weights for what it reads are 0: path patching sees no effect, patching the node does."""
    model, tokens, donors = case("attention only")
    with torch.no_grad():
        model.blocks[1].attn.W_Q[0] = 0
    got = path_patch(model, tokens, donors, Node(0, 1), Receiver("q", 1, 0))
    assert torch.allclose(got, model(tokens), atol=1e-6)
    other = run(model, donors, record="blocks.0.attn.z")["blocks.0.attn.z"][:, :, 1]
    assert (run(model, tokens, edit={Node(0, 1): other}).logits - model(tokens)).abs().max() > 1e-2


def test_two_heads_of_a_layer_receive_together():
    model, tokens, donors = case("with norm")
    both = [Receiver("q", 1, 0), Receiver("q", 1, 1)]
    got = path_patch(model, tokens, donors, Node(0, 0), both)
    change = [path_patch(model, tokens, donors, Node(0, 0), one) for one in both]
    assert (got - change[0]).abs().max() > 1e-4
    assert (got - change[1]).abs().max() > 1e-4
    last = [Receiver("v", 2, 0), Receiver("v", 2, 1)]  # of the last layer, without a norm: they add up
    model, tokens, donors = case("attention only")
    got = path_patch(model, tokens, donors, Node(0, 0), last)
    parts = [path_patch(model, tokens, donors, Node(0, 0), one) - model(tokens) for one in last]
    assert torch.allclose(got - model(tokens), sum(parts), atol=1e-4)


@pytest.mark.parametrize(
    ("sender", "receiver", "words"),
    [
        (Node(1, 0), Receiver("q", 1, 0), "L1H0.q can't read L1H0"),
        (Node(2, 0), Receiver("mlp", 1), "L1MLP can't read L2H0"),
        (Node(0, None), Receiver("mlp", 0), "L0MLP can't read L0MLP"),
        (Node(0, 0, position=2), Receiver("v", 1, 0, position=3), "P3L1H0.v can't read P2L0H0"),
        (Node(0, 7), Receiver("v", 1, 0), "heads are 0..1"),
        (Node(0, 0), Receiver("v", 9, 0), "layers are 0..2"),
        ((), Receiver("logits"), "at least one sender"),
        (Node(0, 0), (Receiver("logits"), Receiver("q", 1, 0)), "stands alone"),
    ],
)
def test_impossible_routes_are_named(sender, receiver, words):
    model, tokens, donors = case("with MLP")
    with pytest.raises(ValueError, match=words):
        path_patch(model, tokens, donors, sender, receiver)


def test_bad_arguments_are_named():
    model, tokens, donors = case("with MLP")
    with pytest.raises(ValueError, match=r"not \[2, 6\]"):
        path_patch(model, tokens, donors[:2], Node(0, 0), Receiver("logits"))
    with pytest.raises(ValueError, match="'thawed'"):
        path_patch(model, tokens, donors, Node(0, 0), Receiver("logits"), mlps="thawed")
    wrongs: list[dict[str, Any]] = [
        {"into": "z"}, {"into": "q", "layer": 1}, {"into": "mlp"}, {"into": "logits", "layer": 1},
    ]  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(ValueError, match="receiver"):
            Receiver(**wrong)

"""The measure of copy-suppression in large models, on small ones whose copier was written down by hand."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from mi_lab.bridge import to_bridge
from mi_lab.model import Block, Transformer, TransformerConfig
from mi_lab.studies.sorting import gpt2

V = 12
TOKENS = torch.arange(V)


def copiers(strengths: tuple[float, ...], mlp: float = 0.0) -> Transformer:
    """Two layers with an MLP; head h of layer 1 adds strength[h] to the logit of the token attended to.

    mlp: size of random MLP weights in layer 0, below that of the one-hot embeddings.
    """
    torch.manual_seed(0)
    config = TransformerConfig(
        n_layers=2, n_heads=len(strengths), d_model=V, d_head=V, n_ctx=6, d_vocab=V, d_mlp=16, act="gelu"
    )
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, parameter in model.named_parameters():
            if name.endswith(".w"):
                parameter.fill_(1.0)
        model.embed.W_E.copy_(torch.eye(V))
        model.unembed.W_U.copy_(torch.eye(V))
        first, second = model.blocks[0], model.blocks[1]
        assert isinstance(first, Block)
        assert isinstance(second, Block)
        for name, parameter in first.mlp.named_parameters():  # type: ignore[union-attr]
            if name.startswith("W"):
                parameter.normal_(std=mlp)
        for head, strength in enumerate(strengths):
            second.attn.W_V[head] = torch.eye(V)
            second.attn.W_O[head] = strength * torch.eye(V)
    return model


@pytest.fixture(scope="module")
def bridge():
    return to_bridge(copiers((1.0, -1.0), mlp=0.05))


def test_a_copier_has_its_token_at_the_top_and_a_suppressor_at_the_bottom(bridge):
    assert gpt2.self_rank(bridge, 1, 0, TOKENS) == pytest.approx((V - 1) / V)
    assert gpt2.self_rank(bridge, 1, 1, TOKENS) == 0.0


def test_a_head_that_writes_at_random_has_it_in_the_middle():
    """The control: no copying, no suppressing, no verdict."""
    config = TransformerConfig(
        n_layers=1, n_heads=1, d_model=32, d_head=16, n_ctx=6, d_vocab=400, d_mlp=16, act="gelu"
    )
    model = Transformer(config, generator=torch.Generator().manual_seed(1))
    assert gpt2.self_rank(to_bridge(model), 0, 0, torch.arange(400)) == pytest.approx(0.5, abs=0.1)


def test_the_first_mlp_counts():
    """With an MLP that maps every token onto token 0, a copier of the MLP's output raises 0, not the token."""
    model = copiers((1.0,))
    with torch.no_grad():
        model.blocks[0].mlp.b_out[0] = 100.0  # type: ignore[union-attr]
    rank = gpt2.self_rank(to_bridge(model), 1, 0, torch.arange(1, V))
    assert rank == pytest.approx((V - 2) / V)  # one token, 0, above its own


def test_rank_equals_the_plain_computation(bridge):
    model = copiers((1.0, -1.0), mlp=0.05)
    block = model.blocks[0]
    assert isinstance(block, Block)
    with torch.no_grad():
        x = model.embed.W_E + block.mlp(block.ln2(model.embed.W_E), lambda _, value: value)  # type: ignore[misc]
        attn = model.blocks[1].attn  # type: ignore[union-attr]
        rows = x @ attn.W_V[0] @ attn.W_O[0] @ model.unembed.W_U
    below = torch.tensor([float((row < row[t]).float().mean()) for t, row in enumerate(rows)])
    assert gpt2.self_rank(bridge, 1, 0, TOKENS) == pytest.approx(float(below.median()))


def test_without_being_asked_nothing_is_loaded_and_one_line_says_how():
    found = gpt2.copy_suppression()
    assert "\n" not in found
    assert "copy_suppression(download=True)" in found


def pretend(monkeypatch: pytest.MonkeyPatch, boot) -> None:
    """TransformerLens whose bridge comes from `boot(name)`."""
    fake = types.ModuleType("transformer_lens.model_bridge")
    fake.TransformerBridge = type("TransformerBridge", (), {"boot_transformers": staticmethod(boot)})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformer_lens.model_bridge", fake)


@pytest.mark.parametrize(
    "error", [OSError("no network\nat all"), ConnectionError("refused"), ImportError("x")]
)
def test_offline_it_says_so_in_one_line_and_raises_nothing(monkeypatch, error):
    def boot(name: str) -> None:
        raise error

    pretend(monkeypatch, boot)
    found = gpt2.copy_suppression(download=True)
    assert "\n" not in found
    assert found.startswith(f"GPT-2 could not be loaded here ({type(error).__name__})")


def test_without_transformer_lens_it_says_so_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformer_lens.model_bridge", None)
    assert "could not be loaded here" in gpt2.copy_suppression(download=True)


def test_with_weights_the_line_names_the_head_beside_the_others_of_its_layer(monkeypatch, bridge):
    asked = []
    pretend(monkeypatch, lambda name: asked.append(name) or bridge)
    monkeypatch.setattr(gpt2, "HEAD", (1, 1))
    monkeypatch.setattr(gpt2.torch, "arange", lambda *_: TOKENS)
    found = gpt2.copy_suppression(download=True)
    assert asked == ["gpt2"]
    assert found == (
        "Head 1.1: the median token's own logit lies at the 0.0% point of its row; "
        "the other heads of layer 1 lie between 91.7% and 91.7%."
    )


def test_the_head_is_the_papers():
    assert gpt2.HEAD == (10, 7)

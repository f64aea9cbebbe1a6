import math

import pytest
import torch

from mi_lab.model import LayerNorm, Transformer, TransformerConfig

SHAPE = {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_head": 4, "n_ctx": 5, "d_vocab": 7}


def test_weights_have_the_fields_names_and_shapes(make_model):
    shapes = {
        k: tuple(v.shape) for k, v in make_model(n_layers=1, d_mlp=12, d_vocab_out=4).state_dict().items()
    }
    assert shapes == {
        "embed.W_E": (6, 8),
        "pos_embed.W_pos": (8, 8),
        "blocks.0.ln1.w": (8,),
        "blocks.0.ln1.b": (8,),
        **{f"blocks.0.attn.W_{x}": (2, 8, 3) for x in "QKV"},
        **{f"blocks.0.attn.b_{x}": (2, 3) for x in "QKV"},
        "blocks.0.attn.W_O": (2, 3, 8),
        "blocks.0.attn.b_O": (8,),
        "blocks.0.ln2.w": (8,),
        "blocks.0.ln2.b": (8,),
        "blocks.0.mlp.W_in": (8, 12),
        "blocks.0.mlp.b_in": (12,),
        "blocks.0.mlp.W_out": (12, 8),
        "blocks.0.mlp.b_out": (8,),
        "ln_final.w": (8,),
        "ln_final.b": (8,),
        "unembed.W_U": (8, 4),
        "unembed.b_U": (4,),
    }


def test_attention_equals_a_sum_written_out_by_hand(make_model, make_tokens):
    model, tokens = make_model(n_layers=1, norm=None).double(), make_tokens(1)
    p = model.requires_grad_(False).state_dict()
    resid = [p["embed.W_E"][token] + p["pos_embed.W_pos"][i] for i, token in enumerate(tokens[0].tolist())]
    attn = "blocks.0.attn."
    for i, logits in enumerate(model(tokens)[0]):
        out = resid[i] + p[attn + "b_O"]
        for head in range(2):
            q, k, v = ([x @ p[f"{attn}W_{w}"][head] + p[f"{attn}b_{w}"][head] for x in resid] for w in "QKV")
            weights = [math.exp(float(q[i] @ k[j]) / math.sqrt(3)) for j in range(i + 1)]
            z = sum(w / sum(weights) * v[j] for j, w in enumerate(weights))
            out = out + z @ p[attn + "W_O"][head]
        torch.testing.assert_close(logits, out @ p["unembed.W_U"] + p["unembed.b_U"])


def test_layer_norm_equals_torchs():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    norm = LayerNorm(8, 1e-5)
    norm.w.data.uniform_(generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(norm(x), torch.nn.functional.layer_norm(x, (8,), norm.w, norm.b, 1e-5))


@pytest.mark.parametrize("d_mlp", [0, 12])
def test_the_tap_sees_every_named_activation_in_order(make_model, make_tokens, d_mlp):
    model, seen = make_model(d_mlp=d_mlp), []

    def tap(name, value):
        seen.append(name)
        return value

    model(make_tokens(), tap)
    assert tuple(seen) == model.activations()


def test_what_the_tap_returns_goes_on(make_model, make_tokens):
    model = make_model()
    logits = model(make_tokens(), lambda name, x: x * 0 if name == "ln_final" else x)
    torch.testing.assert_close(logits, model.unembed.b_U.expand_as(logits))


def test_no_logit_depends_on_a_later_token(make_model, make_tokens):
    model, a = make_model(d_mlp=12), make_tokens()
    b = a.clone()
    b[:, 5] = (b[:, 5] + 1) % 6
    same = (model(a) == model(b)).all(-1).all(0)
    assert same.tolist() == [True] * 5 + [False] * 3


def test_a_seed_decides_the_weights():
    config = TransformerConfig(**SHAPE)
    a, b, c = (Transformer(config, generator=torch.Generator().manual_seed(s)).embed.W_E for s in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_the_start_has_the_configs_spread():
    model = Transformer(TransformerConfig(**SHAPE | {"d_vocab": 5000, "init_std": 0.3}))
    assert abs(model.embed.W_E.std().item() - 0.3) < 0.01
    assert TransformerConfig(**SHAPE).std == 0.8 / math.sqrt(8)


def test_a_config_survives_json():
    config = TransformerConfig(**SHAPE, d_mlp=3, act="gelu", norm=None)
    assert TransformerConfig(**config.to_dict()) == config


def test_weights_are_counted():
    model = Transformer(TransformerConfig(**SHAPE, norm=None))
    assert model.n_parameters == 7 * 8 + 5 * 8 + (3 * (8 * 8 + 8) + 8 * 8 + 8) + 8 * 7 + 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 0}, "n_heads must be a whole number of at least 1, not 0"),
        ({"d_model": 8.0}, "d_model must be a whole number"),
        ({"n_layers": True}, "n_layers must be a whole number"),
        ({"d_mlp": -1}, "d_mlp must be 0 .* not -1"),
        ({"d_vocab_out": 0}, "d_vocab_out must be at least 1"),
        ({"act": "tanh"}, "act must be 'relu' or 'gelu', not 'tanh'"),
        ({"norm": "RMS"}, "norm must be 'LN' or None, not 'RMS'"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"init_std": -1.0}, "init_std must be positive"),
    ],
)
def test_an_impossible_config_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**SHAPE | changes)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(5, dtype=torch.long), r"shape \[batch, pos\], not \[5\]"),
        (torch.zeros(2, 5), "whole numbers, not torch.float32"),
        (torch.zeros(2, 6, dtype=torch.long), "at most 5 tokens, the sequences have 6"),
        (torch.full((2, 5), 7), "token 7 is outside this model's vocabulary 0..6"),
        (torch.full((2, 5), -1), "token -1 is outside"),
    ],
)
def test_tokens_that_cannot_be_read_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        Transformer(TransformerConfig(**SHAPE))(tokens)

"""Into TransformerLens 4 and back: the field's hook names on our models, our tools on its weights.

    bridge = to_bridge(model)
    logits, cache = bridge.run_with_cache(tokens)      # "blocks.0.attn.hook_pattern", ...
    model = from_bridge(bridge)

TransformerLens is imported when first needed (7 s); install it with `pip install "mi_lab[bridge]"`.
`from_state_dict` reads the weights of an old `HookedTransformer` and needs nothing.

Error: logits and cached activations agree to 1e-5 under the field's hook names, and the weights
come back bit for bit (tested). Two gaps of TransformerLens 4.3's native models: no `hook_resid_mid`
in attention-only ones (it equals `hook_resid_post` there), and `attn.hook_attn_scores` holds the
pattern, not the scores; `run(model, tokens, record="blocks.*.attn.scores")` has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mi_lab.model import Transformer, TransformerConfig

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def to_bridge(model: Transformer) -> TransformerBridge:
    """A TransformerLens 4 bridge with a copy of this model's weights.

    Raises ImportError, saying what to install, without TransformerLens 4.
    """
    try:
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError as error:
        raise ImportError('to_bridge needs TransformerLens 4: pip install "mi_lab[bridge]"') from error
    config = model.config
    bridge = TransformerBridge.boot_native(  # pyright: ignore[reportAttributeAccessIssue]
        TransformerBridgeConfig(
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            d_model=config.d_model,
            d_head=config.d_head,
            n_ctx=config.n_ctx,
            d_vocab=config.d_vocab,
            d_vocab_out=config.vocab_out,
            d_mlp=config.d_mlp,
            attn_only=not config.d_mlp,
            act_fn=config.act,
            normalization_type=config.norm,
            eps=config.eps,
            architecture="TransformerLensNative",
            init_weights=False,
        ),
        device=model.device,
        dtype=model.embed.W_E.dtype,
        model_name="mi_lab",
    )
    bridge.load_state_dict(_to_linear(model))
    return bridge.eval()


def from_bridge(bridge: TransformerBridge) -> Transformer:
    """A copy of a native TransformerLens 4 bridge as a `Transformer`.

    Raises ValueError that names the feature for a bridge that computes something else.
    """
    cfg: Any = bridge.cfg
    wanted = {
        "architecture": ("TransformerLensNative",),
        "normalization_type": ("LN", None),
        "positional_embedding_type": ("standard",),
        "attention_dir": ("causal",),
        "gated_mlp": (False,),
        "n_key_value_heads": (None, cfg.n_heads),
        "attn_scale": (-1.0, cfg.d_head**0.5),
        "final_rms": (False,),
        "attn_scores_soft_cap": (-1.0,),
        "output_logits_soft_cap": (-1.0,),
    }
    if not cfg.attn_only:
        wanted["act_fn"] = ("relu", "gelu")
    for name, allowed in wanted.items():
        value = getattr(cfg, name, allowed[0])
        if value not in allowed:
            raise ValueError(
                f"a Transformer can't have {name} = {value!r}, only {' or '.join(map(repr, allowed))}"
            )
    config = TransformerConfig(
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        d_model=cfg.d_model,
        d_head=cfg.d_head,
        n_ctx=cfg.n_ctx,
        d_vocab=cfg.d_vocab,
        d_vocab_out=None if cfg.d_vocab_out in (-1, cfg.d_vocab) else cfg.d_vocab_out,
        d_mlp=0 if cfg.attn_only else cfg.d_mlp,
        act="relu" if cfg.attn_only else cfg.act_fn,
        norm=cfg.normalization_type,
        eps=cfg.eps,
    )
    return from_state_dict(_from_linear(bridge.state_dict(), config), config)


def from_state_dict(state: Mapping[str, Tensor], config: TransformerConfig) -> Transformer:
    """A `Transformer` with the weights of a `HookedTransformer.state_dict()`, whose names ours are.

    Masks and other buffers are left out. Raises ValueError for missing, unknown or misshaped weights.
    """
    buffers = ("mask", "IGNORE", "rotary_sin", "rotary_cos")
    state = {name: value for name, value in state.items() if not name.endswith(buffers)}
    dtype = state["embed.W_E"].dtype if "embed.W_E" in state else torch.float32
    model = Transformer(config).to(dtype)
    mine = model.state_dict()
    if wrong := sorted(mine.keys() ^ state.keys()):
        what = "missing" if wrong[0] in mine else "not a weight of such a model"
        raise ValueError(f"{wrong[0]} is {what} ({len(wrong)} names differ)")
    for name, value in state.items():
        if value.shape != mine[name].shape:
            raise ValueError(
                f"{name} has shape {list(value.shape)}, this config wants {list(mine[name].shape)}"
            )
    model.load_state_dict(state)
    return model.to(state["embed.W_E"].device).eval()


def _to_linear(model: Transformer) -> dict[str, Tensor]:
    """Weights under the bridge's names, in `nn.Linear` layout, heads side by side."""
    out = {}
    for name, value in model.state_dict().items():
        path, leaf = name.rsplit(".", 1)
        kind, x = ("weight", leaf[2:]) if leaf.startswith("W_") else ("bias", leaf[2:])
        if leaf in ("w", "b"):
            out[f"{path}.{'weight' if leaf == 'w' else 'bias'}"] = value
        elif leaf in ("W_E", "W_pos"):
            out[f"{path}.weight"] = value
        elif path.endswith("attn"):
            if leaf in ("W_Q", "W_K", "W_V"):
                value = value.transpose(1, 2).flatten(0, 1)  # [head*d_head, d_model]
            elif leaf == "W_O":
                value = value.flatten(0, 1).T
            elif leaf != "b_O":
                value = value.flatten()
            out[f"{path}.{x.lower()}.{kind}"] = value
        else:
            path = path if path == "unembed" else f"{path}.{x}"
            out[f"{path}.{kind}"] = value.T if kind == "weight" else value
    return {name: value.contiguous() for name, value in out.items()}


def _from_linear(state: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """The way back: every weight found at the place where `_to_linear` would put it."""
    heads, d_head, d_model = config.n_heads, config.d_head, config.d_model
    out = {}
    for name, like in Transformer(config).state_dict().items():
        path, leaf = name.rsplit(".", 1)
        x = leaf[2:]
        if leaf in ("w", "b"):
            value = state[f"{path}.{'weight' if leaf == 'w' else 'bias'}"]
        elif leaf in ("W_E", "W_pos"):
            value = state[f"{path}.weight"]
        elif path.endswith("attn"):
            value = state[f"{path}.{x.lower()}.{'weight' if leaf.startswith('W_') else 'bias'}"]
            if leaf in ("W_Q", "W_K", "W_V"):
                value = value.view(heads, d_head, d_model).transpose(1, 2)
            elif leaf == "W_O":
                value = value.T.reshape(heads, d_head, d_model)
        else:
            place = path if path == "unembed" else f"{path}.{x}"
            kind = "weight" if leaf.startswith("W_") else "bias"
            value = state.get(f"{place}.{kind}", torch.zeros_like(like))  # a bridge may have no b_U
            value = value.T if kind == "weight" else value
        out[name] = value.reshape(like.shape).contiguous()
    return out

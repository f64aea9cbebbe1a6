"""The model: a small decoder-only transformer in plain torch, written to be read.

This is the reference. The fast forward (`mi_lab.stack`), the sparse intervention engine
(`mi_lab.ablate`), the TransformerLens bridge and the in-page engine are all tested against it.
Parameter names are the field's (TransformerLens' `HookedTransformer` state dict), so that a
checkpoint of such a model loads as it is:

    embed.W_E [d_vocab, d_model]            pos_embed.W_pos [n_ctx, d_model]
    blocks.i.ln1.w|b, blocks.i.ln2.w|b [d_model]
    blocks.i.attn.W_Q|W_K|W_V [n_heads, d_model, d_head], b_Q|b_K|b_V [n_heads, d_head]
    blocks.i.attn.W_O [n_heads, d_head, d_model], b_O [d_model]
    blocks.i.mlp.W_in [d_model, d_mlp], b_in, W_out [d_mlp, d_model], b_out
    ln_final.w|b [d_model]                  unembed.W_U [d_model, d_vocab_out], b_U

Axes are named once: `batch pos head d_model d_head d_mlp vocab query key`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Tap = Callable[[str, Tensor], Tensor]
"""Called as `tap(name, value)` at every named activation; what it returns goes on through the model."""


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a transformer.

    n_layers, n_heads, d_model, d_head, d_mlp: sizes; `d_mlp = 0` means attention only.
    n_ctx, d_vocab: longest sequence and number of tokens; `d_vocab_out` if outputs differ.
    act: non-linearity of the MLP. norm: "LN" (pre-norm with affine, plus a final one) or None.
    init_std: standard deviation of every weight matrix at the start; None means 0.8/sqrt(d_model).
    """

    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    n_ctx: int
    d_vocab: int
    d_mlp: int = 0
    d_vocab_out: int | None = None
    act: Literal["relu", "gelu"] = "relu"
    norm: Literal["LN"] | None = "LN"
    eps: float = 1e-5
    init_std: float | None = None

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "d_head", "n_ctx", "d_vocab"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        if not isinstance(self.d_mlp, int) or self.d_mlp < 0:
            raise ValueError(f"d_mlp must be 0 (attention only) or positive, not {self.d_mlp!r}")
        if self.d_vocab_out is not None and self.d_vocab_out < 1:
            raise ValueError(f"d_vocab_out must be at least 1 or None, not {self.d_vocab_out!r}")
        if self.act not in ("relu", "gelu"):
            raise ValueError(f"act must be 'relu' or 'gelu', not {self.act!r}")
        if self.norm not in ("LN", None):
            raise ValueError(f"norm must be 'LN' or None, not {self.norm!r}")
        if self.eps <= 0:
            raise ValueError(f"eps must be positive, not {self.eps!r}")
        if self.init_std is not None and self.init_std <= 0:
            raise ValueError(f"init_std must be positive or None, not {self.init_std!r}")

    @property
    def vocab_out(self) -> int:
        """Number of output tokens."""
        return self.d_vocab if self.d_vocab_out is None else self.d_vocab_out

    @property
    def std(self) -> float:
        """Standard deviation of the weight matrices at the start."""
        return 0.8 / math.sqrt(self.d_model) if self.init_std is None else self.init_std

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON; `TransformerConfig(**d)` is the way back."""
        return asdict(self)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * w + b over the last axis."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.w = nn.Parameter(torch.ones(d_model))
        self.b = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised x, same shape."""
        x = x - x.mean(-1, keepdim=True)
        return x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt() * self.w + self.b


class Attention(nn.Module):
    """Causal multi-head self-attention with scores divided by sqrt(d_head)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        heads, d_model, d_head = config.n_heads, config.d_model, config.d_head
        self.W_Q = nn.Parameter(torch.empty(heads, d_model, d_head))
        self.W_K = nn.Parameter(torch.empty(heads, d_model, d_head))
        self.W_V = nn.Parameter(torch.empty(heads, d_model, d_head))
        self.W_O = nn.Parameter(torch.empty(heads, d_head, d_model))
        self.b_Q = nn.Parameter(torch.zeros(heads, d_head))
        self.b_K = nn.Parameter(torch.zeros(heads, d_head))
        self.b_V = nn.Parameter(torch.zeros(heads, d_head))
        self.b_O = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor, tap: Tap) -> Tensor:
        """What the heads write, summed: [batch, pos, d_model]."""
        q = tap("q", torch.einsum("bpd,hde->bphe", x, self.W_Q) + self.b_Q)
        k = tap("k", torch.einsum("bpd,hde->bphe", x, self.W_K) + self.b_K)
        v = tap("v", torch.einsum("bpd,hde->bphe", x, self.W_V) + self.b_V)
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / math.sqrt(q.shape[-1])
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        scores = tap("scores", scores.masked_fill(future, -torch.inf))
        pattern = tap("pattern", scores.softmax(-1))
        z = tap("z", torch.einsum("bhqk,bkhe->bqhe", pattern, v))
        return torch.einsum("bphe,hed->bpd", z, self.W_O) + self.b_O


class MLP(nn.Module):
    """act(x W_in + b_in) W_out + b_out."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.act = torch.relu if config.act == "relu" else nn.functional.gelu
        self.W_in = nn.Parameter(torch.empty(config.d_model, config.d_mlp))
        self.b_in = nn.Parameter(torch.zeros(config.d_mlp))
        self.W_out = nn.Parameter(torch.empty(config.d_mlp, config.d_model))
        self.b_out = nn.Parameter(torch.zeros(config.d_model))

    def forward(self, x: Tensor, tap: Tap) -> Tensor:
        """What the MLP writes: [batch, pos, d_model]."""
        pre = tap("pre", x @ self.W_in + self.b_in)
        return tap("post", self.act(pre)) @ self.W_out + self.b_out


class Block(nn.Module):
    """resid_mid = resid_pre + attn(LN1(resid_pre)); resid_post = resid_mid + mlp(LN2(resid_mid))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        norm = config.norm is not None
        self.ln1 = LayerNorm(config.d_model, config.eps) if norm else nn.Identity()
        self.attn = Attention(config)
        self.has_mlp = config.d_mlp > 0
        if self.has_mlp:
            self.ln2 = LayerNorm(config.d_model, config.eps) if norm else nn.Identity()
            self.mlp = MLP(config)

    def forward(self, resid: Tensor, tap: Tap) -> Tensor:
        """resid_post from resid_pre."""
        resid = tap("resid_pre", resid)
        attn_out = self.attn(self.ln1(resid), lambda name, value: tap(f"attn.{name}", value))
        resid = tap("resid_mid", resid + tap("attn.out", attn_out))
        if self.has_mlp:
            mlp_out = self.mlp(self.ln2(resid), lambda name, value: tap(f"mlp.{name}", value))
            resid = resid + tap("mlp.out", mlp_out)
        return tap("resid_post", resid)


class Embed(nn.Module):
    """W_E[tokens]."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(config.d_vocab, config.d_model))


class PosEmbed(nn.Module):
    """W_pos[0 .. pos-1], learned and absolute."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.W_pos = nn.Parameter(torch.empty(config.n_ctx, config.d_model))


class Unembed(nn.Module):
    """x W_U + b_U."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.W_U = nn.Parameter(torch.empty(config.d_model, config.vocab_out))
        self.b_U = nn.Parameter(torch.zeros(config.vocab_out))


def no_tap(name: str, value: Tensor) -> Tensor:
    """The tap that looks at nothing and changes nothing."""
    return value


class Transformer(nn.Module):
    """logits[batch, pos, vocab] = unembed(LN(embed + pos + sum of blocks)).

    Weights start from N(0, config.std), biases from 0, drawn from `generator` (or from
    `torch.Generator().manual_seed(0)`): the same seed gives the same model on every machine.

        >>> config = TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, n_ctx=5, d_vocab=7)
        >>> Transformer(config)(torch.zeros(3, 5, dtype=torch.long)).shape
        torch.Size([3, 5, 7])
    """

    def __init__(self, config: TransformerConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(config)
        self.pos_embed = PosEmbed(config)
        # a ModuleList, typed as what it holds
        self.blocks: list[Block] = nn.ModuleList(Block(config) for _ in range(config.n_layers))  # type: ignore
        self.ln_final = LayerNorm(config.d_model, config.eps) if config.norm else nn.Identity()
        self.unembed = Unembed(config)
        self.reset(generator)

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw the weight matrices anew; biases become 0, LayerNorm the identity."""
        generator = generator or torch.Generator().manual_seed(0)
        for name, parameter in self.named_parameters():
            leaf = name.rsplit(".", 1)[-1]
            if leaf.startswith("W_"):
                noise = torch.randn(parameter.shape, generator=generator, device=generator.device)
                parameter.copy_(noise * self.config.std)
            else:
                parameter.fill_(1.0 if leaf == "w" else 0.0)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed.W_E.device

    def check_tokens(self, tokens: Tensor) -> None:
        """Raise ValueError unless `tokens` is Int[batch, pos] that this model can read."""
        config = self.config
        if tokens.ndim != 2:
            raise ValueError(f"tokens must have shape [batch, pos], not {list(tokens.shape)}")
        if tokens.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
            raise ValueError(f"tokens must be whole numbers, not {tokens.dtype}")
        if tokens.shape[1] > config.n_ctx:
            raise ValueError(
                f"this model reads at most {config.n_ctx} tokens, the sequences have {tokens.shape[1]}"
            )
        if tokens.numel():
            low, high = tokens.aminmax()
            if low < 0 or high >= config.d_vocab:
                bad = int(low) if low < 0 else int(high)
                raise ValueError(f"token {bad} is outside this model's vocabulary 0..{config.d_vocab - 1}")

    def forward(self, tokens: Tensor, tap: Tap = no_tap) -> Tensor:
        """Logits[batch, pos, vocab]; `tap` sees and may replace each named activation."""
        self.check_tokens(tokens)
        embed = tap("embed", self.embed.W_E[tokens.long()])
        pos = self.pos_embed.W_pos[: tokens.shape[1]].expand_as(embed)
        resid = embed + tap("pos_embed", pos)
        for layer, block in enumerate(self.blocks):
            resid = block(resid, lambda name, value, layer=layer: tap(f"blocks.{layer}.{name}", value))
        final = tap("ln_final", self.ln_final(resid))
        return tap("logits", final @ self.unembed.W_U + self.unembed.b_U)

    def activations(self) -> tuple[str, ...]:
        """Every name that `tap` is called with, in order."""
        names = ["embed", "pos_embed"]
        attn = ["attn.q", "attn.k", "attn.v", "attn.scores", "attn.pattern", "attn.z", "attn.out"]
        mlp = ["mlp.pre", "mlp.post", "mlp.out"] if self.config.d_mlp else []
        for layer in range(self.config.n_layers):
            names += [f"blocks.{layer}.{n}" for n in ["resid_pre", *attn, "resid_mid", *mlp, "resid_post"]]
        return (*names, "ln_final", "logits")

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.parameters())

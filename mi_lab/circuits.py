"""Circuits: what a head's weights say before any input is seen.

A head has two jobs that don't mix: *where to look* (QK) and *what to write when it looks there*
(OV). Both are bilinear forms on the residual stream, products of two thin matrices, kept factored
here until somebody asks for the whole matrix. Multiplied with the embedding on one side and the
embedding (QK) or unembedding (OV) on the other they become tables over tokens that can be read.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits". Chapter: toolbox.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mi_lab.model import LayerNorm, Transformer


class Factored(NamedTuple):
    """A matrix kept as the product left @ right; leading axes broadcast.

    >>> m = Factored(torch.ones(3, 1), torch.ones(1, 4))
    >>> m.full().shape, m.trace_of(3)
    (torch.Size([3, 4]), tensor([1., 1., 1.]))
    """

    left: Tensor
    right: Tensor

    def full(self) -> Tensor:
        """The whole matrix."""
        return self.left @ self.right

    def trace_of(self, n: int) -> Tensor:
        """The first n diagonal entries, without building the matrix."""
        return (self.left[..., :n, :] * self.right[..., :, :n].transpose(-1, -2)).sum(-1)

    def norm(self) -> Tensor:
        """Frobenius norm, from the thin factors: |AB|^2 = tr(A'A BB')."""
        gram = (self.left.transpose(-1, -2) @ self.left) * (self.right @ self.right.transpose(-1, -2))
        return gram.sum((-1, -2)).clamp(min=0).sqrt()

    def singular_values(self) -> Tensor:
        """Singular values through two thin QR factorisations."""
        r1 = torch.linalg.qr(self.left).R
        r2 = torch.linalg.qr(self.right.transpose(-1, -2)).R
        return torch.linalg.svdvals(r1 @ r2.transpose(-1, -2))


@torch.no_grad()
def effective_embedding(model: Transformer, *, layer: int = 0) -> Tensor:
    """E' [vocab, d_model]: what each token's embedding looks like behind the layer's LayerNorm, no W_pos.

    Source: sorting dossier, definitions (whether the paper adds W_pos is unknown).
    """
    return model.blocks[layer].ln1(model.embed.W_E)


@torch.no_grad()
def qk_circuit(model: Transformer, layer: int = 0) -> Tensor:
    """Attention scores between tokens [head, query token, key token], before softmax.

    QK_h = (E' W_Q + b_Q)(E' W_K + b_K)^T / sqrt(d_head). Units: logits of attention.
    """
    attn, embed = model.blocks[layer].attn, effective_embedding(model, layer=layer)
    q = torch.einsum("vd,hde->hve", embed, attn.W_Q) + attn.b_Q[:, None]
    k = torch.einsum("vd,hde->hve", embed, attn.W_K) + attn.b_K[:, None]
    return q @ k.transpose(-1, -2) / math.sqrt(model.config.d_head)


@torch.no_grad()
def unembedding_directions(model: Transformer) -> Tensor:
    """diag(g_f) W_U centred over outputs [d_model, vocab]: what a write adds to a logit, but for LayerNorm.

    LayerNorm divides by a scale, the same for all parts of one residual stream, and first takes each
    write's mean over d_model away; that part is left in (0.4 % of the OV table in the sorting models).
    """
    W = model.unembed.W_U - model.unembed.W_U.mean(1, keepdim=True)
    final = model.ln_final
    return final.w[:, None] * W if isinstance(final, LayerNorm) else W


@torch.no_grad()
def key_path(model: Transformer, layer: int, through: int) -> Tensor:
    """The path from tokens over an earlier head to a head's keys (K-composition), in attention scores:
    [head, earlier head, query token, token that the earlier head has read].

    (E' W_Q + b_Q) W_K^T (E'' W_V W_O)^T / sqrt(d_head), E'' the embedding in layer `through`: how much a query
    token wants a key at which the earlier head has read that token, on top of `qk_circuit`.
    Error: exact without LayerNorm; with it up to this layer's scale at the key. Biases of the earlier
    head and b_K are left out. Raises ValueError unless `through` is an earlier layer.

        >>> from mi_lab.handmade import repeater
        >>> key_path(repeater(), 1, 0)[0, 0, :2, :2]  # the match head over the previous-token head
        tensor([[30.,  0.],
                [ 0., 30.]])
    """
    if not 0 <= through < layer < model.config.n_layers:
        raise ValueError(
            f"a path into layer {layer} over layer {through}: layers are 0..{model.config.n_layers - 1} "
            "and the second must be the earlier one"
        )
    attn, earlier, norm = model.blocks[layer].attn, model.blocks[through].attn, model.blocks[layer].ln1
    q = torch.einsum("vd,hde->hve", effective_embedding(model, layer=layer), attn.W_Q) + attn.b_Q[:, None]
    written = torch.einsum(
        "vd,gde,gef->gvf", effective_embedding(model, layer=through), earlier.W_V, earlier.W_O
    )
    if isinstance(norm, LayerNorm):
        written = (written - written.mean(-1, keepdim=True)) * norm.w
    return torch.einsum("hqe,hde,gkd->hgqk", q, attn.W_K, written) / math.sqrt(model.config.d_head)


@torch.no_grad()
def ov_circuit(model: Transformer, layer: int = 0) -> Factored:
    """What attending to token i adds to the logit of token j: [head, source token, output token], factored.

    OV_h = E' W_V W_O diag(g_f) W_U, W_U centred over outputs. Units: logits, up to the final
    LayerNorm's scale. The biases b_V and b_O add the same to every source and are left out.
    """
    attn = model.blocks[layer].attn
    left = torch.einsum("vd,hde->hve", effective_embedding(model, layer=layer), attn.W_V)
    return Factored(left, attn.W_O @ unembedding_directions(model))


def composition(first: Factored, second: Factored) -> Tensor:
    """|AB| / (|A||B|): how much the second matrix reads of what the first one writes, in [0, 1].

    Compare with the same score of random matrices of those shapes: it is not 0 by chance.
    """
    together = Factored(first.left, first.right @ second.full())
    return together.norm() / (first.norm() * second.norm())


@torch.no_grad()
def head_outputs(model: Transformer, z: Tensor, layer: int = 0) -> Tensor:
    """What each head writes into the residual stream: [batch, pos, head, d_model] from z [.., d_head]."""
    return torch.einsum("bphe,hed->bphd", z, model.blocks[layer].attn.W_O)


@torch.no_grad()
def direct_logit_attribution(model: Transformer, written: Tensor, targets: Tensor) -> Tensor:
    """written . (diag(g_f) W_U centred)[:, target], shape of `targets` plus any inner axes of `written`.

    written [batch, pos, .., d_model], targets Int[batch, pos]. Units: logits, up to the final
    LayerNorm as in `unembedding_directions`. Error: exact without LayerNorm, and with it for writes
    of mean 0, divided by the scale.
    """
    directions = unembedding_directions(model).T[targets]  # [batch, pos, d_model]
    extra = written.ndim - directions.ndim
    directions = directions.reshape(*directions.shape[:2], *(1,) * extra, directions.shape[-1])
    return (written * directions).sum(-1)

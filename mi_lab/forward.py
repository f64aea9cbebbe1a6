"""The fast forward pass: logits of one model or of a stack, from named weights.

Not for looking inside a model: `mi_lab.run` on a plain `Transformer` does that. The weights are
`Params`, named and shaped as in `mi_lab.stack.layout`; with a leading `model` axis they are a stack's.
The functions below are also what the intervention engines are made of (`ablate`, `groups`, `scrub`).

What makes it fast, all of it exact up to rounding and tested against `Transformer`:

1. Answer cut: in the last layer queries, attention output, MLP and unembedding are computed only
   at the answer positions.
2. Table: the first layer's input is a function of (position, token) alone, so LayerNorm, keys and
   values are computed once per pair and gathered, when there are fewer pairs than tokens in a batch.
3. Explicit softmax: beside the oneDNN products of `mi_lab.fast` the fused CPU attention kernel is slower.

4. Large products get their bias and the residual stream added in place afterwards, and the gradients of
   queries, keys and values meet inside the last of their products: fewer passes over memory.

Tried and left out, since it gained nothing on a CPU: one product for queries, keys and values together
(the gradients have to be put side by side again), a hand-written backward pass of the attention core,
one of the MLP in cache-sized blocks of rows (its products lose more than the blocks save), the batch in
parts (likewise), the fused attention kernel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_lab.fast import onednn_route
from mi_lab.model import TransformerConfig

Params = dict[str, Tensor]
LARGE = 512  # rows


class Layout(NamedTuple):
    """Sequences that are more than one text: several continuations of one beginning, computed once.

    positions Int[pos]: the position vector of every place, so that each continuation stands where it would
        alone. mask Float[query, key]: 0 where a place may look, -inf elsewhere; at most causal.
    """

    positions: Tensor
    mask: Tensor


def forward(
    params: Params,
    config: TransformerConfig,
    tokens: Tensor,
    answer: slice = slice(None),
    layout: Layout | None = None,
) -> Tensor:
    """Logits at the answer positions: tokens [*lead, batch, pos] -> [*lead, batch, answer, vocab].

    `lead` is () for one model's params and (model,) for a stack's. Tokens behind the last answer
    position are not read. Without a layout, place p has position p and looks at all places up to p.
    """
    *_, last = _streams(params, config, tokens, answer, layout)
    return unembed(last, params, config)


def exits(
    params: Params,
    config: TransformerConfig,
    tokens: Tensor,
    answer: slice = slice(None),
    layout: Layout | None = None,
) -> list[Tensor]:
    """Logits as of `forward` from every layer's residual stream, first to last: what each layer already knows.

    The last entry is `forward`'s. Read by the final LayerNorm and unembedding, as the logit lens does.
    """
    return [unembed(stream, params, config) for stream in _streams(params, config, tokens, answer, layout)]


def _streams(
    params: Params, config: TransformerConfig, tokens: Tensor, answer: slice, layout: Layout | None
) -> Iterator[Tensor]:
    """resid_post at the answer positions [*lead, batch, answer, d_model], layer by layer."""
    first, stop, _ = answer.indices(tokens.shape[-1])
    tokens = tokens[..., :stop]
    if params["W_E"].ndim == 3:
        params = _contiguous(params)
    late = first if config.n_layers == 1 else 0
    mask = None if layout is None else layout.mask[:stop, :stop]
    if layout is None and 2 * config.d_vocab <= tokens.shape[-2]:
        resid = first_attention_from_table(params, config, tokens, late)
    else:
        W_pos = params["W_pos"]
        W_pos = W_pos[..., :stop, :] if layout is None else W_pos.index_select(-2, layout.positions[:stop])
        resid = gather(params["W_E"], tokens) + W_pos.unsqueeze(-3)
        resid = attention_block(resid, params, 0, config, late, mask)
    resid = mlp_block(resid, params, 0, config)
    for layer in range(1, config.n_layers):
        yield resid[..., first:, :]
        late = first if layer == config.n_layers - 1 else 0
        resid = attention_block(resid, params, layer, config, late, mask)
        resid = mlp_block(resid, params, layer, config)
    yield resid


def first_attention_from_table(
    params: Params, config: TransformerConfig, tokens: Tensor, first: int
) -> Tensor:
    """resid_mid of layer 0 at positions >= first; q, k, v once per (position, token), then gathered."""
    vocab, pos = config.d_vocab, tokens.shape[-1]
    table = params["W_E"].unsqueeze(-3) + params["W_pos"][..., :pos, None, :]
    table = table.flatten(-3, -2)  # [*lead, pos*vocab, d_model]
    pairs = tokens + torch.arange(pos, device=tokens.device) * vocab
    keys = norm(table, params, "0.ln1", config)
    queries = keys[..., first * vocab :, :] if first else keys
    k = gather_heads(project(keys, params, "0.W_K", "0.b_K"), pairs, config)
    v = gather_heads(project(keys, params, "0.W_V", "0.b_V"), pairs, config)
    q = gather_heads(project(queries, params, "0.W_Q", "0.b_Q"), pairs[..., first:] - first * vocab, config)
    z = attention(q, k, v, first)
    return gather(table, pairs[..., first:]) + project(z, params, "0.W_O", "0.b_O")


def _contiguous(params: Params) -> Params:
    """A stack's matrices, copied once for this pass if every product would copy them again.

    They are views of a wider buffer, which oneDNN's batched product doesn't take as they are.
    """
    if not onednn_route(params["W_E"].device):
        return params
    return {name: value.contiguous() if value.ndim == 3 else value for name, value in params.items()}


def heads(
    resid: Tensor, params: Params, layer: int, config: TransformerConfig, first: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """q (from place `first` on), k and v, [.., head, pos, d_head] each, of resid_pre [.., pos, d_model]."""
    p = f"{layer}."
    x = norm(resid, params, p + "ln1", config)
    if x.requires_grad and not first and large(x, params[p + "W_Q"]):
        rows = _Projections.apply(
            x.flatten(0, -2), *(params[f"{p}{kind}_{w}"] for kind in "Wb" for w in "QKV")
        )
        q, k, v = (split_heads(y.view(*x.shape[:-1], -1), config) for y in rows)
        return q, k, v
    late = x[..., first:, :] if first else x
    q, k, v = (
        split_heads(project(y, params, f"{p}W_{w}", f"{p}b_{w}"), config)
        for w, y in (("Q", late), ("K", x), ("V", x))
    )
    return q, k, v


class _Projections(torch.autograd.Function):
    """x W + b for three weights and one x [rows, d_model]; the three gradients of x add up in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        W, b = weights[:3], weights[3:]
        ctx.save_for_backward(x, *W)
        return tuple(torch.mm(x, w).add_(c) for w, c in zip(W, b, strict=True))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        x, *W = ctx.saved_tensors
        rows = [grad.contiguous() for grad in grads]
        dx = torch.mm(rows[0], W[0].T)
        for grad, w in zip(rows[1:], W[1:], strict=True):
            dx.addmm_(grad, w.T)
        return dx, *(torch.mm(x.T, grad) for grad in rows), *(grad.sum(0) for grad in rows)


def attention_block(
    resid: Tensor,
    params: Params,
    layer: int,
    config: TransformerConfig,
    first: int,
    mask: Tensor | None = None,
) -> Tensor:
    """resid_mid at positions >= first from resid_pre at all positions."""
    z = attention(*heads(resid, params, layer, config, first), first, mask)
    late = resid[..., first:, :] if first else resid
    return project(z, params, f"{layer}.W_O", f"{layer}.b_O", onto=late)


def mlp_hidden(mid: Tensor, params: Params, layer: int, config: TransformerConfig) -> Tensor:
    """The MLP's hidden layer [.., d_mlp] of resid_mid; without an MLP it has no width."""
    if not config.d_mlp:
        return mid[..., :0]
    p = f"{layer}."
    pre = project(norm(mid, params, p + "ln2", config), params, p + "W_in", p + "b_in")
    if config.act == "relu":
        return F.relu(pre) if pre.requires_grad else pre.relu_()
    return F.gelu(pre)


def mlp_block(
    mid: Tensor, params: Params, layer: int, config: TransformerConfig, hidden: Tensor | None = None
) -> Tensor:
    """resid_post from resid_mid, and from the MLP's hidden layer if that is known (or is another one)."""
    if not config.d_mlp:
        return mid
    hidden = mlp_hidden(mid, params, layer, config) if hidden is None else hidden
    return project(hidden, params, f"{layer}.W_out", f"{layer}.b_out", onto=mid)


def unembed(resid: Tensor, params: Params, config: TransformerConfig) -> Tensor:
    """Logits from the last resid_post."""
    return project(norm(resid, params, "ln_final", config), params, "W_U", "b_U")


def norm(x: Tensor, params: Params, name: str, config: TransformerConfig) -> Tensor:
    """LayerNorm `name` over the last axis, or x itself in a model without."""
    if config.norm is None:
        return x
    w, b = params[name + ".w"], params[name + ".b"]
    if w.ndim == 1:
        return F.layer_norm(x, w.shape, w, b, config.eps)
    shape = (w.shape[0], *(1,) * (x.ndim - 2), w.shape[1])
    return torch.addcmul(b.view(shape), F.layer_norm(x, w.shape[-1:], None, None, config.eps), w.view(shape))


def project(x: Tensor, params: Params, weight: str, bias: str, onto: Tensor | None = None) -> Tensor:
    """x W + b (+ onto, which broadcasts), as one matrix product per model."""
    W, b = params[weight], params[bias]
    rows = x.reshape(*W.shape[:-2], -1, W.shape[-2])
    shape = (*x.shape[:-1], W.shape[-1])
    if W.ndim == 3:
        new = torch.baddbmm(b.unsqueeze(1), rows, W).view(shape)
    elif large(x, W):
        new = torch.mm(rows, W).add_(b)  # addmm would spread the bias over the result and read it again
        if onto is not None and onto.shape == shape:
            return new.add_(onto.reshape(new.shape)).view(shape)
        new = new.view(shape)
    else:
        new = torch.addmm(b, rows, W).view(shape)
    if onto is None:
        return new
    if new.requires_grad or new.shape != onto.shape:
        return onto + new
    return new.add_(onto)


def large(x: Tensor, weight: Tensor) -> bool:
    """Is x W of one model so large that a pass over memory counts more than a launch?

    Not under autocast, which rounds `mm` and the sum differently from `addmm`.
    """
    several = weight.ndim == 2 and x.numel() >= LARGE * weight.shape[0]
    return several and not torch.is_autocast_enabled(x.device.type)


def gather(table: Tensor, index: Tensor) -> Tensor:
    """Rows of table [*lead, rows, d] at index [*lead, ...]."""
    if table.ndim == 3:
        models, rows, _ = table.shape
        offset = torch.arange(models, device=index.device).view(-1, *(1,) * (index.ndim - 1)) * rows
        table, index = table.flatten(0, 1), index + offset
    if table.is_cuda:  # index_select's backward adds in no fixed order there
        return F.embedding(index, table)
    return table.index_select(0, index.flatten()).view(*index.shape, -1)  # backward 3 times as fast on a CPU


def gather_heads(table: Tensor, index: Tensor, config: TransformerConfig) -> Tensor:
    """Rows of table [*lead, rows, head*d_head] at index [*lead, batch, pos] -> [*lead, batch, head, pos, d_head].

    Head by head in one gather: the result is laid out as the attention products want it.
    """
    heads = torch.arange(config.n_heads, device=index.device)[:, None]
    rows = table.reshape(*table.shape[:-2], -1, config.d_head)
    return gather(rows, index.unsqueeze(-2) * config.n_heads + heads)


def split_heads(x: Tensor, config: TransformerConfig) -> Tensor:
    """[.., pos, head*d_head] -> [.., head, pos, d_head]."""
    return x.unflatten(-1, (config.n_heads, config.d_head)).transpose(-3, -2)


def attention(q: Tensor, k: Tensor, v: Tensor, first: int, mask: Tensor | None = None) -> Tensor:
    """z [.., query, head*d_head] from q, k, v [.., head, pos, d_head]; query i stands at position first + i.

    mask: `Layout.mask`; None is causal. Explicit softmax: beside oneDNN products it is faster on a CPU than the
    fused kernel.
    """
    if mask is None:
        mask = causal_mask(q.shape[-2], k.shape[-2], first, q.device, q.dtype)
    else:
        mask = mask[first:].to(q)
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1) + mask
    return (scores.softmax(-1) @ v).transpose(-3, -2).flatten(-2)


@functools.lru_cache(maxsize=64)
def causal_mask(queries: int, keys: int, first: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[query, key]: -inf where the key is behind the query at position first + i, else 0."""
    mask = torch.full((queries, keys), -torch.inf, device=device, dtype=dtype)
    return mask.triu(first + 1)

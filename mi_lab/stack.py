"""Stack: S models of one shape on a leading `model` axis, and the fast forward.

When to use it: training, SGLD chains, anything that needs many forward and backward passes.
When not: to look inside a model (`mi_lab.run` on a plain `Transformer` does that).

What makes it fast, all of it exact up to rounding and tested against `Transformer`:

1. All weights live in one buffer [model, weights]; parameters and gradients are views of it, so
   that the optimiser, the clipping norm and SGLD noise are one kernel each for all models.
2. Answer cut: in the last layer queries, attention output, MLP and unembedding are computed only
   at the answer positions.
3. Table: the first layer's input is a function of (position, token) alone, so LayerNorm, keys and
   values are computed once per pair and gathered, when there are fewer pairs than tokens in a batch.
4. oneDNN matrix products through `matmul_precision("medium")`, entered only if a measured error
   gate passes on this machine, together with an explicit softmax (the fused CPU attention kernel
   is slower there).
5. Memory that a step frees is kept for the next one (`keep_freed_memory`).
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_lab.model import Transformer, TransformerConfig

Params = dict[str, Tensor]


def layout(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in the buffer, in order.

    As in `Transformer`, but with heads side by side, the form that makes a projection one matrix
    product: W_Q, W_K, W_V are [d_model, n_heads*d_head].
    """
    d, inner = config.d_model, config.n_heads * config.d_head
    shapes: dict[str, tuple[int, ...]] = {"W_E": (config.d_vocab, d), "W_pos": (config.n_ctx, d)}
    for layer in range(config.n_layers):
        p = f"{layer}."
        if config.norm:
            shapes |= {p + "ln1.w": (d,), p + "ln1.b": (d,)}
        for x in "QKV":
            shapes |= {f"{p}W_{x}": (d, inner), f"{p}b_{x}": (inner,)}
        shapes |= {p + "W_O": (inner, d), p + "b_O": (d,)}
        if config.d_mlp:
            if config.norm:
                shapes |= {p + "ln2.w": (d,), p + "ln2.b": (d,)}
            shapes |= {p + "W_in": (d, config.d_mlp), p + "b_in": (config.d_mlp,)}
            shapes |= {p + "W_out": (config.d_mlp, d), p + "b_out": (d,)}
    if config.norm:
        shapes |= {"ln_final.w": (d,), "ln_final.b": (d,)}
    return shapes | {"W_U": (d, config.vocab_out), "b_U": (config.vocab_out,)}


def to_reference(params: Params, config: TransformerConfig) -> Params:
    """The same weights (no `model` axis) under `Transformer`'s names and shapes; views, no copies."""
    heads, d_head, d = config.n_heads, config.d_head, config.d_model
    out = {"embed.W_E": params["W_E"], "pos_embed.W_pos": params["W_pos"]}
    for layer in range(config.n_layers):
        p, b = f"{layer}.", f"blocks.{layer}."
        for x in "QKV":
            out[f"{b}attn.W_{x}"] = params[f"{p}W_{x}"].view(d, heads, d_head).transpose(0, 1)
            out[f"{b}attn.b_{x}"] = params[f"{p}b_{x}"].view(heads, d_head)
        out[b + "attn.W_O"] = params[p + "W_O"].view(heads, d_head, d)
        out[b + "attn.b_O"] = params[p + "b_O"]
        for name in ("ln1.w", "ln1.b", "ln2.w", "ln2.b"):
            if p + name in params:
                out[b + name] = params[p + name]
        if config.d_mlp:
            for name in ("W_in", "b_in", "W_out", "b_out"):
                out[b + "mlp." + name] = params[p + name]
    if config.norm:
        out |= {"ln_final.w": params["ln_final.w"], "ln_final.b": params["ln_final.b"]}
    return out | {"unembed.W_U": params["W_U"], "unembed.b_U": params["b_U"]}


class Stack:
    """S transformers of one shape.

    flat [S, n_weights]: all weights. `params(s)` gives model s (or, with None, all of them with a
    leading axis) as named views; `model(s)` copies model s out as a `Transformer`.

        >>> config = TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, n_ctx=5, d_vocab=7)
        >>> stack = Stack.init(config, seeds=(0, 1, 2))
        >>> stack.forward(torch.zeros(4, 5, dtype=torch.long), answer=slice(2, 4)).shape
        torch.Size([3, 4, 2, 7])
    """

    def __init__(self, config: TransformerConfig, flat: Tensor) -> None:
        self.config = config
        self.layout = layout(config)
        size = sum(math.prod(shape) for shape in self.layout.values())
        if flat.ndim != 2 or flat.shape[1] != size:
            raise ValueError(f"flat must have shape [models, {size}] for this config, not {list(flat.shape)}")
        self.flat = flat

    @classmethod
    def empty(cls, config: TransformerConfig, n_models: int, device: torch.device | str = "cpu") -> Stack:
        """Zero weights, for filling."""
        size = sum(math.prod(shape) for shape in layout(config).values())
        return cls(config, torch.zeros(n_models, size, device=device))

    @classmethod
    def init(
        cls, config: TransformerConfig, seeds: Sequence[int], device: torch.device | str = "cpu"
    ) -> Stack:
        """Fresh models: model i equals `Transformer(config, generator=Generator().manual_seed(seeds[i]))`."""
        return cls.from_models(
            [Transformer(config, generator=torch.Generator().manual_seed(seed)) for seed in seeds], device
        )

    @classmethod
    def from_models(cls, models: Sequence[Transformer], device: torch.device | str | None = None) -> Stack:
        """Copies of these models, which must share one config."""
        if not models:
            raise ValueError("a Stack needs at least one model")
        config = models[0].config
        if any(model.config != config for model in models):
            raise ValueError("the models of a Stack must share one config")
        stack = cls.empty(config, len(models), models[0].device if device is None else device)
        for i, model in enumerate(models):
            stack.copy_in(i, dict(model.state_dict()))
        return stack

    def __len__(self) -> int:
        return self.flat.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.flat.device

    def views(self, flat: Tensor) -> Params:
        """Named views of any buffer of this layout, [n_weights] or [model, n_weights]."""
        out, start = {}, 0
        lead = flat.shape[:-1]
        for name, shape in self.layout.items():
            size = math.prod(shape)
            out[name] = flat[..., start : start + size].view(*lead, *shape)
            start += size
        return out

    def params(self, index: int | None = None) -> Params:
        """Weights of one model, or of all with a leading `model` axis; views."""
        return self.views(self.flat if index is None else self.flat[index])

    def leaves(self, grad: Tensor) -> Params:
        """The weights as autograd leaves, views of `flat`; `backward` fills `grad`, of flat's shape.

        A stack of one has leaves without the `model` axis, for plain matrix products instead of
        batched ones.
        """
        single = len(self) == 1
        weights, grads = (self.flat[0], grad[0]) if single else (self.flat, grad)
        leaves = {name: view.requires_grad_() for name, view in self.views(weights.detach()).items()}
        for name, view in self.views(grads).items():
            leaves[name].grad = view
        return leaves

    @torch.no_grad()
    def copy_in(self, index: int, state: Params) -> None:
        """Overwrite model `index` with weights under `Transformer`'s names."""
        mine = to_reference(self.params(index), self.config)
        if missing := sorted(mine.keys() - state.keys()):
            raise ValueError(f"weights are missing: {', '.join(missing[:4])}")
        for name, value in mine.items():
            if value.shape != state[name].shape:
                raise ValueError(
                    f"{name} has shape {list(state[name].shape)}, this config wants {list(value.shape)}"
                )
            value.copy_(state[name])

    def model(self, index: int) -> Transformer:
        """Model `index` as a plain `Transformer` (a copy)."""
        model = Transformer(self.config).to(self.device)
        model.load_state_dict(to_reference(self.params(index), self.config))
        return model.eval()

    def forward(self, tokens: Tensor, answer: slice = slice(None)) -> Tensor:
        """Logits[model, batch, answer, vocab] of all models; tokens [batch, pos] or [model, batch, pos]."""
        if tokens.ndim == 2:
            tokens = tokens.expand(len(self), *tokens.shape)
        return forward(self.params(), self.config, tokens, answer)


def backward(loss: Tensor, leaves: Params) -> None:
    """Write d loss / d weights into the buffer that `Stack.leaves` was given; nothing adds up.

    Not `loss.backward()`: that warns of gradients which are views of a wider buffer.
    """
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    buffers = [leaf.grad for leaf in leaves.values() if leaf.grad is not None]
    torch._foreach_copy_(buffers, gradients)


def stacking_pays(config: TransformerConfig, n_tokens: int, device: torch.device) -> bool:
    """Is one stacked pass faster than a loop over models? Always on a GPU; on a CPU only while a step
    is mostly launches (measured): a loop of plain matrix products beats a batched one.

    n_tokens: per model and step.
    """
    return device.type != "cpu" or n_tokens * config.d_model * config.n_layers < 20_000


def forward(params: Params, config: TransformerConfig, tokens: Tensor, answer: slice = slice(None)) -> Tensor:
    """Logits at the answer positions: tokens [*lead, batch, pos] -> [*lead, batch, answer, vocab].

    `lead` is () for one model's params and (model,) for a stack's. Tokens behind the last answer
    position are not read.
    """
    first, stop, _ = answer.indices(tokens.shape[-1])
    tokens = tokens[..., :stop]
    if 2 * config.d_vocab <= tokens.shape[-2]:
        resid = first_attention_from_table(params, config, tokens, first if config.n_layers == 1 else 0)
    else:
        resid = gather(params["W_E"], tokens) + params["W_pos"][..., None, : tokens.shape[-1], :]
        resid = attention_block(resid, params, 0, config, first if config.n_layers == 1 else 0)
    resid = mlp_block(resid, params, 0, config)
    for layer in range(1, config.n_layers):
        resid = attention_block(resid, params, layer, config, first if layer == config.n_layers - 1 else 0)
        resid = mlp_block(resid, params, layer, config)
    return project(norm(resid, params, "ln_final", config), params, "W_U", "b_U")


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


def attention_block(
    resid: Tensor, params: Params, layer: int, config: TransformerConfig, first: int
) -> Tensor:
    """resid_mid at positions >= first from resid_pre at all positions."""
    p = f"{layer}."
    x = norm(resid, params, p + "ln1", config)
    late, resid = (x[..., first:, :], resid[..., first:, :]) if first else (x, resid)
    q = split_heads(project(late, params, p + "W_Q", p + "b_Q"), config)
    k = split_heads(project(x, params, p + "W_K", p + "b_K"), config)
    v = split_heads(project(x, params, p + "W_V", p + "b_V"), config)
    return resid + project(attention(q, k, v, first), params, p + "W_O", p + "b_O")


def mlp_block(resid: Tensor, params: Params, layer: int, config: TransformerConfig) -> Tensor:
    """resid_post from resid_mid."""
    if not config.d_mlp:
        return resid
    p = f"{layer}."
    h = project(norm(resid, params, p + "ln2", config), params, p + "W_in", p + "b_in")
    h = F.relu(h) if config.act == "relu" else F.gelu(h)
    return resid + project(h, params, p + "W_out", p + "b_out")


def norm(x: Tensor, params: Params, name: str, config: TransformerConfig) -> Tensor:
    """LayerNorm `name` over the last axis, or x itself in a model without."""
    if config.norm is None:
        return x
    w, b = params[name + ".w"], params[name + ".b"]
    if w.ndim == 1:
        return F.layer_norm(x, w.shape, w, b, config.eps)
    shape = (w.shape[0], *(1,) * (x.ndim - 2), w.shape[1])
    return torch.addcmul(b.view(shape), F.layer_norm(x, w.shape[-1:], None, None, config.eps), w.view(shape))


def project(x: Tensor, params: Params, weight: str, bias: str) -> Tensor:
    """x W + b, as one matrix product per model."""
    W, b = params[weight], params[bias]
    if W.ndim == 2:
        return torch.addmm(b, x.reshape(-1, W.shape[0]), W).view(*x.shape[:-1], W.shape[1])
    rows = x.reshape(W.shape[0], -1, W.shape[1])
    return torch.baddbmm(b.unsqueeze(1), rows, W).view(*x.shape[:-1], W.shape[2])


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


def attention(q: Tensor, k: Tensor, v: Tensor, first: int) -> Tensor:
    """z [.., query, head*d_head] from q, k, v [.., head, pos, d_head]; query i stands at position first + i.

    Explicit softmax: beside oneDNN products it is faster on a CPU than the fused kernel.
    """
    mask = causal_mask(q.shape[-2], k.shape[-2], first, q.device, q.dtype)
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1) + mask
    return (scores.softmax(-1) @ v).transpose(-3, -2).flatten(-2)


@functools.lru_cache(maxsize=64)
def causal_mask(queries: int, keys: int, first: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[query, key]: -inf where the key is behind the query at position first + i, else 0."""
    mask = torch.full((queries, keys), -torch.inf, device=device, dtype=dtype)
    return mask.triu(first + 1)


@functools.lru_cache(maxsize=1)
def medium_is_accurate() -> bool:
    """Does float32_matmul_precision "medium" still compute in fp32 on this machine's CPU?

    It routes matrix products to oneDNN, which is 2-3 times faster and fp32 on most CPUs, but may
    round to bf16 on a CPU with matrix extensions. Measured on a product of the size used here:
    bf16 rounding would give a relative error of about 2e-3, fp32 gives 1e-7.
    """
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(256, 510, generator=generator)
    b = torch.randn(510, 256, generator=generator)
    exact = a.double() @ b.double()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        error = ((a @ b).double() - exact).abs().max() / exact.abs().max()
    finally:
        torch.set_float32_matmul_precision(before)
    return bool(error < 1e-5)


@functools.lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Let the C library keep the memory that a step frees (62 MB at most) for the next step.

    glibc hands large blocks back to the system at once, and the next step then pays a page fault for
    every 4 kB: a fifth of a small model's step. Its limit adapts to the largest block ever freed, up
    to 32 MiB (mallopt(3), M_MMAP_THRESHOLD), so one such block is freed here. No effect elsewhere.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


@contextlib.contextmanager
def fast_matmul(device: torch.device | str = "cpu") -> Iterator[bool]:
    """Use the fastest fp32-accurate arithmetic on this device; restores the setting on leaving.

    Yields True if the oneDNN route was taken. Numbers below 1e-38, which a sharp softmax makes by
    the thousand and a CPU handles in microcode, count as 0 meanwhile. On a GPU nothing is changed:
    TF32 is a choice for the caller, since it rounds.
    """
    use = torch.device(device).type == "cpu" and medium_is_accurate()
    keep_freed_memory()
    before = torch.get_float32_matmul_precision()
    flushed = not (torch.tensor([1e-40]) * 1.0).any()  # torch can set this, but not tell
    try:
        if use:
            torch.set_float32_matmul_precision("medium")
        torch.set_flush_denormal(torch.device(device).type == "cpu")
        yield use
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_float32_matmul_precision(before)

"""Stack: S models of one shape on a leading `model` axis, and the fast forward.

When to use it: training, SGLD chains, anything that needs many forward and backward passes.
When not: to look inside a model (`mi_lab.run` on a plain `Transformer` does that).

What makes it fast, all of it exact up to rounding and tested against `Transformer`:

1. All weights live in one buffer [model, weights]; parameters and gradients are views of it, so
   that the optimiser, the clipping norm and SGLD noise are one kernel each for all models.
2. The forward pass (`mi_lab.forward`) computes what the answer needs, under `mi_lab.fast`'s settings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mi_lab.fast import fast_matmul as fast_matmul  # all who compute with a stack want these
from mi_lab.forward import Params as Params
from mi_lab.forward import forward as forward
from mi_lab.model import Transformer, TransformerConfig


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
    """Is one stacked pass faster than a loop over models? Always on a GPU; on a CPU while a step is mostly
    launches: a layer's weights times tokens below 6e7, some 4 ms of products.

    n_tokens: per model and step. Measured on one core (ms per model and step, loop against stack): sorting
    at batch 1, 16, 64: 1.2, 2.8, 6.4 against .28, 1.6, 6.0; pathfinding at 1, 4, 16: 15, 34, 101 against
    10, 27, 98.
    """
    return device.type != "cpu" or n_tokens * layer_weights(config) < 60e6


def layer_weights(config: TransformerConfig) -> int:
    """Weights of the matrices of one layer."""
    return config.d_model * (4 * config.n_heads * config.d_head + 2 * config.d_mlp)


def onednn_pays(config: TransformerConfig, n_tokens: int, models: int) -> bool:
    """Are this pass's products large enough for `fast_matmul` to take the oneDNN route on a CPU?

    oneDNN takes about 25 us to set a product up, whatever its size, and copies the weights of a stack: it
    wants work, and rows to spread the copy over. n_tokens: per model.
    """
    widest = max(config.d_mlp, config.n_heads * config.d_head)
    return n_tokens >= 48 and models * n_tokens * config.d_model * widest >= 30e6

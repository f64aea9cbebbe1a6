"""What the benchmarks compare with: a HookedTransformer (TransformerLens 3.9) with a model's weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_lab.model import Transformer
from mi_lab.recipe import Recipe
from mi_lab.studies.base import Task


def hooked(model: Transformer) -> Any:
    """The same model as a HookedTransformer: equal weights, no weight processing."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    shape = model.config
    sizes = {k: getattr(shape, k) for k in ("n_layers", "n_heads", "d_model", "d_head", "n_ctx", "d_vocab")}
    mlp = {"d_mlp": shape.d_mlp, "act_fn": shape.act} if shape.d_mlp else {"attn_only": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = HookedTransformerConfig(
            **sizes, **mlp, normalization_type=shape.norm, eps=shape.eps, seed=0, device="cpu"
        )
        twin = HookedTransformer(config)
    twin.load_state_dict(dict(model.state_dict()), strict=False)  # masks are its own
    return twin


def task_loss(logits: Tensor, task: Task, tokens: Tensor) -> Tensor:
    """The loss that `fit` trains, of the logits at the answer positions."""
    right = tokens[:, task.answer.start + 1 : task.answer.stop + 1]
    each = F.cross_entropy(logits.flatten(0, 1), right.flatten(), reduction="none").view(right.shape)
    weights = task.weights(tokens)
    return each.mean() if weights is None else (each * weights).sum() / weights.sum()


def loop(model: Any, recipe: Recipe, batches: Tensor) -> Callable[[], None]:
    """A training step as one would write it: logits of all places, the loss, clipping, torch's default optimiser."""
    task, turn = recipe.task, iter(range(1 << 30))
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    optimiser = kind(model.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)

    def step() -> None:
        tokens = batches[next(turn) % len(batches)]
        loss = task_loss(model(tokens[:, : task.answer.stop])[:, task.answer], task, tokens)
        optimiser.zero_grad()
        loss.backward()
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        float(loss)  # a loop looks at its loss

    return step

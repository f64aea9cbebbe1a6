"""Positions that begin as waves: what a fresh model needs to find its way around an edge list.

The first thing to learn about `5>14,5>3,..` is which tokens stand beside each other: the target of an edge
needs its source, one place to the left, in fifteen places at once. With position vectors drawn at random every
one of the fifteen is learned by itself. In waves (the sines and cosines of the first transformer) "one to the
left" is one rotation, the same everywhere. They are only where training begins: the vectors stay free.

Whether that is what decides how fast a model reads trees is for the recipes to say that have it and those that
have not (`quick` and `quick_waves`, `plateau` and `waves`; claim P18B). `Scaled` is the control: vectors as
long, without the order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mi_lab.model import Transformer


def waves(n_ctx: int, d_model: int, base: float = 200.0) -> Tensor:
    """Float[n_ctx, d_model]: sines in the first half, cosines in the second, from 1 radian a place to 1/base."""
    place = torch.arange(n_ctx)[:, None].float()
    rate = base ** (torch.arange(d_model // 2).float() / (d_model // 2))
    angle = place / rate
    return torch.cat([angle.sin(), angle.cos()], 1)


@dataclass(frozen=True)
class Waves:
    """A recipe's start: fresh weights, but the position vectors are `scale` times `waves`.

    scale: the largest entry; their standard deviation is 0.7 of it. base: the slowest wave's radians per place
    are 1 / base, nearly.
    """

    scale: float
    base: float = 200.0
    every: int | None = None

    def __post_init__(self) -> None:
        if self.scale <= 0 or self.base <= 1:
            raise ValueError(f"scale must be positive and base above 1, not {self.scale!r} and {self.base!r}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"positions": "waves", "scale": self.scale, "base": self.base}

    def model(self, seed: int, out: Path | str | None = None) -> None:
        """Nothing comes from another model."""

    @torch.no_grad()
    def apply(self, model: Transformer, donor: Transformer | None, *, step: int) -> None:
        """Write the waves, once, before the first step. Raises ValueError for an odd d_model."""
        if step:
            return
        where = model.get_parameter("pos_embed.W_pos")
        if where.shape[1] % 2:
            raise ValueError(f"waves come in pairs: d_model must be even, not {where.shape[1]}")
        where.copy_(waves(where.shape[0], where.shape[1], self.base) * self.scale)


@dataclass(frozen=True)
class Scaled:
    """A recipe's start: fresh weights, but the position vectors are `factor` times as long."""

    factor: float
    every: int | None = None

    def __post_init__(self) -> None:
        if self.factor <= 0:
            raise ValueError(f"factor must be positive, not {self.factor!r}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"positions": "scaled", "factor": self.factor}

    def model(self, seed: int, out: Path | str | None = None) -> None:
        """Nothing comes from another model."""

    @torch.no_grad()
    def apply(self, model: Transformer, donor: Transformer | None, *, step: int) -> None:
        """Stretch the vectors, once, before the first step."""
        if step == 0:
            model.get_parameter("pos_embed.W_pos").mul_(self.factor)

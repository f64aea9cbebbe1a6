"""What the plain `Transformer` has inside, for tests of what is faster."""

from __future__ import annotations

from torch import Tensor

from mi_lab.model import Transformer


def layer_outputs(model: Transformer, tokens: Tensor) -> list[Tensor]:
    """resid_post [batch, pos, d_model] of every layer."""
    streams = []

    def tap(name: str, value: Tensor) -> Tensor:
        if name.endswith("resid_post"):
            streams.append(value)
        return value

    model(tokens, tap)
    return streams

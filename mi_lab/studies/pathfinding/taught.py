"""Chaining, taught: after every layer the token that writes is to know an ancestor of the goal one level further up.

The paper's account of a model that was trained on nothing but answers is that its path token climbs from the goal,
one level per layer. None of our recipes finds that road by itself. Here it is shown to a model: the stream after
layer l, read as the last one is (`Recipe.exits`), is trained to name the goal's ancestor at distance l, or the next
step once that is reached. What the last layer writes is the path, as ever. That gives a model of the paper's
algorithm to try every test on, and to train on without the lesson: does it keep that road?
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mi_lab.studies.base import targets
from mi_lab.studies.pathfinding.task import PathfindingTask


@dataclass(frozen=True)
class Taught(PathfindingTask):
    """The paper's task, with the goal's ancestors as what the earlier layers are trained to name.

    Raises ValueError if the goal is hidden or the padding counts.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hide_goal or self.padding:
            raise ValueError(
                "chaining is taught on trees whose goal is shown, with the loss on the path alone"
            )

    def aims(self, tokens: Tensor, layers: int) -> Tensor:
        """Int[layers, n, answer]: the token that each layer but the last is to name at each answer position.

        With d steps left to the goal, layer l names `>anc_l` up to `>anc_(d-1)`, which is the next step; behind
        the goal, the stop.
        """
        truth, right = self.variables(tokens), targets(self, tokens)
        left = truth["length"][:, None] - torch.arange(right.shape[1], device=tokens.device)
        layer = torch.arange(layers, device=tokens.device)[:, None, None]
        up = torch.minimum((left - 1).clamp(min=0), layer)  # [layers, n, answer]
        name = truth["ancestor"].expand(layers, -1, -1).gather(2, up)
        return torch.where(left > 0, name + self.first_target, right)

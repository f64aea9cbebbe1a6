"""Growing: a model of smaller trees goes on with larger ones.

On trees of 16 nodes a fresh model soon knows to copy an only child and never to enter a wrong leaf, and
then learns little for thousands of steps: which child of the root leads to a goal four levels down asks
for several layers at once. On trees of 6 nodes fewer may do. So the model goes to 6 nodes first, and is
given two more at a time. Whether that is what helps is for the control `not_grown` to say, which has not run.

A smaller tree is told in the same words (`PathfindingTask.names`: its labels are drawn from all 16) and
ends where a larger one ends: `Grown` lines the positions up at the root, so that a new edge gets three
new positions *in front*. Nothing else changes between two sizes; the optimiser starts anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mi_lab import zoo
from mi_lab.model import Transformer
from mi_lab.recipe import Recipe
from mi_lab.studies.pathfinding.many_goals import ManyGoals
from mi_lab.studies.pathfinding.task import PathfindingTask
from mi_lab.train import fit


@torch.no_grad()
def take_over(target: Transformer, donor: Transformer) -> None:
    """Overwrite the target's weights with the donor's, positions lined up at the root.

    With n nodes the root stands at 3n - 1, so a model of n_ctx = 4n has position p where one of 4m has
    p + 3(m - n). Positions that the donor lacks (the new edges in front, the last step) stay as they are.
    Raises ValueError if the two differ in anything but n_ctx.
    """
    new, old = target.config, donor.config
    for name, value in new.to_dict().items():
        if name not in ("n_ctx", "init_std") and old.to_dict()[name] != value:
            raise ValueError(f"the donor has {name} {old.to_dict()[name]!r}, the model {value!r}")
    if new.n_ctx % 4 or old.n_ctx % 4:
        raise ValueError(f"trees of n nodes have n_ctx = 4n, not {old.n_ctx} and {new.n_ctx}")
    theirs = dict(donor.named_parameters())
    for name, mine in target.named_parameters():
        if name != "pos_embed.W_pos":
            mine.copy_(theirs[name])
            continue
        shift = 3 * (old.n_ctx - new.n_ctx) // 4
        first, stop = max(0, -shift), min(new.n_ctx, old.n_ctx - shift)
        mine[first:stop] = theirs[name][first + shift : stop + shift]


@dataclass(frozen=True)
class Grown:
    """How a recipe's models start: from the model of the same seed of another size of tree.

    donors: one after the other is taken over (`take_over`), so the last one counts, and an earlier one
        where the last has no such position. A donor whose weights are published under its name is taken
        from there, any other is trained first.
    """

    donors: tuple[Recipe, ...]
    every: int | None = None

    def __post_init__(self) -> None:
        for donor in self.donors:
            if not isinstance(donor.task, PathfindingTask | ManyGoals):
                raise ValueError(f"a donor reads trees, {donor.name!r} reads {type(donor.task).__name__}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, the donors as names and digests."""
        return {"donors": [{"donor": donor.name, "digest": donor.digest} for donor in self.donors]}

    def model(self, seed: int, out: Path | str | None = None) -> Transformer:
        """The last donor of this seed, with the positions that only earlier ones have."""
        whole = Transformer(max((donor.config for donor in self.donors), key=lambda config: config.n_ctx))
        for donor in self.donors:
            take_over(whole, _weights(donor, seed, out))
        return whole

    def apply(self, model: Transformer, donor: Transformer, *, step: int) -> None:
        """Take the donor's weights over, once, before the first step."""
        if step == 0:
            take_over(model, donor)


def _weights(recipe: Recipe, seed: int, out: Path | str | None) -> Transformer:
    """This seed of a recipe: as published, or from its run in `out`, or trained now."""
    name = f"pathfinding/{recipe.name}"
    if name in zoo.files():
        found = zoo.read(name)
        if seed in found.labels and found.provenance.get("digest") == recipe.digest:
            return zoo.load(name, seed)
    return fit(recipe, seeds=(seed,), out=out, progress=False).model().cpu()

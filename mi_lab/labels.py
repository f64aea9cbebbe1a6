"""Labels: what a probe should find or an eraser remove, and labels that nothing can find.

Two forms. Int[n] or Int[n, pos]: one class each; a negative label leaves its row out. Bool with a last
axis of k yes-no questions: [n, k] or [n, pos, k]. Without the axis pos they hold at every position.
`keep`, Bool[n] or Bool[n, pos], leaves out further rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F


def spread(labels: Tensor, n: int, positions: int, what: str = "labels") -> Tensor:
    """Labels as Int[n, pos] or Bool[n, pos, k]; raises ValueError, beginning with `what`, if they can't be."""
    rank = 2 if labels.dtype == torch.bool else 1
    if labels.is_floating_point():
        raise ValueError(
            f"{what} must be Int (one class each) or Bool (yes-no questions), not {labels.dtype}"
        )
    if labels.ndim == rank and len(labels) == n:
        labels = labels.unsqueeze(1).expand(n, positions, *labels.shape[1:])
    if labels.ndim != rank + 1 or labels.shape[:2] != (n, positions):
        last = ", k" if rank == 2 else ""
        raise ValueError(
            f"{what} must have shape [{n}{last}] or [{n}, {positions}{last}], not {list(labels.shape)}"
        )
    return labels if rank == 2 else labels.long()


def kept(keep: Tensor | None, n: int, positions: int) -> Tensor:
    """`keep` as Bool[n, pos]; None keeps all."""
    if keep is None:
        return torch.ones(n, positions, dtype=torch.bool)
    if keep.dtype != torch.bool:
        raise ValueError(f"keep must be Bool, not {keep.dtype}")
    return spread(keep.long(), n, positions, "keep").bool()


def encode(labels: Tensor, n_classes: int) -> Tensor:
    """Targets Float64[.., k] of spread labels: one-hot (all 0 for a negative label), or yes = 1."""
    if labels.dtype == torch.bool:
        return labels.double()
    return F.one_hot(labels + 1, n_classes + 1)[..., 1:].double()


def labelled(labels: Tensor) -> Tensor:
    """Bool[..]: which rows of spread labels count."""
    return torch.ones_like(labels[..., 0]) if labels.dtype == torch.bool else labels >= 0


def class_count(labels: Tensor) -> int:
    """k: the number of questions, or the highest class + 1."""
    return labels.shape[-1] if labels.dtype == torch.bool else int(labels.max()) + 1


def by_site(values: Tensor | Mapping[str, Tensor], names: Iterable[str], what: str) -> dict[str, Tensor]:
    """The same for every site, or by name. Raises ValueError, beginning with `what`, for a site without."""
    if isinstance(values, Tensor):
        return dict.fromkeys(names, values)
    for name in names:
        if name not in values:
            raise ValueError(f"{what}: none given for site {name!r}")
    return {name: values[name] for name in names}


def shuffled(labels: Tensor, keep: Tensor, generator: torch.Generator) -> Tensor:
    """labels [S, n, p, ..] dealt out anew among the examples n, at each position by itself.

    What a position alone tells about the label is left as it is. Only rows in keep [S, n, p] take part.
    """
    random = torch.rand(keep.shape, generator=generator).to(keep.device)
    giver = (random + 2 * ~keep).argsort(1)
    taker = (~keep).to(torch.uint8).argsort(dim=1, stable=True)
    shape = (*keep.shape, *(1,) * (labels.ndim - 3))
    giver, taker = (index.view(shape).expand(labels.shape) for index in (giver, taker))
    dealt = torch.empty_like(labels).scatter_(1, taker, labels.gather(1, giver))
    return torch.where(keep.view(shape), dealt, labels)


def control_task(types: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    """Labels that only memory can supply: each type (token) gets one class, drawn as the labels are.

    types Int[..] of the shape of labels; negative labels stay. A probe that does well on these is
    large enough to learn anything: its success on the task says little. Source: Hewitt & Liang 2019.

        >>> control_task(torch.tensor([5, 3, 5, 3]), torch.tensor([0, 1, 1, 0]), seed=2).tolist()
        [0, 1, 0, 1]
    """
    if types.shape != labels.shape:
        raise ValueError(f"types {list(types.shape)} must have the shape of labels {list(labels.shape)}")
    known, index = types.unique(return_inverse=True)
    classes = labels[labels >= 0].unique()
    share = (labels.reshape(-1, 1) == classes).sum(0).double().cpu()
    drawn = torch.multinomial(share, len(known), True, generator=torch.Generator().manual_seed(seed))
    return torch.where(labels >= 0, classes[drawn.to(labels.device)][index], labels)

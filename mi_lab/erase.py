"""Erase a concept: the smallest affine edit after which no linear probe can find it.

    eraser = erase(x, labels)                                     # x [n, d] or [n, pos, d]
    run(model, tokens, edit={"blocks.0.resid_mid": eraser.at([1, 4, 7])})

A probe shows that a concept is there; erasing it and watching the answers shows whether it is used.
LEACE (Belrose et al. 2023): with S the covariance of x, W = S^(-1/2), and U an orthonormal basis of
the columns of W Cov(x, labels),

    x -> x - W^-1 U U' W (x - mean)

makes the covariance with the labels zero, so that the best linear classifier is a constant, and among
all affine maps that do so it moves x least, on average, in the norm of W (and in any other). The control
is `random`: a random subspace of the same rank. A concept may live on non-linearly, and later layers
may read it again from elsewhere: `erase_sites` erases at several places, one after the other.

In closed form here, batched over positions and in float64, and tested against its authors' package
`concept-erasure`, whose last release (January 2024) no longer imports without a deprecation warning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mi_lab import regress
from mi_lab.labels import by_site, class_count, encode, kept, labelled, spread
from mi_lab.model import Transformer
from mi_lab.run import Edit
from mi_lab.sites import Positions, Site, Sites, as_positions, capture, check_sites

FAINT = 1e-10  # of the largest variance: directions below are rounding, not data
Space = Literal["whitened", "data"]


@dataclass(frozen=True, eq=False)
class Eraser:
    """x -> x - left right (x - mean), for one place (S = 1) or S positions; float64.

    mean [S, d], left [S, d, r], right [S, r, d]; rank Int[S], at most r (further columns are zero).
    stats: mean and covariance of the data it was fitted on.
    """

    mean: Tensor
    left: Tensor
    right: Tensor
    rank: Tensor
    stats: regress.Spectrum

    def __call__(self, x: Tensor) -> Tensor:
        """x [.., S, d], or [.., d] if S = 1, with the concept erased; same shape and precision."""
        one = len(self.mean) == 1
        wanted = self.mean.shape[1:] if one else self.mean.shape
        if x.shape[x.ndim - len(wanted) :] != wanted:
            shape = ", ".join(map(str, wanted))
            raise ValueError(f"this eraser is for x of shape [.., {shape}], not {list(x.shape)}")
        rows = x.unsqueeze(-2) if one else x
        mean, left, right = (part.to(x) for part in (self.mean, self.left, self.right))
        inner = torch.einsum("...sd,srd->...sr", rows - mean, right)
        rows = rows - torch.einsum("...sr,sdr->...sd", inner, left)
        return rows.squeeze(-2) if one else rows

    def at(self, positions: Positions = None) -> Callable[[Tensor], Tensor]:
        """As an edit for `run`: at these positions (as many as the eraser has, or any number if one)."""

        def edit(value: Tensor) -> Tensor:
            flat = value.flatten(2)
            index = as_positions("the eraser's", positions, *flat.shape[:2]).to(value.device)
            index = index.expand(len(flat), -1).unsqueeze(-1).expand(-1, -1, flat.shape[-1])
            return flat.scatter(1, index, self(flat.gather(1, index))).view(value.shape)

        return edit

    @property
    def matrix(self) -> Tensor:
        """The linear part [S, d, d] of x -> matrix x + constant."""
        return torch.eye(self.mean.shape[1]).to(self.mean) - self.left @ self.right

    @property
    def removed(self) -> Tensor:
        """Share of the data's variance that the edit moves, E|x - edited|^2 / E|x - mean|^2, [S]."""
        cov = self.stats.vectors * self.stats.values.unsqueeze(1) @ self.stats.vectors.mT
        moved = self.left @ self.right
        return (moved @ cov * moved).sum((1, 2)) / self.stats.values.sum(1).clamp(min=1e-30)

    def random(self, seed: int = 0, space: Space = "whitened") -> Eraser:
        """The control: a random subspace of the same rank, see `random_eraser`."""
        return _random(self.stats, self.rank, space, seed)


def erase(x: Tensor, labels: Tensor, *, keep: Tensor | None = None, pooled: bool = False) -> Eraser:
    """The eraser of a concept from x [n, d] or [n, pos, d]; with positions one each, or (pooled) one for all.

    labels, keep: as for `mi_lab.probe.probe`. n should be several times d: the guarantee is for the examples
    it was fitted on. Raises ValueError for shapes that don't fit, NaN, no labels at some position.

        >>> x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
        >>> labels = (x[:, 0] + x[:, 1] > 0).long()
        >>> eraser = erase(x, labels)
        >>> clean = eraser(x)
        >>> [round(float(clean[labels == k].mean(0).sub(clean.mean(0)).abs().max()), 5) for k in (0, 1)]
        [0.0, 0.0]
    """
    rows = _rows(x, pooled)
    n, positions = x.shape[:2] if x.ndim == 3 else (len(x), 1)
    labels, keep = spread(labels, n, positions).to(x.device), kept(keep, n, positions).to(x.device)
    k, keep = class_count(labels), keep & labelled(labels)
    labels, keep = (t.flatten(0, 1)[None] if pooled else t.transpose(0, 1) for t in (labels, keep))
    if not keep.any(1).all():
        raise ValueError(f"no example has a label at place {int((~keep.any(1)).nonzero()[0])}")
    stats = regress.spectrum(rows, keep)
    cross, _ = regress.covariance_with(rows, encode(labels, k), keep, stats)
    root, inverse = _roots(stats)
    u, strength, _ = torch.linalg.svd(inverse.unsqueeze(-1) * (stats.vectors.mT @ cross), full_matrices=False)
    used = strength > 1e-6  # of at most 1: canonical correlations times a class's standard deviation
    u = (u * used.unsqueeze(1))[..., : max(1, int(used.sum(1).max()))]
    left = stats.vectors @ (root.unsqueeze(-1) * u)
    right = (stats.vectors @ (inverse.unsqueeze(-1) * u)).mT
    return Eraser(stats.mean, left, right, used.sum(1), stats)


def random_eraser(
    x: Tensor, rank: int, *, pooled: bool = False, space: Space = "whitened", seed: int = 0
) -> Eraser:
    """The control of an erasure: a random subspace of x [n, d] or [n, pos, d] of this rank.

    space "whitened": uniform where the covariance is the identity, so that the edit is as large as LEACE's
    of that rank in the norm LEACE minimises, whatever the labels. "data": the span of `rank` draws
    with the data's covariance, orthogonally; it takes the strongest directions, usually much more
    of the variance (`Eraser.removed`) than the first: the harder control.

        >>> x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
        >>> random_eraser(x, 2).rank
        tensor([2])
    """
    rows = _rows(x, pooled)
    stats = regress.spectrum(rows, rows.new_ones(rows.shape[:2], dtype=torch.bool))
    return _random(stats, torch.full((len(rows),), rank), space, seed)


@dataclass(frozen=True, eq=False)
class Erasure:
    """Erasers at several sites of a model; `edit` is for `run`. random: each replaced by its control."""

    sites: dict[str, Site]
    erasers: dict[str, Eraser]

    @property
    def edit(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Activation -> edit; sites that share an activation are erased one after the other."""
        out: dict[str, Callable[[Tensor], Tensor]] = {}
        for name, eraser in self.erasers.items():
            site = self.sites[name]
            step, before = eraser.at(site.positions), out.get(site.activation)
            out[site.activation] = step if before is None else _then(before, step)
        return out

    def random(self, seed: int = 0, space: Space = "whitened") -> Erasure:
        """The control: at every site and position a random subspace of the same rank."""
        drawn = {name: e.random(seed + i, space) for i, (name, e) in enumerate(self.erasers.items())}
        return Erasure(self.sites, drawn)


def erase_sites(
    model: Transformer,
    tokens: Tensor,
    sites: Sites,
    labels: Tensor | Mapping[str, Tensor],
    *,
    keep: Tensor | Mapping[str, Tensor] | None = None,
    pooled: bool = False,
    edit: Edit | None = None,
) -> Erasure:
    """Erasers fitted on the activations at these sites, in the model's order.

    Each site sees the activations that are left by the erasures before it, so that a concept which
    is read anew in a later layer is erased there as it then is. labels, keep: for all sites or by name, as
    for `mi_lab.probe.probe_sites`. edit: other edits, made throughout. Cost: a pass per activation.

        erasure = erase_sites(model, tokens, {"edges": (0, "resid_mid", range(1, 44, 3))}, sources)
        run(model, tokens, edit=erasure.edit), run(model, tokens, edit=erasure.random(seed=1).edit)
    """
    checked = check_sites(model, tokens, sites)
    wanted = by_site(labels, checked, "labels")
    keeps = {} if keep is None else by_site(keep, checked, "keep")
    order = model.activations()
    names = sorted(checked, key=lambda name: order.index(checked[name].activation))
    erasers: dict[str, Eraser] = {}
    for name in names:
        so_far = Erasure(checked, erasers).edit
        if edit and (clash := set(map(str, edit)) & set(so_far)):
            raise ValueError(f"{min(clash)} is both edited and erased")
        both: dict = dict(edit or {})
        both.update(so_far)
        try:
            x = capture(model, tokens, {name: checked[name]}, edit=both or None)[name]
            erasers[name] = erase(x, wanted[name], keep=keeps.get(name), pooled=pooled)
        except ValueError as error:
            raise ValueError(f"site {name!r}: {error}") from error
    return Erasure({name: checked[name] for name in names}, erasers)


def _then(
    first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    return lambda value: second(first(value))


def _rows(x: Tensor, pooled: bool) -> Tensor:
    """[S, n, d] in float64."""
    if x.ndim not in (2, 3) or not x.is_floating_point():
        raise ValueError(f"x must be Float[n, d] or Float[n, pos, d], not {x.dtype} {list(x.shape)}")
    if not x.isfinite().all():
        raise ValueError("x holds NaN or infinite values")
    x = x.double()
    return x.reshape(1, -1, x.shape[-1]) if pooled or x.ndim == 2 else x.transpose(0, 1)


def _roots(stats: regress.Spectrum) -> tuple[Tensor, Tensor]:
    """Standard deviation along each eigenvector and its inverse, both 0 where there is only rounding."""
    live = stats.values > FAINT * stats.values.amax(1, keepdim=True)
    root = stats.values.sqrt() * live
    return root, torch.where(live, 1 / stats.values.clamp(min=1e-300).sqrt(), 0.0)


def _random(stats: regress.Spectrum, rank: Tensor, space: Space, seed: int) -> Eraser:
    if space not in ("whitened", "data"):
        raise ValueError(f"space must be 'whitened' or 'data', not {space!r}")
    root, inverse = _roots(stats)
    room = (root > 0).sum(1)
    if (rank.to(room) > room).any() or (rank < 0).any():
        raise ValueError(
            f"rank must be between 0 and the {int(room.min())} directions of the data, not {rank.tolist()}"
        )
    generator = torch.Generator().manual_seed(seed)
    width = max(1, int(rank.max()))
    drawn = torch.randn(*root.shape, width, generator=generator).to(root)
    drawn = drawn * (root if space == "data" else (root > 0)).unsqueeze(-1)
    u = torch.linalg.qr(drawn).Q * (torch.arange(width).to(rank) < rank.unsqueeze(1)).to(root).unsqueeze(1)
    before, after = (root, inverse) if space == "whitened" else (torch.ones_like(root),) * 2
    left = stats.vectors @ (before.unsqueeze(-1) * u)
    right = (stats.vectors @ (after.unsqueeze(-1) * u)).mT
    return Eraser(stats.mean, left, right, rank, stats)

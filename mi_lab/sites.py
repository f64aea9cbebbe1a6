"""Sites: where in a model to look, and its activations there as arrays.

A site is an activation of one layer at some positions: `(layer, where, positions)`, such as
`(0, "resid_mid", range(1, 44, 3))`. Probes, erasers and lenses all start from

    capture(model, tokens, {"after L0": (0, "resid_post", [47])})["after L0"]   # [n, 1, d_model]

Positions may differ from sequence to sequence (Int[n, p]): "the token of the goal's parent" is a site.
When to use it: for arrays over many sequences. When not: to look at a few, `mi_lab.run.run`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mi_lab.model import Transformer
from mi_lab.run import Edit, resolve, run
from mi_lab.stack import fast_matmul

Positions = int | slice | Iterable[int] | Tensor | None
"""One position, several, all (None), or Int[n, p]: p positions for each of n sequences."""

BATCH = 64  # sequences per forward pass: what they need stays in a CPU's cache


class Site(NamedTuple):
    """An activation at some positions. where: as in `Transformer.activations()`, without "blocks.i.".

    >>> Site(0, "resid_mid", [1, 4]).activation
    'blocks.0.resid_mid'
    """

    layer: int
    where: str
    positions: Positions = None

    @property
    def activation(self) -> str:
        """Its full name."""
        return f"blocks.{self.layer}.{self.where}"


Sites = Mapping[str, Site | tuple[int, str] | tuple[int, str, Positions]]


def residual_sites(model: Transformer, positions: Positions = None) -> dict[str, Site]:
    """The residual stream before the first block and after each: "embed", "L0", "L1", ...

    >>> from mi_lab.model import TransformerConfig
    >>> config = TransformerConfig(n_layers=2, n_heads=1, d_model=8, d_head=4, n_ctx=5, d_vocab=7)
    >>> list(residual_sites(Transformer(config)))
    ['embed', 'L0', 'L1']
    """
    after = {f"L{i}": Site(i, "resid_post", positions) for i in range(model.config.n_layers)}
    return {"embed": Site(0, "resid_pre", positions)} | after


def check_sites(model: Transformer, tokens: Tensor, sites: Sites) -> dict[str, Site]:
    """The sites with their positions as Int[p] or Int[n, p].

    Raises ValueError for none at all, layers, activations and positions that the model or the
    sequences don't have, and activations that are not vectors at positions (scores, patterns).
    """
    model.check_tokens(tokens)
    if not sites:
        raise ValueError("no sites: name at least one, such as {'after L0': (0, 'resid_post', [5])}")
    out = {}
    for name, given in sites.items():
        if not 2 <= len(given) <= 3:
            raise ValueError(f"site {name!r} must be (layer, where, positions), not {given!r}")
        site = Site(given[0], given[1], given[2] if len(given) == 3 else None)
        if not isinstance(site.layer, int) or not 0 <= site.layer < model.config.n_layers:
            raise ValueError(
                f"site {name!r}: the model's layers are 0..{model.config.n_layers - 1}, not {site.layer}"
            )
        if site.where in ("attn.scores", "attn.pattern"):
            raise ValueError(
                f"site {name!r}: {site.where} is no vector at a position; take attn.z or attn.out"
            )
        resolve([site.activation], model.activations())
        out[name] = site._replace(positions=as_positions(f"site {name!r}:", site.positions, *tokens.shape))
    return out


def as_positions(what: str, which: Positions, n: int, n_ctx: int) -> Tensor:
    """Int[p] or Int[n, p]. Raises ValueError, beginning with `what`, for positions outside 0..n_ctx-1."""
    if which is None or isinstance(which, slice):
        index = torch.arange(n_ctx)[which or slice(None)]
    elif isinstance(which, Tensor):
        index = which.long().reshape(1) if which.ndim == 0 else which.long()
    else:
        index = torch.tensor([which] if isinstance(which, int) else list(which), dtype=torch.long)
    if index.ndim == 2 and len(index) != n:
        raise ValueError(f"{what} positions {list(index.shape)} are for {len(index)} sequences, not {n}")
    if index.ndim > 2 or not index.numel():
        raise ValueError(f"{what} positions must be Int[p] or Int[n, p], not {list(index.shape)}")
    if index.min() < 0 or index.max() >= n_ctx:
        bad = int(index.min()) if index.min() < 0 else int(index.max())
        raise ValueError(f"{what} position {bad} is outside 0..{n_ctx - 1}")
    return index


def capture(
    model: Transformer, tokens: Tensor, sites: Sites, *, edit: Edit | None = None, batch: int | None = None
) -> dict[str, Tensor]:
    """Activations at each site: [n, p, d], d = d_model (or n_heads*d_head for q, k, v, z; d_mlp).

    edit: as in `run`, made in every pass. Cost: one forward pass, without an edit only up to the last
    site's layer and position. Memory: n*p*d floats per site; `captures` keeps within a bound.
    """
    checked = check_sites(model, tokens, sites)
    if edit is None:  # nothing above the last layer, nor behind the last position, is looked at
        model = truncated(model, 1 + max(site.layer for site in checked.values()))
        tokens = tokens[:, : 1 + max(int(_index(site).max()) for site in checked.values())]
    if batch is None:
        batch = BATCH if model.device.type == "cpu" else 32 * BATCH
    record = sorted({site.activation for site in checked.values()})
    out: dict[str, Tensor] = {}
    with torch.no_grad(), fast_matmul(model.device):
        for start in range(0, len(tokens), batch):
            rows = tokens[start : start + batch]
            seen = run(model, rows, record=record, edit=edit)
            for name, site in checked.items():
                x = at(seen[site.activation].flatten(2), _rows(_index(site), start, batch))
                if name not in out:
                    out[name] = x.new_empty(len(tokens), *x.shape[1:])
                out[name][start : start + batch] = x
    return out


def captures(
    model: Transformer, tokens: Tensor, sites: Sites, *, edit: Edit | None = None, memory: int = 2**30
) -> Iterator[dict[str, Tensor]]:
    """`capture` of the sites in groups of at most `memory` bytes (a single site may be larger).

    Cost: one forward pass per group; sites of one layer stay together.
    """
    checked = check_sites(model, tokens, sites)
    width = max(model.config.d_model, model.config.n_heads * model.config.d_head, model.config.d_mlp)
    group: dict[str, Site] = {}
    size = 0
    for name, site in sorted(checked.items(), key=lambda item: item[1].layer):
        new = 4 * len(tokens) * _index(site).shape[-1] * width
        if group and size + new > memory:
            yield capture(model, tokens, group, edit=edit)
            group, size = {}, 0
        group[name], size = site, size + new
    yield capture(model, tokens, group, edit=edit)


def _index(site: Site) -> Tensor:
    assert isinstance(site.positions, Tensor)  # after check_sites
    return site.positions


def _rows(positions: Tensor, start: int, batch: int) -> Tensor:
    return positions if positions.ndim == 1 else positions[start : start + batch]


def at(x: Tensor, positions: Tensor) -> Tensor:
    """x [n, pos, d] at positions Int[p] or Int[n, p]: [n, p, d]."""
    positions = positions.to(x.device)
    if positions.ndim == 1:
        return x[:, positions]
    return x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def truncated(model: Transformer, n_layers: int) -> Transformer:
    """The model's first layers; weights are shared, not copied. For passes that need no more of it."""
    if n_layers == model.config.n_layers:
        return model
    short = copy.copy(model)
    short._modules = dict(model._modules)  # a shallow copy would share this table with the model
    short.config = replace(model.config, n_layers=n_layers)
    short.blocks = nn.ModuleList(list(model.blocks)[:n_layers])  # type: ignore[assignment]
    return short


def untrained_twin(model: Transformer, seed: int = 0) -> Transformer:
    """Same shape, device and precision, fresh weights: the control that has learned nothing.

    What can be probed in it needs no training: embeddings are there from the start, and uniform
    attention mixes tokens. Source: pathfinding study, claims P2 and P3.
    """
    twin = Transformer(model.config, generator=torch.Generator().manual_seed(10_000 + seed))
    return twin.to(model.embed.W_E).eval()

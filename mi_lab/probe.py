"""Probes: can a simple classifier read a concept off an activation, and is that news?

    result = probe(x, labels)                              # x [n, d] or [n, pos, d]
    table = probe_sites(model, tokens, {"after L0": (0, "resid_post", [47])}, labels)

Every probe is fitted on some examples and scored on others; scores are pooled over all held-out
rows (a mean of scores per mini-batch is biased: a class may be absent from one). Beside each stands
the same probe on control labels. A probe that succeeds shows that the concept is *there*, never
that the model uses it: an untrained twin's attention mixes tokens too, and a probe reads the mixture.
So: control labels, `untrained_twin`, and then `mi_lab.erase`.

Labels: see `mi_lab.labels`. Source: Alain & Bengio 2017; controls: Hewitt & Liang 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_lab import regress
from mi_lab.labels import by_site, class_count, control_task, encode, kept, labelled, shuffled, spread
from mi_lab.model import Transformer
from mi_lab.probe_result import Kind, ProbeResult, ProbeTable
from mi_lab.run import Edit
from mi_lab.sites import Site, Sites, captures, check_sites, untrained_twin
from mi_lab.stack import fast_matmul

__all__ = ["ProbeResult", "ProbeTable", "control_task", "probe", "probe_sites", "shuffled", "untrained_twin"]

CHUNK_FLOATS = 2**24  # of activations solved in one batch


@dataclass(frozen=True)
class _Options:
    kind: Kind
    control: Literal["shuffled"] | Tensor | None
    penalty: float | None
    intercept: bool
    held_out: float
    seed: int
    hidden: int
    steps: int

    def __post_init__(self) -> None:
        if self.kind not in ("ridge", "logistic", "mlp"):
            raise ValueError(f"kind must be 'ridge', 'logistic' or 'mlp', not {self.kind!r}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be a share between 0 and 1, not {self.held_out}")
        if self.penalty is not None and self.penalty < 0:
            raise ValueError(f"penalty must be at least 0, not {self.penalty}")
        if not self.intercept and self.kind != "ridge":
            raise ValueError("intercept=False is for kind='ridge'")
        if isinstance(self.control, str) and self.control != "shuffled":
            raise ValueError(f"control must be 'shuffled', labels of your own or None, not {self.control!r}")


def probe(
    x: Tensor,
    labels: Tensor,
    *,
    keep: Tensor | None = None,
    kind: Kind = "ridge",
    control: Literal["shuffled"] | Tensor | None = "shuffled",
    penalty: float | None = None,
    intercept: bool = True,
    held_out: float = 0.2,
    seed: int = 0,
    hidden: int = 256,
    steps: int = 1000,
) -> ProbeResult:
    """One probe of x [n, d], or of x [n, pos, d] with all positions pooled.

    labels: Int[n] or Int[n, pos], negative to leave a row out, or Bool with a further axis of yes-no
    questions; without the axis pos they hold at every position. keep: Bool[n] or Bool[n, pos], which
    rows count. kind: "ridge" on one-hot targets (closed form; it seldom says a rare "yes"), "logistic",
    or "mlp" with one layer of `hidden` units, `steps` batches of 256 rows. control: "shuffled" labels
    (among examples, at each position by itself), labels of your own (`control_task`), or None. penalty:
    L2, relative to x's mean variance; None: chosen by cross-validation (ridge), 1e-4 (logistic), weight
    decay 0.01 (mlp). intercept False: a bias-free map (ridge). held_out: share of examples, drawn with
    `seed`, that only score. Raises ValueError for shapes that don't fit, NaN, a single class.

        >>> labels = torch.arange(200) % 4
        >>> x = F.one_hot(labels, 8) + 0.1 * torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> result = probe(x, labels)
        >>> result.f1, result.selectivity > 0.5
        (1.0, True)
    """
    options = _Options(kind, control, penalty, intercept, held_out, seed, hidden, steps)
    x = x.unsqueeze(1) if x.ndim == 2 else x
    if x.ndim != 3 or not x.is_floating_point():
        raise ValueError(f"x must be Float[n, d] or Float[n, pos, d], not {x.dtype} {list(x.shape)}")
    n, positions = x.shape[:2]
    labels, keep = spread(labels, n, positions), kept(keep, n, positions)
    if isinstance(control, Tensor):
        options = replace(options, control=spread(control, n, positions, "control").unsqueeze(0))
    return _fit(x.unsqueeze(0), labels.unsqueeze(0), keep.unsqueeze(0), options)[0]


def probe_sites(
    model: Transformer,
    tokens: Tensor,
    sites: Sites,
    labels: Tensor | Mapping[str, Tensor],
    *,
    keep: Tensor | Mapping[str, Tensor] | None = None,
    pooled: bool = False,
    edit: Edit | None = None,
    normalise: bool = False,
    memory: int = 2**30,
    **options: Any,
) -> ProbeTable:
    """A probe for each site and position, or (`pooled`) one per site for all its positions.

    sites: name -> (layer, where, positions), see `mi_lab.sites`. labels: as for `probe`, the same for
    all sites or by name. edit: made in every forward pass. normalise: LayerNorm without its affine part
    before the probe. memory: bytes of activations held at once; more sites, more passes. options: those
    of `probe`. Cost, d = 128, 5,000 sequences, one core: one pass, and 12 ms per ridge probe with control.

        >>> from mi_lab.model import TransformerConfig
        >>> config = TransformerConfig(n_layers=2, n_heads=1, d_model=8, d_head=4, n_ctx=5, d_vocab=7)
        >>> tokens = torch.randint(7, (300, 5), generator=torch.Generator().manual_seed(0))
        >>> sites = {"here": (0, "resid_pre", [3]), "next": (0, "resid_pre", [4])}
        >>> print(probe_sites(Transformer(config), tokens, sites, tokens[:, 3], control=None))
        here, position 3: F1 1.000
        next, position 4: F1 0.026
    """
    chosen = _Options(**(_DEFAULTS | options))
    checked = check_sites(model, tokens, sites)
    own = by_site(labels, checked, "labels")
    keeps = {} if keep is None else by_site(keep, checked, "keep")
    shuffle = chosen.control is None or isinstance(chosen.control, str)
    controls = {} if shuffle else by_site(cast(Tensor, chosen.control), checked, "control")
    results: dict[str, tuple[ProbeResult, ...]] = {}
    for group in captures(model, tokens, checked, edit=edit, memory=memory):
        for name, x in group.items():
            n, positions = x.shape[:2]
            x = normalised(x, model.config.eps) if normalise else x
            try:
                given, rows = spread(own[name], n, positions), kept(keeps.get(name), n, positions)
                how = chosen
                if name in controls:
                    control = _stacked(spread(controls[name], n, positions, "control"), pooled)
                    how = replace(chosen, control=control)
                stack = [_stacked(part, pooled) for part in (x, given, rows)]
                results[name] = _fit(stack[0], stack[1], stack[2], how)
            except ValueError as error:
                raise ValueError(f"site {name!r}: {error}") from error
    places = {name: _places(site, pooled) for name, site in checked.items()}
    return ProbeTable({name: results[name] for name in checked}, places)


_DEFAULTS = {name: value for name, value in (probe.__kwdefaults__ or {}).items() if name != "keep"}


def normalised(x: Tensor, eps: float) -> Tensor:
    """LayerNorm without its affine part, over the last axis."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def _stacked(x: Tensor, pooled: bool) -> Tensor:
    """[n, pos, ..] -> [S, n, p, ..]: one data set, or one for each position."""
    return x.unsqueeze(0) if pooled else x.transpose(0, 1).unsqueeze(2)


def _places(site: Site, pooled: bool) -> tuple[int | None, ...]:
    """The position of each probe; None if it has no single one."""
    index = cast(Tensor, site.positions)
    if pooled:
        return (None,)
    return (None,) * index.shape[1] if index.ndim == 2 else tuple(index.tolist())


@torch.no_grad()
def _fit(x: Tensor, labels: Tensor, keep: Tensor, o: _Options) -> tuple[ProbeResult, ...]:
    """One probe for each of S data sets: x [S, n, p, d], labels and keep [S, n, p, ..]; the split is by n."""
    labels, n, multi = labels.to(x.device), x.shape[1], labels.dtype == torch.bool
    keep = keep.to(x.device) & labelled(labels)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(o.seed)).to(x.device)
    n_held = max(1, round(o.held_out * n))
    held, train = order[:n_held].sort().values, order[n_held:].sort().values
    if len(train) < 2:
        raise ValueError(f"{n} examples are too few to hold {o.held_out:.0%} of them out")
    for what, rows in (("train on", train), ("hold out", held)):
        if not keep[:, rows].flatten(1).any(1).all():
            raise ValueError(
                f"of {n} examples, none to {what} has a label (negative labels and keep leave some out)"
            )
    if not multi and min(len(a[k].unique()) for a, k in zip(labels, keep)) < 2:
        raise ValueError(f"all labels are {int(labels[keep][0])}: nothing to tell apart")
    tasks = [labels] if o.control is None else [labels, _control(labels, keep, o)]
    sizes = [class_count(task) for task in tasks]
    out: list[ProbeResult] = []
    for part in torch.arange(len(x)).split(max(1, CHUNK_FLOATS // x[0].numel())):
        rows = x[part][:, train].flatten(1, 2).double()  # faint directions count: see regress
        if not rows.isfinite().all():
            raise ValueError("x holds NaN or infinite values")
        kept, scored = keep[part][:, train].flatten(1), keep[part][:, held]
        s = regress.spectrum(rows, kept, centre=o.intercept)  # one for the task and its control
        targets = [encode(task[part][:, train].flatten(1, 2), k) for task, k in zip(tasks, sizes)]
        with fast_matmul(x.device):
            maps = [_solve(rows, y, kept, s, o, multi) for y in targets]
        says = [found(x[part][:, held].flatten(1, 2)) for found in maps]
        for i, which in enumerate(scored):  # [held, p]
            results = [
                ProbeResult(
                    kind=o.kind,
                    predicted=_decide(say[i][which.flatten()], o.kind, multi),
                    truth=task[part[i]][held][which],
                    example=held.unsqueeze(1).expand(which.shape)[which],
                    n_classes=k,
                    n_train=int(kept[i].sum()),
                    map=found.row(i),
                )
                for task, k, found, say in zip(tasks, sizes, maps, says)
            ]
            out.append(replace(results[0], control=results[1] if len(results) > 1 else None))
    return tuple(out)


def _control(labels: Tensor, keep: Tensor, o: _Options) -> Tensor:
    if not isinstance(o.control, Tensor):
        return shuffled(labels, keep, torch.Generator().manual_seed(o.seed + 1))
    own = o.control.to(labels.device)
    if own.shape != labels.shape or (keep & ~labelled(own)).any():
        raise ValueError("control labels must have the labels' shape, and be there wherever those are")
    return own


def _solve(
    x: Tensor, y: Tensor, keep: Tensor, s: regress.Spectrum, o: _Options, multi: bool
) -> regress.Linear | regress.Hidden:
    if o.kind == "ridge":
        return regress.ridge(x, y, keep, s, o.penalty, o.intercept)
    if o.kind == "logistic":
        penalty = 1e-4 if o.penalty is None else o.penalty
        return regress.logistic(x, y, keep, s, penalty, multi=multi, steps=100)
    penalty = 0.01 if o.penalty is None else o.penalty
    generator = torch.Generator().manual_seed(o.seed)
    return regress.mlp(
        x, y, keep, s, penalty, multi=multi, hidden=o.hidden, steps=o.steps, generator=generator
    )


def _decide(scores: Tensor, kind: Kind, multi: bool) -> Tensor:
    return scores > (0.5 if kind == "ridge" else 0.0) if multi else scores.argmax(-1)

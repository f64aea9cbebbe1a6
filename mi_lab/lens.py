"""Lenses: what the residual stream would say if the model ended here, and who wrote it.

- `logit_lens`: final LayerNorm and unembedding, on any residual vector (nostalgebraist 2020).
- `tuned_lens`: one affine map per layer, from the normalised residual to the model's own final logits
  (Belrose et al. 2023, who minimise the KL divergence by SGD; here least squares, in closed form).
- `label_lens`: one map per layer to labels of yours, such as the next node of a path.
- `attribute_logits`: direct logit attribution: every logit as a sum over embeddings, heads, MLPs and
  biases, with the final LayerNorm's scale frozen. `attribute_keys` divides a head's part by source position.

A lens is a probe: what it shows is there, and aligned with the output, but need not be used. An
attribution counts the direct path only: a head that works through later layers shows nothing here.
Compare with the untrained twin and with shuffled labels; decide by ablation and scrubbing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_lab import regress
from mi_lab.circuits import head_outputs
from mi_lab.model import LayerNorm, Transformer
from mi_lab.probe import ProbeTable, normalised, probe_sites
from mi_lab.run import Node, run
from mi_lab.sites import Positions, Site, as_positions, at, capture, captures, check_sites, residual_sites
from mi_lab.stack import fast_matmul


@torch.no_grad()
def logit_lens(model: Transformer, resid: Tensor) -> Tensor:
    """Logits [.., vocab] of any residual vectors [.., d_model], as if the model ended with them.

    On the last layer's resid_post these are the model's logits.

        >>> from mi_lab.model import TransformerConfig
        >>> config = TransformerConfig(n_layers=2, n_heads=1, d_model=8, d_head=4, n_ctx=5, d_vocab=7)
        >>> logit_lens(Transformer(config), torch.zeros(3, 8)).shape
        torch.Size([3, 7])
    """
    if resid.shape[-1] != model.config.d_model:
        raise ValueError(
            f"residual vectors have d_model = {model.config.d_model} entries, not {resid.shape[-1]}"
        )
    return model.ln_final(resid) @ model.unembed.W_U + model.unembed.b_U


@dataclass(frozen=True, eq=False)
class Lens:
    """One map per site from the normalised residual to k outputs.

    sites: name -> site it was fitted on. map: the S maps. held_out: name of a measure -> [S], on examples
    that were not fitted on. eps: of the LayerNorm, None for a model without. probes: for a lens on
    labels, with intervals and control labels.
    """

    sites: dict[str, Site]
    map: regress.Linear
    held_out: dict[str, Tensor]
    eps: float | None
    probes: ProbeTable | None = None

    def __call__(self, resid: Tensor, site: str) -> Tensor:
        """Outputs [.., k] of residual vectors [.., d_model] through the map of this site."""
        if site not in self.sites:
            raise ValueError(f"{site!r} is no site of this lens; sites: {', '.join(self.sites)}")
        one = self.map.row(list(self.sites).index(site))
        x = resid if self.eps is None else normalised(resid, self.eps)
        return one(x.reshape(1, -1, x.shape[-1])).view(*x.shape[:-1], -1)

    def read(self, model: Transformer, tokens: Tensor, positions: Positions = None) -> Tensor:
        """Outputs [site, n, pos, k] of a run; positions default to those it was fitted on."""
        moved = {
            n: s if positions is None else s._replace(positions=positions) for n, s in self.sites.items()
        }
        return torch.stack([self(x, name) for name, x in capture(model, tokens, moved).items()])


@torch.no_grad()
def tuned_lens(
    model: Transformer,
    tokens: Tensor,
    positions: Positions = None,
    *,
    held_out: float = 0.2,
    penalty: float | None = None,
    seed: int = 0,
    memory: int = 2**30,
) -> Lens:
    """The affine map of each layer's normalised residual that comes nearest to the final logits.

    positions: fitted and measured there, pooled. held_out: share of sequences, drawn with `seed`, that
    only measure: "kl", nats from the model's output distribution to the lens's; "agreement", how often
    the argmax is the model's; "r2" of the logits about their mean; and "logit_kl", "logit_agreement" of
    the logit lens beside them. penalty: as in `mi_lab.probe.probe`. Error: the last layer's map is exact.

        >>> from mi_lab.model import TransformerConfig
        >>> config = TransformerConfig(n_layers=2, n_heads=1, d_model=8, d_head=4, n_ctx=5, d_vocab=7)
        >>> tokens = torch.randint(7, (300, 5), generator=torch.Generator().manual_seed(0))
        >>> lens = tuned_lens(Transformer(config), tokens)
        >>> list(lens.sites), round(float(lens.held_out["r2"][-1]), 4)
        (['embed', 'L0', 'L1'], 1.0)
    """
    sites = check_sites(model, tokens, residual_sites(model, positions))
    last = f"L{model.config.n_layers - 1}"
    final = logit_lens(model, capture(model, tokens, {last: sites[last]})[last])
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed)).to(final.device)
    n_held = max(1, round(held_out * len(order)))
    held, train = order[:n_held], order[n_held:]
    if not 0 < held_out < 1 or len(train) < 2:
        raise ValueError(f"{len(tokens)} sequences can't be divided with held_out = {held_out}")
    y = final[train].flatten(0, 1).double().unsqueeze(0)
    keep = torch.ones_like(y[..., 0], dtype=torch.bool)
    maps, measured, eps = {}, {}, _eps(model)
    for group in captures(model, tokens, sites, memory=memory):
        for name, resid in group.items():
            x = resid if eps is None else normalised(resid, eps)
            rows = x[train].flatten(0, 1).double().unsqueeze(0)
            maps[name] = regress.ridge(rows, y, keep, regress.spectrum(rows, keep), penalty, True)
            says = maps[name](x[held].flatten(0, 1).unsqueeze(0)).view(final[held].shape)
            plain = _nearness(logit_lens(model, resid[held]), final[held])
            measured[name] = _nearness(says, final[held]) | {
                f"logit_{k}": v for k, v in plain.items() if k != "r2"
            }
    stacked = regress.Linear(*(torch.cat(parts) for parts in zip(*(maps[name] for name in sites))))
    table = {key: torch.tensor([measured[name][key] for name in sites]) for key in measured[last]}
    return Lens(sites, stacked, table, eps)


def _eps(model: Transformer) -> float | None:
    return None if model.config.norm is None else model.config.eps


def _nearness(says: Tensor, final: Tensor) -> dict[str, float]:
    """How near logits are to the model's own."""
    ours, models = says.log_softmax(-1), final.log_softmax(-1)
    spread = (final - final.flatten(0, -2).mean(0)).square().sum()
    return {
        "kl": float((models.exp() * (models - ours)).sum(-1).mean()),
        "agreement": float((says.argmax(-1) == final.argmax(-1)).double().mean()),
        "r2": float(1 - (says - final).square().sum() / spread),
    }


def label_lens(
    model: Transformer,
    tokens: Tensor,
    labels: Tensor,
    positions: Positions = None,
    *,
    intercept: bool = False,
    **options: Any,
) -> Lens:
    """A linear map of each layer's normalised residual to one-hot labels, bias-free unless `intercept`.

    labels Int[n] or Int[n, pos], negative to leave out; positions are pooled. held_out: "f1" (macro) and
    "accuracy"; `probes` has intervals and control labels. options: those of `mi_lab.probe.probe_sites`.
    Source: pathfinding study, claim P6 (scored there on the examples it was fitted on; here on others).

        lens = label_lens(model, tokens, variables["correct"], range(47, 63))
        lens.read(model, tokens, [47]).argmax(-1)     # [layer, n, 1]: the node each layer has in mind
    """
    sites, eps = check_sites(model, tokens, residual_sites(model, positions)), _eps(model)
    options |= {"pooled": True, "normalise": eps is not None, "intercept": intercept}
    table = probe_sites(model, tokens, sites, labels, **options)
    maps = [table[name].map for name in sites]
    if not all(isinstance(one, regress.Linear) for one in maps):
        raise ValueError("a lens is linear: kind must be 'ridge' or 'logistic', not 'mlp'")
    stacked = regress.Linear(*(torch.cat(parts) for parts in zip(*maps)))
    held_out = {"f1": table.grid("f1")[:, 0], "accuracy": table.grid("accuracy")[:, 0]}
    return Lens(sites, stacked, held_out, eps, table)


class Attribution(NamedTuple):
    """Logits as a sum: value [part, n, pos, output], parts named "embed", "pos_embed", "L0H0", .., "L0 b_O",
    "L0MLP", .., "bias"; their sum over parts is the logits."""

    parts: tuple[str, ...]
    value: Tensor

    def of(self, part: str | Node) -> Tensor:
        """What one part adds to the logits [n, pos, output]."""
        if str(part) not in self.parts:
            raise ValueError(f"{str(part)!r} is no part of the logits; parts: {', '.join(self.parts)}")
        return self.value[self.parts.index(str(part))]


@torch.no_grad()
def attribute_logits(
    model: Transformer, tokens: Tensor, positions: Positions = None, *, outputs: list[int] | None = None
) -> Attribution:
    """What every part of the model writes into the logits at these positions, on the direct path.

    The final LayerNorm is linear once its scale is held at what it was: each part is centred, divided
    by that scale and unembedded; the LayerNorm's and unembedding's biases are "bias". outputs: which
    tokens' logits; default all. Error: sums to the logits up to rounding (1e-4, tested).
    Memory: parts * n * pos * outputs floats.

        >>> from mi_lab.model import TransformerConfig
        >>> config = TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, n_ctx=5, d_vocab=7)
        >>> attribution = attribute_logits(Transformer(config), torch.zeros(3, 5, dtype=torch.long), [4])
        >>> attribution.value.shape, attribution.parts[2:]
        (torch.Size([6, 3, 1, 7]), ('L0H0', 'L0H1', 'L0 b_O', 'bias'))
    """
    config = model.config
    index = as_positions("attribute_logits:", positions, *tokens.shape)
    record = ["embed", "pos_embed", "blocks.*.attn.z", f"blocks.{config.n_layers - 1}.resid_post"]
    with fast_matmul(model.device):
        out = run(model, tokens, record=[*record, "blocks.*.mlp.out"] if config.d_mlp else record)
    to_logits = _direct_path(model, at(out[record[-1]], index), outputs)
    parts = {name: to_logits(at(out[name], index)) for name in record[:2]}
    for layer, block in enumerate(model.blocks):
        z = at(out[f"blocks.{layer}.attn.z"].flatten(2), index).unflatten(2, (config.n_heads, config.d_head))
        for head, written in enumerate(head_outputs(model, z, layer).unbind(2)):
            parts[f"L{layer}H{head}"] = to_logits(written)
        parts[f"L{layer} b_O"] = to_logits(block.attn.b_O.expand(*z.shape[:2], -1))
        if config.d_mlp:
            parts[f"L{layer}MLP"] = to_logits(at(out[f"blocks.{layer}.mlp.out"], index))
    parts["bias"] = _logit_bias(model, outputs).expand_as(parts["embed"])
    return Attribution(tuple(parts), torch.stack(list(parts.values())))


@torch.no_grad()
def attribute_keys(
    model: Transformer,
    tokens: Tensor,
    layer: int,
    query: int,
    *,
    outputs: list[int] | None = None,
    clip: float | None = None,
) -> Tensor:
    """What a layer's heads hand from each position to the logits at one position: [n, head, key, output].

    pattern[query, key] * v[key] W_O, on the direct path as in `attribute_logits`; the sum over keys is
    the head's part there. clip: attention above this counts as this, so that one strongly attended
    position doesn't drown the others (pathfinding study, claim P12: 0.07).

        >>> from mi_lab.model import TransformerConfig
        >>> config = TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, n_ctx=5, d_vocab=7)
        >>> attribute_keys(Transformer(config), torch.zeros(3, 5, dtype=torch.long), 0, query=3).shape
        torch.Size([3, 2, 4, 7])
    """
    checked = check_sites(model, tokens, {"query": (layer, "resid_post", [query])})["query"]
    if clip is not None and not 0 < clip <= 1:
        raise ValueError(f"clip must be an attention between 0 and 1, not {clip}")
    last = f"blocks.{model.config.n_layers - 1}.resid_post"
    names = [f"blocks.{layer}.attn.{x}" for x in ("pattern", "v")]
    with fast_matmul(model.device):
        out = run(model, tokens, record=[*names, last])
    assert isinstance(checked.positions, Tensor)
    to_logits = _direct_path(model, at(out[last], checked.positions), outputs)
    pattern, v = out[names[0]][:, :, query, : query + 1], out[names[1]][:, : query + 1]
    weight = pattern if clip is None else pattern.clamp(max=clip)
    written = head_outputs(model, v * weight.permute(0, 2, 1).unsqueeze(-1), layer)  # [n, key, head, d_model]
    return to_logits(written.flatten(1, 2)).unflatten(1, written.shape[1:3]).transpose(1, 2)


def _direct_path(
    model: Transformer, final_resid: Tensor, outputs: list[int] | None
) -> Callable[[Tensor], Tensor]:
    """The linear map from what is written [n, pos, d_model] to logits, at LayerNorm's actual scale."""
    W = _picked(model, outputs)
    if not isinstance(model.ln_final, LayerNorm):
        return lambda written: written @ W
    centred = final_resid - final_resid.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + model.ln_final.eps).sqrt()
    W = model.ln_final.w.unsqueeze(1) * W
    return lambda written: (written - written.mean(-1, keepdim=True)) @ W / scale


def _logit_bias(model: Transformer, outputs: list[int] | None) -> Tensor:
    b = model.unembed.b_U if outputs is None else model.unembed.b_U[outputs]
    return b + model.ln_final.b @ _picked(model, outputs) if isinstance(model.ln_final, LayerNorm) else b


def _picked(model: Transformer, outputs: list[int] | None) -> Tensor:
    for token in outputs or ():
        if not 0 <= token < model.config.vocab_out:
            raise ValueError(f"output {token} is outside 0..{model.config.vocab_out - 1}")
    return model.unembed.W_U if outputs is None else model.unembed.W_U[:, outputs]

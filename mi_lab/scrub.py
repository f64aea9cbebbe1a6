"""Resampling tests: if a hypothesis says what a component's output depends on, nothing else matters.

A hypothesis such as "at the root, layer 2 writes something that depends only on the goal's
grandparent" makes a prediction: put in its place what layer 2 writes on *another* question with
the same grandparent (the donor), and the answer must not change. Causal scrubbing (Chan et al.
2022) is this test. It needs its own control: a *random* donor must do harm, or the component isn't
used at all and the test is empty.

    pool = remember(model, pool_tokens, swaps, answer=answer)           # one pass over the donors
    donor = match(key_of_question, key_of_pool, generator=generator)     # the rule: same key
    scrub(model, tokens, pool, donor, swaps, answer=answer).logits       # [n, answer, vocab]

A `Swap` is what is replaced: the attention, MLP or residual stream of a layer at some positions;
`keep` leaves the share that comes from some keys as it is (the register hypotheses). Several swaps
are replaced in one run, each from the same donor. Only positions from the first swap on are
computed again, on keys and values kept from the clean pass: exact, and 10-40 times as fast as a
forward pass per hypothesis.

When not to use it: to find out *which* node matters, sweep first (`mi_lab.ablate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mi_lab.fast import fast_matmul
from mi_lab.forward import Params, causal_mask, heads, mlp_block, project, unembed
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.stack import Stack

Part = Literal["attn", "mlp", "resid"]


@dataclass(frozen=True)
class Swap:
    """What is replaced: `part` of `layer` at `positions`.

    part: "attn", what all heads read (z, before W_O); "mlp", what the MLP adds; "resid", the whole
    residual stream behind the layer. keep (attention only): keys whose share stays the run's own.
    renormalise: kept and donated scores share one softmax; False adds the two parts with the
    weights that each had in its own run, which need not sum to 1.
    """

    layer: int
    positions: tuple[int, ...]
    part: Part = "attn"
    keep: tuple[int, ...] = ()
    renormalise: bool = True

    def check(self, config: TransformerConfig, stop: int) -> None:
        """Raise ValueError if a model of this shape, reading `stop` tokens, has no such swap."""
        if not 0 <= self.layer < config.n_layers:
            raise ValueError(f"a swap in layer {self.layer}: the model's layers are 0..{config.n_layers - 1}")
        if self.part not in ("attn", "mlp", "resid"):
            raise ValueError(f"part must be 'attn', 'mlp' or 'resid', not {self.part!r}")
        if self.part == "mlp" and not config.d_mlp:
            raise ValueError("a swap in an MLP, but the model has none")
        if self.keep and self.part != "attn":
            raise ValueError(f"keep is a choice of keys, for part='attn', not for {self.part!r}")
        if not self.positions:
            raise ValueError("a swap needs at least one position")
        for name, values in (("position", self.positions), ("kept key", self.keep)):
            for p in values:
                if not 0 <= p < stop:
                    raise ValueError(f"{name} {p} is outside 0..{stop - 1}, what is read for this answer")


class Donation(NamedTuple):
    """What one swap holds in every donor's run. value [donor, position, d]; for attention, where value is
    [donor, position, head, d_head] from the keys that are not kept: mass, the share of the softmax it
    stands for, and log_z, the log of the softmax's denominator [donor, position, head]."""

    value: Tensor
    mass: Tensor
    log_z: Tensor


class Pool(NamedTuple):
    """Donors, remembered at `swaps`: one `Donation` each."""

    swaps: tuple[Swap, ...]
    donations: tuple[Donation, ...]

    def __len__(self) -> int:
        return len(self.donations[0].value)


class Scrubbed(NamedTuple):
    """Logits [n, answer, vocab] of the run with donated values and of the clean one."""

    logits: Tensor
    clean: Tensor


def match(
    key: Tensor, pool_key: Tensor, *, generator: torch.Generator, avoid: Tensor | None = None
) -> Tensor:
    """Int[n]: for each question a uniformly drawn donor with an equal key, -1 where the pool has none.

    key Int[n], pool_key Int[m]: several variables make one key as a mixed-radix number. avoid Int[n]: a
    donor that may not be drawn (the question itself, if it stands in the pool); -1 forbids nothing.
    """
    if key.ndim != 1 or pool_key.ndim != 1:
        raise ValueError(
            f"keys must be one number per question, not {list(key.shape)}, {list(pool_key.shape)}"
        )
    key, pool_key = key.contiguous(), pool_key.contiguous()  # a column of tokens isn't
    order = pool_key.argsort(stable=True)
    ordered = pool_key[order]
    low, high = torch.searchsorted(ordered, key), torch.searchsorted(ordered, key, right=True)
    count = high - low
    place = torch.full_like(low, -1)
    if avoid is not None:  # step over the forbidden place
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=order.device)
        place = torch.where(avoid >= 0, inverse[avoid.clamp(min=0)], -1)
        inside = (place >= low) & (place < high)
        place = torch.where(inside, place, -1)
        count = count - inside.long()
    uniform = torch.rand(len(key), generator=generator, device=generator.device).to(key.device)
    pick = low + torch.minimum((uniform * count).long(), count - 1)
    pick = pick + ((place >= 0) & (pick >= place)).long()
    return torch.where(count > 0, order[pick.clamp(0, max(len(order) - 1, 0))], -1)


@torch.no_grad()
def remember(
    model: Transformer, tokens: Tensor, swaps: Sequence[Swap], *, answer: slice, chunk: int = 256
) -> Pool:
    """Run the donors once and keep what the swaps need.

    Raises ValueError for a swap outside the model or behind the answer.
    """
    model.check_tokens(tokens)
    _, stop, _ = answer.indices(tokens.shape[1])
    for swap in swaps:
        swap.check(model.config, stop)
    if not swaps:
        raise ValueError("remember needs at least one swap")
    parts: list[list[Donation]] = [[] for _ in swaps]
    with fast_matmul(model.device):
        params = Stack.from_models([model]).params(0)
        for rows in tokens[:, :stop].split(chunk):
            clean = _clean_run(params, model.config, rows)
            for found, swap in zip(parts, swaps, strict=True):
                found.append(_donation(clean, swap))
    return Pool(tuple(swaps), tuple(Donation(*(torch.cat(x) for x in zip(*found))) for found in parts))


@torch.no_grad()
def scrub(
    model: Transformer,
    tokens: Tensor,
    pool: Pool,
    donor: Tensor,
    swaps: Sequence[Swap] | None = None,
    *,
    answer: slice,
    chunk: int = 256,
) -> Scrubbed:
    """Logits with the swaps' values taken from each question's donor.

    tokens Int[n, pos]; donor Int[n]: index into the pool, as `match` gives it (raises ValueError for
    -1: leave such questions out first), or Int[n, positions] if the positions of the swaps come from
    different donors. swaps: some of the pool's, default all, replaced together.
    Error: exact, equal to `run` with the same edits to 1e-5 (tested).
    """
    return scrub_all(
        model, tokens, pool, [(donor, pool.swaps if swaps is None else swaps)], answer=answer, chunk=chunk
    )[0]


@torch.no_grad()
def scrub_all(
    model: Transformer,
    tokens: Tensor,
    pool: Pool,
    hypotheses: Sequence[tuple[Tensor, Sequence[Swap]]],
    *,
    answer: slice,
    chunk: int = 256,
) -> list[Scrubbed]:
    """`scrub` for several (donor, swaps) at once: one clean pass serves all of them."""
    model.check_tokens(tokens)
    first, stop, _ = answer.indices(tokens.shape[1])
    for donor, swaps in hypotheses:
        _check(tokens, pool, donor, swaps)
    with fast_matmul(model.device):
        params = Stack.from_models([model]).params(0)
        outputs: list[list[Tensor]] = [[] for _ in hypotheses]
        cleans = []
        for start in range(0, len(tokens), chunk):
            clean = _clean_run(params, model.config, tokens[start : start + chunk, :stop])
            cleans.append(unembed(clean.resid[-1][:, first:], params, model.config))
            for out, (donor, swaps) in zip(outputs, hypotheses, strict=True):
                given = {swap: _given(pool, swap, donor[start : start + chunk]) for swap in swaps}
                out.append(_edited_run(params, model.config, clean, given, cleans[-1], first))
    whole = torch.cat(cleans)
    return [Scrubbed(torch.cat(out), whole) for out in outputs]


def _check(tokens: Tensor, pool: Pool, donor: Tensor, swaps: Sequence[Swap]) -> None:
    widths = {(len(tokens), len(swap.positions)) for swap in swaps}
    if donor.shape != (len(tokens),) and widths != {tuple(donor.shape)}:
        raise ValueError(
            f"donor must be one index for each of {len(tokens)} questions (or one for each of them and "
            f"each position of the swaps), not {list(donor.shape)}"
        )
    if donor.numel() and (int(donor.min()) < 0 or int(donor.max()) >= len(pool)):
        bad = int(((donor < 0) | (donor >= len(pool))).view(len(tokens), -1).any(1).nonzero()[0])
        raise ValueError(f"question {bad} has donor {donor[bad].tolist()}; the pool has 0..{len(pool) - 1}")
    if not swaps:
        raise ValueError("scrub needs at least one swap")
    places = [(swap.layer, swap.part) for swap in swaps]
    if len(set(places)) < len(places):
        raise ValueError("two swaps of one layer and part: name their positions in one swap")
    for swap in swaps:
        if swap not in pool.swaps:
            raise ValueError(f"{swap} was not remembered; the pool has {len(pool.swaps)} other swaps")


def _given(pool: Pool, swap: Swap, donor: Tensor) -> Donation:
    """The donations of a swap for these donors, [n] or [n, position]."""
    found = pool.donations[pool.swaps.index(swap)]
    if donor.ndim == 1:
        return Donation(*(x[donor] for x in found))
    places = torch.arange(donor.shape[1], device=donor.device)
    return Donation(*(x[donor, places] for x in found))


class _Run(NamedTuple):
    """Of every layer: q, k, v [n, head, pos, d_head], resid_pre .. (one more), mlp's part."""

    qkv: list[tuple[Tensor, Tensor, Tensor]]
    resid: list[Tensor]
    mlp: list[Tensor]


def _clean_run(params: Params, config: TransformerConfig, tokens: Tensor) -> _Run:
    resid = params["W_E"][tokens.long()] + params["W_pos"][: tokens.shape[1]]
    run = _Run([], [resid], [])
    for layer in range(config.n_layers):
        q, k, v = heads(resid, params, layer, config)
        z = _mix(_scores(q, k, 0), v)[0]
        mid = resid + project(z.transpose(1, 2).flatten(2), params, f"{layer}.W_O", f"{layer}.b_O")
        resid = mlp_block(mid, params, layer, config)
        run.qkv.append((q, k, v))
        run.mlp.append(resid - mid)
        run.resid.append(resid)
    return run


def _edited_run(
    params: Params,
    config: TransformerConfig,
    clean: _Run,
    given: dict[Swap, Donation],
    logits: Tensor,
    first: int,
) -> Tensor:
    """Logits at the answer positions with the donations in place; computed from the first change on."""
    begin = min(min(swap.positions) for swap in given)
    lowest = min(swap.layer for swap in given)
    resid = clean.resid[lowest][:, begin:]
    for layer in range(lowest, config.n_layers):
        here = {swap.part: (swap, value) for swap, value in given.items() if swap.layer == layer}
        q, k, v = heads(resid, params, layer, config)
        k = torch.cat([clean.qkv[layer][1][:, :, :begin], k], 2)
        v = torch.cat([clean.qkv[layer][2][:, :, :begin], v], 2)
        scores = _scores(q, k, begin)
        z = _mix(scores, v)[0]
        if "attn" in here:
            swap, donation = here["attn"]
            rows = [p - begin for p in swap.positions]
            z[:, :, rows] = _joined(scores[:, :, rows], v, swap, donation)
        mid = resid + project(z.transpose(1, 2).flatten(2), params, f"{layer}.W_O", f"{layer}.b_O")
        resid = mlp_block(mid, params, layer, config)
        for part in ("mlp", "resid"):
            if part in here:
                swap, donation = here[part]
                rows = [p - begin for p in swap.positions]
                resid = resid.clone()
                resid[:, rows] = donation.value + (mid[:, rows] if part == "mlp" else 0)
    if begin <= first:
        return unembed(resid[:, first - begin :], params, config)
    return torch.cat([logits[:, : begin - first], unembed(resid, params, config)], 1)


def _scores(q: Tensor, k: Tensor, begin: int) -> Tensor:
    """[n, head, query, key]; queries stand at positions begin, begin + 1, .."""
    mask = causal_mask(q.shape[-2], k.shape[-2], begin, q.device, q.dtype)
    return (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + mask


def _mix(scores: Tensor, v: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """z from these keys only (Bool[key]; None: all), their share of the softmax, the log of its denominator."""
    log_z = scores.logsumexp(-1)
    pattern = (scores - log_z.unsqueeze(-1)).exp()
    if keys is not None:
        pattern = pattern * keys
    return pattern @ v, pattern.sum(-1), log_z


def _kept(swap: Swap, keys: int, device: torch.device) -> Tensor:
    kept = torch.zeros(keys, dtype=torch.bool, device=device)
    kept[list(swap.keep)] = True
    return kept


def _donation(clean: _Run, swap: Swap) -> Donation:
    positions = list(swap.positions)
    if swap.part != "attn":
        value = clean.mlp[swap.layer] if swap.part == "mlp" else clean.resid[swap.layer + 1]
        nothing = value.new_zeros(len(value), len(positions))
        return Donation(value[:, positions], nothing, nothing)
    q, k, v = clean.qkv[swap.layer]
    scores = _scores(q, k, 0)[:, :, positions]
    z, mass, log_z = _mix(scores, v, ~_kept(swap, k.shape[2], k.device))
    return Donation(*(x.transpose(1, 2) for x in (z, mass, log_z)))


def _joined(scores: Tensor, v: Tensor, swap: Swap, donation: Donation) -> Tensor:
    """z [n, head, position, d_head]: the donor's share and the run's own share from the kept keys."""
    given, mass, log_z = (x.transpose(1, 2) for x in donation)
    if not swap.keep:
        return given
    own, own_mass, own_log_z = _mix(scores, v, _kept(swap, v.shape[2], v.device))
    if not swap.renormalise:
        return given + own
    # both in units of the larger denominator
    top = torch.maximum(log_z, own_log_z)
    a, b = (log_z - top).exp(), (own_log_z - top).exp()
    total = (mass * a + own_mass * b).clamp(min=1e-30)
    return (given * a.unsqueeze(-1) + own * b.unsqueeze(-1)) / total.unsqueeze(-1)

"""Start a model from an addition model: what the authors copied, what they left out, and the controls.

The authors (code of `ins1`) copy the donor's layers into the target's first layers and first heads:
queries, keys and values, MLPs, the first LayerNorm of each block, the scale of the last one, and
embedding, positions and unembedding. Not copied, whether meant so or not, are W_O and b_O, the second
LayerNorm, the last one's bias and b_U: inserted heads write through a random W_O, so that the
addition circuit is *not* whole at step 0. `PARTS` names this choice and two that copy more.

`ins2` and `ins3` put heads, or heads and MLPs, back every 100 steps. Controls: `shuffled` (the entries
of each tensor in random order: same norms, no circuit), `permuted` (heads and neurons renumbered:
same function) and any other donor, e.g. a subtraction model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mi_lab import zoo
from mi_lab.model import Transformer
from mi_lab.publish import finished
from mi_lab.train import Recipe, fit

HEADS = ("attn.W_Q", "attn.W_K", "attn.W_V", "attn.b_Q", "attn.b_K", "attn.b_V")
MLPS = ("mlp.W_in", "mlp.b_in", "mlp.W_out", "mlp.b_out")
EMBEDDINGS = ("embed.W_E", "pos_embed.W_pos", "unembed.W_U")
AS_CODED = (*HEADS, *MLPS, "ln1.w", "ln1.b", "ln_final.w", *EMBEDDINGS)
WITH_OUTPUT = (*AS_CODED, "attn.W_O", "attn.b_O")
PARTS: dict[str, tuple[str, ...]] = {
    "as_coded": AS_CODED,
    "with_output": WITH_OUTPUT,
    "whole": (*WITH_OUTPUT, "ln2.w", "ln2.b", "ln_final.b", "unembed.b_U"),
    "heads": HEADS,  # what ins2 puts back
    "heads_and_mlps": (*HEADS, *MLPS),  # what ins3 puts back
}
Part = Literal["as_coded", "with_output", "whole", "heads", "heads_and_mlps"]
Variant = Literal["true", "shuffled", "permuted"]


@torch.no_grad()
def transplant(
    target: Transformer,
    donor: Transformer,
    *,
    parts: Part = "as_coded",
    into: Literal["first", "last"] = "first",
    only: Sequence[tuple[int, int]] | None = None,
) -> None:
    """Overwrite parts of `target` with `donor`'s, layer i into layer i; nothing else changes.

    parts: a key of `PARTS`. into: the target's first heads (ins1) or last ones (ins2 as published).
    only: (layer, head) pairs of the donor to copy; the others stay out. None copies all heads.
    Raises ValueError if the donor is wider, deeper or has more heads than the target, or reads another task.
    """
    _check(target, donor, parts)
    mine, theirs = dict(target.named_parameters()), dict(donor.named_parameters())
    heads = donor.config.n_heads
    offset = 0 if into == "first" else target.config.n_heads - heads
    for name in PARTS[parts]:
        if name in theirs:
            mine[name].copy_(theirs[name])
            continue
        for layer in range(donor.config.n_layers):
            full = f"blocks.{layer}.{name}"
            if not name.startswith("attn.") or name == "attn.b_O":  # no head axis
                mine[full].copy_(theirs[full])
                continue
            for head in range(heads):
                if only is None or (layer, head) in only:
                    mine[full][offset + head] = theirs[full][head]


def _check(target: Transformer, donor: Transformer, parts: str) -> None:
    if parts not in PARTS:
        raise ValueError(f"parts must be one of {', '.join(PARTS)}, not {parts!r}")
    new, old = target.config, donor.config
    for field in ("d_model", "d_head", "d_mlp", "n_ctx", "d_vocab", "norm", "act"):
        if getattr(new, field) != getattr(old, field):
            raise ValueError(f"the donor has {field} {getattr(old, field)}, the model {getattr(new, field)}")
    for field in ("n_layers", "n_heads"):
        if getattr(new, field) < getattr(old, field):
            raise ValueError(
                f"the donor has {field} {getattr(old, field)}, the model only {getattr(new, field)}"
            )


@torch.no_grad()
def shuffled(donor: Transformer, generator: torch.Generator) -> Transformer:
    """A copy whose tensors have their entries in random order: the same values and norms, no circuit."""
    out = _copy(donor)
    for parameter in out.parameters():
        order = torch.randperm(parameter.numel(), generator=generator)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return out


@torch.no_grad()
def permuted(donor: Transformer, generator: torch.Generator) -> Transformer:
    """A copy with heads and MLP neurons renumbered in every layer: the same function, other places."""
    out = _copy(donor)
    for block in out.blocks:
        heads = torch.randperm(donor.config.n_heads, generator=generator)
        for name in ("W_Q", "W_K", "W_V", "b_Q", "b_K", "b_V", "W_O"):
            parameter: Tensor = getattr(block.attn, name)
            parameter.copy_(parameter[heads])
        if block.has_mlp:
            neurons = torch.randperm(donor.config.d_mlp, generator=generator)
            block.mlp.W_in.copy_(block.mlp.W_in[:, neurons])
            block.mlp.b_in.copy_(block.mlp.b_in[neurons])
            block.mlp.W_out.copy_(block.mlp.W_out[neurons])
    return out


def _copy(model: Transformer) -> Transformer:
    out = Transformer(model.config).to(model.device)
    out.load_state_dict(model.state_dict())
    return out.eval()


def _published(recipe: Recipe, seed: int) -> Transformer | None:
    """The published model of this seed, None if there is none by this version of the recipe."""
    name = f"arithmetic/{recipe.name}"
    if name not in zoo.files():
        return None
    found = zoo.read(name)
    same = seed in found.labels and found.provenance.get("digest") == recipe.digest
    return found.model(seed) if same else None


@dataclass(frozen=True)
class FromDonor:
    """How a recipe's models start: from the model of the same seed of another recipe.

    donor: its recipe. Its model is taken from the run's folder; from the published weights (in fp16), if this
    very recipe and seed is published; or trained first. parts: what is copied before the first step. again,
    every: what is put back every so many steps (ins2, ins3), if anything.
    variant: the donor itself or a control made of it.
    """

    donor: Recipe
    parts: Part = "as_coded"
    again: Part | None = None
    every: int | None = None
    variant: Variant = "true"

    def __post_init__(self) -> None:
        if (self.again is None) != (self.every is None):
            raise ValueError(f"again and every belong together, not {self.again!r} and {self.every!r}")
        if self.variant not in ("true", "shuffled", "permuted"):
            raise ValueError(f"variant must be 'true', 'shuffled' or 'permuted', not {self.variant!r}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, the donor as name and digest."""
        kept = {"parts": self.parts, "again": self.again, "every": self.every, "variant": self.variant}
        return {"donor": self.donor.name, "digest": self.donor.digest, **kept}

    def model(self, seed: int, out: Path | str | None = None) -> Transformer:
        """The donor of this seed, from its run in `out`, published, or trained now, as the variant says."""
        donor = None if out and seed in finished(Path(out), self.donor) else _published(self.donor, seed)
        if donor is None:
            donor = fit(self.donor, seeds=(seed,), out=out, progress=False).model().cpu()
        if self.variant == "true":
            return donor
        generator = torch.Generator().manual_seed(0xD0_0000 + seed)
        return (shuffled if self.variant == "shuffled" else permuted)(donor, generator)

    def apply(self, model: Transformer, donor: Transformer, *, step: int) -> None:
        """Copy what is due at this step: `parts` at 0, `again` later."""
        parts = self.parts if step == 0 else self.again
        if parts is not None:
            transplant(model, donor, parts=parts)

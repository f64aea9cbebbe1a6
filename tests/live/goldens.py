"""Golden cases from torch for the engine's tests, in Node and in Chromium.

python -m tests.live.goldens DIR writes them, for `MI_LAB_GOLDEN=DIR node --test tests/live/`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from mi_lab import zoo
from mi_lab.ablate import mean_values
from mi_lab.live import export
from mi_lab.model import Transformer, TransformerConfig
from tests.live import arithmetic_goldens

SORTING = TransformerConfig(n_layers=1, n_heads=2, d_model=96, d_head=48, n_ctx=21, d_vocab=52)
ARITHMETIC = TransformerConfig(
    n_layers=2, n_heads=3, d_model=96, d_head=32, d_mlp=384, n_ctx=19, d_vocab=15, act="relu"
)
PATHFINDING = TransformerConfig(
    n_layers=6, n_heads=1, d_model=128, d_head=128, d_mlp=512, n_ctx=65, d_vocab=35, act="gelu"
)
# Sizes that no kernel likes: every remainder loop has something to do.
ODD = TransformerConfig(
    n_layers=2,
    n_heads=3,
    d_model=7,
    d_head=5,
    d_mlp=9,
    n_ctx=6,
    d_vocab=11,
    d_vocab_out=3,
    act="gelu",
    norm=None,
)
ODD_ATTENTION = TransformerConfig(n_layers=3, n_heads=2, d_model=10, d_head=3, n_ctx=9, d_vocab=4, norm=None)
SHAPES = {
    "arithmetic": ARITHMETIC,
    "pathfinding": PATHFINDING,
    "odd": ODD,
    "odd_attention": ODD_ATTENTION,
}


def random_model(config: TransformerConfig, seed: int = 0) -> Transformer:
    """A model in which everything matters: biases, LayerNorm weights, patterns far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config, generator=generator)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            leaf = name.rsplit(".", 1)[-1]
            if leaf == "W_Q":
                weight.mul_(3)
            elif not leaf.startswith("W_"):
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model


def edits_for(config: TransformerConfig, tokens: torch.Tensor) -> dict[str, list[dict[str, Any]]]:
    """Every kind of edit; `tokens` is the other run."""
    n, last, donor = config.n_ctx, config.n_layers - 1, {"run": tokens.tolist()}
    head = config.n_heads - 1
    numbers = [round(0.1 * i - 0.3, 3) for i in range(config.d_head)]
    z = f"blocks.{last}.attn.z"
    out = {
        "head off": [{"node": f"L{last}H{head}", "value": 0}],
        "head off at one position": [{"node": f"P{n // 2}L0H0", "value": 0}],
        "head at its mean": [{"node": f"L0H{head}", "value": "mean"}],
        "head set": [{"node": f"P{n - 2}L{last}H0", "value": numbers}],
        "heads set": [{"activation": z, "positions": [1, n - 1], "heads": [0], "value": numbers * 2}],
        "every head set": [
            {"activation": z, "value": [x / 7 for x in range(config.n_heads * config.d_head)]}
        ],
        "head patched": [{"node": "L0H0", "value": donor}],
        "head patched from an edited run": [
            {
                "node": "L0H0",
                "value": {**donor, "edits": [{"activation": "embed", "positions": [1], "value": 0}]},
            }
        ],
        "token's embedding off": [{"activation": "embed", "positions": [2], "value": 0}],
        "positions off": [{"activation": "pos_embed", "positions": [1, 2, 3], "value": 0}],
        "residual patched": [{"activation": f"blocks.{last}.resid_pre", "positions": [3, 4], "value": donor}],
        "residual mid off": [{"activation": "blocks.0.resid_mid", "positions": [n - 1], "value": 0}],
        "residual post off": [{"activation": "blocks.0.resid_post", "positions": [0], "value": 0.5}],
        "attention off": [{"activation": "blocks.0.attn.out", "value": 0}],
        "keys patched": [{"activation": f"blocks.{last}.attn.k", "heads": [0], "value": donor}],
        "queries patched": [
            {"activation": "blocks.0.attn.q", "heads": [head], "positions": [4], "value": donor}
        ],
        "values off": [{"activation": "blocks.0.attn.v", "positions": [0, 2], "value": 0}],
        "pattern patched": [{"activation": "blocks.0.attn.pattern", "heads": [head], "value": donor}],
        "pattern uniform": [
            {"activation": f"blocks.{last}.attn.pattern", "positions": [n - 1], "value": 1 / n}
        ],
        "final off": [{"activation": "ln_final", "positions": [n - 1], "value": 0}],
        "knock-out": [{"knockOut": {"layer": 0, "queries": [3, n - 1], "keys": [0, 2], "heads": [0]}}],
        "knock-out of itself": [{"knockOut": {"layer": last, "queries": [n - 1], "keys": [n - 1]}}],
        "knock-out, lost": [
            {"knockOut": {"layer": last, "queries": list(range(n)), "keys": [0], "renormalise": False}}
        ],
        "several": [
            {"knockOut": {"layer": 0, "queries": [n - 1], "keys": [1]}},
            {"node": f"L{last}H0", "value": 0},
            {"node": f"P{n - 1}L{last}H0", "value": "mean"},
            {"knockOut": {"layer": last, "queries": [n - 2], "keys": [1], "renormalise": False}},
        ],
    }
    if config.d_mlp:
        out |= {
            "MLP off": [{"node": "L0MLP", "value": 0}],
            "MLP mean at one position": [{"node": f"P{n - 1}L{last}MLP", "value": "mean"}],
            "MLP patched": [{"node": f"P2L{last}MLP", "value": donor}],
            "MLP's write off": [{"activation": f"blocks.{last}.mlp.out", "value": 0}],
        }
    return out


def cases(name: str) -> dict[str, Any]:
    """The golden cases of one model."""
    model = random_model(SHAPES[name]) if name in SHAPES else zoo.load(PUBLISHED[name])
    config = model.config
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(config.d_vocab, (40, config.n_ctx), generator=generator)
    means = mean_values(export.as_stored(model), tokens)
    leaves = ["resid_pre", "attn.q", "attn.pattern", "attn.z", "attn.out", "resid_mid", "resid_post"]
    leaves += ["mlp.post", "mlp.out"] if config.d_mlp else []
    record = ["embed", "pos_embed", "ln_final", *(f"blocks.{config.n_layers - 1}.{leaf}" for leaf in leaves)]
    found = export.golden(model, tokens[:1], edits_for(config, tokens[3]), means=means, record=record)
    plain = export.golden(model, tokens[1:3], means=means)  # further questions
    rounding = max(found["rounding"], plain["rounding"])
    return found | {"cases": found["cases"] + plain["cases"], "rounding": rounding}


# Published models, as far as this checkout has them.
PUBLISHED = {
    name.replace("/", "_"): name
    for name in ("sorting/paper", "arithmetic/add_d6_l2_h3", "pathfinding/paper")
    if name in zoo.names()
}
NAMES = (*PUBLISHED, *SHAPES)


def gelu_table() -> dict[str, list[float]]:
    """GELU from torch in double precision."""
    x = torch.cat([torch.linspace(-9, 9, 5001, dtype=torch.float64), torch.randn(2000).double() * 2]).float()
    return {"x": x.tolist(), "gelu": torch.nn.functional.gelu(x.double()).tolist()}


def write(folder: Path) -> None:
    """All of them, as JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / f"{name}.json").write_text(json.dumps(cases(name)))
    arithmetic_goldens.write(folder / arithmetic_goldens.FILE)
    (folder / "gelu.table").write_text(json.dumps(gelu_table()))


if __name__ == "__main__":
    write(Path(sys.argv[1]))

"""Copy-suppression in GPT-2 small, the paper's link to large models. Optional: needs the weights.

GPT-2's head 10.7 attends to an earlier token that the model is about to predict and writes against
it (McDougall et al. 2023, arXiv 2310.04625). The weights say it without any text: push each
token's embedding through the first MLP, then through the head's OV and the unembedding; in a
copy-suppressing head a token's own output lies near the bottom of its row, in a copying head near
the top. Not verified in this repository's tests, which have no weights to load: the function is
tested on small models only.
"""

from __future__ import annotations

from typing import Any

import torch

HEAD = (10, 7)


@torch.no_grad()
def self_rank(model: Any, layer: int, head: int, tokens: torch.Tensor) -> float:
    """Median rank fraction of each token's own logit in its OV row: 0 is the bottom, 1 the top.

    model: a TransformerBridge (or anything with its weight properties and blocks). tokens Int[n].
    """
    embed = model.W_E[tokens]
    block = model.blocks[0]
    embed = embed + block.mlp(block.ln2(embed)[None])[0]  # GPT-2 ties W_E and W_U: MLP 0 unties them
    rows = embed @ model.W_V[layer, head] @ model.W_O[layer, head] @ model.W_U
    own = rows.gather(1, tokens[:, None])
    return float((rows < own).float().mean(1).median())


def copy_suppression(*, download: bool = False, n: int = 2000) -> str:
    """One line: where 10.7 puts a token's own logit, beside all heads of its layer; or why it could not tell.

    download: allow fetching GPT-2 small (about 500 MB) from the Hugging Face hub.
    """
    if not download:
        return (
            "GPT-2 was not loaded. With a network: copy_suppression(download=True), about 500 MB, a minute."
        )
    try:
        from transformer_lens.model_bridge import TransformerBridge

        model = TransformerBridge.boot_transformers("gpt2")
    except Exception as error:
        return f"GPT-2 could not be loaded here ({type(error).__name__}); the rest of the page does without."
    layer, head = HEAD
    tokens = torch.arange(1000, 1000 + n)
    ranks = [self_rank(model, layer, h, tokens) for h in range(model.cfg.n_heads)]
    others = sorted(r for h, r in enumerate(ranks) if h != head)
    return (
        f"Head {layer}.{head}: the median token's own logit lies at the {ranks[head]:.1%} point of its row; "
        f"the other heads of layer {layer} lie between {others[0]:.1%} and {others[-1]:.1%}."
    )

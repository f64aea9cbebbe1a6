"""A transformer that adds, written down by hand: every tag of its circuit is known before it is looked for.

Head 0 looks at both digits of the column whose answer is due and writes their sum into one direction; head
i at those of the column i below. The MLP of layer 0 reads the sums below as one number in base 10,
t = 10^(L-1) s_{k-1} + .. + s_{k-L}, and fires if t >= 10^L: that is the carry out of column k - 1 as far as
L columns tell, since no column below can lift a sum of 8 over the next place. Layer 1 adds the carry and
shows the last digit of the total. With L = 2 this is the look-back-2 algorithm, with L = digits it is exact.

    model = hand_made_adder(ArithmeticTask(3), look_back=3)

It is no model of what training finds; it is there to try tools on (`explain`, `routes`, the tests).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mi_lab.model import Transformer, TransformerConfig
from mi_lab.studies.arithmetic.task import PLUS, ArithmeticTask

SHARP = 200.0  # attention scores: what is looked at gets all of it


@torch.no_grad()
def hand_made_adder(task: ArithmeticTask, look_back: int = 2) -> Transformer:
    """Two layers, `look_back` + 1 heads, no LayerNorm; exact up to cascades longer than `look_back`.

    Raises ValueError for a task that subtracts, and beyond 5 columns (32-bit numbers).
    """
    if task.operations != "+":
        raise ValueError(f"the hand-made model only adds, this task has {task.operations!r}")
    if not 1 <= look_back <= 5:
        raise ValueError(f"look_back must be between 1 and 5, not {look_back}")
    n, length, heads = task.digits, task.n_ctx, look_back + 1
    value, position = 0, 1  # the residual stream: value of a digit, one-hot position,
    sums = position + length  # sums s_k .. s_{k-L}, the carry, logits
    carry, logit = sums + heads, sums + heads + 1
    config = TransformerConfig(
        n_layers=2, n_heads=heads, d_model=logit + len(task.vocab), d_head=length, d_mlp=60,
        n_ctx=length, d_vocab=len(task.vocab), norm=None, act="relu",
    )  # fmt: skip
    model = Transformer(config)
    for parameter in model.parameters():
        parameter.zero_()
    model.embed.W_E[:10, value] = torch.arange(10.0)
    model.pos_embed.W_pos[:, position : position + length] = torch.eye(length)
    attn = model.blocks[0].attn
    scale = SHARP * length**0.5
    for head in range(heads):
        attn.W_K[head, position : position + length] = torch.eye(length)
        for k in range(n + 1):
            query = position + task.position(f"A{k}") - 1
            column = k - head
            there = 0 <= column < n
            for key in (f"D{column}", f"D'{column}") if there else ("OPR", "="):  # worth 0
                attn.W_Q[head, query, task.position(key)] = scale
        attn.W_V[head, value, 0] = 2.0  # attention halves the sum of two digits
        attn.W_O[head, 0, sums + head] = 1.0
    first, last = (block.mlp for block in model.blocks)
    places = 10.0 ** torch.arange(look_back - 1, -1, -1)
    first.W_in[sums + 1 : sums + heads, :2] = places[:, None].expand(-1, 2)
    first.b_in[:2] = torch.tensor([1.0, 0.0]) - 10.0**look_back  # fires from 10^L on, by one
    _write(first.W_out, torch.tensor([1.0, -1.0]), carry)
    total = torch.arange(20.0)  # s_k + carry, each total by a peak of three ramps
    last.W_in[[sums, carry]] = 1.0
    last.b_in.copy_((torch.tensor([[1.0], [0.0], [-1.0]]) - total).flatten())
    for m in range(20):
        for row, weight in ((m, 1.0), (20 + m, -2.0), (40 + m, 1.0)):
            last.W_out[row, logit + m % 10] = 20.0 * weight
    model.unembed.W_U[logit:] = torch.eye(len(task.vocab))
    model.unembed.W_U[position + task.position("="), PLUS] = 1000.0
    return model.eval().requires_grad_(False)


def _write(weight: Tensor, ramps: Tensor, to: int) -> None:
    weight[: len(ramps), to] = ramps

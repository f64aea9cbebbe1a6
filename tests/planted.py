"""A hand-made model with a planted circuit, so that every circuit tool has a known right answer.

Task: copy three digits, `^ x0 x1 x2 = y0 y1 y2` with y = x, digits 0..4, two attention-only layers of
three heads without LayerNorm. The residual stream has room for [token, position, register, output];
heads see positions and move one-hot digits. Positions 4 ("=") to 6 predict y0, y1, y2:

    y0   P4L0H0 looks at P1 and writes to the output
    y1   P5L0H0 and P5L0H2 both look at P2 and write to the output: each is enough
    y2   P4L0H1 looks at P3 and keeps it in the register at P4; P6L1H0 looks at P4 and writes it out

Everything else looks at "^", where there is nothing to move. A digit's logit is 10 per copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mi_lab.model import Transformer, TransformerConfig
from mi_lab.run import Node
from mi_lab.studies import base
from mi_lab.subtask import SubTask

DIGITS, EQUALS, START = 5, 5, 6
CIRCUIT = tuple(map(Node.parse, ("P4L0H0", "P4L0H1", "P5L0H0", "P5L0H2", "P6L1H0")))
TWINS = (Node(0, 0, 5), Node(0, 2, 5))
#       layer, head, query position -> key position, write to
WIRES = (
    (0, 0, {4: 1, 5: 2}, "output"),
    (0, 1, {4: 3}, "register"),
    (0, 2, {5: 2}, "output"),
    (1, 0, {6: 4}, "register to output"),
)


@dataclass(frozen=True)
class CopyTask:
    """^ x0 x1 x2 = x0 x1 x2."""

    vocab: tuple[str, ...] = (*"01234", "=", "^")
    n_ctx: int = 8

    @property
    def answer(self) -> slice:
        return slice(4, 7)

    def sample(self, n: int, *, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        x = torch.randint(DIGITS, (n, 3), generator=generator)
        return torch.cat([torch.full((n, 1), START), x, torch.full((n, 1), EQUALS), x], 1)

    def encode(self, text: str) -> Tensor:
        return torch.tensor([self.vocab.index(c) for c in text])

    def decode(self, tokens: Tensor) -> str:
        return "".join(self.vocab[t] for t in tokens.tolist())

    def solve(self, tokens: Tensor) -> Tensor:
        return torch.cat([tokens[:, :5], tokens[:, 1:4]], 1)

    def variables(self, tokens: Tensor) -> dict[str, Tensor]:
        x = tokens[:, 1:4]
        return {"x": x, "first": x[:, 0], "big": torch.where(x[:, 0] > 2, x[:, 0], -1)}

    def weights(self, tokens: Tensor) -> None:
        return

    def grade(self, model: Transformer, tokens: Tensor, *, free_running: bool = True) -> Tensor:
        return base.grade(model, self, tokens, free_running=free_running)


@torch.no_grad()
def planted() -> Transformer:
    """The model of this module's text."""
    config = TransformerConfig(
        n_layers=2, n_heads=3, d_model=7 + 8 + 5 + 5, d_head=13, n_ctx=8, d_vocab=7, norm=None
    )
    token, position, register, output = 0, 7, 15, 20
    model = Transformer(config)
    for parameter in model.parameters():
        parameter.zero_()
    model.embed.W_E[:, :7] = torch.eye(7)
    model.pos_embed.W_pos[:, position : position + 8] = torch.eye(8)
    for layer, head, looks, what in WIRES:
        attn = model.blocks[layer].attn
        for query in range(8):  # a dimension for each key position
            key = looks.get(query, 0)
            attn.W_Q[head, position + query, key] = 1000.0
            attn.W_K[head, position + key, key] = 1.0
        source = register if what == "register to output" else token
        target = register if what == "register" else output
        digits = torch.arange(DIGITS)
        attn.W_V[head, source + digits, 8 + digits] = 1.0
        attn.W_O[head, 8 + digits, target + digits] = 1.0
    model.unembed.W_U[output : output + DIGITS, :DIGITS] = 10.0 * torch.eye(DIGITS)
    model.unembed.b_U[EQUALS:] = -100.0
    return model.eval().requires_grad_(False)


def copies(index: int, operand: int | None = None) -> SubTask:
    """COPY_i: y_i is x_i; taken from the store it changes answer token i, and nothing else."""
    task = CopyTask()

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return task.sample(n, generator=generator), task.sample(n, generator=generator)

    def predict(clean: Tensor, store: Tensor) -> Tensor:
        answer = base.targets(task, clean).clone()
        answer[:, index] = store[:, 1 + index]
        return answer

    return SubTask("COPY", draw, predict, task, index=index, operands=() if operand is None else (operand,))

"""Transformers written down by hand: every weight is known, so every tool has a right answer.

One model, `repeater`, in several states. It reads `^ b d a f b d a f` (a start token, four different
letters, the same four again) and predicts the repetition. Three layers of two heads, no MLP; the
residual stream has a room for each thing that is written into it:

    token     which token stands here                   W_E
    position  where                                     W_pos
    previous  which letter stands before                L0H0
    note      is the first letter one of a, b, c?       L0H1; read by nothing
    always    1                                         L0H1; a constant that later layers may count on
    output    which letter comes next                   L1H0, L2H0, L2H1; what the unembedding reads

    L0H0 previous     looks one back, writes that letter into "previous"
    L0H1 first        looks at the first letter, writes "note" and "always"
    L1H0 match        looks where "previous" is the current letter, copies the letter there to "output"
    L1H1 lookalike    looks where L1H0 looks and writes nothing (or, with `volume`, into "note")
    L2H0 backup       does what L1H0 does, but rests while "output" is taken
    L2H1 suppressor   looks at the letter that "output" holds and writes against it

A head with nothing to look for rests at "^", whose output is zero. Each head's work is a table: whom it
scores (`qk`) and what it writes (`ov`), one weight a cell, so that a single cell can be changed.

    model, task = repeater(), RepeatTask()
    task.grade(model, task.every())                     # all 360 sequences, all right
    repeater(cells={"L1H0.ov.b.c": 12.0})               # where L1H0 reads b it writes c as well

When to use it: to see a tool be right, and wrong, before it is used on a model that nobody understands
(positive control). When not: as a picture of what training finds. Chapter: The toolbox.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mi_lab.model import Transformer, TransformerConfig
from mi_lab.run import Node
from mi_lab.studies import base

LETTERS = tuple("abcdef")
START = len(LETTERS)
EARLY = 3  # a, b, c are early letters
N_CTX = 9
HEADS = {
    "previous": Node(0, 0),
    "first": Node(0, 1),
    "match": Node(1, 0),
    "lookalike": Node(1, 1),
    "backup": Node(2, 0),
    "suppressor": Node(2, 1),
}
REST = 15.0  # score of "^" for a head with nothing to look for
FULL = 12.0  # what "output" holds when a letter is written at the usual strength
GATE = 30.0  # by how much a full "output" raises the backup's score of "^"
SILENT = -20.0  # logit of "^", which is never written

TOKEN, POSITION, PREVIOUS, OUTPUT = slice(0, 7), slice(7, 16), slice(16, 22), slice(22, 28)
ALWAYS, NOTE, BALANCE = 28, 29, 30
_LETTER = slice(0, 6)  # of TOKEN
_REST_DIM, _ALWAYS_DIM = 6, 8  # of a head


@dataclass(frozen=True)
class RepeatTask:
    """^ x1 x2 x3 x4 x1 x2 x3 x4, the x different letters of a..f; x2, x3, x4 are to be predicted."""

    @property
    def vocab(self) -> tuple[str, ...]:
        """The letters, then the start token."""
        return (*LETTERS, "^")

    @property
    def n_ctx(self) -> int:
        """9."""
        return N_CTX

    @property
    def answer(self) -> slice:
        """From the first repeated letter to the last but one."""
        return slice(5, 8)

    def complete(self, letters: Tensor) -> Tensor:
        """Int[n, 9] from the first four letters Int[n, 4]."""
        return torch.cat([torch.full_like(letters[:, :1], START), letters, letters], 1)

    def every(self) -> Tensor:
        """Int[360, 9]: all sequences there are."""
        return _every().clone()

    def sample(self, n: int, *, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Int[n, 9]: sequences with the right answer."""
        order = torch.rand(n, len(LETTERS), generator=generator, device=device).argsort(1)
        return self.complete(order[:, :4])

    def encode(self, text: str) -> Tensor:
        """Int[9] from "bdaf"; a leading "^" and what follows the four letters are ignored."""
        letters = read(text)[1:5].tolist()
        if len(letters) < 4 or len(set(letters)) < 4:
            raise ValueError(f"a question is four different letters such as 'bdaf', not {text!r}")
        return self.complete(torch.tensor([letters]))[0]

    def decode(self, tokens: Tensor) -> str:
        """The text of one sequence."""
        return "".join(self.vocab[token] for token in tokens.tolist())

    def solve(self, tokens: Tensor) -> Tensor:
        """The same questions with the right answer."""
        return self.complete(tokens[:, 1:5])

    def weights(self, tokens: Tensor) -> None:
        """Every answer token counts the same."""

    def variables(self, tokens: Tensor) -> dict[str, Tensor]:
        """target [n, 3]; previous [n, 9]: the letter before each token, -1 where there is none; early
        [n]: 1 if the first letter is a, b or c; source [n, 3]: the position that holds the answer."""
        before = torch.full_like(tokens, -1)
        before[:, 2:] = tokens[:, 1:-1]
        return {
            "target": tokens[:, 2:5],
            "previous": before,
            "early": (tokens[:, 1] < EARLY).long(),
            "source": torch.arange(2, 5, device=tokens.device).expand(len(tokens), 3),
        }

    def grade(self, model: Transformer, tokens: Tensor, *, free_running: bool = True) -> Tensor:
        """Bool[n]: is the whole answer right?"""
        return base.grade(model, self, tokens, free_running=free_running)


@functools.cache
def _every() -> Tensor:
    return RepeatTask().complete(torch.tensor(list(itertools.permutations(range(len(LETTERS)), 4))))


def read(text: str) -> Tensor:
    """Int[pos]: any letters a..f, at most eight, behind "^". Blanks, commas and a leading "^" are ignored.

    >>> read("b d a b").tolist()
    [6, 1, 3, 0, 1]
    """
    words = [c for c in text.replace(",", " ").strip().removeprefix("^") if not c.isspace()]
    for word in words:
        if word not in LETTERS:
            raise ValueError(f"{word!r} is not one of the letters a to f")
    if not 1 <= len(words) < N_CTX:
        raise ValueError(f"the model reads 1 to {N_CTX - 1} letters, not {len(words)}")
    return torch.tensor([START, *map(LETTERS.index, words)])


# ---- tables ---------------------------------------------------------------------------------------

Kind = Literal["qk", "ov"]


class Table(NamedTuple):
    """Where a head's table stands in the weights. rows, columns: their names. layer, name, head: the
    tensor. corner: row and column of the first cell in it. scale: weight of a cell of 1."""

    node: Node
    kind: Kind
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    corner: tuple[int, int]
    scale: float

    @property
    def key(self) -> str:
        """Such as "L1H0.ov"."""
        return f"{self.node}.{self.kind}"

    def block(self, model: Transformer) -> Tensor:
        """The cells [row, column] inside the weights, as a view, times `scale`."""
        attn = model.blocks[self.node.layer].attn
        weight = (attn.W_Q if self.kind == "qk" else attn.W_O)[self.node.head]
        (i, j), n, m = self.corner, len(self.rows), len(self.columns)
        return weight[i : i + n, j : j + m]

    def values(self, model: Transformer) -> Tensor:
        """The cells [row, column]. Units: qk attention scores (of the suppressor: at a full output); ov
        what a letter adds to the room written to, for "output" logits."""
        return self.block(model).detach() / self.scale


def _tables() -> dict[str, Table]:
    positions = tuple(map(str, range(N_CTX)))
    root = 3.0  # of d_head: scores are divided by it
    reads = {"previous": POSITION, "first": POSITION, "suppressor": OUTPUT}
    writes = {"previous": PREVIOUS.start, "first": NOTE}
    found = []
    for name, node in HEADS.items():
        room = reads.get(name, TOKEN)
        names = positions if room == POSITION else LETTERS
        scale = root / FULL if name == "suppressor" else root
        found.append(Table(node, "qk", names, names, (room.start, 0), scale))
        columns = ("note",) if name == "first" else LETTERS
        found.append(Table(node, "ov", LETTERS, columns, (0, writes.get(name, OUTPUT.start)), 1.0))
    return {table.key: table for table in found}


TABLES: dict[str, Table] = _tables()
"""Every head's two tables, by key: "L1H0.qk", "L1H0.ov", .."""


def patterns() -> dict[str, tuple[str, Tensor]]:
    """Table key -> (strength, pattern): a table as it begins is its strength times its pattern."""
    one = torch.eye(len(LETTERS))
    back = torch.zeros(N_CTX, N_CTX)
    back[range(1, N_CTX), range(N_CTX - 1)] = 1.0
    first = torch.zeros(N_CTX, N_CTX)
    first[1:, 1] = 1.0
    early = torch.where(torch.arange(len(LETTERS)) < EARLY, 1.0, -1.0)[:, None]
    return {
        "L0H0.qk": ("seek", back), "L0H0.ov": ("one", one),
        "L0H1.qk": ("seek", first), "L0H1.ov": ("note", early),
        "L1H0.qk": ("seek", one), "L1H0.ov": ("copy", one),
        "L1H1.qk": ("seek", one), "L1H1.ov": ("copy", 0 * one),
        "L2H0.qk": ("seek", one), "L2H0.ov": ("backup", one),
        "L2H1.qk": ("seek", one), "L2H1.ov": ("suppress", -one),
    }  # fmt: skip


def parse_cell(name: str) -> tuple[Table, int, int]:
    """The table, row and column of a cell such as "L1H0.ov.b.c". Raises ValueError that says what is wrong.

    >>> table, row, column = parse_cell("L0H0.qk.5.3")
    >>> table.key, row, column
    ('L0H0.qk', 5, 3)
    """
    parts = name.split(".")
    if len(parts) != 4 or ".".join(parts[:2]) not in TABLES:
        raise ValueError(f"a cell is named as in L1H0.ov.b.c (head, qk or ov, row, column), not {name!r}")
    table = TABLES[".".join(parts[:2])]
    for what, word, names in (("row", parts[2], table.rows), ("column", parts[3], table.columns)):
        if word not in names:
            raise ValueError(
                f"cell {name!r}: {table.key} has the {what}s {', '.join(names)}, there is no {word!r}"
            )
    return table, table.rows.index(parts[2]), table.columns.index(parts[3])


# ---- the model ------------------------------------------------------------------------------------


@torch.no_grad()
def repeater(
    *,
    seek: float = 30.0,
    copy: float = FULL,
    suppress: float = 0.0,
    backup: float = 0.0,
    lean: float = 0.0,
    note: float = 1.0,
    volume: float = 0.0,
    norm: Literal["LN"] | None = None,
    cells: Mapping[str, float] | None = None,
) -> Transformer:
    """The model of this module's text.

    seek: score of what a head seeks; every other key has 0 and "^" has 15, so that from 30 on the
    rest gets less than 1e-6 of the attention. copy, backup, suppress: what L1H0, L2H0 add to the right
    logit and L2H1 takes from it. lean: the match head and the backup count on "always": where it is
    missing they score "^" so much higher. note: size of L0H1's note. volume: L1H1 writes this much into
    the note. cells: single cells of `TABLES` over the rest, as "L1H0.ov.b.c". norm "LN": with
    LayerNorm; every write is balanced to mean 0, so that it only divides by a length. That length
    depends on the input, so backup, suppress and lean, which compare sizes, must then be 0, and
    `seek` should be 90.

    Error: logits are those of the algebra (`copy` - `suppress`, or `backup`) to 1e-4 (tested).
    Raises ValueError for cells that aren't there and for LayerNorm beside what it would spoil.
    """
    strengths = {"seek": seek, "copy": copy, "suppress": suppress, "backup": backup, "note": note, "one": 1.0}
    if norm is not None and (suppress or backup or lean):
        raise ValueError("suppress, backup and lean compare sizes, which LayerNorm changes: leave them 0")
    config = TransformerConfig(
        n_layers=3, n_heads=2, d_model=30 if norm is None else 31, d_head=9, n_ctx=N_CTX, d_vocab=7, norm=norm
    )
    model = Transformer(config)
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if name.endswith(".w") else 0.0)  # LayerNorm's scale
    model.embed.W_E[:, TOKEN] = torch.eye(7)
    model.pos_embed.W_pos[:, POSITION] = torch.eye(N_CTX)
    model.unembed.W_U[OUTPUT, _LETTER] = torch.eye(6)
    model.unembed.b_U[START] = SILENT
    _keys_and_values(model, lean)
    for key, (strength, pattern) in patterns().items():
        TABLES[key].block(model).copy_(TABLES[key].scale * strengths[strength] * pattern)
    for name, value in (cells or {}).items():
        table, row, column = parse_cell(name)
        table.block(model)[row, column] = table.scale * value
    model.blocks[1].attn.W_O[1, _LETTER, NOTE] = volume
    if norm is not None:
        for parameter in (model.embed.W_E, model.pos_embed.W_pos, *(b.attn.W_O for b in model.blocks)):
            parameter[..., BALANCE] = -parameter.sum(-1)
    return model.eval().requires_grad_(False)


def _keys_and_values(model: Transformer, lean: float) -> None:
    """What no table holds: a dimension of the head for each key and each letter, rest, gate, constant."""
    six = torch.eye(6)
    for name, node in HEADS.items():
        attn, head = model.blocks[node.layer].attn, node.head
        attn.W_V[head, _LETTER, _LETTER] = six
        if node.layer == 0:
            attn.W_K[head, POSITION, :] = torch.eye(N_CTX)
            continue
        attn.W_K[head, _LETTER if name == "suppressor" else PREVIOUS, _LETTER] = six
        attn.W_K[head, START, _REST_DIM] = 1.0
        attn.b_Q[head, _REST_DIM] = 3.0 * REST
        if name in ("match", "backup"):
            attn.b_Q[head, _REST_DIM] += 3.0 * lean
            attn.W_Q[head, ALWAYS, _REST_DIM] = -3.0 * lean
        if name == "backup":
            attn.W_Q[head, OUTPUT, _REST_DIM] = 3.0 * GATE / FULL
    first = model.blocks[0].attn
    first.W_V[1, TOKEN, _ALWAYS_DIM] = 1.0  # every token is one of them, so the head always writes 1
    first.W_O[1, _ALWAYS_DIM, ALWAYS] = 1.0

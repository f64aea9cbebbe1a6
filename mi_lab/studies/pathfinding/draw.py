"""What the trees are drawn with, a column to a tree: random orders, sorting by key, a random bit of a mask.

The numbers drawn for a seed are part of a recipe: published models were trained on them, and claims draw
the same trees again to know which were seen.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

SPARE = 6  # bits in front of which a key stands, for the place it comes from: 64 places at most
WORD = 16  # bits: as many as the tables below take


def shuffles(n: int, size: int, options: dict) -> Tensor:
    """Int[size, n]: n random orders of 0..size-1."""
    noise = torch.rand((n, size), **options)  # multiples of 2^-24
    return places_in_order((noise * (1 << 24)).to(key_type(24)), 24)


def key_type(bits: int) -> torch.dtype:
    """The smaller integer that holds so many bits and those of a place."""
    return torch.int32 if bits + SPARE < 32 else torch.long


def places_in_order(key: Tensor, bits: int) -> Tensor:
    """Int32[size, n]: the places of every row of key [n, size], numbers of so many bits, from the least up.

    Equal keys stay in their order. On a CPU numpy sorts the keys with their places in the last bits, in a
    tenth of the time of an argsort.
    """
    if key.device.type != "cpu":
        return key.argsort(dim=1, stable=True).T.int().contiguous()
    packed = _sorted_rows((key << SPARE) + torch.arange(key.shape[1], dtype=key.dtype))
    return (packed.T & ((1 << SPARE) - 1)).int().contiguous()


@torch.library.custom_op("mi_lab::sorted_rows", mutates_args=())  # so that what records operations sees it
def _sorted_rows(numbers: Tensor) -> Tensor:
    """Every row in order, by numpy."""
    return torch.from_numpy(np.sort(numbers.numpy(), axis=1))


def take(table: Tensor, rows: Tensor) -> Tensor:
    """table[rows[.., i], i] of table [row, n]: `gather` along the rows, in a fifth of its time."""
    n = table.shape[1]
    index = rows * n + torch.arange(n, dtype=rows.dtype, device=rows.device)
    return table.reshape(-1).index_select(0, index.reshape(-1)).view(rows.shape)


@functools.lru_cache(maxsize=8)
def single_bits(size: int, device: torch.device) -> Tensor:
    """Int32[size, word]: number i as the one bit set of a mask, 16 to a word."""
    i = torch.arange(size, device=device)[:, None]
    words = torch.arange((size + WORD - 1) // WORD, device=device)
    return torch.where(i // WORD == words, 1 << i % WORD, 0).int()


@functools.lru_cache(maxsize=2)
def _bit_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """How many bits a 16-bit mask has, Float[2^16], and at 17 mask + r which is the r-th of them.

    A place behind the last bit names the last one: a product that was rounded up ends there.
    """
    masks = torch.arange(1 << WORD, device=device)[:, None]
    bits = masks >> torch.arange(WORD, device=device) & 1
    rank = bits.cumsum(1)
    which = torch.zeros(1 << WORD, WORD + 2, dtype=torch.long, device=device)
    places = torch.arange(WORD, device=device).expand_as(bits)
    spare = WORD + 1  # the column for a mask's zeros
    which.scatter_(1, torch.where(bits == 1, rank - 1, spare), places)
    which.scatter_(1, rank[:, -1:], (bits * places).amax(1, keepdim=True))
    return rank[:, -1].float(), which[:, : WORD + 1].flatten().int()


def nth_bit(mask: Tensor, uniform: Tensor) -> Tensor:
    """Int32[n]: one of the bits of mask Int32[n, word], drawn by a number of [0, 1)."""
    counts, which = _bit_tables(mask.device)
    if mask.shape[1] == 1:  # up to 16 nodes, as in training: a third of the operations
        mask = mask.view(-1)
        pick = (uniform * counts.index_select(0, mask)).int()
        return which.index_select(0, torch.add(pick, mask, alpha=WORD + 1))
    count = counts[mask]
    total = count.sum(1)
    pick = torch.minimum((uniform * total).floor(), total - 1)[:, None]
    upto = count.cumsum(1)
    word = (upto <= pick).sum(1, keepdim=True)
    rank = (pick - (upto - count).gather(1, word)).int()
    return (which[mask.gather(1, word) * (WORD + 1) + rank] + WORD * word.int())[:, 0]

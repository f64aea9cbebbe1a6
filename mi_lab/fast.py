"""Arithmetic settings: the fastest products that are still accurate on this device, for the while.

    with fast_matmul(device):
        ...

1. oneDNN matrix products through `matmul_precision("medium")` on a CPU, entered only if a measured
   error gate passes on this machine. Explicit softmax attention belongs with it: the fused CPU
   attention kernel is slower there.
2. Numbers below 1e-38, which a sharp softmax makes by the thousand and a CPU handles in microcode,
   count as 0.
3. Memory that a step frees is kept for the next one (`keep_freed_memory`).
4. On a GPU nothing is changed unless TF32 is asked for, since it rounds.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch


@functools.lru_cache(maxsize=1)
def medium_is_accurate() -> bool:
    """Does float32_matmul_precision "medium" still compute in fp32 on this machine's CPU?

    It routes matrix products to oneDNN, which is 1.1 to 3 times as fast and fp32 on most CPUs, but may
    round to bf16 on a CPU with matrix extensions. Measured on a product of the size used here:
    bf16 rounding would give a relative error of about 2e-3, fp32 gives 1e-7.
    """
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(256, 510, generator=generator)
    b = torch.randn(510, 256, generator=generator)
    exact = a.double() @ b.double()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        error = ((a @ b).double() - exact).abs().max() / exact.abs().max()
    finally:
        torch.set_float32_matmul_precision(before)
    return bool(error < 1e-5)


@functools.lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Let the C library keep the memory that a step frees (62 MB at most) for the next step.

    glibc hands large blocks back to the system at once, and the next step then pays a page fault for
    every 4 kB: a fifth of a small model's step. Its limit adapts to the largest block ever freed, up
    to 32 MiB (mallopt(3), M_MMAP_THRESHOLD), so one such block is freed here. No effect elsewhere.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def onednn_route(device: torch.device) -> bool:
    """Do fp32 products on this device go to oneDNN now?"""
    return device.type == "cpu" and torch.get_float32_matmul_precision() == "medium"


@contextlib.contextmanager
def fast_matmul(
    device: torch.device | str = "cpu", *, onednn: bool = True, tf32: bool = False
) -> Iterator[bool]:
    """Use the fastest fp32-accurate arithmetic on this device; restores the setting on leaving.

    Yields True if the oneDNN route was taken. onednn: False keeps off it, for products too small to pay
    (`stack.onednn_pays`). tf32: on a GPU, products of numbers rounded to 10 bits (relative error 1e-3),
    for those who asked for it; a CPU has no such thing and computes in fp32.
    """
    kind = torch.device(device).type
    use = kind == "cpu" and onednn and medium_is_accurate()
    keep_freed_memory()
    before = torch.get_float32_matmul_precision()
    flushed = not (torch.tensor([1e-40]) * 1.0).any()  # torch can set this, but not tell
    try:
        if use:
            torch.set_float32_matmul_precision("medium")
        elif kind == "cpu" and not onednn:
            torch.set_float32_matmul_precision("highest")
        elif tf32 and kind == "cuda":
            torch.set_float32_matmul_precision("high")
        torch.set_flush_denormal(kind == "cpu")
        yield use
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_float32_matmul_precision(before)

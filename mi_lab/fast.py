"""Arithmetic settings: the fastest products that are still accurate on this device, for the while.

    with fast_matmul(device):
        ...

1. oneDNN matrix products through `matmul_precision("medium")` on a CPU, entered only if they pass two
   gates on this machine, both measured: the error of fp32, and a clear gain in speed. The two routes
   round differently, so which one is taken is part of "the same device": `fit` notes it, and a run that
   goes on keeps the route that it began with. Explicit softmax attention belongs with it: the fused CPU
   attention kernel is slower there.
2. Numbers below 1e-38, which a sharp softmax makes by the thousand and a CPU handles in microcode,
   count as 0.
3. Memory that a step frees is kept for the next one (`keep_freed_memory`).
4. On a GPU nothing is changed unless TF32 is asked for, since it rounds.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import time
from collections.abc import Iterator

import torch

Size = tuple[int, int, int]
"""Rows, inner width and columns of a matrix product."""
PRODUCT: Size = (1024, 128, 512)  # what is timed for those who don't say
GAIN = 1.25  # times as fast, so that the answer doesn't change from one measurement to the next
KEPT = 1 << 30  # bytes of freed memory that the process may keep


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


def medium_is_faster(size: Size = PRODUCT) -> bool:
    """Is "medium" (oneDNN) clearly the faster way to this product on this machine?

    Measured once per size (rounded to powers of 2, 1024 rows at most): some 20 ms, the best of several
    interleaved rounds of each, so that a busy machine gives the same answer. From machine to machine the
    ratio is 0.9 (Intel Xeon with AVX-512) to 2.5 (AMD Zen 5); "clearly" is a factor of `GAIN`.
    """
    rows, inner, columns = (1 << max(n - 1, 1).bit_length() for n in size)
    return _gain(min(rows, 1024), min(inner, 1024), min(columns, 2048)) >= GAIN


@functools.lru_cache(maxsize=64)
def _gain(rows: int, inner: int, columns: int, rounds: int = 7) -> float:
    """How many times as fast as torch's default oneDNN takes this product."""
    # CPU time where one thread does the work: it doesn't count those who wait for the same core
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    a, b, out = torch.ones(rows, inner), torch.ones(inner, columns), torch.empty(rows, columns)
    repeat = max(1, int(3e7 / (rows * inner * columns)))  # at least half a millisecond
    best = {"highest": float("inf"), "medium": float("inf")}
    before = torch.get_float32_matmul_precision()
    try:
        with torch.no_grad():
            for warm in (False, *[True] * rounds):
                for precision in best:
                    torch.set_float32_matmul_precision(precision)
                    begun = clock()
                    for _ in range(repeat):
                        torch.mm(a, b, out=out)
                    if warm:
                        best[precision] = min(best[precision], clock() - begun)
    finally:
        torch.set_float32_matmul_precision(before)
    return best["highest"] / max(best["medium"], 1e-9)


@functools.lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Let the C library keep the memory that a step frees (1 GiB at most) for the next step.

    glibc gives every block above a limit its own mapping, which goes back to the system when it is freed,
    and the top of its heap likewise; the next step then pays a page fault for every 4 kB. The limits adapt
    to what a program frees, and whether they come to fit a step is a matter of luck: with the worst of it a
    step of the pathfinding model has 88,000 faults and takes 1.5 times as long. So both are set (mallopt(3):
    no block is mapped by itself, and `KEPT` bytes stay), for the whole process and for good. Huge pages
    gained nothing beyond that.

    Returns whether it was done. Not where the user has set one of these limits by the environment, and not
    with another C library.
    """
    mine = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in mine):
        return False
    if any(f"glibc.malloc.{name}" in tunables for name in ("trim_threshold", "mmap_max", "mmap_threshold")):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    return mallopt is not None and bool(mallopt(trim_threshold, KEPT)) and bool(mallopt(mmap_max, 0))


def onednn_route(device: torch.device) -> bool:
    """Do fp32 products on this device go to oneDNN now?"""
    return device.type == "cpu" and torch.get_float32_matmul_precision() == "medium"


@contextlib.contextmanager
def fast_matmul(
    device: torch.device | str = "cpu",
    *,
    onednn: bool = True,
    tf32: bool = False,
    size: Size | None = PRODUCT,
) -> Iterator[bool]:
    """Use the fastest fp32-accurate arithmetic on this device; restores the setting on leaving.

    Yields True if the oneDNN route was taken. onednn: False keeps off it, for products too small to pay
    (`stack.onednn_pays`). size: of the products that take the time, for the choice by speed; None takes
    oneDNN whenever it is accurate, for a run that began with it. tf32: on a GPU, products of numbers rounded
    to 10 bits (relative error 1e-3), for those who asked for it; a CPU has no such thing and computes in fp32.
    """
    kind = torch.device(device).type
    keep_freed_memory()
    can = kind == "cpu" and onednn and medium_is_accurate()
    use = can and (size is None or medium_is_faster(size))
    before = torch.get_float32_matmul_precision()
    flushed = not (torch.tensor([1e-40]) * 1.0).any()  # torch can set this, but not tell
    try:
        if use:
            torch.set_float32_matmul_precision("medium")
        elif kind == "cpu" and (can or not onednn):
            torch.set_float32_matmul_precision("highest")
        elif tf32 and kind == "cuda":
            torch.set_float32_matmul_precision("high")
        torch.set_flush_denormal(kind == "cpu")
        yield use
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_float32_matmul_precision(before)

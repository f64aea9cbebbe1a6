"""Arithmetic settings: entered only where they are accurate, and left as they were found."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from mi_lab import fast as module
from mi_lab.fast import fast_matmul, onednn_route


@pytest.fixture(autouse=True)
def as_found():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def gates(monkeypatch):
    """Set what the two gates say."""

    def say(accurate=True, faster=True):
        monkeypatch.setattr(module, "medium_is_accurate", lambda: accurate)
        monkeypatch.setattr(module, "medium_is_faster", lambda size: faster)

    return say


@pytest.mark.parametrize("found", ["highest", "high", "medium"])
@pytest.mark.parametrize(
    ("accurate", "faster", "inside"),
    [(True, True, "medium"), (True, False, "highest"), (False, True, None), (False, False, None)],
)
def test_fast_matmul_is_gated_and_leaves_the_setting(gates, accurate, faster, inside, found):
    gates(accurate, faster)
    torch.set_float32_matmul_precision(found)
    with fast_matmul() as used:
        assert used is (accurate and faster)
        assert torch.get_float32_matmul_precision() == (inside or found)
    assert torch.get_float32_matmul_precision() == found


def test_a_run_that_began_with_onednn_is_not_timed_again(gates):
    gates(accurate=True, faster=False)
    with fast_matmul(size=None) as used:
        assert used
    gates(accurate=False)
    with fast_matmul(size=None) as used:
        assert not used  # elsewhere it may round


def test_products_are_timed_by_size_and_once(monkeypatch):
    """Sizes of one power of 2 share a measurement; a gain that is not clear is none."""
    asked = []
    monkeypatch.setattr(
        module, "_gain", lambda *size: (asked.append(size), 1.2 if size[0] < 1024 else 1.3)[1]
    )
    assert module.medium_is_faster((4032, 128, 512))
    assert module.medium_is_faster((1024, 128, 512))
    assert not module.medium_is_faster((300, 96, 288))
    assert asked == [(1024, 128, 512), (1024, 128, 512), (512, 128, 512)]


@pytest.mark.parametrize("slow", ["highest", "medium"])
def test_the_speed_gate_measures_a_time(monkeypatch, slow):
    """The way that computes each product eight times is the slower one."""
    real = torch.mm

    def product(a, b, *, out):
        for _ in range(8 if torch.get_float32_matmul_precision() == slow else 1):
            real(a, b, out=out)

    module._gain.cache_clear()
    torch.set_float32_matmul_precision("high")
    monkeypatch.setattr(torch, "mm", product)
    gain = module._gain(256, 128, 128)
    assert torch.get_float32_matmul_precision() == "high"
    assert (gain > 2) is (slow == "highest")
    assert (gain < 0.5) is (slow == "medium")
    module._gain.cache_clear()


STEPS = """
import resource, sys, torch
from mi_lab.fast import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = [torch.zeros(5 << 20) for _ in range(10)]  # 200 MB, every block above any limit
    del block
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


def _faults(which, **environment):
    command = [sys.executable, "-c", STEPS, which]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept_for_the_next_step():
    # the control: with fixed limits (as low as they start) every block is a new mapping
    assert _faults("not", MALLOC_MMAP_THRESHOLD_="131072") > 10_000
    assert _faults("kept") < 100


def test_limits_that_the_user_has_set_stay(monkeypatch):
    for name, value in (("MALLOC_MMAP_MAX_", "7"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")):
        module.keep_freed_memory.cache_clear()
        with monkeypatch.context() as context:
            context.setenv(name, value)
            assert module.keep_freed_memory() is False
    module.keep_freed_memory.cache_clear()
    with monkeypatch.context() as context:
        context.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
        assert module.keep_freed_memory() is False
    module.keep_freed_memory.cache_clear()


def test_the_setting_is_left_after_an_error():
    torch.set_float32_matmul_precision("high")
    with pytest.raises(KeyError), fast_matmul():
        raise KeyError
    assert torch.get_float32_matmul_precision() == "high"


def test_small_products_keep_off_onednn_wherever_they_are(gates):
    gates()
    with fast_matmul() as outer, fast_matmul(onednn=False) as inner:
        assert outer is True
        assert inner is False
        assert torch.get_float32_matmul_precision() == "highest"
        assert not onednn_route(torch.device("cpu"))


def test_tf32_is_for_a_gpu_and_only_if_asked_for(monkeypatch):
    torch.set_float32_matmul_precision("highest")
    for device, tf32, wanted in (("cuda", True, "high"), ("cuda", False, "highest")):
        with fast_matmul(device, tf32=tf32) as used:
            assert used is False
            assert torch.get_float32_matmul_precision() == wanted
            assert (torch.tensor([1e-40]) * 1.0).any()  # a GPU handles small numbers at no cost
    monkeypatch.setattr(module, "medium_is_accurate", lambda: False)
    with fast_matmul("cpu", tf32=True):
        assert torch.get_float32_matmul_precision() == "highest"


def test_fast_matmul_inside_fast_matmul_ends_with_the_outer_one():
    tiny = torch.full((4,), 1e-40)
    with fast_matmul():
        with fast_matmul():
            pass
        assert not (tiny * 1.0).any()
    assert (tiny * 1.0).all()


def test_the_gate_measures_an_error():
    module.medium_is_accurate.cache_clear()
    assert module.medium_is_accurate() in (True, False)


@pytest.mark.parametrize(("rounding", "accurate"), [(torch.float32, True), (torch.bfloat16, False)])
def test_the_gate_refuses_bf16_rounding(monkeypatch, rounding, accurate):
    """A CPU whose "medium" rounds to bf16 must not pass, and one whose "medium" doesn't must, wherever this runs."""
    real = torch.Tensor.__matmul__

    def product(a, b):
        if torch.get_float32_matmul_precision() == "medium":
            return real(a.to(rounding).double(), b.to(rounding).double()).float()
        return real(a, b)

    module.medium_is_accurate.cache_clear()
    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    assert module.medium_is_accurate() is accurate
    module.medium_is_accurate.cache_clear()

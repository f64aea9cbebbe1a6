"""Arithmetic settings: entered only where they are accurate, and left as they were found."""

import pytest
import torch

from mi_lab import fast as module
from mi_lab.fast import fast_matmul, onednn_route


@pytest.fixture(autouse=True)
def as_found():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("found", ["highest", "high", "medium"])
@pytest.mark.parametrize("accurate", [True, False])
def test_fast_matmul_is_gated_and_leaves_the_setting(monkeypatch, accurate, found):
    monkeypatch.setattr(module, "medium_is_accurate", lambda: accurate)
    torch.set_float32_matmul_precision(found)
    with fast_matmul() as used:
        assert used is accurate
        assert torch.get_float32_matmul_precision() == ("medium" if accurate else found)
    assert torch.get_float32_matmul_precision() == found


def test_the_setting_is_left_after_an_error():
    torch.set_float32_matmul_precision("high")
    with pytest.raises(KeyError), fast_matmul():
        raise KeyError
    assert torch.get_float32_matmul_precision() == "high"


def test_small_products_keep_off_onednn_wherever_they_are():
    with fast_matmul() as outer, fast_matmul(onednn=False) as inner:
        assert outer is module.medium_is_accurate()
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
    """A CPU whose "medium" rounds to bf16 must not pass."""
    real = torch.Tensor.__matmul__

    def product(a, b):
        if torch.get_float32_matmul_precision() == "medium":
            a, b = a.to(rounding).float(), b.to(rounding).float()
        return real(a, b)

    module.medium_is_accurate.cache_clear()
    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    assert module.medium_is_accurate() is accurate
    module.medium_is_accurate.cache_clear()

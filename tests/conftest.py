"""Shared by all tests: small models whose every weight matters, and a small task."""

import pytest
import torch

from mi_lab.model import Transformer, TransformerConfig
from mi_lab.studies.sorting.task import SortingTask


@pytest.fixture
def make_model():
    """Call it for a model with random weights, biases and LayerNorms; arguments change the shape."""

    def make(seed: int = 0, **changes: object) -> Transformer:
        shape: dict = {"n_layers": 2, "n_heads": 2, "d_model": 8, "d_head": 3, "n_ctx": 8, "d_vocab": 6}
        generator = torch.Generator().manual_seed(seed)
        model = Transformer(TransformerConfig(**(shape | changes)), generator=generator)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        return model

    return make


@pytest.fixture
def make_tokens():
    """Call it for random tokens that `make_model`'s models can read."""

    def make(n: int = 5, seed: int = 0, n_ctx: int = 8, vocab: int = 6) -> torch.Tensor:
        return torch.randint(vocab, (n, n_ctx), generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def task() -> SortingTask:
    return SortingTask(length=3, n_numbers=8)

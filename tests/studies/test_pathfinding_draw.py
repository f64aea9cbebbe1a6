import hashlib

import pytest
import torch

from mi_lab.studies.pathfinding import draw
from mi_lab.studies.pathfinding.task import PathfindingTask


def numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [2, 15, 16, 48, 64])
@pytest.mark.parametrize("bits", [3, 24, 25, 26, 40])
def test_places_in_order_are_a_stable_argsort(size, bits):
    key = torch.randint(1 << bits, (300, size), generator=numbers(size), dtype=draw.key_type(bits))
    assert key.dtype == (torch.int32 if bits <= 25 else torch.long)
    before = key.clone()
    found = draw.places_in_order(key, bits)
    assert torch.equal(found, key.argsort(dim=1, stable=True).T.int())
    assert found.is_contiguous()
    assert torch.equal(key, before)  # the caller's keys are not sorted in place


def test_largest_keys_do_not_overflow():
    for bits in (25, 26, 57):
        key = torch.full((1, 3), (1 << bits) - 1, dtype=draw.key_type(bits))
        key[0, 1] -= 1
        assert draw.places_in_order(key, bits)[:, 0].tolist() == [1, 0, 2]


def test_shuffles_are_the_order_of_the_numbers_drawn():
    found = draw.shuffles(500, 16, {"generator": numbers(3)})
    assert torch.equal(found, torch.rand((500, 16), generator=numbers(3)).argsort(dim=1, stable=True).T.int())


def test_take_is_gather_along_the_rows():
    table = torch.randint(99, (7, 40), generator=numbers(), dtype=torch.int32)
    rows = torch.randint(7, (5, 40), generator=numbers(1), dtype=torch.int32)
    assert torch.equal(draw.take(table, rows), table.gather(0, rows.long()))
    assert torch.equal(
        draw.take(table[:, ::2], rows[0, ::2]), table[:, ::2].gather(0, rows[:1, ::2].long())[0]
    )


@pytest.mark.parametrize("size", [3, 16, 17, 33, 48])
def test_a_bit_of_a_mask_is_drawn_as_by_counting(size):
    n = 4000
    free = torch.rand((n, size), generator=numbers(size)) < 0.4
    free[torch.arange(n), torch.randint(size, (n,), generator=numbers(1))] = True  # at least one
    uniform = torch.rand(n, generator=numbers(2))
    uniform[: n // 4] = 1 - 2**-24  # times a count, this may round up to the count itself
    mask = (free.int() @ draw.single_bits(size, torch.device("cpu")).int()).int()
    found = draw.nth_bit(mask, uniform)
    for i in range(n):
        places = free[i].nonzero()[:, 0].tolist()
        assert found[i] == places[min(int(uniform[i] * len(places)), len(places) - 1)]


@pytest.mark.parametrize(
    ("knobs", "wanted"),
    [
        ({}, "c20857ed5b2bcd06"),
        ({"order": "every"}, "2f472bdd638ee191"),
        ({"n_nodes": 10, "labels": "ascending"}, "d8ecb6bba2431cba"),
        ({"n_nodes": 8, "names": 16, "order": "forward"}, "6d790ed66ab8d448"),
    ],
)
def test_a_seed_goes_on_meaning_the_trees_that_published_models_were_trained_on(knobs, wanted):
    """The hashes were made by the sampler of November 29, which these models saw."""
    tokens = PathfindingTask(**knobs).sample(2000, generator=numbers(5))
    assert hashlib.sha256(tokens.numpy().tobytes()).hexdigest()[:16] == wanted

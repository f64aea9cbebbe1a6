"""Scrubbing equals `run` with the same edits, and donors are drawn by the rule."""

import pytest
import torch

from mi_lab.model import Transformer, TransformerConfig
from mi_lab.run import run
from mi_lab.scrub import Swap, match, remember, scrub, scrub_all

ANSWER = slice(6, 9)


def make(norm="LN", d_mlp=24, heads=2):
    config = TransformerConfig(
        n_layers=3,
        n_heads=heads,
        d_model=16,
        d_head=8,
        d_mlp=d_mlp,
        n_ctx=10,
        d_vocab=11,
        norm=norm,
        init_std=0.5 if norm else 0.2,
    )
    return Transformer(config, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0)
    return (
        torch.randint(11, (7, 10), generator=g),
        torch.randint(11, (5, 10), generator=g),
        torch.randint(5, (7,), generator=g),
    )


NAMES = {"attn": "attn.z", "mlp": "mlp.out", "resid": "resid_post"}


@pytest.mark.parametrize("norm", ["LN", None])
@pytest.mark.parametrize(
    "swaps",
    [
        (Swap(1, (6,)),),
        (Swap(0, (3, 7)), Swap(2, (8,))),
        (Swap(1, (6, 7), "mlp"), Swap(1, (6,))),
        (Swap(1, (2,), "resid"),),
        (Swap(2, (6, 7, 8), "resid"), Swap(0, (5,), "mlp")),
    ],
)
def test_it_equals_a_run_with_edits(data, swaps, norm):
    model = make(norm)
    tokens, donors, index = data
    names = {f"blocks.{s.layer}.{NAMES[s.part]}" for s in swaps}
    other = run(model, donors, record=names)

    def edit(name, positions):
        def put(value):
            value = value.clone()
            value[:, list(positions)] = other[name][index][:, list(positions)]
            return value

        return put

    edits = {
        f"blocks.{s.layer}.{NAMES[s.part]}": edit(f"blocks.{s.layer}.{NAMES[s.part]}", s.positions)
        for s in swaps
    }
    expected = run(model, tokens, edit=edits).logits[:, ANSWER]
    pool = remember(model, donors, swaps, answer=ANSWER)
    found = scrub(model, tokens, pool, index, answer=ANSWER, chunk=3)
    assert torch.allclose(found.clean, model(tokens)[:, ANSWER], atol=1e-5)
    assert torch.allclose(found.logits, expected, atol=1e-5)
    assert not torch.allclose(found.logits, found.clean, atol=1e-3)


def by_hand(model, tokens, donors, index, swap):
    """The kept share, from patterns and values of two whole runs."""
    layer = f"blocks.{swap.layer}.attn."
    own = run(model, tokens, record=[layer + "scores", layer + "v"])
    other = run(model, donors[index], record=[layer + "scores", layer + "v"])
    kept = torch.zeros(10, dtype=torch.bool)
    kept[list(swap.keep)] = True
    if swap.renormalise:
        scores = torch.where(kept, own[layer + "scores"], other[layer + "scores"])
        own_p = other_p = scores.softmax(-1)
    else:
        own_p, other_p = own[layer + "scores"].softmax(-1), other[layer + "scores"].softmax(-1)
    z = torch.einsum("bhqk,bkhe->bqhe", own_p * kept, own[layer + "v"])
    z = z + torch.einsum("bhqk,bkhe->bqhe", other_p * ~kept, other[layer + "v"])

    def put(value):
        value = value.clone()
        value[:, list(swap.positions)] = z[:, list(swap.positions)]
        return value

    return run(model, tokens, edit={layer + "z": put}).logits[:, ANSWER]


@pytest.mark.parametrize("renormalise", [True, False])
def test_kept_keys_stay_the_runs_own(data, renormalise):
    model = make()
    tokens, donors, index = data
    swap = Swap(1, (6, 8), keep=(1, 4), renormalise=renormalise)
    pool = remember(model, donors, [swap], answer=ANSWER)
    found = scrub(model, tokens, pool, index, answer=ANSWER).logits
    assert torch.allclose(found, by_hand(model, tokens, donors, index, swap), atol=1e-5)


def test_a_donor_that_is_the_question_changes_nothing(data):
    model = make()
    tokens = data[0]
    swaps = [Swap(0, (4, 5), keep=(1,)), Swap(1, (6,), "mlp"), Swap(2, (8,), "resid")]
    pool = remember(model, tokens, swaps, answer=ANSWER)
    for found in scrub_all(model, tokens, pool, [(torch.arange(7), [s]) for s in swaps], answer=ANSWER):
        assert torch.allclose(found.logits, found.clean, atol=1e-5)


def test_each_position_may_have_its_own_donor(data):
    model, (tokens, donors, _) = make(), data
    swap = Swap(1, (2, 5), "resid")
    index = torch.tensor([[0, 4], [1, 1], [2, 0], [3, 3], [4, 2], [0, 1], [2, 3]])
    other = run(model, donors, record="blocks.1.resid_post")["blocks.1.resid_post"]

    def put(value):
        value = value.clone()
        value[:, 2], value[:, 5] = other[index[:, 0], 2], other[index[:, 1], 5]
        return value

    expected = run(model, tokens, edit={"blocks.1.resid_post": put}).logits[:, ANSWER]
    pool = remember(model, donors, [swap], answer=ANSWER)
    assert torch.allclose(scrub(model, tokens, pool, index, answer=ANSWER).logits, expected, atol=1e-5)


def test_match_draws_uniformly_among_equal_keys_and_never_the_avoided():
    g = torch.Generator().manual_seed(0)
    pool = torch.tensor([3, 1, 3, 2, 3])
    drawn = match(torch.full((3000,), 3), pool, generator=g)
    counts = torch.bincount(drawn, minlength=5)
    assert counts[[1, 3]].sum() == 0
    assert (counts[[0, 2, 4]] > 900).all()
    assert match(torch.tensor([7]), pool, generator=g).tolist() == [-1]
    avoid = match(torch.full((3000,), 3), pool, generator=g, avoid=torch.full((3000,), 2))
    assert set(avoid.tolist()) == {0, 4}
    assert match(torch.tensor([2]), pool, generator=g, avoid=torch.tensor([3])).tolist() == [-1]
    assert match(torch.tensor([2]), pool, generator=g, avoid=torch.tensor([0])).tolist() == [3]


@pytest.mark.parametrize(
    ("swap", "words"),
    [
        (Swap(3, (6,)), "layer 3"),
        (Swap(0, (9,)), "position 9"),
        (Swap(0, ()), "at least one position"),
        (Swap(0, (6,), keep=(12,)), "kept key 12"),
        (Swap(0, (6,), "mlp", keep=(1,)), "keep is a choice of keys"),
        (Swap(0, (6,), "logits"), "'attn', 'mlp' or 'resid'"),
    ],
)
def test_bad_sites_are_named(data, swap, words):
    with pytest.raises(ValueError, match=words):
        remember(make(), data[1], [swap], answer=ANSWER)


def test_bad_donors_are_named(data):
    model, (tokens, donors, index) = make(), data
    pool = remember(model, donors, [Swap(0, (6,))], answer=ANSWER)
    bad = index.clone()
    bad[2] = -1
    with pytest.raises(ValueError, match="question 2 has donor -1"):
        scrub(model, tokens, pool, bad, answer=ANSWER)
    with pytest.raises(ValueError, match="one index for each of 7"):
        scrub(model, tokens, pool, index[:3], answer=ANSWER)
    with pytest.raises(ValueError, match="not remembered"):
        scrub(model, tokens, pool, index, [Swap(1, (6,))], answer=ANSWER)
    with pytest.raises(ValueError, match="has none"):
        remember(make(d_mlp=0), donors, [Swap(0, (6,), "mlp")], answer=ANSWER)

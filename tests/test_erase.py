"""Erasure: its guarantee, its optimality, its authors' package, and its control."""

import warnings

import pytest
import torch
from torch.nn import functional as F

from mi_lab.erase import erase, erase_sites, random_eraser
from mi_lab.probe import probe, probe_sites
from mi_lab.run import run
from mi_lab.sites import capture


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def planted(n=2000, d=16, k=4, seed=0):
    """Class means in a random subspace, under an ill-conditioned covariance."""
    labels = torch.randint(k, (n,), generator=generator(seed))
    mix = torch.randn(d, d, generator=generator(seed + 1)) * torch.logspace(1, -2, d)
    means = 3 * torch.randn(k, d, generator=generator(seed + 2))
    return (means[labels] + torch.randn(n, d, generator=generator(seed + 3))) @ mix + 5, labels


def covariance(x, y):
    return (x - x.mean(0)).T @ (y - y.mean(0)) / len(x)


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_no_linear_probe_finds_what_was_erased(kind):
    x, labels = planted()
    eraser = erase(x, labels)
    before, after = (probe(y, labels, kind=kind, control=None) for y in (x, eraser(x)))
    assert before.accuracy > 0.95
    assert after.accuracy < 0.33
    assert eraser.rank.tolist() == [3]
    fresh, new = planted(seed=0, n=6000)  # the same law, mostly other examples
    assert probe(eraser(fresh), new, kind=kind, control=None).accuracy < 0.35


def test_the_covariance_with_the_labels_is_zero_and_the_mean_is_kept():
    x, labels = planted()
    x = x.double()
    clean = erase(x, labels)(x)
    assert covariance(clean, F.one_hot(labels).double()).abs().max() < 1e-9
    torch.testing.assert_close(clean.mean(0), x.mean(0))


def test_erasing_twice_is_erasing_once():
    x, labels = planted()
    eraser = erase(x.double(), labels)
    torch.testing.assert_close(eraser(eraser(x.double())), eraser(x.double()))
    torch.testing.assert_close(eraser.matrix @ eraser.matrix, eraser.matrix)


def test_no_other_map_that_erases_moves_the_data_less():
    """Any such map is P + M with M Cov(x, labels) = 0. Random M, also tiny, and the orthogonal projection lose,
    in the Mahalanobis norm and in the Euclidean one."""
    x, labels = planted()
    x, z = x.double(), F.one_hot(labels).double()
    eraser, cross = erase(x, labels), covariance(x, z)
    cov, centred = covariance(x, x), x - x.mean(0)
    values, vectors = torch.linalg.eigh(cov)
    whiten = vectors * values.rsqrt() @ vectors.T

    def sizes(matrix):
        moved = centred - centred @ matrix.T
        return (moved @ whiten).square().sum(1).mean(), moved.square().sum(1).mean()

    best = sizes(eraser.matrix[0])
    assert best[0] == pytest.approx(3.0, rel=1e-6)  # the rank, in units of standard deviations
    basis = torch.linalg.svd(cross, full_matrices=False)
    column = basis.U[:, basis.S > 1e-9]
    blind = torch.eye(16) - column @ column.T  # M blind = M
    rivals = [blind] + [
        eraser.matrix[0] + scale * torch.randn(16, 16, generator=generator(i)).double() @ blind
        for i in range(5)
        for scale in (1e-3, 1e-1, 1.0)
    ]
    for rival in rivals:
        assert (rival @ cross).abs().max() < 1e-9
        for ours, theirs in zip(best, sizes(rival)):
            assert theirs > ours


def test_its_authors_package_gives_the_same_map():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.script is deprecated
        package = pytest.importorskip("concept_erasure")
    x, labels = planted()
    options = {"shrinkage": False, "svd_tol": 1e-6, "constrain_cov_trace": False}
    wanted = package.LeaceFitter.fit(x.double(), F.one_hot(labels).double(), **options).eraser
    got = erase(x.double(), labels)
    torch.testing.assert_close(got.matrix[0], wanted.P)
    torch.testing.assert_close(got(x.double()), wanted(x.double()))


def test_a_random_subspace_of_equal_rank_leaves_the_concept():
    x, labels = planted()
    eraser = erase(x, labels)
    for space in ("whitened", "data"):
        control = eraser.random(seed=1, space=space)
        assert control.rank.tolist() == [3]
        assert torch.linalg.matrix_rank(torch.eye(16) - control.matrix[0]) == 3
        torch.testing.assert_close(control.matrix @ control.matrix, control.matrix)
        assert probe(control(x), labels, control=None).accuracy > 0.8
    assert not torch.equal(eraser.random(1).left, eraser.random(2).left)
    torch.testing.assert_close(random_eraser(x, 3, seed=4).matrix, eraser.random(4).matrix)


def test_how_much_an_edit_moves_is_told():
    x, labels = planted()
    for eraser in (erase(x, labels), random_eraser(x, 3), random_eraser(x, 3, space="data")):
        moved = (eraser(x.double()) - x).square().sum() / (x - x.mean(0)).square().sum()
        torch.testing.assert_close(eraser.removed[0], moved, rtol=1e-6, atol=0)
    assert random_eraser(x, 3, space="data").removed > 2 * random_eraser(x, 3).removed


def test_the_random_edit_is_as_large_in_the_norm_that_leace_minimises():
    x, labels = planted()
    x = x.double()
    values, vectors = torch.linalg.eigh(covariance(x, x))
    whiten = vectors * values.rsqrt() @ vectors.T
    for eraser in (erase(x, labels), erase(x, labels).random(7)):
        assert ((eraser(x) - x) @ whiten).square().sum(1).mean() == pytest.approx(3.0, rel=1e-6)


def test_positions_are_separate_or_pooled():
    x, labels = planted(n=1500)
    both = torch.stack([x, torch.flip(x, [1])], 1)
    each, one = erase(both, labels), erase(both, labels, pooled=True)
    assert len(each.mean) == 2
    assert len(one.mean) == 1
    torch.testing.assert_close(each(both)[:, 0], erase(x, labels)(x))
    for p in range(2):
        assert probe(each(both)[:, p], labels, control=None).accuracy < 0.35
    assert probe(one(both), labels, control=None).accuracy < 0.35
    assert one(both).shape == both.shape
    assert one(x).shape == x.shape
    with pytest.raises(ValueError, match=r"this eraser is for x of shape \[.., 2, 16\], not \[1500, 16\]"):
        each(x)


def test_yes_no_concepts_and_rows_without_a_label():
    x, labels = planted()
    eraser = erase(x, torch.stack([labels == 0, labels < 2], 1))
    assert eraser.rank.tolist() == [2]
    assert probe(eraser(x), (labels == 0).long(), control=None).f1 < 0.55
    some = torch.where(torch.arange(2000) % 2 == 0, labels, -1)
    half = erase(x, some)
    torch.testing.assert_close(half.matrix, erase(x[::2], labels[::2]).matrix)
    torch.testing.assert_close(erase(x, labels, keep=some >= 0).matrix, half.matrix)


def test_directions_without_variance_are_left_alone():
    x, labels = planted()
    x = torch.cat([x, torch.full((2000, 2), 3.0)], 1)
    eraser = erase(x, labels)
    assert eraser.matrix.isfinite().all()
    torch.testing.assert_close(eraser(x)[:, -2:], x[:, -2:])
    random = random_eraser(x, 16)
    torch.testing.assert_close(random(x), x.mean(0).expand_as(x), rtol=1e-3, atol=1e-3)  # all there is
    with pytest.raises(
        ValueError, match=r"rank must be between 0 and the 16 directions of the data, not \[17\]"
    ):
        random_eraser(x, 17)


# in a model -----------------------------------------------------------------------------------------


def test_an_eraser_is_an_edit(make_model, make_tokens):
    model, tokens = make_model(d_mlp=12), make_tokens(400)
    x = capture(model, tokens, {"a": (0, "resid_mid", [2, 5])})["a"]
    eraser = erase(x, tokens[:, 2])
    out = run(model, tokens, record="*.resid_mid", edit={"blocks.0.resid_mid": eraser.at([2, 5])})
    clean = run(model, tokens, record="*.resid_mid")
    torch.testing.assert_close(out["blocks.0.resid_mid"][:, [2, 5]], eraser(x), rtol=1e-4, atol=1e-5)
    same = [0, 1, 3, 4, 6, 7]
    assert torch.equal(out["blocks.0.resid_mid"][:, same], clean["blocks.0.resid_mid"][:, same])
    one = erase(x, tokens[:, 2], pooled=True)
    heads = erase(capture(model, tokens, {"z": (1, "attn.z", [7])})["z"], tokens[:, 2])
    run(model, tokens, edit={"blocks.0.resid_mid": one.at(), "blocks.1.attn.z": heads.at([7])})


def test_sites_are_erased_one_after_the_other(make_model, make_tokens):
    """A concept that is read again from elsewhere is erased there as well, as it then is."""
    model, tokens = make_model(d_mlp=12), make_tokens(600)
    concept = tokens[:, 2]
    sites = {"late": (1, "resid_post", [2, 7]), "early": (0, "resid_mid", [2, 7])}
    erasure = erase_sites(model, tokens, sites, concept)
    assert list(erasure.erasers) == ["early", "late"]
    end = {"end": (1, "resid_post", [2, 7])}
    before, after, control = (
        probe_sites(model, tokens, end, concept, edit=edit, control=None).grid("accuracy")
        for edit in (None, erasure.edit, erasure.random(seed=1).edit)
    )
    assert before[0, 0] > 0.9
    assert after.max() < 0.3
    assert control[0, 0] > 0.45
    left = capture(model, tokens, end, edit=erasure.edit)["end"].double()
    for p in range(2):
        assert covariance(left[:, p], F.one_hot(concept).double()).abs().max() < 1e-4


def test_two_concepts_at_one_activation(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(500)
    sites = {"two": (0, "resid_post", [5]), "three": (0, "resid_post", [5])}
    labels = {"two": tokens[:, 2] % 2, "three": tokens[:, 3] % 2}
    erasure = erase_sites(model, tokens, sites, labels)
    x = capture(model, tokens, {"a": sites["two"]}, edit=erasure.edit)["a"][:, 0]
    assert max(probe(x, y, control=None).accuracy for y in labels.values()) < 0.65
    assert list(erasure.edit) == ["blocks.0.resid_post"]


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (torch.zeros(9), torch.zeros(9).long(), r"x must be Float\[n, d\] or Float\[n, pos, d\]"),
        (torch.full((9, 2), torch.inf), torch.zeros(9).long(), "x holds NaN or infinite values"),
        (torch.zeros(9, 2), torch.zeros(8).long(), r"labels must have shape \[9\] or \[9, 1\], not \[8\]"),
        (torch.zeros(9, 2, 2), torch.tensor([[0, -1]] * 9), "no example has a label at place 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_erased_is_refused(x, labels, message):
    with pytest.raises(ValueError, match=message):
        erase(x, labels)


def test_bad_edits_and_sites_are_named(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(50)
    eraser = erase(torch.randn(50, 8, generator=generator()), tokens[:, 0])
    with pytest.raises(ValueError, match=r"the eraser's position 8 is outside 0..7"):
        run(model, tokens, edit={"blocks.0.resid_mid": eraser.at([8])})
    with pytest.raises(ValueError, match="space must be 'whitened' or 'data', not 'plain'"):
        eraser.random(space="plain")
    site = {"a": (0, "resid_mid", [1])}
    with pytest.raises(ValueError, match=r"blocks\.0\.resid_mid is both edited and erased"):
        erase_sites(
            model, tokens, site | {"b": (1, "resid_mid", [1])}, tokens[:, 0], edit={"blocks.0.resid_mid": 0.0}
        )
    with pytest.raises(ValueError, match="site 'a': no example has a label"):
        erase_sites(model, tokens, site, torch.full((50,), -1))

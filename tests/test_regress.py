"""The batched solvers against plain ones, on one data set at a time."""

import pytest
import torch
from torch.nn import functional as F

from mi_lab import regress


def data(sets=3, n=400, d=6, k=3, seed=0, multi=False):
    generator = torch.Generator().manual_seed(seed)
    x = (
        torch.randn(sets, n, d, generator=generator).double()
        @ torch.randn(sets, d, d, generator=generator).double()
    )
    x += 5.0
    score = x @ torch.randn(sets, d, k, generator=generator).double()
    score = score - score.mean(1, keepdim=True) + 4 * torch.randn(score.shape, generator=generator)
    y = (score > 0).double() if multi else F.one_hot(score.argmax(-1), k).double()
    keep = torch.rand(sets, n, generator=generator) < 0.7
    return x, y, keep


def test_ridge_is_least_squares_without_a_penalty():
    x, y, keep = data()
    got = regress.ridge(x, y, keep, regress.spectrum(x, keep), 0.0, True)
    for i in range(3):
        rows = torch.cat([x[i][keep[i]], torch.ones(int(keep[i].sum()), 1)], 1)
        wanted = torch.linalg.lstsq(rows, y[i][keep[i]]).solution
        torch.testing.assert_close(torch.cat([got.weight[i], got.bias[i : i + 1]]), wanted)


def test_ridge_without_intercept_goes_through_the_origin():
    x, y, keep = data()
    got = regress.ridge(x, y, keep, regress.spectrum(x, keep, centre=False), 0.0, False)
    assert (got.bias == 0).all()
    for i in range(3):
        wanted = torch.linalg.lstsq(x[i][keep[i]], y[i][keep[i]]).solution
        torch.testing.assert_close(got.weight[i], wanted)


def test_ridge_solves_its_normal_equations():
    x, y, keep = data(sets=1)
    s = regress.spectrum(x, keep)
    got = regress.ridge(x, y, keep, s, 0.1, True)
    rows, right = x[0][keep[0]], y[0][keep[0]]
    slope = rows.T @ (rows @ got.weight[0] + got.bias[0] - right) / len(rows)
    torch.testing.assert_close(slope, -0.1 * s.values.mean() * got.weight[0])


def test_cross_validation_finds_the_penalty_that_leaving_one_out_finds():
    """GCV is exact leave-one-out up to the spread of leverages: the chosen penalty must do as well."""
    x, y, keep = data(sets=1, n=60, d=40)
    keep[:] = True

    def left_out(penalty):
        error = 0.0
        for i in range(60):
            rest = torch.arange(60) != i
            part = x[:, rest], y[:, rest], keep[:, rest]
            one = regress.ridge(*part, regress.spectrum(part[0], part[2]), penalty, True)
            error += float((one(x[:, i : i + 1]) - y[:, i : i + 1]).square().sum())
        return error / 60

    best = min(left_out(10.0**e) for e in range(-6, 3))
    assert left_out(None) < 1.1 * best < 0.9 * left_out(0.0)


@pytest.mark.parametrize("multi", [False, True])
def test_logistic_reaches_the_optimum(multi):
    x, y, keep = data(multi=multi)
    s = regress.spectrum(x, keep)
    got = regress.logistic(x, y, keep, s, 1e-2, multi=multi, steps=1000)
    for i in range(3):
        rows, right, lam = x[i][keep[i]], y[i][keep[i]], 1e-2 * s.values[i].mean()
        weight, bias = got.weight[i].clone().requires_grad_(), got.bias[i].clone().requires_grad_()
        logits = rows @ weight + bias
        if multi:
            loss = F.binary_cross_entropy_with_logits(logits, right, reduction="none").sum(-1).mean()
        else:
            loss = F.cross_entropy(logits, right)
        slope = torch.autograd.grad(loss + lam / 2 * weight.square().sum(), (weight, bias))
        assert max(g.abs().max() for g in slope) < 1e-3


def test_a_hundred_steps_decide_what_a_probe_says():
    x, y, keep = data(n=2000, d=30, k=8)
    s = regress.spectrum(x, keep)
    few, many = (regress.logistic(x, y, keep, s, 1e-4, multi=False, steps=n)(x) for n in (100, 2000))
    assert (few.argmax(-1) == many.argmax(-1)).double().mean() > 0.99


def test_logistic_stands_faint_and_empty_directions():
    x, y, keep = data(sets=1)
    plain = regress.logistic(x, y, keep, regress.spectrum(x, keep), 1e-4, multi=False, steps=300)
    wide = torch.cat([x, 1e-6 * x[..., :2], 0 * x[..., :1]], -1)
    got = regress.logistic(wide, y, keep, regress.spectrum(wide, keep), 1e-4, multi=False, steps=300)
    assert got.weight.isfinite().all()
    assert (got(wide).argmax(-1) == plain(x).argmax(-1)).double().mean() > 0.98


def test_data_sets_side_by_side_do_not_meet():
    x, y, keep = data()
    both = regress.spectrum(x, keep), regress.spectrum(x[1:2], keep[1:2])
    for solve in (
        lambda x, y, keep, s: regress.ridge(x, y, keep, s, None, True),
        lambda x, y, keep, s: regress.logistic(x, y, keep, s, 1e-3, multi=False, steps=60),
    ):
        whole, alone = solve(x, y, keep, both[0]), solve(x[1:2], y[1:2], keep[1:2], both[1])
        torch.testing.assert_close(whole.row(1).weight, alone.weight, rtol=1e-3, atol=1e-3)

"""The learning coefficient against theory, its diagnostics, and devinterp."""

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mi_lab.llc import (
    ESTIMATORS,
    SGLD,
    Chains,
    error_of_mean,
    estimate,
    estimate_all,
    rescale,
    sgld,
    summarise,
    with_grad,
)
from mi_lab.model import TransformerConfig
from mi_lab.stack import Stack, stacking_pays
from mi_lab.studies.sorting.task import SortingTask
from mi_lab.train import Recipe, fit

TASK = SortingTask(length=4, n_numbers=12)
CONFIG = TransformerConfig(n_layers=1, n_heads=2, d_model=16, d_head=8, n_ctx=9, d_vocab=13)
RECIPE = Recipe("tiny", TASK, CONFIG, lr=1e-2, batch=128, steps=400, seeds=(0, 1))
GENTLE = SGLD(nbeta=1000, step_size=1e-6, localization=100, draws=40, chains=3, batch=64)


@pytest.fixture(scope="module")
def stack() -> Stack:
    return fit(RECIPE, device="cpu", progress=False).stack


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return TASK.sample(512, generator=torch.Generator().manual_seed(5))


def run(loss, start, settings, seed=0):
    """`sgld` on a loss with minimum 0 at `start`, in float64."""
    start = torch.as_tensor(start, dtype=torch.float64)
    generators = [torch.Generator().manual_seed(seed + c) for c in range(settings.chains)]
    weights = start.expand(settings.chains, -1).clone()
    chains = sgld(with_grad(loss, start), weights, settings, generators)
    return summarise(chains, settings, initial_loss=float(loss(start)))


# -- theory ------------------------------------------------------------------------------------------


def test_a_regular_minimum_of_d_weights_has_coefficient_half_d():
    curvature = torch.linspace(0.5, 2.0, 10, dtype=torch.float64)
    settings = SGLD(nbeta=1e4, step_size=2e-5, draws=2000, burn_in=300, chains=20)
    result = run(lambda w: 0.5 * (curvature * w**2).sum(-1), torch.zeros(10), settings)
    # a step of size eps makes each direction's variance larger by 1 / (1 - eps nbeta h / 4)
    expected = float((0.5 / (1 - settings.step_size * settings.nbeta * curvature / 4)).sum())
    assert expected == pytest.approx(5, rel=0.08)
    assert result.value == pytest.approx(expected, abs=4 * result.standard_error)
    assert result.standard_error < 0.1
    assert (result.left_basin, result.not_a_minimum, result.nonfinite) == (False, False, ())


def test_the_coefficient_does_not_depend_on_the_temperature():
    values = []
    for nbeta in (1e2, 1e4):
        settings = SGLD(nbeta=nbeta, step_size=0.1 / nbeta, draws=1500, burn_in=200, chains=20)
        values.append(run(lambda w: 0.5 * (w**2).sum(-1), torch.zeros(6), settings).value)
    assert values[0] == pytest.approx(3, rel=0.1)
    assert values[0] == pytest.approx(values[1], rel=1e-6)  # the same noise, in other units


def test_a_quartic_minimum_counts_a_quarter_per_weight():
    settings = SGLD(nbeta=1e4, step_size=1e-4, draws=4000, burn_in=500, chains=20)
    result = run(lambda w: (w**4).sum(-1), torch.zeros(4), settings)
    assert result.value == pytest.approx(1.0, abs=max(0.05, 4 * result.standard_error))


def test_weights_that_do_nothing_count_nothing():
    settings = SGLD(nbeta=1e4, step_size=2e-5, localization=1.0, draws=1500, burn_in=300, chains=20)
    result = run(lambda w: 0.5 * (w[..., :4] ** 2).sum(-1), torch.zeros(12), settings)
    assert result.value == pytest.approx(2.0, rel=0.1)


def test_a_crossing_of_two_valleys_agrees_with_quadrature():
    """L = x^2 y^2 has lambda = 1/2 with multiplicity 2; at finite nbeta the integral is the truth."""
    nbeta, gamma = 300.0, 10.0
    settings = SGLD(nbeta=nbeta, step_size=5e-4, localization=gamma, draws=5000, burn_in=1000, chains=100)
    result = run(lambda w: (w[..., 0] * w[..., 1]) ** 2, torch.zeros(2), settings)
    axis = torch.linspace(-2.5, 2.5, 2001, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    loss = (x * y) ** 2
    law = torch.exp(-nbeta * loss - gamma / 2 * (x**2 + y**2))
    expected = float(nbeta * (law * loss).sum() / law.sum())
    assert 0.2 < expected < 0.5  # clearly below the regular 1
    assert result.value == pytest.approx(expected, abs=max(0.02, 4 * result.standard_error))


def test_the_pull_back_lowers_the_coefficient_as_computed():
    nbeta, gamma = 1e3, 2e3
    settings = SGLD(nbeta=nbeta, step_size=3e-5, localization=gamma, draws=2000, burn_in=200, chains=20)
    result = run(lambda w: 0.5 * (w**2).sum(-1), torch.zeros(8), settings)
    assert result.value == pytest.approx(4 * nbeta / (nbeta + gamma), rel=0.1)


def test_noise_scaled_by_the_weights_gives_the_same_coefficient():
    size = torch.tensor([1e-2, 1.0, 1e2], dtype=torch.float64)
    settings = SGLD(nbeta=1e4, step_size=2e-5, draws=2000, burn_in=300, chains=20)
    base = torch.zeros(3, dtype=torch.float64)
    loss = with_grad(lambda w: 0.5 * ((w / size) ** 2).sum(-1), base)
    generators = [torch.Generator().manual_seed(c) for c in range(20)]
    weights, scale = base.repeat(20, 1), size.repeat(20, 1)
    result = summarise(sgld(loss, weights, settings, generators, scale), settings, 0.0)
    assert result.value == pytest.approx(1.5, rel=0.15)


def test_the_penalty_is_part_of_the_potential():
    """L = (w - 1)^2 / 2 + (l2 / 2) w^2 is minimal at 1 / (1 + l2), not at the minimum of the loss."""
    settings = SGLD(nbeta=1e4, step_size=5e-6, l2=1.0, draws=1500, burn_in=300, chains=20)

    def loss(w):
        return 0.5 * ((w - 1) ** 2).sum(-1)

    right = run(loss, torch.full((6,), 0.5), settings)
    assert right.value == pytest.approx(3, rel=0.1)
    assert not right.not_a_minimum
    wrong = run(loss, torch.full((6,), 0.5), replace(settings, l2=0.0))
    assert wrong.not_a_minimum
    assert wrong.value < 0


def test_the_error_of_a_mean_knows_autocorrelation():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 4000, generator=generator, dtype=torch.float64)
    series = noise.clone()
    for t in range(1, 4000):
        series[:, t] = 0.8 * series[:, t - 1] + 0.6 * noise[:, t]
    for x, tau in ((noise, 1.0), (series, 9.0)):  # tau = (1 + rho) / (1 - rho)
        guess = sum(map(error_of_mean, x)) / len(x)
        assert guess == pytest.approx(math.sqrt(tau / 4000), rel=0.1)
        assert guess == pytest.approx(float(x.mean(1).std()), rel=0.15)
    assert error_of_mean(torch.ones(50)) == 0


# -- diagnostics -------------------------------------------------------------------------------------


def test_a_chain_that_leaves_the_basin_is_flagged():
    def pit(w):  # as deep as 2 nats, a tenth wide, flat outside
        return (2 * w**2 / (w**2 + 0.01)).sum(-1)

    settings = SGLD(nbeta=100, step_size=1e-5, draws=200, chains=4)
    assert not run(pit, torch.zeros(1), settings).left_basin
    hot = run(pit, torch.zeros(1), replace(settings, step_size=0.05))
    assert hot.left_basin
    assert any("left the basin" in text for text in hot.warnings)


def test_a_start_beside_the_minimum_is_flagged():
    settings = SGLD(nbeta=1e4, step_size=2e-5, draws=400, chains=4)
    result = run(lambda w: 0.5 * ((w - 0.3) ** 2).sum(-1), torch.zeros(5), settings)
    assert result.not_a_minimum
    assert any("not a minimum" in text for text in result.warnings)


def test_a_chain_that_still_rises_is_flagged_and_a_long_one_is_not():
    settings = SGLD(nbeta=1e4, step_size=1e-7, draws=400, chains=8)
    short = run(lambda w: 0.5 * (w**2).sum(-1), torch.zeros(20), settings)
    assert short.not_equilibrated
    assert short.drift > 0
    long = run(lambda w: 0.5 * (w**2).sum(-1), torch.zeros(20), replace(settings, step_size=4e-5))
    assert not long.not_equilibrated


@pytest.mark.parametrize("chains", [1, 2])
def test_drift_is_seen_with_few_chains_too(chains):
    settings = SGLD(nbeta=1.0, step_size=1.0, draws=400, chains=chains)
    noise = 0.1 * torch.randn(chains, 400, generator=torch.Generator().manual_seed(0))
    for slope, expected in ((0.0, False), (0.05, True)):
        trace = 100 + slope * torch.arange(400) + noise
        result = summarise(Chains(trace, trace), settings, 100.0)
        assert result.not_equilibrated is expected
        assert math.isnan(result.se_chains) is (chains == 1)
        assert result.standard_error > 0


def test_a_chain_that_explodes_is_named_and_left_out():
    settings = SGLD(nbeta=1.0, step_size=1.0, draws=100, chains=3)
    trace = 1 + 0.1 * torch.rand(3, 100, generator=torch.Generator().manual_seed(0))
    trace[1, 60:] = math.nan
    result = summarise(Chains(trace, trace), settings, 1.0)
    assert result.nonfinite == (1,)
    assert math.isfinite(result.value)
    assert any("chain 1 stopped being finite" in text for text in result.warnings)
    steep = run(lambda w: (w**4).sum(-1), torch.ones(1), SGLD(nbeta=1e4, step_size=1.0, draws=60, chains=2))
    assert steep.nonfinite == (0, 1)
    assert math.isnan(steep.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nbeta", 0.0),
        ("nbeta", math.nan),
        ("step_size", -1e-6),
        ("localization", -1.0),
        ("draws", 7),
        ("burn_in", -1),
        ("chains", 0),
        ("batch", 0),
        ("preconditioner", "adam"),
        ("l2", -0.1),
    ],
)
def test_settings_that_cannot_be_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be .* it is {value!r}"):
        replace(GENTLE, **{name: value})


def test_a_pull_that_overshoots_is_refused():
    with pytest.raises(ValueError, match=r"step_size \* localization must be below 2.*it is 10"):
        replace(GENTLE, step_size=0.1, localization=100.0)


# -- transformers ------------------------------------------------------------------------------------


def test_the_start_of_every_trace_is_the_model_itself(stack, tokens):
    result = estimate(stack.model(0), tokens, TASK.answer, replace(GENTLE, batch=512))
    model = stack.model(0)
    logits = model(tokens)[:, TASK.answer].detach()
    right = tokens[:, TASK.length + 1 :]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), right.flatten())
    assert result.initial_loss == pytest.approx(float(loss), rel=1e-4)
    torch.testing.assert_close(result.loss[:, 0], loss.expand(3), rtol=1e-4, atol=1e-6)
    assert result.excess[:, 0].abs().max() < 1e-6
    assert result.loss.shape == (3, 40)


def test_stacked_chains_equal_chains_run_alone(stack, tokens, monkeypatch):
    assert stacking_pays(CONFIG, 8 * 9, torch.device("cpu"))
    settings = replace(
        GENTLE, batch=8, burn_in=5, preconditioner="rms", step_size=1e-5, localization=1.0, l2=0.01
    )
    stacked = estimate_all(stack, tokens, TASK.answer, settings)
    monkeypatch.setattr("mi_lab.llc.stacking_pays", lambda *_: False)
    alone = estimate_all(stack, tokens, TASK.answer, settings)
    for a, b in zip(stacked, alone, strict=True):
        torch.testing.assert_close(a.loss, b.loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.excess, b.excess, rtol=1e-3, atol=1e-5)
    single = estimate(stack.model(1), tokens, TASK.answer, settings)
    torch.testing.assert_close(single.loss, alone[1].loss, rtol=1e-6, atol=1e-7)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(stack, tokens):
    first, again, other = (estimate(stack.model(0), tokens, TASK.answer, GENTLE, seed=s) for s in (3, 3, 9))
    assert torch.equal(first.loss, again.loss)
    assert not torch.equal(first.loss, other.loss)


def test_the_model_is_left_as_it_was(stack, tokens):
    before = stack.flat.clone()
    estimate_all(stack, tokens, TASK.answer, replace(GENTLE, draws=8))
    assert torch.equal(stack.flat, before)


def test_weights_choose_what_counts(stack, tokens):
    weights = torch.zeros(len(tokens), TASK.length)
    weights[:, 1] = 2.0
    model = stack.model(0)
    some = estimate(model, tokens, TASK.answer, replace(GENTLE, draws=8), weights=weights)
    one = slice(TASK.answer.start + 1, TASK.answer.start + 2)
    alone = estimate(model, tokens, one, replace(GENTLE, draws=8))
    assert some.initial_loss == pytest.approx(alone.initial_loss, rel=1e-5)
    torch.testing.assert_close(some.loss, alone.loss, rtol=1e-4, atol=1e-6)


def test_rescaling_keeps_the_function(make_model, make_tokens):
    model, tokens = make_model(), make_tokens()
    twin = rescale(model, 3.0)
    torch.testing.assert_close(twin(tokens), model(tokens), rtol=1e-5, atol=1e-6)
    assert not torch.equal(twin.blocks[0].attn.W_V, model.blocks[0].attn.W_V)
    with pytest.raises(ValueError, match=r"factor must be finite and not 0; it is 0.0"):
        rescale(model, 0.0)


def test_rescaling_moves_the_isotropic_estimate_and_not_the_scaled_one(stack, tokens):
    model, twin = stack.model(0), rescale(stack.model(0), 6.0)
    isotropic = replace(GENTLE, nbeta=1e4, localization=1e3, draws=160, chains=12)
    scaled = replace(isotropic, preconditioner="rms", step_size=1e-5, localization=1.0)
    moved, kept = (
        [estimate(m, tokens, TASK.answer, settings) for m in (model, twin)]
        for settings in (isotropic, scaled)
    )
    assert moved[1].value > 1.5 * moved[0].value
    assert moved[1].value - moved[0].value > 4 * math.hypot(*(r.standard_error for r in moved))
    assert kept[1].value == pytest.approx(kept[0].value, rel=0.01)  # the same noise in the model's own units


def test_the_three_estimators_are_what_they_are_called(stack, tokens):
    assert ESTIMATORS["isotropic"].preconditioner == "isotropic"
    assert [ESTIMATORS[name].l2 > 0 for name in ("isotropic", "rms", "rms_l2")] == [False, False, True]
    short = {name: replace(s, draws=8, burn_in=0, batch=64) for name, s in ESTIMATORS.items()}
    for settings in short.values():
        assert math.isfinite(estimate(stack.model(0), tokens, TASK.answer, settings).value)


def test_a_tensor_of_zeros_stays_under_scaled_noise(tokens):
    fresh = Stack.init(CONFIG, (0,))
    settings = replace(GENTLE, draws=8, preconditioner="rms", step_size=1e-4, localization=1.0)
    assert math.isfinite(estimate_all(fresh, tokens, TASK.answer, settings)[0].value)


def test_data_that_does_not_fit_is_refused(stack, tokens):
    model = stack.model(0)
    with pytest.raises(ValueError, match=r"n >= batch = 64, not \[5, 9\]"):
        estimate(model, tokens[:5], TASK.answer, GENTLE)
    with pytest.raises(ValueError, match=r"answer must lie before the last of 9 positions"):
        estimate(model, tokens, slice(4, 9), GENTLE)
    with pytest.raises(ValueError, match="token 40 is outside"):
        estimate(model, torch.full((64, 9), 40), TASK.answer, GENTLE)
    with pytest.raises(ValueError, match=r"weights must have shape \[512, 4\], not \[512, 2\]"):
        estimate(model, tokens, TASK.answer, GENTLE, weights=torch.ones(512, 2))


def test_progress_is_reported_per_model(stack, tokens):
    seen: list[int] = []
    estimate_all(stack, tokens, TASK.answer, replace(GENTLE, draws=8), callback=seen.append)
    assert seen == [1, 2]


# -- devinterp ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_devinterp_gives_the_same_value(stack, tokens, monkeypatch):
    """Both with 12 chains of 100 draws and no burn-in; the chains' scatter is the error of each."""
    pytest.importorskip("devinterp")
    folder = Path(__file__).parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("llc_vs_devinterp", folder / "llc_vs_devinterp.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "TASK", TASK)
    settings = replace(GENTLE, step_size=3e-6, draws=100, chains=12)
    ours = estimate(stack.model(0), tokens, TASK.answer, settings)
    check = script.agreement(ours, script.devinterp_llc(stack.model(0), tokens, settings))
    assert check["passes"], check
    assert check["devinterp"]["initial_loss"] == pytest.approx(ours.initial_loss, rel=1e-4)
    assert ours.se_chains < 0.1 * ours.value  # else the agreement would mean nothing

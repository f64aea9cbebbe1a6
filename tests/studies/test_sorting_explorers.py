"""What a reader operates in the sorting chapter computes the same numbers as the library, and loses no input."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mi_lab.circuits import ov_circuit
from mi_lab.live import Explorer
from mi_lab.plot import Picture
from mi_lab.run import run
from mi_lab.studies.base import generate, predict, targets
from mi_lab.studies.sorting import explorers as x
from mi_lab.studies.sorting import figures, measure
from mi_lab.studies.sorting.circuit import copying_margin, hand_made_sorter, structure
from mi_lab.studies.sorting.recipes import PAPER

TASK = measure.task_of("paper")
OTHER = "50,0,49,1,25,24,26,10,40,30"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


MAKERS: dict[str, Callable[[], Explorer]] = {
    "list": x.list_explorer,
    "development": x.development_explorer,
    "gap": x.gap_explorer,  # needs all of GAP_RECIPES published: mi_lab.studies.sorting.publish
    "ablation": lambda: x.ablation_explorer(n=200),
    "hand-made": x.hand_made_explorer,
}
each = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
with_a_list = pytest.mark.parametrize(
    "make", [MAKERS["list"], MAKERS["hand-made"]], ids=["list", "hand-made"]
)


def rendered(explorer: Explorer) -> str:
    return explorer.draw(explorer.result)._repr_html_()


# All of them ----------------------------------------------------------------------------------------
def test_every_explorer_of_the_module_is_tested_here():
    made = {name for name, _ in inspect.getmembers(x, inspect.isfunction) if name.endswith("_explorer")}
    assert made == {f"{name.replace('-', '_')}_explorer" for name in MAKERS}


@each
def test_the_default_computes_draws_and_stands_in_the_static_page(make, monkeypatch):
    monkeypatch.setenv("MI_LAB_STATIC", "1")
    explorer = make()
    assert explorer.state == explorer.default
    drawn = explorer.draw(explorer.result)
    assert isinstance(drawn, Picture)
    assert len(drawn.caption) > 60
    shown = explorer._repr_mimebundle_()["text/html"]
    assert drawn.svg.split(">")[1] in shown
    assert "needs a kernel" in shown
    assert len(shown) < 150_000
    assert explorer.try_this


@each
def test_drawing_the_same_numbers_gives_the_same_bytes(make):
    explorer = make()
    assert rendered(explorer) == rendered(explorer)


@each
def test_the_widget_begins_with_the_default_and_has_every_control(make):
    widgets = pytest.importorskip("ipywidgets")
    explorer = make()
    *controls, reset, error, out = explorer.widget().children
    assert len(controls) == len(explorer.controls)
    assert reset.description == "reset"
    assert error.value == ""
    assert "<svg" in out.value
    widgets.Widget.close_all()


# Bad lists ------------------------------------------------------------------------------------------
BAD = {
    "letters": ("46,11,x,5,39,8,30,19,2,33", "'x' is not a number from 0 to 50"),
    "a tag": ("46,11,<b>,5,39,8,30,19,2,33", "'<b>' is not a number from 0 to 50"),
    "a sign": ("46,11,-3,5,39,8,30,19,2,33", "'-3' is not a number from 0 to 50"),
    "half a number": ("46,11,2.5,5,39,8,30,19,2,33", "'2.5' is not a number from 0 to 50"),
    "a repeat": ("46,11,11,5,39,8,30,19,2,33", "11 stands twice in the list; this task has no repeats"),
    "too large": ("46,11,51,5,39,8,30,19,2,33", "51 is outside the vocabulary 0..50"),
    "too short": ("46,11,5", "the list must have 10 numbers, it has 3"),
    "too long": ("46,11,27,5,39,8,30,19,2,33,1", "the list must have 10 numbers, it has 11"),
    "nothing": ("", "the list must have 10 numbers, it has 0"),
}


@with_a_list
@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=list(BAD))
def test_a_bad_list_gets_one_sentence_and_keeps_the_state(make, text, said):
    explorer = make()
    before = explorer.result
    with pytest.raises(ValueError) as error:  # noqa: PT011 -- the whole message is compared
        explorer.set(text=text)
    assert str(error.value) == said
    assert "\n" not in said
    assert explorer.state == explorer.default
    assert explorer.result is before


def test_a_bad_list_typed_by_a_reader_is_answered_beside_the_last_good_drawing():
    widgets = pytest.importorskip("ipywidgets")
    explorer = x.list_explorer()
    text, *_, error, out = explorer.widget().children
    good = out.value
    text.value = BAD["a tag"][0]
    assert "&#x27;&lt;b&gt;&#x27; is not a number from 0 to 50" in error.value
    assert out.value == good
    text.value = OTHER
    assert error.value == ""
    assert out.value != good
    widgets.Widget.close_all()


@with_a_list
def test_a_list_may_be_typed_with_spaces_or_brackets(make):
    explorer = make()
    found = explorer.set(text="[50 0 49, 1;25 24 26 10 40 30]")
    assert found.words[:10] == OTHER.split(",")


# Stepping through a list ----------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [0, 3])
def test_stepping_writes_what_the_model_generates_with_its_probabilities_and_attention(seed):
    explorer, model = x.list_explorer(), measure.model("paper", seed)
    tokens = TASK.encode(OTHER)[None]
    whole = generate(model, TASK, tokens)
    out = run(model, whole, record="blocks.0.attn.pattern")
    for output in (1, 4, 10):
        found = explorer.set(text=OTHER, output=output, seed=seed)
        assert found.tokens[: 11 + output].equal(whole[0, : 11 + output])
        position = 9 + output
        assert found.position == position
        torch.testing.assert_close(found.probability, out.logits[0, position].softmax(-1))
        torch.testing.assert_close(
            found.attention, out["blocks.0.attn.pattern"][0, :, position, : position + 1]
        )
        assert found.produced == [TASK.vocab[t] for t in whole[0, 11 : 11 + output].tolist()]
        assert found.right == sorted(OTHER.split(","), key=int)


def test_the_sorted_half_of_a_typed_list_does_not_reach_the_model():
    """The true answer stands in the encoded tokens; the model must only see what it wrote itself."""
    model = measure.model_at("paper", 0, 0)  # untrained: writes something else
    found = x.step_through(x.EXAMPLE, 10, (True, True), model, TASK)
    tokens = TASK.encode(x.EXAMPLE)[None].clone()
    tokens[:, 11:] = 0
    assert found.tokens.equal(generate(model, TASK, tokens)[0])
    assert found.produced != found.right


def test_a_head_switched_off_equals_its_zero_ablation_and_all_on_equals_the_clean_run():
    model = measure.model("paper", 0)
    tokens = TASK.encode(x.EXAMPLE)[None]
    for head in (0, 1):
        heads = tuple(h != head for h in range(2))
        found = x.step_through(x.EXAMPLE, 1, heads, model, TASK)
        expected = measure.removed(model, TASK, tokens, head, "zero")[0, 0].softmax(-1)
        torch.testing.assert_close(found.probability, expected)
        clean = x.step_through(x.EXAMPLE, 1, (True, True), model, TASK)
        assert not torch.allclose(found.probability, clean.probability, atol=1e-3)
        torch.testing.assert_close(found.attention, clean.attention)  # one layer: patterns can't see it


def test_training_can_be_scrubbed_and_knows_more_at_its_end():
    explorer = x.list_explorer()
    right = {}
    for step in explorer.controls["step"].options:  # type: ignore[union-attr]
        found = explorer.set(step=step, output=10)
        right[step] = sum(p == r for p, r in zip(found.produced, found.right))
    assert right[6000] == 10
    assert right[0] <= 3


def test_a_step_that_is_published_for_one_seed_only_is_refused_with_what_there_is():
    explorer = x.list_explorer()
    explorer.set(seed=3)
    with pytest.raises(
        ValueError, match="step 100 is published for seed 0 only; seed 3 has 250 to 2000 and 6000"
    ):
        explorer.set(step=100)
    assert explorer.state == explorer.default | {"seed": 3}
    explorer.set(step=500)
    with pytest.raises(ValueError, match="seed must be one of"):
        explorer.set(seed=99)


def test_the_caption_says_what_is_written_and_whether_it_is_right():
    explorer = x.list_explorer()
    assert "after 2, 5 the model writes 8, which is right" in explorer.draw(explorer.result).caption
    found = explorer.set(step=0, output=10)
    assert found.produced[-1] != found.right[9]
    wrong = f"the model writes {found.produced[-1]}, where {found.right[9]} would be right"
    assert wrong in explorer.draw(found).caption
    assert "first the model writes" in explorer.draw(explorer.set(step=0, output=1)).caption


def test_a_head_that_is_off_is_marked_in_the_drawing():
    explorer = x.list_explorer()
    assert "head 1 (off)" in explorer.draw(explorer.set(heads=(True, False))).svg
    assert "(off)" not in explorer.draw(explorer.reset()).svg


# Development ----------------------------------------------------------------------------------------
def test_circuits_at_a_step_are_those_of_its_checkpoint():
    explorer = x.development_explorer()
    for step in (0, 500, 6000):
        found = explorer.set(step=step)
        model = measure.model_at("paper", 0, step)
        margin = copying_margin(model, TASK)
        torch.testing.assert_close(found.margin, margin)
        torch.testing.assert_close(found.ov, ov_circuit(model).full()[:, :51, :51])
        assert found.structure.overlap == structure(margin).overlap
        assert f"Step {step}: {found.structure.overlap:.0%}" in explorer.draw(found).caption


def test_the_last_published_step_is_the_published_model():
    torch.testing.assert_close(
        x.circuits_at("paper", 0, 6000).margin, copying_margin(measure.model("paper", 0), TASK)
    )


def test_a_step_that_is_not_published_is_refused():
    with pytest.raises(ValueError, match="step must be one of"):
        x.development_explorer().set(step=33)


def test_what_the_reader_is_told_to_try_shows_it():
    """Drag from 100 to 1000: the overlap goes."""
    overlap = {step: x.circuits_at("paper", 0, step).structure.overlap for step in (100, 1000)}
    assert overlap[100] > overlap[1000] + 0.2


# The gap --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("recipe", x.GAP_RECIPES)
def test_every_cell_of_the_gap_explorer_is_published(recipe):
    """Red until every cell is trained and published: the explorer can't open without."""
    assert len(measure.seeds_of(recipe)) == 8


@pytest.mark.parametrize("recipe", x.GAP_RECIPES)
def test_a_gap_model_is_the_published_one_with_the_gaps_of_its_lists(recipe):
    task, model = measure.task_of(recipe), measure.model(recipe, 1)
    found = x.gap_model(recipe, 1)
    margin = copying_margin(model, task)
    torch.testing.assert_close(found.margin, margin)
    assert (found.suppress, found.single) == (structure(margin).suppress, structure(margin).single)
    assert found.suppress == measure.suppress_share(recipe, 1)
    assert found.gap == task.expected_gap
    gaps = task.variables(measure.lists(task, 2000))["gap"].flatten().numpy()
    assert found.gaps.sum() <= 1 + 1e-6
    assert len(found.gaps) == 16
    for gap in range(16):
        assert found.gaps[gap] == pytest.approx(float((gaps == gap).mean()), abs=1e-6)
    assert found.gaps[0] == 0.0
    assert float(gaps.mean()) == pytest.approx(found.gap, abs=0.05)


def test_the_gap_slider_runs_through_all_cells_in_order():
    explorer = x.gap_explorer()
    options = explorer.controls["gap"].options  # type: ignore[union-attr]
    assert options == (1.18, 1.36, 1.91, 2.82, 4.73)
    found = [explorer.set(gap=gap).recipe for gap in options]
    assert found == list(x.GAP_RECIPES)
    assert explorer.controls["seed"].options == tuple(range(8))  # type: ignore[union-attr]
    assert explorer.set(gap=4.73, seed=5).margin.equal(copying_margin(measure.model("paper", 5), TASK))
    with pytest.raises(ValueError, match="gap must be one of"):
        explorer.set(gap=2.0)


def test_the_caption_of_a_gap_says_its_numbers():
    explorer = x.gap_explorer()
    found = explorer.set(gap=4.73, seed=2)
    assert f"mean gap of 4.73, seed 2: {found.suppress:.0%} of the numbers" in explorer.draw(found).caption


# Removing heads -------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
@pytest.mark.parametrize("head", [0, 1])
def test_accuracies_without_a_head_are_those_of_the_study(how, head):
    explorer, model = x.ablation_explorer(n=300), measure.model("paper", 2)
    found = explorer.set(heads=(head != 0, head != 1), how=how, seed=2)
    tokens = measure.lists(TASK, 300, seed=61)
    right = targets(TASK, tokens)
    logits = measure.removed(model, TASK, tokens, head, how)
    hit = logits.argmax(-1) == right
    assert found.token == pytest.approx(float(hit.float().mean()))
    for number in (0, 17, 50):
        mine = right == number
        assert found.accuracy[number] == pytest.approx(float(hit[mine].float().mean()), abs=1e-6)
    probability = logits.softmax(-1)
    entropy = -(probability * probability.clamp(min=1e-30).log()).sum(-1).mean()
    assert found.entropy == pytest.approx(float(entropy), abs=1e-4)


def test_with_all_heads_on_nothing_is_removed():
    explorer = x.ablation_explorer(n=300)
    found = explorer.set(heads=(True, True))
    assert found.entropy == found.clean_entropy
    right = measure.lists(TASK, 300, seed=61)
    hit = predict(measure.model("paper", 0), TASK, right) == targets(TASK, right)
    assert found.token == pytest.approx(float(hit.float().mean()))
    assert "all heads on" in explorer.draw(found).caption


def test_with_all_heads_off_hardly_anything_is_right():
    assert x.ablation_explorer(n=300).set(heads=(False, False), how="zero").token < 0.15


def test_the_two_pictures_are_each_others_negative_as_the_reader_is_told():
    explorer = x.ablation_explorer(n=1000)
    without = [explorer.set(heads=heads).accuracy for heads in ((False, True), (True, False))]
    assert np.corrcoef(without[0], without[1])[0, 1] < -0.6


# The sorter written by hand -------------------------------------------------------------------------
def test_the_hand_made_sorter_is_the_librarys_and_sorts():
    explorer = x.hand_made_explorer()
    found = explorer.set(output=10, text=OTHER)
    assert found.produced == found.right
    model = hand_made_sorter(TASK, PAPER.config, a=20.0, b=1.0)
    tokens = TASK.encode(OTHER)[None]
    torch.testing.assert_close(
        found.probability, run(model, tokens[:, :20]).logits[0, -1].detach().softmax(-1)
    )


@pytest.mark.parametrize("norm", ["LayerNorm", "none"])
@pytest.mark.parametrize("head", [0, 1])
def test_switching_a_head_off_loses_exactly_the_numbers_after_its_range(norm, head):
    """Each head serves a range of *current* tokens (0..25 the first, 26.. and SEP the second): an output
    goes wrong if and only if its current token is in the range of the head that is off."""
    rows = 26  # ceil(52 / 2)
    model = hand_made_sorter(TASK, x_config(norm), a=20.0, b=1.0)
    tokens = measure.lists(TASK, 100, seed=91)
    current = TASK.variables(tokens)["current"]
    hit = measure.removed(model, TASK, tokens, head, "zero").argmax(-1) == targets(TASK, tokens)
    mine = current // rows == head
    assert bool(hit[~mine].all())
    assert float(hit[mine].float().mean()) < 0.1
    explorer = x.hand_made_explorer()
    heads = tuple(h != head for h in range(2))
    for output in range(1, 11):
        clean = explorer.set(output=output, norm=norm, heads=(True, True))
        before = TASK.vocab.index(clean.words[clean.position])
        forced = explorer.set(heads=heads)
        if forced.produced[: output - 1] == clean.produced[: output - 1]:  # nothing wrong until here
            kept = forced.produced[-1] == forced.right[output - 1]
            assert kept == (before // rows != head), (output, before)


def x_config(norm: str) -> Any:
    from dataclasses import replace

    return replace(PAPER.config, norm="LN" if norm == "LayerNorm" else None)


def test_blunt_attention_makes_its_first_mistake_as_the_reader_is_told():
    explorer = x.hand_made_explorer()
    wrong = {}
    for sharpness in explorer.controls["sharpness"].options:  # type: ignore[union-attr]
        found = explorer.set(sharpness=sharpness, output=10)
        wrong[sharpness] = sum(p != r for p, r in zip(found.produced, found.right))
    assert wrong[1.0] == wrong[5.0] == 0
    assert wrong[0.02] > 0


# Figures --------------------------------------------------------------------------------------------
def test_circuit_figures_have_a_map_a_head_in_its_colour():
    model = measure.model("paper", 0)
    for kind in ("ov", "qk"):
        shown = figures.circuits(model, TASK, kind)
        assert shown.svg.count("data:image/png") == 2
        for head in (0, 1):
            assert f"{kind.upper()}, head {head}" in shown.svg
            assert f"var(--mi-head-{head}," in shown.svg
    with pytest.raises(ValueError, match="kind must be 'ov' or 'qk', not 'kq'"):
        figures.circuits(model, TASK, "kq")


def test_margins_are_drawn_a_panel_a_model():
    models = {f"seed {seed}": measure.model("paper", seed) for seed in (0, 1, 2)}
    shown = figures.margins(models, TASK, "c")
    for name in models:
        assert f">{name}<" in shown.svg


def test_development_is_drawn_for_each_seed_and_an_unknown_one_refused():
    assert figures.development_image("paper", 3).caption.startswith("Seed 3, from top to bottom")
    with pytest.raises(ValueError, match="99"):
        figures.development_image("paper", 99)


def test_overlap_is_drawn_with_step_0_on_its_axis():
    shown = figures.overlap_over_training(["paper"], {"paper": "coupled"})
    assert "overlap" in shown.svg


def test_gap_dots_have_a_dot_a_seed():
    shown = figures.gap_dots(["window_12", "paper"])
    assert shown.svg.count("<use ") >= 16
    assert ">1.18<" in shown.svg
    assert ">4.73<" in shown.svg


def test_gap_dots_can_show_the_busiest_heads_share_instead():
    shown = figures.gap_dots(["paper"], "busiest")
    assert "busiest head" in shown.svg
    assert shown.caption != figures.gap_dots(["paper"]).caption
    with pytest.raises(ValueError, match="what must be 'suppress' or 'busiest', not 'idle'"):
        figures.gap_dots(["paper"], "idle")


def test_division_tells_one_busy_head_from_two_that_share():
    alone = torch.stack([torch.ones(50), torch.full((50,), -0.5)])
    assert measure.division(alone) == (1.0, 1.0)
    halves = torch.zeros(2, 50)
    halves[0, :25] = halves[1, 25:] = 1.0
    share, below = measure.division(halves)
    assert share == pytest.approx(0.5, abs=0.03)
    assert below == 0.0
    assert measure.division(torch.ones(1, 50)) == (1.0, 0.0)


def test_the_attention_figure_is_the_models_pattern_on_that_list():
    model = measure.model("paper", 0)
    shown = figures.attention(model, TASK, x.EXAMPLE)
    tokens = TASK.encode(x.EXAMPLE)
    assert shown.words == [TASK.vocab[t] for t in tokens.tolist()]
    pattern = run(model, tokens[None], record="blocks.0.attn.pattern")["blocks.0.attn.pattern"][0]
    torch.testing.assert_close(shown.pattern, pattern)


def test_published_llc_curves_are_drawn_line_by_seed():
    curves = measure.llc_curves()["estimators"]
    shown = figures.llc(curves, {name: name for name in curves})
    for name in curves:
        assert f">{name}<" in shown.svg


# The study as a reader imports it -------------------------------------------------------------------
def test_the_study_gives_tasks_models_and_its_lazy_parts():
    from mi_lab.studies import sorting as study

    assert study.task(length=6, n_numbers=31).expected_gap == pytest.approx(32 / 7)
    torch.testing.assert_close(study.load("paper", 3).embed.W_E, measure.model("paper", 3).embed.W_E)
    assert study.explorers is x
    assert study.figures is figures
    assert [name for name in study.__all__ if not hasattr(study, name)] == []
    with pytest.raises(ValueError, match="did you mean 'sorting/paper'"):
        study.load("papr")
    with pytest.raises(AttributeError, match="no attribute 'explorer'"):
        study.explorer  # noqa: B018


def test_llc_points_with_a_warning_are_hollow():
    def panel(warnings: list[str]) -> str:
        points = [{"step": s, "value": float(s), "warnings": warnings} for s in (250, 500)]
        return figures.llc({"rms": {"0": points}}, {"rms": "RMS"}).svg

    hollow, full = panel(["left the basin"]), panel([])
    assert hollow != full
    assert full.count("fill: var(--mi-head-0") > hollow.count("fill: var(--mi-head-0")

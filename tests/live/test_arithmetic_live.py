"""The arithmetic explorers from Python: numbers, checks, the widget's traits, the page form, the kept counts."""

from __future__ import annotations

import json
import re

import pytest
import torch

from mi_lab import zoo
from mi_lab.live import export
from mi_lab.run import Node, run
from mi_lab.studies import arithmetic as study
from mi_lab.studies.arithmetic import algorithm_live, live, live_scans, live_state

NAME = "add_d3_l2_h3"


@pytest.fixture
def widget(monkeypatch):
    """The explorer as a notebook has it."""
    monkeypatch.delenv("MI_LAB_STATIC", raising=False)
    pytest.importorskip("anywidget")
    return live.explorer(model=NAME)


def test_look_is_a_plain_run_of_the_model():
    task, model = live_state.task_of(NAME), export.as_stored(study.load(NAME, 0))
    found = live.look("199+801", model=NAME, node="P8L1H1")
    tokens = task.encode("199+801=")[None]
    out = run(model, tokens, record=("blocks.1.attn.pattern",))
    assert found.written == found.right == found.clean == "+1000"
    torch.testing.assert_close(found.logits, out.logits[0, task.answer])
    torch.testing.assert_close(found.attention, out["blocks.1.attn.pattern"][0, 1, 8, :9])
    assert found.predicted is None
    assert live.look("199+801", model=NAME, node="P8L1MLP").attention is None


def test_direct_effects_and_the_rest_are_the_logits():
    """Zeroing a part removes its direct effect; the parts that write most are those that need to."""
    found = live.look("199+801", model=NAME)
    without = live.look("199+801", model=NAME, edits=("P11L1MLP:zero",))
    row = found.parts.index("L1MLP")
    assert without.direct[row, -1].abs() < 1  # its bias is left
    assert found.direct[row, -1] > 3
    torch.testing.assert_close(without.direct[:, :-1], found.direct[:, :-1])


@pytest.mark.parametrize("mode", ["zero", "mean", "other"])
def test_an_edited_node_gets_its_value(mode):
    task, model = live_state.task_of(NAME), live_scans.stored(NAME, 0)
    tokens, store = (task.encode(x + "=")[None] for x in ("123+456", "777+888"))
    name, at = "blocks.0.attn.z", (slice(None), 11, 1)
    values = {
        "zero": 0.0,
        "mean": live._means(NAME, 0).z[0, :, 11, 1],
        "other": run(model, store, record=name)[name][at],
    }

    def edit(z):
        z = z.clone()
        z[at] = values[mode]
        return z

    want = run(model, tokens, edit={name: edit}).logits[0, task.answer]
    found = live.look("123+456", other="777+888", model=NAME, edits=(f"P11L0H1:{mode}",))
    if found.written == found.right:  # else the model has read its own wrong digits
        torch.testing.assert_close(found.logits, want)
    else:
        torch.testing.assert_close(found.logits[:1], want[:1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": "12x+3"}, "is no token of a question"),
        ({"question": "1234+5"}, "has 4 digits"),
        ({"question": "1-5"}, "only adds"),
        ({"question": "15"}, "has no operator"),
        ({"other": "+5"}, "first number is missing"),
        ({"model": "gpt"}, "there is no model"),
        ({"seed": 99}, "seed must be one of"),
        ({"node": "L0H0"}, "needs a position"),
        ({"node": "P12L0H0"}, "P12L0H0"),
        ({"edits": ["P3L0H0"]}, "an edit is a node and"),
        ({"edits": ["P3L9H0:zero"]}, "L9"),
        ({"mode": "half"}, "mode must be"),
        ({"fact": "colour"}, "fact must be"),
        ({"move": "<b>"}, "move must be"),
        ({"colour": 1}, "there is no field"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(changes, message, widget):
    before = widget.state
    with pytest.raises(ValueError, match=message):
        widget.set(**changes)
    assert widget.state == before


def test_traits_can_be_observed_set_and_linked(widget):
    widgets = pytest.importorskip("ipywidgets")
    traitlets = pytest.importorskip("traitlets")
    seen = []
    widget.observe(lambda change: seen.append(change["new"]), names="question")
    text = widgets.Text(value=widget.question)
    link = widgets.link((text, "value"), (widget, "question"))
    text.value = "001+009"
    assert widget.question == "001+009"
    widget.edits = ["P7L0H0:mean"]
    assert widget.look().written == live.look("1+9", model=NAME, edits=("P7L0H0:mean",)).written
    with pytest.raises(traitlets.TraitError, match="only adds"):
        widget.question = "3-1"
    assert widget.question == seen[-1] == "001+009"
    link.unlink()


def test_fields_that_depend_on_others_follow(widget):
    widget.set(other="199+801", move="ST1")
    assert widget.move == "ST1"
    widget.set(fact="S2")
    widget.reset()
    assert widget.state == live.describe(model=NAME).state


def test_moves_need_two_questions_of_a_kind():
    task = study.task(digits=3, operations="+-")
    assert live_state.moves(task, "111+222", "333+444")[:3] == ["SA0", "SA1", "SA2"]
    assert live_state.moves(task, "111+222", "9-444") == ["OPR0", "OPR1", "OPR2"]
    assert live_state.moves(task, "9-111", "444-9") == ["SGN0", "SGN1", "SGN2"]
    assert "NV1" in live_state.moves(task, "9-111", "9-444")


def test_models_are_sent_when_they_are_wanted(widget, monkeypatch):
    sent = []
    monkeypatch.setattr(widget, "send", lambda content, buffers=None: sent.append((content, buffers)))
    widget._answer(widget, {"want": "model", "key": f"{NAME}-1"}, [])
    widget._answer(widget, {"want": "model", "key": "../secret"}, [])
    assert sent[0][0] == {"key": f"{NAME}-1"}
    assert sent[0][1][0][:8] == export.MAGIC
    assert "there is no model" in sent[1][0]["error"]


def test_the_page_form_is_stable_and_holds_no_markup_of_the_state(monkeypatch):
    monkeypatch.setenv("MI_LAB_STATIC", "1")
    for make in (live.explorer, live.algorithm):
        one, two = (make(title="</script><b>x") for _ in range(2))
        data = one._repr_mimebundle_()
        assert data == two._repr_mimebundle_()
        text = re.search(r'<script type="application/json">(.*?)</script>', data["text/html"])
        assert text is not None
        assert json.loads(text.group(1))["spec"]["title"] == "</script><b>x"
        assert "http" not in data["text/html"].replace("http://www.w3.org/", "")
        assert len(data["text/html"]) < 60_000


def test_model_files_are_small_and_carry_their_scan():
    for key in (f"{NAME}-0", f"{NAME}-2"):
        assert len(live.model_file(key)) <= 600_000
    assert len(live.keys()) == len({*live.keys()}) >= 3
    with pytest.raises(ValueError, match="there is no model"):
        live.model_file("add_d3_l2_h3-9")


# ---- counts that are kept ----


def test_kept_counts_are_what_a_scan_gives():
    found, fresh = live_scans.counts(NAME, 0), live_scans._counted(live_scans.scanned(NAME, 0))
    assert (live_scans.SCANS / f"{NAME}.npz").exists()
    assert found.asked == fresh.asked == dict.fromkeys(["S0", "S1", "S2", "S3"], live_scans.PER_CLASS)
    assert (found.questions, found.dropped) == (fresh.questions, fresh.dropped)
    assert (found.hits - fresh.hits).abs().max() <= 1  # a tie may fall either way on another machine
    assert found.facts()[Node.parse("P0L0H0")] == 0 < max(found.facts().values())


def test_every_published_model_has_its_counts_and_other_weights_are_counted_anew(monkeypatch):
    called = []
    monkeypatch.setattr(live_scans, "scanned", lambda *x: called.append(x))
    monkeypatch.setattr(live_scans, "_counted", lambda table: None)
    live_scans.counts.cache_clear()
    for name in live.published():
        live_scans.counts(name, zoo.read(f"arithmetic/{name}").labels[0])
    assert called == [], "run python -m mi_lab.studies.arithmetic.live_scans"
    monkeypatch.setattr(live_scans, "fingerprint", lambda model: "another")
    live_scans.counts.cache_clear()
    live_scans.counts(NAME, 0)
    assert called == [(NAME, 0)]
    live_scans.counts.cache_clear()


# ---- the algorithms ----


def test_a_stepped_question():
    found = algorithm_live.step("1999+8001", algorithm="look_back_2")
    assert found[:5] == ("+09000", "+10000", 1, "S4", 0.009)
    assert len(found.steps) == 15
    assert algorithm_live.step("7-7").kind == "M0"
    assert algorithm_live.step("3-7", digits=4).answer == "-00004"


def test_the_state_of_the_algorithms():
    check, state = algorithm_live.check, algorithm_live.STATE
    assert check({**state, "question": " 1 2\u2212 7=5", "digits": 1, "position": 40}) == {
        "question": "12-07", "digits": 2, "algorithm": "st_sv", "position": 8,
    }  # fmt: skip
    for changes, message in [
        ({"question": "12"}, "has no operator"),
        ({"question": "9" * 16 + "+1"}, "has 16 digits"),
        ({"algorithm": "abacus"}, "there is no algorithm"),
        ({"algorithm": "ripple", "question": "3-2"}, "has the operations"),
        ({"digits": 16}, "from 1 to 15"),
        ({"position": -1}, "from 0 to 47"),
    ]:
        with pytest.raises(ValueError, match=message):
            check({**state, **changes})
    with pytest.raises(ValueError, match="there is no field"):
        algorithm_live.describe(colour=1)
    with pytest.raises(ValueError, match="it runs programs"):
        algorithm_live.describe().model_file("st_sv")

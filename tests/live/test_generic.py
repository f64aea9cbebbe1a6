"""The explorer for any model: checks and numbers in Python, the widget, and the page beside torch."""

from __future__ import annotations

import json

import pytest
import torch

from mi_lab.live import export, generic, live_explorer
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.run import Node, run
from tests.live import live_site
from tests.live.conftest import served

CONFIG = TransformerConfig(n_layers=2, n_heads=2, d_model=12, d_head=6, d_mlp=16, n_ctx=6, d_vocab=7)
VOCAB = ("a", "b", "c", "d", "e", "f", " ")


@pytest.fixture
def model():
    """A small model that has learned nothing."""
    torch.manual_seed(5)
    return Transformer(CONFIG)


def test_look_is_a_plain_run_of_what_the_page_holds(model):
    tokens = torch.tensor([1, 4, 0, 6])
    found = generic.look(model, tokens, position=2, layer=0, off=["L0H1", "L1MLP"])
    edit = {Node(0, 1): 0.0, Node(1): 0.0}
    name = "blocks.0.attn.pattern"
    want = run(export.as_stored(model), tokens[None], record=(name,), edit=edit)
    torch.testing.assert_close(found.logits, want.logits[0, 2])
    torch.testing.assert_close(found.attention, want[name][0, :, 2])
    clean = generic.look(model, [1, 4, 0, 6], position=2, layer=0)
    assert not torch.allclose(clean.logits, found.logits)
    assert not torch.allclose(found.logits, generic.look(model, tokens, position=2, off=["L0H0"]).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": "a z"}, "'z' is no token of this model"),
        ({"tokens": "<b>"}, "is no token of this model"),
        ({"tokens": ""}, "1 to 6 tokens, not 0"),
        ({"tokens": "a b c d e f a"}, "1 to 6 tokens, not 7"),
        ({"position": -1}, "whole number"),
        ({"position": "2"}, "whole number"),
        ({"layer": 2}, "layers go from 0 to 1"),
        ({"off": ["L0H2"]}, "no node 'L0H2'; it has L0H0"),
        ({"colour": 1}, "no field 'colour'"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(model, changes, message, monkeypatch):
    monkeypatch.setenv("MI_LAB_STATIC", "1")
    one = generic.explorer(model, tokens=[0, 1], vocab=VOCAB)
    before = one.state
    with pytest.raises(ValueError, match=message):
        one.set(**changes)
    assert one.state == before


def test_words_that_can_not_be_typed_get_a_sign_and_equal_ones_are_refused(model):
    assert generic.words_of(model, VOCAB)[-1] == "\u2423"
    assert generic.words_of(model) == list("0123456")
    assert generic.words_of(model, ["x", ""])[:3] == ["x", "\u2205", "2"]
    with pytest.raises(ValueError, match="same word"):
        generic.describe(model, vocab=["a"] * 7)
    with pytest.raises(ValueError, match="1 to 6 tokens"):
        generic.describe(model, tokens=[7])


def test_a_position_behind_the_text_becomes_its_last_one(model):
    live = generic.describe(model, tokens=[0, 1, 2, 3], vocab=VOCAB, off=["L1H0", "L0H1"])
    assert live.state["off"] == ["L0H1", "L1H0"]
    assert live.check({**live.state, "tokens": "b,c"}) == {**live.state, "tokens": "b c", "position": 1}


def test_as_a_widget_its_traits_lead_and_the_kernel_sends_the_model(model, monkeypatch):
    monkeypatch.delenv("MI_LAB_STATIC", raising=False)
    pytest.importorskip("anywidget")
    widget = generic.explorer(model, tokens=[0, 1, 2], vocab=VOCAB)
    assert "inline" not in widget._live["spec"]["weights"]  # a widget's state stays small
    assert len(json.dumps({name: widget.get_state()[name] for name in (*widget.state, "_live")})) < 2_000
    sent = []
    monkeypatch.setattr(widget, "send", lambda content, buffers=None: sent.append((content, buffers)))
    widget._answer(widget, {"want": "model", "key": "model"}, [])
    widget._answer(widget, {"want": "model", "key": "other"}, [])
    assert sent[0][1][0][:8] == export.MAGIC
    assert "there is no model 'other'" in sent[1][0]["error"]
    widget.tokens = "f a"
    assert widget.position == 1
    torch.testing.assert_close(widget.look().logits, generic.look(model, [5, 0]).logits)


def test_the_page_form_stands_without_javascript_and_is_stable(model, monkeypatch):
    monkeypatch.setenv("MI_LAB_STATIC", "1")
    one, two = (generic.explorer(model, tokens=[0, 1], vocab=["<i>", *VOCAB[1:]]) for _ in range(2))
    page = one._repr_html_()
    assert page == two._repr_html_()
    still = page.split('<script type="application/json">')[0]
    assert "&lt;i&gt; b" in still
    best = generic.look(model, [0, 1]).probability
    assert f"{100 * float(best.max()):.1f} %" in still
    assert "<i>" not in page


@pytest.mark.browser
@pytest.mark.timeout(900)
def test_the_page_agrees_with_torch_and_a_link_restores_it(model, open_at, tmp_path, tools):
    live = generic.describe(model, tokens=[1, 4, 0, 6, 2], vocab=VOCAB, try_this="switch a head off")
    live_explorer.write_script(tmp_path / "_static")
    live_site.write_page(tmp_path, "Any model", live_explorer.page_html(live, live.state))
    with served(tmp_path) as address:
        page = open_at(f"{address}/page.html", "#mi-model[data-mi-live=ready]", reduced_motion="reduce")
        place = page.locator("#mi-model")
        place.get_by_role("button", name="H1 on").nth(1).click()
        place.get_by_label("layer", exact=True).focus()
        page.keyboard.press("ArrowLeft")
        place.locator("input[type=text]").fill("c, \u2423 f")
        state = page.evaluate("document.querySelector('#mi-model').miLive.frame.state")
        assert state == {"tokens": "c \u2423 f", "position": 2, "layer": 0, "off": ["L1H1"]}
        got = page.evaluate(
            """() => {
                const { logits, pattern, n } = document.querySelector("#mi-model").miLive.result;
                return [Array.from(logits), Array.from(pattern), n];
            }"""
        )
        want = live.look(state)
        torch.testing.assert_close(torch.tensor(got[0]), want.logits, atol=1e-4, rtol=1e-5)
        seen = torch.tensor(got[1]).view(2, got[2], got[2])[:, 2]
        torch.testing.assert_close(seen, want.attention, atol=1e-4, rtol=1e-5)
        link = page.evaluate("document.querySelector('#mi-model').miLive.frame.link")
        again = open_at(link, "#mi-model[data-mi-live=ready]", viewport={"width": 360, "height": 740})
        assert again.evaluate("document.querySelector('#mi-model').miLive.frame.state") == state
        assert again.evaluate("document.documentElement.scrollWidth <= innerWidth")
        again.get_by_role("button", name="Undo").click()  # a link is one step
        assert again.evaluate("document.querySelector('#mi-model').miLive.frame.state") == live.state
        again.add_script_tag(path=str(tools / "axe-core/axe.min.js"))
        found = again.evaluate("async () => (await axe.run()).violations.map((v) => [v.id, v.impact])")
        assert [v for v in found if v[1] in ("serious", "critical", "moderate")] == []


@pytest.mark.browser
def test_a_part_that_is_missing_is_said_and_the_still_picture_stays(model, open_at, tmp_path, allowed):
    allowed.append("404")
    live = generic.describe(model, tokens=[1, 4], vocab=VOCAB)
    live_explorer.write_script(tmp_path / "_static")
    (tmp_path / "_static/mi-lab-live-generic.js").unlink()
    live_site.write_page(tmp_path, "Any model", live_explorer.page_html(live, live.state))
    with served(tmp_path) as address:
        page = open_at(f"{address}/page.html", "#mi-model[data-mi-live=failed]")
        assert "could not be loaded" in page.locator("#mi-model [role=alert]").inner_text()
        assert "What the model expects" in page.locator("#mi-model .mi-live-still").inner_text()

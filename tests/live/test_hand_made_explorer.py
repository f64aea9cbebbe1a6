"""The start page's explorer in headless Chromium: hand-made sorters along a slider, beside torch."""

from __future__ import annotations

import pytest
import torch

from mi_lab.live import live_explorer
from mi_lab.studies.sorting import live
from tests.book.built import SCREENSHOTS
from tests.live import live_site
from tests.live.conftest import served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
KEYS = [
    "hand_LN_1-0-0",
    "hand_plain_5-0-0",
    "hand_LN_0.5-0-0",
    "hand_LN_0.02-0-0",
    "hand_plain_1-0-0",
    "hand_plain_0.02-0-0",
]
EXPLORER = "document.querySelector('#mi-hand-made').miLive"
READY = "#mi-hand-made[data-mi-live=ready]"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page with the explorer, on 127.0.0.1."""
    folder = tmp_path_factory.mktemp("hand")
    one = live.describe(by_hand=True, name="mi-hand-made", title="A sorter written by hand")
    live_explorer.write_script(folder / "_static")
    live_explorer.write_models(folder / live_explorer.MODELS / live.FOLDER, KEYS, live.model_file, "test")
    live_site.write_page(folder, "Start", live_explorer.page_html(one, dict(one.state)))
    with served(folder) as place:
        yield f"{place}/page.html"


def logits(page):
    """Of the chosen output, once the picture is that of the state."""
    page.wait_for_function(f"{EXPLORER}.frame.busyLine.hidden")
    return torch.tensor(page.evaluate(f"Array.from({EXPLORER}.result.logits)"))


def agree(page, **state):
    """Compare with torch."""
    torch.testing.assert_close(logits(page), live.look(output=4, **state).logits, atol=1e-4, rtol=1e-5)


def test_the_slider_blunts_the_attention_until_it_makes_mistakes(open_at, address):
    page = open_at(address, READY)
    box = page.locator("#mi-hand-made")
    agree(page, model="hand_LN_1")
    assert "all 10 outputs are right" in box.locator(".mi-x-headline").inner_text()
    slider = box.get_by_label("sharpness b, LayerNorm", exact=True)
    slider.focus()
    page.keyboard.press("ArrowLeft")
    agree(page, model="hand_LN_0.5")
    page.keyboard.press("Home")
    agree(page, model="hand_LN_0.02")
    assert "outputs are wrong" in box.locator(".mi-x-headline").inner_text()
    other = box.get_by_label("sharpness b, no LayerNorm", exact=True)
    assert box.locator(f"output[for='{other.get_attribute('id')}']").inner_text() == "another model"
    other.focus()
    page.keyboard.press("End")
    page.keyboard.press("Home")
    agree(page, model="hand_plain_0.02")
    assert box.locator("label", has_text="training step").count() == 0  # nobody trained it
    box.get_by_role("button", name="Reset").click()
    box.get_by_text("zero", exact=True).first.click()
    agree(page, model="hand_LN_1", heads=("zero", "on"))


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_accessible_fitting_and_photographed(look, open_at, address, tools):
    options = {"viewport": {"width": 360, "height": 740}} if look == "phone" else {}
    page = open_at(address, READY, reduced_motion="reduce", **options)
    if look == "dark":
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.add_script_tag(path=str(tools / "axe-core/axe.min.js"))
    found = page.evaluate("async () => (await axe.run()).violations.map((v) => [v.id, v.impact])")
    assert [v for v in found if v[1] in ("serious", "critical", "moderate")] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    (SCREENSHOTS / "live").mkdir(parents=True, exist_ok=True)
    page.locator("#mi-hand-made").screenshot(path=str(SCREENSHOTS / f"live/hand-made-{look}.png"))

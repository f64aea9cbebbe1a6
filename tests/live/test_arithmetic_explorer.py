"""The arithmetic explorer in headless Chromium: by mouse and keyboard, its numbers beside torch's."""

from __future__ import annotations

import base64
import json

import pytest
import torch

from mi_lab.live import scripts
from mi_lab.run import Node
from mi_lab.studies.arithmetic import interchanges, live, live_scans, live_state
from tests.book.built import SCREENSHOTS
from tests.live.arithmetic_page import (
    BOX,
    EXPLORER,
    FIRST,
    PARTIAL,
    SMALL,
    agree,
    cell,
    headline,
    look,
    numbers,
    refit,
    set_,
    state_of,
    written,
)  # fmt: skip
from tests.live.conftest import served
from tests.live.test_sorting_explorer import MODEL

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A small built page."""
    return written(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def address(folder):
    """It, on 127.0.0.1."""
    with served(folder) as host:
        yield f"{host}/page.html"


@pytest.fixture
def open_page(open_at, address):
    """Opens the page with its first explorer alive."""
    return lambda url=address, **options: open_at(url, f"{BOX}[data-mi-live=ready]", **options)


STATES = [
    {},
    {"question": "1+2", "node": "P3L1H1"},
    {"edits": [f"{FIRST['node']}:mean"]},
    {"edits": [f"{FIRST['node']}:zero", "P7L0MLP:zero"], "node": "P7L1MLP"},
    {"edits": ["P7L0H0:other", "P7L0H1:other", "P6L1H2:mean"], "move": "ST1", "node": "P8L1H2"},
    {"question": "9+1", "edits": ["P8L0H2:other"], "move": "SA0"},
    {"model": SMALL, "seed": 1, "question": "199+801", "other": "5+5", "node": "P10L1H1", "move": "SV1"},
]
FURTHER = [
    {"model": "sub_d3_l2_h3", "question": "41-47", "other": "900-1", "node": "P8L1H0", "edits": ["P7L0H0:zero"]},
    {"model": "mix_d3_l2_h3", "question": "41-47", "other": "1-9", "node": "P7L0H0",
     "edits": ["P7L0H0:other"], "move": "ND1"},
    {"model": "mix_d3_l2_h3", "question": "411+47", "other": "999-111", "node": "P3L0MLP",
     "edits": ["P8L0H1:other"], "move": "OPR1"},
]  # fmt: skip


@PARTIAL
@pytest.mark.parametrize("changes", [*STATES, *FURTHER], ids=lambda x: "-".join(x) or "first")
def test_numbers_are_those_of_torch(changes, open_page):
    page = open_page()
    assert refit(page, changes)
    page.wait_for_function(f"{EXPLORER}.result.state === {EXPLORER}.frame.state")
    agree(numbers(page), look(state_of(page)))


def test_an_edit_that_matters_changes_the_answer(open_page):
    """The control of the test above: with the head that most questions need gone, it says what breaks."""
    page = open_page()
    before = numbers(page)
    set_(page, edits=[f"{FIRST['node']}:zero"])
    after = numbers(page)
    assert torch.tensor(after["logits"]).sub(torch.tensor(before["logits"])).abs().max() > 1
    assert f"With {FIRST['node'].replace('L', ' L').replace('H', ' H')} replaced" in headline(page)


def test_by_mouse(open_page):
    page = open_page()
    box = page.locator(BOX)
    assert "which is right" in headline(page)
    assert box.locator(".mi-live-still").count() == 0
    task = live_state.task_of(FIRST["model"])
    last = task.n_ctx - 2
    node = f"P{last}L1MLP"
    cell(page, node).click()
    assert state_of(page)["node"] == node
    assert cell(page, node).get_attribute("aria-selected") == "true"
    box.get_by_role("button", name="Replace P").click()
    assert state_of(page)["edits"] == [f"{node}:mean"]
    box.get_by_text("zero", exact=True).first.click()
    assert state_of(page)["edits"] == [f"{node}:zero"]
    agree(numbers(page), look(state_of(page)))
    second = f"P{last}L0MLP"
    cell(page, second).dblclick()
    assert state_of(page)["edits"] == [f"{node}:zero", f"{second}:zero"]
    assert "mi-x-cut" in cell(page, second).get_attribute("class")
    agree(numbers(page), look(state_of(page)))
    box.get_by_role("button", name="Put all back").click()
    assert state_of(page)["edits"] == []
    box.get_by_text("2nd question").click()
    other = box.get_by_label("Second question", exact=False).first
    assert other.is_visible()
    box.get_by_label("what the nodes are said to carry").select_option("ST1")
    assert "Nodes that carry ST1" in headline(page)
    box.get_by_role("button", name="previous position").click()
    assert state_of(page)["node"] == f"P{last - 1}L0MLP"
    box.locator("svg rect.press").nth(3).click()
    assert state_of(page)["node"] == "P3L0MLP"
    before = state_of(page)["question"]
    box.get_by_label("class of a new question").select_option("S2")
    box.get_by_role("button", name="New question").first.click()
    assert state_of(page)["question"] != before
    assert "Class S2" in box.locator(".mi-x-view .mi-x-caption").first.inner_text()
    agree(numbers(page), look(state_of(page)))
    box.get_by_role("button", name="Undo").click()
    assert state_of(page)["question"] == before
    box.get_by_role("button", name="Redo").click()
    assert state_of(page)["question"] != before
    box.get_by_role("button", name="Reset").click()
    assert state_of(page) == FIRST


def test_by_keyboard(open_page):
    page = open_page()
    box = page.locator(BOX)
    box.get_by_label("Question", exact=False).first.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("123+456")
    n = live_state.task_of(FIRST["model"]).digits
    assert state_of(page)["question"] == "+".join(x.zfill(n) for x in ("123", "456"))
    cell(page, FIRST["node"]).focus()
    at = Node.parse(FIRST["node"])
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp" if at.head else "ArrowDown")
    node = f"P{at.position - 1}L{at.layer}H{at.head - 1 if at.head else 1}"
    assert state_of(page)["node"] == node
    assert page.evaluate("document.activeElement.dataset.node") == node
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert float(outline.removesuffix("px")) >= 2
    page.keyboard.press("Enter")
    assert state_of(page)["edits"] == [f"{node}:mean"]
    assert "replaced by its mean" in page.evaluate("document.activeElement.getAttribute('aria-label')")
    agree(numbers(page), look(state_of(page)))
    page.keyboard.press(" ")
    assert state_of(page)["edits"] == []
    page.keyboard.press("Home")
    assert state_of(page)["node"].startswith("P0L")
    page.keyboard.press("ArrowLeft")
    assert state_of(page)["node"].startswith("P0L")
    page.keyboard.press("End")
    assert state_of(page)["node"].startswith(f"P{3 * n + 2}L")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+Shift+Z")
    assert state_of(page)["node"].startswith(f"P{3 * n + 2}L")
    assert page.locator(f"{BOX} td[tabindex='0']").count() == 1
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(
        f"document.querySelector('{BOX} .mi-x-unseen[role=status]').textContent.includes('The model writes')"
    )


LOOKS = {
    "light": {},
    "dark": {},
    "phone": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
    "phone-dark": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
}


@pytest.mark.parametrize("name", LOOKS)
def test_accessible_fitting_and_photographed(name, open_page, tools):
    page = open_page(reduced_motion="reduce", **LOOKS[name])
    if "dark" in name:
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
    set_(page, edits=[f"{FIRST['node']}:other", "P7L0MLP:mean"], mode="other", move="ST1", fact="impact")
    for other in ("#mi-algorithm", "#mi-long"):
        page.locator(other).scroll_into_view_if_needed()
        page.wait_for_selector(f"{other}[data-mi-live=ready]")
    page.locator("#mi-long").get_by_role("button", name="Python").click()
    field = page.locator("#mi-algorithm input[type=text]").first
    field.fill("1,2,3")
    page.locator(f"#{field.get_attribute('id')}-error").wait_for(state="visible")
    page.add_script_tag(path=str(tools / "axe-core/axe.min.js"))
    found = page.evaluate("async () => (await axe.run()).violations")
    serious = [
        (v["id"], [n["html"][:120] for n in v["nodes"]], v["nodes"][0]["failureSummary"])
        for v in found
        if v["impact"] in ("serious", "critical", "moderate")
    ]
    assert serious == [], serious
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    (SCREENSHOTS / "live").mkdir(parents=True, exist_ok=True)
    for box in ("arithmetic", "algorithm", "long"):
        page.locator(f"#mi-{box}").screenshot(path=str(SCREENSHOTS / f"live/arithmetic-{box}-{name}.png"))


def test_as_a_widget_with_models_from_the_kernel(open_page, folder):
    """The anywidget's view on a model with the front end's interface."""
    (folder / "widget.js").write_text(scripts.widget_module("arithmetic"))
    page = open_page()
    described = live.describe(model=SMALL)
    fields = list(described.state)
    spec = {
        "state": dict(described.state),
        "live": {"kind": "arithmetic", "id": "mi-w", "spec": described.spec, "fields": fields},
    }
    models = {f"{SMALL}-0": base64.b64encode(live.model_file(f"{SMALL}-0")).decode()}
    page.evaluate(
        f"""async ([spec, bytes]) => {{
            const widget = (await import("./widget.js")).default;
            window.model = ({MODEL})(spec, bytes);
            window.el = document.createElement("div");
            document.querySelector("main").prepend(el);
            window.stop = widget.render({{ model, el }});
        }}""",
        [json.loads(json.dumps(spec)), models],
    )
    page.wait_for_function("el.miLive.result")
    page.evaluate("model.change('question', '199+801')")
    assert page.evaluate("el.miLive.frame.state.question") == "199+801"
    page.evaluate("model.change('edits', ['P7L0H0:zero'])")
    got = page.evaluate("el.miLive.result.logits.map((x) => [...x])")
    want = live.look("199+801", model=SMALL, edits=("P7L0H0:zero",))
    torch.testing.assert_close(torch.tensor(got), want.logits, atol=1e-4, rtol=1e-5)
    page.evaluate("el.querySelector('[data-node=P5L1H1]').click()")
    assert page.evaluate("[model.traits.node, model.saved > 0]") == ["P5L1H1", True]
    page.evaluate("model.change('seed', 1)")
    page.wait_for_function("el.querySelector('[id$=-model-error]').textContent !== ''")
    assert "there is no such model" in page.evaluate("el.querySelector('[id$=-model-error]').textContent")
    assert page.evaluate("model.traits.seed") == 0
    page.evaluate("stop()")
    assert page.evaluate("el.querySelectorAll('.mi-x').length") == 0


def test_interchange_that_must_work(open_page):
    """Where a pair of nodes carries a sub-task by torch, the page says so; the wrong digit is not said to."""
    page = open_page()
    assert refit(page, {"model": SMALL})
    task, network = live_state.task_of(SMALL), live_scans.stored(SMALL, 0)
    subtask = interchanges.declare(task, "SA0")
    clean, store = (
        task.decode(x[0]).partition("=")[0] for x in subtask.draw(1, torch.Generator().manual_seed(4))
    )
    last = task.n_ctx - 2
    edits = [f"P{last}L0H{h}:other" for h in range(network.config.n_heads)]
    set_(page, question=clean, other=store, edits=edits, move="SA0", mode="other")
    found = look(state_of(page))
    assert found.predicted != found.right
    assert found.written == found.predicted
    assert "exactly so" in headline(page)
    set_(page, move="SA1")
    assert "not so" in headline(page)

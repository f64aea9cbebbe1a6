"""The sorting explorer in headless Chromium: by mouse and keyboard, its numbers beside torch's."""

from __future__ import annotations

import functools
import http.server
import json
import threading

import pytest
import torch

from mi_lab.circuits import ov_circuit, qk_circuit
from mi_lab.live import export, live_explorer, scripts
from mi_lab.studies.sorting import live
from tests.book.built import SCREENSHOTS
from tests.book.test_pages import is_foreign
from tests.live import live_site

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

LIST = "12,3,45,7,50,22,31,18,0,9"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A small built page."""
    folder = tmp_path_factory.mktemp("explorer")
    live_site.write(folder)
    return folder


@pytest.fixture(scope="session")
def address(folder):
    """It, on 127.0.0.1."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/page.html"
        httpd.shutdown()


@pytest.fixture
def allowed() -> list[str]:
    """What the console may say: a test adds what it provokes."""
    return []


@pytest.fixture
def open_page(chromium, address, allowed):
    """Opens the page; at the end nothing may have gone wrong in any."""
    contexts, wrong = [], []

    def open_(url=address, wait=True, **options):
        context = chromium.new_context(**{"viewport": {"width": 860, "height": 900}, **options})
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
        page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("request", lambda r: wrong.append(f"foreign: {r.url}") if is_foreign(r.url) else None)
        page.goto(url)
        if wait:
            page.wait_for_selector("#mi-sorting[data-mi-live=ready]")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [w for w in wrong if not any(some in w for some in allowed)] == []


EXPLORER = "document.querySelector('#mi-sorting').miLive"


def state_of(page):
    """The explorer's state."""
    return page.evaluate(f"{EXPLORER}.frame.state")


def settle(page):
    """Wait until the picture is that of the state."""
    page.wait_for_function(f"{EXPLORER}.frame.busyLine.hidden")


def numbers(page):
    """The explorer's numbers."""
    settle(page)
    return page.evaluate(
        f"""() => {{
            const {{ tokens, logits, probability, attention, direct, row }} = {EXPLORER}.result;
            const plain = (x) => Array.from(x);
            return {{ tokens, row, logits: plain(logits), probability: plain(probability),
                     attention: attention.map(plain), direct: direct.map(plain) }};
        }}"""
    )


def agree(got, want):
    """Compare with torch."""
    assert got["tokens"][11:] == want.written
    for name in ("logits", "probability", "attention", "direct"):
        torch.testing.assert_close(torch.tensor(got[name]), getattr(want, name), atol=1e-4, rtol=1e-5)
    assert torch.tensor(got["logits"]).argmax() == want.logits.argmax()


STATES = [
    {},
    {"list": LIST, "output": 10},
    {"heads": ["on", "zero"], "output": 7},
    {"heads": ["mean", "on"], "output": 1},
    {"heads": ["patch", "mean"], "output": 5, "other": LIST},
    {"heads": ["patch", "patch"], "output": 6},
    {"seed": 3, "step": 1000, "output": 4},
    {"step": 0},
    {"model": "window_20", "seed": 7, "heads": ["zero", "on"], "list": LIST},
]


def test_numbers_are_those_of_torch(open_page):
    page = open_page()
    for changes in STATES:
        page.evaluate(f"(changes) => {{ {EXPLORER}.frame.reset(); {EXPLORER}.frame.set(changes); }}", changes)
        agree(numbers(page), live.look(**changes))


def test_tables_are_those_of_torch(open_page):
    page = open_page()
    model = export.as_stored(live.model_at("paper", 0, 6000))
    want = {"ov": ov_circuit(model).full()[:, :51, :51], "qk": qk_circuit(model)[:, :51, :51]}
    for view, table in want.items():
        page.evaluate(
            "(view) => document.querySelector('#mi-sorting').miLive.frame.set({ view, row: 9, column: 12 })",
            view,
        )
        said = page.locator("#mi-sorting .mi-x-read > p").inner_text()
        for head in range(2):
            value = float(table[head, 9, 12])
            digits = 1 if abs(value) >= 10 else 2
            assert f"head {head} {value:.{digits}f}".replace("-", "\u2212") in said


def test_by_mouse(open_page):
    page = open_page()
    box = page.locator("#mi-sorting")
    headline = box.locator(".mi-x-headline")
    assert "which is right" in headline.inner_text()
    assert box.locator(".mi-live-still").count() == 0
    box.get_by_text("zero", exact=True).nth(1).click()
    assert state_of(page)["heads"] == ["on", "zero"]
    assert "outputs are wrong" in headline.inner_text()
    agree(numbers(page), live.look(heads=("on", "zero")))
    box.locator("svg .press[height='28']").nth(6).click()
    assert state_of(page)["output"] == 7
    box.get_by_role("button", name="next output").click()
    assert state_of(page)["output"] == 8
    box.locator("svg text.press").first.click()
    assert state_of(page)["node"] == "L0H0"
    box.get_by_role("radiogroup", name="Highlight").get_by_text("all").click()
    assert state_of(page)["node"] == ""
    box.locator("canvas").first.click(position={"x": 30, "y": 60})
    assert state_of(page)["row"] > state_of(page)["column"]
    box.get_by_label("seed").select_option("3")
    settle(page)
    agree(numbers(page), live.look(output=8, heads=("on", "zero"), seed=3))
    box.get_by_role("button", name="Undo").click()
    assert state_of(page)["seed"] == 0
    box.get_by_role("button", name="Redo").click()
    assert state_of(page)["seed"] == 3
    box.get_by_role("button", name="Reset").click()
    assert state_of(page) == live.describe().state
    before = state_of(page)["list"]
    box.get_by_role("button", name="New list").first.click()
    assert state_of(page)["list"] != before
    agree(numbers(page), live.look(state_of(page)["list"]))


def test_the_gap_has_a_slider_over_the_sweep(open_page):
    page = open_page()
    box = page.locator("#mi-sorting")
    slider = box.get_by_label("mean gap", exact=True)
    assert slider.get_attribute("aria-valuetext") == "4.7"
    slider.focus()
    for gap, model in (("2.8", "window_30"), ("1.9", "window_20")):
        page.keyboard.press("ArrowLeft")
        assert slider.get_attribute("aria-valuetext") == gap
        agree(numbers(page), live.look(model=model))
    box.get_by_role("button", name="next mean gap").click()
    assert state_of(page)["model"] == "window_30"
    assert box.get_by_label("model", exact=True).input_value() == "window_30"
    page.evaluate(f"{EXPLORER}.frame.set({{ model: 'paper' }})")
    assert slider.get_attribute("aria-valuetext") == "4.7"


def test_by_keyboard(open_page):
    page = open_page()
    page.locator("#mi-sorting").get_by_label("List", exact=False).first.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type(LIST)
    assert state_of(page)["list"] == LIST
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "range"
    page.keyboard.press("ArrowRight")
    assert state_of(page)["output"] == 4
    agree(numbers(page), live.look(LIST, output=4))
    page.keyboard.press("Control+z")
    assert state_of(page)["output"] == 3
    page.keyboard.press("Control+Shift+Z")
    assert state_of(page)["output"] == 4
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert state_of(page)["heads"] == ["zero", "on"]
    outline = page.evaluate("getComputedStyle(document.activeElement.nextElementSibling).outlineWidth")
    assert float(outline.removesuffix("px")) >= 2
    page.wait_for_function(
        "document.querySelector('#mi-sorting [role=status]').textContent.includes('the model writes')"
    )


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("1,2,3", "The list needs 10 numbers; it has 3."),
        ("1,2,x", "\u201cx\u201d is not a number from 0 to 50."),
        (LIST.replace("50", "51"), "51 is too large"),
        (LIST.replace("50", "3"), "3 stands twice"),
        ("<img src=x onerror=alert(1)>", "\u201c<img\u201d is not a number"),
        ("\u0661,2", "is not a number"),
    ],
)
def test_bad_text_is_answered_beside_the_field_and_the_last_good_state_stays(typed, message, open_page):
    page = open_page()
    before = numbers(page)
    field = page.locator("#mi-sorting input[type=text]").first
    field.fill(typed)
    error = page.locator(f"#{field.get_attribute('id')}-error")
    error.wait_for(state="visible")
    assert message in error.inner_text()
    assert field.get_attribute("aria-invalid") == "true"
    assert field.get_attribute("aria-describedby") == error.get_attribute("id")
    assert numbers(page) == before
    assert page.locator("#mi-sorting img").count() == 0
    field.fill(LIST)
    assert error.inner_text() == ""
    assert field.get_attribute("aria-invalid") is None
    agree(numbers(page), live.look(LIST))


@pytest.mark.parametrize("how", ["http", "file"])
def test_a_link_restores_the_exact_state(how, open_page, address, folder):
    url = address if how == "http" else (folder / "page.html").as_uri()
    page = open_page(url)
    wanted = {
        "list": LIST,
        "output": 6,
        "heads": ["patch", "mean"],
        "step": 1000,
        "view": "qk",
        "node": "L0H1",
    }
    page.evaluate(f"(changes) => {EXPLORER}.frame.set(changes)", wanted)
    settle(page)
    link = page.evaluate(f"{EXPLORER}.frame.link")
    page.wait_for_function("(link) => location.href === link", arg=link)
    state, shown = state_of(page), numbers(page)
    again = open_page(link)
    assert state_of(again) == state
    assert numbers(again) == shown
    assert again.evaluate("document.querySelector('#mi-second').miLive?.frame.state.output ?? 5") == 5
    agree(shown, live.look(**{k: v for k, v in wanted.items() if k not in ("view", "node")}))


@pytest.mark.parametrize(
    "end",
    [
        "#mi-sorting?list=1,2",
        "#mi-sorting?wat=1",
        "#mi-sorting?output=%ff",
        "#mi-sorting?output=three",
        "#mi-sorting?<b>",
    ],
)
def test_a_broken_link_is_said_in_one_sentence(end, open_page, address):
    page = open_page(address + end)
    said = page.locator("#mi-sorting .mi-x > .mi-x-error").inner_text()
    assert "The link\u2019s state could not be taken" in said.replace("'", "\u2019")
    assert state_of(page) == live.describe().state


def test_a_model_that_is_missing_or_damaged_is_said_and_the_last_one_stays(open_page, allowed, folder):
    allowed.append("404")
    page = open_page()
    before = numbers(page)
    page.get_by_label("seed").first.select_option("5")  # its file is not there
    error = page.locator("#mi-sorting [id$=-model-error]")
    page.wait_for_function("document.querySelector('#mi-sorting [id$=-model-error]').textContent !== ''")
    assert "could not be fetched" in error.inner_text()
    assert state_of(page)["seed"] == 0
    assert numbers(page) == before
    models = folder / live_explorer.MODELS / live.FOLDER
    (models / "paper-2-6000.bin").write_bytes((models / "paper-0-6000.bin").read_bytes()[:-9])
    page.get_by_label("seed").first.select_option("2")
    page.wait_for_function(
        "document.querySelector('#mi-sorting [id$=-model-error]').textContent.includes('damaged')"
    )
    assert state_of(page)["seed"] == 0


def test_python_code_gives_the_same_numbers(open_page):
    page = open_page()
    page.evaluate(
        f"(changes) => {EXPLORER}.frame.set(changes)", {"heads": ["on", "patch"], "output": 9, "list": LIST}
    )
    page.get_by_role("button", name="Python").first.click()
    code = page.locator("#mi-sorting pre").inner_text()
    space: dict = {}
    exec(code, space)
    agree(numbers(page), space["found"])


def test_opened_from_a_folder(open_page, folder):
    page = open_page((folder / "page.html").as_uri())
    agree(numbers(page), live.look())
    page.evaluate(f"{EXPLORER}.frame.set({{ step: 1000 }})")
    agree(numbers(page), live.look(step=1000))


def test_the_second_explorer_starts_when_it_comes_near(open_page):
    page = open_page()
    assert page.locator("#mi-second").get_attribute("data-mi-live") == "coming"
    page.locator("#mi-second").scroll_into_view_if_needed()
    page.wait_for_selector("#mi-second[data-mi-live=ready]")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


LOOKS = {
    "light": {},
    "dark": {},
    "phone": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
    "phone-dark": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
}


@pytest.mark.parametrize("look", LOOKS)
def test_accessible_fitting_and_photographed(look, open_page, tools):
    page = open_page(reduced_motion="reduce", **LOOKS[look])
    if "dark" in look:
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.evaluate(f"{EXPLORER}.frame.set({{ heads: ['on', 'patch'], output: 5, node: 'L0H1' }})")
    page.locator("#mi-second").scroll_into_view_if_needed()
    page.wait_for_selector("#mi-second[data-mi-live=ready]")
    page.locator("#mi-sorting").get_by_role("button", name="Python").click()
    field = page.locator("#mi-second input[type=text]").first
    field.fill("1,2,3")
    page.locator(f"#{field.get_attribute('id')}-error").wait_for(state="visible")
    page.add_script_tag(path=str(tools / "axe-core/axe.min.js"))
    found = page.evaluate("async () => (await axe.run()).violations")
    serious = [
        (v["id"], [n["html"][:120] for n in v["nodes"]], v["nodes"][0]["failureSummary"])
        for v in found
        if v["impact"] in ("serious", "critical", "moderate")
    ]
    assert serious == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    (SCREENSHOTS / "live").mkdir(parents=True, exist_ok=True)
    page.locator("#mi-sorting").screenshot(path=str(SCREENSHOTS / f"live/sorting-{look}.png"))
    page.locator("#mi-second").screenshot(path=str(SCREENSHOTS / f"live/sorting-second-{look}.png"))


MODEL = """
(spec, bytes) => {
    const traits = { ...spec.state, _live: spec.live };
    const listeners = {};
    const emit = (name, ...x) => (listeners[name] ?? []).forEach((f) => f(...x));
    return {
        traits, saved: 0,
        get: (name) => structuredClone(traits[name]),
        set(name, value) { traits[name] = value; },
        save_changes() { this.saved++; },
        on: (name, f) => (listeners[name] ??= []).push(f),
        off: (name, f) => (listeners[name] = listeners[name].filter((g) => g !== f)),
        send({ key }) {
            const data = bytes[key] && Uint8Array.from(atob(bytes[key]), (c) => c.charCodeAt(0));
            setTimeout(() => data ? emit("msg:custom", { key }, [new DataView(data.buffer)])
                                  : emit("msg:custom", { key, error: "there is no such model" }, []));
        },
        change(name, value) { traits[name] = value; emit("change:" + name); },
    };
}
"""


def test_as_a_widget_with_models_from_the_kernel(open_page, folder):
    """The anywidget's view on a model with the front end's interface."""
    import base64

    (folder / "widget.js").write_text(scripts.widget_module("sorting"))
    page = open_page()
    described = live.describe()
    spec = {
        "state": dict(described.state),
        "live": {"kind": "sorting", "id": "mi-w", "spec": described.spec, "fields": list(described.state)},
    }
    models = {
        key: base64.b64encode(live.model_file(key)).decode() for key in ("paper-0-6000", "paper-1-6000")
    }
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
    page.evaluate("model.change('output', 6)")
    assert page.evaluate("el.miLive.frame.state.output") == 6
    page.evaluate("model.change('seed', 1)")
    page.wait_for_function("el.miLive.frame.busyLine.hidden")
    got = page.evaluate("Array.from(el.miLive.result.logits)")
    torch.testing.assert_close(torch.tensor(got), live.look(output=6, seed=1).logits, atol=1e-4, rtol=1e-5)
    page.evaluate("el.querySelector('[aria-label=\"next output\"]').click()")
    assert page.evaluate("[model.traits.output, model.saved > 0]") == [7, True]
    page.evaluate("model.change('seed', 2)")
    page.wait_for_function("el.querySelector('[id$=-model-error]').textContent !== ''")
    assert "there is no such model" in page.evaluate("el.querySelector('[id$=-model-error]').textContent")
    assert page.evaluate("model.traits.seed") == 1
    page.evaluate("stop()")
    assert page.evaluate("el.querySelectorAll('.mi-x').length") == 0

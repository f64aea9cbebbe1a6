"""The hand-made model's explorer in headless Chromium: by mouse and keyboard, its numbers beside torch's."""

from __future__ import annotations

import functools
import http.server
import json
import threading

import pytest
import torch

from mi_lab.handmade import HEADS, TABLES
from mi_lab.live import live_explorer, scripts
from mi_lab.toolbox import live
from tests.book.built import SCREENSHOTS
from tests.book.test_pages import is_foreign
from tests.live import live_site

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

EXPLORER = "document.querySelector('#mi-toolbox').miLive"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small built page with two explorers."""
    folder = tmp_path_factory.mktemp("toolbox")
    second = live.describe(name="mi-second", backup=0, table="L0H0.qk", title="A second one")
    bodies = [live_explorer.page_html(one, dict(one.state)) for one in (live.describe(), second)]
    live_explorer.write_script(folder / "_static")
    live_site.write_page(
        folder, "Toolbox", f'{bodies[0]}<p style="margin-top:200rem">Further down.</p>{bodies[1]}'
    )
    return folder


@pytest.fixture(scope="module")
def address(folder):
    """It, on 127.0.0.1."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/page.html"
        httpd.shutdown()


@pytest.fixture
def open_page(chromium, address):
    """Opens the page; at the end nothing may have gone wrong in any."""
    contexts, wrong = [], []

    def open_(url=address, **options):
        context = chromium.new_context(**{"viewport": {"width": 860, "height": 900}, **options})
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
        page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("request", lambda r: wrong.append(f"foreign: {r.url}") if is_foreign(r.url) else None)
        page.goto(url)
        page.wait_for_selector("#mi-toolbox[data-mi-live=ready]")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert wrong == []


def state_of(page):
    """The explorer's state."""
    return page.evaluate(f"{EXPLORER}.frame.state")


def change(page, **changes):
    """Set fields."""
    page.evaluate(f"(changes) => {EXPLORER}.frame.set(changes)", changes)


def numbers(page):
    """The explorer's numbers."""
    return page.evaluate(
        f"""() => {{
            const {{ tokens, given, logits, probability, heads }} = {EXPLORER}.result;
            const plain = (x) => Array.from(x);
            return {{ written: tokens.slice(given).map((t) => "abcdef"[t]).join(""), logits: plain(logits),
                     probability: plain(probability), attention: heads.map((x) => plain(x.attention)),
                     direct: heads.map((x) => plain(x.direct)) }};
        }}"""
    )


def agree(got, want):
    """Compare with torch."""
    assert got["written"] == want.written
    for name in ("logits", "probability", "attention", "direct"):
        right = getattr(want, name)
        right = right.flatten(0, 1) if right.ndim == 3 else right
        torch.testing.assert_close(torch.tensor(got[name]), right, atol=1e-4, rtol=1e-5)


def by_torch(page):
    """What torch says of the page's state."""
    return live._look_at(state_of(page))


STATES = [
    {},
    {"text": "bdafbdaf", "position": 7},
    {"text": "abab", "position": 2},
    {"text": "f", "position": 8},
    {"heads": ["on", "zero"]},
    {"heads": ["on", "on", "zero", "on", "on", "on"]},
    {"heads": ["on", "on", "mean", "on", "mean", "on"], "text": "bdafbda"},
    {"heads": ["mean", "on", "on", "on", "on", "on"], "copy": 9, "cells": ["L0H0.qk.5.3=28"]},
    {"heads": ["on", "on", "patch", "on", "on", "zero"], "other": "bead"},
    {"heads": ["patch", "patch", "on", "on", "on", "on"], "text": "bd"},
    {"seek": 14},
    {"copy": 5, "suppress": 20, "backup": 13},
    {"cells": ["L1H0.ov.d.e=20", "L1H0.qk.b.a=31.25", "L2H1.qk.d.f=-7.5", "L0H1.ov.a.note=9"]},
]


def test_numbers_are_those_of_torch_on_a_walk_through_states(open_page):
    """Weights, means and reused rows follow every change, and go back with undo."""
    page = open_page()
    for changes in [*STATES, *STATES[::-1]]:
        page.evaluate(f"(changes) => {{ {EXPLORER}.frame.reset(); {EXPLORER}.frame.set(changes); }}", changes)
        agree(numbers(page), by_torch(page))
    for _ in range(5):
        page.evaluate(f"{EXPLORER}.frame.step(-1)")
        agree(numbers(page), by_torch(page))


def test_a_changed_cell_is_the_changed_weight(open_page):
    """Every table's first, middle and last cell reaches the weight that the library changes."""
    page = open_page()
    for key, table in TABLES.items():
        for i, j in ((0, 0), (len(table.rows) // 2, len(table.columns) // 2), (-1, -1)):
            name = f"{key}.{table.rows[i]}.{table.columns[j]}"
            change(page, cells=[f"{name}=-3.25"])
            got = page.evaluate(
                f"""() => Object.fromEntries([...{EXPLORER}.shelf.machine("repeater").engine.tensors]
                    .filter(([name]) => /W_[QO]$/.test(name)).map(([name, x]) => [name, Array.from(x)]))"""
            )
            want = live.build(state_of(page)).state_dict()
            for tensor, values in got.items():
                torch.testing.assert_close(torch.tensor(values).float(), want[tensor].flatten())


def test_forward_takes_at_most_a_millisecond_and_a_half(open_page):
    page = open_page()
    took = page.evaluate(
        f"""() => {{
            const session = {EXPLORER}.shelf.machine("repeater").session;
            const times = [];
            for (let i = 0; i < 60; i++) {{
                const start = performance.now();
                for (let k = 0; k < 10; k++) {{ session.forget(); session.forward([6, 1, 3, 0, 5, 1, 3, 0, 5]); }}
                times.push((performance.now() - start) / 10);
            }}
            return times.sort((a, b) => a - b)[30];
        }}"""
    )
    assert took <= 1.5


def test_by_mouse(open_page):
    page = open_page()
    box = page.locator("#mi-toolbox")
    headline = box.locator(".mi-x-headline")
    assert "the model adds: d a f" in headline.inner_text()
    assert box.locator(".mi-live-still").count() == 0
    match = box.get_by_role("radiogroup", name="L1H0 match")
    match.get_by_text("zero", exact=True).click()
    assert state_of(page)["heads"][2] == "zero"
    assert "the model adds: d a f" in headline.inner_text()  # the backup
    match.get_by_text("mean", exact=True).click()
    assert "undecided" in headline.inner_text()
    agree(numbers(page), by_torch(page))
    box.get_by_role("button", name="Undo").click()
    box.get_by_role("button", name="Undo").click()
    assert state_of(page)["heads"][2] == "on"
    # an edited weight: where the match head reads d it writes e as well
    box.get_by_label("Weights to change").select_option("L1H0.ov")
    grid = box.get_by_role("grid")
    grid.locator("tbody tr").nth(3).locator("td").nth(4).click()
    assert [state_of(page)[x] for x in ("row", "column")] == [3, 4]
    for _ in range(3):
        box.get_by_role("button", name="more").click()
    assert state_of(page)["cells"] == ["L1H0.ov.d.e=3"]
    box.locator(".mi-x-edit input").fill("14.5")
    assert state_of(page)["cells"] == ["L1H0.ov.d.e=14.5"]
    assert grid.locator("td.changed").inner_text() == "14.5"
    assert "adds: e" in headline.inner_text()
    agree(numbers(page), by_torch(page))
    box.get_by_role("button", name="as it was").click()
    assert state_of(page)["cells"] == []
    # a head in the picture opens its weights, a letter is looked from
    box.locator("svg text.press").first.click()
    assert state_of(page)["table"] == "L0H0.qk"
    assert grid.locator("tbody tr").count() == 9
    box.locator("svg .press[height='28']").nth(3).click()
    assert state_of(page)["position"] == 3
    box.get_by_role("button", name="next copying").click()
    assert state_of(page)["copy"] == 13
    before = state_of(page)["text"]
    box.get_by_role("button", name="New letters").click()
    assert state_of(page)["text"] != before
    agree(numbers(page), by_torch(page))
    box.get_by_role("button", name="Reset").click()
    assert state_of(page) == live.describe().state


def test_by_keyboard(open_page):
    page = open_page()
    page.locator("#mi-toolbox").get_by_label("Letters", exact=False).first.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("cedc")
    assert state_of(page)["text"] == "cedc"
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "range"
    page.keyboard.press("ArrowLeft")
    assert state_of(page)["position"] == 4
    assert "4: c" in page.locator("#mi-toolbox output").first.inner_text()
    agree(numbers(page), by_torch(page))
    # the table of weights
    page.evaluate(f"{EXPLORER}.frame.set({{ row: 0, column: 0 }})")
    cell = page.locator("#mi-toolbox [role=grid] td[tabindex='0']")
    assert cell.count() == 1
    cell.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    assert [state_of(page)[x] for x in ("row", "column")] == [0, 1]
    page.keyboard.press("End")
    page.keyboard.press("+")
    page.keyboard.press("+")
    page.keyboard.press("-")
    assert state_of(page)["cells"] == ["L1H0.ov.a.f=1"]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert float(outline.removesuffix("px")) >= 2
    page.keyboard.press("Home")
    page.keyboard.press("0")
    assert state_of(page)["cells"] == ["L1H0.ov.a.a=0", "L1H0.ov.a.f=1"]
    page.keyboard.press("Enter")
    page.keyboard.type("-2.5")
    assert state_of(page)["cells"][0] == "L1H0.ov.a.a=-2.5"
    agree(numbers(page), by_torch(page))
    cell.focus()
    page.keyboard.press("Control+z")
    assert state_of(page)["cells"] != ["L1H0.ov.a.a=-2.5", "L1H0.ov.a.f=1"]
    page.keyboard.press("Control+Shift+Z")
    assert state_of(page)["cells"][0] == "L1H0.ov.a.a=-2.5"
    # what was done, and what it led to, in one breath
    page.wait_for_function(
        """() => /^Done again\\. To \u201ccedc\u201d the model adds/.test(
            document.querySelector('#mi-toolbox [role=status]').textContent)""",
        polling=100,  # by the clock: frames may stand still while the machine is busy
    )


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "The model reads 1 to 8 letters, not 0."),
        ("abcabcabc", "The model reads 1 to 8 letters, not 9."),
        ("bdg", "\u201cg\u201d is not one of the letters a to f."),
        ("<img src=x onerror=alert(1)>", "\u201c<\u201d is not one of the letters"),
        ("b\U0001f600", "\u201c\U0001f600\u201d is not one of"),
    ],
)
def test_bad_text_is_answered_beside_the_field_and_the_last_good_state_stays(typed, message, open_page):
    page = open_page()
    before = numbers(page)
    field = page.locator("#mi-toolbox input[type=text]").first
    field.fill(typed)
    error = page.locator(f"#{field.get_attribute('id')}-error")
    error.wait_for(state="visible")
    assert message in error.inner_text()
    assert field.get_attribute("aria-invalid") == "true"
    assert numbers(page) == before
    field.fill("ce d, c")
    assert error.inner_text() == ""
    assert field.get_attribute("aria-invalid") is None
    assert state_of(page)["text"] == "cedc"
    agree(numbers(page), by_torch(page))


@pytest.mark.parametrize("typed", ["100", "1.234", "-1e3", ""])
def test_a_bad_weight_is_answered_and_the_last_good_one_stays(typed, open_page):
    page = open_page()
    field = page.locator("#mi-toolbox .mi-x-edit input")
    field.fill("11")
    field.fill(typed)
    error = page.locator("#mi-toolbox [id$=-cells-error]")
    error.wait_for(state="visible")
    assert "at most two decimals" in error.inner_text()
    assert state_of(page)["cells"] == ["L1H0.ov.d.d=11"]
    field.fill("10")
    assert error.inner_text() == ""
    assert state_of(page)["cells"] == ["L1H0.ov.d.d=10"]


@pytest.mark.parametrize("how", ["http", "file"])
def test_a_link_restores_the_exact_state(how, open_page, address, folder):
    url = address if how == "http" else (folder / "page.html").as_uri()
    page = open_page(url)
    wanted = {
        "text": "faceb", "position": 2, "heads": ["on", "on", "patch", "zero"], "other": "dbca", "copy": 17,
        "table": "L0H0.qk", "row": 7, "column": 3, "cells": ["L0H0.qk.7.3=-4.5", "L2H1.ov.f.f=2"],
    }  # fmt: skip
    change(page, **wanted)
    link = page.evaluate(f"{EXPLORER}.frame.link")
    page.wait_for_function("(link) => location.href === link", arg=link)
    state, shown = state_of(page), numbers(page)
    again = open_page(link)
    assert state_of(again) == state
    assert numbers(again) == shown
    agree(shown, by_torch(again))


@pytest.mark.parametrize(
    "end",
    [
        "#mi-toolbox?text=xyz",
        "#mi-toolbox?wat=1",
        "#mi-toolbox?copy=%ff",
        "#mi-toolbox?copy=21",
        "#mi-toolbox?cells=L9H9.ov.a.a=1",
        "#mi-toolbox?cells=L1H0.ov.a.a",
        "#mi-toolbox?heads=off",
        "#mi-toolbox?<b>",
    ],
)
def test_a_broken_link_is_said_in_one_sentence(end, open_page, address):
    page = open_page(address + end)
    said = page.locator("#mi-toolbox .mi-x > .mi-x-error").inner_text()
    assert "The link\u2019s state could not be taken" in said.replace("'", "\u2019")
    assert state_of(page) == live.describe().state


def test_python_code_gives_the_same_numbers(open_page):
    page = open_page()
    change(page, text="faceb", heads=["on", "on", "patch"], other="dbca", cells=["L1H0.ov.f.a=2"], copy=9)
    page.get_by_role("button", name="Python").first.click()
    space: dict = {}
    exec(page.locator("#mi-toolbox pre").inner_text(), space)
    agree(numbers(page), space["found"])


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
    change(page, heads=["on", "on", "patch"], cells=["L1H0.ov.d.e=-7.25"], row=3, column=4)
    page.locator("#mi-second").scroll_into_view_if_needed()
    page.wait_for_selector("#mi-second[data-mi-live=ready]")
    page.locator("#mi-toolbox").get_by_role("button", name="Python").click()
    field = page.locator("#mi-second input[type=text]").first
    field.fill("xyz")
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
    page.locator("#mi-toolbox").screenshot(path=str(SCREENSHOTS / f"live/toolbox-{look}.png"))
    page.locator("#mi-second").screenshot(path=str(SCREENSHOTS / f"live/toolbox-second-{look}.png"))


def test_as_a_widget_the_traits_follow(open_page, folder):
    """The anywidget's view on a model with the front end's interface."""
    (folder / "widget.js").write_text(scripts.widget_module("toolbox"))
    page = open_page()
    described = live.describe()
    shown = {"kind": "toolbox", "id": "mi-w", "spec": described.spec, "fields": list(described.state)}
    page.evaluate(
        """async ([state, live]) => {
            const widget = (await import("./widget.js")).default;
            const traits = { ...state, _live: live };
            const listeners = {};
            window.model = {
                traits,
                get: (name) => structuredClone(traits[name]),
                set(name, value) { traits[name] = value; },
                save_changes() {}, send() {}, off() {},
                on: (name, f) => (listeners[name] ??= []).push(f),
                change(name, value) { traits[name] = value; for (const f of listeners["change:" + name] ?? []) f(); },
            };
            window.el = document.createElement("div");
            document.querySelector("main").prepend(el);
            window.stop = widget.render({ model, el });
        }""",
        json.loads(json.dumps([dict(described.state), shown])),
    )
    page.wait_for_function("el.miLive.result")
    page.evaluate("model.change('cells', ['L1H0.ov.d.e=20'])")
    got = page.evaluate("Array.from(el.miLive.result.logits)")
    want = live.look(cells={"L1H0.ov.d.e": 20}).logits
    torch.testing.assert_close(torch.tensor(got), want, atol=1e-4, rtol=1e-5)
    page.evaluate("el.querySelector('[aria-label=\"next copying\"]').click()")
    assert page.evaluate("model.traits.copy") == 13
    page.evaluate("stop()")
    assert page.evaluate("el.querySelectorAll('.mi-x').length") == 0


def test_every_head_of_the_library_is_in_the_explorer(open_page):
    page = open_page()
    names = page.locator("#mi-toolbox .mi-x-roles .mi-x-label").all_inner_texts()
    assert names == [f"{node} {role}" for role, node in HEADS.items()]

"""The pathfinding explorer in headless Chromium: by mouse and keyboard, its numbers beside torch's."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time

import pytest
import torch

from mi_lab.live import live_explorer, scripts
from mi_lab.studies import pathfinding as study
from mi_lab.studies.pathfinding import live, live_edits
from mi_lab.studies.pathfinding.circuit import CLASSES, relations
from mi_lab.studies.pathfinding.explorers.prompts import rearranged
from tests.book.built import SCREENSHOTS
from tests.live import live_site
from tests.live.conftest import ROOT, served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

TEXT, OTHER = live.EXAMPLES[10]
TASK = study.task(n_nodes=10)
EXPLORER = "document.querySelector('#mi-pathfinding').miLive"
HIDDEN = ("position", "layer", "show", "rows")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A small built page with two explorers."""
    folder = tmp_path_factory.mktemp("pathfinding")
    explorers = [
        live.describe(),
        live.describe(
            name="mi-second",
            title="Put another tree in",
            donor="renamed",
            rows="comma",
            show="gathered",
            layer=3,
        ),
    ]
    bodies = [live_explorer.page_html(one, dict(one.state)) for one in explorers]
    live_explorer.write_script(folder / "_static")
    keys = sorted({*live.keys()} - {"quick-1"})
    models = folder / live_explorer.MODELS / live.FOLDER
    live_explorer.write_models(models, keys, live.model_file, "test")
    live_site.write_page(folder, "Pathfinding", '<p style="margin-top:200rem">Further down.</p>'.join(bodies))
    return folder


@pytest.fixture(scope="session")
def address(folder):
    """It, on 127.0.0.1."""
    with served(folder) as host:
        yield f"{host}/page.html"


@pytest.fixture
def open_page(open_at, address):
    """Opens the page with its first explorer alive."""
    return lambda url=address, **options: open_at(url, "#mi-pathfinding[data-mi-live=ready]", **options)


def set_(page, **changes):
    """Set fields; False if the explorer refuses."""
    return page.evaluate(f"(changes) => {EXPLORER}.frame.set(changes)", changes)


def state_of(page):
    """The explorer's state."""
    return page.evaluate(f"{EXPLORER}.frame.state")


def numbers(page, explorer=EXPLORER):
    """The explorer's numbers, once its picture is that of the state."""
    return page.evaluate(
        f"""async () => {{
            const explorer = {explorer};
            await explorer.settled();
            const {{ tokens, walked, right, good, logits, vocab, pattern, lens, before, question }} = explorer.result;
            const plain = (x) => Array.from(x);
            return {{ tokens, path: walked, right, good, vocab, n: question.n, logits: plain(logits),
                pattern: pattern.map(plain), lens: lens.map(plain), clean: before && before.difference }};
        }}"""
    )


def agree(got, want):
    """Compare with torch."""
    assert got["tokens"] == want.tokens.tolist()
    assert (got["path"], got["right"], got["good"]) == (want.path, want.right, want.good)
    n, vocab = len(got["tokens"]), got["vocab"]
    root = 3 * got["n"] - 1
    close = {"atol": 1e-4, "rtol": 1e-5}
    logits = torch.tensor(got["logits"]).view(n, vocab)[root:]
    torch.testing.assert_close(logits, want.logits, **close)
    assert logits.argmax(-1).tolist() == want.logits.argmax(-1).tolist()
    torch.testing.assert_close(torch.tensor(got["pattern"]).view_as(want.pattern), want.pattern, **close)
    lens = torch.tensor(got["lens"]).view(-1, n, vocab).softmax(-1)[:, :, 3 : 3 + got["n"]]
    torch.testing.assert_close(lens, want.lens, **close)
    if got["clean"] is not None:
        assert got["clean"] == pytest.approx(want.clean, abs=1e-4, nan_ok=True)


def look(state):
    """The numbers of a state by torch."""
    return live.look(**{name: value for name, value in state.items() if name not in HIDDEN})


STATES = [
    {},
    {"text": OTHER, "layer": 3},
    {"text": rearranged(TASK, TEXT, "random"), "position": 4},
    {"text": rearranged(TASK, TEXT, "forward", 1)},
    {"closed": ["target"], "where": "1+"},
    {"closed": ["source", "target", "comma"], "who": "edges", "where": "2"},
    {"closed": ["source"], "who": "own", "where": "0", "closing": "lost"},
    {"closed": ["bar", "goal", "path"], "who": "all", "where": "all"},
    {"nodes": ["L0H0-zero", "L3MLP-zero"]},
    {"nodes": ["L1H0-mean", "L2MLP-mean"], "closed": ["colon"], "who": "tail"},
    {"donor": "renamed", "rule": "down"},
    {"donor": "renamed", "rule": "edge", "site": "7", "part": "target", "after": 0, "draw": 12},
    {"donor": "renamed", "rule": "up", "site": "root", "after": 2, "draw": 3},
    {"donor": "other", "other": OTHER, "site": "edges", "part": "comma", "after": 0},
    {"model": "quick", "seed": 2, "text": live.EXAMPLES[8][1], "other": live.EXAMPLES[8][0], "nodes": ["L1MLP-mean"]},
    {"model": "paper", "text": live.EXAMPLES[16][0], "other": live.EXAMPLES[16][1], "donor": "renamed", "rule": "none"},
    {"model": "paper", "text": live.EXAMPLES[16][1], "other": live.EXAMPLES[16][0], "nodes": ["L5H0-mean"]},
]  # fmt: skip


def test_numbers_are_those_of_torch(open_page):
    page = open_page()
    for changes in STATES:
        page.evaluate(f"{EXPLORER}.frame.reset()")
        assert set_(page, **changes), changes
        agree(numbers(page), look({**live.describe().state, **changes}))


def test_fresh_trees_are_answered_as_by_torch(open_page):
    """Models that are wrong at times: their own paths, with and without changes."""
    page = open_page()
    wrong = 0
    for i, changes in enumerate([{}] * 6 + [{"closed": ["target"]}] * 3):
        set_(page, **changes)
        page.locator("#mi-pathfinding").get_by_label("path length of a new tree").select_option(str(1 + i))
        page.locator("#mi-pathfinding").get_by_role("button", name="New tree").first.click()
        got, state = numbers(page), state_of(page)
        assert len(got["right"]) == 2 + i
        agree(got, look(state))
        wrong += not got["good"]
    assert wrong > 0


NODE_SCRIPT = """
import { treeEdits, drawnNumbers } from "./mi_lab/live/js/explorers/tree_donor.js";
import { readQuestion, inOrder, writeQuestion } from "./mi_lab/live/js/explorers/tree_question.js";
let text = "";
for await (const part of process.stdin) text += part;
const out = JSON.parse(text).map(({ state, n, layers }) => {
  const [question, other] = [state.text, state.other].map((one) => readQuestion(one, n, "text"));
  const below = drawnNumbers(state.draw, layers);
  return { edits: treeEdits(state, question, other, layers), drawn: [below(97), below(10007)],
           orders: ["backward", "forward"].map((order) => writeQuestion(inOrder(question, order))) };
});
console.log(JSON.stringify(out));
"""


def test_both_languages_make_the_same_edits(node):
    """A hundred random states: every donor, every position, every forbidden pair."""
    rng = random.Random(4)
    asked = []
    for i in range(100):
        n = (8, 10, 16)[i % 3]
        task, name = study.task(n_nodes=n), {8: "quick", 10: "middle", 16: "paper"}[n]
        texts = [task.decode(row).partition(":")[0] for row in study.trees(task, 200).tokens[[i, 199 - i]]]
        layers = study.recipes[name].config.n_layers
        state = {field: rng.choice(options) for field, options in live.CHOICES.items()}
        state |= {"text": texts[0], "other": texts[1], "model": name, "seed": 0, "position": 0, "layer": 0}
        state |= {
            "closed": rng.sample(CLASSES, rng.randint(0, 3)),
            "where": rng.choice(["all", "1+", "0", "2"]),
        }
        state |= {"nodes": rng.sample(["L0H0-zero", "L1MLP-mean", "L2H0-mean"], rng.randint(0, 3))}
        state |= {
            "site": rng.choice(["edges", "root", str(rng.randrange(n))]),
            "after": rng.randrange(layers),
            "draw": rng.randrange(10_000),
        }
        asked.append({"state": live.check(state), "n": n, "layers": layers})
    command = [node, "--input-type=module", "-e", NODE_SCRIPT]
    done = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, text=True, cwd=ROOT, check=True
    )
    kinds = set()
    for one, got in zip(asked, json.loads(done.stdout)):
        task = study.task(n_nodes=one["n"])
        want = live_edits.edits_of(one["state"], task, one["layers"])
        assert _pairs(got["edits"]) == _pairs(want)
        below = live_edits.drawn_numbers(one["state"]["draw"], one["layers"])
        assert got["drawn"] == [below(97), below(10007)]
        for order, text in zip(("backward", "forward"), got["orders"]):
            assert text == rearranged(task, one["state"]["text"], order)
        kinds |= {next(iter(edit.keys() - {"value", "positions"})) for edit in want}
    assert kinds == {"node", "activation", "knockOut"}


def _pairs(edits):
    """Edits with knock-outs as sets of (layer, query, key): how they are grouped does not matter."""
    closed = {
        (spec["layer"], q, k, spec["renormalise"])
        for spec in (edit["knockOut"] for edit in edits if "knockOut" in edit)
        for q in spec["queries"]
        for k in spec["keys"]
    }
    return closed, [edit for edit in edits if "knockOut" not in edit]


def test_the_table_says_what_attention_says(open_page):
    page = open_page()
    set_(page, text=OTHER, rows="target")
    numbers(page)
    table = page.locator("#mi-pathfinding .mi-x-tokens")
    page.wait_for_function("document.querySelector('#mi-pathfinding .mi-x-rowhead')?.textContent === '4>9'")
    found = look(state_of(page))
    tokens = TASK.encode(OTHER)[None]
    related = relations(TASK, tokens, TASK.variables(tokens))[0]
    signs = {0: "own", 1: "▲1", 2: "▲2", -1: "▼1", -2: "▼2"}
    rows = table.locator("tbody tr")
    assert rows.count() == 9 + 3 + len(found.path)
    for edge in range(9):
        cells = rows.nth(edge).locator("td")
        assert cells.count() == 4
        for layer in range(4):
            top = int(found.pattern[layer, 3 * edge + 1, : 3 * edge + 2].argmax())
            distance = int(related[edge, top // 3])
            sign = signs.get(distance, "▲3+" if 2 < distance < 90 else "▼3+" if distance < -2 else "")
            said = cells.nth(layer).inner_text().split()
            source, target = TASK.decode(tokens[0]).split(",")[top // 3].partition("|")[0].split(">")
            assert said[-1] == f"{'●■◆'[top % 3]}{source}>{target}"
            assert (said[0] if len(said) > 1 else "") == sign


# ---- operated ----


def test_by_mouse(open_page):
    page = open_page()
    box = page.locator("#mi-pathfinding")
    node = lambda k: box.locator(f"[data-node='{k}']")  # noqa: E731
    assert box.locator(".mi-x-headline").inner_text() == "The model writes 1 → 8 → 7 → 4 → 6, which is right."
    assert box.locator(".mi-live-still").count() == 0
    node(4).click()  # look from it
    assert state_of(page)["position"] == 7  # >4 of 7>4, the third edge
    box.locator("[data-bead='comma-4']").last.click()
    assert state_of(page)["position"] == 8
    box.get_by_role("button", name="next layer").first.click()
    assert state_of(page)["layer"] == 2
    agree(numbers(page), look(state_of(page)))
    box.get_by_text("make it the goal", exact=True).click()
    node(9).click()
    assert state_of(page)["text"] == TEXT[:-1] + "9"
    node(2).click()
    assert box.locator("[id$=-tree-error]").inner_text() == "2 has children; a goal is a leaf."
    agree(numbers(page), live.look(TEXT[:-1] + "9"))
    box.get_by_text("move it").click()
    assert box.locator("[id$=-tree-error]").inner_text() == ""
    node(0).drag_to(node(4))  # with the mouse held down
    assert "4>0" in state_of(page)["text"]
    numbers(page)
    node(3).click()
    node(8).click()  # pressed one after the other
    assert "8>3" in state_of(page)["text"]
    numbers(page)
    node(8).click()
    node(3).click()
    assert "3 is below 8" in box.locator("[id$=-tree-error]").inner_text()
    box.get_by_text("swap labels").click()
    node(3).click()
    node(8).click()
    agree(numbers(page), look(state_of(page)))
    assert "3>8" in state_of(page)["text"]
    box.get_by_role("button", name="Undo").click()
    assert "8>3" in state_of(page)["text"]
    box.get_by_role("button", name="Redo").click()
    assert "3>8" in state_of(page)["text"]
    box.get_by_label("goal", exact=True).select_option("6")
    assert state_of(page)["text"].endswith("|6")
    box.get_by_text("forward", exact=True).click()
    assert state_of(page)["text"] == rearranged(TASK, state_of(page)["text"], "forward")
    box.locator(".mi-x-prompt span").nth(1).click()
    assert state_of(page)["position"] == 1
    box.locator(".mi-x-tokens").scroll_into_view_if_needed()
    box.locator(".mi-x-tokens tbody tr[data-position='7'] td").nth(3).click()
    assert (state_of(page)["position"], state_of(page)["layer"]) == (7, 3)
    box.get_by_text("edges gathered so far").click()
    agree(numbers(page), look(state_of(page)))
    box.locator("svg text", has_text="own").first.wait_for()  # drawn once the numbers are there
    box.get_by_role("button", name="Reset").click()
    assert state_of(page) == live.describe().state


def test_changes_by_mouse(open_page):
    page = open_page()
    box = page.locator("#mi-pathfinding")
    effect = box.locator(".mi-x-effect")
    assert not effect.is_visible()
    box.get_by_text("Close attention, switch parts off").click()
    box.get_by_role("button", name="targets").click()
    found = live.look(TEXT, closed=["target"])
    agree(numbers(page), found)
    assert f"{found.clean:.2f}, with the changes \u2212{abs(found.difference):.2f}" in effect.inner_text()
    assert "Without the changes the path is right." in effect.inner_text()
    box.get_by_role("radiogroup", name="Attention that is closed").get_by_text("is lost").click()
    agree(numbers(page), live.look(TEXT, closed=["target"], closing="lost"))
    box.get_by_label("from", exact=True).select_option("edges")
    box.get_by_label("in layers").select_option("2")
    agree(numbers(page), live.look(TEXT, closed=["target"], closing="lost", who="edges", where="2"))
    box.get_by_role("radiogroup", name="layer 1, MLP").get_by_text("mean").click()
    assert state_of(page)["nodes"] == ["L1MLP-mean"]
    agree(numbers(page), look(state_of(page)))
    box.get_by_role("button", name="Undo these").first.click()
    assert (state_of(page)["closed"], state_of(page)["nodes"]) == ([], [])
    box.get_by_text("Put another tree's state into this run").click()
    box.get_by_text("same tree, renamed").click()
    found = live.look(TEXT, donor="renamed", rule="down")
    agree(numbers(page), found)
    share = round(100 * found.difference / found.clean)
    assert f"with the donor {found.difference:.2f}: {share} % survives" in effect.inner_text()
    box.get_by_label("names that the donor keeps").select_option("up")
    box.get_by_role("button", name="Other names").click()
    agree(numbers(page), live.look(TEXT, donor="renamed", rule="up", draw=1))
    box.get_by_label("whose state").select_option("7")
    box.get_by_role("radiogroup", name="Tokens of an edge").get_by_text("comma").click()
    agree(numbers(page), live.look(TEXT, donor="renamed", rule="up", draw=1, site="7", part="comma"))
    box.get_by_role("radiogroup", name="Donor").get_by_text("second tree").click()
    agree(numbers(page), live.look(TEXT, donor="other", site="7", part="comma"))
    box.get_by_label("model", exact=True).select_option("quick-0")
    state = state_of(page)
    assert (state["text"], state["other"]) == live.EXAMPLES[8]
    agree(numbers(page), look(state))


def test_by_keyboard(open_page):
    page = open_page()
    box = page.locator("#mi-pathfinding")
    box.get_by_label("Question", exact=False).first.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type(OTHER)
    assert state_of(page)["text"] == OTHER
    agree(numbers(page), live.look(OTHER))
    page.locator("#mi-pathfinding svg.mi-x-tree [tabindex='0']").focus()
    at = "document.activeElement.dataset.node"
    assert page.evaluate(at) == "1"
    page.keyboard.press("ArrowDown")
    first = page.evaluate(at)
    page.keyboard.press("ArrowRight")
    second = page.evaluate(at)
    assert {first, second} == {"5", "7"}
    page.keyboard.press("Enter")
    assert (
        state_of(page)["position"] == 3 * OTHER.split(",").index(f"1>{second}" + "|9" * (second == "5")) + 1
    )
    numbers(page)
    assert page.evaluate(at) == second  # the keyboard stays where it was
    box.get_by_role("radio", name="move it").focus()
    page.keyboard.press("Space")
    page.locator("#mi-pathfinding [data-node='4']").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") is None
    page.keyboard.press("Enter")
    while page.evaluate(at) != "1":
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#mi-pathfinding [id$=-tree-error]').textContent !== ''")
    assert "1 has two children already" in box.locator("[id$=-tree-error]").inner_text()
    assert state_of(page)["text"] == OTHER
    page.locator("#mi-pathfinding [data-node='9']").focus()
    outline = page.evaluate("getComputedStyle(document.activeElement.children[0]).strokeWidth")
    assert float(outline.removesuffix("px")) >= 2
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    to = page.evaluate(at)
    page.keyboard.press("Enter")
    assert f"{to}>9" in state_of(page)["text"]
    agree(numbers(page), look(state_of(page)))
    page.keyboard.press("Control+z")
    assert state_of(page)["text"] == OTHER
    page.keyboard.press("Control+Shift+Z")
    assert f"{to}>9" in state_of(page)["text"]
    page.wait_for_function(
        "document.querySelector('#mi-pathfinding [role=status]').textContent.includes('The model writes')"
    )


def test_by_touch(open_page):
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True)
    box = page.locator("#mi-pathfinding")
    box.get_by_text("move it").tap()
    box.locator("[data-node='0']").tap()
    box.locator("[data-node='4']").tap()
    assert "4>0" in state_of(page)["text"]
    agree(numbers(page), look(state_of(page)))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("1,2,3", "A question is edges, a bar and the goal"),
        ("4>6,2>9|6", "A tree of 10 nodes has 9 edges, not 2."),
        (TEXT.replace("4>6", "4>x"), "\u201c4>x\u201d is not an edge; write A>B."),
        (TEXT.replace("4>6", "4>16"), "\u201c16\u201d is not a node: this model's trees have nodes 0 to 9."),
        (TEXT.replace("1>8", "6>8"), "below itself"),
        (TEXT[:-1] + "7", "The goal must be a leaf; 7 has children."),
        ("<img src=x onerror=alert(1)>|3", "\u201c<imgsrc=xone\u2026\u201d is not an edge"),
    ],
)
def test_bad_text_is_answered_beside_the_field_and_the_last_good_state_stays(typed, message, open_page):
    page = open_page()
    before = numbers(page)
    field = page.locator("#mi-pathfinding input[type=text]").first
    field.fill(typed)
    error = page.locator(f"#{field.get_attribute('id')}-error")
    error.wait_for(state="visible")
    assert message in error.inner_text()
    assert field.get_attribute("aria-invalid") == "true"
    assert field.get_attribute("aria-describedby") == error.get_attribute("id")
    assert numbers(page) == before
    assert page.locator("#mi-pathfinding img").count() == 0
    field.fill(OTHER)
    assert error.inner_text() == ""
    assert field.get_attribute("aria-invalid") is None
    agree(numbers(page), live.look(OTHER))


@pytest.mark.parametrize("how", ["http", "file"])
def test_a_link_restores_the_exact_state(how, open_page, address, folder):
    url = address if how == "http" else (folder / "page.html").as_uri()
    page = open_page(url)
    wanted = {
        "model": "quick", "seed": 2, "text": live.EXAMPLES[8][1], "other": live.EXAMPLES[8][0],
        "position": 4, "layer": 2, "show": "gathered", "closed": ["goal", "path"], "who": "all", "closing": "lost",
        "nodes": ["L1MLP-zero"], "donor": "renamed", "site": "4", "rule": "edge", "draw": 7,
    }  # fmt: skip
    assert set_(page, **wanted)
    shown = numbers(page)
    link = page.evaluate(f"{EXPLORER}.frame.link")
    page.wait_for_function("(link) => location.href === link", arg=link)
    state = state_of(page)
    again = open_page(link)
    assert state_of(again) == state
    assert numbers(again) == shown
    agree(shown, look(state))


@pytest.mark.parametrize(
    "end", ["text=1>2|2", "wat=1", "layer=%ff", "layer=two", "closed=everything", "model=gpt", "<b>"]
)
def test_a_broken_link_is_said_in_one_sentence(end, open_page, address):
    page = open_page(f"{address}#mi-pathfinding?{end}")
    said = page.locator("#mi-pathfinding .mi-x > .mi-x-error").inner_text()
    assert "The link's state could not be taken" in said
    assert state_of(page) == live.describe().state


def test_a_model_that_is_missing_or_damaged_is_said_and_the_last_one_stays(open_page, allowed, folder):
    allowed.append("404")
    page = open_page()
    before = numbers(page)
    menu = page.locator("#mi-pathfinding").get_by_label("model", exact=True)
    error = page.locator("#mi-pathfinding [id$=-model-error]")
    menu.select_option("quick-1")  # its file is not there
    page.wait_for_function("document.querySelector('#mi-pathfinding [id$=-model-error]').textContent !== ''")
    assert "could not be fetched" in error.inner_text()
    assert state_of(page) == live.describe().state
    assert numbers(page) == before
    file = folder / live_explorer.MODELS / live.FOLDER / "quick-2.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    try:
        menu.select_option("quick-2")
        page.wait_for_function(
            "document.querySelector('#mi-pathfinding [id$=-model-error]').textContent.includes('damaged')"
        )
        assert state_of(page)["model"] == "middle"
        assert menu.input_value() == "middle-0"
        agree(numbers(page), live.look())
    finally:
        file.write_bytes(whole)
        os.utime(
            file, (time.time() + 10, time.time() + 10)
        )  # else the browser's cache takes it for the damaged one
    menu.select_option("quick-2")  # whole again: it is asked for again
    agree(numbers(page), live.look(model="quick", seed=2))


def test_of_many_changes_the_last_one_is_shown(open_page):
    page = open_page()
    texts = [TEXT, OTHER, rearranged(TASK, TEXT, "forward"), rearranged(TASK, OTHER, "random")]
    page.evaluate(
        f"(texts) => {{ for (let i = 0; i < 40; i++) {EXPLORER}.frame.set({{ text: texts[i % 4], layer: i % 3 }}); }}",
        texts,
    )
    state = state_of(page)
    assert state["text"] == texts[3]
    agree(numbers(page), look(state))


def test_python_code_gives_the_same_numbers(open_page):
    page = open_page()
    set_(
        page,
        nodes=["L0MLP-mean"],
        closed=["goal"],
        donor="renamed",
        site="root",
        rule="up",
        position=30,
        layer=2,
    )
    page.get_by_role("button", name="Python").first.click()
    code = page.locator("#mi-pathfinding .mi-x-python pre").inner_text()
    space: dict = {}
    exec(code, space)
    agree(numbers(page), space["found"])
    assert (space["at"], space["layer"]) == (30, 2)


def test_where_no_worker_may_start_the_page_runs_the_model_itself(open_at, address, chromium):
    context = chromium.new_context()
    context.add_init_script("delete window.Worker")
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#mi-pathfinding[data-mi-live=ready]", timeout=120_000)
    set_(page, closed=["comma"])
    agree(numbers(page), live.look(closed=["comma"]))
    context.close()


def test_opened_from_a_folder(open_page, folder):
    page = open_page((folder / "page.html").as_uri())
    agree(numbers(page), live.look())
    set_(page, model="paper", text=live.EXAMPLES[16][0], other=live.EXAMPLES[16][1])
    agree(numbers(page), live.look(model="paper"))


def test_the_second_explorer_has_its_own_state_and_names(open_page):
    page = open_page()
    page.locator("#mi-second").scroll_into_view_if_needed()
    page.wait_for_selector("#mi-second[data-mi-live=ready]")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    agree(numbers(page, "document.querySelector('#mi-second').miLive"), live.look(donor="renamed"))
    agree(numbers(page), live.look())


LOOKS = {
    "light": {},
    "dark": {},
    "phone": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
    "phone-dark": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
}


@pytest.mark.parametrize("look_", LOOKS)
def test_accessible_fitting_and_photographed(look_, open_page, tools):
    page = open_page(reduced_motion="reduce", **LOOKS[look_])
    if "dark" in look_:
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
    numbers(page)
    (SCREENSHOTS / "live").mkdir(parents=True, exist_ok=True)
    page.locator("#mi-pathfinding").screenshot(path=str(SCREENSHOTS / f"live/pathfinding-{look_}.png"))
    paper = {"model": "paper", "text": live.EXAMPLES[16][0], "other": live.EXAMPLES[16][1], "position": 47}
    set_(page, **paper, layer=2, closed=["comma"], nodes=["L1MLP-zero"], donor="other")
    numbers(page)
    for summary in page.locator("#mi-pathfinding summary").all():
        summary.click()
    page.locator("#mi-second").scroll_into_view_if_needed()
    page.wait_for_selector("#mi-second[data-mi-live=ready]")
    page.locator("#mi-pathfinding").get_by_role("button", name="Python").click()
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
    page.locator("#mi-pathfinding").screenshot(path=str(SCREENSHOTS / f"live/pathfinding-paper-{look_}.png"))
    page.locator("#mi-second").screenshot(path=str(SCREENSHOTS / f"live/pathfinding-second-{look_}.png"))


def test_as_a_widget_with_models_from_the_kernel(open_page, folder):
    """The anywidget's view on a model with the front end's interface."""
    import base64

    from tests.live.test_sorting_explorer import MODEL

    (folder / "widget.js").write_text(scripts.widget_module("pathfinding"))
    page = open_page()
    described = live.describe()
    spec = {
        "state": dict(described.state),
        "live": {
            "kind": "pathfinding",
            "id": "mi-w",
            "spec": described.spec,
            "fields": list(described.state),
        },
    }
    models = {key: base64.b64encode(live.model_file(key)).decode() for key in ("middle-0", "trees-10")}
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
    page.evaluate("model.change('closed', ['target'])")
    agree(numbers(page, "el.miLive"), live.look(closed=["target"]))
    page.evaluate("model.change('nodes', ['L1MLP-mean'])")
    agree(numbers(page, "el.miLive"), live.look(closed=["target"], nodes=["L1MLP-mean"]))
    page.evaluate(
        "el.querySelector('[data-node=\"9\"]').dispatchEvent(new Event('click', { bubbles: true }))"
    )
    assert page.evaluate("[model.traits.position, model.saved > 0]") == [4, True]
    menu = "el.querySelector('select[id$=-model]')"
    page.evaluate(f"{menu}.value = 'quick-2'; {menu}.dispatchEvent(new Event('change'))")
    page.wait_for_function("el.querySelector('[id$=-model-error]').textContent !== ''")
    assert "there is no such model" in page.evaluate("el.querySelector('[id$=-model-error]').textContent")
    assert page.evaluate("[model.traits.model, model.traits.text]") == ["middle", TEXT]
    page.evaluate("stop()")
    assert page.evaluate("el.querySelectorAll('.mi-x').length") == 0

"""What a reader operates in the pathfinding chapter: the library's numbers, in the page and with a kernel."""

from __future__ import annotations

import base64
import inspect
import json
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mi_lab import charts
from mi_lab.live import Choice, Explorer, Slider, Text, Toggles, baked
from mi_lab.model import Transformer
from mi_lab.run import run
from mi_lab.studies.base import generate
from mi_lab.studies.pathfinding import explorers as x
from mi_lab.studies.pathfinding import measure
from mi_lab.studies.pathfinding.explorers import curves as c
from mi_lab.studies.pathfinding.explorers import knockout, prompts
from mi_lab.studies.pathfinding.explorers import tree as stage
from mi_lab.studies.pathfinding.layout import Tree
from mi_lab.studies.pathfinding.recipes import config
from mi_lab.studies.pathfinding.task import COMMA, PathfindingTask

TASK = PathfindingTask(n_nodes=8)
TEXT = "1>7,2>1,2>6,4>2,4>0,0>3,3>5|7"  # 4>2>1>7


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_model(seed: int = 0) -> Transformer:
    shape = config(TASK, n_layers=3, d_model=24, d_head=24, d_mlp=32, init_std=0.4)
    return Transformer(shape, generator=torch.Generator().manual_seed(seed)).eval()


MODEL = make_model()


def scrub_curves() -> dict[str, dict[str, Any]]:
    make = np.random.default_rng(0).uniform
    return {h: {d: make(-1, 1, (3, 6)) for d in ("same ancestor", "random")} for h in ("H1", "H2")}


MAKERS: dict[str, Callable[[], x.Baked]] = {
    "tree": lambda: x.tree_explorer(MODEL, TASK, texts=(TEXT, *x.examples(TASK)[:1])),
    "knockout": lambda: x.knockout_explorer(MODEL, TASK, n=20),
    "lookahead": lambda: x.lookahead_explorer(MODEL, TASK, texts=(TEXT,)),
    "scrub": lambda: x.scrub_explorer(scrub_curves()),
    "policy": lambda: x.policy_explorer(nodes=(6, 8), start=8),
}
each = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))


def unpack(html: str) -> tuple[list[dict], list[Any]]:
    """Controls and states as the page's script reads them."""
    packed = re.search(r'<script type="text/plain">([^<]*)</script>', html)
    assert packed
    data = json.loads(zlib.decompress(base64.b64decode(packed.group(1))))
    return data["controls"], data["states"]


# All of them ----------------------------------------------------------------------------------------
def test_every_explorer_of_the_package_is_tested_here():
    made = {name for name, _ in inspect.getmembers(x, inspect.isfunction) if name.endswith("_explorer")}
    assert made == {f"{name}_explorer" for name in MAKERS}


@each
def test_the_page_holds_every_state_of_the_grid_and_no_control_is_dead(make):
    explorer = make()
    html = explorer._repr_html_()
    assert len(html) < baked.LIMIT
    controls, states = unpack(html)
    sizes = [len(control["names"]) for control in controls]
    assert len(states) == np.prod(sizes)
    shown = [name for name, options in explorer.grid.items() if len(options) > 1]
    assert [control["label"] for control in controls] == [explorer.controls[n].label for n in shown]
    at = [control["start"] for control in controls]
    default = states[int(np.ravel_multi_index(at, sizes))]
    assert default == explorer.draw(explorer.compute(**explorer.default)).inner()
    assert default in html, "without JavaScript the default stands there"
    grid = np.array([json.dumps(s) for s in states], dtype=object).reshape(sizes)
    for axis, control in enumerate(controls):
        assert len(control["names"]) > 1
        changes = np.moveaxis(grid, axis, 0)
        assert all((changes[i] != changes[0]).any() for i in range(1, len(changes))), control["label"]


@each
def test_a_baked_state_is_what_a_kernel_would_draw(make):
    explorer = make()
    _, states = unpack(explorer._repr_html_())
    rng = np.random.default_rng(1)
    sizes = [len(o) for o in explorer.grid.values()]
    for _ in range(5):
        at = [int(rng.integers(n)) for n in sizes]
        state = states[int(np.ravel_multi_index(at, sizes))]
        if isinstance(state, str):
            explorer.reset()
            explorer.set(**{name: options[i] for (name, options), i in zip(explorer.grid.items(), at)})
            assert state == explorer.draw(explorer.result).inner()


@each
def test_it_is_the_same_at_every_build_and_has_no_id(make):
    first, again = make()._repr_html_(), make()._repr_html_()
    assert first == again
    assert " id=" not in re.sub(r"<script.*?</script>", "", first, flags=re.S)


@each
def test_with_a_kernel_it_is_a_widget_and_in_the_built_book_a_page(make, monkeypatch):
    pytest.importorskip("ipywidgets")
    explorer = make()
    widget = explorer.widget()
    assert len(widget.children) == len(explorer.controls) + 3
    assert "<svg " in explorer._widgets["__out"].value
    monkeypatch.setenv("MI_LAB_STATIC", "1")
    assert "text/html" in explorer._repr_mimebundle_()


# Baked ----------------------------------------------------------------------------------------------
def tiny(**changes: Any) -> x.Baked:
    def compute(a: int, b: str, c: tuple[bool, ...], t: str) -> tuple:
        if (a, b) == (2, "y"):
            raise ValueError("2 and y don't go together")
        return a, b, c, t

    options: dict[str, Any] = {"grid": {"a": None, "b": ("x", "y"), "c": ((True, True), (False, False))}}
    return x.Baked(
        "Tiny",
        {"a": 1, "b": "x", "c": (True, True), "t": "hello"},
        {
            "a": Slider("number", (1, 2)), "b": Choice("letter", ("x", "y", "z"), ("ex", "why", "zed")),
            "c": Toggles("boxes", ("p", "q")), "t": Text("text"),
        },
        compute,
        lambda r: charts.Drawing(f"<svg>{r}</svg>", f"caption {r[0]}{r[1]}"),
        **(options | changes),
    )  # fmt: skip


def test_a_refused_state_keeps_its_message():
    controls, states = unpack(tiny()._repr_html_())
    assert [control["names"] for control in controls] == [["1", "2"], ["ex", "why"], ["p, q", "none"]]
    assert [control["kind"] for control in controls] == ["slider", "select", "select"]
    assert states[6] == states[7] == {"error": "2 and y don't go together"}
    assert "caption 1y" in states[2]


def test_the_note_says_what_a_kernel_adds():
    assert "With a kernel also: text, more of each choice." in tiny()._repr_html_()
    assert "With a kernel" not in x.scrub_explorer(scrub_curves())._repr_html_()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"t": ("a",)}, "'t' can't be baked: it is no choice of Tiny"),
        ({"u": None}, "'u' can't be baked"),
        ({"c": None}, "'c': say which of the combinations to bake"),
        ({"b": ("y", "z")}, "'b': the default 'x' is not among the baked options"),
        ({"b": ("x", "w")}, "b must be one of"),
    ],
)
def test_a_grid_that_cannot_be_baked_is_refused(grid, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny(grid=grid)


# The tree -------------------------------------------------------------------------------------------
def test_what_is_shown_is_what_the_model_does():
    for seed in (0, 1, 2):
        model = make_model(seed)
        seen = x.look(model, TASK, TEXT)
        tokens = TASK.encode(TEXT)[None]
        own = generate(model, TASK, tokens)[0]
        assert seen.tokens.equal(own)
        out = run(model, own[None], record="blocks.*.attn.pattern")
        torch.testing.assert_close(seen.pattern[2], out["blocks.2.attn.pattern"][0].mean(0))
        last = out.logits[0].softmax(-1)[:, TASK.first_target : TASK.first_bare]
        torch.testing.assert_close(seen.lens[-1], last)
        first = seen.decisions[0]
        assert (first.at, first.right, first.rival) == ("4", ">2", ">0")
        assert first.probability == pytest.approx(float(last[TASK.root_position, 2]))
        assert first.rival_probability == pytest.approx(float(last[TASK.root_position, 0]))
        assert first.choice == (
            "stop" if own[TASK.root_position + 1] == COMMA else TASK.vocab[own[TASK.root_position + 1]]
        )


def test_a_model_that_is_right_is_said_to_be_right():
    class Oracle(torch.nn.Module):
        """Gives the right path, through a real model's activations."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.config = MODEL, MODEL.config
            self.ln_final, self.unembed, self.device = MODEL.ln_final, MODEL.unembed, torch.device("cpu")

        def activations(self):
            return self.inner.activations()

        def forward(self, tokens, tap=None):
            logits = self.inner(tokens, tap) if tap else self.inner(tokens)
            whole = TASK.solve(TASK.encode(TEXT)[None])
            right = torch.nn.functional.one_hot(whole[:, 1 : tokens.shape[1] + 1], len(TASK.vocab)).float()
            logits[:, : right.shape[1]] += 1000 * right
            return logits

    seen = x.look(Oracle(), TASK, TEXT)  # type: ignore[arg-type]
    assert seen.walked == [4, 2, 1, 7]
    assert [d.choice for d in seen.decisions] == [">2", ">1", ">7", "stop"]
    assert [d.rival for d in seen.decisions] == [">0", ">6", "", ""]
    scene = stage.Scene(seen, TASK, 0, "root", TASK.root_position, True)
    assert "The model's path is right." in stage.draw_scene(scene).caption


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1>7,2>1,2>6,4>2,4>0,0>3,0>5|4", "the goal must be a leaf, 4 has children"),
        ("1>7,2>1,2>6,2>4,4>0,0>3,0>5|7", "2 has three children, a node has at most two"),
        ("1>7,2>1,4>2,4>0,0>3,0>5|7", "a tree of 8 nodes has 7 edges, not 6"),
        ("1>7,2>1,2>6,4>2,4>0,0>3,0>9|7", "'9' is not a node label from 0 to 7"),
        ("hello", "there is no '|' in 'hello'"),
    ],
)
def test_a_bad_tree_is_named_and_the_last_good_drawing_stays(text, message):
    pytest.importorskip("ipywidgets")
    explorer = MAKERS["tree"]()
    explorer.widget()
    drawn = explorer._widgets["__out"].value
    explorer._widgets["text"].value = text
    assert message.replace("'", "&#x27;") in explorer._widgets["__error"].value
    assert explorer._widgets["__out"].value == drawn
    with pytest.raises(ValueError, match=re.escape(message)):
        explorer.set(text=text)


def test_text_and_example_follow_each_other():
    pytest.importorskip("ipywidgets")
    explorer = MAKERS["tree"]()
    texts = explorer.texts  # type: ignore[attr-defined]
    explorer.widget()
    explorer._widgets["example"].value = 2
    assert explorer.state["text"] == explorer._widgets["text"].value == texts[1]
    explorer._widgets["text"].value = "1>7,2>1,2>6,4>2,4>0,0>3,0>5|6"
    assert explorer.state["example"] == explorer._widgets["example"].value == 0
    assert explorer.result.look.tree.goal == 6
    explorer._widgets["text"].value = texts[0]
    assert explorer.state["example"] == 1


def test_other_goals_and_orders_ask_about_the_same_tree():
    tree = Tree.read(TASK, TASK.encode(TEXT))
    for order in prompts.ORDERS:
        for goal in range(4):
            text = x.rearranged(TASK, TEXT, order, goal)
            other = Tree.read(TASK, TASK.encode(text))
            assert other.parent == tree.parent
            assert other.goal == tree.leaves()[(tree.leaves().index(7) + goal) % 3]
    backward = x.rearranged(TASK, TEXT, "backward").partition("|")[0].split(",")
    assert backward[::-1] == x.rearranged(TASK, TEXT, "forward").partition("|")[0].split(",")
    assert backward == ["1>7", "3>5", "2>6", "2>1", "0>3", "4>2", "4>0"]
    assert x.rearranged(TASK, TEXT) == TEXT
    with pytest.raises(ValueError, match="order must be one of as typed, backward"):
        x.rearranged(TASK, TEXT, "sideways")


def test_orders_are_those_of_the_task():
    for order in ("backward", "forward"):
        task = PathfindingTask(n_nodes=8, order=order)  # type: ignore[arg-type]
        for row in task.sample(30, generator=torch.Generator().manual_seed(0)):
            text = prompts.question(task, task.decode(row))
            shuffled = x.rearranged(task, text, "random")
            assert x.rearranged(task, shuffled, order) == text


def test_a_query_that_the_path_does_not_have_is_refused():
    explorer = MAKERS["tree"]()
    short = "4>7,2>1,2>6,4>2,1>0,0>3,6>5|7"
    with pytest.raises(ValueError, match=r"the right path has 1 step\(s\): it has no third token"):
        explorer.set(text=short, query="third")
    assert explorer.set(text=short, query="second").position == TASK.root_position + 1


def test_a_model_of_another_size_is_refused():
    with pytest.raises(ValueError, match="the model has 19 tokens, a tree of 16 nodes needs 35"):
        x.tree_explorer(MODEL, PathfindingTask())


# Knock-outs -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [n for n in knockout.PATHWAYS if n != "nothing"])
def test_a_pathway_joins_the_tokens_it_names(name):
    mask = knockout.pathway(TASK, name)
    assert mask.any()
    assert not mask.diagonal().any()
    queries, keys, whose = knockout.PATHWAYS[name]
    kinds = [("source", "target", "comma")[p % 3] for p in range(20)] + ["bar", "goal", "colon"]
    kinds += ["path"] * (TASK.n_ctx - len(kinds))
    for q in range(TASK.n_ctx):
        for k in range(q):
            same = q // 3 == k // 3 and q < 20
            wanted = kinds[q] in queries and kinds[k] in keys and (whose == "any" or (whose == "own") == same)
            assert bool(mask[q, k]) == wanted, (q, k)


def test_closing_a_pathway_is_the_studys_own_knock_out():
    some = measure.trees(TASK, 60, 71)
    explorer = x.knockout_explorer(MODEL, TASK, n=60)
    found = explorer.set(first="path → commas", layers="1 and later")
    commas = list(range(2, 20, 3))
    right = measure.blocked(MODEL, some, measure.positions(TASK, "path"), commas, layers=(1, 2)).all(1)
    assert sum(found.hits) == int(right.sum())
    assert found.count == torch.bincount(some.truth["length"], minlength=8)[1:].tolist()
    assert sum(explorer.set(first="nothing").hits) == int(measure.exact(MODEL, some).sum())
    assert "layers:" not in explorer.draw(explorer.result)._repr_html_()


def test_layers_are_named_for_what_they_close():
    assert {k: list(v) for k, v in knockout.layer_choices(3).items()} == {
        "all": [0, 1, 2], "1 and later": [1, 2], "0 only": [0], "1 only": [1], "2 only": [2],
    }  # fmt: skip


def test_recorded_knock_outs_are_used_and_what_was_not_recorded_is_measured():
    recorded = x.record_knockouts(MODEL, TASK, n=30)
    assert json.loads(json.dumps(recorded)) == recorded
    assert len(recorded["hits"]) == 1 + (len(knockout.PATHWAYS) - 1) * 5
    explorer = x.knockout_explorer(MODEL, TASK, recorded=recorded, n=10)
    assert explorer.result.hits == recorded["hits"]["path → commas | all"]
    assert sum(explorer.result.count) == 30
    pair = explorer.set(second="path → targets")
    assert sum(pair.count) == 10
    assert pair.closed == "path → targets + path → commas"
    fresh = x.knockout_explorer(MODEL, TASK, n=30)
    assert fresh.result.hits == explorer.reset().hits


def test_knock_outs_of_a_real_algorithm_stop_at_the_first_mistake():
    found = x.knockout_explorer(MODEL, TASK, n=10, text=TEXT).result
    way = [4, 2, 1, 7]
    agree = [a == b for a, b in zip(found.walked, way)]
    assert all(agree[:-1])
    assert len(found.walked) <= len(way)


# Deleting edges -------------------------------------------------------------------------------------
def test_deleting_an_edge_replaces_its_two_tokens_by_commas():
    tokens = TASK.encode(TEXT)[None].clone()
    tokens[0, 3:5] = COMMA
    expected = MODEL(tokens)[0, TASK.root_position + 1, TASK.first_target : TASK.first_bare].detach()
    found = x.delete_edge(MODEL, TASK, TEXT, 2, step=2)
    torch.testing.assert_close(found.after, expected - expected.mean())
    assert (found.edge, found.at, found.right) == ((2, 1), 2, 1)
    assert not torch.allclose(found.before, found.after)
    none = x.delete_edge(MODEL, TASK, TEXT, 0)
    assert none.edge is None
    assert none.before.equal(none.after)


def test_what_moved_is_said():
    explorer = MAKERS["lookahead"]()
    found = explorer.set(edge=3)
    a, b = found.edge
    moves = [f"{float(v):+.1f}".replace("-", "−") for v in found.after - found.before]
    caption = explorer.draw(found).caption
    assert f"Without {a}>{b} the logit of {a} moves by {moves[a]}, that of {b} by {moves[b]}" in caption
    assert "Delete an edge." in explorer.draw(explorer.set(edge=0)).caption


def test_the_first_edge_shown_lies_below_the_sibling():
    explorer = MAKERS["lookahead"]()
    assert explorer.result.edge[0] == 0  # 4>0 is the sibling of 4>2


@pytest.mark.parametrize(
    ("edge", "step", "message"), [(8, 1, "edges 1 to 7, not 8"), (1, 4, "there is no step 4")]
)
def test_an_edge_or_step_that_is_not_there_is_refused(edge, step, message):
    with pytest.raises(ValueError, match=message):
        x.delete_edge(MODEL, TASK, TEXT, edge, step)


# Curves ---------------------------------------------------------------------------------------------
def test_scrubbing_shows_the_given_curves_and_measures_only_what_is_asked_for():
    given = scrub_curves()
    asked: list[str] = []

    def measured() -> np.ndarray:
        asked.append("H3")
        return np.zeros((3, 6))

    given["H3"] = {"random": measured}
    explorer = x.scrub_explorer(given, first=2, explain={"H3": "Everything is kept."})
    assert asked == []
    assert f"layer 2, 7: {given['H1']['same ancestor'][2, 5]:.1%}" in explorer.draw(explorer.result).svg
    with pytest.raises(ValueError, match="H3 was not measured with same ancestor; there is random"):
        explorer.set(hypothesis="H3")
    explorer.set(rule="random", hypothesis="H3")
    assert "Everything is kept." in explorer.draw(explorer.result).caption
    assert asked == ["H3"]
    both = explorer.set(hypothesis="H2", layer="1")
    assert list(both.curves) == ["same ancestor", "random"]
    assert f"same ancestor, 2: {given['H2']['same ancestor'][1, 0]:.1%}" in explorer.draw(both).svg


def test_policies_are_the_dossiers():
    table = c.policy_table(16, 4000)
    assert float(table["random"].mean()) == pytest.approx(0.355, abs=0.01)
    assert float(table["lookahead"].mean()) == pytest.approx(0.553, abs=0.01)
    assert float(table["deeper"].mean()) == pytest.approx(0.565, abs=0.01)
    assert float(table["chain(5) + deeper"].mean()) == pytest.approx(0.987, abs=0.005)
    assert float(table["chain(5) + lookahead"].mean()) == pytest.approx(0.803, abs=0.01)


def test_a_measured_model_stands_among_the_policies_of_its_size():
    explorer = x.policy_explorer(nodes=(6, 8), start=8, measured={"quick": (8, np.linspace(1, 0.9, 7))})
    assert "quick, 7: 90.0%" in explorer.draw(explorer.result).svg
    assert "quick" not in explorer.draw(explorer.set(n=6)).svg
    assert len(explorer.set(n=8, longest=4).success["random"]) == 4
    assert not any("chain" in name for name in explorer.set(layers=1).success)


# The page itself ------------------------------------------------------------------------------------
@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1200])
def test_the_script_changes_the_drawing_from_the_keyboard_and_says_so(tmp_path: Path, width):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    parts = [tiny(), MAKERS["tree"](), MAKERS["policy"]()]
    page_html = "<!doctype html><meta charset=utf-8>" + "".join(p._repr_html_() for p in parts)
    (tmp_path / "page.html").write_text(page_html, "utf8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 700})
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector(".mi-baked button")
        box = page.locator(".mi-baked").nth(0)
        box.locator("select").nth(0).select_option(index=1)
        assert "caption 1y" in box.locator(".mi-view").inner_text()
        assert box.locator(".mi-said").text_content() == "caption 1y"
        box.locator("input").focus()
        page.keyboard.press("ArrowRight")
        assert box.locator("[role=alert]").inner_text() == "2 and y don't go together"
        assert "caption 1y" in box.locator(".mi-view").inner_text()
        box.locator("button").click()
        assert box.locator("[role=alert]").inner_text() == ""
        assert "caption 1x" in box.locator(".mi-view").inner_text()
        tree = page.locator(".mi-baked").nth(1)
        tree.locator("input[type=range]").focus()
        page.keyboard.press("End")
        assert "Layer 2," in tree.locator("figcaption").inner_text()
        assert tree.locator("input[type=range]").get_attribute("aria-valuetext") == "2"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert wrong == []
        browser.close()


def test_an_explorer_is_an_explorer():
    assert issubclass(x.Baked, Explorer)

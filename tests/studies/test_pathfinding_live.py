"""The live pathfinding explorer from Python: its numbers are those of plain runs, its donors those of `roads`."""

from __future__ import annotations

import math

import pytest
import torch

from mi_lab.live import export, live_explorer
from mi_lab.run import run
from mi_lab.scrub import Swap, remember, scrub_all
from mi_lab.studies import pathfinding as study
from mi_lab.studies.pathfinding import live, live_edits, measure, roads
from mi_lab.studies.pathfinding.circuit import CLASSES

TEXT = live.EXAMPLES[10][0]
TASK = study.task(n_nodes=10)
BACKWARD = study.task(n_nodes=10, order="backward")


@pytest.fixture(scope="module")
def model():
    """The weights of the page."""
    return export.as_stored(study.load("middle"))


def prompt(task, tokens):
    """A question without its path."""
    return task.decode(tokens).partition(":")[0]


def test_look_is_a_plain_run_of_the_model(model):
    tokens = TASK.encode(TEXT)[None]
    found = live.look(TEXT)
    out = run(model, tokens, record=("blocks.2.attn.pattern", "blocks.3.resid_post"))
    assert found.good
    assert found.path == found.right == [1, 8, 7, 4, 6]
    torch.testing.assert_close(found.logits, out.logits[0, TASK.root_position :])
    torch.testing.assert_close(found.pattern[2], out["blocks.2.attn.pattern"][0, 0])
    nodes = slice(TASK.first_target, TASK.first_bare)
    torch.testing.assert_close(
        found.lens[3], out.logits[0].softmax(-1)[:, nodes]
    )  # the last layer's lens is the answer
    first = out.logits[0, TASK.root_position]
    assert found.difference == found.clean == pytest.approx(float(first[3 + 8] - first[3 + 5]), abs=1e-4)


def test_the_models_own_path_is_what_grading_judges(model):
    some = measure.trees(TASK, 60, 4)
    right = TASK.grade(model, some.tokens)
    assert 0 < right.sum() < 60
    found = [live.look(prompt(TASK, row)) for row in some.tokens]
    assert [look.good for look in found] == right.tolist()
    for look, row in zip(found, some.tokens):
        assert look.right == [k for k in TASK.variables(row[None])["path"][0].tolist() if k >= 0]
        assert (look.path == look.right) or not look.good
        after = look.tokens[TASK.root_position + 1 :]
        stop = int((after == 0).nonzero()[0]) if (after == 0).any() else len(after)
        assert (after[stop:] == 0).all()


@pytest.mark.parametrize(
    ("classes", "who"),
    [(("target",), "path"), (("source", "comma"), "path"), (("source", "target", "comma"), "edges")],
)
def test_closed_attention_is_that_of_the_claims(classes, who, model):
    """`measure.blocked` closes the same attention for claims P8 and P10."""
    some = measure.trees(BACKWARD, 40, 6)
    plural = {"source": "sources", "target": "targets", "comma": "commas"}
    keys = sorted({p for kind in classes for p in measure.positions(BACKWARD, plural[kind])})
    keys = [p for p in keys if p < 3 * BACKWARD.n_edges - 1]
    queries = [p for p in measure.positions(BACKWARD, who) if p < BACKWARD.n_ctx]
    right = measure.blocked(model, some, queries, keys, layers=(2, 3))
    for row, want in zip(some.tokens, right):
        found = live.look(prompt(BACKWARD, row), closed=classes, who=who, where="2+")
        assert found.good == bool(want.all())
        first = int(row[BACKWARD.root_position + 1])
        assert (int(found.logits[0].argmax()) == first) == bool(want[0])
    assert 5 < right[:, 0].sum() < 40


def test_lost_attention_goes_nowhere():
    moved = live.look(TEXT, closed=("goal",), who="path", where="0", closing="moved")
    lost = live.look(TEXT, closed=("goal",), who="path", where="0", closing="lost")
    root, goal = TASK.root_position, TASK.goal_position
    assert moved.pattern[0, root, goal] == lost.pattern[0, root, goal] == 0
    assert float(moved.pattern[0, root].sum()) == pytest.approx(1, abs=1e-5)
    assert float(lost.pattern[0, root].sum()) < 0.95
    assert live.look(TEXT).pattern[0, root, goal] > 0.05


@pytest.mark.parametrize("who", live.CHOICES["who"])
def test_no_token_loses_sight_of_itself(who):
    for query in range(TASK.n_ctx):
        keys = live_edits.closed_keys(TASK, query, CLASSES, who)
        assert query not in keys
        edges = 3 * TASK.n_edges - 1
        if who == "own" and query < edges:
            assert {k // 3 for k in keys} <= {query // 3}
        if who == "edges" and query < edges:
            assert query // 3 not in {k // 3 for k in keys if k < edges}
        if query < edges and who in ("path", "tail"):
            assert keys == []


@pytest.mark.parametrize("mode", ["zero", "mean"])
def test_parts_that_are_off(mode, model):
    means = live._means("middle", 0)
    head, mlp = (0.0, 0.0) if mode == "zero" else (means.z[1], means.post[2])
    edit = {"blocks.1.attn.z": lambda z: z * 0 + head, "blocks.2.mlp.post": lambda x: x * 0 + mlp}
    found = live.look(TEXT, nodes=(f"L1H0-{mode}", f"L2MLP-{mode}"))
    written = found.tokens[None]
    want = run(model, written, edit=edit).logits[0]
    torch.testing.assert_close(found.logits, want[TASK.root_position :])
    free = want.argmax(-1)
    path = written[0, TASK.root_position + 1 :]
    stop = int((path == 0).nonzero()[0]) if (path == 0).any() else len(path)
    assert free[TASK.root_position : TASK.root_position + stop].tolist() == path[:stop].tolist()
    assert abs(found.difference - found.clean) > 0.1
    assert means.z.shape[1] == 1
    assert torch.isfinite(means.post).all()


# ---- donors ----


@pytest.mark.parametrize("rule", live.CHOICES["rule"])
def test_donors_keep_the_names_that_the_rule_says(rule):
    tokens = TASK.encode(TEXT)
    truth = TASK.variables(tokens[None])
    target = tokens[1 : 3 * TASK.n_edges : 3] - TASK.first_target
    for edge, node in enumerate(target.tolist()):
        kept = live_edits.shared_names(truth, node, rule)
        fixed = torch.zeros(10, dtype=torch.bool)
        if rule != "none":
            fixed |= roads.ancestors_within(truth["parent"], torch.tensor([node]), 1)[0]
        if rule == "up":
            fixed |= roads.ancestors_within(truth["parent"], truth["parent"][:, node], 15)[0]
        if rule == "down":
            fixed |= roads.descendants_within(truth["parent"], torch.tensor([node]), 15)[0]
        assert kept == set(fixed.nonzero()[:, 0].tolist())
        donor = torch.tensor(live_edits.renamed_donor(TASK, tokens, kept, 3, edge))
        assert TASK.encode(TASK.decode(donor)).equal(donor)  # a tree, with its right path
        for name in kept:
            assert (donor == TASK.first_bare + name).equal(tokens == TASK.first_bare + name)
            assert (donor == TASK.first_target + name).equal(tokens == TASK.first_target + name)
        assert (donor != tokens).any() or len(kept) > 8


def test_drawn_numbers_are_spread_evenly():
    """That they are the page's is tested where both run (tests/live)."""
    counts = torch.zeros(7)
    for draw in range(60):
        below = live_edits.drawn_numbers(draw, draw % 9)
        counts += torch.bincount(torch.tensor([below(7) for _ in range(100)]), minlength=7)
    assert (counts / 6000 - 1 / 7).abs().max() < 0.02
    assert live_edits.drawn_numbers(0, 0)(10**6) != live_edits.drawn_numbers(0, 1)(10**6)


@pytest.mark.parametrize("site", ["edges", "root", "7"])
@pytest.mark.parametrize("rule", ["none", "edge", "down"])
def test_donated_states_are_those_of_the_scrubbing_engine(site, rule, model):
    tokens = TASK.encode(TEXT)
    found = live.look(TEXT, donor="renamed", site=site, rule=rule, after=1, draw=5)
    state = live.check(
        {**live.STATE, "text": TEXT, "donor": "renamed", "site": site, "rule": rule, "after": 1, "draw": 5}
    )
    edits = live_edits.edits_of(state, TASK, 4)
    donors = torch.tensor([edit["value"]["run"] for edit in edits])
    places = [edit["positions"] for edit in edits]
    swap = Swap(1, tuple(sorted(p for some in places for p in some)), "resid")
    pool = remember(model, donors, [swap], answer=TASK.answer)
    index = torch.tensor([[i for p in swap.positions for i, some in enumerate(places) if p in some]])
    answer = slice(TASK.root_position, TASK.root_position + 1)
    [out] = scrub_all(model, tokens[None], pool, [(index, [swap])], answer=answer)
    truth = TASK.variables(tokens[None])
    assert found.difference == pytest.approx(
        float(roads.first_step(TASK, truth, out.logits[:, 0])[0]), abs=1e-3
    )
    assert found.clean == pytest.approx(float(roads.first_step(TASK, truth, out.clean[:, 0])[0]), abs=1e-3)


def test_the_road_shows_in_the_explorer_too():
    """Donors that keep descendants lose nothing, others do: the chapter's finding (P17), on hard backward trees."""
    some = measure.trees(BACKWARD, 400, 9)
    some = some.where(some.truth["hard"] & (some.truth["length"] == 4), 10)
    kept: dict[str, list[float]] = {"down": [], "edge": [], "up": []}
    clean = []
    for row in some.tokens:
        text = prompt(BACKWARD, row)
        for rule, values in kept.items():
            found = live.look(text, donor="renamed", rule=rule, after=1)
            values.append(found.difference)
        clean.append(found.clean)
    share = {rule: sum(values) / sum(clean) for rule, values in kept.items()}
    assert share["down"] > 0.85
    assert max(share["edge"], share["up"]) < 0.5


def test_a_second_trees_state(model):
    other = live.EXAMPLES[10][1]
    found = live.look(TEXT, donor="other", other=other, site="4", part="target", after=0)
    edge = TEXT.split(",").index("7>4")
    name = "blocks.0.resid_post"
    donor = run(model, TASK.encode(other)[None], record=name)[name]

    def edit(x):
        x = x.clone()
        x[:, 3 * edge + 1] = donor[:, 3 * edge + 1]
        return x

    want = run(model, found.tokens[None], edit={name: edit}).logits[0, TASK.root_position :]
    torch.testing.assert_close(found.logits, want)


# ---- state ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "1>2"}, "there is no '|'"),
        ({"text": TEXT.replace("4>6", "4>4")}, "leads back to itself"),
        ({"text": TEXT[:-1] + "5"}, "the goal must be a leaf"),
        ({"other": "<b>|1"}, "is not an edge"),
        ({"model": "gpt"}, "there is no model"),
        ({"seed": 9}, "there is no model 'middle' with seed 9"),
        ({"layer": -1}, "layer must be a whole number"),
        ({"draw": 1.5}, "draw must be a whole number"),
        ({"who": "me"}, "who must be one of"),
        ({"closed": ["nodes"]}, "closed takes"),
        ({"nodes": ["L1H0"]}, "is written such as"),
        ({"site": "x"}, "site must be"),
        ({"colour": 1}, "there is no field"),
    ],
)
def test_impossible_states_are_refused_in_one_sentence(changes, message):
    explorer = live_explorer.StaticExplorer(live.describe())
    before = explorer.state
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        explorer.set(**changes)
    assert explorer.state == before


def test_what_depends_on_a_field_follows_it():
    state = live.describe(
        model="quick", seed=2, layer=9, position=99, after=7, site="root", rule="down"
    ).state
    assert state["text"] == live.EXAMPLES[8][0]
    assert (state["layer"], state["after"]) == (2, 2)
    assert state["position"] == study.task(n_nodes=8).root_position + 3
    assert state["rule"] == "up"
    assert live.describe(where="7+", site="1").state["where"] == "all"
    assert live.describe(site="1").state["site"] == "edges"  # 1 is the root: no edge leads into it
    assert live.describe(nodes=["L2MLP-mean", "L0H0-zero", "L0H0-mean"]).state["nodes"] == [
        "L0H0-zero",
        "L2MLP-mean",
    ]
    assert live.describe(text=TEXT + ":1>8").state["text"] == TEXT


def test_a_root_with_one_child_has_no_first_choice():
    found = live.look("8>9,7>8,6>7,5>6,4>5,3>4,2>3,1>2,0>1|9")
    assert math.isnan(found.difference)
    assert found.right == list(range(10))


def test_files_are_models_that_are_published_and_trees():
    known = live.keys()
    assert "middle-0" in known
    assert {key.split("-")[0] for key in known} == {n for n in live.TEXTS if measure.published(n)} | {"trees"}
    assert all(len(live.model_file(key)) <= 2_500_000 for key in known)
    tokens = torch.tensor(list(live.model_file("trees-10"))).view(live.MEAN_TREES, -1)
    assert tokens.equal(live.mean_trees(10))
    assert TASK.solve(tokens).equal(tokens)
    for key in ("quick-7", "trees-9", "../x"):
        with pytest.raises(ValueError, match="there is no model"):
            live.model_file(key)


def test_examples_are_questions_with_a_choice():
    for n, pair in live.EXAMPLES.items():
        task = study.task(n_nodes=n)
        for text in pair:
            truth = task.variables(task.encode(text)[None])
            assert bool(truth["hard"])
            assert prompt(task, task.encode(text)) == text


def test_page_form_and_widget(monkeypatch):
    monkeypatch.setenv("MI_LAB_STATIC", "1")
    page = live.explorer(closed=["target"], name="mi-other")._repr_html_()
    assert 'data-mi-live="waiting" data-mi-kind="pathfinding" id="mi-other"' in page
    assert "<svg" in page.split('type="application/json"')[0]
    assert len(page) < 25_000
    monkeypatch.delenv("MI_LAB_STATIC")
    pytest.importorskip("anywidget")
    widget = live.explorer()
    widget.layer = 3
    widget.set(text=live.EXAMPLES[8][0], other=live.EXAMPLES[8][1], model="quick")
    assert widget.layer == 2
    assert widget.look().right == [6, 4, 1, 0]
    with pytest.raises(Exception, match="who must be one of"):
        widget.who = "me"
    widget.reset()
    assert widget.state == live.describe().state

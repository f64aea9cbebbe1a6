"""Trees are drawn where they should be, charts show the numbers they are given, all of it well-formed and legible."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from mi_lab import charts
from mi_lab.metrics import wilson
from mi_lab.model import Transformer
from mi_lab.studies.pathfinding import circuit, figures, measure
from mi_lab.studies.pathfinding import drawing as d
from mi_lab.studies.pathfinding.explorers import examples, look
from mi_lab.studies.pathfinding.explorers import tree as stage
from mi_lab.studies.pathfinding.layout import Tree, layout
from mi_lab.studies.pathfinding.recipes import config
from mi_lab.studies.pathfinding.task import PathfindingTask

TASK = PathfindingTask(n_nodes=16)
SMALL = PathfindingTask(n_nodes=6)
TEXT = "5>3,0>5,1>2,4>1,4>0|3"
PHONE = 310  # pixels that a drawing has on a phone of 360


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    shape = config(SMALL, n_layers=2, d_model=16, d_head=16, d_mlp=32)
    return Transformer(shape, generator=torch.Generator().manual_seed(0)).eval()


@pytest.fixture(scope="module")
def trees():
    tokens = TASK.sample(200, generator=torch.Generator().manual_seed(1))
    return [Tree.read(TASK, row) for row in tokens]


def svgs(html: str) -> list[ET.Element]:
    """Every SVG of a drawing, parsed: fails if one is not well-formed."""
    found = [ET.fromstring(part) for part in re.findall(r"<svg .*?</svg>", html, flags=re.S)]
    assert found
    return found


def check(drawing: charts.Drawing) -> list[ET.Element]:
    """Well-formed, named for screen readers, no id twice, and no label below 11 px on a phone."""
    html = drawing._repr_html_()
    assert len(set(re.findall(r'\bid="([^"]*)"', html))) == len(re.findall(r'\bid="', html))
    assert "NaN" not in html
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+", "", html)
    big = []
    for svg in svgs(html):
        if svg.get("aria-hidden"):
            continue
        big.append(svg)
        assert svg.get("role") == "img"
        assert svg.get("aria-label")
        assert svg.find("title") is not None
        width = float(svg.get("viewBox").split()[2])  # type: ignore[union-attr]
        assert float(svg.get("font-size")) * min(1, PHONE / width) >= 10.4 or width > 500  # type: ignore[arg-type]
    return big


# The tree -------------------------------------------------------------------------------------------
def test_no_two_nodes_of_200_trees_overlap(trees):
    for tree in trees:
        places = d.Stage(tree).node
        for i, (x, y) in enumerate(places):
            for a, b in places[:i]:
                assert math.hypot(x - a, y - b) >= 2 * d.RADIUS + 4, tree


def test_no_edge_runs_through_a_foreign_node(trees):
    for tree in trees[:60]:
        places = d.Stage(tree).node
        for child, parent in enumerate(tree.parent):
            if parent < 0:
                continue
            (x0, y0), (x1, y1) = places[parent], places[child]
            for node, (x, y) in enumerate(places):
                if node not in (child, parent) and y0 < y < y1:
                    pytest.fail("an edge spans one level: no node lies between")
                if node not in (child, parent):
                    t = min(
                        max(
                            ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2),
                            0,
                        ),
                        1,
                    )
                    assert math.hypot(x0 + t * (x1 - x0) - x, y0 + t * (y1 - y0) - y) > d.RADIUS


def test_a_parent_stands_in_the_middle_above_its_children_the_smaller_label_left(trees):
    for tree in trees[:60]:
        places = layout(tree)
        assert min(x for x, _ in places) == 0
        for node in range(16):
            below = tree.children(node)
            if below:
                assert places[node][0] == pytest.approx(np.mean([places[k][0] for k in below]))
                assert all(places[k][1] == places[node][1] + 1 for k in below)
                assert [places[k][0] for k in below] == sorted(places[k][0] for k in below)


def test_drawings_stay_inside_their_frame_and_need_no_scaling_on_a_phone(trees):
    for tree in trees:
        stage_ = d.Stage(tree)
        for x, y in stage_.node:
            assert d.RADIUS <= x <= stage_.width - d.RADIUS
            assert d.RADIUS + 12 <= y <= stage_.height - d.RADIUS - 12
        assert d.FONT * min(1, PHONE / stage_.width) >= 11


def test_what_is_read_from_a_prompt_is_the_tree():
    tree = Tree.read(SMALL, SMALL.encode(TEXT))
    assert tree.parent == (4, 4, 1, 5, -1, 0)
    assert (tree.root, tree.goal) == (4, 3)
    assert tree.path() == [4, 0, 5, 3]
    assert tree.leaves() == [2, 3]


def test_root_and_goal_differ_in_shape_from_other_nodes():
    tree = Tree.read(SMALL, SMALL.encode(TEXT))
    groups = {
        g.find("title").text: g
        for g in ET.fromstring(d.draw_tree(tree)).iter("g")
        if g.find("title") is not None
    }  # type: ignore[union-attr]
    assert len(groups["root 4"].findall("rect")) == 1
    assert len(groups["goal 3"].findall("circle")) == 2
    assert len(groups["node 2"].findall("circle")) == 1
    assert {"root", "goal"} <= {t.text for g in groups.values() for t in g.findall("text")}


def test_beads_lie_on_their_edge_in_reading_order():
    tree = Tree.read(SMALL, SMALL.encode(TEXT))
    place = d.Stage(tree)
    for child, parent in enumerate(tree.parent):
        if parent < 0:
            continue
        (x0, y0), (x1, y1) = place.node[parent], place.node[child]
        shares = []
        for kind in ("source", "comma", "target"):
            x, y = place.at(d.Spot(kind, child))
            assert (x - x0) * (y1 - y0) == pytest.approx((y - y0) * (x1 - x0), abs=1e-6)
            shares.append((y - y0) / (y1 - y0))
        assert shares == sorted(shares)
        assert shares[0] > 0
        assert shares[-1] < 1


def test_an_arrow_ends_at_the_spot_it_names_and_starts_at_its_own(trees):
    for tree in trees[:40]:
        place = d.Stage(tree)
        start = d.Spot("node", tree.root)
        for node in (tree.goal, tree.leaves()[0]):
            for kind in ("source", "comma", "target"):
                end = d.Spot(kind, node)
                drawn = d._arrow(place, d.Arrow(start, end, 0.8))
                if not drawn:  # they touch
                    (x0, y0), (x1, y1) = place.at(start), place.at(end)
                    assert math.hypot(x1 - x0, y1 - y0) < 40
                    continue
                paths = [p.get("d") for p in ET.fromstring(drawn).iter("path")]
                tip = [float(v) for v in re.findall(r"-?[\d.]+", paths[1].split("L")[0])]  # type: ignore[union-attr]
                tail = [float(v) for v in re.findall(r"-?[\d.]+", paths[0].split("Q")[0])]  # type: ignore[union-attr]
                x, y = place.at(end)
                assert math.hypot(tip[0] - x, tip[1] - y) < 9
                assert math.hypot(tail[0] - place.node[tree.root][0], tail[1] - place.node[tree.root][1]) < 18


def test_more_attention_is_a_wider_and_more_opaque_arrow():
    tree = Tree.read(SMALL, SMALL.encode(TEXT))
    place = d.Stage(tree)

    def look_of(weight: float) -> tuple[float, float]:
        group = ET.fromstring(d._arrow(place, d.Arrow(d.Spot("node", 4), d.Spot("target", 3), weight)))
        return float(group.get("opacity")), float(group.find("path").get("stroke-width"))  # type: ignore[union-attr, arg-type]

    assert look_of(0.1)[0] < look_of(0.5)[0] < look_of(1.0)[0]
    assert look_of(0.1)[1] < look_of(0.5)[1] < look_of(1.0)[1]


@pytest.mark.parametrize(
    ("spot", "message"),
    [
        (d.Spot("node", 9), "the tree has nodes 0..5, not 9"),
        (d.Spot("colon", 2), "a spot is a node or one of source, comma, target, not 'colon'"),
        (d.Spot("target", 4), "4 is the root: there is no edge into it"),
    ],
)
def test_a_spot_that_is_not_there_is_refused(spot, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        d.Stage(Tree.read(SMALL, SMALL.encode(TEXT))).at(spot)


def test_shading_trails_cuts_and_wrong_steps_are_drawn_and_said():
    tree = Tree.read(SMALL, SMALL.encode(TEXT))
    trail = d.Trail((3, 5, 0), "36")
    plain = d.draw_tree(tree)
    drawn = d.draw_tree(
        tree, shade={0: 0.75, 2: 0.001}, trails=[trail], walked=[4, 1, 2], cut=2, start=d.Spot("comma", 5)
    )
    ET.fromstring(drawn)
    assert "node 0, probability 75%" in drawn
    assert "node 2, probability" not in drawn
    assert "36: 3 to 5 to 0" in drawn
    assert "wrong step from 4 to 1" in drawn
    assert "stroke-dasharray" not in plain
    assert "wrong step" not in d.draw_tree(tree, walked=[4, 0, 5, 3])
    assert "wrong step" not in d.draw_tree(tree, walked=[4, 3]), "not an edge of the tree"


# Charts ---------------------------------------------------------------------------------------------
def test_every_point_of_a_line_says_its_value_and_holes_stay_holes():
    lines = [
        charts.Series("a & b", [1, 2, 3], [0.5, np.nan, 1.0], 0),
        charts.Series("c", [1, 3], [0, 1], 5, faded=True),
    ]
    svg = ET.fromstring(charts.line_chart(lines, x="x", y="y", title="t"))
    said = [t.text for t in svg.iter("title")]
    assert "a & b, 1: 50.0%" in said
    assert "a & b, 3: 100.0%" in said
    assert len(list(svg.iter("circle"))) == 2
    line = next(p.get("d") for p in svg.iter("path") if p.get("stroke-width") == "2.2")
    assert line.count("M") == 2


def test_lines_are_told_apart_without_colour():
    looks = {(charts._style(i)[1], charts._style(i)[2], charts._style(i)[0]) for i in range(8)}
    assert len(looks) == 8
    assert charts._style(1)[1:] != charts._style(5)[1:]
    assert "<circle" in charts.legend([charts.Series("a", [1], [1])])


def test_a_heat_map_has_a_cell_a_number_and_refuses_other_shapes():
    svg = charts.heat_map([[0.5, np.nan], [-1.0, 0.25]], ["a", "b"], ["x", "y"], title="t", mark=[(1, 0)])
    cells = [t.text for t in ET.fromstring(svg).iter("title")][1:]
    assert cells == ["a, x: .50", "b, x: −1.00", "b, y: .25"]
    assert svg.count('class="n"') == 1
    with pytest.raises(ValueError, match=r"values must be \[2, 1\] like the names, not \[2, 2\]"):
        charts.heat_map(np.zeros((2, 2)), ["a", "b"], ["x"], title="t")


# Figures --------------------------------------------------------------------------------------------
def test_the_strip_has_every_token_with_its_role():
    shown = figures.prompt_strip(SMALL, TEXT)
    check(shown)
    words = re.findall(r'title="position (\d+): (\w+)">([^<]*)<', shown.svg)
    tokens = SMALL.encode(TEXT)
    assert [int(p) for p, _, _ in words] == list(range(len(words)))
    assert [w.replace("&gt;", ">") for _, _, w in words] == [SMALL.vocab[t] for t in tokens.tolist()][
        : len(words)
    ]
    assert [r for _, r, _ in words][-8:] == ["bar", "goal", "colon", "root", "path", "path", "path", "stop"]
    assert f"… and {SMALL.n_ctx - len(words)} more commas" in shown.svg


def test_a_tree_is_drawn_with_its_trails():
    shown = figures.tree(SMALL, TEXT, "c", trails=[d.Trail((3, 5), "12")])
    check(shown)
    assert "12: 3 to 5" in shown.svg


@pytest.mark.parametrize("query", stage.QUERIES)
def test_attention_is_drawn_a_tree_a_layer(model, query):
    shown = figures.attention_by_layer(model, SMALL, TEXT, query=query)
    assert len(check(shown)) == 2
    assert "<b>Layer 0</b>" in shown.svg
    assert "<b>Layer 1</b>" in shown.svg


def test_arrows_and_the_rest_are_all_attention_there_is(model):
    seen = look(model, SMALL, TEXT)
    for query in stage.QUERIES:
        position = stage.query_position(SMALL, seen, query)
        assert SMALL.vocab[int(seen.tokens[position])] == seen.words[position]
        drawn = stage.arrows(SMALL, seen, 1, position, least=0.0)
        rest = stage.elsewhere(SMALL, seen, 1, position)
        assert sum(a.weight for a in drawn) + sum(rest.values()) == pytest.approx(1, abs=1e-5)
        for arrow in drawn:
            at = {"node": -1, "source": 0, "target": 1, "comma": 2}[arrow.end.kind]
            where = [p for p in range(15) if stage.query_spot(SMALL, seen, p) == arrow.end]
            assert len(where) == 1
            assert where[0] % 3 == at
            assert arrow.weight == pytest.approx(float(seen.pattern[1, position, where[0]]))


def test_relations_are_drawn_an_order_a_panel(model):
    values = {}
    for order in ("backward", "random"):
        some = measure.trees(PathfindingTask(n_nodes=6, order=order), 20)
        pattern = circuit.patterns(model, some.tokens, list(range(15)))
        relation = circuit.relations(SMALL, some.tokens, some.truth)
        values[order] = figures.mean_by_relation(circuit.attention_by_relation(SMALL, pattern, relation))
    shown = figures.relation_heatmap(values, "c")
    assert len(check(shown)) == 2
    said = f"own comma, L0: {charts._number(float(values['random']['own comma'][0]), False)}"
    assert said in shown.svg


def test_ancestors_and_composition_frame_what_a_deduction_head_would_have(model):
    shown = figures.ancestors_heatmap([[0.5, 0.1, 0], [0.2, 0.9, 0.1]], "c")
    assert len(check(shown)) == 1
    assert shown.svg.count('stroke-width="2"') == 1
    matrix = circuit.composition_matrix(model, SMALL, 1)
    shown = figures.composition(matrix.detach(), "c")
    check(shown)
    right = int((matrix.argmax(1) == torch.arange(6)).sum())
    assert f"{right} of 6 rows peak on the diagonal" in shown.svg


def test_accuracy_has_wilson_bands_and_the_policies_beside_it():
    some = measure.trees(SMALL, 500)
    beside = figures.policies(SMALL, some.truth, climb=1)
    assert list(beside) == [
        "random descent",
        "never into a wrong leaf",
        "into the deeper subtree",
        "climb 1, else deeper",
    ]
    assert beside["random descent"][0] == pytest.approx(0.5, abs=0.1)
    shown = figures.accuracy_by_length({"a model": ([9, 0, 3, 0, 1], [10, 5, 3, 0, 1])}, "c", beside=beside)
    check(shown)
    assert "a model, 1: 90.0%" in shown.svg
    assert "a model, 4" not in shown.svg, "no tree, no point"
    series = figures._counted("m", ([9], [10]), 0)
    assert (series.low[0], series.high[0]) == wilson(9, 10)[1:]  # type: ignore[index]
    assert "pathways closed" in figures.knockouts({"a": ([1], [2])}, "c").svg


def test_scrubbing_is_drawn_a_panel_a_hypothesis():
    array = np.random.default_rng(0).uniform(-0.5, 1, (3, 2, 6, 14))
    table = figures.scrub_table(torch.tensor(array))
    assert list(table) == ["H1", "H2", "H3"]
    np.testing.assert_array_equal(table["H2"]["random"], array[1, 1])
    shown = figures.scrub_curves({h: t["same ancestor"] for h, t in table.items()}, "c")
    assert len(check(shown)) == 3
    assert f"layer 5, 14: {array[2, 0, 5, 13]:.1%}" in shown.svg


def test_development_has_a_row_a_step():
    exact = np.linspace(0, 1, 15)[None] * np.ones((3, 1))
    shown = figures.development([0, 200, 32_000], exact, "c", overall=exact.mean(1))
    check(shown)
    assert "32,000, 15: 100" in shown.svg
    assert "200, all: 50" in shown.svg
    shown = figures.development_curves([0, 200, 6840], {"D1": [0, 0.5, 1]}, "c", y="attention")
    check(shown)
    assert "6.84k" in shown.svg


def test_the_table_of_roads_says_in_words_what_holds():
    shown = figures.road_table(
        {"m": {"chaining": 0.95, "forward": 0.2, "jump": 0.7}, "k": {"chaining": float("nan")}}, "c"
    )
    text = re.sub(r"<[^>]*>", "", shown.svg.replace("</td>", " "))
    for said in ("95% holds", "20% fails", "70% in part", "–"):
        assert said in text
    assert shown.svg.count('scope="col"') == 3


def test_examples_are_questions_of_their_task_the_same_at_every_call():
    texts = examples(TASK)
    assert texts == examples(TASK)
    lengths = [len(Tree.read(TASK, TASK.encode(t)).path()) - 1 for t in texts]
    assert lengths == [7, 5, 8, 10, 2]

"""The node map: every cell where it belongs, in the page's colours, readable without seeing it."""

import re
from xml.etree import ElementTree

import pytest

from mi_lab.nodemap import node_map
from mi_lab.run import Node

FACTS = {Node(0, 0, 3): 0.5, Node(0, 1, 3): 0.0, Node(0, None, 4): -1.0, Node(1, 0, 5): float("nan")}


def cells(picture):
    """{node name: (x, y, opacity, text)}"""
    out = {}
    pattern = r'translate\(([\d.]+) ([\d.]+)\)"><g class="mi-node" data-node="(\w+)">(.*?)</g></g>'
    for x, y, name, inside in re.findall(pattern, picture.svg):
        text = re.search(r"<text[^>]*>(.*?)</text>", inside)
        opacity = float(re.search(r'fill-opacity="([\d.]+)"', inside)[1])
        out[name] = (float(x), float(y), opacity, text[1] if text else "")
    return out


def test_cells_stand_in_rows_of_heads_and_columns_of_positions():
    found = cells(node_map(FACTS, "c"))
    assert set(found) == {"P3L0H0", "P3L0H1", "P4L0MLP", "P5L1H0"}
    x = [found[name][0] for name in ("P3L0H0", "P3L0H1", "P4L0MLP", "P5L1H0")]
    y = [found[name][1] for name in ("P3L0H0", "P3L0H1", "P4L0MLP", "P5L1H0")]
    assert x[0] == x[1] < x[2] < x[3]
    assert y == sorted(y)
    assert len(set(y)) == 4


def test_colour_tells_size_and_sign():
    shown = node_map(FACTS, "c")
    found = cells(shown)
    assert found["P4L0MLP"][2] == pytest.approx(2 * found["P3L0H0"][2])
    assert found["P3L0H1"][2] == found["P5L1H0"][2] == 0.0
    assert re.search(r'P4L0MLP"><title>P4L0MLP: -1</title><rect[^>]*--mi-negative', shown.svg)
    assert re.search(r'P3L0H0"><title>P3L0H0: 0.5</title><rect[^>]*--mi-positive', shown.svg)


def test_numbers_print_unless_a_tag_or_the_caller_says_otherwise():
    assert cells(node_map(FACTS, "c", percent=True))["P3L0H0"][3] == "50"
    tagged = cells(node_map(FACTS, "c", tags={Node(0, 0, 3): "ST2", Node(1, 1, 4): "SV1"}))
    assert tagged["P3L0H0"][3] == "ST2"
    assert tagged["P4L1H1"][3] == "SV1"  # a tag alone is enough for a cell
    assert cells(node_map(FACTS, "c", numbers=False))["P3L0H0"][3] == ""
    assert cells(node_map({Node(0, 0, 3): "SA"}, "c"))["P3L0H0"][3] == "SA"


def test_a_number_without_room_is_left_to_the_pointer():
    shown = node_map({Node(0, 0, 0): 1.5, Node(0, 0, 1): -1.9e-9}, "c")
    assert cells(shown)["P1L0H0"][3] == ""
    assert "<title>P1L0H0: -1.9e-09</title>" in shown.svg
    assert "--mi-negative" in shown.svg
    assert ">-1.5</text>" not in shown.svg  # rounding does not make the scale a signed one


def test_columns_can_be_chosen_and_carry_their_tokens():
    shown = node_map(FACTS, "c", positions=[3, 4], labels=["a", "b", "c", "D'2", "="])
    assert set(cells(shown)) == {"P3L0H0", "P3L0H1", "P4L0MLP"}
    assert ">D&#x27;2</text>" in shown.svg
    assert ">P3</text>" in shown.svg


def test_it_is_well_formed_themed_and_small():
    facts = {Node(layer, h, p): p / 22 for p in range(22) for layer in range(3) for h in (0, 1, 2, None)}
    shown = node_map(facts, "caption", tags={Node(1, 2, 7): "SA1 MD1 ND1"}, percent=True)
    root = ElementTree.fromstring(shown.svg)
    assert root.get("width") == "100%"
    assert re.search(r"max-width:\d+px;height:auto", root.get("style"))
    for colour in re.findall(r"#[0-9a-f]{6}\b", shown.svg):
        assert re.search(rf"var\(--mi-[a-z0-9-]+, {colour}\)", shown.svg)
    assert "id=" not in shown.svg.replace("viewBox", "")  # ids of two maps on a page would clash
    assert len(shown.svg) < 150_000
    assert node_map(facts, "c").svg == node_map(facts, "c").svg


def test_it_can_be_read_out():
    shown = node_map(FACTS, "caption", title="Failures", percent=True)
    assert "<title>Failures</title>" in shown.svg
    assert "largest: P4L0MLP -100 %, P3L0H0 50 %" in shown.alt
    assert "4 heads and MLPs by 3 positions, P3 to P5" in shown.alt
    assert f"<desc>{shown.alt}</desc>" in shown.svg
    assert 'role="img"' in shown._repr_html_()


def test_text_cannot_break_out():
    bad = "<script>&"
    shown = node_map({Node(0, 0, 0): bad}, "c", labels=[bad], title=bad)
    assert "<script>" not in shown.svg
    ElementTree.fromstring(shown.svg)


@pytest.mark.parametrize(
    "facts", [{Node(0, 0, 0): 0.0}, {Node(0, 0, 9): float("nan")}, {Node(0, None, 2): float("inf")}]
)
def test_odd_numbers_are_drawn(facts):
    shown = node_map(facts, "c")
    ElementTree.fromstring(shown.svg)
    assert not re.search(r'"(nan|inf)"', shown.svg)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least one node"):
        node_map({}, "c")
    with pytest.raises(ValueError, match="node L0H1 is at all positions"):
        node_map({Node(0, 1): 1.0}, "c")
    with pytest.raises(ValueError, match="position 3 has no label; there are 2"):
        node_map(FACTS, "c", labels=["a", "b"])
    with pytest.raises(ValueError, match="whole numbers from 0 on"):
        node_map(FACTS, "c", positions=[-1])

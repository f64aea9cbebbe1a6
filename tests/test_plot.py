"""Pictures: inline SVG in the page's own colours, the same bytes at every run, small, and never broken."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest

from mi_lab import plot
from mi_lab.plot import Picture

NAN = float("nan")


def square(n: int = 51, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, n))


def a_heatmap() -> Picture:
    return plot.heatmaps(
        [square(), square(seed=1)], ["one", "two"], "caption", x="across", y="down", colours=plot.HEADS[:2]
    )


def some_strips() -> Picture:
    return plot.strips(np.random.default_rng(0).normal(size=(2, 4, 51)), "caption", titles=["a", "b"])


def some_lines() -> Picture:
    steps = np.array([0, 10, 100, 1000, 6000])
    return plot.lines(
        {name: (steps, np.sqrt(steps) + i) for i, name in enumerate("abcde")},
        "caption",
        x="step",
        y="loss",
        bands={"a": (np.sqrt(steps) - 1, np.sqrt(steps) + 1)},
        mark=[(500.0, "here")],
        log_x=True,
    )


def some_dots() -> Picture:
    return plot.dots({"1.18": np.linspace(0, 1, 8), "4.73": [0.5] * 8}, "caption", y="share", line=0.5)


MAKERS = {"heatmaps": a_heatmap, "strips": some_strips, "lines": some_lines, "dots": some_dots}
PICTURES = {name: functools.cache(make) for name, make in MAKERS.items()}  # drawn once for all tests
each_picture = pytest.mark.parametrize("make", PICTURES.values(), ids=list(PICTURES))


def well_formed(shown: Picture) -> ElementTree.Element:
    """The SVG, parsed as XML; xlink is declared by matplotlib itself."""
    return ElementTree.fromstring(shown.svg)


# One drawing for light and dark ---------------------------------------------------------------------
@each_picture
def test_ink_is_the_pages_own_and_no_fixed_ink_is_left(make):
    svg = make().svg
    assert "currentColor" in svg
    for fixed in (plot.INK, "#000000", "#ffffff", ": black", ": white"):
        assert fixed not in svg, fixed


@each_picture
def test_every_colour_of_the_theme_is_a_css_variable_with_its_value_as_the_fallback(make):
    svg = make().svg
    for colour in re.findall(r"#[0-9a-f]{6}\b", svg):
        assert re.search(rf"var\(--mi-[a-z0-9-]+, {colour}\)", svg), f"{colour} is not themed"
        assert len(re.findall(colour, svg)) == len(re.findall(rf"var\(--mi-[a-z0-9-]+, {colour}\)", svg))


def test_head_h_is_the_variable_of_head_h():
    svg = some_strips().svg
    for head, colour in enumerate(plot.HEADS):
        assert f"fill: var(--mi-head-{head}, {colour})" in svg


def test_heads_keep_their_colour_and_the_fifth_begins_again():
    assert [plot.head_colour(h) for h in range(4)] == list(plot.HEADS)
    assert plot.head_colour(4) == plot.HEADS[0]
    assert len({*plot.HEADS, plot.NEUTRAL, plot.POSITIVE, plot.NEGATIVE, plot.INK}) == 8


@each_picture
def test_there_is_no_paper_behind_the_drawing(make):
    """A background rectangle would be a white card on a dark page."""
    root = well_formed(make())
    ids = {e.get("id"): e for e in root.iter() if e.get("id")}
    for name in ("patch_1", "patch_2"):
        paths = [p for p in ids[name] if p.tag.endswith("path")] if name in ids else []
        assert all("fill: none" in (p.get("style") or "") for p in paths), name


@each_picture
def test_text_stays_text_in_the_pages_font(make):
    svg = make().svg
    assert "<text" in svg
    fonts = set(re.findall(r"font-family:\s*([^;\"]+)", svg))
    assert fonts == {"var(--mi-sans, system-ui, sans-serif)"}
    assert not re.search(r"font: [^\"]*(DejaVu|sans-serif)", svg), "a font named in the shorthand"


# Stable, small, well-formed -------------------------------------------------------------------------
@pytest.mark.parametrize("name", MAKERS)
def test_the_same_numbers_give_the_same_bytes(name):
    assert MAKERS[name]().svg == PICTURES[name]().svg


def test_bytes_are_the_same_in_another_process():
    code = "from mi_lab import plot; print(plot.dots({'a': [0.1, 0.7], 'b': [0.5]}, 'c', y='y').svg)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == plot.dots({"a": [0.1, 0.7], "b": [0.5]}, "c", y="y").svg


@each_picture
def test_no_date_and_no_maker_is_written_down(make):
    svg = make().svg
    assert "<metadata" not in svg
    assert "<!--" not in svg
    assert "matplotlib v" not in svg.lower()
    assert not re.search(r"\b20\d\d-\d\d-\d\d", svg)


@each_picture
def test_a_picture_is_small_scales_with_the_page_and_is_well_formed(make):
    shown = make()
    assert len(shown.svg.encode()) < 150_000
    root = well_formed(shown)
    assert root.get("width") == "100%"
    assert root.get("height") is None
    assert re.search(r"max-width:\d+px;height:auto", root.get("style") or "")
    assert root.get("viewBox")


@each_picture
def test_a_page_may_hold_it_without_a_second_document_or_network(make):
    html = make()._repr_html_()
    assert "<?xml" not in html
    assert "<!DOCTYPE" not in html
    assert "<script" not in html
    assert html.count("<svg ") == 1
    assert not re.findall(r'(?:src|href)="https?:', html)


def test_drawing_changes_no_setting_of_the_readers_matplotlib():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    some_lines()
    assert dict(mpl.rcParams) == before


def test_the_readers_matplotlib_style_changes_no_picture():
    import matplotlib as mpl

    theirs = {"axes.labelpad": 30, "xtick.major.size": 20, "axes.grid": True, "font.sans-serif": ["Courier"]}
    with mpl.rc_context(theirs):
        assert some_dots().svg == PICTURES["dots"]().svg
        assert mpl.rcParams["axes.labelpad"] == 30


def test_rounding_keeps_a_hundredth_of_a_pixel():
    assert plot._short("<g d='1.23456 7.5'>  \n <p/> </g>") == "<g d='1.23 7.5'><p/></g>"


# Captions -------------------------------------------------------------------------------------------
def test_caption_and_label_cannot_break_out():
    bad = '"><script>alert(1)</script>&'
    html = Picture("<svg viewBox='0 0 1 1'></svg>", bad)._repr_html_()
    assert "<script>" not in html
    assert 'aria-label="&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;"' in html
    assert "<figcaption>&quot;&gt;&lt;script&gt;" in html


def test_titles_and_names_cannot_break_out():
    shown = plot.heatmaps([np.eye(3)], ["</text><script>x</script>"], "c", x="<b>", y="&")
    assert "<script>" not in shown.svg
    well_formed(shown)


def test_alt_is_read_out_and_stands_for_the_caption_only_if_given():
    assert 'aria-label="said"' in Picture("<svg ></svg>", "seen", "said")._repr_html_()
    html = Picture("<svg ></svg>", "seen")._repr_html_()
    assert 'aria-label="seen"' in html
    assert "<figcaption>seen</figcaption>" in html
    assert 'role="img"' in html


def test_without_a_caption_there_is_no_empty_one():
    assert "figcaption" not in Picture("<svg ></svg>", "", "said")._repr_html_()


def test_a_terminal_shows_the_caption():
    assert repr(some_dots()) == "Picture: caption"


@each_picture
def test_a_figure_says_its_alt(make):
    assert 'aria-label="caption"' in make()._repr_html_()


# Colours of heat maps -------------------------------------------------------------------------------
def test_signed_colours_fade_to_nothing_at_zero():
    cells = plot.signed_rgba([[-2.0, -1.0, 0.0, 1.0, 2.0]])[0]
    assert cells[2, 3] == 0.0
    assert cells[0, 3] == cells[4, 3] == 1.0
    assert 0.5 < cells[1, 3] == cells[3, 3] < 1.0
    assert (cells[0, :3] == cells[1, :3]).all()
    assert (cells[3, :3] == cells[4, :3]).all()
    assert not (cells[0, :3] == cells[4, :3]).all()
    assert cells[4, 0] > cells[4, 2], "orange above"
    assert cells[0, 2] > cells[0, 0], "purple below"


def test_a_given_largest_value_sets_the_scale_and_what_is_beyond_it_saturates():
    cells = plot.signed_rgba([1.0, 10.0, -30.0], largest=10.0)
    assert cells[0, 3] == pytest.approx(0.1**0.8)
    assert cells[1, 3] == cells[2, 3] == 1.0


def test_nothing_is_drawn_where_nothing_was_measured():
    for rgba in (plot.signed_rgba([NAN, 1.0, -2.0]), plot.unsigned_rgba([NAN, 1.0, 2.0])):
        assert rgba[0, 3] == 0.0
        assert rgba[2, 3] == 1.0
        assert np.isfinite(rgba).all()


@pytest.mark.parametrize("values", [[0.0, 0.0], [NAN, NAN], [NAN, 0.0]])
def test_all_zero_or_all_missing_is_transparent(values):
    assert (plot.signed_rgba(values)[..., 3] == 0).all()
    assert (plot.unsigned_rgba(values)[..., 3] == 0).all()


def test_infinite_values_saturate_and_leave_the_others_readable():
    cells = plot.signed_rgba([np.inf, 1.0, 0.5, -np.inf])
    assert cells[:, 3].tolist() == pytest.approx([1.0, 1.0, 0.5**0.8, 1.0])
    assert plot.unsigned_rgba([np.inf, 1.0, 0.5])[:, 3].tolist() == [1.0, 1.0, 0.5]


def test_unsigned_colours_are_one_colour_from_nothing_to_full():
    cells = plot.unsigned_rgba([0.0, 0.25, 1.0, 3.0, -1.0], plot.HEADS[1], largest=1.0)
    assert cells[:, 3].tolist() == [0.0, 0.25, 1.0, 1.0, 0.0]
    assert cells[0, :3] == pytest.approx(np.array([0xD5, 0x5E, 0x00]) / 255)


# Edge cases of each figure --------------------------------------------------------------------------
EDGES: dict[str, Callable[[], Picture]] = {
    "one matrix of one cell": lambda: plot.heatmaps([[[1.0]]], ["t"], "c", x="x", y="y"),
    "a matrix of zeros": lambda: plot.heatmaps([np.zeros((4, 4))], ["t"], "c", x="x", y="y"),
    "a matrix with a hole": lambda: plot.heatmaps([[[NAN, 1.0], [2.0, -1.0]]], ["t"], "c", x="x", y="y"),
    "a matrix of holes": lambda: plot.heatmaps([np.full((3, 3), NAN)], ["t"], "c", x="x", y="y"),
    "an infinite cell": lambda: plot.heatmaps([[[np.inf, 1.0]]], ["t"], "c", x="x", y="y"),
    "strips of one head": lambda: plot.strips(np.ones((1, 51)), "c"),
    "strips of one number": lambda: plot.strips(np.ones((1, 2, 1)), "c"),
    "strips with a hole": lambda: plot.strips([[NAN, 1.0, -1.0], [0.0, 1.0, 2.0]], "c"),
    "strips of five heads": lambda: plot.strips(np.ones((5, 10)), "c"),
    "lines through one point": lambda: plot.lines({"a": ([5], [1.0])}, "c", x="x", y="y"),
    "one point on a log axis": lambda: plot.lines({"a": ([5], [1.0])}, "c", x="x", y="y", log_x=True),
    "only step 0 on a log axis": lambda: plot.lines({"a": ([0], [1.0])}, "c", x="x", y="y", log_x=True),
    "a hole in a line": lambda: plot.lines({"a": ([1, 2, 3], [1.0, NAN, 2.0])}, "c", x="x", y="y"),
    "a line of holes": lambda: plot.lines({"a": ([1, 2], [NAN, NAN])}, "c", x="x", y="y"),
    "a zero on a log y axis": lambda: plot.lines({"a": ([1, 2], [0.0, 2.0])}, "c", x="x", y="y", log_y=True),
    "dots of one seed": lambda: plot.dots({"a": [0.5]}, "c", y="y"),
    "dots with a hole": lambda: plot.dots({"a": [0.5, NAN]}, "c", y="y"),
    "dots that are all holes": lambda: plot.dots({"a": [0.5], "b": [NAN, NAN]}, "c", y="y"),
    "a group without dots": lambda: plot.dots({"a": [0.5], "b": []}, "c", y="y"),
}


@pytest.mark.parametrize("make", EDGES.values(), ids=list(EDGES))
def test_odd_numbers_are_drawn_without_a_warning(make):
    shown = make()
    well_formed(shown)
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"<text.*?</text>", "", shown.svg, flags=re.S))


def test_step_0_has_a_place_on_a_log_axis_and_the_order_of_steps_is_kept():
    steps = [0, 50, 100, 1000, 6000]
    shown = plot.lines({"a": (steps, [1.0] * 5)}, "c", x="x", y="y", log_x=True, colours={"a": plot.HEADS[2]})
    found = re.search(r'<path d="(M [^"]+)"[^>]*stroke: var\(--mi-head-2', shown.svg)
    assert found
    where = [float(p.split()[1]) for p in re.findall(r"[ML] [\d.]+ [\d.]+", found[1])]
    assert len(where) == 5
    assert where == sorted(where)
    assert float(np.diff(where).min()) > 10


def test_positive_steps_get_a_true_log_axis():
    shown = plot.lines({"a": ([1, 10, 100], [1.0, 2.0, 3.0])}, "c", x="x", y="y", log_x=True)
    found = re.search(r'<path d="(M [^"]+)"[^>]*stroke: var\(--mi-head-0', shown.svg)
    assert found
    a, b, c = (float(p.split()[1]) for p in re.findall(r"[ML] [\d.]+ [\d.]+", found[1]))
    assert b - a == pytest.approx(c - b, abs=0.05)


def test_as_many_titles_as_matrices():
    with pytest.raises(ValueError, match="zip"):
        plot.heatmaps([np.eye(2)], ["a", "b"], "c", x="x", y="y")


def test_one_scale_for_all_matrices_side_by_side():
    """The weaker matrix must look weaker: its alpha is that of its value on the common scale."""
    import base64
    import io

    from PIL import Image

    shown = plot.heatmaps([np.full((1, 2), 4.0), np.full((1, 2), 1.0)], ["a", "b"], "c", x="x", y="y")
    alphas = []
    for data in re.findall(r"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)", shown.svg):
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))
        alphas.append(float(np.median(image[..., 3])) / 255)
    assert alphas == pytest.approx([1.0, 0.25**0.8], abs=0.02)

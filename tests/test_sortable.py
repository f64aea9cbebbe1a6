"""Sortable tables: whole and readable without a script, sorted with mouse and keyboard with it."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from mi_lab.sortable import SCRIPT, STYLE, Cell, Column, SortableTable

COLUMNS = (Column("model"), Column("digits", True), Column("failures", True, "per million"), Column("remark"))
ROWS = (
    (Cell("b", "b"), Cell("10", 10), Cell(("9 [5, 17]", "1"), 5.0), Cell("late", "late")),
    (Cell("a", "a"), Cell("9", 9), Cell("not trained yet"), Cell("")),
    (Cell("c", "c"), Cell("5", 5), Cell("12,621", 12621), Cell("early", "early")),
)


def table(caption: str = "Three models.") -> SortableTable:
    return SortableTable(COLUMNS, ROWS, caption)


def parsed(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html.replace("<br>", "<br/>").replace(SCRIPT, "").replace(STYLE, ""))


# Without a script -----------------------------------------------------------------------------------
def test_rows_stand_as_they_were_given_and_the_first_cell_names_its_row():
    body = parsed(table()._repr_html_()).findall(".//tbody/tr")
    assert [row.find("th").text for row in body] == ["b", "a", "c"]
    assert all(row.find("th").get("scope") == "row" for row in body)
    assert [len(row) for row in body] == [4, 4, 4]


def test_headers_are_buttons_in_headers_that_say_how_they_are_sorted():
    heads = parsed(table()._repr_html_()).findall(".//thead/tr/th")
    assert [h.find("button").text for h in heads] == ["model", "digits", "failures", "remark"]
    assert all(h.get("scope") == "col" and h.get("aria-sort") == "none" for h in heads)
    assert all(h.find("button").get("type") == "button" for h in heads)
    assert heads[2].find("button").get("title") == "per million"


def test_the_scrolling_part_can_be_reached_and_has_a_name():
    region = parsed(table()._repr_html_()).find(".//div")
    assert (region.get("tabindex"), region.get("role")) == ("0", "region")
    assert region.get("aria-label") == "Three models."


def test_what_is_not_known_has_no_value_to_sort_by():
    cells = parsed(table()._repr_html_()).findall(".//tbody/tr")[1]
    assert cells[2].get("data-sort") is None
    assert cells[2].get("class") == "mi-number mi-unknown"
    assert cells[1].get("data-sort") == "9"


def test_a_cell_may_have_several_lines():
    html = table()._repr_html_()
    assert "9 [5, 17]<br>1" in html
    assert "9 [5, 17] 1" in repr(table())


@pytest.mark.parametrize("where", ["text", "value", "column", "note", "caption"])
def test_no_text_breaks_out(where):
    bad = '<img src=x onerror=alert(1)>"&'
    columns, rows, caption = list(COLUMNS), [list(row) for row in ROWS], "Three models."
    if where == "text":
        rows[0][0] = Cell(bad, "b")
    elif where == "value":
        rows[0][0] = Cell("b", bad)
    elif where == "column":
        columns[0] = Column(bad)
    elif where == "note":
        columns[0] = Column("model", note=bad)
    else:
        caption = bad
    html = SortableTable(columns, rows, caption)._repr_html_()
    assert "<img" not in html
    parsed(html)


def test_a_row_of_the_wrong_length_and_a_number_that_is_none_are_refused():
    with pytest.raises(ValueError, match="row 0 has 3 cells for 4 columns"):
        SortableTable(COLUMNS, [ROWS[0][:3]], "")
    for value in (math.nan, "9"):
        with pytest.raises(ValueError, match="digits of row 0 must be a finite number or None"):
            SortableTable(COLUMNS[:2], [(Cell("a"), Cell("9", value))], "")


def test_a_terminal_gets_columns_in_line():
    lines = repr(table()).split("\n")
    assert len(lines) == 4
    assert len({line.index(text) + len(text) for line, text in zip(lines, ("digits", "10", " 9", " 5"))}) == 1


def test_nothing_is_loaded_from_anywhere():
    assert not re.search(r"https?:|@import|url\(", table()._repr_html_())


# With it, in a real browser ---------------------------------------------------------------------------
@pytest.fixture(scope="module")
def browser() -> Iterator:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Chromium is not installed (apt install chromium)")
        pytest.skip("Chromium is not installed (apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_content(f"<!doctype html><body>{table()._repr_html_()}{table('Another.')._repr_html_()}</body>")
    yield page
    assert wrong == []
    context.close()


def order(page, which: int = 0) -> str:
    return "".join(page.locator(f"figure >> nth={which} >> tbody th").all_inner_texts())


@pytest.mark.browser
def test_a_click_sorts_up_the_next_one_down_and_unknown_stays_last(page):
    head = page.locator("figure >> nth=0 >> th", has_text="failures")
    head.locator("button").click()
    assert (order(page), head.get_attribute("aria-sort")) == ("bca", "ascending")
    head.locator("button").click()
    assert (order(page), head.get_attribute("aria-sort")) == ("cba", "descending")
    page.locator("figure >> nth=0 >> button", has_text="digits").click()
    assert order(page) == "cab", "as numbers: 5, 9, 10"
    assert head.get_attribute("aria-sort") == "none"
    assert order(page, 1) == "bac", "the other table stays as it is"


@pytest.mark.browser
def test_the_keyboard_reaches_and_sorts(page):
    page.keyboard.press("Tab")  # the part that scrolls
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert order(page) == "abc"
    page.keyboard.press("Space")
    assert order(page) == "cba"


@pytest.mark.browser
def test_a_phone_scrolls_the_table_and_not_the_page(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    button = page.locator("figure >> nth=0 >> button >> nth=0").bounding_box()
    assert button["height"] >= 34, "large enough for a finger"

"""Live explorers in the built book: each comes alive, over HTTP and from a folder; icons weigh little."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.book.built import HTML
from tests.book.test_build import load
from tests.book.test_pages import BOOK_PAGES, address, visit

LIVE = [
    name
    for name in BOOK_PAGES
    if (HTML / name).exists() and "data-mi-live=" in (HTML / name).read_text("utf8")
]


def test_finished_pages_ask_for_the_explorers_script_early():
    finish = load("book/_ext/small_transformers.py").finished_page
    page = (
        '<head><link rel="preload" as="font" href="a.woff2">'
        '<script src="../_static/vendor/fontawesome/6.5.2/js/all.min.js?digest=1"></script>'
        '<link href="../_static/vendor/fontawesome/6.5.2/css/all.min.css"></head>'
    )
    assert (
        finish(page, "../")
        == '<head><link href="../_static/vendor/fontawesome/6.5.2/css/all.min.css"></head>'
    )
    place = '<div data-mi-live="waiting" data-mi-kind="{}">'
    live = finish(page + place.format("sorting") + place.format("algorithm"), "../")
    tags = "".join(
        f'<script async src="../_static/mi-lab-live{part}.js"></script>\n'
        for part in ("", "-algorithm", "-sorting")
    )
    assert f"{tags}</head>" in live
    assert finish(live, "../") == live


@pytest.mark.browser
@pytest.mark.skipif(not LIVE, reason="no page of the built book has a live explorer")
@pytest.mark.parametrize("how", ["http", "file"])
@pytest.mark.parametrize("name", LIVE or ["none"])
def test_every_explorer_comes_alive(name, how, browser, server):
    page, wrong = visit(browser, address(name, how, server))
    places = page.locator("[data-mi-live]")
    for i in range(places.count()):
        places.nth(i).scroll_into_view_if_needed()
        page.wait_for_function(
            "(i) => document.querySelectorAll('[data-mi-live]')[i].dataset.miLive === 'ready'", arg=i
        )
        assert places.nth(i).locator(".mi-x-headline").inner_text()
    assert wrong == []
    page.context.close()


def test_icon_fonts_keep_the_icons_that_pages_name(tmp_path):
    """The theme's own fonts and style sheet, cut for a page with two icons."""
    theme = pytest.importorskip("pydata_sphinx_theme")
    tools = pytest.importorskip("fontTools.ttLib")
    found = next(Path(theme.__file__).parent.glob("theme/**/static/vendor/fontawesome/*"))
    folder = tmp_path / "_static/vendor/fontawesome" / found.name
    shutil.copytree(found, folder, ignore=shutil.ignore_patterns("js"))
    (tmp_path / "page.html").write_text('<i class="fa-solid fa-bars"></i><i class="fa-brands fa-github"></i>')
    build = load("book/build.py")
    assert build.lighten_icons(tmp_path) >= 2
    css = (folder / "css/all.min.css").read_text()
    assert "woff2" not in css
    assert "truetype" not in css
    assert ".fa-bars:before" in css
    assert ".fa-github:before" in css
    assert ".fa-acorn" not in css
    assert css.count(":before{content") < 10
    assert len(css) < 30_000
    solid, brands = (folder / f"webfonts/fa-{name}.woff" for name in ("solid-900", "brands-400"))
    assert solid.stat().st_size + brands.stat().st_size < 5_000
    assert 0xF0C9 in tools.TTFont(solid).getBestCmap()
    assert 0xF09B in tools.TTFont(brands).getBestCmap()
    assert build.lighten_icons(tmp_path) >= 2
    assert (folder / "css/all.min.css").read_text() == css

"""Live explorers in the built book: each comes alive, over HTTP and from a folder; icons weigh little."""

from __future__ import annotations

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
    live = finish(page + '<div data-mi-live="waiting">', "../")
    assert '<script async src="../_static/mi-lab-live.js"></script>\n</head>' in live
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

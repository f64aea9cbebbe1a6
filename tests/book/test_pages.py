"""The built pages: self-contained, whole, and readable in a real browser, on a phone and in the dark."""

from __future__ import annotations

import gzip
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.book.built import HTML, ROOT, SCREENSHOTS, pages

pytestmark = pytest.mark.browser

PAGES = pages() or ["index.html"]
BOOK_PAGES = [page for page in PAGES if page.startswith("book/")]
MAX_HTML = 1_500_000  # bytes of one page's HTML
MAX_PAGE = 6_000_000  # bytes of a page with everything it loads; fonts and scripts are cached after the first
MAX_SENT = 700_000  # bytes of a chapter as it travels, compressed, without its models
PATIENCE = 120_000  # milliseconds: a busy machine is no defect of the page
TALLEST = 4_000  # pixels of a page in its photograph
LOADING_TAGS = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "audio": "src",
}


class Reader(HTMLParser):
    """Collects what a page loads, links to and can be linked at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text("utf8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.add(str(found["id"]))
        if tag == "a" and found.get("name"):
            self.ids.add(str(found["name"]))
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        if tag in LOADING_TAGS and found.get(LOADING_TAGS[tag]):
            self.loads.append((tag, str(found[LOADING_TAGS[tag]])))


def visit(browser, url: str, *, settle: bool = False, **options) -> tuple:
    """Open a page and wait for it (and, to settle, for half a second without a request).

    Returns the page and the list of everything that went wrong.
    """
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    # A redirect aborts what the first page was still loading.
    page.on(
        "requestfailed", lambda r: wrong.append(f"failed: {r.url}") if "ABORT" not in str(r.failure) else None
    )
    page.on("response", lambda r: wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    page.on("request", lambda r: wrong.append(f"foreign: {r.url}") if is_foreign(r.url) else None)
    page.goto(url, wait_until="networkidle" if settle else "load")
    page.evaluate("document.fonts.ready")
    return page, wrong


def is_foreign(url: str) -> bool:
    """Does this request leave the machine?"""
    parts = urlsplit(url)
    return parts.scheme not in ("file", "data", "blob", "about") and parts.hostname != "127.0.0.1"


def address(page: str, how: str, server: str) -> str:
    """Where a page is, over HTTP or as a file."""
    return f"{server}/{page}" if how == "http" else (HTML / page).as_uri()


@pytest.mark.parametrize("how", ["http", "file"])
@pytest.mark.parametrize("name", PAGES)
def test_page_opens_without_an_error_or_a_foreign_request(name, how, browser, server):
    page, wrong = visit(browser, address(name, how, server), settle=True)
    assert wrong == []
    assert page.title()
    page.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_page_loads_nothing_from_an_absolute_address(name, html):
    absolute = [
        (tag, url)
        for tag, url in Reader(html / name).loads
        if urlsplit(url).scheme not in ("", "data") or "//" in url[:2]
    ]
    assert absolute == []


@pytest.mark.parametrize("name", PAGES)
def test_internal_links_resolve(name, html):
    broken = []
    for link in Reader(html / name).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or link == "#":
            continue
        target = (html / name).parent / unquote(parts.path) if parts.path else html / name
        if not target.resolve().is_file() or (
            parts.fragment
            and target.suffix == ".html"
            and unquote(parts.fragment) not in ids(target.resolve())
        ):
            broken.append(link)
    assert broken == []


IDS: dict[Path, set[str]] = {}


def ids(path: Path) -> set[str]:
    """The anchors of a page, read once."""
    if path not in IDS:
        IDS[path] = Reader(path).ids
    return IDS[path]


@pytest.mark.parametrize("name", BOOK_PAGES)
def test_page_is_light(name, browser, server, html):
    assert (html / name).stat().st_size <= MAX_HTML
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    sizes: list[int] = []
    page.on("response", lambda r: sizes.append(int(r.headers.get("content-length", 0))))
    page.goto(f"{server}/{name}", wait_until="load")
    assert sum(sizes) <= MAX_PAGE
    context.close()


@pytest.mark.parametrize(
    "name", [name for name in BOOK_PAGES if (ROOT / name).with_suffix(".ipynb").exists()]
)
def test_a_chapter_travels_light(name, browser, server):
    """What a server sends that compresses text, fonts and scripts included, models left out."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    answers: list = []
    page.on("response", lambda answer: answers.append(answer))
    page.goto(f"{server}/{name}", wait_until="networkidle")
    sent = {}
    for answer in answers:
        place = urlsplit(answer.url)
        if place.scheme in ("http", "https") and not place.path.endswith(".bin"):
            body = answer.body()
            packed = place.path.endswith((".woff", ".woff2", ".png"))
            sent[place.path] = len(body) if packed else len(gzip.compress(body, 6))
    assert sum(sent.values()) <= MAX_SENT, sorted(sent.items(), key=lambda one: -one[1])[:8]
    context.close()


# Elements that stick out to the right and that no ancestor clips: the culprits of a horizontal scroll.
WIDE_ELEMENTS = """width => {
    const hides = e => { for (let p = e.parentElement; p; p = p.parentElement)
        if (getComputedStyle(p).overflowX !== 'visible' && p !== document.body
            && p !== document.documentElement) return true; return false; };
    return [...document.querySelectorAll('main *')].filter(e =>
        e.getBoundingClientRect().right > width + 1 && !hides(e)).map(e => e.outerHTML.slice(0, 120));
}"""
SHOTS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
    "phone-dark": {
        "color_scheme": "dark",
        "viewport": {"width": 360, "height": 740},
        "device_scale_factor": 2,
    },
}


@pytest.mark.parametrize("look", SHOTS)
@pytest.mark.parametrize("name", BOOK_PAGES)
def test_page_fits_and_is_photographed(name, look, browser, server):
    page, _ = visit(browser, f"{server}/{name}", reduced_motion="reduce", **SHOTS[look])
    assert page.evaluate("document.documentElement.dataset.theme") == SHOTS[look]["color_scheme"]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    width, height = page.evaluate(
        "[document.documentElement.clientWidth, document.documentElement.scrollHeight]"
    )
    page.set_viewport_size({"width": width, "height": min(height, TALLEST)})
    page.screenshot(
        path=SCREENSHOTS
        / f"{Path(name).with_suffix('').as_posix().removeprefix('book/').replace('/', '-')}-{look}.png"
    )
    too_wide = page.evaluate("document.documentElement.scrollWidth") > width
    assert not too_wide, page.evaluate(WIDE_ELEMENTS, width)[:5]
    page.context.close()


def test_mathematics_is_typeset_without_a_network(browser, server):
    seen = 0
    for name in BOOK_PAGES:
        if 'class="math' not in (HTML / name).read_text("utf8"):
            continue
        page, _ = visit(browser, f"{server}/{name}")
        formulas = page.locator(".math").count()
        assert (
            page.locator(".math .katex-html").count() == page.locator(".math math").count() == formulas > 0
        ), name
        assert page.locator(".katex-error").count() == 0, name
        assert page.evaluate(
            "[...document.fonts].some(f => f.family === 'KaTeX_Main' && f.status === 'loaded')"
        ), name
        assert page.evaluate("typeof MathJax") == "undefined"
        page.context.close()
        seen += 1
    assert seen, "no page has a formula: this test sees nothing"


def test_keyboard_focus_is_visible(browser, server):
    page, _ = visit(browser, f"{server}/{BOOK_PAGES[0]}")
    for _ in range(4):
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert float(outline.removesuffix("px")) >= 2, page.evaluate("document.activeElement.outerHTML")[:200]
    page.context.close()


@pytest.mark.parametrize("how", ["http", "file"])
def test_fonts_are_ours(how, browser, server):
    page, _ = visit(browser, address("book/index.html", how, server))
    for font in ("Source Serif 4", "Source Sans 3"):
        assert page.evaluate(f"document.fonts.check('16px \"{font}\"')")
        assert page.evaluate(
            f"[...document.fonts].some(f => f.family.includes('{font}') && f.status === 'loaded')"
        )
    page.context.close()


def test_search_finds_a_term_from_a_file(browser, html):
    page, wrong = visit(browser, (html / "search.html").as_uri() + "?q=ablation")
    page.wait_for_selector("#search-results li a")
    assert (
        "glossary" in page.inner_text("#search-results").lower() or page.locator("#search-results li").count()
    )
    assert wrong == []
    page.context.close()


@pytest.mark.parametrize("name", BOOK_PAGES)
def test_colab_button_names_a_notebook_that_exists(name, html):
    buttons = [link for link in Reader(html / name).links if "colab.research.google.com" in link]
    source = ROOT / Path(name).with_suffix(".ipynb")
    assert bool(buttons) == source.exists()
    for link in buttons:
        assert (ROOT / link.split("/blob/main/", 1)[1]).is_file()

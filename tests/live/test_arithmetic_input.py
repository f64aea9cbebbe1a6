"""What is typed, linked and copied in the arithmetic explorer: bad input, broken links, missing models, Python."""

from __future__ import annotations

import pytest

from mi_lab.live import live_explorer
from mi_lab.studies.arithmetic import live
from tests.live.arithmetic_page import (
    BOX,
    EXPLORER,
    FIRST,
    PARTIAL,
    agree,
    look,
    numbers,
    set_,
    state_of,
    written,
)
from tests.live.conftest import served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A small built page."""
    return written(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def address(folder):
    """It, on 127.0.0.1."""
    with served(folder) as host:
        yield f"{host}/page.html"


@pytest.fixture
def open_page(open_at, address):
    """Opens the page with its first explorer alive."""
    return lambda url=address, **options: open_at(url, f"{BOX}[data-mi-live=ready]", **options)


# ---- bad input, links, Python ----


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("12a+3", "\u201ca\u201d is no part of a question"),
        ("1234567890+1", "has 10 digits; this model\u2019s numbers have"),
        ("12-3", "This model only adds: write \u201c+\u201d, not \u201c\u2212\u201d."),
        ("123", "The operator is missing"),
        ("1+2+3", "A question has one operator; this one has 2."),
        ("+3", "The first number is missing."),
        ("<img src=x onerror=alert(1)>", "\u201c<\u201d is no part of a question"),
        ("\u0661+2", "is no part of a question"),
        ("", "The operator is missing"),
    ],
)
def test_bad_text_is_answered_beside_the_field_and_the_last_good_state_stays(typed, message, open_page):
    page = open_page()
    before = numbers(page)
    field = page.locator(f"{BOX} input[type=text]").first
    field.fill(typed)
    error = page.locator(f"#{field.get_attribute('id')}-error")
    error.wait_for(state="visible")
    assert message in error.inner_text()
    assert field.get_attribute("aria-invalid") == "true"
    assert field.get_attribute("aria-describedby") == error.get_attribute("id")
    assert numbers(page) == before
    assert page.locator(f"{BOX} img").count() == 0
    field.fill("12+30")
    assert error.inner_text() == ""
    assert field.get_attribute("aria-invalid") is None
    agree(numbers(page), look(state_of(page)))


@pytest.mark.parametrize("how", ["http", "file"])
def test_a_link_restores_the_exact_state(how, open_page, address, folder):
    url = address if how == "http" else (folder / "page.html").as_uri()
    page = open_page(url)
    wanted = {"question": "199+803", "other": "5+7", "edits": ["P7L0H0:other", "P5L1MLP:zero"], "mode": "other",
              "move": "ST0", "node": "P8L1H1", "fact": "impact"}  # fmt: skip
    assert set_(page, **wanted)
    link = page.evaluate(f"{EXPLORER}.frame.link")
    page.wait_for_function("(link) => location.href === link", arg=link)
    state, shown = state_of(page), numbers(page)
    again = open_page(link)
    assert state_of(again) == state
    assert numbers(again) == shown
    assert (
        again.evaluate("document.querySelector('#mi-long').miLive?.frame.state.algorithm ?? 'look_back_2'")
        == "look_back_2"
    )
    agree(shown, look(state))


@pytest.mark.parametrize(
    "end",
    [
        "?question=1",
        "?wat=1",
        "?question=%ff",
        "?seed=three",
        "?<b>",
        "?edits=P3L0H0",
        "?node=L0H0",
        "?model=gpt",
    ],
)
def test_a_broken_link_is_said_in_one_sentence(end, open_page, address):
    page = open_page(address + BOX + end)
    said = page.locator(f"{BOX} .mi-x > .mi-x-error").inner_text()
    assert "The link\u2019s state could not be taken" in said.replace("'", "\u2019")
    assert state_of(page) == FIRST


@PARTIAL
def test_a_model_that_is_missing_or_damaged_is_said_and_the_last_one_stays(open_page, allowed, folder):
    allowed.append("404")
    page = open_page()
    before = numbers(page)
    models = folder / live_explorer.MODELS / live.FOLDER
    keep = (models / "sub_d3_l2_h3-0.bin").read_bytes()
    (models / "sub_d3_l2_h3-0.bin").write_bytes(keep[:-9])
    for name, words in (("ins1_mix_d3_l2_h3", "could not be fetched"), ("sub_d3_l2_h3", "damaged")):
        page.locator(f"{BOX} [id$=-model]").select_option(name)
        page.wait_for_function(
            f"(words) => document.querySelector('{BOX} [id$=-model-error]').textContent.includes(words)",
            arg=words,
        )
        assert state_of(page) == FIRST
        assert numbers(page) == before
    (models / "sub_d3_l2_h3-0.bin").write_bytes(keep)


def test_python_code_gives_the_same_numbers(open_page):
    page = open_page()
    set_(page, edits=["P7L0H1:other", "P9L0MLP:zero"], move="SA1", question="77+14", node="P9L0H2")
    page.locator(BOX).get_by_role("button", name="Python").click()
    space: dict = {}
    exec(page.locator(f"{BOX} pre").inner_text(), space)
    agree(numbers(page), space["found"])


def test_opened_from_a_folder(open_page, folder):
    page = open_page((folder / "page.html").as_uri())
    agree(numbers(page), look(FIRST))
    set_(page, fact="question")
    page.wait_for_function(
        f"document.querySelector('{BOX} td[role=gridcell]').ariaLabel.indexOf('not counted') < 0"
    )

"""The algorithm explorer in headless Chromium: by mouse and keyboard, its steps beside Python's."""

from __future__ import annotations

import pytest

from mi_lab.studies.arithmetic import algorithm_live as live
from tests.live.arithmetic_page import written
from tests.live.conftest import served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

BOX = "#mi-algorithm"
EXPLORER = f"document.querySelector('{BOX}').miLive"
FIRST = dict(live.describe().state)


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    """The page of the arithmetic explorers, on 127.0.0.1."""
    with served(written(tmp_path_factory.getbasetemp())) as host:
        yield f"{host}/page.html"


@pytest.fixture
def open_page(open_at, address):
    """Opens the page with the algorithms alive."""

    def open_(url=address, **options):
        page = open_at(url, **options)
        page.locator(BOX).scroll_into_view_if_needed()
        page.wait_for_selector(f"{BOX}[data-mi-live=ready]")
        return page

    return open_


def set_(page, **changes):
    """Set fields; False if the explorer refuses."""
    return page.evaluate(f"(changes) => {EXPLORER}.frame.set(changes)", changes)


def state_of(page):
    """The explorer's state."""
    return page.evaluate(f"{EXPLORER}.frame.state")


def shown(page):
    """What is drawn: the step under the cursor, the answer, the first error and the class."""
    return page.evaluate(
        f"""() => {{
            const {{ step, answer, right, firstError, classes }} = {EXPLORER}.result;
            return {{ step: [step.token, step.states, step.carries, step.writes], answer, right, firstError, classes }};
        }}"""
    )


def agree(page):
    """Compare with Python."""
    state = state_of(page)
    want = live.step(state["question"], algorithm=state["algorithm"], digits=state["digits"])
    step = want.steps[state["position"]]
    writes = None if step.writes is None else list(step.writes)
    assert shown(page) == {
        "step": [step.token, step.states, step.carries, writes],
        "answer": want.answer,
        "right": want.right,
        "firstError": want.first_error,
        "classes": want.kind,
    }
    return want


@pytest.mark.parametrize("name", live.TEXTS)
def test_every_step_is_that_of_python(name, open_page):
    page = open_page()
    for question in ("1999+8001", "0417-2041", "555-555", "909990099909999+090009900090001"):
        if "-" in question and "-" not in live.ALGORITHMS[name].operations:
            continue
        assert set_(page, question=question, digits=1, algorithm=name)
        for position in range(0, 3 * state_of(page)["digits"] + 3, 4):
            assert set_(page, position=position)
            agree(page)


def test_by_mouse(open_page):
    page = open_page()
    box = page.locator(BOX)
    headline = box.locator(".mi-x-headline")
    assert "which is right; it is right on all 4-digit additions" in headline.inner_text()
    box.get_by_role("button", name="look-back 2 (one layer)").click()
    assert state_of(page)["algorithm"] == "look_back_2"
    assert (
        "the first wrong token is A4; it is wrong on 0.9\u00a0% of all 4-digit additions"
        in headline.inner_text()
    )
    box.get_by_role("button", name="next token read").click()
    assert state_of(page)["position"] == 8
    assert "settles" in box.locator(".mi-x-words").inner_text()
    box.locator("svg rect.press").nth(9).click()
    assert state_of(page)["position"] > 8
    agree(page)
    for _ in range(3):
        box.get_by_role("button", name="One it gets wrong").click()
        assert agree(page).first_error >= 0
        assert "first error" in box.locator("svg").text_content()
    box.locator("select[id$=-algorithm]").select_option("st_sv")
    assert box.get_by_role("button", name="One it gets wrong").is_disabled()
    assert agree(page).first_error == -1
    box.get_by_role("button", name="New question").click()
    agree(page)
    box.get_by_role("button", name="next digits").click()
    assert state_of(page)["digits"] == 5
    box.get_by_role("button", name="previous digits").click()
    box.get_by_role("button", name="previous digits").click()
    assert (state_of(page)["digits"], len(state_of(page)["question"])) == (3, 7)
    agree(page)
    box.get_by_role("button", name="Reset").click()
    assert state_of(page) == FIRST
    box.get_by_role("button", name="Undo").click()
    assert state_of(page)["digits"] == 3


def test_by_keyboard_and_by_itself(open_page):
    page = open_page()
    box = page.locator(BOX)
    box.get_by_label("Question", exact=False).first.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("12-7")
    assert state_of(page)["question"] == "0012-0007"
    box.locator("[id$=-position]").focus()
    page.keyboard.press("ArrowRight")
    assert state_of(page)["position"] == 8
    agree(page)
    box.locator("select[id$=-algorithm]").focus()
    page.keyboard.press("ArrowDown")
    assert state_of(page)["algorithm"] == "look_back_2"
    page.wait_for_function(
        f"document.querySelector('{BOX} .mi-x-unseen[role=status]').textContent.includes('P8 reads')"
    )
    set_(page, position=13)
    play = box.get_by_role("button", name="Play")
    play.click()
    assert box.get_by_role("button", name="Pause").is_visible()
    page.wait_for_function(f"{EXPLORER}.frame.state.position === 14")
    play.wait_for()  # it stops at the end


def test_rates_in_the_table_are_exact(open_page):
    page = open_page()
    set_(page, question="00000+00000")
    rows = page.locator(f"{BOX} tbody tr").all_inner_texts()
    found = {row.split("\t")[0]: row.split("\t")[-1] for row in rows}
    assert found[live.TEXTS["look_back_2"]] == "1.35\u00a0%"
    assert found[live.TEXTS["sc_only"]] == "17.39\u00a0%"
    assert found[live.TEXTS["t_cascade"]] == "never"


@pytest.mark.parametrize(
    ("field", "typed", "message"),
    [
        ("question", "12x7", "\u201cx\u201d is no part of a question"),
        ("question", "1234567890123456+1", "has 16 digits; the most here is 15."),
        ("question", "<b>1</b>+2", "\u201c<\u201d is no part of a question"),
        ("question", "12", "The operator is missing"),
        ("question", "3-2", "\u201cripple, as at school\u201d only adds"),
    ],
)
def test_bad_input(field, typed, message, open_page):
    page = open_page()
    set_(page, algorithm="ripple")
    before = shown(page)
    box = page.locator(f"{BOX} [id$=-{field}]").first
    box.fill(typed)
    error = page.locator(f"#{box.get_attribute('id')}-error")
    error.wait_for(state="visible")
    assert message in error.inner_text()
    assert box.get_attribute("aria-invalid") == "true"
    assert shown(page) == before
    assert page.locator(f"{BOX} b:not(.mi-x-wrong)").count() == 0


def test_a_link_and_python(open_page, address):
    page = open_page()
    assert set_(page, question="41-47", digits=3, algorithm="misprinted_nd", position=9)
    link = page.evaluate(f"{EXPLORER}.frame.link")
    again = open_page(link)
    assert state_of(again) == state_of(page)
    agree(again)
    page.locator(BOX).get_by_role("button", name="Python").click()
    space: dict = {}
    exec(page.locator(f"{BOX} pre").inner_text(), space)
    assert space["found"].answer == shown(page)["answer"] == "-0004"
    broken = open_page(f"{address}{BOX}?algorithm=abacus")
    assert "could not be taken" in broken.locator(f"{BOX} .mi-x > .mi-x-error").inner_text()
    assert state_of(broken) == FIRST

"""The ledger as a reader sees it: nothing hidden, nothing broken out of, nothing dressed up."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from mi_lab import ledger
from mi_lab.claims import Verdict, write_ledger
from mi_lab.ledger import number, recorded, table

NAN = math.nan


def control(name: str = "untrained twin", *, fails: bool = True, value: float = 0.02) -> dict[str, Any]:
    return {
        "name": name,
        "value": [value, value, value],
        "passed": 0 if fails else 2,
        "units": 2,
        "fails": fails,
        "values": {"share": [value, value]},
    }


def verdict(**changes: Any) -> Verdict:
    given: dict[str, Any] = {
        "id": "S1",
        "title": "Every head owns a range",
        "statement": "Each number is copied by one head.",
        "source": "paper, section 3",
        "reported": "unknown",
        "accept": "share > 0.9",
        "outcome": "reproduced",
        "sound": True,
        "value": (0.98765, 0.95, 1.0),
        "headline": "share",
        "passed": 2,
        "units": 2,
        "sample": "2,000 lists",
        "values": {"share": [0.98, 0.99], "runs": [3.0, 12345.0]},
        "unit_names": ["seed 0", "seed 1"],
        "controls": [control()],
        "sources": {"paper": "0123456789abcdef"},
        "details": {},
        "limits": "",
        "seconds": 1.0,
        "quorum": 0.75,
    }
    return Verdict(**(given | changes))


UNTESTED = {
    "outcome": "not testable",
    "value": None,
    "headline": "",
    "passed": 0,
    "units": 0,
    "sample": "",
    "values": {},
    "unit_names": [],
    "controls": [],
    "sources": {},
    "limits": "No text says how.",
}


def shown(*verdicts: Verdict, **options: Any) -> str:
    """The table's HTML, checked to be well-formed."""
    html = table(verdicts, **options)._repr_html_()
    ElementTree.fromstring(html)
    return html


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


# Rows -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("outcome", ["reproduced", "seed-dependent", "not reproduced", "not testable"])
def test_each_verdict_has_its_badge_and_says_itself_in_words(outcome):
    html = shown(verdict(**(UNTESTED if outcome == "not testable" else {"outcome": outcome})))
    assert f'<span class="mi-verdict {outcome.replace(" ", "-")}">{outcome}</span>' in html
    assert html.count("mi-verdict") == 1


def test_a_row_says_number_interval_and_how_many_units_pass():
    assert "share 0.988 [0.95, 1] · 2 of 2" in words(shown(verdict()))


def test_an_open_row_holds_everything_that_decides():
    text = words(shown(verdict(limits="Only two seeds.")))
    for part in (
        "Claim Each number is copied by one head.",
        "Source paper, section 3",
        "Reported unknown",
        "Accepted if share &gt; 0.9",
        "Measured on 2,000 lists",
        "Limits Only two seeds.",
        "seed 0 0.98 3",
        "seed 1 0.99 12345",
        "Checkpoints (SHA-256): paper 0123456789ab",
    ):
        assert part in text, part


def test_what_is_not_known_has_no_empty_line():
    html = shown(verdict(sample="", reported=""))
    assert "<dd></dd>" not in html
    assert "Reported" not in html


def test_a_claim_that_cannot_be_tested_shows_why_and_no_number():
    html = shown(verdict(**UNTESTED))
    assert "No text says how." in html
    assert "of 0" not in html
    assert "None" not in html
    assert "<table" not in html
    assert "control" not in html


def test_rows_stand_in_the_order_given_and_one_row_is_one_claim():
    html = shown(verdict(id="S2"), verdict(id="S1"))
    assert re.findall(r'mi-ledger-id">(\w+)<', html) == ["S2", "S1"]
    assert html.count("<details") == html.count("<summary") == 2


def test_a_terminal_shows_a_line_a_claim():
    lines = repr(table([verdict(), verdict(id="S12", outcome="not reproduced", passed=0)])).split("\n")
    assert lines[0].split() == ["S1", "reproduced", "2/2", "Every", "head", "owns", "a", "range"]
    assert "S12" in lines[1]
    assert "not reproduced" in lines[1]
    assert "0/2" in lines[1]


# Controls -------------------------------------------------------------------------------------------
def test_controls_that_fail_are_counted_and_named():
    html = shown(verdict(controls=[control("swapped"), control("random")]))
    assert "2 of 2 controls fail as they must" in html
    assert "<li>swapped: 0.02, passes 0 of 2, as it must</li>" in html
    assert "broken" not in html


def test_a_control_in_which_some_pass_is_said_to_be_too_few():
    some = {**control("twin", fails=True), "passed": 1}
    assert "passes 1 of 2, too few to count</li>" in shown(verdict(controls=[some]))
    as_often = shown(verdict(controls=[some], passed=1, outcome="not reproduced"))
    assert "passes 1 of 2, as often as the claim" in as_often


def test_how_many_are_enough_stands_in_the_row():
    assert "all 2 pass" in shown(verdict())
    assert "at least 1 of 2 pass" in shown(verdict(quorum=0.5))
    assert "Reproduced if" not in shown(verdict(units=1))


def test_words_between_backticks_are_code_and_nothing_else_is_markup():
    html = shown(verdict(limits="`fit` < 1", statement="`a` and <b>"))
    assert "<code>fit</code> &lt; 1" in html
    assert "<code>a</code> and &lt;b&gt;" in html


def test_one_control_is_one_control():
    assert "1 of 1 control fails as it must" in shown(verdict())


def test_a_control_that_passes_is_shouted_and_the_row_says_so_without_being_opened():
    html = shown(
        verdict(sound=False, controls=[control("swapped"), control("twin", fails=False, value=0.95)])
    )
    assert "<li>twin: 0.95, passes 2 of 2: <strong>the test is broken</strong></li>" in html
    assert "1 of 2 controls fail as they must" in html
    summary = re.findall(r"<summary>.*?</summary>", html, flags=re.S)[0]
    assert "unsound" in summary
    assert "unsound" not in shown(verdict())


# Escaping -------------------------------------------------------------------------------------------
BAD = '<script>alert("x")</script>&'


@pytest.mark.parametrize(
    "field", ["id", "title", "statement", "source", "reported", "accept", "sample", "limits", "headline"]
)
def test_no_text_of_a_claim_breaks_out(field):
    html = shown(verdict(**{field: BAD}))
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_no_name_of_a_unit_value_control_or_checkpoint_breaks_out():
    html = shown(
        verdict(
            values={BAD: [1.0, 2.0]},
            unit_names=[BAD, "b"],
            controls=[control(BAD)],
            sources={BAD: BAD},
        ),
        caption=BAD,
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5


# Numbers --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.98765, "0.988"),
        (-0.5, "-0.5"),
        (999.4, "999"),
        (999.6, "1000"),
        (12345.6, "12346"),
        (-12345.6, "-12346"),
        (1e-9, "1e-09"),
        (NAN, "not defined"),
        (math.inf, "infinite"),
        (-math.inf, "-infinite"),
    ],
)
def test_a_number_has_three_digits_and_no_number_is_a_word(x, text):
    assert number(x) == text


def test_what_is_not_a_number_is_said_in_words_everywhere():
    html = shown(
        verdict(
            value=(NAN, NAN, NAN),
            values={"share": [NAN, 0.5]},
            controls=[control(value=NAN)],
        )
    )
    assert "nan" not in html.lower().replace("<", " ").split()
    assert "share not defined [not defined, not defined]" in words(html)
    assert "<td>not defined</td>" in html
    assert "untrained twin: not defined, passes 0 of 2" in html


# Which claims ---------------------------------------------------------------------------------------
def test_only_the_named_claims_are_shown_whatever_holds_their_names():
    every = [verdict(id=i) for i in ("S1", "S2", "S3")]
    assert [v.id for v in table(every, only=("S3", "S2")).verdicts] == ["S3", "S2"]
    assert [v.id for v in table(iter(every), only=iter(["S2"])).verdicts] == ["S2"]
    assert [v.id for v in table(every).verdicts] == ["S1", "S2", "S3"]


def test_an_id_that_is_not_there_is_refused_and_the_known_ones_listed():
    with pytest.raises(ValueError, match="no verdict on S9; there are: S1"):
        table([verdict()], only=("S1", "S9"))


def test_a_caption_stands_below_and_only_if_given():
    assert "<figcaption>Two claims.</figcaption></figure>" in shown(verdict(), caption="Two claims.")
    assert "figcaption" not in shown(verdict())


# What is recorded -----------------------------------------------------------------------------------
def test_a_recorded_ledger_comes_back_with_its_holes(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "STUDIES", tmp_path)
    (tmp_path / "toy").mkdir()
    undefined = control(value=NAN)
    wanted = verdict(values={"share": [NAN, 0.5]}, value=(NAN, NAN, NAN), controls=[undefined])
    write_ledger(tmp_path / "toy" / "ledger.json", {"toy": [wanted]}, command="mi-lab claims toy")
    found = recorded("toy")
    assert [v.id for v in found] == ["S1"]
    assert shown(*found) == shown(wanted)


def test_a_study_without_a_ledger_is_named_with_those_that_have_one(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "STUDIES", tmp_path)
    (tmp_path / "toy").mkdir()
    write_ledger(tmp_path / "toy" / "ledger.json", {"toy": [verdict()]}, command="mi-lab claims toy")
    with pytest.raises(ValueError, match="study 'sortin' has no published ledger; these have: toy"):
        recorded("sortin")


def test_the_sorting_ledger_is_published_and_can_be_shown():
    found = recorded("sorting")
    html = shown(*found)
    assert html.count("<details") == len(found) > 10
    assert "PASSES: the test is broken" not in html
    assert " nan" not in html

"""An algorithm's clauses on hand-made evidence, and on what a search finds in a planted circuit."""

import json

import pytest

from mi_lab.algorithm import Algorithm, before, carried, feeds, null_scores, reaches, score
from mi_lab.locate import Located, search
from mi_lab.node_table import Count
from mi_lab.run import Node
from mi_lab.subtask import Evidence
from tests.planted import copies, planted


def evidence(subtask, *names, hits=100):
    nodes = tuple(map(Node.parse, names))
    return Evidence(subtask, nodes, *[Count(hits, 100)] * 3, controls={}, attends={})


FOUND = Located(
    (
        evidence("ST1", "P5L0H1"),
        evidence("ST0", "P6L0H1"),
        evidence("SV1", "P6L1H0", "P6L1H1"),
        evidence("SA0", "P9L0H0", hits=40),  # not good enough
    ),
    tested=100,
)
NEEDS = {"ST0": (), "ST1": (), "SV1": ("ST1", "ST0"), "SA0": ()}


def test_mandatory_clauses_make_the_score_and_the_others_stand_beside():
    clauses = (
        carried("ST1", by=5),
        before("ST1", "ST0"),
        carried("SA0", at=9),
        before("ST0", "ST1", mandatory=False),
        carried("ST0", after=5, mandatory=False),
    )
    found = score(Algorithm("TriAdd", NEEDS, clauses), FOUND)
    assert (found.held, found.total) == (4, 5)  # three clauses and two arrows
    assert [r.text for r in found.failed] == ["SA0 is carried at P9"]
    assert found.failed[0].found == "SA0 not found"
    assert str(found) == (
        "TriAdd: 4 of 5 mandatory clauses hold, 1 of 2 optional ones; not: SA0 is carried at P9"
    )
    assert (
        "| ST0 comes before ST1 (optional) | **no** | ST0 at P6L0H1; ST1 at P5L0H1 |" in found.to_markdown()
    )
    json.dumps(found.to_dict(), allow_nan=False)


def test_criteria_decide_what_counts_as_found():
    plan = Algorithm("a", NEEDS, (carried("SA0"),))
    assert score(plan, FOUND).total - score(plan, FOUND).held == 1
    assert score(plan, FOUND, least=0.3).failed == ()


@pytest.mark.parametrize(
    ("source", "target", "can"),
    [
        (["P5L0H0"], ["P5L1H0"], True),  # a higher layer, same place
        (["P5L0H0"], ["P7L1H0"], True),
        (["P7L0H0"], ["P5L1H0"], False),  # later
        (["P5L0H0"], ["P7L0H0"], False),  # same layer
        (["P5L1H0"], ["P7L0H0"], False),  # lower layer
        (["P5L0H0"], ["P5L0MLP"], True),  # heads, then the MLP
        (["P5L0MLP"], ["P5L0H0"], False),
        (["P5L0H0"], ["P6L0MLP"], False),
        (["P5L0MLP"], ["P5L0MLP"], False),
        (["P5L0H0", "P6L0H0"], ["P5L1H0"], False),  # the group is complete only at P6
        (["P5L0H0", "P6L0H0"], ["P6L1H0"], True),
    ],
)
def test_what_can_read_what(source, target, can):
    assert reaches(evidence("a", *source), evidence("b", *target)) is can
    both = Located((evidence("a", *source), evidence("b", *target)), 2)
    assert score(Algorithm("x", {"a": (), "b": ("a",)}), both).held == int(can)


def test_arrows_from_optional_subtasks_are_optional():
    plan = Algorithm("x", {"a": (), "b": ("a",)}, optional=frozenset({"a"}))
    assert [clause.mandatory for clause in plan.rules] == [False]
    assert score(plan, Located((), 0)).total == 0


def test_subtasks_are_ordered_and_circles_are_named():
    assert Algorithm("x", NEEDS).order.index("SV1") > Algorithm("x", NEEDS).order.index("ST0")
    with pytest.raises(ValueError, match=r"x: sub-tasks need one another: .*a.* -> "):
        Algorithm("x", {"a": ("b",), "b": ("a",)})


def test_unknown_subtasks_are_named():
    with pytest.raises(ValueError, match="x: ST9 is no sub-task of it; needs has"):
        Algorithm("x", {"a": ("ST9",)})
    with pytest.raises(ValueError, match="SV is no sub-task"):
        Algorithm("x", {"a": ()}, (feeds("SV", "a"),))
    with pytest.raises(ValueError, match="q is no sub-task"):
        Algorithm("x", {"a": ()}, optional=frozenset("q"))


def test_the_planted_algorithm_beats_its_rival_and_shuffled_names():
    located = search(planted(), [copies(0), copies(1), copies(2)])
    needs = {"COPY0": (), "COPY1": (), "COPY2": ()}
    right = Algorithm(
        "early third", needs, (carried("COPY0", at=4), carried("COPY1", at=5), carried("COPY2", by=4))
    )
    rival = Algorithm("in time", needs, tuple(carried(f"COPY{i}", after=3 + i, by=4 + i) for i in range(3)))
    late = Algorithm("never early", needs, (before("COPY1", "COPY2"), before("COPY0", "COPY2")))
    assert score(right, located).held == 3
    assert score(rival, located).held == 3  # the third digit is carried both early and in time
    assert score(late, located).held == 0
    null = null_scores(right, located, permutations=200)
    assert len(null) == 200
    assert sum(null) / 200 < 2
    assert null == null_scores(right, located, permutations=200)

from math import sqrt

import pytest
import torch

from mi_lab.metrics import clopper_pearson
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.studies import base
from mi_lab.studies.arithmetic import classes
from mi_lab.studies.arithmetic.algorithms import ALGORITHMS
from mi_lab.studies.arithmetic.task import ArithmeticTask


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def plain(digits, operations="+"):
    return ArithmeticTask(digits, operations, enrichment="none")


class ByProgram:
    """Not a network: answers as an algorithm does, whatever stands in the answer's place so far."""

    def __init__(self, task, name):
        self.task, self.algorithm = task, ALGORITHMS[name]

    def __call__(self, tokens):
        task = self.task
        whole = torch.zeros(len(tokens), task.n_ctx, dtype=torch.long)
        whole[:, : tokens.shape[1]] = tokens
        whole[:, task.answer.start + 1 :] = self.algorithm.answers(task, whole)
        following = whole.roll(-1, 1)[:, : tokens.shape[1]]
        return torch.nn.functional.one_hot(following, len(task.vocab)).float()


# ---- layout and arithmetic ----


@pytest.mark.parametrize("operations", ["+", "-", "+-"])
@pytest.mark.parametrize("digits", [1, 3, 6, 15, 18])
def test_every_answer_is_what_python_computes(digits, operations):
    task = ArithmeticTask(digits, operations)
    tokens = task.sample(300, generator=seeded(digits))
    assert tokens.shape == (300, 3 * digits + 4)
    for row in tokens:
        question, _, answer = task.decode(row).partition("=")
        assert question[digits] in operations
        a, operator, b = question[:digits], question[digits], question[digits + 1 :]
        value = int(a) + int(b) if operator == "+" else int(a) - int(b)
        assert answer == f"{'-' if value < 0 else '+'}{abs(value):0{digits + 1}d}"


def test_the_largest_and_smallest_answers_fit():
    task = plain(18, "+-")
    nines = "9" * 18
    assert task.decode(task.encode(f"{nines}+{nines}=")).endswith("=+1" + "9" * 17 + "8")
    assert task.decode(task.encode(f"0-{nines}=")).endswith("=-0" + nines)


@pytest.mark.parametrize(
    ("digits", "text"),
    [
        (6, "133357+182243=+0315600"),
        (6, "123450-345670=-0222220"),
        (5, "55555+44446=+100001"),
        (6, "018539+789353=+0807892"),
        (3, "000-000=+0000"),
    ],
)
def test_the_papers_own_texts_encode_and_decode(digits, text):
    task = plain(digits, "+-")
    assert task.decode(task.encode(text)) == text
    assert task.decode(task.encode(text.partition("=")[0] + "=")) == text


def test_a_wrong_answer_in_the_text_is_replaced():
    task = plain(6, "-")  # the authors' README has this misprint
    assert task.decode(task.encode("123450-345670=-0123230")) == "123450-345670=-0222220"


def test_spaces_and_short_numbers_are_understood():
    assert plain(3).decode(plain(3).encode(" 7 + 15 = ")) == "007+015=+0022"


@pytest.mark.parametrize(
    ("digits", "length"), [(3, 13), (5, 19), (6, 22), (8, 28), (10, 34), (12, 40), (15, 49)]
)
def test_context_lengths_are_the_papers(digits, length):
    assert plain(digits).n_ctx == length


def test_tokens_stand_where_the_paper_says():
    six, three = plain(6), plain(3)
    names = ["D5", "D0", "OPR", "D'5", "D'0", "=", "SGN", "A6", "A0"]
    assert [six.position(x) for x in names] == [0, 5, 6, 7, 12, 13, 14, 15, 21]
    assert [three.position(x) for x in ("OPR", "D'2", "D'0", "=", "SGN", "A3", "A0")] == [
        3,
        4,
        6,
        7,
        8,
        9,
        12,
    ]
    assert three.answer == slice(7, 12)
    text = six.decode(six.encode("123456+654321="))
    assert text[six.position("D4")] == "2"
    assert text[six.position("D'4")] == "5"
    for wrong in ("D6", "A7", "B0", "D'", ""):
        with pytest.raises(ValueError, match="there is no token"):
            six.position(wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12a+3=", "'a' is no token"),
        ("1*3=", r"'\*' is no token"),
        ("123+45", "ends with '=', there is none in '123\\+45'"),
        ("1234+5=", "1234 has 4 digits, this task has 3"),
        ("12345=", "has no operator"),
        ("=", "has no operator"),
        ("1+2+3=", "needs one operator"),
        ("+3=", "the first number is missing"),
        ("3+=", "the second number is missing"),
        ("3-1=", "this task only adds, the operator '-' is not its own"),
    ],
)
def test_bad_text_gets_an_error_that_names_it(text, message):
    with pytest.raises(ValueError, match=message):
        plain(3).encode(text)


def test_a_subtraction_task_refuses_additions():
    with pytest.raises(ValueError, match="only subtracts, the operator '\\+'"):
        plain(3, "-").encode("3+1=")
    with pytest.raises(ValueError, match="this task has the operations '-', not '\\+'"):
        plain(3, "-").solve(plain(3, "+").sample(2, generator=seeded()))
    with pytest.raises(ValueError, match="say which operator"):
        plain(3, "+-").questions(torch.tensor([1]), torch.tensor([2]))


def test_tokens_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"3-digit questions have shape \[n, 13\], these tokens \[2, 16\]"):
        plain(3).solve(plain(4).sample(2, generator=seeded()))
    with pytest.raises(ValueError, match="1000 is no number of 3 digits"):
        plain(3).questions(torch.tensor([5, 1000]), torch.tensor([1, 1]))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"digits": 0}, "digits must be between 1 and 18"),
        ({"digits": 19}, "not 19"),
        ({"operations": "*"}, "operations must be"),
        ({"subtraction": 1.0}, "share between 0 and 1"),
        ({"enrichment": "some"}, "not 'some'"),
    ],
)
def test_bad_knobs_get_an_error_that_names_them(knobs, message):
    with pytest.raises(ValueError, match=message):
        ArithmeticTask(**knobs)


# ---- sampling ----


@pytest.mark.parametrize("enrichment", ["as_coded", "as_described", "none"])
@pytest.mark.parametrize("operations", ["+", "-", "+-"])
def test_classes_come_as_often_as_the_exact_law_says(operations, enrichment):
    task, n = ArithmeticTask(5, operations, enrichment=enrichment), 40_000
    truth = task.variables(task.sample(n, generator=seeded(3)))
    for kind, operator in classes.OPERATION.items():
        if operator not in operations:
            assert (truth[kind] == -1).all()
            continue
        share = {"+": 1.0, "-": 1.0, "+-": 0.66 if operator == "-" else 0.34}[operations]
        for level, exact in enumerate(classes.sampled_frequencies(task, kind)):
            p = share * float(exact)
            seen = clopper_pearson(int((truth[kind] == level).sum()), n, confidence=1 - 1e-6)
            assert seen.low <= p <= seen.high, (kind, level)


@pytest.mark.parametrize(("enrichment", "share"), [("as_coded", 0.4), ("as_described", 0.6), ("none", 0.0)])
def test_enrichment_is_as_its_name_says(enrichment, share):
    n = 40_000
    nines = ArithmeticTask(6, "+", enrichment=enrichment).variables
    add = nines(ArithmeticTask(6, "+", enrichment=enrichment).sample(n, generator=seeded(4)))
    expected = share * 0.46 + (1 - share) * 0.1
    # columns of one question are enriched together: six of them count as less than six
    assert abs(float(add["SS"].float().mean()) - expected) < 0.006
    subtract = ArithmeticTask(6, "-", enrichment=enrichment).sample(n, generator=seeded(5))
    equal = (subtract[:, :6] == subtract[:, 7:13]).all(1).float().mean()
    assert abs(float(equal) - 0.01 * share) < 4.5 * sqrt(0.01 * share / n + 1e-9)
    zeros = (subtract[:, 7:13] == 0).float().mean()  # every digit of the second number was raised
    assert abs(float(zeros) - 0.1 * (1 - 0.99 * share) - 0.001 * share) < 0.004


def test_a_mixed_task_subtracts_as_often_as_asked():
    tokens = ArithmeticTask(4, "+-", subtraction=0.8).sample(20_000, generator=seeded())
    assert abs(float((tokens[:, 4] == 11).float().mean()) - 0.8) < 4.5 * sqrt(0.16 / 20_000)


def test_uniform_digits_are_uniform_and_independent():
    tokens = plain(2).sample(100_000, generator=seeded(6))
    index = tokens[:, 0] * 1000 + tokens[:, 1] * 100 + tokens[:, 3] * 10 + tokens[:, 4]
    count = torch.bincount(index, minlength=10_000).double()
    statistic = float(((count - 10) ** 2 / 10).sum())  # chi-square with 9999 degrees of freedom
    assert abs(statistic - 9999) < 5 * sqrt(2 * 9999)


# ---- sub-tasks ----


def by_hand(task, a, b, operator):
    """The paper's definitions, one column at a time, in plain Python."""
    n = task.digits
    d = [a // 10**k % 10 for k in range(n)]
    e = [b // 10**k % 10 for k in range(n)]
    st = [
        1 if x + y >= 10 else 2 if x + y == 9 and k else 0 for k, (x, y) in enumerate(zip(d, e, strict=True))
    ]
    out = {
        "D": d, "D'": e, "ST": st,
        "SA": [(x + y) % 10 for x, y in zip(d, e, strict=True)],
        "SC": [int(x + y >= 10) for x, y in zip(d, e, strict=True)],
        "SS": [int(x + y == 9) for x, y in zip(d, e, strict=True)],
        "SV": [(a % 10 ** (k + 1) + b % 10 ** (k + 1)) // 10 ** (k + 1) for k in range(n)],
        "OPR": int(operator == "-"), "SGN": int(operator == "-" and a < b),
    }  # fmt: skip
    for first, (x, y), (p, q) in (("M", (a, b), (d, e)), ("N", (b, a), (e, d))):
        out[f"{first}D"] = [(u - v) % 10 for u, v in zip(p, q, strict=True)]
        out[f"{first}B"] = [int(u < v) for u, v in zip(p, q, strict=True)]
        out[f"{first}Z"] = [int(u == v) for u, v in zip(p, q, strict=True)]
        out[f"{first}T"] = [(u > v) - (u < v) for u, v in zip(p, q, strict=True)]
        out[f"{first}V"] = [int(x % 10 ** (k + 1) < y % 10 ** (k + 1)) for k in range(n)]
    value = abs(a + b if operator == "+" else a - b)
    return out | {
        "GT": [int(x > y) for x, y in zip(d, e, strict=True)],
        "A": [value // 10**k % 10 for k in range(n + 1)],
    }


@pytest.mark.parametrize("digits", [1, 4, 7])
def test_every_subtask_is_as_the_paper_defines_it(digits):
    task = ArithmeticTask(digits, "+-")
    tokens = task.sample(300, generator=seeded(7))
    truth = task.variables(tokens)
    for i, row in enumerate(tokens):
        text = task.decode(row)
        a, b = int(text[:digits]), int(text[digits + 1 : 2 * digits + 1])
        for name, value in by_hand(task, a, b, text[digits]).items():
            assert truth[name][i].tolist() == value, (text, name)


@pytest.mark.parametrize(
    ("question", "classes"),
    [
        ("00012+00034=", ("S", 0)),
        ("00015+00006=", ("S", 1)),
        ("00045+00056=", ("S", 2)),
        ("00445+00556=", ("S", 3)),
        ("04445+05556=", ("S", 4)),
        ("44445+55556=", ("S", 5)),
        ("11111+00889=", ("S", 3)),
        ("00005-00005=", ("M", 0)),
        ("00011-00002=", ("M", 1)),
        ("00120-00011=", ("M", 1)),
        ("00110-00011=", ("M", 2)),
        ("00100-00001=", ("M", 2)),
        ("01000-00001=", ("M", 3)),
        ("10000-00001=", ("M", 4)),
        ("00011-00999=", ("N", 1)),  # E11: unswapped, every column "borrows"
        ("00111-00112=", ("N", 3)),
        ("00041-00047=", ("N", 2)),
        ("00001-00010=", ("N", 1)),
    ],
)
def test_class_of_a_question(question, classes):
    task = plain(5, "+-")
    truth = task.variables(task.encode(question)[None])
    kind, level = classes
    assert int(truth[kind]) == level
    others = {"S", "M", "N"} - {kind}
    assert all(int(truth[other]) == -1 for other in others)


def test_swapped_classes_look_at_the_swapped_numbers():
    task = plain(5, "-")
    rows = torch.stack([task.encode("00011-00999="), task.encode("00001-10000=")])
    assert task.variables(rows)["N_swapped"].tolist() == [0, 4]


# ---- grading ----


@pytest.mark.parametrize("name", ["st_sv", "look_back_2", "sc_only"])
def test_grade_in_one_pass_equals_a_free_run(name):
    task = ArithmeticTask(4)
    tokens = task.sample(400, generator=seeded(8))
    model = ByProgram(task, name)
    free = task.grade(model, tokens)
    assert torch.equal(free, base.grade(model, task, tokens, free_running=True))
    assert torch.equal(free, task.grade(model, tokens, free_running=False))
    assert torch.equal(free, ALGORITHMS[name].first_error(task, tokens) < 0)
    assert free.all() == (name == "st_sv")


def test_an_untrained_model_is_wrong():
    task = ArithmeticTask(3)
    config = TransformerConfig(1, 1, 8, 8, n_ctx=task.n_ctx, d_vocab=len(task.vocab))
    assert task.grade(Transformer(config), task.sample(50, generator=seeded())).float().mean() < 0.1

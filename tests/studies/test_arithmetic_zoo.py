"""Counting: every question once, every count of the weights it belongs to, nothing counted twice."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mi_lab import checkpoint, publish, zoo
from mi_lab.metrics import clopper_pearson
from mi_lab.studies.arithmetic import classes, counts, exhaustive, measure, recipes, zoo_results, zoo_rows
from mi_lab.studies.arithmetic.claims import common
from mi_lab.studies.arithmetic.counts import Plan, blocks
from mi_lab.studies.arithmetic.measure import Failures
from mi_lab.studies.arithmetic.paper_table import ROWS
from mi_lab.studies.arithmetic.recipes import compact, config
from mi_lab.studies.arithmetic.zoo_results import Book, count
from mi_lab.train import fit

TINY = compact("mix", 1, 1, 2, steps=150, batch=64)
TINY = replace(TINY, name="tiny", config=config(TINY.task, 1, 2, width=24), lr=3e-3, seeds=(0, 1))


@pytest.fixture(scope="module")
def stack():
    """Two seeds of one digit, learned in part."""
    return fit(TINY, device="cpu", progress=False).stack


@pytest.fixture
def published(stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The tiny recipe, published, and counted in small numbers."""
    folder = tmp_path / "published"
    checkpoint.save(folder / "arithmetic" / "tiny.safetensors", stack, labels=(0, 1), provenance={})
    monkeypatch.setattr(zoo, "folders", lambda: [folder])
    monkeypatch.setattr(zoo, "NOT_SHIPPED", folder / "not_shipped.json")
    monkeypatch.setitem(recipes, "tiny", TINY)
    monkeypatch.setattr(counts, "FILE", tmp_path / "zoo.json")
    monkeypatch.setattr(counts, "BLOCK", 40)
    monkeypatch.setattr(counts, "PASSING", Plan(80, 40, 10))
    monkeypatch.setattr(counts, "FULL", Plan(200, 80, 20))
    monkeypatch.setattr(counts, "FREE", 5)
    forget()
    yield folder
    forget()


def forget():
    zoo.read.cache_clear()
    zoo.sha256.cache_clear()
    zoo.not_shipped.cache_clear()
    counts.recorded.cache_clear()
    counts.weights_of.cache_clear()


def count_all(**options):
    return zoo_results.measure_all(book=Book(), progress=False, **options)


# ---- every question there is ----


def test_the_parts_hold_every_question_once():
    for operations, n in (("+", 10**4), ("+-", 2 * 10**4)):
        task = replace(TINY.task, digits=2, operations=operations)
        asked = [(p.operator, i) for p in exhaustive.parts(task, chunk=3000) for i in range(p.first, p.stop)]
        assert len(asked) == len(set(asked)) == n
    with pytest.raises(ValueError, match=r"1e\+10 questions of 5 digits"):
        next(exhaustive.parts(replace(TINY.task, digits=5)))


def test_what_is_wrong_in_the_parts_is_what_is_wrong(published):
    model = zoo.read("arithmetic/tiny").model(1)
    found = [exhaustive.wrong_in(model, TINY.task, part) for part in exhaustive.parts(TINY.task, chunk=30)]
    wrong = measure.all_wrong(model, TINY.task)
    assert torch.equal(torch.cat(found), torch.cat([wrong["+"], wrong["-"]]))
    assert 0 < len(torch.cat(found)) < 200


class InThreads(ThreadPoolExecutor):
    """In the place of processes, so that what is patched here counts there."""

    def __init__(self, workers: int, mp_context: object = None) -> None:
        super().__init__(workers)


@pytest.fixture
def threads(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(exhaustive, "ProcessPoolExecutor", InThreads)
    yield
    torch.set_num_threads(before)


def test_the_command_prints_what_is_wrong_and_ends_with_1(published, threads, capsys, monkeypatch):
    monkeypatch.setattr(exhaustive, "SHOWN", 200)
    assert exhaustive.main(["tiny", "--seed", "1", "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    model = zoo.read("arithmetic/tiny").model(1)
    wrong = torch.cat(list(measure.all_wrong(model, TINY.task).values()))
    assert 1 < len(lines) == len(wrong) + 1
    assert lines[-1].startswith(f"tiny seed 1: {len(wrong)} of all 200 questions wrong;")
    assert lines[-1].endswith(checkpoint.sha256(zoo.find("arithmetic/tiny")))
    for line, tokens in zip(lines, wrong):
        right, said = line.split(", the model says ")
        assert right == TINY.task.decode(tokens)
        assert len(said) == 3
        assert said != right.partition("=")[2]


def test_a_long_list_is_cut_and_counted(published, threads, capsys, monkeypatch):
    monkeypatch.setattr(exhaustive, "SHOWN", 2)
    assert exhaustive.main(["arithmetic/tiny", "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("and ")


def test_a_model_without_a_wrong_answer_ends_with_0(published, threads, capsys, monkeypatch):
    monkeypatch.setattr(exhaustive, "wrong_in", lambda model, task, part: torch.empty(0, 7, dtype=torch.long))
    assert exhaustive.main(["tiny", "--workers", "1"]) == 0
    assert "0 of all 200 questions wrong" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tinny"], "did you mean 'arithmetic/tiny'"),
        (["tiny", "--seed", "7"], "this checkpoint holds [0, 1], not 7"),
        (["tiny", "--workers", "0"], "--workers must be at least 1, not 0"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(published, arguments, message, capsys):
    assert exhaustive.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# ---- counts ----


def test_everything_is_counted_and_kept_by_the_weights(published):
    assert count_all() > 0
    found = counts.failures_of("tiny", 0)
    names = {f"class {name}" for name in classes.names(TINY.task)}
    assert names <= found.keys()
    assert {"uniform +", "uniform -", "edge equal -", "edge nines +", "free running"} <= found.keys()
    assert found["uniform +"].n == 80
    assert all(found[name].n == 40 for name in names)
    assert found["edge equal -"].n == 10
    assert "every +" not in found
    raw = json.loads(counts.FILE.read_text())
    assert set(raw["models"]) == {counts.weights_of("tiny", s) for s in (0, 1)}
    entry = raw["models"][counts.weights_of("tiny", 1)]
    assert (entry["recipe"], entry["seed"], entry["digest"]) == ("tiny", 1, TINY.digest)


def test_counts_are_right(published):
    count_all()
    model, task = zoo.read("arithmetic/tiny").model(0), TINY.task
    blocks_of_40 = [measure.uniform(model, task, 40, seed=seed) for seed in (0, 1)]
    assert counts.failures_of("tiny", 0)["uniform -"].wrong == sum(x["-"].wrong for x in blocks_of_40)
    for name, said in measure.by_class(model, task, 40).items():
        assert counts.failures_of("tiny", 0)[f"class {name}"] == said


def test_what_is_behind_a_claim_is_counted_in_full_and_every_question_once(published, monkeypatch):
    monkeypatch.setattr(counts, "COUNTED_IN_FULL", ("tiny",))
    count_all()
    found = counts.failures_of("tiny", 1)
    model = zoo.read("arithmetic/tiny").model(1)
    wrong = measure.all_wrong(model, TINY.task)
    assert found["every +"] == Failures(len(wrong["+"]), 100)
    assert found["every -"] == Failures(len(wrong["-"]), 100)
    assert found["class S1"].n == 80
    assert found["edge equal -"].n == 20


def test_nothing_is_counted_twice_and_more_is_added(published, monkeypatch):
    first = count_all()
    assert count_all() == 0
    monkeypatch.setattr(counts, "COUNTED_IN_FULL", ("tiny",))
    before = counts.failures_of("tiny", 0)
    assert 0 < count_all() != first
    after = counts.failures_of("tiny", 0)
    assert after["class S1"].wrong >= before["class S1"].wrong
    items = list(blocks("tiny", 0, counts.FULL, {k: [0, c.n] for k, c in before.items()}))
    taken = {(x.key, x.block) for x in blocks("tiny", 0, counts.PASSING, {})}
    assert not taken & {(x.key, x.block) for x in items}, "a block would be drawn from the same seed again"


def test_a_stopped_count_goes_on_where_it_was(published, monkeypatch):
    real = zoo_results.count
    seen = []

    def stop(item):
        seen.append(item)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return real(item)

    monkeypatch.setattr(zoo_results, "count", stop)
    with pytest.raises(KeyboardInterrupt):
        count_all()
    monkeypatch.setattr(zoo_results, "count", real)
    count_all()
    stopped = counts.FILE.read_text()
    counts.FILE.unlink()
    count_all()
    assert counts.FILE.read_text() == stopped


def test_other_weights_have_no_counts(published, stack):
    count_all()
    other = stack.flat.clone()
    other[0] *= 1.01
    path = published / "arithmetic" / "tiny.safetensors"
    checkpoint.save(path, type(stack)(stack.config, other), labels=(0, 1), provenance={})
    forget()
    assert counts.failures_of("tiny", 0) == {}
    assert counts.failures_of("tiny", 1)
    count_all()
    assert counts.failures_of("tiny", 0)


def test_free_running_counts_answers_that_differ(published, monkeypatch):
    item = next(x for x in blocks("tiny", 0, counts.PASSING, {}) if x.kind == "free running")
    assert item.n == 25
    honest = count(item)

    def lying(model, task, tokens):
        out = tokens.clone()
        out[:, -1] = (out[:, -1] + 1) % 10
        return out

    monkeypatch.setattr(zoo_results, "generate", lying)
    assert count(item) > honest


def test_counts_outlive_weights_that_are_left_out(published, monkeypatch):
    count_all()
    before = counts.failures_of("tiny", 1)
    weights = counts.weights_of("tiny", 1)
    monkeypatch.setattr(publish, "PUBLISHED", published)
    publish.unship("arithmetic/tiny")
    forget()
    common.seeds.cache_clear()
    try:
        assert counts.published() == {}
        assert counts.counted_models() == {"tiny": (0, 1)}
        assert common.seeds("tiny") == (0, 1)
        assert counts.weights_of("tiny", 1) == weights
        assert counts.failures_of("tiny", 1) == before
        assert common.counted("tiny", 1) == before
        row = zoo_rows.rows()[-1]
        assert (row.name, row.seeds, row.failures["+"][1]) == ("tiny", (0, 1), before["uniform +"])
        last = repr(zoo_rows.zoo_table()).split("\n")[-1]
        assert "150 × 64 not shipped" in last
        with pytest.raises(ValueError, match="'tiny' is not published"):
            count_all(names=["tiny"])
        # other weights of the same recipe have no counts
        entry = json.loads(zoo.NOT_SHIPPED.read_text())
        entry["arithmetic/tiny"]["weights"][1] = "0" * 64
        zoo.NOT_SHIPPED.write_text(json.dumps(entry))
        forget()
        assert counts.failures_of("tiny", 1) == {}
        assert counts.failures_of("tiny", 0)
    finally:
        common.seeds.cache_clear()


def test_a_recipe_that_is_not_published_is_named(published):
    with pytest.raises(ValueError, match="'tinny' is not published; there are tiny"):
        count_all(names=["tinny"])


# ---- the table ----


def test_the_table_has_every_row_of_the_paper_and_ours_beside_it(published, monkeypatch):
    assert [row.name for row in zoo_rows.rows()] == [row.name for row in ROWS] + ["tiny"]
    monkeypatch.setitem(recipes, ROWS[0].cell, TINY)
    (published / "arithmetic" / "tiny.safetensors").rename(
        published / "arithmetic" / f"{ROWS[0].cell}.safetensors"
    )
    forget()
    first = zoo_rows.rows()[0]
    assert first.seeds == (0, 1)
    assert first.failures["+"] == {}
    assert first.hardest is None
    count_all()
    first = zoo_rows.rows()[0]
    assert first.failures["-"][1] == counts.failures_of(ROWS[0].cell, 1)["uniform -"]
    name, worst = first.hardest
    rates = [
        c.wrong / c.n for s in (0, 1) for k, c in counts.failures_of(ROWS[0].cell, s).items()
        if k.startswith("class ") and "swapped" not in k
    ]  # fmt: skip
    assert worst.wrong / worst.n == max(rates)
    assert name in ("S0", "S1", "M0", "N1")


def test_what_is_not_there_says_so(published):
    table = zoo_rows.zoo_table()
    lines = repr(table).split("\n")
    assert len(lines) == len(ROWS) + 2
    assert lines[1].count("not trained yet") == 2
    assert "no sub" in lines[1]
    assert "not trained yet" in next(line for line in lines if "_gf" in line)
    assert "not counted yet" in lines[-1]
    assert "not in the paper" in lines[-1]
    html = table._repr_html_()
    assert html.count("<tr>") == len(ROWS) + 2
    assert "None" not in html
    assert "nan" not in html


def test_intervals_in_the_table_are_clopper_pearsons(published):
    line = next(
        x
        for x in repr(zoo_rows.zoo_table()).split("\n")
        if x.startswith("add_d6_l2_h3 15K steps, seed 372001")
    )
    low, high = (1e6 * x for x in clopper_pearson(2, 10**6)[1:])
    assert f"2 [{low:.2f}, {high:.1f}]" in line
    count_all()
    row = next(x for x in zoo_rows.zoo_table().rows if x[0].value == "tiny")
    plus = [counts.failures_of("tiny", s)["uniform +"] for s in (0, 1)]
    assert row[3].lines == tuple(zoo_rows.per_million(c.rate) for c in plus)
    assert row[3].value == pytest.approx(sum(c.per_million for c in plus) / 2)


def test_the_published_counts_are_of_the_published_weights():
    """Two blocks counted again, one of a model that fails in it and one of a model that doesn't."""
    for recipe, key, fails in (
        ("mix_d3_l2_h3", "edge equal -", True),
        ("add_d3_l2_h3", "edge full_carry +", False),
    ):
        said = counts.failures_of(recipe, 0)[key]
        item = next(x for x in blocks(recipe, 0, counts.PASSING, {}) if x.key == key)
        found = count(item)
        assert (found > 0) is fails
        if said.n == item.n:
            assert found == pytest.approx(said.wrong, abs=2), (
                "another machine may round a close call the other way"
            )
        else:
            assert found <= said.wrong


def test_every_model_behind_a_claim_has_been_counted_in_full():
    short = {}
    for recipe, seeds in counts.counted_models().items():
        for seed in seeds:
            known = {key: [c.wrong, c.n] for key, c in counts.failures_of(recipe, seed).items()}
            if left := list(blocks(recipe, seed, counts.plan_of(recipe, seed), known)):
                short[f"{recipe} {seed}"] = f"{sum(x.n for x in left):,}"
    assert short == {}, "questions still to be asked: python -m mi_lab.studies.arithmetic.zoo_results"

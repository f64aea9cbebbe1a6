"""The command line: what it prints, what it writes, and one clear line for every wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mi_lab import checkpoint, claims_run, cli, zoo
from mi_lab.claims import Accept, Claim, Control, Measurement, read_ledger
from mi_lab.cli import main, parse_seeds
from mi_lab.model import TransformerConfig
from mi_lab.studies.sorting import recipes
from mi_lab.studies.sorting.task import SortingTask
from mi_lab.train import Recipe, fit
from mi_lab.zoo import NotShipped

TINY_TASK = SortingTask(length=3, n_numbers=8)
TINY = Recipe(
    name="tiny",
    task=TINY_TASK,
    config=TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, n_ctx=7, d_vocab=9),
    steps=12,
    batch=16,
    seeds=(0, 1),
    checkpoints=(0, 6),
)


@pytest.fixture(autouse=True)
def threads():
    """Commands run on one thread; give the number back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(recipes, "tiny", TINY)


def toy_claim(id: str, *scores: float, control: float = -1.0) -> Claim:
    def measuring(*values: float):
        return lambda fast: Measurement(tuple(f"seed {i}" for i in range(len(values))), {"x": values}, "x")

    accept = Accept("x > 0", lambda r: r["x"] > 0)
    return Claim(
        id, f"Title of {id}", "s", "s", "r", accept, measuring(*scores), (Control("c", measuring(control)),)
    )


@pytest.fixture
def toy_study(monkeypatch):
    """Call it with claims: they become the study `sorting`."""

    def put(*claims: Claim) -> None:
        monkeypatch.setattr(cli, "STUDIES", ("sorting",))
        monkeypatch.setattr(cli, "study", lambda name: types.SimpleNamespace(claims=claims, recipes={}))

    return put


# Seeds --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-7", tuple(range(8))), ("0,3,5-6", (0, 3, 5, 6)), ("4", (4,)), (" 1 , 2 ", (1, 2)), (None, None)],
)
def test_seeds_are_read(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "-3", "1-", "0-b", "1,,2", "1.5", "²"])
def test_bad_seeds_are_one_clear_line(text, tiny, tmp_path, capsys):
    assert main(["train", "sorting/tiny", f"--seeds={text}", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"mi-lab train: --seeds must look like 0-7 or 0,3,5, not {text!r}\n"


@pytest.mark.parametrize("text", ["7-0", "3,3"])
def test_empty_and_repeated_seeds_are_refused(text, tiny, tmp_path, capsys):
    assert main(["train", "sorting/tiny", "--seeds", text, "--out", str(tmp_path)]) == 2
    assert "seeds must be different whole numbers, at least one" in capsys.readouterr().err


# Training -----------------------------------------------------------------------------------------
def test_train_writes_what_fit_gives(tiny, tmp_path, capsys):
    assert main(["train", "sorting/tiny", "--out", str(tmp_path), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "seed 0: loss" in printed
    assert "seed 1: loss" in printed
    assert str(tmp_path / "tiny") in printed
    expected = fit(TINY, device="cpu", progress=False).stack.flat
    files = sorted((tmp_path / "tiny").rglob("step-0000012.safetensors"))
    found = torch.cat([checkpoint.load_tensors(path)[0]["flat"] for path in files])
    torch.testing.assert_close(found, expected)


def test_train_goes_on_where_it_was(tiny, tmp_path, capsys):
    arguments = ["train", "sorting/tiny", "--seeds", "1", "--out", str(tmp_path), "--device", "cpu"]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert main([*arguments, "--resume"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == first.splitlines()[0]


def test_a_diverged_seed_is_named_and_gives_status_1(monkeypatch, tmp_path, capsys):
    hopeless = replace(TINY, name="hopeless", lr=1e30, steps=40, seeds=(0,))
    monkeypatch.setitem(recipes, "hopeless", hopeless)
    with pytest.warns(UserWarning, match="hopeless: seed 0 diverged at step"):
        assert main(["train", "sorting/hopeless", "--out", str(tmp_path), "--device", "cpu"]) == 1
    assert "seed 0: loss" in (printed := capsys.readouterr().out)
    assert "diverged at step" in printed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sorting/papr", "there is no recipe 'sorting/papr'; did you mean sorting/paper?"),
        ("sorting/qqq", "there is no recipe 'sorting/qqq'; there are: paper, "),
        ("sorting", "there is no recipe 'sorting'; there are: paper, "),
        ("sortin/paper", f"there is no study 'sortin'; there are: {', '.join(cli.STUDIES)}"),
    ],
)
def test_an_unknown_recipe_suggests_the_nearest(name, message, tmp_path, capsys):
    assert main(["train", name, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"mi-lab train: {message}")
    assert not list(tmp_path.iterdir())


def test_a_gpu_asked_for_where_there_is_none_is_one_clear_line(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train", "sorting/tiny", "--device", "cuda", "--out", str(tmp_path)]) == 2
    assert "torch sees no GPU here; use 'auto' or 'cpu'" in capsys.readouterr().err


def test_an_unknown_device_is_one_clear_line(tiny, tmp_path, capsys):
    assert main(["train", "sorting/tiny", "--device", "abacus", "--out", str(tmp_path)]) == 2
    assert "device must be 'auto', 'cpu' or 'cuda', not 'abacus'" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_one_clear_line(tiny, tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("kept")
    assert main(["train", "sorting/tiny", "--out", str(blocked), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "can't be written" in error
    assert str(blocked) in error
    assert blocked.read_text() == "kept"


def test_a_folder_with_another_recipes_run_is_refused_and_kept(tiny, tmp_path, capsys, monkeypatch):
    arguments = ["train", "sorting/tiny", "--seeds", "0", "--out", str(tmp_path), "--device", "cpu"]
    assert main(arguments) == 0
    state = next((tmp_path / "tiny").rglob("state.safetensors")).read_bytes()
    monkeypatch.setitem(recipes, "tiny", replace(TINY, lr=0.5))
    assert main(arguments) == 2
    assert "holds a run of another recipe" in capsys.readouterr().err
    assert next((tmp_path / "tiny").rglob("state.safetensors")).read_bytes() == state


# Zoo ----------------------------------------------------------------------------------------------
def test_zoo_prints_json_with_how_to_train_each_again(capsys):
    assert main(["zoo", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    paper = rows["sorting/paper"]
    assert paper["retrain"] == "mi-lab train sorting/paper"
    assert len(paper["labels"]) == len(paper["metrics"]["token accuracy"])
    assert len(paper["sha256"]) == 64


def test_zoo_prints_one_line_per_checkpoint(capsys):
    assert main(["zoo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("sorting/paper ") for line in lines)
    left_out = [line for line in lines if " not shipped " in line]
    assert [line.split()[0] for line in left_out] == list(zoo.not_shipped())
    assert lines[-1] == f"{len(lines) - 1 - len(left_out)} checkpoints. Train one again: mi-lab train NAME"


# Claims -------------------------------------------------------------------------------------------
def test_an_untestable_claim_is_listed_and_is_no_failure(capsys):
    assert main(["claims", "--only", "S7b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sorting: 1 claims"
    assert lines[1].split()[:3] == ["S7b", "not", "testable"]


def test_claims_print_verdicts_and_write_the_ledger(toy_study, tmp_path, capsys):
    toy_study(toy_claim("T1", 1.0, 2.0), toy_claim("T2", -1.0))
    out = tmp_path / "ledger.json"
    assert main(["claims", "sorting", "--workers", "1", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "T1    reproduced      2/2" in printed
    assert "T2    not reproduced  0/1" in printed
    assert [v.outcome for v in read_ledger(out)["sorting"]] == ["reproduced", "not reproduced"]
    assert json.loads(out.read_text())["command"] == "mi-lab claims sorting"


def test_an_unsound_claim_gives_status_1_and_says_so(toy_study, capsys):
    toy_study(toy_claim("T1", 1.0), toy_claim("T2", 1.0, control=1.0))
    assert main(["claims", "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "UNSOUND" not in lines[1]
    assert lines[2].endswith("UNSOUND: a control passed")


def test_only_the_claims_asked_for_are_measured(toy_study, capsys):
    toy_study(toy_claim("T1", 1.0), toy_claim("T2", 1.0, control=1.0), toy_claim("T3", 1.0))
    assert main(["claims", "--workers", "1", "--only", "T1, T3"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["T1", "T3"]


@pytest.mark.parametrize("only", ["T9", "T1,T9"])
def test_an_unknown_claim_is_refused_before_anything_is_measured(only, toy_study, capsys):
    toy_study(toy_claim("T1", 1.0))
    assert main(["claims", "--workers", "1", "--only", only]) == 2
    captured = capsys.readouterr()
    assert captured.err == "mi-lab claims: there is no claim 'T9'; sorting has T1\n"
    assert captured.out == ""


def test_an_unknown_study_is_refused(capsys):
    assert main(["claims", "grokking"]) == 2
    there = ", ".join(cli.STUDIES)
    assert capsys.readouterr().err == f"mi-lab claims: there is no study 'grokking'; there are: {there}\n"


def test_a_ledger_that_cannot_be_written_is_said_before_anything_is_measured(toy_study, tmp_path, capsys):
    toy_study(toy_claim("T1", 1.0))
    blocked = tmp_path / "file"
    blocked.write_text("kept")
    assert main(["claims", "--workers", "1", "--json", str(blocked / "ledger.json")]) == 2
    captured = capsys.readouterr()
    assert "could not be written" in captured.err
    assert captured.out == ""
    assert blocked.read_text() == "kept"


def test_a_folder_in_the_ledgers_place_is_refused(toy_study, tmp_path, capsys):
    toy_study(toy_claim("T1", 1.0))
    assert main(["claims", "--workers", "1", "--json", str(tmp_path)]) == 2
    assert "could not be written: it is a folder" in capsys.readouterr().err


def test_a_studys_claims_stay_claims_when_their_module_is_imported():
    # `sorting.claims` is also the name of a module, which an import would put in its place
    import mi_lab.studies.sorting.claims  # noqa: F401

    assert all(isinstance(c, Claim) for c in cli.study("sorting").claims)


def test_a_worker_can_verify_one_claim_after_another():
    assert [claims_run.verify_one("sorting", id, True).id for id in ("S7b", "S7", "S7b")] == [
        "S7b",
        "S7",
        "S7b",
    ]


def test_asking_whether_a_ledger_can_be_written_leaves_the_old_one(toy_study, tmp_path, capsys):
    toy_study(broken_claim("T1"))
    ledger = tmp_path / "ledger.json"
    ledger.write_text("old")
    assert main(["claims", "--workers", "1", "--json", str(ledger)]) == 2
    assert "no such curve" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.json"]
    assert ledger.read_text() == "old"


def broken_claim(id: str) -> Claim:
    """A claim whose measure raises."""

    def broken(fast: bool) -> Measurement:
        raise ValueError("no such curve")

    return replace(toy_claim(id, 1.0), measure=broken)


def test_a_claim_that_raises_does_not_lose_the_others(toy_study, tmp_path, capsys):
    toy_study(toy_claim("T1", 1.0), broken_claim("T2"), toy_claim("T3", 1.0))
    ledger = tmp_path / "ledger.json"
    ledger.write_text("old")
    assert main(["claims", "--workers", "1", "--json", str(ledger)]) == 2
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()[1:]] == ["T1", "T2", "T3"]
    partial = tmp_path / "ledger.json.partial"
    assert captured.err == (
        f"mi-lab claims: T2 could not be measured: ValueError: no such curve; the other verdicts are in {partial}\n"
    )
    assert ledger.read_text() == "old"
    assert [v.id for v in read_ledger(partial)["sorting"]] == ["T1", "T3"]
    toy_study(toy_claim("T1", 1.0), toy_claim("T2", 1.0), toy_claim("T3", 1.0))
    assert main(["claims", "--workers", "1", "--json", str(ledger)]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.json"]


def unshipped_claim(id: str) -> Claim:
    """A claim whose weights are not shipped."""

    def left_out(fast: bool) -> Measurement:
        raise NotShipped("'sorting/big' is not shipped")

    return replace(toy_claim(id, 1.0), measure=left_out)


def test_a_claim_whose_weights_are_not_shipped_keeps_its_published_verdict(
    toy_study, tmp_path, capsys, monkeypatch
):
    toy_study(toy_claim("T1", 1.0), toy_claim("T2", 0.0))
    first, again = tmp_path / "first.json", tmp_path / "again.json"
    assert main(["claims", "--workers", "1", "--json", str(first)]) == 0
    monkeypatch.setattr(claims_run.ledger, "recorded", lambda study: read_ledger(first)["sorting"])
    toy_study(toy_claim("T1", 1.0), unshipped_claim("T2"))
    capsys.readouterr()
    assert main(["claims", "--workers", "1", "--json", str(again)]) == 0
    assert (
        "T2    not reproduced  as published, not measured: 'sorting/big' is not shipped"
        in capsys.readouterr().out
    )
    assert read_ledger(again)["sorting"][1] == read_ledger(first)["sorting"][1]
    toy_study(toy_claim("T1", 1.0), unshipped_claim("T9"))
    assert main(["claims", "--workers", "1", "--json", str(again)]) == 2
    assert "T9 could not be measured: NotShipped: 'sorting/big' is not shipped" in capsys.readouterr().err

    def none(study: str):
        raise ValueError("a study of one's own has no published ledger")

    monkeypatch.setattr(claims_run.ledger, "recorded", none)
    assert main(["claims", "--workers", "1", "--json", str(again)]) == 2
    assert "T9 could not be measured: NotShipped" in capsys.readouterr().err


def test_keep_replaces_some_verdicts_and_leaves_the_others(toy_study, tmp_path, capsys):
    toy_study(toy_claim("T1", 1.0), toy_claim("T2", 1.0))
    ledger = str(tmp_path / "ledger.json")
    assert main(["claims", "--workers", "1", "--json", ledger]) == 0
    toy_study(toy_claim("T1", -1.0), toy_claim("T2", -1.0), toy_claim("T3", 1.0))
    assert main(["claims", "--workers", "1", "--json", ledger, "--keep", "--only", "T2,T3"]) == 0
    found = read_ledger(ledger)["sorting"]
    assert [(v.id, v.outcome) for v in found] == [
        ("T1", "reproduced"), ("T2", "not reproduced"), ("T3", "reproduced"),
    ]  # fmt: skip
    assert main(["claims", "--workers", "1", "--json", ledger, "--only", "T2"]) == 0
    assert [v.id for v in read_ledger(ledger)["sorting"]] == ["T2"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no such file"),
        ("old", "is no ledger"),
        ('{"studies": {"pathfinding": []}}', "is a ledger of pathfinding, not of sorting"),
    ],
)
def test_keep_needs_a_ledger_of_this_study(content, says, toy_study, tmp_path, capsys):
    toy_study(toy_claim("T1", 1.0))
    ledger = tmp_path / "ledger.json"
    if content is not None:
        ledger.write_text(content)
    assert main(["claims", "--workers", "1", "--json", str(ledger), "--keep"]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert "T1" not in captured.out


def test_keep_without_a_ledger_is_refused(toy_study, capsys):
    toy_study(toy_claim("T1", 1.0))
    assert main(["claims", "--workers", "1", "--keep"]) == 2
    assert "name it with --json FILE" in capsys.readouterr().err


@pytest.mark.slow
def test_worker_processes_give_the_same_verdicts_as_one(tmp_path, capsys):
    found = []
    for workers in ("1", "2"):
        out = tmp_path / f"{workers}.json"
        assert (
            main(
                ["claims", "sorting", "--fast", "--only", "S7,S7b", "--workers", workers, "--json", str(out)]
            )
            == 0
        )
        found.append([replace(v, seconds=0) for v in read_ledger(out)["sorting"]])
    assert found[0] == found[1]
    assert json.loads(out.read_text())["command"] == "mi-lab claims sorting --fast"


# The program --------------------------------------------------------------------------------------
@pytest.mark.parametrize("arguments", [[], ["fly"], ["train"], ["claims", "--workers", "many"]])
def test_wrong_usage_exits_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "usage: mi-lab" in capsys.readouterr().err


@pytest.mark.slow
def test_it_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "mi_lab.cli", "zoo", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert "sorting/paper" in {row["name"] for row in json.loads(done.stdout)}

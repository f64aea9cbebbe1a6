"""Recorded speeds as a reader sees them: what is missed is shown as missed, on the machine where it was."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mi_lab import bench, cli
from mi_lab.bench import FOLDER, number, recorded, scripts, table

MACHINE = {"cpu": "A <fast> one", "cores": 2, "load_average": [0.3, 0.2, 0.1], "versions": {"torch": "2"}}


def line(**changes):
    given = {"what": "a step", "value": {"median": 2.5, "min": 2.25, "max": 2.75}, "unit": "times"}
    return given | {"ask": 3.0, "stretch": None, "most": False, "met": False} | changes


@pytest.fixture
def folder(tmp_path: Path):
    """A folder with two scripts, one of them with a result, and a module that is no script."""
    for name in ("step", "other"):
        (tmp_path / f"{name}.py").write_text(
            'import sys\nif __name__ == "__main__":\n    print(sys.argv[1:])\n'
        )
    (tmp_path / "common.py").write_text("x = 1\n")
    write(
        tmp_path,
        [line(), line(what="memory", ask=3.0, most=True, met=True, unit="GiB"), line(ask=None, met=None)],
    )
    return tmp_path


def write(folder: Path, rows, machine=MACHINE):
    (folder / "step.json").write_text(json.dumps({"title": "Steps", "rows": rows, "machine": machine}))


def test_modules_that_scripts_share_are_no_scripts(folder):
    assert list(scripts(folder)) == ["other", "step"]
    assert [record.name for record in recorded(folder)] == ["step"]
    with pytest.raises(ValueError, match="in the repository's folder benchmarks/"):
        scripts(folder / "nothing")


def test_results_of_another_form_are_left_out(folder):
    (folder / "other.json").write_text(json.dumps({"milliseconds": 3}))
    assert [record.name for record in recorded(folder)] == ["step"]


def test_a_missed_bar_is_shown_as_missed(folder):
    text, page = repr(table(folder=folder)), table(folder=folder)._repr_html_()
    assert [row.split()[-1] for row in text.split("\n")[2:4]] == ["missed", "met"]
    assert "at least 3.0 x" in text
    assert "at most 3.00 GiB" in text
    root = ElementTree.fromstring(page)  # whole, and what comes from outside is escaped
    cells = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")][1:]
    assert cells[0] == ["a step", "missed", "2.5 x", "at least 3.0 x", "2.2 x to 2.8 x"]
    assert cells[1][1] == "met"
    assert [cells[2][1], cells[2][3]] == ["", ""]


def test_what_nothing_could_exceed_stands_in_brackets(folder):
    write(folder, [line(bound=3.17)])
    assert "2.5 x (of 3.2 x)" in repr(table(folder=folder))
    assert "<td>2.5 x (of 3.2 x)</td>" in table(folder=folder)._repr_html_()


@pytest.mark.parametrize(("load", "words"), [(0.3, "(quiet)"), (9.5, "(other work beside it, load 9.5)")])
def test_the_load_is_said(folder, load, words):
    write(folder, [line()], MACHINE | {"load_average": [load, 1, 1], "date": "2026-11-28"})
    (record,) = recorded(folder)
    assert record.where == f"2026-11-28, A <fast> one, 2 cores {words}; torch 2"
    assert words in table(folder=folder)._repr_html_()


def test_unknown_names_are_named(folder):
    assert len(table("step", folder=folder).records) == 1
    with pytest.raises(ValueError, match="no result of other; there are: step"):
        table("other", folder=folder)


@pytest.mark.parametrize(
    ("x", "unit", "wanted"),
    [(0.994, "times", "0.99 x"), (2.04, "times", "2.04 x"), (7.04, "times", "7.0 x"), (175.4, "times", "175 x"),
     (0.655, "share", "66 %"), (0.004, "GiB", "0.00 GiB"), (-0.018, "exponent", "-0.02"), (7.5, "s", "7.50 s")],
)  # fmt: skip
def test_numbers_are_short(x, unit, wanted):
    assert number(x, unit) == wanted


# -- what is recorded --------------------------------------------------------------------------------


@pytest.mark.parametrize("record", recorded(), ids=lambda record: record.name)
def test_what_is_recorded_says_what_it_measured(record):
    assert record.rows
    for row in record.rows:
        assert row.low <= row.median <= row.high
        if row.ask is None:
            assert row.met is None
        else:
            assert row.met is (row.median <= row.ask if row.most else row.median >= row.ask)
    assert record.machine["threads"] == 1
    assert "torch" in record.machine["versions"]
    assert len(record.machine["load_average"]) == 3


def test_the_bars_are_those_of_the_plan():
    """Issue 6's table: a bar is never bent to a result."""
    asked = {row.what: row.ask for record in recorded() for row in record.rows if row.met is not None}
    there = {record.name for record in recorded()}
    assert there >= {"train_step", "stacked", "samplers", "llc_vs_devinterp"}
    plan = {
        "against the HookedTransformer loop at torch's defaults": {
            "sorting": 2.9, "addition": 2.8, "pathfinding": 2.4
        },
        "against the HookedTransformer loop at equal precision": {
            "sorting": 2.2, "addition": 1.5, "pathfinding": 1.5
        },
        "share of the measured peak of matrix products": {
            "sorting": 0.45, "addition": 0.85, "pathfinding": 0.65
        },
    }  # fmt: skip
    for what, bars in plan.items():
        for case, bar in bars.items():
            assert asked[f"{case}: {what}"] == bar
    starts = {
        "stacked": {"sorting, 16 models": 7.0, "pathfinding, 8 models": 3.0},
        "samplers": {"addition: against a digit": 80.0, "trees: against networkx": 150.0, "lists: against": 7.0},
        "node_sweep": {"addition: 1": 12.0, "pathfinding: 3": 7.0, "sorting: 4": 36.0},
        "llc_vs_devinterp": {"one model, against devinterp": 4.0},
        "llc_curve": {"a curve of 16 checkpoints": 10.0},
        "memory": {"peak memory of a 1,000,000": 1.5},
    }  # fmt: skip
    for name in starts.keys() & there:
        for start, bar in starts[name].items():
            assert [ask for what, ask in asked.items() if what.startswith(start)] == [bar], start


# -- the command -------------------------------------------------------------------------------------


def test_the_command_shows_the_tables(capsys):
    assert cli.main(["bench"]) == 0
    out = capsys.readouterr().out
    for record in recorded():
        assert record.title in out
    assert "README.md" in out


def test_the_command_runs_a_script_and_passes_its_options_on(folder, monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(bench, "scripts", lambda: scripts(folder))
    target = tmp_path / "out.json"
    assert (
        cli.main(["bench", "step", "--python", sys.executable, "--rounds", "2", "--json", str(target)]) == 0
    )
    assert capfd.readouterr().out.strip() == str(["--rounds", "2", "--json", str(target)])


def test_bad_input_is_one_line(folder, monkeypatch, capsys):
    monkeypatch.setattr(bench, "scripts", lambda: scripts(folder))
    assert cli.main(["bench", "stepp"]) == 2
    assert "there is no benchmark 'stepp'; there are: other, step" in capsys.readouterr().err
    assert cli.main(["bench", "step", "--python", "/no/such/python"]) == 2
    assert "/no/such/python can't be run" in capsys.readouterr().err


# -- the samplers of the other side, and the tools of the scripts ------------------------------------


@pytest.fixture
def script(monkeypatch):
    """Import a script or module of benchmarks/ by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)

    def load(name: str):
        return __import__(name)

    yield load
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(FOLDER) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_script_takes_from_the_library_is_there(path):
    """The scripts themselves need the peers' environment; their imports from `mi_lab` don't."""
    taken = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in taken:
        if node.module and node.module.partition(".")[0] == "mi_lab":
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name) or importlib.util.find_spec(f"{node.module}.{name.name}")


def test_a_gate_that_fails_ends_the_script(script):
    common = script("common")
    assert common.gate("x", {"logits": 1.234e-6}, {"logits": 1e-5}) == {"logits": 1.23e-6}
    for bad in (2e-5, float("nan")):
        with pytest.raises(SystemExit, match=r"x: logits differ by .* no claim"):
            common.gate("x", {"logits": bad}, {"logits": 1e-5})


def test_exponents_are_slopes(script):
    common = script("common")
    points = [1.0, 2.0, 4.0, 8.0]
    assert common.exponent(points, [3 * x**2 for x in points]) == {"exponent": 2.0, "standard_error": 0.0}
    assert common.exponent(points, [1, 2, 8, 8])["standard_error"] > 0.1


def test_a_row_says_whether_it_is_met(script):
    common = script("common")
    value = {"median": 2.0, "min": 1.0, "max": 3.0}
    assert common.row("x", value, 2.0)["met"] is True
    assert common.row("x", value, 2.1)["met"] is False
    assert common.row("x", value, 1.9, most=True)["met"] is False
    assert common.row("x", value, None)["met"] is None


def test_generators_of_the_other_side_obey_the_law(script):
    pytest.importorskip("networkx")
    import random

    import torch

    samplers = script("samplers")
    generator = torch.Generator().manual_seed(0)
    for whole in (False, True):
        sums = torch.cat([samplers.digit_loop(8, generator, whole) for _ in range(20)])
        assert samplers.laws(samplers.ADDITION, sums, sums) == 0
    rng = random.Random(0)
    trees = torch.stack([samplers.tree_of_networkx(rng) for _ in range(50)])
    assert samplers.laws(samplers.TREES, trees, trees) == 0
    assert len({samplers.TREES.decode(tree) for tree in trees}) == 50
    lists = torch.stack([samplers.list_of_python(rng) for _ in range(50)])
    assert samplers.laws(samplers.LISTS, lists, lists) == 0
    wrong = sums.clone()
    wrong[3, -1] = (wrong[3, -1] + 1) % 10
    assert samplers.laws(samplers.ADDITION, sums, wrong) > 0  # the gate can fail

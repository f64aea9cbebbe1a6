"""What every study owes: one test file for all of them, also for one made from the template."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mi_lab import new_study, publish
from mi_lab.claims import Claim, verify
from mi_lab.cli import STUDIES
from mi_lab.studies.base import Task, targets
from mi_lab.train import Recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=STUDIES)
def study(request):
    return importlib.import_module(f"mi_lab.studies.{request.param}")


def test_task_obeys_the_protocol_and_solves_its_own_samples(study):
    task = study.task()
    assert isinstance(task, Task)
    tokens = task.sample(64, generator=torch.Generator().manual_seed(0))
    assert tokens.shape == (64, task.n_ctx)
    assert tokens.min() >= 0
    assert tokens.max() < len(task.vocab)
    assert torch.equal(task.solve(tokens), tokens)
    assert targets(task, tokens).shape[1] == task.answer.stop - task.answer.start
    assert all(len(v) == 64 for v in task.variables(tokens).values())


def test_what_is_decoded_can_be_encoded_again(study):
    task = study.task()
    for row in task.sample(8, generator=torch.Generator().manual_seed(1)):
        assert torch.equal(task.encode(task.decode(row)), row)


def test_the_same_generator_gives_the_same_sample(study):
    task = study.task()
    a, b = (task.sample(16, generator=torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(a, b)


def test_recipes_and_claims_are_what_the_tools_expect(study):
    assert "paper" in study.recipes
    assert all(isinstance(r, Recipe) and name == r.name for name, r in study.recipes.items())
    assert isinstance(study.claims, tuple)
    assert all(isinstance(c, Claim) for c in study.claims)
    assert len({c.id for c in study.claims}) == len(study.claims)


def test_the_usual_model_loads_and_an_unknown_name_is_refused(study):
    model = study.load()
    assert model(study.task().sample(2, generator=torch.Generator().manual_seed(3))).shape[0] == 2
    with pytest.raises(ValueError, match="no published checkpoint"):
        study.load("nothing")


@pytest.fixture
def fresh_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import mi_lab.studies

    new_study.create("fresh_parity", tmp_path)
    monkeypatch.setattr(mi_lab.studies, "__path__", [*mi_lab.studies.__path__, str(tmp_path)])
    yield importlib.import_module("mi_lab.studies.fresh_parity")
    for name in [n for n in sys.modules if n.startswith("mi_lab.studies.fresh_parity")]:
        del sys.modules[name]


def test_a_new_study_obeys_the_contract(fresh_study):
    test_task_obeys_the_protocol_and_solves_its_own_samples(fresh_study)
    test_what_is_decoded_can_be_encoded_again(fresh_study)
    test_recipes_and_claims_are_what_the_tools_expect(fresh_study)
    with pytest.raises(ValueError, match="must have 4 symbols, it has 2"):
        fresh_study.task().encode("1,2")


def test_an_edited_study_is_read_anew(fresh_study, tmp_path):
    from mi_lab import studies

    file = tmp_path / "fresh_parity/task.py"
    file.write_text(file.read_text().replace("length: int = 4", "length: int = 16"))
    assert studies.again("fresh_parity").task().length == 16
    assert fresh_study.task().length == 4
    from mi_lab.studies import fresh_parity as now  # type: ignore[attr-defined]

    assert now.task().length == 16


@pytest.mark.slow
def test_a_new_study_trains_and_its_claim_is_reproduced_with_a_failing_control(fresh_study):
    verdict = verify(fresh_study.claims[0])
    assert verdict.outcome == "reproduced"
    assert verdict.sound


@pytest.mark.slow
def test_a_new_study_in_a_folder_of_ones_own_is_trained_published_claimed_and_exported(tmp_path):
    """As a reader does it in a shell: every command in a process of its own."""

    def mi_lab(*command: str, module: str = "mi_lab.cli") -> str:
        done = subprocess.run(
            [sys.executable, "-m", module, *command], cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"MI_LAB_STUDIES": str(tmp_path / "mine"), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    assert f"export MI_LAB_STUDIES={tmp_path / 'mine'}" in mi_lab("new-study", "fresh", "--into", "mine")
    assert "done" in mi_lab("train", "fresh/paper", "--out", "runs")
    assert "paper.safetensors: seeds 0" in mi_lab("runs", module="mi_lab.studies.fresh.publish")
    assert (tmp_path / "mine/published/fresh/paper.safetensors").exists()
    assert "fresh/paper" in mi_lab("zoo")
    assert "reproduced" in mi_lab("claims", "fresh", "--workers", "1")
    mi_lab("export", "fresh/paper", "--html", "page.html")
    assert '"SEP"' in (tmp_path / "page.html").read_text()  # the task's own words


def test_studies_of_ones_own_are_known_and_the_packages_go_first(tmp_path, monkeypatch):
    from mi_lab import cli, studies, zoo

    monkeypatch.setattr(studies, "__path__", list(studies.__path__))
    new_study.create("fresh_one", tmp_path)
    assert "fresh_one" not in cli.study_names()
    studies.add(tmp_path)
    studies.add(tmp_path)
    assert studies.places()[1:] == (tmp_path,)
    assert cli.study_names() == (*STUDIES, "fresh_one")
    assert tmp_path / "published" in zoo.folders()
    assert publish.home(str(tmp_path / "fresh_one/publish.py")) == tmp_path / "published/fresh_one"
    assert publish.home(cli.__file__.replace("cli.py", "studies/sorting/x.py")).parts[-2:] == (
        "published",
        "sorting",
    )
    with pytest.raises(ValueError, match="there is a study 'sorting' already"):
        new_study.create("sorting", tmp_path)


@pytest.mark.parametrize("name", ["own", "base", "again"])
def test_a_name_of_the_package_itself_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"a name of mi_lab\.studies itself"):
        new_study.create(name, tmp_path)


@pytest.mark.parametrize("name", ["Parity", "two words", "class", "1st", "../up"])
def test_a_name_that_is_no_module_is_refused(name: str, tmp_path: Path):
    with pytest.raises(ValueError, match="lower-case Python name"):
        new_study.create(name, tmp_path)


def test_an_existing_study_is_never_overwritten(tmp_path: Path):
    new_study.create("one", tmp_path)
    with pytest.raises(ValueError, match="there is a study 'one' already"):
        new_study.create("one", tmp_path)

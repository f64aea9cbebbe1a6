"""Published checkpoints: each says where it came from, still fits its recipe, is as good as it says."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from mi_lab import zoo
from mi_lab.metrics import score
from mi_lab.studies.arithmetic import measure as sums_measure
from mi_lab.studies.arithmetic import publish as sums_publish
from mi_lab.studies.arithmetic import recipes as sums_recipes
from mi_lab.studies.pathfinding import measure as tree_measure
from mi_lab.studies.pathfinding import recipes as tree_recipes
from mi_lab.studies.sorting import measure
from mi_lab.studies.sorting.circuit import copying_margin
from mi_lab.train import describe

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "mi_lab" / "published"
MB = 1_000_000
TOTAL, LARGEST = 60 * MB, 16 * MB

NAMES = [n for n in zoo.names() if zoo.find(n).is_relative_to(PUBLISHED)]
FINAL = [n for n in NAMES if "_steps/" not in n]
STEPS = [n for n in NAMES if "_steps/" in n]


STUDIES = ("arithmetic", "pathfinding", "sorting")


def recipes_of(study: str):
    """The recipes of a study, and the names of those that are not published."""
    module = importlib.import_module(f"mi_lab.studies.{study}.recipes")
    return module.recipes, module.UNPUBLISHED


def recipe_of(name: str):
    study, recipe = name.split("/")[:2]
    return recipes_of(study)[0][recipe.removesuffix("_steps")]


def test_something_is_published():
    assert "sorting/paper" in FINAL
    assert "sorting/paper_steps/seed-0" in STEPS
    assert {name.split("/")[0] for name in FINAL} == set(STUDIES), "a new study: name it in STUDIES"


@pytest.mark.parametrize("study", STUDIES)
def test_every_recipe_is_published_with_all_its_seeds(study):
    missing = {}
    recipes, unpublished = recipes_of(study)
    for recipe in recipes.values():
        if recipe.name in unpublished:
            continue
        name = f"{study}/{recipe.name}"
        left_out = zoo.not_shipped().get(name, {"labels": ()})
        there = zoo.read(name).labels if name in FINAL else left_out["labels"]
        if set(recipe.seeds) - set(there):
            missing[recipe.name] = sorted(set(recipe.seeds) - set(there))
    assert missing == {}, f"seeds still to be published: python -m mi_lab.studies.{study}.publish RUNS"


@pytest.mark.parametrize("name", NAMES)
def test_a_published_file_says_where_it_came_from(name):
    found, recipe = zoo.read(name), recipe_of(name)
    source = found.provenance
    study = name.split("/")[0]
    assert source["study"] == study
    assert source["digest"] == recipe.digest, f"the recipe {recipe.name} has changed since {name} was trained"
    assert source["task"] == describe(recipe.task)
    assert source["description"] == recipe.description
    assert source["command"] == f"mi-lab train {study}/{recipe.name}"
    assert found.stack.config == recipe.config
    assert source["device"]
    assert all(seconds > 0 for seconds in source["seconds"])
    assert {"python", "torch", "numpy", "mi_lab", "machine"} <= source["versions"].keys()
    assert source["diverged"] == {}
    assert all(len(v) == len(source["seconds"]) for k, v in source["metrics"].items() if k != "sample")


def test_what_is_not_shipped_fits_its_recipe_and_says_where_it_came_from():
    for name, entry in zoo.not_shipped().items():
        source = entry["provenance"]
        assert name not in NAMES, "it is shipped after all"
        assert source["digest"] == recipe_of(name).digest, name
        assert source["command"].startswith("mi-lab train "), name
        assert len(entry["sha256"]) == 64
        assert sum(source["seconds"]) > 0


@pytest.mark.parametrize("name", NAMES)
def test_published_weights_are_finite_and_differ_between_models(name):
    found = zoo.read(name)
    assert found.stack.flat.isfinite().all()
    assert len(found.stack.flat.unique(dim=0)) == len(found.labels) == len(set(found.labels))


@pytest.mark.parametrize("name", FINAL)
def test_a_published_files_labels_are_seeds_of_its_recipe(name):
    assert set(zoo.read(name).labels) <= set(recipe_of(name).seeds)
    assert list(zoo.read(name).labels) == sorted(zoo.read(name).labels)


@pytest.mark.parametrize("name", STEPS)
def test_published_steps_are_checkpoints_of_a_published_seed(name):
    found, recipe = zoo.read(name), recipe_of(name)
    assert found.provenance["labels are"] == "steps"
    assert set(found.labels) <= {*recipe.checkpoints, recipe.steps}
    seed = found.provenance["seed"]
    assert name.endswith(f"/seed-{seed}")
    final = zoo.read(f"{name.split('/')[0]}/{recipe.name}")
    assert seed in final.labels
    if recipe.steps in found.labels:
        last = found.stack.flat[found.labels.index(recipe.steps)]
        torch.testing.assert_close(last, final.stack.flat[final.labels.index(seed)], atol=0, rtol=0)


def check_exact(name: str, models: list[int]) -> None:
    metrics = zoo.read(name).provenance["metrics"]
    some = tree_measure.trees(tree_measure.task_of(recipe_of(name).name), 2000, 2)
    for i in models:
        found = tree_measure.accuracy(zoo.read(name).stack.model(i), some)
        assert found.exact.value == pytest.approx(metrics["exact"][i], abs=5.1e-4), f"{name}, model {i}"
        assert found.branch == pytest.approx(metrics["branches"][i], abs=5e-4), f"{name}, model {i}"


def measured(name: str, i: int) -> tuple[float, float, float]:
    found, task = zoo.read(name), measure.task_of(recipe_of(name).name)
    scores = score(found.stack.model(i), task, measure.lists(task, 2000))
    return (
        float(scores.correct.float().mean()),
        float(scores.correct.all(1).float().mean()),
        float(scores.nll.mean()),
    )


def check_failures(name: str, models: list[int]) -> None:
    """A tenth of the questions behind the published count: as many wrong as a random tenth may hold."""
    metrics, recipe = zoo.read(name).provenance["metrics"], recipe_of(name)
    asked, part = sums_publish.ASKED, sums_publish.ASKED // 10
    assert metrics["sample"].startswith(f"{asked:,} uniform questions")
    for i in models:
        model = zoo.read(name).stack.model(i)
        for operator in recipe.task.operations:
            wrong = metrics[f"failures {operator}"][i]
            tokens = sums_measure.uniform_questions(recipe.task, operator, asked)[:part]
            found = int((~sums_measure.right(model, recipe.task, tokens)).sum())
            spread = (part * wrong / asked * (1 - wrong / asked)) ** 0.5
            assert abs(found - wrong / 10) <= 4 * spread + 1 * (wrong > 0), f"{name}, model {i}, {operator}"


def check_metrics(name: str, models: list[int]) -> None:
    if name.startswith("pathfinding/"):
        check_exact(name, models)
        return
    if name.startswith("arithmetic/"):
        check_failures(name, models)
        return
    metrics = zoo.read(name).provenance["metrics"]
    for i in models:
        said = (metrics["token accuracy"][i], metrics["list accuracy"][i], metrics["loss"][i])
        # the very same lists, so only rounding can move a prediction: one list, two tokens, 1e-4 nats
        for found, then, tolerance in zip(measured(name, i), said, (1.1e-4, 5.1e-4, 1e-4)):
            assert found == pytest.approx(then, abs=tolerance), f"{name}, model {i}"


@pytest.mark.parametrize("name", FINAL)
def test_the_first_model_of_a_file_is_as_good_as_it_says(name):
    check_metrics(name, [0])


@pytest.mark.slow
@pytest.mark.parametrize("name", FINAL)
def test_every_model_of_a_file_is_as_good_as_it_says(name):
    check_metrics(name, list(range(1, len(zoo.read(name).labels))))


def test_recorded_figures_are_of_the_published_weights():
    for recipe, seed in (("paper", 0), ("quick", 0), ("quick", 1)):
        assert tree_measure.recorded_figures(recipe, seed)["sha256"] == zoo.sha256(f"pathfinding/{recipe}")
    story, last = tree_measure.development("paper"), tree_recipes["paper"].steps
    assert set(story["steps"].tolist()) <= set(tree_recipes["paper"].kept)
    assert story["steps"][-1] == last


@pytest.mark.parametrize("path", sorted(sums_publish.CURVES.glob("*.npz")), ids=lambda path: path.stem)
def test_published_development_of_addition_ends_at_the_published_weights(path):
    recipe = sums_recipes[path.stem]
    with np.load(path) as curves:
        assert curves["steps"].tolist() == list(recipe.kept)
        assert tuple(curves["seeds"]) == zoo.read(f"arithmetic/{recipe.name}").labels
        questions = sums_publish.development_questions(recipe.task)
        assert curves["classes"].tolist() == list(questions)
        some = {name: tokens[:200] for name, tokens in questions.items()}
        row = sums_publish.development_row(
            zoo.load(f"arithmetic/{recipe.name}", int(curves["seeds"][-1])), some, recipe.task
        )
        assert row["loss"] == pytest.approx(curves["loss"][-1, -1].tolist(), abs=0.02)
        assert row["right"] == pytest.approx(curves["right"][-1, -1].tolist(), abs=0.08)


CURVES = sorted(path.stem for path in (ROOT / "mi_lab/studies/sorting/curves").glob("*.npz"))


def test_development_is_published_for_the_recipes_that_claims_follow_over_time():
    assert {"paper", "adamw", "no_decay"} <= set(CURVES)


@pytest.mark.parametrize("recipe", CURVES)
def test_published_curves_end_at_the_published_weights(recipe):
    curves, final = measure.development(recipe), zoo.read(f"sorting/{recipe}")
    assert tuple(curves["seeds"].astype(int)) == final.labels
    task = measure.task_of(recipe)
    i = len(final.labels) - 1
    scores = score(final.stack.model(i), task, measure.lists(task, 1000, seed=41))
    assert float(curves["loss"][i, -1]) == pytest.approx(float(scores.nll.mean()), abs=1e-4)
    margin = copying_margin(final.stack.model(i), task).detach()
    torch.testing.assert_close(torch.tensor(curves["margin"][i, -1]), margin, atol=2e-3, rtol=2e-3)


def test_an_early_step_is_worse_than_the_last():
    early = measure.model_at("paper", 0, 50)
    task = measure.task_of("paper")
    assert float(score(early, task, measure.lists(task, 200)).correct.float().mean()) < 0.5


def test_checkpoints_are_small_enough_for_a_repository():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.safetensors", "*.npz"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    files = {ROOT / line for line in listed.stdout.splitlines()} | set(PUBLISHED.rglob("*.safetensors"))
    sizes = {path: path.stat().st_size for path in files if path.exists()}
    assert sizes
    assert {str(p): s for p, s in sizes.items() if s > LARGEST} == {}
    assert sum(sizes.values()) <= TOTAL

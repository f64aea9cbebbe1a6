"""From training folders to what the package ships: `python -m mi_lab.studies.arithmetic.publish RUNS`.

RUNS is the `out` of `fit` (or `mi-lab train --out`). For every recipe found there this writes
`mi_lab/published/arithmetic/NAME.safetensors` (all finished seeds at the last step, fp16, with
provenance); for the recipes of `DEVELOPMENT` also the curves of their development. Everything is
computed from the fp16 weights that readers will load. It may be run again as more seeds finish: what
is known of a model already, is not measured a second time. Seeds that are published and have no run in
RUNS any more stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_lab import checkpoint
from mi_lab import publish as published
from mi_lab.checkpoint import load_tensors, sha256_of
from mi_lab.metrics import score_logits
from mi_lab.model import Transformer
from mi_lab.publish import Place, earlier, finished, provenance, weights, write_seeds
from mi_lab.stack import Stack, fast_matmul, forward
from mi_lab.studies.arithmetic import classes, measure
from mi_lab.studies.arithmetic.recipes import recipes
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.base import targets
from mi_lab.train import Recipe

PUBLISHED = published.PUBLISHED / "arithmetic"
CURVES = Path(__file__).parent / "curves"
# Recipes whose development claim A6 follows, and those that differ from them in enrichment only (A22).
DEVELOPMENT = (
    "add_d3_l2_h3", "add_d5_l2_h3", "add_d5_l1_h3", "add_d3_l2_h3_plain", "add_d3_l2_h3_described",
)  # fmt: skip
ASKED = 20_000  # questions per operation behind the published metrics; `zoo_results` asks more
PER_CLASS = 2_000  # questions of each class, at each kept step
MEASURED = ("loss", "token", "right")  # what `development_row` gives
PER_SEED = ("weights", *MEASURED, "train_loss")  # arrays of a curves file with a row for each seed


def publish(runs: Path, recipe: Recipe) -> str:
    """Write one recipe's files; returns a line that says what was written."""
    places = finished(runs, recipe)
    if not places:
        return f"{recipe.name}: no finished seed in {runs / recipe.name}"
    path = PUBLISHED / f"{recipe.name}.safetensors"
    about = provenance("arithmetic", recipe, places)
    kept = earlier(path, recipe, places)
    final = {seed: weights(place, recipe, recipe.steps) for seed, place in places.items()}
    final = dict(sorted((final | {seed: old.weights for seed, old in kept.items()}).items()))
    wrong = failures(path, recipe, final)
    about["metrics"] = {
        **{f"failures {operator}": wrong[operator] for operator in wrong},
        "sample": f"{ASKED:,} uniform questions per operation and seed",
    }
    write_seeds(path, recipe, places, about, kept)
    if recipe.name in DEVELOPMENT:
        curves(recipe, places)
    return f"{recipe.name}: {len(final)} of {len(recipe.seeds)} seeds, failures {wrong}"


def task_of(recipe: Recipe) -> ArithmeticTask:
    """The recipe's task, as what it is."""
    assert isinstance(recipe.task, ArithmeticTask)
    return recipe.task


def failures(path: Path, recipe: Recipe, final: Mapping[int, Stack]) -> dict[str, list[int]]:
    """Wrong answers of `ASKED` uniform questions, {operator: one per seed}.

    Taken from the file at `path` for seeds whose weights stand there unchanged.
    """
    known: dict[int, dict[str, int]] = {}
    if path.exists():
        old = checkpoint.load(path)
        for i, seed in enumerate(old.labels):
            same = seed in final and torch.equal(old.stack.flat[i : i + 1], final[seed].flat)
            metrics = old.provenance["metrics"]
            if same and metrics["sample"].startswith(f"{ASKED:,} "):
                known[seed] = {o: metrics[f"failures {o}"][i] for o in task_of(recipe).operations}
    for seed, stack in final.items():
        if seed not in known:
            found = measure.uniform(stack.model(0), task_of(recipe), ASKED)
            known[seed] = {operator: count.wrong for operator, count in found.items()}
    return {o: [known[seed][o] for seed in final] for o in task_of(recipe).operations}


# ---- development ----


@torch.no_grad()
def development_row(
    model: Transformer, questions: Mapping[str, Tensor], task: ArithmeticTask
) -> dict[str, list[float]]:
    """One step of the development story.

    questions: tokens Int[n, n_ctx] by name, "uniform" and the classes. loss, token [digits + 2]: mean
    nats and share right of each answer token (SGN, A_n .. A_0) on the uniform questions; right [name]:
    share of whole answers right.
    """
    params = Stack.from_models([model]).params(0)
    out: dict[str, list[float]] = {"right": []}
    with fast_matmul(model.device):
        for name, tokens in questions.items():
            parts = [
                score_logits(forward(params, model.config, chunk, task.answer), targets(task, chunk))
                for chunk in tokens.split(measure.BATCH)
            ]
            correct = torch.cat([part.correct for part in parts])
            out["right"].append(float(correct.all(1).float().mean()))
            if name == "uniform":
                out["loss"] = torch.cat([part.nll for part in parts]).mean(0).tolist()
                out["token"] = correct.float().mean(0).tolist()
    return out


def development_questions(task: ArithmeticTask) -> dict[str, Tensor]:
    """The questions of `development_row`: `PER_CLASS` uniform ones and as many of each class."""
    plain = ArithmeticTask(task.digits, task.operations, task.subtraction, "none")
    seeded = torch.Generator().manual_seed(0xA6)
    out = {"uniform": plain.sample(PER_CLASS, generator=seeded)}
    for name in classes.names(task):
        out[name] = classes.sample(task, name, PER_CLASS, generator=seeded)
    return out


def curves(recipe: Recipe, places: Mapping[int, Place]) -> None:
    """Development at every kept step, as arrays in `curves/NAME.npz`; what is there is not measured again.

    Seeds that are there and have no run stay, if their file followed the same steps and classes.

    steps [step]; seeds, weights [seed], the hash of all kept weights; loss, token [seed, step, token];
    classes [class] and right [seed, step, class], "uniform" first; logged [n] and train_loss [seed, n],
    the loss on the training batches.
    """
    path = CURVES / f"{recipe.name}.npz"
    questions = development_questions(task_of(recipe))
    known: dict[str, dict[str, Any]] = {}
    rows: dict[int, dict[str, Any]] = {}  # seed -> its row of every array
    if path.exists():
        with np.load(path) as old:
            before = [{name: old[name][i] for name in PER_SEED} for i in range(len(old["seeds"]))]
            known = {str(row["weights"]): row for row in before}
            if old["steps"].tolist() == list(recipe.kept) and old["classes"].tolist() == list(questions):
                rows = {int(seed): row for seed, row in zip(old["seeds"], before)}
    logged: list[int] = []
    for seed, place in places.items():
        kept = [weights(place, recipe, step) for step in recipe.kept]
        row: dict[str, Any] = {"weights": sha256_of(torch.cat([stack.flat for stack in kept]))}
        if (found := known.get(row["weights"])) is None:
            steps = [development_row(stack.model(0), questions, task_of(recipe)) for stack in kept]
            found = {name: [step[name] for step in steps] for name in MEASURED}
        row |= {name: found[name] for name in MEASURED}
        log = load_tensors(place.folder / "state.safetensors")[1]["log"]
        row["train_loss"] = [entry[1][place.index] for entry in log]
        logged = [entry[0] for entry in log]
        rows[seed] = row
    rows = dict(sorted(rows.items()))
    CURVES.mkdir(exist_ok=True)
    np.savez_compressed(
        path,
        steps=np.array(recipe.kept),
        seeds=np.array(list(rows)),
        classes=np.array(list(questions)),
        logged=np.array(logged),
        weights=np.array([str(row["weights"]) for row in rows.values()]),
        **{name: np.array([row[name] for row in rows.values()], dtype=np.float32) for name in PER_SEED[1:]},  # type: ignore[arg-type]
    )


if __name__ == "__main__":
    published.main("arithmetic", recipes, publish)

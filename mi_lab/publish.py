"""From training folders to published checkpoints: what every study's `publish` shares.

`fit(recipe, out=RUNS)` leaves one folder per seed (per stack on a GPU) with the resumable state and
the kept steps. Published files hold the fp16 weights of all seeds at one step, or of one seed at
several, with their provenance. A study adds its own metrics: see `mi_lab.studies.*.publish`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mi_lab import checkpoint, zoo
from mi_lab.checkpoint import CheckpointError, load_tensors, write_atomically
from mi_lab.stack import Stack
from mi_lab.train import Recipe, describe

PUBLISHED = Path(__file__).parent / "published"


def home(module: str) -> Path:
    """Where a study publishes, given a file of it: `published/NAME` in the package, or beside a study of your own."""
    folder = Path(module).resolve().parent
    package = folder.parent == PUBLISHED.parent / "studies"
    return (PUBLISHED if package else folder.parent / "published") / folder.name


class Place(NamedTuple):
    """Where one seed's run lies: its folder, and its place in the stack that trained there."""

    folder: Path
    index: int


def finished(runs: Path, recipe: Recipe) -> dict[int, Place]:
    """Place of every seed whose run is complete; on a GPU all seeds train in one folder."""
    out = {}
    for folder in sorted((runs / recipe.name).glob("seed-*")):
        if (folder / f"step-{recipe.steps:07d}.safetensors").exists():
            seeds = load_tensors(folder / "state.safetensors")[1]["seeds"]
            out |= {int(seed): Place(folder, i) for i, seed in enumerate(seeds)}
    return dict(sorted(out.items()))


def weights(place: Place, recipe: Recipe, step: int) -> Stack:
    """One kept step of one seed, rounded to fp16 as published."""
    tensors, meta = load_tensors(place.folder / f"step-{step:07d}.safetensors")
    if meta["digest"] != recipe.digest:
        raise CheckpointError(f"{place.folder} was trained by another version of recipe {recipe.name!r}")
    return Stack(recipe.config, tensors["flat"][place.index : place.index + 1].half().float())


def provenance(study: str, recipe: Recipe, places: Mapping[int, Place]) -> dict[str, Any]:
    """What made these weights, as every published file says it."""
    states = [load_tensors(folder / "state.safetensors")[1] for folder, _ in places.values()]
    return {
        "study": study,
        "recipe": recipe.to_dict(),
        "digest": recipe.digest,
        "task": describe(recipe.task),
        "description": recipe.description,
        "command": f"mi-lab train {study}/{recipe.name}",
        "device": sorted({state["device"] for state in states}),
        "seconds": [round(state["seconds"], 1) for state in states],
        "versions": states[0]["versions"],
        "diverged": {k: v for state in states for k, v in dict(state["diverged"]).items()},
    }


class Earlier(NamedTuple):
    """A seed that was published before and whose run is not at hand any more: its weights and what was said of it."""

    weights: Stack
    seconds: float
    devices: list[str]


def earlier(path: Path, recipe: Recipe, places: Mapping[int, Place]) -> dict[int, Earlier]:
    """The seeds in the published file at `path` that have no run in `places`.

    Empty if there is no file, or if its seeds were trained by another version of the recipe.
    """
    if not path.exists():
        return {}
    found = checkpoint.load(path)
    about = found.provenance
    if about["digest"] != recipe.digest:
        return {}
    return {
        seed: Earlier(Stack(recipe.config, found.stack.flat[i : i + 1]), about["seconds"][i], about["device"])
        for i, seed in enumerate(found.labels)
        if seed not in places
    }


def write_seeds(
    path: Path,
    recipe: Recipe,
    places: Mapping[int, Place],
    about: Mapping[str, Any],
    kept: Mapping[int, Earlier] | None = None,
) -> None:
    """All seeds at the last step in one file, labelled by seed; those published earlier that are to stay among them."""
    kept = kept or {}
    final = {seed: weights(place, recipe, recipe.steps) for seed, place in places.items()}
    final = dict(sorted((final | {seed: old.weights for seed, old in kept.items()}).items()))
    seconds = dict(zip(places, about["seconds"])) | {seed: old.seconds for seed, old in kept.items()}
    devices = {*about["device"]}.union(*(old.devices for old in kept.values()))
    about = {**about, "seconds": [seconds[seed] for seed in final], "device": sorted(devices)}
    flat = torch.cat([stack.flat for stack in final.values()])
    checkpoint.save(path, Stack(recipe.config, flat), labels=tuple(final), provenance=about)


def write_steps(
    path: Path, recipe: Recipe, seed: int, place: Place, steps: Iterable[int], about: Mapping[str, Any]
) -> None:
    """One seed at several steps in one file, labelled by step."""
    steps = tuple(steps)
    many = torch.cat([weights(place, recipe, step).flat for step in steps])
    more = {**about, "seed": seed, "labels are": "steps"}
    checkpoint.save(path, Stack(recipe.config, many), labels=steps, provenance=more)


def unship(name: str) -> None:
    """Leave a published file out of the repository: its hash and provenance stay, so that verdicts can name it.

    Verdicts that were measured on it keep standing in the ledger (`mi_lab.claims_run`), and numbers that belong to
    the weights of single models can be told by the hashes in `weights`, one per label. Raises ValueError for a file
    that is not published in the package, or that lacks models which were left out under this name before.
    """
    path = zoo.find(name)
    if not path.is_relative_to(PUBLISHED):
        raise ValueError(f"{name!r} is no file of {PUBLISHED}: {path}")
    found = checkpoint.load(path)
    before = zoo.not_shipped().get(name, {"labels": []})
    if lost := sorted({*before["labels"]} - {*found.labels}):
        raise ValueError(f"{name!r} was left out with {lost} too, which {path} lacks: publish them together")
    about = {
        "labels": list(found.labels), "sha256": checkpoint.sha256(path), "bytes": path.stat().st_size,
        "weights": [checkpoint.sha256_of(flat) for flat in found.stack.flat], "provenance": found.provenance,
    }  # fmt: skip
    every = dict(sorted({**zoo.not_shipped(), name: about}.items()))
    write_atomically(zoo.NOT_SHIPPED, (json.dumps(every, indent=1) + "\n").encode())
    zoo.not_shipped.cache_clear()
    path.unlink()


def main(study: str, recipes: Mapping[str, Recipe], publish: Callable[[Path, Recipe], str]) -> None:
    """`python -m mi_lab.studies.STUDY.publish RUNS [RECIPE ...]`: publish those, or all, saying what was written."""
    torch.set_num_threads(1)
    if len(sys.argv) < 2:
        sys.exit(f"usage: python -m mi_lab.studies.{study}.publish RUNS [RECIPE ...]")
    for name in sys.argv[2:] or recipes:
        if name not in recipes:
            sys.exit(f"unknown recipe {name!r}; there are {', '.join(recipes)}")
        print(publish(Path(sys.argv[1]), recipes[name]), flush=True)

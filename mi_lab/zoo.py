"""The zoo: published checkpoints by name.

A name is "study/recipe", e.g. "sorting/paper"; a key into the table of files that exist, not a
string to parse for settings. Small files ship inside the package, larger ones stand in the
repository's folder `checkpoints/`; `MI_LAB_CHECKPOINTS` names a further folder to look in, and studies
of your own (`mi_lab.studies.add`) publish into `published/` beside themselves.

A repository has room for so much. Weights that verdicts were measured on, and that are not shipped, stand in
`published/not_shipped.json` with their hash and provenance (`mi_lab.publish.unship` writes it).
"""

from __future__ import annotations

import difflib
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mi_lab import checkpoint, studies
from mi_lab.checkpoint import Checkpoint
from mi_lab.model import Transformer

SUFFIX = ".safetensors"
NOT_SHIPPED = Path(__file__).parent / "published" / "not_shipped.json"


class NotShipped(ValueError):
    """These weights were published and measured, and are left out to keep the repository small."""


class Entry(NamedTuple):
    """One published file. labels: its seeds or steps. sha256: its identity."""

    name: str
    path: Path
    labels: tuple[int, ...]
    sha256: str
    provenance: dict[str, Any]


def folders() -> list[Path]:
    """Where checkpoints are looked for, first match wins."""
    package = Path(__file__).parent
    extra = os.environ.get("MI_LAB_CHECKPOINTS")
    own = [place / "published" for place in studies.places()[1:]]
    return ([Path(extra)] if extra else []) + [package / "published", package.parent / "checkpoints", *own]


def files() -> dict[str, Path]:
    """Name -> file of everything that can be loaded here."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.rglob("*" + SUFFIX)):
            found.setdefault(str(path.relative_to(folder).with_suffix("").as_posix()), path)
    return found


def names() -> tuple[str, ...]:
    """All names, sorted."""
    return tuple(sorted(files()))


@functools.lru_cache(maxsize=1)
def not_shipped() -> dict[str, dict[str, Any]]:
    """Name -> labels, sha256, bytes and provenance of what was published once and is left out."""
    return json.loads(NOT_SHIPPED.read_text()) if NOT_SHIPPED.exists() else {}


def find(name: str) -> Path:
    """The file of a name. Raises ValueError that suggests the nearest name, NotShipped that says how to make it."""
    known = files()
    if name in known:
        return known[name]
    if name in not_shipped():
        about = not_shipped()[name]["provenance"]
        study = about["study"]
        raise NotShipped(
            f"{name!r} is not shipped, to keep the repository small. {about['command']} trains it again (it took "
            f"{sum(about['seconds']) / 60:.0f} minutes), python -m mi_lab.studies.{study}.publish runs puts it here"
        )
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(f"there is no published checkpoint {name!r}{hint} `mi-lab zoo` lists all of them.")


@functools.lru_cache(maxsize=64)
def read(name: str) -> Checkpoint:
    """All models of a published file, read once per process. Treat the stack as read-only."""
    return checkpoint.load(find(name))


@functools.lru_cache(maxsize=256)
def sha256(name: str) -> str:
    """The file's SHA-256; of one that is not shipped, what it was."""
    if name in not_shipped() and name not in files():
        return not_shipped()[name]["sha256"]
    return checkpoint.sha256(find(name))


def load(name: str, label: int | None = None) -> Transformer:
    """One model (a copy) of a published file, by its seed or step; the first one if None."""
    return read(name).model(label)


def entries() -> Iterator[Entry]:
    """Everything published, with provenance."""
    for name in names():
        found = read(name)
        yield Entry(name, find(name), found.labels, sha256(name), found.provenance)

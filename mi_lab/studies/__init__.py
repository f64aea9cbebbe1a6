"""One folder per paper, each with the same inner files; studies never import each other.

Studies of your own may stand in any folder: name it in the environment variable MI_LAB_STUDIES (several,
separated as in PATH), or call `add(folder)`. They are then `mi_lab.studies.NAME` like the others, known to
`mi-lab`, and what they publish is in the zoo.
"""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

__path__.extend(filter(None, os.environ.get("MI_LAB_STUDIES", "").split(os.pathsep)))


def add(folder: Path | str) -> None:
    """Look for studies in this folder, too; in the package's own ones first."""
    if str(folder) not in __path__:
        __path__.append(str(folder))


def places() -> tuple[Path, ...]:
    """The folders in which studies are looked for; the package's own one first."""
    return tuple(map(Path, __path__))


def own() -> tuple[str, ...]:
    """Studies that stand outside the package: folders with claims, `claims.py` or `claims/`."""
    return tuple(sorted({path.parent.name for place in places()[1:] for path in place.glob("*/claims*")}))


def again(name: str) -> ModuleType:
    """A study's module with its files read anew: after editing them in a running notebook."""
    inside = f"{__name__}.{name}"
    for module in [module for module in sys.modules if module == inside or module.startswith(f"{inside}.")]:
        del sys.modules[module]
    importlib.invalidate_caches()
    return importlib.import_module(inside)

"""The library is a DAG: what may import what, and what `import mi_lab` may cost."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mi_lab"

# A module may import modules of lower levels, and of its own level only where ALSO says so.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("model",),
    ("studies.base", "fast", "forward", "stack", "checkpoint", "bridge", "regress", "labels"),
    ("recipe", "once"),
    ("step",),
    ("capture",),
    ("run", "train", "zoo", "publish", "sites"),
    (
        "circuits",
        "ablate",
        "ablate_engine",
        "scrub",
        "paths",
        "probe",
        "probe_result",
        "erase",
        "lens",
        "llc",
        "metrics",
        "stream",
        "sweep",
        "sweep_run",
        "sweep_jobs",
        "groups",
        "handmade",
    ),
    ("node_table", "scan", "clusters", "subtask", "locate", "sufficiency", "algorithm"),
    ("claims", "plot", "charts", "nodemap", "live", "ledger", "sortable", "bench"),
    ("studies.*", "toolbox"),
    ("cli", "claims_run", "new_study"),
)
ALSO = {
    # one step inside a level, each for a reason
    ("claims", "metrics"),
    ("ablate", "ablate_engine"),
    ("cli", "new_study"),
    ("cli", "claims_run"),
    ("ledger", "claims"),
    ("bench", "ledger"),  # one kind of prose
    ("charts", "plot"),  # one theme
    ("live", "charts"),  # baked drawings
    ("live", "plot"),  # an attention view has a static drawing
    ("zoo", "train"),  # a zoo entry names the recipe that made it
    ("train", "run"),
    ("publish", "train"),
    ("publish", "zoo"),  # what is left out of the one is noted for the other
    ("llc", "metrics"),
    ("nodemap", "plot"),  # one theme
    ("groups", "ablate"),  # many nodes at once, as the single ones
    ("scan", "node_table"),
    ("subtask", "node_table"),  # all count hits of n
    ("sufficiency", "node_table"),
    ("locate", "subtask"),
    ("algorithm", "subtask"),
    ("algorithm", "locate"),
    ("scrub", "ablate"),
    ("sweep", "sweep_run"),
    ("sweep", "sweep_jobs"),
    ("sweep_run", "sweep_jobs"),
    ("scrub", "metrics"),
    ("stream", "metrics"),
    ("sites", "run"),
    ("probe_result", "metrics"),
    ("probe", "probe_result"),
    ("lens", "probe"),  # a lens on labels is a probe
    ("lens", "circuits"),
    ("ablate", "metrics"),
    ("circuits", "metrics"),
    ("checkpoint", "studies.base"),
    ("checkpoint", "stack"),
    ("forward", "fast"),
    ("stack", "fast"),
    ("stack", "forward"),  # one offers the other's names: a stack's forward is the function
    ("stack", "studies.base"),
}
ENGINES_MAY_NOT_NEED = {
    "transformer_lens",
    "matplotlib",
    "ipywidgets",
    "anywidget",
    "scipy",
    "pandas",
    "plotly",
}
RUNTIME = {"torch", "numpy", "safetensors", "tqdm"}
LAZY_ONLY = {
    "transformer_lens",
    "matplotlib",
    "ipywidgets",
    "anywidget",
    "circuitsvis",
    "IPython",
    "traitlets",
}


def module_name(path: Path) -> str:
    """`mi_lab/studies/base.py` is `studies.base`; the package itself is ''."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def level(name: str) -> int | None:
    """Height of a module in the order; None for `__init__` files, which only pass names on."""
    if name in ("", "studies"):
        return None
    for height, names in enumerate(LEVELS):
        head = name.split(".")[0]
        if name in names or (head in names and head != "studies"):
            return height
    if name.startswith("studies."):
        return next(i for i, names in enumerate(LEVELS) if "studies.*" in names)
    raise AssertionError(f"mi_lab/{name.replace('.', '/')} has no place in LEVELS: give it one")


def imports(path: Path) -> list[tuple[str, bool]]:
    """(imported dotted name, is it at module level at run time) for every import in a file."""
    name = module_name(path)
    package = ["mi_lab", *name.split(".")] if name else ["mi_lab"]
    if path.name != "__init__.py":
        package = package[:-1]
    found: list[tuple[str, bool]] = []

    def walk(node: ast.AST, eager: bool) -> None:
        for child in ast.iter_child_nodes(node):
            here = eager and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                here = False
            if isinstance(child, ast.Import):
                found.extend((alias.name, eager) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    base = ".".join([*package[: len(package) - child.level + 1], *filter(None, [base])])
                if base == "mi_lab" or base.startswith("mi_lab."):
                    found.extend((f"{base}.{alias.name}", eager) for alias in child.names)
                else:
                    found.append((base, eager))
            walk(child, here)

    walk(ast.parse(path.read_text("utf8")), True)
    return found


def internal(name: str) -> set[str]:
    """The modules of mi_lab that a module imports, at the top or inside functions."""
    out = set()
    for imported, _ in imports(MODULES[name]):
        if imported.startswith("mi_lab."):
            target = imported.removeprefix("mi_lab.")
            if target in MODULES:
                out.add(target)
            elif target.rpartition(".")[0] in MODULES:
                out.add(target.rpartition(".")[0])
    return out - {name, "", "studies"}


def allowed(name: str, target: str) -> bool:
    """May `name` import `target`?"""
    mine, theirs = level(name), level(target)
    if mine is None or theirs is None:
        return True
    if target == "studies.base":
        return name != "model"
    if name == "studies.base":
        return target == "model"
    if name == "bridge":
        return target == "model"
    if name.startswith("studies.") and target.startswith("studies."):
        return name.split(".")[1] == target.split(".")[1]
    if name.split(".")[0] == target.split(".")[0] and name.split(".")[0] in (
        "live",
        "claims",
        "plot",
        "toolbox",
    ):
        return True
    packages = (name.split(".")[0], target.split(".")[0])
    return theirs < mine or (name, target) in ALSO or packages in ALSO


def test_every_module_has_a_place():
    assert "model" in MODULES
    for name in MODULES:
        level(name)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    wrong = sorted(target for target in internal(name) if not allowed(name, target))
    assert not wrong, f"mi_lab.{name} must not import {wrong}: see LEVELS in {Path(__file__).name}"


def test_order_test_can_fail():
    assert not allowed("model", "train")
    assert not allowed("ablate", "studies.sorting.task")
    assert not allowed("studies.sorting.task", "studies.arithmetic.task")
    assert not allowed("run", "claims")
    assert allowed("train", "studies.base")
    assert allowed("studies.sorting.claims", "claims")


def test_imports_have_no_cycle():
    graph = {name: internal(name) for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", MODULES)
def test_optional_packages_load_when_first_used(name):
    """No module needs more than the runtime set at its top; plot and live may name their own tools."""
    own = {"plot": {"matplotlib"}, "live": {"anywidget", "traitlets", "ipywidgets", "IPython"}}
    free = own.get(name.split(".")[0], set())
    if name.endswith(".explorers"):
        free = LAZY_ONLY
    eager = {imported.split(".")[0] for imported, at_top in imports(MODULES[name]) if at_top}
    foreign = eager - set(sys.stdlib_module_names) - RUNTIME - {"mi_lab"} - free
    assert not foreign, f"import {sorted(foreign)} inside the function that needs it"


@pytest.mark.slow
def test_import_adds_at_most_a_fifth_of_a_second_to_torch():
    program = (
        "import time, torch; start = time.perf_counter(); import mi_lab; print(time.perf_counter() - start)"
    )
    took = [
        float(
            subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
            ).stdout
        )
        for _ in range(3)
    ]
    assert min(took) <= 0.2, f"{took}, median {statistics.median(took):.3f} s"


def test_import_loads_no_optional_package():
    program = "import sys, mi_lab; print(' '.join(sorted({m.split('.')[0] for m in sys.modules})))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not ENGINES_MAY_NOT_NEED & set(result.stdout.split())

"""pyproject.toml, environment.yml and requirements.lock agree; the repository has one address."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
ADDRESS = re.compile(r"github\.com/([\w.-]+/small-transformers)")


def requirements(extra: str | None = None) -> set[str]:
    """Requirements of an extra (or of the runtime), with extras of our own resolved."""
    found: set[str] = set()
    for line in PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]:
        one = Requirement(line)
        if one.name == "mi-lab":
            found |= set().union(*(requirements(name) for name in one.extras))
        else:
            found.add(normal(line))
    return found


def normal(line: str) -> str:
    """`Sphinx == 7.4` and `sphinx==7.4` are the same requirement."""
    one = Requirement(line)
    return f"{canonicalize_name(one.name)}{one.specifier}"


def lock() -> dict[str, str]:
    """Name -> exact version."""
    lines = (ROOT / "requirements.lock").read_text("utf8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_environment_yml_equals_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf8"))["dependencies"]
    assert f"python{PROJECT['requires-python']}" in environment
    from_pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    assert "-e ." in from_pip
    assert {normal(line) for line in from_pip if line != "-e ."} == requirements() | requirements("dev")


def test_runtime_needs_four_packages_without_ceilings():
    names = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert names == {"torch", "numpy", "safetensors", "tqdm"}
    for line in PROJECT["dependencies"]:
        assert all(spec.operator == ">=" for spec in Requirement(line).specifier), line


@pytest.mark.parametrize("extra", [None, *PROJECT["optional-dependencies"]])
def test_lock_satisfies_pyproject(extra):
    versions = lock()
    for line in requirements(extra):
        one = Requirement(line)
        assert canonicalize_name(one.name) in versions, f"{line} is not in requirements.lock: run `make lock`"
        assert one.specifier.contains(versions[canonicalize_name(one.name)], prereleases=True), line


def test_lock_is_portable():
    text = (ROOT / "requirements.lock").read_text("utf8")
    body = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in body), (
        "exact versions only, no local builds or paths"
    )
    assert body == sorted(body, key=lambda line: line.split("==")[0].lower())


def tracked() -> list[Path]:
    """The files that git knows (or would add)."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip("not a git checkout")
    return [path for line in result.stdout.splitlines() if (path := ROOT / line).is_file()]


def test_repository_address_is_the_one_in_config():
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
    ours = config["repository"]["url"].removeprefix("https://github.com/")
    for path in tracked():
        if path.suffix in (".md", ".toml", ".cff", ".yml", ".py", ".ipynb") and path != Path(__file__):
            for other in ADDRESS.findall(path.read_text("utf8")):
                assert other.removesuffix(".git") == ours, f"{path.relative_to(ROOT)} names {other}"


def test_notebooks_are_committed_without_outputs():
    import json

    for path in (ROOT / "book").glob("*.ipynb"):
        for number, cell in enumerate(json.loads(path.read_text("utf8"))["cells"]):
            if cell["cell_type"] == "code":
                where = f"{path.name}, cell {number}: run `make format`"
                assert cell["outputs"] == [], where
                assert cell["execution_count"] is None, where


def test_every_notebook_is_in_the_book():
    toc = (ROOT / "_toc.yml").read_text("utf8")
    for path in (ROOT / "book").glob("*.ipynb"):
        assert re.search(rf"^\s*- file: book/{path.stem}\s*$", toc, re.M), (
            f"{path.name} is missing from _toc.yml"
        )


def test_contributing_is_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text("utf8").splitlines()) <= 40

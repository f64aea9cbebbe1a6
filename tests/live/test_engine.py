"""The engine's own tests, in Node, and its types."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.live.conftest import HERE, ROOT, node_version

pytestmark = pytest.mark.timeout(900)


def run(*command: str | Path, **variables: str) -> str:
    """What a program printed; fails the test with it if the program failed."""
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | variables,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


FILES = sorted(path.name for path in HERE.glob("*.test.mjs"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "golden.test.mjs")) for name in FILES]
)
def test_in_node(name, node, golden_folder):
    printed = run(node, "--test", "--test-reporter=tap", HERE / name, MI_LAB_GOLDEN=str(golden_folder))
    assert "# pass 0" not in printed, "the file has no test"
    assert "# skipped 0" in printed


def test_types(node, tools):
    run(node, tools / "typescript/bin/tsc", "-p", ROOT / "mi_lab/live/js")


def test_types_test_can_fail(node, tools, tmp_path):
    (tmp_path / "wrong.js").write_text('/** @param {number} x */\nexport const f = (x) => x;\nf("text");\n')
    options = ["--noEmit", "--checkJs", "--allowJs", "--strict", "--target", "es2022"]
    done = subprocess.run(
        [node, str(tools / "typescript/bin/tsc"), *options, str(tmp_path / "wrong.js")], capture_output=True
    )
    assert b"TS2345" in done.stdout


def test_the_kernel_is_what_its_source_gives(node, tools):
    if node_version(node) < 20:
        pytest.skip("AssemblyScript needs node 20 or later")
    assert "up to date" in run(node, HERE / "build_kernel.mjs", "--check")


def test_modules_need_nothing_from_outside():
    for path in (ROOT / "mi_lab/live/js").rglob("*.js"):
        text = path.read_text("utf8").replace(
            '"http://www.w3.org/2000/svg"', "the name of SVG, never fetched"
        )
        assert "http://" not in text, path.name
        assert "https://" not in text, path.name
        for word in (
            "innerHTML",
            "eval(",
            "document.write",
            "new Function",
            "insertAdjacentHTML",
            "outerHTML",
        ):
            assert word not in text, f"{path.name} has {word}"
        assert len(text.splitlines()) <= 450, f"{path.name} is long: split it"

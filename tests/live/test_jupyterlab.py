"""The explorer as a real widget in JupyterLab: it shows, its traits follow the reader, Python sets them.

JupyterLab is no part of the environment. The test runs where there is one: the program `jupyter-lab` on the
PATH, or the one that MI_LAB_JUPYTERLAB names:

    python -m venv lab && lab/bin/pip install jupyterlab
    MI_LAB_JUPYTERLAB=lab/bin/jupyter-lab python -m pytest tests/live/test_jupyterlab.py
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.book.built import ROOT, SCREENSHOTS

PROGRAM = os.environ.get("MI_LAB_JUPYTERLAB") or shutil.which("jupyter-lab")
PATIENCE = 300_000  # milliseconds: a kernel starts slowly on a busy machine

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(PROGRAM is None, reason="JupyterLab is not installed; see the head of this file"),
]

CELLS = (
    "from mi_lab.studies import sorting as study\n\nexplorer = study.live.explorer()\nexplorer",
    'print("now:", explorer.output, *explorer.heads, explorer.look().written == explorer.look().right)',
    'explorer.set(output=7, heads=["on", "zero"])\nprint("set:", explorer.output)',
    'print("then:", explorer.output, *explorer.heads)',
    'try:\n    explorer.output = 99\nexcept Exception as error:\n    print("refused:", error)',
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """JupyterLab with a notebook and a kernel of this very environment; yields its address."""
    kernel = tmp_path / "share/kernels/mi-lab"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    spec = {"argv": command, "display_name": "mi-lab", "language": "python", "env": environment}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
        for i, source in enumerate(CELLS)
    ]  # fmt: skip
    about = {"kernelspec": {"name": "mi-lab", "display_name": "mi-lab", "language": "python"}}
    (tmp_path / "work").mkdir()
    notebook = {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "work/live.ipynb").write_text(json.dumps(notebook))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = os.pathsep.join([str(tmp_path / "share"), str(Path(sys.prefix) / "share/jupyter")])
    home = {
        name: str(tmp_path / name)
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    }
    program = subprocess.Popen(
        [str(PROGRAM), "--no-browser", "--allow-root", f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1",
         "--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path / 'work'}"],
        env={k: v for k, v in os.environ.items() if k != "MI_LAB_STATIC"} | {"JUPYTER_PATH": paths} | home,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen(f"{address}/api", timeout=5):
                    break
            except OSError:
                time.sleep(1)
        yield address
    finally:
        program.terminate()
        program.wait(timeout=30)


def test_the_widget_shows_and_its_traits_go_both_ways(lab, chromium):
    context = chromium.new_context(viewport={"width": 1300, "height": 1500})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(f"{lab}/lab/tree/live.ipynb?reset")
    page.get_by_text("mi-lab | Idle").wait_for()  # before that JupyterLab drops what it is told to run
    turn = 0

    def run(cell: int) -> str:
        """Run a cell; what it prints."""
        nonlocal turn
        turn += 1
        place = page.locator(".jp-Notebook .jp-CodeCell").nth(cell)
        place.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        place.locator(".jp-InputPrompt", has_text=f"[{turn}]:").wait_for()
        page.wait_for_timeout(500)
        return place.locator(".jp-OutputArea-output").last.inner_text()

    run(0)
    box = page.locator(".jp-OutputArea .mi-x").first
    box.locator(".mi-x-headline:not(:empty)").wait_for()
    assert "which is right" in box.locator(".mi-x-headline").inner_text()
    assert box.get_by_role("button", name="Copy link").count() == 0  # a notebook has no address for a state
    assert run(1).strip() == "now: 3 on on True"
    # the reader's hand leads to Python
    box.get_by_role("button", name="next output").click()
    box.get_by_text("zero", exact=True).first.click()
    page.wait_for_timeout(500)
    assert run(1).strip().startswith("now: 4 zero on")
    # and Python to the picture
    assert run(2).strip() == "set: 7"
    page.wait_for_function("document.querySelector('.mi-x output').textContent === '7 of 10'")
    assert "head 1" in box.inner_text()
    assert "outputs are wrong" in box.locator(".mi-x-headline").inner_text()
    box.get_by_role("button", name="Undo").click()
    page.wait_for_timeout(500)
    assert run(3).strip() == "then: 4 zero on"
    assert "refused: output must be a whole number from 1 to 10, not 99" in run(4)
    # a model that the page has not: it comes from the kernel
    box.get_by_label("seed", exact=True).select_option("3")
    page.wait_for_function("document.querySelector('.mi-x-busy').hidden")
    assert "the model writes" in box.locator(".mi-x-headline").inner_text()
    assert [error for error in wrong if "mi_lab" in error or "miLab" in error] == []
    (SCREENSHOTS / "live").mkdir(parents=True, exist_ok=True)
    box.scroll_into_view_if_needed()
    page.screenshot(path=str(SCREENSHOTS / "live/jupyterlab.png"))
    context.close()

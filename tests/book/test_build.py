"""When is a chapter executed again, and does a docstring come through as it was written?"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.book.built import ROOT


def load(path: str):
    """A module of the book's machinery, which is no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load("book/build.py")


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book with two chapters, two studies and one core module."""
    for name in ("model.py", "studies/__init__.py", "studies/sorting/task.py", "studies/arithmetic/task.py"):
        path = tmp_path / "mi_lab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one = 1\n")
    (tmp_path / "requirements.lock").write_text("torch==2\n")
    (tmp_path / "_toc.yml").write_text(
        "root: book/index\nchapters:\n- file: book/sorting\n- file: book/ledger\n"
    )
    (tmp_path / "book").mkdir()
    chapter(tmp_path, "sorting", "from mi_lab.studies import sorting")
    chapter(tmp_path, "ledger", "import mi_lab")
    return tmp_path


def chapter(root: Path, name: str, code: str, prose: str = "text", outputs: list | None = None) -> None:
    """Write a notebook of one text and one code cell."""
    cells = [
        {"cell_type": "markdown", "source": [prose]},
        {"cell_type": "code", "source": [code], "outputs": outputs or []},
    ]
    (root / f"book/{name}.ipynb").write_text(json.dumps({"cells": cells}))


def keys(root: Path) -> dict[str, str]:
    """Chapter -> its key."""
    return {path.stem: build.chapter_key(root, path) for path in build.chapters(root)}


def changed(root: Path, path: str, text: str) -> set[str]:
    """The chapters whose key changes when a file gets this text."""
    before = keys(root)
    (root / path).write_text(text)
    after = keys(root)
    return {name for name in after if before[name] != after[name]}


def test_core_change_reaches_every_chapter(book):
    assert changed(book, "mi_lab/model.py", "two = 2\n") == {"sorting", "ledger"}


def test_lock_change_reaches_every_chapter(book):
    assert changed(book, "requirements.lock", "torch==3\n") == {"sorting", "ledger"}


def test_study_change_reaches_its_own_chapter_and_those_that_name_no_study(book):
    assert changed(book, "mi_lab/studies/arithmetic/task.py", "two = 2\n") == {"ledger"}
    assert changed(book, "mi_lab/studies/sorting/task.py", "two = 2\n") == {"sorting", "ledger"}


def test_new_checkpoint_counts_and_bytecode_does_not(book):
    assert changed(book, "mi_lab/studies/sorting/paper.safetensors", "weights") == {"sorting", "ledger"}
    (book / "mi_lab/__pycache__").mkdir()
    assert changed(book, "mi_lab/__pycache__/model.cpython-311.py", "x") == set()


def test_recorded_benchmarks_count_for_the_page_that_shows_them(book):
    (book / "benchmarks").mkdir()
    assert changed(book, "benchmarks/step.json", "{}") == set()
    chapter(book, "ledger", "from mi_lab.bench import table")
    assert changed(book, "benchmarks/step.json", "[]") == {"ledger"}


def test_code_counts_prose_and_outputs_do_not(book):
    before = keys(book)
    chapter(book, "sorting", "from mi_lab.studies import sorting", "other text", [{"output_type": "stream"}])
    assert keys(book) == before
    chapter(book, "sorting", "from mi_lab.studies import sorting  # again")
    assert keys(book)["sorting"] != before["sorting"]


def test_commented_chapters_are_not_in_the_book(book):
    (book / "_toc.yml").write_text(
        "root: book/index\nchapters:\n# - file: book/sorting\n- file: book/ledger\n"
    )
    assert [path.stem for path in build.chapters(book)] == ["ledger"]


def test_forgetting_drops_a_chapter_from_the_real_cache(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    from jupyter_cache import get_cache

    (tmp_path / "book").mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1", execution_count=1)])
    paths = [tmp_path / "book/one.ipynb", tmp_path / "book/two.ipynb"]
    cache = get_cache(tmp_path / "_build/.jupyter_cache")
    for number, path in enumerate(paths):
        notebook.cells[0].source = f"{number}"
        nbformat.write(notebook, path)
        cache.cache_notebook_file(path, check_validity=False)
    build.forget(tmp_path, paths[:1])
    assert [Path(record.uri).name for record in cache.list_cache_records()] == ["two.ipynb"]


def executed(folder: Path, *codes: str) -> subprocess.CompletedProcess[str]:
    """`book/execute.py` over notebooks of one cell each, 0.ipynb and so on, in a process of its own."""
    nbformat = pytest.importorskip("nbformat")
    paths = [folder / f"{number}.ipynb" for number in range(len(codes))]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for path, code in zip(paths, codes, strict=True):
        nbformat.write(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)], metadata=kernel), path
        )
    command = [sys.executable, str(ROOT / "book/execute.py"), str(folder / "cache"), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_chapters_are_executed_into_the_cache_that_jupyter_book_reads_and_only_once(tmp_path):
    import nbformat
    from jupyter_cache import get_cache

    code = "import pathlib; log = pathlib.Path('log'); log.open('a').write('x'); print(6 * 7)"
    run = executed(tmp_path, code, "print('other')")
    assert run.returncode == 0, run.stderr
    assert "executed 2 of 2" in run.stdout
    first = nbformat.read(tmp_path / "0.ipynb", as_version=4)
    _, notebook = get_cache(tmp_path / "cache").merge_match_into_notebook(first)
    assert notebook.cells[0].outputs[0].text == "42\n"
    assert executed(tmp_path, code).returncode == 0
    assert (tmp_path / "log").read_text() == "x", "a cached chapter was executed again"


@pytest.mark.slow
def test_a_chapter_that_fails_ends_the_build_with_its_traceback_and_is_not_cached(tmp_path):
    from jupyter_cache import get_cache

    run = executed(tmp_path, "raise ZeroDivisionError('cell three')")
    assert run.returncode == 1
    assert "0.ipynb failed" in run.stderr
    assert "ZeroDivisionError" in run.stderr
    assert "cell three" in run.stderr
    assert not get_cache(tmp_path / "cache").list_cache_records()


def test_docstrings_survive_as_written():
    to_rst = load("book/_ext/small_transformers.py").to_rst
    docstring = """Loss *added* when `W_Q[l]` is zeroed; a trailing_ name, a | bar and x**2.

    n_ctx, d_vocab: longest sequence,
        and number of tokens
    Units: nats per token; positive
    means worse.
    Cost: one pass.

        y = W x

    - one thing
      over two lines
    - another

        >>> 1 + 1
        2
    """
    lines = to_rst(["" if not line.strip() else line.removeprefix("    ") for line in docstring.splitlines()])
    text = "\n".join(lines)
    assert r"Loss \*added\* when ``W_Q[l]`` is zeroed; a trailing\_ name, a \| bar and x\*\*2." in text
    assert "- ``n_ctx, d_vocab``: longest sequence,\n  and number of tokens" in text
    assert "\n\n:Units: nats per token; positive\n    means worse.\n:Cost: one pass." in text
    assert "::\n\n    y = W x" in text
    assert "- one thing\n  over two lines" in text
    assert "\n>>> 1 + 1\n2\n" in text


def test_every_module_is_on_one_api_page():
    extension = load("book/_ext/small_transformers.py")
    toc = (ROOT / "_toc.yml").read_text("utf8")
    pages = {page: extension.api_markdown(page) for page in extension.PAGES}
    for name in extension.modules():
        assert [page for page, text in pages.items() if f"## {name}\n" in text] == [extension.page_of(name)]
    for page in pages:
        assert "<!-- api -->" in (ROOT / f"{page}.md").read_text("utf8")
        assert f"- file: {page}\n" in toc

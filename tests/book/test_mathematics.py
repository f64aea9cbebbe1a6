"""Formulas are set when the book is built: HTML for the eye, MathML for the ear, and a broken one is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.book.test_build import load

mathematics = load("book/_ext/mathematics.py")
EXTENSIONS = Path(mathematics.__file__).parent


@pytest.fixture
def typesetter():
    """One node process."""
    one = mathematics.Typesetter()
    yield one
    one.close()


def test_a_formula_is_html_and_mathml(typesetter):
    found = typesetter.set(r"\frac{V+1}{L+1}", display=False)
    assert "<math " in found
    assert "<mfrac>" in found
    assert 'class="katex-html" aria-hidden="true"' in found
    assert "katex-display" not in found
    assert "katex-display" in typesetter.set(r"\frac{V+1}{L+1}", display=True)
    assert typesetter.set("a < b", display=False).count("<mo>&lt;</mo>") == 1
    assert "<script" not in typesetter.set(r"\text{<script>alert(1)</script>}", display=False)


def test_a_formula_is_set_once(typesetter, monkeypatch):
    first = typesetter.set("x", display=False)
    monkeypatch.setattr(typesetter, "_ask", lambda question: pytest.fail("asked again"))
    assert typesetter.set("x", display=False) == first


def test_a_broken_formula_is_refused_and_the_next_one_comes(typesetter):
    with pytest.raises(ValueError, match="Undefined control sequence"):
        typesetter.set(r"\nonsense", display=False)
    with pytest.raises(ValueError, match="KaTeX parse error"):
        typesetter.set(r"\frac{1", display=False)
    assert "<mi>y</mi>" in typesetter.set("y", display=False)


def test_without_any_node_the_reason_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "playwright._impl._driver", None)
    monkeypatch.setattr(mathematics.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install playwright"):
        mathematics.node_program()


def test_pages_with_formulas_and_only_they_ask_for_the_style(tmp_path):
    """A small Sphinx build: numbers of equations, the style sheet where it is needed, -W on a broken formula."""
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(EXTENSIONS)!r})\nextensions = ['mathematics']\n"
        "html_math_renderer = 'katex'\n"
    )
    (tmp_path / "index.rst").write_text("T\n=\n\n.. toctree::\n\n   two\n\nNo formula.\n")
    (tmp_path / "two.rst").write_text(
        "U\n=\n\n:math:`x^2`\n\n.. math:: y = 1\n   :label: one\n\nSee :eq:`one`.\n"
    )
    command = [sys.executable, "-m", "sphinx", "-W", "-q", str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / "out" / f"{name}.html").read_text() for name in ("index", "two"))
    assert "katex.min.css" not in one
    assert "katex.min.css" in two
    assert two.count('class="katex-html"') == 2
    assert '<span class="eqno">(1)</span>' in two
    assert "MathJax" not in two
    (tmp_path / "two.rst").write_text("U\n=\n\n:math:`\\nonsense`\n")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "two.rst:4" in done.stderr
    assert "Undefined control sequence" in done.stderr

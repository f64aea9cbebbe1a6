"""Mathematics set when the book is built: a page carries finished formulas, no program that sets them.

MathJax in the page would weigh 302 kB and run at every visit. KaTeX (its script stands in `katex/`) turns
a formula into HTML for the eye and MathML for a screen reader; what travels to the reader is its style
sheet and those fonts that a page uses, only on pages with a formula.

KaTeX is JavaScript. The node program that runs it comes with the `playwright` wheel, so a build needs
nothing but pip; without that wheel, a `node` on the PATH serves.
"""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

KATEX = Path(__file__).parent / "katex/katex.min.js"
STYLE = "katex/katex.min.css"
LOGGER = logging.getLogger(__name__)

# One line in, one line out: {tex, display} -> {html} or {error}.
PROGRAM = """
const katex = require(process.argv[1]);
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { tex, display } = JSON.parse(line);
  let answer;
  try {
    answer = { html: katex.renderToString(tex, { displayMode: display, strict: "error", throwOnError: true }) };
  } catch (error) {
    answer = { error: error.message };
  }
  process.stdout.write(JSON.stringify(answer) + "\\n");
});
"""


def node_program() -> str:
    """The node program of the `playwright` wheel, or the system's. Raises RuntimeError if there is neither."""
    try:
        from playwright._impl._driver import compute_driver_executable

        return str(compute_driver_executable()[0])
    except ImportError:
        found = shutil.which("node")
    if found is None:
        raise RuntimeError("formulas need node: `pip install playwright` brings one (see requirements.lock)")
    return found


class Typesetter:
    """Formulas to HTML. One node process, started at the first formula; each formula is set once."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._known: dict[tuple[str, bool], str] = {}

    def set(self, tex: str, *, display: bool) -> str:
        """The HTML of one formula. Raises ValueError, with KaTeX's reason, for TeX that it can't read."""
        key = (tex, display)
        if key not in self._known:
            answer = self._ask({"tex": tex, "display": display})
            if "error" in answer:
                raise ValueError(answer["error"])
            self._known[key] = answer["html"]
        return self._known[key]

    def _ask(self, question: dict[str, Any]) -> dict[str, str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [node_program(), "-e", PROGRAM, str(KATEX)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf8",
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the program that sets formulas has stopped")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate(timeout=10)  # closes both lines; the process ends with its input
            self._process = None


TYPESETTER = Typesetter()


def _formula(node: nodes.Element, *, display: bool) -> str:
    """The formula of a node; a broken one is a warning (so the build fails) and stands there as text."""
    tex = node.astext()
    try:
        return TYPESETTER.set(tex, display=display)
    except ValueError as error:
        LOGGER.warning("formula %r: %s", tex, error, location=node)
        return f"<code>{html.escape(tex)}</code>"


def _inline(self: Any, node: nodes.Element) -> None:
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append(_formula(node, display=False) + "</span>")
    raise nodes.SkipNode


def _display(self: Any, node: nodes.Element) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node.get("number"):
        self.body.append(f'<span class="eqno">({node["number"]})</span>')
    self.body.append(_formula(node, display=True) + "</div>\n")
    raise nodes.SkipNode


def _style(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    has_equations = app.env.get_domain("math").data["has_equations"]  # of this page, not of those below it
    if has_equations.get(page):
        app.add_css_file(STYLE)


def _close(app: Sphinx, exception: Exception | None) -> None:
    TYPESETTER.close()


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer; `html_math_renderer: katex` in _config.yml chooses it."""
    app.add_html_math_renderer("katex", (_inline, None), (_display, None))
    app.connect("html-page-context", _style)
    app.connect("build-finished", _close)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

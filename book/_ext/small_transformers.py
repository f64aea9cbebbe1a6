"""The book's own Sphinx extension: no third-party scripts, and the API page.

1. `sphinx_thebe` is a default extension of jupyter-book 1.x. Even when it is off, it puts an
   unpkg.com address and a script that throws into every page. Its listeners are disconnected.
2. The theme brings its icons twice. Fonts draw them; a script of 1.5 MB (543 kB compressed) that would
   draw them again as SVG, and follows every change of a live figure, is taken out of the finished
   pages. So are the tags that preload fonts: opened as a file, a page logs an error for each. Pages
   with a live explorer ask for its scripts in their head.
3. A Jupyter widget without HTML of its own would leave a blank place, and its state would weigh on the
   page: the place gets the label "needs a kernel", the state is left out. Notebook progress bars vanish.
4. The pages in `book/api/` hold the line `<!-- api -->`; it becomes one section for every module of
   `mi_lab` that exists, read by autodoc. Docstrings are written for people, not for reStructuredText:
   `to_rst` escapes what RST would misread and turns "Units: nats" into a field.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.autodoc import ModuleDocumenter
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mi_lab"
# Page -> its modules in reading order. A module that is named nowhere goes to the page marked REST.
PAGES: dict[str, tuple[str, ...]] = {
    "book/api/model": (
        "model", "forward", "fast", "stack", "recipe", "step", "capture", "train", "checkpoint", "zoo", "sweep",
        "sweep_run", "sweep_jobs", "bridge", "handmade",
    ),
    "book/api/inside": (
        "run", "circuits", "ablate", "scrub", "paths", "scan", "locate", "algorithm", "sites", "labels", "probe",
        "probe_result", "erase", "lens", "regress", "subtask", "sufficiency", "nodemap", "node_table",
        "clusters", "groups", "llc",
    ),
    "book/api/claims": ("metrics", "stream", "claims", "bench", "ledger"),
    "book/api/show": ("plot", "charts", "live", "toolbox", "cli"),
    "book/api/studies": ("studies",),
    "book/api/sorting": ("studies.sorting",),
    "book/api/arithmetic": ("studies.arithmetic",),
    "book/api/pathfinding": ("studies.pathfinding",),
}  # fmt: skip
REST = "book/api/show"

# Docstring paragraphs that start so become fields.
FIELD = re.compile(
    r"^(Equation|Shapes?|Units?|Error|Errors|Cost|Source|Chapter|Example|Note|Raises|Returns): +(?=\S)"
)
LITERAL = re.compile(r"``.+?``|`[^`]+`(?!_)")
NAMES = re.compile(r"^[a-z_]\w*(, [a-z_]\w*)*: ")
BULLET = re.compile(r"^([-*+]|\d+[.)])\s+")


def modules() -> list[str]:
    """Dotted names of every module of mi_lab that has anything to show, private ones left out."""
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if any(part.startswith("_") and part != "__init__" for part in parts):
            continue
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if len(parts) > 1 and _has_content(path):
            names.append(".".join(parts))
    return names


def _has_content(path: Path) -> bool:
    tree = ast.parse(path.read_text("utf8"))
    return ast.get_docstring(tree) is not None


def page_of(module: str) -> str:
    """The API page on which a module appears."""
    _, *inner = module.split(".")
    for depth in (2, 1):  # a study has a page of its own, or none and stands with what studies share
        head = ".".join(inner[:depth])
        for page, heads in PAGES.items():
            if head in heads:
                return page
    return REST


def api_markdown(page: str) -> str:
    """The generated part of one API page, in MyST."""
    members = [name for name in modules() if page_of(name) == page]
    order = {head: place for place, head in enumerate(PAGES[page])}
    members.sort(key=lambda name: (order.get(name.split(".")[1], len(order)), name))
    return "\n\n".join(f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```" for name in members)


def _escape(text: str) -> str:
    """Plain prose for RST: everything outside backticks is taken as it stands."""
    out, last = [], 0
    for match in LITERAL.finditer(text):
        out += [_escape_plain(text[last : match.start()]), "``" + match.group().strip("`") + "``"]
        # RST wants white space or punctuation on both sides of a literal
        if match.end() < len(text) and (text[match.end()].isalnum() or text[match.end()] in "[({"):
            out.append("\\ ")
        last = match.end()
    return "".join([*out, _escape_plain(text[last:])])


def _escape_plain(text: str) -> str:
    text = re.sub(r"([\\*|`])", r"\\\1", text)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)


def to_rst(lines: list[str]) -> list[str]:
    """A docstring's lines as RST that says the same and can't be malformed."""
    out: list[str] = []
    blocks = re.split(r"\n[ \t]*\n", "\n".join(line.rstrip() for line in lines).strip("\n"))
    for block in blocks:
        body = block.split("\n")
        indents = [len(line) - len(line.lstrip()) for line in body]
        flat = [line.lstrip() for line in body]
        if flat[0].startswith(">>>"):
            out += [line[indents[0] :] for line in body]
        elif indents[0] > 0:
            out += ["::", "", *(("    " + line[min(indents) :]) for line in body)]
        else:
            out += _prose(body, indents)
        out.append("")
    return out


def _prose(body: list[str], indents: list[int]) -> list[str]:
    """One paragraph: fields and bullets begin new items, deeper lines continue the one above."""
    out: list[str] = []
    inside = listing = False
    for line, indent in zip(body, indents, strict=True):
        text = line.strip()
        field, bullet = FIELD.match(text), BULLET.match(text)
        if field and indent == 0:
            if out and (listing or not inside):
                out.append("")
            out.append(f":{field.group(1)}: {_escape(text[field.end() :])}")
            inside, listing = True, False
        elif bullet and indent == 0:
            if out:
                out.append("")
            out.append(f"{bullet.group(1)} {_escape(text[bullet.end() :])}")
            inside = listing = True
        elif NAMES.match(text) and indent == 0:
            # "n_ctx, d_vocab: what they are": a line of its own in a list of names
            if out:
                out.append("")
            name, rest = text.split(":", 1)
            out.append(f"- ``{name}``: {_escape(rest.strip())}")
            inside = listing = True
        else:
            out.append(("    " if inside else "") + _escape(text))
    return _align(out)


def _align(lines: list[str]) -> list[str]:
    """Continuation lines take the indent of their own item's text."""
    out, width = [], 4
    for line in lines:
        marker = re.match(r"^(:\w+:|[-*+]|\d+[.)]) ", line)
        if marker:
            width = 4 if line.startswith(":") else len(marker.group())
            out.append(line)
        elif line.startswith("    "):
            out.append(" " * width + line.strip())
        else:
            out.append(line)
    return out


def _read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname in PAGES:
        source[0] = source[0].replace("<!-- api -->", api_markdown(docname))


def _process_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def _outdated(app: Sphinx, env: BuildEnvironment, added: set, changed: set, removed: set) -> list[str]:
    """The API pages are stale when a module has come or gone."""
    now = modules()
    before = getattr(env, "mi_lab_modules", None)
    env.mi_lab_modules = now  # type: ignore[attr-defined]
    return list(PAGES) if before not in (None, now) else []


class UnindexedModule(ModuleDocumenter):
    """Index the members, not the module: a study has both a module `task` and a function `task`."""

    def add_directive_header(self, sig: str) -> None:
        """As always, with one option more."""
        super().add_directive_header(sig)
        self.add_line("   :no-index:", self.get_sourcename())


WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS = re.compile(r"\d+%\|")
NEEDS_KERNEL = (
    '<p class="mi-dead-widget"><span class="mi-needs-kernel">needs a kernel</span> '
    "This control works in Jupyter and Colab.</p>"
)


class LabelDeadWidgets(SphinxPostTransform):
    """Put a label where a widget has nothing that a static page could show."""

    default_priority = 3  # before myst-nb chooses among the forms of an output

    def run(self, **kwargs: Any) -> None:
        """Look at every output that exists in several forms."""
        for bundle in list(self.document.findall(nodes.container)):
            if bundle.get("nb_element") != "mime_bundle":
                continue
            forms = {one.get("mime_type"): one for one in bundle.children if isinstance(one, nodes.Element)}
            if WIDGET not in forms or "text/html" in forms:
                continue
            plain = forms["text/plain"].astext() if "text/plain" in forms else ""
            label = [] if PROGRESS.search(plain) else [nodes.raw("", NEEDS_KERNEL, format="html")]
            bundle.parent.replace(bundle, label)


def _without_widget_state(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    scripts = getattr(app.env, "nb_metadata", {}).get(page, {}).get("js_files", {})
    for name in [name for name in scripts if name.startswith("ipywidgets")]:
        del scripts[name]


def _without_thebe(app: Sphinx) -> None:
    for listeners in app.events.listeners.values():
        listeners[:] = [
            one for one in listeners if not getattr(one.handler, "__module__", "").startswith("sphinx_thebe")
        ]
    app.registry.css_files[:] = [one for one in app.registry.css_files if "thebe" not in str(one[0])]


PRELOAD = re.compile(
    r'\s*<link rel="preload" as="font"[^>]*>|\s*<script src="[^"]*/fontawesome/[^"]*"></script>'
    r'|\s*<link rel="preload" as="script" href="[^"]*/fontawesome/[^"]*"[^>]*>'
)


def finished_page(text: str, root: str) -> str:
    """A finished page's HTML without what only costs, and with the explorers' script asked for early."""
    text = PRELOAD.sub("", text)
    kinds = sorted(set(re.findall(r'data-mi-live="waiting" data-mi-kind="(\w+)"', text)))
    names = ["mi-lab-live", *(f"mi-lab-live-{kind}" for kind in kinds)] if kinds else []
    tags = [f'<script async src="{root}_static/{name}.js"></script>\n' for name in names]
    missing = "".join(tag for tag in tags if tag not in text)
    return text.replace("</head>", f"{missing}</head>", 1)


def _finish_pages(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text("utf8")
        done = finished_page(text, "../" * (len(path.relative_to(app.outdir).parts) - 1))
        if done != text:
            path.write_text(done, "utf8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect everything."""
    sys.path.insert(0, str(ROOT))
    _without_thebe(app)
    app.setup_extension("sphinx.ext.autodoc")
    app.add_autodocumenter(UnindexedModule, override=True)
    app.add_post_transform(LabelDeadWidgets)
    app.connect("html-page-context", _without_widget_state, priority=100)
    app.connect("source-read", _read_source)
    app.connect("env-get-outdated", _outdated)
    app.connect("build-finished", _finish_pages)
    app.connect("autodoc-process-docstring", _process_docstring)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

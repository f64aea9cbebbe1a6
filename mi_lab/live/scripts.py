"""The engine and the explorers as classic scripts, for pages without modules: in a book, a notebook, a file.

    page_script()             # the book's script: engine, frame, what explorers share; explorers come as parts
    part_script("sorting")    # one explorer for it: a page loads those it shows
    widget_module("sorting")  # an anywidget's module
    file_script("generic")    # all that a page in one file needs
    bundle()                  # the engine alone

The sources are plain ES modules (`mi_lab/live/js`); putting them together is all that is done here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).parent / "js"
EXPLORERS = SOURCES / "explorers"
KINDS = ("algorithm", "arithmetic", "generic", "pathfinding", "sorting", "toolbox")
SHARED = ("start", "frame", "controls", "draw", "shelf")  # modules of most explorers: not in their parts

# A part may come before the book's script or after it.
_PARTS = """
(function () {
const take = ([kind, make]) => miLab.register(kind, make(miLab.parts));
const early = globalThis.miLabParts ?? [];
globalThis.miLabParts = { push: take };
early.forEach(take);
})();
"""
# The script may run while the page is still read: places that are there begin at once, and those to come
# at the latest when the page is whole (half a second later, in a long chapter).
_UPGRADE = """
miLab.upgradeAll();
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => miLab.upgradeAll());
"""


def page_script() -> str:
    """The one script of a book: it turns every waiting place (`live.live_explorer`) into an explorer."""
    return bundle([EXPLORERS / f"{name}.js" for name in SHARED], parts=True) + _PARTS + _UPGRADE


def part_script(kind: str) -> str:
    """One explorer, as a script beside `page_script()`, which loads it when a page has its place."""
    inside = _modules([_of_kind(kind)])
    core = _modules(_core([EXPLORERS / f"{name}.js" for name in SHARED]))
    own = [path for path in inside if path not in core]
    names = sorted({name for path in own for name in _imported(path, core)})
    return (
        f'(globalThis.miLabParts ??= []).push(["{kind}", function (lab) {{\n"use strict";\n'
        f"const {{ {', '.join(names)} }} = lab;\n{_flat(own)[0]}return {_class(kind)};\n}}]);\n"
    )


def widget_module(kind: str) -> str:
    """One explorer with all it needs, as the ES module of an anywidget."""
    return _with(kind) + "export default { render: globalThis.miLab.render };\n"


def file_script(kind: str) -> str:
    """One explorer with all it needs, for a page in one file."""
    return _with(kind) + _UPGRADE


def _with(kind: str) -> str:
    bundled = bundle([EXPLORERS / "start.js", _of_kind(kind)])
    return f'{bundled}miLab.register("{kind}", miLab.{_class(kind)});\n'


def _of_kind(kind: str) -> Path:
    if kind not in KINDS:
        raise ValueError(f"there is no explorer {kind!r}; there are {', '.join(KINDS)}")
    return EXPLORERS / f"{kind}.js"


def _class(kind: str) -> str:
    return f"{kind.title()}Explorer"


# ---- modules in one scope ---------------------------------------------------------------------------

_IMPORT = re.compile(r'^import \{([^}]*)\} from "(\.\.?/[\w./]+)";\n', re.M)
_REEXPORT = re.compile(r'^export \{([^}]*)\} from "(\.\.?/[\w./]+)";\n', re.M)
_EXPORT = re.compile(r"^export (?:async )?(?:function|const|class) (\w+)", re.M)
_DECLARED = re.compile(r"^(?:export )?(?:async )?(?:function|const|let|class) \[?(\w+)(?:, (\w+)\])?", re.M)

_SPAWN = """
function spawn() {
  const text = `(${miLabEngine})().serve(globalThis);`;
  const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  const worker = new Worker(url);
  setTimeout(() => URL.revokeObjectURL(url), 60000);
  return worker;
}
"""


_DOC = re.compile(r"/\*\*.*?\*/ ?", re.S)  # JSDoc: no string or pattern of the sources holds "/**" (tested)
_REMARK = re.compile(r"^//.*\n|^\n", re.M)


def _light(text: str) -> str:
    """A module without comments that have lines of their own, JSDoc, indents and empty lines."""
    return _REMARK.sub("", re.sub(r"^[ \t]+", "", _DOC.sub("", text), flags=re.M)).strip() + "\n"


def bundle(extra: Sequence[Path] = (), *, parts: bool = False) -> str:
    """The engine (and the modules `extra`, which may import it) as one classic script, for pages
    opened from a folder and for outputs: sets `globalThis.miLab` to what `index.js` exports.

    parts: `miLab.parts` holds what the modules export among themselves. The script starts its worker
    from its own text. It is the sources without their comments and indents (a third of what travels),
    every name as it was. Raises ValueError if two modules use one name at the top, or an import it
    can't follow.
    """
    order = _modules(_core(extra))
    further = {path.resolve() for path in (SOURCES / "index.js", *extra)}
    body, exported = _flat(order)
    names = {"serve"}
    for path in further:
        names |= {
            x.strip() for group, _ in _REEXPORT.findall(path.read_text("utf8")) for x in group.split(",")
        }
        names |= exported[path]
    every = sorted(set().union(*exported.values()))
    shared = f", parts: {{ {', '.join(every)} }}" if parts else ""
    return (
        f'(function () {{\nfunction miLabEngine() {{\n"use strict";\n{_SPAWN}\n{body}\n'
        f"return {{ {', '.join(sorted(filter(None, names)))}{shared} }};\n}}\n"
        "globalThis.miLab = miLabEngine();\n})();\n"
    )


def _core(extra: Sequence[Path]) -> list[Path]:
    return [path.resolve() for path in (SOURCES / "serve.js", SOURCES / "index.js", *extra)]


def _modules(first: Sequence[Path]) -> list[Path]:
    """These modules and all that they import, each after what it needs."""
    order: list[Path] = []

    def visit(path: Path) -> None:
        if path in order:
            return
        text = path.read_text("utf8")
        for _, target in [*_IMPORT.findall(text), *_REEXPORT.findall(text)]:
            if target != "./spawn.js":
                visit((path.parent / target).resolve())
        order.append(path)

    for path in first:
        visit(path.resolve())
    return order


def _imported(path: Path, sources: Sequence[Path]) -> set[str]:
    """The names that a module takes from some others."""
    found = _IMPORT.findall(path.read_text("utf8"))
    lists = [group for group, target in found if (path.parent / target).resolve() in sources]
    return {name.strip() for group in lists for name in group.split(",") if name.strip()}


def _flat(order: Sequence[Path]) -> tuple[str, dict[Path, set[str]]]:
    """Modules one after the other in one scope, and what each of them exports."""
    out: list[str] = []
    exported: dict[Path, set[str]] = {}
    seen: dict[str, str] = {"spawn": "spawn.js"}
    for path in order:
        text = path.read_text("utf8")
        exported[path] = set(_EXPORT.findall(text))
        text = _REEXPORT.sub("", _IMPORT.sub("", text))
        for name in filter(None, (name for pair in _DECLARED.findall(text) for name in pair)):
            if name in seen:
                raise ValueError(
                    f"{path.name} and {seen[name]} both declare {name}: a bundle needs one of each"
                )
            seen[name] = path.name
        text = re.sub(r"^export (?=async|function|const|class|let)", "", text, flags=re.M)
        if re.search(r"^(?:import|export)\b", text, re.M) or "import.meta" in text:
            raise ValueError(f"{path.name} has an import or export that a bundle can't hold")
        out.append(f"// ---- {path.name}\n{_light(text)}")
    return "\n".join(out), exported

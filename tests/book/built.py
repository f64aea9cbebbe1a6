"""Where the built book is and which pages it has."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build/html"
SCREENSHOTS = ROOT / "_build/screenshots"


def pages() -> list[str]:
    """Every page of the built book, relative to _build/html."""
    return sorted(p.relative_to(HTML).as_posix() for p in HTML.rglob("*.html") if "_static" not in p.parts)

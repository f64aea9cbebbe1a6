"""What the tests of the arithmetic explorers share: the page, its numbers, torch's."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from mi_lab import zoo
from mi_lab.studies.arithmetic import live
from tests.live import arithmetic_site

BOX = "#mi-arithmetic"
EXPLORER = f"document.querySelector('{BOX}').miLive"
FIRST = live.describe().state
BIG, SMALL = "add_d5_l2_h3", "add_d3_l2_h3"
PARTIAL = pytest.mark.skipif(
    any(f"arithmetic/{name}" not in zoo.names() for name in (BIG, "sub_d3_l2_h3", "mix_d3_l2_h3")),
    reason="these models are not published here",
)
CAPTION = f"{BOX} .mi-x-view:nth-child(2) .mi-x-caption"


@functools.cache
def written(parent: Path) -> Path:
    """The page in a folder below `parent`, once for all tests of a process."""
    folder = parent / "arithmetic"
    folder.mkdir()
    arithmetic_site.write(folder)
    return folder


def set_(page, **changes):
    """Set fields; False if the explorer refuses."""
    done = page.evaluate(f"(changes) => {EXPLORER}.frame.set(changes)", changes)
    page.wait_for_function(f"{EXPLORER}.frame.busyLine.hidden")
    return done


def state_of(page):
    """The explorer's state."""
    return page.evaluate(f"{EXPLORER}.frame.state")


def numbers(page):
    """The explorer's numbers."""
    page.wait_for_function(f"{EXPLORER}.frame.busyLine.hidden")
    return page.evaluate(
        f"""() => {{
            const found = {EXPLORER}.result;
            const words = (x) => x && x.map((t) => "0123456789+-=*/"[t]).join("");
            const answer = (x) => words(x.slice(found.first + 1));
            const rows = (x) => x.map((row) => [...row]);
            return {{ written: answer(found.tokens), clean: answer(found.clean), right: answer(found.solved),
                parts: found.parts,
                predicted: words(found.predicted), attention: found.attention && [...found.attention],
                logits: rows(found.logits), probability: rows(found.probability), direct: rows(found.direct) }};
        }}"""
    )


def agree(got, want):
    """Compare with torch."""
    for name in ("written", "clean", "right", "predicted"):
        assert got[name] == getattr(want, name), name
    assert tuple(got["parts"]) == want.parts
    for name in ("logits", "probability", "direct"):
        torch.testing.assert_close(torch.tensor(got[name]), getattr(want, name), atol=1e-4, rtol=1e-5)
    assert torch.tensor(got["logits"]).argmax(-1).tolist() == want.logits.argmax(-1).tolist()
    if want.attention is None:
        assert got["attention"] is None
    else:
        torch.testing.assert_close(torch.tensor(got["attention"]), want.attention, atol=1e-4, rtol=1e-5)


def look(state):
    """The numbers of a state by torch."""
    return live.look(**{name: value for name, value in state.items() if name not in ("mode", "fact")})


def refit(page, changes):
    """A state of another model, as the menu would make it, with these changes."""
    return page.evaluate(
        f"""(changes) => {{
            const {{ frame, spec }} = {EXPLORER};
            frame.reset();
            const select = document.querySelector('{BOX} [id$=-model]');
            if (changes.model) {{ select.value = changes.model; select.dispatchEvent(new Event('change')); }}
            return frame.set(changes);
        }}""",
        changes,
    )


def headline(page):
    """The first line below the controls."""
    return page.locator(f"{BOX} .mi-x-headline").inner_text()


def cell(page, node):
    """A cell of the map."""
    return page.locator(f"{BOX} [data-node={node}]")


def scan(page, each="4"):
    """Press the button and wait for the end."""
    page.locator(f"{BOX} [id$=-each]").select_option(each)
    page.get_by_role("button", name="Scan all nodes").first.click()
    page.wait_for_function(f"{EXPLORER}.scans.box.querySelector('.mi-x-busy').hidden", timeout=240_000)

"""A small built page with the arithmetic explorers, for tests and for the benchmark of the page."""

from __future__ import annotations

import sys
from pathlib import Path

from mi_lab.live import live_explorer
from mi_lab.live.live_explorer import Live
from mi_lab.studies.arithmetic import algorithm_live, live
from tests.live import live_site

WANTED = ("add_d5_l2_h3-0", "add_d3_l2_h3-0", "add_d3_l2_h3-1", "sub_d3_l2_h3-0", "mix_d3_l2_h3-0")
KEYS = sorted({*WANTED} & {*live.keys()})  # those that are published


def explorers() -> list[Live]:
    """Those of the page, in order."""
    return [
        live.describe(),
        algorithm_live.describe(),
        algorithm_live.describe(
            name="mi-long",
            title="Fifteen digits",
            question="909990099909999+090009900090001",
            algorithm="look_back_2",
            position=47,
        ),
    ]


def write(folder: Path) -> Path:
    """page.html, the script and some of the models, below `folder`."""
    bodies = [live_explorer.page_html(one, dict(one.state)) for one in explorers()]
    live_explorer.write_script(folder / "_static")
    models = folder / live_explorer.MODELS / live.FOLDER
    live_explorer.write_models(models, KEYS, live.model_file, "test")
    return live_site.write_page(folder, "Arithmetic", "<p>Further down.</p>".join(bodies))


if __name__ == "__main__":
    write(Path(sys.argv[1]))

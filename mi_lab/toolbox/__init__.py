"""The toolbox chapter: figures, exercises with their checks, and the live explorer of the hand-made model.

The tools themselves are the library's (`run`, `sweep_nodes`, `scrub`, `probe`, ..), the model is
`mi_lab.handmade`'s; here is only what the chapter shows.
"""

from __future__ import annotations

from mi_lab.toolbox import exercises, figures, live
from mi_lab.toolbox.live import explorer

__all__ = ["exercises", "explorer", "figures", "live"]

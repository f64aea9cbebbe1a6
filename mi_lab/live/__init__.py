"""The live part of the book: explorers that a reader operates.

`explorer` holds the kernel tier (Jupyter, Colab): controls, state, computation and drawing kept
apart, so that another front end can take the same declarations.
"""

from mi_lab.live.attention import AttentionView
from mi_lab.live.explorer import Choice, Explorer, Slider, Text, Toggles

__all__ = ["AttentionView", "Choice", "Explorer", "Slider", "Text", "Toggles"]

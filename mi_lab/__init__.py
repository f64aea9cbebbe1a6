"""mi_lab: train small transformers, take them apart, and check what you find.

    from mi_lab import Recipe, fit, run, sweep_nodes, verify
    from mi_lab.studies import sorting

The verbs below are the whole surface most work needs; everything else is in the module named after
what it does. TransformerLens, matplotlib and the widgets are imported when first used.
"""

__version__ = "0.1.0"

from mi_lab.ablate import patch_nodes, sweep_nodes
from mi_lab.claims import verify
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.run import Node, run
from mi_lab.stack import Stack
from mi_lab.train import Recipe, fit

__all__ = [
    "Node",
    "Recipe",
    "Stack",
    "Transformer",
    "TransformerConfig",
    "fit",
    "patch_nodes",
    "run",
    "sweep_nodes",
    "verify",
]

"""What a reader can operate in the pathfinding chapter. Each works in the built page from baked states, and
with a kernel on any tree, layer and pathway.
"""

from mi_lab.live.baked import Baked
from mi_lab.studies.pathfinding.explorers.curves import policy_explorer, scrub_explorer
from mi_lab.studies.pathfinding.explorers.knockout import knockout_explorer, record_knockouts
from mi_lab.studies.pathfinding.explorers.lookahead import delete_edge, lookahead_explorer
from mi_lab.studies.pathfinding.explorers.prompts import examples, rearranged
from mi_lab.studies.pathfinding.explorers.tree import look, tree_explorer

__all__ = [
    "Baked", "delete_edge", "examples", "knockout_explorer", "look", "lookahead_explorer", "policy_explorer",
    "rearranged", "record_knockouts", "scrub_explorer", "tree_explorer",
]  # fmt: skip

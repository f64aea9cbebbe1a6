"""Many goals for one tree: a training sequence that asks for the first step to several nodes.

    5>3,0>5,1>2,4>1,4>0|3:4>0>5>3   2:4>1   5:4>0   ..

A tree's edges are three quarters of a sequence, and one goal asks for one first step. Here further questions
follow behind the path, each of four tokens: goal, `:`, root, first step. Each sees the edges and itself, not the
other questions, and has the positions of a question that stands alone (`Layout`), so that to the model nothing
but the number of its goals is new, and that they may be inner nodes. What is trained is read as
`PathfindingTask` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from mi_lab.forward import Layout
from mi_lab.model import Transformer
from mi_lab.studies.pathfinding.task import COLON, PathfindingTask

QUESTION = 4  # tokens: goal, ":", root, first step


@dataclass(frozen=True)
class ManyGoals:
    """Trees of `trees`, each with its path and with the first steps to `goals` nodes below the root, drawn at random.

    Raises ValueError if a tree has fewer nodes below its root, or if `trees` hides the goal.
    """

    trees: PathfindingTask = field(default_factory=PathfindingTask)
    goals: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.goals <= self.trees.n_edges:
            raise ValueError(f"goals must be between 1 and {self.trees.n_edges}, not {self.goals}")
        if self.trees.hide_goal or self.trees.padding:
            raise ValueError("many goals need trees whose goal is shown, with the loss on the path alone")

    @property
    def vocab(self) -> tuple[str, ...]:
        """The trees' vocabulary."""
        return self.trees.vocab

    @property
    def n_ctx(self) -> int:
        """Tokens per sequence: a tree with its path, and the questions."""
        return self.trees.n_ctx + QUESTION * self.goals

    @property
    def answer(self) -> slice:
        """From the root on, to the end of the questions."""
        return slice(self.trees.root_position, self.n_ctx - 1)

    @property
    def layout(self) -> Layout:
        """Every question stands where a question stands alone, and sees the edges and itself."""
        edges, own = self.trees.goal_position, self.trees.n_ctx
        places = torch.arange(self.n_ctx)
        question = torch.where(places < own, -1, (places - own) // QUESTION)
        positions = torch.where(places < own, places, edges + (places - own) % QUESTION)
        seen = (places < edges) | (question[:, None] == question)
        mask = torch.zeros(self.n_ctx, self.n_ctx)
        return Layout(positions, mask.masked_fill(~(seen & (places <= places[:, None])), -torch.inf))

    def sample(self, n: int, *, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Int[n, n_ctx]: fresh trees of the law with their paths, and questions to nodes that differ."""
        tree = self.trees
        tokens = tree.sample(n, generator=generator, device=device)
        edge, root = 3 * tree.n_edges, tokens[:, tree.root_position]
        targets = tokens[:, 1:edge:3] - tree.first_target
        parent = torch.full((n, tree.n_labels), -1, device=tokens.device)
        parent.scatter_(1, targets, tokens[:, 0:edge:3] - tree.first_bare)
        noise = torch.rand((n, tree.n_edges), generator=generator, device=tokens.device)
        goals = step = targets.gather(1, noise.argsort(1)[:, : self.goals])
        for _ in range(tree.n_edges - 1):  # walk up until the parent is the root
            up = parent.gather(1, step)
            step = torch.where(up == root[:, None] - tree.first_bare, step, up)
        colon, again = torch.full_like(goals, COLON), root[:, None].expand_as(goals)
        asked = torch.stack([goals + tree.first_bare, colon, again, step + tree.first_target], 2)
        return torch.cat([tokens, asked.flatten(1)], 1)

    def weights(self, tokens: Tensor) -> Tensor:
        """Float[n, answer]: 1 on the path, its first stop and the questions' first steps, 0 elsewhere."""
        own = self.trees.weights(self._own(tokens))
        assert own is not None
        asked = torch.zeros(QUESTION, device=tokens.device)
        asked[2] = 1.0
        rest = asked.repeat(self.goals)[: self.n_ctx - 1 - self.trees.n_ctx]
        between = torch.zeros(1, device=tokens.device)  # the path's last token predicts no question
        return torch.cat([own, torch.cat([between, rest]).expand(len(tokens), -1)], 1)

    def fingerprint(self, tokens: Tensor) -> Tensor:
        """Int64[n, 1 + goals]: `PathfindingTask.fingerprint` of the tree with its own goal and with every other one."""
        own = self._own(tokens)
        asked = tokens[:, self.trees.n_ctx :: QUESTION]
        goals = torch.cat([own[:, self.trees.goal_position, None], asked], 1)
        return torch.stack([self.trees.fingerprint(_with_goal(self.trees, own, goal)) for goal in goals.T], 1)

    def _own(self, tokens: Tensor) -> Tensor:
        return tokens[:, : self.trees.n_ctx]

    def encode(self, text: str) -> Tensor:
        """Int[trees.n_ctx]: one tree and its path, as `PathfindingTask.encode`."""
        return self.trees.encode(text)

    def decode(self, tokens: Tensor) -> str:
        """The tree, its path, and the questions: `5>3,..|3:4>0>5>3 2:4>1 ..`."""
        words = [self.vocab[t] for t in tokens[self.trees.n_ctx :].tolist()]
        asked = ["".join(words[i : i + QUESTION]) for i in range(0, len(words), QUESTION)]
        return " ".join([self.trees.decode(tokens[: self.trees.n_ctx]), *asked])

    def solve(self, tokens: Tensor) -> Tensor:
        """The trees with the right path; the questions as they are."""
        return torch.cat([self.trees.solve(self._own(tokens)), tokens[:, self.trees.n_ctx :]], 1)

    def variables(self, tokens: Tensor) -> dict[str, Tensor]:
        """Ground truth of the tree and its own goal."""
        return self.trees.variables(self._own(tokens))

    def grade(self, model: Transformer, tokens: Tensor, *, free_running: bool = True) -> Tensor:
        """Bool[n]: is the path right? Only the tree's own goal is graded."""
        return self.trees.grade(model, self._own(tokens), free_running=free_running)


def _with_goal(trees: PathfindingTask, tokens: Tensor, goal: Tensor) -> Tensor:
    """The same prompts with another goal token Int[n]; the path stays."""
    at = trees.goal_position
    return torch.cat([tokens[:, :at], goal[:, None], tokens[:, at + 1 :]], 1)


def plain(task: object) -> PathfindingTask:
    """The task with one goal to a tree and no lesson: what models are judged by. ValueError if it reads no trees."""
    if isinstance(task, ManyGoals):
        return task.trees
    if not isinstance(task, PathfindingTask):
        raise ValueError(f"this task reads no trees: {type(task).__name__}")
    return PathfindingTask(**{f.name: getattr(task, f.name) for f in fields(task)})

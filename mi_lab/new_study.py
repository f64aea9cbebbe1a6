"""`mi-lab new-study NAME [--into FOLDER]`: the same files as every other study, running from the first minute.

The template is a whole small study (repeat a string of symbols), so that training, the contract
test and a first claim work before anything is changed. Replace its parts one by one.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

STUDIES = Path(__file__).parent / "studies"
RESERVED = ("add", "again", "base", "own", "places")


def create(name: str, folder: Path = STUDIES) -> Path:
    """Write the template as `folder/name`; returns the new folder. Chapter: Bring your own study.

    Raises ValueError for a name that can't be a Python module, or one that exists, there or in the package.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(f"a study's name must be a lower-case Python name such as 'parity', not {name!r}")
    if name in RESERVED:
        raise ValueError(f"{name!r} is a name of mi_lab.studies itself: choose another")
    target = folder / name
    for taken in (target, STUDIES / name):
        if taken.exists():
            raise ValueError(f"there is a study {name!r} already: {taken}")
    target.mkdir(parents=True)
    for file, text in TEMPLATE.items():
        class_name = "".join(part.capitalize() for part in name.split("_")) + "Task"
        (target / file).write_text(text.replace("STUDY", name).replace("StudyTask", class_name), "utf8")
    return target


TEMPLATE: dict[str, str] = {
    "__init__.py": '''"""The STUDY study: say in three lines which paper it takes apart, and its terms."""

from __future__ import annotations

from typing import Any

from mi_lab import zoo
from mi_lab.model import Transformer
from mi_lab.studies.STUDY.claims import CLAIMS as claims
from mi_lab.studies.STUDY.recipes import recipes
from mi_lab.studies.STUDY.task import StudyTask

__all__ = ["StudyTask", "claims", "load", "recipes", "task"]


def task(**knobs: Any) -> StudyTask:
    """The paper's task, or a variant."""
    return StudyTask(**knobs)


def load(name: str = "paper", seed: int = 0) -> Transformer:
    """A published model."""
    return zoo.load(f"STUDY/{name}", seed)
''',
    "task.py": '''"""The task: [x_1 .. x_L, SEP, x_1 .. x_L]. Replace it by the paper's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mi_lab.model import Transformer
from mi_lab.studies import base


@dataclass(frozen=True)
class StudyTask:
    """Repeat `length` symbols out of `n_symbols`."""

    length: int = 4
    n_symbols: int = 8

    @property
    def vocab(self) -> tuple[str, ...]:
        """The symbols, then SEP."""
        return (*map(str, range(self.n_symbols)), "SEP")

    @property
    def n_ctx(self) -> int:
        """2 length + 1."""
        return 2 * self.length + 1

    @property
    def answer(self) -> slice:
        """From SEP on."""
        return slice(self.length, 2 * self.length)

    def complete(self, question: Tensor) -> Tensor:
        """Int[n, n_ctx] from Int[n, length]."""
        middle = torch.full_like(question[:, :1], self.n_symbols)
        return torch.cat([question, middle, question], dim=1)

    def sample(self, n: int, *, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Int[n, n_ctx]: fresh examples with the right answer."""
        return self.complete(
            torch.randint(self.n_symbols, (n, self.length), generator=generator, device=device)
        )

    def encode(self, text: str) -> Tensor:
        """Int[n_ctx] from "3,1,4,1"; what follows a SEP is ignored. ValueError that names what is wrong."""
        words = text.replace(",", " ").partition("SEP")[0].split()
        if len(words) != self.length:
            raise ValueError(f"the question must have {self.length} symbols, it has {len(words)}")
        for word in words:
            if word not in self.vocab[:-1]:
                raise ValueError(f"{word!r} is not one of 0..{self.n_symbols - 1}")
        return self.complete(torch.tensor([[int(word) for word in words]]))[0]

    def decode(self, tokens: Tensor) -> str:
        """The text of one sequence."""
        return ",".join(self.vocab[token] for token in tokens.tolist())

    def solve(self, tokens: Tensor) -> Tensor:
        """The same questions with the right answer."""
        return self.complete(tokens[:, : self.length])

    def weights(self, tokens: Tensor) -> None:
        """Every answer token counts the same."""

    def variables(self, tokens: Tensor) -> dict[str, Tensor]:
        """Ground truth that probes and metrics share: here only the answer, Int[n, length]."""
        return {"target": self.solve(tokens)[:, self.length + 1 :]}

    def grade(self, model: Transformer, tokens: Tensor, *, free_running: bool = True) -> Tensor:
        """Bool[n]: is the whole answer right?"""
        return base.grade(model, self, tokens, free_running=free_running)
''',
    "circuit.py": '''"""What you think the model does, as functions of its weights and activations."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_lab.model import Transformer
from mi_lab.run import run
from mi_lab.studies.STUDY.task import StudyTask


def looks_at_source(model: Transformer, task: StudyTask, tokens: Tensor) -> Tensor:
    """Attention of each head of layer 0 to the position that holds the answer, mean over outputs: [head]."""
    name = "blocks.0.attn.pattern"
    pattern = run(model, tokens, record=(name,))[name][:, :, task.answer]
    source = torch.arange(task.length).view(1, 1, -1, 1).expand(*pattern.shape[:2], -1, 1)
    return pattern.gather(-1, source).mean((0, 2, 3))
''',
    "recipes.py": '''"""Training recipes. Say of each number whether it is the paper's or ours."""

from __future__ import annotations

from mi_lab.model import TransformerConfig
from mi_lab.studies.STUDY.task import StudyTask
from mi_lab.train import Recipe

_task = StudyTask()
recipes: dict[str, Recipe] = {
    "paper": Recipe(
        name="paper",
        task=_task,
        config=TransformerConfig(
            n_layers=1, n_heads=2, d_model=32, d_head=16, n_ctx=_task.n_ctx, d_vocab=len(_task.vocab)
        ),
        lr=5e-3,
        batch=128,
        steps=600,
        checkpoints=(0, 100, 300),
        description="Replace by the paper's configuration.",
    )
}
''',
    "claims.py": '''"""The paper's claims, each with acceptance fixed beforehand and a control that must fail."""

from __future__ import annotations

import torch

from mi_lab import zoo
from mi_lab.claims import Accept, Claim, Control, Measurement
from mi_lab.model import Transformer
from mi_lab.studies.STUDY.recipes import recipes
from mi_lab.studies.STUDY.task import StudyTask
from mi_lab.train import fit


def model_of(seed: int) -> Transformer:
    """The published model, or one trained here and now."""
    try:
        return zoo.load("STUDY/paper", seed)
    except ValueError:
        return fit(recipes["paper"], seeds=(seed,), progress=False).model(seed)


def _accuracy(trained: bool):
    def measure(fast: bool) -> Measurement:
        recipe, task = recipes["paper"], StudyTask()
        tokens = task.sample(500, generator=torch.Generator().manual_seed(1_000_003))
        models = [model_of(seed) if trained else Transformer(recipe.config) for seed in recipe.seeds]
        right = tuple(float(task.grade(model, tokens).float().mean()) for model in models)
        units = tuple(f"seed {seed}" for seed in recipe.seeds)
        return Measurement(units, {"exact": right}, "exact", sample="500 fresh examples")

    return measure


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "X1",
        "The model solves the task",
        "write where the paper says so",
        "write what it says, in your words",
        "its number, or unknown",
        Accept("exact match >= .99", lambda r: r["exact"] >= 0.99, quorum=1.0),
        _accuracy(True),
        (Control("untrained twin", _accuracy(False)),),
    ),
)
''',
    "publish.py": '''"""Publish what was trained: `python -m mi_lab.studies.STUDY.publish RUNS`."""

from __future__ import annotations

from pathlib import Path

from mi_lab import publish as shared
from mi_lab.studies.STUDY.recipes import recipes
from mi_lab.train import Recipe


def publish(runs: Path | str, recipe: Recipe) -> str:
    """All finished seeds of a recipe under RUNS, as one file that `zoo.load("STUDY/NAME")` finds."""
    places = shared.finished(Path(runs), recipe)
    if not places:
        raise ValueError(f"{runs} holds no finished run: mi-lab train STUDY/{recipe.name} --out {runs}")
    path = shared.home(__file__) / f"{recipe.name}.safetensors"
    shared.write_seeds(path, recipe, places, shared.provenance("STUDY", recipe, places))
    return f"{path}: seeds {', '.join(map(str, places))}"


if __name__ == "__main__":
    shared.main("STUDY", recipes, publish)
''',
}

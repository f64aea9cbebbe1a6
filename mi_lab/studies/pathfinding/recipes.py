"""Training recipes of the pathfinding study.

What really produced the authors' checkpoint is not recorded; their code says AdamW 3e-4, batch 64,
up to 2.1 million steps, loss on all padding, 135,000 fixed trees. `paper` has the paper's model and
data law and our recipe (online trees, permuted labels, loss on the path and its first stop, a larger
learning rate): it is named `paper` for the model, and judged by the same claims. It was trained in two
parts. `waves` begins with position vectors that are waves and stays near 65 % of the paths; `paper` goes on
from it with a loss at every layer (`Recipe.exits`). `not_deep` goes on without, the control. `many` goes on from
`paper` with more goals to a tree (`not_many` is its control), `every` from there with edges in every order, and
`long` from `every` for seven times as long, and `settled` from `long` in four stages.
`plateau` begins with position vectors drawn at random and finds 62 % of the paths after 12,940 steps,
most of them because it enters no wrong leaf; `grow_6` to `grown` are an attempt to lead it on, from trees of 6
nodes back to 16 (`mi_lab.studies.pathfinding.growth`). Every other recipe switches something, to find out what
decides which algorithm is learned. `taught` is a small model that was shown the paper's road
(`mi_lab.studies.pathfinding.taught`), `unaided` goes on from it without the lesson, `not_taught` had a loss at
every layer and no lesson.
"""

from __future__ import annotations

from dataclasses import replace

from mi_lab.model import TransformerConfig
from mi_lab.studies.pathfinding.growth import Grown
from mi_lab.studies.pathfinding.many_goals import ManyGoals
from mi_lab.studies.pathfinding.positions import Scaled, Waves
from mi_lab.studies.pathfinding.task import PathfindingTask
from mi_lab.studies.pathfinding.taught import Taught
from mi_lab.train import Recipe, log_steps


def config(task: PathfindingTask, **changes: object) -> TransformerConfig:
    """Six layers of one head, d_model 128, GELU MLP of 512, pre-LayerNorm: the paper's shape."""
    shape = TransformerConfig(
        n_layers=6, n_heads=1, d_model=128, d_head=128, d_mlp=512,
        n_ctx=task.n_ctx, d_vocab=len(task.vocab), act="gelu",
    )  # fmt: skip
    return replace(shape, **changes)  # type: ignore[arg-type]


PLATEAU = Recipe(
    name="plateau",
    task=PathfindingTask(),
    config=config(PathfindingTask(), init_std=0.04),
    optimiser="adamw",
    lr=1e-3,
    betas=(0.9, 0.99),
    weight_decay=0.01,
    batch=64,
    steps=12_940,
    horizon=24_000,
    warmup=300,
    decay="cosine",
    clip=1.0,
    precision="bf16",
    seeds=(0,),
    checkpoints=log_steps(24_000, 33, first=200),
    description="The paper's shape with position vectors drawn at random: it stays on a plateau.",
)
WAVES = replace(
    PLATEAU, name="waves", start=Waves(0.14), precision="fp32", steps=7200, horizon=None, decay="linear",
    decay_from=0.7, final_lr=0.0, checkpoints=log_steps(9000, 25, first=200),
    description="The paper's shape with positions that begin as waves: it reads the goal late, and stays near .65.",
)  # fmt: skip
# Goes on from WAVES, on trees of its own, at a rate that is high at first again; now every layer has a loss.
PAPER = replace(
    WAVES, name="paper", start=Grown((WAVES,)), exits=1.0, data=0x5EED03, steps=10_000, warmup=200, decay_from=0.525,
    checkpoints=(0, *range(3000, 10_000, 1000)),
    description="Six layers, one head, d_model 128 on trees of 16 nodes: waves, gone on with a loss at every layer.",
)  # fmt: skip
# Goes on with eight more first steps to every tree (`many_goals`).
MANY = replace(
    PAPER, name="many", task=ManyGoals(PathfindingTask()), start=Grown((PAPER,)), data=0x5EED04, steps=2000,
    horizon=7000, decay_from=0.1, checkpoints=(),
    description="The paper's shape: paper, gone on for 2,000 steps with many goals to a tree.",
)  # fmt: skip
# Goes on with trees whose edges are listed from the root down as well, which the paper's law has not: there an edge
# can know what lies above it, and nothing below. The rate falls to 0.
EVERY = replace(
    MANY, name="every", task=ManyGoals(PathfindingTask(order="every")), start=Grown((MANY,)), data=0x5EED05,
    steps=4200, horizon=None, decay_from=0.3, checkpoints=(0, *range(1000, 4200, 1000)),
    description="The paper's shape: many, gone on with edges in every order.",
)  # fmt: skip
# Goes on for 28,000 steps more, with products in half precision, which take half the time where the CPU has units for
# them: the longest training of all, 2.4 hours of one core.
LONG = replace(
    EVERY, name="long", start=Grown((EVERY,)), data=0x5EED07, precision="bf16", steps=28_000, horizon=28_000,
    decay_from=0.6, checkpoints=tuple(range(0, 28_000, 1000)),
    description="The paper's shape: every, gone on for 28,000 steps more, edges in every order.",
)  # fmt: skip
# What LONG still gets wrong is in random order, and on paths of 5 to 10 steps: four stages more. Random order alone,
# then such paths alone, at a rate that falls to a tenth, then the paper's law again, until the rate is 0.
SHUFFLED = replace(
    LONG, name="shuffled", task=ManyGoals(PathfindingTask(order="random")), start=Grown((LONG,)), data=0x5EED08,
    steps=7100, horizon=30_000, checkpoints=(0, 3000, 6000),
    description="The paper's shape: long, gone on with edges in random order alone.",
)  # fmt: skip
MIDDLING = replace(
    SHUFFLED, name="middling", task=ManyGoals(PathfindingTask(order="random", shortest=5, longest=10)),
    start=Grown((SHUFFLED,)), data=0x5EED09, steps=14_000, horizon=14_000, decay_from=0.1, final_lr=0.35,
    checkpoints=(*range(0, 14_000, 2000),),
    description="The paper's shape: shuffled, gone on with paths of 5 to 10 steps alone.",
)  # fmt: skip
NARROW = replace(
    MIDDLING, name="narrow", task=ManyGoals(PathfindingTask(order="random", shortest=6, longest=10)),
    start=Grown((MIDDLING,)), data=0x5EED0A, lr=4e-4, warmup=100, steps=7500, horizon=7500, decay_from=0.0,
    final_lr=0.25, checkpoints=(*range(0, 7500, 2500),),
    description="The paper's shape: middling, gone on with paths of 6 to 10 steps at a lower rate.",
)  # fmt: skip
SETTLED = replace(
    NARROW, name="settled", task=ManyGoals(PathfindingTask()), start=Grown((NARROW,)), data=0x5EED0B, lr=2e-4,
    steps=2300, horizon=2300, final_lr=0.0, checkpoints=(*range(0, 2300, 500),),
    description="The paper's shape: narrow, gone on with the paper's law until the rate is 0.",
)  # fmt: skip
# The control of MANY: the same weights go on with one goal to a tree, for as much time (a step takes two thirds of it).
NOT_MANY = replace(
    MANY, name="not_many", task=PAPER.task, steps=3000,
    description="paper, gone on for 3,000 steps with one goal to a tree.",
)  # fmt: skip
# The control of PAPER: the same weights go on without it, at the same constant rate.
NOT_DEEP = replace(
    WAVES, name="not_deep", start=Grown((WAVES,)), steps=4000, horizon=12_000, warmup=300, decay_from=0.5,
    checkpoints=(), description="waves, gone on for 4,000 steps with a loss at the last layer alone.",
)  # fmt: skip


def grown(n_nodes: int, steps: int, donors: tuple[Recipe, ...], **changes: object) -> Recipe:
    """The full-size model on trees of `n_nodes` nodes, from where the donors were; as many tokens a step."""
    task = PathfindingTask(n_nodes=n_nodes, names=16 if n_nodes < 16 else None)
    fixed: dict[str, object] = {
        "name": f"grow_{n_nodes}",
        "description": f"The full-size model on trees of {n_nodes} nodes, on its way from 6 to 16.",
        "batch": 64 * 16 // n_nodes, "warmup": 100, "decay": "constant", "horizon": None, "precision": "fp32",
        "checkpoints": (),
    }  # fmt: skip
    return replace(
        PLATEAU, task=task, config=config(task, init_std=0.04), steps=steps, start=Grown(donors),
        **{**fixed, **changes},  # type: ignore[arg-type]
    )  # fmt: skip


# Steps at each size, a third of a second of one core each: about as many as pilot runs took until both edge
# orders stood clear of what random descent finds.
SIZES = {6: 1200, 8: 600, 10: 400, 12: 300, 14: 300}
GROWTH: list[Recipe] = []
for _nodes, _steps in SIZES.items():
    GROWTH.append(grown(_nodes, _steps, (PLATEAU, *GROWTH[-1:])))
GROWN = grown(
    16, 12_000, (PLATEAU, GROWTH[-1]), name="grown", lr=6e-4, decay="linear", final_lr=0.0,
    checkpoints=log_steps(12_000, 17, 200),
    description="The paper's shape on trees of 16 nodes, grown from trees of 6.",
)  # fmt: skip
# The control: the same from the plateau at once, for a third of the way.
NOT_GROWN = replace(
    GROWN, name="not_grown", start=Grown((PLATEAU,)), steps=4027, horizon=12_000,
    description="As grown, from the plateau without the smaller trees, for a third of the way.",
)  # fmt: skip
SMALL = PathfindingTask(n_nodes=8)


def small(name: str, description: str, task: PathfindingTask = SMALL, **changes: object) -> Recipe:
    """Three layers of d_model 64 (or what `changes` says) on small trees."""
    keys = ("n_layers", "d_model", "d_head", "d_mlp", "n_heads", "init_std")
    shape: dict[str, object] = {"n_layers": 3, "d_model": 64, "d_head": 64, "d_mlp": 256, "init_std": 0.057}
    shape |= {k: changes.pop(k) for k in keys if k in changes}
    return replace(
        PLATEAU,
        name=name,
        description=description,
        task=task,
        config=config(task, **shape),
        **{  # type: ignore[arg-type]
            "lr": 2e-3, "batch": 128, "steps": 3000, "warmup": 100, "decay": "cosine", "decay_from": 0.0,
            "final_lr": 0.0,
            "horizon": None, "precision": "fp32", "seeds": (0, 1, 2), "checkpoints": log_steps(3000, 12, first=100),
            **changes,
        },
    )  # fmt: skip


# What decides the algorithm? One switch of the recipe at a time, on trees of 10 nodes, four layers.
MIDDLE = PathfindingTask(n_nodes=10)


def middle(name: str, description: str, task: PathfindingTask = MIDDLE, **changes: object) -> Recipe:
    """Four layers of d_model 64 on trees of 10 nodes."""
    defaults: dict[str, object] = {
        "n_layers": 4,
        "steps": 6000,
        "seeds": (0,),
        "checkpoints": log_steps(6000, 9, first=400),
    }
    return small(name, description, task, **{**defaults, **changes})


# The paper's road, shown to the same shape: the earlier layers are to name the goal's ancestors (`taught`).
TAUGHT = middle(
    "taught", "Four layers on trees of 10 nodes, shown the climb from the goal, one ancestor more in every layer.",
    Taught(n_nodes=10), start=Waves(0.14), exits=4.0, steps=3000, decay="linear", decay_from=0.7, seeds=(0, 1, 2),
    checkpoints=(500, 1000, 1500, 2000),
)  # fmt: skip
# The control: as strong a loss at every layer, but each is to name the answer.
NOT_TAUGHT = replace(
    TAUGHT, name="not_taught", task=MIDDLE, seeds=(0,),
    description="As taught, but every layer is to name the answer: a loss at every layer without the lesson.",
)  # fmt: skip
# The lesson ends: answers alone, and a loss at the last layer alone.
UNAIDED = replace(
    TAUGHT, name="unaided", task=MIDDLE, start=Grown((TAUGHT,)), exits=0.0, data=0x5EED06, decay_from=0.5,
    description="taught, gone on for as long without the lesson.",
)  # fmt: skip


_all = [
    PAPER,
    WAVES,
    NOT_DEEP,
    MANY,
    NOT_MANY,
    EVERY,
    LONG,
    SHUFFLED,
    MIDDLING,
    NARROW,
    SETTLED,
    PLATEAU,
    *GROWTH,
    GROWN,
    NOT_GROWN,
    small("quick", "Trees of 8 nodes, three layers of d_model 64: learned in minutes."),
    small(
        "live", "For live training: backward order only, which is learned in a minute.",
        replace(SMALL, order="backward"), steps=1200, seeds=(100,), checkpoints=log_steps(1200, 9, first=100),
    ),
    small("quick_wide_init", "Initial weights of std .1 (0.8/sqrt(d_model)) instead of .057.", init_std=None),
    small("quick_waves", "Positions that begin as waves, of std .14 instead of .057.", start=Waves(0.2)),
    small("quick_scaled", "Positions of std .14 instead of .057, drawn at random as ever.", start=Scaled(2.5)),
    small("quick_goal_hidden", "As quick, but the goal is never shown.", replace(SMALL, hide_goal=True), seeds=(0,)),
    middle("middle", "Trees of 10 nodes, four layers: the base of the switches below."),
    TAUGHT,
    NOT_TAUGHT,
    UNAIDED,
    middle("middle_wide_init", "Initial weights of std .1 (0.8/sqrt(d_model)) instead of .057.", init_std=None),
    middle("middle_padding", "Loss on all padding, as the authors'.", replace(MIDDLE, padding=True)),
    middle("middle_slow", "Learning rate 3e-4, the authors', for twice as long.", lr=3e-4, steps=12_000,
           checkpoints=log_steps(12_000, 9, first=400)),
    middle("middle_fixed", "A fixed set of 20,000 trees, seen about 40 times.", replace(MIDDLE, trees=20_000)),
    middle("middle_ascending", "The authors' label bias.", replace(MIDDLE, labels="ascending")),
    middle("middle_random", "Random edge order only.", replace(MIDDLE, order="random")),
    middle("middle_backward", "Backward edge order only.", replace(MIDDLE, order="backward")),
    middle("middle_short", "Path lengths up to the number of layers only.", replace(MIDDLE, longest=4)),
    middle("middle_deep", "Six layers.", n_layers=6),
    middle("middle_long", "Twice as long.", steps=12_000, checkpoints=log_steps(12_000, 9, first=400)),
]  # fmt: skip
recipes: dict[str, Recipe] = {recipe.name: recipe for recipe in _all}
# Recipes whose development is recorded, and weights in mid-training that are published: seed -> steps.
KEPT_STEPS: dict[str, dict[int, tuple[int, ...]]] = {
    "paper": {0: (4000,)},
    "every": {},
    "long": {},
    "settled": {},
    "taught": {},
    "unaided": {},
    "waves": {},
    "plateau": {},
    "middle": {},
}
# Recipes whose models are not (yet) published; `live` is trained in the chapter, the growing ones are not finished.
UNPUBLISHED = (
    "live", "shuffled", "middling", "narrow", *(recipe.name for recipe in GROWTH), "grown", "not_grown",
    "middle_slow", "middle_fixed",
    "middle_ascending", "middle_random", "middle_backward", "middle_short", "middle_deep", "middle_long",
)  # fmt: skip

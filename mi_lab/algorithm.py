"""An algorithm as a graph of sub-tasks with rules about where they are, and its score on a model.

    tri_add = Algorithm(
        "ST/TriAdd",
        needs={"SA0": (), "ST0": (), "ST1": (), "SV1": ("ST0", "ST1")},
        clauses=(carried("SA0", at=11), carried("ST1", by=8), before("ST1", "ST0", mandatory=False)),
    )
    score(tri_add, located)         # Score: 5 of 6 mandatory clauses hold, 1 of 1 optional ones ..

`needs` is the flow of values; each arrow is a clause too: some node that carries the source must stand
where a node that carries the target can read it. A clause is about `mi_lab.locate.Located`, what a
search found on a model, so one search serves any number of rival algorithms. Mandatory clauses make
the score; optional ones are counted beside it. That a score is high says little unless other
algorithms score lower and shuffled sub-task names do (`null_scores`).

Source: the clauses of "Arithmetic in Transformers Explained" ("x of y valid"), here as data.
"""

from __future__ import annotations

import graphlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mi_lab.locate import Located
from mi_lab.subtask import Evidence

Places = Mapping[str, Sequence[Evidence]]
"""Sub-task name -> the evidence for it that holds."""


@dataclass(frozen=True)
class Clause:
    """One rule. test: places -> (does it hold, what was found, in words). about: the sub-tasks in it."""

    text: str
    about: tuple[str, ...]
    test: Callable[[Places], tuple[bool, str]]
    mandatory: bool = True


def carried(
    subtask: str,
    *,
    at: int | None = None,
    by: int | None = None,
    after: int | None = None,
    mandatory: bool = True,
) -> Clause:
    """Some node carries it: at this position, at or before `by`, behind `after`.

    >>> carried("ST2", by=14).text
    'ST2 is carried by P14'
    """
    bounds = [("at", at), ("by", by), ("after", after)]
    words = " ".join(f"{word} P{p}" for word, p in bounds if p is not None)

    def test(places: Places) -> tuple[bool, str]:
        found = places.get(subtask, ())
        good = [
            e
            for e in found
            if (at is None or e.position == at)
            and (by is None or e.position <= by)
            and (after is None or e.position > after)
        ]
        return bool(good), _names(subtask, good or found)

    return Clause(f"{subtask} is carried {words}".rstrip(), (subtask,), test, mandatory)


def before(first: str, second: str, *, mandatory: bool = True) -> Clause:
    """`first` is complete at an earlier position than `second`: the earliest nodes of both count."""

    def test(places: Places) -> tuple[bool, str]:
        one, two = places.get(first, ()), places.get(second, ())
        words = f"{_names(first, one)}; {_names(second, two)}"
        return bool(one and two) and min(e.position for e in one) < min(e.position for e in two), words

    return Clause(f"{first} comes before {second}", (first, second), test, mandatory)


def feeds(source: str, target: str, *, mandatory: bool = True) -> Clause:
    """Some node with `target` can read some node with `source`: see `reaches`."""

    def test(places: Places) -> tuple[bool, str]:
        one, two = places.get(source, ()), places.get(target, ())
        words = f"{_names(source, one)}; {_names(target, two)}"
        return any(reaches(a, b) for a in one for b in two), words

    return Clause(f"{source} can reach {target}", (source, target), test, mandatory)


def reaches(source: Evidence, target: Evidence) -> bool:
    """Can what the source writes change what the target computes?

    Yes for a higher layer at the same or a later position, and for the MLP of the same layer and
    position behind its heads. A group is complete with its last node and read by its first.
    """
    first = min(target.nodes, key=lambda node: (node.layer, node.head is None))
    behind = max(node.position or 0 for node in target.nodes)
    if source.position > behind:
        return False
    mlp = first.head is None and all(node.head is not None for node in source.nodes)
    return source.layer < first.layer or (source.layer == first.layer and mlp and source.position == behind)


@dataclass(frozen=True)
class Algorithm:
    """Sub-tasks, what each needs, and clauses about where they are.

    needs: sub-task -> the sub-tasks whose values it uses. optional: sub-tasks a model may do without;
    the arrows from and to them are optional clauses. Raises ValueError for a circle, and for names in
    clauses, needs or optional that are no sub-task of this algorithm.

        >>> Algorithm("a", {"SV1": ("ST0", "ST1"), "ST0": (), "ST1": ()}).order
        ('ST0', 'ST1', 'SV1')
    """

    name: str
    needs: Mapping[str, Sequence[str]]
    clauses: tuple[Clause, ...] = ()
    optional: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        mentioned = [*self.optional, *(n for sources in self.needs.values() for n in sources)]
        mentioned += [name for clause in self.clauses for name in clause.about]
        if unknown := sorted({*mentioned} - {*self.needs}):
            raise ValueError(
                f"{self.name}: {', '.join(unknown)} is no sub-task of it; needs has {[*self.needs]}"
            )
        try:
            tuple(graphlib.TopologicalSorter(self.needs).static_order())
        except graphlib.CycleError as error:
            raise ValueError(
                f"{self.name}: sub-tasks need one another: {' -> '.join(error.args[1])}"
            ) from None

    @property
    def order(self) -> tuple[str, ...]:
        """The sub-tasks, each behind those it needs."""
        return tuple(graphlib.TopologicalSorter(self.needs).static_order())

    @property
    def rules(self) -> tuple[Clause, ...]:
        """All clauses: those given, then the arrows of `needs`."""
        arrows = [
            feeds(source, target, mandatory=not {source, target} & self.optional)
            for target in self.order
            for source in self.needs[target]
        ]
        return (*self.clauses, *arrows)


@dataclass(frozen=True)
class Result:
    """What became of one clause; found: where its sub-tasks are."""

    text: str
    mandatory: bool
    holds: bool
    found: str


@dataclass(frozen=True)
class Score:
    """All clauses of an algorithm on one model. Mandatory ones count: `held` of `total`."""

    algorithm: str
    results: tuple[Result, ...]

    @property
    def held(self) -> int:
        """Mandatory clauses that hold."""
        return sum(r.holds for r in self.results if r.mandatory)

    @property
    def total(self) -> int:
        """Mandatory clauses."""
        return sum(r.mandatory for r in self.results)

    @property
    def failed(self) -> tuple[Result, ...]:
        """Mandatory clauses that do not hold."""
        return tuple(r for r in self.results if r.mandatory and not r.holds)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"algorithm": self.algorithm, "results": [vars(r) for r in self.results]}

    def to_markdown(self) -> str:
        """A row per clause."""
        lines = ["| clause | holds | found |", "|---|---|---|"]
        for r in self.results:
            text = r.text if r.mandatory else f"{r.text} (optional)"
            lines.append(f"| {text} | {'yes' if r.holds else '**no**'} | {r.found} |")
        return "\n".join(lines)

    def __str__(self) -> str:
        extra = [r.holds for r in self.results if not r.mandatory]
        beside = f", {sum(extra)} of {len(extra)} optional ones" if extra else ""
        failed = "; not: " + ", ".join(r.text for r in self.failed) if self.failed else ""
        return f"{self.algorithm}: {self.held} of {self.total} mandatory clauses hold{beside}{failed}"

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return f"{self}\n\n{self.to_markdown()}"


def score(algorithm: Algorithm, located: Located, **criteria: float) -> Score:
    """Which clauses hold on what a search found. criteria: those of `Evidence.holds`."""
    places: dict[str, list[Evidence]] = {}
    for e in located:
        if e.holds(**criteria):
            places.setdefault(e.subtask, []).append(e)
    results = []
    for clause in algorithm.rules:
        holds, found = clause.test(places)
        results.append(Result(clause.text, clause.mandatory, holds, found))
    return Score(algorithm.name, tuple(results))


def null_scores(
    algorithm: Algorithm, located: Located, *, permutations: int = 1000, seed: int = 0, **criteria: float
) -> list[int]:
    """`held` with the names of the algorithm's sub-tasks shuffled over what was found: what luck gives.

    A value that nothing was found for goes round with the others.
    """
    names = [*algorithm.needs]
    held = [e for e in located if e.holds(**criteria)]
    rng, out = random.Random(seed), []
    for _ in range(permutations):
        new = dict(zip(names, rng.sample(names, len(names))))
        moved = tuple(replace(e, subtask=new.get(e.subtask, e.subtask)) for e in held)
        out.append(score(algorithm, Located(moved, located.tested), **criteria).held)
    return out


def _names(subtask: str, evidence: Sequence[Evidence]) -> str:
    """Where a sub-task was found, in words."""
    return f"{subtask} at " + ", ".join(e.name for e in evidence) if evidence else f"{subtask} not found"

"""Lanes: how lock-step loops become straight-line vector code.

What enters: the vector and unrolled loops around a statement. What leaves: :class:`Lanes`, the points at which the statement is
emitted. A point gives each unrolled variable a number and the vector variable a chunk of native vectors. Invariant: a value
is emitted once for each distinct projection of the points onto the variables that it depends on; a value that does not
depend on the vector variable is a scalar.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from graphc.loops.index import Var
from graphc.loops.ir import Bound

Point = dict[Var, int]  # unrolled variable -> its value; vector variable -> its chunk's number


@dataclass(frozen=True)
class Lanes:
    """The lock-step loops in force: unrolled variables and at most one vector variable, cut in chunks of ``width``.

    ``bounds`` are conditions that some lanes may fail: those lanes store, accumulate and report nothing.
    """

    variables: tuple[Var, ...] = ()
    vector: Var | None = None
    width: int = 1
    bounds: tuple[Bound, ...] = ()

    def unrolled(self, var: Var) -> Lanes:
        """These lanes inside one more unrolled loop."""
        return Lanes((*self.variables, var), self.vector, self.width, self.bounds)

    def vectorised(self, var: Var, width: int) -> Lanes:
        """These lanes inside a vector loop."""
        return Lanes((*self.variables, var), var, width, self.bounds)

    def where(self, bounds: tuple[Bound, ...]) -> Lanes:
        """These lanes under a condition."""
        return Lanes(self.variables, self.vector, self.width, (*self.bounds, *bounds))

    def count(self, var: Var) -> int:
        """How many coordinates a variable has."""
        return -(-var.extent // self.width) if var is self.vector or var == self.vector else var.extent

    def active(self, chunk: int) -> int:
        """Lanes of a chunk that hold iterations (the last chunk may be partial)."""
        assert self.vector is not None
        return min(self.width, self.vector.extent - chunk * self.width)

    def points(self, variables: frozenset[Var] | None = None) -> Iterator[Point]:
        """All points of the variables (all of these lanes unless said), the first variable slowest."""
        chosen = [v for v in self.variables if variables is None or v in variables]
        for coordinates in product(*[range(self.count(v)) for v in chosen]):
            yield dict(zip(chosen, coordinates, strict=True))


def projection(point: Point, variables: frozenset[Var]) -> tuple[tuple[str, int], ...]:
    """The part of a point that belongs to ``variables``, as a key."""
    if len(variables) < 2:
        return tuple([(v.name, point[v]) for v in variables if v in point])
    return tuple(sorted([(v.name, point[v]) for v in variables if v in point]))


@dataclass
class Value:
    """An SSA value of the loop IR: its scalar type, the lane variables it depends on, and its name at each projection."""

    scalar: str
    depends: frozenset[Var]
    vector: bool
    names: dict[tuple[tuple[str, int], ...], str] = field(default_factory=dict)


@dataclass
class Bank:
    """Partial results of one accumulating place: one for each projection onto the lanes there."""

    scalar: str
    vector: Var | None
    names: dict[tuple[tuple[str, int], ...], str] = field(default_factory=dict)


@dataclass
class Partials:
    """An accumulator: a bank for each set of lanes in which something accumulates; reading it combines the banks.

    ``declared`` are the lanes at the declaration: they remain when it is read.
    """

    scalar: str
    combiner: str
    identity: bool | int | float
    declared: frozenset[Var]
    banks: dict[frozenset[Var], Bank] = field(default_factory=dict)

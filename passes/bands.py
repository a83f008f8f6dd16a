"""Bands of independent loops: finding them, cutting them in blocks, writing them out.

What enters: a loop. What leaves: a :class:`Nest` (the band and its leaf), and from a :class:`Plan` of how each variable is cut the
loops themselves. Invariant: every iteration of the band runs once; extents that blocks do not divide get blocks of their own,
so no bounds are left in the inner loops::

    for i in 10 { for j in 20 { S } },  i cut by 4, j cut by 16 in lanes
    -> for i_o in 2 { for i_i in 4 { for j_i in 16 vector { S } } { for j_i in 4 vector { S } } } and the same for i in 2
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphc.loops.dependence import independent
from graphc.loops.index import Index, Var
from graphc.loops.ir import For, If, Let, LoopKind
from graphc.loops.schedule import PURE, Body, substitute

HEAVY = frozenset(
    (
        "exp", "log", "log1p", "expm1", "tanh", "sigmoid", "erf", "sin", "cos", "tan", "sinh", "cosh",
        "asin", "acos", "atan", "atan2", "pow", "floordiv", "mod",
    )
)  # fmt: skip
"""Primitives that are polynomials of many instructions."""


@dataclass
class Nest:
    """A band of independent loops, the pure statements in front of each inner one, and the leaf."""

    band: list[For]
    prefixes: list[Body]  # prefixes[m] stands in band[m], before band[m+1]; the last one is empty
    leaf: Body

    @property
    def everything(self) -> Body:
        return tuple(s for p in self.prefixes for s in p) + self.leaf


def band_of(loop: For) -> Nest:
    """The largest band that a loop opens.

    A loop joins while it is all that follows pure statements in the loop before it, and its iterations are independent.
    """
    nest = Nest([loop], [], loop.body)
    while nest.leaf and isinstance(inner := nest.leaf[-1], For):
        before = nest.leaf[:-1]
        if not all(isinstance(s, PURE) for s in before) or not independent(inner):
            break
        nest.prefixes.append(before)
        nest.band.append(inner)
        nest.leaf = inner.body
    nest.prefixes.append(())
    return nest


def reduction_band(loop: For) -> Nest:
    """The band of loops that accumulate into accumulators outside of all of them."""
    nest = Nest([loop], [], loop.body)
    while nest.leaf and isinstance(inner := nest.leaf[-1], For):
        before = nest.leaf[:-1]
        if not all(isinstance(s, PURE) for s in before) or not independent(inner, reductions=True):
            break
        nest.prefixes.append(before)
        nest.band.append(inner)
        nest.leaf = inner.body
    nest.prefixes.append(())
    return nest


def innermost(loop: For) -> For:
    """The last loop of a chain of loops."""
    while loop.body and isinstance(loop.body[-1], For):
        loop = loop.body[-1]
    return loop


@dataclass(frozen=True)
class Segment:
    """``count`` blocks of ``size`` iterations, the first at ``start``."""

    start: int
    count: int
    size: int


def blocks(extent: int, size: int) -> list[Segment]:
    """Whole blocks and one shorter one.

    >>> blocks(10, 4)
    [Segment(start=0, count=2, size=4), Segment(start=8, count=1, size=2)]
    """
    size = max(1, min(size, extent))
    count, rest = divmod(extent, size)
    return [Segment(0, count, size)] + ([Segment(count * size, 1, rest)] if rest else [])


def even_blocks(extent: int, size: int) -> list[Segment]:
    """As few blocks as ``size`` allows, of sizes that differ by one at most.

    >>> even_blocks(17, 6)
    [Segment(start=0, count=2, size=6), Segment(start=12, count=1, size=5)]
    """
    tiles = -(-extent // max(1, size))
    each, larger = divmod(extent, tiles)
    result = [Segment(0, larger, each + 1)] if larger else []
    return [*result, Segment(larger * (each + 1), tiles - larger, each)]


@dataclass
class Plan:
    """How a band's variables are cut, in which order the blocks run, and what runs inside a block."""

    cut: dict[Var, list[Segment]] = field(default_factory=dict)
    kinds: dict[Var, LoopKind] = field(default_factory=dict)
    order: list[Var] = field(default_factory=list)  # of the loops over blocks


def count_blocks(plan: Plan, var: Var) -> int:
    return sum(s.count for s in plan.cut.get(var, [Segment(0, var.extent, 1)]))


def cost(body: Body, plan: Plan) -> int:
    """Work units of one leaf (see ``PARALLEL_WORK``), loops within counted; times the band's extents."""
    each = _cost(body)
    for var in plan.order:
        each *= var.extent
    return each


def _cost(body: Body) -> int:
    total = 0
    for stmt in body:
        match stmt:
            case For(var, _, inner):
                total += var.extent * _cost(inner)
            case If(_, inner):
                total += _cost(inner)
            case Let(primitive=primitive):
                total += 6 if primitive in HEAVY else 1
            case _:
                total += 1
    return total


class Generator:
    """Writes a band out as its plan says: loops over blocks, then the loops within a block, prefixes as early as possible."""

    def __init__(self, nest: Nest, plan: Plan, threshold: float, notes: list[str]) -> None:
        self.nest = nest
        self.plan = plan
        self.threshold = threshold
        self.notes = notes

    def run(self, work: float) -> Body:
        return self.level(0, {}, {}, work, 0, serial_above=True)

    def level(
        self,
        depth: int,
        starts: dict[Var, Index],
        sizes: dict[Var, int],
        work: float,
        placed: int,
        *,
        serial_above: bool,
    ) -> Body:
        """The loops over blocks of the variables from ``depth`` on, for one choice of sizes further out.

        ``placed`` prefixes stand further out already.
        """
        if depth == len(self.plan.order):
            return self.block(starts, sizes, placed)
        var = self.plan.order[depth]
        result: Body = ()
        segments = self.plan.cut.get(var) or [Segment(0, var.extent, 1)]
        for number, segment in enumerate(segments):
            share = work * segment.count * segment.size / var.extent
            name = f"{var.name}_o{number or ''}" if var in self.plan.cut else var.name
            outer = Var(name, segment.count)
            single = segment.count == 1 and segment.size > 1  # else a loop of one keeps its names apart
            start = Index.of(segment.start) if single else Index.of(outer) * segment.size + segment.start
            threads = serial_above and segment.count > 1 and share >= self.threshold
            here = {**starts, var: start}
            early = placed == depth and segment.size == 1 and var == self.nest.band[depth].var
            prefix = substitute(self.nest.prefixes[depth], here) if early else ()
            outermost = serial_above and single and not prefix
            body = prefix + self.level(
                depth + 1, here, {**sizes, var: segment.size}, share, placed + early, serial_above=outermost
            )
            if threads:
                self.notes.append(f"parallel over {var} in {segment.count} blocks (about {int(share)} units of work)")
            result += body if single else (For(outer, "parallel" if threads else "serial", body),)
        return result

    def block(self, starts: dict[Var, Index], sizes: dict[Var, int], placed: int) -> Body:
        """One block: the leaf inside the loops over a block's iterations, lanes innermost."""
        lanes = [loop.var for loop in self.nest.band if self.plan.kinds.get(loop.var) == "vector"]
        mapping: dict[Var, Index] = {}
        inside: dict[Var, Var] = {}
        for var, start in starts.items():
            if sizes[var] > 1:
                inside[var] = Var(f"{var.name}_i", sizes[var])
                mapping[var] = start + inside[var]
            else:
                mapping[var] = start
        prefixes = [() if m < placed else substitute(p, mapping) for m, p in enumerate(self.nest.prefixes)]
        body = substitute(self.nest.leaf, mapping)
        if lanes and lanes[0] in inside and lanes[0] != self.nest.band[-1].var:
            # lanes go innermost, and take all prefixes with them
            body = tuple(s for p in prefixes for s in p) + body
            order = [v for v in (loop.var for loop in self.nest.band) if v not in lanes] + lanes
            for var in reversed(order):
                body = self.wrap(var, inside, body)
            return body
        for loop, prefix in zip(reversed(self.nest.band), reversed(prefixes), strict=True):
            body = self.wrap(loop.var, inside, prefix + body)
        return body

    def wrap(self, var: Var, inside: dict[Var, Var], body: Body) -> Body:
        return (For(inside[var], self.plan.kinds.get(var, "serial"), body),) if var in inside else body

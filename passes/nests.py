"""Nests: loops written around a body, whole or block by block.

What enters: loop variables, outermost first, or the segments that their extents are cut into, and a body. What leaves: the loops.
Invariant: every iteration is in one block, in order. ::

    over([(i, (Segment(0, 2, 6), Segment(12, 1, 1)))], {}, {}, {}, inside)
    ->  for i_b in 2 { inside({i: 6*i_b}, {i: 6}) }  inside({i: 12}, {i: 1})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from graphc.loops.index import Index, Var
from graphc.loops.ir import For, LoopKind, Stmt
from graphc.loops.schedule import Body
from passes.bands import Segment

Start = dict[Var, Index]
Sizes = dict[Var, int]


def whole(var: Var) -> tuple[Segment, ...]:
    """Every iteration a block of its own."""
    return (Segment(0, var.extent, 1),)


def linear(variables: Iterable[Var]) -> Index:
    """The row-major position in a box of loop variables."""
    index = Index()
    for var in variables:
        index = index * var.extent + var
    return index


def unravelled(flat: Index, shape: tuple[int, ...]) -> tuple[Index, ...]:
    """Coordinates of a row-major position."""
    result: list[Index] = []
    for extent in reversed(shape):
        result.append(flat % extent if len(result) < len(shape) - 1 else flat)
        flat = flat // extent
    return tuple(reversed(result))


def nested(variables: Sequence[Var], body: Body, innermost: LoopKind = "serial") -> Body:
    """``body`` inside serial loops over ``variables``."""
    kind = innermost
    for var in reversed(variables):
        body = (For(var, kind, body),)
        kind = "serial"
    return body


def over(
    steps: list[tuple[Var, tuple[Segment, ...]]], start: Start, sizes: Sizes, kinds: dict[Var, LoopKind],
    inside: Callable[[Start, Sizes], Body],
) -> Body:  # fmt: skip
    """Loops over blocks, outermost first; ``inside`` is told where the block starts and how large it is."""
    if not steps:
        return inside(start, sizes)
    (var, segments), *rest = steps
    result: list[Stmt] = []
    for segment in segments:
        outer = Var(f"{var.name}_b" if segment.size > 1 else var.name, segment.count)
        at = Index.of(outer) * segment.size + segment.start if segment.count > 1 else Index.of(segment.start)
        here = {**start, var: start.get(var, Index()) + at}
        body = over(rest, here, {**sizes, var: segment.size}, kinds, inside)
        kind = kinds.get(var, "serial")
        result += (For(outer, kind, body),) if segment.count > 1 else body
    return tuple(result)

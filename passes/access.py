"""Which element of which operand an element of a node reads: the index maps that fusion and lowering share.

What enters: a primitive node and an output index (a tuple of :class:`Index`). What leaves: an :class:`Access` an operand.
Reductions and contractions mint fresh loop variables, gathers mint run-time values. Invariant: minted names depend only
on the order of minting, so equal groups give equal kernels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

from graphc.errors import CompileError
from graphc.ir import Node
from graphc.loops.index import Index, Value, Var
from graphc.ops import declare

IndexTuple: TypeAlias = tuple[Index, ...]


@dataclass(frozen=True)
class Access:
    """Operand ``operand`` is read at ``index``; ``reduced`` are loop variables that run for each read of the result."""

    operand: Node
    index: IndexTuple
    reduced: tuple[Var, ...] = ()


@dataclass
class Minter:
    """Gives out fresh names k0, k1, ... for loop variables and g0, g1, ... for run-time indices."""

    variables: int = 0
    values: int = 0
    gathered: dict[tuple[Node, IndexTuple], Value] = field(default_factory=dict)
    reductions: dict[tuple[Node, IndexTuple], tuple[Var, ...]] = field(default_factory=dict)

    def loops(self, node: Node, index: IndexTuple, extents: tuple[int, ...]) -> tuple[Var, ...]:
        """The loop variables of a reduction at an index (the same ones each time it is asked for)."""
        found = self.reductions.get((node, index))
        if found is None:
            found = tuple(Var(f"k{self.variables + n}", extent) for n, extent in enumerate(extents))
            self.variables += len(extents)
            self.reductions[node, index] = found
        return found

    def value(self, node: Node, index: IndexTuple, extent: int) -> Value:
        """The run-time index of a gather at an index."""
        found = self.gathered.get((node, index))
        if found is None:
            found = self.gathered[node, index] = Value(f"g{self.values}", extent)
            self.values += 1
        return found


def accesses(node: Node, index: IndexTuple, mint: Minter) -> tuple[Access, ...]:
    """The reads behind one element of ``node``.

    Raises:
        CompileError: the op has no pull-style lowering (a composite that was not expanded, or a template).
    """
    match node.op.lowering:
        case declare.Elementwise() | declare.CastTo() | declare.Guarded():
            return tuple(Access(operand, index) for operand in node.inputs)
        case declare.Movement(index_map):
            return (Access(node.inputs[0], _indices(index_map(node, index))),)
        case declare.Iota() | declare.Literal():
            return ()
        case declare.Reduction():
            return (_reduction_access(node, index, mint),)
        case declare.Partial():
            return (Access(node.inputs[0], index),)
        case declare.Contraction(index_maps, extents):
            loops = mint.loops(node, index, extents(node))
            maps = index_maps(node, index, tuple(Index.of(v) for v in loops))
            return tuple(Access(o, _indices(m), loops) for o, m in zip(node.inputs, maps, strict=True))
        case declare.Gather(index_of, index_map, extent):
            value = mint.value(node, index, extent(node))
            return (
                Access(node.inputs[0], _indices(index_map(node, index, Index.of(value)))),
                Access(node.inputs[1], _indices(index_of(node, index))),
            )
    raise CompileError(
        f"{node.op.name} cannot be lowered element by element",
        source=node.source,
        token=node.op.name,
        help="run the expand pass first, or declare a lowering beside the op",
    )


def _indices(index: Iterable[Index | int]) -> IndexTuple:
    return tuple(Index.of(i) for i in index)


def _reduction_access(node: Node, index: IndexTuple, mint: Minter) -> Access:
    operand = node.inputs[0]
    axes = node.attrs["axes"]
    shape = operand.type.static_shape
    loops = mint.loops(node, index, tuple(shape[a] for a in axes))
    kept, reduced = iter(index), iter(loops)
    full = tuple(Index.of(next(reduced)) if a in axes else next(kept) for a in range(operand.ndim))
    return Access(operand, full, loops)


def identity_index(variables: tuple[Var, ...], rank: int) -> IndexTuple:
    """The index ``(i0, i1, ...)`` of the first ``rank`` loop variables (0 on axes of size 1)."""
    return tuple(Index.of(v) if v.extent != 1 else Index() for v in variables[:rank])


def own_index(variables: tuple[Var, ...], node: Node) -> IndexTuple:
    """Where a node's own loops, the first of ``variables``, write it: 0 on its axes of size 1.

    A partial result has the index of its operand.
    """
    shape = (
        node.inputs[0].type.static_shape if isinstance(node.op.lowering, declare.Partial) else node.type.static_shape
    )
    return _written_at(variables, shape)


@lru_cache(4096)
def _written_at(variables: tuple[Var, ...], shape: tuple[int, ...]) -> IndexTuple:
    return tuple(Index.of(variables[n]) if extent != 1 else Index() for n, extent in enumerate(shape))


@lru_cache(4096)
def loop_variables(domain: tuple[int, ...]) -> tuple[Var, ...]:
    """The loop variables i0, i1, ... of an iteration domain."""
    return tuple(Var(f"i{n}", extent) for n, extent in enumerate(domain))

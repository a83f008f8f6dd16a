"""Kernels of the template ops: pad, concatenate, cumsum, scatter_add, fold_windows. They write their result to memory themselves.

What enters: the node, its operands' buffers and its result's buffer. What leaves: a kernel body of plain serial nests and
the axis sizes of its guard sites. Invariant: every element of the result is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphc.ir import Node
from graphc.loops import ir
from graphc.loops.index import Index, Value, Var
from graphc.types import int64
from passes.access import loop_variables
from passes.nests import nested


@dataclass(frozen=True)
class TemplateKernel:
    """A body, and the axis size behind each guard site."""

    body: tuple[ir.Stmt, ...]
    extents: tuple[int, ...] = ()


Template: TypeAlias = Callable[[Node, list[ir.Buffer], ir.Buffer], TemplateKernel]


def _indices(variables: tuple[Var, ...]) -> tuple[Index, ...]:
    return tuple(Index.of(v) for v in variables)


def _copy(source: ir.Buffer, target: ir.Buffer, offset: tuple[int, ...], node: Node) -> tuple[ir.Stmt, ...]:
    """Copy all of ``source`` to ``target`` at an offset."""
    variables = loop_variables(source.shape)
    index = _indices(variables)
    moved = tuple(i + o for i, o in zip(index, offset, strict=True))
    load = ir.Load("v0", source.name, index, source.dtype, nodes=(node,))
    return nested(variables, (load, ir.Store(target.name, moved, "v0", nodes=(node,))))


def pad(node: Node, sources: list[ir.Buffer], target: ir.Buffer) -> TemplateKernel:
    """Fill the borders with the padding value, axis by axis, and copy the operand into the middle."""
    low = tuple(node.attrs["low"])
    literal = ir.Lit(np.asarray(node.attrs["value"]).astype(target.dtype.numpy).item(), target.dtype)
    body: tuple[ir.Stmt, ...] = ()
    for axis, (before, inside, whole) in enumerate(zip(low, sources[0].shape, target.shape, strict=True)):
        for start, width in ((0, before), (before + inside, whole - before - inside)):
            if not width:
                continue
            # axes before this one: their middle alone (the borders are filled already); axes after it: all
            variables = loop_variables((*sources[0].shape[:axis], width, *target.shape[axis + 1 :]))
            offset = (*low[:axis], start, *(0 for _ in target.shape[axis + 1 :]))
            place = tuple(i + o for i, o in zip(_indices(variables), offset, strict=True))
            body += nested(variables, (ir.Store(target.name, place, literal, nodes=(node,)),))
    return TemplateKernel(body + _copy(sources[0], target, low, node))


def concatenate(node: Node, sources: list[ir.Buffer], target: ir.Buffer) -> TemplateKernel:
    """Copy the operands one after the other along the axis."""
    axis = node.attrs["axis"]
    body: tuple[ir.Stmt, ...] = ()
    start = 0
    for source in sources:
        offset = tuple(start if a == axis else 0 for a in range(len(target.shape)))
        body += _copy(source, target, offset, node)
        start += source.shape[axis]
    return TemplateKernel(body)


def cumsum(node: Node, sources: list[ir.Buffer], target: ir.Buffer) -> TemplateKernel:
    """A running sum along the axis, read after each accumulate."""
    axis = node.attrs["axis"]
    variables = loop_variables(target.shape)
    run = variables[axis]
    index = list(_indices(variables))
    if node.attrs.get("reverse", False):
        index[axis] = -index[axis] + (run.extent - 1)
    place = tuple(index)
    body: tuple[ir.Stmt, ...] = (
        ir.Load("v0", sources[0].name, place, target.dtype, nodes=(node,)),
        ir.Accumulate("a0", "v0", (node,)),
        ir.ReadAccumulator("v1", "a0", target.dtype, (node,)),
        ir.Store(target.name, place, "v1", nodes=(node,)),
    )
    scan = (ir.Accumulator("a0", "add", target.dtype, (node,)), ir.For(run, "serial", body))
    return TemplateKernel(nested(variables[:axis] + variables[axis + 1 :], scan))


def scatter_add(node: Node, sources: list[ir.Buffer], target: ir.Buffer) -> TemplateKernel:
    """Copy the operand, then add each slice of the updates at its index; repeated indices add up in order.

    ``updates`` has the operand's shape with the axis replaced by the shape of ``indices`` (NumPy's ``add.at``).
    """
    operand, indices, updates = sources
    axis = node.attrs["axis"]
    rank = len(indices.shape)
    variables = loop_variables(updates.shape)
    index = _indices(variables)
    extent = target.shape[axis]
    place = (*index[:axis], Index.of(Value("g0", extent)), *index[axis + rank :])
    body: tuple[ir.Stmt, ...] = (
        ir.Load("v0", indices.name, index[axis : axis + rank], indices.dtype, nodes=(node,)),
        ir.Guard("g0", "v0", indices.dtype, extent, 0, int64, (node,)),
        ir.Load("v1", updates.name, index, updates.dtype, nodes=(node,)),
        ir.Store(target.name, place, "v1", "add", nodes=(node,)),
    )
    zero = (0,) * len(target.shape)
    return TemplateKernel(_copy(operand, target, zero, node) + nested(variables, body), (extent,))


def fold_windows(node: Node, sources: list[ir.Buffer], target: ir.Buffer) -> TemplateKernel:
    """Zeros, then every window added in its place."""
    (windows,) = sources
    strides = node.attrs["strides"]
    rank = len(strides)
    zero = ir.Lit(target.dtype.numpy.type(0).item(), target.dtype)
    around = loop_variables(target.shape)
    fill = nested(around, (ir.Store(target.name, _indices(around), zero, nodes=(node,)),))
    variables = loop_variables(windows.shape)
    index = _indices(variables)
    offsets = zip(index[1 : 1 + rank], strides, index[1 + rank : 1 + 2 * rank], strict=True)
    place = (index[0], *(p * s + k for p, s, k in offsets), *index[1 + 2 * rank :])
    body = (
        ir.Load("v0", windows.name, index, windows.dtype, nodes=(node,)),
        ir.Store(target.name, place, "v0", "add", nodes=(node,)),
    )
    return TemplateKernel(fill + nested(variables, body))


TEMPLATES: Mapping[str, Template] = {
    "pad": pad, "concatenate": concatenate, "cumsum": cumsum, "scatter_add": scatter_add,
    "fold_windows": fold_windows,
}  # fmt: skip

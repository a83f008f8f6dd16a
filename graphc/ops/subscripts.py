"""NumPy's indexing syntax on symbolic values: ``x[1:, ..., None, ::-1]`` and ``x[indices]``.

What enters: a value and what stands between the brackets. What leaves: flip, slice, reshape and take nodes. Invariant:
shapes and values are NumPy's, or an error says what is not supported (masks, several index arrays). ::

    x[::-2, None]   ->   %0 = flip(%x); %1 = slice(%0); reshape(%1)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc import provenance
from graphc.errors import AttributeRuleError, DTypeError
from graphc.ir import Node
from graphc.ops.broadcasting import lift
from graphc.ops.indexing import take_op
from graphc.ops.movement import flip_op, reshape, transpose
from graphc.ops.slicing import slice_op
from graphc.types import Dim, SymDim


def getitem(x: Node, index: Any) -> Node:
    """``x[index]``: ints, slices, ``...``, ``None``, and integer arrays or values on one axis.

    Negative numbers count from the end; slices are clipped as in NumPy. On a symbolic axis, bounds are taken as they
    are and checked when the size is known.

    Raises:
        AttributeRuleError: too many indices, an integer out of range, a second array, a bool mask.

    >>> getitem(lift([[1.0, 2.0], [3.0, 4.0]]), (..., 0)).shape
    (2,)
    """
    items = list(index) if isinstance(index, tuple) else [index]
    wanted = sum(1 for i in items if i is not None and i is not Ellipsis)
    if sum(1 for i in items if i is Ellipsis) > 1:
        raise _bad_index(x, "more than one '...'")
    if wanted > x.ndim:
        raise _bad_index(x, f"{wanted} indices for {x.ndim} axes")
    if not any(i is Ellipsis for i in items):
        items.append(Ellipsis)
    at = next(k for k, i in enumerate(items) if i is Ellipsis)
    items[at : at + 1] = [slice(None)] * (x.ndim - wanted)
    return _apply_index(x, items)


def _apply_index(x: Node, items: list[Any]) -> Node:
    starts: list[Dim] = []
    stops: list[Dim] = []
    steps: list[int] = []
    flipped: list[int] = []
    shape_plan: list[str] = []  # one word an axis of the sliced value or a new one: "keep", "drop", "new"
    picked: list[tuple[int, Node]] = []
    axis = 0
    for item in items:
        if item is None:
            shape_plan.append("new")
            continue
        n = x.shape[axis]
        if isinstance(item, slice):
            start, stop, step = _bounds(x, item, n)
            if step < 0:
                flipped.append(axis)
                step = -step
            word = "keep"
        elif isinstance(item, (int, np.integer)) and not isinstance(item, (bool, np.bool_)):
            start = _position(x, int(item), axis)
            stop, step, word = start + 1, 1, "drop"
        else:
            picked.append((axis, _index_array(x, item)))
            start, stop, step, word = 0, n, 1, "pick"
        shape_plan.append(word)
        starts.append(start)
        stops.append(stop)
        steps.append(step)
        axis += 1
    if len(picked) > 1:
        raise _bad_index(
            x, "two index arrays", "use take, take_along_axis or reshape so that one array indexes one axis"
        )
    return _reshape_plan(_slice(x, starts, stops, steps, flipped), shape_plan, picked)


def _slice(x: Node, starts: list[Dim], stops: list[Dim], steps: list[int], flipped: list[int]) -> Node:
    """Slice, where bounds of a flipped axis count on the flipped axis."""
    if flipped:
        x = flip_op(x, axes=tuple(flipped))
    if all(s == 0 for s in starts) and tuple(stops) == x.shape and all(s == 1 for s in steps):
        return x
    return slice_op(x, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))


def _reshape_plan(x: Node, plan: list[str], picked: list[tuple[int, Node]]) -> Node:
    sizes = iter(x.shape)
    shape: list[Dim] = []
    place = 0
    for word in plan:
        if word == "new":
            shape.append(1)
            continue
        d = next(sizes)
        if word == "pick":
            place = len(shape)
        if word != "drop":
            shape.append(d)
    made = reshape(x, tuple(shape))
    if not picked:
        return made
    if "drop" in plan and plan.index("pick") and _split_by_slice(plan):
        # NumPy moves the indexed axes to the front when a slice stands between an integer and an array
        made = take_op(made, picked[0][1], axis=place)
        rank = picked[0][1].ndim
        order = [*range(place, place + rank), *range(place), *range(place + rank, made.ndim)]
        return transpose(made, order)
    return take_op(made, picked[0][1], axis=place)


def _split_by_slice(plan: list[str]) -> bool:
    advanced = [k for k, word in enumerate(plan) if word in ("drop", "pick")]
    return any(plan[k] in ("keep", "new") for k in range(advanced[0], advanced[-1]))


def _bad_index(x: Node, why: str, help: str | None = None) -> AttributeRuleError:
    return AttributeRuleError(f"indexing {x.type}: {why}", source=provenance.capture(), token="[", help=help)


def _position(x: Node, i: int, axis: int) -> Dim:
    n = x.shape[axis]
    if isinstance(n, int) and not -n <= i < n:
        raise _bad_index(x, f"{i} is outside of axis {axis}, which is {n}")
    return i if i >= 0 else n + i


def _bounds(x: Node, s: slice, n: Dim) -> tuple[Dim, Dim, int]:
    step = 1 if s.step is None else s.step
    if not isinstance(step, (int, np.integer)) or step == 0:
        raise _bad_index(x, f"a slice cannot have the step {step!r}")
    for bound in (s.start, s.stop):
        if not isinstance(bound, (int, np.integer, SymDim, type(None))):
            raise _bad_index(
                x, f"a slice bound must be an int, got {type(bound).__name__}", "use take for bounds known at run time"
            )
    if isinstance(n, int) and not isinstance(s.start, SymDim) and not isinstance(s.stop, SymDim):
        start, stop, step = s.indices(n)
        if step > 0:
            return start, max(start, stop), step
        # on the flipped axis position p is n-1-p: start .. stop (exclusive, downwards) becomes n-1-start .. n-1-stop
        first = n - 1 - start
        return first, max(first, n - 1 - stop), step
    if step < 0 and (s.start is not None or s.stop is not None):
        raise _bad_index(x, "a negative step with bounds on a symbolic axis", "slice first, then flip with [::-1]")

    def place(bound: Any, default: Dim) -> Dim:
        return default if bound is None else bound if isinstance(bound, SymDim) or bound >= 0 else n + int(bound)

    return place(s.start, 0), place(s.stop, n), int(step)


def _index_array(x: Node, item: Any) -> Node:
    if isinstance(item, (bool, np.bool_)):
        raise _bad_index(x, "a bool is no index", "use graphc.where(mask, a, b)")
    node = lift(item)
    if node.dtype.kind == "bool":
        raise _bad_index(x, "a bool mask would make a shape that depends on data", "use graphc.where(mask, a, b)")
    if not node.dtype.is_integer:
        raise DTypeError(
            f"indexing {x.type}: an index must be an integer, got {node.type}", source=provenance.capture(), token="["
        )
    return node


__all__ = ["getitem"]

"""Promotion and broadcasting, made explicit: what a Python user leaves out, the graph states as cast and broadcast nodes.

What enters: operands of a DSL function (nodes, Python numbers, arrays). What leaves: nodes of one dtype and one shape.
Invariant: no silent float64, no implicit broadcast. The pair :data:`broadcast_op` / :data:`sum_op` is adjoint. ::

    x: f32[batch,3];  x + 1   ->   %0: f32[] = constant(1.0); %1: f32[batch,3] = broadcast(%0); add(x, %1)

Promotion: bool < int32 < int64 < float32 or float64. A Python number (or a NumPy float64 *scalar*) takes the dtype of
the other operand; a Python float beside integers gives float32. float32 beside float64, and uint32 beside another
integer, are errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

import graphc.ops as ops
from graphc import provenance
from graphc.errors import AttributeRuleError, DTypeError, ShapeError
from graphc.ir import Node
from graphc.ops.declare import CastTo, Custom, Movement, Reduction, Samples, Transpose, declare
from graphc.ops.sources import constant
from graphc.scalar import cast as cast_array
from graphc.types import (
    Dim,
    DType,
    Shape,
    TensorType,
    as_dtype,
    as_shape,
    bool_,
    float32,
    float64,
    int32,
    int64,
    uint32,
)  # fmt: skip

Operand: TypeAlias = "Node | bool | int | float | np.ndarray | np.generic | Sequence[Any]"

# --- cast ----------------------------------------------------------------------------------------------------------


def _cast_vjp(ct: Node, node: Node) -> tuple[Node | None, ...]:
    (x,) = node.inputs
    return (cast(ct, x.dtype),) if x.dtype.is_float and node.dtype.is_float else (None,)


def _cast_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    (x,), (t,) = node.inputs, tangents
    if t is None or not (x.dtype.is_float and node.dtype.is_float):
        return zeros_like(node)
    return cast(t, node.dtype)


def _cast_calls() -> list[Any]:
    x = np.array([-2.7, -0.0, 0.4, 3.9])
    return [((x,), {"dtype": d}) for d in (float32, float64, int32, int64, bool_)]


cast_op = declare(
    "cast",
    infer=lambda types, *, dtype: types[0].with_dtype(as_dtype(dtype)),
    reference=lambda x, *, dtype: cast_array(x, as_dtype(dtype)),
    derivative=Custom(_cast_vjp, _cast_jvp, latex=(r"{g}",)),
    lowering=CastTo(), latex=r"{0}", symbol="cast", samples=Samples(calls=_cast_calls, gradient=False),
    doc="Another element type; float to integer truncates and saturates, NaN gives 0. Gradients pass between floats only.",
)  # fmt: skip


def cast(x: Operand, dtype: Any) -> Node:
    """``x`` in another dtype (the same node if it has it already).

    >>> from graphc.ops.sources import input
    >>> str(cast(input("x", (2,)), "int32").type)
    'i32[2]'
    """
    node, to = lift(x), as_dtype(dtype)
    return node if node.dtype == to else cast_op(node, dtype=to)


# --- broadcast and sum, an adjoint pair ----------------------------------------------------------------------------


def _infer_broadcast(types: tuple[TensorType, ...], *, shape: Shape) -> TensorType:
    (x,) = types
    offset = len(shape) - x.rank
    if offset < 0:
        raise ShapeError(f"broadcast: {x} has more axes than the shape {show(shape)}")
    for axis, d in enumerate(x.shape):
        if d != 1 and d != shape[offset + axis]:
            raise ShapeError(
                f"broadcast: axis {axis} of {x} is {d}, and {shape[offset + axis]} is wanted in {show(shape)}"
            )
    return x.with_shape(shape)


def _broadcast_index(node: Node, index: tuple[Any, ...]) -> tuple[Any, ...]:
    x = node.inputs[0]
    tail = index[len(index) - x.ndim :]
    return tuple(0 if d == 1 else i for i, d in zip(tail, x.shape, strict=True))


def _broadcast_calls() -> list[Any]:
    return [(((3,),), {"shape": (2, 3)}), (((2, 1),), {"shape": (4, 2, 3)}), (((),), {"shape": (2, 2)}),
            (((1, 0),), {"shape": (2, 0)})]  # fmt: skip


broadcast_op = declare(
    "broadcast",
    infer=_infer_broadcast,
    reference=lambda x, *, shape: np.broadcast_to(x, shape).copy(),
    derivative=Transpose(lambda ct, node, i: sum_to(ct, node.inputs[0].shape), latex=(r"\textstyle\sum {g}",)),
    lowering=Movement(_broadcast_index), latex=r"{0}", symbol="broadcast", samples=Samples(calls=_broadcast_calls),
    doc="Repeat along new leading axes and along axes of size 1 (NumPy's trailing alignment).",
)  # fmt: skip


def infer_reduction(name: str, kinds: tuple[str, ...], *, empty: bool = True) -> Any:
    """Type rule of a reduction over ``axes``; ``empty`` says whether it has a value on no elements."""

    def infer(types: tuple[TensorType, ...], *, axes: tuple[int, ...]) -> TensorType:
        (x,) = types
        if x.dtype.kind not in kinds:
            raise DTypeError(
                f"{name}: is defined on {' or '.join(kinds)}, got {x.dtype}", help="convert with graphc.cast(x, dtype)"
            )
        if tuple(sorted(set(axes))) != tuple(axes) or any(not 0 <= a < x.rank for a in axes):
            raise AttributeRuleError(f"{name}: axes {tuple(axes)} do not fit rank {x.rank}")
        if not empty and any(x.shape[a] == 0 for a in axes):
            raise ShapeError(
                f"{name}: {x} has no elements along axes {tuple(axes)}, and {name} of nothing has no value"
            )
        return x.with_shape(tuple(d for a, d in enumerate(x.shape) if a not in axes))

    return infer


def reduction_calls() -> list[Any]:
    """Example calls of every reduction."""
    return [
        (((4,),), {"axes": (0,)}),
        (((3, 5),), {"axes": (1,)}),
        (((2, 3, 4),), {"axes": (0, 2)}),
        (((2, 3),), {"axes": ()}),
    ]


sum_op = declare(
    "sum",
    infer=infer_reduction("sum", ("int", "uint", "float")),
    reference=lambda x, *, axes: np.asarray(np.sum(x, axis=tuple(axes), dtype=x.dtype)),
    derivative=Transpose(
        lambda ct, node, i: restore_axes(ct, node.inputs[0].shape, node.attrs["axes"]), latex=(r"{g}\,\mathbf 1",)
    ),
    lowering=Reduction("add"), latex=r"\sum {0}", symbol="Σ", samples=Samples(calls=reduction_calls),
    doc="Sum over axes, in the operand's own dtype.",
)  # fmt: skip


def restore_axes(y: Node, shape: Shape, axes: tuple[int, ...]) -> Node:
    """Spread a reduction's result over the axes that it removed: ``y`` becomes of ``shape``."""
    kept = tuple(1 if a in axes else d for a, d in enumerate(shape))
    return broadcast_to(ops.reshape(y, kept), shape)


def sum_to(x: Node, shape: Shape) -> Node:
    """Sum over the axes along which ``shape`` was broadcast to ``x.shape``: the adjoint of broadcast."""
    if x.shape == tuple(shape):
        return x
    lead = x.ndim - len(shape)
    spread = tuple(lead + a for a, d in enumerate(shape) if d == 1 and x.shape[lead + a] != 1)
    axes = (*range(lead), *spread)
    summed = sum_op(x, axes=axes) if axes else x
    return ops.reshape(summed, shape)


def broadcast_to(x: Operand, shape: Any) -> Node:
    """``x`` repeated to ``shape`` by NumPy's rules; the same node if it has that shape.

    Raises:
        ShapeError: an axis of ``x`` is neither 1 nor the wanted size.

    >>> str(broadcast_to(constant([1.0, 2.0]), ("batch", 2)).type)
    'f32[batch,2]'
    """
    node, wanted = lift(x), as_shape(shape)
    return node if node.shape == wanted else broadcast_op(node, shape=wanted)


def broadcast_shapes(name: str, shapes: Sequence[Shape], nodes: Sequence[Node] = ()) -> Shape:
    """The common shape of several, aligned at their ends.

    Raises:
        ShapeError: two sizes differ and neither is 1.

    >>> broadcast_shapes("add", [(2, 1), (3,)])
    (2, 3)
    """
    if len(wide := {s for s in shapes if s}) <= 1:  # the same, or scalars
        return next(iter(wide), ())
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = [1] * rank
    for shape in shapes:
        for axis, d in enumerate(shape, rank - len(shape)):
            if out[axis] == 1:
                out[axis] = d
            elif d not in (1, out[axis]):
                raise ShapeError(
                    f"{name}: shapes {' and '.join(show(s) for s in shapes)} do not broadcast, "
                    f"axis {axis - rank} is {out[axis]} against {d}",
                    source=provenance.capture(), token=name, notes=operand_notes(nodes),
                    help="axes are aligned from the right; add axes of size 1 with reshape or expand_dims",
                )  # fmt: skip
    return tuple(out)


# --- promotion -----------------------------------------------------------------------------------------------------


def is_weak(value: Any) -> bool:
    """Whether a value is a plain number, whose dtype gives way to the other operand's."""
    return isinstance(value, (bool, int, float)) and not isinstance(value, Node)


def lift(value: Operand, dtype: DType | None = None) -> Node:
    """A node of a value; ``dtype`` applies to plain numbers only.

    Raises:
        DTypeError: a plain integer does not fit the dtype.
    """
    if isinstance(value, Node):
        return value
    if is_weak(value):
        number = value if isinstance(value, bool) else float(value) if isinstance(value, float) else int(value)  # type: ignore[arg-type]
        if dtype is not None and dtype.is_integer:
            info = np.iinfo(dtype.numpy)
            if not info.min <= number <= info.max:
                raise DTypeError(f"{number} does not fit {dtype}", source=provenance.capture())
        return constant(number, dtype)
    return constant(value)


def common_dtype(name: str, operands: Sequence[Any]) -> DType:
    """The dtype in which operands meet (see the module's docstring).

    Raises:
        DTypeError: float32 meets float64, or uint32 another integer.
    """
    strong = [o for o in operands if not is_weak(o)]
    dtypes = {o.dtype for o in strong if isinstance(o, Node)}
    weak = [o for o in operands if is_weak(o)]
    floats = {d for d in dtypes if d.is_float}
    if len(floats) > 1:
        raise _mixed(
            name,
            "float32 and float64",
            operands,
            "convert one with graphc.cast(x, dtype): graphc never promotes to float64",
        )
    if floats:
        return floats.pop()
    if any(isinstance(w, float) for w in weak):
        return float32
    integers = {d for d in dtypes if d.is_integer}
    if uint32 in integers and len(integers) > 1:
        raise _mixed(name, "uint32 and a signed integer", operands, "convert one with graphc.cast(x, dtype)")
    if integers:
        return int64 if int64 in integers else integers.pop()
    if any(not isinstance(w, bool) for w in weak):
        return constant(next(w for w in weak if not isinstance(w, bool))).dtype if not strong else int32
    return bool_


def _mixed(name: str, what: str, operands: Sequence[Any], help: str) -> DTypeError:
    nodes = [o for o in operands if isinstance(o, Node)]
    return DTypeError(
        f"{name}: {what} do not mix", source=provenance.capture(), token=name, notes=operand_notes(nodes), help=help
    )


def operand_notes(nodes: Sequence[Node]) -> tuple[str, ...]:
    """A line an operand for error messages: name, type, line of declaration."""
    return tuple(
        f"{n.name or f'operand {i}'}: {n.type}{f'   ({n.source.short})' if n.source else ''}"
        for i, n in enumerate(nodes)
    )


def promote(name: str, *operands: Operand, least: str = "bool") -> tuple[Node, ...]:
    """Operands as nodes of one dtype and one shape. ``least="float"`` turns integers and bools into float32 first.

    >>> [str(n.type) for n in promote("add", constant([1, 2]), 0.5)]
    ['f32[2]', 'f32[2]']
    """
    first = operands[0]
    if isinstance(first, Node) and (least != "float" or first.dtype.is_float):
        type_ = first.type
        nodes = [o for o in operands if isinstance(o, Node) and (o is first or o.type == type_)]
        if len(nodes) == len(operands):
            return tuple(nodes)
    same = promote_dtypes(name, *operands, least=least)
    shape = broadcast_shapes(name, [n.type.shape for n in same], same)
    return tuple([n if n.type.shape == shape else broadcast_op(n, shape=shape) for n in same])


def promote_dtypes(name: str, *operands: Operand, least: str = "bool") -> tuple[Node, ...]:
    """Operands as nodes of one dtype; shapes stay."""
    strong = [o.type.dtype for o in operands if isinstance(o, Node)]
    if strong and strong[0].is_float and strong.count(strong[0]) == len(strong):  # and at most plain numbers beside
        dtype, others = strong[0], [o for o in operands if not isinstance(o, Node)]
        if all(map(is_weak, others)):
            return tuple([o if isinstance(o, Node) else lift(o, dtype) for o in operands])
    lifted = [o if is_weak(o) or isinstance(o, Node) else lift(o) for o in operands]
    dtype = common_dtype(name, lifted)
    if least == "float" and not dtype.is_float:
        dtype = float32
    return tuple(cast(lift(o, dtype), dtype) for o in lifted)


def show(shape: Sequence[Dim]) -> str:
    """``[batch,3]``."""
    return f"[{','.join(str(d) for d in shape)}]"


def full_like(x: Node, value: bool | int | float) -> Node:
    """A value repeated to the type of ``x`` (no data is read).

    >>> str(full_like(constant([1.0, 2.0]), 0.5).type)
    'f32[2]'
    """
    return broadcast_to(constant(np.asarray(value).astype(x.dtype.numpy)), x.shape)


def zeros_like(x: Operand) -> Node:
    """Zeros of the type of ``x``.

    >>> zeros_like(constant(2.0)).attrs["value"].item()
    0.0
    """
    return full_like(lift(x), 0)


def ones_like(x: Operand) -> Node:
    """Ones of the type of ``x``.

    >>> ones_like(constant(2.0)).attrs["value"].item()
    1.0
    """
    return full_like(lift(x), 1)


def normal_axis(name: str, axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        AttributeRuleError: no such axis.

    >>> normal_axis("sum", -1, 3)
    2
    """
    if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool):
        raise AttributeRuleError(f"{name}: axis {axis!r} is not an integer", source=provenance.capture(), token=name)
    if not -rank <= axis < rank:
        raise AttributeRuleError(
            f"{name}: axis {axis} is outside of rank {rank}", source=provenance.capture(), token=name,
            help=f"choose an axis from {-rank} to {rank - 1}" if rank else "a scalar has no axes",
        )  # fmt: skip
    return int(axis) % rank


def normal_axes(name: str, axis: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Axes counted from the front, sorted; all of them for None.

    >>> normal_axes("sum", (-1, 0), 3)
    (0, 2)
    """
    if axis is None:
        return tuple(range(rank))
    many = (axis,) if isinstance(axis, (int, np.integer)) else tuple(axis)
    found = [normal_axis(name, a, rank) for a in many]
    if len(set(found)) != len(found):
        raise AttributeRuleError(f"{name}: an axis is named twice in {many}", source=provenance.capture(), token=name)
    return tuple(sorted(found))

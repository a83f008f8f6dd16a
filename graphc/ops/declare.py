"""How an op is declared: derivative as data, lowering as data, test domain, and helpers that register an :class:`Op`.

A declaration is the single place that says what an op means. ::

    log = elementwise("log", partials=lambda y, x: (div(one_like(x), x),), latex=r"\\log {0}", samples=Samples((1e-3, 1e3)))

Derivatives (closed sum):

- :class:`Partials` - elementwise: ``fn(y, *xs)`` gives dy/dx_i as nodes of y's shape (None: no derivative flows there).
  vjp of operand i is ``ct * partial_i``; jvp is ``sum_i tangent_i * partial_i``; pictures typeset it.
- :class:`Transpose` - linear in ``operands``. ``fn(ct, node, i)`` gives operand i's cotangent. jvp re-applies the op:
  ``joint=False`` (multilinear, as matmul): sum over operands with one tangent each; ``joint=True`` (as concatenate,
  pad, add): all tangents at once, absent ones as zeros.
- :class:`Custom` - ``vjp(ct, node) -> tuple of cotangents or None`` and ``jvp(tangents, node) -> Node``; tangents may be
  None (zero).
- :class:`Zero` - piecewise constant: the derivative is zero everywhere it exists, and graphc says so.
- :class:`NotDifferentiable` - asking for it is an error, with the reason.
- :class:`Region` - the op holds a graph, whose derivative is that of the op.

Lowerings (closed sum) say how the element at an output index is computed. Index arithmetic uses ``+ - * // %`` on
:class:`graphc.loops.index.Index` objects (and ints), so declarations need not import the loop IR:

- :class:`Elementwise` - one scalar primitive applied to the operands' elements at the same index.
- :class:`CastTo` - a cast to the node's dtype.
- :class:`Movement` - the operand's element at ``index_map(node, index)``.
- :class:`Iota` - the value of ``index[attrs['axis']]`` cast to the node's dtype.
- :class:`Literal` - a scalar constant, ``value(node)``.
- :class:`Reduction` - fold with ``combiner`` (add, mul, maximum, minimum, and, or) over ``attrs['axes']``.
- :class:`Partial` - fold the leading ``attrs['axes']`` of each of ``attrs['blocks']`` blocks of the first axis; made by the
  passes only. Its element is accumulated where the operand's element is computed.
- :class:`Contraction` - sum over fresh indices of the product of operands' elements:
  ``index_maps(node, index, contracted) -> (index of a, index of b)``, ``extents(node)`` the contracted sizes.
- :class:`Gather` - operand 0's element at ``index_map(node, index, value)`` where ``value`` is the (guarded) integer
  element of operand 1 at ``index_of(node, index)``, guarded against ``extent(node)``.
- :class:`Guarded` - the operand's integer element, guarded against ``extent(node)`` (negative counts from the end) and
  yielded in the node's dtype.
- :class:`Template` - materialised by a kernel builder of its own in ``passes/lower.py`` (pad, concatenate, scatter_add,
  cumsum); never fused into consumers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from graphc.errors import AttributeRuleError, DTypeError, ShapeError
from graphc.ir import REGISTRY, Node, Op
from graphc.scalar import PRIMITIVES
from graphc.types import TensorType, bool_

# --- derivatives ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Partials:
    fn: Callable[..., tuple[Node | None, ...]]
    latex: tuple[str, ...] = ()  # one formula an operand, {0}.. the operands and {y} the result


@dataclass(frozen=True)
class Transpose:
    fn: Callable[[Node, Node, int], Node]
    operands: tuple[int, ...] = (0,)
    joint: bool = False
    latex: tuple[str, ...] = ()  # cotangent of each operand, {g} the cotangent


@dataclass(frozen=True)
class Custom:
    vjp: Callable[[Node, Node], tuple[Node | None, ...]]
    jvp: Callable[[tuple[Node | None, ...], Node], Node | None] | None = None  # None: transpose the vjp
    latex: tuple[str, ...] = ()


@dataclass(frozen=True)
class Zero:
    reason: str = "piecewise constant"


@dataclass(frozen=True)
class NotDifferentiable:
    reason: str


@dataclass(frozen=True)
class Region:
    """An op with a graph inside (scan): differentiated by differentiating that graph, see ``passes/scans.py``."""

    latex: tuple[str, ...] = ()


Derivative: TypeAlias = Partials | Transpose | Custom | Zero | NotDifferentiable | Region

# --- lowerings -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Elementwise:
    primitive: str


@dataclass(frozen=True)
class CastTo:
    pass


@dataclass(frozen=True)
class Movement:
    index_map: Callable[[Node, tuple[Any, ...]], tuple[Any, ...]]


@dataclass(frozen=True)
class Iota:
    pass


@dataclass(frozen=True)
class Literal:
    value: Callable[[Node], Any]


@dataclass(frozen=True)
class Reduction:
    combiner: str


@dataclass(frozen=True)
class Partial:
    pass


@dataclass(frozen=True)
class Contraction:
    index_maps: Callable[[Node, tuple[Any, ...], tuple[Any, ...]], tuple[tuple[Any, ...], tuple[Any, ...]]]
    extents: Callable[[Node], tuple[int, ...]]


@dataclass(frozen=True)
class Gather:
    index_of: Callable[[Node, tuple[Any, ...]], tuple[Any, ...]]
    index_map: Callable[[Node, tuple[Any, ...], Any], tuple[Any, ...]]
    extent: Callable[[Node], int]


@dataclass(frozen=True)
class Guarded:
    extent: Callable[[Node], int]


@dataclass(frozen=True)
class Template:
    name: str


Lowering: TypeAlias = (
    Elementwise | CastTo | Movement | Iota | Literal | Reduction | Partial | Contraction | Gather | Guarded | Template
)

# --- test domain ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples:
    """Where an op is tested: an interval for each operand (the last repeats), kinks to stay away from, example calls.

    Attributes:
        domain: (low, high) for operands of real values; sampled log-uniformly where both ends have one sign and are far apart.
        avoid: points near which finite differences are meaningless (kinks), kept at distance 1e-2.
        calls: ``calls() -> iterable of (tuple of shapes or arrays, attrs)``; defaults for elementwise ops.
        gradient: whether finite differences are defined on the domain.
        second_order: whether the second derivative is checked as well.
    """

    domain: tuple[tuple[float, float], ...] = ((-3.0, 3.0),)
    avoid: tuple[float, ...] = ()
    calls: Callable[[], Any] | None = None
    gradient: bool = True
    second_order: bool = True


# --- type rules and constructors -----------------------------------------------------------------------------------


def same_types(name: str, types: tuple[TensorType, ...]) -> TensorType:
    """Type rule of elementwise ops: all operands have one dtype and one shape (the DSL has broadcast them)."""
    first = types[0]
    for i, t in enumerate(types[1:], 1):
        if t is first:
            continue
        if t.dtype is not first.dtype and t.dtype != first.dtype:
            raise DTypeError(f"{name}: dtypes differ, {first.dtype} against {t.dtype} (operand {i})")
        if t.shape != first.shape:
            raise ShapeError(f"{name}: shapes differ, {first} against {t} (operand {i})")
    return first


def elementwise(
    name: str, *, partials: Callable[..., tuple[Node | None, ...]] | None = None, zero: str = "", latex: str = "",
    symbol: str = "", samples: Samples | None = None, partial_latex: tuple[str, ...] = (), doc: str = "",
    primitive: str = "", derivative: Derivative | None = None,
) -> Op:  # fmt: skip
    """Declare an op that applies one scalar primitive to every element.

    ``partials`` or ``zero`` (the reason) or ``derivative`` gives the derivative.
    """
    row = PRIMITIVES[primitive or name]

    def infer(types: tuple[TensorType, ...], **attrs: Any) -> TensorType:
        if attrs:
            raise AttributeRuleError(f"{name}: has no attribute {', '.join(attrs)}")
        if len(types) != row.arity:
            raise ShapeError(f"{name}: takes {row.arity} operands, got {len(types)}")
        checked = types
        if row.signature == "select":
            if types[0].dtype != bool_:
                raise DTypeError(f"{name}: the condition must be bool, got {types[0].dtype}")
            checked = types[1:]
            if types[0].shape != types[1].shape:
                raise ShapeError(f"{name}: shapes differ, {types[0]} against {types[1]}")
        out = same_types(name, checked)
        if out.dtype.kind not in row.kinds:
            wanted = " or ".join(row.kinds)
            raise DTypeError(f"{name}: is defined on {wanted}, got {out.dtype}", help="convert with graphc.cast(x, dtype)")
        return out.with_dtype(row.result(*(t.dtype for t in types)))

    def reference(*arrays: Any, **attrs: Any) -> Any:
        dtype = np.bool_ if row.signature in ("compare", "test") else arrays[-1].dtype
        return np.asarray(row.numpy(*arrays)).astype(dtype, copy=False)

    if derivative is None:
        derivative = Partials(partials, partial_latex) if partials else Zero(zero or "piecewise constant")
    return REGISTRY.register(
        Op(
            name, infer, reference, derivative=derivative, lowering=Elementwise(primitive or name), latex=latex,
            symbol=symbol, samples=samples or Samples(), doc=doc,
        )
    )  # fmt: skip


def declare(name: str, **fields: Any) -> Op:
    """Declare and register any other op (see :class:`graphc.ir.Op` for the fields)."""
    fields.setdefault("samples", Samples())
    return REGISTRY.register(Op(name, **fields))


def composite(name: str, expand: Callable[..., Node], *, reference: Callable[..., Any] | None = None, **fields: Any) -> Op:
    """Declare an op that means its expansion: ``expand(*inputs, **attrs) -> Node`` in primitives.

    Its type rule is the expansion's type (found by building it on placeholder operands), its derivative that of the
    expansion unless ``derivative=`` gives a better one. ``reference`` defaults to interpreting the expansion.
    """

    def infer(types: tuple[TensorType, ...], **attrs: Any) -> TensorType:
        from_types = tuple(placeholder(t, f"operand{i}") for i, t in enumerate(types))
        return expand(*from_types, **attrs).type

    fields.setdefault("samples", Samples())
    op = Op(name, fields.pop("infer", infer), reference or _unset, expand=expand, **fields)
    if reference is None:
        op = replace(op, reference=lambda *arrays, **attrs: interpret_expansion(op, arrays, attrs))
    return REGISTRY.register(op)


def _unset(*arrays: Any, **attrs: Any) -> Any:
    raise AssertionError("replaced in composite()")


def placeholder(type_: TensorType, name: str) -> Node:
    """An input node of a type, for type inference and for building a composite's expansion."""
    return Node(REGISTRY["input"], (), {"name": name, "type": type_}, type_, name=name)


def interpret_expansion(op: Op, arrays: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
    """The value of a composite's expansion on arrays (a small evaluator; composites may nest)."""
    from graphc.ir import topological
    from graphc.types import as_dtype

    assert op.expand is not None
    inputs = tuple(
        placeholder(TensorType(as_dtype(np.asarray(a).dtype), np.asarray(a).shape), f"operand{i}")
        for i, a in enumerate(arrays)
    )
    root = op.expand(*inputs, **attrs)
    values: dict[Node, Any] = dict(zip(inputs, arrays, strict=True))
    for node in topological((root,)):
        if node not in values:
            values[node] = node.op.reference(*(values[i] for i in node.inputs), **node.attrs)
    return values[root]

"""Products that sum: matmul, dot, einsum.

What enters: float or integer operands. What leaves: their contraction. The primitive is a batched matrix product in
which either operand may be read transposed, so that adjoints are again matmuls and nothing is moved in memory. ::

    %2: f32[batch,10] = matmul(%x, %w) {transpose_a=False, transpose_b=False}
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

import graphc.ops as ops
from graphc import provenance
from graphc.errors import AttributeRuleError, DTypeError, ShapeError
from graphc.ir import Node
from graphc.ops.broadcasting import Operand, broadcast_shapes, broadcast_to, operand_notes, promote_dtypes, show, sum_op
from graphc.ops.declare import Contraction, Samples, Transpose, declare
from graphc.ops.movement import expand_dims, reshape, squeeze, transpose
from graphc.types import Dim, Shape, TensorType


def _matrix(t: TensorType, flipped: bool) -> tuple[Dim, Dim]:
    rows, columns = t.shape[-2:]
    return (columns, rows) if flipped else (rows, columns)


def _infer_matmul(types: tuple[TensorType, ...], *, transpose_a: bool, transpose_b: bool) -> TensorType:
    a, b = types
    if a.dtype != b.dtype:
        raise DTypeError(f"matmul: dtypes differ, {a.dtype} against {b.dtype}")
    if a.dtype.kind == "bool":
        raise DTypeError("matmul: is defined on numbers, got bool", help="convert with graphc.cast(x, dtype)")
    if a.rank < 2 or b.rank < 2:
        raise ShapeError(f"matmul: operands need two axes at least, got {a} and {b}")
    if a.shape[:-2] != b.shape[:-2]:
        raise ShapeError(f"matmul: batch axes differ, {show(a.shape[:-2])} against {show(b.shape[:-2])}")
    (m, ka), (kb, n) = _matrix(a, transpose_a), _matrix(b, transpose_b)
    if ka != kb:
        raise ShapeError(f"matmul: contracted axes differ, {ka} against {kb}")
    return a.with_shape((*a.shape[:-2], m, n))


def _matmul(a: Any, b: Any, *, transpose_a: bool, transpose_b: bool) -> Any:
    a = np.swapaxes(a, -1, -2) if transpose_a else a
    b = np.swapaxes(b, -1, -2) if transpose_b else b
    with np.errstate(all="ignore"):
        return np.matmul(a, b).astype(a.dtype, copy=False)


def _matmul_transpose(g: Node, node: Node, i: int) -> Node:
    a, b = node.inputs
    match i, node.attrs["transpose_a"], node.attrs["transpose_b"]:
        case 0, False, tb:
            return matmul_op(g, b, transpose_a=False, transpose_b=not tb)
        case 0, True, tb:
            return matmul_op(b, g, transpose_a=tb, transpose_b=True)
        case _, ta, False:
            return matmul_op(a, g, transpose_a=not ta, transpose_b=False)
        case _, ta, _:
            return matmul_op(g, a, transpose_a=True, transpose_b=ta)


def _matmul_index(
    node: Node, index: tuple[Any, ...], contracted: tuple[Any, ...]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    *batch, i, j = index
    (k,) = contracted
    a = (*batch, k, i) if node.attrs["transpose_a"] else (*batch, i, k)
    b = (*batch, j, k) if node.attrs["transpose_b"] else (*batch, k, j)
    return a, b


def _matmul_calls() -> list[Any]:
    def call(a: Shape, b: Shape, ta: bool = False, tb: bool = False) -> Any:
        return (a, b), {"transpose_a": ta, "transpose_b": tb}

    return [call((2, 3), (3, 4)), call((3, 2), (3, 4), True), call((2, 3), (4, 3), False, True), call((3, 2), (4, 3), True, True),
            call((2, 3, 4), (2, 4, 2)), call((2, 0), (0, 3)), call((0, 3), (3, 2)), call((2, 3, 1),
            (2, 2, 3), True, True)]  # fmt: skip


matmul_op = declare(
    "matmul", infer=_infer_matmul, reference=_matmul,
    derivative=Transpose(_matmul_transpose, operands=(0, 1), latex=(r"{g}\,{1}^\top", r"{0}^\top {g}")),
    lowering=Contraction(_matmul_index, lambda node: (int(_matrix(node.inputs[0].type, node.attrs["transpose_a"])[1]),)),  # type: ignore[arg-type]
    latex=r"{0}\,{1}", symbol="@", samples=Samples(((-2.0, 2.0), (-2.0, 2.0)), calls=_matmul_calls),
    doc="Batched matrix product; either operand may be read transposed.",
)  # fmt: skip


def matmul(a: Operand, b: Operand) -> Node:
    """Matrix product with NumPy's rules: 1-d operands are rows or columns, leading axes are batches and broadcast.

    Raises:
        ShapeError: the contracted axes differ, or an operand is a scalar.

    >>> matmul(np.ones((5, 2, 3), "f4"), np.ones((3, 4), "f4")).shape
    (5, 2, 4)
    """
    x, y = promote_dtypes("matmul", a, b)
    if x.ndim == 0 or y.ndim == 0:
        raise ShapeError(f"matmul: a scalar cannot be contracted, got {x.type} and {y.type}", source=provenance.capture(),
                         token="matmul", notes=operand_notes((x, y)), help="multiply with *")  # fmt: skip
    inner = x.shape[-1], y.shape[-2] if y.ndim > 1 else y.shape[0]
    if inner[0] != inner[1]:
        raise _contracted(x, y, *inner)
    row, column = x.ndim == 1, y.ndim == 1
    x = expand_dims(x, 0) if row else x
    y = expand_dims(y, 1) if column else y
    result = _batched(x, y)
    return squeeze(result, [axis for axis, gone in ((-2, row), (-1, column)) if gone]) if row or column else result


def _contracted(x: Node, y: Node, a: Dim, b: Dim) -> ShapeError:
    def note(node: Node, axis: int, label: str) -> str:
        where = f"   ({node.source.short})" if node.source else ""
        return f"{node.name or label}: {node.type}  axis {axis} is {node.shape[axis]}{where}"

    axis = y.ndim - 2 if y.ndim > 1 else 0
    wanted = y.type.with_shape((*y.shape[:axis], a, *y.shape[axis + 1 :]))
    return ShapeError(
        f"matmul: contracted axes differ, {a} against {b}", source=provenance.capture(), token="matmul",
        notes=(note(x, x.ndim - 1, "operand 0"), note(y, axis, "operand 1")),
        help=f"{y.name or 'operand 1'} must be {wanted}, or transpose an operand",
    )  # fmt: skip


def _batched(x: Node, y: Node) -> Node:
    """Batches made equal; a batch on the left alone is folded into the rows: one large product."""
    if y.ndim == 2 and x.ndim > 2:
        rows: Dim = 1
        for d in x.shape[:-1]:
            rows = rows * d
        flat = matmul_op(reshape(x, (rows, x.shape[-1])), y, transpose_a=False, transpose_b=False)
        return reshape(flat, (*x.shape[:-1], y.shape[-1]))
    batch = broadcast_shapes("matmul", [x.shape[:-2], y.shape[:-2]], (x, y))
    x = broadcast_to(x, (*batch, *x.shape[-2:]))
    y = broadcast_to(y, (*batch, *y.shape[-2:]))
    return matmul_op(x, y, transpose_a=False, transpose_b=False)


def dot(a: Operand, b: Operand) -> Node:
    """NumPy's dot for up to two axes each: inner product, matrix-vector or matrix product; a scalar multiplies.

    >>> dot(np.ones(3, "f4"), np.ones(3, "f4")).shape
    ()
    """
    x, y = promote_dtypes("dot", a, b)
    if x.ndim == 0 or y.ndim == 0:
        return ops.mul(x, y)
    if x.ndim > 2 or y.ndim > 2:
        raise ShapeError(f"dot: takes up to two axes each, got {x.type} and {y.type}", source=provenance.capture(), token="dot",
                         help="use matmul for batches, einsum for other contractions")  # fmt: skip
    return matmul(x, y)


def outer(a: Operand, b: Operand) -> Node:
    """All products of the elements of two vectors.

    >>> outer(np.ones(3, "f4"), np.ones(2, "f4")).shape
    (3, 2)
    """
    x, y = promote_dtypes("outer", a, b)
    return ops.mul(reshape(x, (-1, 1)), reshape(y, (1, -1)))


# --- einsum --------------------------------------------------------------------------------------------------------


def einsum(equation: str, *operands: Operand) -> Node:
    """Einstein's summation, NumPy's notation with explicit or implied output and ``...``, as transposes and matmuls.

    Operands are contracted from left to right. Labels that no later operand and not the output needs are summed away.

    Raises:
        AttributeRuleError: the equation is malformed, or repeats a label within one operand (a diagonal).
        ShapeError: a label stands for two sizes.

    >>> einsum("bij,bjk->bik", np.ones((5, 2, 3), "f4"), np.ones((5, 3, 4), "f4")).shape
    (5, 2, 4)
    """
    nodes = promote_dtypes("einsum", *operands)
    terms, out = _parse_equation(equation, nodes)
    sizes = _label_sizes(equation, terms, nodes)
    parts = [_drop_ones(n, t, sizes) for n, t in zip(nodes, terms, strict=True)]
    value, labels = parts[0]
    for position, (other, more) in enumerate(parts[1:], 1):
        needed = set(out).union(*(t for _, t in parts[position + 1 :]))
        value, labels = _sum_away(value, labels, needed | set(more))
        other, more = _sum_away(other, more, needed | set(labels))
        value, labels = _contract(value, labels, other, more, needed)
    value, labels = _sum_away(value, labels, set(out))
    missing = [c for c in out if c not in labels]  # size-1 everywhere, or broadcast in the output
    value = reshape(value, (*(1 for _ in missing), *value.shape))
    labels = "".join(missing) + labels
    value = transpose(value, [labels.index(c) for c in out])
    return broadcast_to(value, tuple(sizes[c] for c in out))


def _bad(equation: str, why: str) -> AttributeRuleError:
    return AttributeRuleError(f"einsum: {equation!r}: {why}", source=provenance.capture(), token="einsum")


def _parse_equation(equation: str, nodes: Sequence[Node]) -> tuple[list[str], str]:
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(nodes):
        raise _bad(equation, f"{len(terms)} terms for {len(nodes)} operands")
    used = set(text)
    spare = [c for c in string.ascii_letters if c not in used]
    widest = 0
    for k, (term, node) in enumerate(zip(terms, nodes, strict=True)):
        plain = term.replace("...", "", 1)
        if not all(c in string.ascii_letters for c in plain):
            raise _bad(equation, f"term {term!r} has a label that is no letter")
        if len(set(plain)) != len(plain):
            raise _bad(equation, f"term {term!r} repeats a label; diagonals are not supported")
        hidden = node.ndim - len(plain)
        if hidden < 0 or (hidden and "..." not in term):
            raise _bad(equation, f"term {term!r} has {len(plain)} labels for an operand {node.type}")
        widest = max(widest, hidden)
        terms[k] = term.replace("...", "".join(spare[widest_label(hidden)]), 1) if "..." in term else term
    dots = "".join(reversed(spare[:widest]))
    if not arrow:
        letters = "".join(t for t in terms)
        right = "..." + "".join(sorted(c for c in set(letters) - set(dots) if letters.count(c) == 1))
    out = right.replace("...", dots, 1)
    if not all(c in string.ascii_letters for c in out) or len(set(out)) != len(out):
        raise _bad(equation, f"output {right!r} is malformed")
    unknown = set(out) - set("".join(terms))
    if unknown:
        raise _bad(equation, f"output label {sorted(unknown)[0]!r} is in no operand")
    return terms, out


def widest_label(hidden: int) -> slice:
    """Labels of ``hidden`` axes under ``...``: the last axis takes the first spare letter, so that axes align at the end.

    >>> "xyz"[widest_label(2)]
    'yx'
    """
    return slice(hidden - 1, None, -1) if hidden else slice(0, 0)


def _label_sizes(equation: str, terms: Sequence[str], nodes: Sequence[Node]) -> dict[str, Dim]:
    sizes: dict[str, Dim] = {}
    for term, node in zip(terms, nodes, strict=True):
        for label, d in zip(term, node.shape, strict=True):
            known = sizes.setdefault(label, d)
            if known == 1:
                sizes[label] = d
            elif d not in (1, known):
                raise ShapeError(f"einsum: {equation!r}: label {label!r} is {known} and {d}", source=provenance.capture(),
                                 token="einsum", notes=operand_notes(nodes))  # fmt: skip
    return sizes


def _drop_ones(node: Node, term: str, sizes: dict[str, Dim]) -> tuple[Node, str]:
    """Axes of size 1 that stand for a larger size elsewhere are dropped: they broadcast by being absent."""
    gone = [a for a, c in enumerate(term) if node.shape[a] == 1 and sizes[c] != 1]
    return (squeeze(node, gone) if gone else node), "".join(c for a, c in enumerate(term) if a not in gone)


def _sum_away(node: Node, term: str, needed: set[str]) -> tuple[Node, str]:
    axes = tuple(a for a, c in enumerate(term) if c not in needed)
    return (sum_op(node, axes=axes) if axes else node), "".join(c for c in term if c in needed)


def _contract(x: Node, a: str, y: Node, b: str, needed: set[str]) -> tuple[Node, str]:
    """The product of two terms, summed over the labels that both have and nobody needs."""
    both = [c for c in a if c in b]
    contracted = "".join(c for c in both if c not in needed)
    batch = "".join(c for c in both if c in needed)
    rows, columns = ("".join(c for c in t if c not in both) for t in (a, b))
    x = transpose(x, [a.index(c) for c in batch + rows + contracted])
    y = transpose(y, [b.index(c) for c in batch + contracted + columns])
    nb, nr, nk = len(batch), len(rows), len(contracted)
    outer_shape = (*x.shape[: nb + nr], *y.shape[nb + nk :])
    if not contracted:
        spread = reshape(x, (*x.shape, *(1 for _ in columns)))
        return ops.mul(spread, reshape(y, (*y.shape[:nb], *(1 for _ in rows), *y.shape[nb:]))), batch + rows + columns
    k = x.type.with_shape(x.shape[nb + nr :]).size
    m = x.type.with_shape(x.shape[nb : nb + nr]).size
    n = y.type.with_shape(y.shape[nb + nk :]).size
    left = reshape(x, (*x.shape[:nb], m, k))
    right = reshape(y, (*y.shape[:nb], k, n))
    product = matmul_op(left, right, transpose_a=False, transpose_b=False)
    return reshape(product, outer_shape), batch + rows + columns


__all__ = ["dot", "einsum", "matmul", "outer"]

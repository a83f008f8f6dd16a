r"""scaled_dot_product_attention as a composite with its own derivative.

What enters: queries ``[..., t, d]``, keys ``[..., s, d]``, values ``[..., s, e]``, and perhaps a mask. What leaves: for each query
the mean of the values, weighted by how well their keys agree with it, ``[..., t, e]``. Invariants: with ``causal`` a query sees the keys
up to its own place (the last query is the last key); a weight that the mask takes away is 0 exactly, also in the gradient; the
derivative is written with the forward's own weights, so that equal subexpressions meet. ::

    weights = softmax(q k^T * scale)        attention = weights v

Source: Vaswani et al., "Attention is all you need" (2017), equation 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import graphc.ops as ops
from graphc import provenance
from graphc.errors import DTypeError, ShapeError
from graphc.ir import Node
from graphc.ops import attention_blocks as blocks
from graphc.ops.broadcasting import Operand, broadcast_to, lift, promote_dtypes, show
from graphc.ops.classification import softmax_op
from graphc.ops.contractions import matmul_op
from graphc.ops.declare import Custom, Samples, composite
from graphc.ops.indexing import iota_op
from graphc.types import TensorType, bool_, int32


def _infer(types: tuple[TensorType, ...], *, causal: bool, scale: float, chunk: int = blocks.CHUNK) -> TensorType:
    if len(types) not in (3, 4):
        raise ShapeError(f"attention: takes queries, keys, values and perhaps a mask, got {len(types)} operands")
    q, k, v = types[:3]
    if not q.dtype.is_float or {k.dtype, v.dtype} != {q.dtype}:
        raise DTypeError(f"attention: is defined on floats of one kind, got {q}, {k}, {v}")
    if q.rank < 2 or k.rank != q.rank or v.rank != q.rank:
        raise ShapeError(f"attention: operands need [..., length, features], got {q}, {k}, {v}")
    if k.shape[:-2] != q.shape[:-2] or v.shape[:-2] != q.shape[:-2]:
        raise ShapeError(f"attention: leading axes differ: {show(q.shape[:-2])}, {show(k.shape[:-2])}, {show(v.shape[:-2])}")
    if k.shape[-1] != q.shape[-1]:
        raise ShapeError(f"attention: queries have {q.shape[-1]} features, keys {k.shape[-1]}")
    if v.shape[-2] != k.shape[-2]:
        raise ShapeError(f"attention: there are {k.shape[-2]} keys and {v.shape[-2]} values")
    if k.shape[-2] == 0:
        raise ShapeError("attention: there are no keys to attend to")
    scores = (*q.shape[:-1], k.shape[-2])
    if len(types) == 4 and (types[3].dtype != bool_ or types[3].shape != scores):
        raise ShapeError(f"attention: the mask must be bool{show(scores)}, got {types[3]}")
    return q.with_shape((*q.shape[:-1], v.shape[-1]))


def _weights(q: Node, k: Node, mask: Node | None, causal: bool, scale: float) -> Node:
    """softmax of the masked scores, ``[..., t, s]``."""
    scores = ops.mul(matmul_op(q, k, transpose_a=False, transpose_b=True), scale)
    allowed = mask
    if causal:
        t, s = scores.shape[-2:]
        rows = iota_op(shape=scores.shape, axis=scores.ndim - 2, dtype=int32)
        columns = iota_op(shape=scores.shape, axis=scores.ndim - 1, dtype=int32)
        if t != s:  # the last query stands at the last key
            rows = ops.add(rows, ops.sub(ops.size(s, "int32"), ops.size(t, "int32")))
        past = ops.ge(rows, columns)
        allowed = past if mask is None else ops.logical_and(mask, past)
    if allowed is not None:
        scores = ops.where(allowed, scores, -math.inf)
    return softmax_op(scores, axis=scores.ndim - 1)


def _attention(
    q: Node, k: Node, v: Node, mask: Node | None = None, *, causal: bool, scale: float, chunk: int = blocks.CHUNK
) -> Node:
    if mask is None:
        cuts = blocks.pieces(q.shape[-2], k.shape[-2], causal, chunk)
        if cuts:
            return blocks.in_pieces(q, k, v, cuts, lambda *piece: _attend(*piece, causal=True, scale=scale))
        return _attend(q, k, v, causal=causal, scale=scale)
    return _whole(q, k, v, mask, causal=causal, scale=scale)


def _attend(q: Node, k: Node, v: Node, *, causal: bool, scale: float) -> Node:
    """Attention of one piece: whole rows of scores, or blocks of keys where they are long."""
    size = blocks.block_of(k.shape[-2]) if q.type.is_static else 0
    if size:
        return blocks.streamed(q, k, v, causal=causal, scale=scale, size=size)
    return _whole(q, k, v, None, causal=causal, scale=scale)


def _whole(q: Node, k: Node, v: Node, mask: Node | None, *, causal: bool, scale: float) -> Node:
    return matmul_op(_weights(q, k, mask, causal, scale), v, transpose_a=False, transpose_b=False)


def _gradients(q: Node, k: Node, v: Node, out: Node, ct: Node, *, causal: bool, scale: float) -> tuple[Node, Node, Node]:
    """Cotangents of one piece without a mask."""
    size = blocks.block_of(k.shape[-2]) if q.type.is_static else 0
    if size:
        return blocks.streamed_gradients(q, k, v, out, ct, causal=causal, scale=scale, size=size)
    return _whole_gradients(_weights(q, k, None, causal, scale), q, k, v, ct, scale)


def _whole_gradients(weights: Node, q: Node, k: Node, v: Node, ct: Node, scale: float) -> tuple[Node, Node, Node]:
    d_v = matmul_op(weights, ct, transpose_a=True, transpose_b=False)
    d_weights = matmul_op(ct, v, transpose_a=False, transpose_b=True)
    d_scores = ops.mul(_through_softmax(weights, d_weights), scale)
    d_q = matmul_op(d_scores, k, transpose_a=False, transpose_b=False)
    d_k = matmul_op(d_scores, q, transpose_a=True, transpose_b=False)
    return d_q, d_k, d_v


def _parts(node: Node) -> tuple[Node, Node, Node, Node]:
    q, k, v = node.inputs[:3]
    mask = node.inputs[3] if len(node.inputs) == 4 else None
    return q, k, v, _weights(q, k, mask, node.attrs["causal"], node.attrs["scale"])


def _through_softmax(weights: Node, change: Node) -> Node:
    """softmax's Jacobian applied to a change of the weights' side; symmetric."""
    along = ops.sum(ops.mul(weights, change), axis=-1, keepdims=True)
    return ops.mul(weights, ops.sub(change, broadcast_to(along, weights.shape)))


def _vjp(ct: Node, node: Node) -> tuple[Node | None, ...]:
    causal, scale = node.attrs["causal"], node.attrs["scale"]
    if len(node.inputs) == 4:
        q, k, v, weights = _parts(node)
        return (*_whole_gradients(weights, q, k, v, ct, scale), None)
    q, k, v = node.inputs
    cuts = blocks.pieces(q.shape[-2], k.shape[-2], causal)
    if cuts:
        return blocks.gradients_in_pieces(
            q, k, v, node, ct, cuts, lambda *piece: _gradients(*piece, causal=True, scale=scale)
        )
    return _gradients(q, k, v, node, ct, causal=causal, scale=scale)


def _jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    q, k, v, weights = _parts(node)
    d_q, d_k, d_v = tangents[:3]
    total: Node | None = None

    def add(term: Node) -> None:
        nonlocal total
        total = term if total is None else ops.add(total, term)

    for a, b in ((d_q, k), (q, d_k)):
        if a is not None and b is not None:
            change = ops.mul(matmul_op(a, b, transpose_a=False, transpose_b=True), node.attrs["scale"])
            add(matmul_op(_through_softmax(weights, change), v, transpose_a=False, transpose_b=False))
    if d_v is not None:
        add(matmul_op(weights, d_v, transpose_a=False, transpose_b=False))
    return total if total is not None else ops.zeros_like(node)


def _calls() -> list[Any]:
    def call(q: Any, k: Any, v: Any, causal: bool, scale: float = 0.5) -> Any:
        return (q, k, v), {"causal": causal, "scale": scale}

    mask = np.array([[True, False, True], [True, True, False]])
    return [
        call((3, 2), (4, 2), (4, 3), False), call((2, 3, 4), (2, 3, 4), (2, 3, 4), True), call((2, 2), (4, 2), (4, 1), True),
        (((2, 3), (3, 3), (3, 2), mask), {"causal": False, "scale": 1.0}),
    ]  # fmt: skip


attention_op = composite(
    "attention", _attention, infer=_infer,
    derivative=Custom(_vjp, _jvp, latex=(
        r"\bar{{S}}\,{1}", r"\bar{{S}}^\top {0}", r"P^\top {g}",
    )),
    latex=r"\operatorname{{softmax}}\big({0}\,{1}^\top\!/\sqrt d\big)\,{2}", symbol="attention", samples=Samples(calls=_calls),
    doc="Scaled dot-product attention.",
)  # fmt: skip


def scaled_dot_product_attention(
    q: Operand, k: Operand, v: Operand, *, causal: bool = False, mask: Operand | None = None, scale: float | None = None
) -> Node:
    """``softmax(q k^T * scale) v``: ``[..., t, d], [..., s, d], [..., s, e] -> [..., t, e]``.

    Args:
        causal: query i sees keys up to ``i + s - t``, so that with as many queries as keys none sees the future.
        mask: bool, True where a query may see a key; broadcast to ``[..., t, s]``. A query that sees nothing gives NaN.
        scale: 1 / sqrt(d) unless given.

    Raises:
        DTypeError: not floats of one kind, or a mask that is not bool. ShapeError: shapes do not fit.

    Source: Vaswani et al., "Attention is all you need" (2017), equation 1.

    >>> q = ops.input("q", ("batch", 4, 8, 16))
    >>> str(scaled_dot_product_attention(q, q, q, causal=True).type)
    'f32[batch,4,8,16]'
    """
    queries, keys, values = promote_dtypes("attention", q, k, v)
    features = queries.shape[-1] if queries.ndim else 1
    if scale is None:
        if not isinstance(features, int):
            raise ShapeError(
                f"attention: the features of {queries.type} are symbolic", source=provenance.capture(),
                help="give scale=, or declare the features by a number",
            )  # fmt: skip
        scale = 1.0 / math.sqrt(max(features, 1))
    operands = [queries, keys, values]
    if mask is not None and queries.ndim >= 2 and keys.ndim >= 2:
        allowed = lift(mask)
        if allowed.dtype != bool_:
            raise DTypeError(
                f"attention: the mask must be bool, got {allowed.type}", source=provenance.capture(),
                help="compare first: mask=weights > 0",
            )  # fmt: skip
        operands.append(broadcast_to(allowed, (*queries.shape[:-1], keys.shape[-2])))
    return attention_op(*operands, causal=bool(causal), scale=float(scale))

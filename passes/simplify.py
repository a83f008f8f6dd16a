"""Simplify: algebraic identities, written as the graph code that they rewrite.

What enters: any graph. What leaves: a graph that computes the same, with fewer or cheaper nodes. Every rule of :data:`EXACT` is
bit-identical, also on NaN, infinities and -0.0; the rules of :data:`REAL` hold over the reals only and are applied on request
(``RewritePass("simplify", EXACT + REAL)``). ::

    neg(neg(x)) -> x      mul(x, 1) -> x      transpose(transpose(x)) -> x      where(c, x, x) -> x

Every rewrite removes a node, or replaces one by a cheaper one, so rewriting ends.
"""

from __future__ import annotations

import graphc.ops as ops
from graphc.ir import REGISTRY, Node
from graphc.patterns import Rewrite, Rule, literal, rule
from graphc.rewrite import RewritePass
from graphc.types import int64


def _floats(root: Node) -> bool:
    return root.dtype.is_float


def _integers(root: Node) -> bool:
    return root.dtype.is_integer


# --- arithmetic ----------------------------------------------------------------------------------------------------


@rule("exact")
def neg_neg(x: Node) -> Rewrite:
    return ops.neg(ops.neg(x)), x


@rule("exact")
def mul_one(x: Node) -> Rewrite:
    return ops.mul(x, 1.0), x


@rule("exact")
def mul_minus_one(x: Node) -> Rewrite:
    return ops.mul(x, -1.0), ops.neg(x)


@rule("exact")
def div_one(x: Node) -> Rewrite:
    return ops.div(x, 1.0), x


@rule("exact")
def sub_zero(x: Node) -> Rewrite:
    return ops.sub(x, 0.0), x


@rule("exact", when=_floats)
def add_minus_zero(x: Node) -> Rewrite:
    return ops.add(x, -0.0), x


@rule("exact", types={"x": "i32"}, when=_integers)
def integer_add_zero(x: Node) -> Rewrite:
    return ops.add(x, 0), x


@rule("exact", types={"x": "i32"}, when=_integers)
def integer_mul_zero(x: Node) -> Rewrite:
    return ops.mul(x, 0), 0


@rule("exact")
def add_negated(x: Node, y: Node) -> Rewrite:
    return ops.add(x, ops.neg(y)), ops.sub(x, y)


@rule("exact")
def sub_negated(x: Node, y: Node) -> Rewrite:
    return ops.sub(x, ops.neg(y)), ops.add(x, y)


@rule("exact")
def mul_negated(x: Node, y: Node) -> Rewrite:
    return ops.mul(ops.neg(x), ops.neg(y)), ops.mul(x, y)


@rule("exact")
def div_negated(x: Node, y: Node) -> Rewrite:
    return ops.div(ops.neg(x), ops.neg(y)), ops.div(x, y)


@rule("exact")
def abs_of_neg(x: Node) -> Rewrite:
    return ops.abs(ops.neg(x)), ops.abs(x)


@rule("exact")
def abs_of_abs(x: Node) -> Rewrite:
    return ops.abs(ops.abs(x)), ops.abs(x)


@rule("exact")
def maximum_of_itself(x: Node) -> Rewrite:
    return ops.maximum(x, x), x


@rule("exact")
def minimum_of_itself(x: Node) -> Rewrite:
    return ops.minimum(x, x), x


@rule("exact", on="pow")
def pow_one(node: Node) -> Node | None:
    """pow(x, 1) -> x"""
    exponent = literal(node.inputs[1])
    return node.inputs[0] if exponent is not None and exponent == 1 else None


# --- choosing ------------------------------------------------------------------------------------------------------


@rule("exact", types={"c": "bool"})
def where_same(c: Node, x: Node) -> Rewrite:
    return ops.where(c, x, x), x


@rule("exact", types={"c": "bool"})
def where_not(c: Node, x: Node, y: Node) -> Rewrite:
    return ops.where(ops.logical_not(c), x, y), ops.where(c, y, x)


@rule("exact", types={"c": "bool"})
def where_twice(c: Node, x: Node, y: Node, z: Node) -> Rewrite:
    return ops.where(c, ops.where(c, x, y), z), ops.where(c, x, z)


@rule("exact", types={"c": "bool"})
def where_twice_else(c: Node, x: Node, y: Node, z: Node) -> Rewrite:
    return ops.where(c, x, ops.where(c, y, z)), ops.where(c, x, z)


@rule("exact", on="where")
def where_known(node: Node) -> Node | None:
    """where(True, x, y) -> x"""
    known = literal(node.inputs[0])
    return None if known is None else node.inputs[1 if known else 2]


@rule("exact", types={"c": "bool"})
def not_not(c: Node) -> Rewrite:
    return ops.logical_not(ops.logical_not(c)), c


@rule("exact", types={"c": "bool"})
def and_itself(c: Node) -> Rewrite:
    return ops.logical_and(c, c), c


@rule("exact", types={"c": "bool"})
def or_itself(c: Node) -> Rewrite:
    return ops.logical_or(c, c), c


# --- movement ------------------------------------------------------------------------------------------------------


@rule("exact", on="transpose")
def transpose_identity(node: Node) -> Node | None:
    """transpose(x) that moves no axis -> x"""
    return node.inputs[0] if tuple(node.attrs["axes"]) == tuple(range(node.ndim)) else None


@rule("exact", on="transpose")
def transpose_transpose(node: Node) -> Node | None:
    """transpose(transpose(x)) -> transpose(x)"""
    inner = node.inputs[0]
    if inner.op.name != "transpose":
        return None
    axes = tuple(inner.attrs["axes"][a] for a in node.attrs["axes"])
    return REGISTRY["transpose"](inner.inputs[0], axes=axes)


@rule("exact", on="transpose")
def transpose_of_broadcast_scalar(node: Node) -> Node | None:
    """transpose(broadcast(scalar)) -> broadcast(scalar)"""
    inner = node.inputs[0]
    if inner.op.name != "broadcast" or inner.inputs[0].ndim:
        return None
    return REGISTRY["broadcast"](inner.inputs[0], shape=node.shape)


@rule("exact", on="reshape")
def reshape_identity(node: Node) -> Node | None:
    """reshape(x) to x's own shape -> x"""
    return node.inputs[0] if node.shape == node.inputs[0].shape else None


@rule("exact", on="reshape")
def reshape_reshape(node: Node) -> Node | None:
    """reshape(reshape(x)) -> reshape(x)"""
    inner = node.inputs[0]
    return REGISTRY["reshape"](inner.inputs[0], shape=node.shape) if inner.op.name == "reshape" else None


@rule("exact", on="reshape")
def reshape_of_broadcast_scalar(node: Node) -> Node | None:
    """reshape(broadcast(scalar)) -> broadcast(scalar)"""
    inner = node.inputs[0]
    if inner.op.name != "broadcast" or inner.inputs[0].ndim:
        return None
    return REGISTRY["broadcast"](inner.inputs[0], shape=node.shape) if node.ndim else inner.inputs[0]


@rule("exact", on="broadcast")
def broadcast_identity(node: Node) -> Node | None:
    """broadcast(x) to x's own shape -> x"""
    return node.inputs[0] if node.shape == node.inputs[0].shape else None


@rule("exact", on="broadcast")
def broadcast_broadcast(node: Node) -> Node | None:
    """broadcast(broadcast(x)) -> broadcast(x)"""
    inner = node.inputs[0]
    return REGISTRY["broadcast"](inner.inputs[0], shape=node.shape) if inner.op.name == "broadcast" else None


@rule("exact", on="broadcast")
def broadcast_of_unit_reshape(node: Node) -> Node | None:
    """broadcast(reshape(scalar)) -> broadcast(scalar)"""
    inner = node.inputs[0]
    if inner.op.name != "reshape" or inner.inputs[0].ndim:
        return None
    return REGISTRY["broadcast"](inner.inputs[0], shape=node.shape)


@rule("exact", on="slice")
def slice_all(node: Node) -> Node | None:
    """slice(x) of everything -> x"""
    whole = node.shape == node.inputs[0].shape and all(s == 1 for s in node.attrs["steps"])
    return node.inputs[0] if whole else None


@rule("exact", on="flip")
def flip_flip(node: Node) -> Node | None:
    """flip(flip(x)) of the same axes -> x"""
    inner = node.inputs[0]
    same = inner.op.name == "flip" and set(inner.attrs["axes"]) == set(node.attrs["axes"])
    return inner.inputs[0] if same else None


@rule("exact", on="flip")
def flip_nothing(node: Node) -> Node | None:
    """flip(x) along no axis, or along axes of size 1 -> x"""
    return node.inputs[0] if all(node.shape[a] == 1 for a in node.attrs["axes"]) else None


@rule("exact", on="pad")
def pad_nothing(node: Node) -> Node | None:
    """pad(x) by nothing -> x"""
    return node.inputs[0] if node.shape == node.inputs[0].shape else None


@rule("exact", on="concatenate")
def concatenate_one(node: Node) -> Node | None:
    """concatenate(x) -> x"""
    return node.inputs[0] if len(node.inputs) == 1 else None


@rule("exact", on="cast")
def cast_identity(node: Node) -> Node | None:
    """cast(x) to x's own dtype -> x"""
    return node.inputs[0] if node.dtype == node.inputs[0].dtype else None


@rule("exact", on="cast")
def cast_widened(node: Node) -> Node | None:
    """cast(cast(x)) -> cast(x) where the inner cast loses nothing"""
    inner = node.inputs[0]
    if inner.op.name != "cast":
        return None
    start = inner.inputs[0].dtype
    lossless = start.kind == "bool" or (start.name, inner.dtype.name) in _WIDENINGS
    if not lossless or (start.kind == "bool" and inner.dtype.kind == "uint"):
        return None
    return REGISTRY["cast"](inner.inputs[0], dtype=node.dtype)


_WIDENINGS = {
    ("int32", int64.name),
    ("int32", "float64"),
    ("float32", "float64"),
    ("uint32", "int64"),
    ("uint32", "float64"),
}


@rule("exact", on="stop_gradient")
def stop_gradient_done(node: Node) -> Node | None:
    """stop_gradient(x) -> x, once derivatives have been taken"""
    return node.inputs[0]


# --- over the reals ------------------------------------------------------------------------------------------------


@rule("real")
def add_zero(x: Node) -> Rewrite:
    return ops.add(x, 0.0), x  # -0.0 + 0.0 is 0.0


@rule("real")
def mul_zero(x: Node) -> Rewrite:
    return ops.mul(x, 0.0), 0.0  # not for NaN and infinities


@rule("real")
def sub_itself(x: Node) -> Rewrite:
    return ops.sub(x, x), 0.0  # not for NaN and infinities


@rule("real")
def div_itself(x: Node) -> Rewrite:
    return ops.div(x, x), 1.0  # not for 0, NaN and infinities


@rule("real")
def neg_of_sub(x: Node, y: Node) -> Rewrite:
    return ops.neg(ops.sub(x, y)), ops.sub(y, x)  # the sign of a zero


@rule("real")
def factor(x: Node, y: Node, z: Node) -> Rewrite:
    return ops.add(ops.mul(x, y), ops.mul(x, z)), ops.mul(x, ops.add(y, z))  # rounding


@rule("real")
def div_of_div(x: Node, y: Node, z: Node) -> Rewrite:
    return ops.div(ops.div(x, y), z), ops.div(x, ops.mul(y, z))  # rounding, overflow


@rule("real")
def exp_of_log(x: Node) -> Rewrite:
    return ops.exp(ops.log(x)), x  # for x >= 0


@rule("real")
def square_of_sqrt(x: Node) -> Rewrite:
    return ops.mul(ops.sqrt(x), ops.sqrt(x)), x  # for x >= 0


EXACT: tuple[Rule, ...] = tuple(v for v in list(globals().values()) if isinstance(v, Rule) and v.kind == "exact")
REAL: tuple[Rule, ...] = tuple(v for v in list(globals().values()) if isinstance(v, Rule) and v.kind == "real")

simplify = RewritePass("simplify", EXACT, why="fewer nodes make every later pass quicker")

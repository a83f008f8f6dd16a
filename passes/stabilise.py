"""Stabilise: rewrite formulas that are true over the reals and wrong in floating point into ones that are right in both.

What enters: a graph as declared (composites still closed). What leaves: the same with overflow, cancellation and 0 * inf taken
out. Every rule is "real": where the naive form is accurate, both agree to rounding; where it gives NaN, inf or noise, the
replacement gives the value. Each rule's test shows its naive form failing. ::

    log(softmax(x)) -> log_softmax(x)      log(1 + exp(x)) -> softplus(x)      exp(x) / (1 + exp(x)) -> sigmoid(x)

Sources: Higham, Accuracy and Stability of Numerical Algorithms (2002), ch. 1; Maechler, Accurately computing log(1 - exp(-|a|))
(2012); Blanchard, Higham, Higham, Accurately computing the log-sum-exp and softmax functions (2021).
"""

from __future__ import annotations

import math

import graphc.ops as ops
from graphc.ir import REGISTRY, Node
from graphc.patterns import Rewrite, Rule, rule
from graphc.rewrite import RewritePass


@rule("real", on="log")
def log_of_softmax(node: Node) -> Node | None:
    """log(softmax(x)) -> log_softmax(x)"""
    inner = node.inputs[0]
    if inner.op.name != "softmax":
        return None
    return REGISTRY["log_softmax"](inner.inputs[0], **inner.attrs)


@rule("real")
def log_of_one_plus_exp(x: Node) -> Rewrite:
    return ops.log(ops.add(1.0, ops.exp(x))), ops.softplus(x)


@rule("real")
def log1p_of_exp(x: Node) -> Rewrite:
    # exp(-|x|) cannot overflow; this is softplus, also where the user wrote log1p by hand
    return ops.log1p(ops.exp(x)), ops.softplus(x)


@rule("real")
def log_of_one_minus_exp(x: Node) -> Rewrite:
    near = ops.log(ops.neg(ops.expm1(x)))
    far = ops.log1p(ops.neg(ops.exp(x)))
    return ops.log(ops.sub(1.0, ops.exp(x))), ops.where(ops.gt(x, -math.log(2.0)), near, far)


@rule("real")
def log_of_sigmoid(x: Node) -> Rewrite:
    return ops.log(ops.sigmoid(x)), ops.neg(ops.softplus(ops.neg(x)))


@rule("real")
def one_minus_sigmoid(x: Node) -> Rewrite:
    return ops.sub(1.0, ops.sigmoid(x)), ops.sigmoid(ops.neg(x))


@rule("real")
def sigmoid_by_hand(x: Node) -> Rewrite:
    return ops.div(1.0, ops.add(1.0, ops.exp(ops.neg(x)))), ops.sigmoid(x)


@rule("real")
def sigmoid_by_exp(x: Node) -> Rewrite:
    return ops.div(ops.exp(x), ops.add(1.0, ops.exp(x))), ops.sigmoid(x)


@rule("real")
def tanh_by_exp(x: Node) -> Rewrite:
    up, down = ops.exp(x), ops.exp(ops.neg(x))
    return ops.div(ops.sub(up, down), ops.add(up, down)), ops.tanh(x)


@rule("real")
def log_of_exp(x: Node) -> Rewrite:
    return ops.log(ops.exp(x)), x


@rule("real")
def log_of_one_plus(x: Node) -> Rewrite:
    return ops.log(ops.add(1.0, x)), ops.log1p(x)


@rule("real")
def exp_minus_one(x: Node) -> Rewrite:
    return ops.sub(ops.exp(x), 1.0), ops.expm1(x)


@rule("real")
def x_log_x(x: Node) -> Rewrite:
    safe = ops.where(ops.eq(x, 0.0), 1.0, x)
    return ops.mul(x, ops.log(x)), ops.mul(x, ops.log(safe))


@rule("real", on="log")
def log_of_sum_of_exp(node: Node) -> Node | None:
    """log(sum(exp(x))) -> logsumexp(x)"""
    inner, shape = node.inputs[0], None
    if inner.op.name == "reshape":  # keepdims
        inner, shape = inner.inputs[0], inner.shape
    if inner.op.name != "sum" or inner.inputs[0].op.name != "exp":
        return None
    made = REGISTRY["logsumexp"](inner.inputs[0].inputs[0], axes=inner.attrs["axes"])
    return made if shape is None else ops.reshape(made, shape)


@rule("real", on="div")
def softmax_by_hand(node: Node) -> Node | None:
    """exp(x) / sum(exp(x), axis) -> softmax(x)"""
    top, below = node.inputs
    while below.op.name in ("broadcast", "reshape"):
        below = below.inputs[0]
    if top.op.name != "exp" or below.op.name != "sum" or below.inputs[0] is not top or len(below.attrs["axes"]) != 1:
        return None
    (axis,) = below.attrs["axes"]
    if _is_shifted(top.inputs[0]):
        return None
    if not _spread_along(node.inputs[1], below, axis):
        return None
    return REGISTRY["softmax"](top.inputs[0], axis=axis)


def _is_shifted(node: Node) -> bool:
    """Whether ``node`` is ``x - max(x)`` already: its exp cannot overflow."""
    if node.op.name != "sub":
        return False
    peak = node.inputs[1]
    while peak.op.name in ("broadcast", "reshape", "stop_gradient"):
        peak = peak.inputs[0]
    return peak.op.name == "max" and peak.inputs[0] is node.inputs[0]


def _spread_along(node: Node, summed: Node, axis: int) -> bool:
    """Whether ``node`` is ``summed`` put back along ``axis`` (and not, say, along a row of the same length)."""
    shape = node.shape
    unit = (*shape[:axis], 1, *shape[axis + 1 :])
    while node is not summed:
        inner = node.inputs[0]
        if (
            node.op.name == "broadcast"
            and inner.shape not in (unit, node.shape)
            and not (axis == 0 and inner is summed)
        ):
            return False
        if node.op.name == "reshape" and node.shape != unit:
            return False
        node = inner
    return True


@rule("real")
def root_of_square(x: Node) -> Rewrite:
    return ops.sqrt(ops.mul(x, x)), ops.abs(x)


@rule("real")
def hypotenuse(x: Node, y: Node) -> Rewrite:
    top, low = ops.maximum(ops.abs(x), ops.abs(y)), ops.minimum(ops.abs(x), ops.abs(y))
    ratio = ops.div(low, ops.where(ops.eq(top, 0.0), 1.0, top))
    finite = ops.mul(top, ops.sqrt(ops.add(1.0, ops.mul(ratio, ratio))))
    infinite = ops.logical_and(ops.eq(top, math.inf), ops.eq(low, low))  # hypot(inf, y) is inf
    return ops.sqrt(ops.add(ops.mul(x, x), ops.mul(y, y))), ops.where(infinite, top, finite)


@rule("real")
def log_of_square(x: Node) -> Rewrite:
    return ops.log(ops.mul(x, x)), ops.mul(2.0, ops.log(ops.abs(x)))


@rule("real")
def one_minus_cos(x: Node) -> Rewrite:
    half = ops.sin(ops.mul(0.5, x))
    return ops.sub(1.0, ops.cos(x)), ops.mul(2.0, ops.mul(half, half))


@rule("real")
def root_minus_one(x: Node) -> Rewrite:
    return ops.sub(ops.sqrt(ops.add(1.0, x)), 1.0), ops.div(x, ops.add(ops.sqrt(ops.add(1.0, x)), 1.0))


@rule("real")
def log_of_cosh(x: Node) -> Rewrite:
    size = ops.abs(x)
    even = ops.add(size, ops.log1p(ops.exp(ops.mul(-2.0, size))))
    return ops.log(ops.cosh(x)), ops.sub(even, math.log(2.0))


RULES: tuple[Rule, ...] = tuple(v for v in list(globals().values()) if isinstance(v, Rule))

stabilise = RewritePass(
    "stabilise", RULES, why="composites such as softmax are still whole, so their logarithms can be seen"
)

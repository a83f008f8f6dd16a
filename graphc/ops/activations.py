"""Activation functions: composites with the derivative that a textbook gives.

What enters: a float value. What leaves: a value of its type. Each is stable for all floats: nothing overflows on the way
to a finite result. Convention: relu'(0) = 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import graphc.ops as ops
from graphc import provenance
from graphc.errors import AttributeRuleError, DTypeError
from graphc.ir import Node
from graphc.ops.broadcasting import Operand, cast, full_like, lift, zeros_like
from graphc.ops.declare import Custom, Partials, Samples, composite
from graphc.ops.transcendental import as_float
from graphc.scalar import erf as erf_array
from graphc.scalar import sigmoid as sigmoid_array
from graphc.types import TensorType


def _floating(name: str) -> Any:
    def infer(types: tuple[TensorType, ...], **attrs: Any) -> TensorType:
        if not types[0].dtype.is_float:
            raise DTypeError(
                f"{name}: is defined on floats, got {types[0]}", help="convert with graphc.cast(x, 'float32')"
            )
        return types[0]

    return infer


def _float_result(function: Any) -> Any:
    def reference(x: Any, **attrs: Any) -> Any:
        with np.errstate(all="ignore"):
            return np.asarray(function(x.astype(np.float64), **attrs)).astype(x.dtype)

    return reference


def _infer_relu(types: tuple[TensorType, ...]) -> TensorType:
    if types[0].dtype.kind == "bool":
        raise DTypeError(f"relu: is defined on numbers, got {types[0]}")
    return types[0]


relu_op = composite(
    "relu", lambda x: ops.maximum(x, zeros_like(x)), infer=_infer_relu, reference=lambda x: np.maximum(x, x.dtype.type(0)),
    derivative=Partials(lambda y, x: (cast(ops.gt(y, 0), y.dtype),), ("[{0} > 0]",)),
    latex=r"\operatorname{{relu}}({0})", symbol="relu", samples=Samples(avoid=(0.0,)), doc="max(x, 0); relu'(0) = 0.",
)  # fmt: skip


def _slope_vjp(ct: Node, node: Node) -> tuple[Node | None, ...]:
    return (ops.mul(ct, _slope(node)),)


def _slope_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    return zeros_like(node) if tangents[0] is None else ops.mul(tangents[0], _slope(node))


def _slope(node: Node) -> Node:
    """The derivative of leaky_relu and elu: 1 above zero, else what the attribute says."""
    x = node.inputs[0]
    if node.op.name == "leaky_relu":
        return ops.where(ops.gt(x, 0), 1.0, full_like(x, node.attrs["slope"]))
    return ops.where(ops.gt(x, 0), 1.0, ops.add(node, node.attrs["alpha"]))


leaky_relu_op = composite(
    "leaky_relu", lambda x, *, slope: ops.where(ops.gt(x, 0), x, ops.mul(x, slope)), infer=_floating("leaky_relu"),
    reference=_float_result(lambda x, slope: np.where(x > 0, x, slope * x)), derivative=Custom(_slope_vjp, _slope_jvp),
    latex=r"\operatorname{{leaky\,relu}}({0})", symbol="lrelu",
    samples=Samples(avoid=(0.0,), calls=lambda: [(((3, 4),), {"slope": 0.1})]), doc="x above 0, slope * x below.",
)  # fmt: skip
elu_op = composite(
    "elu", lambda x, *, alpha: ops.where(ops.gt(x, 0), x, ops.mul(ops.expm1(ops.minimum(x, 0)), alpha)), infer=_floating("elu"),
    reference=_float_result(lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))),
    derivative=Custom(_slope_vjp, _slope_jvp), latex=r"\operatorname{{elu}}({0})", symbol="elu",
    samples=Samples(avoid=(0.0,), calls=lambda: [(((3, 4),), {"alpha": 1.0}), (((3,),), {"alpha": 0.5})]),
    doc="x above 0, alpha (exp(x) - 1) below (Clevert et al. 2015).",
)  # fmt: skip
softplus_op = composite(
    "softplus", lambda x: ops.add(ops.maximum(x, 0), ops.log1p(ops.exp(ops.neg(ops.abs(x))))), infer=_floating("softplus"),
    reference=_float_result(lambda x: np.logaddexp(x, 0)), derivative=Partials(lambda y, x: (ops.sigmoid(x),), (r"\sigma({0})",)),
    latex=r"\ln(1 + e^{{{0}}})", symbol="softplus", doc="ln(1 + exp(x)), without overflow.",
)  # fmt: skip


def _silu_partials(y: Node, x: Node) -> tuple[Node]:
    s = ops.sigmoid(x)
    return (ops.add(s, ops.mul(y, ops.sub(1, s))),)


silu_op = composite(
    "silu", lambda x: ops.mul(x, ops.sigmoid(x)), infer=_floating("silu"), reference=_float_result(lambda x: x * sigmoid_array(x)),
    derivative=Partials(_silu_partials, (r"\sigma({0}) + {y}(1 - \sigma({0}))",)), latex=r"{0}\,\sigma({0})", symbol="silu",
    doc="x sigmoid(x), also called swish.",
)  # fmt: skip


def _normal_cdf(x: Node) -> Node:
    return ops.mul(ops.add(ops.erf(ops.mul(x, math.sqrt(0.5))), 1), 0.5)


def _gelu_partials(y: Node, x: Node) -> tuple[Node]:
    density = ops.mul(ops.exp(ops.mul(ops.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return (ops.add(_normal_cdf(x), ops.mul(x, density)),)


gelu_op = composite(
    "gelu", lambda x: ops.mul(x, _normal_cdf(x)), infer=_floating("gelu"),
    reference=_float_result(lambda x: x * 0.5 * (1 + erf_array(x * math.sqrt(0.5)))),
    derivative=Partials(_gelu_partials, (r"\Phi({0}) + {0}\,\varphi({0})",)), latex=r"{0}\,\Phi({0})", symbol="gelu",
    doc="x times the normal distribution function (Hendrycks and Gimpel 2016).",
)  # fmt: skip


def _gelu_tanh(x: Node) -> Node:
    inner = ops.mul(ops.add(x, ops.mul(ops.mul(ops.mul(x, x), x), 0.044715)), math.sqrt(2 / math.pi))
    return ops.mul(ops.mul(x, 0.5), ops.add(ops.tanh(inner), 1))


gelu_tanh_op = composite(
    "gelu_tanh", _gelu_tanh, infer=_floating("gelu_tanh"),
    reference=_float_result(lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    latex=r"\operatorname{{gelu}}_{{\tanh}}({0})", symbol="gelu", doc="gelu with its tanh approximation.",
)  # fmt: skip


def relu(x: Operand) -> Node:
    """``max(x, 0)``, element by element; its derivative at 0 is 0.

    >>> str(relu(lift([-1.0, 2.0])).type)
    'f32[2]'
    """
    return relu_op(lift(x))


def leaky_relu(x: Operand, slope: float = 0.01) -> Node:
    """``x`` above 0 and ``slope * x`` below.

    >>> str(leaky_relu(lift([-1.0, 2.0])).type)
    'f32[2]'
    """
    return leaky_relu_op(as_float(x), slope=float(slope))


def elu(x: Operand, alpha: float = 1.0) -> Node:
    """``x`` above 0 and ``alpha (exp(x) - 1)`` below (Clevert et al. 2015).

    >>> str(elu(lift([-1.0, 2.0])).type)
    'f32[2]'
    """
    return elu_op(as_float(x), alpha=float(alpha))


def softplus(x: Operand) -> Node:
    """``log(1 + exp(x))`` without overflow; its derivative is the sigmoid.

    >>> str(softplus(lift([-1.0, 2.0])).type)
    'f32[2]'
    """
    return softplus_op(as_float(x))


def log_sigmoid(x: Operand) -> Node:
    """``log(sigmoid(x))`` without underflow, as ``-softplus(-x)``.

    >>> str(log_sigmoid(lift([-1.0, 2.0])).type)
    'f32[2]'
    """
    return ops.neg(softplus(ops.neg(as_float(x))))


def silu(x: Operand) -> Node:
    """``x * sigmoid(x)``, also called swish.

    >>> str(silu(lift([-1.0, 2.0])).type)
    'f32[2]'
    """
    return silu_op(as_float(x))


def gelu(x: Operand, approximate: str = "none") -> Node:
    """``x`` times the normal distribution function (Hendrycks and Gimpel 2016); ``approximate="tanh"`` for their formula.

    >>> gelu(lift([-1.0, 2.0]), approximate="tanh").op.name
    'gelu_tanh'
    """
    if approximate not in ("none", "tanh"):
        raise AttributeRuleError(f"gelu: approximate={approximate!r}", source=provenance.capture(), token="gelu",
                                 help="choose 'none' or 'tanh'")  # fmt: skip
    return (gelu_op if approximate == "none" else gelu_tanh_op)(as_float(x))


__all__ = ["elu", "gelu", "leaky_relu", "log_sigmoid", "relu", "silu", "softplus"]

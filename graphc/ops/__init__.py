"""Every op of graphc, each declared once, and the functions by which users and passes build graph code.

What enters: symbolic values, numbers, arrays. What leaves: nodes. Importing this package fills the registry
(:data:`graphc.ir.REGISTRY`) and puts Python's operators on nodes.

>>> from graphc import ops
>>> x = ops.input("x", ("batch", 3))
>>> str(ops.mean(ops.exp(x) * 2 + 1, axis=0).type)
'f32[3]'
"""

# ruff: noqa: F401, I001
# fmt: off
from __future__ import annotations

from graphc.ops.declare import placeholder
from graphc.ops.sources import constant, input, parameter, parameter_node, variable
from graphc.ops.broadcasting import (
    Operand, broadcast_shapes, broadcast_to, cast, full_like, lift, ones_like, promote, promote_dtypes, restore_axes, sum_to,
    zeros_like,
)
from graphc.ops.arithmetic import (
    abs, add, copysign, div, floordiv, maximum, minimum, mod, mul, neg, pow, reciprocal, sign, square, sub,
)
from graphc.ops.logic import (
    bitwise_and, bitwise_not, bitwise_or, bitwise_xor, eq, ge, gt, isfinite, isnan, le, logical_and, logical_not,
    logical_or, logical_xor, lt, ne, shift_left, shift_right,
)
from graphc.ops.transcendental import (
    acos, as_float, asin, atan, atan2, ceil, cos, cosh, erf, exp, exp2, expm1, floor, log, log1p, log2, log10, round, rsqrt,
    sigmoid, sin, sinh, sqrt, tan, tanh, trunc,
)
from graphc.ops.select import chain_product, clip, custom, nan_to_num, stop_gradient, where
from graphc.ops.reductions import all, any, cumsum, max, min, prod, sum
from graphc.ops.movement import expand_dims, flatten, flip, moveaxis, reshape, squeeze, swapaxes, transpose
from graphc.ops.slicing import concatenate, pad, repeat, split, stack
from graphc.ops.contractions import dot, einsum, matmul, outer
from graphc.ops.indexing import (
    arange, check_index, full, gather, iota, ones, scatter_add, size, take, take_along_axis, zeros,
)
from graphc.ops.subscripts import getitem
from graphc.ops.activations import elu, gelu, leaky_relu, log_sigmoid, relu, silu, softplus
from graphc.ops.statistics import argmax, argmin, logsumexp, mean, norm, std, var
from graphc.ops.convolution import conv1d, conv2d
from graphc.ops.pooling import avg_pool1d, avg_pool2d, max_pool1d, max_pool2d
from graphc.ops.classification import log_softmax, one_hot, softmax
from graphc.ops.normalisation import layer_norm
from graphc.ops.scan import scan
from graphc.ops.attention import scaled_dot_product_attention
from graphc.ops.operators import install

install()

# the public language, re-exported by graphc; other names here are helpers that passes and derivatives use
__all__ = [
    "abs",
    "acos",
    "add",
    "all",
    "any",
    "arange",
    "argmax",
    "argmin",
    "asin",
    "atan",
    "atan2",
    "avg_pool1d",
    "avg_pool2d",
    "bitwise_and",
    "bitwise_not",
    "bitwise_or",
    "bitwise_xor",
    "broadcast_to",
    "cast",
    "ceil",
    "check_index",
    "clip",
    "concatenate",
    "constant",
    "conv1d",
    "conv2d",
    "copysign",
    "cos",
    "cosh",
    "cumsum",
    "custom",
    "div",
    "dot",
    "einsum",
    "elu",
    "eq",
    "erf",
    "exp",
    "exp2",
    "expand_dims",
    "expm1",
    "flatten",
    "flip",
    "floor",
    "floordiv",
    "full",
    "full_like",
    "gather",
    "ge",
    "gelu",
    "gt",
    "input",
    "iota",
    "isfinite",
    "isnan",
    "layer_norm",
    "le",
    "leaky_relu",
    "log",
    "log1p",
    "log2",
    "log10",
    "log_sigmoid",
    "log_softmax",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "logsumexp",
    "lt",
    "matmul",
    "max",
    "max_pool1d",
    "max_pool2d",
    "maximum",
    "mean",
    "min",
    "minimum",
    "mod",
    "moveaxis",
    "mul",
    "nan_to_num",
    "ne",
    "neg",
    "norm",
    "one_hot",
    "ones",
    "ones_like",
    "outer",
    "pad",
    "parameter",
    "pow",
    "prod",
    "reciprocal",
    "relu",
    "repeat",
    "reshape",
    "round",
    "rsqrt",
    "scaled_dot_product_attention",
    "scan",
    "scatter_add",
    "shift_left",
    "shift_right",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "sinh",
    "size",
    "softmax",
    "softplus",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "stop_gradient",
    "sub",
    "sum",
    "swapaxes",
    "take",
    "take_along_axis",
    "tan",
    "tanh",
    "transpose",
    "trunc",
    "var",
    "variable",
    "where",
    "zeros",
    "zeros_like",
]

"""Python's operators and NumPy's handy methods on symbolic values, installed on :class:`graphc.ir.Node`.

What enters: the class Node. What leaves: the same class, on which ``x @ w + b``, ``x[1:, ::-1]``, ``x.T`` and
``x.sum(axis=1)`` build graph code. ``==`` and ``!=`` stay identity, because nodes are keys of dictionaries: use
``graphc.eq``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import graphc.ops as ops
from graphc.ir import Node
from graphc.ops.subscripts import getitem

_BINARY: dict[str, str] = {
    "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "floordiv": "floordiv", "mod": "mod", "pow": "pow",
    "matmul": "matmul", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
}  # fmt: skip
_COMPARE = ("lt", "le", "gt", "ge")


def _forward(name: str) -> Callable[..., Node]:
    function: Callable[..., Node] = getattr(ops, name)
    return lambda self, other: function(self, other)


def _reflected(name: str) -> Callable[..., Node]:
    function: Callable[..., Node] = getattr(ops, name)
    return lambda self, other: function(other, self)


def _reshape(self: Node, *shape: Any) -> Node:
    """``x.reshape(2, -1)`` or ``x.reshape((2, -1))``."""
    return ops.reshape(self, shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)


def _transpose(self: Node, *axes: Any) -> Node:
    """``x.transpose()``, ``x.transpose(1, 0)`` or ``x.transpose((1, 0))``."""
    order = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
    return ops.transpose(self, order or None)


_METHODS = (
    "abs", "all", "any", "argmax", "argmin", "clip", "cumsum", "exp", "flatten", "log", "max", "mean", "min", "prod",
    "round", "sigmoid", "sqrt", "squeeze", "std", "sum", "swapaxes", "take", "tanh", "var",
)  # fmt: skip


def install() -> None:
    """Put operators and methods on Node (once, when :mod:`graphc.ops` is imported)."""
    for python, name in _BINARY.items():
        setattr(Node, f"__{python}__", _forward(name))
        setattr(Node, f"__r{python}__", _reflected(name))
    for name in _COMPARE:
        setattr(Node, f"__{name}__", _forward(name))
    operators: dict[str, Any] = {
        "__neg__": ops.neg, "__pos__": lambda self: self, "__abs__": ops.abs, "__invert__": ops.bitwise_not,
        "__lshift__": _forward("shift_left"), "__rshift__": _forward("shift_right"), "__getitem__": getitem,
        "T": property(lambda self: ops.transpose(self)), "astype": ops.cast, "reshape": _reshape, "transpose": _transpose,
    }  # fmt: skip
    for name, value in operators.items():
        setattr(Node, name, value)
    for name in _METHODS:
        setattr(Node, name, getattr(ops, name))

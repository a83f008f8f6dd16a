"""Example calls of every op, made from its declared test domain: the tests, the gallery and the targets' checks read them.

What enters: an op, a dtype and a seed. What leaves: arrays and attributes with which its reference can be called. The
same seed gives the same arrays. Kinks that the op declares (``Samples.avoid``) are kept at a distance of 0.01.

>>> from graphc.ir import REGISTRY
>>> [e.arrays[0].shape for e in examples(REGISTRY["sum"])]
[(4,), (3, 5), (2, 3, 4), (2, 3)]
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.ir import Node, Op
from graphc.ops.declare import Elementwise, Samples, placeholder
from graphc.scalar import PRIMITIVES
from graphc.types import DType, TensorType, as_dtype, bool_, float64


@dataclass(frozen=True)
class Example:
    """One call: operands and attributes."""

    op: Op
    arrays: tuple[np.ndarray, ...]
    attrs: Mapping[str, Any]

    def inputs(self) -> tuple[Node, ...]:
        """Input nodes x0, x1, ... of the arrays' types."""
        return tuple(placeholder(TensorType(as_dtype(a.dtype), a.shape), f"x{i}") for i, a in enumerate(self.arrays))

    def node(self, inputs: Sequence[Node] | None = None) -> Node:
        """The call as a node over ``inputs``."""
        return self.op(*(self.inputs() if inputs is None else inputs), **self.attrs)

    def feeds(self) -> dict[str, np.ndarray]:
        """The arrays by input name."""
        return {f"x{i}": a for i, a in enumerate(self.arrays)}

    def __str__(self) -> str:
        operands = ", ".join(f"{as_dtype(a.dtype)}{list(a.shape)}" for a in self.arrays)
        return f"{self.op.name}({operands}){dict(self.attrs) or ''}"


def arity(op: Op) -> int:
    """How many operands an elementwise op or composite takes.

    >>> from graphc.ir import REGISTRY
    >>> arity(REGISTRY["where"]), arity(REGISTRY["relu"])
    (3, 1)
    """
    if isinstance(op.lowering, Elementwise):
        return PRIMITIVES[op.lowering.primitive].arity
    assert op.expand is not None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds for p in inspect.signature(op.expand).parameters.values())


def examples(
    op: Op, dtype: DType = float64, *, seed: int = 0, shapes: Sequence[tuple[int, ...]] = ((3, 4),)
) -> list[Example]:
    """Calls of ``op`` on arrays of ``dtype``; ops that are not defined on it give none.

    ``shapes`` are for elementwise ops; others list their own calls.
    """
    samples: Samples | None = op.samples
    if samples is None:
        return []
    if isinstance(op.lowering, Elementwise) and dtype.kind not in PRIMITIVES[op.lowering.primitive].kinds:
        return []
    calls = list(samples.calls()) if samples.calls is not None else [((s,) * arity(op), {}) for s in shapes]
    rng = np.random.default_rng(seed)
    return [
        Example(op, tuple(_operand(o, i, samples, dtype, rng) for i, o in enumerate(operands)), attrs)
        for operands, attrs in calls
    ]


def _operand(given: Any, i: int, samples: Samples, dtype: DType, rng: np.random.Generator) -> np.ndarray:
    if isinstance(given, np.ndarray):
        return (
            (given if dtype.is_float else np.nan_to_num(given)).astype(dtype.numpy)
            if given.dtype.kind == "f"
            else given
        )
    low, high = samples.domain[min(i, len(samples.domain) - 1)]
    return draw(tuple(given), low, high, dtype, rng, samples.avoid)


def draw(
    shape: tuple[int, ...], low: float, high: float, dtype: DType, rng: np.random.Generator, avoid: Sequence[float] = ()
) -> np.ndarray:  # fmt: skip
    """Values in an interval, log-uniform where it spans more than two decades on one side of zero.

    >>> draw((2,), 1, 9, as_dtype("int32"), np.random.default_rng(0)).dtype
    dtype('int32')
    """
    if dtype == bool_:
        return np.asarray(rng.integers(0, 2, shape), bool)
    if dtype.is_integer:
        start = max(math.ceil(low), 0) if dtype.kind == "uint" else math.ceil(low)
        return np.asarray(rng.integers(start, max(math.floor(high), start) + 1, shape), dtype.numpy)
    if low > 0 and high / low > 100:
        values = np.exp(rng.uniform(math.log(low), math.log(high), shape))
    else:
        values = rng.uniform(low, high, shape)
    for point in avoid:
        near = np.abs(values - point) < 1e-2
        values = np.where(near, point + np.where(values < point, -2e-2, 2e-2), values)
    return np.asarray(values, dtype.numpy)

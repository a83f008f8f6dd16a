"""Randomness as graph code: a counter-based generator with the same bits on every target.

What enters: a key (two 32-bit words) and a shape. What leaves: a value that depends on nothing else. There is no hidden
state: fold a step counter into a key to draw anew. The generator is Threefry-2x32 with 20 rounds: J. Salmon, M. Moraes,
R. Dror, D. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. It uses integer additions, xors and shifts only,
so bits are equal on the interpreter, CPU and CUDA, and a draw fuses into the kernel that uses it.

Uniform numbers are the upper 24 bits times 2^-24: exact multiples in [0, 1).

>>> draws = uniform(key(42), (2, 3)); str(draws.type)
'f32[2,3]'
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import graphc.ops as ops
from graphc import provenance
from graphc.errors import AttributeRuleError, DTypeError
from graphc.ir import Node
from graphc.ops.broadcasting import Operand
from graphc.ops.declare import Samples, Zero, composite
from graphc.types import Shape, TensorType, as_dtype, as_shape, float32, float64, int32, uint32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_ROUNDS = 20

# the second counter word keeps the three uses of a key apart
_DRAW, _FOLD, _SPLIT = 0, 1, 2


def threefry(k0: Any, k1: Any, x0: Any, x1: Any) -> tuple[Any, Any]:
    """Threefry-2x32-20 of a counter ``(x0, x1)`` under a key ``(k0, k1)``: nodes or NumPy arrays of uint32.

    >>> zero = np.zeros(1, np.uint32)
    >>> [hex(int(w[0])) for w in threefry(zero, zero, zero, zero)]
    ['0x6b200159', '0x99ba4efe']
    """
    schedule = (k0, k1, k0 ^ k1 ^ _word(_PARITY, k0))
    x0, x1 = x0 + k0, x1 + k1
    for block in range(_ROUNDS // 4):
        for count in _ROTATIONS[block % 2]:
            x0 = x0 + x1
            x1 = ((x1 << count) | (x1 >> (32 - count))) ^ x0
        x0 = x0 + schedule[(block + 1) % 3]
        x1 = x1 + schedule[(block + 2) % 3] + _word(block + 1, k0)
    return x0, x1


def _word(value: int, like: Any) -> Any:
    return value if isinstance(like, Node) else np.uint32(value)


def _infer_bits(types: tuple[TensorType, ...], *, shape: Shape, lane: int) -> TensorType:
    if types[0] != TensorType(uint32, (2,)):
        raise DTypeError(f"random_bits: a key is u32[2], got {types[0]}", help="make one with graphc.random.key(seed)")
    if lane not in (0, 1):
        raise AttributeRuleError(f"random_bits: a lane is 0 or 1, got {lane}")
    return TensorType(uint32, shape)


def _expand_bits(k: Node, *, shape: Shape, lane: int) -> Node:
    count = TensorType(uint32, shape).size
    counter = ops.reshape(ops.iota((count,), 0, uint32), shape)
    k0, k1 = (ops.broadcast_to(k[i], shape) for i in (0, 1))
    return threefry(k0, k1, counter, ops.full_like(counter, _DRAW))[lane]


def _bits_array(k: Any, *, shape: Any, lane: int) -> Any:
    counter = np.arange(math.prod(shape), dtype=np.uint32).reshape(shape)
    k0, k1 = (np.full(shape, word, np.uint32) for word in k)
    with np.errstate(over="ignore"):
        return threefry(k0, k1, counter, np.full(shape, _DRAW, np.uint32))[lane]


random_bits_op = composite(
    "random_bits", _expand_bits, infer=_infer_bits, reference=_bits_array, derivative=Zero("bits have no derivative"),
    latex=r"\operatorname{{bits}}({0})", symbol="⚄",
    samples=Samples(calls=lambda: [
        ((np.array([1, 2], np.uint32),), {"shape": (5,), "lane": 0}),
        ((np.array([7, 0], np.uint32),), {"shape": (2, 3), "lane": 1}),
        ((np.array([7, 9], np.uint32),), {"shape": (), "lane": 0}),
    ], gradient=False),
    doc="32 random bits an element: one word of Threefry-2x32 at the element's index.",
)  # fmt: skip


def key(seed: Operand) -> Node:
    """A key from a seed: a Python int of up to 64 bits, or a scalar integer value known at run time.

    Raises:
        AttributeRuleError: the seed is negative or too large. DTypeError: it is no integer.

    >>> key(1).attrs["value"].tolist()
    [0, 1]
    """
    if isinstance(seed, Node):
        if not seed.dtype.is_integer or seed.ndim:
            raise DTypeError(
                f"random.key: a seed is one integer, got {seed.type}", source=provenance.capture(), token="key"
            )
        return _pair(ops.zeros((), uint32), ops.cast(seed, uint32))
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise DTypeError(f"random.key: a seed is an integer, got {seed!r}", source=provenance.capture(), token="key")
    if not 0 <= seed < 2**64:
        raise AttributeRuleError(
            f"random.key: a seed is from 0 to 2**64 - 1, got {seed}", source=provenance.capture(), token="key"
        )
    return ops.constant(np.array([int(seed) >> 32, int(seed) & 0xFFFFFFFF], np.uint32))


def _pair(a: Node, b: Node) -> Node:
    return ops.where(ops.eq(ops.iota((2,), 0), 0), a, b)


def _derived(k: Node, data: Node, purpose: int) -> Node:
    zero = ops.constant(np.uint32(purpose))
    return _pair(*threefry(_checked(k)[0], k[1], data, zero))


def _checked(k: Node) -> Node:
    if not isinstance(k, Node) or k.type != TensorType(uint32, (2,)):
        what = k.type if isinstance(k, Node) else type(k).__name__
        raise DTypeError(
            f"random: a key is u32[2], got {what}",
            source=provenance.capture(),
            help="make one with graphc.random.key(seed)",
        )
    return k


def fold_in(k: Node, data: Operand) -> Node:
    """A new key from a key and an integer: a step counter, a layer's number. Different integers give unrelated keys.

    >>> str(fold_in(key(0), 3).type)
    'u32[2]'
    """
    if isinstance(data, (int, np.integer)) and not isinstance(data, bool):
        return _derived(k, ops.constant(np.uint32(int(data) % 2**32)), _FOLD)
    node = ops.lift(data)
    if not node.dtype.is_integer or node.ndim:
        raise DTypeError(
            f"random.fold_in: one integer is wanted, got {node.type}", source=provenance.capture(), token="fold_in"
        )
    return _derived(k, ops.cast(node, uint32), _FOLD)


def split(k: Node, count: int = 2) -> list[Node]:
    """``count`` unrelated keys from one.

    >>> [str(k.type) for k in split(key(0))]
    ['u32[2]', 'u32[2]']
    """
    return [_derived(k, ops.constant(np.uint32(i)), _SPLIT) for i in range(count)]


def bits(k: Node, shape: Any = (), *, lane: int = 0) -> Node:
    """32 random bits an element, uint32; ``lane`` picks one of two independent draws of a key.

    >>> str(bits(key(0), ("batch", 3)).type)
    'u32[batch,3]'
    """
    return random_bits_op(_checked(k), shape=as_shape(shape), lane=lane)


def uniform(k: Node, shape: Any = (), low: Any = 0.0, high: Any = 1.0, *, dtype: Any = "float32") -> Node:
    """Uniform numbers in [low, high): ``(bits >> 8) * 2^-24`` scaled (also in float64, with 24 random bits).

    Raises:
        DTypeError: the dtype is no float.

    >>> str(uniform(key(0), (3,)).type)
    'f32[3]'
    """
    unit = ops.mul(ops.cast(bits(k, shape) >> 8, _float(dtype)), 2.0**-24)
    if _is(low, 0.0) and _is(high, 1.0):
        return unit
    known = not isinstance(high, Node) and not isinstance(low, Node)
    width = high - low if known else ops.sub(high, low)  # numbers stay numbers: they take the dtype of the draw
    return ops.add(ops.mul(unit, width), low)


def _is(value: Operand, number: float) -> bool:
    return isinstance(value, (int, float)) and value == number


def _float(dtype: Any) -> Any:
    found = as_dtype(dtype)
    if found not in (float32, float64):
        raise DTypeError(f"random: a float dtype is wanted, got {found}", source=provenance.capture())
    return found


def normal(k: Node, shape: Any = (), mean: Operand = 0.0, std: Operand = 1.0, *, dtype: Any = "float32") -> Node:
    """Normally distributed numbers by G. Box and M. Muller (1958): ``sqrt(-2 ln u) cos(2 pi v)`` from both lanes.

    >>> str(normal(key(0), ("batch", 3)).type)
    'f32[batch,3]'
    """
    to = _float(dtype)
    u = ops.mul(ops.cast((bits(k, shape) >> 8) + 1, to), 2.0**-24)  # in (0, 1]: the logarithm is finite
    v = ops.mul(ops.cast(bits(k, shape, lane=1) >> 8, to), 2.0**-24)
    z = ops.mul(ops.sqrt(ops.mul(ops.log(u), -2.0)), ops.cos(ops.mul(v, 2 * math.pi)))
    scaled = z if _is(std, 1.0) else ops.mul(z, std)
    return scaled if _is(mean, 0.0) else ops.add(scaled, mean)


def bernoulli(k: Node, p: Operand = 0.5, shape: Any = ()) -> Node:
    """True with probability ``p`` (a number or a value that broadcasts to ``shape``).

    >>> str(bernoulli(key(0), 0.3, (2, 2)).type)
    'bool[2,2]'
    """
    return ops.lt(uniform(k, shape), p)


def randint(k: Node, shape: Any, low: int, high: int) -> Node:
    """Whole numbers in [low, high), int32: ``low + bits mod (high - low)``; the bias is below ``(high - low) / 2^32``.

    Raises:
        AttributeRuleError: the range is empty or reaches beyond int32.

    >>> str(randint(key(0), (4,), 0, 10).type)
    'i32[4]'
    """
    if not (-(2**31) <= low < high <= 2**31 and high - low < 2**31):
        raise AttributeRuleError(
            f"random.randint: cannot draw from {low} to {high}", source=provenance.capture(), token="randint"
        )
    return ops.add(ops.cast(ops.mod(bits(k, shape), high - low), int32), low)


__all__ = ["bernoulli", "bits", "fold_in", "key", "normal", "randint", "split", "threefry", "uniform"]

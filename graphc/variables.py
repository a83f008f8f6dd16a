"""Variables: the named state that programs read and write in place.

What enters is a name, a static type and an initializer; what leaves is one array, made on first use. The invariant: its
address never changes, for compiled programs hold it.

>>> import numpy as np
>>> from graphc.types import TensorType, float32
>>> weight = Variable("weight", TensorType(float32, (2,)), lambda shape, dtype, name: np.zeros(shape, dtype.numpy))
>>> place = weight.value.ctypes.data
>>> weight.value = [1, 2]
>>> weight.value.ctypes.data == place, weight.value.tolist()
(True, [1.0, 2.0])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from graphc.errors import GraphError
from graphc.types import DType, TensorType


class Variable:
    """Named state that lives between calls: a parameter, an optimizer's moment, a step counter.

    The value is made on first use by ``initializer(shape, dtype, name) -> array`` and then changed in place by programs.
    Equality is identity, so that sharing a layer shares its variables.

    Args:
        name: unique in a model; scopes give "classifier/dense_0/weight".
        type: static type.
        initializer: makes the first value; deterministic.
        trainable: whether ``Trainer`` and ``parameters()`` list it.
    """

    __slots__ = ("_value", "initializer", "name", "trainable", "type")

    def __init__(
        self,
        name: str,
        type: TensorType,
        initializer: Callable[[tuple[int, ...], DType, str], np.ndarray],
        trainable: bool = True,
    ) -> None:
        self.name = name
        self.type = type
        self.initializer = initializer
        self.trainable = trainable
        self._value: np.ndarray | None = None

    @property
    def value(self) -> np.ndarray:
        """The current value: a C-contiguous array that compiled programs read and write in place."""
        if self._value is None:
            made = self.initializer(self.type.static_shape, self.type.dtype, self.name)
            # own, writable memory on a cache line: an initializer may return a view or a shared array
            self._value = aligned_empty(self.type.static_shape, self.type.dtype)
            self._value[...] = made
        return self._value

    @value.setter
    def value(self, new: Any) -> None:
        array = np.asarray(new)
        if array.shape != self.type.static_shape:
            raise GraphError(f"parameter {self.name} is {self.type}, cannot be set to shape {array.shape}")
        self.value[...] = array  # in place: programs hold this array's address

    def reset(self) -> None:
        """Make the value anew from the initializer on next use."""
        if self._value is not None:
            self._value[...] = self.initializer(self.type.static_shape, self.type.dtype, self.name)

    def __repr__(self) -> str:
        return f"Variable({self.name}: {self.type})"


def zeros(shape: Sequence[int], dtype: DType, name: str) -> np.ndarray:
    """The initializer of what starts from nothing: one zero, seen as an array of the shape."""
    return np.broadcast_to(np.zeros((), dtype.numpy), shape)


def aligned_empty(shape: Sequence[int], dtype: DType, alignment: int = 64) -> np.ndarray:
    """An uninitialised C-contiguous array whose first byte is aligned (64: one cache line, one AVX-512 vector)."""
    count = prod(shape) * dtype.itemsize
    raw = np.empty(count + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + count].view(dtype.numpy).reshape(tuple(shape))

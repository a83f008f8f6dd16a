"""Dataset: named arrays that agree on their first axis, the examples.

What enters: arrays by the names of the graph's inputs. What leaves: parts of the data set (also a Dataset) and
mini-batches (``{name: array}``). Invariant: all arrays have the same length, and the order of the batches is a pure
function of ``(seed, epoch)``.

>>> import numpy as np
>>> data = Dataset(x=np.arange(6, dtype=np.float32), label=np.arange(6, dtype=np.int32) % 2)
>>> [batch["x"].tolist() for batch in data.batches(4)]
[[0.0, 1.0, 2.0, 3.0], [4.0, 5.0]]
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, SupportsIndex, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphc.data.streams import permutation
from graphc.errors import DataError

Array: TypeAlias = NDArray[Any]
Batch: TypeAlias = dict[str, Array]
_SHORT = {"b": "bool", "i": "i", "u": "u", "f": "f"}


class Dataset:
    """Named arrays with equal first axes.

    Args:
        arrays: one array-like a name, ``[examples, ...]``, of a boolean, integer or floating dtype.

    Raises:
        DataError: no arrays, an array without a first axis, a dtype that no tensor has, or lengths that differ.

    Batches that are taken in order are views of the arrays, not copies; so are slices.

    >>> import numpy as np
    >>> data = Dataset(image=np.zeros((10, 784), np.float32), label=np.zeros(10, np.int32))
    >>> len(data), data["image"].shape, len(data[2:5])
    (10, (10, 784), 3)
    """

    __slots__ = ("_arrays", "_length")

    def __init__(self, **arrays: ArrayLike) -> None:
        if not arrays:
            raise DataError("a data set needs at least one array", help="Dataset(image=..., label=...)")
        checked = {name: _as_array(name, value) for name, value in arrays.items()}
        lengths = {name: len(array) for name, array in checked.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(
                "the arrays of a data set differ in length: "
                + " against ".join(str(length) for length in dict.fromkeys(lengths.values())),
                notes=tuple(f"{name}: {_describe(a, 0)}  axis 0 is {len(a)}" for name, a in checked.items()),
                help="axis 0 counts the examples and must be the same for every array",
            )
        self._arrays = MappingProxyType(checked)
        self._length = next(iter(lengths.values()))

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The arrays by name, in the order given."""
        return self._arrays

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays' names, in the order given."""
        return tuple(self._arrays)

    def __len__(self) -> int:
        return self._length

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[Any]:
        raise DataError(
            "a data set is not iterated directly", help="use data.batches(batch_size) or data.arrays.items()"
        )

    @overload
    def __getitem__(self, index: str) -> Array: ...
    @overload
    def __getitem__(self, index: slice | Array | list[int] | list[bool]) -> Dataset: ...
    def __getitem__(self, index: str | slice | Array | list[int] | list[bool]) -> Array | Dataset:
        """``data["image"]`` is an array; ``data[10:20]``, ``data[indices]`` and ``data[mask]`` are data sets.

        Raises:
            DataError: an unknown name, a single integer, an index out of range, or a mask of the wrong length.

        >>> Dataset(x=[10, 20, 30])[[2, 0]]["x"].tolist()
        [30, 10]
        """
        if isinstance(index, str):
            if index not in self._arrays:
                raise DataError(f"no array {index!r} in this data set", notes=(f"it has: {', '.join(self.names)}",))
            return self._arrays[index]
        where = index if isinstance(index, slice) else self._indices(index)
        return Dataset(**{name: array[where] for name, array in self._arrays.items()})

    def __repr__(self) -> str:
        inside = ", ".join(f"{name} {_describe(array, 1)}" for name, array in self._arrays.items())
        return f"Dataset({self._length} example{'' if self._length == 1 else 's'}: {inside})"

    def split(self, count: int) -> tuple[Dataset, Dataset]:
        """The first ``count`` examples, and the rest. Shuffle first if the data is sorted.

        Raises:
            DataError: ``count`` lies outside of ``0..len(self)``.

        >>> [len(part) for part in Dataset(x=[1, 2, 3]).split(1)]
        [1, 2]
        """
        number = _integer("count", count)
        if not 0 <= number <= self._length:
            raise DataError(f"cannot split off {number} of {self._length} examples")
        return self[:number], self[number:]

    def shuffled(self, seed: int) -> Dataset:
        """The same examples in an order that depends on the seed alone.

        >>> data = Dataset(x=range(100))
        >>> (data.shuffled(3)["x"] == data.shuffled(3)["x"]).all().item()
        True
        """
        return self[self.order(seed)]

    def order(self, seed: int | None, epoch: int = 0) -> NDArray[np.intp]:
        """The order of the examples in an epoch, ``intp[len(self)]``; without a seed, the order they are stored in.

        >>> Dataset(x=[5, 6, 7]).order(None).tolist()
        [0, 1, 2]
        """
        if seed is None:
            return np.arange(self._length, dtype=np.intp)
        return permutation(self._length, seed, epoch)

    def batch_count(self, batch_size: int, *, drop_last: bool = False) -> int:
        """How many batches :meth:`batches` yields in an epoch.

        >>> Dataset(x=range(10)).batch_count(4), Dataset(x=range(10)).batch_count(4, drop_last=True)
        (3, 2)
        """
        size = _batch_size(batch_size)
        return self._length // size if drop_last else -(-self._length // size)

    def batches(
        self, batch_size: int, seed: int | None = None, epoch: int = 0, drop_last: bool = False, *, start: int = 0
    ) -> Iterator[Batch]:
        """Mini-batches ``{name: array[batch_size, ...]}`` of one epoch; the last may be shorter.

        Args:
            batch_size: examples in a batch, at least 1.
            seed: shuffle by ``(seed, epoch)``; without a seed the order is that of the arrays.
            epoch: the number of the epoch, from 0 on.
            drop_last: leave out a last batch that is not full (then every batch has one shape).
            start: begin with this batch, as a run does that goes on from a checkpoint within an epoch.

        Raises:
            DataError: at the call, for a size below 1, a negative seed or epoch, or a ``start`` past the end.

        >>> [len(b["x"]) for b in Dataset(x=range(10)).batches(4, seed=0, epoch=2, drop_last=True)]
        [4, 4]
        """
        size = _batch_size(batch_size)
        count = self.batch_count(size, drop_last=drop_last)
        first = _integer("start", start)
        if not 0 <= first <= count:
            raise DataError(f"batch {first} is outside of the epoch's {count} batches")
        if seed is None:
            spans = (slice(i * size, (i + 1) * size) for i in range(first, count))
            return ({name: array[span] for name, array in self._arrays.items()} for span in spans)
        order = self.order(seed, epoch)
        picks = (order[i * size : (i + 1) * size] for i in range(first, count))
        return ({name: array.take(pick, axis=0) for name, array in self._arrays.items()} for pick in picks)

    def _indices(self, index: ArrayLike) -> Array:
        indices = np.asarray(index)
        if indices.size == 0 and indices.dtype.kind == "f":  # an empty list has no dtype of its own
            indices = indices.astype(np.intp)
        if indices.ndim != 1 or indices.dtype.kind not in "biu":
            raise DataError(
                f"a data set is indexed by a slice, a list of integers or a mask, not by {index!r}",
                help="one example is data[i:i+1]" if indices.ndim == 0 else None,
            )
        if indices.dtype.kind == "b":
            if len(indices) != self._length:
                raise DataError(f"the mask has {len(indices)} entries, the data set {self._length} examples")
        elif indices.size and not -self._length <= int(indices.min()) <= int(indices.max()) < self._length:
            bad = indices.max() if indices.max() >= self._length else indices.min()
            raise DataError(f"index {bad} is outside of the data set's {self._length} examples")
        return indices


def _as_array(name: str, value: ArrayLike) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:  # NumPy refuses ragged lists
        raise DataError(f"{name!r} is not a rectangular array", notes=(str(error),)) from error
    if array.ndim == 0:
        raise DataError(f"{name!r} is a single value; axis 0 must count the examples")
    if array.dtype.kind not in _SHORT:
        raise DataError(f"{name!r} has dtype {array.dtype}, which no tensor has", help="use bool, int or float arrays")
    return array


def _describe(array: Array, first_axis: int) -> str:
    kind = _SHORT[array.dtype.kind]
    width = "" if kind == "bool" else str(8 * array.dtype.itemsize)
    return f"{kind}{width}[{','.join(map(str, array.shape[first_axis:]))}]"


def _integer(name: str, value: SupportsIndex) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise DataError(f"{name} is an integer, not {value!r}") from error


def _batch_size(value: int) -> int:
    size = _integer("batch_size", value)
    if size < 1:
        raise DataError(f"batch_size is at least 1, not {size}")
    return size

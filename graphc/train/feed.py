"""From the user's data to a data set that fits the model's inputs.

What enters: a Dataset, a dict or a tuple of arrays, and the inputs. What leaves: a Dataset of just these inputs, in
their dtypes. Invariant: a conversion never changes a value, except for rounding between floating types.

>>> import graphc.ops as ops
>>> as_dataset({"x": [1.0, 2.0], "unused": [0, 0]}, [ops.input("x", ("batch",))])
Dataset(2 examples: x f32[])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphc.data.dataset import Dataset
from graphc.errors import DataError
from graphc.ir import Node

Data: TypeAlias = "Dataset | Mapping[str, Any] | Sequence[Any]"


def as_dataset(data: Data, inputs: Sequence[Node]) -> Dataset:
    """The data for these inputs.

    Args:
        data: arrays by input name (others are left out), or a tuple of arrays in the order in which the inputs were
        declared. inputs: of the model.

    Raises:
        DataError: an input has no array, the number of arrays differs, a value does not fit the input's dtype, an array
        does
            not have the input's shape, or there are no examples.
    """
    if not inputs:
        raise DataError("the model has no inputs, so there is nothing to feed")
    arrays = _by_name(data, inputs)
    found = Dataset(**{node.name: _fit(node, arrays[node.name]) for node in inputs})
    if len(found) == 0:
        raise DataError("the data set has no examples")
    return found


def _by_name(data: Data, inputs: Sequence[Node]) -> Mapping[str, Any]:
    names = [node.name for node in inputs]
    if isinstance(data, (Dataset, Mapping)):
        arrays: Mapping[str, Any] = data.arrays if isinstance(data, Dataset) else data
        missing = [name for name in names if name not in arrays]
        if missing:
            raise DataError(
                f"the data has no array for the input {missing[0]!r}",
                source=next(n.source for n in inputs if n.name == missing[0]),
                notes=(f"the data has: {', '.join(map(str, arrays))}", f"the model reads: {', '.join(names)}"),
            )
        return arrays
    if isinstance(data, (tuple, list)):
        if len(data) != len(names):
            raise DataError(
                f"{len(data)} arrays for {len(names)} inputs", notes=(f"the model reads, in order: {', '.join(names)}",)
            )
        return dict(zip(names, data, strict=True))
    raise DataError(
        f"{type(data).__name__} is no data set", help="give a Dataset, a dict of arrays or a tuple of arrays"
    )


def _fit(node: Node, value: Any) -> np.ndarray:
    array = np.asarray(value)
    wanted = node.dtype.numpy
    shape = (*array.shape[:1], *array.shape[1:])
    rest = node.shape[1:]
    if len(shape) != node.ndim or any(isinstance(d, int) and d != n for d, n in zip(rest, shape[1:], strict=True)):
        raise DataError(
            f"the array for {node.name!r} has the shape {list(array.shape)}, the input is {node.type}",
            source=node.source, help="axis 0 counts the examples, the others are the input's",
        )  # fmt: skip
    if array.dtype == wanted:
        return array
    if array.dtype.kind == "f" and node.dtype.is_float:
        return array.astype(wanted)
    if array.dtype.kind in "iu" and node.dtype.is_integer:
        info = np.iinfo(wanted)
        if array.size and not info.min <= int(array.min()) <= int(array.max()) <= info.max:
            raise DataError(f"values for {node.name!r} lie outside of {node.dtype}", source=node.source)
        return array.astype(wanted)
    raise DataError(
        f"the array for {node.name!r} is {array.dtype}, the input is {node.type}", source=node.source,
        help=f"convert it: array.astype('{node.dtype.name}')",
    )  # fmt: skip

"""5,000 handwritten digits of MNIST, 500 of each class, from a file in the package.

What enters: the number of validation examples and a seed. What leaves: two data sets, training and validation, each
``image: f32[n,784]`` in 0..1 (28 rows of 28 pixels) and ``label: i32[n]`` in 0..9. Invariant: the two have no example
in common, and in each of them the numbers of any two classes differ by at most one.

>>> train, valid = load_digits(validation=1000, seed=0)
>>> train["image"].shape, valid["label"].shape
((4000, 784), (1000,))

Source and licence of the digits: ``MNIST-LICENCE.md`` beside this file. Y. LeCun, L. Bottou, Y. Bengio, P. Haffner,
"Gradient-based learning applied to document recognition", Proceedings of the IEEE 86(11), 1998.
"""

from __future__ import annotations

import operator
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.data.dataset import Dataset
from graphc.data.streams import permutation
from graphc.errors import DataError


def load_digits(validation: int = 1000, seed: int = 0) -> tuple[Dataset, Dataset]:
    """The digits as ``(train, validation)``, shuffled and split by the seed with every class in its share.

    Args:
        validation: how many of the 5,000 examples validate, 0 to 5,000; the others train.
        seed: chooses the split and the order.

    Raises:
        DataError: ``validation`` is not in 0..5000, or the seed is negative.

    >>> import numpy as np
    >>> np.bincount(load_digits(validation=1000)[1]["label"]).tolist()
    [100, 100, 100, 100, 100, 100, 100, 100, 100, 100]
    """
    image, label = _digits()
    count = operator.index(validation)
    if not 0 <= count <= len(label):
        raise DataError(f"validation takes 0 to {len(label)} examples, not {count}")
    order = permutation(len(label), seed)
    held_out = _rank_in_class(label[order]) < count
    whole = Dataset(image=image.astype(np.float32) / np.float32(255), label=label.astype(np.int32))
    return whole[order[~held_out]], whole[order[held_out]]


@cache
def _digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    with (files("graphc.data") / "mnist_5k.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return archive["image"], archive["label"]


def _rank_in_class(label: NDArray[Any]) -> NDArray[np.intp]:
    """Deal the examples out class by class in turn; an example's place in the deal (any prefix is balanced).

    >>> _rank_in_class(np.array([1, 1, 0, 1, 0])).tolist()
    [1, 3, 0, 4, 2]
    """
    by_class = np.argsort(label, kind="stable")
    sizes = np.bincount(label)
    turn = np.empty(len(label), dtype=np.intp)
    turn[by_class] = np.arange(len(label)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = np.empty(len(label), dtype=np.intp)
    place[np.lexsort((label, turn))] = np.arange(len(label))
    return place

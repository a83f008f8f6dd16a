"""Types that are shared: one object for each, whoever asked first."""

from __future__ import annotations

import copy
import pickle

import numpy as np

from graphc.types import DTYPES, TensorType, float32


def test_a_type_of_numpys_sizes_is_a_static_type_for_everybody() -> None:
    first = TensorType(float32, (2,)).with_shape((np.int64(7919), 3))  # type: ignore[arg-type]
    again = TensorType(float32, (5,)).with_shape((7919, 3))
    assert first is again and again.is_static and all(type(d) is int for d in again.shape)


def test_copies_of_an_element_type_are_the_same_object() -> None:
    for dtype in DTYPES:
        assert copy.deepcopy(dtype) is dtype and copy.copy(dtype) is dtype and pickle.loads(pickle.dumps(dtype)) is dtype

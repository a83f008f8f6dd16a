"""Counter-based random streams for data: the same numbers on every machine and under every NumPy version.

What enters: a seed and a tuple of stream numbers (an epoch, an array's index). What leaves: uniform words, uniform and
normal numbers, permutations. Invariant: a stream is a pure function of its seed and numbers; no state is carried.

NumPy keeps the output of a *bit generator* fixed between versions, but not that of ``Generator.permutation`` or
``Generator.normal`` (NEP 19); so these are built here, on the raw words of Philox4x64-10.

>>> permutation(5, 0, 3).tolist() == permutation(5, 0, 3).tolist()
True

Sources: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox); Box and Muller,
"A note on the generation of random normal deviates", 1958.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphc.errors import DataError


def words(count: int, seed: int, *stream: int) -> NDArray[np.uint64]:
    """``uint64[count]`` random words of the stream ``(seed, *stream)``.

    Raises:
        DataError: a seed or a stream number is not an integer from 0 on.

    >>> words(2, 0).shape
    (2,)
    """
    for number in (seed, *stream):
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 0:
            raise DataError(f"a seed is an integer from 0 on, not {number!r}")
    # The stream's numbers go into the spawn key: as plain entropy, (0,) and (0, 0) would be the same stream.
    sequence = np.random.SeedSequence(int(seed), spawn_key=tuple(int(number) for number in stream))
    return np.random.Philox(sequence).random_raw(count).astype(np.uint64, copy=False)


def uniform(count: int, seed: int, *stream: int) -> NDArray[np.float64]:
    """``float64[count]`` numbers in [0, 1), each a multiple of 2**-53.

    >>> bool((uniform(100, 0) < 1).all())
    True
    """
    return (words(count, seed, *stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(count: int, seed: int, *stream: int) -> NDArray[np.float64]:
    """``float64[count]`` standard normal numbers, by Box and Muller's transform.

    >>> bool(abs(normal(10_000, 0).mean()) < 0.05)
    True
    """
    pairs = uniform(2 * count, seed, *stream).reshape(2, count)
    radius = np.sqrt(-2.0 * np.log1p(-pairs[0]))  # 1 - u lies in (0, 1]: the logarithm is finite
    return np.asarray(radius * np.cos(2.0 * np.pi * pairs[1]), dtype=np.float64)


def permutation(count: int, seed: int, *stream: int) -> NDArray[np.intp]:
    """A permutation of ``0..count-1`` as ``intp[count]``: the order of random 64-bit keys (ties keep their order).

    >>> sorted(permutation(4, 7).tolist())
    [0, 1, 2, 3]
    """
    return np.argsort(words(count, seed, *stream), kind="stable")

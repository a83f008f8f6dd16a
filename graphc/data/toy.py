"""Small made data sets of points in the plane, for lectures and tests.

What enters: a number of points, a noise level, a seed. What leaves: a data set ``point: f32[n,2]``, ``label: i32[n]``.
Invariant: the same arguments give the same points everywhere, classes differ in size by at most one, and the points
are in random order (any prefix is a fair sample).

>>> two_moons(4)
Dataset(4 examples: point f32[2], label i32[])
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from graphc.data.dataset import Dataset
from graphc.data.streams import normal, permutation, uniform
from graphc.errors import DataError

_PLACE, _NOISE, _ORDER, _CENTRE = range(4)  # the streams of one seed


def two_moons(count: int = 1000, *, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Two interleaved half circles; ``noise`` is the standard deviation of the points' displacement.

    Raises:
        DataError: a negative count, noise or seed.

    >>> import numpy as np
    >>> moons = two_moons(200, noise=0.0)
    >>> upper = moons["point"][moons["label"] == 0]
    >>> bool(np.allclose(np.hypot(upper[:, 0], upper[:, 1]), 1, atol=1e-6))
    True

    Source: scikit-learn's ``make_moons`` uses the same two curves.
    """
    label = _labels(count, 2)
    angle = np.pi * uniform(count, seed, _PLACE)
    x = np.where(label == 0, np.cos(angle), 1 - np.cos(angle))
    y = np.where(label == 0, np.sin(angle), 0.5 - np.sin(angle))
    return _finish(x, y, label, noise, seed)


def spirals(count: int = 1000, *, arms: int = 3, turns: float = 0.75, noise: float = 0.02, seed: int = 0) -> Dataset:
    """``arms`` spirals about the origin, of radius up to 1, each making ``turns`` of a full turn.

    Raises:
        DataError: a negative count, noise or seed, or fewer than one arm.

    >>> spirals(300, arms=3)["label"].max().item()
    2

    Source: K. Lang, M. Witbrock, "Learning to tell two spirals apart", Connectionist Models Summer School, 1988.
    """
    label = _labels(count, arms)
    radius = np.sqrt(uniform(count, seed, _PLACE))  # the root spreads the points evenly along the arm's length
    angle = 2 * np.pi * (turns * radius + label / arms)
    return _finish(radius * np.cos(angle), radius * np.sin(angle), label, noise, seed)


def blobs(count: int = 1000, *, centres: int = 3, noise: float = 0.5, seed: int = 0) -> Dataset:
    """Normal clouds of standard deviation ``noise`` about ``centres`` points on a circle of radius 2.

    The seed turns the circle.

    Raises:
        DataError: a negative count, noise or seed, or fewer than one centre.

    >>> len(blobs(100, centres=5))
    100
    """
    label = _labels(count, centres)
    angle = 2 * np.pi * (label / centres + uniform(1, seed, _CENTRE)[0])
    return _finish(2 * np.cos(angle), 2 * np.sin(angle), label, noise, seed)


def xor(count: int = 1000, *, noise: float = 0.0, seed: int = 0) -> Dataset:
    """Points of the square -1..1; the label is 1 where the signs of the coordinates differ. No line separates them.

    Raises:
        DataError: a negative count, noise or seed.

    >>> data = xor(50)
    >>> bool(((data["point"].prod(axis=1) < 0) == (data["label"] == 1)).all())
    True

    Source: M. Minsky, S. Papert, "Perceptrons", 1969.
    """
    label = _labels(count, 2)
    size = 1 - uniform(2 * count, seed, _PLACE).reshape(2, count)  # in (0, 1]: no point lies on an axis
    sign = np.where(uniform(count, seed, _CENTRE) < 0.5, -1.0, 1.0)
    return _finish(sign * size[0], np.where(label == 1, -sign, sign) * size[1], label, noise, seed)


def _labels(count: int, classes: int) -> NDArray[np.int32]:
    if count < 0:
        raise DataError(f"count is at least 0, not {count}")
    if classes < 1:
        raise DataError(f"there is at least one class, not {classes}")
    return np.arange(count, dtype=np.int32) % np.int32(classes)


def _finish(
    x: NDArray[np.float64], y: NDArray[np.float64], label: NDArray[np.int32], noise: float, seed: int
) -> Dataset:
    """Displace the points, bring them into random order, make a data set of them."""
    if not (math.isfinite(noise) and noise >= 0):
        raise DataError(f"noise is a finite number from 0 on, not {noise}")
    shift = noise * normal(2 * len(label), seed, _NOISE).reshape(-1, 2)
    point = (np.stack([x, y], axis=1) + shift).astype(np.float32)
    order = permutation(len(label), seed, _ORDER)
    return Dataset(point=point[order], label=label[order])

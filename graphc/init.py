"""Initialisers: the first value of a parameter, as a pure function of a seed and the parameter's full name.

What enters: a shape, a dtype, a name such as "classifier/dense_0/weight". What leaves: an array. Invariant: no state
is carried and no order matters. The numbers come from Philox4x64-10 keyed by the SHA-256 of seed and name, so adding a
layer or declaring parameters in another order leaves the values of all others as they were.

>>> import numpy as np
>>> from graphc.types import float32
>>> make = glorot_uniform(seed=0)
>>> bool(np.array_equal(make((3, 2), float32, "w"), make((3, 2), float32, "w")))
True
>>> bool(np.array_equal(make((3, 2), float32, "w"), make((3, 2), float32, "v")))
False

**Fans.** A weight is laid out ``[..., inputs, outputs]``; axes before the last two are a window's (convolutions), and
their sizes multiply both fans. A vector's fans are its length, a scalar's are 1.

The seed is the one given, else that of the innermost ``with seed(n):`` where the initialiser is made, else 0.
Source of the generator: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphc import provenance
from graphc.errors import GraphError
from graphc.types import DType

Shape: TypeAlias = tuple[int, ...]
Floats: TypeAlias = NDArray[np.float64]
_seed: ContextVar[int] = ContextVar("graphc_seed", default=0)


@contextmanager
def seed(number: int) -> Iterator[int]:
    """Layers and initialisers made inside draw from this seed (also dropout's masks). The default seed is 0.

    Raises:
        GraphError: the seed is not an integer from 0 on.

    >>> with seed(7):
    ...     current_seed()
    7
    >>> current_seed()
    0
    """
    token = _seed.set(_checked_seed(number))
    try:
        yield number
    finally:
        _seed.reset(token)


def current_seed() -> int:
    """The seed of the innermost ``with seed(n):``, else 0."""
    return _seed.get()


def digest(seed: int, name: str) -> bytes:
    """SHA-256 of a seed and a name: 32 bytes that key every stream of random numbers of that name."""
    return hashlib.sha256(f"graphc:{seed}:{name}".encode()).digest()


@dataclass(frozen=True)
class Stream:
    """Random numbers of one parameter; ``part`` tells several draws for it apart."""

    seed: int
    name: str

    def words(self, count: int, part: int = 0) -> NDArray[np.uint64]:
        """``uint64[count]``: raw words of Philox keyed by the digest (its output is fixed across NumPy versions)."""
        key = np.frombuffer(digest(self.seed, f"{self.name}#{part}"), np.uint64, 2)
        return np.asarray(np.random.Philox(key=key).random_raw(count), np.uint64)

    def uniform(self, count: int, part: int = 0) -> Floats:
        """``float64[count]`` in [0, 1), each a multiple of 2**-53."""
        return (self.words(count, part) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, count: int, part: int = 0) -> Floats:
        """``float64[count]`` standard normal numbers (Box and Muller 1958)."""
        first, second = self.uniform(2 * count, part).reshape(2, count)
        radius = np.sqrt(-2.0 * np.log1p(-first))  # 1 - u lies in (0, 1]: the logarithm is finite
        return np.asarray(radius * np.cos(2.0 * np.pi * second), np.float64)

    def truncated_normal(self, count: int, bound: float) -> Floats:
        """Standard normal numbers, those beyond ``bound`` drawn anew until all are within."""
        drawn = self.normal(count, 0)
        part = 0
        while (bad := np.flatnonzero(np.abs(drawn) > bound)).size:
            part += 1
            drawn[bad] = self.normal(bad.size, part)
        return drawn


@dataclass(frozen=True)
class Initializer:
    """``initializer(shape, dtype, name) -> array``: deterministic in (seed, name).

    Attributes:
        label: how it was called, for summaries.
        draw: ``draw(shape, stream) -> float64[shape]``.
        seed: of its streams.
    """

    label: str
    draw: Callable[[Shape, Stream], Floats]
    seed: int

    def __call__(self, shape: Shape, dtype: DType, name: str) -> NDArray[np.generic]:
        values = np.asarray(self.draw(tuple(shape), Stream(self.seed, name)))
        return np.array(np.broadcast_to(values, shape), dtype.numpy, order="C")

    def with_seed(self, number: int) -> Initializer:
        """The same initialiser on another seed."""
        return replace(self, seed=_checked_seed(number))

    def __repr__(self) -> str:
        return self.label


def fans(shape: Shape) -> tuple[int, int]:
    """``(fan_in, fan_out)`` of a weight ``[..., inputs, outputs]`` (see the module's docstring).

    >>> fans((784, 128)), fans((3, 3, 16, 32)), fans((10,)), fans(())
    ((784, 128), (144, 288), (10, 10), (1, 1))
    """
    if len(shape) < 2:
        size = shape[0] if shape else 1
        return size, size
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


# --- without a stream ----------------------------------------------------------------------------------------------


def zeros() -> Initializer:
    """All zeros (biases).

    >>> from graphc.types import float32
    >>> zeros()((2,), float32, "b").tolist()
    [0.0, 0.0]
    """
    return Initializer("zeros", lambda shape, stream: np.zeros(shape), 0)


def ones() -> Initializer:
    """All ones (gains)."""
    return Initializer("ones", lambda shape, stream: np.ones(shape), 0)


def constant(value: float) -> Initializer:
    """All ``value``."""
    return Initializer(f"constant({value})", lambda shape, stream: np.full(shape, float(value)), 0)


# --- uniform and normal --------------------------------------------------------------------------------------------


def uniform(low: float = -0.05, high: float = 0.05, *, seed: int | None = None) -> Initializer:
    """Uniform in [low, high).

    Raises:
        GraphError: ``low`` exceeds ``high``, or a bound is not finite.
    """
    _require(math.isfinite(low) and math.isfinite(high) and low <= high, f"uniform({low}, {high}) is an empty interval")

    def draw(shape: Shape, stream: Stream) -> Floats:
        return low + (high - low) * stream.uniform(math.prod(shape)).reshape(shape)

    return Initializer(f"uniform({low}, {high})", draw, _resolve_seed(seed))


def normal(mean: float = 0.0, std: float = 0.05, *, seed: int | None = None) -> Initializer:
    """Normal with this mean and standard deviation.

    Raises:
        GraphError: ``std`` is negative or not finite.
    """
    _require(math.isfinite(std) and std >= 0, f"a standard deviation is a finite number from 0 on, not {std}")

    def draw(shape: Shape, stream: Stream) -> Floats:
        return mean + std * stream.normal(math.prod(shape)).reshape(shape)

    return Initializer(f"normal({mean}, {std})", draw, _resolve_seed(seed))


def truncated_normal(
    mean: float = 0.0, std: float = 0.05, *, bound: float = 2.0, seed: int | None = None
) -> Initializer:
    """Normal, with values further than ``bound * std`` from the mean drawn anew.

    ``std`` is that of the normal before truncation; at ``bound=2`` the result's is 0.8796 of it.

    Raises:
        GraphError: ``std`` is negative, or ``bound`` below 0.1 (hardly anything would be kept).
    """
    _require(math.isfinite(std) and std >= 0, f"a standard deviation is a finite number from 0 on, not {std}")
    _require(bound >= 0.1, f"bound is at least 0.1 standard deviations, not {bound}")

    def draw(shape: Shape, stream: Stream) -> Floats:
        return mean + std * stream.truncated_normal(math.prod(shape), bound).reshape(shape)

    return Initializer(f"truncated_normal({mean}, {std})", draw, _resolve_seed(seed))


# --- scaled by the fans --------------------------------------------------------------------------------------------


def glorot_uniform(*, seed: int | None = None) -> Initializer:
    """Uniform of variance ``2 / (fan_in + fan_out)``.

    Source: Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010,
    equation 16.
    """
    return _scaled("glorot_uniform", seed, lambda i, o: 2.0 / (i + o), _draw_uniform)


def glorot_normal(*, seed: int | None = None) -> Initializer:
    """Normal of variance ``2 / (fan_in + fan_out)`` (Glorot, Bengio 2010, equation 12)."""
    return _scaled("glorot_normal", seed, lambda i, o: 2.0 / (i + o), _draw_normal)


def he_uniform(*, seed: int | None = None) -> Initializer:
    """Uniform of variance ``2 / fan_in``, for relu.

    Source: He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015, equation 10.
    """
    return _scaled("he_uniform", seed, lambda i, o: 2.0 / i, _draw_uniform)


def he_normal(*, seed: int | None = None) -> Initializer:
    """Normal of variance ``2 / fan_in``, for relu (He et al. 2015, equation 10)."""
    return _scaled("he_normal", seed, lambda i, o: 2.0 / i, _draw_normal)


def lecun_uniform(*, seed: int | None = None) -> Initializer:
    """Uniform of variance ``1 / fan_in``.

    Source: LeCun, Bottou, Orr, Müller, "Efficient BackProp", Neural Networks: Tricks of the Trade, 1998, section 4.6.
    """
    return _scaled("lecun_uniform", seed, lambda i, o: 1.0 / i, _draw_uniform)


def lecun_normal(*, seed: int | None = None) -> Initializer:
    """Normal of variance ``1 / fan_in`` (LeCun et al. 1998, section 4.6)."""
    return _scaled("lecun_normal", seed, lambda i, o: 1.0 / i, _draw_normal)


def orthogonal(gain: float = 1.0, *, seed: int | None = None) -> Initializer:
    """A matrix with orthonormal columns (or rows, if it is wide) times ``gain``; leading axes are folded into rows.

    Raises:
        GraphError: when drawn for fewer than two axes.

    Sources: Saxe, McClelland, Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks", ICLR 2014; Mezzadri, "How to generate random matrices from the classical compact groups", 2007 (the signs
    that make the distribution uniform).
    """

    def draw(shape: Shape, stream: Stream) -> Floats:
        _require(len(shape) >= 2, f"orthogonal needs at least two axes, {stream.name} has the shape {shape}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = stream.normal(rows * columns).reshape(max(rows, columns), min(rows, columns))
        q, r = np.linalg.qr(tall)
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
        return gain * (q if rows >= columns else q.T).reshape(shape)

    return Initializer(f"orthogonal({gain})", draw, _resolve_seed(seed))


def _draw_uniform(variance: float, shape: Shape, stream: Stream) -> Floats:
    limit = math.sqrt(3.0 * variance)  # the variance of U(-a, a) is a²/3
    return limit * (2.0 * stream.uniform(math.prod(shape)).reshape(shape) - 1.0)


def _draw_normal(variance: float, shape: Shape, stream: Stream) -> Floats:
    return math.sqrt(variance) * stream.normal(math.prod(shape)).reshape(shape)


def _scaled(
    label: str,
    seed: int | None,
    variance: Callable[[int, int], float],
    sample: Callable[[float, Shape, Stream], Floats],
) -> Initializer:
    def draw(shape: Shape, stream: Stream) -> Floats:
        fan_in, fan_out = fans(shape)
        return sample(variance(max(fan_in, 1), max(fan_out, 1)), shape, stream)

    return Initializer(label, draw, _resolve_seed(seed))


# --- by name -------------------------------------------------------------------------------------------------------

NAMES: dict[str, Callable[[], Initializer]] = {
    "zeros": zeros,
    "ones": ones,
    "uniform": uniform,
    "normal": normal,
    "truncated_normal": truncated_normal,
    "glorot_uniform": glorot_uniform,
    "glorot_normal": glorot_normal,
    "he_uniform": he_uniform,
    "he_normal": he_normal,
    "lecun_uniform": lecun_uniform,
    "lecun_normal": lecun_normal,
    "orthogonal": orthogonal,
}
AnyInitializer: TypeAlias = "str | float | Callable[[Shape, DType, str], NDArray[np.generic]]"


def get(which: AnyInitializer) -> Callable[[Shape, DType, str], NDArray[np.generic]]:
    """An initialiser from its name, a number (a constant) or a callable (itself).

    Raises:
        GraphError: no initialiser has that name.

    >>> get("he_normal"), get(0.5)
    (he_normal, constant(0.5))
    """
    if isinstance(which, str):
        if which not in NAMES:
            near = difflib.get_close_matches(which, NAMES, 3) or list(NAMES)
            raise GraphError(
                f"unknown initialiser {which!r}", source=provenance.capture(), help=f"choose {' or '.join(near)}"
            )
        return NAMES[which]()
    if callable(which):
        return which
    return constant(which)


def _resolve_seed(number: int | None) -> int:
    return current_seed() if number is None else _checked_seed(number)


def _checked_seed(number: int) -> int:
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 0:
        raise GraphError(f"a seed is an integer from 0 on, not {number!r}", source=provenance.capture())
    return int(number)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise GraphError(message, source=provenance.capture())

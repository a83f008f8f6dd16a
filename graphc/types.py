"""Element types, dimensions and tensor types: ``f32[batch,784]``.

A :class:`DType` is one of seven fixed element types. A dimension is an ``int`` or a :class:`SymDim`, a polynomial with
integer coefficients over named sizes ("batch"), so that reshapes and concatenations of symbolic axes stay exact. A
:class:`TensorType` is a dtype and a tuple of dimensions. All three are immutable, hashable and print in the IR's text.

Invariant: a dimension that is a constant is always an ``int``, never a constant :class:`SymDim`.

>>> str(TensorType(float32, (dim("batch"), 784)))
'f32[batch,784]'
>>> dim("batch") * 4 + 2
SymDim('4*batch+2')
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any, TypeAlias

import numpy as np

from graphc.errors import DTypeError, ShapeError


@dataclass(frozen=True, eq=False)
class DType:
    """An element type: the IR's short name, the NumPy name, its kind and its size in bytes. There is one object of each."""

    short: str
    name: str
    kind: str  # "bool" | "int" | "uint" | "float"
    itemsize: int

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype of the same element."""
        return np.dtype(self.name)

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    def __reduce__(self) -> tuple[Any, ...]:
        return as_dtype, (self.name,)  # a copy is the same object

    def __str__(self) -> str:
        return self.short

    def __repr__(self) -> str:
        return f"graphc.{'bool_' if self.name == 'bool' else self.name}"

    __iter__ = None  # __getitem__ would otherwise make iteration endless

    def __getitem__(self, shape: Any) -> TensorType:
        """``graphc.f32["batch", 784]`` is a tensor type, as an annotation wants it."""
        return TensorType(self, as_shape(shape if isinstance(shape, tuple) else (shape,)))


bool_ = DType("bool", "bool", "bool", 1)
int32 = DType("i32", "int32", "int", 4)
int64 = DType("i64", "int64", "int", 8)
uint32 = DType("u32", "uint32", "uint", 4)
float32 = DType("f32", "float32", "float", 4)
float64 = DType("f64", "float64", "float", 8)
DTYPES: tuple[DType, ...] = (bool_, int32, int64, uint32, float32, float64)
_BY_NAME: Mapping[str, DType] = {n: d for d in DTYPES for n in (d.short, d.name)}
_BY_NUMPY: Mapping[np.dtype[Any], DType] = {d.numpy: d for d in DTYPES}  # np.dtype.name is slow


def as_dtype(dtype: DType | str | type | np.dtype[Any]) -> DType:
    """The :class:`DType` that a short name, NumPy name, NumPy dtype or Python type stands for.

    >>> as_dtype("float32") is float32 and as_dtype(np.int64) is int64 and as_dtype(bool) is bool_
    True

    Raises:
        DTypeError: the dtype is none of graphc's.
    """
    if isinstance(dtype, DType):
        return dtype
    if isinstance(dtype, str) and dtype in _BY_NAME:
        return _BY_NAME[dtype]
    if isinstance(dtype, np.dtype) and dtype in _BY_NUMPY:
        return _BY_NUMPY[dtype]
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in _BY_NAME:
        known = ", ".join(d.name for d in DTYPES)
        raise DTypeError(f"dtype {dtype!r} is not supported", help=f"choose one of {known}")
    return _BY_NAME[name]


Monomial: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class SymDim:
    """A size known only when a program is called: a polynomial over named sizes.

    ``terms`` maps sorted tuples of names to nonzero coefficients, as a sorted tuple; the constant term has the key ``()``.
    """

    terms: tuple[tuple[Monomial, int], ...]

    @cached_property
    def names(self) -> frozenset[str]:
        """The named sizes that occur."""
        return frozenset(name for key, _ in self.terms for name in key)

    def _map(self) -> dict[Monomial, int]:
        return dict(self.terms)

    def __add__(self, other: Dim) -> Dim:
        terms = self._map()
        for key, c in _terms(other).items():
            terms[key] = terms.get(key, 0) + c
        return _normal(terms)

    def __mul__(self, other: Dim) -> Dim:
        terms: dict[Monomial, int] = {}
        for a, ca in self.terms:
            for b, cb in _terms(other).items():
                key = tuple(sorted(a + b))
                terms[key] = terms.get(key, 0) + ca * cb
        return _normal(terms)

    __radd__, __rmul__ = __add__, __mul__

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: Dim) -> Dim:
        return self * -1 + other

    def divide(self, other: Dim) -> Dim | None:
        """``self / other`` when it is exact and ``other`` is a single term, else None."""
        divisor = _terms(other)
        if len(divisor) != 1:
            return 1 if self == other else None
        (names, c), *_ = divisor.items()
        terms: dict[Monomial, int] = {}
        for key, k in self.terms:
            rest = list(key)
            for name in names:
                if name not in rest:
                    return None
                rest.remove(name)
            if k % c:
                return None
            terms[tuple(rest)] = k // c
        return _normal(terms)

    def substitute(self, sizes: Mapping[str, int]) -> Dim:
        """The dimension with named sizes replaced by numbers; unknown names stay."""
        total: Dim = 0
        for key, c in self.terms:
            term: Dim = c
            for name in key:
                term = term * sizes[name] if name in sizes else SymDim((((name,), 1),)) * term
            total = total + term
        return total

    def __str__(self) -> str:
        parts = []
        for key, c in sorted(self.terms, key=lambda t: (-len(t[0]), t[0])):
            factors = ([str(c)] if c != 1 or not key else []) + list(key)
            parts.append("*".join(factors))
        return "+".join(parts).replace("+-", "-")

    def __repr__(self) -> str:
        return f"SymDim({str(self)!r})"


Dim: TypeAlias = int | SymDim
Shape: TypeAlias = tuple[Dim, ...]


def _terms(d: Dim) -> dict[Monomial, int]:
    return d._map() if isinstance(d, SymDim) else {(): int(d)}


def _normal(terms: dict[Monomial, int]) -> Dim:
    kept = {k: c for k, c in terms.items() if c}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()]
    return SymDim(tuple(sorted(kept.items())))


def dim(value: int | str | SymDim) -> Dim:
    """A dimension from a size, a name or a dimension.

    Raises:
        ShapeError: a negative size, a name that is no identifier, or something else altogether.
    """
    if isinstance(value, SymDim):
        return value
    if isinstance(value, str):
        if not value.isidentifier():
            raise ShapeError(f"{value!r} cannot name a dimension", help="use an identifier such as 'batch'")
        return SymDim((((value,), 1),))
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        if value < 0:
            raise ShapeError(f"a dimension cannot be negative, got {value}")
        return int(value)
    raise ShapeError(f"{value!r} is no dimension", help="use an int or the name of a symbolic size such as 'batch'")


def as_shape(shape: int | str | SymDim | Iterable[int | str | SymDim]) -> Shape:
    """A shape from a dimension or a sequence of dimensions."""
    if isinstance(shape, (int, str, SymDim, np.integer)):
        return (dim(shape),)
    return tuple(dim(d) for d in shape)


@dataclass(frozen=True)
class TensorType:
    """The type of a value: element type and shape.

    >>> t = TensorType(float32, (2, 3)); t.rank, t.size, str(t)
    (2, 6, 'f32[2,3]')
    """

    dtype: DType
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """Number of elements (symbolic where the shape is)."""
        total: Dim = 1
        for d in self.shape:
            total = total * d
        return total

    @cached_property
    def is_static(self) -> bool:
        """Whether every dimension is a number."""
        return all(isinstance(d, int) for d in self.shape)

    @cached_property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as numbers.

        Raises:
            ShapeError: a dimension is symbolic.
        """
        if not self.is_static:
            raise ShapeError(f"{self} has a symbolic dimension", help="specialise the graph first")
        return tuple(d for d in self.shape if isinstance(d, int))

    @property
    def nbytes(self) -> int:
        """Bytes of a contiguous array of this (static) type."""
        return prod(self.static_shape) * self.dtype.itemsize

    def with_shape(self, shape: Sequence[Dim]) -> TensorType:
        return _shared(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return self if dtype is self.dtype else _shared(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(str(d) for d in self.shape)}]"


@lru_cache(4096)
def _shared(dtype: DType, shape: Shape) -> TensorType:
    """One object for each type in use: what it has found out about itself (whether it is static) is not found out again.

    NumPy's integers equal Python's, so the one that is kept for both has Python's.
    """
    return TensorType(dtype, tuple([int(d) if isinstance(d, np.integer) else d for d in shape]))


def substitute(value: Any, sizes: Mapping[str, int]) -> Any:
    """``value`` with every :class:`SymDim` in it (also inside tuples and tensor types) specialised to ``sizes``."""
    if isinstance(value, SymDim):
        return value.substitute(sizes)
    if isinstance(value, TensorType):
        return value if value.is_static else _shared(value.dtype, substitute(value.shape, sizes))
    if isinstance(value, tuple):
        return tuple(substitute(v, sizes) for v in value)
    return value

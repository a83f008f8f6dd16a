"""Index expressions: integer polynomials over loop variables, with floor division, remainder and run-time values.

An :class:`Index` is ``const + sum(coef * atom)``; an atom is a loop variable, a run-time integer value, or a floor
division / remainder of an index by a positive constant. Invariant: it is always in this normal form, so two equal
addresses are equal objects and strides can be read off as coefficients. Loop variables carry their extent, which lets
``//`` and ``%`` vanish where the range shows that they must (a reshape that only merges axes leaves none).

>>> i, j = Var("i", 8), Var("j", 4)
>>> str((Index.of(i) * 4 + j) // 4), str((Index.of(i) * 4 + j) % 4)
('i', 'j')
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Var:
    """A loop variable, 0 <= value < extent (a loop that starts elsewhere adds its start to the index)."""

    name: str
    extent: int

    def __hash__(self) -> int:  # of the name's alone, which the name remembers: variables are keys everywhere
        return hash(self.name)

    @property
    def bounds(self) -> tuple[int, int]:
        return 0, max(self.extent - 1, 0)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Value:
    """An integer computed by a statement of the kernel and guarded to lie in 0 .. extent-1."""

    name: str
    extent: int

    @property
    def bounds(self) -> tuple[int, int]:
        return 0, max(self.extent - 1, 0)

    def __str__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True)
class FloorDiv:
    """``base // divisor``."""

    base: Index
    divisor: int

    @property
    def bounds(self) -> tuple[int, int]:
        low, high = self.base.bounds
        return low // self.divisor, high // self.divisor

    def __str__(self) -> str:
        return f"({self.base})//{self.divisor}"


@dataclass(frozen=True)
class Mod:
    """``base % divisor`` (non-negative)."""

    base: Index
    divisor: int

    @property
    def bounds(self) -> tuple[int, int]:
        return 0, self.divisor - 1

    def __str__(self) -> str:
        return f"({self.base})%{self.divisor}"


Atom: TypeAlias = Var | Value | FloorDiv | Mod


@dataclass(frozen=True)
class Index:
    """``const + sum(coef * atom)``, terms sorted, no zero coefficient."""

    terms: tuple[tuple[Atom, int], ...] = ()
    const: int = 0

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # passes look indices up far more often than they make them
        return hash((self.terms, self.const))

    @staticmethod
    def of(value: Index | Atom | int) -> Index:
        """An index from an int, an atom or an index."""
        if isinstance(value, Index):
            return value
        if isinstance(value, int):
            return Index((), value)
        return Index(((value, 1),))

    @property
    def is_const(self) -> bool:
        return not self.terms

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest value the index can take."""
        low = high = self.const
        for atom, coef in self.terms:
            a, b = atom.bounds
            low, high = low + min(a * coef, b * coef), high + max(a * coef, b * coef)
        return low, high

    def coefficient(self, var: Var) -> int:
        """The coefficient of a loop variable as a plain atom (it may also occur inside // and %)."""
        for atom, factor in self.terms:
            if atom is var or atom == var:
                return factor
        return 0

    def atoms(self) -> Iterator[Atom]:
        """All atoms, also those inside divisions."""
        stack = [a for a, _ in self.terms]
        while stack:
            atom = stack.pop()
            yield atom
            if isinstance(atom, (FloorDiv, Mod)):
                stack.extend(a for a, _ in atom.base.terms)

    @cached_property
    def variables(self) -> frozenset[Var]:
        return frozenset(a for a in self.atoms() if isinstance(a, Var))

    @cached_property
    def values(self) -> frozenset[str]:
        """Names of run-time values that the index reads."""
        return frozenset(a.name for a in self.atoms() if isinstance(a, Value))

    def is_affine_in(self, var: Var) -> bool:
        """Whether the variable occurs only as a plain term."""
        return not any(var in a.base.variables for a, _ in self.terms if isinstance(a, (FloorDiv, Mod)))

    def substitute(self, mapping: Mapping[Var, Index]) -> Index:
        """The index with loop variables replaced."""
        total = Index((), self.const)
        for atom, coef in self.terms:
            match atom:
                case Var():
                    new = mapping.get(atom, Index.of(atom))
                case FloorDiv(base, divisor):
                    new = base.substitute(mapping) // divisor
                case Mod(base, divisor):
                    new = base.substitute(mapping) % divisor
                case _:
                    new = Index.of(atom)
            total = total + new * coef
        return total

    def rename_values(self, rename: Callable[[str], str]) -> Index:
        """The index with run-time values renamed."""
        total = Index((), self.const)
        for atom, coef in self.terms:
            match atom:
                case Value(name, extent):
                    new = Index.of(Value(rename(name), extent))
                case FloorDiv(base, divisor):
                    new = base.rename_values(rename) // divisor
                case Mod(base, divisor):
                    new = base.rename_values(rename) % divisor
                case _:
                    new = Index.of(atom)
            total = total + new * coef
        return total

    def evaluate(self, read: Callable[[Var | Value], Any]) -> Any:
        """The number (or array of numbers) that the index stands for."""
        total: Any = self.const
        for atom, coef in self.terms:
            match atom:
                case FloorDiv(base, divisor):
                    value = base.evaluate(read) // divisor
                case Mod(base, divisor):
                    value = base.evaluate(read) % divisor
                case _:
                    value = read(atom)
            total = total + value * coef
        return total

    def __add__(self, other: Index | Atom | int) -> Index:
        other = Index.of(other)
        terms = dict(self.terms)
        for atom, coef in other.terms:
            terms[atom] = terms.get(atom, 0) + coef
        return _normal(terms, self.const + other.const)

    __radd__ = __add__

    def __neg__(self) -> Index:
        return self * -1

    def __sub__(self, other: Index | Atom | int) -> Index:
        return self + Index.of(other) * -1

    def __rsub__(self, other: int) -> Index:
        return self * -1 + other

    def __mul__(self, factor: int) -> Index:
        return _normal({a: c * factor for a, c in self.terms}, self.const * factor)

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int) -> Index:
        """Exact floor division by a positive constant, simplified by divisibility and by range."""
        if divisor == 1:
            return self
        whole = {a: c // divisor for a, c in self.terms if c % divisor == 0}
        rest = Index(tuple((a, c) for a, c in self.terms if c % divisor), self.const % divisor)
        base = _normal(whole, self.const // divisor)
        low, high = rest.bounds
        if low // divisor == high // divisor:
            return base + low // divisor
        return base + Index.of(FloorDiv(rest, divisor))

    def __mod__(self, divisor: int) -> Index:
        """Remainder by a positive constant, simplified by divisibility and by range."""
        if divisor == 1:
            return Index()
        rest = Index(tuple((a, c) for a, c in self.terms if c % divisor), self.const % divisor)
        low, high = rest.bounds
        if low // divisor == high // divisor:
            return rest - low // divisor * divisor
        return Index.of(Mod(rest, divisor))

    def __str__(self) -> str:
        parts = [f"{c}*{a}" if c not in (1, -1) else ("-" if c < 0 else "") + str(a) for a, c in self.terms]
        if self.const or not parts:
            parts.append(str(self.const))
        return "+".join(parts).replace("+-", "-")


def _normal(terms: Mapping[Atom, int], const: int) -> Index:
    kept = sorted(((a, c) for a, c in terms.items() if c), key=lambda t: str(t[0]))
    return Index(tuple(kept), const)


def row_major(index: tuple[Index, ...], shape: tuple[int, ...]) -> Index:
    """The linear element offset of ``index`` in a C-contiguous array of ``shape``."""
    flat = Index()
    for i, extent in zip(index, shape, strict=True):
        flat = flat * extent + i
    return flat


def unravel(flat: Index, shape: tuple[int, ...]) -> tuple[Index, ...]:
    """The multi-index at a linear offset of a C-contiguous array of ``shape``."""
    result: list[Index] = []
    for extent in reversed(shape):
        result.append(flat % extent if extent else Index())
        flat = flat // extent if extent else Index()
    return tuple(reversed(result))

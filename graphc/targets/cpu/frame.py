"""The state of one function that is being printed: names of values, lanes' points, addresses.

What enters: operands and indices of the loop IR at a point of the lanes. What leaves: SSA names. Invariant: what two
statements of one block compute alike is computed once; an address is a run-time base that all accesses share that differ
by a constant, plus the constant.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from graphc.loops import ir
from graphc.loops.index import FloorDiv, Index, Mod, Var
from graphc.loops.index import Value as RunTimeIndex
from graphc.targets.cpu.lanes import Lanes, Partials, Point, Value, projection
from graphc.targets.cpu.llvm_text import Function, VType
from graphc.types import DType

I64 = VType("i64")
_SCALAR = {"bool": "i1", "int32": "i32", "int64": "i64", "uint32": "u32", "float32": "f32", "float64": "f64"}


def scalar_of(dtype: DType) -> str:
    """LLVM text's name of a dtype's scalar."""
    return _SCALAR[dtype.name]


def _wrapped(number: int) -> int:
    """A number in 32 bits, signed."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)


@dataclass
class SerialVar:
    """A serial loop variable: an i64 operand plus a constant (the copies of an unrolled body)."""

    name: str
    offset: int = 0


@dataclass
class Frame:
    """Everything known while one function is being printed; ``width`` is the number of lanes of a chunk."""

    function: Function
    width: int
    buffers: dict[str, ir.Buffer]
    pointers: dict[str, str]
    pool: str
    status: str
    site_base: str
    streams: bool = False  # whether streamed buffers are aligned, which is asked at run time
    values: dict[str, Value] = field(default_factory=dict)
    accumulators: dict[str, Partials] = field(default_factory=dict)
    serial: dict[Var, SerialVar] = field(default_factory=dict)
    cache: list[dict[tuple[object, ...], str]] = field(default_factory=lambda: [{}])
    waiting: dict[str, ir.Let] = field(default_factory=dict)  # products that an accumulate will fuse
    indices: dict[str, Index] = field(default_factory=dict)  # index values, as i64

    # --- values --------------------------------------------------------------------------------------------------

    def find(self, key: tuple[object, ...]) -> str | None:
        """What has been computed under ``key`` in this block or one around it."""
        for scope in reversed(self.cache):
            if key in scope:
                return scope[key]
        return None

    def define(
        self, name: str, scalar: str, depends: frozenset[Var], lanes: Lanes,
        make: Callable[[Point, bool], str],
    ) -> None:  # fmt: skip
        """Emit a value at every projection of the lane points onto what it depends on."""
        self.waiting.pop(name, None)  # blocks side by side may use one name
        wide = lanes.vector is not None and lanes.vector in depends
        value = Value(scalar, depends, wide)
        for point in lanes.points(depends):
            value.names[projection(point, depends)] = make(point, wide)
        self.values[name] = value

    def cached(self, key: tuple[object, ...], make: Callable[[], str]) -> str:
        found = self.find(key)
        if found is None:
            found = self.cache[-1][key] = make()
        return found

    def operand(self, operand: ir.Operand, point: Point, wide: bool, lanes: Lanes) -> str:
        """An operand at a point, splatted if a vector is wanted of a scalar."""
        width = lanes.width if wide else 1
        if isinstance(operand, ir.Lit):
            return VType(scalar_of(operand.dtype), width).constant(operand.value)
        value = self.values[operand]
        name = value.names[projection(point, value.depends)]
        if not wide or value.vector:
            return name
        key = ("splat", name, width)
        found = self.find(key)
        if found is None:
            found = self.cache[-1][key] = self.function.splat(VType(value.scalar, width), name)
        return found

    def operand_depends(self, operand: ir.Operand) -> frozenset[Var]:
        return frozenset() if isinstance(operand, ir.Lit) else self.values[operand].depends

    def scalar_type(self, operand: ir.Operand) -> str:
        return scalar_of(operand.dtype) if isinstance(operand, ir.Lit) else self.values[operand].scalar

    # --- addresses -----------------------------------------------------------------------------------------------

    def depends(self, index: Index, lanes: Lanes) -> frozenset[Var]:
        """The lane variables that an index moves with."""
        own = frozenset(v for v in index.variables if v in lanes.variables)
        return own.union(*(self.values[name].depends for name in index.values))

    def index(self, index: Index, point: Point, lanes: Lanes | None) -> str:
        """An index as an i64, or with ``lanes`` as a vector of i64 over the point's chunk."""
        f = self.function
        if lanes is None:
            return self.scalar_index(index, point, None, 0)
        assert lanes.vector is not None
        var, width = lanes.vector, VType("i64", lanes.width)
        if index.is_affine_in(var) and not self.wide_values(index):
            step = index.coefficient(var)
            start = self.scalar_index(index, point, lanes, 0)
            ramp = width.listed([step * n for n in range(lanes.width)])
            return f.op("add", width, f.splat(width, start), ramp)
        result = "poison"
        for lane in range(lanes.width):
            lane_index = self.scalar_index(index, point, lanes, min(lane, lanes.active(point[var]) - 1))
            result = f.insert(width, result, lane_index, lane)
        return result

    def narrow_ramp(self, let: ir.Let, lanes: Lanes) -> Index | None:
        """The index that a cast to 32 bits takes, where its lanes count up by a constant: no need to count in 64 bits."""
        arg = let.args[0]
        if let.primitive != "cast" or let.dtype.name not in ("int32", "uint32") or not isinstance(arg, str):
            return None
        index = self.indices.get(arg)
        if index is None or lanes.vector is None or not index.is_affine_in(lanes.vector) or self.wide_values(index):
            return None
        return index

    def ramp(self, index: Index, type_: VType, point: Point, lanes: Lanes) -> str:
        """An index over a point's chunk in 32 bits: what is cut off is cut off by a cast as well."""
        assert lanes.vector is not None
        f, step = self.function, index.coefficient(lanes.vector)
        start = self.scalar_index(index, point, lanes, 0)
        short = (
            f.convert("trunc", I64, start, VType(type_.scalar)) if start.startswith("%") else str(_wrapped(int(start)))
        )
        return f.op("add", type_, f.splat(type_, short), type_.listed([_wrapped(step * n) for n in range(lanes.width)]))

    def wide_values(self, index: Index) -> bool:
        return any(self.values[name].vector for name in index.values)

    def scalar_index(self, index: Index, point: Point, lanes: Lanes | None, lane: int) -> str:
        """An index at one lane of a point, as an i64 operand (a constant's digits if it is one)."""
        terms, const = self.split(index, point, lanes, lane)
        return self.sum_of(terms, const)

    def split(
        self, index: Index, point: Point, lanes: Lanes | None, lane: int
    ) -> tuple[tuple[tuple[str, int], ...], int]:
        """An index as run-time terms (operand, coefficient) and a constant."""
        terms: dict[str, int] = {}
        const = index.const
        for atom, coefficient in index.terms:
            operand, offset = self.atom(atom, point, lanes, lane)
            const += offset * coefficient
            if operand:
                terms[operand] = terms.get(operand, 0) + coefficient
        return tuple((t, c) for t, c in terms.items() if c), const

    def atom(
        self, atom: object, point: Point, lanes: Lanes | None, lane: int
    ) -> tuple[str, int]:  # fmt: skip
        """An atom as (i64 operand or "", constant)."""
        f = self.function
        match atom:
            case Var():
                if atom in self.serial:
                    var = self.serial[atom]
                    return var.name, var.offset
                if lanes is not None and atom == lanes.vector:
                    return "", point[atom] * lanes.width + lane
                return "", point[atom]
            case RunTimeIndex(name, _):
                value = self.values[name]
                ssa = value.names[projection(point, value.depends)]
                if not value.vector:
                    return ssa, 0
                assert lanes is not None
                return self.cached(("lane", ssa, lane), lambda: f.extract(VType("i64", lanes.width), ssa, lane)), 0
            case FloorDiv(base, divisor) | Mod(base, divisor):
                inner = self.scalar_index(base, point, lanes, lane)
                divides = isinstance(atom, FloorDiv)
                if not inner.startswith("%"):
                    return "", int(inner) // divisor if divides else int(inner) % divisor
                if base.bounds[0] >= 0:
                    opcode = "udiv" if divides else "urem"
                    return self.cached((opcode, inner, divisor), lambda: f.op(opcode, I64, inner, str(divisor))), 0
                # shift the dividend to be non-negative by a multiple of the divisor
                lift = -(base.bounds[0] // divisor)
                up = f.op("add", I64, inner, str(lift * divisor))
                result = f.op("udiv" if divides else "urem", I64, up, str(divisor))
                return result, (-lift if divides else 0)
        raise AssertionError(f"unknown atom {atom!r}")

    def sum_of(self, terms: tuple[tuple[str, int], ...], const: int) -> str:
        if not terms:
            return str(const)
        base = self.cached(("sum", terms), lambda: self.add_terms(self.function, terms))
        return self.function.op("add nsw", I64, base, str(const)) if const else base

    @staticmethod
    def add_terms(f: Function, terms: tuple[tuple[str, int], ...]) -> str:
        total = ""
        for operand, coefficient in terms:
            scaled = operand if coefficient == 1 else f.op("mul nsw", I64, operand, str(coefficient))
            total = f.op("add nsw", I64, total, scaled) if total else scaled
        return total

    def address(self, buffer: ir.Buffer, flat: Index, point: Point, lanes: Lanes | None, lane: int) -> str:
        """The address of an element: a run-time base shared by all that differ by a constant, plus the constant."""
        f = self.function
        terms, const = self.split(flat, point, lanes, lane)
        element = VType("i8") if buffer.dtype.kind == "bool" else VType(scalar_of(buffer.dtype))
        base = self.pointers[buffer.name]
        if terms:
            key = ("base", buffer.name, terms)
            base = self.cached(key, lambda: f.gep(self.pointers[buffer.name], self.sum_of(terms, 0), element))
        if not const:
            return base
        return self.cached(("address", base, const), lambda: f.gep(base, const, element))

    def is_contiguous(self, flat: Index, lanes: Lanes) -> bool:
        var = lanes.vector
        return var is not None and flat.is_affine_in(var) and flat.coefficient(var) == 1 and not self.wide_values(flat)

    def bounds_hold(self, bounds: Sequence[ir.Bound], point: Point, lanes: Lanes | None, lane: int = 0) -> str:
        f, holds = self.function, "true"
        for bound in bounds:
            index = self.scalar_index(bound.index, point, lanes, lane)
            if not index.startswith("%"):
                if not 0 <= int(index) < bound.extent:
                    return "false"
                continue
            inside = f.compare("ult", I64, index, str(bound.extent))  # unsigned: negative indices are out as well
            holds = inside if holds == "true" else f.op("and", VType("i1"), holds, inside)
        return holds

    def lane_mask(self, bounds: Sequence[ir.Bound], point: Point, lanes: Lanes) -> str:
        """The lanes of a point's chunk that hold iterations and satisfy the bounds; "" if all do."""
        f, masks = self.function, []
        bit = VType("i1", lanes.width)
        type_ = VType("i64", lanes.width)
        active = lanes.active(point[lanes.vector]) if lanes.vector is not None else 1
        if active < lanes.width:
            masks.append(bit.listed([lane < active for lane in range(lanes.width)]))
        for bound in bounds:
            if lanes.vector is not None and lanes.vector in self.depends(bound.index, lanes):
                index = self.index(bound.index, point, lanes)
                masks.append(f.compare("ult", type_, index, type_.constant(bound.extent)))
            else:
                holds = self.bounds_hold((bound,), point, lanes)
                masks += [] if holds == "true" else [f.splat(bit, holds)]
        return functools.reduce(lambda a, b: f.op("and", bit, a, b), masks) if masks else ""

"""Print scheduled kernels of the loop IR as LLVM IR text.

What enters: a :class:`Kernel` whose loops are mapped (serial, parallel, unrolled, vector), a :class:`VectorTarget`. What leaves:
functions in a :class:`Module`, and for a whole program the one entry that calls them in order. Invariants:

- Lock-step loops become lanes: each value is emitted once for each projection of the lane points onto what it depends on; a
  serial loop inside lanes is emitted once, with a phi for every accumulator instance in it. Register tiles need nothing else.
- A masked tail reads and writes nothing outside of its lanes.
- No fast-math flag but reassociation and contraction inside reductions; pointwise code agrees with the interpreter bit for bit
  wherever its functions are exact.
- Parameters are ``noalias``: a buffer that is read and written is one ``inout`` parameter, and the memory plan never overlaps
  two live buffers.

Calling convention::

    void @<kernel>(ptr b0, ptr b1, ..., ptr pool, ptr status, i64 site_base)
    void @<kernel>_p0(ptr arguments, i64 begin, i64 end)          the body of a parallel loop
    void @graphc_entry(ptr pointers, ptr pool, ptr status)        pointers: every buffer but the arena's, then the arena
    void @graphc_launch(ptr pointers, ptr pool, ptr status, i64 n)     launch n alone (profiles)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from graphc.errors import CompileError
from graphc.loops import ir
from graphc.loops.index import FloorDiv, Index, Mod, Var, row_major
from graphc.loops.index import Value as RunTimeIndex
from graphc.loops.schedule import substitute
from graphc.scalar import PRIMITIVES
from graphc.targets.cpu.host import VectorTarget
from graphc.targets.cpu.lanes import Bank, Lanes, Partials, Point, Value, projection
from graphc.targets.cpu.llvm_text import Function, Module, VType
from graphc.targets.cpu.vector_math import BINARY, UNARY
from graphc.types import DType

SCALAR = {"bool": "i1", "int32": "i32", "int64": "i64", "uint32": "u32", "float32": "f32", "float64": "f64"}
I64 = VType("i64")
UNROLL = 4  # iterations of an innermost reduction loop that share one address computation
MAX_BODY = 256  # instances beyond which such a loop is not unrolled further
MAX_CHUNKS = 32  # vectors of one lane loop that are printed side by side


def scalar_of(dtype: DType) -> str:
    """LLVM text's name of a dtype's scalar."""
    return SCALAR[dtype.name]


@dataclass
class _SerialVar:
    """A serial loop variable: an i64 operand plus a constant (the copies of an unrolled body)."""

    name: str
    offset: int = 0


@dataclass
class _Frame:
    """Everything known while one function is being printed."""

    function: Function
    pointers: dict[str, str]
    pool: str
    status: str
    site_base: str
    values: dict[str, Value] = field(default_factory=dict)
    accumulators: dict[str, Partials] = field(default_factory=dict)
    serial: dict[Var, _SerialVar] = field(default_factory=dict)
    cache: list[dict[tuple[object, ...], str]] = field(default_factory=lambda: [{}])
    waiting: dict[str, ir.Let] = field(default_factory=dict)  # products that an accumulate will fuse


class KernelEmitter:
    """Prints one kernel into a module."""

    def __init__(self, module: Module, kernel: ir.Kernel, target: VectorTarget, threads: int) -> None:
        self.module = module
        self.kernel = kernel
        self.target = target
        self.threads = threads
        self.buffers = {p.name: p for p in kernel.params}
        self.width = self.native_lanes()
        self.attributes = module.attributes(target.attributes)
        self.bodies = 0
        self.only_summed = _only_summed(kernel)

    def native_lanes(self) -> int:
        """Lanes of a chunk: a register of the widest float that the kernel touches, else of its widest integer."""
        dtypes = [p.dtype for p in self.kernel.params]
        floats = [d.itemsize for d in dtypes if d.is_float]
        widest = max(floats or [d.itemsize for d in dtypes] or [8])
        return max(2, self.target.bits // (8 * widest))

    def emit(self) -> str:
        """Print the kernel; returns its function's name."""
        parameters: list[tuple[str | VType, str]] = [("ptr noalias", p.name) for p in self.kernel.params]
        parameters += [("ptr", "pool"), ("ptr", "status"), (I64, "site_base")]
        name = f"k_{self.kernel.name}"
        function = self.module.function(name, parameters, attributes=self.attributes)
        pointers = {p.name: f"%{p.name}" for p in self.kernel.params}
        frame = _Frame(function, pointers, "%pool", "%status", "%site_base")
        body = self.kernel.body
        self.allocate(frame, [s for s in body if not (isinstance(s, ir.For) and s.kind == "parallel")])
        for stmt in body:
            if isinstance(stmt, ir.For) and stmt.kind == "parallel":
                self.parallel(frame, stmt)
            else:
                self.statement(frame, stmt, Lanes())
        function.ret()
        return name

    # --- parallel loops ------------------------------------------------------------------------------------------

    def parallel(self, frame: _Frame, loop: ir.For) -> None:
        """Outline a parallel loop; addresses and what it reads of the values before it are passed in 8-byte slots."""
        name = f"k_{self.kernel.name}_p{self.bodies}"
        self.bodies += 1
        outlined = self.module.function(
            name, [("ptr", "arguments"), (I64, "begin"), (I64, "end")], linkage="internal", attributes=self.attributes
        )
        inner = _Frame(outlined, {}, "null", "", "")
        sent: list[tuple[str, str]] = []  # type, operand

        def pass_on(type_: str, operand: str) -> str:
            sent.append((type_, operand))
            slot = outlined.gep("%arguments", len(sent) - 1, I64)
            return outlined.emit(f"load {type_}, ptr {slot}, align 8")

        for buffer, pointer in frame.pointers.items():
            inner.pointers[buffer] = pass_on("ptr", pointer)
        inner.status, inner.site_base = pass_on("ptr", frame.status), pass_on("i64", frame.site_base)
        needed = {o for s in _inside(loop) for o in _operands(s) if isinstance(o, str)}
        needed |= {v for s in _inside(loop) for v in _index_values(s)}
        for product in sorted(needed & frame.waiting.keys()):
            inner.waiting[product] = frame.waiting[product]
            needed |= {a for a in frame.waiting[product].args if isinstance(a, str)}
        for value in sorted(needed & frame.values.keys()):
            scalar = frame.values[value].scalar
            own = pass_on(VType(scalar).llvm, frame.values[value].names[()])
            inner.values[value] = Value(scalar, frozenset(), False, {(): own})
        self.allocate(inner, loop.body)

        def body(index: str, carried: tuple[str, ...]) -> tuple[str, ...]:
            inner.serial[loop.var] = _SerialVar(index)
            self.block(inner, loop.body, Lanes())
            return ()

        outlined.loop("%begin", "%end", 1, body)
        outlined.ret()
        self.call_outlined(frame, name, loop.var.extent, sent)

    def call_outlined(self, frame: _Frame, name: str, extent: int, sent: Sequence[tuple[str, str]]) -> None:
        f = frame.function
        area = f.emit(f"alloca [{len(sent)} x i64], align 16", "args")
        for number, (type_, operand) in enumerate(sent):
            f.effect(f"store {type_} {operand}, ptr {f.gep(area, number, I64)}, align 8")
        if self.threads > 1:
            self.module.declare("declare void @graphc_parallel(ptr, ptr, ptr, i64, i64)")
            f.effect(f"call void @graphc_parallel(ptr {frame.pool}, ptr @{name}, ptr {area}, i64 {extent}, i64 1)")
        else:
            f.effect(f"call void @{name}(ptr {area}, i64 0, i64 {extent})")

    def allocate(self, frame: _Frame, body: Sequence[ir.Stmt]) -> None:
        """Make room for the local buffers of a function's statements, in its entry block: once a call, not once a use."""
        for stmt in _within(body):
            if isinstance(stmt, ir.Alloc):
                if stmt.buffer.space != "local":
                    raise CompileError(
                        f"kernel {self.kernel.name}: {stmt.buffer.space} memory is not for the cpu target"
                    )
                size = max(stmt.buffer.type.nbytes, 1)
                frame.pointers[stmt.buffer.name] = frame.function.emit(f"alloca [{size} x i8], align 64", "local")
                self.buffers[stmt.buffer.name] = stmt.buffer

    # --- statements ----------------------------------------------------------------------------------------------

    def block(self, frame: _Frame, body: Iterable[ir.Stmt], lanes: Lanes) -> None:
        frame.cache.append({})
        for stmt in body:
            self.statement(frame, stmt, lanes)
        frame.cache.pop()

    def statement(self, frame: _Frame, stmt: ir.Stmt, lanes: Lanes) -> None:
        match stmt:
            case ir.Let():
                self.let(frame, stmt, lanes)
            case ir.Load():
                self.load(frame, stmt, lanes)
            case ir.IndexValue(name, index):
                self.define(frame, name, "i64", self.depends(frame, index, lanes), lanes,
                            lambda point, wide: self.index(frame, index, point, lanes if wide else None))  # fmt: skip
            case ir.Guard():
                self.guard(frame, stmt, lanes)
            case ir.Store():
                self.store(frame, stmt, lanes)
            case ir.Accumulator():
                self.declare_accumulator(frame, stmt, lanes)
            case ir.Accumulate():
                self.accumulate(frame, stmt, lanes)
            case ir.ReadAccumulator():
                self.read(frame, stmt, lanes)
            case ir.For():
                self.loop(frame, stmt, lanes)
            case ir.Alloc(buffer):  # its memory was made in the entry block
                if lanes.variables:
                    raise CompileError(f"kernel {self.kernel.name}: lanes cannot share local buffer {buffer.name}")
            case ir.If():
                self.conditional(frame, stmt, lanes)
            case _:
                raise CompileError(f"kernel {self.kernel.name}: {type(stmt).__name__} is not for the cpu target")

    def loop(self, frame: _Frame, loop: ir.For, lanes: Lanes) -> None:
        if loop.var.extent == 0:
            return
        frame.serial.pop(loop.var, None)  # loops side by side may share a variable
        match self.how(loop):
            case "unrolled":
                self.block(frame, loop.body, lanes.unrolled(loop.var))
            case "vector":
                self.block(frame, loop.body, lanes.vectorised(loop.var, self.width))
            case "cut":
                for part in _cut(loop, MAX_CHUNKS * self.width):
                    self.statement(frame, part, lanes)
            case _:
                self.serial(frame, loop, lanes)

    def how(self, loop: ir.For) -> str:
        """How a loop is printed. Lock step is a permission: lanes too many, or lanes of lanes, may as well run in order."""
        if loop.kind in ("block", "thread"):
            raise CompileError(f"kernel {self.kernel.name}: a {loop.kind} loop is not for the cpu target")
        if loop.kind == "vector" and any(isinstance(s, ir.For) and s.kind == "vector" for s in _inside(loop)):
            return "unrolled" if loop.var.extent <= MAX_CHUNKS else "serial"
        if loop.kind == "vector":
            return "cut" if loop.var.extent > MAX_CHUNKS * self.width else "vector"
        return "unrolled" if loop.kind == "unrolled" and loop.var.extent <= MAX_BODY else "serial"

    def serial(self, frame: _Frame, loop: ir.For, lanes: Lanes) -> None:
        """One loop with a phi for each partial result that its body accumulates into; small bodies are repeated."""
        f = frame.function
        partials = [(bank, key) for bank in self.banks_inside(frame, loop.body, lanes) for key in bank.names]
        copies = self.copies(loop, len(partials))

        def body_of(count: int) -> Callable[[str, tuple[str, ...]], tuple[str, ...]]:
            def body(index: str, carried: tuple[str, ...]) -> tuple[str, ...]:
                for (bank, key), name in zip(partials, carried, strict=True):
                    bank.names[key] = name
                for copy in range(count):
                    frame.serial[loop.var] = _SerialVar(index, copy)
                    self.block(frame, loop.body, lanes)
                return tuple(bank.names[key] for bank, key in partials)

            return body

        def run(start: int, stop: int, count: int) -> None:
            carried = [(self.bank_type(bank), bank.names[key]) for bank, key in partials]
            frame.cache.append({})
            done = f.loop(str(start), str(stop), count, body_of(count), carried, nonempty=True)
            frame.cache.pop()
            for (bank, key), name in zip(partials, done, strict=True):
                bank.names[key] = name

        whole = loop.var.extent // copies * copies
        if whole:
            run(0, whole, copies)
        if whole < loop.var.extent:
            run(whole, loop.var.extent, 1)

    def copies(self, loop: ir.For, partials: int) -> int:
        """How often the body of an innermost accumulating loop is repeated."""
        if any(isinstance(s, (ir.For, ir.If, ir.Guard)) for s in loop.body) or not partials:
            return 1
        copies = min(UNROLL, max(1, MAX_BODY // (max(partials, 1) * len(loop.body))))
        return copies if loop.var.extent >= 2 * copies else 1

    def conditional(self, frame: _Frame, stmt: ir.If, lanes: Lanes) -> None:
        """A branch; where lanes may disagree or partial results outlive it, a mask on what the body does."""
        moves = any(self.depends(frame, b.index, lanes) for b in stmt.bounds)
        if moves or self.banks_inside(frame, stmt.body, lanes):
            self.block(frame, stmt.body, lanes.where(stmt.bounds))
            return
        holds = self.bounds_hold(frame, stmt.bounds, {}, None)
        if holds == "true":
            self.block(frame, stmt.body, lanes)
        elif holds != "false":
            frame.function.if_then(holds, lambda: self.block(frame, stmt.body, lanes))

    # --- values --------------------------------------------------------------------------------------------------

    def define(
        self, frame: _Frame, name: str, scalar: str, depends: frozenset[Var], lanes: Lanes,
        make: Callable[[Point, bool], str],
    ) -> None:  # fmt: skip
        """Emit a value at every projection of the lane points onto what it depends on."""
        frame.waiting.pop(name, None)  # blocks side by side may use one name
        wide = lanes.vector is not None and lanes.vector in depends
        value = Value(scalar, depends, wide)
        for point in lanes.points(depends):
            value.names[projection(point, depends)] = make(point, wide)
        frame.values[name] = value

    def operand(self, frame: _Frame, operand: ir.Operand, point: Point, wide: bool, lanes: Lanes) -> str:
        """An operand at a point, splatted if a vector is wanted of a scalar."""
        width = lanes.width if wide else 1
        if isinstance(operand, ir.Lit):
            return VType(scalar_of(operand.dtype), width).constant(operand.value)
        value = frame.values[operand]
        name = value.names[projection(point, value.depends)]
        if not wide or value.vector:
            return name
        key = ("splat", name, width)
        found = _cached(frame, key)
        if found is None:
            found = frame.cache[-1][key] = frame.function.splat(VType(value.scalar, width), name)
        return found

    def operand_depends(self, frame: _Frame, operand: ir.Operand) -> frozenset[Var]:
        return frozenset() if isinstance(operand, ir.Lit) else frame.values[operand].depends

    def scalar_type(self, frame: _Frame, operand: ir.Operand) -> str:
        return scalar_of(operand.dtype) if isinstance(operand, ir.Lit) else frame.values[operand].scalar

    def let(self, frame: _Frame, let: ir.Let, lanes: Lanes) -> None:
        if let.primitive == "mul" and let.dtype.is_float and let.name in self.only_summed:
            frame.waiting[let.name] = let
            return
        depends = frozenset(chain.from_iterable(self.operand_depends(frame, a) for a in let.args))
        scalar = scalar_of(let.dtype)

        def make(point: Point, wide: bool) -> str:
            width = lanes.width if wide else 1
            args = [self.operand(frame, a, point, wide, lanes) for a in let.args]
            types = [VType(self.scalar_type(frame, a), width) for a in let.args]
            return apply(frame.function, let.primitive, types, args, VType(scalar, width))

        self.define(frame, let.name, scalar, depends, lanes, make)

    # --- addresses -----------------------------------------------------------------------------------------------

    def depends(self, frame: _Frame, index: Index, lanes: Lanes) -> frozenset[Var]:
        """The lane variables that an index moves with."""
        own = frozenset(v for v in index.variables if v in lanes.variables)
        return own.union(*(frame.values[name].depends for name in index.values))

    def index(self, frame: _Frame, index: Index, point: Point, lanes: Lanes | None) -> str:
        """An index as an i64, or with ``lanes`` as a vector of i64 over the point's chunk."""
        f = frame.function
        if lanes is None:
            return self.scalar_index(frame, index, point, None, 0)
        assert lanes.vector is not None
        var, width = lanes.vector, VType("i64", lanes.width)
        if index.is_affine_in(var) and not self.wide_values(frame, index):
            step = index.coefficient(var)
            start = self.scalar_index(frame, index, point, lanes, 0)
            ramp = width.listed([step * n for n in range(lanes.width)])
            return f.op("add", width, f.splat(width, start), ramp)
        result = "poison"
        for lane in range(lanes.width):
            lane_index = self.scalar_index(frame, index, point, lanes, min(lane, lanes.active(point[var]) - 1))
            result = f.insert(width, result, lane_index, lane)
        return result

    def wide_values(self, frame: _Frame, index: Index) -> bool:
        return any(frame.values[name].vector for name in index.values)

    def scalar_index(self, frame: _Frame, index: Index, point: Point, lanes: Lanes | None, lane: int) -> str:
        """An index at one lane of a point, as an i64 operand (a constant's digits if it is one)."""
        terms, const = self.split(frame, index, point, lanes, lane)
        return self.sum_of(frame, terms, const)

    def split(
        self, frame: _Frame, index: Index, point: Point, lanes: Lanes | None, lane: int
    ) -> tuple[tuple[tuple[str, int], ...], int]:
        """An index as run-time terms (operand, coefficient) and a constant."""
        terms: dict[str, int] = {}
        const = index.const
        for atom, coefficient in index.terms:
            operand, offset = self.atom(frame, atom, point, lanes, lane)
            const += offset * coefficient
            if operand:
                terms[operand] = terms.get(operand, 0) + coefficient
        return tuple((t, c) for t, c in terms.items() if c), const

    def atom(
        self, frame: _Frame, atom: object, point: Point, lanes: Lanes | None, lane: int
    ) -> tuple[str, int]:  # fmt: skip
        """An atom as (i64 operand or "", constant)."""
        f = frame.function
        match atom:
            case Var():
                if atom in frame.serial:
                    var = frame.serial[atom]
                    return var.name, var.offset
                if lanes is not None and atom == lanes.vector:
                    return "", point[atom] * lanes.width + lane
                return "", point[atom]
            case RunTimeIndex(name, _):
                value = frame.values[name]
                ssa = value.names[projection(point, value.depends)]
                if not value.vector:
                    return ssa, 0
                assert lanes is not None
                return self.cached(
                    frame, ("lane", ssa, lane), lambda: f.extract(VType("i64", lanes.width), ssa, lane)
                ), 0
            case FloorDiv(base, divisor) | Mod(base, divisor):
                inner = self.scalar_index(frame, base, point, lanes, lane)
                divides = isinstance(atom, FloorDiv)
                if not inner.startswith("%"):
                    return "", int(inner) // divisor if divides else int(inner) % divisor
                if base.bounds[0] >= 0:
                    opcode = "udiv" if divides else "urem"
                    return self.cached(
                        frame, (opcode, inner, divisor), lambda: f.op(opcode, I64, inner, str(divisor))
                    ), 0
                # shift the dividend to be non-negative by a multiple of the divisor
                lift = -(base.bounds[0] // divisor)
                up = f.op("add", I64, inner, str(lift * divisor))
                result = f.op("udiv" if divides else "urem", I64, up, str(divisor))
                return result, (-lift if divides else 0)
        raise AssertionError(f"unknown atom {atom!r}")

    def cached(self, frame: _Frame, key: tuple[object, ...], make: Callable[[], str]) -> str:
        found = _cached(frame, key)
        if found is None:
            found = frame.cache[-1][key] = make()
        return found

    def sum_of(self, frame: _Frame, terms: tuple[tuple[str, int], ...], const: int) -> str:
        if not terms:
            return str(const)
        base = self.cached(frame, ("sum", terms), lambda: self.add_terms(frame.function, terms))
        return frame.function.op("add nsw", I64, base, str(const)) if const else base

    @staticmethod
    def add_terms(f: Function, terms: tuple[tuple[str, int], ...]) -> str:
        total = ""
        for operand, coefficient in terms:
            scaled = operand if coefficient == 1 else f.op("mul nsw", I64, operand, str(coefficient))
            total = f.op("add nsw", I64, total, scaled) if total else scaled
        return total

    def address(
        self, frame: _Frame, buffer: ir.Buffer, flat: Index, point: Point, lanes: Lanes | None, lane: int
    ) -> str:
        """The address of an element: a run-time base shared by all that differ by a constant, plus the constant."""
        f = frame.function
        terms, const = self.split(frame, flat, point, lanes, lane)
        element = VType("i8") if buffer.dtype.kind == "bool" else VType(scalar_of(buffer.dtype))
        base = frame.pointers[buffer.name]
        if terms:
            key = ("base", buffer.name, terms)
            base = self.cached(
                frame, key, lambda: f.gep(frame.pointers[buffer.name], self.sum_of(frame, terms, 0), element)
            )
        if not const:
            return base
        return self.cached(frame, ("address", base, const), lambda: f.gep(base, const, element))

    # --- memory --------------------------------------------------------------------------------------------------

    def load(self, frame: _Frame, load: ir.Load, lanes: Lanes) -> None:
        buffer = self.buffers[load.buffer]
        flat = row_major(load.index, buffer.shape)
        bounds = (*load.bounds, *lanes.bounds)
        depends = self.depends(frame, flat, lanes).union(*(self.depends(frame, b.index, lanes) for b in bounds))

        def make(point: Point, wide: bool) -> str:
            if buffer.type.size == 0:  # reached where a guard failed, or behind a bound that never holds
                other = load.other.value if load.other and load.bounds else 0
                return VType(scalar_of(load.dtype), lanes.width if wide else 1).constant(other)
            if bounds:
                return self.bounded_load(frame, load, bounds, flat, point, lanes if wide else None)
            if not wide:
                address = self.address(frame, buffer, flat, point, None, 0)
                return self.load_element(frame.function, buffer, address)
            return self.wide_load(frame, buffer, flat, point, lanes)

        self.define(frame, load.name, scalar_of(load.dtype), depends, lanes, make)

    @staticmethod
    def load_element(f: Function, buffer: ir.Buffer, address: str) -> str:
        if buffer.dtype.kind != "bool":
            return f.load(VType(scalar_of(buffer.dtype)), address)
        return f.compare("ne", VType("i8"), f.load(VType("i8"), address), "0")

    def is_contiguous(self, frame: _Frame, flat: Index, lanes: Lanes) -> bool:
        var = lanes.vector
        return (
            var is not None
            and flat.is_affine_in(var)
            and flat.coefficient(var) == 1
            and not self.wide_values(frame, flat)
        )

    def lane_mask(self, frame: _Frame, bounds: Sequence[ir.Bound], point: Point, lanes: Lanes) -> str:
        """The lanes of a point's chunk that hold iterations and satisfy the bounds; "" if all do."""
        f, masks = frame.function, []
        bit = VType("i1", lanes.width)
        type_ = VType("i64", lanes.width)
        active = lanes.active(point[lanes.vector]) if lanes.vector is not None else 1
        if active < lanes.width:
            masks.append(bit.listed([lane < active for lane in range(lanes.width)]))
        for bound in bounds:
            if lanes.vector is not None and lanes.vector in self.depends(frame, bound.index, lanes):
                index = self.index(frame, bound.index, point, lanes)
                masks.append(f.compare("ult", type_, index, type_.constant(bound.extent)))
            else:
                holds = self.bounds_hold(frame, (bound,), point, lanes)
                masks += [] if holds == "true" else [f.splat(bit, holds)]
        return functools.reduce(lambda a, b: f.op("and", bit, a, b), masks) if masks else ""

    def wide_load(
        self, frame: _Frame, buffer: ir.Buffer, flat: Index, point: Point, lanes: Lanes,
        bounds: Sequence[ir.Bound] = (), other: bool | int | float = 0,
    ) -> str:  # fmt: skip
        f = frame.function
        assert lanes.vector is not None
        active = lanes.active(point[lanes.vector])
        memory = VType("i8" if buffer.dtype.kind == "bool" else scalar_of(buffer.dtype), lanes.width)
        if self.is_contiguous(frame, flat, lanes):
            address = self.address(frame, buffer, flat, point, lanes, 0)
            mask = self.lane_mask(frame, bounds, point, lanes)
            if mask:
                loaded = f.masked_load(memory, address, mask, memory.constant(other))
            else:
                loaded = f.load(memory, address)
            return f.compare("ne", memory, loaded, "zeroinitializer") if buffer.dtype.kind == "bool" else loaded
        result = "zeroinitializer"
        register = VType(scalar_of(buffer.dtype), lanes.width)
        for lane in range(active):
            address = self.address(frame, buffer, flat, point, lanes, lane)
            result = f.insert(register, result, self.load_element(f, buffer, address), lane)
        return result

    def bounds_hold(
        self, frame: _Frame, bounds: Sequence[ir.Bound], point: Point, lanes: Lanes | None, lane: int = 0
    ) -> str:
        f, holds = frame.function, "true"
        for bound in bounds:
            index = self.scalar_index(frame, bound.index, point, lanes, lane)
            if not index.startswith("%"):
                if not 0 <= int(index) < bound.extent:
                    return "false"
                continue
            inside = f.compare("ult", I64, index, str(bound.extent))  # unsigned: negative indices are out as well
            holds = inside if holds == "true" else f.op("and", VType("i1"), holds, inside)
        return holds

    def bounded_load(
        self, frame: _Frame, load: ir.Load, bounds: Sequence[ir.Bound], flat: Index, point: Point, lanes: Lanes | None
    ) -> str:
        """A load that reads nothing where a bound does not hold: a mask, or a branch a lane."""
        f, buffer = frame.function, self.buffers[load.buffer]
        one = VType(scalar_of(load.dtype))
        other = one.constant(load.other.value if load.other else 0)
        if lanes is not None and self.is_contiguous(frame, flat, lanes):
            return self.wide_load(frame, buffer, flat, point, lanes, bounds, load.other.value if load.other else 0)
        count = 1 if lanes is None or lanes.vector is None else lanes.active(point[lanes.vector])
        result = "zeroinitializer"
        for lane in range(count):
            holds = self.bounds_hold(frame, bounds, point, lanes, lane)
            frame.cache.append({})

            def read(lane: int = lane) -> tuple[str]:
                return (self.load_element(f, buffer, self.address(frame, buffer, flat, point, lanes, lane)),)

            (value,) = f.if_then(holds, read, results=[one], fallback=[other])
            frame.cache.pop()
            if lanes is None:
                return value
            result = f.insert(one.wide(lanes.width), result, value, lane)
        return result

    def store(self, frame: _Frame, store: ir.Store, lanes: Lanes) -> None:
        buffer = self.buffers[store.buffer]
        flat = row_major(store.index, buffer.shape)
        wide = lanes.vector is not None
        store = replace(store, bounds=(*store.bounds, *lanes.bounds))
        for point in lanes.points():
            if wide and self.is_contiguous(frame, flat, lanes):
                self.wide_store(frame, store, buffer, flat, point, lanes)
                continue
            active = lanes.active(point[lanes.vector]) if lanes.vector is not None else 1
            value = self.operand(frame, store.value, point, wide, lanes)
            type_ = VType(scalar_of(buffer.dtype), lanes.width if wide else 1)
            for lane in range(active):
                self.store_lane(
                    frame, store, buffer, flat, point, lanes, lane, frame.function.extract(type_, value, lane)
                )

    def store_lane(
        self,
        frame: _Frame,
        store: ir.Store,
        buffer: ir.Buffer,
        flat: Index,
        point: Point,
        lanes: Lanes,
        lane: int,
        value: str,
    ) -> None:
        f = frame.function
        where = lanes if lanes.vector is not None else None

        def write() -> None:
            address = self.address(frame, buffer, flat, point, where, lane)
            self.store_element(f, store, buffer, address, value)

        if not store.bounds:
            write()
            return
        holds = self.bounds_hold(frame, store.bounds, point, where, lane)
        frame.cache.append({})
        f.if_then(holds, write)
        frame.cache.pop()

    @staticmethod
    def store_element(f: Function, store: ir.Store, buffer: ir.Buffer, address: str, value: str) -> None:
        type_ = VType(scalar_of(buffer.dtype))
        if buffer.dtype.kind == "bool":
            f.store(VType("i8"), f.convert("zext", type_, value, VType("i8")), address)
            return
        if store.mode == "add":
            value = f.op("fadd" if type_.is_float else "add", type_, f.load(type_, address), value)
        f.store(type_, value, address)

    def wide_store(
        self, frame: _Frame, store: ir.Store, buffer: ir.Buffer, flat: Index, point: Point, lanes: Lanes
    ) -> None:
        f = frame.function
        value = self.operand(frame, store.value, point, True, lanes)
        type_ = VType(scalar_of(buffer.dtype), lanes.width)
        address = self.address(frame, buffer, flat, point, lanes, 0)
        mask = self.lane_mask(frame, store.bounds, point, lanes)
        if buffer.dtype.kind == "bool":
            type_, value = VType("i8", lanes.width), f.convert("zext", type_, value, VType("i8", lanes.width))
        elif store.mode == "add":
            old = f.masked_load(type_, address, mask) if mask else f.load(type_, address)
            value = f.op("fadd" if type_.is_float else "add", type_, old, value)
        if mask:
            f.masked_store(type_, value, address, mask)
        else:
            f.store(type_, value, address)

    def guard(self, frame: _Frame, guard: ir.Guard, lanes: Lanes) -> None:
        """A checked index: negative counts from the end; out of range reports its site and becomes 0."""
        f = frame.function
        depends = self.operand_depends(frame, guard.value).union(
            *(self.depends(frame, b.index, lanes) for b in lanes.bounds)
        )

        def make(point: Point, wide: bool) -> str:
            width = lanes.width if wide else 1
            type_ = VType("i64", width)
            raw = self.operand(frame, guard.value, point, wide, lanes)
            source = VType(scalar_of(guard.value_dtype), width)
            if source.bits < 64:
                raw = f.convert("zext" if source.is_unsigned or source.bits == 1 else "sext", source, raw, type_)
            negative = f.compare("slt", type_, raw, type_.constant(0))
            turned = f.select(negative, type_, f.op("add", type_, raw, type_.constant(guard.extent)), raw)
            bad = f.compare("uge", type_, turned, type_.constant(guard.extent))
            if wide:
                mask = self.lane_mask(frame, lanes.bounds, point, lanes)
            else:
                mask = self.bounds_hold(frame, lanes.bounds, point, None)
            if mask not in ("", "true"):
                bad = f.op("and", type_.mask, bad, mask)
            site = f.op("add", I64, frame.site_base, str(guard.site + 1))
            f.if_then(f.any_lane(width, bad), lambda: f.store(I64, site, frame.status), weights=(1, 2000))
            return f.select(bad, type_, type_.constant(0), turned)

        self.define(frame, guard.name, "i64", depends, lanes, make)

    # --- accumulators --------------------------------------------------------------------------------------------

    def bank_type(self, bank: Bank) -> VType:
        return VType(bank.scalar, self.width if bank.vector is not None else 1)

    def declare_accumulator(self, frame: _Frame, declared: ir.Accumulator, lanes: Lanes) -> None:
        start = ir.identity(declared.combiner, declared.dtype)
        here = frozenset(lanes.variables)
        partials = Partials(scalar_of(declared.dtype), declared.combiner, start, here)
        frame.accumulators[declared.name] = partials
        self.bank(partials, lanes)

    def bank(self, partials: Partials, lanes: Lanes) -> Bank:
        """The partial results of what accumulates in these lanes; they begin at the identity."""
        here = frozenset(lanes.variables)
        found = partials.banks.get(here)
        if found is None:
            found = partials.banks[here] = Bank(partials.scalar, lanes.vector)
            start = self.bank_type(found).constant(partials.identity)
            for point in lanes.points():
                found.names[projection(point, here)] = start
        return found

    def banks_inside(self, frame: _Frame, body: Sequence[ir.Stmt], lanes: Lanes) -> list[Bank]:
        """The banks that a block accumulates into and that live longer than the block."""
        found: dict[int, Bank] = {}
        own: set[str] = set()
        stack: list[tuple[ir.Stmt, Lanes]] = [(s, lanes) for s in reversed(body)]
        while stack:
            stmt, inside = stack.pop()
            match stmt:
                case ir.Accumulator(name=name):
                    own.add(name)
                case ir.Accumulate(accumulator=name) if name not in own:
                    bank = self.bank(frame.accumulators[name], inside)
                    found[id(bank)] = bank
                case ir.For(var) if var.extent:
                    how = self.how(stmt)
                    parts = _cut(stmt, MAX_CHUNKS * self.width) if how == "cut" else stmt.body
                    if how == "unrolled":
                        inside = inside.unrolled(var)
                    elif how == "vector":
                        inside = inside.vectorised(var, self.width)
                    stack.extend((s, inside) for s in reversed(parts))
                case ir.If(body=body):
                    stack.extend((s, inside) for s in reversed(body))
        return list(found.values())

    def accumulate(self, frame: _Frame, stmt: ir.Accumulate, lanes: Lanes) -> None:
        f = frame.function
        partials = frame.accumulators[stmt.accumulator]
        bank = self.bank(partials, lanes)
        wide = bank.vector is not None
        type_ = self.bank_type(bank)
        here = frozenset(lanes.variables)
        product = frame.waiting.get(stmt.value) if isinstance(stmt.value, str) else None
        for point in lanes.points():
            key = projection(point, here)
            old = bank.names[key]
            if product is not None:
                a, b = (self.operand(frame, x, point, wide, lanes) for x in product.args)
                new = f.muladd(type_, a, b, old)
            else:
                value = self.operand(frame, stmt.value, point, wide, lanes)
                new = combine(f, partials.combiner, type_, old, value)
            bank.names[key] = self.where_active(frame, type_, new, old, partials, point, lanes)

    def where_active(
        self, frame: _Frame, type_: VType, new: str, old: str, partials: Partials, point: Point, lanes: Lanes
    ) -> str:
        """The new partial result in the lanes that take part. A lane of its own may hold anything where it is idle."""
        if lanes.vector is None:
            mask = self.bounds_hold(frame, lanes.bounds, point, None)
        elif lanes.vector in partials.declared and not lanes.bounds:
            return new
        else:
            mask = self.lane_mask(frame, lanes.bounds, point, lanes)
        return new if mask in ("", "true") else frame.function.select(mask, type_, new, old)

    def read(self, frame: _Frame, read: ir.ReadAccumulator, lanes: Lanes) -> None:
        f = frame.function
        partials = frame.accumulators[read.accumulator]

        def make(point: Point, wide: bool) -> str:
            wanted = projection(point, partials.declared)
            totals = []
            for bank in partials.banks.values():
                parts = [name for key, name in bank.names.items() if set(wanted) <= set(key)]
                type_ = self.bank_type(bank)
                total = tree(f, partials.combiner, type_, parts)
                totals.append(total if wide else across(f, partials.combiner, type_, total))
            return tree(f, partials.combiner, VType(partials.scalar, self.width if wide else 1), totals)

        self.define(frame, read.name, partials.scalar, partials.declared, lanes, make)


def _cached(frame: _Frame, key: tuple[object, ...]) -> str | None:
    return next((scope[key] for scope in reversed(frame.cache) if key in scope), None)


# --- arithmetic ----------------------------------------------------------------------------------------------------


def apply(f: Function, primitive: str, types: Sequence[VType], args: Sequence[str], result: VType) -> str:
    """One scalar primitive on vectors or scalars."""
    type_ = types[-1]
    if primitive == "where":
        return f.select(args[0], type_, args[1], args[2])
    if primitive == "cast":
        return convert(f, types[0], args[0], result)
    if primitive == "not":
        return f.op("xor", type_, args[0], type_.constant(True if type_.scalar == "i1" else -1))
    if primitive in ("minimum", "maximum") and not type_.is_float:
        sign = "u" if type_.is_unsigned or type_.scalar == "i1" else "s"
        return f.intrinsic(f"{sign}{primitive[:3]}", type_, *args)
    kind = "float" if type_.is_float else "bool" if type_.scalar == "i1" else "uint" if type_.is_unsigned else "int"
    template = PRIMITIVES[primitive].llvm.get(kind)
    if template is not None:
        return f.emit(template.format(*args, t=type_.llvm))
    if primitive in UNARY:
        return UNARY[primitive](f, type_, args[0])
    if primitive in BINARY:
        return BINARY[primitive](f, type_, args[0], args[1])
    raise CompileError(f"{primitive} on {kind} has no LLVM form")


def convert(f: Function, source: VType, value: str, to: VType) -> str:
    """A cast: floats to integers saturate, NaN gives 0; anything to bool asks whether it is not zero."""
    if source.scalar == to.scalar:
        return value
    if to.scalar == "i1":
        return f.compare("une" if source.is_float else "ne", source, value, source.constant(0))
    if source.is_float and to.is_float:
        return f.convert("fpext" if to.bits > source.bits else "fptrunc", source, value, to)
    if source.is_float:
        name = f"llvm.fpto{'u' if to.is_unsigned else 's'}i.sat.{to.suffix}.{source.suffix}"
        return f.call(name, to, [(source, value)])
    unsigned = source.is_unsigned or source.scalar == "i1"
    if to.is_float:
        return f.convert("uitofp" if unsigned else "sitofp", source, value, to)
    if to.bits > source.bits:
        return f.convert("zext" if unsigned else "sext", source, value, to)
    return f.convert("trunc", source, value, to) if to.bits < source.bits else value


def combine(f: Function, combiner: str, type_: VType, a: str, b: str) -> str:
    """One step of a reduction."""
    match combiner:
        case "add":
            opcode = "fadd reassoc" if type_.is_float else "or" if type_.scalar == "i1" else "add"
            return f.op(opcode, type_, a, b)
        case "mul":
            return f.op("fmul reassoc" if type_.is_float else "mul", type_, a, b)
        case "and" | "or":
            return f.op(combiner, type_, a, b)
    return apply(f, combiner, [type_, type_], [a, b], type_)


def tree(f: Function, combiner: str, type_: VType, parts: list[str]) -> str:
    """Combine partial results pairwise."""
    while len(parts) > 1:
        paired = [combine(f, combiner, type_, a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = paired + ([parts[-1]] if len(parts) % 2 else [])
    return parts[0]


def across(f: Function, combiner: str, type_: VType, value: str) -> str:
    """Combine the lanes of a vector by halving it."""
    lanes = type_.lanes
    while lanes > 1:
        lanes //= 2
        low, high = (
            f.emit(
                f"shufflevector {type_.llvm} {value}, {type_.llvm} poison, <{lanes} x i32> "
                f"<{', '.join(f'i32 {start + n}' for n in range(lanes))}>"
            )
            for start in (0, lanes)
        )
        type_ = type_.wide(lanes)
        if lanes == 1:
            vector = VType(type_.scalar).llvm
            low, high = (f.emit(f"extractelement <1 x {vector}> {v}, i64 0") for v in (low, high))
        value = combine(f, combiner, type_, low, high)
    return value


# --- looking at kernels --------------------------------------------------------------------------------------------


def _inside(loop: ir.For) -> Iterable[ir.Stmt]:
    return _within(loop.body)


def _cut(loop: ir.For, size: int) -> tuple[ir.Stmt, ...]:
    """A long vector loop as a serial loop over short ones, and a short one for the rest."""
    var, parts = loop.var, []
    inner = Var(f"{var.name}_lane", size)
    count = var.extent // size
    outer = Var(f"{var.name}_cut", count)
    moved = substitute(loop.body, {var: Index.of(outer) * size + inner})
    parts.append(ir.For(outer, "serial", (ir.For(inner, "vector", moved),)))
    if var.extent % size:
        rest = Var(f"{var.name}_rest", var.extent % size)
        parts.append(ir.For(rest, "vector", substitute(loop.body, {var: Index.of(rest) + count * size})))
    return tuple(parts)


def _within(body: Sequence[ir.Stmt]) -> Iterable[ir.Stmt]:
    stack: list[ir.Stmt] = list(body)
    while stack:
        stmt = stack.pop()
        yield stmt
        if isinstance(stmt, (ir.For, ir.If)):
            stack.extend(stmt.body)


def _operands(stmt: ir.Stmt) -> tuple[ir.Operand, ...]:
    match stmt:
        case ir.Let(args=args):
            return args
        case ir.Guard(value=value) | ir.Store(value=value) | ir.Accumulate(value=value):
            return (value,)
    return ()


def _index_values(stmt: ir.Stmt) -> set[str]:
    match stmt:
        case ir.Load(index=index, bounds=bounds) | ir.Store(index=index, bounds=bounds):
            return {v for i in (*index, *(b.index for b in bounds)) for v in i.values}
        case ir.IndexValue(index=index):
            return set(index.values)
        case ir.If(bounds=bounds):
            return {v for b in bounds for v in b.index.values}
    return set()


def _only_summed(kernel: ir.Kernel) -> frozenset[str]:
    """Values that are read by nothing but sums: a product among them becomes a fused multiply-add."""
    adds = {s.name for s, _ in kernel.statements() if isinstance(s, ir.Accumulator) and s.combiner == "add"}
    summed: set[str] = set()
    other: set[str] = set()
    for stmt, _ in kernel.statements():
        into = summed if isinstance(stmt, ir.Accumulate) and stmt.accumulator in adds else other
        into.update(o for o in _operands(stmt) if isinstance(o, str))
    return frozenset(summed - other)


# --- programs ------------------------------------------------------------------------------------------------------


def emit_kernel(module: Module, kernel: ir.Kernel, target: VectorTarget, threads: int = 1) -> str:
    """Print one kernel into ``module``; returns the name of its function."""
    return KernelEmitter(module, kernel, target, threads).emit()


def emit_program(program: ir.LoopProgram, target: VectorTarget, threads: int = 1) -> str:
    """The text of a module with every kernel once, ``graphc_entry`` and ``graphc_launch``."""
    module = target.module(program.name)
    functions = {name: emit_kernel(module, kernel, target, threads) for name, kernel in program.kernels.items()}
    attributes = module.attributes(target.attributes)
    places = {slot.name: n for n, slot in enumerate(b for b in program.buffers.values() if b.role != "arena")}
    steps = [
        _print_step(module, f"launch{number}", program, launch, functions, places, attributes)
        for number, launch in enumerate(program.launches)
    ]
    arguments: list[tuple[str | VType, str]] = [("ptr", "pointers"), ("ptr", "pool"), ("ptr", "status")]
    entry = module.function("graphc_entry", arguments, attributes=attributes)
    for step in steps:
        entry.effect(f"call void @{step}(ptr %pointers, ptr %pool, ptr %status)")
    entry.ret()
    single = module.function("graphc_launch", [*arguments, (I64, "n")], attributes=attributes)
    for number, step in enumerate(steps):
        chosen = single.compare("eq", I64, "%n", str(number))

        def call(step: str = step) -> None:
            single.effect(f"call void @{step}(ptr %pointers, ptr %pool, ptr %status)")

        single.if_then(chosen, call)
    single.ret()
    return module.text()


def _print_step(
    module: Module, name: str, program: ir.LoopProgram, launch: ir.Launch, functions: dict[str, str],
    places: dict[str, int], attributes: str,
) -> str:  # fmt: skip
    """A function that runs one launch: its buffers' addresses from the table, the arena's by offset."""
    step = module.function(
        name, [("ptr", "pointers"), ("ptr", "pool"), ("ptr", "status")], linkage="internal", attributes=attributes
    )
    arguments = []
    for buffer in launch.buffers:
        slot = program.buffers[buffer]
        place = places.get(buffer, len(places))
        pointer = step.emit(f"load ptr, ptr {step.gep('%pointers', place, I64)}, align 8")
        if slot.role == "arena":
            pointer = step.gep(pointer, slot.offset, VType("i8"))
        arguments.append(f"ptr {pointer}")
    arguments += ["ptr %pool", "ptr %status", f"i64 {launch.site_base}"]
    step.effect(f"call void @{functions[launch.kernel]}({', '.join(arguments)})")
    step.ret()
    return name

"""Print scheduled kernels of the loop IR as LLVM IR text.

What enters: a :class:`Kernel` whose loops are mapped (serial, parallel, unrolled, vector), a :class:`VectorTarget`. What leaves:
functions in a :class:`Module`, and for a whole program the one entry that runs its launches in order. Invariants:

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
    void @graphc_entry(ptr pointers, ptr pool, ptr status)        pointers: every buffer but the arena's, then the arena;
                                                                  before them the launch list (:mod:`.launches`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from graphc.errors import CompileError
from graphc.loops import ir
from graphc.targets.cpu import memory, reductions
from graphc.targets.cpu.arithmetic import apply
from graphc.targets.cpu.frame import I64, Frame, SerialVar, scalar_of
from graphc.targets.cpu.host import VectorTarget
from graphc.targets.cpu.lanes import Bank, Lanes, Point, Value
from graphc.targets.cpu.launches import print_entry
from graphc.targets.cpu.llvm_text import Function, Module, VType
from graphc.targets.cpu.locals import apart, own_statements, place_locals
from graphc.targets.cpu.statements import cut, index_values, inside, made_in, only_summed, operands

UNROLL = 2  # iterations of an innermost reduction loop that share one address computation; 4 was no faster
MAX_BODY = 256  # instances beyond which such a loop is not unrolled further
STREAMS = ("avx512", "avx2", "sse4.2")  # levels with stores around the caches
MODULE_LINES = 400  # of text: some 20 ms of code generation, twenty times what a module costs by itself
MAX_CHUNKS = 32  # vectors of one lane loop that are printed side by side


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
        self.summed = only_summed(kernel)

    def native_lanes(self) -> int:
        """Lanes of a chunk: a register of the widest float that the kernel touches, else of its widest integer."""
        dtypes = [p.dtype for p in self.kernel.params]
        floats = [d.itemsize for d in dtypes if d.is_float]
        widest = max(floats or [d.itemsize for d in dtypes] or [8])
        return max(2, self.target.bits // (8 * widest))

    def emit(self) -> str:
        """Print the kernel; returns its function's name."""
        name = f"k_{self.kernel.name}"
        streamed = self.streamed()
        if not streamed:
            return self.body(name, streams=False)
        plain, fast = self.body(f"{name}_plain", streams=False), self.body(f"{name}_stream", streams=True)
        function = self.module.function(name, self.parameters, attributes=self.attributes)
        address = "0"
        for buffer in streamed:
            address = function.op("or", I64, address, function.emit(f"ptrtoint ptr %{buffer} to i64"))
        low = function.op("and", I64, address, str(memory.STREAM - 1))
        chosen = function.emit(f"select i1 {function.compare('eq', I64, low, '0')}, ptr @{fast}, ptr @{plain}")
        arguments = ", ".join(f"{_plain(type_)} %{name}" for type_, name in self.parameters)
        function.effect(f"call void {chosen}({arguments})")
        function.ret()
        return name

    def streamed(self) -> list[str]:
        """Buffers with streamed stores, where the target has them."""
        stores = [s for s, _ in self.kernel.statements() if isinstance(s, ir.Store) and s.mode == "stream"]
        return list(dict.fromkeys(s.buffer for s in stores)) if self.target.level in STREAMS else []

    @property
    def parameters(self) -> list[tuple[str | VType, str]]:
        buffers: list[tuple[str | VType, str]] = [("ptr noalias", p.name) for p in self.kernel.params]
        return [*buffers, ("ptr", "pool"), ("ptr", "status"), (I64, "site_base")]

    def body(self, name: str, *, streams: bool) -> str:
        """Print the kernel as one function of this name; ``streams``: its streamed buffers are aligned."""
        function = self.module.function(name, self.parameters, attributes=self.attributes)
        pointers = {p.name: f"%{p.name}" for p in self.kernel.params}
        frame = Frame(function, self.width, self.buffers, pointers, "%pool", "%status", "%site_base", streams)
        body = self.kernel.body
        self.allocate(frame, body)
        for stmt in body:
            if isinstance(stmt, ir.For) and stmt.kind == "parallel":
                self.parallel(frame, stmt)
            else:
                self.statement(frame, stmt, Lanes())
        self.flush(frame)
        function.ret()
        return name

    def flush(self, frame: Frame) -> None:
        """Streamed stores are ordered before what follows: other threads see them when the kernel has ended."""
        if frame.streams:
            self.module.declare("declare void @llvm.x86.sse.sfence()")
            frame.function.effect("call void @llvm.x86.sse.sfence()")

    # --- parallel loops ------------------------------------------------------------------------------------------

    def parallel(self, frame: Frame, loop: ir.For) -> None:
        """Outline a parallel loop; addresses and what it reads of the values before it are passed in 8-byte slots."""
        name = f"k_{self.kernel.name}_p{self.bodies}"
        self.bodies += 1
        outlined = self.outlined(name, loop)
        inner = Frame(outlined, self.width, self.buffers, {}, "null", "", "", frame.streams)
        sent: list[tuple[str, str]] = []  # type, operand

        def pass_on(type_: str, operand: str) -> str:
            sent.append((type_, operand))
            slot = outlined.gep("%arguments", len(sent) - 1, I64)
            return outlined.emit(f"load {type_}, ptr {slot}, align 8")

        for buffer, pointer in frame.pointers.items():
            inner.pointers[buffer] = pass_on("ptr", pointer)
        inner.status, inner.site_base = pass_on("ptr", frame.status), pass_on("i64", frame.site_base)
        needed = {o for s in inside(loop) for o in operands(s) if isinstance(o, str)}
        needed |= {v for s in inside(loop) for v in index_values(s)}
        needed -= made_in(loop)  # an earlier nest may have used the name, too
        for product in sorted(needed & frame.waiting.keys()):
            inner.waiting[product] = frame.waiting[product]
            needed |= {a for a in frame.waiting[product].args if isinstance(a, str)}
        for value in sorted(needed & frame.values.keys()):
            scalar = frame.values[value].scalar
            own = pass_on(VType(scalar).llvm, frame.values[value].names[()])
            inner.values[value] = Value(scalar, frozenset(), False, {(): own})
        self.allocate(inner, loop.body)

        def body(index: str, carried: tuple[str, ...]) -> tuple[str, ...]:
            inner.serial[loop.var] = SerialVar(index)
            self.block(inner, loop.body, Lanes())
            return ()

        outlined.loop("%begin", "%end", 1, body)
        self.flush(inner)
        outlined.ret()
        self.call_outlined(frame, name, loop.var.extent, sent)

    def outlined(self, name: str, loop: ir.For) -> Function:
        """Begin the function that the body of a parallel loop becomes."""
        parameters: list[tuple[str | VType, str]] = [("ptr", "arguments"), (I64, "begin"), (I64, "end")]
        return self.module.function(name, parameters, linkage="internal", attributes=self.attributes)

    def call_outlined(self, frame: Frame, name: str, extent: int, sent: Sequence[tuple[str, str]]) -> None:
        f = frame.function
        area = f.emit(f"alloca [{len(sent)} x i64], align 16", "args")
        for number, (type_, operand) in enumerate(sent):
            f.effect(f"store {type_} {operand}, ptr {f.gep(area, number, I64)}, align 8")
        if self.threads > 1:
            self.module.declare("declare void @graphc_parallel(ptr, ptr, ptr, i64, i64)")
            f.effect(f"call void @graphc_parallel(ptr {frame.pool}, ptr @{name}, ptr {area}, i64 {extent}, i64 1)")
        else:
            f.effect(f"call void @{name}(ptr {area}, i64 0, i64 {extent})")

    def allocate(self, frame: Frame, body: Sequence[ir.Stmt]) -> None:
        """Make room for the local buffers of a function's statements, in its entry block: once a call, not once a use."""
        buffers = [s.buffer for s in own_statements(body) if isinstance(s, ir.Alloc)]
        if not buffers:
            return
        offsets, size = place_locals(body) if len({b.name for b in buffers}) == len(buffers) else apart(buffers)
        area = frame.function.emit(f"alloca [{size} x i8], align 64", "local")
        for buffer in buffers:
            if buffer.space != "local":
                raise CompileError(f"kernel {self.kernel.name}: {buffer.space} memory is not for the cpu target")
            offset = offsets[buffer.name]
            frame.pointers[buffer.name] = frame.function.gep(area, offset, VType("i8")) if offset else area
            self.buffers[buffer.name] = buffer

    # --- statements ----------------------------------------------------------------------------------------------

    def block(self, frame: Frame, body: Iterable[ir.Stmt], lanes: Lanes) -> None:
        frame.cache.append({})
        for stmt in body:
            self.statement(frame, stmt, lanes)
        frame.cache.pop()

    def statement(self, frame: Frame, stmt: ir.Stmt, lanes: Lanes) -> None:
        match stmt:
            case ir.Let():
                self.let(frame, stmt, lanes)
            case ir.Load():
                memory.load(frame, stmt, lanes)
            case ir.IndexValue(name, index):
                frame.indices[name] = index
                frame.define(name, "i64", frame.depends(index, lanes), lanes,
                            lambda point, wide: frame.index(index, point, lanes if wide else None))  # fmt: skip
            case ir.Guard():
                memory.guard(frame, stmt, lanes)
            case ir.Store():
                memory.store(frame, stmt, lanes)
            case ir.Accumulator():
                reductions.declare_accumulator(frame, stmt, lanes)
            case ir.Accumulate():
                reductions.accumulate(frame, stmt, lanes)
            case ir.ReadAccumulator():
                reductions.read(frame, stmt, lanes)
            case ir.For():
                self.loop(frame, stmt, lanes)
            case ir.Alloc(buffer):  # its memory was made in the entry block
                if lanes.variables:
                    raise CompileError(f"kernel {self.kernel.name}: lanes cannot share local buffer {buffer.name}")
            case ir.If():
                self.conditional(frame, stmt, lanes)
            case _:
                raise CompileError(f"kernel {self.kernel.name}: {type(stmt).__name__} is not for the cpu target")

    def loop(self, frame: Frame, loop: ir.For, lanes: Lanes) -> None:
        if loop.var.extent == 0:
            return
        frame.serial.pop(loop.var, None)  # loops side by side may share a variable
        match self.how(loop):
            case "unrolled":
                self.block(frame, loop.body, lanes.unrolled(loop.var))
            case "vector":
                self.block(frame, loop.body, lanes.vectorised(loop.var, self.width))
            case "cut":
                for part in self.parts(loop):
                    self.statement(frame, part, lanes)
            case _:
                self.serial(frame, loop, lanes)

    def parts(self, loop: ir.For) -> tuple[ir.Stmt, ...]:
        """A lane loop that is too long as loops that are not."""
        return cut(loop, MAX_CHUNKS * self.width)

    def how(self, loop: ir.For) -> str:
        """How a loop is printed. Lock step is a permission: lanes too many, or lanes of lanes, may as well run in order."""
        if loop.kind in ("block", "thread"):
            raise CompileError(f"kernel {self.kernel.name}: a {loop.kind} loop is not for the cpu target")
        if loop.kind == "vector" and any(isinstance(s, ir.For) and s.kind == "vector" for s in inside(loop)):
            return "unrolled" if loop.var.extent <= MAX_CHUNKS else "serial"
        if loop.kind == "vector":
            return "cut" if loop.var.extent > MAX_CHUNKS * self.width else "vector"
        return "unrolled" if loop.kind == "unrolled" and loop.var.extent <= MAX_BODY else "serial"

    def serial(self, frame: Frame, loop: ir.For, lanes: Lanes) -> None:
        """One loop with a phi for each partial result that its body accumulates into; small bodies are repeated."""
        f = frame.function
        partials = [(bank, key) for bank in self.banks_inside(frame, loop.body, lanes) for key in bank.names]
        copies = self.copies(loop, len(partials))

        def body_of(count: int) -> Callable[[str, tuple[str, ...]], tuple[str, ...]]:
            def body(index: str, carried: tuple[str, ...]) -> tuple[str, ...]:
                for (bank, key), name in zip(partials, carried, strict=True):
                    bank.names[key] = name
                for copy in range(count):
                    frame.serial[loop.var] = SerialVar(index, copy)
                    self.block(frame, loop.body, lanes)
                return tuple(bank.names[key] for bank, key in partials)

            return body

        def run(start: int, stop: int, count: int) -> None:
            carried = [(reductions.bank_type(frame, bank), bank.names[key]) for bank, key in partials]
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

    def conditional(self, frame: Frame, stmt: ir.If, lanes: Lanes) -> None:
        """A branch; where lanes may disagree or partial results outlive it, a mask on what the body does."""
        moves = any(frame.depends(b.index, lanes) for b in stmt.bounds)
        if moves or self.banks_inside(frame, stmt.body, lanes):
            self.block(frame, stmt.body, lanes.where(stmt.bounds))
            return
        holds = frame.bounds_hold(stmt.bounds, {}, None)
        if holds == "true":
            self.block(frame, stmt.body, lanes)
        elif holds != "false":
            frame.function.if_then(holds, lambda: self.block(frame, stmt.body, lanes))

    # --- values --------------------------------------------------------------------------------------------------

    def let(self, frame: Frame, let: ir.Let, lanes: Lanes) -> None:
        if let.primitive == "mul" and let.dtype.is_float and let.name in self.summed:
            frame.waiting[let.name] = let
            return
        depends = frozenset(chain.from_iterable(frame.operand_depends(a) for a in let.args))
        scalar = scalar_of(let.dtype)

        ramp = frame.narrow_ramp(let, lanes)

        def make(point: Point, wide: bool) -> str:
            width = lanes.width if wide else 1
            if ramp is not None and wide:
                return frame.ramp(ramp, VType(scalar, width), point, lanes)
            args = [frame.operand(a, point, wide, lanes) for a in let.args]
            types = [VType(frame.scalar_type(a), width) for a in let.args]
            return apply(frame.function, let.primitive, types, args, VType(scalar, width))

        frame.define(let.name, scalar, depends, lanes, make)

    def banks_inside(self, frame: Frame, body: Sequence[ir.Stmt], lanes: Lanes) -> list[Bank]:
        """The banks that a block accumulates into and that live longer than the block."""
        found: dict[int, Bank] = {}
        own: set[str] = set()
        stack: list[tuple[ir.Stmt, Lanes]] = [(s, lanes) for s in reversed(body)]
        while stack:
            stmt, there = stack.pop()
            match stmt:
                case ir.Accumulator(name=name):
                    own.add(name)
                case ir.Accumulate(accumulator=name) if name not in own:
                    bank = reductions.bank_of(frame, frame.accumulators[name], there)
                    found[id(bank)] = bank
                case ir.For(var) if var.extent:
                    how = self.how(stmt)
                    parts = cut(stmt, MAX_CHUNKS * self.width) if how == "cut" else stmt.body
                    if how == "unrolled":
                        there = there.unrolled(var)
                    elif how == "vector":
                        there = there.vectorised(var, self.width)
                    stack.extend((s, there) for s in reversed(parts))
                case ir.If(body=body):
                    stack.extend((s, there) for s in reversed(body))
        return list(found.values())


def _plain(type_: str | VType) -> str:
    return type_.llvm if isinstance(type_, VType) else type_.split()[0]


def emit_kernel(module: Module, kernel: ir.Kernel, target: VectorTarget, threads: int = 1) -> str:
    """Print one kernel into ``module``; returns the name of its function."""
    return KernelEmitter(module, kernel, target, threads).emit()


def emit_program(program: ir.LoopProgram, target: VectorTarget, threads: int = 1) -> str:
    """The text of a module with every kernel once, and ``graphc_entry`` that runs them as a launch list says."""
    module = target.module(program.name)
    functions = [(emit_kernel(module, k, target, threads), len(k.params)) for k in program.kernels.values()]
    print_entry(module, functions, module.attributes(target.attributes))
    return module.text()


def emit_modules(program: ir.LoopProgram, target: VectorTarget, threads: int = 1) -> Iterator[str]:
    """The same program as modules of about :data:`MODULE_LINES` lines, to be linked together: kernels, then the entry.

    They can be compiled at the same time, each while the next is printed.
    """
    functions: list[tuple[str, int]] = []
    module = target.module(program.name)
    for kernel in program.kernels.values():
        functions.append((emit_kernel(module, kernel, target, threads), len(kernel.params)))
        if sum(f.size for f in module.functions) > MODULE_LINES:
            yield module.text()
            module = target.module(program.name)
    if module.functions:
        yield module.text()
    module = target.module(program.name)
    for name, buffers in functions:
        module.declare(f"declare void @{name}({', '.join(['ptr'] * (buffers + 2))}, i64)")
    print_entry(module, functions, module.attributes(target.attributes))
    yield module.text()

"""A small typed builder of LLVM IR *text*.

What enters: calls that name instructions and SSA operands (plain strings, ``"%v3"`` or a constant's text). What leaves:
one module's text for ``llvmlite.binding.parse_assembly``. Invariant: every SSA name is defined once, each intrinsic is
declared once, and one piece of emitter code serves scalars (``lanes == 1``) and vectors alike. Printing text costs a
tenth of a millisecond a kernel, an order less than building the same module as objects.

>>> m = Module("example")
>>> f32x8 = VType("f32", 8)
>>> f = m.function("twice", [("ptr", "x")])
>>> v = f.load(f32x8, "%x")
>>> f.store(f32x8, f.op("fmul", f32x8, v, f32x8.constant(2.0)), "%x")
>>> f.ret()
>>> print(f.text())
define void @twice(ptr %x) {
entry:
  %v1 = load <8 x float>, ptr %x, align 4
  %v2 = fmul <8 x float> %v1, splat (float 0x4000000000000000)
  store <8 x float> %v2, ptr %x, align 4
  ret void
}
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

__all__ = ["Function", "Loop", "Module", "VType", "float_literal"]

_ELEMENT = {
    "f32": "float", "f64": "double", "i1": "i1", "i8": "i8", "i16": "i16", "i32": "i32", "i64": "i64",
    "u32": "i32", "u64": "i64",
}  # fmt: skip
_BITS = {"f32": 32, "f64": 64, "i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "u32": 32, "u64": 64}
Scalar = float | int | bool


def float_literal(value: float, scalar: str = "f64") -> str:
    """LLVM's exact spelling of a float constant: the bits of the value as a float64, rounded to f32 first if asked.

    >>> float_literal(1.0), float_literal(float("-inf"), "f32"), float_literal(0.1, "f32")
    ('0x3FF0000000000000', '0xFFF0000000000000', '0x3FB99999A0000000')
    """
    if math.isnan(value):
        return "0x7FF8000000000000"
    if scalar == "f32" and math.isfinite(value):
        value = struct.unpack("<f", struct.pack("<f", value))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


@dataclass(frozen=True)
class VType:
    """A scalar (``lanes == 1``) or a fixed vector of them.

    Attributes:
        scalar: "f32", "f64", "i1", "i8", "i16", "i32", "i64", "u32", "u64" (u and i differ only for
            whoever picks instructions).
        lanes: number of elements.

    >>> VType("f32").llvm, VType("f64", 4).llvm, VType("f32", 8).mask.llvm, VType("f32", 8).suffix
    ('float', '<4 x double>', '<8 x i1>', 'v8f32')
    """

    scalar: str
    lanes: int = 1

    @property
    def element(self) -> str:
        """The element's LLVM type."""
        return _ELEMENT[self.scalar]

    @property
    def llvm(self) -> str:
        """The LLVM type."""
        return self.element if self.lanes == 1 else f"<{self.lanes} x {self.element}>"

    @property
    def suffix(self) -> str:
        """The overload suffix of intrinsics: ``f32``, ``v8f32``, ``v4i64``."""
        name = self.scalar.replace("u", "i")
        return name if self.lanes == 1 else f"v{self.lanes}{name}"

    @property
    def bits(self) -> int:
        """Bits of one element."""
        return _BITS[self.scalar]

    @property
    def bytes(self) -> int:
        """Bytes of one element in memory (a bool takes one)."""
        return max(1, self.bits // 8)

    @property
    def is_float(self) -> bool:
        """Whether the element is a floating-point number."""
        return self.scalar[0] == "f"

    @property
    def is_unsigned(self) -> bool:
        """Whether the element is an unsigned integer."""
        return self.scalar[0] == "u"

    @property
    def mask(self) -> VType:
        """The type that comparing two of these gives."""
        return VType("i1", self.lanes)

    @property
    def integer(self) -> VType:
        """The signed integer type of the same width and lanes: what a bitcast gives."""
        return VType(f"i{self.bits}", self.lanes)

    @property
    def one(self) -> VType:
        """The element as a scalar type."""
        return VType(self.scalar)

    def of(self, scalar: str) -> VType:
        """The same number of lanes of another scalar."""
        return VType(scalar, self.lanes)

    def wide(self, lanes: int) -> VType:
        """The same scalar in another number of lanes."""
        return replace(self, lanes=lanes)

    def literal(self, value: Scalar) -> str:
        """One element's constant, without its type."""
        if self.is_float:
            return float_literal(float(value), self.scalar)
        if self.scalar == "i1":
            return "true" if value else "false"
        return str(int(value))

    def constant(self, value: Scalar) -> str:
        """The constant that has ``value`` in each lane.

        >>> VType("i32", 4).constant(7), VType("f64").constant(0.5)
        ('splat (i32 7)', '0x3FE0000000000000')
        """
        text = self.literal(value)
        return text if self.lanes == 1 else f"splat ({self.element} {text})"

    def listed(self, values: Sequence[Scalar]) -> str:
        """The vector constant with the given elements.

        >>> VType("i32", 2).listed([0, 1])
        '<i32 0, i32 1>'
        """
        assert len(values) == self.lanes, f"{len(values)} values for {self.lanes} lanes"
        if self.lanes == 1:
            return self.literal(values[0])
        return "<" + ", ".join(f"{self.element} {self.literal(v)}" for v in values) + ">"

    def iota(self) -> str:
        """The constant 0, 1, 2, ... over the lanes."""
        return self.listed(range(self.lanes))


@dataclass
class Module:
    """One LLVM module under construction.

    Args:
        name: shown in the text.
        triple, layout: from :mod:`.host`; empty leaves them to the target machine.
        fused: whether the machine has FMA; :meth:`Function.muladd` is one rounding only where it is true.
        scalef: whether AVX-512's ``scalef`` may be used on 16 lanes of f32 (8 of f64).
    """

    name: str
    triple: str = ""
    layout: str = ""
    fused: bool = True
    scalef: bool = False
    functions: list[Function] = field(default_factory=list)
    _declared: dict[str, None] = field(default_factory=dict)
    _globals: dict[str, str] = field(default_factory=dict)
    _groups: dict[str, str] = field(default_factory=dict)
    _metadata: list[str] = field(default_factory=list)
    _named: dict[str, str] = field(default_factory=dict)

    def declare(self, text: str) -> None:
        """Add a declaration (``declare float @expf(float)``) once."""
        self._declared.setdefault(text)

    def define_global(self, name: str, text: str) -> str:
        """Add ``@name = <text>``; returns ``@name``. The same name with the same text is kept once."""
        assert self._globals.get(name, text) == text, f"global {name} is defined twice"
        self._globals[name] = text
        return f"@{name}"

    def constant_array(self, name: str, type: VType, values: Sequence[Scalar]) -> str:
        """A private constant array of elements; returns its address."""
        body = ", ".join(f"{type.element} {type.literal(v)}" for v in values)
        return self.define_global(
            name, f"private unnamed_addr constant [{len(values)} x {type.element}] [{body}], align 64"
        )

    def attributes(self, text: str) -> str:
        """An attribute group of that text (``nounwind "frame-pointer"="none"``); returns ``#n``."""
        return self._groups.setdefault(text, f"#{len(self._groups)}")

    def metadata(self, text: str) -> str:
        """A metadata node of that text; returns ``!n``. ``{self}`` stands for the node itself (distinct loop ids)."""
        name = f"!{len(self._metadata)}"
        self._metadata.append(f"{name} = {text.replace('{self}', name)}")
        return name

    def once(self, name: str, text: str) -> str:
        """The metadata node of a name, made at its first use."""
        if name not in self._named:
            self._named[name] = self.metadata(text)
        return self._named[name]

    def function(
        self, name: str, parameters: Sequence[tuple[str | VType, str]], result: str | VType = "void",
        linkage: str = "", attributes: str = "",
    ) -> Function:  # fmt: skip
        """Begin a function; see :class:`Function`."""
        return Function(self, name, parameters, result, linkage, attributes)

    def text(self) -> str:
        """The module's text."""
        parts = [f"; ModuleID = '{self.name}'", f'source_filename = "{self.name}"']
        parts += [f'target datalayout = "{self.layout}"'] if self.layout else []
        parts += [f'target triple = "{self.triple}"'] if self.triple else []
        parts += [f"@{name} = {text}" for name, text in self._globals.items()]
        parts += [*self._declared]
        parts += ["", *(function.text() + "\n" for function in self.functions)]
        parts += [f"attributes {name} = {{ {text} }}" for text, name in self._groups.items()]
        return "\n".join(parts + self._metadata) + "\n"


@dataclass(frozen=True)
class Loop:
    """What a loop's body gets: the induction variable and the carried values of this turn."""

    index: str
    carried: tuple[str, ...]


Carried = Sequence[tuple[VType | str, str]]
LoopBody = Callable[[str, tuple[str, ...]], Sequence[str] | None]


def _name(type: VType | str) -> str:
    return type if isinstance(type, str) else type.llvm


class Function:
    """One function under construction; the cursor stands at the end of the current block.

    Args:
        module: it is appended there.
        parameters: (type, name) pairs; the type may carry attributes (``"ptr noalias"``). In the body a
            parameter is ``%name``.
        result: result type.
        linkage: ``"internal"``, ``"dllexport"``, ...
        attributes: an attribute group ``#n`` or attribute text.
    """

    def __init__(
        self, module: Module, name: str, parameters: Sequence[tuple[str | VType, str]], result: str | VType = "void",
        linkage: str = "", attributes: str = "",
    ) -> None:  # fmt: skip
        self.module = module
        self.name = name
        self._head = " ".join(
            part
            for part in (
                "define", linkage, _name(result),
                f"@{name}({', '.join(f'{_name(t)} %{n}' for t, n in parameters)})", attributes, "{",
            )
            if part
        )  # fmt: skip
        self._result = _name(result)
        self._lines = ["entry:"]
        self._count = 0
        self.current = "entry"
        module.functions.append(self)

    def text(self) -> str:
        """The function's text."""
        return "\n".join([self._head, *self._lines, "}"])

    # Names, instructions, blocks

    @property
    def size(self) -> int:
        """Lines so far."""
        return len(self._lines)

    def fresh(self, hint: str = "v") -> str:
        """A new name (without ``%``)."""
        self._count += 1
        return f"{hint}{self._count}"

    def emit(self, text: str, hint: str = "v") -> str:
        """Append an instruction that gives a value; returns its SSA name."""
        name = "%" + self.fresh(hint)
        self._lines.append(f"  {name} = {text}")
        return name

    def effect(self, text: str) -> None:
        """Append an instruction without a value."""
        self._lines.append("  " + text)

    def comment(self, text: str) -> None:
        """Append a comment line."""
        self._lines.append("  ; " + text)

    def block(self, label: str) -> None:
        """Begin the block ``label`` (from :meth:`fresh`)."""
        self._lines.append(f"{label}:")
        self.current = label

    def branch(self, label: str, loop: str = "") -> None:
        """Jump; ``loop`` is loop metadata ``!n``."""
        self.effect(f"br label %{label}" + (f", !llvm.loop {loop}" if loop else ""))

    def branch_if(self, condition: str, then: str, otherwise: str, loop: str = "") -> None:
        """Jump by an ``i1``."""
        self.effect(f"br i1 {condition}, label %{then}, label %{otherwise}" + (f", !llvm.loop {loop}" if loop else ""))

    def phi(self, type: VType | str, *incoming: tuple[str, str], hint: str = "p") -> str:
        """A phi of (value, label) pairs; must come first in its block."""
        return self.emit(f"phi {_name(type)} " + ", ".join(f"[ {v}, %{b} ]" for v, b in incoming), hint)

    def ret(self, value: str = "") -> None:
        """Return."""
        self.effect(f"ret {self._result} {value}".rstrip())

    # Structured control flow

    def loop(
        self, start: str | int, stop: str | int, step: str | int, body: LoopBody, carried: Carried = (), *,
        nonempty: bool = False, metadata: str = "", hint: str = "i",
    ) -> tuple[str, ...]:  # fmt: skip
        """``for index in range(start, stop, step)`` over ``i64`` with carried values as phis.

        Args:
            start, stop, step: i64 operands; ``step`` positive.
            body: called once to emit the body with (index, carried values); returns the next values. It may open
                blocks of its own.
            carried: (type, initial value) pairs.
            nonempty: the loop is known to run at least once (the test moves to the bottom, the entry test is left out).

        Returns:
            the carried values after the loop (the initial ones if it never ran).
        """
        before, head, end = self.current, self.fresh("loop"), self.fresh("end")
        if nonempty:
            self.branch(head)
        else:
            self.branch_if(self.emit(f"icmp slt i64 {start}, {stop}", "any"), head, end)
        self.block(head)
        index, place = "%" + self.fresh(hint), len(self._lines)
        current = tuple("%" + self.fresh("c") for _ in carried)
        new = tuple(body(index, current) or ())
        assert len(new) == len(carried), f"{len(new)} new values for {len(carried)} carried"
        following, last = self.emit(f"add nsw i64 {index}, {step}", "next"), self.current
        self.branch_if(self.emit(f"icmp slt i64 {following}, {stop}", "more"), head, end, metadata)
        phis = [f"  {index} = phi i64 [ {start}, %{before} ], [ {following}, %{last} ]"]
        for (type, initial), value, next_value in zip(carried, current, new, strict=True):
            phis.append(f"  {value} = phi {_name(type)} [ {initial}, %{before} ], [ {next_value}, %{last} ]")
        self._lines[place:place] = phis
        self.block(end)
        if nonempty:
            return new
        pairs = zip(carried, new, strict=True)
        return tuple(self.phi(t, (initial, before), (value, last)) for (t, initial), value in pairs)

    def if_then(
        self, condition: str, then: Callable[[], Sequence[str] | None],
        otherwise: Callable[[], Sequence[str] | None] | None = None, results: Sequence[VType | str] = (),
        fallback: Sequence[str] = (), weights: tuple[int, int] | None = None,
    ) -> tuple[str, ...]:  # fmt: skip
        """Branch on an ``i1``; each side emits code and returns as many values as ``results`` has types.

        Args:
            otherwise: without it the values of the side not taken are ``fallback``.
            weights: how often either side is expected, as branch weights.

        Returns:
            one phi a result.
        """
        yes, no, join = self.fresh("then"), self.fresh("else"), self.fresh("join")
        before, target = self.current, no if otherwise else join
        profile = ""
        if weights:
            node = self.module.metadata(f'!{{!"branch_weights", i32 {weights[0]}, i32 {weights[1]}}}')
            profile = f", !prof {node}"
        self.effect(f"br i1 {condition}, label %{yes}, label %{target}{profile}")
        self.block(yes)
        then_values, then_end = tuple(then() or ()), self.current
        self.branch(join)
        else_values, else_end = tuple(fallback), before
        if otherwise:
            self.block(no)
            else_values, else_end = tuple(otherwise() or ()), self.current
            self.branch(join)
        self.block(join)
        triples = zip(results, then_values, else_values, strict=True)
        return tuple(self.phi(t, (a, then_end), (b, else_end)) for t, a, b in triples)

    # Memory

    def gep(self, pointer: str, offset: str | int, type: VType | str) -> str:
        """``pointer + offset`` counted in elements of ``type``."""
        if offset in (0, "0"):
            return pointer
        element = type if isinstance(type, str) else type.element
        return self.emit(f"getelementptr inbounds {element}, ptr {pointer}, i64 {offset}", "q")

    def load(self, type: VType, pointer: str, align: int | None = None, suffix: str = "") -> str:
        """Load; ``align`` is one element's unless said. ``suffix`` appends metadata (``", !invariant.load !0"``)."""
        return self.emit(f"load {type.llvm}, ptr {pointer}, align {align or type.bytes}{suffix}")

    def store(self, type: VType, value: str, pointer: str, align: int | None = None, suffix: str = "") -> None:
        """Store; ``align`` is that of one element unless said."""
        self.effect(f"store {type.llvm} {value}, ptr {pointer}, align {align or type.bytes}{suffix}")

    def masked_load(self, type: VType, pointer: str, mask: str, otherwise: str = "zeroinitializer") -> str:
        """Load the lanes whose mask bit is set; the others read no memory and give ``otherwise``."""
        assert type.lanes > 1, "a masked load is of a vector"
        name = f"llvm.masked.load.{type.suffix}.p0"
        self.module.declare(f"declare {type.llvm} @{name}(ptr, {type.mask.llvm}, {type.llvm})")
        where = f"ptr align {type.bytes} {pointer}"
        return self.emit(f"call {type.llvm} @{name}({where}, {type.mask.llvm} {mask}, {type.llvm} {otherwise})")

    def masked_store(self, type: VType, value: str, pointer: str, mask: str) -> None:
        """Store the lanes whose mask bit is set; the others touch no memory."""
        assert type.lanes > 1, "a masked store is of a vector"
        name = f"llvm.masked.store.{type.suffix}.p0"
        self.module.declare(f"declare void @{name}({type.llvm}, ptr, {type.mask.llvm})")
        self.effect(
            f"call void @{name}({type.llvm} {value}, ptr align {type.bytes} {pointer}, {type.mask.llvm} {mask})"
        )

    def tail_mask(self, lanes: int, count: str | int) -> str:
        """The mask of the first ``count`` (i32) of ``lanes`` lanes."""
        type = VType("i32", lanes)
        limit = type.constant(count) if isinstance(count, int) else self.splat(type, count)
        return self.compare("ult", type, type.iota(), limit)

    # Values

    def op(self, opcode: str, type: VType, *operands: str) -> str:
        """``opcode type a, b``: binary arithmetic, ``fneg``; flags go into the opcode (``"fadd reassoc contract"``)."""
        return self.emit(f"{opcode} {type.llvm} {', '.join(operands)}")

    def compare(self, predicate: str, type: VType, left: str, right: str) -> str:
        """``fcmp`` for floats, ``icmp`` for the others; gives ``type.mask``."""
        return self.emit(f"{'fcmp' if type.is_float else 'icmp'} {predicate} {type.llvm} {left}, {right}", "m")

    def select(self, mask: str, type: VType, then: str, otherwise: str) -> str:
        """Lane by lane: ``then`` where the mask is set."""
        return self.emit(f"select {type.mask.llvm} {mask}, {type.llvm} {then}, {type.llvm} {otherwise}")

    def convert(self, opcode: str, source: VType, value: str, to: VType) -> str:
        """``sitofp``, ``fptosi``, ``zext``, ``sext``, ``trunc``, ``fpext``, ``fptrunc``, ``bitcast``, ..."""
        return self.emit(f"{opcode} {source.llvm} {value} to {to.llvm}")

    def call(self, name: str, result: VType | str, arguments: Sequence[tuple[VType | str, str]]) -> str:
        """Call a function that gives a value, declaring it."""
        types = ", ".join(_name(t) for t, _ in arguments)
        self.module.declare(f"declare {_name(result)} @{name}({types})")
        return self.emit(f"call {_name(result)} @{name}({', '.join(f'{_name(t)} {v}' for t, v in arguments)})")

    def intrinsic(self, name: str, type: VType, *operands: str) -> str:
        """``llvm.<name>.<suffix>`` from operands of ``type`` to ``type``: ``sqrt``, ``roundeven``, ``smin``, ..."""
        return self.call(f"llvm.{name}.{type.suffix}", type, [(type, operand) for operand in operands])

    def fma(self, type: VType, a: str, b: str, c: str) -> str:
        """``a * b + c`` with one rounding on every machine (a library call where there is no FMA instruction)."""
        return self.intrinsic("fma", type, a, b, c)

    def muladd(self, type: VType, a: str, b: str, c: str) -> str:
        """``a * b + c``, fused where the machine has FMA, two roundings where not."""
        if self.module.fused:
            return self.intrinsic("fma", type, a, b, c)
        return self.op("fadd", type, self.op("fmul", type, a, b), c)

    def splat(self, type: VType, value: str) -> str:
        """A scalar SSA value in every lane."""
        if type.lanes == 1:
            return value
        first = self.emit(f"insertelement {type.llvm} poison, {type.element} {value}, i64 0")
        zeros = f"<{type.lanes} x i32> zeroinitializer"
        return self.emit(f"shufflevector {type.llvm} {first}, {type.llvm} poison, {zeros}")

    def extract(self, type: VType, value: str, lane: int) -> str:
        """One lane as a scalar."""
        return value if type.lanes == 1 else self.emit(f"extractelement {type.llvm} {value}, i64 {lane}")

    def insert(self, type: VType, vector: str, value: str, lane: int) -> str:
        """The vector with one lane replaced (the scalar itself if there is but one lane)."""
        if type.lanes == 1:
            return value
        return self.emit(f"insertelement {type.llvm} {vector}, {type.element} {value}, i64 {lane}")

    def per_lane(self, type: VType, function: Callable[..., str], *operands: str) -> str:
        """Apply a scalar emitter ``function(*scalars) -> scalar`` to each lane and collect the vector."""
        result = "poison"
        for lane in range(type.lanes):
            scalar = function(*(self.extract(type, operand, lane) for operand in operands))
            result = self.insert(type, result, scalar, lane)
        return result

    def any_lane(self, lanes: int, mask: str) -> str:
        """Whether any bit of a mask is set (``i1``)."""
        if lanes == 1:
            return mask
        return self.emit(self._reduction("or", VType("i1", lanes), mask))

    def reduce(self, kind: str, type: VType, value: str, start: str | None = None) -> str:
        """Across the lanes: ``add mul and or xor smax smin umax umin`` (integers), ``fadd fmul fmaximum fminimum`` (floats).

        ``fadd`` and ``fmul`` are reassociated (a tree); ``start`` is their initial value (0 or 1 unless said).
        """
        if type.lanes == 1:
            if start is None:
                return value
            return self.op(kind, type, start, value)
        if kind in ("fadd", "fmul"):
            first = start or type.one.constant(-0.0 if kind == "fadd" else 1.0)
            name = f"llvm.vector.reduce.{kind}.{type.suffix}"
            self.module.declare(f"declare {type.element} @{name}({type.element}, {type.llvm})")
            return self.emit(f"call reassoc {type.element} @{name}({type.element} {first}, {type.llvm} {value})")
        return self.emit(self._reduction(kind, type, value))

    def _reduction(self, kind: str, type: VType, value: str) -> str:
        name = f"llvm.vector.reduce.{kind}.{type.suffix}"
        self.module.declare(f"declare {type.element} @{name}({type.llvm})")
        return f"call {type.element} @{name}({type.llvm} {value})"

"""The parser of the loop IR: text in the form of :mod:`graphc.loops.text` enters, an equal kernel or program leaves.

Invariant: ``parse_kernel(print_kernel(k)) == k`` for every verified kernel. Dtypes that the text does not show follow
from the primitives' rules; the extent of a run-time value in an index is that of the guard which made it.

>>> from graphc.loops.text import print_kernel
>>> text = '''kernel double(in x: f32[4], out y: f32[4]) {
...   for i in 4 vector {
...     %0 = load x[i]
...     %1 = mul(%0, 2.0:f32)
...     store y[i] = %1
...   }
... }'''
>>> print_kernel(parse_kernel(text)) == text
True
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn, get_args

import numpy as np

from graphc.errors import ParseError
from graphc.loops.index import FloorDiv, Index, Mod, Value, Var
from graphc.loops.ir import (
    COMBINERS,
    Accumulate,
    Accumulator,
    Alloc,
    Barrier,
    Bound,
    Buffer,
    BufferSlot,
    For,
    Guard,
    If,
    IndexValue,
    Kernel,
    Launch,
    Let,
    Lit,
    Load,
    LoopKind,
    LoopProgram,
    Operand,
    ReadAccumulator,
    Stmt,
    Store,
)  # fmt: skip
from graphc.scalar import PRIMITIVES
from graphc.types import DType, TensorType, as_dtype, int64

_TOKEN = re.compile(
    r"\s*(?:#[^\n]*\s*)*(?P<token>%[\w.]+|\.\.\.|\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+|\d+|[A-Za-z_][\w.]*|\+=|//|[-+*%(){}\[\],:=<.])"
)
_ROLES = ("input", "parameter", "output", "constant", "arena")


def parse_kernel(text: str) -> Kernel:
    """The kernel that a text shows.

    Raises:
        ParseError: names the line and what was expected there.
    """
    parser = _Parser(text)
    kernel = parser.kernel()
    parser.end()
    return kernel


def parse_program(text: str, constants: Mapping[str, Any] | None = None) -> LoopProgram:
    """The program that a text shows; ``constants`` gives the data of constants that the printer elided.

    Raises:
        ParseError: also where elided data is not given.
    """
    parser = _Parser(text)
    program = parser.program(constants or {})
    parser.end()
    return program


class _Parser:
    """Recursive descent over tokens (blocks on an explicit stack, so depth is not limited)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, int]] = []
        at = 0
        while match := _TOKEN.match(text, at):
            self.tokens.append((match["token"], match.start("token")))
            at = match.end()
        self.at = 0
        rest = re.sub(r"#[^\n]*", "", text[at:]).strip()
        if rest:
            self.tokens.append((rest[0], text.index(rest[0], at)))
            self.at = len(self.tokens) - 1
            self.fail("a token")
        self.vars: dict[str, Var] = {}
        self.dtypes: dict[str, DType] = {}
        self.extents: dict[str, int] = {}
        self.buffers: dict[str, DType] = {}
        self.combiners: dict[str, tuple[str, DType]] = {}

    # --- tokens ----------------------------------------------------------------------------------------------------

    def fail(self, expected: str) -> NoReturn:
        token, at = self.tokens[self.at] if self.at < len(self.tokens) else ("the end of the text", len(self.text))
        line = self.text.count("\n", 0, at) + 1
        shown = self.text.split("\n")[line - 1].strip()
        raise ParseError(f"line {line}: expected {expected}, got {token}", notes=(shown,))

    @property
    def peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def next(self) -> str:
        if self.at >= len(self.tokens):
            self.fail("more text")
        self.at += 1
        return self.tokens[self.at - 1][0]

    def expect(self, token: str) -> None:
        if self.peek != token:
            self.fail(repr(token))
        self.at += 1

    def accept(self, token: str) -> bool:
        if self.peek == token:
            self.at += 1
            return True
        return False

    def end(self) -> None:
        if self.at < len(self.tokens):
            self.fail("the end of the text")

    def integer(self) -> int:
        sign = -1 if self.accept("-") else 1
        if not self.peek.isdigit():
            self.fail("an integer")
        return sign * int(self.next())

    def word(self) -> str:
        if not re.fullmatch(r"[A-Za-z_][\w.]*", self.peek):
            self.fail("a name")
        return self.next()

    def value_name(self) -> str:
        if not self.peek.startswith("%") or len(self.peek) < 2:
            self.fail("a value such as %0")
        return self.next()[1:]

    def dtype(self) -> DType:
        if self.peek not in ("bool", "i32", "i64", "u32", "f32", "f64"):
            self.fail("a dtype")
        return as_dtype(self.next())

    def type(self) -> TensorType:
        dtype = self.dtype()
        shape: list[int] = []
        if self.accept("["):
            while not self.accept("]"):
                shape.append(self.integer())
                self.accept(",")
        return TensorType(dtype, tuple(shape))

    # --- expressions -----------------------------------------------------------------------------------------------

    def index(self) -> Index:
        total = Index()
        sign = -1 if self.accept("-") else 1
        while True:
            total = total + self.term() * sign
            if self.accept("+"):
                sign = 1
            elif self.accept("-"):
                sign = -1
            else:
                return total

    def term(self) -> Index:
        if self.peek.isdigit():
            number = self.integer()
            return self.atom() * number if self.accept("*") else Index.of(number)
        return self.atom()

    def atom(self) -> Index:
        if self.accept("("):
            base = self.index()
            self.expect(")")
            if self.accept("//"):
                return Index.of(FloorDiv(base, self.integer()))
            if re.fullmatch(r"%\d+", self.peek):  # written without a space, the remainder reads like a value's name
                return Index.of(Mod(base, int(self.next()[1:])))
            self.expect("%")
            return Index.of(Mod(base, self.integer()))
        if self.peek.startswith("%"):
            if self.peek[1:] not in self.extents:
                self.fail("a guarded value")
            name = self.value_name()
            return Index.of(Value(name, self.extents[name]))
        if self.peek not in self.vars:
            self.fail("a loop variable in scope")
        return Index.of(self.vars[self.next()])

    def indices(self) -> tuple[Index, ...]:
        self.expect("[")
        result: list[Index] = []
        while not self.accept("]"):
            result.append(self.index())
            self.accept(",")
        return tuple(result)

    def bounds(self) -> tuple[Bound, ...]:
        result: list[Bound] = []
        while True:
            index = self.index()
            self.expect("<")
            result.append(Bound(index, self.integer()))
            if not self.accept(","):
                return tuple(result)

    def literal(self) -> Lit:
        sign = -1 if self.accept("-") else 1
        token = self.next()
        self.expect(":")
        dtype = self.dtype()
        if dtype.kind == "bool":
            return Lit(token == "true", dtype)
        return Lit(sign * (float(token) if dtype.is_float else int(token)), dtype)

    def operand(self) -> Operand:
        if self.peek.startswith("%"):
            if self.peek[1:] not in self.dtypes:
                self.fail("a value that is defined")
            return self.value_name()
        return self.literal()

    def dtype_of(self, operand: Operand) -> DType:
        return operand.dtype if isinstance(operand, Lit) else self.dtypes[operand]

    # --- statements ------------------------------------------------------------------------------------------------

    def block(self) -> tuple[Stmt, ...]:
        """The statements up to the closing brace; nested blocks are kept on a stack."""
        self.expect("{")
        stack: list[tuple[Any, list[Stmt], Var | None]] = [(None, [], None)]
        while True:
            if self.accept("}"):
                head, body, outer = stack.pop()
                if head is None:
                    return tuple(body)
                if isinstance(head, For):
                    self.vars.pop(head.var.name)
                    if outer is not None:
                        self.vars[outer.name] = outer
                    done: Stmt = For(head.var, head.kind, tuple(body))
                else:
                    done = If(head.bounds, tuple(body))
                stack[-1][1].append(done)
            elif self.accept("for"):
                stack.append(self.loop_head())
            elif self.accept("if"):
                head = If(self.bounds(), ())
                self.expect("{")
                stack.append((head, [], None))
            else:
                stack[-1][1].append(self.statement())

    def loop_head(self) -> tuple[For, list[Stmt], Var | None]:
        name = self.word()
        if self.word() != "in":
            self.at -= 1
            self.fail("'in'")
        var = Var(name, self.integer())
        kind: LoopKind = "serial"
        if self.peek in get_args(LoopKind):
            kind = self.next()  # type: ignore[assignment]
        self.expect("{")
        outer = self.vars.get(name)
        self.vars[name] = var
        return For(var, kind, ()), [], outer

    def statement(self) -> Stmt:
        if self.accept("store"):
            return self.store()
        if self.accept("barrier"):
            return Barrier()
        if self.accept("alloc"):
            space = self.word()
            name = self.word()
            self.expect(":")
            buffer = Buffer(name, self.type(), "inout", space)  # type: ignore[arg-type]
            self.buffers[name] = buffer.dtype
            return Alloc(buffer)
        if self.accept("acc"):
            name = self.value_name()
            self.expect(":")
            dtype = self.dtype()
            self.expect("=")
            self.combiners[name] = (self.combiner(), dtype)
            return Accumulator(name, self.combiners[name][0], dtype)
        name = self.value_name()
        if self.peek in COMBINERS:
            if name not in self.combiners or self.peek != self.combiners[name][0]:
                self.fail(f"the combiner of %{name}")
            self.next()
            self.expect("=")
            return Accumulate(name, self.operand())
        self.expect("=")
        stmt = self.definition(name)
        self.dtypes[name] = stmt.dtype
        return stmt

    def combiner(self) -> str:
        if self.peek not in COMBINERS:
            self.fail("a combiner")
        return self.next()

    def store(self) -> Store:
        buffer, index = self.buffer(), self.indices()
        mode = "add" if self.accept("+=") else "set"
        if mode == "set":
            self.expect("=")
        value = self.operand()
        if mode == "set" and self.accept("streamed"):
            mode = "stream"
        bounds = self.bounds() if self.accept("if") else ()
        return Store(buffer, index, value, mode, bounds)  # type: ignore[arg-type]

    def buffer(self) -> str:
        if self.peek not in self.buffers:
            self.fail("a buffer")
        return self.next()

    def definition(self, name: str) -> Let | Load | IndexValue | Guard | ReadAccumulator:
        head = self.word()
        match head:
            case "load":
                buffer, index = self.buffer(), self.indices()
                bounds = self.bounds() if self.accept("if") else ()
                other = None
                if bounds:
                    self.expect("else")
                    other = None if self.accept("none") else self.literal()
                return Load(name, buffer, index, self.buffers[buffer], bounds, other)
            case "index":
                return IndexValue(name, self.index(), int64)
            case "value":
                accumulator = self.value_name()
                if accumulator not in self.combiners:
                    self.fail("an accumulator")
                return ReadAccumulator(name, accumulator, self.combiners[accumulator][1])
            case "guard":
                value = self.operand()
                self.expect("<")
                extent = self.integer()
                if self.word() != "site":
                    self.fail("'site'")
                self.extents[name] = extent
                return Guard(name, value, self.dtype_of(value), extent, self.integer(), int64)
        if head not in PRIMITIVES:
            self.at -= 1
            self.fail("a primitive")
        return self.let(name, head)

    def let(self, name: str, primitive: str) -> Let:
        self.expect("(")
        args: list[Operand] = []
        while not self.accept(")"):
            args.append(self.operand())
            self.accept(",")
        row = PRIMITIVES[primitive]
        if len(args) != row.arity and primitive != "cast":
            self.fail(f"{row.arity} operands of {primitive}")
        if self.accept("as"):
            return Let(name, primitive, tuple(args), self.dtype())
        return Let(name, primitive, tuple(args), row.result(*map(self.dtype_of, args)))

    # --- kernels and programs --------------------------------------------------------------------------------------

    def kernel(self) -> Kernel:
        self.expect("kernel")
        name = self.word()
        self.vars, self.dtypes, self.extents, self.buffers, self.combiners = {}, {}, {}, {}, {}
        self.expect("(")
        params: list[Buffer] = []
        while not self.accept(")"):
            access = self.word()
            if access not in ("in", "out", "inout"):
                self.fail("in, out or inout")
            buffer = self.word()
            self.expect(":")
            params.append(Buffer(buffer, self.type(), access))  # type: ignore[arg-type]
            self.buffers[buffer] = params[-1].dtype
            self.accept(",")
        return Kernel(name, tuple(params), self.block())

    def program(self, constants: Mapping[str, Any]) -> LoopProgram:
        self.expect("program")
        name = self.word()
        self.expect("arena")
        arena = self.integer()
        self.expect("{")
        slots: dict[str, BufferSlot] = {}
        while self.peek in _ROLES:
            slot = self.slot(constants)
            slots[slot.name] = slot
        kernels: dict[str, Kernel] = {}
        while self.peek == "kernel":
            kernel = self.kernel()
            kernels[kernel.name] = kernel
        launches: list[Launch] = []
        while self.accept("launch"):
            target = self.word()
            self.expect("(")
            buffers: list[str] = []
            offsets: list[int] = []
            while not self.accept(")"):
                buffers.append(self.word())
                offsets.append(self.integer() if self.accept("+") else 0)
                self.accept(",")
            site = self.integer() if self.accept("site") else 0
            shape = kernels[target].params if target in kernels else ()
            whole = not any(offsets) and all(
                b in slots and slots[b].type.nbytes == p.type.nbytes for b, p in zip(buffers, shape, strict=False)
            )
            launches.append(Launch(target, tuple(buffers), site, offsets=() if whole else tuple(offsets)))
        self.expect("}")
        return LoopProgram(name, slots, kernels, tuple(launches), arena)

    def slot(self, constants: Mapping[str, Any]) -> BufferSlot:
        role: Any = self.word()
        name = self.word()
        self.expect(":")
        type_ = self.type()
        if role == "arena":
            self.expect("at")
            return BufferSlot(name, type_, role, self.integer())
        if role != "constant":
            return BufferSlot(name, type_, role)
        self.expect("=")
        if self.accept("..."):
            if name not in constants:
                self.fail(f"the data of {name} (give it in constants=)")
            return BufferSlot(name, type_, role, data=np.asarray(constants[name], type_.dtype.numpy))
        self.expect("{")
        values: list[Any] = []
        while not self.accept("}"):
            sign = -1 if self.accept("-") else 1
            token = self.next()
            values.append(token == "true" if type_.dtype.kind == "bool" else _number(token, sign, type_.dtype))
            self.accept(",")
        return BufferSlot(name, type_, role, data=np.array(values, type_.dtype.numpy).reshape(type_.static_shape))


def _number(token: str, sign: int, dtype: DType) -> float | int:
    return sign * (float(token) if dtype.is_float else int(token))

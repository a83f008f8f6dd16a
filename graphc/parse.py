"""The parser of the graph's text form: text in, :class:`Graph` out, with a caret under whatever is wrong.

Grammar (one statement a line; ``#`` begins a comment, and ``# file:line`` is the statement's source)::

    graph    = "graph" name "(" [param {"," param}] ")" "{" {node} {update} return "}"
    param    = ["parameter" | "state"] value ":" type [string]    a state is a parameter that is not trainable;
                                                                  the string is its name where it is no identifier
    node     = value ":" type "=" op "(" [value {"," value}] ")" ["{" key "=" attr {"," key "=" attr} "}"] ["as" string]
             | value ":" type "=" "constant" (number | list | "base64" string)
    update   = "update" value "=" value
    return   = "return" [name "=" value {"," name "=" value}]
    type     = dtype "[" [dim {"," dim}] "]"        f32[4*batch+2,784]
    attr     = int | float | True | False | None | string | dtype | type | dim | "<" dim ">" | "(" {attr ","} ")"

Invariant: the result is well typed: every node is checked against its op's type rule. Parsing is iterative and linear.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

import graphc.ops  # noqa: F401  fills the registry
from graphc.errors import GraphError, ParseError, TypeRuleError
from graphc.ir import REGISTRY, Graph, Node
from graphc.provenance import Origin, Source
from graphc.types import DTYPES, Dim, DType, SymDim, TensorType
from graphc.variables import Variable

PARSED = Origin("parse")
RESERVED = frozenset({"True", "False", "None", "nan", "inf", *(d.short for d in DTYPES)})
_DTYPE = {d.short: d for d in DTYPES}
_TOKEN = re.compile(
    r"\s*(?:(?P<value>%[\w./]+)|(?P<number>\d+(?:\.\d*(?:[eE][+-]?\d+)?|[eE][+-]?\d+)?)|(?P<name>[^\W\d]\w*)"
    r'|(?P<string>"(?:[^"\\]|\\.)*")|(?P<sign>[(){}\[\],:=<>+*&@-])|(?P<comment>\#.*)|(?P<wrong>\S))'
)
_SOURCE = re.compile(r"#\s*(?P<file>.+?):(?P<line>\d+)(?:\s+in\s+(?P<scope>\S+))?\s*$")


def parse_graph(text: str, variables: Mapping[str, Variable] | None = None) -> Graph:
    """The graph that a text stands for.

    Args:
        text: as :func:`graphc.text.print_graph` writes it.
        variables: state to bind parameters to, by name; others are made anew, with zeros.

    Raises:
        ParseError: with line, column and a caret.

    >>> print(parse_graph("graph f(%x: f32[n]) {\\n return y = %x\\n}"))
    <Graph f: 1 inputs, 1 nodes, 1 outputs>
    """
    return _Parser(text, dict(variables or {})).graphs()


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    column: int


class _Line:
    """The tokens of one line and a position in them."""

    __slots__ = ("at", "comment", "number", "text", "tokens")

    def __init__(self, text: str, number: int) -> None:
        self.text, self.number, self.at = text, number, 0
        self.comment = ""
        self.tokens: list[_Token] = []
        for found in _TOKEN.finditer(text):
            kind = found.lastgroup
            if kind == "comment":
                self.comment = found["comment"]
            elif kind is not None:
                self.tokens.append(_Token(kind, found[kind], found.start(kind)))

    def peek(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at].text if at < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at].kind if self.at < len(self.tokens) else ""

    def take(self, kind: str = "", what: str = "") -> str:
        if self.at >= len(self.tokens) or (kind and self.tokens[self.at].kind != kind):
            self.fail(f"expected {what or kind}")
        self.at += 1
        return self.tokens[self.at - 1].text

    def accept(self, text: str) -> bool:
        found = self.peek() == text and self.kind() != "string"
        self.at += found
        return found

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.fail(f"expected {text!r}")

    def fail(self, message: str, *, back: int = 0, help: str | None = None) -> NoReturn:
        at = self.at - back
        column = self.tokens[at].column if 0 <= at < len(self.tokens) else len(self.text.rstrip())
        got = "" if back or not message.startswith("expected") else f", got {self.peek() or 'the end of the line'}"
        # long lines (embedded data) are shown around the caret only
        begin = max(0, column - 60)
        shown = self.text[begin : column + 60].rstrip("\n")
        raise ParseError(
            f"line {self.number}, column {column + 1}: {message}{got}\n  {shown}\n  {' ' * (column - begin)}^",
            help=help,
        )


def _zeros(shape: tuple[int, ...], dtype: DType, name: str) -> np.ndarray:
    return np.zeros(shape, dtype.numpy)


class _Parser:
    def __init__(self, text: str, variables: dict[str, Variable]) -> None:
        lines = (_Line(line, i) for i, line in enumerate(text.splitlines(), 1))
        self.lines = [line for line in lines if line.tokens]
        self.end = _Line("", text.count("\n") + 1)
        self.position = 0
        self.values: dict[str, Node] = {}
        self.variables = variables
        self.made: dict[str, Variable] = {}
        self.bodies: dict[str, Graph] = {}

    def next(self) -> _Line:
        if self.position >= len(self.lines):
            self.end.fail("the graph is not closed: expected '}'")
        self.position += 1
        return self.lines[self.position - 1]

    def graphs(self) -> Graph:
        """The last graph; those before it are bodies of its loops."""
        found = self.graph()
        while self.position < len(self.lines) and self.lines[self.position].peek() == "graph":
            if found.name in self.bodies:
                self.lines[self.position].fail(f"two graphs are named {found.name!r}")
            self.bodies[found.name] = found
            self.values = {}
            found = self.graph()
        if self.position < len(self.lines):
            self.lines[self.position].fail("nothing may follow the graph")
        return found

    def graph(self) -> Graph:
        line = self.next()
        line.expect("graph")
        name = self.name(line)
        line.expect("(")
        inputs: list[Node] = []
        while not line.accept(")"):
            node = self.param(line)
            if node.op.name == "input":
                inputs.append(node)
            if line.peek() != ")":
                line.expect(",")
            while not line.peek():
                line = self.next()
        line.expect("{")
        self.done(line)
        updates: dict[Node, Node] = {}
        while (line := self.next()).kind() == "value":
            self.node(line)
        while line.accept("update"):
            target = self.use(line)
            if target.op.name != "parameter":
                line.fail("only a parameter can be updated", back=1)
            line.expect("=")
            updates[target] = self.use(line)
            self.done(line)
            line = self.next()
        outputs = self.returned(line)
        line = self.next()
        line.expect("}")
        self.done(line)
        try:
            return Graph(name, outputs, updates, tuple(inputs))
        except GraphError as error:
            raise ParseError(f"line 1: {error.message}", help=error.help) from error

    def returned(self, line: _Line) -> dict[str, Node]:
        if not line.accept("return"):
            line.fail("expected a value, 'update' or 'return'")
        outputs: dict[str, Node] = {}
        while line.peek():
            name = self.name(line)
            if name in outputs:
                line.fail(f"two outputs are named {name!r}", back=1)
            line.expect("=")
            outputs[name] = self.use(line)
            if line.peek():
                line.expect(",")
        return outputs

    def done(self, line: _Line) -> None:
        if line.peek():
            line.fail("expected the end of the line")

    def name(self, line: _Line) -> str:
        if line.kind() == "string":
            return self.string(line)
        return line.take("name", "a name")

    def string(self, line: _Line) -> str:
        try:
            return str(json.loads(line.take("string", "a string")))
        except json.JSONDecodeError:
            line.fail("the string has a wrong escape", back=1)

    def use(self, line: _Line) -> Node:
        name = line.take("value", "a value such as %0")
        node = self.values.get(name)
        if node is None:
            line.fail(f"{name} is used before its definition", back=1)
        return node

    def define(self, line: _Line) -> str:
        name = line.take("value", "a value such as %0")
        if name in self.values:
            line.fail(f"{name} is defined twice", back=1)
        line.expect(":")
        return name

    def param(self, line: _Line) -> Node:
        role = line.take() if line.kind() == "name" else "input"
        if role not in ("input", "parameter", "state"):
            line.fail("a graph's arguments are inputs, 'parameter's and 'state's", back=1)
        value = self.define(line)
        type_ = self.type(line)
        name = self.string(line) if line.kind() == "string" else value[1:]
        if role == "input":
            node = Node(REGISTRY["input"], (), {"name": name, "type": type_}, type_, name=name, origins=(PARSED,))
        else:
            state = self.variable(line, name, type_, role == "parameter")
            node = Node(REGISTRY["parameter"], (), {"variable": state}, type_, name=name, origins=(PARSED,))
        self.values[value] = node
        return node

    def variable(self, line: _Line, name: str, type_: TensorType, trainable: bool) -> Variable:
        known = self.variables.get(name) or self.made.get(name)
        if known is None:
            if not type_.is_static:
                line.fail(f"parameter {name} has a symbolic size", back=1)
            known = self.made[name] = Variable(name, type_, _zeros, trainable)
        if known.type != type_:
            line.fail(f"parameter {name} is {known.type}, not {type_}", back=1)
        return known

    def node(self, line: _Line) -> None:
        value = self.define(line)
        type_ = self.type(line)
        line.expect("=")
        op_at = line.at
        op_name = line.take("name", "an op")
        try:
            op = REGISTRY.find(op_name)
        except GraphError as error:
            line.fail(error.message, back=1, help=error.help)
        if op_name in ("input", "parameter"):
            line.fail(f"{op_name}s are declared in the graph's header", back=1)
        inputs: list[Node] = []
        attrs: dict[str, Any] = {}
        if op_name == "constant":
            attrs["value"] = self.array(line, type_)
        else:
            line.expect("(")
            while not line.accept(")"):
                inputs.append(self.use(line))
                if line.peek() != ")":
                    line.expect(",")
            if line.accept("{"):
                attrs = self.attributes(line)
        label = self.string(line) if line.accept("as") else ""
        self.done(line)
        try:
            inferred = op.infer(tuple(i.type for i in inputs), **attrs)
        except (TypeRuleError, TypeError, IndexError, KeyError) as error:
            line.at = op_at
            line.fail(getattr(error, "message", f"{op_name}: {error}"), help=getattr(error, "help", None))
        if inferred != type_:
            line.at = 2
            line.fail(f"{op_name} gives {inferred}, but {type_} is written")
        self.values[value] = Node(
            op, tuple(inputs), attrs, type_, name=label, source=self.source(line), origins=(PARSED,)
        )  # fmt: skip

    def source(self, line: _Line) -> Source | None:
        found = _SOURCE.match(line.comment) if line.comment else None
        if found is None:
            return None
        scope = tuple(found["scope"].split("/")) if found["scope"] else ()
        return Source(found["file"], int(found["line"]), scope)

    def attributes(self, line: _Line) -> dict[str, Any]:
        attrs: dict[str, Any] = {}
        while not line.accept("}"):
            key = line.take("name", "an attribute's name")
            line.expect("=")
            attrs[key] = self.attr(line)
            if line.peek() != "}":
                line.expect(",")
        return attrs

    # --- types and attribute values ---

    def dtype(self, line: _Line) -> DType:
        text = line.take("name", "a dtype")
        if text not in _DTYPE:
            line.fail(f"{text} is no dtype", back=1, help=f"one of {', '.join(_DTYPE)}")
        return _DTYPE[text]

    def type(self, line: _Line) -> TensorType:
        dtype = self.dtype(line)
        line.expect("[")
        shape: list[Dim] = []
        while not line.accept("]"):
            at = line.at
            size = self.dim(line)
            if isinstance(size, int) and size < 0:
                line.at = at
                line.fail(f"a dimension cannot be negative, got {size}")
            shape.append(size)
            if line.peek() != "]":
                line.expect(",")
        return TensorType(dtype, tuple(shape))

    def dim(self, line: _Line) -> Dim:
        total: Dim = 0
        sign = -1 if line.accept("-") else 1
        while True:
            term: Dim = sign
            while True:
                if line.kind() == "name":
                    term = SymDim((((line.take(),), 1),)) * term
                else:
                    text = line.take("number", "a size")
                    if not text.isdigit():
                        line.fail("a size is a whole number", back=1)
                    term = term * int(text)
                if not line.accept("*"):
                    break
            total = term + total
            if line.accept("+"):
                sign = -1 if line.accept("-") else 1
            elif line.accept("-"):
                sign = -1
            else:
                return total

    def attr(self, line: _Line) -> Any:
        kind, text = line.kind(), line.peek()
        if kind == "string":
            return self.string(line)
        if line.accept("("):
            items = []
            while not line.accept(")"):
                items.append(self.attr(line))
                if line.peek() != ")":
                    line.expect(",")
            return tuple(items)
        if line.accept("&"):
            line.fail(f"the function {line.peek()} is Python code, which text does not hold", help="expand first")
        if line.accept("@"):
            name = self.name(line)
            if name not in self.bodies:
                line.fail(f"no graph {name!r} stands above", back=1)
            return self.bodies[name]
        if line.accept("<"):
            size = self.dim(line)
            line.expect(">")
            return size
        if text in ("True", "False", "None"):
            line.take()
            return {"True": True, "False": False, "None": None}[text]
        if kind == "name" and text in _DTYPE:
            return self.type(line) if line.peek(1) == "[" else self.dtype(line)
        after = line.peek(1) if text == "-" else text
        if after in ("nan", "inf") or (re.search(r"[.eE]", after) and after[0].isdigit()):
            return self.number(line)
        if kind in ("number", "name") or text == "-":
            return self.dim(line)
        line.fail("expected an attribute's value")

    def number(self, line: _Line) -> float | int | bool:
        sign = -1 if line.accept("-") else 1
        text = line.take()
        if text in ("True", "False"):
            return text == "True"
        if text.isdigit():
            return sign * int(text)
        try:
            return sign * float(text)
        except ValueError:
            line.fail("expected a number", back=1)

    def array(self, line: _Line, type_: TensorType) -> np.ndarray:
        if not type_.is_static:
            line.fail("a constant has a static shape")
        dtype, shape, start = type_.dtype.numpy, type_.static_shape, line.at
        if line.accept("base64"):
            try:
                data = zlib.decompress(base64.b64decode(self.string(line), validate=True))
            except (binascii.Error, zlib.error):
                line.fail("the data is damaged", back=1)
            if len(data) != type_.nbytes:
                line.fail(f"{type_} takes {type_.nbytes} bytes, here are {len(data)}", back=1)
            flat = np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype)
        else:
            numbers: list[float | int | bool] = []
            depth = 0
            while True:
                if line.accept("["):
                    depth += 1
                elif line.accept("]"):
                    depth -= 1
                    line.accept(",")
                else:
                    numbers.append(self.number(line))
                    line.accept(",")
                if depth <= 0:
                    break
            if len(numbers) != type_.size:
                line.at = start
                line.fail(f"{type_} holds {type_.size} numbers, here are {len(numbers)}")
            try:
                with np.errstate(over="ignore"):
                    flat = np.array(numbers, dtype)
            except OverflowError:
                line.at = start
                line.fail(f"a number does not fit {type_.dtype}")
        array = flat.reshape(shape)
        array.setflags(write=False)
        return array

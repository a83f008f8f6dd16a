"""The text form of a graph: typed SSA, one node a line, and back (see :mod:`graphc.parse` for the grammar).

What enters: a :class:`Graph`. What leaves: text that :func:`parse_graph` turns into a structurally identical graph::

    graph loss(%x: f32[batch,784], parameter %w: f32[784,10] "classifier/w") {
      %0: f32[batch,10] = matmul(%x, %w) {transpose_a=False, transpose_b=False}    # train.py:12 in classifier
      %1: f32[] = sum(%0) {axes=(0, 1)}                                            # train.py:13
      update %w = %w
      return loss = %1
    }

Invariant: values are numbered in topological order, inputs and parameters bear the user's names, and nothing depends on
memory addresses: equal graphs give equal text. Printing is iterative and linear.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from graphc.ir import Graph, Node, attrs_key
from graphc.parse import RESERVED, parse_graph
from graphc.types import DType, SymDim, TensorType

__all__ = ["format_attr", "print_graph", "print_node", "same_structure", "value_names", "parse_graph"]  # noqa: RUF022

INLINE = 16  # constants up to this many elements are written as numbers
_NAME = re.compile(r"[^\W\d]\w*")
_COMMENT_COLUMN = 56


def print_graph(graph: Graph, *, sources: bool = True) -> str:
    """The graph as text; ``sources=False`` leaves the users' lines out.

    >>> from graphc.ops.sources import input
    >>> x = input("x", ("n",)); print(print_graph(Graph("f", {"y": x}), sources=False))
    graph f(%x: f32[n]) {
      return y = %x
    }
    """
    bodies = body_names(graph)
    texts = [_print_one(body, name, bodies, sources) for body, name in bodies.items()]
    return "\n\n".join([*texts, _print_one(graph, graph.name, bodies, sources)])


def body_names(graph: Graph) -> dict[Graph, str]:
    """The graphs inside of a graph's nodes (bodies of loops) and their names in the text, inner ones first."""
    found: dict[Graph, None] = {}
    pending = [graph]
    while pending:
        inner = [v for node in pending.pop().nodes for v in node.attrs.values() if isinstance(v, Graph)]
        for body in inner:
            found.pop(body, None)
            found[body] = None
        pending += inner
    order = list(reversed(found))
    return {body: f"{re.sub(r'_[0-9]+$', '', body.name)}_{k}" for k, body in enumerate(order)}


def _print_one(graph: Graph, name: str, bodies: Mapping[Graph, str], sources: bool) -> str:
    names = value_names(graph)
    lines = [f"graph {_name(name)}({_params(graph, names)}) {{"]
    for node in graph.nodes:
        if node.op.name not in ("input", "parameter"):
            lines.append("  " + print_node(node, names, sources=sources, bodies=bodies))
    lines += [f"  update {names[state]} = {names[new]}" for state, new in graph.updates.items()]
    returned = ", ".join(f"{_name(key)} = {names[node]}" for key, node in graph.outputs.items())
    lines += [f"  return {returned}".rstrip(), "}"]
    return "\n".join(lines)


def value_names(graph: Graph) -> dict[Node, str]:
    """Node -> its name in the text: the user's for inputs and parameters, ``%0``, ``%1``, ... for the others."""
    names: dict[Node, str] = {}
    taken: dict[str, int] = {}
    count = 0
    for node in (*graph.inputs, *graph.parameters, *graph.nodes):
        if node in names:
            continue
        if node.op.name not in ("input", "parameter"):
            names[node] = f"%{count}"
            count += 1
            continue
        base = re.sub(r"[^\w/.]", "_", node.name) or "_"
        base = f"_{base}" if base[0].isdigit() else base
        while base in taken:  # an input and a parameter, or two reads of one parameter
            taken[base] += 1
            base = f"{base}.{taken[base]}"
        taken[base] = 0
        names[node] = f"%{base}"
    return names


def print_node(
    node: Node, names: Mapping[Node, str], *, sources: bool = True, bodies: Mapping[Graph, str] | None = None
) -> str:
    """One line: name, type, op, operands, attributes, the user's name and the source."""
    if node.op.name == "constant":
        body = f"constant {_array(node.attrs['value'])}"
    else:
        operands = (names.get(i, "%?") if isinstance(i, Node) else f"!{type(i).__name__}" for i in node.inputs)
        body = f"{node.op.name}({', '.join(operands)})"
        if node.attrs:
            body += f" {{{', '.join(f'{k}={format_attr(v, bodies)}' for k, v in node.attrs.items())}}}"
    label = f" as {json.dumps(node.name)}" if node.name else ""
    text = f"{names.get(node, '%?')}: {node.type} = {body}{label}"
    if not sources or node.source is None:
        return text
    scope = f" in {'/'.join(node.source.scope)}" if node.source.scope else ""
    return f"{text:<{_COMMENT_COLUMN}}  # {node.source.short}{scope}"


def _params(graph: Graph, names: Mapping[Node, str]) -> str:
    parts = []
    for node in (*graph.inputs, *graph.parameters):
        role = ""
        if node.op.name == "parameter":
            role = "parameter " if node.attrs["variable"].trainable else "state "
        own = f" {json.dumps(node.name)}" if names[node] != f"%{node.name}" else ""
        parts.append(f"{role}{names[node]}: {node.type}{own}")
    if sum(len(p) for p in parts) <= 100:
        return ", ".join(parts)
    return "\n    " + ",\n    ".join(parts) + "\n  "


def _name(text: str) -> str:
    return text if _NAME.fullmatch(text) else json.dumps(text)


def format_attr(value: Any, bodies: Mapping[Graph, str] | None = None) -> str:
    """An attribute's value as the text form writes it; ``bodies`` names the graphs that were written before.

    >>> format_attr((0, 1)), format_attr("ij,jk"), format_attr(-0.0)
    ('(0, 1)', '"ij,jk"', '-0.0')
    """
    match value:
        case bool() | None:
            return str(value)
        case str():
            return json.dumps(value)
        case int() | np.integer():
            return str(int(value))
        case float() | np.floating():
            return repr(float(value))
        case SymDim():
            return f"<{value}>" if value.names & RESERVED else str(value)
        case DType() | TensorType():
            return str(value)
        case tuple():
            return f"({', '.join(format_attr(v) for v in value)}{',' if len(value) == 1 else ''})"
        case Graph():
            return f"@{_name((bodies or {}).get(value, value.name))}"
        case _:
            # a function of the user's; whatever else ends here the verifier reports
            return f"&{getattr(value, '__name__', type(value).__name__)}"


def _array(value: np.ndarray) -> str:
    if value.size <= INLINE:
        numbers = [_number(v) for v in value.ravel()]
        if None not in numbers:
            return _nested(iter(n for n in numbers if n is not None), value.shape)
    data = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
    return f'base64 "{base64.b64encode(zlib.compress(data, 6)).decode()}"'


def _nested(numbers: Any, shape: tuple[int, ...]) -> str:
    if not shape:
        return str(next(numbers))
    return f"[{', '.join(_nested(numbers, shape[1:]) for _ in range(shape[0]))}]"


def _number(value: np.generic) -> str | None:
    """The shortest text that reads back to the same bits, or None if none does (a NaN with a payload)."""
    if value.dtype.kind != "f":
        return str(value)
    for text in (str(value), repr(float(value))):
        back = value.dtype.type(float(text))
        if back.tobytes() == value.tobytes():
            return text if re.search(r"[.einf]", text) else f"{text}.0"
    return None


def same_structure(a: Graph, b: Graph) -> bool:
    """Whether two graphs are the same up to node identity, sources and origins (variables compare by name and type)."""
    names_a, names_b = value_names(a), value_names(b)
    if a.name != b.name or len(names_a) != len(names_b):
        return False
    if set(names_a.values()) != set(names_b.values()):
        return False
    by_name = {n: node for node, n in names_b.items()}
    if any(not _same_node(node, by_name[n], names_a, names_b) for node, n in names_a.items()):
        return False
    return _roots(a, names_a) == _roots(b, names_b)


def _roots(graph: Graph, names: Mapping[Node, str]) -> tuple[Any, ...]:
    def pairs(items: Iterable[tuple[str, Node]]) -> tuple[tuple[str, str], ...]:
        return tuple((k, names[n]) for k, n in items)

    return (
        pairs(graph.outputs.items()),
        pairs((names[k], v) for k, v in graph.updates.items()),
        tuple(names[n] for n in graph.inputs),
    )


def _same_node(a: Node, b: Node, names_a: Mapping[Node, str], names_b: Mapping[Node, str]) -> bool:
    if (a.op, a.type, a.name) != (b.op, b.type, b.name):
        return False
    if a.op.name == "parameter":
        return a.attrs["variable"].trainable == b.attrs["variable"].trainable
    operands = [names_a[i] for i in a.inputs] == [names_b[i] for i in b.inputs]
    inner_a, inner_b = ([v for v in n.attrs.values() if isinstance(v, Graph)] for n in (a, b))
    plain_a, plain_b = ({k: v for k, v in n.attrs.items() if not isinstance(v, Graph)} for n in (a, b))
    bodies = len(inner_a) == len(inner_b) and all(_same_body(x, y) for x, y in zip(inner_a, inner_b, strict=True))
    return operands and bodies and attrs_key(plain_a) == attrs_key(plain_b)


def _same_body(a: Graph, b: Graph) -> bool:
    """Bodies are named anew when they are written, so their names do not count (nesting is a few levels)."""
    return same_structure(a, Graph(a.name, b.outputs, b.updates, b.declared_inputs))


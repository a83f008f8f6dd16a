"""The structure of a graph as a key: equal keys mean that every pass does the same to both graphs.

What enters: a declared graph. What leaves: a digest of all that decides its machine code, and the variables it mentions, numbered.
Invariant: in the digest are ops, attributes, types, operands, names, the bytes of constants, the order in which nodes were built
(passes settle ties by age), and which nodes share a variable. Not in it are what programs read when they are called (the values of
variables) and what only leads back to the user (files, lines, scopes, origins): those are taken from the graph that is present.

A graph has no key where two equal texts could mean two things: it holds functions of the user's, or ops that graphc does not
declare itself.

>>> from graphc.ops import input
>>> def double() -> str:
...     x = input("x", ("n",))
...     return structure(Graph("f", {"y": x + x})).digest
>>> double() == double()
True
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.ir import REGISTRY, Graph, Node
from graphc.types import DType, SymDim, TensorType
from graphc.variables import Variable

__all__ = ["Structure", "structure"]


@dataclass(frozen=True)
class Structure:
    """The key of a graph.

    Attributes:
        digest: hexadecimal; "" where the graph has no key, and ``trouble`` says why.
        variables: those that the graph mentions, in the order of the key.
    """

    digest: str
    variables: tuple[Variable, ...] = ()
    trouble: str = ""


def structure(graph: Graph) -> Structure:
    """The key of ``graph``, in one sweep over its nodes."""
    writer = _Writer()
    try:
        digest = writer.graph(graph)
    except _Keyless as error:
        return Structure("", trouble=str(error))
    return Structure(digest, tuple(writer.variables))


class _Keyless(Exception):
    """The graph holds something whose text does not say what it means."""


@dataclass
class _Writer:
    variables: dict[Variable, int] = field(default_factory=dict)
    types: dict[TensorType, str] = field(default_factory=dict)
    known: dict[int, tuple[Any, str]] = field(default_factory=dict)  # by identity; holds the object, so that it stays its own

    def graph(self, graph: Graph) -> str:
        nodes = graph.nodes
        number = {node: n for n, node in enumerate(nodes)}
        lines = [self.node(node, number) for node in nodes]
        lines.append("inputs " + " ".join(str(number[n]) for n in graph.inputs))
        lines += [f"output {name!r} {number[node]}" for name, node in graph.outputs.items()]
        lines += [f"update {number[target]} {number[value]}" for target, value in graph.updates.items()]
        digest = hashlib.sha256("\n".join(lines).encode())
        digest.update(np.argsort(np.array([n.uid for n in nodes], np.int64)).astype("<i8").tobytes())
        return digest.hexdigest()

    def node(self, node: Node, number: Mapping[Node, int]) -> str:
        op = node.op
        if not REGISTRY.is_own(op):
            raise _Keyless(f"{op.name} is no op of graphc's own")
        operands = ",".join([str(number[i]) for i in node.inputs])
        attrs = "".join([f" {key}={self.value(value)}" for key, value in node.attrs.items()]) if node.attrs else ""
        return f"{op.name}({operands}){attrs}:{self.type(node.type)} {node.name!r}"

    def type(self, type_: TensorType) -> str:
        found = self.types.get(type_)
        if found is None:
            found = self.types[type_] = str(type_)
        return found

    def value(self, value: Any) -> str:
        """An attribute's value as text that says kind and value."""
        write = _PLAIN.get(type(value))
        if write is not None:
            return write(value)
        if isinstance(value, tuple):
            return f"({','.join([self.value(v) for v in value])})"
        if isinstance(value, Variable):
            place = self.variables.setdefault(value, len(self.variables))
            return f"v{place}{value.name!r}{self.type(value.type)}"
        if isinstance(value, np.ndarray):
            return f"a{value.dtype.str}{value.shape}{hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()}"
        if isinstance(value, Graph):  # the body of a loop; nesting is a few levels
            found = self.known.get(id(value))
            if found is None:
                found = self.known[id(value)] = (value, self.graph(value))
            return f"g{found[1]}"
        raise _Keyless(f"an attribute is {type(value).__name__}: what it does is not in its text")


_PLAIN: Mapping[type, Callable[[Any], str]] = {
    bool: lambda v: f"b{v:d}",
    int: lambda v: f"i{v}",
    float: lambda v: "f" + struct.pack("<d", v).hex(),  # tells -0.0 from 0.0, and nan from nan by bits
    str: lambda v: f"s{v!r}",
    type(None): lambda v: "n",
    DType: lambda v: f"d{v.name}",
    SymDim: lambda v: f"y{v}",
    TensorType: lambda v: f"t{v}",
}

"""The verifier: what must hold of every graph, checked in one linear sweep.

What enters: any Graph, also one that a pass broke. What leaves: nothing, or a :class:`VerifyError` that shows the
offender between its neighbours::

    %2: f32[4] = exp(%1) has the wrong type: exp gives f32[3]
          %0: f32[3] = neg(%x)
          %1: f32[3] = tanh(%0)
       >  %2: f32[4] = exp(%1)

Checked: operands are nodes that come before their users (no cycle, nothing foreign); types are what the op's rule
gives; attributes are values that hash and print; inputs and parameters agree with their declarations; names are unique;
updates go to parameters, once each, with their types.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

import graphc.ops  # noqa: F401  fills the registry
from graphc.errors import GraphcError, VerifyError
from graphc.ir import REGISTRY, Graph, Node, Op, attrs_key
from graphc.text import print_node, value_names
from graphc.types import DType, SymDim, TensorType
from graphc.variables import Variable


def verify(graph: Graph) -> None:
    """Check ``graph``; linear in nodes and edges.

    Raises:
        VerifyError: something does not hold; ``source`` is the user's line of the offending node.

    >>> from graphc.ops.sources import input
    >>> verify(Graph("f", {"y": input("x", (3,))}))
    """
    _Verifier(graph).run()


class _Verifier:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.inferred: dict[Any, TensorType] = {}

    def run(self) -> None:
        self.roots()
        seen: set[Node] = set()
        for node in self.graph.nodes:
            if not (node.checked and seen.issuperset(node.inputs)):  # nodes are immutable: what was right stays right
                self.operands(node, seen)
            if not node.checked:
                self.attributes(node)
                if not node.typed:
                    self.type(node)
                node.checked = True
            seen.add(node)
        self.names()
        self.updates()

    def roots(self) -> None:
        graph = self.graph
        for role, items in (("output", graph.outputs.items()), ("update", graph.updates.items())):
            for key, node in items:
                if not isinstance(node, Node):
                    raise VerifyError(f"{role} {key} of graph {graph.name} is {type(node).__name__}, not a Node")
        for name in graph.outputs:
            if not isinstance(name, str) or not name:
                raise VerifyError(f"an output of graph {graph.name} is named {name!r}", help="use a non-empty string")
        for node in graph.declared_inputs:
            if not isinstance(node, Node) or node.op.name != "input":
                raise VerifyError(f"graph {graph.name} declares {node!r} as an input, which it is not")

    def operands(self, node: Node, seen: set[Node]) -> None:
        if not isinstance(node.op, Op) or REGISTRY.get(node.op.name, node.op) is not node.op:
            self.fail(node, f"its op {node.op!r} is not the registered one")
        if not isinstance(node.inputs, tuple):
            self.fail(node, "its operands are no tuple")
        for i, operand in enumerate(node.inputs):
            if not isinstance(operand, Node):
                self.fail(node, f"operand {i} is {type(operand).__name__}, not a Node")
            if operand not in seen:
                self.fail(node, f"operand {i} is not defined before it (the graph has a cycle)")
        if not node.origins:
            self.fail(node, "it has no origin", help="build nodes inside provenance.deriving(...)")

    def attributes(self, node: Node) -> None:
        for key, value in node.attrs.items():
            if node.op.name == "constant" and key == "value":
                if not isinstance(value, np.ndarray) or value.flags.writeable:
                    self.fail(node, "its value is no read-only array", help="use graphc.constant")
            elif node.op.name == "parameter" and key == "variable":
                if not isinstance(value, Variable):
                    self.fail(node, f"its variable is {type(value).__name__}")
            elif isinstance(value, Graph):
                _Verifier(value).run()  # a loop's body; nesting is a few levels
            elif not _is_plain(value):
                self.fail(
                    node, f"attribute {key} is {type(value).__name__}, which does not hash and print",
                    help="use int, float, str, bool, None, dtypes, types, dimensions and tuples of them",
                )  # fmt: skip

    def type(self, node: Node) -> None:
        if not isinstance(node.type, TensorType):
            self.fail(node, f"its type is {type(node.type).__name__}")
        try:
            found = self.infer(node)
        except GraphcError as error:
            self.fail(node, error.message, help=error.help)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            self.fail(node, f"its type rule failed: {error}")
        if found != node.type:
            self.fail(node, f"it has the wrong type: {node.op.name} gives {found}")

    def infer(self, node: Node) -> TensorType:
        types = tuple([i.type for i in node.inputs])
        if not node.op.is_composite:
            return node.op.infer(types, **node.attrs)
        key = (node.op.name, types, attrs_key(node.attrs))  # a composite's rule builds its expansion: once a kind
        if key not in self.inferred:
            self.inferred[key] = node.op.infer(types, **node.attrs)
        return self.inferred[key]

    def names(self) -> None:
        taken: dict[str, Node] = {}
        for node in self.graph.inputs:
            if node.attrs["name"] != node.name:
                self.fail(node, f"it is named {node.name!r} but declared as {node.attrs['name']!r}")
            if taken.setdefault(node.name, node) is not node:
                self.fail(node, f"a second input is named {node.name!r}")
        states: dict[str, Variable] = {}
        for node in self.graph.parameters:
            state = node.attrs["variable"]
            if states.setdefault(state.name, state) is not state:
                self.fail(node, f"a second variable is named {state.name!r}")

    def updates(self) -> None:
        targets: set[Variable] = set()
        for target, new in self.graph.updates.items():
            if target.op.name != "parameter":
                self.fail(target, "it is updated but is no parameter")
            state = target.attrs["variable"]
            if state in targets:
                self.fail(target, f"variable {state.name} is updated twice")
            targets.add(state)
            if new.type != state.type:
                self.fail(new, f"it updates {state.name}, which is {state.type}, with {new.type}")

    def fail(self, node: Node, message: str, *, help: str | None = None) -> NoReturn:
        nodes = self.graph.nodes
        names = value_names(self.graph)
        at = next((i for i, n in enumerate(nodes) if n is node), 0)
        context = [
            ("> " if n is node else "  ") + print_node(n, names, sources=False)
            for n in nodes[max(0, at - 3) : at + 3]
            if n is node or n.op.name not in ("input", "parameter")
        ]
        notes = tuple(line if len(line) <= 160 else line[:157] + "..." for line in context)
        label = print_node(node, names, sources=False)
        label = label if len(label) <= 120 else label[:117] + "..."
        where = f" ({node.source.short})" if node.source is not None else ""
        raise VerifyError(f"{label}: {message}{where}", notes=notes, help=help)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(v) for v in value)
    if value is None or isinstance(value, (bool, int, float, str, DType, TensorType, SymDim)):
        return True
    # a function of the user's (graphc.custom): it hashes by identity and prints as its name
    return callable(value) and isinstance(getattr(value, "__name__", None), str)

"""The graph IR: typed SSA nodes over a registry of ops.

What enters: ops declared in :mod:`graphc.ops`, and the user's calls of them. What leaves: :class:`Graph`, an immutable
DAG with named inputs, named outputs and parameter updates. Invariants: a node's type is what its op's type rule says;
inputs exist before the node (a cycle cannot be built); nothing is broadcast implicitly; nodes compare by identity. ::

    graph loss(%x: f32[4,8], %w: f32[8,2]) {
      %0: f32[4,2] = matmul(%x, %w)        # train.py:12
      %1: f32[4,2] = log(%0)
      return %1
    }

All traversals are iterative and linear in nodes and edges.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc import provenance
from graphc.errors import DifferentiationError, GraphError, TypeRuleError
from graphc.notebook import Pictured
from graphc.provenance import Origin, Source
from graphc.types import DType, Shape, TensorType

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True, eq=False)
class Op:
    """One operation, declared in one place: everything graphc knows of it is a field here.

    Attributes:
        name: NumPy's or the Array API's name; unique in the registry.
        infer: type rule, ``infer(types, **attrs) -> TensorType``; raises a TypeRuleError that says what is wrong.
        reference: meaning, ``reference(*arrays, **attrs) -> array`` on NumPy arrays; the oracle of every target.
        derivative: a Derivative (data) from :mod:`graphc.ops.declare`, or None for a composite that only expands.
        lowering: how one element is computed from operands' elements (data), or None for a composite.
        expand: for composites, ``expand(*inputs, **attrs) -> Node`` in primitives.
        latex: formula with ``{0}``, ``{1}`` for the operands.
        symbol: short text for pictures ("×", "σ"); the name if empty.
        samples: test domain, see :class:`graphc.ops.declare.Samples`.
        module: where it is declared (filled in by the registry).
    """

    name: str
    infer: Callable[..., TensorType]
    reference: Callable[..., Any]
    derivative: Any = None
    lowering: Any = None
    expand: Callable[..., Node] | None = None
    latex: str = ""
    symbol: str = ""
    samples: Any = None
    doc: str = ""

    @property
    def is_composite(self) -> bool:
        return self.expand is not None

    @property
    def is_source(self) -> bool:
        """Whether it has a value without operands that came from outside (input, parameter, constant)."""
        return self.name in ("input", "parameter", "constant")

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __call__(self, *inputs: Node, **attrs: Any) -> Node:
        """Build a node of this op; operands must already have the exact types that the rule wants."""
        return make(self, inputs, attrs)


_ids = itertools.count()


class Node(Pictured):
    """One typed SSA value. Users meet it as a symbolic value with Python's operators (see :mod:`graphc.ops.operators`).

    Attributes:
        op, inputs, attrs: what is computed from what. ``attrs`` holds hashable, printable values; treat it as frozen.
        type: dtype and shape.
        name: the user's name ("" if none).
        source: the user's line. origins: how it was derived (at least one).
        uid: increases with every node built; gives traversals a deterministic order, never appears in text.
        typed: whether its type is what the op's rule gives (type, attributes and operands never change).
        checked: whether the verifier has found its type and attributes right.
        copied: of a copy over other operands, what :attr:`lineage` says; () else.
    """

    __slots__ = (
        "__weakref__", "attrs", "checked", "copied", "inputs", "name", "op", "origins", "source", "type", "typed", "uid",
    )  # fmt: skip
    __array_ufunc__ = None  # NumPy arrays on the left give way to Node.__radd__ and kin

    def __init__(
        self,
        op: Op,
        inputs: tuple[Node, ...],
        attrs: Mapping[str, Any],
        type: TensorType,
        *,
        name: str = "",
        source: Source | None = None,
        origins: tuple[Origin, ...] = (provenance.DECLARED,),
        copied: tuple[int, ...] = (),
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.attrs = attrs
        self.type = type
        self.name = name
        self.source = source
        self.origins = origins
        self.uid = next(_ids)
        self.typed = False
        self.checked = False
        self.copied = copied

    @property
    def shape(self) -> Shape:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def ndim(self) -> int:
        return self.type.rank

    @property
    def primal(self) -> Node | None:
        """For a node made by differentiation: the forward node whose adjoint it belongs to."""
        return next((o.primal for o in self.origins if o.primal is not None), None)

    @property
    def lineage(self) -> tuple[int, ...]:
        """The uids of the nodes that this one stands for: of the first of its copies, and of what was merged into it.

        A pass that changes what a node reads makes a copy of it; nodes of two stages with a uid in common are the same to a reader.

        >>> from graphc.ops.sources import input
        >>> x, y = input("x"), input("y")
        >>> total = x + y
        >>> total.with_inputs((y, x)).lineage == (total.uid,) == total.lineage
        True
        """
        return self.copied or (self.uid,)

    def inner_nodes(self) -> Iterator[Node]:
        """The nodes of the graphs among its attributes, and of theirs: what a loop runs at every step."""
        stack = [self]
        while stack:
            for value in stack.pop().attrs.values():
                if isinstance(value, Graph):
                    yield from value.nodes
                    stack += value.nodes

    def with_inputs(self, inputs: Sequence[Node]) -> Node:
        """This node over other operands; the same object if nothing changed."""
        inputs = tuple(inputs)
        if inputs == self.inputs:  # nodes compare by identity
            return self
        same = [i.type for i in inputs] == [i.type for i in self.inputs]
        type_ = self.type if same else self.op.infer(tuple(i.type for i in inputs), **self.attrs)
        node = Node(
            self.op, inputs, self.attrs, type_, name=self.name, source=self.source, origins=self.origins,
            copied=self.copied or (self.uid,),
        )  # fmt: skip
        node.typed, node.checked = (self.typed, self.checked) if same else (isinstance(type_, TensorType), False)
        return node

    def standing_for(self, *others: Node) -> Node:
        """A copy that remembers the origins and the lineage of others, which were merged into it."""
        origins = tuple(dict.fromkeys(o for n in (self, *others) for o in n.origins))
        copied = tuple(dict.fromkeys(uid for n in (self, *others) for uid in n.lineage))
        return Node(
            self.op, self.inputs, self.attrs, self.type, name=self.name, source=self.source, origins=origins, copied=copied
        )

    def named(self, name: str) -> Node:
        """A copy with a name of the user's, which pictures and text show."""
        return Node(
            self.op, self.inputs, self.attrs, self.type, name=name, source=self.source, origins=self.origins,
            copied=self.lineage,
        )  # fmt: skip

    def key(self) -> tuple[Any, ...]:
        """Two nodes with equal keys compute the same value."""
        return (self.op.name, tuple(i.uid for i in self.inputs), attrs_key(self.attrs))

    def __repr__(self) -> str:
        label = f"%{self.name}" if self.name else f"%{self.uid}"
        where = f"  # {self.source.short}" if self.source else ""
        return f"<{label}: {self.type} = {self.op.name}({', '.join(f'%{i.name or i.uid}' for i in self.inputs)})>{where}"

    def __bool__(self) -> bool:
        raise GraphError(
            "a symbolic value has no truth value: nothing has run yet",
            source=provenance.capture(),
            help="use graphc.where(condition, a, b) to choose between values",
        )

    def __iter__(self) -> Iterator[Node]:
        raise GraphError(
            "a symbolic value cannot be iterated",
            source=provenance.capture(),
            help="index it (x[0]) or use graphc.split / graphc.scan",
        )

    if TYPE_CHECKING:  # installed by graphc.ops.operators

        def __add__(self, other: Any) -> Node: ...
        def __radd__(self, other: Any) -> Node: ...
        def __sub__(self, other: Any) -> Node: ...
        def __rsub__(self, other: Any) -> Node: ...
        def __mul__(self, other: Any) -> Node: ...
        def __rmul__(self, other: Any) -> Node: ...
        def __truediv__(self, other: Any) -> Node: ...
        def __rtruediv__(self, other: Any) -> Node: ...
        def __floordiv__(self, other: Any) -> Node: ...
        def __mod__(self, other: Any) -> Node: ...
        def __pow__(self, other: Any) -> Node: ...
        def __matmul__(self, other: Any) -> Node: ...
        def __neg__(self) -> Node: ...
        def __abs__(self) -> Node: ...
        def __lt__(self, other: Any) -> Node: ...
        def __le__(self, other: Any) -> Node: ...
        def __gt__(self, other: Any) -> Node: ...
        def __ge__(self, other: Any) -> Node: ...
        def __and__(self, other: Any) -> Node: ...
        def __or__(self, other: Any) -> Node: ...
        def __xor__(self, other: Any) -> Node: ...
        def __lshift__(self, other: Any) -> Node: ...
        def __rshift__(self, other: Any) -> Node: ...
        def __invert__(self) -> Node: ...
        def __getitem__(self, index: Any) -> Node: ...
        @property
        def T(self) -> Node: ...


def make(op: Op, inputs: Sequence[Node], attrs: Mapping[str, Any], *, name: str = "") -> Node:
    """The one constructor of nodes: checks operands, infers the type, records source and origin.

    Raises:
        TypeRuleError: with the user's line and the operands' types.
        GraphError: an operand is no Node.
    """
    source = provenance.capture()
    for i, operand in enumerate(inputs):
        if not isinstance(operand, Node):
            raise GraphError(
                f"{op.name}: operand {i} is {type(operand).__name__}, not a symbolic value",
                source=source,
                token=op.name,
                help="wrap arrays with graphc.constant(array)",
            )
    try:
        type_ = op.infer(tuple([i.type for i in inputs]), **attrs)
    except TypeRuleError as error:
        if error.source is not None:
            raise
        notes = error.notes + tuple(_operand_note(i, n) for i, n in enumerate(inputs))
        message = error.message if error.message.startswith(op.name) else f"{op.name}: {error.message}"
        raise type(error)(message, source=source, token=op.name, notes=notes, help=error.help) from None
    node = Node(op, tuple(inputs), dict(attrs), type_, name=name, source=source, origins=(provenance.current(),))
    node.typed = isinstance(type_, TensorType)  # a user's rule may give anything: the verifier says what
    return node


def _operand_note(i: int, node: Node) -> str:
    label = node.name or f"operand {i}"
    where = f"   ({node.source.short})" if node.source else ""
    return f"{label}: {node.type}{where}"


def attrs_key(attrs: Mapping[str, Any]) -> tuple[Any, ...]:
    """A hashable key of attributes; arrays by dtype, shape and bytes, state variables by identity."""
    return tuple([(k, _value_key(v)) for k, v in sorted(attrs.items())]) if attrs else ()


def _value_key(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, float):
        return ("float", np.float64(value).tobytes())  # tells -0.0 from 0.0, and nan from nan by bits
    if isinstance(value, tuple):
        return tuple(_value_key(v) for v in value)
    return (type(value).__name__, value)


@dataclass(frozen=True, eq=False)
class Graph(Pictured):
    """A named DAG: inputs, outputs and updates of variables.

    Attributes:
        name: shown in text and pictures.
        outputs: name -> node, in the user's order.
        updates: parameter node -> node of its next value, applied together after all reads.
        declared_inputs: input nodes in the user's order; inputs found in the DAG are appended.

    Raises:
        GraphError: two inputs or two variables share a name.
    """

    name: str
    outputs: Mapping[str, Node]
    updates: Mapping[Node, Node] = field(default_factory=dict)
    declared_inputs: tuple[Node, ...] = ()

    def __post_init__(self) -> None:
        for name, root in (*self.outputs.items(), *((k.name, v) for k, v in self.updates.items())):
            if not isinstance(root, Node):
                raise GraphError(
                    f"{name!r} of graph {self.name} is {type(root).__name__}, not a symbolic value",
                    source=provenance.capture(), help="give nodes; wrap arrays and numbers with graphc.constant",
                )  # fmt: skip
        for kind, nodes in (("input", self.inputs), ("parameter", self.parameters)):
            seen: dict[str, Node] = {}
            for node in nodes:
                other = seen.setdefault(node.name, node)
                if other is not node and not _same_variable(other, node):
                    raise GraphError(
                        f"two {kind}s are named {node.name!r}",
                        source=node.source,
                        notes=(f"first declared at {other.source}", f"again at {node.source}"),
                        help="give each its own name, or use one node twice",
                    )

    @cached_property
    def roots(self) -> tuple[Node, ...]:
        """Outputs and updates: all that must be computed."""
        return (*self.outputs.values(), *self.updates.values())

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every reachable node once, operands before users, in a deterministic order."""
        return topological((*self.declared_inputs, *self.updates, *self.roots))

    @cached_property
    def inputs(self) -> tuple[Node, ...]:
        found = (n for n in self.nodes if n.op.name == "input")
        return tuple(dict.fromkeys((*self.declared_inputs, *found)))

    @cached_property
    def parameters(self) -> tuple[Node, ...]:
        return tuple(n for n in self.nodes if n.op.name == "parameter")

    @cached_property
    def users(self) -> Mapping[Node, tuple[Node, ...]]:
        """Node -> the nodes that read it (once per reading operand)."""
        found: dict[Node, list[Node]] = {n: [] for n in self.nodes}
        for node in self.nodes:
            for operand in node.inputs:
                found[operand].append(node)
        return {n: tuple(u) for n, u in found.items()}

    @property
    def symbols(self) -> frozenset[str]:
        """Names of symbolic sizes in any input."""
        return frozenset(s for n in self.inputs for d in n.shape if not isinstance(d, int) for s in d.names)

    def replace(self, mapping: Mapping[Node, Node]) -> Graph:
        """The graph with roots (and inputs) exchanged by ``mapping``; nodes not in it stay. Same object if unchanged."""
        outputs = {k: mapping.get(v, v) for k, v in self.outputs.items()}
        updates = {mapping.get(k, k): mapping.get(v, v) for k, v in self.updates.items()}
        # all inputs, also found ones: a pass that no longer needs an input must not change how a program is called
        declared = tuple(mapping.get(n, n) for n in self.inputs)
        old = (*self.outputs.values(), *self.updates.keys(), *self.updates.values(), *self.inputs)
        if all(mapping.get(n, n) is n for n in old):
            return self
        return Graph(self.name, outputs, updates, declared)

    def transform(self, visit: Callable[[Node, tuple[Node, ...]], Node]) -> Graph:
        """Rebuild the graph bottom-up: ``visit(node, new_inputs)`` returns the replacement of each node.

        ``visit`` returning ``node.with_inputs(new_inputs)`` everywhere gives back the same Graph object.
        """
        mapping: dict[Node, Node] = {}
        for node in self.nodes:
            mapping[node] = visit(node, tuple([mapping[i] for i in node.inputs]))
        return self.replace(mapping)

    def to_networkx(self) -> networkx.MultiDiGraph:
        """A networkx view: one vertex a node, numbered in order, one edge an operand (attribute ``operand``, its position).

        Attributes of a vertex: op, name, type, shape, dtype, source, file, line, scope, origin (passes and rules), primal (number of the
        node whose adjoint it is part of, or None), outputs (names that it is given back under), attrs (the op's, as text).
        """
        import networkx

        graph = networkx.MultiDiGraph(name=self.name)
        number = {n: i for i, n in enumerate(self.nodes)}
        given: dict[Node, list[str]] = {}
        for key, node in self.outputs.items():
            given.setdefault(node, []).append(key)
        for node, i in number.items():
            line = node.source
            primal = number.get(node.primal) if node.primal is not None else None
            graph.add_node(
                i, op=node.op.name, type=str(node.type), shape=tuple(map(str, node.shape)), dtype=str(node.dtype), name=node.name,
                source=str(line or ""), file=line.file if line else "", line=line.line if line else 0,
                scope="/".join(line.scope) if line else "", origin=", ".join(map(str, node.origins)), primal=primal,
                outputs=tuple(given.get(node, ())), attrs={k: str(v) for k, v in node.attrs.items()},
            )  # fmt: skip
            for position, operand in enumerate(node.inputs):
                graph.add_edge(number[operand], i, operand=position)
        return graph

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {len(self.inputs)} inputs, {len(self.nodes)} nodes, {len(self.outputs)} outputs>"


def _same_variable(a: Node, b: Node) -> bool:
    return a.op.name == "parameter" and a.attrs["variable"] is b.attrs["variable"]


def topological(roots: Iterable[Node], enter: Callable[[Node], bool] | None = None) -> tuple[Node, ...]:
    """All nodes reachable from ``roots``, operands first (iterative depth-first postorder, each node once).

    Args:
        roots: where the walk starts; always part of the result.
        enter: whether an operand belongs; the walk goes no further where it says no, and may ask about a node again.
    """
    order: list[Node] = []
    done: set[Node] = set()
    for root in roots:
        if root in done:
            continue
        stack: list[tuple[Node, Iterator[Node]]] = [(root, iter(root.inputs))]
        done.add(root)
        while stack:
            node, rest = stack[-1]
            for operand in rest:
                if operand not in done and (enter is None or enter(operand)):
                    done.add(operand)
                    stack.append((operand, iter(operand.inputs)))
                    break
            else:
                order.append(node)
                stack.pop()
    return tuple(order)


def depends_on(roots: Iterable[Node], sources: Iterable[Node]) -> set[Node]:
    """The nodes on some path from ``sources`` to ``roots`` (both ends included)."""
    active = set(sources)
    for node in topological(roots):
        if any(i in active for i in node.inputs):
            active.add(node)
    return active


class Registry(dict[str, Op]):
    """Name -> op. Filled while :mod:`graphc.ops` is imported, read-only afterwards by convention of the tests."""

    def __init__(self) -> None:
        super().__init__()
        self._own: set[Op] = set()

    def register(self, op: Op) -> Op:
        if op.name in self:
            raise GraphError(f"op {op.name} is declared twice", help="an op is declared in one place")
        self[op.name] = op
        if _importing().startswith(f"{__name__.partition('.')[0]}."):
            self._own.add(op)
        return op

    def is_own(self, op: Op) -> bool:
        """Whether graphc itself declares the op: the name then says what it means, in every process of this version."""
        return op in self._own

    def find(self, name: str) -> Op:
        """The op of that name.

        Raises:
            GraphError: no op has it; proposes near names.
        """
        if name not in self:
            import difflib

            near = difflib.get_close_matches(name, self, 3)
            raise GraphError(f"unknown op {name!r}", help=f"did you mean {' or '.join(near)}?" if near else None)
        return self[name]


def _importing() -> str:
    """The module whose body is being run, the innermost of those."""
    frame = sys._getframe(1)
    while frame.f_code.co_name != "<module>" and frame.f_back is not None:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


REGISTRY = Registry()


def no_derivative(node: Node, reason: str) -> DifferentiationError:
    """The error for a node whose op declares no derivative."""
    return DifferentiationError(f"{node.op.name} declares no derivative: {reason}", source=node.source, token=node.op.name)

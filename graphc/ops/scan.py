"""scan: a loop over time as a value of the graph, with results that are carried from step to step and results of every step.

What enters: the carried values, sequences ``[length, ...]`` and a function of one step. What leaves: the last carried values and the
stacked results. Invariants: the body is a graph of its own, whose inputs are the carried values, one element of each sequence and
the constants (whatever the step read from outside), in that order, and whose outputs are the next carried values and the step's
results; every carried value keeps its type; the loop runs the body ``length`` times, from the end if ``reverse``. ::

    def step(h, x):
        h = graphc.tanh(x + h @ w)
        return h, h
    last, all_ = graphc.scan(step, h0, xs)          # xs: [time, batch, n], all_: [time, batch, n]

In the graph a scan is one node with a token for its value (``f32[0]``, no data), and one ``scan_result`` node for each result that is
used. Source of the form: ``lax.scan`` of JAX, whose steps are Haskell's ``mapAccumL``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc import provenance
from graphc.errors import AttributeRuleError, DTypeError, GraphError, ShapeError
from graphc.ir import Graph, Node, make, topological
from graphc.ops.broadcasting import lift
from graphc.ops.declare import Custom, Region, Template, declare, placeholder
from graphc.types import Dim, TensorType, float32

TOKEN = TensorType(float32, (0,))


class Results(np.ndarray):
    """The token's array with the arrays that the loop made."""

    results: tuple[np.ndarray, ...]


def _infer_scan(
    types: tuple[TensorType, ...], *, body: Graph, carries: int, sequences: int, length: Dim, reverse: bool, tangents: tuple[int, ...] = (),
) -> TensorType:  # fmt: skip
    names = _operand_names(body, carries, sequences)
    if len(types) != len(body.declared_inputs):
        raise AttributeRuleError(f"scan: the body takes {len(body.declared_inputs)} values, got {len(types)}")
    for name, given, wanted, k in zip(names, types, body.declared_inputs, range(len(types)), strict=True):
        expected = stacked(wanted.type, length) if carries <= k < carries + sequences else wanted.type
        if given != expected:
            raise ShapeError(f"scan: {name} is {given}, the body wants {expected}")
    if len(body.outputs) < carries:
        raise AttributeRuleError(f"scan: {carries} values are carried, the body gives {len(body.outputs)}")
    for name, out, into in zip(names, list(body.outputs.values())[:carries], body.declared_inputs, strict=False):
        if out.type != into.type:
            raise ShapeError(f"scan: {name} enters a step as {into.type} and leaves it as {out.type}")
    return TOKEN


def _operand_names(body: Graph, carries: int, sequences: int) -> Iterator[str]:
    for k in range(len(body.declared_inputs)):
        if k < carries:
            yield f"carried value {k}"
        elif k < carries + sequences:
            yield f"sequence {k - carries}"
        else:
            yield f"constant {k - carries - sequences}"


def stacked(type_: TensorType, length: Dim) -> TensorType:
    """The type of ``length`` values of a type, one after the other."""
    return type_.with_shape((length, *type_.shape))


def result_types(node: Node) -> tuple[TensorType, ...]:
    """The types of a scan node's results: the carried values, then the stacked ones."""
    outputs = list(node.attrs["body"].outputs.values())
    carries, length = node.attrs["carries"], node.attrs["length"]
    return tuple(v.type if k < carries else stacked(v.type, length) for k, v in enumerate(outputs))


def _run_scan(*arrays: Any, body: Graph, carries: int, sequences: int, length: Any, reverse: bool, tangents: Any = ()) -> Any:
    """The loop with NumPy, node by node of the body: the oracle."""
    inputs = body.declared_inputs
    carried = [np.asarray(a) for a in arrays[:carries]]
    series, constants = arrays[carries : carries + sequences], arrays[carries + sequences :]
    roots = list(body.outputs.values())
    stacks = [np.zeros((length, *v.type.static_shape), v.dtype.numpy) for v in roots[carries:]]
    order = [n for n in topological(roots) if n.op.name != "input"]
    for step in reversed(range(length)) if reverse else range(length):
        values: dict[Node, Any] = dict(zip(inputs, [*carried, *(s[step] for s in series), *constants], strict=True))
        for node in order:
            values[node] = node.op.reference(*(values[i] for i in node.inputs), **node.attrs)
        carried = [np.asarray(values[v]) for v in roots[:carries]]
        for stack, root in zip(stacks, roots[carries:], strict=True):
            stack[step] = values[root]
    token = np.zeros(0, np.float32).view(Results)
    token.results = (*(np.array(c) for c in carried), *stacks)
    return token


scan_op = declare(
    "scan", infer=_infer_scan, reference=_run_scan, derivative=Region(), lowering=Template("scan"),
    latex=r"\operatorname{{scan}}", symbol="↻", samples=None, doc="A loop over time; its results are scan_result nodes.",
)  # fmt: skip


def _infer_result(types: tuple[TensorType, ...], *, index: int, type: TensorType) -> TensorType:
    if types != (TOKEN,):
        raise AttributeRuleError("scan_result: reads a scan")
    return type


def _result_vjp(ct: Node, node: Node) -> tuple[Node | None, ...]:
    return (cotangent_op(ct, index=node.attrs["index"]),)


def _result_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node | None:
    """The tangent of a scan is the scan of values and tangents, which says where the tangent of each result stands."""
    dual = tangents[0]
    if dual is None:
        return None
    place = tangent_place(dual, node.attrs["index"])
    return None if place is None else scan_result(dual, place)


scan_result_op = declare(
    "scan_result", infer=_infer_result,
    reference=lambda token, *, index, type: token.results[index], derivative=Custom(_result_vjp, _result_jvp, latex=("{g}",)),
    lowering=Template("scan_result"), latex="{0}[{index}]", symbol="result", samples=None,
    doc="One result of a scan: a last carried value, or the stacked results of its steps.",
)  # fmt: skip
cotangent_op = declare(
    "scan_cotangent", infer=lambda types, *, index: TOKEN, reference=lambda ct, *, index: np.zeros(0, np.float32),
    derivative=Custom(lambda ct, node: (None,), lambda tangents, node: None), lowering=Template("scan_cotangent"), latex="{0}",
    symbol="ct", samples=None, doc="The cotangent of one result on its way to the scan; gone once the scan is differentiated.",
)  # fmt: skip


def scan_result(node: Node, index: int) -> Node:
    """Result ``index`` of a scan node."""
    return make(scan_result_op, (node,), {"index": index, "type": result_types(node)[index]})


def cotangents(ct: Node) -> dict[int, list[Node]]:
    """What a sum of ``scan_cotangent`` nodes says: cotangents by the result's index."""
    found: dict[int, list[Node]] = {}
    stack = [ct]
    while stack:
        node = stack.pop()
        if node.op is cotangent_op:
            found.setdefault(node.attrs["index"], []).append(node.inputs[0])
        else:
            stack += node.inputs
    return found


def tangent_place(dual: Node, index: int) -> int | None:
    """Where the tangent of a result stands among the results of a scan of values and tangents (None: it has none)."""
    place = dual.attrs["tangents"][index]
    return None if place < 0 else int(place)


# --- declaring -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """The structure of nested tuples, lists and dicts of values."""

    kind: type | None
    keys: tuple[Any, ...] = ()
    parts: tuple[Tree, ...] = ()

    def build(self, leaves: Iterator[Any]) -> Any:
        """The structure with these leaves."""
        if self.kind is None:
            return next(leaves)
        parts = [p.build(leaves) for p in self.parts]
        return dict(zip(self.keys, parts, strict=True)) if self.kind is dict else self.kind(parts)


def flatten(value: Any) -> tuple[list[Any], Tree]:
    """Leaves in order, and the structure; None is a structure without leaves (nesting is the user's, a few levels)."""
    if value is None:
        return [], Tree(tuple)
    if isinstance(value, Mapping):
        pairs = [flatten(v) for v in value.values()]
        return [x for leaves, _ in pairs for x in leaves], Tree(dict, tuple(value), tuple(t for _, t in pairs))
    if isinstance(value, (tuple, list)):
        pairs = [flatten(v) for v in value]
        return [x for leaves, _ in pairs for x in leaves], Tree(type(value), (), tuple(t for _, t in pairs))
    return [value], Tree(None)


def scan(
    step: Callable[[Any, Any], Any], init: Any, xs: Any = None, *, length: int | None = None, reverse: bool = False
) -> Any:
    """Run ``carry, y = step(carry, x)`` over the elements of ``xs`` and return the last carry and all ``y``, stacked.

    Args:
        step: a function of symbolic values, called once. What it reads from outside is handed to the loop as constants.
        init: the first carry: a value, or nested tuples, lists and dicts of values.
        xs: values ``[length, ...]`` in such a structure, or None.
        length: number of steps; needed without ``xs``.
        reverse: from the last element to the first; ``y`` stands at its element's place all the same.

    Returns:
        ``(carry, ys)`` in the structures of ``init`` and of the step's second result; ``ys`` have ``[length, ...]``.

    Raises:
        GraphError: a step that does not return a pair, a carry of another structure, or no length.
        ShapeError, DTypeError: a carried value changes its type, or the sequences have several lengths.

    >>> import graphc.ops as ops
    >>> from graphc.interpreter import evaluate
    >>> total, sums = scan(lambda c, x: (c + x, c + x), ops.constant(0.0), ops.constant([1.0, 2.0, 3.0]))
    >>> float(evaluate(total)), evaluate(sums).tolist()
    (6.0, [1.0, 3.0, 6.0])
    """
    source = provenance.capture()
    first, carry_tree = flatten(init)
    series, series_tree = flatten(xs)
    carried, sequences = [lift(v) for v in first], [lift(v) for v in series]
    count = _length(sequences, length, source)
    carry_in = [placeholder(v.type, f"carry{k}") for k, v in enumerate(carried)]
    element = [placeholder(v.type.with_shape(v.shape[1:]), f"x{k}") for k, v in enumerate(sequences)]
    given = series_tree.build(iter(element)) if xs is not None else None
    result = step(carry_tree.build(iter(carry_in)), given)
    if not isinstance(result, tuple) or len(result) != 2:
        raise GraphError(
            f"the step of a scan returned {type(result).__name__}, not (carry, y)", source=source,
            help="return the next carry and the step's result: return h, h (or h, None)",
        )  # fmt: skip
    after, after_tree = flatten(result[0])
    if after_tree != carry_tree:
        raise GraphError(
            f"the step of a scan returned a carry of {len(after)} values in another structure than init's {len(carried)}",
            source=source, help="return the carry as it came in, with new values",
        )  # fmt: skip
    outs, out_tree = flatten(result[1])
    next_carry = [_carried(k, lift(v), into, source) for k, (v, into) in enumerate(zip(after, carry_in, strict=True))]
    node = make_scan(carried, sequences, carry_in, element, next_carry, [lift(v) for v in outs], count, reverse)
    results = [scan_result(node, k) for k in range(len(next_carry) + len(outs))]
    stacks = out_tree.build(iter(results[len(next_carry) :])) if result[1] is not None else None
    return carry_tree.build(iter(results[: len(next_carry)])), stacks


def _length(sequences: Sequence[Node], length: int | None, source: Any) -> Dim:
    for node in sequences:
        if node.ndim == 0:
            raise ShapeError(f"scan: a sequence needs steps in its first axis, got {node.type}", source=source)
    sizes = list(dict.fromkeys(n.shape[0] for n in sequences))
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 0):
        raise GraphError(f"scan: the length must be a number of steps, not {length!r}", source=source)
    if length is not None and sizes and sizes != [length]:
        raise ShapeError(f"scan: length={length}, and the sequences have {', '.join(map(str, sizes))} steps", source=source)
    if len(sizes) > 1:
        notes = tuple(f"sequence {k}: {n.type}" for k, n in enumerate(sequences))
        raise ShapeError(f"scan: sequences of {' and '.join(map(str, sizes))} steps", source=source, notes=notes)
    if not sizes and length is None:
        raise GraphError("scan: neither xs nor length says how many steps there are", source=source, help="give length=10")
    return sizes[0] if sizes else length  # type: ignore[return-value]


def _carried(k: int, value: Node, into: Node, source: Any) -> Node:
    """A next carried value, checked; numbers that the step returned take the carry's shape."""
    if value.dtype != into.dtype:
        raise DTypeError(
            f"scan: carried value {k} is {into.type} and leaves the step as {value.type}", source=value.source or source,
            notes=(f"the scan: {source}",), help=f"cast it: graphc.cast(value, '{into.dtype}')",
        )  # fmt: skip
    if value.shape != into.shape:
        raise ShapeError(
            f"scan: carried value {k} is {into.type} and leaves the step as {value.type}", source=value.source or source,
            notes=(f"the scan: {source}",), help="start with a value of the shape that the step returns",
        )  # fmt: skip
    return value


def make_scan(
    carried: Sequence[Node], sequences: Sequence[Node], carry_in: Sequence[Node], element: Sequence[Node],
    next_carry: Sequence[Node], outs: Sequence[Node], length: Dim, reverse: bool, tangents: tuple[int, ...] = (),
) -> Node:  # fmt: skip
    """A scan node from the pieces of its body; what the body reads from outside becomes constants of the loop.

    Args:
        tangents: for a scan of values and tangents, where the tangent of each result of the plain scan stands (-1: nowhere).
    """
    roots = [*next_carry, *outs]
    inside = {*carry_in, *element}
    captured = captures(roots, inside)
    constants = [placeholder(n.type, f"const{k}") for k, n in enumerate(captured)]
    mapping = substitute(roots, dict(zip(captured, constants, strict=True)))
    labels = [f"carry{k}" for k in range(len(next_carry))] + [f"y{k}" for k in range(len(outs))]
    inputs = (*carry_in, *element, *constants)
    body = Graph("step", {n: mapping[v] for n, v in zip(labels, roots, strict=True)}, {}, inputs)
    attrs = {"body": body, "carries": len(carried), "sequences": len(sequences), "length": length, "reverse": reverse}
    if tangents:
        attrs["tangents"] = tangents
    return make(scan_op, (*carried, *sequences, *captured), attrs)


def captures(roots: Sequence[Node], inside: set[Node]) -> list[Node]:
    """The values from outside that a body reads: not made from its own inputs, and not from constants alone."""
    outer: dict[Node, bool] = {}  # depends on the world outside
    inner: dict[Node, bool] = {}  # depends on the body's inputs
    order = topological(roots)
    for node in order:
        inner[node] = node in inside or any(inner[i] for i in node.inputs)
        outer[node] = node not in inside and (
            node.op.name in ("input", "parameter") or any(outer[i] for i in node.inputs)
        )
    found: dict[Node, None] = {}
    for node in order:
        if inner[node]:
            found.update(dict.fromkeys(i for i in node.inputs if outer[i] and not inner[i]))
    found.update(dict.fromkeys(r for r in roots if outer[r] and not inner[r]))
    return list(found)


def substitute(roots: Sequence[Node], mapping: Mapping[Node, Node]) -> dict[Node, Node]:
    """Every node below the roots with the mapped ones exchanged: node -> what takes its place."""
    made: dict[Node, Node] = dict(mapping)
    stack = [n for n in reversed(roots)]
    while stack:
        node = stack[-1]
        if node in made:
            stack.pop()
            continue
        missing = [i for i in node.inputs if i not in made]
        if missing:
            stack += missing
            continue
        made[node] = node.with_inputs(tuple(made[i] for i in node.inputs))
        stack.pop()
    return made

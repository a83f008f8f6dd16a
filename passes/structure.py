"""What differentiation shares: lists and dicts of values, activity, and the error that shows a path.

What enters: ``wrt`` as users write it. What leaves: flat lists of nodes and the same structure again. Invariant: a
traversal stops at the given boundary, so that the expansion of a composite is walked alone and not with all below it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from graphc import ops, provenance
from graphc.errors import DifferentiationError
from graphc.ir import Node
from graphc.ops.declare import Zero
from graphc.variables import Variable

Value: TypeAlias = Node | Variable
Wrt: TypeAlias = Value | Sequence[Value] | Mapping[Any, Value]


def flatten(values: Wrt) -> list[Node]:
    """The nodes in a node, list, tuple or dict; a variable becomes a node that reads it.

    Raises:
        DifferentiationError: something in it is no symbolic value.
    """
    if isinstance(values, (Node, Variable)):
        items: list[Any] = [values]
    elif isinstance(values, Mapping):
        items = list(values.values())
    elif isinstance(values, (list, tuple)):
        items = list(values)
    else:
        items = [values]
    nodes = [ops.parameter_node(v) if isinstance(v, Variable) else v for v in items]
    for node in nodes:
        require_node(node, "wrt")
    return nodes


def unflatten(like: Wrt, nodes: Sequence[Node]) -> Any:
    """Nodes in the structure of ``like``."""
    if isinstance(like, (Node, Variable)):
        return nodes[0]
    if isinstance(like, Mapping):
        return dict(zip(like, nodes, strict=True))
    return tuple(nodes) if isinstance(like, tuple) else list(nodes)


def require_node(value: Any, role: str) -> None:
    """Raise unless ``value`` is a symbolic value."""
    if not isinstance(value, Node):
        raise DifferentiationError(
            f"{role} is {type(value).__name__}, not a symbolic value", source=provenance.capture(),
            help="give nodes, variables, or a list, tuple or dict of them",
        )  # fmt: skip


def require_float(node: Node) -> None:
    """Raise unless a derivative with respect to ``node`` makes sense."""
    if not node.dtype.is_float:
        raise DifferentiationError(
            f"cannot differentiate with respect to {label(node)}: it is {node.type}, not a float", source=node.source,
            help="declare it with dtype='float32', or cast it and differentiate with respect to the result",
        )  # fmt: skip


def label(node: Node) -> str:
    """What an error calls a node: the user's name, else its op."""
    return node.name or node.op.name


def seed_like(node: Node, value: Any, role: str) -> Node:
    """A cotangent or tangent of exactly ``node``'s type from a node, array or number.

    Raises:
        DifferentiationError: dtype or shape do not fit.
    """
    require_float(node)
    with provenance.deriving("differentiate", "seed", parents=(node,), primal=node):
        plain = isinstance(value, (bool, int, float, list, tuple))
        seed = ops.lift(value, node.dtype) if plain else ops.lift(value)
        if seed.type != node.type and seed.dtype == node.dtype and seed.shape == ():
            seed = ops.broadcast_to(seed, node.shape)
    if seed.type != node.type:
        raise DifferentiationError(
            f"the {role} of {label(node)} is {seed.type}, it must be {node.type}", source=node.source,
            help=f"a {role} has the type of its value",
        )  # fmt: skip
    return seed


def bounded_order(roots: Sequence[Node], boundary: Collection[Node] = ()) -> list[Node]:
    """Nodes reachable from ``roots``, operands first, not looking below nodes of ``boundary`` (iterative)."""
    order: list[Node] = []
    done: set[Node] = set()
    for root in roots:
        if root in done:
            continue
        done.add(root)
        stack: list[tuple[Node, Iterator[Node]]] = [(root, iter(() if root in boundary else root.inputs))]
        while stack:
            node, rest = stack[-1]
            for operand in rest:
                if operand not in done:
                    done.add(operand)
                    stack.append((operand, iter(() if operand in boundary else operand.inputs)))
                    break
            else:
                order.append(node)
                stack.pop()
    return order


def carries(node: Node) -> bool:
    """Whether a derivative can flow through a node: it is a float and its derivative is not identically zero."""
    return node.dtype.is_float and not isinstance(node.op.derivative, Zero)


def aliases(order: Sequence[Node], targets: Sequence[Node]) -> dict[Node, Node]:
    """Node of ``order`` -> the target it stands for: itself, or another read of the same variable."""
    found = {t: t for t in targets}
    variables = {t.attrs["variable"]: t for t in reversed(targets) if t.op.name == "parameter"}
    for node in order:
        if node.op.name == "parameter" and node not in found and node.attrs["variable"] in variables:
            found[node] = variables[node.attrs["variable"]]
    return found


def no_path(node: Node, reason: str, up: Sequence[Node], down: Sequence[Node]) -> DifferentiationError:
    """The error for an op without a derivative: ``up`` leads from wrt to it, ``down`` from it to the output."""
    first, last = up[0] if up else node, down[-1] if down else node
    steps = [label(n) if n is first or n.source is None or n is not node else f"{label(n)} ({n.source.short})"
             for n in (*up, node, *down)]  # fmt: skip
    if len(steps) > 12:
        at = len(up)
        begin, end = steps[: min(3, at)], steps[max(at + 1, len(steps) - 3) :]
        steps = [*begin, *(["..."] if at > 3 else []), steps[at], *(["..."] if len(down) > 3 else []), *end]
    what = f"{node.op.name} declares no derivative" + (f": {reason}" if reason else "")
    return DifferentiationError(
        f"cannot differentiate {label(last)} with respect to {label(first)}: {what}", source=node.source,
        token=node.op.name, notes=(f"path: {' -> '.join(steps)}",),
        help=f"declare Custom(vjp=...) beside {node.op.name}, or wrap it in stop_gradient",
    )  # fmt: skip

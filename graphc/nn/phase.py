"""Training or inference: one declaration serves both, and the choice is made by a rewrite.

What enters: a model with ``phase`` nodes in it (dropout makes one). What leaves: the same model for training or for
inference. Invariant: a graph in which nobody has chosen means inference - ``phase`` expands to its second operand and
``training_step`` to 0 - so ``graphc.compile(logits)`` needs no flag and pays nothing.

    %2: f32[4] = phase(%dropped, %x)     # training: %dropped, inference: %x

:class:`graphc.train.Trainer` chooses for its step (training, with its own step counter) and its evaluation (inference).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from graphc import ops, provenance
from graphc.errors import GraphError
from graphc.ir import Node, topological
from graphc.ops.declare import Custom, Samples, composite, same_types
from graphc.types import TensorType

Values = TypeVar("Values", Node, list[Node], dict[str, Node])


def _vjp(cotangent: Node, node: Node) -> tuple[Node | None, ...]:
    nothing = ops.zeros_like(cotangent)  # the gradient stays open to either phase as well
    return phase(cotangent, nothing), phase(nothing, cotangent)


def _jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    first, second = (ops.zeros_like(node) if t is None else t for t in tangents)
    return phase(first, second)


def _calls() -> list[Any]:
    return [(((3,), (3,)), {}), (((2, 1), (2, 1)), {})]


phase_op = composite(
    "phase",
    lambda training, inference, **attrs: inference,
    infer=lambda types, **attrs: same_types("phase", types),
    reference=lambda training, inference, **attrs: inference,
    derivative=Custom(_vjp, _jvp, latex=(r"0", r"{g}")),
    latex=r"{1}",
    samples=Samples(calls=_calls),
    doc="The first operand in training, the second in inference (the meaning until somebody chooses).",
)
step_op = composite(
    "training_step",
    lambda: ops.constant(np.int32(0)),
    infer=lambda types: TensorType(ops.constant(np.int32(0)).dtype, ()),
    reference=lambda: np.int32(0),
    latex=r"t",
    samples=None,
    doc="How many updates training has made (0 until a trainer puts its counter here).",
)


def phase(training: Node, inference: Node, *, key: str = "") -> Node:
    """A value that is ``training`` in training and ``inference`` otherwise.

    Args:
        training: and ``inference``, of one type.
        key: name of the random stream behind it, if any; :func:`with_phase` refuses two streams of one name.

    Raises:
        TypeRuleError: the types differ.

    >>> from graphc.interpreter import evaluate
    >>> value = phase(ops.constant(1.0), ops.constant(2.0))
    >>> evaluate(value).item(), evaluate(with_phase(value, training=True)).item()
    (2.0, 1.0)
    """
    return phase_op(training, inference, **({"key": key} if key else {}))


def training_step() -> Node:
    """The number of updates made so far, an int32 scalar that :func:`with_phase` replaces (0 elsewhere)."""
    return step_op()


def with_phase(values: Values, *, training: bool, step: Node | None = None) -> Values:
    """The values with every ``phase`` decided, and ``training_step`` replaced by ``step``.

    Args:
        values: a node, a list of nodes or a dict of them; the result has the same form.
        training: which operand of each ``phase`` to take.
        step: counts the updates (an integer scalar); without one ``training_step`` stays 0.

    Raises:
        GraphError: two random layers have one name, so that their random numbers would be equal.

    Nodes that depend on no phase are kept as they are; parameters and inputs always are.
    """
    nodes: Sequence[Node]
    if isinstance(values, Node):
        nodes = [values]
    else:
        nodes = list(values.values()) if isinstance(values, Mapping) else list(values)
    mapping = _decide(nodes, training, step)
    if isinstance(values, Node):
        return mapping[values]
    if isinstance(values, Mapping):
        return cast(Values, {name: mapping[node] for name, node in values.items()})
    return cast(Values, [mapping[node] for node in nodes])


def _decide(nodes: Sequence[Node], training: bool, step: Node | None) -> dict[Node, Node]:
    mapping: dict[Node, Node] = {}
    streams: dict[str, Node] = {}
    for node in topological(nodes):
        operands = tuple(mapping[i] for i in node.inputs)
        if node.op is phase_op:
            _check_stream(node, streams)
            mapping[node] = operands[0 if training else 1]
        elif node.op is step_op and step is not None:
            with provenance.deriving("phase", "step", (node, step)):
                mapping[node] = ops.cast(step, node.dtype)
        else:
            mapping[node] = node.with_inputs(operands)
    return mapping


def _check_stream(node: Node, streams: dict[str, Node]) -> None:
    key = node.attrs.get("key", "")
    other = streams.setdefault(key, node) if key else node
    if other is not node:
        raise GraphError(
            f"two random layers are named {key!r}: they would draw the same numbers",
            source=node.source,
            notes=(f"the first is at {other.source}",),
            help="give one of them a name of its own, or put them in different scopes",
        )

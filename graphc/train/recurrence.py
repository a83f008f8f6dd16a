r"""Through time: how much of the loss's gradient is left at each step of a recurrent net.

What enters: a loss, data, and the states of an unrolled net, or nothing for a net with a :func:`graphc.scan`. What leaves: the norm of
``dL/dh_t`` for each t. Invariant: the derivative is the whole one, of all ways from ``h_t`` to the loss; in a loop it is read off at a zero
that is added to every carried value, so that nothing is unrolled::

    h_t = step(h_{t-1}, x_t) + zero_t        dL/dzero_t = dL/dh_t

Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks" (2013), section 2.

>>> import graphc.ops as ops
>>> h0, xs = ops.input("h0"), ops.input("xs", (3,))
>>> last, _ = ops.scan(lambda h, x: (h * x, None), h0, xs)
>>> through_time(last * last, data={"h0": 1.0, "xs": [1.0, 3.0, 2.0]})["state"].tolist()
[72.0, 24.0, 12.0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc import interpreter, ops, provenance
from graphc.driver import Target, compile
from graphc.errors import GraphError
from graphc.ir import Graph, Node, topological
from graphc.nn.phase import with_phase
from graphc.ops.declare import placeholder
from graphc.ops.scan import make_scan, scan_op, scan_result, stacked, substitute
from graphc.types import substitute as type_substitute
from passes.differentiate import grad


def through_time(
    loss: Node, states: Sequence[Node] | None = None, *, data: Mapping[str, Any] | None = None, target: Target = "cpu"
) -> dict[str, np.ndarray]:
    """The norm of the loss's gradient with respect to the hidden state after each step.

    Args:
        loss: a floating scalar. states: of an unrolled net, first step first. Without them, the carried values of every loop
            (``graphc.scan``, ``nn.RNN``, ``nn.LSTM``, ``nn.GRU``) that the loss was made with.
        data: arrays by the input's name.

    Returns:
        ``{name: norms[steps]}``, for :func:`graphc.plots.gradients_through_time`. The name is "state", numbered where there are several;
        an LSTM has two.

    Raises:
        GraphError: no loop and no states, states that are no floats. DifferentiationError: the loss is no scalar or has no derivative.
        InputError: the data does not fit.
    """
    plain = with_phase(loss, training=False) if states is None else loss
    feed = dict(data or {})
    if states is not None:
        if not states or any(not isinstance(s, Node) or not s.dtype.is_float for s in states):
            raise GraphError("states are floating values, one a time step", source=provenance.capture())
        gradients = grad(plain, list(states))
        graph = Graph("through_time", {f"norm{t}": ops.sqrt(ops.sum(ops.square(g))) for t, g in enumerate(gradients)})
        found = compile(graph, target=target)(**_needed(graph, feed))
        return {"state": np.array([float(found[f"norm{t}"]) for t in range(len(states))])}
    return _through_loops(plain, feed, target)


def _through_loops(loss: Node, feed: dict[str, Any], target: Target) -> dict[str, np.ndarray]:
    loops = [n for n in topological([loss]) if n.op is scan_op]
    if not loops:
        raise GraphError(
            "the loss was made without a loop over time", source=loss.source,
            help="give the states of an unrolled net: through_time(loss, [h1, h2, h3], data=...)",
        )  # fmt: skip
    zeros: list[tuple[Node, bool]] = []
    exchanged: dict[Node, Node] = {}
    for loop in loops:  # inner ones first: a later loop reads the results of the earlier in their new form
        below = substitute(list(loop.inputs), exchanged)
        watched, added = _watched(loop, [below[i] for i in loop.inputs], len(zeros))
        zeros += [(z, loop.attrs["reverse"]) for z in added]
        results = [n for n in topological([loss]) if n.op.name == "scan_result" and n.inputs[0] is loop]
        exchanged |= {r: scan_result(watched, r.attrs["index"]) for r in results}
    whole = substitute([loss], exchanged)[loss]
    gradients = grad(whole, [z for z, _ in zeros])
    norms = {f"norm{k}": ops.sqrt(ops.sum(ops.square(g), axis=tuple(range(1, g.ndim)))) for k, g in enumerate(gradients)}
    graph = Graph("through_time", norms)
    given = Graph("loss", {"loss": loss})
    _, sizes = interpreter.check_inputs(given, _needed(given, feed))
    needed = _needed(graph, feed)
    for zero, _ in zeros:
        needed[zero.name] = np.zeros(type_substitute(zero.shape, sizes), zero.dtype.numpy)
    found = compile(graph, target=target)(**{n.name: needed[n.name] for n in graph.inputs})
    names = ["state"] if len(zeros) == 1 else [f"state {k + 1}" for k in range(len(zeros))]
    return {n: np.asarray(found[f"norm{k}"])[:: -1 if back else 1] for k, (n, (_, back)) in enumerate(zip(names, zeros, strict=True))}


def _watched(loop: Node, operands: list[Node], number: int) -> tuple[Node, list[Node]]:
    """The loop with a sequence of zeros added to each floating value that it carries, and these sequences."""
    body: Graph = loop.attrs["body"]
    carries, sequences, length = loop.attrs["carries"], loop.attrs["sequences"], loop.attrs["length"]
    inputs, roots = list(body.declared_inputs), list(body.outputs.values())
    zeros: list[Node] = []
    elements: dict[Node, Node] = {}
    for root in dict.fromkeys(r for r in roots[:carries] if r.dtype.is_float and r not in inputs):
        name = f"through_time_zero{number + len(zeros)}"
        zeros.append(ops.input(name, stacked(root.type, length).shape, dtype=root.dtype))
        elements[root] = placeholder(root.type, f"{name}_step")
    made: dict[Node, Node] = {}
    for node in topological(roots):  # whatever is made from a state sees that state's zero
        copy = node.with_inputs(tuple(made[i] for i in node.inputs))
        made[node] = copy + elements[node] if node in elements else copy
    constants = dict(zip(inputs[carries + sequences :], operands[carries + sequences :], strict=True))
    outs = substitute([made[r] for r in roots], constants)
    finals = [outs[made[r]] for r in roots]
    node = make_scan(
        operands[:carries], [*operands[carries : carries + sequences], *zeros], inputs[:carries],
        [*inputs[carries : carries + sequences], *elements.values()], finals[:carries], finals[carries:], length, loop.attrs["reverse"],
    )  # fmt: skip
    return node, zeros


def _needed(graph: Graph, feed: Mapping[str, Any]) -> dict[str, Any]:
    """The data that a graph reads."""
    return {n.name: np.asarray(feed[n.name], n.dtype.numpy) for n in graph.inputs if n.name in feed}


r"""Numbers on a picture: what every value is, and what flows back along every edge, when the graph is run on given inputs.

What enters: the view of a graph, its inputs as arrays, and for a mirrored picture the loss. What leaves: the same diagram with a
number (scalars) or a summary and a small heat map (tensors) in each box, contributions on the backward edges, and edges whose
width follows the norm of what they carry. Invariant: all numbers come from the interpreter; a gradient is the sum of the
contributions that the picture shows. ::

    a = 2 --> mul = -6 --> loss        forward
    a' = -3 <-- v' = 1                 backward: a' = v' * b = 1 * (-3) = -3
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from graphc import interpreter
from graphc.errors import DrawError
from graphc.ir import Graph, Node
from graphc.ops.declare import placeholder
from graphc.ops.scan import scan_op, scan_result, scan_result_op
from graphc.specialise import specialise_nodes
from viz.model import Box, Cells, Line
from viz.view import View

MOST = 400  # nodes of a graph that is run node by node for a picture
LISTED = 4  # elements of a vector that are written out
CELLS = 10  # cells of a heat map in each direction, at most
WIDEST, THINNEST = 2.6, 0.55  # of an edge, relative to the theme's stroke


@dataclass
class Run:
    """One run of a view's graph: the value of every node, gradients of the loss, contributions by (node, operand's place)."""

    values: dict[Node, np.ndarray] = field(default_factory=dict)
    gradients: dict[Node, np.ndarray] = field(default_factory=dict)
    contributions: dict[tuple[Node, int], np.ndarray] = field(default_factory=dict)


def run_view(graph: Graph, inputs: Mapping[str, Any], loss: Node | None = None) -> Run:
    """Values of all nodes, and with a loss the gradient of each node and the contribution that each read makes to it.

    Args:
        inputs: an array (or number) for each input of the graph; variables have their present values.

    Raises:
        DrawError: the graph is too large for numbers, or the loss is no float scalar. InputError: inputs do not fit.
    """
    if len(graph.nodes) > MOST:
        raise DrawError(
            f"graph {graph.name} has {len(graph.nodes)} nodes; numbers are shown on up to {MOST}",
            help="draw a smaller graph with values=, or this one without",
        )
    found = Run()
    interpreter.run(graph, inputs, keep=found.values)
    if loss is not None:
        _sweep(found, graph, inputs, loss)
    return found


def _sweep(found: Run, graph: Graph, inputs: Mapping[str, Any], loss: Node) -> None:
    """Reverse accumulation with NumPy, one op's vjp at a time, so that each contribution is seen on its own."""
    if loss.shape != () or not loss.dtype.is_float:
        raise DrawError(f"numbers flow back from a float scalar, the loss is {loss.type}", source=loss.source)
    _, sizes = interpreter.check_inputs(graph, inputs)
    static = specialise_nodes(graph, sizes) if sizes else {n: n for n in graph.nodes}
    found.gradients[loss] = np.ones((), loss.dtype.numpy)
    flown: dict[Node, dict[int, np.ndarray]] = {}  # a scan has no value: cotangents reach it by the number of its result
    for node in reversed(graph.nodes):
        cotangents = flown.get(node, {}) if node.op is scan_op else {0: found.gradients[node]} if node in found.gradients else {}
        if not cotangents or node.op.is_source:
            continue
        if node.op is scan_result_op:
            held, index = flown.setdefault(node.inputs[0], {}), node.attrs["index"]
            found.contributions[node, 0] = cotangents[0]
            held[index] = held[index] + cotangents[0] if index in held else cotangents[0]
            continue
        for position, part in local_vjp(static[node], [found.values[i] for i in node.inputs], cotangents).items():
            operand = node.inputs[position]
            found.contributions[node, position] = part
            before = found.gradients.get(operand)
            found.gradients[operand] = part if before is None else before + part


@dataclass(frozen=True)
class Rule:
    """What one op adds to the gradients of its operands: nodes by the operand's place, over placeholders."""

    operands: list[Node]
    cotangents: list[Node]
    parts: dict[int, Node]


def local_rule(node: Node, results: Sequence[int] = (0,)) -> Rule:
    """The cotangent of each float operand of one op; ``results`` are those of a scan that something flows back to."""
    reverse = importlib.import_module("passes.differentiate").vjp  # by name: pictures depend on nothing that makes graphs
    places = [placeholder(i.type, f"operand{k}") for k, i in enumerate(node.inputs)]
    wanted = [k for k, i in enumerate(node.inputs) if i.dtype.is_float]
    if not wanted or not node.dtype.is_float:
        return Rule(places, [], {})
    made = node.op(*places, **node.attrs)
    heads = [scan_result(made, k) for k in results] if node.op is scan_op else [made]
    seeds = [placeholder(head.type, f"cotangent{k}") for k, head in enumerate(heads)]
    return Rule(places, seeds, dict(zip(wanted, reverse(heads, [places[k] for k in wanted], seeds), strict=True)))


def local_vjp(node: Node, operands: list[np.ndarray], cotangents: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The cotangent of each float operand of one op, by its place; ``cotangents`` by the number of the result (0 but of a scan).

    >>> from graphc import ops
    >>> x, y = ops.input("x"), ops.input("y")
    >>> {k: float(v) for k, v in local_vjp(x * y, [np.float32(2), np.float32(3)], {0: np.float32(1)}).items()}
    {0: 3.0, 1: 2.0}
    """
    rule = local_rule(node, list(cotangents))
    if not rule.parts:
        return {}
    graph = Graph("vjp", {f"c{k}": c for k, c in rule.parts.items()})
    arrays = {p.name: v for p, v in zip([*rule.operands, *rule.cotangents], [*operands, *cotangents.values()], strict=True)}
    results = interpreter.run(graph, {n.name: arrays[n.name] for n in graph.inputs})
    return {k: results[f"c{k}"] for k in rule.parts}


# --- how numbers are written ---------------------------------------------------------------------------------------


def number(value: Any, digits: int = 3) -> str:
    """A number as people write it: few digits, a true minus sign.

    >>> number(-0.00012345), number(3.0), number(float("nan")), number(1234567.0)
    ('−1.23e-4', '3', 'NaN', '1.23e6')
    """
    value = np.asarray(value).item()
    if isinstance(value, (bool, int)):
        return str(value).replace("-", "−")
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{digits - 1}e}" if 0 < abs(value) < 1e-3 else f"{value:.{digits}g}"
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        text = f"{mantissa}e{int(exponent)}"
    head = "−" if text.startswith("-") else ""
    return head + text.lstrip("-")


def latex_number(value: Any) -> str:
    r"""The same as LaTeX; negative numbers in parentheses, so that they can stand in a product.

    >>> latex_number(-2.5), latex_number(1e-9)
    ('({-}2.5)', '10^{-9}')
    """
    text = number(value).replace("−", "-").replace("∞", r"\infty ").replace("NaN", r"\mathrm{NaN}")
    mantissa, e, exponent = text.partition("e")
    if e:
        text = rf"10^{{{exponent}}}" if mantissa == "1" else rf"{mantissa}\cdot 10^{{{exponent}}}"
    return f"({{-}}{text[1:]})" if text.startswith("-") else text


def summary(value: np.ndarray) -> str:
    """Mean, spread and range of a tensor on one line; how many are not finite, if any.

    >>> summary(np.float32([1, 2, 3]))
    'mean 2 ± 0.816   1 … 3'
    """
    if value.size == 0:
        return "no elements"
    if value.dtype.kind == "b":
        return f"{int(value.sum())} of {value.size} true"
    finite = value[np.isfinite(value)] if value.dtype.kind == "f" else value
    if finite.size == 0:
        return "nothing finite"
    wide = finite.astype(np.float64)
    text = f"mean {number(wide.mean())} ± {number(wide.std())}   {number(wide.min())} … {number(wide.max())}"
    bad = value.size - finite.size
    return f"{bad} not finite!  {text}" if bad else text


def heat_map(value: np.ndarray) -> Cells | None:
    """A tensor as at most CELLS x CELLS cells of -1 .. 1: leading axes are folded, large blocks averaged, 0 stays 0.

    >>> heat_map(np.float32([[1, -2], [0, 4]])).rows
    ((0.25, -0.5), (0.0, 1.0))
    """
    if value.size < 2 or value.dtype.kind not in "fiub":
        return None
    matrix = value.astype(np.float64).reshape(-1, value.shape[-1]) if value.ndim > 1 else value.astype(np.float64)[None]
    if matrix.shape[1] == 1:
        matrix = matrix.T
    matrix = np.nan_to_num(matrix, nan=0.0, posinf=0.0, neginf=0.0)
    rows = [block.mean(axis=0) for block in np.array_split(matrix, min(CELLS, matrix.shape[0]), axis=0)]
    columns = [part.mean(axis=1) for part in np.array_split(np.stack(rows), min(2 * CELLS, matrix.shape[1]), axis=1)]
    small = np.stack(columns, axis=1)
    top = np.abs(small).max()
    small = small / top if top > 0 else small
    return Cells(tuple(tuple(round(float(x), 3) for x in row) for row in small))


def value_lines(value: np.ndarray, prefix: str = "") -> tuple[Line, ...]:
    """The lines of a box that show a value: a number, or a summary and a heat map."""
    if value.ndim == 0:
        return (Line(f"{prefix}= {number(value, 4)}", "value"),)
    if 0 < value.size <= LISTED and value.ndim == 1:
        return (Line(f"{prefix}({', '.join(number(v) for v in value)})", "stats"),)
    cells = heat_map(value)
    lines = (Line(prefix + summary(value), "stats"),)
    return (*lines, Line("", "cells", cells)) if cells is not None else lines


# --- onto the diagram ----------------------------------------------------------------------------------------------


def annotate(view: View, found: Run) -> None:
    """Put the numbers of a run into the boxes and onto the edges of a view's diagram."""
    diagram = view.diagram
    shared: dict[str, int] = {}
    for box_id in view.box_of.values():
        shared[box_id] = shared.get(box_id, 0) + 1
    for node, box_id in view.box_of.items():
        if shared[box_id] > 1 or node.op is scan_op:
            continue
        box = diagram.boxes[box_id]
        value = found.values[node]
        if node.op.name != "constant":
            _extend(diagram.boxes, box, value_lines(value), f"value: {summary(value) if value.ndim else number(value, 6)}")
        mirrored = diagram.boxes.get(f"g{box_id}")
        if mirrored is not None and node in found.gradients:
            gradient = found.gradients[node]
            tip = f"gradient: {summary(gradient) if gradient.ndim else number(gradient, 6)}"
            lines = value_lines(gradient) if mirrored.role != "adjoint" or gradient.ndim else ()
            _extend(diagram.boxes, mirrored, lines, tip)
    _edges(view, found)


def _extend(boxes: dict[str, Box], box: Box, lines: tuple[Line, ...], tip: str) -> None:
    boxes[box.id] = replace(box, lines=(*box.lines, *lines), tooltip=f"{box.tooltip}\n{tip}" if box.tooltip else tip)


def _edges(view: View, found: Run) -> None:
    """Labels of scalars, and widths by the norm of what an edge carries (backward: of the contribution)."""
    carried = carried_by(view, found)
    norms = {i: float(np.sqrt(np.square(v.astype(np.float64)).sum())) for i, v in carried.items()}
    logs = {i: math.log(n) for i, n in norms.items() if n > 0 and math.isfinite(n)}
    low, high = min(logs.values(), default=0.0), max(logs.values(), default=0.0)
    span = max(high - low, math.log(4.0))  # gradients of nearly one size are drawn nearly alike
    for index, value in carried.items():
        edge = view.diagram.edges[index]
        share = (logs[index] - high) / span + 1 if index in logs else 0.0
        label = number(value) if value.ndim == 0 else f"‖·‖ {number(norms[index], 2)}"
        tip = f"contribution: {number(value, 6) if value.ndim == 0 else summary(value)}\n{edge.tooltip}"
        width = THINNEST + (WIDEST - THINNEST) * max(share, 0.0)
        view.diagram.edges[index] = replace(edge, label=label, weight=width, tooltip=tip)


def carried_by(view: View, found: Run) -> dict[int, np.ndarray]:
    """What each backward edge carries: the contribution of the reads that the forward edge beside it shows, by the edge's index.

    Several values that one edge between collapsed boxes shows are one vector.
    """
    carried: dict[int, np.ndarray] = {}
    for index, edge in enumerate(view.diagram.edges):
        if edge.kind == "backward" and edge.mirror_of is not None:
            parts = _contributions(view, found, edge.mirror_of)
            if len(parts) == 1:
                carried[index] = parts[0]
            elif parts:
                carried[index] = np.concatenate([part.reshape(-1) for part in parts])
    return carried


def _contributions(view: View, found: Run, index: int) -> list[np.ndarray]:
    """What the reads behind a forward edge contribute to each of its tails, summed to the tail's shape where a broadcast is folded in."""
    totals: dict[tuple[Node, int], np.ndarray] = {}
    for tail, head, place in view.uses[index] if index < len(view.uses) else ():
        if (head, place) in found.contributions:
            part = found.contributions[head, place]
            part = part if tail.op is scan_op else sum_to(part, found.values[tail].shape)
            key = tail, head.attrs["index"] if tail.op is scan_op else 0
            totals[key] = totals[key] + part if key in totals else part
    return list(totals.values())


def sum_to(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The cotangent of a value that was broadcast to ``array``'s shape.

    >>> sum_to(np.ones((2, 3)), (3,)), sum_to(np.ones((2, 3)), (2, 1)).shape
    (array([2., 2., 2.]), (2, 1))
    """
    array = array.sum(axis=tuple(range(array.ndim - len(shape)))) if array.ndim > len(shape) else array
    stretched = tuple(k for k, (a, b) in enumerate(zip(array.shape, shape, strict=True)) if a != b)
    return array.sum(axis=stretched, keepdims=True) if stretched else array


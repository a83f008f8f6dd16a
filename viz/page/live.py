"""Live values: the reader edits an input or a weight, and forward and backward values are computed again in the page.

What enters: a page's context with values. What leaves: a pane with fields for every input and parameter, and the graph as JavaScript.
Invariants: the numbers come from the graph itself, lowered to loops and printed by :mod:`graphc.targets.js`, so no op's meaning is
written again; every number that the picture shows is an output of that program. Method: reverse accumulation over the picture's nodes as
in :func:`viz.values.run_view`, but with nodes in place of arrays.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphc import interpreter, ops
from graphc.errors import GraphcError
from graphc.ir import Graph, Node
from graphc.ops.declare import placeholder
from graphc.specialise import specialise_nodes
from graphc.types import TensorType
from viz.page.pane import Context, Pane
from viz.scene import SHADES
from viz.steps import steps_of
from viz.theme import VARIABLES
from viz.values import CELLS, THINNEST, WIDEST
from viz.view import View

MOST = 2_000  # elements of inputs and parameters that are edited in a page
LARGEST = 400_000  # characters of the printed program


def pane(context: Context) -> Pane | None:
    """The pane; None without values, for large graphs, and for ops that have no JavaScript."""
    view = context.view
    if view is None or context.values is None:
        return None
    edited = [n for n in (*view.graph.inputs, *view.graph.parameters)]
    try:
        arrays, sizes = interpreter.check_inputs(view.graph, context.values)
        arrays = {**arrays, **{n.name: n.attrs["variable"].value for n in view.graph.parameters}}
        if sum(np.size(arrays[n.name]) for n in edited) > MOST:
            return None
        data, code = _made(view, context, edited, arrays, sizes)
    except GraphcError:
        return None  # an op that pages cannot compute: the picture keeps its numbers
    if len(code) > LARGEST:
        return None
    html = (
        '<p class="gp-live-how">Change a number: every value and gradient is computed again here.</p>'
        '<div class="gp-live-fields"></div><p class="gp-live-result" aria-live="polite"></p>'
        '<div class="gp-live-descent" hidden>'
        '<label>Learning rate <input class="gp-live-rate" type="number" value="0.1" step="0.05"></label> '
        '<button class="gp-live-step">Gradient step</button>'
        '<svg class="gp-live-curve" role="img" aria-label="The loss, step by step"></svg></div>'
        '<p class="gp-live-inner" hidden>The picture inside shows the numbers that the page was made with.</p>'
        '<button class="gp-live-reset">Reset</button>'
    )
    return Pane("live", "Live values", html, data, code)


def _made(
    view: View, context: Context, edited: list[Node], arrays: Mapping[str, Any], sizes: Mapping[str, int]
) -> tuple[dict[str, Any], str]:
    """The pane's data, and the program as JavaScript."""
    static = specialise_nodes(view.graph, sizes) if sizes else {n: n for n in view.graph.nodes}
    loss = next((n for b, n in view.outputs.items() if f"g{b}" in context.diagram.boxes), None)
    gradients, contributions = _sweep(view.graph, static, loss) if loss is not None else ({}, {})
    outputs: dict[str, Node] = {}
    boxes: dict[str, list[dict[str, Any]]] = {}
    counts: dict[str, int] = {}
    for box in view.box_of.values():
        counts[box] = counts.get(box, 0) + 1
    for node, box in view.box_of.items():
        if counts[box] > 1 or node.op.name == "constant":
            continue
        _shown(boxes, outputs, context, box, f"v:{box}", static[node])
        if node in gradients and f"g{box}" in context.diagram.boxes:
            _shown(boxes, outputs, context, f"g{box}", f"g:{box}", gradients[node])
            _worked_out(boxes, outputs, context, box, node, contributions)
    edges = _edges(view, context, static, contributions, outputs)
    if loss is not None:
        outputs["loss"] = static[loss]
    driver, printer = importlib.import_module("graphc.driver"), importlib.import_module("graphc.targets.js")
    trace = importlib.import_module("graphc.trace").Trace()
    graph = Graph("live", outputs)
    loops = driver.build_loops(graph, driver.Options(target="interpreter"), trace)
    slots = {s.variable: s.name for s in loops.role("parameter")}
    fields = []
    for node in edited:
        buffer = slots.get(node.attrs["variable"], "") if node.op.name == "parameter" else node.name
        if not any(s.name == buffer for s in loops.buffers.values()):
            continue
        value = np.asarray(arrays[node.name])
        gradient = f"out.g:{view.box_of[node]}" if f"g:{view.box_of[node]}" in outputs else ""
        fields.append({
            "buffer": buffer, "label": node.name, "box": view.box_of[node], "shape": list(value.shape), "kind": node.dtype.kind,
            "values": _numbers(value), "parameter": node.op.name == "parameter" or (loss is not None and not view.graph.parameters),
            "gradient": gradient,
        })  # fmt: skip
    told = [s.sentence for s in steps_of(_without_values(context))]
    lines = {box: len(context.diagram.boxes[box].lines) for box in boxes}
    data = {"fields": fields, "boxes": boxes, "count": lines, "edges": edges, "say": told,
            "loss": "out.loss" if loss is not None else "", "cells": CELLS, "shades": SHADES,
            "widths": [THINNEST, WIDEST, VARIABLES.stroke]}  # fmt: skip
    return data, printer.program_source(loops)


def _without_values(context: Context) -> Any:
    """The same diagram without numbers: its sentences stay true when numbers change."""
    adapt = importlib.import_module("viz.adapt")
    shown = context.what if context.program is None else context.program.trace.stage("declared").artifact
    return adapt.view_of(shown, **context.options).diagram


def _numbers(value: np.ndarray) -> list[Any]:
    return [v if math.isfinite(v) else str(v) for v in value.reshape(-1).tolist()]


def _sweep(
    graph: Graph, static: Mapping[Node, Node], loss: Node
) -> tuple[dict[Node, Node], dict[tuple[Node, int], Node]]:
    """Gradient of every node, and the contribution of every read, as nodes over the static graph."""
    reverse = importlib.import_module("passes.differentiate").vjp
    gradients: dict[Node, Node] = {loss: ops.ones((), loss.dtype)}
    contributions: dict[tuple[Node, int], Node] = {}
    for node in reversed(graph.nodes):
        cotangent = gradients.get(node)
        if cotangent is None or node.op.is_source or not node.dtype.is_float:
            continue
        wanted = [k for k, i in enumerate(node.inputs) if i.dtype.is_float]
        if not wanted:
            continue
        fixed = static[node]
        places = [placeholder(i.type, f"operand{k}") for k, i in enumerate(fixed.inputs)]
        seed = placeholder(fixed.type, "cotangent")
        real = {p: i for p, i in zip([*places, seed], [*fixed.inputs, cotangent], strict=True)}
        made = reverse(fixed.op(*places, **fixed.attrs), [places[k] for k in wanted], seed)
        for part in Graph("vjp", {f"c{k}": c for k, c in zip(wanted, made, strict=True)}).nodes:
            if part not in real:
                real[part] = part.with_inputs(tuple(real[i] for i in part.inputs))
        for k, local in zip(wanted, made, strict=True):
            part, operand = real[local], node.inputs[k]
            contributions[node, k] = part
            before = gradients.get(operand)
            gradients[operand] = part if before is None else ops.add(before, part)
    return gradients, contributions


def _shown(
    boxes: dict[str, list[dict[str, Any]]], outputs: dict[str, Node], context: Context, box: str, key: str, node: Node
) -> None:
    """Note which lines of a box show a value."""
    outputs[key] = node
    rows = boxes.setdefault(box, [])
    for place, line in enumerate(context.diagram.boxes[box].lines):
        if line.style in ("value", "stats", "cells"):
            rows.append({"line": place, "style": line.style, "out": f"out.{key}"})


def _worked_out(
    boxes: dict[str, list[dict[str, Any]]], outputs: dict[str, Node], context: Context, box: str, node: Node,
    contributions: Mapping[tuple[Node, int], Node],
) -> None:  # fmt: skip
    """The lines of a chain rule that end in a number: one an operand whose gradient they add to, in order."""
    lines = [k for k, line in enumerate(context.diagram.boxes[f"g{box}"].lines) if line.text.startswith("{} =")]
    flowing = [k for k in range(len(node.inputs)) if (node, k) in contributions]
    for line, place in zip(lines, flowing, strict=False):
        key = f"c:{box}:{place}"
        outputs[key] = contributions[node, place]
        boxes.setdefault(f"g{box}", []).append({"line": line, "style": "formula", "out": f"out.{key}"})


def _edges(
    view: View, context: Context, static: Mapping[Node, Node], contributions: Mapping[tuple[Node, int], Node],
    outputs: dict[str, Node],
) -> dict[str, str]:  # fmt: skip
    """Edge id -> the output that its label shows."""
    found: dict[str, str] = {}
    for index, edge in enumerate(context.diagram.edges):
        if edge.kind != "backward" or edge.mirror_of is None or not edge.label or edge.mirror_of >= len(view.uses):
            continue
        parts = [
            _summed_to(contributions[head, place], static[tail].type)
            for tail, head, place in view.uses[edge.mirror_of]
            if (head, place) in contributions
        ]
        if parts:
            total = parts[0]
            for part in parts[1:]:
                total = ops.add(total, part)
            outputs[f"e:{index}"] = total
            found[f"e{index}"] = f"out.e:{index}"
    return found


def _summed_to(node: Node, type_: TensorType) -> Node:
    """The cotangent of a value that was broadcast to the node's shape."""
    if node.shape == type_.shape:
        return node
    extra = node.ndim - type_.rank
    axes = (*range(extra), *(extra + k for k, n in enumerate(type_.shape) if n == 1 and node.shape[extra + k] != 1))
    return ops.reshape(ops.sum(node, axis=axes), type_.shape)

"""Live values: the reader edits an input or a weight, and forward and backward values are computed again in the page.

What enters: a page's context with values. What leaves: a pane with fields for every input and parameter, and the graph as JavaScript.
What is inside of collapsed boxes follows too.
Invariants: the numbers come from the graph itself, lowered to loops and printed by :mod:`graphc.targets.js`, so no op's meaning is
written again; every number that the picture shows is an output of that program. Method: reverse accumulation over the picture's nodes as
in :func:`viz.values.run_view`, but with nodes in place of arrays.
"""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc import interpreter, ops
from graphc.errors import GraphcError
from graphc.ir import Graph, Node
from graphc.ops.scan import scan_op, scan_result_op
from graphc.specialise import specialise_nodes
from graphc.types import TensorType
from viz.flow import EVEN, THIN, WIDE, start_node, whole_gradients
from viz.model import Box
from viz.page.pane import Context, Pane
from viz.scene import SHADES
from viz.steps import steps_of
from viz.theme import VARIABLES
from viz.values import CELLS, THINNEST, WIDEST, local_rule
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
        sheets = _sheets(context)
        data, code = _made(sheets, edited, arrays, sizes)
        if len(code) > LARGEST and len(sheets) > 1:
            data, code = _made(sheets[:1], edited, arrays, sizes)
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
        '<p class="gp-live-inner" hidden>The picture inside shows the numbers that the page was made with: computing them too would '
        "make this page too large.</p>"
        '<button class="gp-live-reset">Reset</button>'
    )
    return Pane("live", "Live values", html, data, code)


@dataclass
class _Sheet:
    """A picture whose numbers follow what is edited: the whole, or what is inside of a box.

    ``of`` leads from its nodes to those of the whole, ``plain`` are its sentences without numbers, ``place`` sets its keys apart.
    """

    view: View
    of: Mapping[Node, Node]
    plain: list[str]
    place: str = ""


@dataclass
class _Program:
    """What the page computes: values of the whole's nodes at given sizes, what flows back, and what is an output so far."""

    static: Mapping[Node, Node]
    gradients: Mapping[Node, Node]
    contributions: Mapping[tuple[Node, int], Node]
    outputs: dict[str, Node] = field(default_factory=dict)
    keys: dict[Node, str] = field(default_factory=dict)

    def key(self, node: Node, wanted: str) -> str:
        """The buffer of a value, which is computed once however often it is shown."""
        if node not in self.keys:
            self.outputs[wanted] = node
            self.keys[node] = f"out.{wanted}"
        return self.keys[node]


def _sheets(context: Context) -> list[_Sheet]:
    """The whole, and what is inside of its boxes."""
    view = context.view
    assert view is not None
    told = [s.sentence for s in steps_of(_without_values(context))]
    return [
        _Sheet(view, {n: n for n in view.graph.nodes}, told),
        *(_Sheet(d.view, d.outer, d.plain, f"d{k}/") for k, d in enumerate(context.details)),
    ]


def _made(
    sheets: Sequence[_Sheet], edited: Sequence[Node], arrays: Mapping[str, Any], sizes: Mapping[str, int]
) -> tuple[dict[str, Any], str]:
    """The pane's data, and the program as JavaScript."""
    view = sheets[0].view
    static = specialise_nodes(view.graph, sizes) if sizes else {n: n for n in view.graph.nodes}
    loss = next((n for b, n in view.outputs.items() if f"g{b}" in view.diagram.boxes), None)
    program = _Program(static, *(_sweep(view.graph, static, loss) if loss is not None else ({}, {})))
    shown = [_of_sheet(sheet, program) for sheet in sheets]
    loss_key = program.key(static[loss], "loss") if loss is not None else ""
    for node in edited:
        if node in program.gradients:
            program.key(program.gradients[node], f"d:{view.box_of[node]}")  # what a gradient step moves along, shown or not
    flow = None
    if loss is not None and view.diagram.decades is not None:
        start = program.key(program.gradients[start_node(program.gradients, loss)], "start")
        flow = {"start": start, "decades": view.diagram.decades, "widths": [THIN, EVEN, WIDE]}
    driver, printer = importlib.import_module("graphc.driver"), importlib.import_module("graphc.targets.js")
    trace = importlib.import_module("graphc.trace").Trace()
    loops = driver.build_loops(Graph("live", program.outputs), driver.Options(target="interpreter"), trace)
    data = {"fields": _fields(sheets, program, loops, edited, arrays, loss), "sheets": shown, "loss": loss_key,
            "cells": CELLS, "shades": SHADES, "widths": [THINNEST, WIDEST, VARIABLES.stroke], "flow": flow}  # fmt: skip
    return data, printer.program_source(loops)


def _fields(
    sheets: Sequence[_Sheet], program: _Program, loops: Any, edited: Sequence[Node], arrays: Mapping[str, Any], loss: Node | None
) -> list[dict[str, Any]]:
    """What is edited: the buffer, its numbers, the boxes that show it and the buffer of its gradient."""
    slots = {s.variable: s.name for s in loops.role("parameter")}
    view = sheets[0].view
    places: dict[Node, list[str]] = {}
    for sheet in sheets:
        for node, box in sheet.view.box_of.items():
            places.setdefault(sheet.of.get(node, node), []).append(f"node:{sheet.place}{box}")
    fields = []
    for node in edited:
        buffer = slots.get(node.attrs["variable"], "") if node.op.name == "parameter" else node.name
        if not any(s.name == buffer for s in loops.buffers.values()):
            continue
        value = np.asarray(arrays[node.name])
        fields.append({
            "buffer": buffer, "label": node.name, "keys": places[node], "shape": list(value.shape), "kind": node.dtype.kind,
            "values": _numbers(value), "parameter": node.op.name == "parameter" or (loss is not None and not view.graph.parameters),
            "gradient": program.keys.get(program.gradients.get(node, node), "") if node in program.gradients else "",
        })  # fmt: skip
    return fields


def _of_sheet(sheet: _Sheet, program: _Program) -> dict[str, Any]:
    """Which lines of a picture's boxes and which of its edges show which value."""
    view = sheet.view
    drawn = view.diagram.boxes
    boxes: dict[str, list[dict[str, Any]]] = {}
    counts = Counter(view.box_of.values())
    for node, box in view.box_of.items():
        whole = sheet.of.get(node)
        if counts[box] > 1 or node.op.name == "constant" or node.op is scan_op or whole is None:
            continue
        boxes[box] = _lines(drawn[box], program.key(program.static[whole], f"v:{sheet.place}{box}"))
        if whole in program.gradients and f"g{box}" in drawn:
            out = program.key(program.gradients[whole], f"g:{sheet.place}{box}")
            boxes[f"g{box}"] = _lines(drawn[f"g{box}"], out) + _worked_out(sheet, program, box, whole)
    return {"boxes": boxes, "count": {box: len(drawn[box].lines) for box in boxes}, "edges": _edges(sheet, program),
            "say": sheet.plain}  # fmt: skip


def _lines(box: Box, out: str) -> list[dict[str, Any]]:
    """Which lines of a box show a value; a tooltip and a heat map do where no line does."""
    shown = [{"line": k, "style": line.style, "out": out} for k, line in enumerate(box.lines) if line.style in ("value", "stats", "cells")]
    return shown or [{"line": -1, "style": "tooltip", "out": out}]


def _worked_out(sheet: _Sheet, program: _Program, box: str, whole: Node) -> list[dict[str, Any]]:
    """The lines of a chain rule that end in a number: one an operand whose gradient they add to, in order."""
    lines = [k for k, line in enumerate(sheet.view.diagram.boxes[f"g{box}"].lines) if line.text.startswith("{} =")]
    return [
        {"line": line, "style": "formula", "out": program.key(program.contributions[whole, place], f"c:{sheet.place}{box}:{place}")}
        for line, place in zip(lines, sheet.view.worked.get(box, ()), strict=False)
    ]


def _without_values(context: Context) -> Any:
    """The same diagram without numbers: its sentences stay true when numbers change."""
    adapt = importlib.import_module("viz.adapt")
    shown = context.what if context.program is None else context.program.trace.stage("declared").artifact
    return adapt.view_of(shown, **{**context.options, "flow": False}).diagram


def _numbers(value: np.ndarray) -> list[Any]:
    return [v if math.isfinite(v) else str(v) for v in value.reshape(-1).tolist()]


def _sweep(
    graph: Graph, static: Mapping[Node, Node], loss: Node
) -> tuple[dict[Node, Node], dict[tuple[Node, int], Node]]:
    """Gradient of every node, and the contribution of every read, as nodes over the static graph."""
    gradients: dict[Node, Node] = {loss: ops.ones((), loss.dtype)}
    contributions: dict[tuple[Node, int], Node] = {}
    flown: dict[Node, dict[int, Node]] = {}
    for node in reversed(graph.nodes):
        cotangents = flown.get(node, {}) if node.op is scan_op else {0: gradients[node]} if node in gradients else {}
        if not cotangents or node.op.is_source or not node.dtype.is_float:
            continue
        if node.op is scan_result_op:
            held, index = flown.setdefault(node.inputs[0], {}), node.attrs["index"]
            contributions[node, 0] = cotangents[0]
            held[index] = ops.add(held[index], cotangents[0]) if index in held else cotangents[0]
            continue
        rule, fixed = local_rule(static[node], list(cotangents)), static[node]
        real = dict(zip([*rule.operands, *rule.cotangents], [*fixed.inputs, *cotangents.values()], strict=False))
        for part in Graph("vjp", {f"c{k}": c for k, c in rule.parts.items()}).nodes if rule.parts else ():
            if part not in real:
                real[part] = part.with_inputs(tuple(real[i] for i in part.inputs))
        for k, local in rule.parts.items():
            operand = node.inputs[k]
            contributions[node, k] = real[local]
            before = gradients.get(operand)
            gradients[operand] = real[local] if before is None else ops.add(before, real[local])
    return gradients, contributions


def _edges(sheet: _Sheet, program: _Program) -> dict[str, list[str]]:
    """Edge id -> the values that it carries: one for each of its tails."""
    view = sheet.view
    found: dict[str, list[str]] = {}
    alone = whole_gradients(view)
    for index, edge in enumerate(view.diagram.edges):
        if edge.kind != "backward" or (not edge.label and edge.shade is None):
            continue
        totals: dict[tuple[Node, int], Node] = {}
        for tail, head, place in view.uses[edge.mirror_of] if edge.mirror_of is not None and edge.mirror_of < len(view.uses) else ():
            part, whole = program.contributions.get((sheet.of.get(head, head), place)), sheet.of.get(tail)
            if part is None or whole is None:
                continue
            key = whole, head.attrs["index"] if tail.op is scan_op else 0
            part = part if tail.op is scan_op else _summed_to(part, program.static[whole].type)
            totals[key] = ops.add(totals[key], part) if key in totals else part
        node = sheet.of.get(alone[index]) if index in alone and edge.shade is not None else None
        if not totals and node is not None and node in program.gradients:
            found[f"e{index}"] = [program.key(program.gradients[node], f"e:{sheet.place}{index}")]
        if totals:
            found[f"e{index}"] = [program.key(part, f"e:{sheet.place}{index}:{k}") for k, part in enumerate(totals.values())]
    return found


def _summed_to(node: Node, type_: TensorType) -> Node:
    """The cotangent of a value that was broadcast to the node's shape."""
    if node.shape == type_.shape:
        return node
    extra = node.ndim - type_.rank
    axes = (*range(extra), *(extra + k for k, n in enumerate(type_.shape) if n == 1 and node.shape[extra + k] != 1))
    return ops.reshape(ops.sum(node, axis=axes), type_.shape)

"""Export: graphs for tools that browse giants.

What enters: a value, a dict of values, a Graph, a stage or a program. What leaves: the JSON that Model Explorer opens (collection, graphs,
nodes with namespace, attributes, incoming edges and the type of what they give). Invariants: one node a node of the graph, in its order,
with the user's scopes as namespaces; ids are deterministic; the work is linear. ::

    graphc.export(loss, "loss.json")        # then: model-explorer loss.json

Source: Model Explorer (Google AI Edge), the JSON format of its graph collections.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from graphc.errors import DrawError
from graphc.ir import Graph, Node
from graphc.text import value_names
from graphc.trace import Stage
from viz.adapt import graph_of
from viz.render import write_file
from viz.view import is_backward, scope_of, short_name

_LONG = 400  # characters of an attribute's value


def export(what: Any, path: str | os.PathLike[str], *, name: str | None = None) -> None:
    """Write a graph for Model Explorer.

    Args:
        what: a value, a dict of values, a Graph, a Stage with a graph, or a Program. path: the file, ``x.json``.
        name: of the graph; its own unless said.

    Raises:
        DrawError: it has no graph, another suffix than .json, a file that cannot be written.

    >>> import json, tempfile, os
    >>> from graphc import ops
    >>> file = os.path.join(tempfile.mkdtemp(), "product.json")
    >>> export(ops.input("a") * ops.input("b"), file, name="product")
    >>> [node["label"] for node in json.load(open(file))["graphs"][0]["nodes"]]
    ['a', 'b', 'mul', 'output']
    """
    file = Path(path)
    if file.suffix.lower() != ".json":
        raise DrawError(f"{file.name}: graphs are exported as JSON", help="name a file that ends in .json")
    shown = what.artifact if isinstance(what, Stage) else what
    graph = graph_of(shown, name)
    data = collection(graph, name or graph.name)
    write_file(file, json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "replace"))


def collection(graph: Graph, name: str) -> dict[str, Any]:
    """A graph as a collection of one graph."""
    ids = {node: f"n{k}" for k, node in enumerate(graph.nodes)}
    names = value_names(graph)
    nodes = [_node(node, ids, names.get(node, "")) for node in graph.nodes]
    for kind, roots in (("output", graph.outputs.items()), ("update", [(k.name, v) for k, v in graph.updates.items()])):
        for k, (key, node) in enumerate(roots):
            nodes.append({
                "id": f"{kind}{k}", "label": key, "namespace": "", "attrs": _pairs({"role": kind, "type": str(node.type)}),
                "incomingEdges": [_edge(ids[node], 0)],
            })  # fmt: skip
    return {"label": name, "graphs": [{"id": name, "collectionLabel": name, "nodes": nodes}]}


def _node(node: Node, ids: dict[Node, str], value: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"op": node.op.name, "value": value, "role": _role(node)}
    facts |= {key: _short(item) for key, item in node.attrs.items() if key != "variable"}
    if node.source is not None:
        facts["source"] = node.source.short
    derived = [str(o) for o in node.origins if o.rule]
    if derived:
        facts["origin"] = ", ".join(derived[:4])
    made: dict[str, Any] = {
        "id": ids[node], "label": (short_name(node) if node.op.is_source and node.name else node.op.name),
        "namespace": "/".join(part.replace("/", "∕") for part in scope_of(node)), "attrs": _pairs(facts),
        "outputsMetadata": [{"id": "0", "attrs": _pairs({"tensor_shape": str(node.type), "dtype": str(node.dtype)})}],
    }  # fmt: skip
    if node.inputs:
        made["incomingEdges"] = [_edge(ids[operand], place) for place, operand in enumerate(node.inputs)]
    return made


def _role(node: Node) -> str:
    if node.op.is_source:
        return node.op.name
    return "backward" if is_backward(node) else "forward"


def _edge(source: str, place: int) -> dict[str, str]:
    return {"sourceNodeId": source, "sourceNodeOutputId": "0", "targetNodeInputId": str(place)}


def _pairs(facts: dict[str, Any]) -> list[dict[str, str]]:
    return [{"key": key, "value": str(value)} for key, value in facts.items()]


def _short(value: Any) -> str:
    """An attribute as text: arrays by type and a few elements, graphs by name."""
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"{value.dtype}{list(value.shape)}"
    text = repr(value.tolist()) if isinstance(value, np.ndarray) else str(value)
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"

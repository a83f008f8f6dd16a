"""Graphs for Model Explorer and networkx: complete, in order, quick, and hostile names stay text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import graphc
from graphc import nn, ops
from graphc.errors import DrawError
from graphc.ir import Graph


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    data = json.loads(path.read_text("utf-8"))
    (graph,) = data["graphs"]
    return data, {node["id"]: node for node in graph["nodes"]}


def facts(node: dict[str, Any]) -> dict[str, str]:
    return {pair["key"]: pair["value"] for pair in node["attrs"]}


def training() -> Graph:
    x, t = ops.input("x", (4, 8)), ops.input("t", (4, 2))
    net = nn.Sequential(nn.Dense(5, activation="relu"), nn.Dense(2), name="net")
    loss = graphc.losses.mse(net(x), t)
    return Graph("step", {"loss": loss, **{f"d{k}": g for k, g in enumerate(graphc.grad(loss, net.parameters()))}})


def test_every_node_and_every_operand_is_there(tmp_path: Path) -> None:
    graph = training()
    graphc.export(graph, tmp_path / "g.json")
    data, nodes = read(tmp_path / "g.json")
    assert data["label"] == "step" and len(nodes) == len(graph.nodes) + len(graph.outputs)
    edges = [(e["sourceNodeId"], n) for n, node in nodes.items() for e in node.get("incomingEdges", ())]
    assert len(edges) == sum(len(n.inputs) for n in graph.nodes) + len(graph.outputs)
    assert all(source in nodes for source, _ in edges)
    for k, node in enumerate(graph.nodes):
        made = nodes[f"n{k}"]
        assert facts(made)["op"] == node.op.name
        assert facts(made["outputsMetadata"][0])["tensor_shape"] == str(node.type)
        assert [e["targetNodeInputId"] for e in made.get("incomingEdges", [])] == [str(i) for i in range(len(node.inputs))]
    assert {n["namespace"] for n in nodes.values()} >= {"", "net/dense_0", "net/dense_1"}
    roles = {facts(n)["role"] for n in nodes.values()}
    assert roles >= {"input", "parameter", "forward", "backward", "output"}
    assert all("test_export.py" in facts(nodes[f"n{k}"]).get("source", "test_export.py") for k in range(len(graph.nodes)))


def test_programs_stages_and_values(tmp_path: Path) -> None:
    x = ops.input("x", (4,))
    program = graphc.compile(ops.tanh(x) * 2.0, cache=False)
    for what in (ops.tanh(x), {"y": ops.tanh(x)}, program, program.trace.stages[0]):
        graphc.export(what, tmp_path / "p.json")
        assert "tanh" in {facts(n).get("op") for n in read(tmp_path / "p.json")[1].values()}


def test_hostile_names_and_large_graphs(tmp_path: Path) -> None:
    with graphc.scope("a/b</script>"):
        value = ops.tanh(ops.input("名"))
    graphc.export(value, tmp_path / "h.json")
    spaces = {n["namespace"] for n in read(tmp_path / "h.json")[1].values()}
    assert any(s.endswith("b<∕script>") for s in spaces)
    node = ops.input("x")
    for _ in range(20_000):
        node = node + 1.0
    graphc.export(node, tmp_path / "big.json")
    assert len(read(tmp_path / "big.json")[1]) > 20_000


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(DrawError, match=r"\.json"):
        graphc.export(ops.input("x"), tmp_path / "g.svg")
    with pytest.raises(DrawError, match="cannot be drawn"):
        graphc.export(3, tmp_path / "g.json")


def test_networkx_has_all_attributes() -> None:
    graph = training()
    made = graph.to_networkx()
    assert made.number_of_nodes() == len(graph.nodes) and made.number_of_edges() == sum(len(n.inputs) for n in graph.nodes)
    for k, node in enumerate(graph.nodes):
        seen = made.nodes[k]
        assert (seen["op"], seen["shape"], seen["dtype"]) == (node.op.name, tuple(map(str, node.shape)), str(node.dtype))
        assert seen["line"] == node.source.line and seen["file"] == node.source.file
    assert any(data["primal"] is not None for _, data in made.nodes(data=True))
    assert [data["outputs"] for _, data in made.nodes(data=True) if "loss" in data["outputs"]] == [("loss",)]

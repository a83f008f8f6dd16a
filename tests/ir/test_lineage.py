"""Lineage: a node of any stage says which declared nodes it is a copy of."""

from __future__ import annotations

import graphc
from graphc import nn, ops
from graphc.ir import Graph
from graphc.specialise import specialise


def test_copies_keep_the_lineage() -> None:
    x, y = ops.input("x"), ops.input("y")
    total = x + y
    assert total.lineage == (total.uid,)
    other = total.with_inputs((y, x))
    assert other is not total and other.lineage == total.lineage == other.named("sum").with_inputs((x, y)).lineage
    product = x * y
    assert other.standing_for(product).lineage == (total.uid, product.uid)


def test_merged_nodes_stand_for_all() -> None:
    x = ops.input("x", (4,))
    first, second = ops.tanh(x), ops.tanh(x)
    program = graphc.compile({"a": first * 2.0, "b": second * 3.0}, target="cpu", cache=False)
    (merged,) = (n for n in program.trace.stage("cse").artifact.nodes if n.op.name == "tanh")
    assert {first.uid, second.uid} <= set(merged.lineage)


def test_sizes_keep_the_lineage() -> None:
    graph = Graph("g", {"y": ops.tanh(ops.input("x", ("n",)))})
    static = specialise(graph, {"n": 3})
    assert [n.lineage for n in static.nodes] == [n.lineage for n in graph.nodes]


def test_products_of_a_training_step_lead_to_declared_ones() -> None:
    with graphc.seed(0):
        image, label = ops.input("image", (8, 20)), ops.input("label", (8,), "int32")
        net = nn.Sequential(nn.Dense(16, activation="relu"), nn.Dense(4), name="net")
        loss = graphc.losses.cross_entropy(net(image), label)
    program = graphc.compile({"loss": loss}, updates=graphc.optim.SGD(0.1).updates(loss, net.parameters()), target="cpu")
    declared = {uid for n in program.trace.stage("declared").artifact.nodes for uid in n.lineage}
    found = [n for k in program.loops.kernels.values() for n in k.nodes if n.op.name == "matmul"]
    assert len(found) == 5 and all(declared & set(n.lineage) for n in found if not any(o.parents for o in n.origins))

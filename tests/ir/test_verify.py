"""The verifier: each broken invariant is found and shown among its neighbours; one broken graph a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from graphc import ops
from graphc.errors import GraphError, VerifyError
from graphc.ir import REGISTRY, Graph, Node, make
from graphc.types import TensorType, float32, int32
from graphc.verify import verify


def bad(op: str, inputs: tuple[Node, ...], type_: TensorType, **attrs: object) -> Node:
    return Node(REGISTRY[op], inputs, attrs, type_)


def vector(name: str = "x", size: int = 3) -> Node:
    return ops.input(name, (size,))


def wrong_type() -> Graph:
    return Graph("g", {"y": bad("exp", (vector(),), TensorType(float32, (4,)))})


def forbidden_operands() -> Graph:
    return Graph("g", {"y": bad("add", (vector(), vector("z", 4)), TensorType(float32, (3,)))})


def too_few_operands() -> Graph:
    return Graph("g", {"y": bad("add", (vector(),), TensorType(float32, (3,)))})


def missing_attribute() -> Graph:
    return Graph("g", {"y": bad("sum", (vector(),), TensorType(float32, ()))})


def unhashable_attribute() -> Graph:
    return Graph("g", {"y": bad("sum", (vector(),), TensorType(float32, ()), axes=[0])})


def cycle() -> Graph:
    a = ops.exp(vector())
    b = ops.neg(a)
    a.inputs = (b,)
    return Graph("g", {"y": b})


def foreign_operand() -> Graph:
    y = ops.neg(ops.exp(vector()))
    y.inputs = (np.zeros(3),)  # type: ignore[assignment]
    graph = Graph.__new__(Graph)  # a broken pass does not run __post_init__ either
    for field, value in (("name", "g"), ("outputs", {"y": y}), ("updates", {}), ("declared_inputs", ())):
        object.__setattr__(graph, field, value)
    object.__setattr__(graph, "nodes", (y,))
    return graph


def foreign_op() -> Graph:
    fake = replace(REGISTRY["exp"], doc="an impostor")
    return Graph("g", {"y": Node(fake, (vector(),), {}, TensorType(float32, (3,)))})


def no_origin() -> Graph:
    x = vector()
    return Graph("g", {"y": Node(REGISTRY["exp"], (x,), {}, x.type, origins=())})


def writable_constant() -> Graph:
    return Graph("g", {"y": bad("constant", (), TensorType(float32, (2,)), value=np.zeros(2, np.float32))})


def renamed_input() -> Graph:
    return Graph("g", {"y": ops.exp(vector().named("other"))})


def ill_typed_update() -> Graph:
    w = ops.parameter("w", (3,))
    return Graph("g", {"y": w}, {w: ops.sum(w)})


def update_of_an_input() -> Graph:
    x = vector()
    return Graph("g", {"y": x}, {x: ops.exp(x)})


def updated_twice() -> Graph:
    w = ops.parameter("w", (3,))
    again = ops.parameter_node(w.attrs["variable"])
    return Graph("g", {"y": w}, {w: ops.exp(w), again: ops.neg(w)})


def unnamed_output() -> Graph:
    return Graph("g", {"": vector()})


def no_node() -> Graph:
    graph = Graph("g", {"y": vector()})
    object.__setattr__(graph, "outputs", {"y": 3})
    return graph


BROKEN: dict[Callable[[], Graph], str] = {
    wrong_type: "it has the wrong type: exp gives f32[3]",
    forbidden_operands: "shapes differ, f32[3] against f32[4]",
    too_few_operands: "add: takes 2 operands, got 1",
    missing_attribute: "axes",
    unhashable_attribute: "attribute axes is list, which does not hash and print",
    cycle: "not defined before it (the graph has a cycle)",
    foreign_operand: "operand 0 is ndarray, not a Node",
    foreign_op: "is not the registered one",
    no_origin: "it has no origin",
    writable_constant: "its value is no read-only array",
    renamed_input: "it is named 'other' but declared as 'x'",
    ill_typed_update: "it updates w, which is f32[3], with f32[]",
    update_of_an_input: "it is updated but is no parameter",
    updated_twice: "variable w is updated twice",
    unnamed_output: "an output of graph g is named ''",
    no_node: "output y of graph g is int, not a Node",
}


@pytest.mark.parametrize("make", BROKEN, ids=lambda f: f.__name__)
def test_broken(make: Callable[[], Graph]) -> None:
    with pytest.raises(VerifyError) as error:
        verify(make())
    assert BROKEN[make] in str(error.value)


def test_the_error_shows_neighbours_and_the_users_line() -> None:
    x = vector()
    a = ops.tanh(ops.neg(x))
    broken = bad("exp", (a,), TensorType(float32, (4,)))
    broken.source = a.source
    with pytest.raises(VerifyError) as error:
        verify(Graph("g", {"y": Node(REGISTRY["neg"], (broken,), {}, broken.type)}))
    lines = str(error.value).splitlines()
    assert lines[0].startswith("%2: f32[4] = exp(%1): it has the wrong type") and "test_verify.py" in lines[0]
    assert [line.strip() for line in lines[1:]] == [
        "%0: f32[3] = neg(%x)", "%1: f32[3] = tanh(%0)", "> %2: f32[4] = exp(%1)", "%3: f32[4] = neg(%2)",
    ]  # fmt: skip


def test_duplicate_names_are_refused_by_the_graph_already() -> None:
    with pytest.raises(GraphError, match="two inputs are named 'x'"):
        Graph("g", {"y": vector() + vector()})


def test_good_graphs_pass() -> None:
    label = ops.input("label", ("n",), int32)
    logits = ops.input("logits", ("n", 10))
    verify(Graph("g", {"y": ops.sum(ops.take(logits, label, axis=0)), "z": ops.where(logits > 0, logits, 0.0)}))
    verify(Graph("empty", {}))


def test_composites_and_the_users_functions_pass() -> None:
    x = vector()
    clipped = ops.custom(lambda a: a * 2.0, vjp=lambda ct, y, a: ct)
    verify(Graph("g", {"y": clipped(x) + ops.chain_product(x, x)}))


def test_large_graphs_are_checked_without_recursion() -> None:
    y = vector()
    for _ in range(30_000):
        y = ops.neg(y)
    verify(Graph("deep", {"y": y}))
    a = b = vector()
    for _ in range(200):
        a, b = b, a + b
    verify(Graph("fibonacci", {"y": b}))


def test_a_rule_that_gives_no_type_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own op whose rule returns a shape."""
    rule = replace(REGISTRY["tanh"], infer=lambda types, **attrs: types[0].shape)
    monkeypatch.setitem(REGISTRY, "tanh", rule)
    with pytest.raises(VerifyError, match="its type is tuple"):
        verify(Graph("f", {"y": make(rule, (vector(),), {})}))

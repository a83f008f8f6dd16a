"""scan: against the unrolled loop in values, gradients of both orders and tangents; text; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import ops
from graphc.errors import DTypeError, GraphError, ShapeError
from graphc.interpreter import evaluate
from graphc.ir import Graph, Node
from graphc.text import parse_graph, print_graph, same_structure

T = 4
RNG = np.random.default_rng(0)
ARRAYS = {
    "w": RNG.normal(size=(3, 3)), "h": RNG.normal(size=(2, 3)), "xs": RNG.normal(size=(T, 2, 2)), "u": RNG.normal(size=(2, 3)),
}  # fmt: skip


def values() -> dict[str, Node]:
    return {name: ops.input(name, array.shape, "float64") for name, array in ARRAYS.items()}


Step = Callable[[Node, Node], tuple[Node, Node]]


def looped(v: dict[str, Node], reverse: bool = False) -> Node:
    def step(h: Node, x: Node) -> tuple[Node, Node]:
        new = ops.tanh(x @ v["u"] + h @ v["w"])
        return new, new * h + ops.sum(v["u"])

    last, ys = graphc.scan(step, v["h"], v["xs"], reverse=reverse)
    return ops.sum(last * last) + ops.sum(ops.sin(ys) * np.arange(T).reshape(T, 1, 1))


def unrolled(v: dict[str, Node], reverse: bool = False) -> Node:
    h, total = v["h"], ops.constant(0.0, "float64")
    for t in reversed(range(T)) if reverse else range(T):
        new = ops.tanh(v["xs"][t] @ v["u"] + h @ v["w"])
        total = total + ops.sum(ops.sin(new * h + ops.sum(v["u"]))) * t
        h = new
    return ops.sum(h * h) + total


def run(outputs: dict[str, Node], target: str = "interpreter") -> dict[str, np.ndarray]:
    names = {n.name for n in Graph("g", outputs).inputs}
    return graphc.compile(outputs, target=target, cache=False)(**{k: a for k, a in ARRAYS.items() if k in names})


@pytest.mark.parametrize("reverse", [False, True])
def test_value_and_gradient_are_those_of_the_unrolled_loop(reverse: bool) -> None:
    v = values()
    found = []
    for make in (looped, unrolled):
        loss = make(v, reverse)
        found.append(run({"loss": loss, **dict(zip(v, graphc.grad(loss, wrt=list(v.values())), strict=True))}))
    for name, want in found[1].items():
        np.testing.assert_allclose(found[0][name], want, rtol=1e-11, atol=1e-12, err_msg=name)


def test_the_second_derivative() -> None:
    v = values()
    found = []
    for make in (looped, unrolled):
        first = graphc.grad(make(v), wrt=v["w"])
        second = graphc.grad(ops.sum(first * first), wrt=[v["w"], v["u"], v["xs"]])
        found.append(run(dict(zip(("w", "u", "xs"), second, strict=True))))
    for name, want in found[1].items():
        np.testing.assert_allclose(found[0][name], want, rtol=1e-10, atol=1e-10, err_msg=name)


def test_tangents_and_hessian_products() -> None:
    v = values()
    found = []
    for make in (looped, unrolled):
        loss = make(v)
        outputs = {"jvp": graphc.jvp(loss, [v["w"], v["xs"]], [1.0, 0.5]), "hvp": graphc.hvp(loss, v["w"], 1.0)}
        found.append(run(outputs))
    for name, want in found[1].items():
        np.testing.assert_allclose(found[0][name], want, rtol=1e-10, atol=1e-10, err_msg=name)


def test_structures_of_carries_and_results() -> None:
    def step(c: Any, x: Any) -> tuple[Any, Any]:
        count, (low, high) = c["count"], c["range"]
        new = {"count": count + 1, "range": (ops.minimum(low, x["a"]), ops.maximum(high, x["a"]))}
        return new, [x["a"] - x["b"]]

    start = {"count": ops.constant(0), "range": (ops.constant(9.0), ops.constant(-9.0))}
    xs = {"a": ops.constant([1.0, 5.0, -2.0]), "b": ops.constant([1.0, 1.0, 1.0])}
    last, (differences,) = graphc.scan(step, start, xs)
    assert int(evaluate(last["count"])) == 3
    assert [float(evaluate(x)) for x in last["range"]] == [-2.0, 5.0]
    assert evaluate(differences).tolist() == [0.0, 4.0, -3.0]


def test_without_sequences_and_without_steps() -> None:
    power, none = graphc.scan(lambda c, _: (c * 2.0, None), ops.constant(1.0), length=10)
    assert float(evaluate(power)) == 1024.0 and none is None
    last, ys = graphc.scan(lambda c, x: (c + x, c), ops.constant(3.0), ops.constant(np.zeros(0, np.float32)))
    assert float(evaluate(last)) == 3.0 and evaluate(ys).shape == (0,)


def test_a_loop_in_a_loop() -> None:
    def row(total: Node, xs: Node) -> tuple[Node, None]:
        inner, _ = graphc.scan(lambda c, x: (c * 0.5 + x * total, None), ops.constant(0.0), xs)
        return total + inner, None

    def by_hand(a: np.ndarray) -> float:
        total = np.float32(1)
        for xs in a:
            c = np.float32(0)
            for x in xs:
                c = c * np.float32(0.5) + x * total
            total += c
        return float(total)

    a = RNG.normal(size=(3, 4)).astype(np.float32)
    x = ops.input("x", a.shape)
    last, _ = graphc.scan(row, ops.constant(1.0), x)
    assert float(evaluate(last, {"x": a})) == pytest.approx(by_hand(a), rel=1e-5)
    slope = evaluate(graphc.grad(last, wrt=x), {"x": a})
    moved = a.copy()
    moved[1, 2] += 1e-2
    assert (by_hand(moved) - by_hand(a)) / 1e-2 == pytest.approx(float(slope[1, 2]), rel=2e-2)


def test_text_holds_the_body() -> None:
    v = values()
    loss = looped(v)
    graph = Graph("g", {"loss": loss, "w": graphc.grad(loss, wrt=v["w"])})
    text = print_graph(graph, sources=False)
    back = parse_graph(text)
    assert same_structure(back, graph) and print_graph(back, sources=False) == text
    names = {n.name for n in graph.inputs}
    assert float(evaluate(back.outputs["loss"], {k: a for k, a in ARRAYS.items() if k in names})) == pytest.approx(
        float(run({"loss": loss})["loss"])
    )


def test_symbolic_sizes() -> None:
    xs = ops.input("xs", ("time", "batch"))
    last, _ = graphc.scan(lambda c, x: (c + x, None), ops.zeros(("batch",)), xs)
    program = graphc.compile(last, target="interpreter")
    assert program(xs=np.ones((3, 2), np.float32)).tolist() == [3.0, 3.0]
    assert program(xs=np.ones((5, 1), np.float32)).tolist() == [5.0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: graphc.scan(lambda c, x: (ops.stack([c, c]), None), ops.constant(0.0), x), ShapeError, "carried value 0 is f32"),
        (lambda x: graphc.scan(lambda c, x: (ops.cast(c, "int32"), None), ops.constant(0.0), x), DTypeError, "leaves the step as i32"),
        (lambda x: graphc.scan(lambda c, x: c, ops.constant(0.0), x), GraphError, "not .carry, y."),
        (lambda x: graphc.scan(lambda c, x: ((c, c), None), ops.constant(0.0), x), GraphError, "another structure"),
        (lambda x: graphc.scan(lambda c, x: (c, None), ops.constant(0.0)), GraphError, "how many steps"),
        (lambda x: graphc.scan(lambda c, x: (c, None), ops.constant(0.0), (x, ops.zeros((4,)))), ShapeError, "3 and 4 steps"),
        (lambda x: graphc.scan(lambda c, x: (c, None), ops.constant(0.0), ops.constant(1.0)), ShapeError, "first axis"),
        (lambda x: graphc.scan(lambda c, x: (c, None), ops.constant(0.0), length=-1), GraphError, "-1"),
    ],
)  # fmt: skip
def test_mistakes_name_the_line(call: Any, error: type[GraphError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        call(ops.input("x", (3,)))
    assert caught.value.source is not None and caught.value.source.file.endswith("test_scan.py")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_machine_code_agrees(reverse: bool, threads: int) -> None:
    v = values()
    loss = looped(v, reverse)
    outputs = {"loss": loss, **dict(zip(v, graphc.grad(loss, wrt=list(v.values())), strict=True))}
    want = run(outputs)
    program = graphc.compile(outputs, cache=False, threads=threads, check="every-pass")
    for _ in range(2):
        got = program(**ARRAYS)
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-11, err_msg=name)


def test_products_leave_the_loop() -> None:
    v = values()
    loss = looped(v)
    outputs = {"loss": loss, **dict(zip(v, graphc.grad(loss, wrt=list(v.values())), strict=True))}
    program = graphc.compile(outputs, cache=False)
    moved = [f.rule for f in program.trace.stage("loops").firings]
    assert sum("before the loop" in rule for rule in moved) >= 1  # x @ u of all steps
    assert sum("a sum over all 4 steps, after the loop" in rule for rule in moved) >= 2  # the gradients of w and u
    assert sum("steps at once, after the loop" in rule for rule in moved) >= 1  # the gradient of xs
    kernels = program.loops.kernels.values()
    assert len(kernels) < len(program.loops.launches)


def test_loops_of_no_and_one_step_and_in_loops() -> None:
    for length in (0, 1, 2):
        xs = ops.input("xs", (length, 3))
        last, ys = graphc.scan(lambda c, x: (c * 0.5 + x, ops.exp(c)), ops.input("c", (3,)), xs)
        arrays = {"xs": RNG.normal(size=(length, 3)).astype(np.float32), "c": np.float32([1, 2, 3])}
        program = graphc.compile({"last": last, "ys": ys}, cache=False)
        want = graphc.compile({"last": last, "ys": ys}, target="interpreter")(**arrays)
        for name, value in program(**arrays).items():
            np.testing.assert_allclose(value, want[name], rtol=1e-6)

    def row(total: Node, xs: Node) -> tuple[Node, Node]:
        inner, _ = graphc.scan(lambda c, x: (c * 0.5 + x * total, None), ops.zeros((2,)), xs)
        return total + inner, inner

    x = ops.input("x", (3, 4, 2))
    last, inners = graphc.scan(row, ops.ones((2,)), x)
    outputs = {"last": last, "inners": inners, "dx": graphc.grad(ops.sum(last * last), wrt=x)}
    arrays = {"x": RNG.normal(size=(3, 4, 2)).astype(np.float32)}
    want = graphc.compile(outputs, target="interpreter")(**arrays)
    for name, value in graphc.compile(outputs, cache=False)(**arrays).items():
        np.testing.assert_allclose(value, want[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_carry_that_is_also_a_result_and_one_that_passes_through() -> None:
    def step(c: tuple[Node, Node], x: Node) -> tuple[Any, Any]:
        a, b = c
        return (b, a + x), (a, b, x)

    start = (ops.input("a", (2,)), ops.input("b", (2,)))
    (a, b), (u, v, w) = graphc.scan(step, start, ops.input("xs", (5, 2)), reverse=True)
    outputs = {"a": a, "b": b, "u": u, "v": v, "w": w}
    arrays = {"a": np.float32([1, 2]), "b": np.float32([3, 4]), "xs": RNG.normal(size=(5, 2)).astype(np.float32)}
    want = graphc.compile(outputs, target="interpreter")(**arrays)
    for name, value in graphc.compile(outputs, cache=False)(**arrays).items():
        np.testing.assert_allclose(value, want[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
def test_a_number_as_the_first_carried_value(target: str) -> None:
    xs = ops.input("xs", (3,))
    last, before = graphc.scan(lambda c, x: (c * x, c), ops.constant(1.0), xs)
    gradient = graphc.grad(last, [xs])
    program = graphc.compile({"last": last, "before": before, "gradient": gradient[0]}, target=target)
    found = program(xs=np.array([2, 3, 4], np.float32))
    assert found["last"] == 24
    assert found["before"].tolist() == [1, 2, 6]
    assert found["gradient"].tolist() == [12, 8, 6]


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
def test_a_loop_over_constants_alone(target: str) -> None:
    last, before = graphc.scan(lambda c, x: (c * x, c), ops.constant(1.0), ops.constant(np.array([2, 3, 4], np.float32)))
    found = graphc.compile({"last": last, "before": before}, target=target)()
    assert found["last"] == 24 and found["before"].tolist() == [1, 2, 6]

"""Text form: parse after print is the identity, and errors show line, column and a caret."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc import ops, provenance
from graphc.errors import ParseError
from graphc.ir import Graph, Node
from graphc.text import parse_graph, print_graph, same_structure, value_names
from graphc.types import DTYPES, TensorType, dim, float32, float64
from graphc.variables import Variable


def round_trip(graph: Graph) -> Graph:
    text = print_graph(graph)
    back = parse_graph(text)
    assert same_structure(graph, back), text
    assert print_graph(back) == text
    return back


def test_a_whole_graph() -> None:
    x = ops.input("x", ("batch", 4))
    w = ops.parameter("w", (4, 2), 0.5)
    step = ops.variable("step", (), dtype="int32", trainable=False)
    y = ops.matmul(x, w).named("hidden")
    graph = Graph("net", {"loss": ops.sum(y), "hidden": y}, {w: w * 2.0, step: step + 1})
    assert print_graph(graph, sources=False) == (
        "graph net(%x: f32[batch,4], parameter %w: f32[4,2], state %step: i32[]) {\n"
        '  %0: f32[batch,2] = matmul(%x, %w) {transpose_a=False, transpose_b=False} as "hidden"\n'
        "  %1: f32[] = sum(%0) {axes=(0, 1)}\n"
        "  %2: f32[] = constant 2.0\n"
        "  %3: f32[4,2] = broadcast(%2) {shape=(4, 2)}\n"
        "  %4: f32[4,2] = mul(%w, %3)\n"
        "  %5: i32[] = constant 1\n"
        "  %6: i32[] = add(%step, %5)\n"
        "  update %w = %4\n"
        "  update %step = %6\n"
        "  return loss = %1, hidden = %0\n"
        "}"
    )
    back = round_trip(graph)
    assert [n.attrs["variable"].trainable for n in back.parameters] == [
        n.attrs["variable"].trainable for n in graph.parameters
    ]


def test_sources_and_scopes_are_comments_that_come_back() -> None:
    with provenance.scope("classifier"), provenance.scope("dense_0"):
        y = ops.exp(ops.input("x", (2,)))
    back = round_trip(Graph("g", {"y": y})).outputs["y"].source
    assert back is not None and y.source is not None
    assert (back.short, back.scope) == (y.source.short, ("classifier", "dense_0"))


VALUES = [
    np.float32([np.nan, np.inf, -np.inf, -0.0, 0.1, 1e-45, 3.4e38, 16777216.0]),
    np.float64([0.1, -0.0, 5e-324, 1 / 3, 1e300]),
    np.array(0x7FC00001, np.uint32).view(np.float32),  # a NaN with a payload
    np.int32([[1, -2], [3, -(2**31)]]),
    np.int64(-(2**63)),
    np.uint32([0, 2**32 - 1]),
    np.array([True, False]),
    np.array(True),
    np.zeros((0, 3), np.float32),
    np.zeros((3, 0), np.float32),
    np.arange(1000, dtype=np.float32).reshape(10, 100) / 7,
    np.random.default_rng(0).standard_normal((5, 9)),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{v.dtype}{list(v.shape)}")
def test_constants_keep_their_bits(value: np.ndarray) -> None:
    graph = Graph("c", {"y": ops.constant(value)})
    back = round_trip(graph).outputs["y"].attrs["value"]
    assert back.dtype == value.dtype and back.shape == np.shape(value)
    assert back.tobytes() == np.asarray(value).tobytes()


@settings(max_examples=60, deadline=None)
@given(st.floats(width=32))
def test_any_float32_reads_back(value: float) -> None:
    graph = Graph("c", {"y": ops.constant(np.float32(value))})
    back = parse_graph(print_graph(graph)).outputs["y"].attrs["value"]
    assert back.tobytes() == np.float32(value).tobytes()


def test_symbolic_dimensions_in_types_and_attributes() -> None:
    n, m = dim("n"), dim("m")
    x = ops.input("x", (n * 4 + 2, n * m, m - 3))
    y = ops.broadcast_to(ops.constant(1.5), (n * 4 + 2, n * m, m - 3))
    back = round_trip(Graph("g", {"y": x + y}))
    assert back.outputs["y"].shape == x.shape
    assert back.outputs["y"].inputs[1].attrs["shape"] == x.shape


def test_awkward_names() -> None:
    x, y = ops.input("x", (2,)), ops.parameter("x", (2,))
    z = Node(x.op, (), {"name": "naïve_1", "type": x.type}, x.type, name="naïve_1")
    f32 = ops.input("f32", ("f32",))  # a size that is named as a dtype is
    wide = ops.broadcast_to(ops.constant(0.0), f32.shape)
    graph = Graph("my graph", {"a b": x + y, "return": z, "f": f32 + wide}, declared_inputs=(z, x))
    back = round_trip(graph)
    assert list(back.outputs) == ["a b", "return", "f"]
    assert [n.name for n in back.inputs] == ["naïve_1", "x", "f32"]


def test_parameters_bind_to_given_variables_and_are_shared_by_name() -> None:
    w = Variable("layer/w", TensorType(float32, (2,)), lambda shape, dtype, _: np.ones(shape, dtype.numpy))
    text = print_graph(Graph("g", {"y": ops.parameter_node(w) + ops.parameter_node(w)}))
    assert parse_graph(text, {"layer/w": w}).parameters[0].attrs["variable"] is w
    assert len({n.attrs["variable"] for n in parse_graph(text).parameters}) == 1


def test_names_do_not_depend_on_object_identity() -> None:
    def build() -> Graph:
        x = ops.input("x", (2,))
        return Graph("g", {"y": ops.exp(x) + ops.log(x)})

    assert print_graph(build(), sources=False) == print_graph(build(), sources=False)
    assert set(value_names(build()).values()) == {"%x", "%0", "%1", "%2"}


def test_a_deep_chain_and_a_shared_dag() -> None:
    x = y = ops.input("x", (2,))
    for _ in range(100_000):
        y = ops.neg(y)
    round_trip(Graph("deep", {"y": y}))
    a, b = x, x
    for _ in range(200):
        a, b = b, a + b
    assert len(print_graph(Graph("fibonacci", {"y": b})).splitlines()) == 203


def test_every_dtype_is_read() -> None:
    for dtype in DTYPES:
        assert round_trip(Graph("g", {"y": ops.input("x", (3,), dtype)})).inputs[0].dtype is dtype
    cast = ops.cast(ops.input("x", (3,)), float64)
    assert round_trip(Graph("g", {"y": cast})).outputs["y"].attrs["dtype"] is float64


HEAD = "graph f(%x: f32[3]) {\n"
WRONG = {
    "unknown value": (HEAD + "  %0: f32[3] = neg(%z)\n  return y = %0\n}", "line 2, column 20: %z is used before"),
    "unknown op": (HEAD + "  %0: f32[3] = nge(%x)\n  return\n}", "line 2, column 16: unknown op 'nge'"),
    "wrong type": (HEAD + "  %0: f32[4] = neg(%x)\n  return\n}", "line 2, column 7: neg gives f32[3], but f32[4]"),
    "broken rule": (HEAD + "  %0: f32[3] = add(%x)\n  return\n}", "line 2, column 16: add: takes 2 operands"),
    "no such attribute": (HEAD + "  %0: f32[3] = sum(%x) {axis=1}\n  return\n}", "line 2, column 16: "),
    "attribute of none": (HEAD + "  %0: f32[3] = neg(%x) {axis=1}\n  return\n}", "neg: has no attribute axis"),
    "twice": (HEAD + "  %0: f32[3] = neg(%x)\n  %0: f32[3] = neg(%x)\n  return\n}", "line 3, column 3: %0 is defined twice"),
    "not closed": (HEAD + "  return y = %x", "the graph is not closed"),
    "no dtype": ("graph f(%x: f16[3]) {\n return\n}", "line 1, column 13: f16 is no dtype"),
    "no comma": (HEAD + "  %0: f32[3] = add(%x %x)\n", "line 2, column 23: expected ',', got %x"),
    "rubbish": (HEAD + "  $\n", "line 2, column 3: expected a value, 'update' or 'return', got $"),
    "few numbers": (HEAD + "  %0: f32[3] = constant [1.0, 2.0]\n", "f32[3] holds 3 numbers, here are 2"),
    "damaged": (HEAD + '  %0: f32[3] = constant base64 "!!"\n', "the data is damaged"),
    "too large": (HEAD + "  %0: i32[] = constant 99999999999\n", "a number does not fit i32"),
    "update": (HEAD + "  update %x = %x\n", "only a parameter can be updated"),
    "more": (HEAD + "  return\n}\nmore", "line 4, column 1: nothing may follow the graph"),
    "input inside": (HEAD + "  %0: f32[3] = input()\n", "inputs are declared in the graph's header"),
    "same names": ('graph f(%x: f32[], %y: f32[] "x") {\n return\n}', "two inputs are named 'x'"),
    "negative size": ("graph f(%x: f32[-3]) {\n return\n}", "line 1, column 17: a dimension cannot be negative"),
    "function": (HEAD + "  %0: f32[3] = custom(%x) {function=&f}\n", "the function f is Python code"),
    "empty": ("", "the graph is not closed"),
    "twice returned": (HEAD + "  return y = %x, y = %x\n}", "two outputs are named 'y'"),
}


@pytest.mark.parametrize("text, message", WRONG.values(), ids=WRONG.keys())
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ParseError) as error:
        parse_graph(text)
    assert message in str(error.value)


def test_the_caret_stands_under_the_culprit() -> None:
    with pytest.raises(ParseError) as error:
        parse_graph(HEAD + "  %0: f32[3] = add(%x, %7)\n}")
    assert str(error.value).splitlines() == [
        "line 2, column 24: %7 is used before its definition",
        "    %0: f32[3] = add(%x, %7)",
        "                         ^",
    ]


def test_a_near_op_is_proposed() -> None:
    with pytest.raises(ParseError, match=r"did you mean .*tanh"):
        parse_graph(HEAD + "  %0: f32[3] = tanhh(%x)\n}")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_text_never_fails_otherwise(data: st.DataObject) -> None:
    x = ops.input("x", ("n", 3))
    text = print_graph(Graph("g", {"y": ops.sum(ops.exp(x) * 2.0, axis=1)}))
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(list("%{}()[]:,=\"x0.-+*<>&#\n ") + [""]))
    damaged = text[:at] + other + text[at + data.draw(st.integers(0, 3)) :]
    with contextlib.suppress(ParseError):
        parse_graph(damaged)

"""The CPU target end to end: every op, odd sizes, random graphs and training steps against the interpreter; wrong calls."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphc
from graphc import interpreter, nn, ops, optim, random  # noqa: F401  (nn and random register ops)
from graphc.errors import GraphcError, GraphError, IndexRangeError, InputError, NonFiniteError
from graphc.ir import REGISTRY, Graph, Node
from graphc.ops.examples import examples
from graphc.targets.cpu.host import vector_target
from graphc.types import as_dtype

NAMES = sorted(n for n, op in REGISTRY.items() if op.samples is not None)
EXACT = ["abs", "add", "and", "ceil", "copysign", "div", "eq", "floor", "floordiv", "ge", "gt", "le", "lt", "maximum", "minimum", "mul", "ne", "neg", "not", "or", "round", "sign", "sqrt", "sub", "trunc", "where", "xor"]  # noqa: E501
WIDTHS = [b for b in (512, 256, 128) if b <= vector_target().bits]
MOVEMENT = ("broadcast", "reshape", "transpose", "slice", "flip", "pad", "concatenate", "iota", "take", "cast", "one_hot")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "cache"))


def agree(graph: Graph, feeds: dict[str, np.ndarray], *, exact: bool = False, rtol: float = 2e-5, **options: Any) -> None:
    want = interpreter.run(graph, feeds)
    got = graphc.compile(graph, cache=False, **options)(**feeds)
    for name, value in want.items():
        assert got[name].dtype == value.dtype
        if exact:
            np.testing.assert_array_equal(got[name], value, err_msg=name)
        else:
            np.testing.assert_allclose(got[name], value, rtol=rtol, atol=rtol, err_msg=name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint32", "bool"])
def test_every_op_means_the_same_as_machine_code(name: str, dtype: str) -> None:
    try:
        cases = examples(REGISTRY[name], as_dtype(dtype), seed=3)
        nodes = [case.node() for case in cases]
    except GraphcError:
        pytest.skip(f"{name} is not defined on {dtype}")
    if not cases:
        pytest.skip(f"{name} has no example of {dtype}")
    for number, (case, node) in enumerate(zip(cases, nodes, strict=True)):
        exact = name in EXACT or name in MOVEMENT or not node.dtype.is_float
        graph = Graph("case", {"y": node}, {}, tuple(n for n in graphc.ir.topological((node,)) if n.op.name == "input"))
        feeds = {k: v for k, v in case.feeds().items() if k in {n.name for n in graph.inputs}}
        rtol = 3e-5 if dtype == "float32" else 1e-11
        agree(graph, feeds, exact=exact, rtol=rtol, threads=1 + number % 2, vector_bits=WIDTHS[number % len(WIDTHS)])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SIZES = [0, 1, 2, 7, 8, 9, 15, 16, 17, 33, 100, 1000]


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("size", SIZES)
def test_pointwise_and_reductions_on_odd_sizes(size: int, bits: int) -> None:
    x, y = ops.input("x", (3, size)), ops.input("y", (3, size))
    outputs = {
        "pointwise": ops.tanh(x) * y + 1.0, "rows": ops.sum(x * y, axis=1), "columns": ops.sum(x, axis=0), "all": ops.sum(x),
        "running": ops.cumsum(x, axis=1), "turned": ops.transpose(x) - 1.0, "mask": x > y,
        "joined": ops.concatenate([x, y, x], axis=1), "padded": ops.pad(x, ((1, 2), (0, 3)), 0.5),
    }  # fmt: skip
    if size:
        outputs |= {"best": ops.max(x, axis=1), "where": ops.argmax(x, axis=1), "soft": ops.softmax(x), "lse": ops.logsumexp(x, axis=1)}
    agree(Graph("odd", outputs), {"x": normal(3, size), "y": normal(3, size, seed=1)}, vector_bits=bits, threads=2, rtol=1e-4)


@pytest.mark.parametrize("m", [0, 1, 5, 6, 7, 17, 100])
@pytest.mark.parametrize("turn", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_matrix_products(m: int, turn: tuple[int, int]) -> None:
    outputs, feeds = {}, {}
    for n, k in ((1, 7), (16, 16), (17, 48), (33, 0), (10, 100)):
        a, b = (k, m) if turn[0] else (m, k), (n, k) if turn[1] else (k, n)
        x, y = ops.input(f"a{n}_{k}", a), ops.input(f"b{n}_{k}", b)
        outputs[f"p{n}_{k}"] = (ops.transpose(x) if turn[0] else x) @ (ops.transpose(y) if turn[1] else y)
        feeds |= {x.name: normal(*a), y.name: normal(*b, seed=1)}
    agree(Graph("products", outputs), feeds, threads=2, rtol=1e-4)


def test_large_products_run_packed_and_threaded() -> None:
    x, y = ops.input("x", (130, 300)), ops.input("y", (300, 512))
    feeds = {"x": normal(130, 300), "y": normal(300, 512)}
    program = graphc.compile(ops.relu(x @ y), threads=2)
    assert "alloc local" in program.source("loops")
    assert "parallel" in program.source("loops")
    np.testing.assert_allclose(program(**feeds), np.maximum(feeds["x"] @ feeds["y"], 0), rtol=1e-3, atol=1e-3)


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, 3e38], np.float32)


def test_special_values() -> None:
    a, b = (g.ravel() for g in np.meshgrid(SPECIAL, SPECIAL))
    x, y = ops.input("x", a.shape), ops.input("y", a.shape)
    outputs = {
        "max": ops.maximum(x, y), "min": ops.minimum(x, y), "lt": x < y, "eq": ops.eq(x, y), "where": ops.where(x > y, x, y),
        "top": ops.max(ops.reshape(x, (9, 9)), axis=1), "nan": ops.isnan(x), "finite": ops.isfinite(y), "sum": x + y,
        "int": ops.cast(x, "int32"),
    }  # fmt: skip
    with np.errstate(all="ignore"):
        agree(Graph("special", outputs), {"x": a, "y": b}, exact=True)


def test_integer_division_never_traps() -> None:
    low = np.iinfo(np.int32).min
    a, b = (g.ravel() for g in np.meshgrid([0, 1, -1, 7, -7, low], [0, 1, -1, 3, -3]))
    x, y = ops.input("x", a.shape, "int32"), ops.input("y", a.shape, "int32")
    with np.errstate(all="ignore"):
        agree(Graph("division", {"q": x // y, "r": x % y}), {"x": a.astype(np.int32), "y": b.astype(np.int32)}, exact=True)


@st.composite
def scalars(draw: st.DrawFn) -> Node:
    """A random scalar function of x and w through products, rows and columns."""
    x, w = ops.input("x", (4, 5)), ops.input("w", (5, 3))
    pool = [x @ w, ops.sin(x) @ w]
    for _ in range(draw(st.integers(1, 6))):
        a, b = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
        choices = [
            lambda a, b: a + b, lambda a, b: a * ops.sigmoid(b), lambda a, b: ops.softmax(a) - b, lambda a, b: ops.tanh(a) * 0.5,
            lambda a, b: a - ops.mean(b, axis=0, keepdims=True), lambda a, b: ops.where(a > b, a, b),
        ]  # fmt: skip
        pool.append(draw(st.sampled_from(choices))(a, b))
    return ops.mean(ops.square(pool[-1]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scalars())
def test_random_gradients_through_every_pass(y: Node) -> None:
    inputs = [n for n in graphc.ir.topological((y,)) if n.op.name == "input"]
    gradients = graphc.grad(y, wrt=inputs)
    graph = Graph("random", {"y": y, **{f"d{n.name}": g for n, g in zip(inputs, gradients, strict=True)}})
    feeds = {n.name: normal(*n.type.static_shape, seed=k) for k, n in enumerate(inputs)}
    agree(graph, feeds, check="every-pass", threads=2, rtol=5e-4)


def classifier() -> tuple[Node, nn.Sequential]:
    net = nn.Sequential(nn.Dense(16, activation="relu"), nn.Dense(4), name="net")
    loss = graphc.losses.cross_entropy(net(graphc.input("x", ("batch", 9))), graphc.input("label", ("batch",), "int32"))
    return loss, net


def test_training_steps_agree_and_sizes_specialise() -> None:
    results = []
    for target in ("interpreter", "cpu"):
        loss, net = classifier()
        step = graphc.compile({"loss": loss}, target=target, updates=optim.Adam(1e-2).updates(loss, net.parameters()))
        losses = [float(step(x=normal(n, 9), label=np.arange(n, dtype=np.int32) % 4)["loss"]) for n in (8, 8, 5, 8, 1)]
        results.append([np.array(losses), *(p.attrs["variable"].value.copy() for p in net.parameters())])
        assert [s.reason for s in step.specialisations] == ["first use", "batch is 5, was 8", "batch is 1, was 5"]
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
def test_wrong_calls_name_the_declaration(target: Any) -> None:
    loss, _ = classifier()
    step = graphc.compile({"loss": loss}, target=target)
    good = {"x": normal(3, 9), "label": np.zeros(3, np.int32)}
    for bad, words in [
        ({"x": good["x"]}, "label"),
        ({**good, "y": good["x"]}, "no input 'y'"),
        ({**good, "x": normal(3, 8)}, "9"),
        ({**good, "x": normal(4, 9)}, "batch"),
        ({**good, "x": normal(3, 9).astype(np.float64)}, "float64"),
        ({**good, "label": np.zeros((3, 1), np.int32)}, "axes"),
    ]:
        with pytest.raises(InputError, match=words):
            step(**bad)
    with pytest.raises(IndexRangeError, match="test_cpu.py"):
        step(x=good["x"], label=np.array([0, 4, 1], np.int32))
    with pytest.raises(IndexRangeError):
        step(x=good["x"], label=np.array([0, -1, 1], np.int32))
    assert np.isfinite(step(**good)["loss"])  # and nothing is broken afterwards


def test_strict_mode_names_the_line_that_made_the_nan() -> None:
    x = graphc.input("x", (2,))
    program = graphc.compile(ops.log(x) * 2.0, strict=True)
    with pytest.raises(NonFiniteError, match="test_cpu.py"):
        program(x=np.float32([1, -1]))


def test_unusual_arrays_are_taken() -> None:
    x = graphc.input("x", (4, 6))
    program = graphc.compile({"y": x * 2.0, "s": ops.sum(x)})
    base = normal(8, 12)
    frozen = normal(4, 6)
    frozen.setflags(write=False)
    unaligned = np.zeros(4 * 6 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(4, 6)
    for array in (base[::2, ::2], np.asfortranarray(normal(4, 6)), base[7:3:-1, :6], frozen, unaligned, normal(4, 6).tolist()):
        np.testing.assert_allclose(program(x=array)["y"], np.asarray(array, np.float32) * 2)


def test_odd_graphs() -> None:
    assert graphc.compile(ops.constant(2.0) * 3.0)() == 6.0
    x = graphc.input("x", ("batch", 3))
    assert graphc.compile(x + 1.0)(x=np.zeros((0, 3), np.float32)).shape == (0, 3)
    assert float(graphc.compile(ops.sum(x))(x=np.zeros((0, 3), np.float32))) == 0.0
    w = graphc.parameter("w", (3,), 1.0)
    assert graphc.compile({}, updates={w: w * 2.0})() == {}
    np.testing.assert_array_equal(w.attrs["variable"].value, [2, 2, 2])
    with pytest.raises(GraphError, match="unknown target"):
        graphc.compile(x, target="tpu")  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="cannot compile"):
        graphc.compile([1, 2])  # type: ignore[arg-type]


def test_results_are_the_caller_s_own() -> None:
    x = graphc.input("x", (3,))
    program = graphc.compile({"x": x, "y": x + 1.0, "again": x + 1.0})
    given = np.float32([1, 2, 3])
    first = program(x=given)
    assert not any(np.shares_memory(a, b) for a in first.values() for b in (given, *first.values()) if a is not b)
    program(x=given * 5)
    np.testing.assert_array_equal(first["y"], [2, 3, 4])


def test_two_threads_call_at_once() -> None:
    loss, _ = classifier()
    program = graphc.compile({"loss": loss}, threads=2)
    feeds = [{"x": normal(32, 9, seed=s), "label": np.full(32, s % 4, np.int32)} for s in range(4)]
    want = [float(program(**f)["loss"]) for f in feeds]
    wrong: list[str] = []

    def work(n: int) -> None:
        for _ in range(200):
            got = float(program(**feeds[n])["loss"])
            if got != want[n]:
                wrong.append(f"{got} is not {want[n]}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_every_source_and_a_profile() -> None:
    loss, _ = classifier()
    program = graphc.compile({"loss": loss})
    with pytest.raises(GraphError, match="batch"):
        program.source("llvm")
    program(x=normal(4, 9), label=np.zeros(4, np.int32))
    for stage, word in [
        ("graph", "graph program"), ("simplified", "graph program"), ("loops", "kernel k0"), ("llvm", "define"), ("asm", "graphc_entry"),
        ("cuda", "__global__"),
    ]:  # fmt: skip
        assert word in program.source(stage)
    with pytest.raises(GraphError, match="no source level"):
        program.source("wasm")
    profile = program.profile(x=normal(4, 9), label=np.zeros(4, np.int32))
    assert len(profile.rows) == len(program.loops.launches)
    assert any("test_cpu.py" in s for row in profile.rows for s in row.sources)
    assert "kernel" in profile.table()


CACHED = """
import numpy as np, graphc
x = graphc.input("x", (16, 16))
program = graphc.compile(graphc.tanh(x @ x))
program(x=np.eye(16, dtype="float32"))
print(program.specialisations[0].executable.cache)
"""


def test_another_process_finds_the_machine_code(tmp_path: Path) -> None:
    environment = {**os.environ, "GRAPHC_CACHE_DIR": str(tmp_path / "shared")}
    said = [
        subprocess.run([sys.executable, "-c", CACHED], env=environment, capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    ]
    assert said == ["miss: no entry", "hit"]


def test_deep_graphs_compile_without_recursion() -> None:
    x = graphc.input("x", (8,))
    y = x
    for _ in range(5000):
        y = ops.sin(y) + x
    np.testing.assert_allclose(
        graphc.compile(y, check="off")(x=normal(8)), interpreter.evaluate(y, {"x": normal(8)}), rtol=1e-3, atol=1e-3
    )
    a, b = x, x * 0.5
    for _ in range(60):  # a tree walk of this DAG would take 2**60 steps
        a, b = b, ops.tanh(a) + b * 0.25
    np.testing.assert_allclose(graphc.compile(b)(x=normal(8)), interpreter.evaluate(b, {"x": normal(8)}), rtol=1e-3, atol=1e-3)

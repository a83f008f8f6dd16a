"""Fusion, lowering and memory planning keep the meaning: the loops interpreter agrees with the graph interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc import interpreter, ops
from graphc.ir import REGISTRY, Graph, Node
from graphc.loops.interpreter import run_program
from graphc.loops.ir import LoopProgram
from graphc.loops.verify import verify_program
from graphc.trace import Context, Trace
from passes import GRAPH_PIPELINE, LAYOUT
from passes.fuse import fuse
from passes.lower import lower
from passes.memory import lifetimes, plan_memory


def lowered(graph: Graph, *, fused: bool = True) -> LoopProgram:
    trace = Trace()
    graph = LAYOUT.run(GRAPH_PIPELINE.run(graph, trace=trace), trace=trace)
    program = plan_memory(lower(fuse(graph, Context("fuse"), enabled=fused)))
    verify_program(program)
    return program


def agree(graph: Graph, arrays: dict[str, np.ndarray], *, fused: bool = True, rtol: float = 1e-5) -> LoopProgram:
    program = lowered(graph, fused=fused)
    state = {p.name: p.attrs["variable"].value.copy() for p in graph.parameters}
    want, updates = interpreter.run_with_updates(graph, arrays)
    got, after = run_program(program, {**arrays, **state})
    for name, value in want.items():
        np.testing.assert_allclose(got[f"out.{name}"], value, rtol=rtol, atol=rtol, err_msg=name)
        assert got[f"out.{name}"].dtype == value.dtype
    for variable, value in updates.items():
        np.testing.assert_allclose(after[variable.name], value, rtol=rtol, atol=rtol, err_msg=variable.name)
    return program


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_a_softmax_row_is_one_kernel() -> None:
    x = ops.input("x", (5, 7))
    e = ops.exp(x - ops.max(x, axis=1, keepdims=True))
    program = agree(Graph("g", {"y": e / ops.sum(e, axis=1, keepdims=True)}), {"x": rows(5, 7)})
    assert len(program.launches) == 1


def test_bias_and_activation_join_the_matrix_product() -> None:
    x, w, b = ops.input("x", (6, 9)), ops.input("w", (9, 5)), ops.input("b", (5,))
    arrays = {"x": rows(6, 9), "w": rows(9, 5, seed=1), "b": rows(5, seed=2)}
    program = agree(Graph("g", {"y": ops.maximum(x @ w + b, 0.0)}), arrays)
    assert len(program.launches) == 1
    assert not program.role("arena")


def test_an_update_writes_over_its_variable() -> None:
    w = ops.parameter("w", (4, 3), rows(4, 3))
    x = ops.input("x", (5, 4))
    gradient = ops.transpose(x) @ ops.tanh(x @ w)
    program = agree(Graph("g", {"y": ops.sum(gradient)}, {w: w - 0.1 * gradient}), {"x": rows(5, 4)})
    writers = [launch for launch in program.launches if "w" in launch.buffers]
    assert any(
        p.access == "inout"
        for launch in writers
        for p, b in zip(program.kernels[launch.kernel].params, launch.buffers, strict=True)
        if b == "w"
    )


def test_swapped_variables_are_copied_late() -> None:
    a, b = ops.parameter("a", (3,), [1.0, 2.0, 3.0]), ops.parameter("b", (3,), [4.0, 5.0, 6.0])
    agree(Graph("g", {"s": a + b}, {a: b * 1.0, b: a * 1.0}), {})


def test_an_update_read_transposed_is_not_in_place() -> None:
    w = ops.parameter("w", (4, 4), rows(4, 4))
    agree(Graph("g", {}, {w: ops.transpose(w) + 1.0}), {})


def test_outputs_never_alias_inputs_or_each_other() -> None:
    x = ops.input("x", (3, 2))
    y = x + 1.0
    agree(
        Graph("g", {"x": x, "y": y, "again": y, "r": ops.reshape(y, (6,)), "c": ops.constant(2.0)}), {"x": rows(3, 2)}
    )


def test_equal_kernels_are_made_once() -> None:
    x = ops.input("x", (8, 8))
    for _ in range(20):
        w = ops.constant(rows(8, 8))
        x = ops.tanh(x @ w)
    program = lowered(Graph("g", {"y": x}))
    assert len(program.launches) == 20
    assert len(program.kernels) == 1
    assert program.arena_size <= 3 * 256


def test_buffers_alive_together_do_not_overlap() -> None:
    x = ops.input("x", (16, 16))
    kept = [x @ ops.constant(rows(16, 16, seed=n)) for n in range(6)]
    total = kept[0]
    for value in kept[1:]:
        total = total @ value
    program = agree(Graph("g", {"y": total}), {"x": rows(16, 16) / 16})
    lives = lifetimes(program)
    for n, one in enumerate(lives):
        for other in lives[:n]:
            together = one.first <= other.last and other.first <= one.last
            disjoint = (
                one.slot.offset >= other.slot.offset + other.size or other.slot.offset >= one.slot.offset + one.size
            )
            assert disjoint or not together


def test_refusals_have_reasons() -> None:
    x = ops.input("x", (6, 7))
    column = ops.sum(ops.exp(x), axis=0)
    context = Context("fuse")
    fuse(Graph("g", {"y": ops.exp(x) * column, "z": column}), context)
    assert context.refusals
    assert all(r.reason for r in context.refusals)


def _calls() -> Iterator[tuple[str, int]]:
    for name, op in sorted(REGISTRY.items()):
        if op.samples is None or op.samples.calls is None:
            continue
        for number, _ in enumerate(op.samples.calls()):
            yield name, number


OPS = [(name, n) for name, n in _calls()]


@pytest.mark.parametrize(("name", "number"), OPS)
@pytest.mark.parametrize("fused", [True, False])
def test_every_op_lowers_to_what_it_means(name: str, number: int, fused: bool) -> None:
    op = REGISTRY[name]
    operands, attrs = list(op.samples.calls())[number]
    generator = np.random.default_rng(number)
    arrays: dict[str, np.ndarray] = {}
    nodes: list[Node] = []
    for n, operand in enumerate(operands):
        low, high = op.samples.domain[min(n, len(op.samples.domain) - 1)]
        array = (
            generator.uniform(low, high, operand).astype(np.float32)
            if isinstance(operand, tuple)
            else np.asarray(operand)
        )
        arrays[f"x{n}"] = np.asarray(array, order="C")
        nodes.append(ops.input(f"x{n}", array.shape, array.dtype))
    agree(Graph("g", {"y": op(*nodes, **attrs)}), arrays, fused=fused, rtol=2e-5)


@st.composite
def programs(draw: st.DrawFn) -> tuple[Graph, dict[str, np.ndarray]]:
    """Random graphs of pointwise ops, movement, reductions and products over small odd shapes."""
    m, n = draw(st.sampled_from([1, 2, 3, 5])), draw(st.sampled_from([1, 2, 4, 7]))
    w = ops.parameter("w", (n, m), rows(n, m, seed=9))
    pool: list[Node] = [ops.input("x", (m, n)), ops.input("y", (m, n)), ops.input("b", (n,)), ops.transpose(w)]
    for _ in range(draw(st.integers(1, 14))):
        a, b = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
        kind = draw(st.integers(0, 9))
        match kind:
            case 0 | 1:
                pool.append(a + b if kind else ops.maximum(a, b))
            case 2:
                pool.append(ops.tanh(a) * b)
            case 3:
                pool.append(ops.sum(a, axis=a.ndim - 1, keepdims=True) + b)
            case 4 if a.ndim == 2:
                pool.append(ops.max(a, axis=0) * 0.5)
            case 5 if a.ndim == 2 and b.ndim == 2 and a.shape == b.shape:
                pool.append((a @ ops.transpose(b)) @ b * 0.1)
            case 6:
                pool.append(ops.reshape(ops.reshape(a, (-1,)), a.shape) + 1.0)
            case 7 if a.ndim == 2:
                pool.append(ops.exp(-ops.square(a)) / (1.0 + ops.sum(ops.exp(-ops.square(a)), axis=1, keepdims=True)))
            case 8:
                pool.append(ops.flip(a) - b)
            case _:
                pool.append(ops.where(a > b, a, b * 0.25))
        if pool[-1].ndim > 2:
            pool.pop()
    outputs = {f"o{k}": v for k, v in enumerate(draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3)))}
    updates = {w: w * 0.5 + ops.sum(pool[-1]) * 0.001} if draw(st.booleans()) else {}
    declared = tuple(pool[:3])
    return Graph("random", outputs, updates, declared), {"x": rows(m, n), "y": rows(m, n, seed=1), "b": rows(n, seed=2)}


@settings(max_examples=60, deadline=None)
@given(programs(), st.booleans())
def test_random_graphs(case: tuple[Graph, dict[str, np.ndarray]], fused: bool) -> None:
    graph, arrays = case
    agree(graph, arrays, fused=fused, rtol=2e-4)


def test_a_table_that_the_group_itself_makes_is_gathered_from_memory() -> None:
    x, i = ops.input("x", (1, 1)), ops.input("i", (3,), dtype="int32")
    table = (x + x) * 0.5
    y = table + ops.mean(ops.take(table, i, axis=0), axis=0)
    agree(Graph("table", {"y": y}), {"x": np.float32([[3]]), "i": np.int32([0, 0, -1])})

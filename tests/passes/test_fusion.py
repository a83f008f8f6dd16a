"""What shares a kernel, what is stored, in how many passes a row is read: structure, and values against the interpreter."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import graphc
from graphc import interpreter, losses, ops
from graphc.ir import Graph, Node
from graphc.loops.dependence import inner_statements
from graphc.loops.ir import Alloc, For, Kernel, Load, LoopProgram, Store
from graphc.loops.parse import parse_kernel
from graphc.loops.text import print_kernel
from graphc.loops.verify import verify_program
from graphc.trace import Context, Trace
from passes import GRAPH_PIPELINE, LAYOUT, SPLIT
from passes.bundle import bundle_launches
from passes.fuse import fuse
from passes.groups import Estimate, Fusion, estimate
from passes.lower import lower
from passes.memory import plan_memory
from passes.rows import plan_rows
from passes.split import block_size
from passes.stream import LARGE, stream_outputs


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def fusion_of(outputs: dict[str, Node], updates: dict[Node, Node] | None = None) -> Fusion:
    trace = Trace()
    graph = LAYOUT.run(GRAPH_PIPELINE.run(Graph("g", outputs, updates or {}), trace=trace), trace=trace)
    return fuse(SPLIT.run(graph, trace=trace), Context("fuse"))


def loops_of(outputs: dict[str, Node]) -> LoopProgram:
    return plan_memory(lower(fusion_of(outputs)))


def check(outputs: dict[str, Node], arrays: dict[str, np.ndarray], threads: int = 2, tolerance: float = 2e-5) -> None:
    """The compiled program agrees with the interpreter."""
    program = graphc.compile(outputs, threads=threads, cache=False)
    want = interpreter.run(Graph("g", outputs), arrays)
    got = program(**arrays)
    for name, value in want.items():
        scale = max(1.0, float(np.abs(value).max(initial=0.0)))
        np.testing.assert_allclose(got[name], value, rtol=tolerance, atol=tolerance * scale, err_msg=name)


def passes_over_rows(kernel: Kernel) -> int:
    """Loops side by side in the innermost loop that holds several, or 1."""
    counts = [
        sum(isinstance(s, For) for s in loop.body) for loop in inner_statements(kernel.body) if isinstance(loop, For)
    ]
    return max([*counts, 1])


def cross_entropy(rows: int, classes: int) -> tuple[dict[str, Node], dict[str, np.ndarray]]:
    x, t = ops.input("x", (rows, classes)), ops.input("t", (rows,), "int32")
    loss = losses.cross_entropy(x, t)
    arrays = {"x": array(rows, classes), "t": np.random.default_rng(1).integers(0, classes, rows).astype(np.int32)}
    return {"loss": loss, "dx": graphc.grad(loss, wrt=x)}, arrays


def layer_norm(rows: int, width: int) -> tuple[dict[str, Node], dict[str, np.ndarray]]:
    x, c = ops.input("x", (rows, width)), ops.input("c", (rows, width))
    gain, shift = ops.input("gain", (width,)), ops.input("shift", (width,))
    y = graphc.layer_norm(x, gain, shift)
    dx, d_gain, d_shift = graphc.grad(ops.sum(y * c), wrt=[x, gain, shift])
    arrays = {
        "x": array(rows, width),
        "c": array(rows, width, seed=1),
        "gain": array(width, seed=2),
        "shift": array(width),
    }
    return {"y": y, "dx": dx, "d_gain": d_gain, "d_shift": d_shift}, arrays


SHAPES = [(1, 1), (1, 2), (2, 1), (3, 15), (16, 16), (5, 17), (47, 3), (48, 49), (9, 1000)]


@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_and_its_gradient_on_hostile_shapes(shape: tuple[int, int]) -> None:
    check(*cross_entropy(*shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm_and_its_gradients_on_hostile_shapes(shape: tuple[int, int]) -> None:
    outputs, arrays = layer_norm(*shape)
    check(outputs, arrays, tolerance=1e-3 if shape[1] < 3 else 5e-5)  # rows of one or two elements have no variance


def test_cross_entropy_reads_a_row_in_three_passes_and_computes_each_exponential_once() -> None:
    outputs, arrays = cross_entropy(64, 300)
    program = loops_of(outputs)
    kernel = program.kernels[program.launches[0].kernel]
    assert [len(program.launches), passes_over_rows(kernel)] == [2, 3]
    assert [s.primitive for s in inner_statements(kernel.body) if getattr(s, "primitive", "") == "exp"] == ["exp"]
    kept = [s.buffer.shape for s in inner_statements(kernel.body) if isinstance(s, Alloc)]
    assert kept == [(300,)]
    assert all(slot.type.static_shape != (64, 300) for slot in program.role("arena"))
    check(outputs, arrays)


def test_layer_norm_forward_and_backward_is_one_kernel_of_three_passes() -> None:
    outputs, arrays = layer_norm(512, 768)
    program = loops_of(outputs)
    kernel = program.kernels[program.launches[0].kernel]
    assert passes_over_rows(kernel) == 3
    assert len(program.launches) == 3  # and the two sums over the blocks' partial results
    assert sum(slot.type.nbytes for slot in program.role("arena")) < outputs["dx"].type.nbytes / 4
    check(outputs, arrays, tolerance=1e-4)


def test_softmax_written_by_hand_with_kept_axes_is_one_kernel() -> None:
    x = ops.input("x", (6, 40))
    e = ops.exp(x - ops.max(x, axis=-1, keepdims=True))
    y = e / ops.sum(e, axis=-1, keepdims=True)
    outputs = {"y": y, "g": graphc.grad(ops.sum(y * y), wrt=x)}
    assert len(loops_of(outputs).launches) == 1
    check(outputs, {"x": array(6, 40)})


def test_groups_of_one_domain_merge_when_a_value_reads_both() -> None:
    x, y = ops.input("x", (20, 30)), ops.input("y", (20, 30))
    a, b = ops.exp(x), ops.tanh(y)  # nothing in common, until both are needed
    outputs = {"a": a, "b": b, "c": ops.sum(a * b, axis=1)}
    assert len(loops_of(outputs).launches) == 1
    check(outputs, {"x": array(20, 30), "y": array(20, 30, seed=1)})


def test_a_row_too_long_for_the_cache_is_computed_again() -> None:
    x = ops.input("x", (8, 60_000))
    outputs = {"y": ops.softmax(x, axis=1)}
    fusion = fusion_of(outputs)
    context = Context("lower")
    (launch,) = (program := lower(fusion, context)).launches
    kernel = program.kernels[launch.kernel]
    assert not any(isinstance(s, Alloc) for s in inner_statements(kernel.body))
    assert any("do not fit" in r.reason for r in context.refusals)
    check(outputs, {"x": array(8, 60_000)})


def test_nothing_is_kept_where_a_row_is_spread_over_threads() -> None:
    outputs, _ = cross_entropy(64, 300)
    program = lower(fusion_of(outputs), scratch=0)
    assert not any(isinstance(s, Alloc) for k in program.kernels.values() for s in inner_statements(k.body))


def test_the_passes_of_a_chain_of_reductions() -> None:
    x = ops.input("x", (4, 5))
    item = {n: (node, ()) for n, node in enumerate([x, ops.exp(x), ops.sum(x), ops.add(x, 1.0)])}
    order = list(item.values())
    operands = {item[0]: [], item[1]: [item[0]], item[2]: [item[1]], item[3]: [item[1], item[2]]}
    plan = plan_rows(order, operands, {item[0], item[1], item[3]}, {item[2]}, set(), set(), (5,))
    assert plan.count == 2
    assert plan.runs[item[3]] == {1}
    assert list(plan.kept) == [item[1]]  # the exponential; what is cheap is computed again


# --- partial results -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1 << 15, (1 << 15) + 1, 100_003])
@pytest.mark.parametrize("threads", [1, 2])
def test_totals_of_vectors(count: int, threads: int) -> None:
    x = ops.input("x", (count,))
    outputs = {"sum": ops.sum(x * x), "max": ops.max(x), "y": x * 2.0, "all": ops.all(x < 100.0)}
    assert len(loops_of(outputs).launches) <= 4
    check(outputs, {"x": array(count)}, threads)


@pytest.mark.parametrize("shape", [(2048, 128), (2049, 131), (33, 8000), (64, 17, 250)])
def test_sums_over_leading_axes(shape: tuple[int, ...]) -> None:
    x = ops.input("x", shape)
    outputs = {"column": ops.sum(ops.tanh(x), axis=0), "total": ops.sum(x), "y": ops.tanh(x)}
    program = loops_of(outputs)
    assert any("partial" in launch.kernel for launch in program.launches)
    writers = [b for launch in program.launches for b in launch.buffers if b == "out.y"]
    assert len(writers) == 1
    check(outputs, {"x": array(*shape)}, tolerance=1e-4)


def test_totals_are_the_same_bits_for_any_number_of_threads() -> None:
    x = ops.input("x", (3000, 100))
    outputs = {"total": ops.sum(x), "column": ops.sum(ops.exp(x), axis=0)}
    arrays = {"x": array(3000, 100)}
    one, two = (graphc.compile(outputs, threads=n, cache=False)(**arrays) for n in (1, 2))
    for name in outputs:
        np.testing.assert_array_equal(one[name], two[name])


def test_what_is_split() -> None:
    assert block_size(ops.sum(ops.input("x", (1 << 20,)))) == 1 << 15
    x = ops.input("x", (4096, 768))
    for whole in (ops.sum(ops.input("y", (100,))), ops.sum(x, axis=1), ops.max(x, axis=0)):
        assert block_size(whole) == 0


def test_infinities_and_nans_pass_through_partial_results() -> None:
    x = ops.input("x", (40_000,))
    values = array(40_000)
    values[17], values[39_999] = np.inf, np.nan
    outputs = {"max": ops.max(x), "sum": ops.sum(x)}
    got = graphc.compile(outputs, threads=2, cache=False)(x=values)
    assert np.isnan(got["max"])
    assert np.isnan(got["sum"])


# --- contractions, views, streams ----------------------------------------------------------------------------------


def test_a_contraction_takes_bias_activation_residual_and_a_second_result() -> None:
    x, w, b, r = ops.input("x", (9, 20)), ops.input("w", (20, 13)), ops.input("b", (13,)), ops.input("r", (9, 13))
    z = x @ w + b
    outputs = {"y": ops.tanh(z) + r, "slope": 1.0 - ops.tanh(z) * ops.tanh(z)}
    assert len(loops_of(outputs).launches) == 1
    check(outputs, {"x": array(9, 20), "w": array(20, 13), "b": array(13), "r": array(9, 13)})


def test_a_gradient_is_accumulated_into_its_parameter_by_the_product() -> None:
    w = ops.parameter("w", (20, 13), array(20, 13))
    x, g = ops.input("x", (9, 20)), ops.input("g", (9, 13))
    fusion = fusion_of({"y": ops.sum(g)}, {w: w - 0.1 * (ops.transpose(x) @ g)})
    maker = next(group for group in fusion.groups if group.contraction)
    assert maker.reads_at_identity(w)


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_movement_and_broadcast_are_read_through(rows: int) -> None:
    x, b = ops.input("x", (rows, 12)), ops.input("b", (1, 12))
    y = ops.transpose(ops.reshape(ops.flip(x * b, axis=1), (rows, 3, 4)), (2, 0, 1)) + 1.0
    assert len(loops_of({"y": y}).launches) == 1
    check({"y": y}, {"x": array(rows, 12), "b": array(1, 12)})


def heads(batch: int, length: int, count: int, size: int) -> tuple[list[Node], np.ndarray]:
    """Query, key and value of every head, cut out of one packed array."""
    packed = ops.input("packed", (batch, length, 3 * count * size))
    split = [ops.reshape(part, (batch, length, count, size)) for part in ops.split(packed, 3, axis=-1)]
    return [ops.transpose(part, (0, 2, 1, 3)) for part in split], array(batch, length, 3 * count * size)


@pytest.mark.parametrize("shape", [(1, 2, 2, 3), (2, 17, 3, 8), (3, 33, 2, 16), (2, 48, 4, 15)])
@pytest.mark.parametrize("threads", [1, 2])
def test_products_read_heads_where_they_lie(shape: tuple[int, int, int, int], threads: int) -> None:
    (q, k, v), packed = heads(*shape)
    scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2)))
    outputs = {"y": ops.matmul(scores, v), "turned": ops.matmul(ops.transpose(scores, (0, 1, 3, 2)), q)}
    assert [g.kind for g in fusion_of(outputs).groups] == ["contraction"] * 3
    check(outputs, {"packed": packed}, threads)


@pytest.mark.parametrize("shape", [(1, 2, 2, 3), (2, 17, 3, 8), (3, 33, 2, 16), (2, 48, 4, 15)])
@pytest.mark.parametrize("threads", [1, 2])
def test_products_store_merged_heads(shape: tuple[int, int, int, int], threads: int) -> None:
    batch, length, count, size = shape
    weights, v = ops.input("w", (batch, count, length, length)), ops.input("v", (batch, count, length, size))
    merged = ops.reshape(ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3)), (batch, length, count * size))
    outputs = {"y": merged * 2.0}
    arrays = {"w": array(batch, count, length, length), "v": array(batch, count, length, size, seed=1)}
    check(outputs, arrays, threads)
    transposed = {"y": ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3)) * 2.0}
    assert [g.kind for g in fusion_of(transposed).groups] == ["contraction"]
    check(transposed, arrays, threads)


def test_a_product_read_in_two_orders_is_made_once() -> None:
    x = ops.input("x", (3, 3, 3, 4))
    product = ops.matmul(x, ops.input("w", (3, 3, 4, 5)))
    outputs = {"y": ops.transpose(product, (1, 0, 2, 3)) + ops.transpose(product, (2, 1, 0, 3))}
    assert [g.kind for g in fusion_of(outputs).groups] == ["contraction", "pointwise"]
    check(outputs, {"x": array(3, 3, 3, 4), "w": array(3, 3, 4, 5)})


def test_products_copy_what_has_no_rows_in_memory_or_is_an_output() -> None:
    x = ops.input("x", (6, 5, 4))
    turned = ops.matmul(ops.transpose(x, (2, 1, 0)), ops.input("w", (4, 6, 7)))  # neighbours in its rows lie 20 apart
    kept = ops.transpose(x, (1, 0, 2))
    for outputs in ({"y": turned}, {"y": ops.matmul(kept, ops.input("w", (5, 4, 7))), "kept": kept}):
        assert [g.kind for g in fusion_of(outputs).groups] == ["pointwise", "contraction"]


def test_large_outputs_are_streamed_and_others_are_not() -> None:
    rows = LARGE // 4 // 512
    x = ops.input("x", (rows, 512))
    program = stream_outputs(loops_of({"y": x * 2.0, "s": ops.sum(x, axis=1)}))
    modes = {
        (s.buffer, s.mode) for k in program.kernels.values() for s in inner_statements(k.body) if isinstance(s, Store)
    }
    assert {mode for _, mode in modes} == {"set", "stream"}
    (kernel,) = (k for k in program.kernels.values() if any(isinstance(s, Load) for s in inner_statements(k.body)))
    assert parse_kernel(print_kernel(kernel)).key() == kernel.key()


@pytest.mark.parametrize(("offset", "threads"), list(product([0, 16, 4], [1, 2])))
def test_streamed_outputs_at_any_alignment(offset: int, threads: int) -> None:
    count = LARGE // 4 + 24
    x = ops.input("x", (count,))
    program = graphc.compile({"y": x * 2.0}, threads=threads, cache=False)
    memory = np.zeros(count * 4 + 256, np.uint8)
    start = -memory.ctypes.data % 64 + 64 + offset
    out = memory[start : start + count * 4].view(np.float32)
    values = array(count)
    program(x=values, out={"y": out})
    np.testing.assert_array_equal(out, values * 2.0)
    assert not memory[:start].any()
    assert not memory[start + count * 4 :].any()


# --- the cost model ------------------------------------------------------------------------------------------------


def test_the_cost_of_a_kernel_is_printed() -> None:
    outputs, _ = layer_norm(512, 768)
    fusion = fusion_of(outputs)
    whole = estimate(fusion.groups[0])
    arrays = 512 * 768 * 4
    assert whole.read == 2 * arrays + 2 * 768 * 4
    assert whole.written == 2 * arrays + 2 * 32 * 768 * 4
    text = fusion.text()
    assert "rows of [768], partial results of 32 blocks" in text
    assert "bound by memory" in text
    assert text.splitlines()[-1].startswith(f"total of {len(fusion.groups)} kernels: reads")
    assert Estimate(0, 0, 10**9).seconds > 0


def test_refusals_say_why() -> None:
    context = Context("fuse")
    x = ops.input("x", (300, 400))
    graph = Graph("g", {"y": ops.exp(x) * ops.sum(ops.exp(x), axis=0)})
    fuse(graph, context)
    reasons = " ".join(r.reason for r in context.refusals)
    assert "would be recomputed" in reasons or "loops differ" in reasons


# --- bundles -------------------------------------------------------------------------------------------------------


def test_updates_of_small_parameters_are_one_launch() -> None:
    sizes = [(3,), (2, 5), (7,), (4, 4)]
    params = [ops.parameter(f"p{n}", shape, array(*shape, seed=n)) for n, shape in enumerate(sizes)]
    rate = ops.input("rate", ())
    updates = {p: p - rate * ops.tanh(p) for p in params}
    want = [p.attrs["variable"].value - 0.5 * np.tanh(p.attrs["variable"].value) for p in params]
    program = graphc.compile({"first": params[0] * 2.0}, updates=updates, cache=False)
    first = program(rate=np.float32(0.5))
    assert len(program.loops.launches) == 1
    np.testing.assert_allclose(first["first"], array(3, seed=0) * 2)
    for param, value in zip(params, want, strict=True):
        np.testing.assert_allclose(param.attrs["variable"].value, value, rtol=1e-6)


def test_a_bundle_keeps_the_order_of_its_nests() -> None:
    x = ops.input("x", (6, 8))
    column = ops.sum(x, axis=0)
    outputs = {"y": ops.exp(x) * column, "column": column, "row": ops.sum(ops.transpose(x) * ops.sum(column), axis=0)}
    program = bundle_launches(loops_of(outputs))
    verify_program(program)
    assert len(program.launches) < len(loops_of(outputs).launches)
    check(outputs, {"x": array(6, 8)})


def test_equal_bundles_are_one_kernel() -> None:
    params = [ops.parameter(f"q{n}", (5,), array(5, seed=n)) for n in range(16)]
    program = bundle_launches(plan_memory(lower(fusion_of({}, {p: p * 0.5 for p in params}))))
    assert (len(program.launches), len(program.kernels)) == (2, 1)

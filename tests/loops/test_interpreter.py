"""The loop interpreter: against NumPy, its two orders against each other, and the mistakes it must show."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from graphc.errors import IndexRangeError, InputError, VerifyError
from graphc.loops.interpreter import run_kernel, run_program
from graphc.loops.ir import BufferSlot, Launch, LoopProgram
from graphc.loops.parse import parse_kernel
from graphc.types import TensorType, float32, int32
from tests.loops.samples import TEXTS, random_arrays, sample

SIZES = [(1, 1, 1), (2, 7, 8), (9, 8, 17), (17, 2, 0)]


def expected(name: str, a: dict[str, np.ndarray]) -> np.ndarray:
    softmax = lambda x, axis: np.exp(x) / np.exp(x).sum(axis, keepdims=True)  # noqa: E731
    match name:
        case "matmul":
            return a["x"] @ a["w"] + a["b"]
        case "matmul_transposed":
            return a["x"] @ a["w"].T + a["b"]
        case "batched_matmul":
            return a["x"] @ a["w"]
        case "softmax_rows":
            return softmax(a["x"], 1)
        case "softmax_columns":
            return softmax(a["x"], 0)
        case "pointwise":
            return (a["x"] + a["z"]) * np.exp(a["l"])
        case "broadcast":
            return (a["x"] + a["b"]) * np.exp(a["c"])[:, None]
        case "transpose":
            return a["x"].T
        case "column_sum":
            return a["x"].sum(0)
        case "total":
            return a["x"].sum()
        case "running_sum_columns":
            return a["x"].cumsum(0)
        case "running_sum_rows":
            return a["x"].cumsum(1)
        case "divided_by_sum":
            return a["x"] / a["x"].sum()
        case "in_place":
            return a["w"] - a["rate"] * a["g"]
        case "concatenate":
            return np.concatenate([a["p"], a["q"]], 1)
    result = a["o"].copy()
    np.add.at(result, a["q"], a["u"])
    return result


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(("m", "n", "k"), SIZES)
def test_agrees_with_numpy(name: str, m: int, n: int, k: int) -> None:
    kernel = sample(name, m, n, k)
    arrays = random_arrays(kernel, below=m)
    (result,) = run_kernel(kernel, arrays).values()
    wanted = expected(name, arrays)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("limit", [1 << 22, 6])
def test_lanes_agree_with_the_sequential_order(name: str, limit: int) -> None:
    kernel = sample(name, 5, 7, 4)
    arrays = random_arrays(kernel, below=5)
    (lanes,) = run_kernel(kernel, arrays, lane_limit=limit).values()
    (sequential,) = run_kernel(kernel, arrays, order="sequential").values()
    np.testing.assert_allclose(lanes, sequential, rtol=1e-5)


def test_inout_arrays_of_the_caller_are_not_written() -> None:
    kernel = sample("in_place", 2, 3)
    arrays = random_arrays(kernel)
    before = arrays["w"].copy()
    assert not np.array_equal(run_kernel(kernel, arrays)["w"], before)
    np.testing.assert_array_equal(arrays["w"], before)


def test_memory_carried_by_a_loop_is_seen_in_order() -> None:
    kernel = parse_kernel("""kernel shift(inout x: f32[5]) {
      for i in 4 {
        %0 = load x[i]
        store x[i+1] = %0
      }
    }""")
    result = run_kernel(kernel, {"x": np.arange(5, dtype=np.float32) + 1})["x"]
    np.testing.assert_array_equal(result, np.ones(5))


def test_conditions_and_bounded_loads_mask() -> None:
    kernel = parse_kernel("""kernel edges(in x: f32[3], out y: f32[6]) {
      for i in 8 {
        %0 = load x[i-2] if i-2 < 3 else 9.0:f32
        if i < 6 {
          store y[i] = %0
        }
      }
    }""")
    for order in ("lanes", "sequential"):
        result = run_kernel(kernel, {"x": np.float32([1, 2, 3])}, order=order)["y"]
        np.testing.assert_array_equal(result, [9, 9, 1, 2, 3, 9])


def test_masked_accumulates_take_the_identity() -> None:
    kernel = parse_kernel("""kernel most(in x: f32[3], out y: f32) {
      acc %a: f32 = maximum
      for i in 3 {
        if i < 2 {
          %0 = load x[i]
          %a maximum= %0
        }
      }
      %1 = value %a
      store y[] = %1
    }""")
    assert run_kernel(kernel, {"x": np.float32([-3, -2, 5])})["y"] == -2


def test_local_memory_belongs_to_an_iteration() -> None:
    kernel = parse_kernel("""kernel swap(in x: f32[3,4], out y: f32[3,4]) {
      for i in 3 parallel {
        alloc local t: f32[4]
        for j in 4 {
          %0 = load x[i, j]
          store t[-j+3] = %0
        }
        for j in 4 {
          %1 = load t[j]
          store y[i, j] = %1
        }
      }
    }""")
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    for order in ("lanes", "sequential"):
        np.testing.assert_array_equal(run_kernel(kernel, {"x": x}, order=order)["y"], x[:, ::-1])


def test_a_missing_store_shows_as_poison() -> None:
    kernel = parse_kernel("kernel half(out y: f32[4], out z: i32[2]) { for i in 2 { store y[i] = 1.0:f32 } }")
    result = run_kernel(kernel, {})
    np.testing.assert_array_equal(result["y"], [1, 1, np.nan, np.nan])
    np.testing.assert_array_equal(result["z"], [-1, -1])


def test_an_address_out_of_range_is_refused() -> None:
    kernel = parse_kernel("kernel far(in x: f32[4], out y: f32[4]) { for i in 4 { %0 = load x[i-1] store y[i] = %0 } }")
    with pytest.raises(VerifyError, match="address out of the buffer"):
        run_kernel(kernel, {"x": np.ones(4, np.float32)})


@pytest.mark.parametrize("index", [4, -5])
def test_a_violated_guard_is_told(index: int) -> None:
    kernel = sample("scatter_add", 4, 2)
    arrays = random_arrays(kernel)
    arrays["q"][3] = index
    with pytest.raises(IndexRangeError, match="site 0"):
        run_kernel(kernel, arrays)


def test_arrays_must_fit() -> None:
    kernel = sample("transpose", 2, 3)
    with pytest.raises(InputError, match="no array for x"):
        run_kernel(kernel, {})
    with pytest.raises(InputError, match="float64"):
        run_kernel(kernel, {"x": np.ones((3, 2))})


def two_steps(offset: int) -> LoopProgram:
    """out = (x summed over rows) + (x summed over rows of a copy); the copy lies at ``offset``."""
    copy = parse_kernel("kernel copy(in x: f32[16], out y: f32[16]) { for i in 16 { %0 = load x[i] store y[i] = %0 } }")
    add = parse_kernel(
        "kernel sum(in a: f32[16], in b: f32[16], out y: f32[16]) {"
        " for i in 16 { %0 = load a[i] %1 = load b[i] %2 = add(%0, %1) store y[i] = %2 } }"
    )
    type_ = TensorType(float32, (16,))
    slots = [
        BufferSlot("p", type_, "input"),
        BufferSlot("q", type_, "input"),
        BufferSlot("t0", type_, "arena", 0),
        BufferSlot("t1", type_, "arena", offset),
        BufferSlot("out", type_, "output"),
    ]
    launches = (Launch("copy", ("p", "t0")), Launch("copy", ("q", "t1")), Launch("sum", ("t0", "t1", "out")))
    return LoopProgram("two", {s.name: s for s in slots}, {"copy": copy, "sum": add}, launches, 128)


def test_programs_share_one_arena_so_that_overlaps_show() -> None:
    arrays = {"p": np.full(16, 1, np.float32), "q": np.full(16, 2, np.float32)}
    outputs, parameters = run_program(two_steps(64), arrays)
    np.testing.assert_array_equal(outputs["out"], np.full(16, 3))
    assert parameters == {}
    overlapping, _ = run_program(two_steps(0), arrays)
    np.testing.assert_array_equal(overlapping["out"], np.full(16, 4))
    with pytest.raises(VerifyError, match="aligned to 64"):
        run_program(two_steps(32), arrays)


def test_a_program_names_the_site_of_a_violation() -> None:
    kernel = sample("scatter_add", 4, 2)
    roles = {"o": "input", "q": "input", "u": "input", "y": "output"}
    slots = {p.name: BufferSlot(p.name, p.type, roles[p.name]) for p in kernel.params}  # type: ignore[arg-type]
    site = SimpleNamespace(message=lambda: "take: index out of range for an axis of size 4", source=None)
    launch = Launch(kernel.name, tuple(slots), 1)
    program = LoopProgram("p", slots, {kernel.name: kernel}, (launch,), 0, (None, site))
    arrays = random_arrays(kernel) | {"q": np.full(9, 7, int32.numpy)}
    with pytest.raises(IndexRangeError, match="take: index out of range for an axis of size 4"):
        run_program(program, arrays)

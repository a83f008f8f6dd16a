"""CUDA's words keep their meaning on a CPU, and each broken rule is found and told with its line."""

import numpy as np
import pytest

from graphc.errors import TargetUnavailable
from graphc.targets.cuda import on_cpu
from graphc.targets.cuda.build import CudaCompileError
from graphc.targets.cuda.on_cpu import KernelFault, compile_on_cpu, cpu_compiler, run_on_cpu

needs_compiler = pytest.mark.skipif(cpu_compiler()[0] is None, reason=cpu_compiler()[1])

MATMUL = """
__global__ void __launch_bounds__(64) matmul(const float* __restrict__ a, const float* __restrict__ b,
                                             float* __restrict__ c, int m, int n, int k) {
  __shared__ float tile_a[8][9];
  __shared__ float tile_b[8][9];
  const int tx = threadIdx.x, ty = threadIdx.y;
  const int row = blockIdx.y * 8 + ty, column = blockIdx.x * 8 + tx;
  float sum = 0.0f;
  for (int start = 0; start < k; start += 8) {
    tile_a[ty][tx] = row < m && start + tx < k ? a[row * k + start + tx] : 0.0f;
    tile_b[ty][tx] = start + ty < k && column < n ? b[(start + ty) * n + column] : 0.0f;
    __syncthreads();  // filled
    for (int i = 0; i < 8; i++) sum = fmaf(tile_a[ty][i], tile_b[i][tx], sum);
    __syncthreads();  // used
  }
  if (row < m && column < n) c[row * n + column] = sum;
}
extern "C" int run(void** buffers, long long m, long long n, long long k) {
  return GRAPHC_LAUNCH(matmul, dim3((n + 7) / 8, (m + 7) / 8), dim3(8, 8), 0, (const float*)buffers[0],
                       (const float*)buffers[1], (float*)buffers[2], (int)m, (int)n, (int)k);
}
"""

ROW_SUM = """
__device__ float warp_sum(float v) {
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}
__global__ void row_sum(const float* x, float* y, int columns) {
  __shared__ float partial[4];
  float sum = 0.0f;
  for (int j = threadIdx.x; j < columns; j += blockDim.x) sum += x[blockIdx.x * columns + j];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) y[blockIdx.x] = partial[0] + partial[1] + partial[2] + partial[3];
}
extern "C" int run(void** buffers, long long rows, long long columns) {
  return GRAPHC_LAUNCH(row_sum, rows, 128, 0, (const float*)buffers[0], (float*)buffers[1], (int)columns);
}
"""


def one_kernel(body: str, grid: str = "1", block: str = "64") -> str:
    """A text with one kernel on ``float* x``; the body's first line is line 2."""
    return (
        f"__global__ void k(float* x) {{\n{body}\n}}\n"
        f'extern "C" int run(void** b) {{ return GRAPHC_LAUNCH(k, {grid}, {block}, 0, (float*)b[0]); }}\n'
    )


def fault(body: str, size: int = 64, **launch: str) -> KernelFault:
    with pytest.raises(KernelFault) as caught:
        run_on_cpu(one_kernel(body, **launch), "run", [np.zeros(size, np.float32)])
    return caught.value


@needs_compiler
@pytest.mark.parametrize("m, n, k", [(1, 1, 1), (7, 9, 17), (16, 8, 32), (33, 5, 1)])
def test_tiled_matmul_on_odd_sizes(m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    c = np.full((m, n), np.nan, np.float32)
    run_on_cpu(MATMUL, "run", [a, b, c], m, n, k)
    np.testing.assert_allclose(c, a.astype(np.float64) @ b, rtol=1e-5, atol=1e-5)


@needs_compiler
def test_matmul_without_its_first_barrier_reads_what_is_not_written() -> None:
    source = MATMUL.replace("__syncthreads();  // filled", "")
    with pytest.raises(KernelFault) as caught:
        run_on_cpu(source, "run", [np.ones((9, 9), np.float32) for _ in range(3)], 9, 9, 9)
    assert caught.value.kind == "uninitialised"
    assert "fmaf(tile_a[ty][i]" in str(caught.value)


@needs_compiler
def test_matmul_without_its_second_barrier_races() -> None:
    source = MATMUL.replace("__syncthreads();  // used", "")
    with pytest.raises(KernelFault, match=r"race: thread .* shared memory") as caught:
        run_on_cpu(source, "run", [np.ones((9, 9), np.float32) for _ in range(3)], 9, 9, 9)
    assert caught.value.kind == "race"
    text = str(caught.value)
    assert "fmaf(tile_a[ty][i]" in text and ("tile_a[ty][tx] =" in text or "tile_b[ty][tx] =" in text)


@needs_compiler
def test_the_order_of_threads_shows_a_missing_barrier_without_the_checker_too() -> None:
    body = "__shared__ float t[64]; t[threadIdx.x] = threadIdx.x; x[threadIdx.x] = t[63 - threadIdx.x];"
    with pytest.raises(KernelFault) as caught:
        run_on_cpu(one_kernel(body), "run", [np.zeros(64, np.float32)], check=False)
    assert caught.value.kind == "order"


@needs_compiler
@pytest.mark.parametrize("rows, columns", [(1, 1), (3, 127), (5, 1000)])
def test_warp_shuffle_reduction(rows: int, columns: int) -> None:
    x = np.random.default_rng(1).standard_normal((rows, columns), np.float32)
    y = np.zeros(rows, np.float32)
    run_on_cpu(ROW_SUM, "run", [x, y], rows, columns)
    np.testing.assert_allclose(y, x.sum(1, dtype=np.float64), rtol=1e-4, atol=1e-4)


@needs_compiler
def test_warp_words() -> None:
    body = """
      int t = threadIdx.x; unsigned all = 0xffffffffu;
      x[t] = __shfl_down_sync(all, (float)t, 3); x[64 + t] = __shfl_up_sync(all, (float)t, 1, 8);
      x[128 + t] = __shfl_sync(all, t * 2, 5); x[192 + t] = (float)__popc(__ballot_sync(all, t % 3 == 0));
      x[256 + t] = (float)(__any_sync(all, t == 40) + 2 * __all_sync(all, t < 64));
      x[320 + t] = 0.0f; __syncthreads(); atomicAdd(&x[320 + t % 2], 1.0f);"""
    x = np.zeros(384, np.float32)
    run_on_cpu(one_kernel(body), "run", [x])
    t = np.arange(64)
    np.testing.assert_array_equal(x[:64], np.where(t % 32 < 29, t + 3, t))
    np.testing.assert_array_equal(x[64:128], np.where(t % 8 == 0, t, t - 1))
    np.testing.assert_array_equal(x[128:192], np.where(t < 32, 10, 74))
    np.testing.assert_array_equal(x[192:256], np.where(t < 32, 11, 11))
    np.testing.assert_array_equal(x[256:320], np.where(t < 32, 2, 3))
    np.testing.assert_array_equal(x[320:384], np.where(t < 2, 32, 0))


@needs_compiler
@pytest.mark.parametrize(
    "body, kind, words",
    [
        ("if (threadIdx.x < 40) __syncthreads();", "divergent barrier", ("in line 2", "has returned")),
        ("if (threadIdx.x < 40)\n__syncthreads();\nelse\n__syncthreads();", "divergent barrier", ("line 3", "line 5")),
        ("if (threadIdx.x != 3) __syncwarp(); else __syncthreads();", "divergent warp", ("thread (3,0,0)", "line 2")),
        ("__syncwarp(0xff);", "divergent warp", ("thread (8,0,0)", "leaves it out")),
        ("if (threadIdx.x < 8) x[threadIdx.x] = __shfl_sync(0xff, 1.0f, 9);", "divergent warp", ("reads lane 9",)),
        ("x[threadIdx.x + 1] = 2.0f;", "outside", ("thread (63,0,0) writes 4 bytes outside", "x[threadIdx.x + 1]")),
        ("x[0] = threadIdx.x;", "race", ("global memory", "line 2")),
        ("float y = x[63 - threadIdx.x]; x[threadIdx.x] = y;", "race", ("line 2",)),
        (
            "__shared__ float t[64]; t[threadIdx.x] = 1;\n__syncwarp();\nx[threadIdx.x] = t[63 - threadIdx.x];",
            "race",
            ("line 2", "line 4"),
        ),
        ("__shared__ float t[64]; if (threadIdx.x) t[threadIdx.x] = 1; __syncthreads(); x[0] = t[0];", "uninitialised", ()),
        ("if (threadIdx.x == 0) atomicAdd(x, 1.0f); else x[0] = 1.0f;", "race", ("line 2",)),
    ],
)  # fmt: skip
def test_each_broken_rule_is_found_with_its_line(body: str, kind: str, words: tuple[str, ...]) -> None:
    error = fault(body)
    assert error.kind == kind
    for word in ("kernel k", *words):
        assert word in str(error)


@needs_compiler
@pytest.mark.parametrize(
    "body",
    [
        "__shared__ float t[64]; t[threadIdx.x] = 1;\n__syncwarp();\nx[threadIdx.x] = t[threadIdx.x ^ 31];",
        "__shared__ float t[64]; t[threadIdx.x] = x[threadIdx.x];\n__syncthreads();\nx[threadIdx.x] = t[63 - threadIdx.x];",
        "if (threadIdx.x < 32) x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);",
        "atomicAdd(x, 1.0f);",
    ],
)
def test_correct_synchronisation_is_not_blamed(body: str) -> None:
    run_on_cpu(one_kernel(body), "run", [np.arange(64, dtype=np.float32)])


@needs_compiler
def test_blocks_share_no_order() -> None:
    error = fault("if (threadIdx.x == 0) x[0] = blockIdx.x; __syncthreads();", grid="2")
    assert error.kind == "race" and "of block" in str(error)
    own = "__shared__ float t[64]; t[threadIdx.x] = blockIdx.x; x[blockIdx.x * 64 + threadIdx.x] = t[threadIdx.x];"
    x = np.zeros(128, np.float32)
    run_on_cpu(one_kernel(own, grid="2"), "run", [x])
    np.testing.assert_array_equal(x, np.repeat([0, 1], 64))


@needs_compiler
@pytest.mark.parametrize("grid, block, words", [("0", "32", "empty grid"), ("1", "1025", "1025 threads"), ("1", "0", "0 th")])
def test_a_launch_that_a_gpu_would_refuse(grid: str, block: str, words: str) -> None:
    error = fault("x[0] = 1.0f;", grid=grid, block=block)
    assert error.kind == "bad launch" and words in str(error)


@needs_compiler
def test_a_fault_leaves_the_arrays_alone_and_the_module_usable() -> None:
    source = one_kernel("x[threadIdx.x] += 1.0f; if (x[0] > 100.0f && threadIdx.x < 5) __syncthreads();")
    good, bad = np.zeros(64, np.float32), np.full(64, 200, np.float32)
    with pytest.raises(KernelFault):
        run_on_cpu(source, "run", [bad], check=False)
    np.testing.assert_array_equal(bad, 200)
    run_on_cpu(source, "run", [good], check=False)
    np.testing.assert_array_equal(good, 1)


@needs_compiler
def test_an_entry_that_fails_and_a_text_that_does_not_compile() -> None:
    with pytest.raises(KernelFault, match="run gave 7"):
        run_on_cpu('extern "C" int run() { return 7; }', "run")
    with pytest.raises(CudaCompileError, match=r"line 2: return nonsense;"):
        compile_on_cpu('extern "C" int run() {\nreturn nonsense;\n}')


def test_without_a_compiler_the_error_says_what_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_cpu.shutil, "which", lambda name: None)
    with pytest.raises(TargetUnavailable, match=r"g\+\+, clang\+\+.*\nhelp: install"):
        compile_on_cpu(MATMUL)

"""The contraction template against a float64 product: hostile extents, transposes, widths, threads, every blocking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc import ops
from graphc.driver import as_graph, build_loops
from graphc.loops.interpreter import run_kernel
from graphc.loops.ir import Alloc, Kernel, Store
from graphc.loops.parse import parse_kernel
from graphc.loops.verify import verify_kernel
from graphc.trace import Trace
from passes import blocking
from passes.bands import band_of
from passes.blocking import plan_blocks
from passes.contract import recognise
from passes.schedule import schedule_cpu
from passes.strides import Machine, Strides
from tests.loops.samples import random_arrays

# Each extent is met in each of the three places, at both ends of every block size; not the full product.
SHAPES = [
    (0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1), (2, 2, 2), (1, 16, 100), (2, 17, 1000), (15, 15, 15), (16, 16, 16),
    (17, 17, 17), (47, 48, 49), (48, 49, 47), (49, 47, 48), (100, 1, 16), (100, 2, 17), (1000, 15, 16), (16, 1000, 2),
    (100, 100, 100), (15, 100, 1000), (100, 47, 1000), (17, 16, 1000), (1, 1000, 1000), (1000, 1, 100), (1000, 17, 1),
    (217, 160, 640), (256, 264, 700), (300, 24, 1009),
    (100, 48, 1300), (230, 256, 1024),
]  # fmt: skip


def close(got: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Within 4 ULP times sqrt(K) of the sum of the terms' sizes: what blockwise summation keeps on random data."""
    wide = np.promote_types(a.dtype, np.float64)
    size = np.abs(a).astype(wide) @ np.abs(b).astype(wide)
    eps = np.finfo(a.dtype).eps
    bound = 4 * eps * np.sqrt(max(a.shape[-1], 1)) * size
    if a.dtype == np.float64:
        wanted = (a.astype(np.longdouble) @ b.astype(np.longdouble)).astype(np.float64)
    else:
        wanted = a.astype(wide) @ b.astype(wide)
    assert np.all(np.abs(got - wanted) <= bound)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_of_hostile_shapes(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    number = SHAPES.index(shape)
    rng = np.random.default_rng(number)
    for variant in range(4):
        dtype = ("float32", "float32", "float64", "float32")[(number + variant) % 4]
        threads, bits = 1 + (number + variant) % 2, (256, 128)[(number // 2 + variant) % 2]
        turned_a, turned_b = variant in (1, 3), variant in (2, 3)
        a, b = rng.random((m, k)).astype(dtype) - 0.5, rng.random((k, n)).astype(dtype) - 0.5
        x = ops.input("x", (k, m) if turned_a else (m, k), dtype)
        w = ops.input("w", (n, k) if turned_b else (k, n), dtype)
        y = (ops.transpose(x) if turned_a else x) @ (ops.transpose(w) if turned_b else w)
        program = graphc.compile(y, threads=threads, cache=False, vector_bits=bits)
        got = program(x=np.ascontiguousarray(a.T if turned_a else a), w=np.ascontiguousarray(b.T if turned_b else b))
        close(got, a, b)


MATMUL = """
kernel mm(in x: f32[{M}, {K}], in w: f32[{K}, {N}], in b: f32[{N}], out y: f32[{M}, {N}]) {{
  for i in {M} {{ for j in {N} {{
    acc %a: f32 = add
    for k in {K} {{
      %0 = load x[i, k]
      %1 = load w[k, j]
      %2 = mul(%0, %1)
      %a add= %2
    }}
    %3 = value %a
    %4 = load b[j]
    %5 = add(%3, %4)
    store y[i, j] = %5
  }} }}
}}
"""
UPDATE = """
kernel step(in x: f32[{M}, {K}], in w: f32[{K}, {N}], inout p: f32[{M}, {N}], in q: f32[{M}, {N}]) {{
  for i in {M} {{ for j in {N} {{
    acc %a: f32 = add
    for k in {K} {{
      %0 = load x[i, k]
      %1 = load w[k, j]
      %2 = mul(%0, %1)
      %a add= %2
    }}
    %3 = value %a
    %4 = load p[i, j]
    %5 = load q[i, j]
    %6 = mul(%3, %5)
    %7 = sub(%4, %6)
    store p[i, j] = %7
  }} }}
}}
"""
WINDOW = """
kernel conv(in x: f32[3, 9, 16, 5], in w: f32[3, 3, 5, {N}], out y: f32[3, 7, 14, {N}]) {{
  for n in 3 {{ for h in 7 {{ for v in 14 {{ for o in {N} {{
    acc %a: f32 = add
    for p in 3 {{ for q in 3 {{ for c in 5 {{
      %0 = load x[n, h+p, v+q, c]
      %1 = load w[p, q, c, o]
      %2 = mul(%0, %1)
      %a add= %2
    }} }} }}
    %3 = value %a
    %4 = maximum(%3, 0.0:f32)
    store y[n, h, v, o] = %4
  }} }} }} }}
}}
"""
WEIGHT_GRADIENT = """
kernel dconv(in x: f32[{B}, {X}, 34, 5], in g: f32[{B}, {H}, 32, 24], out y: f32[3, 3, 5, 24]) {{
  for p in 3 {{ for q in 3 {{ for c in 5 {{ for o in 24 {{
    acc %a: f32 = add
    for n in {B} {{ for h in {H} {{ for v in 32 {{
      %0 = load x[n, h+p, v+q, c]
      %1 = load g[n, h, v, o]
      %2 = mul(%0, %1)
      %a add= %2
    }} }} }}
    %3 = value %a
    store y[p, q, c, o] = %3
  }} }} }} }}
}}
"""
SCALED_GATHER = """
kernel lookup(in t: f32[50, {K}], in ids: i64[{M}], in s: f32[{M}, 1], in w: f32[{N}, {K}], out y: f32[{M}, {N}]) {{
  for i in {M} {{
    %g = load ids[i]
    %r = guard %g < 50 site 0
    %s = load s[i, 0]
    for j in {N} {{
      acc %a: f32 = add
      for k in {K} {{
        %0 = load t[%r, k]
        %1 = mul(%0, %s)
        %2 = load w[j, k]
        %3 = mul(%1, %2)
        %a add= %3
      }}
      %4 = value %a
      %5 = add(%4, %s)
      store y[i, j] = %5
    }}
  }}
}}
"""


def made(text: str, **sizes: int) -> Kernel:
    return parse_kernel(text.format(**sizes))


def packed(kernel: Kernel) -> set[str]:
    """What a scheduled kernel copies: names of its local buffers without their numbers."""
    return {s.buffer.name.rstrip("0123456789") for s, _ in kernel.statements() if isinstance(s, Alloc)}


CASES = {
    "near": (made(MATMUL, M=17, N=16, K=33), set()),
    "ragged columns": (made(MATMUL, M=40, N=10, K=33), {"strips"}),
    "far rows": (made(MATMUL, M=48, N=160, K=20), {"strips"}),
    "long rows": (made(MATMUL, M=13, N=16, K=400), set()),
    "deep": (made(MATMUL, M=13, N=16, K=1100), {"sums"}),
    "deep and far": (made(MATMUL, M=14, N=160, K=1100), {"sums", "strips"}),
    "blocks of rows": (made(MATMUL, M=230, N=24, K=1100), {"sums"}),
    "an update": (made(UPDATE, M=14, N=24, K=30), {"sums"}),
    "deep and small": (made(MATMUL, M=7, N=9, K=1040), set()),
    "vector": (made(MATMUL, M=1, N=200, K=80), {"sums"}),
    "window": (made(WINDOW, N=20), {"strips"}),
    "window, whole columns": (made(WINDOW, N=16), set()),
    "weights of a window": (made(WEIGHT_GRADIENT, B=2, H=7, X=9), {"sums"}),
    "weights of a window, shallow": (made(WEIGHT_GRADIENT, B=1, H=4, X=6), set()),
    "gathered and scaled": (made(SCALED_GATHER, M=26, N=40, K=19), {"rows", "strips"}),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_every_blocking_keeps_the_meaning(name: str, threads: int) -> None:
    kernel, copies = CASES[name]
    arrays = random_arrays(kernel, below=50)
    (wanted,) = run_kernel(kernel, arrays).values()
    for bits in (128, 256, 512):
        scheduled = schedule_cpu(kernel, vector_bits=bits, threads=threads).kernel
        verify_kernel(scheduled)
        (got,) = run_kernel(scheduled, arrays).values()
        np.testing.assert_allclose(got.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-4)
        if bits == 256 and threads == 1:
            assert packed(scheduled) == copies


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1030, 301), (2, 160, 1024), (13, 1024, 1024), (16, 48, 130), (18, 100, 2048), (17, 33, 4096)]
)
def test_a_large_operand_flows_past_the_sums(m: int, n: int, k: int, threads: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(blocking, "FLOW", 4096)
    kernel = made(MATMUL, M=m, N=n, K=k)
    arrays = random_arrays(kernel, below=50)
    (wanted,) = run_kernel(kernel, arrays).values()
    scheduled = schedule_cpu(kernel, threads=threads).kernel
    verify_kernel(scheduled)
    (got,) = run_kernel(scheduled, arrays).values()
    np.testing.assert_allclose(got.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-3)
    assert packed(scheduled) == {"sums"} | ({"rows"} if m > 1 and k % 1024 == 0 else set())
    rng = np.random.default_rng(k)
    a, b = rng.random((m, k), np.float32) - 0.5, rng.random((k, n), np.float32) - 0.5
    program = graphc.compile(ops.input("x", a.shape) @ ops.input("w", b.shape), threads=threads, cache=False)
    close(program(x=a, w=b), a, b)
    assert ("for t in 2 parallel" in program.source("loops")) == (threads == 2 and k % 2 == 0 and m * n * k > 100_000)


def test_an_operand_that_is_copied_ahead_does_not_flow(monkeypatch: Any) -> None:
    monkeypatch.setattr(blocking, "FLOW", 4096)
    kernel = made(MATMUL, M=16, N=320, K=200)
    assert packed(schedule_cpu(kernel).kernel) == {"sums"}
    assert packed(schedule_cpu(kernel, kept={"w"}).kernel) == {"strips"}


def test_sums_over_one_block_are_written_once() -> None:
    scheduled = schedule_cpu(made(UPDATE, M=14, N=24, K=30)).kernel
    modes = [s.mode for s, _ in scheduled.statements() if isinstance(s, Store) and s.buffer.startswith("sums")]
    assert (
        modes
        and set(modes) == {"set"}
        and not any(loops[-1].var.name == "z_i" for _, loops in scheduled.statements() if loops)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(380, 760, 5000), (20, 30_007, 700), (700, 380, 5000), (400, 768, 2048)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_what_a_thread_keeps_on_its_stack_is_bounded(shape: tuple[int, int, int], threads: int, dtype: str) -> None:
    m, n, k = shape
    for turned in (False, True):
        a, w = ops.input("a", (k, m) if turned else (m, k), dtype), ops.input("w", (k, n), dtype)
        graph, _ = as_graph((ops.transpose(a) if turned else a) @ w, None, "f")
        (kernel,) = build_loops(graph, graphc.compile(a, threads=threads).options, Trace()).kernels.values()
        scheduled = schedule_cpu(kernel, threads=threads).kernel
        local = [s.buffer.type.nbytes for s, _ in scheduled.statements() if isinstance(s, Alloc)]
        assert max(local, default=0) < 2.5 * 2**20


def test_threads_that_share_a_depth_add_up_in_one_order() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((40_000, 9), np.float32), rng.random((40_000, 32), np.float32)
    x, g = ops.input("x", a.shape), ops.input("g", b.shape)
    program = graphc.compile(ops.transpose(x) @ g, threads=2, cache=False)
    first = program(x=a, g=b)
    assert "for t in 2 parallel" in program.source("loops")
    assert all(np.array_equal(first, program(x=a, g=b)) for _ in range(20))
    close(first, np.ascontiguousarray(a.T), b)


def test_what_is_no_contraction_is_left_alone() -> None:
    for text in (
        MATMUL.replace("%2 = mul(%0, %1)", "%2 = add(%0, %1)"),  # no product
        MATMUL.replace("acc %a: f32 = add", "acc %a: f32 = maximum").replace("add= %2", "maximum= %2"),  # no sum
        MATMUL.replace("load w[k, j]", "load x[i, k]"),  # nothing is reused
    ):
        kernel = made(text, M=16, N=16, K=16)
        loop = kernel.body[0]
        assert recognise(band_of(loop), Strides(kernel, Machine(256, 16, 1))) is None  # type: ignore[arg-type]


def test_few_rows_of_a_transposed_operand_are_not_copied() -> None:
    kernel = made(SCALED_GATHER, M=2, N=40, K=64)
    strides = Strides(kernel, Machine(256, 16, 1))
    found = recognise(band_of(kernel.body[0]), strides)  # type: ignore[arg-type]
    assert found is not None and found.lane.name == "j" and [v.name for v in found.rows] == ["i"]
    assert plan_blocks(found, strides, 0, 1) is None

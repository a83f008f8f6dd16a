"""The mapping of loops to blocks and threads: same meaning (the loop interpreter runs both), the mapping that was meant."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.loops.interpreter import run_kernel, run_program
from graphc.loops.ir import Alloc, Barrier, BufferSlot, For, If, Kernel, Launch, LoopProgram
from graphc.loops.parse import parse_kernel
from graphc.loops.verify import verify_kernel
from graphc.targets.cuda.schedule import schedule_for_cuda, schedule_kernel

POINTWISE = """kernel k(in x: f32[{m},{n}], in b: f32[{n}], out y: f32[{m},{n}]) {{
  for i in {m} {{ for j in {n} {{
    %0 = load x[i, j]  %1 = load b[j]  %2 = add(%0, %1)  %3 = tanh(%2)  store y[i, j] = %3
  }} }}
}}"""

SOFTMAX = """kernel k(in x: f32[{m},{n}], out y: f32[{m},{n}]) {{
  for i in {m} {{
    acc %a: f32 = maximum
    for k in {n} {{ %0 = load x[i, k]  %a maximum= %0 }}
    %m = value %a
    acc %s: f32 = add
    for k1 in {n} {{ %1 = load x[i, k1]  %2 = sub(%1, %m)  %3 = exp(%2)  %s add= %3 }}
    %t = value %s
    for j in {n} {{ %4 = load x[i, j]  %5 = sub(%4, %m)  %6 = exp(%5)  %7 = div(%6, %t)  store y[i, j] = %7 }}
  }}
}}"""

COLUMN_SUM = """kernel k(in x: f32[{m},{n}], out y: f32[{n}]) {{
  for j in {n} {{
    acc %a: f32 = add
    for i in {m} {{ %0 = load x[i, j]  %a add= %0 }}
    %1 = value %a
    store y[j] = %1
  }}
}}"""

TOTAL = """kernel k(in x: f32[{m},{n}], out y: f32[]) {{
  acc %a: f32 = add
  for i in {m} {{ for j in {n} {{ %0 = load x[i, j]  %a add= %0 }} }}
  %1 = value %a
  store y[] = %1
}}"""

MATMUL = """kernel k(in x: f32[{m},{k}], in w: f32[{k},{n}], in b: f32[{n}], out y: f32[{m},{n}]) {{
  for i in {m} {{ for j in {n} {{
    %b = load b[j]
    acc %a: f32 = add
    for k in {k} {{ %0 = load x[i, k]  %1 = load w[k, j]  %2 = mul(%0, %1)  %a add= %2 }}
    %3 = value %a  %4 = add(%3, %b)  %5 = maximum(%4, 0.0:f32)
    store y[i, j] = %5
  }} }}
}}"""

FUSED_MATMUL = """kernel k(in x: f32[{k},{m}], in w: f32[{n},{k}], out y: f32[3,{m},{n}]) {{
  for h in 3 {{ for i in {m} {{ for j in {n} {{
    acc %a: f32 = add
    for k in {k} {{
      %0 = load x[k, i]  %e = exp(%0)  %1 = load w[j, k]  %2 = mul(%1, %e)  %a add= %2
    }}
    %3 = value %a
    store y[h, i, j] = %3
  }} }} }}
}}"""

CUMSUM = """kernel k(in x: f32[{m},{n}], out y: f32[{m},{n}]) {{
  for i in {m} {{
    acc %a: f32 = add
    for j in {n} {{ %0 = load x[i, j]  %a add= %0  %1 = value %a  store y[i, j] = %1 }}
  }}
}}"""

PAD = """kernel k(in x: f32[{m}], out y: f32[{n}]) {{
  for i in {n} {{ store y[i] = -1.0:f32 }}
  for i in {m} {{ %0 = load x[i]  store y[i+1] = %0 }}
}}"""

SCATTER = """kernel k(in i: i32[{m}], in x: f32[{m},{n}], inout y: f32[5,{n}]) {{
  for r in {m} {{
    %0 = load i[r]
    %1 = guard %0 < 5 site 0
    for j in {n} {{ %2 = load x[r, j]  store y[%1, j] += %2 }}
  }}
}}"""

NORMALISE = """kernel k(in x: f32[{m},{n}], inout w: f32[{m}], out y: f32[{m},{n}]) {{
  for i in {m} {{
    %w = load w[i]
    acc %a: f32 = add
    for k in {n} {{ %0 = load x[i, k]  %1 = mul(%0, %w)  %a add= %1 }}
    %s = value %a
    store w[i] = %s
    for j in {n} {{ %2 = load x[i, j]  %3 = load w[i]  %4 = add(%2, %3)  store y[i, j] = %4 }}
  }}
}}"""

BACKWARDS = """kernel k(in x: f32[{n}], out y: f32[{n}]) {{
  for i in {n} {{ %0 = load x[(-i+{n}-1)//3]  %1 = load x[(-i+{n}+1)%2]  %2 = add(%0, %1)  store y[i] = %2 }}
}}"""

ALL = {
    "pointwise": POINTWISE, "softmax": SOFTMAX, "column sum": COLUMN_SUM, "total": TOTAL, "matmul": MATMUL,
    "fused matmul": FUSED_MATMUL, "cumsum": CUMSUM, "pad": PAD, "scatter": SCATTER, "normalise": NORMALISE,
    "backwards": BACKWARDS,
}  # fmt: skip
SIZES = [(1, 3, 1), (5, 70, 9), (17, 33, 20), (3, 300, 8), (16, 32, 16)]


def kernel_of(text: str, m: int, n: int, k: int) -> Kernel:
    made = parse_kernel(text.format(m=m, n=max(n, m + 2), k=k))
    verify_kernel(made)
    return made


def arrays_for(kernel: Kernel) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        p.name: rng.standard_normal(p.shape).astype(p.dtype.numpy)
        if p.dtype.is_float
        else rng.integers(-5, 5, p.shape).astype(p.dtype.numpy)
        for p in kernel.params
        if p.access != "out"
    }


def program_of(kernel: Kernel) -> LoopProgram:
    """One launch of the kernel; what it reads are inputs, or parameters where it writes them too."""
    roles = {"in": "input", "out": "output", "inout": "parameter"}
    slots = {p.name: BufferSlot(p.name, p.type, roles[p.access]) for p in kernel.params}  # type: ignore[arg-type]
    return LoopProgram("one", slots, {kernel.name: kernel}, (Launch(kernel.name, tuple(slots)),), 0, (None,) * 4)


def kinds(kernel: Kernel) -> list[tuple[str, int]]:
    return [(s.kind, s.var.extent) for s, _ in kernel.statements() if isinstance(s, For)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_mapped_kernels_mean_the_same(name: str, sizes: tuple[int, int, int]) -> None:
    kernel = kernel_of(ALL[name], *sizes)
    arrays = arrays_for(kernel)
    want = run_kernel(kernel, arrays)
    mapped = schedule_for_cuda(program_of(kernel))
    for part in mapped.kernels.values():
        verify_kernel(part)
        assert kinds(part)[0][0] == "block"
    outputs, parameters = run_program(mapped, arrays)
    for buffer, array in want.items():
        got = {**outputs, **parameters}[buffer]
        np.testing.assert_allclose(got, array, rtol=2e-5, atol=1e-5, err_msg=name)


def test_pointwise_gives_each_thread_one_element() -> None:
    (part,) = schedule_kernel(kernel_of(POINTWISE, 7, 100, 1))
    assert kinds(part) == [("block", 3), ("thread", 256)]


def test_long_rows_get_a_block_each_and_short_ones_a_thread_each() -> None:
    (long,) = schedule_kernel(kernel_of(SOFTMAX, 7, 1000, 1))
    assert kinds(long)[0] == ("block", 7) and kinds(long).count(("thread", 256)) == 3
    (short,) = schedule_kernel(kernel_of(SOFTMAX, 7, 10, 1))
    assert kinds(short)[:3] == [("block", 1), ("thread", 32), ("serial", 10)]


def test_a_reduction_along_a_strided_axis_keeps_neighbouring_threads_on_neighbouring_elements() -> None:
    (part,) = schedule_kernel(kernel_of(COLUMN_SUM, 100, 300, 1))
    assert kinds(part) == [("block", 2), ("thread", 256), ("serial", 100)]


def test_contractions_are_tiled_through_shared_memory_once_they_are_large_enough() -> None:
    (part,) = schedule_kernel(kernel_of(MATMUL, 20, 40, 33))
    statements = [s for s, _ in part.statements()]
    assert sum(isinstance(s, Alloc) and s.buffer.space == "shared" for s in statements) == 2
    assert sum(isinstance(s, Barrier) for s in statements) == 2
    assert kinds(part)[:2] == [("block", 2), ("block", 3)] and ("thread", 16) in kinds(part)
    (small,) = schedule_kernel(kernel_of(MATMUL, 20, 40, 7))
    assert not any(isinstance(s, Alloc) for s, _ in small.statements())


def test_sizes_that_fill_their_tiles_need_no_bounds() -> None:
    (part,) = schedule_kernel(parse_kernel(MATMUL.format(m=32, n=16, k=48)))
    assert not any(isinstance(s, If) or getattr(s, "bounds", ()) for s, _ in part.statements())


def test_nests_in_a_row_become_launches_in_a_row() -> None:
    mapped = schedule_for_cuda(program_of(kernel_of(PAD, 5, 9, 1)))
    assert [launch.kernel for launch in mapped.launches] == ["k", "k_part2"]
    assert mapped.kernels["k_part2"].params[1].access == "inout"


def test_a_value_that_an_earlier_nest_overwrites_is_not_loaded_again() -> None:
    text = """kernel k(inout s: f32[], in x: f32[40], out y: f32[40]) {
      %0 = load s[]
      %1 = add(%0, 1.0:f32)
      store s[] = %1
      for i in 40 { %2 = load x[i]  %3 = mul(%2, %0)  store y[i] = %3 }
    }"""
    kernel = parse_kernel(text)
    arrays = {"s": np.float32(3), "x": np.arange(40, dtype=np.float32)}
    mapped = schedule_for_cuda(program_of(kernel))
    assert len(mapped.launches) == 1
    outputs, parameters = run_program(mapped, arrays)
    np.testing.assert_array_equal(outputs["y"], 3 * arrays["x"])
    assert parameters["s"] == 4


def test_threads_that_meet_in_memory_are_kept_apart_by_a_barrier() -> None:
    (part,) = schedule_kernel(kernel_of(NORMALISE, 5, 70, 1))
    assert sum(isinstance(s, Barrier) for s, _ in part.statements()) == 2


def test_an_empty_nest_is_not_launched() -> None:
    kernel = parse_kernel("kernel k(in x: f32[0,4], out y: f32[0,4]) {\n"
                          "for i in 0 { for j in 4 { %0 = load x[i, j]  store y[i, j] = %0 } }\n}")  # fmt: skip
    assert schedule_for_cuda(program_of(kernel)).launches == ()

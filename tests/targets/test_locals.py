"""Local buffers share memory where they are never in use together."""

from __future__ import annotations

from graphc.loops.ir import Alloc
from graphc.loops.parse import parse_kernel
from graphc.targets.cpu.locals import apart, own_statements, place_locals
from passes.schedule import schedule_cpu
from tests.loops.samples import sample

KERNEL = parse_kernel("""kernel k(in x: f32[8], out y: f32[8]) {
  alloc local a: f32[100]
  for i in 4 {
    alloc local b: f32[16]
    alloc local c: f32[16]
    store b[i] = 1.0:f32
    store c[i] = 2.0:f32
    %0 = load b[i]
    store a[i] = %0
  }
  for j in 4 {
    alloc local d: f32[16]
    store d[j] = 1.0:f32
    %1 = load a[j]
    store y[j] = %1
  }
  alloc local e: f32[100]
  store e[0] = 1.0:f32
  for t in 2 parallel { alloc local f: f32[1000]  store f[t] = 1.0:f32 }
}""")


def test_a_buffer_gives_up_its_place_after_its_last_use() -> None:
    places, total = place_locals(KERNEL.body)
    assert places == {"a": 0, "b": 448, "c": 512, "d": 448, "e": 0}  # a is in use until j has ended, then comes e
    assert total == 576
    assert [s.buffer.name for s in own_statements(KERNEL.body) if isinstance(s, Alloc)] == ["a", "b", "c", "d", "e"]


def test_equal_names_get_the_larger_place() -> None:
    buffers = [s.buffer for s in own_statements(KERNEL.body) if isinstance(s, Alloc)]
    assert apart([buffers[1], buffers[0], buffers[1]]) == ({"b": 0, "a": 64}, 64 + 448)


def test_the_largest_products_fit_a_stack() -> None:
    for sizes in [(509, 1009, 2039), (1009, 1009, 1009), (383, 959, 1009)]:
        for name in ("matmul", "matmul_transposed"):
            kernel = schedule_cpu(sample(name, *sizes), vector_bits=256).kernel
            assert place_locals(kernel.body)[1] < 3 << 20

"""The CPU policy: meaning kept on every kernel, width and odd extent; the mapping that each kind of nest must get."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.loops.interpreter import run_kernel
from graphc.loops.ir import Alloc, For, Kernel, Load
from graphc.loops.schedule import loops_of
from graphc.loops.verify import verify_kernel
from passes.bands import Segment, blocks, even_blocks
from passes.schedule import schedule_cpu
from passes.tiles import register_tile
from tests.loops.samples import TEXTS, random_arrays, sample

EXTENTS = st.sampled_from([0, 1, 2, 7, 8, 9, 17, 33, 70])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(TEXTS)), EXTENTS, EXTENTS, EXTENTS,
    st.sampled_from([(512, 32), (256, 16), (128, 16)]), st.integers(1, 2),
)  # fmt: skip
def test_any_kernel_keeps_its_meaning(name: str, m: int, n: int, k: int, vector: tuple[int, int], threads: int) -> None:
    if name == "scatter_add" and m == 0:
        return
    kernel = sample(name, m, n, k)
    scheduled = schedule_cpu(kernel, vector_bits=vector[0], registers=vector[1], threads=threads).kernel
    verify_kernel(scheduled)
    arrays = random_arrays(kernel, below=m)
    for wanted, got in zip(run_kernel(kernel, arrays).values(), run_kernel(scheduled, arrays).values(), strict=True):
        np.testing.assert_allclose(got.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5)


def kinds(kernel: Kernel) -> list[tuple[str, int, str]]:
    return [(loop.var.name, loop.var.extent, loop.kind) for loop in loops_of(kernel)]


def test_pointwise_becomes_one_loop_of_interleaved_vectors() -> None:
    kernel, notes = schedule_cpu(sample("pointwise", 128, 96), vector_bits=512, threads=2)
    assert kinds(kernel) == [("i_j_o", 192, "serial"), ("i_j_i", 64, "vector")]
    assert "vectorised i_j by 64 (stride 1)" in notes
    large, notes = schedule_cpu(sample("pointwise", 512, 96), vector_bits=256, threads=2)
    assert kinds(large) == [("i_j_o", 1536, "parallel"), ("i_j_i", 32, "vector")]
    assert any(note.startswith("parallel over i_j") for note in notes)


def test_a_tail_is_one_shorter_vector_loop() -> None:
    kernel, _ = schedule_cpu(sample("pointwise", 10, 10), vector_bits=256)
    assert kinds(kernel) == [("i_j_o", 3, "serial"), ("i_j_i", 32, "vector"), ("i_j_i", 4, "vector")]


def test_matrix_product_gets_a_register_tile() -> None:
    kernel, notes = schedule_cpu(sample("matmul", 128, 96, 64), vector_bits=512, threads=2)
    found = kinds(kernel)
    assert found[0] == ("j_b", 2, "parallel")
    assert found[-3:] == [("i_i", 8, "unrolled"), ("j_i", 48, "vector"), ("k", 64, "serial")]
    assert "register tile 8 x 48 (i unrolled, j in lanes)" in notes
    near, _ = schedule_cpu(sample("matmul", 128, 48, 64), vector_bits=512)
    assert not any(isinstance(s, Alloc) for s, _ in near.statements())  # its rows follow one another: nothing to copy


def test_uneven_rows_are_spread_and_columns_copied_with_zeros_beside_them() -> None:
    kernel, notes = schedule_cpu(sample("matmul", 100, 100, 5), vector_bits=512)
    tiles = {(a.var.extent, b.var.extent) for a, b in pairs(kernel, "i_i", "j_i")}
    heights, widths = {h for h, _ in tiles}, {w for _, w in tiles}
    assert max(heights) - min(heights) <= 1
    assert all(w % 16 == 0 for w in widths)
    assert any("copied in strips" in note for note in notes)
    bounded = [s for s, _ in kernel.statements() if isinstance(s, Load) and s.bounds]
    assert len(bounded) == 1 and bounded[0].buffer == "w"  # the copy; the tiles read whole vectors


def pairs(kernel: Kernel, outer: str, inner: str) -> list[tuple[For, For]]:
    return [
        (a, b) for a in loops_of(kernel) if a.var.name == outer
        for b in a.body if isinstance(b, For) and b.var.name == inner
    ]  # fmt: skip


def test_a_deep_product_is_summed_block_by_block() -> None:
    kernel, notes = schedule_cpu(sample("matmul", 600, 480, 1024), vector_bits=512, threads=2)
    assert kinds(kernel)[0] == ("j_b", 2, "parallel")
    assert "sums over 256 of 1024 iterations at a time wait in memory" in notes
    assert [s.buffer.name for s, _ in kernel.statements() if isinstance(s, Alloc)] == ["sums0", "strips1"]


def test_a_deep_product_with_a_small_result_is_shared_along_its_depth() -> None:
    kernel, notes = schedule_cpu(sample("matmul", 9, 32, 40_000), vector_bits=256, threads=2)
    assert kinds(kernel)[0] == ("t", 2, "parallel")
    assert any(note.startswith("k shared by 2 threads") for note in notes)


def test_a_transposed_operand_is_copied_for_many_rows_and_multiplied_along_the_depth_for_few() -> None:
    kernel, notes = schedule_cpu(sample("matmul_transposed", 64, 64, 96), vector_bits=512)
    assert kinds(kernel)[-1] == ("k", 96, "serial")
    assert "register tile 6 x 64 (i unrolled, j in lanes)" in notes
    kernel, notes = schedule_cpu(sample("matmul_transposed", 11, 64, 256), vector_bits=512)
    inner = kinds(kernel)
    assert ("i_i", 4, "unrolled") in inner and ("j_i", 4, "unrolled") in inner and ("k_i", 16, "vector") in inner
    assert "dot products in tiles of i x j, both unrolled" in notes


def test_softmax_rows_vectorise_each_inner_loop() -> None:
    kernel, _ = schedule_cpu(sample("softmax_rows", 128, 96), vector_bits=512, threads=2)
    vectors = [name for name, _, kind in kinds(kernel) if kind == "vector"]
    assert vectors == ["k_i", "k_i", "k2_i", "j_i"]
    assert kinds(kernel)[0] == ("i", 128, "parallel")


@pytest.mark.parametrize("name", ["softmax_columns", "column_sum", "running_sum_columns"])
def test_lanes_run_along_contiguous_columns(name: str) -> None:
    kernel, _ = schedule_cpu(sample(name, 64, 96), vector_bits=512)
    found = kinds(kernel)
    inside = [kind for var, _, kind in found if not var.endswith(("_o", "_i"))]
    assert "vector" in {kind for var, _, kind in found if var.endswith("_i")} and set(inside) == {"serial"}


def test_a_transpose_is_blocked() -> None:
    kernel, notes = schedule_cpu(sample("transpose", 64, 64), vector_bits=512)
    assert [(n, k) for n, _, k in kinds(kernel)] == [
        ("i_o", "serial"), ("j_o", "serial"), ("i_i", "serial"), ("j_i", "vector"),
    ]  # fmt: skip
    assert "blocked i by 8 (loads are contiguous in it)" in notes


def test_running_sums_and_scatters_stay_in_order() -> None:
    _, notes = schedule_cpu(sample("running_sum_rows", 64, 96), vector_bits=512)
    assert "i stays serial: its iterations depend on one another" in notes
    kernel, notes = schedule_cpu(sample("scatter_add", 40, 96), vector_bits=512, threads=2)
    assert ("i", 9, "serial") in kinds(kernel) and kinds(kernel)[-1][2] == "vector"


def test_no_threads_where_a_loop_reads_a_reduction_beside_it() -> None:
    kernel, _ = schedule_cpu(sample("divided_by_sum", 1, 1 << 20), vector_bits=512, threads=2)
    assert all(kind != "parallel" for *_, kind in kinds(kernel))


def test_cuts() -> None:
    assert blocks(0, 4) == [Segment(0, 0, 1)]
    assert blocks(3, 8) == [Segment(0, 1, 3)]
    assert even_blocks(100, 8) == [Segment(0, 9, 8), Segment(72, 4, 7)]
    assert even_blocks(12, 6) == [Segment(0, 2, 6)]


@pytest.mark.parametrize("registers", [16, 32])
@pytest.mark.parametrize("accumulators", [1, 2, 4])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 1000), (128, 10), (17, 130), (1000, 1000)])
def test_register_tiles_fit_the_registers(rows: int, columns: int, registers: int, accumulators: int) -> None:
    height, vectors = register_tile(rows, columns, 8, registers, accumulators)
    loaded = 0 if height == accumulators == 1 else vectors  # one row takes its vectors from memory
    assert 1 <= height <= rows and height * accumulators * vectors + loaded < registers

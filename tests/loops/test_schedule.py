"""Schedule primitives: each keeps the kernel's meaning (by the interpreter) or refuses with a reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import CompileError
from graphc.loops import schedule
from graphc.loops.dependence import independent
from graphc.loops.interpreter import run_kernel
from graphc.loops.ir import Kernel
from graphc.loops.verify import verify_kernel
from tests.loops.samples import TEXTS, random_arrays, sample

EXTENTS = st.sampled_from([0, 1, 2, 7, 8, 9, 17])


def assert_same_meaning(before: Kernel, after: Kernel, below: int = 1) -> None:
    verify_kernel(after)
    arrays = random_arrays(before, below=below)
    for wanted, got in zip(run_kernel(before, arrays).values(), run_kernel(after, arrays).values(), strict=True):
        np.testing.assert_allclose(got.reshape(wanted.shape), wanted, rtol=1e-4)


names = st.sampled_from([n for n in TEXTS if n not in ("scatter_add", "concatenate")])


@settings(max_examples=80, deadline=None)
@given(names, EXTENTS, EXTENTS, st.integers(1, 10), st.sampled_from(["peel", "bound"]), st.data())
def test_split_keeps_the_meaning(name: str, m: int, n: int, factor: int, tail: str, data: st.DataObject) -> None:
    kernel = sample(name, m, n)
    loop = data.draw(st.sampled_from(schedule.loops_of(kernel)))
    after = schedule.split(kernel, loop.var.name, factor, tail)  # type: ignore[arg-type]
    assert_same_meaning(kernel, after)


@settings(max_examples=120, deadline=None)
@given(names, EXTENTS, EXTENTS, st.sampled_from(["vector", "unroll", "parallel"]), st.data())
def test_lock_step_and_threads_keep_the_meaning_or_are_refused(
    name: str, m: int, n: int, how: str, data: st.DataObject
) -> None:
    kernel = sample(name, m, n)
    loop = data.draw(st.sampled_from(schedule.loops_of(kernel)))
    apply = {
        "vector": lambda: schedule.vectorise(kernel, loop.var.name, 4),
        "unroll": lambda: schedule.unroll(kernel, loop.var.name),
        "parallel": lambda: schedule.parallel(kernel, loop.var.name),
    }[how]
    if independent(loop, reductions=how != "parallel"):
        assert_same_meaning(kernel, apply())
    else:
        with pytest.raises(CompileError, match=f"cannot make {loop.var.name}"):
            apply()


@settings(max_examples=60, deadline=None)
@given(EXTENTS, EXTENTS, EXTENTS)
def test_a_register_tile_by_hand(m: int, n: int, k: int) -> None:
    before = sample("matmul", m, n, k)
    if m < 4 or n < 4:
        return
    kernel = schedule.split(schedule.split(before, "j", 4), "i", 2)
    names_now = [loop.var.name for loop in schedule.loops_of(kernel)]
    if names_now.count("j_o") != 1 or names_now.count("j_i") != 1:
        with pytest.raises(CompileError, match="2 loops over j_"):
            schedule.reorder(kernel, ("i_o", "j_o", "i_i", "j_i"))
        return
    if names_now.count("j_t"):
        return
    kernel = schedule.reorder(kernel, ("i_o", "j_o", "i_i", "j_i"))
    kernel = schedule.vectorise(schedule.unroll(kernel, "i_i"), "j_i", 4)
    order = [(loop.var.name, loop.kind) for loop in schedule.loops_of(kernel)]
    assert order == [("i_o", "serial"), ("j_o", "serial"), ("i_i", "unrolled"), ("j_i", "vector"), ("k", "serial")]
    assert_same_meaning(before, kernel)


@pytest.mark.parametrize("name", ["broadcast", "pointwise", "transpose", "in_place", "matmul"])
@pytest.mark.parametrize(("m", "n"), [(2, 7), (9, 1), (8, 17), (0, 3)])
def test_reorder_moves_pure_statements_inwards(name: str, m: int, n: int) -> None:
    kernel = sample(name, m, n)
    after = schedule.reorder(kernel, ("j", "i"))
    assert [loop.var.name for loop in schedule.loops_of(after)][:2] == ["j", "i"]
    assert_same_meaning(kernel, after)


def test_reorder_refuses_what_is_no_band_or_must_stay_in_order() -> None:
    with pytest.raises(CompileError, match="i does not directly enclose the next"):
        schedule.reorder(sample("softmax_rows", 3, 4), ("j", "i"))
    with pytest.raises(CompileError, match="iterations of i depend on each other"):
        schedule.reorder(
            schedule.replace_loop(k := sample("scatter_add", 3, 4), schedule.loops_of(k)[0], ()), ("j", "i")
        )


@pytest.mark.parametrize("name", ["pointwise", "transpose", "broadcast_free", "total"])
def test_fused_loops_keep_the_meaning(name: str) -> None:
    kernel = sample("in_place" if name == "broadcast_free" else name, 4, 7)
    assert_same_meaning(kernel, schedule.fuse_loops(kernel, "i", "j"))
    flat = schedule.fuse_loops(schedule.flatten_buffers(kernel), "i", "j")
    assert_same_meaning(kernel, flat)
    with pytest.raises(CompileError, match="j is not all that i holds"):
        schedule.fuse_loops(sample("broadcast", 2, 3), "i", "j")


@pytest.mark.parametrize(("m", "n"), [(1, 1), (4, 7), (0, 5), (1, 6)])
@pytest.mark.parametrize("name", TEXTS)
def test_collapsing_and_dropping_unit_loops_keep_the_meaning(name: str, m: int, n: int) -> None:
    if name == "scatter_add" and m == 0:
        return
    kernel = sample(name, m, n)
    assert_same_meaning(kernel, schedule.without_unit_loops(kernel), below=m)
    collapsed, notes = schedule.collapse_nests(kernel)
    assert_same_meaning(kernel, collapsed, below=m)
    assert collapsed is kernel or notes


def test_collapsing_finds_one_address() -> None:
    collapsed, notes = schedule.collapse_nests(sample("pointwise", 4, 8))
    assert notes == ("collapsed i and j into one loop of 32",)
    assert [str(i) for i in schedule.indices_of(collapsed.body)][1:] == ["i_j", "i_j", "i_j"]
    kernel = sample("broadcast", 4, 8)
    assert schedule.collapse_nests(kernel) == (kernel, ())


def test_unknown_loops_and_factors_are_refused() -> None:
    kernel = sample("transpose", 3, 4)
    with pytest.raises(CompileError, match="0 loops over q") as caught:
        schedule.split(kernel, "q", 2)
    assert caught.value.notes == ("loops: i, j",)
    with pytest.raises(CompileError, match="the factor is 0"):
        schedule.split(kernel, "i", 0)

"""The loop verifier: accepts what lowering makes, and refuses each broken rule with the statement in its context."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphc.errors import VerifyError
from graphc.loops.index import Index, Value, Var
from graphc.loops.ir import Bound, Buffer, BufferSlot, For, Kernel, Launch, Let, Lit, Load, LoopProgram, Store
from graphc.loops.parse import parse_kernel
from graphc.loops.verify import index_range, verify_kernel, verify_program
from graphc.types import TensorType, bool_, float32, float64, int32, int64
from tests.loops.samples import TEXTS, sample


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 7), (3, 0)])
def test_accepts_lowered_kernels(name: str, m: int, n: int) -> None:
    verify_kernel(sample(name, m, n))


def parallel_rows(name: str, loop: str, kind: str) -> Kernel:
    from graphc.loops.text import print_kernel

    text = print_kernel(sample(name, 4, 5))
    assert f"for {loop} {{" in text
    return parse_kernel(text.replace(f"for {loop} {{", f"for {loop} {kind} {{"))


@pytest.mark.parametrize(
    ("name", "loop", "kind", "message"),
    [
        ("column_sum", "i in 4", "parallel", "iterations of parallel|accumulated across parallel loop i"),
        ("running_sum_columns", "i in 4", "vector", "%a is read while vector loop i accumulates it"),
        ("scatter_add", "i in 9", "parallel", "parallel loop i may touch the same element of y"),
        ("scatter_add", "i in 9", "unrolled", "unrolled loop i may touch the same element of y"),
    ],
)
def test_loops_that_may_not_run_at_once(name: str, loop: str, kind: str, message: str) -> None:
    with pytest.raises(VerifyError, match=message):
        verify_kernel(parallel_rows(name, loop, kind))


@pytest.mark.parametrize(
    ("name", "loop", "kind"),
    [("column_sum", "i in 4", "vector"), ("scatter_add", "j in 5", "vector"), ("in_place", "i in 4", "parallel")],
)
def test_loops_that_may(name: str, loop: str, kind: str) -> None:
    verify_kernel(parallel_rows(name, loop, kind))


I4 = Var("i", 4)
AT = (Index.of(I4),)
X, Y = Buffer("x", TensorType(float32, (4,))), Buffer("y", TensorType(float32, (4,)), "out")
LOAD, STORE = Load("0", "x", AT, float32), Store("y", AT, "0")


def in_loop(*body: object) -> Kernel:
    return Kernel("k", (X, Y), (For(I4, "serial", body),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (in_loop(LOAD, LOAD, STORE), "%0 is assigned twice"),
        (in_loop(STORE), "%0 is not defined"),
        (Kernel("k", (X, Y), (For(I4, "serial", (LOAD,)), Store("y", (Index(),), "0"))), "%0 is used out of its scope"),
        (in_loop(LOAD, Store("x", AT, "0")), "x is read-only"),
        (in_loop(Load("1", "y", AT, float32)), "y is read before anything is stored in it"),
        (in_loop(Load("0", "z", AT, float32)), "z is no buffer in scope"),
        (in_loop(Load("0", "x", (*AT, *AT), float32)), "x has 1 axes, not 2"),
        (in_loop(Load("0", "x", AT, float64)), "an element of x is f32, not f64"),
        (in_loop(Load("0", "x", (Index.of(I4) + 1,), float32)), "index i\\+1 of x takes 1..4, but the axis has 4"),
        (in_loop(Load("0", "x", (Index.of(I4) - 1,), float32)), "index i-1 of x takes -1..2"),
        (in_loop(Load("0", "x", (Index.of(Var("i", 3)),), float32)), "i in 3 is not a loop around it"),
        (in_loop(Load("0", "x", (Index.of(Value("g", 4)),), float32)), "%g is not guarded to be below 4"),
        (in_loop(For(I4, "serial", ())), "loop variable i hides that of an outer loop"),
        (in_loop(LOAD, Let("1", "sinus", ("0",), float32)), "sinus is no primitive"),
        (in_loop(LOAD, Let("1", "add", ("0",), float32)), "add takes 2 operands, not 1"),
        (in_loop(LOAD, Let("1", "add", ("0", Lit(1, int32)), float32)), "operands are f32 and i32"),
        (in_loop(LOAD, Let("1", "xor", ("0", "0"), float32)), "xor is not defined on f32"),
        (in_loop(LOAD, Let("1", "lt", ("0", "0"), float32)), "the result of lt is bool, not f32"),
        (in_loop(LOAD, Let("1", "where", ("0", "0", "0"), float32)), "the condition of where is bool, not f32"),
        (in_loop(Store("y", AT, Lit(True, bool_))), "an element of y is f32, not bool"),
        (Kernel("k", (X, X), ()), "parameter x is declared twice"),
    ],
)
def test_broken_rules(kernel: Kernel, message: str) -> None:
    with pytest.raises(VerifyError, match=message):
        verify_kernel(kernel)


def test_the_statement_is_shown_in_its_context() -> None:
    with pytest.raises(VerifyError) as caught:
        verify_kernel(in_loop(LOAD, Store("x", AT, "0")))
    at = next(n for n, note in enumerate(caught.value.notes) if note.startswith("--> "))
    assert caught.value.notes[at].endswith("store x[i] = %0")
    assert caught.value.notes[at - 1].split() == ["%0", "=", "load", "x[i]"]


def test_bounds_narrow_ranges() -> None:
    o, i = Var("o", 3), Var("i", 8)
    flat = Index.of(o) * 8 + i
    assert index_range(flat, ()) == (0, 23)
    assert index_range(flat + 2, (Bound(flat, 20),)) == (2, 21)
    assert index_range(flat // 5, (Bound(flat, 20),)) == (0, 3)
    assert index_range(Index.of(i) - 2, (Bound(Index.of(i) - 2, 4),)) == (0, 3)
    verify_kernel(in_loop(Load("0", "x", (Index.of(I4) + 1,), float32, (Bound(Index.of(I4) + 1, 4),)), STORE))


def a_program() -> LoopProgram:
    kernel = sample("transpose", 2, 3)
    slots = [
        BufferSlot("x", TensorType(float32, (3, 2)), "input"),
        BufferSlot("t", TensorType(float32, (6,)), "arena", 64),
    ]
    return LoopProgram("p", {s.name: s for s in slots}, {kernel.name: kernel}, (Launch(kernel.name, ("x", "t")),), 128)


def test_programs() -> None:
    good = a_program()
    verify_program(good)
    name = next(iter(good.kernels))

    def broken(message: str, **fields: object) -> None:
        with pytest.raises(VerifyError, match=message):
            verify_program(replace(good, **fields))  # type: ignore[arg-type]

    broken("launches other, which is none of its kernels", launches=(Launch("other", ("x", "t")),))
    broken("1 buffers for 2 parameters", launches=(Launch(name, ("x",)),))
    broken("no buffer z", launches=(Launch(name, ("x", "z")),))
    broken("writes input x through y", launches=(Launch(name, ("x", "x")),))
    broken("arena buffer t lies at bytes 64..88", arena_size=64)
    wrong = {**good.buffers, "t": BufferSlot("t", TensorType(int64, (6,)), "arena", 64)}
    broken("t is i64\\[6\\], y wants f32\\[2,3\\]", buffers=wrong)

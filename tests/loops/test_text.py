"""Loop IR text: parsing what is printed is the identity, and what is no kernel is refused with its line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import ParseError
from graphc.loops.index import Index, Var
from graphc.loops.ir import Bound, Buffer, BufferSlot, For, Kernel, Launch, Let, Lit, Load, LoopProgram, Store
from graphc.loops.parse import parse_kernel, parse_program
from graphc.loops.text import print_kernel, print_program
from graphc.types import TensorType, bool_, float32, float64, int32
from tests.loops.samples import TEXTS, sample


@pytest.mark.parametrize("name", TEXTS)
def test_parse_after_print_is_the_identity(name: str) -> None:
    kernel = sample(name, 5, 7)
    assert parse_kernel(print_kernel(kernel)) == kernel


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-30, 1.5, -2.25e17, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("dtype", [float32, float64])
def test_float_literals_keep_every_bit(value: float, dtype: object) -> None:
    kernel = Kernel("k", (), (Let("0", "neg", (Lit(value, dtype),), dtype),))  # type: ignore[arg-type]
    assert parse_kernel(print_kernel(kernel)) == kernel


def test_other_literals_and_bounds() -> None:
    i = Var("i", 4)
    at = Index.of(i) - 1
    load = Load("0", "x", (at,), int32, (Bound(at, 4),), Lit(-7, int32))
    flag = Let("1", "not", (Lit(True, bool_),), bool_)
    cast = Let("2", "cast", ("0",), float64)
    x, y = Buffer("x", TensorType(int32, (4,))), Buffer("y", TensorType(int32, (4,)), "out")
    store = Store("y", (Index.of(i),), "0", "add", (Bound(Index.of(i) * 2, 3),))
    kernel = Kernel("k", (x, y), (For(i, "serial", (load, flag, cast, store)),))
    assert parse_kernel(print_kernel(kernel)) == kernel
    assert "%0 = load x[i-1] if i-1 < 4 else -7:i32" in print_kernel(kernel)


indices = st.recursive(
    st.sampled_from([Index.of(Var("i", 5)), Index.of(Var("j", 7)), Index.of(3)]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, st.integers(-9, 9)).map(lambda p: p[0] * p[1]),
        st.tuples(inner, st.integers(1, 9)).map(lambda p: p[0] // p[1]),
        st.tuples(inner, st.integers(1, 9)).map(lambda p: p[0] % p[1]),
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(indices)
def test_index_expressions_round_trip(index: Index) -> None:
    x, y = Buffer("x", TensorType(float32, (9,))), Buffer("y", TensorType(float32, (9,)), "out")
    body = (Load("0", "x", (index,), float32), Store("y", (index,), "0"))
    kernel = Kernel("k", (x, y), (For(Var("i", 5), "serial", (For(Var("j", 7), "vector", body),)),))
    assert parse_kernel(print_kernel(kernel)) == kernel


def program() -> LoopProgram:
    kernel = sample("in_place", 2, 3)
    buffers = [
        BufferSlot("weights", TensorType(float32, (2, 3)), "parameter"),
        BufferSlot("gradient", TensorType(float32, (2, 3)), "input"),
        BufferSlot("rate", TensorType(float32, ()), "constant", data=np.float32(0.25)),
        BufferSlot("table", TensorType(float32, (40,)), "constant", data=np.arange(40, dtype=np.float32)),
        BufferSlot("t0", TensorType(float32, (8,)), "arena", 64),
    ]
    launch = Launch(kernel.name, ("weights", "gradient", "rate"), 3)
    return LoopProgram("train", {b.name: b for b in buffers}, {kernel.name: kernel}, (launch,), 128)


def test_programs_round_trip() -> None:
    text = print_program(program())
    parsed = parse_program(text, {"table": np.arange(40)})
    assert print_program(parsed) == text
    assert parsed.kernels == program().kernels and parsed.launches == program().launches
    assert parsed.buffers == program().buffers
    assert parsed.buffers["rate"].data == np.float32(0.25)


def test_elided_data_must_be_given() -> None:
    with pytest.raises(ParseError, match="the data of table"):
        parse_program(print_program(program()))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("load x[i, k]", "load z[i, k]", "expected a buffer, got z"),
        ("load x[i, k]", "load x[i, q]", "expected a loop variable in scope, got q"),
        ("mul(%0, %1)", "mul(%0, %9)", "expected a value that is defined, got %9"),
        ("mul(%0, %1)", "mull(%0, %1)", "expected a primitive, got mull"),
        ("%a add= %2", "%a mul= %2", "expected the combiner of %a, got mul"),
        ("for k in 3", "for k of 3", "line 5: expected 'in', got of"),
        ("store y[i, j] = %5", "store y[i, j] ? %5", "expected a token"),
    ],
)
def test_refused_with_its_line(old: str, new: str, message: str) -> None:
    text = print_kernel(sample("matmul", 4, 5, 3))
    assert old in text
    with pytest.raises(ParseError, match="line ") as caught:
        parse_kernel(text.replace(old, new))
    assert message in str(caught.value)

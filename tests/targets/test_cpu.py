"""Every op on every dtype, on every vector width: interpreter = loops = machine code; hostile values included."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from graphc import ops
from graphc.errors import TargetUnavailable, TypeRuleError
from graphc.ir import REGISTRY, Op
from graphc.ops.declare import CastTo, Elementwise, Gather, Iota, Literal, Movement, Reduction
from graphc.ops.examples import examples
from graphc.targets.cpu.host import vector_target
from graphc.types import as_dtype
from tests.targets.agreement import Batch, equal, identical, ulps, within

DTYPES = ("float32", "float64", "int32", "int64", "uint32", "bool")
FLOATS = ("float32", "float64")
INTEGERS = ("int32", "int64", "uint32")


def _widths() -> list[int]:
    found = []
    for bits, level in ((512, "avx512"), (256, "avx2"), (128, "sse4.2")):
        try:
            vector_target(level)
        except TargetUnavailable:
            continue
        found.append(bits)
    return found or [128]


WIDTHS = _widths()
ROUNDED = {"add", "sub", "mul", "div", "neg", "abs", "sign", "sqrt", "floor", "ceil", "trunc", "round", "copysign",
           "minimum", "maximum", "floordiv", "mod", "where"}  # fmt: skip


def _bound(op: Op, dtype: str) -> Any:
    """How near an op must come: IEEE's operations, selections and moves to the bit, functions by ULP, sums by tolerance."""
    exact = isinstance(op.lowering, Movement | Gather | Iota | Literal | CastTo) or op.name in ("pad", "concatenate")
    if dtype not in FLOATS or exact:
        return identical
    if isinstance(op.lowering, Elementwise):
        primitive = op.lowering.primitive
        return identical if primitive in ROUNDED else ulps(8)
    if isinstance(op.lowering, Reduction) and op.lowering.combiner not in ("add", "mul"):
        return equal
    return within(2e-5 if dtype == "float32" else 1e-12)


def every_op(dtype: str) -> Batch:
    batch = Batch()
    for name, op in sorted(REGISTRY.items()):
        for n, example in enumerate(examples(op, as_dtype(dtype), seed=1, shapes=((3, 4), (17,), ()))):
            try:
                batch.add(f"{name}.{n}", lambda *x, e=example: e.node(x), *example.arrays, same=_bound(op, dtype))
            except TypeRuleError:  # not defined on this dtype
                continue
    return batch


def test_every_op_with_samples_is_compiled_on_some_dtype() -> None:
    tested = {name.rpartition(".")[0] for dtype in ("float32", "uint32", "bool") for name in every_op(dtype).outputs}
    declared = {name for name, op in REGISTRY.items() if examples(op) or examples(op, as_dtype("uint32"))}
    assert declared <= tested
    assert len(tested) > 60


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_op_means_the_same_at_every_level(dtype: str, bits: int) -> None:
    every_op(dtype).check(vector_bits=bits, threads=1, loops=bits == WIDTHS[-1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_op_unfused_and_on_two_threads(dtype: str) -> None:
    every_op(dtype).check(vector_bits=WIDTHS[0], threads=2, fuse=False)


# --- hostile values ------------------------------------------------------------------------------------------------

SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1.5, 3e38, -3e38, 1e-40, -1e-40, 7.0, -7.0, 2.0)
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


def pairs(values: Any, dtype: str) -> tuple[Any, Any]:
    crossed = np.array(list(itertools.product(values, values)), dtype=dtype)
    return crossed[:, 0].copy(), crossed[:, 1].copy()


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_special_floats_against_each_other(dtype: str, bits: int) -> None:
    a, b = pairs(SPECIAL, dtype)
    batch = Batch()
    for name in ("add", "sub", "mul", "div", "copysign", *COMPARISONS):
        batch.add(name, REGISTRY[name], a, b)
    for name in ("maximum", "minimum", "floordiv", "mod"):  # which zero is open
        batch.add(name, REGISTRY[name], a, b, same=equal)
    batch.add("where", lambda x, y: ops.where(x > y, x, y), a, b)
    for name in ("neg", "abs", "sign", "sqrt", "floor", "ceil", "trunc", "round", "isnan", "isfinite"):
        batch.add(name, REGISTRY[name], a)
    for name in ("exp", "log", "log1p", "expm1", "tanh", "sigmoid", "erf", "sin", "cos", "atan"):
        small = a[np.abs(a) < 100] if name in ("sin", "cos") else a
        batch.add(name, REGISTRY[name], small, same=ulps(8) if name != "sigmoid" else within(1e-6))
    batch.check(vector_bits=bits, threads=1, loops=bits == WIDTHS[-1])


@pytest.mark.parametrize("dtype", FLOATS)
def test_reductions_meet_nan_and_infinities_in_every_place(dtype: str) -> None:
    batch = Batch()
    for n in (1, 7, 9, 17, 33):
        plain = np.tile(np.arange(n, dtype=dtype) - 3, (n + 1, 1))
        for label, value in (("nan", np.nan), ("inf", np.inf), ("-inf", -np.inf)):
            rows = plain.copy()
            rows[np.arange(n), np.arange(n)] = value
            for name in ("max", "min", "argmax", "argmin"):
                for axis in (0, 1):
                    batch.add(
                        f"{name}.{axis}.{label}.{n}", lambda x, f=getattr(ops, name), a=axis: f(x, axis=a), rows,
                        same=equal,
                    )  # fmt: skip
            batch.add(f"sum.{label}.{n}", lambda x: ops.sum(x, axis=1), rows, same=equal)
    twice = np.array([[np.nan, 1, np.nan], [1, np.nan, np.nan], [5, 5, 1], [-np.inf, -np.inf, -np.inf]], dtype)
    batch.add("ties", lambda x: ops.argmax(x, axis=1), twice)
    batch.add("ties.low", lambda x: ops.argmin(x, axis=1), twice)
    batch.check(threads=1)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap_and_never_trap(dtype: str, bits: int) -> None:
    info = np.iinfo(dtype)
    values = sorted(
        {0, 1, 2, 3, 7, info.max, info.max - 1, info.min, info.min + 1, *((-1, -2, -7) if info.min else ())}
    )
    a, b = pairs(values, dtype)
    batch = Batch()
    for name in ("add", "sub", "mul", "floordiv", "mod", "maximum", "minimum", "and", "or", "xor", *COMPARISONS):
        batch.add(name, REGISTRY[name], a, b)
    for name in ("neg", "abs", "sign", "not"):
        batch.add(name, REGISTRY[name], a)
    shifts = np.arange(a.size).astype(dtype) % info.bits
    for name in ("shl", "shr"):
        batch.add(name, REGISTRY[name], a, shifts)
    for name in ("sum", "prod", "max", "min"):
        batch.add(f"reduce.{name}", lambda x, f=getattr(ops, name): f(x), a)
    batch.check(vector_bits=bits, threads=1, loops=bits == WIDTHS[-1])


def test_casts_between_all_dtypes_saturate() -> None:
    batch = Batch()
    wild = [*SPECIAL, 2.0**31, -(2.0**31), 2.0**31 - 1, 2.0**32, 2.0**63, -(2.0**63), 2.0**64, 1e30, -1e30, 0.99, -0.99]
    for source, target in itertools.product(DTYPES, DTYPES):
        if source in FLOATS:
            values = np.array(wild, source)
        elif source == "bool":
            values = np.array([True, False] * 9)
        else:
            info = np.iinfo(source)
            values = np.array([info.min, info.max, 0, 1, info.max // 2, info.max - 1, 5] * 3, source)
        batch.add(f"{source}.{target}", lambda x, t=target: ops.cast(x, t), values)
    for bits in WIDTHS:
        batch.check(vector_bits=bits, threads=1, loops=bits == WIDTHS[-1])


def test_a_select_takes_nothing_from_the_other_branch() -> None:
    batch = Batch()
    x = np.array([-1, 0, 1, 4, np.nan, -np.inf], np.float32)
    batch.add("sqrt", lambda x: ops.where(x > 0.0, ops.sqrt(x), 0.0), x)
    batch.add("inverse", lambda x: ops.where(ops.eq(x, 0.0), 0.0, 1.0 / x), x)
    batch.check(threads=1)

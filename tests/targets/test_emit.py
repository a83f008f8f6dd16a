"""The LLVM emitter against the loop interpreter: every lane arrangement, width, dtype and edge."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.errors import TargetUnavailable
from graphc.loops.interpreter import run_kernel
from graphc.targets.cpu.emit import emit_kernel
from graphc.targets.cpu.host import VectorTarget, vector_target
from graphc.targets.cpu.jit import emit_assembly
from tests.targets.kernels import Compiled, check

EXTENTS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 100)
DTYPES = ("f32", "f64", "i32", "i64", "u32", "bool")
NUMPY = {"f32": np.float32, "f64": np.float64, "i32": np.int32, "i64": np.int64, "u32": np.uint32, "bool": np.bool_}
KINDS = ("", "vector", "unrolled", "parallel")


@pytest.fixture(params=["avx512", "avx2", "sse4.2", "neon"])
def level(request: pytest.FixtureRequest) -> VectorTarget:
    try:
        return vector_target(request.param)
    except TargetUnavailable as error:
        pytest.skip(str(error))


def random(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Any:
    generator = np.random.default_rng(seed)
    kind = np.dtype(NUMPY[dtype]).kind
    if kind == "f":
        return generator.standard_normal(shape).astype(NUMPY[dtype])
    if kind == "b":
        return generator.integers(0, 2, shape).astype(np.bool_)
    low = 0 if kind == "u" else -50
    return generator.integers(low, 50, shape).astype(NUMPY[dtype])


# --- pointwise ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_copying_keeps_every_element_and_touches_no_other(kind: str, dtype: str, level: VectorTarget) -> None:
    parameters = ", ".join(f"in x{n}: {dtype}[{n}], out y{n}: {dtype}[{n}]" for n in EXTENTS)
    loops = "\n".join(
        f"""for i in {n} {kind} {{
          %0 = load x{n}[i]
          store y{n}[i] = %0
        }}"""
        for n in EXTENTS
    )
    check(f"kernel copy({parameters}) {{ {loops} }}", {f"x{n}": random(dtype, (n,)) for n in EXTENTS}, level)


@pytest.mark.parametrize("n", EXTENTS)
def test_pointwise_products_and_sums_are_not_contracted(n: int, level: VectorTarget) -> None:
    text = f"""kernel axpy(in x: f32[{n}], in y: f32[{n}], in a: f32[], out z: f32[{n}]) {{
      %s = load a[]
      for i in {n} vector {{
        %0 = load x[i]
        %1 = load y[i]
        %2 = mul(%0, %s)
        %3 = add(%2, %1)
        store z[i] = %3
      }}
    }}"""
    check(text, {"x": random("f32", (n,)), "y": random("f32", (n,), 1), "a": np.float32(0.1)}, level)


@pytest.mark.parametrize("kind", ["", "vector"])
@pytest.mark.parametrize("primitive", ["maximum", "minimum", "abs", "sign", "floor", "neg", "sqrt", "round", "trunc"])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_nan_infinities_and_zeros_go_through_as_in_numpy(
    dtype: str, primitive: str, kind: str, level: VectorTarget
) -> None:
    special = [np.nan, np.inf, -np.inf, 0.0, 0.5, -1.5, 2.5, 1e30, -1e-40]
    x, y = (np.array(v, NUMPY[dtype]).ravel() for v in np.meshgrid(special, special))
    args = "%0, %1" if primitive in ("maximum", "minimum") else "%0"
    text = f"""kernel k(in x: {dtype}[81], in y: {dtype}[81], out z: {dtype}[81]) {{
      for i in 81 {kind} {{
        %0 = load x[i]
        %1 = load y[i]
        %2 = {primitive}({args})
        store z[i] = %2
      }}
    }}"""
    check(text, {"x": x, "y": y}, level)


@pytest.mark.parametrize("primitive", ["floordiv", "mod", "maximum", "minimum", "sub", "mul", "lt", "ge", "eq"])
@pytest.mark.parametrize("dtype", ["i32", "i64", "u32"])
@pytest.mark.parametrize("kind", ["", "vector"])
def test_integer_arithmetic_never_traps(primitive: str, dtype: str, kind: str, level: VectorTarget) -> None:
    info = np.iinfo(NUMPY[dtype])
    special = [info.min, info.min + 1, 0, 1, 2, 7, info.max] + ([-1, -7] if info.min else [3, 5])
    x, y = (np.array(v, NUMPY[dtype]).ravel() for v in np.meshgrid(special, special))
    result = "bool" if primitive in ("lt", "ge", "eq") else dtype
    text = f"""kernel k(in x: {dtype}[81], in y: {dtype}[81], out z: {result}[81]) {{
      for i in 81 {kind} {{
        %0 = load x[i]
        %1 = load y[i]
        %2 = {primitive}(%0, %1)
        store z[i] = %2
      }}
    }}"""
    z = check(text, {"x": x, "y": y}, level)["z"]
    if primitive in ("floordiv", "mod"):
        assert (z[y == 0] == 0).all()


@pytest.mark.parametrize("source", DTYPES)
def test_casts_saturate_and_agree_with_the_oracle(source: str, level: VectorTarget) -> None:
    x = random(source, (19,))
    if source[0] == "f":
        x[:10] = [np.nan, np.inf, -np.inf, 3e9, -3e9, 1e20, -1e20, 0.99, -0.99, -0.0]
    parameters = ", ".join(f"out {name}: {to}[19]" for to in DTYPES for name in (f"s{to}", f"v{to}"))
    loops = "\n".join(
        f"""for i in 19 {kind} {{
          %0 = load x[i]
          %1 = cast(%0) as {to}
          store {name}{to}[i] = %1
        }}"""
        for to in DTYPES
        for name, kind in (("s", ""), ("v", "vector"))
    )
    check(f"kernel k(in x: {source}[19], {parameters}) {{ {loops} }}", {"x": x}, level)


@pytest.mark.parametrize("n", [1, 5, 8, 13, 32])
def test_booleans_are_bytes_in_memory_and_masks_in_registers(n: int, level: VectorTarget) -> None:
    text = f"""kernel k(in x: f32[{n}], in m: bool[{n}], out y: f32[{n}], out b: bool[{n}]) {{
      for i in {n} vector {{
        %0 = load x[i]
        %1 = load m[i]
        %2 = lt(%0, 0.25:f32)
        %3 = and(%1, %2)
        %4 = not(%3)
        %5 = where(%4, %0, -1.0:f32)
        %6 = xor(%4, true:bool)
        store y[i] = %5
        store b[i] = %6
      }}
    }}"""
    result = check(text, {"x": random("f32", (n,)), "m": random("bool", (n,), 1)}, level)
    assert set(np.unique(result["b"].view(np.uint8))) <= {0, 1}


def test_mixed_widths_share_one_lane_loop(level: VectorTarget) -> None:
    text = """kernel k(in x: f32[21], in y: f64[21], in n: i64[21], out z: f64[21], out w: f32[21]) {
      for i in 21 vector {
        %0 = load x[i]
        %1 = load y[i]
        %2 = load n[i]
        %3 = cast(%0) as f64
        %4 = cast(%2) as f64
        %5 = mul(%3, %1)
        %6 = add(%5, %4)
        %7 = cast(%6) as f32
        store z[i] = %6
        store w[i] = %7
      }
    }"""
    check(text, {"x": random("f32", (21,)), "y": random("f64", (21,)), "n": random("i64", (21,))}, level)


# --- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vector", "unrolled", ""])
@pytest.mark.parametrize(
    ("index", "size"),
    [("2*i+1", 40), ("18-1*i", 19), ("(i+3)//4", 8), ("(i)%5", 5), ("5*(i)%3+(i)//3", 20), ("4", 19), ("19*i+19", 400)],
)
def test_addresses_of_every_shape(index: str, size: int, kind: str, level: VectorTarget) -> None:
    text = f"""kernel k(in x: f32[{size}], out y: f32[19]) {{
      for i in 19 {kind} {{
        %0 = load x[{index}]
        store y[i] = %0
      }}
    }}"""
    check(text, {"x": random("f32", (size,))}, level)


@pytest.mark.parametrize("shape", [(3, 5), (8, 8), (1, 9), (17, 2)])
def test_a_transposition_scatters_and_gathers(shape: tuple[int, int], level: VectorTarget) -> None:
    m, n = shape
    for first, second in (("vector", ""), ("", "vector"), ("unrolled", "vector"), ("vector", "unrolled")):
        text = f"""kernel t(in x: f32[{m},{n}], out y: f32[{n},{m}]) {{
          for i in {m} {first} {{
            for j in {n} {second} {{
              %0 = load x[i, j]
              store y[j, i] = %0
            }}
          }}
        }}"""
        check(text, {"x": random("f32", shape)}, level)


@pytest.mark.parametrize("kind", ["", "vector", "unrolled"])
def test_an_index_is_a_value(kind: str, level: VectorTarget) -> None:
    text = f"""kernel k(out y: i64[23], out z: f32[23]) {{
      for i in 23 {kind} {{
        %0 = index 3*i-4
        %1 = index (i+2)//3
        %2 = add(%0, %1)
        %3 = cast(%2) as f32
        store y[i] = %2
        store z[i] = %3
      }}
    }}"""
    check(text, {}, level)


@pytest.mark.parametrize("kind", ["", "vector", "unrolled"])
@pytest.mark.parametrize("n", [1, 7, 9, 20])
def test_bounded_accesses_read_and_write_nothing_outside(n: int, kind: str, level: VectorTarget) -> None:
    text = f"""kernel pad(in x: f32[{n}], out y: f32[{n + 5}], inout w: f32[{n}]) {{
      for i in {n + 5} {kind} {{
        %0 = load x[i-3] if i-3 < {n} else -7.0:f32
        store y[i] = %0
        %1 = add(%0, 2.5:f32)
        store w[i-2] = %1 if i-2 < {n}
      }}
    }}"""
    check(text, {"x": random("f32", (n,)), "w": random("f32", (n,))}, level)


@pytest.mark.parametrize("kind", ["", "vector", "unrolled"])
def test_conditions_that_move_with_the_lanes_are_masks(kind: str, level: VectorTarget) -> None:
    text = f"""kernel k(in x: f32[4,20], inout y: f32[4,20], out s: f32[4]) {{
      for r in 4 {{
        acc %a: f32 = add
        for i in 20 {kind} {{
          if i+r < 13 {{
            %0 = load x[r, i]
            %1 = add(%0, 1.0:f32)
            store y[r, i] = %1
            %a add= %1
          }}
        }}
        %t = value %a
        store s[r] = %t
      }}
    }}"""
    check(text, {"x": random("f32", (4, 20)), "y": random("f32", (4, 20), 1)}, level, rtol=1e-5)


def test_an_accumulator_survives_a_condition(level: VectorTarget) -> None:
    text = """kernel k(in x: f32[10,9], out s: f32[]) {
      acc %a: f32 = add
      for i in 10 {
        if i-3 < 4 {
          for j in 9 vector {
            %0 = load x[i, j]
            %a add= %0
          }
        }
      }
      %t = value %a
      store s[] = %t
    }"""
    check(text, {"x": random("f32", (10, 9))}, level, rtol=1e-5)


# --- guards --------------------------------------------------------------------------------------------------------

TAKE = """kernel take(in x: f32[{n}], in at: {t}[11], out y: f32[11]) {{
  for i in 11 {kind} {{
    %0 = load at[i]
    %1 = guard %0 < {n} site 2
    %2 = load x[%1]
    store y[i] = %2
  }}
}}"""


@pytest.mark.parametrize("kind", ["", "vector", "unrolled", "parallel"])
@pytest.mark.parametrize("t", ["i32", "i64", "u32"])
def test_gathers_count_negative_positions_from_the_end(t: str, kind: str, level: VectorTarget) -> None:
    at = np.array([0, 4, 2, 1, 3, 4, 0, 2, 2, 1, 4], NUMPY[t])
    if t != "u32":
        at[::3] -= 5
    check(TAKE.format(n=5, t=t, kind=kind), {"x": random("f32", (5,)), "at": at}, level)


@pytest.mark.parametrize("kind", ["", "vector", "unrolled", "parallel"])
@pytest.mark.parametrize("bad", [5, -6, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("where", [0, 6, 10])
def test_a_violated_guard_reports_its_site_and_reads_element_zero(
    where: int, bad: int, kind: str, level: VectorTarget
) -> None:
    at = np.zeros(11, np.int32)
    at[:] = 1
    at[where] = bad
    x = random("f32", (5,))
    result, status = Compiled(TAKE.format(n=5, t="i32", kind=kind), level).run({"x": x, "at": at}, site_base=40)
    assert status == 40 + 2 + 1
    assert result["y"][where] == x[0]
    assert (np.delete(result["y"], where) == x[1]).all()


def test_a_guard_on_an_empty_axis_reads_nothing(level: VectorTarget) -> None:
    for kind in ("", "vector"):
        compiled = Compiled(TAKE.format(n=0, t="i32", kind=kind), level)
        _, status = compiled.run({"x": np.zeros(0, np.float32), "at": np.zeros(11, np.int32)})
        assert status == 3


def test_masked_lanes_violate_no_guard(level: VectorTarget) -> None:
    # whatever a masked lane holds, it is not an index of the program
    at = np.full(11, -5, np.int32)
    check(TAKE.format(n=5, t="i32", kind="vector"), {"x": random("f32", (5,)), "at": at}, level)


@pytest.mark.parametrize("kind", ["", "vector"])
def test_scattering_adds_every_duplicate(kind: str, level: VectorTarget) -> None:
    text = f"""kernel scatter(in u: f32[12,10], in at: i32[12], inout y: f32[4,10]) {{
      for i in 12 {{
        %0 = load at[i]
        %1 = guard %0 < 4 site 0
        for j in 10 {kind} {{
          %2 = load u[i, j]
          store y[%1, j] += %2
        }}
      }}
    }}"""
    at = random("i32", (12,)) % 4
    check(text, {"u": random("f32", (12, 10)), "at": at, "y": random("f32", (4, 10), 1)}, level)


# --- reductions ----------------------------------------------------------------------------------------------------

COMBINED = [
    *((c, t) for c in ("add", "mul", "maximum", "minimum") for t in ("f32", "f64", "i32", "i64", "u32")),
    *((c, t) for c in ("and", "or") for t in ("bool", "i32", "u32")),
]  # fmt: skip


@pytest.mark.parametrize(("combiner", "dtype"), COMBINED)
def test_reductions_of_every_extent(combiner: str, dtype: str, level: VectorTarget) -> None:
    cases = [(n, kind) for n in EXTENTS for kind in ("", "vector", "unrolled")]
    parameters = [f"in x{n}: {dtype}[3,{n}]" for n in EXTENTS] + [f"out y{n}{kind}: {dtype}[3]" for n, kind in cases]
    loops = "\n".join(
        f"""for i in 3 parallel {{
          acc %a: {dtype} = {combiner}
          for j in {n} {kind} {{
            %0 = load x{n}[i, j]
            %a {combiner}= %0
          }}
          %1 = value %a
          store y{n}{kind}[i] = %1
        }}"""
        for n, kind in cases
    )
    exact = np.dtype(NUMPY[dtype]).kind != "f" or combiner in ("maximum", "minimum")
    arrays = {f"x{n}": random(dtype, (3, n)) for n in EXTENTS}
    check(f"kernel r({', '.join(parameters)}) {{ {loops} }}", arrays, level, rtol=0 if exact else 1e-4)


@pytest.mark.parametrize("combiner", ["maximum", "minimum"])
@pytest.mark.parametrize("kind", ["", "vector"])
@pytest.mark.parametrize("where", [0, 5, 8, 16, 18])
def test_extrema_propagate_nan_from_any_lane(where: int, kind: str, combiner: str, level: VectorTarget) -> None:
    x = random("f32", (19,))
    x[where] = np.nan
    text = f"""kernel r(in x: f32[19], out y: f32[]) {{
      acc %a: f32 = {combiner}
      for j in 19 {kind} {{
        %0 = load x[j]
        %a {combiner}= %0
      }}
      %1 = value %a
      store y[] = %1
    }}"""
    assert np.isnan(check(text, {"x": x}, level)["y"])


@pytest.mark.parametrize("n", [1, 5, 8, 19, 33])
def test_partials_live_through_the_serial_loops_around(n: int, level: VectorTarget) -> None:
    text = f"""kernel r(in x: f32[{n},20], out y: f32[], out z: f32[]) {{
      acc %a: f32 = add
      acc %b: f32 = maximum
      for i in {n} {{
        for j in 16 vector {{
          %0 = load x[i, j]
          %1 = mul(%0, %0)
          %a add= %1
          %b maximum= %0
        }}
        for j in 4 unrolled {{
          %0 = load x[i, 16+j]
          %1 = add(%0, %0)
          %a add= %1
          %b maximum= %0
        }}
      }}
      %2 = value %a
      %3 = value %b
      store y[] = %2
      store z[] = %3
    }}"""
    check(text, {"x": random("f32", (n, 20))}, level, rtol=1e-5)


def test_a_lane_invariant_value_counts_once_an_iteration(level: VectorTarget) -> None:
    for kind in ("vector", "unrolled", ""):
        text = f"""kernel r(in x: f32[], out y: f32[], out z: i32[]) {{
          acc %a: f32 = add
          acc %n: i32 = add
          %0 = load x[]
          for j in 21 {kind} {{
            %a add= %0
            %n add= 2:i32
          }}
          %1 = value %a
          %2 = value %n
          store y[] = %1
          store z[] = %2
        }}"""
        assert check(text, {"x": np.float32(0.5)}, level)["z"] == 42


@pytest.mark.parametrize("n", EXTENTS)
def test_softmax_rows_read_reductions_back_as_scalars(n: int, level: VectorTarget) -> None:
    text = f"""kernel softmax(in x: f32[5,{n}], out y: f32[5,{n}]) {{
      for i in 5 parallel {{
        acc %m: f32 = maximum
        for j in {n} vector {{
          %0 = load x[i, j]
          %m maximum= %0
        }}
        %1 = value %m
        acc %s: f32 = add
        for j in {n} vector {{
          %2 = load x[i, j]
          %3 = sub(%2, %1)
          %4 = exp(%3)
          store y[i, j] = %4
          %s add= %4
        }}
        %5 = value %s
        for j in {n} vector {{
          %6 = load y[i, j]
          %7 = div(%6, %5)
          store y[i, j] = %7
        }}
      }}
    }}""".replace("out y", "inout y")
    check(text, {"x": random("f32", (5, n)), "y": np.zeros((5, n), np.float32)}, level, rtol=1e-5)


@pytest.mark.parametrize("lanes", ["", "vector", "unrolled"])
def test_running_sums_are_values_of_their_iteration(lanes: str, level: VectorTarget) -> None:
    text = f"""kernel cumsum(in x: f32[13,11], out y: f32[13,11]) {{
      for j in 11 {lanes} {{
        acc %a: f32 = add
        for i in 13 {{
          %0 = load x[i, j]
          %a add= %0
          %1 = value %a
          store y[i, j] = %1
        }}
      }}
    }}"""
    check(text, {"x": random("f32", (13, 11))}, level)


# --- register tiles ------------------------------------------------------------------------------------------------


def matmul(m: int, n: int, k: int, rows: int, columns: int, dtype: str = "f32", outer: str = "parallel") -> str:
    """C = relu(A B + bias) with a register tile; extents must be multiples of the tile."""
    return f"""kernel gemm(in a: {dtype}[{m},{k}], in b: {dtype}[{k},{n}], in bias: {dtype}[{n}], out c: {dtype}[{m},{n}]) {{
      for io in {m // rows} {outer} {{
        for jo in {n // columns} {{
          for ii in {rows} unrolled {{
            for jj in {columns} vector {{
              acc %s: {dtype} = add
              for k in {k} {{
                %0 = load a[{rows}*io+ii, k]
                %1 = load b[k, {columns}*jo+jj]
                %2 = mul(%0, %1)
                %s add= %2
              }}
              %3 = value %s
              %4 = load bias[{columns}*jo+jj]
              %5 = add(%3, %4)
              %6 = maximum(%5, 0.0:{dtype})
              store c[{rows}*io+ii, {columns}*jo+jj] = %6
            }}
          }}
        }}
      }}
    }}"""


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize(("m", "n", "k", "rows", "columns"), [
    (6, 16, 5, 6, 16), (12, 34, 9, 3, 17), (4, 3, 8, 4, 3), (1, 8, 1, 1, 8), (5, 1, 12, 5, 1), (4, 48, 33, 2, 24), (2, 2, 0, 1, 2),
])  # fmt: skip
def test_a_matrix_product_is_two_lane_loops_around_a_serial_one(
    m: int, n: int, k: int, rows: int, columns: int, dtype: str, level: VectorTarget
) -> None:
    arrays = {"a": random(dtype, (m, k)), "b": random(dtype, (k, n), 1), "bias": random(dtype, (n,), 2)}
    result = check(matmul(m, n, k, rows, columns, dtype, "" if m == 2 else "parallel"), arrays, level, rtol=1e-4)
    wanted = np.maximum(arrays["a"].astype(np.float64) @ arrays["b"] + arrays["bias"], 0)
    np.testing.assert_allclose(result["c"], wanted, rtol=1e-4, atol=1e-4)


def test_a_register_tile_stays_in_registers() -> None:
    """Six rows of two vectors: the accumulators are 12 registers, and the inner loop stores nothing."""
    try:
        target = vector_target("avx2")
    except TargetUnavailable as error:
        pytest.skip(str(error))
    module = target.module("tile")
    from graphc.loops.parse import parse_kernel

    emit_kernel(module, parse_kernel(matmul(6, 16, 256, 6, 16)), target, 1)
    loops = _inner_loops(emit_assembly(module.text(), target))
    tile = max(loops, key=lambda lines: sum("vfmadd" in line for line in lines))
    fmas = sum("vfmadd" in line for line in tile)
    assert fmas and fmas % 12 == 0
    assert not any(re.search(r"\b(vmovaps|vmovups)\s+%ymm\d+,", line) and "(%rsp)" in line for line in tile), "\n".join(
        tile
    )
    assert sum("vbroadcastss" in line for line in tile) == fmas // 2


def _inner_loops(assembly: str) -> list[list[str]]:
    """The straight-line loops of an assembly text."""
    loops, lines, labels = [], assembly.splitlines(), {}
    for number, line in enumerate(lines):
        if match := re.match(r"(\.?\w+):", line):
            labels[match.group(1)] = number
        elif (match := re.match(r"\s+j\w+\s+(\.?\w+)$", line)) and match.group(1) in labels:
            loops.append(lines[labels[match.group(1)] : number + 1])
    return loops


@pytest.mark.parametrize("kind", ["unrolled", "vector"])
def test_dot_products_keep_one_partial_a_lane(kind: str, level: VectorTarget) -> None:
    text = f"""kernel dot(in a: f32[4,70], in b: f32[3,70], out c: f32[4,3]) {{
      for i in 4 unrolled {{
        for j in 3 unrolled {{
          acc %s: f32 = add
          for ko in 4 {{
            for ki in 16 {kind} {{
              %0 = load a[i, 16*ko+ki]
              %1 = load b[j, 16*ko+ki]
              %2 = mul(%0, %1)
              %s add= %2
            }}
          }}
          for kt in 6 {kind} {{
            %0 = load a[i, 64+kt]
            %1 = load b[j, 64+kt]
            %2 = mul(%0, %1)
            %s add= %2
          }}
          %3 = value %s
          store c[i, j] = %3
        }}
      }}
    }}"""
    check(text, {"a": random("f32", (4, 70)), "b": random("f32", (3, 70), 1)}, level, rtol=1e-4)


# --- names, sizes, threads -------------------------------------------------------------------------------------------


def test_blocks_side_by_side_may_use_one_name() -> None:
    text = """kernel k(in x: f32[9], out y: f32[], out z: f32[]) {
      acc %a: f32 = add
      acc %b: f32 = add
      for i in 9 vector {
        %0 = load x[i]
        %1 = mul(%0, %0)
        %a add= %1
      }
      for i in 9 vector {
        %0 = load x[i]
        %1 = add(%0, 1.0:f32)
        %b add= %1
      }
      %2 = value %a
      %3 = value %b
      store y[] = %2
      store z[] = %3
    }"""
    check(text, {"x": random("f32", (9,))}, rtol=1e-5)


def test_a_huge_lane_loop_is_cut_into_a_loop() -> None:
    text = """kernel k(in x: f32[100003], out y: f32[100003], out s: f32[]) {
      acc %a: f32 = maximum
      for i in 100003 vector {
        %0 = load x[i]
        %1 = neg(%0)
        store y[i] = %1
        %a maximum= %1
      }
      %2 = value %a
      store s[] = %2
    }"""
    x = random("f32", (100003,))
    compiled = Compiled(text)
    result, _ = compiled.run({"x": x})
    np.testing.assert_array_equal(result["y"], -x)
    assert result["s"] == (-x).max()
    assert len(compiled.text) < 50_000


def test_nested_vector_loops_are_lanes_of_lanes(level: VectorTarget) -> None:
    text = """kernel k(in x: f32[3,10], out y: f32[3]) {
      for i in 3 vector {
        acc %a: f32 = add
        for j in 10 vector {
          %0 = load x[i, j]
          %a add= %0
        }
        %1 = value %a
        store y[i] = %1
      }
    }"""
    check(text, {"x": random("f32", (3, 10))}, level, rtol=1e-5)


def test_scratch_of_an_iteration() -> None:
    text = """kernel k(in x: f32[4,10], out y: f32[4,10]) {
      for i in 4 parallel {
        alloc local t: f32[10]
        for j in 10 vector {
          %0 = load x[i, j]
          store t[9-j] = %0
        }
        for j in 10 vector {
          %1 = load t[j]
          store y[i, j] = %1
        }
      }
    }"""
    check(text, {"x": random("f32", (4, 10))})
    check(text, {"x": random("f32", (4, 10))}, threads=2)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_parallel_loop_gives_the_same_bits_on_any_number_of_threads(threads: int) -> None:
    text = """kernel k(in x: f32[37,19], in s: f32[], out y: f32[37], out z: f32[37,19]) {
      %c = load s[]
      %d = mul(%c, 2.0:f32)
      for i in 37 parallel {
        acc %a: f32 = add
        for j in 19 vector {
          %0 = load x[i, j]
          %1 = mul(%0, %d)
          %a add= %1
          store z[i, j] = %1
        }
        %2 = value %a
        store y[i] = %2
      }
    }"""
    arrays = {"x": random("f32", (37, 19)), "s": np.float32(0.7)}
    one, _ = Compiled(text, threads=1).run(arrays)
    many, _ = Compiled(text, threads=threads).run(arrays)
    for name in one:
        np.testing.assert_array_equal(one[name], many[name])
    np.testing.assert_allclose(one["y"], run_kernel(Compiled(text).kernel, arrays)["y"], rtol=1e-5, atol=1e-5)


def test_a_parallel_loop_may_read_a_reduction_before_it() -> None:
    text = """kernel k(in x: f32[40], out y: f32[40], out b: bool[40]) {
      acc %a: f32 = maximum
      for i in 40 vector {
        %0 = load x[i]
        %a maximum= %0
      }
      %m = value %a
      %p = gt(%m, 0.0:f32)
      for i in 40 parallel {
        %1 = load x[i]
        %2 = div(%1, %m)
        store y[i] = %2
        store b[i] = %p
      }
    }"""
    check(text, {"x": random("f32", (40,))}, threads=2)


# --- memory fences ---------------------------------------------------------------------------------------------------

FENCED = """
import numpy as np
from graphc.targets.cpu.host import vector_target
from tests.targets.kernels import check
from tests.targets.test_emit import TAKE, matmul, random

for target in (vector_target(), *({extra})):
    for n in (1, 3, 5, 7, 9, 17, 31):
        for t in ("f32", "f64", "i32", "bool"):
            check(f'''kernel copy(in x: {{t}}[{{n}}], out y: {{t}}[{{n}}]) {{{{
              for i in {{n}} vector {{{{
                %0 = load x[i]
                store y[i] = %0
              }}}}
            }}}}''', {{"x": random(t, (n,))}}, target, fence=True)
    at = np.array([-1, 4, 2, 1, 3, 4, 0, 2, 2, 1, 4], np.int32)
    check(TAKE.format(n=5, t="i32", kind="vector"), {{"x": random("f32", (5,)), "at": at}}, target, fence=True)
    a, b, bias = random("f32", (6, 13)), random("f32", (13, 11)), random("f32", (11,))
    check(matmul(6, 11, 13, 3, 11), {{"a": a, "b": b, "bias": bias}}, target, fence=True, rtol=1e-4)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="uses mprotect")
def test_no_lane_reads_past_the_end_of_an_array() -> None:
    """In a process of its own: a read of the page after an array would kill it."""
    extra = []
    for name in ("avx2", "sse4.2"):
        try:
            extra.append(f'vector_target("{vector_target(name).level}")')
        except TargetUnavailable:
            continue
    root = Path(__file__).parents[2]
    code = FENCED.format(extra=", ".join(extra) + ("," if extra else ""))
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]

"""The CPU target's elementary functions against float64 and long double, over the whole range of their operands."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Iterator

import llvmlite.binding as llvm
import numpy as np
import pytest

from graphc.errors import TargetUnavailable
from graphc.targets.cpu import vector_math
from graphc.targets.cpu.host import LEVELS, bind_libm, target_machine, vector_target
from graphc.targets.cpu.llvm_text import Function, Module, VType, float_literal
from graphc.targets.cpu.vector_math import BINARY, MAX_ULP, UNARY

DTYPE = {"f32": np.float32, "f64": np.float64, "i32": np.int32, "i64": np.int64, "u32": np.uint32}
WIDE = np.longdouble
# Where long double is float64, the reference itself is off by up to one unit.
SLACK = 0.0 if np.finfo(WIDE).nmant >= 63 else 1.0
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


EXACT: dict[str, Callable[..., np.ndarray]] = {
    "exp": np.exp, "log": np.log, "tanh": np.tanh, "erf": lambda x: _erf(x).astype(x.dtype), "sigmoid": _sigmoid,
    "log1p": np.log1p, "expm1": np.expm1, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin,
    "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "pow": np.power, "atan2": np.arctan2,
}  # fmt: skip
OWN = ("exp", "log", "tanh", "erf", "sigmoid", "log1p", "expm1", "sin", "cos")  # written here, not the C library's
EXACT_INSTRUCTIONS = {
    "abs": np.abs, "sign": np.sign, "sqrt": np.sqrt, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.round,
}  # fmt: skip


@functools.cache
def _engine(scalar: str, lanes: int, level: str | None) -> tuple[object, object]:
    """One module with a loop kernel for each function; kept alive with its machine code."""
    target = vector_target(level)
    module = target.module("kernels")
    type = VType(scalar, lanes)
    for name, emitter in [*UNARY.items(), *BINARY.items()]:
        operands = "xy" if name in BINARY else "x"
        if not type.is_float and name not in ("abs", "sign", "minimum", "maximum", "mod", "floordiv", "round"):
            continue
        f = module.function(name + "_", [("ptr", p) for p in operands + "r"] + [("i64", "n")], attributes=target.attributes)
        _kernel_body(f, emitter, type, operands, name == "isfinite")
    parsed = llvm.parse_assembly(module.text())
    parsed.verify()
    bind_libm()
    engine = llvm.create_mcjit_compiler(parsed, target_machine(target))
    engine.finalize_object()
    return engine, parsed


def _kernel_body(f: Function, emitter: Callable[..., str], type: VType, operands: str, is_test: bool) -> None:
    def body(index: str, _: tuple[str, ...]) -> None:
        result = emitter(f, type, *(f.load(type, f.gep(f"%{p}", index, type)) for p in operands))
        if is_test:
            result = f.convert("uitofp", type.mask, result, type)
        f.store(type, result, f.gep("%r", index, type))

    f.loop(0, "%n", type.lanes, body)
    f.ret()


def run(name: str, scalar: str, lanes: int, *operands: np.ndarray, level: str | None = None) -> np.ndarray:
    """Apply the compiled function to arrays (padded to whole vectors)."""
    engine, _ = _engine(scalar, lanes, level)
    size = -(-operands[0].size // lanes) * lanes
    padded = [np.ascontiguousarray(np.resize(o.astype(DTYPE[scalar]), size)) for o in operands]
    result = np.empty(size, DTYPE[scalar])
    address = engine.get_function_address(name + "_")  # type: ignore[attr-defined]
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(operands) + 1), ctypes.c_int64)
    prototype(address)(*(a.ctypes.data for a in [*padded, result]), size)
    return result[: operands[0].size]


def assert_ulp(name: str, x: np.ndarray, result: np.ndarray, exact: np.ndarray, bound: float) -> None:
    """Finite results within ``bound`` units in the last place; NaN and infinities equal to the rounded exact ones."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(result.dtype)
        special = ~np.isfinite(rounded) | ~np.isfinite(result)
        info = np.finfo(result.dtype)
        _, exponent = np.frexp(np.where(special, 1, exact))
        unit = np.ldexp(np.ones_like(exact), np.maximum(exponent - 1, info.minexp) - info.nmant)
        error = np.where(special, 0, np.abs(result.astype(exact.dtype) - exact) / unit)
    worst = int(error.argmax())
    assert error[worst] <= bound, f"{name}({x[worst]!r}) = {result[worst]!r}: {error[worst]:.3f} ULP, bound {bound}"
    wrong = special & ~((rounded == result) | (np.isnan(rounded) & np.isnan(result)))
    assert not wrong.any(), f"{name}({x[wrong][:4]}) = {result[wrong][:4]}, not {rounded[wrong][:4]}"
    zeros = (rounded == 0) & (x == 0)
    assert (np.signbit(rounded[zeros]) == np.signbit(result[zeros])).all(), f"{name}: sign of zero"


SPECIAL = [
    0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1.0, -1.0, 0.5, -0.5, 0.625, -0.625, 2.0, 88.72284, 709.78, -745.2,
]  # fmt: skip


@functools.cache
def sweep(scalar: str, step: int = 4099) -> np.ndarray:
    """Float bit patterns at equal steps over the whole range (each exponent, both signs), dense stretches, and edges."""
    random = np.random.default_rng(20)
    dtype = DTYPE[scalar]
    if scalar == "f32":
        patterns = np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
        bounds = (1.5, 5, 105, 9000, 40000)
    else:  # a million steps of the high word, random low words
        high = np.arange(0, 2**32, 16 * step, dtype=np.uint64) << np.uint64(32)
        patterns = (high | random.integers(0, 2**32, high.size, dtype=np.uint64)).view(np.float64)
        bounds = (1.5, 7, 750, 9000, 600000)
    near = [random.uniform(-b, b, 200_000_000 // (step * len(bounds) * 4)).astype(dtype) for b in bounds]
    info = np.finfo(dtype)
    edges = np.array([info.max, info.smallest_normal, info.smallest_subnormal], dtype)
    around = np.concatenate([edges, -edges, np.array(SPECIAL, dtype)])
    with np.errstate(over="ignore"):
        around = np.concatenate([around, np.nextafter(around, dtype(np.inf)), np.nextafter(around, dtype(-np.inf))])
    return np.concatenate([around, patterns, *near])


def exact(name: str, *operands: np.ndarray) -> np.ndarray:
    wide = np.float64 if operands[0].dtype == np.float32 else WIDE
    with np.errstate(all="ignore"):
        return np.asarray(EXACT[name](*(o.astype(wide) for o in operands)))


def bound(name: str, scalar: str) -> float:
    limit = MAX_ULP[name][scalar == "f64"]
    reference = "f64" if name == "erf" else "f32"  # math.erf is a float64: off by up to one unit itself
    return limit + (0.0 if scalar == "f32" else SLACK or float(reference == "f64"))


@pytest.fixture(params=[level for level in LEVELS])
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    try:
        vector_target(request.param)
    except TargetUnavailable as missing:
        pytest.skip(missing.message)
    yield request.param


@pytest.mark.parametrize("name", [n for n in EXACT if n in UNARY])
def test_float32_over_the_whole_range(name: str) -> None:
    x = sweep("f32")
    assert_ulp(name, x, run(name, "f32", vector_target().lanes("f32"), x), exact(name, x), bound(name, "f32"))


@pytest.mark.parametrize("name", [n for n in EXACT if n in UNARY])
def test_float64_over_the_whole_range(name: str) -> None:
    x = sweep("f64", 16411)
    assert_ulp(name, x, run(name, "f64", vector_target().lanes("f64"), x), exact(name, x), bound(name, "f64"))


@pytest.mark.parametrize("scalar", ["f32", "f64"])
def test_every_level_of_this_host(level: str, scalar: str) -> None:
    x = sweep(scalar, 65537)
    for name in OWN:
        result = run(name, scalar, vector_target(level).lanes(scalar), x, level=level)
        assert_ulp(f"{name} on {level}", x, result, exact(name, x), bound(name, scalar))


def test_erf_where_its_two_formulas_meet_and_where_it_reaches_one(level: str) -> None:
    """float32, every value around the bound between them and one in 23 up to where the result is 1."""
    first, seam, last = (np.float32(x).view(np.uint32) for x in (0.5, 1.125, 4.25))
    bits = np.concatenate([np.arange(seam - 65536, seam + 65536), np.arange(first, last, 23)]).astype(np.uint32)
    x = bits[: len(bits) // 16 * 16].view(np.float32)
    for signed in (x, -x):
        result = run("erf", "f32", vector_target(level).lanes("f32"), signed, level=level)
        assert_ulp(f"erf on {level}", signed, result, exact("erf", signed), bound("erf", "f32"))
        assert np.abs(result).max() == 1


@pytest.mark.parametrize("lanes", [1, 4, 16])
@pytest.mark.parametrize("scalar", ["f32", "f64"])
def test_every_width_gives_the_same_bits(scalar: str, lanes: int) -> None:
    x = sweep(scalar, 65537)
    for name in UNARY:
        narrow, wide = run(name, scalar, lanes, x), run(name, scalar, 8, x)
        np.testing.assert_array_equal(narrow, wide, err_msg=name)


@pytest.mark.parametrize("scalar", ["f32", "f64"])
@pytest.mark.parametrize("name", EXACT_INSTRUCTIONS)
def test_instructions_are_exact(name: str, scalar: str) -> None:
    x = np.concatenate([sweep(scalar, 65537), np.arange(-8, 8, 0.25, DTYPE[scalar])])
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(run(name, scalar, 8, x), EXACT_INSTRUCTIONS[name](x))
        np.testing.assert_array_equal(run("isfinite", scalar, 8, x).astype(bool), np.isfinite(x))


@pytest.mark.parametrize("scalar", ["f32", "f64"])
def test_binary_functions(scalar: str) -> None:
    values = np.array([*SPECIAL[:9], 3.0, -3.0, 7.5, -7.5, 1e-3, 1e30, -1e30], DTYPE[scalar])
    a, b = (grid.ravel() for grid in np.meshgrid(values, values))
    for name in ("pow", "atan2"):
        assert_ulp(name, a, run(name, scalar, 8, a, b), exact(name, a, b), bound(name, scalar))
    numpy = {"minimum": np.minimum, "maximum": np.maximum, "mod": np.mod, "floordiv": np.floor_divide, "copysign": np.copysign}
    for name, function in numpy.items():
        with np.errstate(all="ignore"):
            expected = function(a, b)
        np.testing.assert_array_equal(run(name, scalar, 8, a, b), expected, err_msg=name)
        np.testing.assert_array_equal(run(name, scalar, 1, a, b), expected, err_msg=name)


@pytest.mark.parametrize("scalar", ["i32", "i64", "u32"])
def test_integer_functions_never_trap(scalar: str) -> None:
    info = np.iinfo(DTYPE[scalar])
    values = np.array([0, 1, 2, 3, 7, 100, info.max, info.max - 1, info.min, info.min + 1], DTYPE[scalar])
    values = values if scalar[0] == "u" else np.concatenate([values, -values[1:6]])
    a, b = (grid.ravel() for grid in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        for lanes in (1, 8):
            binary = {"mod": np.mod, "floordiv": np.floor_divide, "minimum": np.minimum, "maximum": np.maximum}
            for name, function in binary.items():
                np.testing.assert_array_equal(run(name, scalar, lanes, a, b), function(a, b), err_msg=name)
            for name, unary in {"abs": np.abs, "sign": np.sign, "round": np.round}.items():
                np.testing.assert_array_equal(run(name, scalar, lanes, a), unary(a), err_msg=name)


def test_extrema_with_a_constant_keep_nan() -> None:
    module = vector_target().module("relu")
    type = VType("f32", 8)
    f = module.function("relu", [("ptr", "x")])
    f.store(type, vector_math.maximum(f, type, type.constant(0.0), f.load(type, "%x")), "%x")
    f.ret()
    parsed = llvm.parse_assembly(module.text())
    engine = llvm.create_mcjit_compiler(parsed, target_machine())
    x = np.array([np.nan, -1, 2, -0.0, np.inf, -np.inf, 1e-45, -1e-45], np.float32)
    expected = np.maximum(x, 0)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(engine.get_function_address("relu"))(x.ctypes.data)
    np.testing.assert_array_equal(x, expected)


def test_loops_carry_values_and_masks_guard_the_tail() -> None:
    module = vector_target().module("sum")
    type = VType("f32", 8)
    f = module.function("sum", [("ptr", "x"), ("i64", "n")], type.one)

    def body(index: str, carried: tuple[str, ...]) -> list[str]:
        left = f.emit(f"sub i64 %n, {index}")
        mask = f.tail_mask(8, f.emit(f"trunc i64 {left} to i32"))
        pointer = f.gep("%x", index, type)
        value = f.masked_load(type, pointer, mask)
        f.masked_store(type, f.op("fneg", type, value), pointer, mask)
        return [f.op("fadd reassoc", type, carried[0], value)]

    (total,) = f.loop(0, "%n", 8, body, [(type, type.constant(0.0))])
    f.ret(f.reduce("fadd", type, total))
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(module.text()), target_machine())
    call = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_void_p, ctypes.c_int64)(engine.get_function_address("sum"))
    for n in (0, 1, 7, 8, 9, 17):
        x = np.arange(1, 25, dtype=np.float32)
        assert call(x.ctypes.data, n) == n * (n + 1) / 2
        assert (x[:n] < 0).all() and (x[n:] > 0).all()


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, 0.1, -1e-45, 3.4028235e38, math.inf, -math.inf])
def test_float_literals_keep_every_bit(value: float) -> None:
    module = Module("constant")
    f = module.function("value", [("ptr", "p")])
    f.store(VType("f32"), float_literal(value, "f32"), "%p")
    f.ret()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(module.text()), target_machine())
    result = np.zeros(1, np.float32)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(engine.get_function_address("value"))(result.ctypes.data)
    assert result.tobytes() == np.array([value], np.float32).tobytes()


def test_an_unknown_or_missing_level_is_refused() -> None:
    with pytest.raises(TargetUnavailable, match="no CPU level 'mmx'"):
        vector_target("mmx")
    for name in LEVELS:
        try:
            assert vector_target(name).level == name
        except TargetUnavailable as error:
            assert "cannot run" in error.message and error.notes


def test_avx512_scaling_compiles() -> None:
    module = Module("scalef", scalef=True)
    for type in (VType("f32", 16), VType("f64", 8)):
        f = module.function(f"exp_{type.suffix}", [("ptr", "x")])
        f.store(type, UNARY["exp"](f, type, f.load(type, "%x")), "%x")
        f.ret()
    parsed = llvm.parse_assembly(module.text())
    parsed.verify()
    if not llvm.get_process_triple().startswith("x86_64"):
        pytest.skip("not an x86 machine")
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(cpu="x86-64-v4", opt=2, reloc="pic")
    assert "vscalefps" in machine.emit_assembly(parsed)

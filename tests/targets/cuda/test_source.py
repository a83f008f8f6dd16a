"""The printed CUDA text: executed on the CPU it agrees with the loop interpreter, and NVIDIA's compilers accept it."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.errors import CompileError, IndexRangeError, InputError, TargetUnavailable
from graphc.loops.index import Index, Var
from graphc.loops.interpreter import run_kernel
from graphc.loops.ir import Bound, Kernel, Lit, LoopProgram
from graphc.loops.parse import parse_kernel
from graphc.targets.cuda import expressions, launch
from graphc.targets.cuda.build import compile_cuda, toolchains
from graphc.targets.cuda.launch import compile_program, program_source
from graphc.targets.cuda.on_cpu import cpu_compiler
from graphc.targets.cuda.source import print_cuda
from graphc.types import DTYPES, bool_, float32, float64, int32, int64, uint32

from .test_schedule import ALL, MATMUL, SCATTER, SOFTMAX, arrays_for, kernel_of, program_of

needs_compiler = pytest.mark.skipif(cpu_compiler()[0] is None, reason=cpu_compiler()[1])
needs_toolchain = pytest.mark.skipif(
    not any(t.available for t in toolchains()), reason="; ".join(f"{t.name}: {t.detail}" for t in toolchains())
)


def run_on_header(kernel: Kernel, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    program = program_of(kernel)
    memory = {s.name: arrays[s.name].copy() for s in program.role("input", "parameter")}
    memory |= {s.name: np.zeros(s.type.static_shape, s.type.dtype.numpy) for s in program.role("output")}
    order = [*program.role("input"), *program.role("parameter"), *program.role("output")]
    compile_program(program, device="cpu").run([memory[s.name] for s in order])
    return memory


@needs_compiler
@pytest.mark.parametrize("name", ALL)
def test_each_kind_of_kernel_on_odd_sizes(name: str) -> None:
    kernel = kernel_of(ALL[name], 17, 45, 19)
    arrays = arrays_for(kernel)
    memory = run_on_header(kernel, arrays)
    for buffer, want in run_kernel(kernel, arrays).items():
        np.testing.assert_allclose(memory[buffer], want, rtol=2e-5, atol=1e-5)


@needs_toolchain
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("toolchain", [t.name for t in toolchains()])
def test_nvidias_compilers_accept_every_kind_of_kernel(toolchain: str, arch: str) -> None:
    state = {t.name: t for t in toolchains()}[toolchain]
    if not state.available:
        pytest.skip(f"{state.name}: {state.detail}")
    kernels = {}
    for number, text in enumerate(ALL.values()):
        kernel = kernel_of(text, 17, 45, 19)
        kernels[f"k{number}"] = (program_of(kernel), kernel)
    for program, _ in kernels.values():
        source = program_source(program)
        assert b".entry" in compile_cuda(source, arch, "ptx", toolchain=toolchain)  # type: ignore[arg-type]


@needs_compiler
@pytest.mark.parametrize("combiner", ["add", "mul", "maximum", "minimum", "and", "or"])
@pytest.mark.parametrize("dtype", ["f32", "f64", "i32", "i64", "u32", "bool"])
def test_block_reductions_of_every_kind(combiner: str, dtype: str) -> None:
    if combiner in ("and", "or") and dtype.startswith("f"):
        pytest.skip("bitwise combiners are not defined on floats")
    if combiner in ("add", "mul") and dtype == "bool":
        pytest.skip("bool has no arithmetic")
    kernel = parse_kernel(
        f"kernel k(in x: {dtype}[3,77], out y: {dtype}[3]) {{\n for i in 3 {{ acc %a: {dtype} = {combiner}\n"
        f" for j in 77 {{ %0 = load x[i, j] %a {combiner}= %0 }} %1 = value %a store y[i] = %1 }} }}"
    )
    rng = np.random.default_rng(3)
    numpy = next(d for d in DTYPES if d.short == dtype).numpy
    x = rng.integers(0, 2, (3, 77)).astype(bool) if dtype == "bool" else (rng.random((3, 77)) * 3).astype(numpy)
    if dtype.startswith("f"):
        x[1, 5] = np.nan
    got = run_on_header(kernel, {"x": x})["y"]
    np.testing.assert_allclose(got, run_kernel(kernel, {"x": x})["y"], rtol=1e-4)


@needs_compiler
def test_a_violated_guard_names_the_site() -> None:
    class Site:
        source = None

        def message(self) -> str:
            return "take: an index is out of range for an axis of size 5"

    kernel = kernel_of(SCATTER, 6, 40, 1)
    program = program_of(kernel)
    sited = LoopProgram(program.name, program.buffers, program.kernels, program.launches, 0, (Site(),))
    arrays = arrays_for(kernel)
    arrays["i"][3] = 5
    with pytest.raises(IndexRangeError, match="axis of size 5"):
        compile_program(sited, device="cpu").run([arrays["i"], arrays["x"], arrays["y"]])


@needs_compiler
def test_arrays_that_do_not_fit_are_refused() -> None:
    step = compile_program(program_of(kernel_of(SOFTMAX, 2, 5, 1)), device="cpu")
    good = np.ones((2, 5), np.float32)
    with pytest.raises(InputError, match="takes 2 arrays, got 1"):
        step.run([good])
    with pytest.raises(InputError, match=r"x: expected f32\[2,5\], got float64\[2, 5\]"):
        step.run([good.astype(np.float64), good])
    with pytest.raises(InputError, match="not C-contiguous"):
        step.run([np.ones((5, 2), np.float32).T, good])
    with pytest.raises(CompileError, match="no stage 'llvm'"):
        step.source("llvm")


def test_without_a_gpu_the_error_says_what_is_missing_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("No module named 'cuda'")

    monkeypatch.setattr(launch, "_cuda_core", missing)
    with pytest.raises(TargetUnavailable) as caught:
        compile_program(program_of(kernel_of(SOFTMAX, 2, 5, 1)))
    for word in ("cuda-core cannot be imported", "No module named 'cuda'", "pip install", 'source("cuda")'):
        assert word in str(caught.value)


def test_a_driver_that_fails_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        @staticmethod
        def Device() -> None:
            raise RuntimeError("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected")

    monkeypatch.setattr(launch, "_cuda_core", lambda: Core)
    with pytest.raises(TargetUnavailable, match="CUDA_ERROR_NO_DEVICE"):
        compile_program(program_of(kernel_of(SOFTMAX, 2, 5, 1)))


def test_a_kernel_that_was_not_mapped_is_refused() -> None:
    kernel = parse_kernel("kernel k(out y: f32[4]) {\n for i in 4 vector { store y[i] = 1.0:f32 } }")
    with pytest.raises(CompileError, match="vector loop has no meaning in CUDA"):
        print_cuda(program_of(kernel))


def test_the_text_shows_its_plan_and_needs_nothing() -> None:
    text = program_source(program_of(kernel_of(MATMUL, 20, 40, 33)))
    assert "//   0. k<<<dim3(3, 2), dim3(16, 16)>>>(x, w, b, y)" in text
    assert "__shared__ float x_tile[272];" in text and text.count("__syncthreads();") == 2
    assert 'extern "C" int graphc_step(void** buffers, void* arena' in text
    includes = [line for line in text.splitlines() if "#include" in line]
    assert includes == ["#include <cuda_runtime.h>"] and "malloc" not in text.lower()


def test_names_that_are_words_of_cpp_or_clash_are_made_distinct() -> None:
    from dataclasses import replace

    kernel = kernel_of(SOFTMAX, 2, 5, 1)
    program = program_of(kernel)
    slots = {n: replace(program.buffers[o], name=n) for n, o in (("int", "x"), ("k", "y"))}
    text = program_source(LoopProgram("p", slots, program.kernels, (replace(program.launches[0], buffers=("int", "k")),)))
    assert "float* const int_2 = " in text and "float* const k_2 = " in text


@pytest.mark.parametrize(
    "lit, want",
    [
        (Lit(1, float32), "1.0f"),
        (Lit(-0.0, float64), "(-0.0)"),
        (Lit(1e-30, float32), "1e-30f"),
        (Lit(0.1, float64), "0.1"),
        (Lit(np.nan, float32), "__uint_as_float(0x7fc00000u)"),
        (Lit(np.inf, float64), "__longlong_as_double(0x7ff0000000000000LL)"),
        (Lit(-(2**31), int32), "(-2147483647 - 1)"),
        (Lit(-(2**63), int64), "(-9223372036854775807LL - 1)"),
        (Lit(2**32 - 1, uint32), "4294967295u"),
        (Lit(True, bool_), "true"),
    ],
)
def test_literals(lit: Lit, want: str) -> None:
    assert expressions.literal(lit) == want


def test_indices_and_bounds() -> None:
    i, j = Var("i", 8), Var("j", 5)
    assert expressions.index_text(Index.of(i) * -2 + j + 3) == "j - i * 2 + 3"
    assert expressions.index_text(-Index.of(i) + 7) == "-i + 7"
    assert expressions.index_text((Index.of(i) * 3 + j) // 4) == "((i * 3 + j) / 4)"
    assert expressions.index_text(-Index.of(i) // 3) == "graphc_floordiv<long long>(-i, 3)"
    assert expressions.bounds_text((Bound(Index.of(i) - 1, 5), Bound(Index.of(j), 5))) == "i - 1 >= 0 && i - 1 < 5"

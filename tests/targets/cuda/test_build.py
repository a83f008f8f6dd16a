"""CUDA text becomes PTX and machine code without a GPU, and a wrong text gives the compiler's log."""

import pytest

from graphc.errors import CompileError, TargetUnavailable
from graphc.targets.cuda import build
from graphc.targets.cuda.build import CudaCompileError, Toolchain, compile_cuda, toolchains

KERNEL = """
extern "C" __global__ void __launch_bounds__(64) total(const float* __restrict__ x, float* y, int n) {
  __shared__ float partial[2];
  float v = threadIdx.x < n ? expf(x[threadIdx.x]) : 0.0f;
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x == 0) *y = partial[0] + partial[1];
}
"""


@pytest.fixture(params=[t.name for t in toolchains()])
def toolchain(request: pytest.FixtureRequest) -> str:
    state = {t.name: t for t in toolchains()}[request.param]
    if not state.available:
        pytest.skip(f"{state.name}: {state.detail}")
    return state.name


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_ptx_and_cubin(toolchain: str, arch: str) -> None:
    ptx = compile_cuda(KERNEL, arch, "ptx", toolchain=toolchain).decode()
    assert f".target {arch}" in ptx and ".entry total(" in ptx and "shfl.sync.bfly" in ptx
    cubin = compile_cuda(KERNEL, arch, "cubin", toolchain=toolchain)
    assert cubin[:4] == b"\x7fELF" and b"total" in cubin


def test_a_wrong_text_gives_the_log_and_the_line(toolchain: str) -> None:
    with pytest.raises(CudaCompileError) as caught:
        compile_cuda(KERNEL.replace("partial[0]", "portion[0]"), "sm_90", toolchain=toolchain)
    assert 'identifier "portion" is undefined' in caught.value.log
    assert "line 8: if (threadIdx.x == 0) *y = portion[0] + partial[1];" in str(caught.value)


def test_names_that_are_no_architecture_or_kind() -> None:
    with pytest.raises(CompileError, match=r"'hopper' names no CUDA architecture\nhelp: write it like"):
        compile_cuda(KERNEL, "hopper")
    with pytest.raises(CompileError, match="not to 'elf'"):
        compile_cuda(KERNEL, "sm_90", "elf")  # type: ignore[arg-type]


def test_without_a_toolchain_the_error_says_why_each_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    states = (Toolchain("nvrtc", False, "no bindings"), Toolchain("nvcc", False, "no program nvcc on PATH"))
    monkeypatch.setattr(build, "toolchains", lambda: states)
    with pytest.raises(TargetUnavailable) as caught:
        compile_cuda(KERNEL)
    for word in ("nvrtc: no bindings", "nvcc: no program nvcc on PATH", "pip install"):
        assert word in str(caught.value)


def test_nvcc_missing_from_path_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    build._nvcc_state.cache_clear()
    try:
        assert toolchains()[1] == Toolchain("nvcc", False, "no program nvcc on PATH")
    finally:
        monkeypatch.undo()
        build._nvcc_state.cache_clear()

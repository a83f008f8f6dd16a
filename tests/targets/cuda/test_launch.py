"""Launching on a GPU: what is copied where, and what each kernel is given.

Without a GPU the calls to ``cuda-core`` are checked against a stand-in whose device memory is host memory and whose kernels
run through the header; where there is a GPU, the same program runs on it.
"""

from __future__ import annotations

import ctypes
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graphc import interpreter
from graphc.driver import Options, build_loops
from graphc.errors import IndexRangeError, InputError, TargetUnavailable
from graphc.loops.interpreter import run_kernel
from graphc.targets.cuda import launch
from graphc.targets.cuda.launch import compile_program, cuda_device
from graphc.targets.cuda.on_cpu import CpuModule, compile_on_cpu, cpu_compiler
from graphc.targets.cuda.schedule import schedule_for_cuda
from graphc.targets.cuda.source import print_cuda
from graphc.trace import Trace

from .test_program import run_step, training_step
from .test_schedule import SOFTMAX, arrays_for, kernel_of, program_of

needs_compiler = pytest.mark.skipif(cpu_compiler()[0] is None, reason=cpu_compiler()[1])


class Memory:
    """Bytes with an address, as ``cuda.core.Buffer``; poison at first."""

    def __init__(self, handle: int, size: int, owner: Any = None) -> None:
        self.handle, self.size, self.owner = handle, size, owner

    @staticmethod
    def from_handle(handle: int, size: int) -> Memory:
        return Memory(handle, size)

    def copy_from(self, source: Memory, *, stream: Any) -> None:
        assert self.size == source.size
        ctypes.memmove(self.handle, source.handle, self.size)


class StandIn:
    """As much of ``cuda.core`` as the launcher uses. ``text`` is the program whose kernels it can launch."""

    __name__ = "stand_in"
    Buffer = Memory

    def __init__(self, text: str) -> None:
        heads = re.findall(r"__global__ void __launch_bounds__\(\d+\) (\w+)\((.*?)\) \{", text)
        self.module: CpuModule = compile_on_cpu(text + "".join(map(self.shim, heads)), check=False)
        self.launched: list[str] = []
        self.copied = 0
        self.ObjectCode = SimpleNamespace(from_cubin=lambda cubin: SimpleNamespace(get_kernel=lambda name: name))
        self.LaunchConfig = lambda grid, block: (*grid, *block)

    @staticmethod
    def shim(head: tuple[str, str]) -> str:
        """A C entry that launches one kernel on 64-bit arguments."""
        name, params = head
        types = [re.sub(r"(__restrict__ )?\w+$", "", p).strip() for p in params.split(", ")]
        given = ", ".join(f"({t})args[{n}]" for n, t in enumerate(types))
        return (
            f'extern "C" int shim_{name}(const int* d, long long* args) {{ return GRAPHC_LAUNCH({name}, '
            f"dim3(d[0], d[1], d[2]), dim3(d[3], d[4], d[5]), 0, {given}); }}\n"
        )

    def Device(self) -> Any:
        def allocate(size: int, stream: Any) -> Memory:
            owner = np.full(size, 0xFF, np.uint8)
            return Memory(owner.ctypes.data, size, owner)

        stream = SimpleNamespace(sync=lambda: None, handle=0)
        return SimpleNamespace(
            set_current=lambda: None, compute_capability=(9, 0), create_stream=lambda: stream, allocate=allocate
        )

    def launch(self, stream: Any, config: tuple[int, ...], kernel: str, *args: Any) -> None:
        dims = (ctypes.c_int * 6)(*config)
        words = (ctypes.c_longlong * len(args))(*[int(a) for a in args])
        self.module.library.graphc_cpu_reset()
        assert self.module.library[f"shim_{kernel}"](dims, words) == 0
        self.launched.append(kernel)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``stand_in(loops)``: an executable on the stand-in, and the stand-in."""

    def make(loops: Any) -> Any:
        core = StandIn(print_cuda(schedule_for_cuda(loops)).text)
        monkeypatch.setattr(launch, "_cuda_core", lambda: core)
        monkeypatch.setattr(launch, "compile_cuda", lambda text, arch, kind: f"{arch} {kind}".encode())
        return compile_program(loops), core

    return make


@needs_compiler
def test_every_launch_gets_its_buffers_and_results_come_back(stand_in: Any) -> None:
    graph = training_step(17)
    loops = build_loops(graph, Options(target="cuda"), Trace())
    step, core = stand_in(loops)
    rng = np.random.default_rng(0)
    for _ in range(2):  # the second time on buffers that are kept
        image = rng.standard_normal((17, 19)).astype(np.float32)
        label = rng.integers(0, 10, 17).astype(np.int32)
        want, updates = interpreter.run_with_updates(graph, {"image": image, "label": label})
        loss, parameters = run_step(step, image, label)
        np.testing.assert_allclose(loss, want["loss"], rtol=1e-5)
        for slot in loops.role("parameter"):
            np.testing.assert_allclose(parameters[slot.name], updates[slot.variable], rtol=2e-4, atol=1e-7)
    assert core.launched == [planned.kernel for planned in step.printed.launches] * 2


@needs_compiler
def test_a_violated_guard_comes_back_and_is_forgotten(stand_in: Any) -> None:
    step, _ = stand_in(build_loops(training_step(3), Options(target="cuda"), Trace()))
    image = np.zeros((3, 19), np.float32)
    with pytest.raises(IndexRangeError, match="axis of size 10"):
        run_step(step, image, np.int32([0, 10, 3]))
    run_step(step, image, np.int32([0, 9, 3]))


@needs_compiler
def test_arrays_that_are_nowhere_near_a_gpu_are_refused(stand_in: Any) -> None:
    class Elsewhere:
        dtype, shape = np.dtype("float32"), (2, 5)

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    step, _ = stand_in(program_of(kernel_of(SOFTMAX, 2, 5, 1)))
    with pytest.raises(InputError, match="x: expected a NumPy array or one on a CUDA device, got Elsewhere"):
        step.run([Elsewhere(), np.zeros((2, 5), np.float32)])


@pytest.mark.cuda
def test_on_a_gpu() -> None:
    try:
        cuda_device()
    except TargetUnavailable as error:
        pytest.skip(str(error).splitlines()[0] + ": " + " ".join(error.notes))
    kernel = kernel_of(SOFTMAX, 17, 300, 1)
    arrays = arrays_for(kernel)
    got = np.zeros((17, 300), np.float32)
    compile_program(program_of(kernel)).run([arrays["x"], got])
    np.testing.assert_allclose(got, run_kernel(kernel, arrays)["y"], rtol=1e-5)
    graph = training_step(17)
    step = compile_program(build_loops(graph, Options(target="cuda"), Trace()))
    image = np.random.default_rng(0).standard_normal((17, 19)).astype(np.float32)
    label = np.arange(17, dtype=np.int32) % 10
    loss, _ = run_step(step, image, label)
    want, _ = interpreter.run_with_updates(graph, {"image": image, "label": label})
    np.testing.assert_allclose(loss, want["loss"], rtol=1e-4)

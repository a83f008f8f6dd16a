"""A loop program as something that runs: on a GPU, or on the CPU through the header that gives CUDA its meaning there.

What enters: a :class:`LoopProgram` of plain nests, and at each call the arrays of its inputs, parameters and outputs.
What leaves: the outputs and the updated parameters, written into the arrays that were given. Invariant: a violated guard is
an :class:`IndexRangeError` that names the user's line, and a machine without a GPU gives :class:`TargetUnavailable`,
never a crash.

On a GPU the kernels are built by NVRTC for the device's own architecture, loaded once, and launched in order on one
stream through ``cuda-core``; the arena and the copies of host arrays live as long as the executable. NumPy arrays are
copied to the device and back; arrays that already are on the device (anything that speaks DLPack: CuPy, torch, jax) are
used where they are. ::

    step = compile_program(loops)              # device="cpu" executes the same text on the CPU, every access checked
    step.run([image, label, weights, loss])
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from time import perf_counter
from typing import Any, Literal, Protocol

import numpy as np

from graphc.errors import CompileError, IndexRangeError, InputError, TargetUnavailable
from graphc.loops.ir import BufferSlot, LoopProgram
from graphc.targets.cuda.build import compile_cuda
from graphc.targets.cuda.on_cpu import ORDERS, compile_on_cpu, run_on_cpu
from graphc.targets.cuda.schedule import schedule_for_cuda
from graphc.targets.cuda.source import ENTRY, CudaSource, print_cuda

CUDA_DEVICES = (2, 13)  # DLPack's kDLCUDA and kDLCUDAManaged
GPU_HELP = (
    "pip install 'graphc-compiler[cuda]' on a machine with an NVIDIA GPU and its driver; "
    'without one, program.source("cuda") prints the kernels and target="cpu" runs them natively'
)


def program_source(program: LoopProgram) -> str:
    """The ``.cu`` text of a program of plain nests; needs neither a GPU nor a compiler."""
    return print_cuda(schedule_for_cuda(program)).text


def compile_program(program: LoopProgram, *, device: Literal["gpu", "cpu"] = "gpu") -> CudaExecutable:
    """Map, print and build a program.

    Args:
        program: plain nests, with planned memory.
        device: "gpu", or "cpu" to execute the same text on the CPU (slow; a check, not a fast path).

    Raises:
        TargetUnavailable: no GPU, driver or package for it (or, on "cpu", no C++ compiler).
        CompileError: the text was rejected.
    """
    start = perf_counter()
    source = print_cuda(schedule_for_cuda(program))
    machine: Machine = GpuMachine(source) if device == "gpu" else HeaderMachine(source)
    return CudaExecutable(source, machine, perf_counter() - start)


class Machine(Protocol):
    """Something that runs a printed program once."""

    def step(self, arrays: Mapping[str, Any]) -> int:
        """Run on the arrays of all non-arena buffers, in place; the status: 0, or the violated site + 1."""
        ...


@dataclass(frozen=True)
class CudaExecutable:
    """A compiled program (see :func:`compile_program`). ``cache`` says that nothing is kept on disk."""

    printed: CudaSource
    machine: Machine
    compile_seconds: float
    cache: str = "miss: CUDA kernels are not kept on disk"

    def run(self, arrays: Sequence[Any]) -> None:
        """Run once on the arrays of inputs, parameters and outputs, in the order of ``LoopProgram.role``.

        Raises:
            InputError: an array is missing, or has another dtype or number of elements than its buffer.
            IndexRangeError: an index was out of its axis; names the user's line.
        """
        program = self.printed.program
        slots = [*program.role("input"), *program.role("parameter"), *program.role("output")]
        if len(arrays) != len(slots):
            raise InputError(f"{program.name} takes {len(slots)} arrays, got {len(arrays)}")
        given: dict[str, Any] = {slot.name: _checked(slot, array) for slot, array in zip(slots, arrays, strict=True)}
        for slot in program.role("constant"):
            shape, dtype = slot.type.static_shape, slot.type.dtype.numpy
            given[slot.name] = np.ascontiguousarray(slot.data, dtype).reshape(shape)
        status = self.machine.step(given)
        if status:
            site = program.sites[status - 1]
            raise IndexRangeError(site.message(), source=site.source)

    def source(self, stage: str) -> str:
        """The text of a stage: "cuda", or "ptx" for sm_90.

        Raises:
            CompileError: no such stage.
        """
        if stage == "cuda":
            return self.printed.text
        if stage == "ptx":
            return compile_cuda(self.printed.text, "sm_90", "ptx").decode()
        raise CompileError(f"the CUDA target has no stage {stage!r}", help='choose "cuda" or "ptx"')


def _checked(slot: BufferSlot, array: Any) -> Any:
    """The array, if it is what the buffer is: dtype, number of elements, one after the other."""
    dtype = str(array.dtype).removeprefix("torch.")
    if dtype != slot.type.dtype.name or prod(array.shape) != prod(slot.type.static_shape):
        raise InputError(f"{slot.name}: expected {slot.type}, got {dtype}{list(array.shape)}")
    if isinstance(array, np.ndarray) and not array.flags.c_contiguous:
        raise InputError(f"{slot.name}: the array is not C-contiguous", help="pass numpy.ascontiguousarray(array)")
    return array


# ---- on the CPU ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeaderMachine:
    """Executes the text on the CPU; ``orders`` and ``check`` as in :func:`~graphc.targets.cuda.on_cpu.run_on_cpu`."""

    source: CudaSource
    orders: tuple[str, ...] = ORDERS
    check: bool = True

    def __post_init__(self) -> None:
        compile_on_cpu(self.source.text, check=self.check)

    def step(self, arrays: Mapping[str, Any]) -> int:
        """See :class:`Machine`. The arena starts as NaN bytes, so that reading what nobody wrote shows."""
        pointers = [arrays[slot.name] for slot in self.source.pointers]
        arena = np.full(max(self.source.program.arena_size, 1), 0xFF, np.uint8)
        status = np.zeros(1, np.uint64)
        run_on_cpu(self.source.text, ENTRY, pointers, arena, status, None, orders=self.orders, check=self.check)
        return int(status[0])


# ---- on a GPU ------------------------------------------------------------------------------------------------------


def cuda_device() -> tuple[Any, Any]:
    """The package ``cuda.core`` and its current device.

    Raises:
        TargetUnavailable: the package, the driver or the GPU is missing; says which.
    """
    try:
        core = _cuda_core()
    except ImportError as error:
        raise TargetUnavailable("cuda-core cannot be imported", notes=(str(error),), help=GPU_HELP) from error
    try:
        device = core.Device()
        device.set_current()
    except Exception as error:  # cuda-core raises its own, the driver's and the loader's kinds, by version
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise TargetUnavailable("no CUDA device can be used", notes=(reason,), help=GPU_HELP) from error
    return core, device


def _cuda_core() -> Any:
    try:
        core = importlib.import_module("cuda.core")
    except ImportError:
        return importlib.import_module("cuda.core.experimental")
    return core if hasattr(core, "Device") else importlib.import_module("cuda.core.experimental")


@dataclass
class GpuMachine:
    """The program on the current CUDA device: its kernels loaded, its arena allocated, one stream of its own."""

    source: CudaSource
    core: Any = field(init=False, repr=False)
    device: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.core, self.device = cuda_device()
        major, minor = self.device.compute_capability
        cubin = compile_cuda(self.source.text, f"sm_{major}{minor}", "cubin")
        code = self.core.ObjectCode.from_cubin(cubin)
        self.stream = self.device.create_stream()
        self.kernels = {name: code.get_kernel(name) for name in {launch.kernel for launch in self.source.launches}}
        self.arena = self._allocate(self.source.program.arena_size)
        self.status = self._allocate(8)
        self.kept: dict[str, Any] = {}  # device buffers of the host arrays, by slot
        self.constants: set[str] = set()

    def step(self, arrays: Mapping[str, Any]) -> int:
        """See :class:`Machine`."""
        status = np.zeros(1, np.uint64)
        self._copy(self.status.handle, status.ctypes.data, 8)
        addresses = {slot.name: self._address(slot, arrays[slot.name]) for slot in self.source.pointers}
        for slot in self.source.program.role("arena"):
            addresses[slot.name] = int(self.arena.handle) + slot.offset
        for launch in self.source.launches:
            given: list[Any] = [addresses[name] + more for name, more in zip(launch.buffers, launch.offsets, strict=True)]
            if launch.guarded:
                given += [int(self.status.handle), np.int32(launch.site_base)]
            config = self.core.LaunchConfig(grid=launch.grid, block=launch.block)
            self.core.launch(self.stream, config, self.kernels[launch.kernel], *given)
        for slot in self.source.program.role("parameter", "output"):
            array = arrays[slot.name]
            if isinstance(array, np.ndarray):
                self._copy(array.ctypes.data, self.kept[slot.name].handle, array.nbytes)
        self._copy(status.ctypes.data, self.status.handle, 8)
        self.stream.sync()
        return int(status[0])

    def _address(self, slot: BufferSlot, array: Any) -> int:
        """Where the array is on the device: its own place, or that of a copy."""
        if not isinstance(array, np.ndarray):
            return _device_pointer(slot, array, self.core, self.stream)
        if slot.name not in self.kept:
            self.kept[slot.name] = self._allocate(array.nbytes)
        place = self.kept[slot.name]
        if slot.role != "output" and slot.name not in self.constants:
            self._copy(place.handle, array.ctypes.data, array.nbytes)
        if slot.role == "constant":
            self.constants.add(slot.name)
        return int(place.handle)

    def _allocate(self, nbytes: int) -> Any:
        return self.device.allocate(max(nbytes, 8), stream=self.stream)

    def _copy(self, target: Any, source: Any, nbytes: int) -> None:
        """Copy between host and device addresses; unified addressing tells the driver which is which."""
        if nbytes:
            wrap = self.core.Buffer.from_handle
            wrap(int(target), nbytes).copy_from(wrap(int(source), nbytes), stream=self.stream)


def _device_pointer(slot: BufferSlot, array: Any, core: Any, stream: Any) -> int:
    """The address of an array that is on the device already, through DLPack.

    Raises:
        InputError: it does not speak DLPack, is elsewhere, or is not contiguous.
    """
    if not hasattr(array, "__dlpack_device__") or int(array.__dlpack_device__()[0]) not in CUDA_DEVICES:
        raise InputError(f"{slot.name}: expected a NumPy array or one on a CUDA device, got {type(array).__name__}")
    views = importlib.import_module(f"{core.__name__}.utils").StridedMemoryView
    view = getattr(views, "from_dlpack", views)(array, int(stream.handle))
    steps, expected = view.strides, 1
    for extent, step in zip(reversed(view.shape), reversed(steps or ()), strict=bool(steps)):
        if extent != 1 and step != expected:
            raise InputError(f"{slot.name}: the array is not C-contiguous", help="make a contiguous copy first")
        expected *= extent
    return int(view.ptr)

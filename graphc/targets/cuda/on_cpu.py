"""CUDA C++ text, executed on the CPU: the oracle for machines without a GPU.

What enters: the text of a ``.cu`` file with a C host entry, and NumPy arrays. What leaves: the arrays as the kernels
left them. Invariant: the text is compiled unchanged (``cuda_on_cpu.h`` is pre-included), it runs under several orders of
blocks and threads, and a run that races, diverges at a barrier, leaves its buffers, or depends on the order raises
a :class:`KernelFault` that names the line. Linux with g++ or clang++ is needed. ::

    __global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }
    extern "C" int run(void** buffers) { return GRAPHC_LAUNCH(twice, 1, 32, 0, (float*)buffers[0]); }

    run_on_cpu(text, "run", [np.ones(32, np.float32)])
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from graphc.errors import GraphcError, TargetUnavailable
from graphc.targets.cuda.build import CudaCompileError

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
ORDERS = ("forward", "reverse", "interleaved")  # as the header's enum Order
KINDS = ("ok", "divergent barrier", "divergent warp", "race", "outside", "uninitialised", "bad launch")  # enum Code
Argument: TypeAlias = "np.ndarray[Any, Any] | Sequence[np.ndarray[Any, Any]] | int | None"


class KernelFault(GraphcError):
    """A kernel broke CUDA's rules while it ran on the CPU.

    ``kind`` is one of "divergent barrier", "divergent warp", "race", "outside", "uninitialised", "bad launch",
    "order" (the result depends on the order of threads) and "failed" (the host entry gave an error of its own).
    """

    def __init__(self, kind: str, message: str, notes: tuple[str, ...] = ()) -> None:
        self.kind = kind
        super().__init__(message, notes=notes)


def cpu_compiler() -> tuple[str | None, str]:
    """The C++ compiler that would be used, and "" or the reason why there is none.

    ``$CXX`` comes first, then ``g++``, ``clang++`` and ``c++`` on PATH.
    """
    if not sys.platform.startswith("linux"):
        return None, f"CUDA sources run on the CPU on Linux only, this is {sys.platform}"
    for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++"):
        if name and shutil.which(name):
            return name, ""
    return None, "no C++ compiler on PATH (looked for $CXX, g++, clang++, c++)"


@dataclass(frozen=True)
class CpuModule:
    """A ``.cu`` text compiled for the CPU. Calls are serialised: the fibres live in the shared object."""

    source: str
    path: Path
    library: ctypes.CDLL = field(repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def call(self, entry: str, *arguments: Argument, order: str = "forward") -> int:
        """Call a C entry. An array becomes a pointer, a sequence of arrays a ``void**``, None a null pointer.

        Raises:
            KernelFault: a kernel broke a rule; see the class.
            AttributeError: the text exports no such entry.
        """
        with self.lock:
            self.library.graphc_cpu_reset()
            self.library.graphc_cpu_configure(ORDERS.index(order))
            for begin, end in _merged_ranges(arguments):
                self.library.graphc_cpu_add_range(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin))
            result = int(self.library[entry](*[_c_argument(argument) for argument in arguments]))
            self._raise_fault()
        if result != 0:
            raise KernelFault("failed", f"{entry} gave {result}")
        return result

    def _raise_fault(self) -> None:
        text, here, there = ctypes.c_char_p(), ctypes.c_uint32(), ctypes.c_uint32()
        code = self.library.graphc_cpu_failure(ctypes.byref(text), ctypes.byref(here), ctypes.byref(there))
        if code == 0:
            return
        message = (text.value or b"").decode(errors="replace")
        numbers = [*_lines_of(self.path, [pc.value for pc in (here, there) if pc.value])]
        numbers += [int(n) for n in re.findall(r"in line (\d+)", message)]
        lines = self.source.splitlines()
        notes = (f"line {n}: {lines[n - 1].strip()}" for n in dict.fromkeys(numbers) if 0 < n <= len(lines))
        raise KernelFault(KINDS[code], message, tuple(notes))


def compile_on_cpu(source: str, *, check: bool = True) -> CpuModule:
    """Compile a ``.cu`` text into a shared object of this process; the same text is compiled once.

    Args:
        source: CUDA C++ with at least one entry ``extern "C" int name(...)``.
        check: look at every memory access (about ten times slower) for races and accesses outside the arrays.

    Raises:
        TargetUnavailable: no C++ compiler is here, or this is not Linux.
        CudaCompileError: the compiler rejected the text.
    """
    compiler, reason = cpu_compiler()
    if compiler is None:
        raise TargetUnavailable("CUDA sources cannot run on this CPU", notes=(reason,), help="install g++ or clang++")
    return _compiled(source, check, compiler)


def run_on_cpu(
    source: str, entry: str, *arguments: Argument, orders: Sequence[str] = ORDERS, check: bool = True
) -> None:
    """Run an entry of a ``.cu`` text under several orders of threads; the arrays are left as the kernels wrote them.

    Args:
        source, check: see :func:`compile_on_cpu`.
        entry: the name of an ``extern "C" int`` function; a result other than 0 is a failure.
        arguments: arrays (C-contiguous; two of them overlap only if they are the same object), sequences of arrays,
            ints (``long long``), or None.
        orders: of "forward", "reverse", "interleaved"; the results must agree bit for bit.

    Raises:
        KernelFault: a rule was broken, or two orders gave different bits.
        TargetUnavailable, CudaCompileError: as :func:`compile_on_cpu`.
    """
    module = compile_on_cpu(source, check=check)
    arrays = {id(array): array for array in _arrays(arguments)}
    results: dict[int, np.ndarray[Any, Any]] | None = None
    for order in orders:
        copies = {key: array.copy() for key, array in arrays.items()}
        module.call(entry, *[_replaced(argument, copies) for argument in arguments], order=order)
        if results is None:
            results = copies
        for position, key in enumerate(arrays):
            if copies[key].tobytes() != results[key].tobytes():
                where = int(np.argmax(_bytes(copies[key]) != _bytes(results[key]))) // copies[key].itemsize
                message = f"{entry}: the threads' order {order} gives another result than {orders[0]}"
                raise KernelFault("order", message, (f"array {position} differs first in element {where}",))
    for key, array in arrays.items():
        made = (results or arrays)[key]
        if array.flags.writeable:
            array[...] = made
        elif array.tobytes() != made.tobytes():
            raise KernelFault("outside", f"{entry} wrote into an array that is read-only")


# ---- compiling -----------------------------------------------------------------------------------------------------


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="graphc-cuda-on-cpu-")  # removed when the process ends


@functools.lru_cache(maxsize=256)
def _compiled(source: str, check: bool, compiler: str) -> CpuModule:
    folder = Path(tempfile.mkdtemp(dir=_folder().name))
    text, unit, shared = folder / "graphc.cu", folder / "graphc.o", folder / "graphc.so"
    text.write_text(source)
    options = ["-std=c++17", "-O1", "-g1", "-fPIC", "-ffp-contract=off", "-fwrapv", "-w"]
    if check:  # instrumented by the compiler, but linked without its run-time library: the header takes its place
        options += ["-fsanitize=thread", "-DGRAPHC_CPU_CHECK=1"]
    _run([compiler, "-x", "c++", *options, "-include", str(HEADER), "-c", "graphc.cu", "-o", unit.name], folder, source)
    _run([compiler, "-shared", unit.name, "-o", shared.name, "-lm"], folder, source)
    return CpuModule(source, shared, ctypes.CDLL(str(shared)))


def _run(command: list[str], folder: Path, source: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CudaCompileError(command[0], done.stderr, source)


def _lines_of(library: Path, offsets: list[int]) -> list[int]:
    """Source lines of code offsets by ``addr2line``, which comes with g++; none where it is not installed."""
    program = shutil.which("addr2line") or shutil.which("llvm-addr2line")
    if program is None or not offsets:
        return []
    command = [program, "-e", str(library), *[hex(offset - 1) for offset in offsets]]  # the call, not what follows it
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [int(n) for n in re.findall(r"graphc\.cu:(\d+)", done.stdout)]


# ---- arguments -----------------------------------------------------------------------------------------------------


def _arrays(arguments: Sequence[Argument]) -> list[np.ndarray[Any, Any]]:
    found: list[np.ndarray[Any, Any]] = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            found.append(argument)
        elif isinstance(argument, Sequence):
            found.extend(argument)
    return found


def _replaced(argument: Argument, copies: dict[int, np.ndarray[Any, Any]]) -> Argument:
    if isinstance(argument, np.ndarray):
        return copies[id(argument)]
    return [copies[id(array)] for array in argument] if isinstance(argument, Sequence) else argument


def _c_argument(argument: Argument) -> Any:
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.ctypes.data)
    if isinstance(argument, Sequence):
        return (ctypes.c_void_p * len(argument))(*[array.ctypes.data for array in argument])
    return ctypes.c_longlong(argument)


def _merged_ranges(arguments: Sequence[Argument]) -> list[tuple[int, int]]:
    """The arrays' address ranges, sorted, with touching ones joined: the header wants them disjoint."""
    ranges = sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in _arrays(arguments) if a.nbytes)
    merged: list[tuple[int, int]] = []
    for begin, end in ranges:
        if merged and begin < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.frombuffer(array.tobytes(), np.uint8)

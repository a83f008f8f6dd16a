"""CUDA C++ text to machine code, with or without a GPU.

What enters: one self-contained ``.cu`` text. What leaves: PTX or a cubin, as bytes. Invariant: a failure is a
:class:`CudaCompileError` that carries the compiler's whole log, or a :class:`~graphc.errors.TargetUnavailable` that
says which packages or programs were looked for. Two toolchains serve: NVRTC, NVIDIA's compiler as a library (wheels
``cuda-bindings`` and ``nvidia-cuda-nvrtc``), and the program ``nvcc``. NVRTC comes first: it needs no host compiler. ::

    __global__ void twice(float* x, int n) { ... }    ->    .visible .entry _Z5twicePfi(...)
"""

from __future__ import annotations

import functools
import importlib
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from graphc.errors import CompileError, TargetUnavailable

Kind = Literal["ptx", "cubin"]
INSTALL_HELP = "pip install 'graphc-compiler[cuda]' brings NVRTC, or put nvcc on PATH"


class CudaCompileError(CompileError):
    """The CUDA compiler rejected a source. ``log`` is what it said, ``text`` the source."""

    def __init__(self, toolchain: str, log: str, text: str) -> None:
        self.log = log
        self.text = text
        notes = (*log.strip().splitlines(), *_quoted_lines(log, text))
        super().__init__(f"{toolchain} rejected the CUDA source", notes=notes)


@dataclass(frozen=True)
class Toolchain:
    """A compiler for CUDA C++: whether it is here, and its version or the reason why it cannot be used."""

    name: Literal["nvrtc", "nvcc"]
    available: bool
    detail: str


def toolchains() -> tuple[Toolchain, ...]:
    """The known toolchains in order of preference, each with its version or what is missing.

    >>> [t.name for t in toolchains()]
    ['nvrtc', 'nvcc']
    """
    return (_nvrtc_state(), _nvcc_state())


def compile_cuda(
    source: str, arch: str = "sm_90", kind: Kind = "ptx", *, toolchain: Literal["nvrtc", "nvcc"] | None = None
) -> bytes:
    """Compile CUDA C++ for one architecture.

    Args:
        source: the text of the ``.cu`` file; it may include nothing but CUDA's built-in names.
        arch: the GPU's architecture, ``sm_80`` (Ampere), ``sm_90`` (Hopper), ...
        kind: ``"ptx"`` (text that the driver compiles when it loads it) or ``"cubin"`` (machine code of that chip).
        toolchain: which compiler; by default the first that is available.

    Raises:
        TargetUnavailable: no toolchain (or not the one asked for) is installed.
        CudaCompileError: the source is wrong; carries the log.

    Example::

        compile_cuda('extern "C" __global__ void one(float* x) { *x = 1.0f; }', "sm_80", "cubin")[:4]  # b'\\x7fELF'
    """
    if not re.fullmatch(r"sm_\d+[af]?", arch):
        raise CompileError(f"{arch!r} names no CUDA architecture", help='write it like "sm_90"')
    if kind not in ("ptx", "cubin"):
        raise CompileError(f"CUDA sources compile to ptx or cubin, not to {kind!r}")
    usable = [t for t in toolchains() if toolchain in (None, t.name)]
    for candidate in usable:
        if candidate.available:
            return (_compile_nvrtc if candidate.name == "nvrtc" else _compile_nvcc)(source, arch, kind)
    reasons = tuple(f"{t.name}: {t.detail}" for t in usable)
    raise TargetUnavailable("no CUDA compiler is on this machine", notes=reasons, help=INSTALL_HELP)


# ---- NVRTC ---------------------------------------------------------------------------------------------------------


@functools.cache
def _nvrtc() -> tuple[Any, str]:
    """The bindings and the version, or None and the reason."""
    try:
        nvrtc = importlib.import_module("cuda.bindings.nvrtc")
    except ImportError as error:
        return None, f"the package cuda-bindings cannot be imported ({error})"
    try:
        status, major, minor = nvrtc.nvrtcVersion()
    except (RuntimeError, OSError) as error:  # the bindings are here, the library they bind is not
        return None, f"the library of nvidia-cuda-nvrtc cannot be loaded ({str(error).splitlines()[0]})"
    if int(status) != 0:
        return None, f"NVRTC answers with error {int(status)}"
    return nvrtc, f"{major}.{minor}"


def _nvrtc_state() -> Toolchain:
    nvrtc, detail = _nvrtc()
    return Toolchain("nvrtc", nvrtc is not None, detail)


def _compile_nvrtc(source: str, arch: str, kind: Kind) -> bytes:
    nvrtc, _ = _nvrtc()
    target = arch if kind == "cubin" else arch.replace("sm_", "compute_")
    options = [f"--gpu-architecture={target}".encode(), b"--std=c++17"]
    program = _checked(nvrtc, nvrtc.nvrtcCreateProgram(source.encode(), b"graphc.cu", 0, [], []))
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if int(status) != 0:
            log = bytearray(_checked(nvrtc, nvrtc.nvrtcGetProgramLogSize(program)))
            _checked(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
            raise CudaCompileError("NVRTC", log.rstrip(b"\0").decode(errors="replace") or str(status), source)
        sizes = {"ptx": nvrtc.nvrtcGetPTXSize, "cubin": nvrtc.nvrtcGetCUBINSize}
        texts = {"ptx": nvrtc.nvrtcGetPTX, "cubin": nvrtc.nvrtcGetCUBIN}
        result = bytearray(_checked(nvrtc, sizes[kind](program)))
        _checked(nvrtc, texts[kind](program, result))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return bytes(result).rstrip(b"\0") if kind == "ptx" else bytes(result)


def _checked(nvrtc: Any, answer: tuple[Any, ...]) -> Any:
    status, *values = answer
    if int(status) != 0:
        _, text = nvrtc.nvrtcGetErrorString(status)
        raise CompileError(f"NVRTC failed: {text.decode() if isinstance(text, bytes) else text}")
    return values[0] if values else None


# ---- nvcc ----------------------------------------------------------------------------------------------------------


@functools.cache
def _nvcc_state() -> Toolchain:
    program = shutil.which("nvcc")
    if program is None:
        return Toolchain("nvcc", False, "no program nvcc on PATH")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"release ([\d.]+)", done.stdout)
    if done.returncode != 0 or version is None:
        return Toolchain("nvcc", False, f"{program} --version fails: {done.stderr.strip() or done.stdout.strip()}")
    return Toolchain("nvcc", True, version[1])


def _compile_nvcc(source: str, arch: str, kind: Kind) -> bytes:
    return run_nvcc(source, [f"-arch={arch}", f"-{kind}"], kind)


def run_nvcc(source: str, options: list[str], suffix: str) -> bytes:
    """Run nvcc on a text with the given options; the bytes of the file it writes.

    Raises:
        TargetUnavailable: there is no nvcc.
        CudaCompileError: nvcc rejected the source.
    """
    state = _nvcc_state()
    if not state.available:
        raise TargetUnavailable("nvcc cannot be used", notes=(state.detail,), help=INSTALL_HELP)
    with tempfile.TemporaryDirectory(prefix="graphc-nvcc-") as folder:
        text, result = Path(folder, "graphc.cu"), Path(folder, f"graphc.{suffix}")
        text.write_text(source)
        command = ["nvcc", "-std=c++17", *options, "-o", str(result), str(text)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CudaCompileError("nvcc", (done.stderr or done.stdout).replace(f"{folder}/", ""), source)
        return result.read_bytes()


def _quoted_lines(log: str, text: str, limit: int = 3) -> tuple[str, ...]:
    """The source lines that a compiler's log points at: ``graphc.cu(12)`` or ``graphc.cu:12``."""
    lines = text.splitlines()
    numbers = dict.fromkeys(int(n) for n in re.findall(r"graphc\.cu[(:](\d+)", log))
    return tuple(f"line {n}: {lines[n - 1].strip()}" for n in list(numbers)[:limit] if 0 < n <= len(lines))

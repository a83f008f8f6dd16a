"""The machine that code is made for: its name, features, vector width, and LLVM's target machine for it.

What enters: nothing (the host) or a level's name ("avx512", "avx2", "sse4.2", "neon"). What leaves: a
:class:`VectorTarget`, its llvmlite target machine and modules that carry its triple and data layout. Invariant: a target
that this process would run is never above what the host has.

>>> from graphc.targets.cpu.llvm_text import VType
>>> target = vector_target()
>>> target.lanes("f32") == target.bits // 32 and target.lanes("f64") * 2 == target.lanes("f32")
True
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import platform
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm

from graphc.errors import TargetUnavailable
from graphc.targets.cpu.llvm_text import Module, VType

__all__ = ["LEVELS", "VectorTarget", "bind_libm", "foreign_target", "libm_symbols", "target_machine", "vector_target"]


@dataclass(frozen=True)
class _Level:
    bits: int
    cpu: str  # LLVM's name of the plainest CPU of the level
    needs: tuple[str, ...]  # features that the host must have
    fused: bool


LEVELS: dict[str, _Level] = {
    "avx512": _Level(512, "x86-64-v4", ("avx512f", "avx512dq", "avx512bw", "avx512vl", "fma"), True),
    "avx2": _Level(256, "x86-64-v3", ("avx2", "fma"), True),
    "sse4.2": _Level(128, "x86-64-v2", ("sse4.2",), False),
    "neon": _Level(128, "generic", ("neon",), True),
}  # widest first


@dataclass(frozen=True)
class VectorTarget:
    """What the code generator asks of a machine.

    Attributes:
        level: a key of :data:`LEVELS`, or "scalar" where none fits.
        cpu, features: LLVM's CPU name and feature string.
        bits: width of a vector register.
        fused: whether there is an FMA instruction.
        triple: LLVM's name of the system, where it is not this process's.
    """

    level: str
    cpu: str
    features: str
    bits: int
    fused: bool
    triple: str = ""

    def lanes(self, scalar: str) -> int:
        """Elements of ``scalar`` in one register; bool counts as a byte.

        >>> VectorTarget("avx2", "x86-64-v3", "", 256, True).lanes("f32")
        8
        """
        return self.bits // (8 * VType(scalar).bytes)

    @property
    def attributes(self) -> str:
        """Function attributes that every function of this target carries."""
        text = 'nounwind "no-trapping-math"="true" "frame-pointer"="none"'
        if self.bits == 512:
            text += ' "prefer-vector-width"="512" "min-legal-vector-width"="512"'
        return text

    def module(self, name: str) -> Module:
        """An empty module of this target."""
        return Module(name, self.triple or llvm.get_process_triple(), _layout(self), self.fused, self.level == "avx512")

    def lower(self, level: str) -> VectorTarget:
        """The same host held to a lower level (tests run every width that the host can)."""
        return vector_target(level)


@functools.cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _host_features() -> Any:
    _initialize()
    return llvm.get_host_cpu_features()


@functools.cache
def vector_target(level: str | None = None) -> VectorTarget:
    """The host's own target, or the host held to ``level``.

    Without a level, the CPU's own name and features are used (best scheduling); with one, the plainest CPU of that level.

    Raises:
        TargetUnavailable: the level is unknown, or the host lacks a feature of it.
    """
    features = _host_features()
    if level is None:
        found = next((n for n, entry in LEVELS.items() if all(features.get(f) for f in entry.needs)), "scalar")
        entry = LEVELS.get(found, _Level(128, "", (), False))
        return VectorTarget(found, llvm.get_host_cpu_name(), features.flatten(), entry.bits, entry.fused)
    if level not in LEVELS:
        raise TargetUnavailable(f"no CPU level {level!r}", help="one of " + ", ".join(LEVELS))
    entry = LEVELS[level]
    missing = [feature for feature in entry.needs if not features.get(feature)]
    if missing:
        raise TargetUnavailable(
            f"this CPU ({llvm.get_host_cpu_name()}) cannot run {level} code",
            notes=("it lacks " + ", ".join(missing),),
            help="compile for a level that it has: graphc doctor lists them",
        )
    return VectorTarget(level, entry.cpu, "", entry.bits, entry.fused)


def foreign_target(level: str, triple: str = "") -> VectorTarget:
    """A target to generate and look at code for, whether or not this process could run it.

    Args:
        level: a key of :data:`LEVELS`. triple: LLVM's name of another system ("" for a lower or higher level of this one).

    Raises:
        TargetUnavailable: the level is unknown, or this LLVM cannot generate code for the system.

    >>> foreign_target("avx512").bits, foreign_target("neon", "aarch64-unknown-linux-gnu").lanes("f32")
    (512, 4)
    """
    if level not in LEVELS:
        raise TargetUnavailable(f"no CPU level {level!r}", help="one of " + ", ".join(LEVELS))
    entry = LEVELS[level]
    if triple:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        try:
            llvm.Target.from_triple(triple)
        except RuntimeError as error:
            raise TargetUnavailable(f"no code can be generated for {triple}", notes=(str(error),)) from error
    return VectorTarget(level, entry.cpu, "", entry.bits, entry.fused, triple)


def target_machine(target: VectorTarget | None = None, optimize: int = 2) -> llvm.TargetMachine:
    """A fresh llvmlite target machine: position independent, for the JIT, code generation level ``optimize`` (0 to 3).

    Level 2 with no pass pipeline is what the measurements recommend; level 0 code is several times slower.

    The small code model reads constants from beside the code; the large one loads each address first.
    It needs a linker that keeps a module together (JITLink).
    """
    _initialize()
    target = target or vector_target()
    triple = target.triple or llvm.get_process_triple()
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=optimize, reloc="pic", codemodel="small", jit=True
    )


@functools.cache
def _layout(target: VectorTarget) -> str:
    return str(target_machine(target).target_data)


# Functions of the C library that vector_math calls lane by lane.
LIBM = ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "pow", "atan2", "fmod", "fma")


@functools.cache
def libm_symbols() -> dict[str, int]:
    """Addresses of the C library's functions that generated code may call, by name (``sinf``, ``sin``, ...).

    A JIT whose linker does not look into the process (LLJIT without a process generator) imports these.

    Raises:
        TargetUnavailable: there is no C mathematics library in the process or on the system.
    """
    for handle in _libraries():
        found = {}
        for name in (n + suffix for n in LIBM for suffix in ("", "f")):
            function = getattr(handle, name, None)
            if function is not None:
                found[name] = ctypes.cast(function, ctypes.c_void_p).value or 0
        if len(found) == 2 * len(LIBM):
            return found
    raise TargetUnavailable(
        "no C mathematics library was found", help="the CPU target needs libm for pow, tan and their like"
    )


def _libraries() -> list[ctypes.CDLL]:
    names = ["ucrtbase", "msvcrt"] if platform.system() == "Windows" else [ctypes.util.find_library("m"), None]
    libraries = []
    for name in names:
        try:
            libraries.append(ctypes.CDLL(name))
        except OSError:
            continue  # the next candidate may exist; none at all is reported by the caller
    return libraries


@functools.cache
def bind_libm() -> None:
    """Register :func:`libm_symbols` with LLVM's process-wide symbol table (what MCJIT looks up)."""
    for name, address in libm_symbols().items():
        llvm.add_symbol(name, address)

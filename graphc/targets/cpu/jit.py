"""LLVM IR text -> object code -> addresses.

What enters: a module's text and the :class:`~graphc.targets.cpu.host.VectorTarget` it is for. What leaves: relocatable
object code (which may be kept on disk), assembly text, or a :class:`Library` of callable addresses. Invariant: object
code depends on the text, the target and LLVM alone: it holds no address of this process, and what it needs from outside
(the C library, the thread pool) is bound by name when it is loaded.

No pass pipeline runs: the text already says how to vectorise, and code generation alone is a third of the time.
Objects are linked by JITLink in one process-wide LLJIT; the older linker aborts the process once a program's kernels
spread over more memory than a 32-bit offset reaches. That LLJIT is never torn down, so threads that still run compiled
code while the interpreter exits keep valid code under their feet.

>>> from graphc.targets.cpu.host import vector_target
>>> text = "define i64 @twice(i64 %x) {\\n  %y = shl i64 %x, 1\\n  ret i64 %y\\n}"
>>> library = load_object(emit_object(text, vector_target()), ["twice"])
>>> import ctypes
>>> ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(library["twice"])(21)
42
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import llvmlite
import llvmlite.binding as llvm
from llvmlite.binding import ffi

from graphc.errors import CompileError
from graphc.parallelism import available_cpus
from graphc.targets.cpu.host import VectorTarget, libm_symbols, target_machine, vector_target

__all__ = ["LLVM_LOCK", "Library", "emit_assembly", "emit_object", "emit_objects", "llvm_version", "load_object"]

# llvmlite keeps global state. The lock also stands still across a fork, so that no child inherits LLVM in mid-work.
LLVM_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=LLVM_LOCK.acquire, after_in_parent=LLVM_LOCK.release, after_in_child=LLVM_LOCK.release)
_NUMBERS = itertools.count()


def llvm_version() -> str:
    """LLVM's version and that of the binding: both are part of what decides the machine code.

    >>> llvm_version().startswith("LLVM ")
    True
    """
    return "LLVM " + ".".join(str(n) for n in llvm.llvm_version_info) + f" (llvmlite {llvmlite.__version__})"


class Library:
    """Loaded machine code; the code lives as long as this object.

    ``library["name"]`` is the address of an exported function.
    """

    def __init__(self, tracker: Any, addresses: Mapping[str, int]) -> None:
        self._tracker = tracker
        self._addresses = dict(addresses)

    def __getitem__(self, name: str) -> int:
        return self._addresses[name]

    def keep_for_ever(self) -> None:
        """Never unload the code, not even when the interpreter exits (threads of our own may be in it)."""
        self._tracker.detach()


def emit_object(text: str, target: VectorTarget, opt_level: int = 2) -> bytes:
    """Relocatable object code of a module.

    Args:
        text: LLVM IR.
        target: what to generate code for.
        opt_level: code generation level, 0 to 3.

    Raises:
        CompileError: the text does not parse or is not valid IR; names the line.
    """
    with _machine_and_module(text, target, opt_level) as (machine, module):
        return bytes(machine.emit_object(module))


def emit_objects(texts: Iterable[str], target: VectorTarget, opt_level: int = 2) -> list[bytes]:
    """Object code of several modules; code is generated for one while the next is still being printed.

    Code generation is nearly all of a compilation, and modules in contexts of their own share nothing: each gets a thread
    for it, as many at once as there are processors. The lock is held throughout, so no fork meets LLVM in mid-work.

    Raises:
        CompileError: as :func:`emit_object`.
    """
    gate = threading.BoundedSemaphore(available_cpus())
    jobs: list[_Emission] = []
    rest = iter(texts)
    first = list(itertools.islice(rest, 1))  # printed while another thread may still be at work with LLVM
    with contextlib.ExitStack() as stack:
        stack.enter_context(LLVM_LOCK)
        try:
            for text in itertools.chain(first, rest):
                machine, module = stack.enter_context(_machine_and_module(text, target, opt_level))
                jobs.append(_Emission(machine, module, gate))
                jobs[-1].start()
        finally:
            for job in jobs:
                job.join()
    return [job.result() for job in jobs]


class _Emission(threading.Thread):
    """One module's code generation, without llvmlite's lock."""

    def __init__(self, machine: Any, module: Any, gate: threading.BoundedSemaphore) -> None:
        super().__init__(daemon=True)
        self._machine, self._module, self._gate = machine, module, gate
        self._data: bytes | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            with self._gate:
                self._data = _emit_unlocked(self._machine, self._module)
        except (RuntimeError, OSError, MemoryError) as error:
            self._error = error

    def result(self) -> bytes:
        if self._data is None:
            raise CompileError("code generation failed", notes=(str(self._error),)) from self._error
        return self._data


@functools.cache
def _unlocked_emitter() -> Any:
    """LLVM's emitter as a function of its own: llvmlite's goes through one lock for the process."""
    wrapped = ffi.lib.LLVMPY_TargetMachineEmitToMemory
    function = ctypes.CDLL(ffi.lib._name).LLVMPY_TargetMachineEmitToMemory
    function.argtypes, function.restype = wrapped.argtypes, wrapped.restype
    return function


def _emit_unlocked(machine: Any, module: Any) -> bytes:
    with ffi.OutputString() as trouble:
        buffer = _unlocked_emitter()(machine, module, 1, trouble)
        if not buffer:
            raise RuntimeError(str(trouble))
    try:
        return ctypes.string_at(ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer))
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


def emit_assembly(text: str, target: VectorTarget, opt_level: int = 2) -> str:
    """The same code as assembly text.

    Raises:
        CompileError: as :func:`emit_object`.
    """
    with _machine_and_module(text, target, opt_level) as (machine, module):
        return str(machine.emit_assembly(module))


@contextlib.contextmanager
def _machine_and_module(text: str, target: VectorTarget, opt_level: int) -> Iterator[tuple[Any, Any]]:
    with LLVM_LOCK, llvm.create_context() as context:
        machine = _machine(target, opt_level)
        try:
            module = llvm.parse_assembly(text, context)
        except RuntimeError as error:
            raise _explain("the generated LLVM IR does not parse", text, error) from error
        with module:
            try:
                module.verify()
            except RuntimeError as error:
                raise _explain("the generated LLVM IR is not valid", text, error) from error
            yield machine, module


def _explain(what: str, text: str, error: RuntimeError) -> CompileError:
    notes = [line for line in str(error).splitlines() if line.strip()][:6]
    place = re.search(r"<string>:(\d+):", str(error))
    if place:
        number = int(place.group(1))
        notes += [f"line {number}: {line}" for line in text.splitlines()[number - 1 : number]]
    return CompileError(what, notes=tuple(notes), help="this is a defect of graphc's code generator: please report it")


def _machine(target: VectorTarget, opt_level: int) -> Any:
    # The small code model: JITLink keeps an object's sections together, and the large model that LLVM's JITs default to
    # costs two instructions at every constant and call.
    triple = str(target_machine(target, opt_level).triple)
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=opt_level, reloc="pic", codemodel="small", jit=True
    )


@functools.cache
def _linker() -> Any:
    return llvm.create_lljit_compiler(_machine(vector_target(), 2), use_jit_link=True, suppress_errors=True)


def load_object(
    data: bytes | Sequence[bytes], exports: Iterable[str], symbols: Mapping[str, int] | None = None
) -> Library:
    """Link object code into this process.

    Args:
        data: what :func:`emit_object` gave, in this or another process; or several that call each other.
        exports: functions whose addresses are wanted.
        symbols: addresses of functions that the object calls, beyond those of the C library.

    Raises:
        CompileError: it needs a symbol that nobody has, or is no object code.
    """
    names = tuple(exports)
    objects = (data,) if isinstance(data, bytes) else tuple(data)
    with LLVM_LOCK:
        try:
            return _link(objects, names, symbols or {})
        except RuntimeError:  # a static interpreter may not show its libm: bind it by address
            try:
                return _link(objects, names, {**libm_symbols(), **(symbols or {})})
            except RuntimeError as error:
                lines = tuple(str(error).splitlines()[:6])
                raise CompileError("compiled code could not be linked", notes=lines) from error


def _link(objects: tuple[bytes, ...], exports: tuple[str, ...], symbols: Mapping[str, int]) -> Library:
    builder = llvm.JITLibraryBuilder().add_current_process()
    for data in objects:
        builder.add_object_img(data)
    for name in exports:
        builder.export_symbol(name)
    for name, address in symbols.items():
        builder.import_symbol(name, address)
    tracker = builder.link(_linker(), f"graphc{next(_NUMBERS)}")
    return Library(tracker, {name: tracker[name] for name in exports})

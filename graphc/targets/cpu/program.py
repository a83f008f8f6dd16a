"""A lowered program as one native call.

What enters: a :class:`~graphc.loops.ir.LoopProgram` and :class:`CpuOptions`. What leaves: a :class:`CpuExecutable`, whose
``run`` checks its arrays, fills a table of addresses and makes one native call with the GIL released. Invariant: the
machine code holds no address (pointers, pool and status are arguments), so it can be kept on disk; no call writes
outside of the arrays it was given and its own arena, and two calls at once never share an arena.

The entry, for a program with input x, output y and a scratch arena::

    void graphc_entry(ptr pointers, ptr pool, ptr status)      pointers = [x, y, arena], status: 0 = fine, else site + 1

The launches themselves are data beside the code (:mod:`graphc.targets.cpu.launches`): the code is the kernels'.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import graphc
from graphc.errors import CompileError, IndexRangeError, InputError
from graphc.loops.ir import BufferSlot, LoopProgram
from graphc.loops.text import print_kernel
from graphc.targets.cpu.call import ArraySpec, CallBlock, native_call
from graphc.targets.cpu.emit import emit_modules, emit_program
from graphc.targets.cpu.host import VectorTarget, vector_target
from graphc.targets.cpu.jit import Library, emit_assembly, emit_objects, llvm_version, load_object
from graphc.targets.cpu.launches import HEADER_WORDS, listing
from graphc.targets.cpu.object_cache import ObjectCache, cache_key, default_directory
from graphc.targets.cpu.plan import Plan
from graphc.targets.cpu.recorder import Recorder, Recording, recorder_address
from graphc.targets.cpu.step import Frame, NativeStep, native_available, step_library
from graphc.targets.cpu.threads import ThreadPool, available_cpus, parallel_address
from graphc.variables import aligned_empty

__all__ = ["CpuExecutable", "CpuOptions", "compile_program", "compile_text"]

_ALIGNMENT = 64
_EXPORTS = ("graphc_entry",)
_EVENTS = 20_000  # intervals that a profile keeps for its timeline


@dataclass(frozen=True)
class CpuOptions:
    """How to compile for the CPU.

    Attributes:
        threads: how many threads a call uses, the caller's among them (None: the CPUs this process may use).
        vector: the machine to compile for (the host unless said).
        cache: whether object code is looked for and kept on disk.
        cache_dir: where (None: :func:`~graphc.targets.cpu.object_cache.default_directory`).
        opt_level: LLVM's code generation level, 0 to 3.
    """

    threads: int | None = None
    vector: VectorTarget = field(default_factory=vector_target)
    cache: bool = True
    cache_dir: Path | None = None
    opt_level: int = 2

    @property
    def thread_count(self) -> int:
        """``threads`` as a number."""
        return available_cpus() if self.threads is None else self.threads

    def object_cache(self) -> ObjectCache:
        """The cache that these options name (a disabled one if ``cache`` is false)."""
        return ObjectCache((self.cache_dir or default_directory()) if self.cache else None)


def compile_program(
    program: LoopProgram,
    options: CpuOptions | None = None,
    *,
    schedule: Callable[[LoopProgram], LoopProgram] | None = None,
) -> CpuExecutable:
    """Machine code of a program, from the cache where it is there.

    Args:
        program: a scheduled program, or with ``schedule`` one whose kernels are still plain nests.
        schedule: maps the kernels' loops. It runs on a cache miss, or when somebody asks for the code's text: a cached
            program is found by its plain nests, the options and the compiler's own source.

    Raises:
        CompileError: code generation or linking failed.
    """
    options = options or CpuOptions()
    start = perf_counter()

    def scheduled() -> LoopProgram:
        return schedule(program) if schedule is not None else program

    def text() -> str:
        return emit_program(scheduled(), options.vector, options.thread_count)

    def modules() -> Iterator[str]:
        return emit_modules(scheduled(), options.vector, options.thread_count)

    return _compile(program, object_key(program, options), text, modules, options, start, Plan.of(program))


@functools.cache
def prepare(threads: int) -> None:
    """Begin to make the machine code of the run time itself: the native call, and the pool of so many threads.

    With an empty cache that takes 80 ms, which a thread of its own spends while the first program's passes run.
    """
    if native_available():
        thread = threading.Thread(target=_make_runtime, args=(threads,), name="graphc-runtime")  # no daemon: exit waits for it
        with contextlib.suppress(RuntimeError):  # no more threads, or the process is ending: made when it is needed
            thread.start()


def _make_runtime(threads: int) -> None:
    with contextlib.suppress(CompileError, OSError, RuntimeError):  # whoever needs it meets the same trouble, and says so
        if threads > 1:
            parallel_address()
        native_call()
        step_library()


def object_key(program: LoopProgram, options: CpuOptions) -> str:
    """The key of a program's object code: its kernels, the compiler's own source, the machine and the options."""
    kernels = "\n".join(map(print_kernel, program.kernels.values()))
    return _key(f"{compiler_fingerprint()}\n{options.thread_count}\n{kernels}", options)


def _key(recipe: str, options: CpuOptions) -> str:
    vector, level = options.vector, str(options.opt_level)
    return cache_key(recipe, vector.cpu, vector.features, vector.level, level, llvm_version(), graphc.__version__)


def compile_text(program: LoopProgram, text: str, options: CpuOptions) -> CpuExecutable:
    """As :func:`compile_program`, for the LLVM IR of a program that is already printed.

    Args:
        program: describes the buffers and sites that ``text`` is about.
        text: a module that defines ``graphc_entry``.

    Raises:
        CompileError: the text is not valid, or needs a symbol that nobody has.
    """
    plan = Plan.of(program, listed=False)
    return _compile(program, _key(text, options), lambda: text, lambda: iter((text,)), options, perf_counter(), plan)


def _compile(
    program: LoopProgram, key: str, text: Callable[[], str], modules: Callable[[], Iterator[str]],
    options: CpuOptions, start: float, plan: Plan,
) -> CpuExecutable:  # fmt: skip
    """Load the objects of a key, or make them from ``modules()``."""
    cache = options.object_cache()
    code, why = load_code(key, options, cache)
    if code is None:
        objects = tuple(emit_objects(modules(), options.vector, options.opt_level))
        trouble = cache.store(key, pack(objects))
        note = f"miss: {why}" + (f"; {trouble}" if trouble and trouble != why else "")
        code = Code(objects, _link(objects, options), note, key)
    return CpuExecutable(plan, lambda: program, options, functools.cache(text), code, perf_counter() - start)


def load_code(key: str, options: CpuOptions, cache: ObjectCache) -> tuple[Code | None, str]:
    """The code that the cache holds under a key, or None and why there is none."""
    found = cache.load(key)
    if found.data is None:
        return None, found.why
    try:
        objects = unpack(found.data)
        return Code(objects, _link(objects, options), found.why, key), found.why
    except CompileError:  # made against a C library that this system no longer has
        return None, "the entry does not link"


def _link(objects: Sequence[bytes], options: CpuOptions) -> Library:
    symbols = {"graphc_parallel": parallel_address()} if options.thread_count > 1 else {}
    return load_object(objects, _EXPORTS, symbols)


@dataclass(frozen=True)
class Code:
    """Objects, loaded; ``cache`` says "hit", or "miss: " and why; ``key`` is theirs in the cache."""

    objects: tuple[bytes, ...]
    library: Library
    cache: str
    key: str


def pack(objects: Sequence[bytes]) -> bytes:
    """Several objects as one entry of the cache: each after its length.

    >>> unpack(pack([b"one", b"", b"three"]))
    (b'one', b'', b'three')
    """
    return b"".join(len(data).to_bytes(8, "little") + data for data in objects)


def unpack(data: bytes) -> tuple[bytes, ...]:
    """The objects of :func:`pack`."""
    objects, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        objects.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    return tuple(objects)


@functools.cache
def compiler_fingerprint() -> str:
    """A digest of the code that turns loops into machine code: another compiler never reads this one's objects."""
    here = Path(__file__).resolve().parents[3]
    digest = hashlib.sha256()
    for folder in ("graphc/loops", "graphc/targets/cpu", "passes"):
        for file in sorted((here / folder).glob("*.py")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    digest.update((here / "graphc" / "scalar.py").read_bytes())
    return digest.hexdigest()


class _Frame:
    """What one call in flight owns: the table of addresses, the arena and the status cell."""

    __slots__ = ("arena", "call", "status", "table")

    def __init__(
        self,
        fixed: Sequence[int],
        arena_size: int,
        specs: Sequence[ArraySpec],
        entry: int,
        pool: int,
        head: Sequence[int],
    ) -> None:
        self.arena = np.empty(arena_size + _ALIGNMENT, np.uint8)
        base = self.arena.ctypes.data
        whole = (ctypes.c_int64 * (HEADER_WORDS + len(fixed) + 1))(*head, *fixed, base + -base % _ALIGNMENT)
        self.table = (ctypes.c_int64 * (len(fixed) + 1)).from_buffer(whole, 8 * HEADER_WORDS)  # keeps the whole
        self.status = ctypes.c_int64(0)
        self.call = CallBlock(specs, self.table, entry, pool, ctypes.addressof(self.status)).call  # runs the entry


class CpuExecutable:
    """A program that runs.

    Attributes:
        plan: its buffers and launches.
        compile_seconds: from the loop IR to callable code, reading the cache or not.
        cache: "hit", or "miss: " and why. key: the object code's in the cache.
    """

    def __init__(
        self, plan: Plan, program: Callable[[], LoopProgram], options: CpuOptions, text: Callable[[], str], code: Code,
        compile_seconds: float,
    ) -> None:  # fmt: skip
        self.plan = plan
        self.options = options
        self.cache, self.key = code.cache, code.key
        self.compile_seconds = compile_seconds
        self._make_program = program
        self._make_text = text
        self._code = code
        self._head = (plan.launches.ctypes.data if plan.launches is not None else 0, 0)
        self._entry = code.library["graphc_entry"]
        self._pool = ThreadPool.get(options.thread_count)
        self._constants = {slot.name: _constant(slot) for slot in plan.role("constant")}
        self._fixed = [self._constants[s.name].ctypes.data if s.role == "constant" else 0 for s in plan.slots]
        self._slots = [slot for slot in plan.slots if slot.role != "constant"]
        self._specs = [
            ArraySpec(n, slot.type.dtype.numpy, slot.type.static_shape, slot.role != "input")
            for n, slot in enumerate(plan.slots) if slot.role != "constant"
        ]  # fmt: skip
        # Frames not in use. list.pop and list.append are atomic, which makes this safe between threads without a lock
        # that a fork or an interrupt could leave held: a frame lost that way is made anew.
        self._frames: list[_Frame] = []

    @property
    def program(self) -> LoopProgram:
        """The loops that this is the code of; a program from the cache derives them when they are first asked for."""
        return self._make_program()

    def run(self, arrays: Sequence[np.ndarray]) -> None:
        """One step: reads inputs, updates parameters in place, fills outputs.

        Args:
            arrays: one for each of ``program.role("input", "parameter", "output")``, in that order; C-contiguous, of the
                exact dtype and shape; the last two kinds writeable. Outputs must not overlap with anything else.

        Raises:
            InputError: an array does not fit (nothing has run).
            IndexRangeError: an index was out of its axis; outputs and parameters are then unspecified.

        A keyboard interrupt takes effect after the native call, never within.
        """
        if len(arrays) != len(self._specs):
            raise InputError(f"the program takes {len(self._specs)} arrays, got {len(arrays)}")
        arrays = tuple(arrays)  # keeps them alive while the GIL is released
        frame = self._frame()
        try:
            if frame.call(arrays) >= 0:
                self._call_slowly(frame, arrays)
            if frame.status.value:
                raise self._range_error(frame)
        finally:
            self._frames.append(frame)

    def native_step(self, variables: Sequence[np.ndarray], outputs: Sequence[str], single: bool) -> NativeStep | None:
        """The program as a native callable of its inputs (None where this interpreter's arrays cannot be read natively).

        Args:
            variables: the parameters' arrays, whose memory stays where it is.
            outputs: the names of the outputs, in order. single: return the one output itself.
        """
        if not native_available():
            return None
        named = list(zip(self._slots, self._specs, strict=True))
        held = [spec.place for slot, spec in named if slot.role == "parameter"]
        fixed = list(self._fixed)
        for place, array in zip(held, variables, strict=True):
            fixed[place] = array.ctypes.data

        def frame() -> Frame:
            made = _Frame(fixed, self.plan.arena_size, (), 0, 0, self._head)
            return Frame(made.table, made.status, (made, variables))

        return NativeStep(
            inputs=[(slot.name, spec) for slot, spec in named if slot.role == "input"],
            outputs=list(zip(outputs, [spec for slot, spec in named if slot.role == "output"], strict=True)),
            sizes=[slot.type.nbytes for slot in self.plan.slots],
            entry=self._entry, pool=self._pool.address, single=single,
            make_frame=frame, explain=self._range_error, owner=self,
        )  # fmt: skip

    def record(self, arrays: Sequence[np.ndarray], repeats: int = 20) -> Recording:
        """Time every launch over ``repeats`` whole steps, from inside the one native call that a step is.

        Runs the same object code, linked a second time so that its parallel loops are timed too. Parameters are updated
        by every step, as :meth:`run` does; the caller restores them.

        Raises:
            InputError, IndexRangeError: as :meth:`run`.
            CompileError: the program was made from text, which has no list of launches.
        """
        if self.plan.launches is None:
            raise CompileError("a program made from LLVM text cannot be profiled")
        if len(arrays) != len(self._specs):
            raise InputError(f"the program takes {len(self._specs)} arrays, got {len(arrays)}")
        arrays = tuple(arrays)
        recorder = Recorder(self.plan.count, _EVENTS, self._pool.address)
        code = load_object(self._code.objects, _EXPORTS, {"graphc_parallel": recorder_address("graphc_parallel_timed")})
        head = (self._head[0], recorder_address("graphc_mark"))
        frame = _Frame(
            self._fixed, self.plan.arena_size, self._specs, code["graphc_entry"], recorder.address, head
        )  # fmt: skip
        rows = []
        for _ in range(max(repeats, 1)):
            if frame.call(arrays) >= 0:
                self._call_slowly(frame, arrays)
            if frame.status.value:
                raise self._range_error(frame)
            rows.append(recorder.take())
        tick = recorder.seconds_a_tick()
        return Recording(np.array(rows), tick, tuple(recorder.events(tick)), self._pool.threads)

    def llvm(self) -> str:
        """The LLVM IR that was compiled; the launches, which are data, follow as comments."""
        return self._make_text() + (listing(self.program) if self.plan.launches is not None else "")

    def asm(self) -> str:
        """The assembly text of the machine code."""
        return emit_assembly(self._make_text(), self.options.vector, self.options.opt_level)

    def source(self, stage: str) -> str:
        """``llvm()`` or ``asm()`` by name; "llvm:NAME" gives the functions of one kernel.

        Raises:
            CompileError: the CPU target has no such stage.
        """
        name, _, kernel = stage.partition(":")
        if stage == "llvm":
            return self.llvm()
        if stage == "asm":
            return self.asm()
        if name == "llvm" and kernel in self.program.kernels:
            return functions_of(self.llvm(), kernel)
        raise CompileError(f"the cpu target has no stage {stage!r}", help='choose "llvm" or "asm"')

    def _frame(self) -> _Frame:
        try:
            return self._frames.pop()
        except IndexError:
            size = self.plan.arena_size
            return _Frame(self._fixed, size, self._specs, self._entry, self._pool.address, self._head)

    def _call_slowly(self, frame: _Frame, arrays: Sequence[np.ndarray]) -> None:
        """Explain what is wrong with the arrays; if only their element type goes by an alias, run on views of them."""
        views = []
        for slot, spec, array in zip(self._slots, self._specs, arrays, strict=True):
            views.append(_checked(slot, spec, array).view(spec.dtype))
        if frame.call(views) >= 0:
            raise InputError("an array does not offer its memory through the buffer protocol")

    def _range_error(self, frame: _Frame | Frame) -> IndexRangeError:
        status, frame.status.value = frame.status.value, 0
        sites = self.program.sites
        if not 0 < status <= len(sites):
            return IndexRangeError(f"an index is out of its axis (guard site {status - 1})")
        site = sites[status - 1]
        return IndexRangeError(site.message(), source=site.source)


def functions_of(text: str, kernel: str) -> str:
    """The functions of one kernel out of a module's text: its own and the bodies of its parallel loops."""
    kept: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("define"):
            name = line.partition("@")[2].partition("(")[0]
            inside = name == f"k_{kernel}" or name.startswith(f"k_{kernel}_p")
        if inside:
            kept.append(line)
        if line == "}":
            inside = False
    return "\n".join(kept)


def _constant(slot: BufferSlot) -> np.ndarray:
    """A constant's data as the code reads it: contiguous, of the slot's dtype and shape, large ones on a cache line."""
    array = np.ascontiguousarray(slot.data, dtype=slot.type.dtype.numpy).reshape(slot.type.static_shape)
    if array.flags.aligned and (array.nbytes < _ALIGNMENT or array.ctypes.data % _ALIGNMENT == 0):
        return array
    placed = aligned_empty(array.shape, slot.type.dtype)
    placed[...] = array
    return placed


def _checked(slot: BufferSlot, spec: ArraySpec, array: Any) -> np.ndarray:
    """The array, known to fit; otherwise the error that says why not."""
    what = f"{slot.role} {slot.name}"
    wanted = f"{spec.dtype}{list(spec.shape)}"
    if not isinstance(array, np.ndarray):
        raise InputError(f"{what} must be a NumPy array {wanted}, got {type(array).__name__}")
    if array.dtype != spec.dtype or array.shape != spec.shape:
        raise InputError(f"{what} must be {wanted}, got {array.dtype}{list(array.shape)}")
    flags = array.flags
    lacks = [word for word, good in (("contiguous", flags.c_contiguous), ("aligned", flags.aligned)) if not good]
    lacks += ["writeable"] if spec.writeable and not flags.writeable else []
    if lacks:
        raise InputError(f"{what} is not {' and '.join(lacks)}", help="pass a copy: array.copy(order='C')")
    return array

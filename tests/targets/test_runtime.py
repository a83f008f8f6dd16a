"""The run time of the CPU target: machine code, its cache, the thread pool, and a program's call."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest

from graphc.errors import AttributeRuleError, CompileError, IndexRangeError, InputError
from graphc.loops.ir import BufferSlot, Launch, LoopProgram
from graphc.targets.cpu.host import vector_target
from graphc.targets.cpu.jit import Library, emit_assembly, emit_object, emit_objects, load_object
from graphc.targets.cpu.object_cache import Lookup, ObjectCache, cache_key, default_directory
from graphc.targets.cpu.program import CpuExecutable, CpuOptions, compile_text
from graphc.targets.cpu.threads import ThreadPool, available_cpus, parallel_address, runtime_text
from graphc.types import TensorType, bool_, float32, float64, int32, int64, uint32

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX threads, forks and file modes")
KEY = cache_key("a key")


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    """A hang is a failure that says where, not a stuck run."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def late(*_: object) -> None:
        raise TimeoutError("the test hangs")

    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


# --- machine code ---------------------------------------------------------------------------------------------------


def kernel_text(n: int) -> str:
    """``x[i] = x[i] * 2 + n`` over 64 floats, with a constant that needs a relocation."""
    return f"""
define void @k{n}(ptr %x) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
  %p = getelementptr float, ptr %x, i64 %i
  %v = load <8 x float>, ptr %p, align 4
  %w = fmul <8 x float> %v, splat (float 2.0)
  %u = fadd <8 x float> %w, splat (float {n}.0)
  store <8 x float> %u, ptr %p, align 4
  %j = add i64 %i, 8
  %more = icmp slt i64 %j, 64
  br i1 %more, label %loop, label %end
end:
  ret void
}}"""


def function(library: Library, name: str, *arguments: type, result: type | None = None) -> object:
    return ctypes.CFUNCTYPE(result, *arguments)(library[name])


def test_five_hundred_kernels_load_and_run_in_one_module() -> None:
    text = "".join(kernel_text(n) for n in range(500))
    data = emit_object(text, vector_target(), 1)
    names = [f"k{n}" for n in range(500)]
    library = load_object(data, names)
    x = np.ones(64, np.float32)
    for n in (0, 1, 250, 499):
        x[:] = 1
        function(library, f"k{n}", ctypes.c_void_p)(x.ctypes.data)
        np.testing.assert_array_equal(x, 2.0 + n)
    again = load_object(data, ["k7"])  # the same object twice: names do not clash
    assert again["k7"] != library["k7"]


def test_object_code_is_the_same_each_time_and_assembly_shows_it() -> None:
    target = vector_target()
    assert emit_object(kernel_text(3), target) == emit_object(kernel_text(3), target)
    assert "k3:" in emit_assembly(kernel_text(3), target)


def test_the_c_library_is_linked_by_name() -> None:
    declaration = "declare double @pow(double, double)\n"
    text = (
        declaration
        + "define double @f(double %x) {\n  %y = call double @pow(double %x, double 3.0)\n  ret double %y\n}"
    )
    library = load_object(emit_object(text, vector_target()), ["f"])
    assert function(library, "f", ctypes.c_double, result=ctypes.c_double)(2.0) == 8.0


def test_broken_text_names_the_line() -> None:
    with pytest.raises(CompileError, match="does not parse") as error:
        emit_object("define void @f() {\n  ret i32 0\n}", vector_target())
    assert "line 2:   ret i32 0" in str(error.value)


def test_a_symbol_that_nobody_has_is_an_error_and_the_next_load_works() -> None:
    text = "declare void @graphc_no_such()\ndefine void @f() {\n  call void @graphc_no_such()\n  ret void\n}"
    with pytest.raises(CompileError, match="could not be linked"):
        load_object(emit_object(text, vector_target()), ["f"])
    assert load_object(emit_object(kernel_text(1), vector_target()), ["k1"])["k1"]
    with pytest.raises(CompileError):
        load_object(b"no object code at all", ["f"])


# --- the cache ------------------------------------------------------------------------------------------------------


def entry(directory: Path, key: str = KEY) -> Path:
    return directory / f"{key}.gco"


def test_what_was_stored_is_found(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "new" / "folder")
    assert cache.load(KEY) == Lookup(None, "no entry")
    assert cache.store(KEY, b"code") == ""
    assert cache.load(KEY) == Lookup(b"code", "hit")
    assert ObjectCache(tmp_path / "new" / "folder").load(KEY).data == b"code"
    cache.clear()
    assert cache.load(KEY).why == "no entry"


@pytest.mark.parametrize("where", [0, 20, 50, 85, -1])
def test_a_changed_byte_is_never_executed(tmp_path: Path, where: int) -> None:
    cache = ObjectCache(tmp_path)
    cache.store(KEY, b"some machine code")
    data = bytearray(entry(tmp_path).read_bytes())
    data[where] ^= 1
    entry(tmp_path).write_bytes(data)
    found = cache.load(KEY)
    assert found.data is None and found.why.startswith("corrupt")
    assert where != -1 or found.why == "corrupt: checksum"


def test_truncated_foreign_and_renamed_files_are_misses(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    cache.store(KEY, b"some machine code")
    whole = entry(tmp_path).read_bytes()
    for data in (b"", whole[:10], whole[:-3], whole + b"x", b"\x7fELF" + bytes(200)):
        entry(tmp_path).write_bytes(data)
        assert cache.load(KEY).data is None
    other = cache_key("another key")
    entry(tmp_path, other).write_bytes(whole)
    assert cache.load(other).why == "corrupt: the entry of another key"


@POSIX
def test_files_that_others_could_have_written_are_not_trusted(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    cache.store(KEY, b"code")
    entry(tmp_path).chmod(0o666)
    assert cache.load(KEY).why == "foreign: other users may write it"
    entry(tmp_path).chmod(0o600)
    assert cache.load(KEY).data == b"code"
    link = cache_key("link")
    entry(tmp_path, link).symlink_to(entry(tmp_path))
    assert cache.load(link).data is None
    fifo = cache_key("fifo")
    os.mkfifo(entry(tmp_path, fifo))
    assert cache.load(fifo).data is None  # and does not wait for a writer


@POSIX
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    cache.store(KEY, b"code")
    os.chown(entry(tmp_path), 12345, 12345)
    assert cache.load(KEY).why == "foreign: it belongs to another user"


def test_a_place_that_cannot_be_written_disables_the_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = ObjectCache(tmp_path / "file" / "below")
    assert cache.load(KEY).data is None
    assert cache.store(KEY, b"code").startswith("disabled: ")
    assert ObjectCache(None).store(KEY, b"code") == "disabled"


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=5000)
    keys = [cache_key(str(n)) for n in range(8)]
    for age, key in enumerate(keys[:4]):
        cache.store(key, bytes(1000))
        os.utime(entry(tmp_path, key), (1000 + age, 1000 + age))
    assert cache.load(keys[0]).data is not None  # used just now
    for key in keys[4:6]:
        cache.store(key, bytes(1000))
    kept = {k for k in keys if entry(tmp_path, k).exists()}
    assert kept == {keys[0], keys[3], keys[4], keys[5]}
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 5000


def test_what_a_crashed_writer_left_is_removed(tmp_path: Path) -> None:
    stale, fresh = tmp_path / "a.gco.tmp", tmp_path / "b.gco.tmp"
    for path in (stale, fresh):
        path.write_bytes(b"half")
    os.utime(stale, (1000, 1000))
    ObjectCache(tmp_path).store(KEY, b"code")
    assert not stale.exists() and fresh.exists()


def test_many_processes_share_a_directory(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from graphc.targets.cpu.object_cache import ObjectCache, cache_key
cache = ObjectCache(Path({str(tmp_path)!r}), limit=30_000)
for n in range(300):
    key = cache_key(str(n % 25))
    found = cache.load(key)
    assert found.data is None or found.data == bytes([n % 25]) * 2000, found.why
    assert found.data is not None or found.why == "no entry", found.why
    assert cache.store(key, bytes([n % 25]) * 2000) == ""
"""
    running = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    assert [p.wait(timeout=50) for p in running] == [0, 0, 0]
    assert not list(tmp_path.glob("*.tmp"))


def test_the_directory_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    assert default_directory() == tmp_path
    monkeypatch.setenv("GRAPHC_CACHE_DIR", "")
    assert default_directory() is None
    monkeypatch.delenv("GRAPHC_CACHE_DIR")
    chosen = default_directory()
    assert chosen is None or "graphc" in chosen.parts


# --- the thread pool ------------------------------------------------------------------------------------------------

# args = [x, y, sum]; y[i] = x[i] * 3 over a range, and the range is noted by an atomic sum of its length.
PARALLEL = """
declare void @graphc_parallel(ptr, ptr, ptr, i64, i64)
define void @body(ptr %args, i64 %begin, i64 %end) {
entry:
  %x = load ptr, ptr %args
  %y.p = getelementptr ptr, ptr %args, i64 1
  %y = load ptr, ptr %y.p
  %s.p = getelementptr ptr, ptr %args, i64 2
  %s = load ptr, ptr %s.p
  %size = sub i64 %end, %begin
  %o = atomicrmw add ptr %s, i64 %size monotonic
  %c.p = getelementptr i64, ptr %s, i64 1
  %o2 = atomicrmw add ptr %c.p, i64 1 monotonic
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %j, %loop ]
  %px = getelementptr i64, ptr %x, i64 %i
  %py = getelementptr i64, ptr %y, i64 %i
  %v = load i64, ptr %px
  %w = mul i64 %v, 3
  store i64 %w, ptr %py
  %j = add i64 %i, 1
  %more = icmp slt i64 %j, %end
  br i1 %more, label %loop, label %leave
leave:
  ret void
}
define void @once(ptr %pool, ptr %args, i64 %n, i64 %grain) {
  call void @graphc_parallel(ptr %pool, ptr @body, ptr %args, i64 %n, i64 %grain)
  ret void
}
define void @often(ptr %pool, ptr %args, i64 %n, i64 %times) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
  call void @graphc_parallel(ptr %pool, ptr @body, ptr %args, i64 %n, i64 1)
  %j = add i64 %i, 1
  %more = icmp slt i64 %j, %times
  br i1 %more, label %loop, label %leave
leave:
  ret void
}
@pools = global ptr null
define void @outer(ptr %args, i64 %begin, i64 %end) {
  %pool = load ptr, ptr @pools
  call void @graphc_parallel(ptr %pool, ptr @body, ptr %args, i64 100, i64 1)
  ret void
}
define void @nested(ptr %pool, ptr %args) {
  store ptr %pool, ptr @pools
  call void @graphc_parallel(ptr %pool, ptr @outer, ptr %args, i64 1, i64 1)
  call void @graphc_parallel(ptr %pool, ptr @outer, ptr %args, i64 2, i64 1)
  ret void
}
"""


@cache
def parallel_code(futex: bool | None) -> Library:
    data = emit_object(PARALLEL, vector_target())
    return load_object(data, ["once", "often", "nested"], {"graphc_parallel": parallel_address(futex=futex)})


class Triple:
    """One caller's arrays: ``once`` and ``often`` triple x into y and count iterations and ranges."""

    def __init__(self, n: int, threads: int, futex: bool | None = None) -> None:
        self.n = n
        self.pool = ThreadPool.get(threads, futex=futex)
        self.code = parallel_code(futex)
        self.x = np.arange(n, dtype=np.int64)
        self.y = np.zeros(n, np.int64)
        self.counts = np.zeros(2, np.int64)
        self.args = (ctypes.c_void_p * 3)(self.x.ctypes.data, self.y.ctypes.data, self.counts.ctypes.data)

    def call(self, name: str, number: int) -> None:
        kinds = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        function(self.code, name, *kinds)(self.pool.address, ctypes.addressof(self.args), self.n, number)

    def check(self, iterations: int, ranges: int | None = None) -> None:
        np.testing.assert_array_equal(self.y, 3 * self.x)
        assert self.counts[0] == iterations
        assert ranges is None or self.counts[1] == ranges


FLAVOURS = pytest.mark.parametrize("futex", [None, False], ids=["default", "condition variables"])


@POSIX
@FLAVOURS
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_every_iteration_runs_once(threads: int, futex: bool | None) -> None:
    for n, grain in [(1, 1), (2, 1), (7, 1), (1000, 1), (1000, 300), (1000, 1000), (10, 0), (5, 100)]:
        triple = Triple(n, threads, futex)
        triple.call("once", grain)
        triple.check(n, min(threads, max(n // max(grain, 1), 1)))
    nothing = Triple(0, threads, futex)
    nothing.call("once", 1)
    nothing.check(0, 0)


@POSIX
@FLAVOURS
@pytest.mark.parametrize("threads", [2, 4])
def test_twenty_thousand_calls_do_not_hang(threads: int, futex: bool | None) -> None:
    triple = Triple(200, threads, futex)
    triple.call("often", 20_000)
    triple.check(200 * 20_000, threads * 20_000)


@POSIX
@FLAVOURS
def test_workers_wake_from_sleep(futex: bool | None) -> None:
    triple = Triple(100, 3, futex)
    for _ in range(40):
        triple.call("once", 1)
        time.sleep(0.003)
    triple.check(100 * 40)


@POSIX
def test_nested_calls_run_serially() -> None:
    triple = Triple(100, 3)
    pointer = ctypes.c_void_p
    function(triple.code, "nested", pointer, pointer)(triple.pool.address, ctypes.addressof(triple.args))
    triple.check(300, 9)


@POSIX
def test_two_threads_may_call_at_once() -> None:
    triples = [Triple(500, 2) for _ in range(3)]
    callers = [threading.Thread(target=t.call, args=("often", 3000)) for t in triples]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for triple in triples:
        triple.check(500 * 3000, 2 * 3000)


def in_child(queue: object = None) -> None:
    triple = Triple(1000, 3)
    triple.call("often", 500)
    triple.check(1000 * 500, 3 * 500)
    if queue is not None:
        queue.put(int(triple.y.sum()))  # type: ignore[attr-defined]


@POSIX
@FLAVOURS
def test_a_forked_child_makes_its_own_workers(futex: bool | None) -> None:
    before = Triple(1000, 3, futex)
    before.call("often", 100)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            triple = Triple(1000, 3, futex)
            triple.call("often", 500)
            triple.check(1000 * 500, 3 * 500)
            if sys.platform.startswith("linux"):
                assert len(os.listdir("/proc/self/task")) >= 3, "the child has workers of its own"
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    before.call("often", 100)
    before.check(1000 * 200)


@POSIX
def test_a_fork_during_a_call_of_another_thread() -> None:
    busy = Triple(2000, 2)
    caller = threading.Thread(target=busy.call, args=("often", 20_000))
    caller.start()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=50) == 3 * 999 * 500
    child.join(50)
    caller.join()
    assert child.exitcode == 0
    busy.check(2000 * 20_000)


@POSIX
def test_the_interpreter_exits_cleanly_while_workers_spin_and_threads_call() -> None:
    script = f"""
import sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_runtime as t
triple = t.Triple(1000, 4)
threading.Thread(target=lambda: [triple.call("often", 100) for _ in range(10**9)], daemon=True).start()
t.Triple(1000, 4).call("often", 100)
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
        assert (done.returncode, done.stderr) == (0, "")


def test_pools_are_shared_and_bounded() -> None:
    assert ThreadPool.get() is ThreadPool.get(available_cpus())
    for bad in (0, -1, 5000):
        with pytest.raises(AttributeRuleError, match="1 to 1024 threads"):
            ThreadPool.get(bad)


@pytest.mark.parametrize(
    "system, machine", [("linux", "aarch64"), ("linux", "riscv64"), ("darwin", "arm64"), ("darwin", "x86_64")]
)
def test_the_pool_is_valid_text_for_other_systems(system: str, machine: str) -> None:
    text = runtime_text(system, machine)
    llvm.parse_assembly(text).verify()
    assert ("@syscall" in text) == (machine == "aarch64")
    assert ("aarch64.isb" in text) == (machine in ("aarch64", "arm64"))


# --- programs -------------------------------------------------------------------------------------------------------


@dataclass
class Site:
    source: None = None

    def message(self) -> str:
        return "take: an index is out of axis 0 of size 16"


VEC = TensorType(float32, (16,))
# y = x + c, w += 1 through the arena's first cell; negative x[0] violates guard site 1
ENTRY = """
define void @graphc_entry(ptr %pointers, ptr %pool, ptr %status) {
entry:
  %x = load ptr, ptr %pointers
  %w.p = getelementptr ptr, ptr %pointers, i64 1
  %w = load ptr, ptr %w.p
  %c.p = getelementptr ptr, ptr %pointers, i64 2
  %c = load ptr, ptr %c.p
  %y.p = getelementptr ptr, ptr %pointers, i64 3
  %y = load ptr, ptr %y.p
  %arena.p = getelementptr ptr, ptr %pointers, i64 4
  %arena = load ptr, ptr %arena.p
  %vx = load <16 x float>, ptr %x, align 4
  %vc = load <16 x float>, ptr %c, align 4
  store <16 x float> %vx, ptr %arena, align 64
  %va = load <16 x float>, ptr %arena, align 64
  %vy = fadd <16 x float> %va, %vc
  store <16 x float> %vy, ptr %y, align 4
  %vw = load <16 x float>, ptr %w, align 4
  %vw1 = fadd <16 x float> %vw, splat (float 1.0)
  store <16 x float> %vw1, ptr %w, align 4
  %first = extractelement <16 x float> %vx, i64 0
  %bad = fcmp olt float %first, 0.0
  br i1 %bad, label %violated, label %leave
violated:
  store i64 2, ptr %status, align 8
  br label %leave
leave:
  ret void
}
"""


def program() -> LoopProgram:
    constant = np.arange(16, dtype=np.float32)
    slots = (
        BufferSlot("x", VEC, "input"), BufferSlot("w", VEC, "parameter"),
        BufferSlot("c", VEC, "constant", data=constant), BufferSlot("y", VEC, "output"), BufferSlot("t", VEC, "arena"),
    )  # fmt: skip
    launches = (Launch("k", ("x", "w", "c", "y")),)
    return LoopProgram("p", {s.name: s for s in slots}, {}, launches, arena_size=64, sites=(Site(), Site()))


def executable(directory: Path) -> CpuExecutable:
    return compile_text(program(), ENTRY, CpuOptions(threads=1, cache_dir=directory))


def vectors() -> list[np.ndarray]:
    return [np.ones(16, np.float32), np.zeros(16, np.float32), np.empty(16, np.float32)]


def test_a_program_runs_and_says_how_it_came_about(tmp_path: Path) -> None:
    first = executable(tmp_path)
    assert first.cache == "miss: no entry" and first.compile_seconds > 0
    second = executable(tmp_path)
    assert second.cache == "hit"
    x, w, y = vectors()
    for made in (first, second):
        made.run([x, w, y])
    np.testing.assert_array_equal(y, 1 + np.arange(16))
    np.testing.assert_array_equal(w, 2)
    assert first.source("llvm") == ENTRY and "graphc_entry:" in first.source("asm")
    with pytest.raises(CompileError, match="'loops'"):
        first.source("loops")
    with pytest.raises(CompileError, match="cannot be profiled"):
        first.record([x, w, y])


def test_a_damaged_cache_recompiles(tmp_path: Path) -> None:
    executable(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert executable(tmp_path).cache == "miss: corrupt: checksum"
    assert executable(tmp_path).cache == "hit"
    off = compile_text(program(), ENTRY, CpuOptions(threads=1, cache=False, cache_dir=tmp_path))
    assert off.cache == "miss: disabled"


def test_a_violated_guard_names_its_site_and_the_next_call_works(tmp_path: Path) -> None:
    made = executable(tmp_path)
    x, w, y = vectors()
    x[0] = -1
    with pytest.raises(IndexRangeError, match="out of axis 0 of size 16"):
        made.run([x, w, y])
    x[0] = 1
    made.run([x, w, y])


def test_arrays_that_do_not_fit_are_refused_before_anything_runs(tmp_path: Path) -> None:
    made = executable(tmp_path)
    x, w, y = vectors()
    frozen = y.copy()
    frozen.flags.writeable = False
    unaligned = np.frombuffer(bytes(65), np.uint8)[1:].view(np.float32)
    cases = [
        ([x, w], "takes 3 arrays, got 2"),
        ([x.astype(np.float64), w, y], r"input x must be float32\[16\], got float64\[16\]"),
        ([x.astype(">f4"), w, y], "input x must be float32"),
        ([x[:8], w, y], r"got float32\[8\]"),
        ([x.reshape(4, 4), w, y], r"got float32\[4, 4\]"),
        ([np.ones(32, np.float32)[::2], w, y], "input x is not contiguous"),
        ([unaligned, w, y], "input x is not aligned"),
        ([x, w, frozen], "output y is not writeable"),
        ([x, frozen, y], "parameter w is not writeable"),
        ([[1.0] * 16, w, y], "must be a NumPy array float32.*, got list"),
        ([None, w, y], "got NoneType"),
    ]
    for arrays, message in cases:
        with pytest.raises(InputError, match=message):
            made.run(arrays)
    assert not w.any()
    x.flags.writeable = False
    made.run((x, w, y))  # inputs may be read-only, and any sequence will do


@pytest.mark.parametrize("dtype", [bool_, int32, int64, uint32, float32, float64], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3)], ids=str)
def test_every_element_type_and_rank_passes_the_check(dtype: object, shape: tuple[int, ...], tmp_path: Path) -> None:
    slot = BufferSlot("x", TensorType(dtype, shape), "output")  # type: ignore[arg-type]
    empty = LoopProgram("e", {"x": slot}, {}, ())
    text = "define void @graphc_entry(ptr %p, ptr %q, ptr %s) {\n  ret void\n}"
    made = compile_text(empty, text, CpuOptions(threads=1, cache=False))
    made.run([np.zeros(shape, slot.type.dtype.numpy)])
    if dtype is int64:
        made.run([np.zeros(shape, np.longlong)])  # the same type under another name


def test_callers_do_not_share_an_arena(tmp_path: Path) -> None:
    made = executable(tmp_path)
    wrong: list[int] = []

    def caller(number: int) -> None:
        _, w, y = vectors()
        x = np.full(16, number, np.float32)
        for _ in range(3000):
            made.run([x, w, y])
            if y[0] != number or y[15] != number + 15:
                wrong.append(number)

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_call_costs_little(tmp_path: Path) -> None:
    made = executable(tmp_path)
    arrays = vectors()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(2000):
            made.run(arrays)
        best = min(best, (time.perf_counter() - start) / 2000)
    assert best < 50e-6, f"{best * 1e6:.1f} us a call"  # about 2 us; the bound allows for a busy machine


def test_modules_are_compiled_at_the_same_time_and_linked_together() -> None:
    texts = [kernel_text(n) for n in range(6)]
    calls = "".join(f"declare void @k{n}(ptr)\n" for n in range(6)) + "define void @all(ptr %x) {\n"
    calls += "".join(f"  call void @k{n}(ptr %x)\n" for n in range(6)) + "  ret void\n}"
    printed: list[int] = []

    def modules() -> Iterator[str]:
        for n, text in enumerate([*texts, calls]):
            printed.append(n)
            yield text

    objects = emit_objects(modules(), vector_target())
    assert printed == list(range(7)) and objects == emit_objects(iter([*texts, calls]), vector_target())
    library = load_object(objects, ["all"])
    x = np.ones(64, np.float32)
    function(library, "all", ctypes.c_void_p)(x.ctypes.data)
    want = 1.0
    for n in range(6):
        want = want * 2 + n
    np.testing.assert_array_equal(x, want)
    with pytest.raises(CompileError, match="does not parse"):
        emit_objects(iter([*texts, "define nonsense"]), vector_target())


def test_code_generation_does_not_hold_other_python_threads() -> None:
    """While one thread generates code for a large module, another goes on."""
    text = "".join(kernel_text(n) for n in range(400))
    done = threading.Event()
    worker = threading.Thread(target=lambda: (emit_objects(iter([text]), vector_target()), done.set()))
    worker.start()
    turns = 0
    while not done.is_set():
        time.sleep(0.001)
        turns += 1
    worker.join()
    assert turns > 20

"""Time stamps from inside a program's one native call: which launch ran when, and on how many threads.

What enters: a program whose entry is given ``graphc_mark(log, n)`` to call before launch n (-1 at the end), and whose
parallel loops are linked to ``graphc_parallel_timed``. What leaves: for each launch its time, its runs, the time of its
parallel loops and the busy time of all threads in them, and a list of events. Invariant: recording never allocates; once
the events are full, further ones are dropped and the sums go on.

The pool argument of such a program is the address of a log, whose first word is the real pool. Time is read from the CPU's
own counter where it has a constant one (8 ns), and calibrated against the system's clock over the run.

>>> recorder = Recorder(launches=2, events=8, pool=0)
>>> recorder.take().tolist(), recorder.events(1e-9)
([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], [])
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from graphc.targets.cpu.jit import Library
from graphc.targets.cpu.runtime import runtime_library
from graphc.targets.cpu.threads import parallel_address

__all__ = ["Event", "Recorder", "Recording", "recorder_address", "recorder_text"]

_CLOCKS = {
    "x86": ("declare i64 @llvm.readcyclecounter()", "%t = call i64 @llvm.readcyclecounter()"),
    "aarch64": ("", '%t = call i64 asm sideeffect "mrs $0, cntvct_el0", "=r"()'),
    "other": (
        "declare i32 @clock_gettime(i32, ptr)",
        """%spec = alloca [2 x i64], align 8
  %r = call i32 @clock_gettime(i32 {monotonic}, ptr %spec)
  %seconds = load i64, ptr %spec, align 8
  %rest.p = getelementptr i64, ptr %spec, i64 1
  %rest = load i64, ptr %rest.p, align 8
  %whole = mul i64 %seconds, 1000000000
  %t = add i64 %whole, %rest""",
    ),
}
_THREAD = (
    "declare ptr @pthread_self()",
    "%p = call ptr @pthread_self()\n  %i = ptrtoint ptr %p to i64",
)
_NO_THREAD = ("", "%i = add i64 0, 0")  # Windows: programs run on one thread
ROW = 5  # words a launch: ticks, runs, ticks of parallel loops, busy ticks of all threads in them, ranges
EVENT = 4  # words an event: launch (-1 - launch for a range of a parallel loop), begin, end, thread

# The log: pool 0, last tick 8, launch in force 16, rows 24, events 32, capacity 40, number of events 48.
_TEXT = """
declare void @graphc_parallel(ptr, ptr, ptr, i64, i64)
{declarations}
define i64 @graphc_tick() {{
  {clock}
  ret i64 %t
}}
define internal i64 @thread() {{
  {thread}
  ret i64 %i
}}

define internal void @event(ptr %log, i64 %launch, i64 %begin, i64 %end) {{
entry:
  %events.p = getelementptr i8, ptr %log, i64 32
  %capacity.p = getelementptr i8, ptr %log, i64 40
  %count.p = getelementptr i8, ptr %log, i64 48
  %capacity = load i64, ptr %capacity.p, align 8
  %seen = load atomic i64, ptr %count.p monotonic, align 8
  %room = icmp slt i64 %seen, %capacity
  br i1 %room, label %take, label %leave
take:
  %place = atomicrmw add ptr %count.p, i64 1 monotonic
  %mine = icmp slt i64 %place, %capacity
  br i1 %mine, label %write, label %leave
write:
  %events = load ptr, ptr %events.p, align 8
  %at = mul i64 %place, {event_words}
  %a = getelementptr i64, ptr %events, i64 %at
  %b = getelementptr i64, ptr %a, i64 1
  %c = getelementptr i64, ptr %a, i64 2
  %d = getelementptr i64, ptr %a, i64 3
  %id = call i64 @thread()
  store i64 %launch, ptr %a, align 8
  store i64 %begin, ptr %b, align 8
  store i64 %end, ptr %c, align 8
  store i64 %id, ptr %d, align 8
  br label %leave
leave:
  ret void
}}

define internal ptr @row(ptr %log, i64 %launch, i64 %word) {{
  %rows.p = getelementptr i8, ptr %log, i64 24
  %rows = load ptr, ptr %rows.p, align 8
  %at = mul i64 %launch, {row_words}
  %place = add i64 %at, %word
  %p = getelementptr i64, ptr %rows, i64 %place
  ret ptr %p
}}

; Close the launch in force, and open launch n (none if it is negative).
define void @graphc_mark(ptr %log, i64 %n) {{
entry:
  %now = call i64 @graphc_tick()
  %last.p = getelementptr i8, ptr %log, i64 8
  %current.p = getelementptr i8, ptr %log, i64 16
  %current = load i64, ptr %current.p, align 8
  %open = icmp sge i64 %current, 0
  br i1 %open, label %close, label %next
close:
  %last = load i64, ptr %last.p, align 8
  %spent = sub i64 %now, %last
  %sum.p = call ptr @row(ptr %log, i64 %current, i64 0)
  %sum = load i64, ptr %sum.p, align 8
  %sum1 = add i64 %sum, %spent
  store i64 %sum1, ptr %sum.p, align 8
  %runs.p = getelementptr i64, ptr %sum.p, i64 1
  %runs = load i64, ptr %runs.p, align 8
  %runs1 = add i64 %runs, 1
  store i64 %runs1, ptr %runs.p, align 8
  call void @event(ptr %log, i64 %current, i64 %last, i64 %now)
  br label %next
next:
  store i64 %n, ptr %current.p, align 8
  %begin = call i64 @graphc_tick()
  store i64 %begin, ptr %last.p, align 8
  ret void
}}

define internal void @body(ptr %pack, i64 %begin, i64 %end) {{
entry:
  %fn = load ptr, ptr %pack, align 8
  %args.p = getelementptr ptr, ptr %pack, i64 1
  %args = load ptr, ptr %args.p, align 8
  %log.p = getelementptr ptr, ptr %pack, i64 2
  %log = load ptr, ptr %log.p, align 8
  %current.p = getelementptr i8, ptr %log, i64 16
  %current = load i64, ptr %current.p, align 8
  %t0 = call i64 @graphc_tick()
  call void %fn(ptr %args, i64 %begin, i64 %end)
  %t1 = call i64 @graphc_tick()
  %spent = sub i64 %t1, %t0
  %busy.p = call ptr @row(ptr %log, i64 %current, i64 3)
  %b = atomicrmw add ptr %busy.p, i64 %spent monotonic
  %ranges.p = getelementptr i64, ptr %busy.p, i64 1
  %r = atomicrmw add ptr %ranges.p, i64 1 monotonic
  %name = xor i64 %current, -1
  call void @event(ptr %log, i64 %name, i64 %t0, i64 %t1)
  ret void
}}

define void @graphc_parallel_timed(ptr %log, ptr %fn, ptr %args, i64 %n, i64 %grain) {{
entry:
  %pack = alloca [3 x ptr], align 16
  %args.p = getelementptr ptr, ptr %pack, i64 1
  %log.p = getelementptr ptr, ptr %pack, i64 2
  store ptr %fn, ptr %pack, align 8
  store ptr %args, ptr %args.p, align 8
  store ptr %log, ptr %log.p, align 8
  %pool = load ptr, ptr %log, align 8
  %t0 = call i64 @graphc_tick()
  call void @graphc_parallel(ptr %pool, ptr @body, ptr %pack, i64 %n, i64 %grain)
  %t1 = call i64 @graphc_tick()
  %spent = sub i64 %t1, %t0
  %current.p = getelementptr i8, ptr %log, i64 16
  %current = load i64, ptr %current.p, align 8
  %sum.p = call ptr @row(ptr %log, i64 %current, i64 2)
  %sum = load i64, ptr %sum.p, align 8
  %sum1 = add i64 %sum, %spent
  store i64 %sum1, ptr %sum.p, align 8
  ret void
}}
"""
# Without threads nobody calls this; it keeps the text above linkable.
_SERIAL = """
define internal void @graphc_parallel(ptr %pool, ptr %fn, ptr %args, i64 %n, i64 %grain) {
  call void %fn(ptr %args, i64 0, i64 %n)
  ret void
}
"""


def recorder_text(system: str = sys.platform, machine: str | None = None) -> str:
    """The recorder's LLVM IR for a system and machine, as ``sys.platform`` and ``platform.machine()`` name them."""
    machine = (machine or platform.machine()).lower()
    family = {"x86_64": "x86", "amd64": "x86", "aarch64": "aarch64", "arm64": "aarch64"}.get(machine, "other")
    declare_clock, clock = _CLOCKS[family]
    declare_thread, thread = _NO_THREAD if system == "win32" else _THREAD
    text = _TEXT.format(
        declarations=f"{declare_clock}\n{declare_thread}",
        clock=clock.replace("{monotonic}", "6" if system == "darwin" else "1"),
        thread=thread,
        row_words=ROW,
        event_words=EVENT,
    )
    if system == "win32":
        text = text.replace("declare void @graphc_parallel(ptr, ptr, ptr, i64, i64)", _SERIAL)
    return text


@functools.cache
def _library() -> Library:
    symbols = {} if sys.platform == "win32" else {"graphc_parallel": parallel_address()}
    return runtime_library(recorder_text(), ["graphc_tick", "graphc_mark", "graphc_parallel_timed"], symbols)


def recorder_address(name: str) -> int:
    """The address of ``graphc_mark`` or ``graphc_parallel_timed``."""
    return _library()[name]


def _tick() -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(_library()["graphc_tick"])())


@dataclass(frozen=True)
class Event:
    """One interval, in seconds from the first: a launch on the caller's thread, or a range of its parallel loop."""

    launch: int
    begin: float
    end: float
    thread: int
    is_range: bool


@dataclass(frozen=True)
class Recording:
    """What profiled runs gave.

    Attributes:
        rows: i64[runs, launches, ROW] in ticks. tick: seconds. events: the first intervals. threads: of the pool.
    """

    rows: np.ndarray
    tick: float
    events: tuple[Event, ...]
    threads: int

    def seconds(self) -> np.ndarray:
        """Median time of each launch in a run, f64[launches]."""
        return np.asarray(np.median(self.rows[:, :, 0], axis=0) * self.tick)

    def runs(self) -> np.ndarray:
        """How often each launch ran in one run of the program (a launch in a loop: once an iteration)."""
        return np.asarray(self.rows[-1, :, 1])

    def busy_threads(self) -> np.ndarray:
        """Threads at work on average while a launch runs: 1 for a serial one, at most the pool's for a parallel one."""
        wall, _, parallel, busy, _ = np.moveaxis(self.rows.sum(axis=0), 1, 0)
        return np.asarray((wall - parallel + busy) / np.maximum(wall, 1))


class Recorder:
    """The log of one program's runs.

    Args:
        launches: how many the program has. events: how many intervals to keep. pool: the pool that it runs on.

    Attributes:
        address: what the program takes as its pool.
    """

    def __init__(self, launches: int, events: int, pool: int) -> None:
        self._rows = np.zeros((max(launches, 1), ROW), np.int64)
        self._events = np.zeros((max(events, 1), EVENT), np.int64)
        self._log = np.array(
            [pool, 0, -1, self._rows.ctypes.data, self._events.ctypes.data, max(events, 0), 0], np.int64
        )
        self._launches = launches
        self._start = (perf_counter(), _tick())
        self.address = self._log.ctypes.data

    def seconds_a_tick(self) -> float:
        """Measured from the recorder's making until now (at least a millisecond)."""
        while True:
            now, tick = perf_counter(), _tick()
            if now - self._start[0] > 1e-3:
                return (now - self._start[0]) / max(tick - self._start[1], 1)

    def take(self) -> np.ndarray:
        """The rows since the last call, i64[launches, ROW] in ticks, set back to zero."""
        rows = self._rows[: self._launches].copy()
        self._rows[:] = 0
        return rows

    def events(self, seconds_a_tick: float) -> list[Event]:
        """The intervals kept, in order of their beginning; thread 0 is the caller's, others are numbered as they appear."""
        kept = self._events[: min(int(self._log[6]), len(self._events))]
        kept = kept[np.argsort(kept[:, 1], kind="stable")]
        if not len(kept):
            return []
        callers = kept[kept[:, 0] >= 0, 3]
        threads = {int(callers[0]) if len(callers) else int(kept[0, 3]): 0}
        zero = int(kept[0, 1])
        found = []
        for name, begin, end, thread in kept.tolist():
            number = threads.setdefault(thread, len(threads))
            launch = name if name >= 0 else -1 - name
            found.append(
                Event(launch, (begin - zero) * seconds_a_tick, (end - zero) * seconds_a_tick, number, name < 0)
            )
        return found

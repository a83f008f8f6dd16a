"""The thread pool that compiled code calls: fork-join in well under a microsecond while it is hot.

What enters: a number of threads. What leaves: a pool's address and the address of ``graphc_parallel``::

    void graphc_parallel(ptr pool, ptr fn, ptr args, i64 n, i64 grain)    calls fn(args, begin, end) over [0, n)

[0, n) is cut into at most as many balanced contiguous ranges as there are threads, each of at least ``grain``
iterations. The cut depends on n, grain and the number of threads alone; who runs a range does not matter to a loop of
independent iterations, so results are the same in every run.

How. One 64-bit word holds (call number, ranges); a cell for each range holds twice the call's number while the range
is open and one more once it is claimed, by compare and swap. So a worker that wakes late can never take a range of a
call that is over, and a worker that never wakes (a busy machine, a forked child) costs speed and never a hang: the
caller runs what nobody has claimed and waits only for ranges in progress. Each thread tries its own range first, so
that successive loops find their data in the cache of the same core. Whoever waits spins for a bounded time, then
sleeps (futex on Linux, a condition variable elsewhere). A second thread that calls meanwhile runs its ranges itself,
and so does a nested call. Workers start with the first call, block every signal, and are made anew in a forked child.

Invariant: neither a pool's memory nor this code is ever freed, so the process may exit at any moment.

>>> ThreadPool.get(2) is ThreadPool.get(2), ThreadPool.get(1).address
(True, 0)
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import ClassVar

from graphc.errors import AttributeRuleError
from graphc.parallelism import available_cpus
from graphc.targets.cpu.jit import Library
from graphc.targets.cpu.runtime import made_once, runtime_library

__all__ = ["ThreadPool", "available_cpus", "parallel_address", "runtime_text"]

MAX_THREADS = 1024
_SPIN = 2000  # pauses: about 50 microseconds
_SPIN_CROWDED = 20  # more threads than CPUs: the one waited for may need this CPU
_BYTES = 768  # and one 64-bit cell a thread

# The fields of a pool and their byte offsets; those that different threads write lie on cache lines of their own.
_FIELDS = {
    "word": 0, "epoch": 64, "done": 128, "waiting": 132, "sleepers": 192, "fn": 256, "args": 264, "n": 272,
    "lock": 320, "started": 384, "threads": 388, "spin": 392, "tickets": 396, "mutex": 512, "condition": 640, "cells": 768,
}  # fmt: skip

_SYSTEM_FUTEX = """
declare i64 @syscall(i64, ...)
define internal void @sleep(ptr %pool, ptr %cell, i32 %expected) {{
  %r = call i64 (i64, ...) @syscall(i64 {futex}, ptr %cell, i32 128, i32 %expected, ptr null, ptr null, i32 0)
  ret void
}}
define internal void @wake(ptr %pool, ptr %cell, i32 %count) {{
  %r = call i64 (i64, ...) @syscall(i64 {futex}, ptr %cell, i32 129, i32 %count, ptr null, ptr null, i32 0)
  ret void
}}
define internal void @prepare(ptr %pool) {{
  ret void
}}
"""

# The same contract as a futex: sleep only while the cell still has the expected value; may wake for no reason.
_SYSTEM_CONDITION = """
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
define internal void @sleep(ptr %pool, ptr %cell, i32 %expected) {{
  %mutex = getelementptr i8, ptr %pool, i64 {mutex}
  %condition = getelementptr i8, ptr %pool, i64 {condition}
  %r1 = call i32 @pthread_mutex_lock(ptr %mutex)
  %now = load atomic i32, ptr %cell seq_cst, align 4
  %same = icmp eq i32 %now, %expected
  br i1 %same, label %wait, label %leave
wait:
  %r2 = call i32 @pthread_cond_wait(ptr %condition, ptr %mutex)
  br label %leave
leave:
  %r3 = call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}}
define internal void @wake(ptr %pool, ptr %cell, i32 %count) {{
  %mutex = getelementptr i8, ptr %pool, i64 {mutex}
  %condition = getelementptr i8, ptr %pool, i64 {condition}
  %r1 = call i32 @pthread_mutex_lock(ptr %mutex)
  %r2 = call i32 @pthread_cond_broadcast(ptr %condition)
  %r3 = call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}}
define internal void @prepare(ptr %pool) {{
  %mutex = getelementptr i8, ptr %pool, i64 {mutex}
  %condition = getelementptr i8, ptr %pool, i64 {condition}
  %r1 = call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  %r2 = call i32 @pthread_cond_init(ptr %condition, ptr null)
  ret void
}}
"""

_PAUSE = {
    "x86": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.isb(i32)", "call void @llvm.aarch64.isb(i32 15)"),
    "other": ("declare i32 @sched_yield()", "%r = call i32 @sched_yield()"),
}

_POOL = """
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i32 @sigdelset(ptr, i32)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare i64 @llvm.smax.i64(i64, i64)
declare i64 @llvm.smin.i64(i64, i64)

; Set up the memory of a pool, also that of a pool whose workers were lost in a fork.
define void @graphc_pool_init(ptr %pool, i32 %threads, i32 %spin) {{
  call void @llvm.memset.p0.i64(ptr align 64 %pool, i8 0, i64 {bytes}, i1 false)
  %cells = getelementptr i8, ptr %pool, i64 {cells}
  %many = zext i32 %threads to i64
  %size = shl i64 %many, 3
  call void @llvm.memset.p0.i64(ptr align 8 %cells, i8 0, i64 %size, i1 false)
  %threads.p = getelementptr i8, ptr %pool, i64 {threads}
  %spin.p = getelementptr i8, ptr %pool, i64 {spin}
  store i32 %threads, ptr %threads.p, align 4
  store i32 %spin, ptr %spin.p, align 4
  call void @prepare(ptr %pool)
  ret void
}}

; Range i of parts: n/parts iterations, the first n%parts ranges one more.
define internal void @range(ptr %fn, ptr %args, i64 %n, i64 %parts, i64 %i) {{
  %each = udiv i64 %n, %parts
  %rest = urem i64 %n, %parts
  %extra = call i64 @llvm.smin.i64(i64 %i, i64 %rest)
  %base = mul i64 %i, %each
  %begin = add i64 %base, %extra
  %longer = icmp ult i64 %i, %rest
  %one = zext i1 %longer to i64
  %size = add i64 %each, %one
  %end = add i64 %begin, %size
  call void %fn(ptr %args, i64 %begin, i64 %end)
  ret void
}}

; Claim and run ranges of the call that %word announces, from range %id on, until none is open. The call's fields are
; read after a claim: they stand still from then until the claimed range is reported done.
define internal void @work(ptr %pool, i64 %word, i64 %id) {{
entry:
  %done.p = getelementptr i8, ptr %pool, i64 {done}
  %waiting.p = getelementptr i8, ptr %pool, i64 {waiting}
  %fn.p = getelementptr i8, ptr %pool, i64 {fn}
  %args.p = getelementptr i8, ptr %pool, i64 {args}
  %n.p = getelementptr i8, ptr %pool, i64 {n}
  %cells = getelementptr i8, ptr %pool, i64 {cells}
  %call = lshr i64 %word, 32
  %open = shl i64 %call, 1
  %claimed = or i64 %open, 1
  %parts = and i64 %word, 4294967295
  %all = trunc i64 %parts to i32
  %beyond = icmp uge i64 %id, %parts
  %start = select i1 %beyond, i64 0, i64 %id
  br label %loop
loop:
  %k = phi i64 [ 0, %entry ], [ %k1, %next ]
  %i = phi i64 [ %start, %entry ], [ %i2, %next ]
  %more = icmp ult i64 %k, %parts
  br i1 %more, label %look, label %leave
look:
  %cell = getelementptr i64, ptr %cells, i64 %i
  %state = load atomic i64, ptr %cell monotonic, align 8
  %free = icmp eq i64 %state, %open
  br i1 %free, label %claim, label %next
claim:
  %swap = cmpxchg ptr %cell, i64 %open, i64 %claimed acq_rel monotonic, align 8
  %ok = extractvalue {{ i64, i1 }} %swap, 1
  br i1 %ok, label %run, label %next
run:
  %fn = load ptr, ptr %fn.p, align 8
  %args = load ptr, ptr %args.p, align 8
  %n = load i64, ptr %n.p, align 8
  call void @range(ptr %fn, ptr %args, i64 %n, i64 %parts, i64 %i)
  %before = atomicrmw add ptr %done.p, i32 1 seq_cst
  %after = add i32 %before, 1
  %last = icmp eq i32 %after, %all
  br i1 %last, label %report, label %next
report:
  %waiting = load atomic i32, ptr %waiting.p seq_cst, align 4
  %someone = icmp ne i32 %waiting, 0
  br i1 %someone, label %notify, label %leave
notify:
  call void @wake(ptr %pool, ptr %done.p, i32 1)
  br label %leave
next:
  %k1 = add i64 %k, 1
  %i1 = add i64 %i, 1
  %wrap = icmp eq i64 %i1, %parts
  %i2 = select i1 %wrap, i64 0, i64 %i1
  br label %loop
leave:
  ret void
}}

define internal ptr @worker(ptr %pool) {{
entry:
  %set = alloca [256 x i8], align 16
  %r0 = call i32 @sigfillset(ptr %set)
  {keep_faults}
  %r1 = call i32 @pthread_sigmask(i32 {sig_setmask}, ptr %set, ptr null)
  %epoch.p = getelementptr i8, ptr %pool, i64 {epoch}
  %sleepers.p = getelementptr i8, ptr %pool, i64 {sleepers}
  %spin.p = getelementptr i8, ptr %pool, i64 {spin}
  %tickets.p = getelementptr i8, ptr %pool, i64 {tickets}
  %limit = load i32, ptr %spin.p, align 4
  %ticket = atomicrmw add ptr %tickets.p, i32 1 monotonic
  %mine = add i32 %ticket, 1                ; the caller is thread 0
  %id = zext i32 %mine to i64
  br label %outer
outer:                ; %seen is the last word whose ranges were looked through
  %seen = phi i64 [ 0, %entry ], [ %word, %work ], [ %seen, %awake ]
  br label %spin
spin:
  %k = phi i32 [ 0, %outer ], [ %k1, %again ]
  %word = load atomic i64, ptr %pool acquire, align 8
  %same = icmp eq i64 %word, %seen
  br i1 %same, label %again, label %work
work:
  call void @work(ptr %pool, i64 %word, i64 %id)
  br label %outer
again:
  call void @pause()
  %k1 = add i32 %k, 1
  %hot = icmp ult i32 %k1, %limit
  br i1 %hot, label %spin, label %tired
tired:                ; either the caller sees a sleeper, or this thread sees the caller's new word
  %epoch = load atomic i32, ptr %epoch.p seq_cst, align 4
  %s0 = atomicrmw add ptr %sleepers.p, i32 1 seq_cst
  %word2 = load atomic i64, ptr %pool seq_cst, align 8
  %still = icmp eq i64 %word2, %seen
  br i1 %still, label %asleep, label %awake
asleep:
  call void @sleep(ptr %pool, ptr %epoch.p, i32 %epoch)
  br label %awake
awake:
  %s1 = atomicrmw sub ptr %sleepers.p, i32 1 seq_cst
  br label %outer
}}

; Workers for all threads but the caller's. Where one cannot be made, the others do its share.
define internal void @start(ptr %pool, i32 %threads) {{
entry:
  %thread = alloca ptr, align 8
  br label %loop
loop:
  %i = phi i32 [ 1, %entry ], [ %i1, %next ]
  %any = icmp slt i32 %i, %threads
  br i1 %any, label %make, label %leave
make:
  %rc = call i32 @pthread_create(ptr %thread, ptr null, ptr @worker, ptr %pool)
  %fine = icmp eq i32 %rc, 0
  br i1 %fine, label %release, label %leave
release:
  %t = load ptr, ptr %thread, align 8
  %r = call i32 @pthread_detach(ptr %t)
  br label %next
next:
  %i1 = add i32 %i, 1
  br label %loop
leave:
  ret void
}}

define void @graphc_parallel(ptr %pool, ptr %fn, ptr %args, i64 %n, i64 %grain) {{
entry:
  %empty = icmp sle i64 %n, 0
  br i1 %empty, label %leave, label %nonempty
nonempty:
  %nopool = icmp eq ptr %pool, null
  br i1 %nopool, label %whole, label %size
size:
  %threads.p = getelementptr i8, ptr %pool, i64 {threads}
  %threads = load i32, ptr %threads.p, align 4
  %most = zext i32 %threads to i64
  %least = call i64 @llvm.smax.i64(i64 %grain, i64 1)
  %pieces = sdiv i64 %n, %least
  %fit = call i64 @llvm.smin.i64(i64 %pieces, i64 %most)
  %parts = call i64 @llvm.smax.i64(i64 %fit, i64 1)
  %single = icmp eq i64 %parts, 1
  br i1 %single, label %whole, label %enter
whole:
  call void %fn(ptr %args, i64 0, i64 %n)
  br label %leave
enter:
  %lock.p = getelementptr i8, ptr %pool, i64 {lock}
  %swap = cmpxchg ptr %lock.p, i32 0, i32 1 acquire monotonic, align 4
  %mine = extractvalue {{ i32, i1 }} %swap, 1
  br i1 %mine, label %locked, label %serial
serial:               ; the same ranges, one after the other
  %i = phi i64 [ 0, %enter ], [ %i1, %serial ]
  call void @range(ptr %fn, ptr %args, i64 %n, i64 %parts, i64 %i)
  %i1 = add i64 %i, 1
  %rest = icmp ult i64 %i1, %parts
  br i1 %rest, label %serial, label %leave
locked:
  %started.p = getelementptr i8, ptr %pool, i64 {started}
  %started = load i32, ptr %started.p, align 4
  %cold = icmp eq i32 %started, 0
  br i1 %cold, label %begin, label %publish
begin:
  store i32 1, ptr %started.p, align 4
  call void @start(ptr %pool, i32 %threads)
  br label %publish
publish:
  %fn.p = getelementptr i8, ptr %pool, i64 {fn}
  %args.p = getelementptr i8, ptr %pool, i64 {args}
  %n.p = getelementptr i8, ptr %pool, i64 {n}
  %done.p = getelementptr i8, ptr %pool, i64 {done}
  %waiting.p = getelementptr i8, ptr %pool, i64 {waiting}
  %epoch.p = getelementptr i8, ptr %pool, i64 {epoch}
  %sleepers.p = getelementptr i8, ptr %pool, i64 {sleepers}
  %spin.p = getelementptr i8, ptr %pool, i64 {spin}
  store ptr %fn, ptr %fn.p, align 8
  store ptr %args, ptr %args.p, align 8
  store i64 %n, ptr %n.p, align 8
  store atomic i32 0, ptr %done.p monotonic, align 4
  store atomic i32 0, ptr %waiting.p monotonic, align 4
  %old = load atomic i64, ptr %pool monotonic, align 8
  %call = lshr i64 %old, 32
  %call1 = add i64 %call, 1
  %high = shl i64 %call1, 32
  %word = or i64 %high, %parts
  %number = lshr i64 %high, 32
  %open = shl i64 %number, 1
  %cells = getelementptr i8, ptr %pool, i64 {cells}
  br label %opening
opening:
  %c = phi i64 [ 0, %publish ], [ %c1, %opening ]
  %cell = getelementptr i64, ptr %cells, i64 %c
  store atomic i64 %open, ptr %cell release, align 8
  %c1 = add i64 %c, 1
  %closed = icmp ult i64 %c1, %parts
  br i1 %closed, label %opening, label %announce
announce:
  store atomic i64 %word, ptr %pool seq_cst, align 8
  %e = atomicrmw add ptr %epoch.p, i32 1 seq_cst
  %sleepers = load atomic i32, ptr %sleepers.p seq_cst, align 4
  %rouse = icmp ne i32 %sleepers, 0
  br i1 %rouse, label %call_them, label %mywork
call_them:
  %parts32 = trunc i64 %parts to i32
  %helpers = sub i32 %parts32, 1
  call void @wake(ptr %pool, ptr %epoch.p, i32 %helpers)
  br label %mywork
mywork:
  call void @work(ptr %pool, i64 %word, i64 0)
  %limit = load i32, ptr %spin.p, align 4
  %all = trunc i64 %parts to i32
  br label %join
join:
  %k = phi i32 [ 0, %mywork ], [ %k1, %join_again ]
  %d = load atomic i32, ptr %done.p acquire, align 4
  %finished = icmp eq i32 %d, %all
  br i1 %finished, label %unlock, label %join_again
join_again:
  call void @pause()
  %k1 = add i32 %k, 1
  %hot = icmp ult i32 %k1, %limit
  br i1 %hot, label %join, label %doze
doze:
  store atomic i32 1, ptr %waiting.p seq_cst, align 4
  %d2 = load atomic i32, ptr %done.p seq_cst, align 4
  %finished2 = icmp eq i32 %d2, %all
  br i1 %finished2, label %unlock, label %nap
nap:
  call void @sleep(ptr %pool, ptr %done.p, i32 %d2)
  br label %doze
unlock:
  store atomic i32 0, ptr %lock.p release, align 4
  br label %leave
leave:
  ret void
}}
"""


def runtime_text(system: str = sys.platform, machine: str | None = None, *, futex: bool | None = None) -> str:
    """The pool's LLVM IR.

    Args:
        system: as ``sys.platform`` names it.
        machine: as ``platform.machine()`` names it.
        futex: sleep on futexes (Linux on x86-64 and AArch64 unless said) or on condition variables.
    """
    machine = (machine or platform.machine()).lower()
    family = {"x86_64": "x86", "amd64": "x86", "aarch64": "aarch64", "arm64": "aarch64"}.get(machine, "other")
    number = {"x86": 202, "aarch64": 98}.get(family) if system.startswith("linux") else None
    sleeping = _SYSTEM_FUTEX if number is not None and futex is not False else _SYSTEM_CONDITION
    faults = (11, 8, 4, 10 if system == "darwin" else 7)  # SEGV, FPE, ILL, BUS go to the thread that caused them
    keep = "\n  ".join(f"%f{s} = call i32 @sigdelset(ptr %set, i32 {s})" for s in faults)
    values: dict[str, object] = {**_FIELDS, "bytes": _BYTES, "futex": number, "keep_faults": keep}
    values["sig_setmask"] = 2 if system.startswith("linux") else 3
    declaration, pause = _PAUSE[family]
    head = f"{declaration}\ndefine internal void @pause() {{\n  {pause}\n  ret void\n}}\n"
    return head + (sleeping + _POOL).format(**values)


@made_once
def _runtime(futex: bool | None = None) -> Library:
    return runtime_library(runtime_text(futex=futex), ["graphc_parallel", "graphc_pool_init"])


def parallel_address(*, futex: bool | None = None) -> int:
    """The address of ``graphc_parallel``; 0 on Windows, which has no POSIX threads (programs then run on one thread)."""
    return 0 if sys.platform == "win32" else _runtime(futex)["graphc_parallel"]


class ThreadPool:
    """A pool of ``threads`` threads, the caller's among them; made by :meth:`get`, kept for ever.

    Attributes:
        threads: how many.
        address: what compiled code takes as ``pool``; 0 stands for no pool (one thread).
    """

    _pools: ClassVar[dict[tuple[int, bool | None], ThreadPool]] = {}

    def __init__(self, threads: int, futex: bool | None = None) -> None:
        self.threads = threads
        self.address = 0
        self._futex = futex
        if threads == 1 or sys.platform == "win32":
            return
        memory = ctypes.create_string_buffer(_BYTES + 8 * threads + 64)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))  # workers outlive the interpreter
        self.address = (ctypes.addressof(memory) + 63) & ~63
        self.reset()

    @classmethod
    def get(cls, threads: int | None = None, *, futex: bool | None = None) -> ThreadPool:
        """The process's pool of so many threads (all CPUs that the process may use, if None).

        Raises:
            AttributeRuleError: not between 1 and 1,024.
        """
        threads = min(available_cpus(), MAX_THREADS) if threads is None else threads
        if not 1 <= threads <= MAX_THREADS:
            raise AttributeRuleError(f"a pool has 1 to {MAX_THREADS} threads, got {threads}")
        key = (threads, futex)
        pool = cls._pools.get(key)
        # setdefault: of two threads that make the same pool at once, both use the first one's.
        return pool if pool is not None else cls._pools.setdefault(key, cls(threads, futex))

    def reset(self) -> None:
        """Forget the workers; for memory that is new, or a child process in which they do not exist."""
        if self.address:
            spin = _SPIN if self.threads <= available_cpus() else _SPIN_CROWDED
            prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)
            prototype(_runtime(self._futex)["graphc_pool_init"])(self.address, self.threads, spin)


def _after_fork_in_child() -> None:
    for pool in ThreadPool._pools.values():
        pool.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

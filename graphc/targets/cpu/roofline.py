"""What this machine can do at best: measured multiply-adds and bytes a second, so that a kernel's share of them can be said.

What enters: a number of threads. What leaves: a :class:`Roofline`. Invariants: figures are measured with code of the same
vector width that programs are compiled for, are the best of several short runs, and are kept on disk with the name of the CPU.

Source: Williams, Waterman, Patterson, Roofline: An Insightful Visual Performance Model (2009). Beside the memory's
bandwidth stand those of the caches, because the kernels of small models never leave them.

>>> roof = Roofline("a CPU", 1, 100e9, ((32768, 200e9), (1 << 30, 10e9)))
>>> roof.seconds(flops=100e9, bytes=1), roof.seconds(flops=1, bytes=40e9)
(1.0, 4.0)
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from graphc.targets.cpu.host import VectorTarget, vector_target
from graphc.targets.cpu.jit import Library, emit_object, llvm_version, load_object
from graphc.targets.cpu.object_cache import cache_key, default_directory
from graphc.targets.cpu.threads import ThreadPool, available_cpus, parallel_address

__all__ = ["Roofline", "measure_roofline", "roofline"]

_LEVELS = (16 << 10, 128 << 10, 2 << 20, 128 << 20)  # bytes a thread: first, second, third cache, memory
_VERSION = 1
_CHAINS = 10  # multiply-adds in flight: latency 4 times 2 units, and some


@dataclass(frozen=True)
class Roofline:
    """Peaks of a machine.

    Attributes:
        cpu: its name. threads: how many ran at once.
        flops: float32 operations a second, all threads together (a multiply-add is two).
        bandwidths: (bytes of the working set, bytes a second read), smallest first.
    """

    cpu: str
    threads: int
    flops: float
    bandwidths: tuple[tuple[int, float], ...]

    def bandwidth(self, size: float) -> float:
        """Bytes a second for a working set of ``size`` bytes: that of the smallest measured set that holds it."""
        for limit, rate in self.bandwidths:
            if size <= limit:
                return rate
        return self.bandwidths[-1][1]

    def seconds(self, flops: float, bytes: float, itemsize: int = 4) -> float:
        """The least time for so many operations and bytes: whichever of the two limits binds."""
        return max(flops * (itemsize / 4) / self.flops, bytes / self.bandwidth(bytes))

    def table(self) -> str:
        """The figures as text."""
        rows = [
            f"{self.cpu}, {self.threads} thread{'s' * (self.threads > 1)}: {self.flops / 1e9:.0f} GFLOP/s (float32)"
        ]
        rows += [f"  read, up to {size >> 10} KiB: {rate / 1e9:.1f} GB/s" for size, rate in self.bandwidths]
        return "\n".join(rows)


def roofline(threads: int | None = None, *, refresh: bool = False) -> Roofline:
    """The machine's roofline, measured once (about a second) and then read from graphc's cache directory.

    Args:
        threads: how many threads run at once (all CPUs of the process unless said).
        refresh: measure again, for instance because the machine was busy.

    Raises:
        AttributeRuleError: not between 1 and 1,024 threads.
    """
    threads = available_cpus() if threads is None else threads
    path = _path(threads)
    if path is not None and not refresh:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            pairs = tuple((int(size), float(rate)) for size, rate in kept["bandwidths"])
            if kept["flops"] > 0 and pairs:
                return Roofline(str(kept["cpu"]), int(kept["threads"]), float(kept["flops"]), pairs)
    made = measure_roofline(threads)
    if path is not None:
        with contextlib.suppress(OSError):  # the figures are good without being kept
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=".json.tmp")
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(asdict(made), file)
            os.replace(name, path)
    return made


def _path(threads: int) -> Path | None:
    directory = default_directory()
    if directory is None:
        return None
    target = vector_target()
    key = cache_key("roofline", str(_VERSION), cpu_name(), target.features, str(threads), llvm_version())
    return directory / f"roofline-{key[:16]}.json"


@functools.cache
def cpu_name() -> str:
    """The CPU's name as the system gives it, else LLVM's."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return vector_target().cpu


def measure_roofline(threads: int = 1) -> Roofline:
    """Measure now; takes about a second and ``threads`` times 128 MiB."""
    target = vector_target()
    symbols = {"graphc_parallel": parallel_address()} if threads > 1 else {}
    code = load_object(emit_object(_text(target, threads), target), ["peak", "stream"], symbols)
    pool = ThreadPool.get(threads)
    flops = _best(lambda: _peak(code, pool, target))
    data = np.ones(_LEVELS[-1] // 4 * threads, np.float32)
    rates = []
    for size in _LEVELS:
        rates.append((size * threads, _best(lambda size=size: _stream(code, pool, data, size))))
    return Roofline(cpu_name(), threads, flops, tuple(rates))


def _best(run: object, seconds: float = 0.15) -> float:
    """The best rate of runs that together take ``seconds``."""
    best, start = 0.0, perf_counter()
    while perf_counter() - start < seconds:
        best = max(best, run())  # type: ignore[operator]
    return best


def _call(code: Library, name: str, *numbers: int) -> float:
    function = ctypes.CFUNCTYPE(None, *([ctypes.c_int64] * len(numbers)))(code[name])
    start = perf_counter()
    function(*numbers)
    return perf_counter() - start


def _peak(code: Library, pool: ThreadPool, target: VectorTarget) -> float:
    rounds = 100_000
    sink = np.zeros(1024 * pool.threads, np.float32)
    taken = _call(code, "peak", pool.address, sink.ctypes.data, pool.threads, rounds, 0)
    return rounds * _CHAINS * target.lanes("f32") * 2 * pool.threads / taken


def _stream(code: Library, pool: ThreadPool, data: np.ndarray, size: int) -> float:
    times = max(1, (64 << 20) // size)
    sink = np.zeros(1024 * pool.threads, np.float32)
    taken = _call(code, "stream", pool.address, sink.ctypes.data, pool.threads, times, data.ctypes.data, size)
    return times * size * pool.threads / taken


_DISPATCH = """
define void @{name}(ptr %pool, ptr %sink, i64 %threads, i64 %times, i64 %data{more}) {{
  %args = alloca [4 x i64], align 16
  %s = ptrtoint ptr %sink to i64
  %a1 = getelementptr i64, ptr %args, i64 1
  %a2 = getelementptr i64, ptr %args, i64 2
  %a3 = getelementptr i64, ptr %args, i64 3
  store i64 %s, ptr %args
  store i64 %times, ptr %a1
  store i64 %data, ptr %a2
  store i64 {size}, ptr %a3
  {call}
  ret void
}}
"""
_BODY = """
define internal void @{name}_body(ptr %args, i64 %begin, i64 %end) {{
entry:
  %a1 = getelementptr i64, ptr %args, i64 1
  %a2 = getelementptr i64, ptr %args, i64 2
  %a3 = getelementptr i64, ptr %args, i64 3
  %sink = load ptr, ptr %args
  %times = load i64, ptr %a1
  %data = load ptr, ptr %a2
  %size = load i64, ptr %a3
  br label %each
each:
  %i = phi i64 [ %begin, %entry ], [ %i1, %after ]
  %skip = mul i64 %i, %size
  %own = getelementptr i8, ptr %data, i64 %skip
  %slot = mul i64 %i, 1024
  %out = getelementptr float, ptr %sink, i64 %slot
  br label %again
again:
  %t = phi i64 [ 0, %each ], [ %t1, %rest ]
{inner}
rest:
  %t1 = add i64 %t, 1
  %more = icmp slt i64 %t1, %times
  br i1 %more, label %again, label %after
after:
{stores}
  %i1 = add i64 %i, 1
  %last = icmp slt i64 %i1, %end
  br i1 %last, label %each, label %leave
leave:
  ret void
}}
"""


def _text(target: VectorTarget, threads: int) -> str:
    """``peak``: independent chains of multiply-adds in registers. ``stream``: sums over a block, several at once."""
    lanes = target.lanes("f32")
    vector = f"<{lanes} x float>"
    fused = f"llvm.fma.v{lanes}f32"
    chains = range(_CHAINS)
    phis = "".join(f"  %x{c} = phi {vector} [ zeroinitializer, %each ], [ %y{c}, %rest ]\n" for c in chains)
    if target.fused:
        work = "".join(
            f"  %y{c} = call {vector} @{fused}({vector} %x{c}, {vector} splat (float 0.5), {vector} splat (float 1.0))\n"
            for c in chains
        )
    else:
        work = "".join(
            f"  %m{c} = fmul {vector} %x{c}, splat (float 0.5)\n  %y{c} = fadd {vector} %m{c}, splat (float 1.0)\n"
            for c in chains
        )
    stores = "".join(
        f"  %o{c} = getelementptr {vector}, ptr %out, i64 {c}\n  store {vector} %y{c}, ptr %o{c}, align 4\n"
        for c in chains
    )
    peak = _BODY.format(name="peak", inner=phis + work + "  br label %rest", stores=stores)
    step = lanes * 4 * 8
    sums = "".join(f"  %z{c} = phi {vector} [ zeroinitializer, %again ], [ %w{c}, %walk ]\n" for c in range(8))
    reads = "".join(
        f"  %p{c} = getelementptr {vector}, ptr %at, i64 {c}\n  %v{c} = load {vector}, ptr %p{c}, align 4\n"
        f"  %w{c} = fadd {vector} %z{c}, %v{c}\n"
        for c in range(8)
    )
    walk = (
        f"  br label %walk\nwalk:\n  %k = phi i64 [ 0, %again ], [ %k1, %walk ]\n{sums}"
        f"  %at = getelementptr i8, ptr %own, i64 %k\n{reads}"
        f"  %k1 = add i64 %k, {step}\n  %on = icmp slt i64 %k1, %size\n  br i1 %on, label %walk, label %rest"
    )
    kept = "".join(
        f"  %o{c} = getelementptr {vector}, ptr %out, i64 {c}\n  store {vector} %w{c}, ptr %o{c}, align 4\n"
        for c in range(8)
    )
    stream = _BODY.format(name="stream", inner=walk, stores=kept)
    head = f"declare {vector} @{fused}({vector}, {vector}, {vector})\n" if target.fused else ""
    head += "declare void @graphc_parallel(ptr, ptr, ptr, i64, i64)\n" if threads > 1 else ""
    dispatch = ""
    for name in ("peak", "stream"):
        call = (
            f"call void @graphc_parallel(ptr %pool, ptr @{name}_body, ptr %args, i64 %threads, i64 1)"
            if threads > 1
            else f"call void @{name}_body(ptr %args, i64 0, i64 %threads)"
        )
        more, size = (", i64 %size", "%size") if name == "stream" else ("", "0")
        dispatch += _DISPATCH.format(name=name, call=call, more=more, size=size)
    return head + peak + stream + dispatch

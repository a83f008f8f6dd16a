"""A worker: one executor in a process of its own, told what to do over a pipe, a line of JSON each way.

What enters: ``load``, ``make``, ``check``, ``burst``, ``explain``, ``reference``. What leaves: a line with "ok", or with "error" and
its "kind". Invariant: nothing but the protocol is written to the pipe (what libraries print goes to the log), and a worker whose
parent has gone ends. ::

    {"do": "burst", "seconds": 0.05}  ->  {"ok": true, "seconds": 0.0021, "calls": 24}
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

from bench.executors import Executor, Runner, Unavailable
from bench.workload import Arrays, Workload

MEGABYTE = 1 << 20


def limit_processors(threads: int) -> None:
    """Run on no more processors than threads were asked for: some executors take as many threads as they find."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[:threads])


def resident() -> float:
    """Megabytes of memory in use now."""
    return _status("VmRSS", 0.0)


def peak_resident() -> float:
    """The largest number of megabytes in use since :func:`forget_peak`, or since the start where that is not possible."""
    return _status("VmHWM", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _status(key: str, otherwise: float) -> float:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return otherwise
    found = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(found[0]) / 1024 if found else otherwise


def forget_peak() -> bool:
    """Start a new measurement of the peak (Linux); False where it cannot be."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


class Worker:
    """The state between commands."""

    def __init__(self) -> None:
        self._executor: Executor | None = None
        self._work: Workload | None = None
        self._runner: Runner | None = None
        self._first: Arrays = {}
        self._once = 0.0
        self._imports = 0.0

    def load(self, executor: dict[str, Any], threads: int) -> dict[str, Any]:
        """Import the framework."""
        limit_processors(threads)
        start = perf_counter()
        self._executor = Executor(**executor)
        version = self._executor.load()
        self._imports = resident()
        return {"version": version, "seconds": perf_counter() - start, "resident": self._imports}

    def make(self, workload: str, tiny: bool, threads: int) -> dict[str, Any]:
        """Declare, compile and make the first step; then another one, for its time and the peak of memory."""
        from bench.agreement import begin
        from bench.workloads import ENTRIES

        assert self._executor is not None
        self._runner, self._first = None, {}
        gc.collect()
        self._work = ENTRIES[workload].make(tiny)
        forget_peak()
        start = perf_counter()
        self._runner = self._executor.make(self._work, threads)
        self._first = begin(self._work, self._runner)
        first = perf_counter() - start
        compiling = peak_resident()
        forget_peak()
        self._once = self._measure(self._runner, 1)
        return {
            "first": first, "once": self._once, "compiling": compiling, "peak": peak_resident(), "imports": self._imports,
            "cache": self._cache(),
        }  # fmt: skip

    def _cache(self) -> str:
        program = getattr(self._runner, "program", None)
        executable = program.specialisations[0].executable if program is not None and program.specialisations else None
        return str(getattr(executable, "cache", ""))

    def check(self, reference: str) -> dict[str, Any]:
        """Compare with the reference; must follow ``make`` directly."""
        from bench.agreement import compare, observe, read_reference

        work, runner = self._work, self._runner
        assert work is not None and runner is not None
        found = observe(work, runner, self._first)
        self._first = {}
        errors = compare(found, read_reference(Path(reference)), work.weights)
        return {**asdict(errors), "refusal": errors.refusal(work.tolerance), "flops": work.flops}

    def burst(self, seconds: float) -> dict[str, Any]:
        """Call again and again for that long; the mean seconds of a call."""
        runner = self._runner
        assert runner is not None
        if self._once < 0.25:
            self._measure(runner, 1)  # brings its code and data back into the caches
        calls = max(1, int(seconds / max(self._once, 1e-7)))
        gc.collect()
        gc.disable()
        try:
            self._once = self._measure(runner, calls)
        finally:
            gc.enable()
        return {"seconds": self._once, "calls": calls}

    @staticmethod
    def _measure(runner: Runner, calls: int) -> float:
        start = perf_counter()
        for _ in range(calls):
            runner.run()
        return (perf_counter() - start) / calls

    def explain(self) -> dict[str, Any]:
        """What the profiler says of graphc's program."""
        from bench.explain import explain

        assert self._work is not None
        return explain(self._runner, self._work)

    def reference(self, workload: str, tiny: bool, file: str) -> dict[str, Any]:
        """Write what float64 finds."""
        from bench.agreement import write_reference
        from bench.workloads import ENTRIES

        write_reference(ENTRIES[workload].make(tiny), Path(file))
        return {}

    def commands(self) -> dict[str, Callable[..., dict[str, Any]]]:
        """What may be asked, by name."""
        names = ("load", "make", "check", "burst", "explain", "reference")
        return {name: getattr(self, name) for name in names}


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until there are no more."""
    commands = Worker().commands()
    for line in requests:
        request = json.loads(line)
        try:
            answer = {"ok": True, **commands[request.pop("do")](**request)}
        except Unavailable as error:
            answer = {"error": str(error), "kind": "unavailable"}
        except Exception as error:  # whatever an executor raises belongs in the table, not in the way of the others
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:500], "kind": "failed"}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


def main() -> None:
    """Keep the pipe to ourselves, and send what libraries print to the log."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, own)


if __name__ == "__main__":
    main()

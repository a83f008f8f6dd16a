"""``python -m bench.soak``: many steps of a workload, during which memory, threads and open files must not grow.

What enters: workloads by name and a number of steps, or any callable (:func:`soak`). What leaves: a :class:`Soak` a workload;
the command ends with status 1 if one grew. Invariant: what is measured first is measured after a warm-up, so that caches
and first uses do not count as growth. ::

    python -m bench.soak small --steps 100000
    python -m bench.soak gpt --steps 1000 --callers 2

Resident memory is compared by its medians over the first and the last third of the run: single readings jump by what the
allocator keeps for later.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from bench.executors.graphc_runner import make
from bench.workloads import select

READINGS = 30
ALLOWED = 1 << 20  # bytes that resident memory may drift: pages that the allocator or Python's caches round up to


@dataclass(frozen=True)
class Reading:
    """What the process holds: resident bytes, threads of the system, open files."""

    memory: int
    threads: int
    files: int


@dataclass(frozen=True)
class Soak:
    """Readings over a run of ``steps`` steps that took ``seconds``."""

    name: str
    steps: int
    seconds: float
    readings: tuple[Reading, ...]

    def growth(self) -> Reading:
        """What was added between the first third of the readings and the last, by medians."""
        third = max(len(self.readings) // 3, 1)
        first, last = self.readings[:third], self.readings[-third:]

        def grown(field: str) -> int:
            return int(statistics.median(getattr(r, field) for r in last)) - int(
                statistics.median(getattr(r, field) for r in first)
            )

        return Reading(grown("memory"), grown("threads"), grown("files"))

    def faults(self) -> list[str]:
        """What grew, in words; empty if nothing did."""
        grown = self.growth()
        found = [f"resident memory grew by {grown.memory / 1e6:.1f} MB"] if grown.memory > ALLOWED else []
        found += [f"{grown.threads} threads more"] if grown.threads > 0 else []
        found += [f"{grown.files} open files more"] if grown.files > 0 else []
        return found

    def line(self) -> str:
        """The run in one line."""
        last, verdict = self.readings[-1], "; ".join(self.faults()) or "nothing grew"
        return (
            f"{self.name}: {self.steps:,} steps in {self.seconds:.1f} s, {last.memory / 1e6:.0f} MB, "
            f"{last.threads} threads, {last.files} files: {verdict}"
        )


def reading() -> Reading:
    """What this process holds now (threads and files as far as the system shows them)."""
    process = Path("/proc/self")
    if not process.exists():
        import resource

        return Reading(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, threading.active_count(), 0)
    pages = int((process / "statm").read_text().split()[1])
    return Reading(
        pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(process / "task")), len(os.listdir(process / "fd"))
    )


def soak(name: str, steps: Sequence[Callable[[], object]], count: int, warm_up: int | None = None) -> Soak:
    """Run each callable ``count`` times, each on a thread of its own if there are several, and watch the process.

    Args:
        steps: what to run; several run at the same time. count: how often each.
        warm_up: how often before the first reading (a tenth of ``count`` unless said, at most 1,000).
    """
    start = perf_counter()
    for step in steps:
        for _ in range(min(max(count // 10, 1), 1000) if warm_up is None else warm_up):
            step()
    readings: list[Reading] = []
    done = 0
    for part in range(READINGS):
        wanted = count * (part + 1) // READINGS - done
        _run_together(steps, wanted)
        done += wanted
        gc.collect()
        readings.append(reading())
    return Soak(name, count, perf_counter() - start, tuple(readings))


def _run_together(steps: Sequence[Callable[[], object]], count: int) -> None:
    failures: list[BaseException] = []

    def repeat(step: Callable[[], object]) -> None:
        try:
            for _ in range(count):
                step()
        except BaseException as error:
            failures.append(error)

    if len(steps) == 1:
        for _ in range(count):
            steps[0]()
        return
    callers = [threading.Thread(target=repeat, args=(step,)) for step in steps]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    if failures:
        raise failures[0]


def command(
    workloads: Annotated[
        list[str] | None, typer.Argument(help="Workloads, as `graphc bench --list` names them [small].")
    ] = None,
    steps: Annotated[int, typer.Option(min=READINGS, help="Steps of each.")] = 100_000,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a program.")] = 2,
    callers: Annotated[int, typer.Option(min=1, help="Programs at the same time, each on its own thread.")] = 1,
    tiny: Annotated[bool, typer.Option(help="Sizes for a quick look.")] = False,
) -> None:
    """Run workloads for long and say what grew."""
    failed = False
    for entry in select(workloads or ["small"]):
        runners = [make(entry.make(tiny), threads) for _ in range(callers)]
        found = soak(entry.name, [runner.run for runner in runners], steps)
        print(found.line(), flush=True)
        failed |= bool(found.faults())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(command)

"""Measure workloads: every executor in its own process, all of them driven in turn.

What enters: entries, executors, settings. What leaves: a :class:`~bench.record.Row` a workload, as soon as it is known. Invariants: an
executor that fails, disagrees or hangs costs only itself; only one process works at a time; bursts go A B C A B C, so that a
machine whose speed drifts slows all alike.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np

from bench.executors import EXECUTORS, Executor
from bench.record import Result, Row, Status
from bench.remote import Remote, WorkerError
from bench.workload import Entry
from graphc.errors import GraphError

Tell = Callable[[str], None]
REFERENCE = Executor("reference", "bench.executors.numpy_runner")
# Only these are measured with empty caches too: the others have no cache, or the same one as graphc.
COLD = ("graphc", "torch.compile", "jax")
# A first step is measured in that many processes, and the median counts, unless one takes longer than so many seconds.
FIRSTS, CHEAP = 3, 4.0


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        rounds: bursts of each executor. burst: seconds of one. patience: seconds an executor may take for one answer.
        slow: an executor whose bursts would take longer than this makes fewer, at least three.
        pause: seconds between bursts, longer than idle threads of OpenBLAS and OpenMP spin (about 20 ms).
        cold: measure compilation with empty caches too. explain: ask graphc's profiler.
    """

    threads: int = 2
    tiny: bool = False
    rounds: int = 9
    burst: float = 0.1
    patience: float = 150.0
    slow: float = 12.0
    pause: float = 0.04
    cold: bool = True
    explain: bool = False


@dataclass
class Lane:
    """One executor during a workload."""

    executor: Executor
    worker: Remote
    version: str
    made: dict[str, Any] = field(default_factory=dict)
    check: dict[str, Any] = field(default_factory=dict)
    bursts: list[float] = field(default_factory=list)

    def result(self, cold: dict[str, Any] | None) -> Result:
        """What was measured."""
        low, median, high = (float(v) for v in np.percentile(self.bursts, [25, 50, 75]))
        taken: float | None = max(self.made["first"] - median, 0.0)
        first = None if cold is None else max(cold["first"] - median, 0.0)
        if cold is None and self.executor.caches:  # nothing had filled its cache
            first, taken = taken, None
        return Result(
            "ok", median=median, low=low, high=high, bursts=tuple(self.bursts), cold=first, warm=taken,
            peak=self.made["peak"], above=self.made["peak"] - self.made["imports"], compiling=self.made["compiling"],
            error=max(self.check["outputs"], self.check["gradients"]), worst=self.check["worst"],
            losses=tuple(self.check["losses"]), version=self.version, note=self.made["cache"],
        )  # fmt: skip


class Bench:
    """Measures one workload after the other; keeps the workers of a family between its rows.

    Use it as a context manager: its end ends all workers.
    """

    def __init__(self, executors: Sequence[Executor], settings: Settings, tell: Tell = lambda _: None) -> None:
        self.executors = tuple(executors)
        self.settings = settings
        self.tell = tell
        self._stack = contextlib.ExitStack()
        self._family: str | None = None
        self._workers: dict[str, Remote] = {}
        self._versions: dict[str, str] = {}

    def __enter__(self) -> Bench:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="graphc-bench-")))
        return self

    def __exit__(self, *_: object) -> None:
        self._end_workers()
        self._stack.close()

    @property
    def versions(self) -> dict[str, str]:
        """What was loaded so far."""
        return dict(self._versions)

    def row(self, entry: Entry, deadline: float) -> Row:
        """Measure one workload; no executor is waited for beyond the deadline (in :func:`time.monotonic`'s seconds)."""
        start = monotonic()
        if entry.family is None or entry.family != self._family:
            self._end_workers()
            self._family = entry.family
        results: dict[str, Result] = {}
        lanes: list[Lane] = []
        colds: dict[str, dict[str, Any]] = {}
        reference = self._folder / "reference.npz"
        kernels = None
        try:
            self._write_reference(entry, reference, deadline)
            for executor in self.executors:
                lane = self._prepare(entry, executor, reference, colds, deadline)
                if isinstance(lane, Result):
                    results[executor.name] = lane
                else:
                    lanes.append(lane)
            self._race(lanes, results, deadline)
            for lane in lanes:
                if lane.executor.name not in results:
                    results[lane.executor.name] = lane.result(colds.get(lane.executor.name))
            if self.settings.explain:
                kernels = self._explain(lanes)
        except WorkerError as error:
            missing = [e.name for e in self.executors if e.name not in results]
            results |= {name: Result("failed", f"the float64 reference: {error}") for name in missing}
        finally:
            if entry.family is None:
                self._end_workers()
        ordered = {e.name: results[e.name] for e in self.executors}
        flops = max((lane.check["flops"] for lane in lanes), default=0.0)
        return Row(
            entry.name, entry.title, ordered, flops, entry.goal, entry.cold, entry.warm, entry.cold_of, entry.against,
            entry.family, monotonic() - start, kernels,
        )  # fmt: skip

    # --- before the race -------------------------------------------------------------------------------------------

    def _write_reference(self, entry: Entry, file: Path, deadline: float) -> None:
        self.tell(f"{entry.name}: computing in float64")
        with self._start(REFERENCE, {}) as worker:
            worker.ask("reference", self._wait(deadline), workload=entry.name, tiny=self.settings.tiny, file=str(file))

    def _prepare(
        self, entry: Entry, executor: Executor, reference: Path, colds: dict[str, dict[str, Any]], deadline: float
    ) -> Lane | Result:
        """Compile cold, compile warm, check; the result if that is already all there is to say."""
        name = executor.name
        if name in entry.skip:
            return Result("skipped", entry.skip[name])
        if missing := executor.missing():
            return Result("unavailable", f"{missing} is not installed")
        if monotonic() > deadline:
            return Result("timeout", "no time was left")
        make = {"workload": entry.name, "tiny": self.settings.tiny, "threads": self.settings.threads}
        try:
            if self.settings.cold and name in COLD and entry.family is None:
                self.tell(f"{entry.name}: {name} compiles with an empty cache")
                colds[name] = self._first_steps(executor, make, deadline, fresh=True)
            self.tell(f"{entry.name}: {name} prepares")
            lane = self._lane(executor)
            lane.made = lane.worker.ask("make", self._wait(deadline), **make)
            if name in colds:
                lane.made = self._first_steps(executor, make, deadline, fresh=False, made=lane.made)
            self.tell(f"{entry.name}: {name} is checked against float64")
            lane.check = lane.worker.ask("check", self._wait(deadline), reference=str(reference))
        except WorkerError as error:
            self._drop(name)
            return Result(_status(error), str(error), version=self._versions.get(name, ""))
        if lane.check["refusal"]:
            losses = tuple(lane.check["losses"])
            return Result(
                "disagrees", lane.check["refusal"], losses=losses, error=lane.check["outputs"], version=lane.version
            )
        return lane

    def _first_steps(
        self, executor: Executor, make: dict[str, Any], deadline: float, *, fresh: bool, made: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """What the first of several processes says of its first step (``made`` if it has), with their median of its time."""
        firsts = [made["first"]] if made else []
        while len(firsts) < FIRSTS and (not firsts or (firsts[-1] < CHEAP and monotonic() < deadline)):
            with self._start(executor, self._caches(executor, fresh=fresh)) as worker:
                worker.load(self._wait(deadline))
                answer = worker.ask("make", self._wait(deadline), **make)
            made = made or answer
            firsts.append(answer["first"])
        assert made is not None
        return {**made, "first": float(np.median(firsts))}

    def _lane(self, executor: Executor) -> Lane:
        """The executor's worker, a new one unless its family has one already."""
        worker = self._workers.get(executor.name)
        if worker is None:
            worker = self._start(executor, self._caches(executor, fresh=False))
            self._workers[executor.name] = worker
            self._versions[executor.name] = worker.load()["version"]
        return Lane(executor, worker, self._versions[executor.name])

    def _start(self, executor: Executor, caches: dict[str, Path]) -> Remote:
        return Remote(executor, self.settings.threads, self._folder / f"{executor.name}.log".replace(" ", "_"), caches)

    def _caches(self, executor: Executor, fresh: bool) -> dict[str, Path]:
        """Folders for the executor's caches: new ones, or those that the last cold compilation has filled."""
        folders = {}
        for variable in executor.caches:
            folder = self._folder / f"{variable}-{executor.name}".replace(" ", "_")
            if fresh and folder.exists():
                folder.rename(Path(tempfile.mkdtemp(dir=self._folder)) / "old")
            folder.mkdir(exist_ok=True)
            folders[variable] = folder
        return folders

    def _drop(self, name: str) -> None:
        """A worker that died or hung is replaced when it is needed again; one that only said no goes on."""
        worker = self._workers.get(name)
        if worker is not None and not worker.alive:
            worker.close()
            del self._workers[name]

    def _end_workers(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def _wait(self, deadline: float) -> float:
        """Seconds to wait for an answer."""
        return max(1.0, min(self.settings.patience, deadline - monotonic()))

    # --- the race --------------------------------------------------------------------------------------------------

    def _race(self, lanes: Sequence[Lane], results: dict[str, Result], deadline: float) -> None:
        """Bursts in turn; who fails during them is out. Slow executors make fewer."""
        for number, lane in self._turns(lanes):
            name = lane.executor.name
            if name in results or (monotonic() > deadline and len(lane.bursts) >= 3):
                continue
            self.tell(f"timing {name}, round {number + 1} of {self.settings.rounds}")
            sleep(self.settings.pause)
            try:
                answer = lane.worker.ask("burst", self.settings.patience, seconds=self.settings.burst)
                lane.bursts.append(answer["seconds"])
            except WorkerError as error:
                self._drop(name)
                results[name] = Result(_status(error), str(error), version=lane.version)

    def _turns(self, lanes: Sequence[Lane]) -> Iterator[tuple[int, Lane]]:
        for number in range(self.settings.rounds):
            for lane in lanes:
                if number < 3 or lane.made["once"] * number < self.settings.slow:
                    yield number, lane

    def _explain(self, lanes: Sequence[Lane]) -> dict[str, Any] | None:
        for lane in lanes:
            if lane.executor.name == "graphc":
                self.tell("profiling graphc's kernels")
                try:
                    return lane.worker.ask("explain", self.settings.patience)
                except WorkerError as error:
                    return {"error": str(error)}
        return None


def _status(error: WorkerError) -> Status:
    known: dict[str, Status] = {"unavailable": "unavailable", "timeout": "timeout"}
    return known.get(error.kind, "failed")


def choose(names: Sequence[str]) -> list[Executor]:
    """Executors by name; none means all.

    Raises:
        GraphError: an unknown name.
    """
    unknown = [n for n in names if n not in EXECUTORS]
    if unknown:
        raise GraphError(f"unknown executor {unknown[0]!r}", help=f"choose from {', '.join(EXECUTORS)}")
    return [EXECUTORS[n] for n in names] if names else list(EXECUTORS.values())

"""What a benchmark found, as data: results by workload and executor, the machine, the versions; read from and written to JSON.

What enters: measurements. What leaves: a :class:`Record`; its file is replaced as a whole or not at all, so that an interrupted
run leaves the last complete one. Invariant: ``Record.read(file)`` after ``record.write(file)`` is the same record.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from bench.executors import EXECUTORS, GRAPHC
from graphc.errors import GraphError
from graphc.targets.cpu.host import vector_target
from graphc.targets.cpu.roofline import cpu_name

SCHEMA = 1
Status: TypeAlias = Literal["ok", "disagrees", "failed", "timeout", "unavailable", "skipped"]


@dataclass(frozen=True)
class Result:
    """One executor on one workload. Times are seconds of a step, memory is in MB.

    Attributes:
        status: "ok" when it was timed; else ``reason`` says why not.
        median, low, high: over bursts; the quartiles are the spread.
        cold, warm: seconds that the first step took beyond an ordinary one, with empty and with filled caches.
        peak, above: peak resident memory while stepping, and what of it is beyond the imports.
        error: worst error of outputs and gradients against float64. losses: as computed.
    """

    status: Status
    reason: str = ""
    median: float | None = None
    low: float | None = None
    high: float | None = None
    bursts: tuple[float, ...] = ()
    cold: float | None = None
    warm: float | None = None
    peak: float | None = None
    above: float | None = None
    compiling: float | None = None
    error: float | None = None
    worst: str = ""
    losses: tuple[float, ...] = ()
    version: str = ""
    note: str = ""

    @property
    def spread(self) -> str:
        """Quartiles around the median, as -x% +y%.

        >>> Result("ok", median=1.0, low=0.9, high=1.2).spread
        '-10% +20%'
        """
        if self.median is None or self.low is None or self.high is None:
            return ""
        return f"-{1 - self.low / self.median:.0%} +{self.high / self.median - 1:.0%}"


@dataclass(frozen=True)
class Row:
    """One workload on all executors."""

    name: str
    title: str
    results: Mapping[str, Result]
    flops: float = 0.0
    goal: float | None = None
    cold_goal: float | None = None
    warm_goal: float | None = None
    cold_of: tuple[str, float] | None = None
    against: str | None = None
    family: str | None = None
    seconds: float = 0.0
    kernels: Mapping[str, Any] | None = None

    def best_peer(self) -> tuple[str, float] | None:
        """The fastest peer that was timed (or the one that the goal names), and its median."""
        timed = {n: r.median for n, r in self.results.items() if r.median is not None and EXECUTORS_PEER.get(n, True)}
        if self.against is not None and self.against in timed:
            return self.against, timed[self.against]
        return min(timed.items(), key=lambda item: item[1], default=None)

    def ratio(self, executor: str = GRAPHC) -> float | None:
        """An executor's time over the best peer's."""
        best, own = self.best_peer(), self.results.get(executor)
        return own.median / best[1] if best is not None and own is not None and own.median is not None else None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is; None where there is no goal, or no ratio."""
        ratio = self.ratio()
        return None if self.goal is None or ratio is None else ratio <= self.goal


EXECUTORS_PEER = {name: executor.peer for name, executor in EXECUTORS.items()}


@dataclass(frozen=True)
class Conditions:
    """What must be equal for two rows to stand in one table."""

    threads: int
    tiny: bool
    quick: bool
    executors: tuple[str, ...]
    cpu: str
    code: str


@dataclass
class Record:
    """A run of the benchmark."""

    conditions: Conditions
    date: str = ""
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Replace the file as a whole."""
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            fresh.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")
            fresh.replace(file)
        finally:
            fresh.unlink(missing_ok=True)

    def as_json(self) -> dict[str, Any]:
        """As plain data; values that are not there are left out, the ratio is added to every row for other readers."""
        rows = {}
        for name, row in self.rows.items():
            data = dataclasses.asdict(row)
            data["results"] = {n: _present(r) for n, r in data["results"].items()}
            best = row.best_peer()
            rows[name] = {**_present(data), "best_peer": best[0] if best else None, "ratio": row.ratio()}
        conditions = dataclasses.asdict(self.conditions)
        return {
            "schema": SCHEMA, "date": self.date, "machine": self.machine, "versions": self.versions, "conditions": conditions,
            "rows": rows,
        }  # fmt: skip

    @classmethod
    def read(cls, file: Path) -> Record:
        """The record in a file.

        Raises:
            GraphError: no JSON, or of another schema.
        """
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            if data.get("schema") != SCHEMA:
                raise GraphError(f"{file} has schema {data.get('schema')!r}, not {SCHEMA}", help="run without --resume")
            conditions = Conditions(**{**data["conditions"], "executors": tuple(data["conditions"]["executors"])})
            rows = {name: _row(row) for name, row in data["rows"].items()}
            return cls(conditions, data["date"], data["machine"], data["versions"], rows)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GraphError(f"{file} is no record of this benchmark: {error}", help="run without --resume") from None


def _present(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in data.items() if v not in (None, "", ())}


def _row(data: Mapping[str, Any]) -> Row:
    given = {k: v for k, v in data.items() if k not in ("best_peer", "ratio", "results")}
    if "cold_of" in given:
        given["cold_of"] = tuple(given["cold_of"])
    results = {}
    for name, result in data["results"].items():
        sequences = {k: tuple(result[k]) for k in ("bursts", "losses") if k in result}
        results[name] = Result(**{**result, **sequences})
    return Row(**given, results=results)


def now() -> str:
    """The date and time, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def machine(threads: int) -> dict[str, str]:
    """What a reader needs to judge the figures by."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "cpu": cpu_name(), "cores": str(cores), "vectors": f"{vector_target().bits} bits", "threads": str(threads),
        "system": f"{platform.system()} {platform.release()}", "python": platform.python_version(),
        "load at the start": load,
    }  # fmt: skip


def fingerprint() -> str:
    """A hash of the compiler's and the benchmark's source: rows of different code do not share a table."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256(sys.version.encode())
    for package in ("graphc", "passes", "bench"):
        for file in sorted((root / package).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]

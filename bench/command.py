"""The command ``python -m bench`` (and ``graphc bench``): measure, show, save; the whole table of goals when nothing is chosen.

What enters: options. What leaves: tables on the terminal, a JSON record that grows with every workload, a picture, documents.
Invariant: an interrupted run keeps what it has measured, and ``--resume`` goes on from there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.executors import Executor
from bench.measure import Bench, Settings, choose
from bench.record import Conditions, Record, fingerprint, machine, now
from bench.report import goals_table, row_table, update_documents
from bench.workload import Entry
from bench.workloads import select
from graphc.driver import default_threads
from graphc.errors import GraphError
from graphc.targets.cpu.object_cache import default_directory
from graphc.targets.cpu.roofline import cpu_name

ROW_SECONDS = 300.0  # what one workload may take; an executor that would exceed it is left out
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Request:
    """What the user asked for, as the options have it."""

    models: Sequence[str] = ()
    executors: Sequence[str] = ()
    threads: int | None = None
    rounds: int | None = None
    minutes: float = 25.0
    quick: bool = False
    tiny: bool = False
    explain: bool = False
    resume: bool = False
    json: Path | None = None
    picture: Path | None = None
    update_docs: bool = False


def run_bench(out: Console, err: Console, request: Request) -> Record:
    """Measure what is asked for, show it, save it.

    Raises:
        GraphError: an unknown workload or executor, or a record that cannot be resumed.
    """
    entries, executors = select(request.models), choose(request.executors)
    threads = request.threads or default_threads()
    settings = Settings(
        threads=threads, tiny=request.tiny, rounds=request.rounds or (3 if request.quick else 9),
        burst=0.03 if request.quick else 0.1, cold=not request.quick, explain=request.explain,
    )  # fmt: skip
    record = start_record(request, settings, executors)
    file = kept_in(request)
    warn_if_busy(err)
    todo = [e for e in entries if e.name not in record.rows]
    if kept := len(entries) - len(todo):
        err.print(f"{kept} of {len(entries)} workloads are in {file} already")
    deadline = monotonic() + request.minutes * 60
    try:
        with progress_bar(err) as progress, Bench(executors, settings) as bench:
            task = progress.add_task("", total=len(todo))
            bench.tell = lambda text: progress.update(task, description=text)
            for entry in todo:
                if monotonic() > deadline:
                    break
                record.rows[entry.name] = bench.row(entry, monotonic() + ROW_SECONDS)
                record.versions |= bench.versions
                record.write(file)
                progress.advance(task)
                out.print(row_table(record.rows[entry.name]))
                if request.explain:
                    show_kernels(out, record, entry)
    except KeyboardInterrupt:
        err.print(f"stopped; {len(record.rows)} workloads are in {file}: go on with --resume", style="yellow")
        raise
    finish(out, err, request, record, entries, file)
    return record


def warn_if_busy(err: Console) -> None:
    """Say so when other programs use the processors: times would tell of them."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.7:
        err.print(f"this machine is busy (load {load:.1f}): times will be too long, and not equally so", style="yellow")


def kept_in(request: Request) -> Path:
    """The file that holds the record while it grows: as asked, or one in graphc's cache directory."""
    return request.json or (default_directory() or Path(tempfile.gettempdir())) / "bench.json"


def start_record(request: Request, settings: Settings, executors: Sequence[Executor]) -> Record:
    """An empty record, or the one to go on with.

    Raises:
        GraphError: the record was made under other conditions; names them.
    """
    names = tuple(e.name for e in executors)
    conditions = Conditions(settings.threads, settings.tiny, request.quick, names, cpu_name(), fingerprint())
    file = kept_in(request)
    if request.resume and file.exists():
        record = Record.read(file)
        pairs = [(k, v, getattr(conditions, k)) for k, v in vars(record.conditions).items()]
        differing = [f"{k} was {old!r}, is {new!r}" for k, old, new in pairs if old != new]
        if differing:
            raise GraphError(
                f"{file} was made under other conditions: {'; '.join(differing)}", help="run without --resume"
            )
        return record
    return Record(conditions, now(), machine(settings.threads))


def progress_bar(err: Console) -> Progress:
    """What runs, how many workloads are done, how long it has taken."""
    return Progress(
        SpinnerColumn(), MofNCompleteColumn(), BarColumn(24), TimeElapsedColumn(), TextColumn("{task.description}"), console=err,
        transient=True,
    )  # fmt: skip


def show_kernels(out: Console, record: Record, entry: Entry) -> None:
    """What the profiler says about graphc's kernels."""
    from bench.explain import kernels_table

    kernels = record.rows[entry.name].kernels
    if kernels is None:
        return
    if "error" in kernels:
        out.print(f"no profile: {kernels['error']}", markup=False, highlight=False)
        return
    out.print(kernels_table(entry.title, kernels))
    out.print(kernels["assembly"], markup=False, highlight=False)


def finish(
    out: Console, err: Console, request: Request, record: Record, entries: Sequence[Entry], file: Path
) -> None:  # fmt: skip
    """The table of goals, the files, and what is missing."""
    if len(record.rows) > 1:
        out.print(goals_table(record))
    missing = [e.name for e in entries if e.name not in record.rows]
    if missing:
        err.print(
            f"the time was over before: {', '.join(missing)}; go on with --resume, or give more --minutes",
            style="yellow",
        )
    if request.picture is not None:
        from bench.picture import draw_ratios

        draw_ratios(record, request.picture)
        err.print(f"wrote {request.picture}")
    err.print(f"the record is in {file}")
    if request.update_docs:
        for written in update_documents(record, ROOT):
            err.print(f"wrote {written}")


def describe() -> tuple[Table, Table]:
    """What there is to measure, and to measure it with."""
    workloads = Table(title="workloads", title_justify="left")
    for column in ("name", "what it is", "goal"):
        workloads.add_column(column, no_wrap=column == "name")
    for entry in select(()):
        goal = "" if entry.goal is None else f"<= {entry.goal:g} of {entry.against or 'the best peer'}"
        workloads.add_row(entry.name, entry.title, goal)
    executors = Table(title="executors", title_justify="left")
    executors.add_column("name", no_wrap=True)
    executors.add_column("here")
    for executor in choose(()):
        missing = executor.missing()
        executors.add_row(executor.name, f"{missing} is not installed" if missing else "yes")
    return workloads, executors

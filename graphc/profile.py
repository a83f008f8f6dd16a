"""Where a program's time goes: a row a kernel launch, a row a line of the user's code, and a timeline for trace viewers.

What enters: a program on the cpu target and inputs. What leaves: a :class:`Profile`. Invariants: time stamps are taken
inside the one native call that a step is, so a profile shows the step as it runs; operations and bytes are counted from the
loop IR (:mod:`graphc.loops.cost`); the variables' values are as before. ::

    profile = program.profile(image=x, label=y)
    print(profile); print(profile.lines_table()); profile.save("trace.json")     # open it in ui.perfetto.dev
    program.page("profile.html", profile=program.profile(interpreted=True, image=x, label=y))
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.errors import InputError, TargetUnavailable
from graphc.interpreted import NodeRow, Spent, interpret_timed, share_out
from graphc.interpreter import check_inputs
from graphc.ir import Node
from graphc.loops.cost import KernelCost, kernel_cost
from graphc.targets.cpu.recorder import Event, Recording
from graphc.targets.cpu.roofline import Roofline, roofline
from passes.memory import Arena, arena_of
from passes.once import is_mapped
from passes.reuse import counterparts

if TYPE_CHECKING:
    from graphc.driver import Program

__all__ = ["LineRow", "Profile", "ProfileRow", "profile_program"]


@dataclass(frozen=True)
class ProfileRow:
    """One launch in one step of the program.

    Attributes:
        kernel: its name in the loop program. launch: its number in the order of execution.
        seconds: median over the profiled steps, all its runs in a step together.
        bytes, flops: what it reads and writes, and its floating-point operations, in a step (see :mod:`graphc.loops.cost`).
        sources: the user's lines behind it.
        runs: how often it ran in a step (a launch in a loop: once an iteration).
        busy_threads: threads at work on average.
        itemsize: bytes of the float that it computes with.
        work: line -> the line's share in the kernel's statements.
        nodes: what it computes, each with the number of statements that it runs for it.
        interpreted: what the interpreter spends on the same, where it was timed too.
    """

    kernel: str
    seconds: float
    bytes: int
    sources: tuple[str, ...]
    flops: int = 0
    launch: int = 0
    runs: int = 1
    busy_threads: float = 1.0
    itemsize: int = 4
    work: Mapping[str, float] = field(default_factory=dict)
    nodes: Mapping[Node, float] = field(default_factory=dict)
    interpreted: Spent | None = None

    def share_of(self, roofline: Roofline) -> float:
        """The least time that the machine could need, over the time that it took."""
        least = roofline.seconds(self.flops / self.runs, self.bytes / self.runs, self.itemsize) * self.runs
        return least / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class LineRow:
    """One line of the user's code: its part of the time, and the kernels that work for it."""

    source: str
    seconds: float
    flops: float
    kernels: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """Times of one step, in order of execution; printed slowest first.

    Attributes:
        rows: the launches. threads: of the program. events: the timeline of the first profiled steps.
        arena: where intermediates lie, and when.
        nodes: the interpreter's times, a node each, where it was timed too. rest: those of nodes that no launch computes.
        roof: the ceilings to compare with, if not this machine's.
    """

    rows: tuple[ProfileRow, ...]
    threads: int = 1
    events: tuple[Event, ...] = ()
    arena: Arena | None = None
    nodes: tuple[NodeRow, ...] = ()
    rest: Spent = field(default_factory=Spent)
    roof: Roofline | None = None

    def roofline(self) -> Roofline:
        """The machine's ceilings for as many threads; measured once a machine, which takes about a second."""
        return self.roof or roofline(self.threads)

    @property
    def interpreted_seconds(self) -> float:
        """Time of a step under the interpreter: the sum over its nodes; 0 where it was not timed."""
        return sum(r.spent.seconds for r in self.nodes)

    @property
    def seconds(self) -> float:
        """Time of a step: the sum over its launches."""
        return sum(r.seconds for r in self.rows)

    @property
    def flops(self) -> int:
        """Floating-point operations of a step."""
        return sum(r.flops for r in self.rows)

    def lines(self) -> tuple[LineRow, ...]:
        """Time by line of the user's code, longest first; a kernel's time is shared by its statements."""
        seconds: defaultdict[str, float] = defaultdict(float)
        flops: defaultdict[str, float] = defaultdict(float)
        kernels: dict[str, dict[str, None]] = {}
        for row in self.rows:
            for source, part in (row.work or {"(no line)": 1.0}).items():
                seconds[source] += row.seconds * part
                flops[source] += row.flops * part
                kernels.setdefault(source, {})[row.kernel] = None
        longest = sorted(seconds.items(), key=lambda item: -item[1])
        return tuple(LineRow(s, t, flops[s], tuple(kernels[s])) for s, t in longest)

    def merged(self) -> tuple[ProfileRow, ...]:
        """The rows, those of one kernel for the same lines as one: the steps of a loop, and equal layers of one line."""
        found: dict[tuple[str, tuple[str, ...]], list[ProfileRow]] = {}
        for row in self.rows:
            found.setdefault((row.kernel, row.sources), []).append(row)
        return tuple(_together(rows) for rows in found.values())

    def table(self, roofline: Roofline | None = None) -> str:
        """Launches as text, slowest first: microseconds, share, GFLOP/s, GB/s, threads at work, the user's lines.

        Args:
            roofline: of this machine (``graphc.roofline()``): adds the share of what the machine could do.

        Where the interpreter was timed too, "faster" is its time over the kernel's.
        """
        total = self.seconds or 1.0
        limit = f" {'of roof':>7}" if roofline else ""
        limit += f" {'faster':>7}" if self.nodes else ""
        lines = [
            f"{'kernel':32} {'us':>9} {'share':>6} {'GFLOP/s':>7} {'GB/s':>7} {'threads':>7}{limit}  from",
        ]
        for r in sorted(self.merged(), key=lambda r: -r.seconds):
            name = f"{r.kernel} x{r.runs}" if r.runs > 1 else r.kernel
            rates = [(amount / r.seconds / 1e9 if r.seconds else 0.0) for amount in (r.flops, r.bytes)]
            roof = f" {r.share_of(roofline):7.0%}" if roofline else ""
            if r.interpreted is not None:
                roof += f" {r.interpreted.seconds / r.seconds if r.seconds else 0.0:6.1f}x"
            lines.append(
                f"{name:32} {r.seconds * 1e6:9.2f} {r.seconds / total:6.1%} {rates[0]:7.1f} {rates[1]:7.1f} "
                f"{r.busy_threads:7.2f}{roof}  {', '.join(r.sources[:3])}"
            )
        return "\n".join(lines)

    def lines_table(self) -> str:
        """Lines of the user's code as text, longest first."""
        total = self.seconds or 1.0
        rows = [f"{'line':28} {'us':>9} {'share':>6}  kernels"]
        for line in self.lines():
            rows.append(
                f"{line.source:28} {line.seconds * 1e6:9.2f} {line.seconds / total:6.1%}  {', '.join(line.kernels[:4])}"
            )
        return "\n".join(rows)

    def chrome_trace(self) -> dict[str, Any]:
        """The timeline in the Trace Event Format (JSON object form) that Perfetto and chrome://tracing read.

        Source: Google, Trace Event Format (2016): complete events "X" in microseconds, metadata events "M".
        """
        by_launch = {r.launch: r for r in self.rows}
        threads = sorted({e.thread for e in self.events})
        found: list[dict[str, Any]] = [_metadata("process_name", 0, "graphc")]
        found += [_metadata("thread_name", t, "caller" if t == 0 else f"worker {t}") for t in threads]
        for event in self.events:
            row = by_launch[event.launch]
            args = {"launch": row.launch, "bytes": row.bytes // row.runs, "flops": row.flops // row.runs}
            found.append({
                "name": row.kernel + (" (range)" if event.is_range else ""),
                "cat": "range" if event.is_range else "kernel",
                "ph": "X", "pid": 1, "tid": event.thread,
                "ts": event.begin * 1e6, "dur": max(event.end - event.begin, 0.0) * 1e6,
                "args": {**args, "sources": list(row.sources)},
            })  # fmt: skip
        return {"traceEvents": found, "displayTimeUnit": "ns"}

    def save(self, path: str | Path) -> None:
        """Write :meth:`chrome_trace` as JSON; open the file in ui.perfetto.dev or chrome://tracing."""
        Path(path).write_text(json.dumps(self.chrome_trace()), encoding="utf-8")

    def __str__(self) -> str:
        return self.table()


def _together(rows: Sequence[ProfileRow]) -> ProfileRow:
    """Several rows of one kernel as one."""
    first, seconds = rows[0], sum(r.seconds for r in rows)
    busy = sum(r.busy_threads * r.seconds for r in rows) / seconds if seconds else first.busy_threads
    spent = None
    for row in rows:
        if row.interpreted is not None:
            spent = row.interpreted.plus(spent or Spent())
    nodes: Counter[Node] = Counter()
    for row in rows:
        nodes.update(row.nodes)
    return replace(
        first, seconds=seconds, bytes=sum(r.bytes for r in rows), flops=sum(r.flops for r in rows),
        runs=sum(r.runs for r in rows), busy_threads=busy, nodes=nodes, interpreted=spent,
    )  # fmt: skip


def _metadata(what: str, thread: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": 1, "tid": thread, "args": {"name": name}}


def profile_program(program: Program, repeats: int, inputs: Mapping[str, Any], interpreted: bool = False) -> Profile:
    """Profile one specialisation of a program; see :meth:`graphc.driver.Program.profile`."""
    if program.options.target != "cpu":
        raise TargetUnavailable("profiles are made on the cpu target", help='compile with target="cpu"')
    current = program.current(inputs)
    unknown = sorted(set(inputs) - set(current.types))
    if unknown:
        raise InputError(f"{unknown[0]!r} is no input of the program", help=f"inputs: {', '.join(current.types)}")
    zeros = {n: np.zeros(shape, dtype) for n, (dtype, shape) in current.types.items() if n not in inputs}
    checked, _ = check_inputs(current.graph, {**inputs, **zeros})
    given = {n: np.require(a, requirements=("C", "A")) for n, a in checked.items()}
    saved = [v.copy() for v in current.variables]
    results = [np.empty(shape, dtype) for _, shape, dtype in current.results]
    try:
        recording = current.executable.record(  # type: ignore[union-attr]
            [*(given[n] for n in current.types), *current.variables, *results], repeats
        )
    finally:
        for array, old in zip(current.variables, saved, strict=True):
            array[...] = old
    assert current.loops is not None
    rows = _rows(current.loops, recording)
    made = Profile(rows, recording.threads, recording.events, arena_of(current.loops))
    if not interpreted:
        return made
    timed = interpret_timed(current.graph, given)
    parts, rest, timed = share_out(timed, [r.nodes for r in rows])
    rows = tuple(replace(r, interpreted=p) for r, p in zip(rows, parts, strict=True))
    return replace(made, rows=rows, nodes=timed, rest=rest)


def _rows(loops: Any, recording: Recording) -> tuple[ProfileRow, ...]:
    costs: dict[int, KernelCost] = {}  # by the kernel's address: its statements are many
    numbers = zip(
        recording.seconds().tolist(), recording.runs().tolist(), recording.busy_threads().tolist(), strict=True
    )
    rows = []
    for number, (launch, (seconds, runs, busy)) in enumerate(zip(loops.launches, numbers, strict=True)):
        kernel = loops.kernels[launch.kernel]
        if launch.lowered is not None and is_mapped(kernel):
            kernel = launch.lowered  # tails of tiles would be counted whole, and its statements are not the launch's
        if id(kernel) not in costs:
            costs[id(kernel)] = kernel_cost(kernel)
        cost = costs[id(kernel)]
        nodes = launch.nodes or kernel.nodes
        lines = [str(n.source) for n in nodes if n.source]
        # the kernel may have been made for other nodes, which stand for the launch's
        own = counterparts(kernel, launch)
        work: Counter[str] = Counter()
        shares: dict[Node, float] = {n: 0.0 for n in nodes if isinstance(n, Node)}
        for node, count in cost.work.items():
            standing = own.get(node, (node,))
            for one in standing:
                if one in shares:  # what it only reads was computed elsewhere
                    shares[one] += count / len(standing)
            source = standing[0].source
            if source:
                work[str(source)] += count
        times = max(int(runs), 1)
        rows.append(ProfileRow(
            launch.kernel, seconds, cost.bytes * times, tuple(dict.fromkeys(lines)), cost.flops * times, number, times, busy,
            cost.itemsize, _shares(work, lines), shares,
        ))  # fmt: skip
    return tuple(rows)


def _shares(work: Mapping[str, int], lines: Sequence[str]) -> dict[str, float]:
    """Parts of one by line; equal parts of the kernel's lines where no statement names one."""
    counts = dict(work) or dict.fromkeys(lines, 1)
    total = sum(counts.values())
    return {line: count / total for line, count in counts.items()} if total else {}

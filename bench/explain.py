"""Where graphc's time goes: every kernel's time, bytes, operations and share of the measured roofline, and the slowest's machine code.

What enters: a compiled program and its inputs. What leaves: plain data (it crosses a pipe), and a table of it. Invariant: the share is
the least time that this machine could need, by the measured roofline, over the time that the kernel took.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from bench.executors import Unavailable
from bench.report import duration
from bench.workload import Workload
from graphc.profile import ProfileRow
from graphc.targets.cpu.roofline import Roofline, roofline

_JUMP = re.compile(r"\s+j[a-z]+\s+(\.L\w+)")
_LABEL = re.compile(r"(\.L\w+):")


def explain(runner: Any, work: Workload) -> dict[str, Any]:
    """Profile a runner's program.

    Raises:
        Unavailable: it is not graphc's on the CPU.
    """
    program = getattr(runner, "program", None)
    if program is None or program.options.target != "cpu":
        raise Unavailable("only graphc's programs for the CPU can be explained")
    roof = roofline(program.options.threads)
    profile = program.profile(repeats=30, **work.data)
    rows = by_kernel(profile.rows, roof)
    slowest = str(rows[0]["kernel"]) if rows else ""
    assembly = assembly_of(program.source("asm"), slowest)
    return {
        "rows": rows, "seconds": profile.seconds, "roofline": roof.table(), "slowest": slowest, "assembly": inner_loops(assembly),
        "assembly_lines": assembly.count("\n") + 1,
    }  # fmt: skip


def by_kernel(launches: Sequence[ProfileRow], roof: Roofline) -> list[dict[str, Any]]:
    """All launches of a kernel as one row, slowest kernel first."""
    found: dict[str, list[ProfileRow]] = {}
    for launch in launches:
        found.setdefault(launch.kernel, []).append(launch)
    rows = []
    for kernel, group in found.items():
        seconds = sum(r.seconds for r in group)
        whole = seconds or 1.0
        rows.append({
            "kernel": kernel, "seconds": seconds, "flops": sum(r.flops for r in group), "bytes": sum(r.bytes for r in group),
            "runs": sum(r.runs for r in group), "threads": sum(r.busy_threads * r.seconds for r in group) / whole,
            "of_roofline": sum(r.share_of(roof) * r.seconds for r in group) / whole,
            "lines": list(dict.fromkeys(source for r in group for source in r.sources)),
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["seconds"])


def assembly_of(text: str, kernel: str) -> str:
    """The functions of one kernel out of a program's assembly, without directives.

    A frozen program's kernels that read constants packed ahead have a name of their own in the code (``…_packed``).

    >>> print(assembly_of("k_a:\\n  .cfi_startproc\\n  ret\\n.Lfunc_end0:\\nk_b:\\n  nop\\n.Lfunc_end1:", "a"))
    k_a:
      ret
    """
    exact = rf"k_{re.escape(kernel)}(_p\d+)?:"
    known = re.search(f"^{exact}", text, re.MULTILINE)
    name = re.compile(exact if known else rf"k_{re.escape(kernel)}_packed\d*(_p\d+)?:")
    kept: list[str] = []
    inside = False
    for line in text.splitlines():
        if name.match(line):
            inside = True
        elif line.startswith(".Lfunc_end"):
            inside = False
        if inside and not line.lstrip().startswith((".cfi", ".p2align", "#", "//")):
            kept.append(line)
    return "\n".join(kept)


def inner_loops(text: str) -> str:
    """The loops without a loop inside, where a kernel spends its time; the whole text if it has no loop.

    >>> print(inner_loops("f:\\n.L1:\\n  mov\\n.L2:\\n  add\\n  jne .L2\\n  jne .L1\\n  ret"))
    .L2:
      add
      jne .L2
    """
    lines = text.splitlines()
    start: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        if found := _LABEL.match(line):
            start[found[1]] = number
        elif (jump := _JUMP.match(line)) and jump[1] in start:
            begin = start[jump[1]]
            if not any(begin <= b for b, _ in loops):
                loops.append((begin, number))
    return "\n".join("\n".join(lines[a : b + 1]) for a, b in loops) or text


def kernels_table(title: str, explained: Mapping[str, Any]) -> Table:
    """The kernels, slowest first."""
    total = explained["seconds"] or 1.0
    table = Table(title=f"kernels of {title}: {duration(total)} a step", title_justify="left", title_style="bold")
    table.add_column("kernel", no_wrap=True)
    for column in ("runs", "time", "share", "MB", "GB/s", "MFLOP", "GFLOP/s", "threads", "of roofline"):
        table.add_column(column, justify="right")
    table.add_column("your lines")
    for r in explained["rows"]:
        seconds = r["seconds"] or 1e-12
        table.add_row(
            r["kernel"], str(r["runs"]), duration(r["seconds"]), f"{seconds / total:.1%}", f"{r['bytes'] / 1e6:.2f}",
            f"{r['bytes'] / seconds / 1e9:.1f}", f"{r['flops'] / 1e6:.2f}", f"{r['flops'] / seconds / 1e9:.1f}", f"{r['threads']:.2f}",
            f"{r['of_roofline']:.0%}", ", ".join(line.rpartition("/")[2] for line in r["lines"][:3]),
        )  # fmt: skip
    table.caption = (
        f"{explained['roofline']}\ninner loops of the slowest, {explained['slowest']} "
        f"({explained['assembly_lines']} lines of assembly in all):"
    )
    table.caption_justify = "left"
    return table

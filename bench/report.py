"""Tables of a record: on the terminal (rich) and in documents (Markdown, between markers).

What enters: a :class:`~bench.record.Record`. What leaves: tables, and text. Invariant: a generated block of a document is replaced
between its markers and nothing else is touched; what was not measured is said, never left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from bench.executors import GRAPHC
from bench.record import Record, Result, Row
from graphc.errors import GraphError

BEGIN, END = "<!-- benchmarks: begin, written by python -m bench --update-docs -->", "<!-- benchmarks: end -->"


def duration(seconds: float | None) -> str:
    """Three digits in the fitting unit.

    >>> duration(0.00001234), duration(0.1), duration(12.3456), duration(None)
    ('12.3 µs', '100 ms', '12.3 s', '')
    """
    if seconds is None:
        return ""
    unit, scale = ("µs", 1e6) if seconds < 1e-3 else ("ms", 1e3) if seconds < 1 else ("s", 1.0)
    value = seconds * scale
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def megabytes(value: float | None) -> str:
    """Whole megabytes.

    >>> megabytes(12.6), megabytes(None)
    ('13', '')
    """
    return "" if value is None else f"{value:.0f}"


def row_table(row: Row) -> Table:
    """One workload on all executors."""
    best = row.best_peer()
    table = Table(title=f"{row.title}", title_justify="left", title_style="bold")
    table.add_column("executor", no_wrap=True)
    for column in (
        "time",
        "spread",
        "of best peer",
        "GFLOP/s",
        "compile cold",
        "warm",
        "peak MB",
        "beyond imports",
        "error",
        "loss",
    ):
        table.add_column(column, justify="right")
    for name, r in row.results.items():
        if r.status != "ok" or r.median is None:
            loss = f"{r.losses[0]:.6g}" if r.losses else ""
            table.add_row(name, f"[yellow]{r.status}[/]", *[""] * 8, loss, style="dim")
            continue
        ratio = f"{r.median / best[1]:.2f}" if best else ""
        table.add_row(
            name, duration(r.median), r.spread, ratio, _rate(row.flops / r.median), duration(r.cold), duration(r.warm),
            megabytes(r.peak), megabytes(r.above), "" if r.error is None else f"{r.error:.0e}",
            f"{r.losses[0]:.6g}" if r.losses else "", style="bold cyan" if name == GRAPHC else "green" if best and name == best[0] else "",
        )  # fmt: skip
    table.caption = "\n".join(_remarks(row))
    table.caption_justify = "left"
    return table


def _rate(flops: float) -> str:
    return f"{flops / 1e9:.1f}" if flops < 1e10 else f"{flops / 1e9:.0f}"


def _remarks(row: Row) -> Iterator[str]:
    for name, r in row.results.items():
        if r.status != "ok":
            yield f"{name}: {r.status}: {r.reason}"
    ratio, best = row.ratio(), row.best_peer()
    if ratio is not None and best is not None:
        goal = "" if row.goal is None else f"; goal at most {row.goal:g}: {'reached' if row.reached else 'missed'}"
        yield f"graphc takes {ratio:.2f} of the time of {best[0]}{goal}"


def verdict(row: Row) -> str:
    """The goals of a row, and whether each is reached."""
    own = row.results.get(GRAPHC)
    marks = []
    if row.goal is not None:
        marks.append(_mark(f"<= {row.goal:g}" + (f" of {row.against}" if row.against else ""), row.reached))
    for what, goal, value in (
        ("cold", row.cold_goal, own.cold if own else None), ("warm", row.warm_goal, own.warm if own else None)
    ):  # fmt: skip
        if goal is not None:
            marks.append(_mark(f"{what} <= {duration(goal)}", None if value is None else value <= goal))
    if row.cold_of is not None:
        peer, part = row.cold_of
        theirs = row.results[peer].cold if peer in row.results else None
        known = own is not None and own.cold is not None and theirs is not None
        marks.append(_mark(f"cold <= {part:g} of {peer}'s", own.cold <= part * theirs if known else None))  # type: ignore[union-attr, operator]
    return ", ".join(marks)


def _mark(goal: str, reached: bool | None) -> str:
    return goal + {True: " ✓", False: " ✗", None: " ?"}[reached]


def goals_table(record: Record) -> Table:
    """All workloads: graphc, the best peer, their ratio, the goals."""
    table = Table(title="graphc's time over the best peer's", title_justify="left", title_style="bold")
    for column, justify in zip(HEADINGS, "lrlrrrrrl", strict=True):
        table.add_column(
            column, justify="left" if justify == "l" else "right", no_wrap=justify == "l" and column == "workload"
        )
    for row in record.rows.values():
        style = {True: "green", False: "red", None: ""}[row.reached]
        cells = summary(row)
        table.add_row(*cells[:4], f"[{style}]{cells[4]}[/]" if style else cells[4], *cells[5:])
    return table


HEADINGS = ("workload", "graphc", "best peer", "its time", "ratio", "compile cold", "warm", "MB, torch's", "goal")


def summary(row: Row) -> tuple[str, ...]:
    """The cells of a workload under :data:`HEADINGS`."""
    own, best, ratio = row.results.get(GRAPHC), row.best_peer(), row.ratio()
    ours = duration(own.median) if own and own.median is not None else own.status if own else "not run"
    return (
        row.title, ours, best[0] if best else "none", duration(best[1]) if best else "", "" if ratio is None else f"{ratio:.2f}",
        duration(own.cold) if own else "", duration(own.warm) if own else "", _memory(row), verdict(row),
    )  # fmt: skip


CAPTION = "graphc's time over the best peer's, workload by workload, on a logarithmic axis"


def _memory(row: Row) -> str:
    """Peak megabytes of graphc's process, and of torch eager's; a family's processes remember the rows before."""
    if row.family is not None:
        return ""
    peaks = [row.results[n].peak if n in row.results else None for n in (GRAPHC, "torch eager")]
    return ", ".join(megabytes(p) or "?" for p in peaks) if any(p is not None for p in peaks) else ""


# --- documents -----------------------------------------------------------------------------------------------------


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """A Markdown table; ``right`` numbers the columns that are aligned to the right.

    >>> print(markdown_table(["a", "b"], [["1", "2|3"]], [1]))
    | a | b |
    | --- | ---: |
    | 1 | 2\\|3 |
    """
    rule = ["---:" if n in right else "---" for n in range(len(headings))]
    lines = [headings, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def goals_markdown(record: Record) -> str:
    """The table of goals for documents, with its circumstances."""
    rows = []
    for row in record.rows.values():
        cells = list(summary(row))
        cells[4] = f"**{cells[4]}**" if row.reached else cells[4]
        rows.append(cells)
    return f"{circumstances(record)}\n\n{markdown_table(HEADINGS, rows, (1, 3, 4, 5, 6, 7))}"


def circumstances(record: Record) -> str:
    """Machine, versions and date in a sentence."""
    m = record.machine
    versions = ", ".join(dict.fromkeys(v for v in record.versions.values() if v))
    size = "tiny sizes (a test, not a measurement); " if record.conditions.tiny else ""
    return (
        f"{record.date}; {m.get('cpu', '')}, {m.get('threads', '')} threads of {m.get('cores', '')} cores, vectors of "
        f"{m.get('vectors', '')}; {size}Python {m.get('python', '')}, {versions}. Medians; every executor in a process of its own, in turn."
    )


def times_markdown(record: Record) -> str:
    """Milliseconds of every executor, for documents."""
    names = list(dict.fromkeys(n for row in record.rows.values() for n in row.results))
    rows = [[row.title, *(_cell(row.results.get(n)) for n in names)] for row in record.rows.values()]
    return markdown_table(["ms a step", *names], rows, range(1, len(names) + 1))


def _cell(result: Result | None) -> str:
    if result is None or result.median is None:
        return "" if result is None or result.status in ("unavailable", "skipped") else result.status
    milliseconds = result.median * 1e3
    return (
        f"{milliseconds:.{0 if milliseconds >= 100 else 1 if milliseconds >= 10 else 2 if milliseconds >= 1 else 3}f}"
    )


def memory_markdown(record: Record, beyond: bool) -> str:
    """Peak megabytes of every executor while stepping: all of them, or those beyond the imports."""
    rows_of = [row for row in record.rows.values() if row.family is None]
    names = list(dict.fromkeys(n for row in rows_of for n in row.results))
    rows = []
    for row in rows_of:
        found = [row.results.get(n, Result("skipped")) for n in names]
        rows.append([row.title, *(megabytes(r.above if beyond else r.peak) for r in found)])
    return markdown_table(["MB", *names], rows, range(1, len(names) + 1))


def replace_block(file: Path, text: str) -> None:
    """Put text between the markers of a document.

    Raises:
        GraphError: the document has no markers, or not in order.
    """
    document = file.read_text(encoding="utf-8")
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise GraphError(f"{file} has no block to write into", help=f"put {BEGIN} and {END} where it shall stand")
    file.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def update_documents(record: Record, root: Path) -> list[Path]:
    """Write the record and its picture under ``docs``, and its tables into README.md and docs/benchmarks.md.

    Raises:
        GraphError: a document without markers, or a record of tiny sizes.
    """
    from bench.picture import draw_ratios

    if record.conditions.tiny:
        raise GraphError("tiny sizes do not belong in the documents", help="run without --tiny")
    docs = root / "docs"
    pictures = [docs / "bench.svg", docs / "bench.png"]
    for picture in pictures:
        draw_ratios(record, picture)
    record.write(docs / "bench.json")
    parts = [
        goals_markdown(record), f"![{CAPTION}](bench.svg)", "## Every executor", times_markdown(record), "## Peak memory",
        "Megabytes of the whole process while it steps, imports included:", memory_markdown(record, beyond=False),
        "And what of it is beyond the imports (code, data, weights, state, activations):", memory_markdown(record, beyond=True),
    ]  # fmt: skip
    replace_block(docs / "benchmarks.md", "\n\n".join(parts))
    replace_block(root / "README.md", f"{goals_markdown(record)}\n\n![{CAPTION}](docs/bench.svg)")
    return [docs / "benchmarks.md", root / "README.md", docs / "bench.json", *pictures]

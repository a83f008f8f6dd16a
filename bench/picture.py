"""The benchmark as a picture: every executor's time over the best peer's, on a logarithmic axis.

What enters: a record. What leaves: an SVG or PNG file. Invariant: bars left of 1 are faster than every peer; graphc's bar is solid,
a peer is a mark, the goal is a line; the picture says on what machine and when.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.executors import GRAPHC
from bench.record import Record, Row
from bench.report import duration
from graphc.errors import GraphError

MARKS: dict[str, tuple[str, str]] = {
    "numpy": ("s", "#7f7f7f"),
    "torch eager": ("o", "#d55e00"),
    "torch.compile": ("D", "#8c3b00"),
    "jax": ("^", "#6a3d9a"),
    "onnxruntime": ("v", "#009e73"),
    "graphc 1 thread": ("|", "#0072b2"),
    "graphc no fusion": ("x", "#56b4e9"),
}
OURS, LOST = "#0072b2", "#cc79a7"


def draw_ratios(record: Record, file: Path) -> None:
    """Draw the record; the file's suffix says how.

    Raises:
        GraphError: nothing was timed.
    """
    rows = [row for row in record.rows.values() if row.best_peer() is not None]
    if not rows:
        raise GraphError("there is nothing to draw: no workload was timed")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.6 + 0.34 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _bars(axes, rows)
    _marks(axes, rows)
    _dress(axes, rows, record)
    figure.savefig(file, dpi=120, metadata={"Date": None} if file.suffix == ".svg" else None)


def _bars(axes: Any, rows: list[Row]) -> None:
    labelled = False
    for y, row in enumerate(rows):
        ratio = row.ratio()
        if ratio is None:
            continue
        axes.barh(y, ratio - 1, left=1, height=0.62, color=OURS if _good(row) else LOST, alpha=0.9, zorder=2)
        own = row.results[GRAPHC]
        text = f"{ratio:.2f}  ({duration(own.median)})"
        axes.text(
            0.008, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color="#222222", zorder=5
        )
        if row.goal is not None:
            axes.plot(
                [row.goal] * 2,
                [y - 0.42, y + 0.42],
                color="black",
                lw=1.6,
                zorder=4,
                label=None if labelled else "goal",
            )
            labelled = True


def _good(row: Row) -> bool:
    """The goal is reached; where none is set, graphc is not slower than the best peer."""
    ratio = row.ratio()
    return ratio is not None and ratio <= (row.goal if row.goal is not None else 1.0)


def _marks(axes: Any, rows: list[Row]) -> None:
    for name, (mark, color) in MARKS.items():
        ratios = [(row.ratio(name), y) for y, row in enumerate(rows)]
        points = [(ratio, y) for ratio, y in ratios if ratio is not None]
        if points:
            axes.scatter(
                *zip(*points, strict=True), marker=mark, s=30, color=color, label=name, zorder=3, linewidths=1.2
            )


def _dress(axes: Any, rows: list[Row], record: Record) -> None:
    from matplotlib.patches import Patch
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.axvline(1, color="#444444", lw=1)
    lowest = min((r for row in rows if (r := row.ratio()) is not None), default=0.5)
    axes.set_xlim(left=min(lowest, 0.5) / 3.2)
    axes.set_yticks(range(len(rows)), [row.title for row in rows], fontsize=8.5)
    axes.invert_yaxis()
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", which="both", color="#dddddd", lw=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.set_xlabel("time over the best peer's (logarithmic; left of 1 is faster)")
    m = record.machine
    axes.set_title(
        f"graphc against the best of its peers: {m.get('cpu', '')}, {m.get('threads', '')} threads, float32, {record.date[:10]}",
        fontsize=10, loc="left",
    )  # fmt: skip
    handles, _ = axes.get_legend_handles_labels()
    ours = [Patch(color=OURS, label="graphc, goal reached")]
    if not all(_good(row) for row in rows if row.ratio() is not None):
        ours.append(Patch(color=LOST, label="graphc, goal missed"))
    axes.legend(
        handles=[*ours, *handles],
        fontsize=8,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.3,
        frameon=False,
    )

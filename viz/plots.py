"""Curves of a training run in the colours of the graphs.

What enters: a history (anything with ``to_dict()``), columns by name, or rows. What leaves: svg, png or pdf. Invariant:
training is solid and validation dashed, never told apart by hue alone.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphc.errors import DrawError
from viz.theme import theme_of

_VALIDATION = "val_"


def columns_of(history: Any) -> dict[str, list[float]]:
    """Columns by name; "epoch" is counted if it is not there.

    Raises:
        DrawError: it is no history, or it is empty.

    >>> columns_of([{"loss": 2.0}, {"loss": 1.0}])
    {'epoch': [1, 2], 'loss': [2.0, 1.0]}
    """
    if callable(getattr(history, "to_dict", None)):
        history = history.to_dict()
    if isinstance(history, Sequence) and all(isinstance(row, Mapping) for row in history):
        names = dict.fromkeys(k for row in history for k in row)
        history = {k: [row.get(k, math.nan) for row in history] for k in names}
    if not isinstance(history, Mapping):
        raise DrawError(
            f"{type(history).__name__} is no history", help="give what fit() returned, columns by name, or rows"
        )
    columns = {str(k): [v for v in column] for k, column in history.items()}
    length = max((len(c) for c in columns.values()), default=0)
    if length == 0:
        raise DrawError("there is nothing to plot: the history has no rows yet")
    if any(len(c) != length for c in columns.values()):
        raise DrawError(
            "the columns of the history differ in length", notes=tuple(f"{k}: {len(c)}" for k, c in columns.items())
        )
    return {"epoch": columns.pop("epoch", list(range(1, length + 1))), **columns}


def plot_history(history: Any, path: str | os.PathLike[str], *, theme: str = "light") -> None:
    """Draw every quantity of a run against the epochs, a panel each, training and validation together.

    Raises:
        DrawError: no rows, an unknown theme or suffix, a file that cannot be written, or no matplotlib.
    """
    columns = columns_of(history)
    colours = theme_of(theme)
    suffix = Path(path).suffix.lower()
    if suffix not in (".svg", ".png", ".pdf"):
        raise DrawError(
            f"curves are not written as {suffix or 'a file without a suffix'}", help="choose .svg, .png or .pdf"
        )
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise DrawError("curves need matplotlib, which is not installed", help="install matplotlib") from error
    panels = list(dict.fromkeys(k.removeprefix(_VALIDATION) for k in columns if k != "epoch"))
    settings: Any = {
        "font.size": colours.size * 0.8, "text.color": colours.text, "axes.labelcolor": colours.text, "xtick.color": colours.text,
        "ytick.color": colours.text, "axes.edgecolor": colours.faint, "svg.hashsalt": "graphc", "text.parse_math": False,
    }  # fmt: skip
    data = io.BytesIO()
    with mpl.rc_context(settings):
        figure = Figure(figsize=(5.2 * max(len(panels), 1), 3.8), layout="constrained", facecolor=colours.background)
        for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            series = (
                (name, "training", colours.forward, "-o"),
                (_VALIDATION + name, "validation", colours.backward, "--s"),
            )
            for key, label, colour, style in series:
                if key in columns:
                    axes.plot(columns["epoch"], columns[key], style, color=colour, label=label, markersize=4,
                              linewidth=colours.stroke * 1.2)  # fmt: skip
            axes.set(xlabel="epoch", title=name.replace("_", " "), facecolor=colours.background)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
            axes.legend(frameon=False, labelcolor=colours.text)
        figure.savefig(data, format=suffix[1:], dpi=150, metadata={"Date": None} if suffix == ".svg" else None)
    try:
        Path(path).write_bytes(data.getvalue())
    except OSError as error:
        raise DrawError(
            f"{path} cannot be written: {error.strerror or error}", help="name a file in a folder that exists"
        ) from error

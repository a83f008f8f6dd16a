"""History: the course of a training run, a row of numbers an epoch.

What enters: rows. What leaves: columns, dicts, plots. Invariant: wall-clock times are kept beside the rows, never in
them, so that equal runs have equal rows.

>>> history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
>>> history["loss"], len(history)
([0.5, 0.25], 2)
"""

from __future__ import annotations

import html
import io
import math
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from graphc.errors import GraphError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VALIDATION = "val_"


class History:
    """Rows ``{"epoch": 1, "loss": ..., "val_loss": ...}`` in order.

    Attributes:
        epochs: the rows.
        seconds: wall-clock time of each epoch.
    """

    def __init__(self, epochs: Iterable[Mapping[str, float]] = (), seconds: Iterable[float] = ()) -> None:
        self.epochs: list[dict[str, float]] = [dict(row) for row in epochs]
        self.seconds: list[float] = list(seconds)

    def append(self, row: Mapping[str, float], seconds: float = 0.0) -> None:
        """Add an epoch."""
        self.epochs.append(dict(row))
        self.seconds.append(seconds)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, the epoch's number apart."""
        return tuple(dict.fromkeys(name for row in self.epochs for name in row if name != "epoch"))

    def __getitem__(self, name: str) -> list[float]:
        """A column, NaN where a row has no value.

        Raises:
            GraphError: no row has it.
        """
        if name not in self.names and name != "epoch":
            raise GraphError(f"the history has no {name!r}", help=f"it has {', '.join(self.names) or 'no rows yet'}")
        return [row.get(name, math.nan) for row in self.epochs]

    def __len__(self) -> int:
        return len(self.epochs)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def to_dict(self) -> dict[str, list[float]]:
        """Columns by name, the epochs' numbers first."""
        return {name: self[name] for name in ("epoch", *self.names)}

    def best(self, name: str, *, largest: bool = False) -> dict[str, float]:
        """The row with the smallest (or largest) value of a column; rows where it is NaN do not count.

        Raises:
            GraphError: no row has a number there.

        >>> History([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]).best("loss")["epoch"]
        2
        """
        pairs = [(v, i) for i, v in enumerate(self[name]) if not math.isnan(v)]
        if not pairs:
            raise GraphError(f"the history has no number for {name!r}")
        _, index = max(pairs, key=lambda p: (p[0], -p[1])) if largest else min(pairs)
        return self.epochs[index]

    # --- pictures --------------------------------------------------------------------------------------------------

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw every quantity against the epochs, training and validation together; write it to ``path`` if given.

        The ending of ``path`` says the format (svg, png, pdf). Returns the matplotlib figure.

        Raises:
            GraphError: there are no rows.
        """
        import matplotlib as mpl  # takes half a second, and few runs plot
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        if not self.epochs:
            raise GraphError("there is nothing to plot: the history has no rows yet")
        panels = list(dict.fromkeys(name.removeprefix(VALIDATION) for name in self.names))
        with mpl.rc_context({"font.size": 13, "svg.hashsalt": "graphc", "svg.fonttype": "none"}):
            figure = Figure(figsize=(5.2 * len(panels), 3.8), layout="constrained")
            for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
                for key, label, style in ((name, "training", "-o"), (VALIDATION + name, "validation", "--s")):
                    if key in self:
                        axes.plot(self["epoch"], self[key], style, label=label, markersize=4, linewidth=2)
                axes.set(xlabel="epoch", title=name.replace("_", " "))
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
                axes.spines[["top", "right"]].set_visible(False)
                axes.grid(alpha=0.25)
                axes.legend(frameon=False)
            if path is not None:
                plain = str(path).endswith(".svg")
                figure.savefig(path, dpi=150, metadata={"Date": None} if plain else None)
        return figure

    def _repr_svg_(self) -> str:
        text = io.StringIO()
        import matplotlib as mpl  # see plot

        with mpl.rc_context({"svg.hashsalt": "graphc", "svg.fonttype": "none"}):
            self.plot().savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()

    def _repr_html_(self) -> str:
        columns = ("epoch", *self.names)
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        rows = ("".join(f"<td>{_show(row.get(name))}</td>" for name in columns) for row in self.epochs)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        picture = self._repr_svg_() if self.epochs else ""
        picture = picture[max(picture.find("<svg"), 0) :]  # without the XML prologue
        return f"<div>{picture}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"

    def __repr__(self) -> str:
        last = ", ".join(f"{k} {_show(v)}" for k, v in self.epochs[-1].items()) if self.epochs else "no epochs"
        return f"<History of {len(self)} epochs: {last}>"


def _show(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4g}"

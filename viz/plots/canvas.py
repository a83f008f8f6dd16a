"""The sheet that plots are drawn on: themes for matplotlib, and figures that become files.

What enters: a theme's name, a path and a size. What leaves: a Figure with type, colours and line widths of the theme, written to the
path by its suffix. Invariants: no state of pyplot is touched, equal plots are equal files, nothing is told apart by hue alone, and
matplotlib is loaded when something is drawn, not before.

>>> with canvas(None, "dark", 4, 3) as (figure, look):
...     axes = figure.subplots()
>>> look.theme.name, figure.get_facecolor()[0] < 0.2
('dark', True)
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.errors import DrawError
from viz.render import suffix_of, write_file
from viz.theme import Theme, theme_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png", ".pdf")
Path_ = str | os.PathLike[str] | None
DASHES: tuple[Any, ...] = ("-", "--", (0, (1, 1.2)), "-.", (0, (6, 1.5, 1, 1.5, 1, 1.5)), (0, (8, 2)))
MARKERS = "osD^vPX*<>"
_HUES = {"light": ("#0072B2", "#D55E00", "#00795A", "#9C4F8B", "#8A6D00", "#1A1A1A"),
         "dark": ("#56B4E9", "#F0803C", "#3CC29A", "#DDA0C8", "#F0E442", "#F2F2F2"),
         "print": ("#000000", "#707070", "#404040", "#9A9A9A", "#585858", "#202020")}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """A theme as matplotlib needs it."""

    theme: Theme

    @property
    def width(self) -> float:
        """Of a line, in points."""
        return self.theme.stroke * 1.2

    def hue(self, k: int) -> str:
        """Colour of series k; series beyond the sixth begin anew, with another dash and marker."""
        hues = _HUES.get(self.theme.name, _HUES["light"])
        return hues[k % len(hues)]

    def series(self, k: int) -> dict[str, Any]:
        """Colour, dash and marker of series k: no two of them share any before the sixth."""
        return {
            "color": self.hue(k), "linestyle": DASHES[k % len(DASHES)], "marker": MARKERS[k % len(MARKERS)],
            "markersize": 2.2 + 2 * self.theme.stroke, "linewidth": self.width,
        }  # fmt: skip

    @property
    def signed(self) -> Colormap:
        """Blue below 0, the background at 0, orange above; on paper white, grey, black."""
        from matplotlib.colors import LinearSegmentedColormap

        t = self.theme
        ends = ["#FFFFFF", "#A0A0A0", "#000000"] if t.name == "print" else [t.negative, t.background, t.positive]
        return LinearSegmentedColormap.from_list("graphc-signed", ends)

    @property
    def amount(self) -> Colormap:
        """From the background at 0 to the colour of forward edges: one hue, even in lightness."""
        from matplotlib.colors import LinearSegmentedColormap

        return LinearSegmentedColormap.from_list("graphc-amount", [self.theme.background, self.theme.forward])

    def on_cell(self, share: float) -> str:
        """Ink that is read on a cell of the amount scale."""
        r, g, b, _ = self.amount(share)
        light = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (r, g, b)]
        luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]
        return "#FFFFFF" if 1.05 / (luminance + 0.05) >= 4.0 else "#000000"


@contextmanager
def canvas(path: Path_, theme: str, width: float, height: float) -> Iterator[tuple[Figure, Look]]:
    """An empty figure in a theme, which is written to ``path`` (if there is one) when the block ends without an error.

    Raises:
        DrawError: an unknown theme or suffix, a file that cannot be written, or no matplotlib.
    """
    colours = theme_of(theme)
    suffix = suffix_of(path, SUFFIXES)
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DrawError("plots need matplotlib, which is not installed", help="pip install matplotlib") from error
    ink, size = colours.text, colours.size * 0.8
    settings: Any = {
        "font.size": size, "axes.titlesize": size * 1.05, "axes.labelsize": size, "text.color": ink, "axes.labelcolor": ink,
        "axes.titlecolor": ink, "xtick.color": ink, "ytick.color": ink, "axes.edgecolor": colours.faint, "text.parse_math": False,
        "axes.facecolor": colours.background, "legend.labelcolor": ink, "legend.frameon": False, "svg.hashsalt": "graphc",
        "axes.unicode_minus": True, "font.family": ["DejaVu Sans"], "grid.color": colours.cluster, "grid.alpha": 0.45,
    }  # fmt: skip
    grown = size / 12.0  # larger type on a sheet that is larger by half as much: text never crowds the data out
    factor = (1 + grown) / 2
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width * factor, height * factor), layout="constrained", facecolor=colours.background)
        yield figure, Look(colours)
        if path is not None:
            data = io.BytesIO()
            figure.savefig(data, format=suffix[1:], dpi=150, metadata={"Date": None} if suffix == ".svg" else
                           {"CreationDate": None} if suffix == ".pdf" else None)  # fmt: skip
            write_file(Path(path), data.getvalue())


def plain(axes: Axes, *, grid: bool = True) -> None:
    """No box around the data; a faint grid behind it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(grid)


def decades(axes: Axes) -> None:
    """A logarithmic y axis whose ticks are powers of ten, in plain text."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    short = high / max(low, 1e-300) < 300.0
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if short else (1.0,), numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}" if short else power(v)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def power(value: float) -> str:
    """A power of ten as text.

    >>> power(1e-3), power(1.0), power(100.0)
    ('10⁻³', '1', '100')
    """
    exponent = round(np.log10(value))
    if 0 <= exponent <= 2:
        return f"{10**exponent}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def bare(axes: Axes) -> None:
    """No ticks and no frame: for pictures of arrays."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def array_of(what: Any, name: str, *, ndim: tuple[int, ...] | None = None) -> np.ndarray:
    """Numbers as an array of float64 or integers.

    Raises:
        DrawError: they are no numbers, there are none, or they have another number of axes.

    >>> array_of([[1, 2]], "weights", ndim=(2,)).shape
    (1, 2)
    """
    try:
        array = np.asarray(what)
    except ValueError as error:
        raise DrawError(f"{name}: rows of different lengths are no array", help="give an array") from error
    if array.dtype.kind not in "fiub":
        raise DrawError(f"{name}: {type(what).__name__} holds no numbers", help="give an array of numbers; run the program first")
    if ndim is not None and array.ndim not in ndim:
        wanted = " or ".join(map(str, ndim))
        raise DrawError(f"{name}: expected {wanted} axes, got the shape {list(array.shape)}")
    if array.size == 0:
        raise DrawError(f"{name}: there is nothing to plot, the shape is {list(array.shape)}")
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def shape_of_grid(count: int, columns: int | None) -> tuple[int, int]:
    """Rows and columns for so many panels, about as wide as high.

    >>> shape_of_grid(6, None), shape_of_grid(5, 5)
    ((2, 3), (1, 5))
    """
    wide = columns if columns is not None else int(np.ceil(np.sqrt(count)))
    if isinstance(wide, bool) or not isinstance(wide, int) or wide < 1:
        raise DrawError(f"columns is a positive number, not {columns!r}")
    wide = min(wide, count)
    return -(-count // wide), wide

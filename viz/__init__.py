"""Pictures of graphs, loops and traces. Reads the levels up to the trace, changes nothing.

>>> from graphc import ops
>>> import viz
>>> viz.to_svg(ops.input("x") + 1).startswith("<svg")
True
"""

from viz.engines import engine
from viz.export import export
from viz.page import page
from viz.plots import plot_history
from viz.render import draw, to_svg
from viz.slides import slides

__all__ = ["draw", "engine", "export", "page", "plot_history", "slides", "to_svg"]

"""Pictures of graphs, loops and traces. Reads the levels up to the trace, changes nothing.

>>> from graphc import ops
>>> import viz
>>> viz.to_svg(ops.input("x") + 1).startswith("<svg")
True
"""

from viz import plots
from viz.arena import draw_arena
from viz.engines import engine
from viz.export import export
from viz.page import page
from viz.plots import plot_history
from viz.render import draw, to_svg
from viz.roofline import draw_roofline
from viz.slides import slides

__all__ = ["draw", "draw_arena", "draw_roofline", "engine", "export", "page", "plot_history", "plots", "slides", "to_svg"]

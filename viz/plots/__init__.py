"""Plots that people expect of a course or a paper, with matplotlib, in the four themes: ``graphc.plots``.

What enters: histories, recorders, arrays, symbolic values. What leaves: matplotlib figures, written to a path (.svg, .png, .pdf) where
one is given. Invariants: every function takes ``path`` and ``theme``, returns the Figure and leaves pyplot's state alone; colours are
blind-safe and never the only difference.

>>> from graphc import plots
>>> plots.activations(["relu"], points=3).axes[0].get_title()
'relu'
"""

from viz.plots.curves import activations, gradient_norms, gradients_through_time, plot_history
from viz.plots.grids import attention, attention_weights, confusion_matrix, feature_maps, weights
from viz.plots.surfaces import decision_boundary, grid, loss_surface

history = plot_history

__all__ = [
    "activations", "attention", "attention_weights", "confusion_matrix", "decision_boundary", "feature_maps", "gradient_norms",
    "gradients_through_time", "grid", "history", "loss_surface", "plot_history", "weights",
]  # fmt: skip

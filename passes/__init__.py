"""Graph to graph and graph to loops: one file a pass. The tuples below are the order; a comment says why a pass is where it is."""

from __future__ import annotations

from graphc.rewrite import Pass, Pipeline
from passes.cse import cse
from passes.dce import dce
from passes.expand import expand
from passes.fold import fold
from passes.layout import layout

GRAPH_PIPELINE = Pipeline(
    (
        Pass("expand", expand),
        Pass("fold", fold),
        Pass("cse", cse),
        Pass("dce", dce),
    )
)
LAYOUT = Pipeline((Pass("layout", layout),))

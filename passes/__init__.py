"""Graph to graph and graph to loops: one file a pass. The tuples below are the order, and say why each pass is where it is."""

from __future__ import annotations

from graphc.ir import Graph
from graphc.rewrite import Pass, Pipeline
from passes.causal import causal
from passes.cse import cse
from passes.dce import dce
from passes.expand import expand
from passes.flatten import flatten
from passes.fold import fold
from passes.layout import layout
from passes.motion import loops
from passes.parts import parts
from passes.simplify import EXACT, simplify
from passes.split import split
from passes.stabilise import stabilise

GRAPH_PIPELINE = Pipeline(
    (
        stabilise,
        Pass("causal", causal, why="before expansion, while attention is one node and its derivative stands beside it"),
        Pass("expand", expand, why="everything after it needs to know primitives only"),
        Pass("fold", fold, why="expansions bring constants, and rules match constants"),
        simplify,
        Pass("cse", cse, why="after rules and expansions have made equal things look equal"),
        Pass("dce", dce, why="last, so that nothing dead is lowered"),
    )
)


def _body(graph: Graph) -> Graph:
    """A loop's body through the same passes, inner loops first."""
    return LOOPS.run(GRAPH_PIPELINE.run(graph, check="off"), check="off")


LAYOUT = Pipeline(
    (
        Pass("parts", parts, why="after all that looks at sums term by term; before copies of results are made"),
        Pass("flatten", flatten, why="before fusion, which joins what runs over the same loops"),
        Pass("layout", layout, why="turns what fusion reads into what vectors can read"),
    )
)
LOOPS = Pipeline(
    (
        Pass(
            "loops", lambda graph, context: loops(graph, context, _body, lambda body: LAYOUT.run(body, check="off")),
            why="after simplification, which makes products of the steps look alike; what it takes out is simplified again",
        ),
    )
)  # fmt: skip
SPLIT = Pipeline((Pass("split", split, why="after layout: it must not move what a kernel accumulates on its way"),))

PASSES: dict[str, Pass] = {
    each.name: each for each in (*GRAPH_PIPELINE.passes, *LOOPS.passes, *LAYOUT.passes, *SPLIT.passes)
}  # by name, for `graphc opt`

__all__ = ["EXACT", "GRAPH_PIPELINE", "LAYOUT", "LOOPS", "PASSES", "SPLIT"]

"""``graphc opt``: run passes on IR text. What enters: text of a graph. What leaves: text of the stage asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

from rich.console import Console

from graphc.cli.models import read_ir
from graphc.driver import Check, Options, build_loops, cuda_source, schedule
from graphc.driver import compile as compile_program
from graphc.errors import GraphError
from graphc.ir import Graph
from graphc.loops.text import print_program
from graphc.rewrite import Pass, Pipeline
from graphc.text import parse_graph, print_graph
from graphc.trace import Context, Trace
from passes import GRAPH_PIPELINE, PASSES
from passes.fuse import fuse

EMIT = ("graph", "fusion", "loops", "llvm", "asm", "cuda", "trace")


def describe_passes() -> str:
    """The passes, what they are for and the rules they hold."""
    lines = []
    for each in PASSES.values():
        lines.append(f"{each.name}: {each.why}" if each.why else each.name)
        lines += [f"    {rule}" for rule in each.rules]
    return "\n".join(lines)


def run_opt(out: Console, err: Console, file: Path, names: str, emit: str, check: str, explain: bool) -> None:
    """Run the named passes and print the stage asked for.

    Raises:
        GraphError: an unknown pass or stage. ParseError, PassError: from the text and the passes.
    """
    if emit not in EMIT:
        raise GraphError(f"cannot emit {emit!r}", help=f"choose one of {', '.join(EMIT)}")
    if check not in ("off", "verify", "every-pass"):
        raise GraphError(f"unknown check {check!r}", help="choose off, verify or every-pass")
    text = sys.stdin.read() if str(file) == "-" else read_ir(file)
    graph, trace = parse_graph(text), Trace()
    graph = _pipeline(names).run(graph, check=cast(Check, check), trace=trace)
    out.print(_emit(graph, emit, trace), markup=False, highlight=False, soft_wrap=True)
    if explain:
        for stage in trace.stages:
            for rule, count in stage.rule_counts().items():
                err.print(f"{stage.name}: {rule} x{count}", markup=False, highlight=False)
            for refusal in stage.refusals:
                err.print(f"{stage.name}: did not {refusal.what}: {refusal.reason}", markup=False, highlight=False)


def _pipeline(names: str) -> Pipeline:
    if names == "all":
        return GRAPH_PIPELINE
    chosen: list[Pass] = []
    for name in filter(None, (n.strip() for n in names.split(","))):
        if name not in PASSES:
            raise GraphError(f"no pass is named {name!r}", help=f"the passes are: {', '.join(PASSES)}")
        chosen.append(PASSES[name])
    return Pipeline(tuple(chosen))


def _emit(graph: Graph, emit: str, trace: Trace) -> str:
    match emit:
        case "graph":
            return print_graph(graph)
        case "trace":
            return trace.table()
        case "fusion":
            context = Context("fuse")
            return fuse(graph, context).text()
        case "loops":
            return print_program(schedule(build_loops(graph, Options(), trace), Options()))
        case "cuda":
            return cuda_source(graph, Options())
    program = compile_program(graph, target="cpu")
    return program.source(emit)

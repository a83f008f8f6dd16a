"""Derivation: what the passes make of a static graph, up to scheduled loops, and the text of targets that need no device.

What enters: a graph with its sizes, and options. What leaves: plain loops with their memory planned, or loops mapped to the
CPU's vectors and threads. Invariant: each step leaves its stage in the trace, and equal graphs with equal options give equal loops. ::

    trace = Trace()
    loops = build_loops(Graph("f", {"y": x + x}), Options(), trace)   # optimise, lay out, fuse, lower, plan memory
    schedule(loops, Options())                                        # the same kernels, for vectors and threads
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from graphc.ir import Graph
from graphc.loops.ir import Kernel, LoopProgram
from graphc.loops.text import print_program
from graphc.trace import Context, Stage, Trace
from passes import GRAPH_PIPELINE, LAYOUT, LOOPS, SPLIT
from passes.bundle import bundle_launches
from passes.fuse import SMALL, fuse
from passes.inplace import in_place
from passes.lower import lower
from passes.memory import plan_memory
from passes.once import is_mapped, pack_once
from passes.pack import pack_panels
from passes.prepack import always_constant, large_constants
from passes.rows import SCRATCH
from passes.schedule import schedule_cpu
from passes.stream import stream_outputs

if TYPE_CHECKING:
    from graphc.targets.cpu.program import CpuOptions

Target: TypeAlias = Literal["interpreter", "cpu", "cuda"]
Check: TypeAlias = Literal["off", "verify", "every-pass"]


@dataclass(frozen=True)
class Options:
    """How to compile; equal options share nothing but mean the same code."""

    target: Target = "cpu"
    threads: int = 1
    check: Check = "verify"
    cache: bool = True
    strict: bool = False
    fuse: bool = True
    vector_bits: int | None = None
    freeze: bool = False


@dataclass(frozen=True)
class Derived:
    """What the passes make of a graph for one set of sizes.

    Attributes:
        graph: with sizes, before the passes. trace: their stages.
        loops: before they are scheduled (None for the interpreter). mapped: scheduled for the cpu.
    """

    graph: Graph
    trace: Trace
    loops: LoopProgram | None = None
    mapped: LoopStage | None = None

    def runnable(self) -> LoopProgram:
        """The loops that are compiled for the cpu: scheduled ones where only they say which constants there are."""
        assert self.loops is not None
        return self.scheduled() if large_constants(self.loops) else self.loops

    def scheduled(self) -> LoopProgram:
        """The loops mapped to vectors and threads, made once."""
        assert self.mapped is not None
        return self.mapped.program


def optimise(graph: Graph, trace: Trace, *, check: Check = "verify") -> Graph:
    """The graph-to-graph pipeline on a static graph, recorded in ``trace``."""
    return GRAPH_PIPELINE.run(graph, check=check, trace=trace)


def build_loops(graph: Graph, options: Options, trace: Trace) -> LoopProgram:
    """Everything between a static graph and plain loops: optimise, lay out, fuse, lower, plan memory."""
    graph = optimise(graph, trace, check=options.check)
    if any(node.op.name == "scan" for node in graph.nodes):
        graph = LOOPS.run(graph, check=options.check, trace=trace)
        graph = optimise(graph, trace, check=options.check)
    graph = LAYOUT.run(graph, check=options.check, trace=trace)
    if options.target == "cpu":
        graph = SPLIT.run(graph, check=options.check, trace=trace)
    small, scratch = (SMALL, SCRATCH) if options.target == "cpu" else (0, 0)  # on a grid a row is spread over threads
    fusion = _timed(trace, "fuse", lambda context: fuse(graph, context, enabled=options.fuse, small=small), len(graph))
    loops = _timed(trace, "lower", lambda context: lower(fusion, context, scratch=scratch), len(fusion.groups))
    if options.target == "cpu" and options.fuse:
        bits, threads = cpu_vector(options).bits, options.threads
        loops = pack_once(in_place(bundle_launches(loops)), lambda kernel, kept: _mapped(kernel, bits, threads, kept))
    loops = _timed(trace, "plan memory", lambda context: stream_outputs(plan_memory(loops)), len(loops.launches))
    return loops


def schedule(loops: LoopProgram, options: Options) -> LoopProgram:
    """Map every kernel's loops to the CPU's vectors, register tiles and threads."""
    return schedule_for(loops, cpu_vector(options).bits, options.threads)


def schedule_for(loops: LoopProgram, vector_bits: int, threads: int) -> LoopProgram:
    """The loops mapped for vectors of so many bits, whatever this machine has, and so many threads."""
    kept = always_constant(loops)
    kernels = {n: _mapped(k, vector_bits, threads, kept.get(n, frozenset())) for n, k in loops.kernels.items()}
    return replace(loops, kernels=kernels)


def _mapped(kernel: Kernel, vector_bits: int, threads: int, kept: Set[str]) -> Kernel:
    """A kernel for the CPU; itself if it is mapped already (see :mod:`passes.once`)."""
    if is_mapped(kernel):
        return kernel
    return pack_panels(schedule_cpu(kernel, vector_bits=vector_bits, threads=threads, kept=kept).kernel)


def _timed(trace: Trace, name: str, run: Callable[[Any], Any], before: int) -> Any:
    context = Context(name)
    start = perf_counter()
    artifact = run(context)
    seconds = perf_counter() - start
    after = len(artifact.launches) if isinstance(artifact, LoopProgram) else len(artifact.groups)
    shown = LoopStage(lambda: artifact) if isinstance(artifact, LoopProgram) else artifact
    trace.add(Stage(name, shown, seconds, before, after, context.firings, context.refusals))
    return artifact


class LoopStage:
    """A loop program in the trace, made when it is first looked at (a cached program need not be scheduled again)."""

    def __init__(self, make: Callable[[], LoopProgram]) -> None:
        self._make = make

    @cached_property
    def program(self) -> LoopProgram:
        return self._make()

    def text(self) -> str:
        return print_program(self.program)


def cpu_vector(options: Options) -> Any:
    """The vector unit to compile for."""
    from graphc.targets.cpu.host import vector_target

    level = {512: "avx512", 256: "avx2", 128: "sse4.2"}.get(options.vector_bits or 0)
    return vector_target(level)


def cpu_options(options: Options) -> CpuOptions:
    """The options of the cpu target's code generator."""
    from graphc.targets.cpu.program import CpuOptions

    return CpuOptions(threads=options.threads, vector=cpu_vector(options), cache=options.cache)


def cuda_source(graph: Graph, options: Options) -> str:
    """The graph as one CUDA C++ file; needs neither a GPU nor a compiler."""
    from graphc.targets.cuda import program_source

    return program_source(build_loops(graph, replace(options, target="cuda"), Trace()))


def js_source(graph: Graph, options: Options) -> str:
    """The graph as one JavaScript expression; needs no JavaScript engine."""
    from graphc.targets.js import program_source

    return program_source(build_loops(graph, replace(options, target="interpreter"), Trace()))

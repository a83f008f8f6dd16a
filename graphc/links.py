"""Links: every level's text of a program's kernels, and for each line what it was made for.

What enters: a compiled program. What leaves: a :class:`Links`: for every kernel its loops, LLVM IR and assembly, and the kernels that the
same graph has in CUDA. Invariants: no link is guessed. Lines of LLVM IR and of assembly carry the number of the line of loops that they
were printed for (:mod:`graphc.targets.cpu.located`); lines of loops and of CUDA carry the graph nodes of their statement, those of all
launches that share the kernel (:func:`passes.reuse.counterparts`). ::

    links = program.links()
    links.kernels[0].asm_lines[17]        4: the 18th line of assembly was made for the 4th line of the kernel's loops
    links.kernels[0].nodes[3]             the graph nodes that this line computes
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from graphc.derivation import build_loops, cpu_vector
from graphc.errors import CompileError
from graphc.ir import Node
from graphc.loops.ir import Kernel, LoopProgram
from graphc.loops.text import kernel_lines
from graphc.trace import Trace
from passes.once import is_mapped
from passes.reuse import counterparts

LIMIT = 600_000  # characters of LLVM IR and assembly together
Nodes = tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Linked:
    """One kernel.

    Attributes:
        name: in the loops. loops: the scheduled kernel's text. nodes: for each of its lines the graph nodes that it computes.
        launched: the nodes of every launch. llvm, asm: of its functions; "" where they are left out.
        llvm_lines, asm_lines: for each line of a text the line of ``loops`` that it was made for (from 1; 0: none).
        fused: (line of a product, line of the sum that it became one instruction with).
    """

    name: str
    loops: str
    nodes: Nodes
    launched: tuple[Node, ...]
    llvm: str = ""
    asm: str = ""
    llvm_lines: tuple[int, ...] = ()
    asm_lines: tuple[int, ...] = ()
    fused: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class LinkedCuda:
    """One kernel of the graph's CUDA source, and for each of its lines the graph nodes that it computes."""

    name: str
    text: str
    nodes: Nodes


@dataclass(frozen=True)
class Links:
    """Kernels in the order of their first launch; ``left_out``: those whose LLVM IR and assembly are over the limit."""

    kernels: tuple[Linked, ...]
    cuda: tuple[LinkedCuda, ...]
    left_out: tuple[str, ...] = ()


def links_of(program: Any, limit: int = LIMIT) -> Links:
    """The links of a program that was compiled for the cpu; ``limit`` bounds the characters of LLVM IR and assembly.

    Raises:
        CompileError: the program was compiled for another target.

    >>> import graphc
    >>> x = graphc.input("x", (8,))
    >>> (kernel,) = graphc.compile(graphc.tanh(x) * 2.0, threads=1).links().kernels
    >>> kernel.loops.splitlines()[0].startswith("kernel"), len(kernel.asm_lines) == len(kernel.asm.splitlines())
    (True, True)
    """
    current = program.current()
    if program.options.target != "cpu" or current.loops is None:
        raise CompileError(
            f"a program for {program.options.target} has no machine code to link", help='compile with target="cpu"'
        )
    plain: LoopProgram = current.loops
    mapped: LoopProgram = program.trace.stage("schedule").artifact.program
    own = _counterparts(plain)
    made, left, room = [], [], limit
    for name in dict.fromkeys(launch.kernel for launch in plain.launches):
        kernel = _linked(mapped.kernels[name], own.get(name, {}), plain)
        if room > 0:
            kernel = _with_code(kernel, mapped.kernels[name], program.options)
            room -= len(kernel.llvm) + len(kernel.asm)
        else:
            left.append(name)
        made.append(kernel)
    return Links(tuple(made), _cuda(current.graph, program.options), tuple(left))


def _counterparts(plain: LoopProgram) -> dict[str, dict[Node, tuple[Node, ...]]]:
    """Kernel -> node that its statements name -> the nodes of all launches that it stands for."""
    found: dict[str, dict[Node, dict[Node, None]]] = {}
    for launch in plain.launches:
        kernel = plain.kernels[launch.kernel]
        if is_mapped(kernel):  # packed: its statements are no longer those it was lowered to
            continue
        for node, others in counterparts(kernel, launch).items():
            found.setdefault(launch.kernel, {}).setdefault(node, {}).update(dict.fromkeys(others))
    return {name: {n: tuple(o) for n, o in nodes.items()} for name, nodes in found.items()}


def _linked(kernel: Kernel, own: Mapping[Node, tuple[Node, ...]], plain: LoopProgram) -> Linked:
    lines = list(kernel_lines(kernel))
    nodes = tuple(_standing(getattr(stmt, "nodes", ()), own) for stmt, _ in lines)  # loops and braces have none
    launched = dict.fromkeys(n for a in plain.launches if a.kernel == kernel.name for n in a.nodes or kernel.nodes)
    return Linked(kernel.name, "\n".join(text for _, text in lines), nodes, tuple(launched))


def _standing(nodes: Iterable[Any], own: Mapping[Node, tuple[Node, ...]]) -> tuple[Node, ...]:
    return tuple(dict.fromkeys(other for node in nodes for other in own.get(node, (node,))))


def _with_code(linked: Linked, kernel: Kernel, options: Any) -> Linked:
    from graphc.targets.cpu.located import located

    found = located(kernel, cpu_vector(options), options.threads or 1)
    return replace(
        linked, llvm=found.llvm, asm=found.asm, llvm_lines=found.llvm_lines, asm_lines=found.asm_lines, fused=found.fused
    )


def _cuda(graph: Any, options: Any) -> tuple[LinkedCuda, ...]:
    """The graph's kernels in CUDA: lowered for that target, as ``program.source("cuda")`` does."""
    from graphc.targets.cuda.schedule import schedule_for_cuda
    from graphc.targets.cuda.source import print_cuda

    plain = build_loops(graph, replace(options, target="cuda"), Trace())
    own, scheduled = _counterparts(plain), schedule_for_cuda(plain)
    printed = zip(scheduled.kernels, print_cuda(scheduled).kernels, strict=True)
    return tuple(LinkedCuda(k.name, k.text, tuple(_standing(n, own.get(name, {})) for n in k.nodes)) for name, k in printed)

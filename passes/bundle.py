"""Bundle: neighbouring small launches become one kernel of several nests.

What enters: a lowered :class:`LoopProgram`. What leaves: the same work in fewer launches: the updates of many small parameters, the
counters of an optimizer, a loss and a statistic cost one call. Invariant: nests run in the order of their launches, and one
buffer stays one parameter, so a nest may read what an earlier one wrote. ::

    launch k1_add(t1, w)                launch k1_2_bundle(t1, w, t2, b)
    launch k2_add(t2, b)        ->

Only kernels without guards, scratch memory and contractions are bundled, outside of the steps of a loop: plain nests, whose loops
a schedule maps one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

from graphc.ir import Node
from graphc.loops import ir
from graphc.ops.declare import Contraction, Template
from passes.reuse import counterparts

MOST = 8  # nests of a bundle; bounds the machine code that equal launches no longer share
SMALL = 1 << 14  # iterations of a kernel: larger ones are not bound by the cost of a launch


def bundle_launches(program: ir.LoopProgram) -> ir.LoopProgram:
    """Join runs of small launches; the same program if there are none."""
    small = {name: _is_small(kernel) for name, kernel in program.kernels.items()}
    runs: list[list[ir.Launch]] = []
    open_ = False  # whether the last run may grow
    for launch in program.launches:
        plain = small[launch.kernel] and not any(launch.offsets) and not any(map(_keeps_its_loops, launch.nodes))
        if plain and open_ and len(runs[-1]) < MOST and _one_type_each([*runs[-1], launch], program):
            runs[-1].append(launch)
        else:
            runs.append([launch])
        open_ = plain
    return program if all(len(run) == 1 for run in runs) else _rebuilt(program, runs)


def _keeps_its_loops(node: Node) -> bool:
    return isinstance(node.op.lowering, (Contraction, Template))


def _is_small(kernel: ir.Kernel) -> bool:
    for stmt, loops in kernel.statements():
        if isinstance(stmt, (ir.Guard, ir.Alloc)) or prod(loop.var.extent for loop in loops) > SMALL:
            return False
    return True


def _one_type_each(run: list[ir.Launch], program: ir.LoopProgram) -> bool:
    """Whether every buffer is seen as one type: two parameters must not share memory."""
    types: dict[str, object] = {}
    for launch in run:
        for buffer, param in zip(launch.buffers, program.kernels[launch.kernel].params, strict=True):
            if types.setdefault(buffer, param.type) != param.type:
                return False
    return True


def _rebuilt(program: ir.LoopProgram, runs: list[list[ir.Launch]]) -> ir.LoopProgram:
    kernels: dict[str, ir.Kernel] = {}
    names: dict[object, str] = {}
    launches: list[ir.Launch] = []
    for run in runs:
        if len(run) == 1:
            kernel, buffers, wanted = program.kernels[run[0].kernel], run[0].buffers, run[0].kernel
        else:
            kernel, buffers = _bundle(run, program)
            wanted = f"{run[0].kernel}_bundle{len(run)}"
        name = names.setdefault(kernel.key(), wanted if wanted not in kernels else f"{wanted}_{len(kernels)}")
        kernels.setdefault(name, replace(kernel, name=name))
        if len(run) == 1:
            launches.append(replace(run[0], kernel=name))
        else:
            launches.append(ir.Launch(name, buffers, run[0].site_base, kernel.nodes, lowered=kernel))
    return replace(program, kernels=kernels, launches=tuple(launches))


def _bundle(run: list[ir.Launch], program: ir.LoopProgram) -> tuple[ir.Kernel, tuple[str, ...]]:
    """One kernel for several launches, and its buffers."""
    params: dict[str, ir.Buffer] = {}
    body: list[ir.Stmt] = []
    for number, launch in enumerate(run):
        kernel = program.kernels[launch.kernel]
        renamed: dict[str, str] = {}
        for buffer, param in zip(launch.buffers, kernel.params, strict=True):
            old = params.get(buffer)
            if old is None:
                params[buffer] = replace(param, name=f"b{len(params)}")
            elif old.access != param.access and old.access != "out":  # what a nest has made, later ones may read
                params[buffer] = replace(old, access="inout")
            renamed[param.name] = params[buffer].name
        own = {} if launch.nodes is kernel.nodes else counterparts(kernel, launch)
        body += _renamed(kernel.body, renamed, f"n{number}_", own)
    nodes = tuple(dict.fromkeys(n for launch in run for n in launch.nodes))
    return ir.Kernel("", tuple(params.values()), tuple(body), nodes), tuple(params)


def _renamed(
    body: tuple[ir.Stmt, ...], buffers: Mapping[str, str], prefix: str, own: Mapping[Node, tuple[Node, ...]]
) -> list[ir.Stmt]:
    """A body with other buffers, a prefix to the names of its values, and nodes of its own."""

    def value(operand: ir.Operand) -> ir.Operand:
        return prefix + operand if isinstance(operand, str) else operand

    def of(stmt: ir.Let | ir.Load | ir.Store | ir.IndexValue | ir.Accumulator | ir.Accumulate | ir.ReadAccumulator) -> Any:
        return tuple(n for node in stmt.nodes for n in own.get(node, (node,))) if own else stmt.nodes

    result: list[ir.Stmt] = []
    for stmt in body:
        match stmt:
            case ir.Let():
                result.append(replace(stmt, name=prefix + stmt.name, args=tuple(map(value, stmt.args)), nodes=of(stmt)))
            case ir.Load():
                result.append(replace(stmt, name=prefix + stmt.name, buffer=buffers[stmt.buffer], nodes=of(stmt)))
            case ir.Store():
                result.append(replace(stmt, buffer=buffers[stmt.buffer], value=value(stmt.value), nodes=of(stmt)))
            case ir.IndexValue() | ir.Accumulator():
                result.append(replace(stmt, name=prefix + stmt.name, nodes=of(stmt)))
            case ir.Accumulate():
                result.append(replace(stmt, accumulator=prefix + stmt.accumulator, value=value(stmt.value), nodes=of(stmt)))
            case ir.ReadAccumulator():
                result.append(replace(stmt, name=prefix + stmt.name, accumulator=prefix + stmt.accumulator, nodes=of(stmt)))
            case ir.For() | ir.If():
                result.append(replace(stmt, body=tuple(_renamed(stmt.body, buffers, prefix, own))))
            case _:
                result.append(stmt)
    return result

"""Scratch memory: what a step touches is what was planned, no more; the plan is near the least that is possible."""

from __future__ import annotations

import numpy as np
import pytest

import graphc
from bench.executors.graphc_runner import GraphcRunner, make
from bench.workloads import select
from graphc import ops
from passes.memory import lifetimes, live_bytes

CANARY = 0xA5


def workload(name: str) -> GraphcRunner:
    return make(select([name])[0].make(True), 1)


@pytest.mark.parametrize("name", ["mlp", "small", "vae", "softmax", "layernorm", "chain-100"])
def test_the_measured_peak_is_the_planned_one(name: str) -> None:
    """The arena is filled with a canary: a step overwrites its last buffer, and nothing beyond the planned size."""
    runner = workload(name)
    found = runner.program.specialisations[0]
    executable, loops = found.executable, found.loops
    assert executable is not None and loops is not None
    frame = executable._frame()  # type: ignore[attr-defined]
    start = int(frame.table[len(frame.table) - 1]) - frame.arena.ctypes.data
    end = start + loops.arena_size
    touched = np.zeros(len(frame.arena), bool)
    results = [np.empty(shape, dtype) for _, shape, dtype in found.results]
    for canary in (CANARY, 0x5A):  # a byte may happen to be the canary, but not both
        frame.arena[:] = canary
        executable._frames.append(frame)  # type: ignore[attr-defined]
        executable.run([*runner._arrays, *found.variables, *results])
        assert executable._frames.pop() is frame  # type: ignore[attr-defined]
        touched |= frame.arena != canary
    assert not touched[:start].any() and not touched[end:].any(), "memory outside of the plan was written"
    for life in lifetimes(loops):
        own = touched[start + life.slot.offset : start + life.slot.offset + life.slot.type.nbytes]
        assert own.any() or not own.size, f"{life.slot.name} was planned and never written"
    if loops.arena_size:
        last = max(lifetimes(loops), key=lambda x: x.slot.offset + x.size)
        measured = int(np.flatnonzero(touched)[-1]) + 1 - start
        assert loops.arena_size - measured < 64 + last.slot.type.dtype.itemsize, "the end of the plan is used"


@pytest.mark.parametrize("name", ["mlp", "vae", "softmax", "layernorm", "chain-100"])
def test_the_plan_is_near_the_least_that_is_possible(name: str) -> None:
    loops = workload(name).program.specialisations[0].loops
    assert loops is not None
    least = live_bytes(loops)
    assert least <= loops.arena_size <= 1.25 * least + 4096


def test_memory_of_a_deep_forward_pass_does_not_grow_with_its_depth() -> None:
    def arena(layers: int) -> int:
        value, w = ops.input("x", (64, 64)), ops.input("w", (64, 64))
        for _ in range(layers):
            value = ops.tanh(value @ w)
        loops = graphc.compile(value, threads=1).specialisations[0].loops
        assert loops is not None
        return loops.arena_size

    assert arena(40) == arena(4) == 2 * 64 * 64 * 4


def test_views_take_no_memory_and_updates_happen_in_place() -> None:
    x, w = ops.input("x", (8, 6)), ops.parameter("w", (6, 8), 1.0)
    flat = ops.reshape(ops.reshape(x, (48,)), (6, 8))
    program = graphc.compile({"y": flat * 2.0}, updates={w: w - 0.5 * flat}, threads=1)
    loops = program.specialisations[0].loops
    assert loops is not None and loops.arena_size == 0
    assert len(loops.launches) <= 2


def test_the_plan_can_be_read() -> None:
    text = workload("mlp").program.source("memory")
    assert "arena: " in text and "alive at once" in text and "parameters: " in text and "launches " in text

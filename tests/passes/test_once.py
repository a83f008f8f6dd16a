"""Panels packed before a loop: the same bits as without, one copy for all steps, none where the operand changes."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import ops
from graphc.derivation import _mapped
from graphc.driver import as_graph, build_loops, schedule
from graphc.loops.interpreter import run_program
from graphc.loops.ir import Alloc, Kernel, Launch, LoopProgram
from graphc.loops.verify import verify_program
from graphc.trace import Trace
from passes import once as module
from passes.once import has_threads, is_mapped, pack_once
from passes.scans import merge_scans

RNG = np.random.default_rng(11)
SIZES = [(16, 96), (13, 130), (40, 64)]  # rows, width of the state


def recurrent(rows: int, width: int, steps: int = 6) -> tuple[Any, Any]:
    """The last state of a plain recurrent net, and its loss's gradient in the weights."""
    u = ops.parameter("u", (width, width), (RNG.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32))
    x = graphc.input("x", (steps, rows, width))
    start = graphc.constant(np.zeros((rows, width), np.float32))

    def cell(h: Any, drive: Any) -> Any:
        h = ops.tanh(drive + h @ u)
        return h, h

    last, states = graphc.scan(cell, start, x)
    (slope,) = graphc.grad(ops.sum(states * states), [u])
    return {"last": last, "slope": slope}, x


def lowered(outputs: Any, threads: int = 2) -> LoopProgram:
    graph, _ = as_graph(outputs, None, "f")
    options = graphc.compile(outputs, threads=threads, cache=False).options
    return schedule(build_loops(merge_scans(graph), options, Trace()), options)


def panels(program: LoopProgram) -> list[str]:
    return [name for name in program.buffers if "/packed" in name]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_packed_steps_keep_their_bits(rows: int, width: int, threads: int, monkeypatch: Any) -> None:
    outputs, x = recurrent(rows, width)
    array = RNG.standard_normal(x.shape).astype(np.float32)
    assert panels(lowered(outputs, threads))
    got = graphc.compile(outputs, threads=threads, cache=False)(x=array)
    monkeypatch.setattr(module, "STEPS", 1 << 30)
    assert not panels(lowered(outputs, threads))
    plain = graphc.compile(outputs, threads=threads, cache=False)(x=array)
    for name in outputs:
        np.testing.assert_array_equal(got[name], plain[name])


def test_one_copy_serves_all_steps_and_loops_are_verified() -> None:
    outputs, x = recurrent(24, 160)
    program = lowered(outputs)
    verify_program(program)
    made = panels(program)
    writers = [launch for launch in program.launches if "_panel" in launch.kernel]
    assert len(made) == len(writers) == 2  # forward, and transposed for the way back
    packed = [program.kernels[name] for name in {n.kernel for n in program.launches if "_packed" in n.kernel}]
    assert len(packed) == 2
    copied = {s.buffer.name[:6] for k in packed for s, _ in k.statements() if isinstance(s, Alloc)}
    assert "strips" not in copied
    first = {name: next(n for n, r in enumerate(program.launches) if name in r.buffers) for name in made}
    assert all(program.launches[n] in writers for n in first.values())
    array = RNG.standard_normal(x.shape).astype(np.float32)
    weights = RNG.standard_normal((160, 160)).astype(np.float32) / 12
    found = run_program(program, {"x": array, "u": weights})[0]
    h = np.zeros((24, 160))
    for drive in array:
        h = np.tanh(drive + h @ weights.astype(np.float64))
    np.testing.assert_allclose(found["out.last"], h, atol=2e-4)


def repeated_products(written: int | None) -> LoopProgram:
    """Six launches of one product on one operand; with ``written``, something writes the operand before that launch."""
    program = lowered_plain()
    (number,) = [n for n, launch in enumerate(program.launches) if "matmul" in launch.kernel]
    product = program.launches[number]
    kernel = program.kernels[product.kernel]
    operand = product.buffers[[p.shape for p in kernel.params].index((96, 192))]
    fill = Kernel("fill", (replace(next(p for p in kernel.params if p.shape == (96, 192)), access="out"),), ())
    launches = [product] * 6
    if written is not None:
        launches.insert(written, Launch("fill", (operand,)))
    kernels = {**program.kernels, "fill": fill}
    return replace(program, kernels=kernels, launches=tuple(launches))


def lowered_plain() -> LoopProgram:
    y = graphc.input("a", (16, 96)) @ graphc.input("b", (96, 192))
    graph, _ = as_graph(y, None, "f")
    return build_loops(graph, graphc.compile(y, threads=1, cache=False).options, Trace())


def mapped(kernel: Kernel, kept: Set[str]) -> Kernel:
    return _mapped(kernel, 256, 2, kept)


@pytest.mark.parametrize(("written", "packs"), [(None, True), (0, True), (6, True), (1, False), (3, False), (5, False)])
def test_an_operand_that_is_written_between_steps_is_not_packed(written: int | None, packs: bool) -> None:
    program = repeated_products(written)
    made = pack_once(program, mapped)
    assert bool(panels(made)) == packs
    if packs:
        at = [n for n, launch in enumerate(made.launches) if "_panel" in launch.kernel]
        assert at == [1 if written == 0 else 0]
    else:
        assert made is program or made.launches == program.launches


def test_threads_share_a_copy_only_where_they_share_the_product() -> None:
    program = repeated_products(None)
    for threads in (1, 2):
        made = pack_once(program, lambda kernel, kept, count=threads: _mapped(kernel, 256, count, kept))  # type: ignore[misc]
        (packed,) = [k for n, k in made.kernels.items() if "_packed" in n]
        (panel,) = [k for n, k in made.kernels.items() if "_panel" in n]
        assert has_threads(panel) == has_threads(packed) == (threads > 1)
        assert is_mapped(packed) and _mapped(packed, 256, threads, set()) is packed

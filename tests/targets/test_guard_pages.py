"""Nothing is read or written outside of a buffer: every buffer lies flush against memory that may not be touched.

Each array of a call (inputs, parameters, outputs, and every intermediate, which is turned into an output for this) gets
pages of its own with an inaccessible page before and behind. Flush left, an access before the first element faults;
flush right, one behind the last. A fault ends the forked child, which has written down what it was running.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from graphc import interpreter, ops
from graphc.driver import Options, build_loops, schedule_for
from graphc.ir import Graph
from graphc.loops.ir import LoopProgram
from graphc.targets.cpu.host import vector_target
from graphc.targets.cpu.program import CpuOptions, compile_program
from graphc.trace import Trace
from tests.targets.test_cpu import WIDTHS, every_op

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mmap, mprotect and fork")
PAGE = mmap.PAGESIZE
LEVELS = {512: "avx512", 256: "avx2", 128: "sse4.2"}


class Guarded:
    """Memory with an inaccessible page on both sides; ``array`` lies flush against one of them."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, side: str) -> None:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        pages = max(-(-size // PAGE), 1)
        self.map = mmap.mmap(-1, (pages + 2) * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for page in (base, base + (pages + 1) * PAGE):
            assert protect(page, PAGE, 0) == 0, os.strerror(ctypes.get_errno())
        start = base + PAGE if side == "left" else base + (pages + 1) * PAGE - size
        memory = (ctypes.c_char * size).from_address(start)
        self.array = np.frombuffer(memory, dtype).reshape(shape) if size else np.empty(shape, dtype)


def exposed(loops: LoopProgram) -> LoopProgram:
    """The program with every intermediate as an output of its own."""
    buffers = {n: replace(s, role="output") if s.role == "arena" else s for n, s in loops.buffers.items()}
    return replace(loops, buffers=buffers, arena_size=0)


def guarded_runs(
    graph: Graph, feeds: dict[str, np.ndarray], bits: int, threads: int
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The graph's outputs from runs between guard pages, flush left and flush right."""
    loops = exposed(build_loops(graph, Options(threads=threads), Trace()))
    options = CpuOptions(threads=threads, vector=vector_target(LEVELS[bits]), cache=False)
    code = compile_program(loops, options, schedule=lambda plain: schedule_for(plain, bits, threads))
    for side in ("left", "right"):
        held, arrays = [], {}
        for slot in loops.role("input", "parameter", "output"):
            held.append(Guarded(slot.type.static_shape, slot.type.dtype.numpy, side))  # its array does not own memory
            arrays[slot.name] = array = held[-1].array
            if slot.role == "input":
                array[...] = feeds[slot.name]
            elif slot.role == "parameter":
                array[...] = slot.variable.value
        code.run(list(arrays.values()))
        yield side, {name.removeprefix("out."): a.copy() for name, a in arrays.items() if name.startswith("out.")}


def in_child(work: Callable[[], Iterator[str]]) -> None:
    """Run ``work``, which yields what it is about to do, in a forked child; fail with the last of it if the child dies."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            for step in work():
                os.write(write, step.encode() + b"\n")
            status = 0
        except Exception as error:
            os.write(write, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"status {status} in {said[-1] if said else 'the first step'}"


def test_the_guard_pages_guard() -> None:
    for side, step in (("left", -1), ("right", 1)):
        child = os.fork()
        if not child:
            faulthandler.disable()  # the fault is the point
            array = Guarded((3,), np.dtype(np.float32), side).array
            address = array.ctypes.data + (3 * 4 if step > 0 else -4)
            os._exit(0 if ctypes.c_float.from_address(address).value == 0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) < 0, side


@pytest.mark.parametrize(
    "dtype, widths", [("float32", WIDTHS[:1]), ("float64", WIDTHS[-1:]), ("int32", WIDTHS[:1]), ("bool", WIDTHS[-1:])]
)
def test_every_op_stays_within_its_buffers(dtype: str, widths: list[int]) -> None:
    batch = every_op(dtype)
    graph = batch.graph()
    feeds = {node.name: batch.feeds[node.name] for node in graph.inputs}
    want = interpreter.run(graph, feeds)

    def work() -> Iterator[str]:
        for bits in widths:
            yield f"{dtype} at {bits} bits"
            for side, got in guarded_runs(graph, feeds, bits, 1):
                yield f"{dtype} at {bits} bits, after flush {side}"
                wrong = [n for n, value in want.items() if not batch.bounds[n](got[n], value)]
                assert not wrong, wrong

    in_child(work)


def layers(m: int, n: int, k: int, dtype: str) -> Graph:
    """Products in all transpositions, row statistics, column sums, a gather, updates in place."""
    x, w, b = ops.input("x", (m, k), dtype), ops.input("w", (k, n), dtype), ops.input("b", (n,), dtype)
    at = ops.input("at", (m,), "int32")
    y = ops.tanh(x @ w + b)
    v = ops.parameter("v", (k, n), 1.0, dtype=dtype)
    dw = ops.transpose(x) @ y
    outputs = {
        "y": ops.softmax(y, axis=1), "dx": y @ ops.transpose(w), "columns": ops.sum(y, axis=0), "mean": ops.mean(y),
        "rows": ops.take(w, at, axis=0), "gram": x @ ops.transpose(x),
    }  # fmt: skip
    return Graph("layers", outputs, {v: v - dw * 0.5})


SIZES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 65)


@pytest.mark.parametrize("threads", [1, 2])
def test_layers_of_random_sizes_stay_within_their_buffers(threads: int) -> None:
    generator = np.random.default_rng(threads)
    cases = []
    for number in range(8):
        m, n, k = (int(generator.choice(SIZES)) for _ in range(3))
        dtype = "float64" if number == 5 else "float32"
        graph = layers(m, n, k, dtype)
        feeds = {
            "x": generator.standard_normal((m, k)).astype(dtype), "w": generator.standard_normal((k, n)).astype(dtype),
            "b": generator.standard_normal(n).astype(dtype), "at": generator.integers(0, k, m).astype(np.int32),
        }  # fmt: skip
        cases.append((f"{dtype} m={m} n={n} k={k}", graph, feeds, WIDTHS[number % len(WIDTHS)]))

    def work() -> Iterator[str]:
        for name, graph, feeds, bits in cases:
            yield f"{name} at {bits} bits"
            want = interpreter.run(graph, feeds)
            for side, got in guarded_runs(graph, feeds, bits, threads):
                for output, value in want.items():
                    message = f"{name} {output} flush {side}"
                    np.testing.assert_allclose(got[output], value, rtol=1e-3, atol=1e-4, err_msg=message)

    in_child(work)

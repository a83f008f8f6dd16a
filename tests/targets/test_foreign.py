"""Code for machines that are not this one: AVX-512, SSE4.2 and AArch64 objects of every op, and the loops behind them.

What this host cannot run is checked in three ways: LLVM verifies the text and makes an object of it, the object says
which machine it is for and defines the entry, and the loops that were scheduled for that width run in the loops interpreter.
"""

from __future__ import annotations

import struct

import llvmlite.binding as llvm
import numpy as np
import pytest

from graphc import interpreter, ops
from graphc.driver import Options, build_loops, schedule_for
from graphc.errors import TargetUnavailable
from graphc.ir import Graph
from graphc.loops.interpreter import run_program
from graphc.loops.ir import LoopProgram
from graphc.targets.cpu.emit import emit_program
from graphc.targets.cpu.host import foreign_target, vector_target
from graphc.targets.cpu.jit import emit_assembly, emit_object
from graphc.trace import Trace
from tests.targets.test_cpu import every_op

ARM = "aarch64-unknown-linux-gnu"
MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine of ELF
LINUX = pytest.mark.skipif("linux" not in llvm.get_process_triple(), reason="reads ELF objects")


def plain(graph: Graph) -> LoopProgram:
    return build_loops(graph, Options(), Trace())


def symbols(data: bytes) -> dict[str, bool]:
    """The global symbols of a 64-bit ELF object: name -> whether it is defined."""
    assert data[:6] == b"\x7fELF\x02\x01"
    table, size, count = struct.unpack_from("<Q", data, 40)[0], *struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + n * size) for n in range(count)]
    found: dict[str, bool] = {}
    for section in sections:
        if section[1] != 2:  # SHT_SYMTAB
            continue
        names = sections[section[6]][4]
        for at in range(section[4], section[4] + section[5], 24):
            name, info, _, where, _, _ = struct.unpack_from("<IBBHQQ", data, at)
            if info >> 4:  # not local
                text = data[names + name : data.index(b"\0", names + name)].decode()
                found[text] = where != 0
    return found


def check_object(program: LoopProgram, level: str, triple: str, machine: str, threads: int) -> bytes:
    target = foreign_target(level, triple)
    text = emit_program(schedule_for(program, target.bits, threads), target, threads)
    data = emit_object(text, target)
    assert struct.unpack_from("<H", data, 18)[0] == MACHINES[machine]
    named = symbols(data)
    assert named.pop("graphc_entry")
    wanted = {name for name, defined in named.items() if not defined}
    allowed = {"graphc_parallel", "memcpy", "memset", "memmove"}
    libm = {n.removesuffix("f") for n in wanted - allowed}
    assert libm <= {"sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "pow", "atan2", "fmod", "fma", "expm1",
                    "log1p", "exp", "log", "floor", "ceil", "trunc", "rint", "nearbyint", "roundeven"}, wanted  # fmt: skip
    return data


@LINUX
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
@pytest.mark.parametrize("level, triple, machine", [("neon", ARM, "aarch64"), ("avx512", "", "x86_64")])
def test_every_op_becomes_an_object_for_the_machine(level: str, triple: str, machine: str, dtype: str) -> None:
    if machine == "x86_64" and "x86_64" not in llvm.get_process_triple():
        triple = "x86_64-unknown-linux-gnu"
    check_object(plain(every_op(dtype).graph()), level, triple, machine, 2)


@pytest.mark.parametrize("bits", [512, 256, 128])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_every_op_scheduled_for_any_width_means_the_same(bits: int, dtype: str) -> None:
    batch = every_op(dtype)
    graph = batch.graph()
    feeds = {node.name: batch.feeds[node.name] for node in graph.inputs}
    want = interpreter.run(graph, feeds)
    got = run_program(schedule_for(plain(graph), bits, 2), feeds)[0]
    wrong = [name for name, value in want.items() if not batch.bounds[name](got[f"out.{name}"], value)]
    assert not wrong


def model(m: int, n: int, k: int) -> tuple[Graph, dict[str, np.ndarray]]:
    """A dense layer with its softmax and the backward products."""
    x, w, b = ops.input("x", (m, k)), ops.input("w", (k, n)), ops.input("b", (n,))
    y = ops.softmax(ops.tanh(x @ w + b), axis=1)
    outputs = {"y": y, "dw": ops.transpose(x) @ y, "dx": y @ ops.transpose(w), "total": ops.sum(y, axis=0)}
    generator = np.random.default_rng(0)
    feeds = {
        name: generator.standard_normal(shape).astype(np.float32) for name, shape in
        (("x", (m, k)), ("w", (k, n)), ("b", (n,)))
    }  # fmt: skip
    return Graph("model", outputs), feeds


@pytest.mark.parametrize("bits", [512, 256, 128])
@pytest.mark.parametrize("m, n, k", [(1, 17, 5), (9, 33, 16), (47, 49, 15)])
def test_products_scheduled_for_any_width_mean_the_same(bits: int, m: int, n: int, k: int) -> None:
    graph, feeds = model(m, n, k)
    want = interpreter.run(graph, feeds)
    for threads in (1, 2):
        got = run_program(schedule_for(plain(graph), bits, threads), feeds)[0]
        for name, value in want.items():
            np.testing.assert_allclose(got[f"out.{name}"], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "level, triple, registers",
    [("avx512", "x86_64-unknown-linux-gnu", "%zmm"), ("avx2", "x86_64-unknown-linux-gnu", "%ymm"),
     ("sse4.2", "x86_64-unknown-linux-gnu", "%xmm"), ("neon", ARM, "fmla")],
)  # fmt: skip
def test_products_use_the_registers_of_the_machine(level: str, triple: str, registers: str) -> None:
    target = foreign_target(level, triple)
    program = schedule_for(plain(model(64, 64, 64)[0]), target.bits, 1)
    assembly = emit_assembly(emit_program(program, target, 1), target)
    assert registers in assembly
    wider = {"avx2": "%zmm", "sse4.2": "%ymm"}.get(level)
    assert wider is None or wider not in assembly


def test_foreign_targets_are_named_and_never_run() -> None:
    with pytest.raises(TargetUnavailable, match="no CPU level"):
        foreign_target("mmx")
    with pytest.raises(TargetUnavailable, match="nosuch"):
        foreign_target("neon", "nosuch-machine")
    assert vector_target().triple == ""

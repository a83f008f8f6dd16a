"""Every declared lowering computes what the reference says: the graph interpreter against lowered and fused loops."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest

from graphc import interpreter, losses, ops, random
from graphc.errors import TypeRuleError
from graphc.ir import REGISTRY, Graph, Node
from graphc.loops.interpreter import run_program
from graphc.loops.verify import verify_program
from graphc.ops.examples import examples
from graphc.trace import Context, Trace
from graphc.types import bool_, float32, int32
from passes import GRAPH_PIPELINE, LAYOUT
from passes.fuse import fuse
from passes.lower import lower
from passes.memory import plan_memory


def through_loops(node: Node, arrays: dict[str, np.ndarray]) -> np.ndarray:
    trace = Trace()
    # every declared input stays one, also where the value does not depend on it
    graph = Graph("g", {"y": node})
    graph = LAYOUT.run(GRAPH_PIPELINE.run(graph, trace=trace), trace=trace)
    program = plan_memory(lower(fuse(graph, Context("fuse"))))
    verify_program(program)
    used = {slot.name for slot in program.role("input")}
    outputs, _ = run_program(program, {k: v for k, v in arrays.items() if k in used})
    return np.asarray(outputs["out.y"])


def agree(node: Node, arrays: dict[str, np.ndarray], what: str) -> None:
    want = interpreter.evaluate(node, arrays)
    got = through_loops(node, arrays)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    if want.dtype.kind == "f":
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6, err_msg=what)
    else:
        np.testing.assert_array_equal(got, want, err_msg=what)


@pytest.mark.parametrize("name", sorted(REGISTRY))
@pytest.mark.parametrize("dtype", [float32, int32, bool_], ids=str)
def test_loops_agree_with_the_reference(name: str, dtype: Any) -> None:
    for example in examples(REGISTRY[name], dtype, seed=zlib.crc32(name.encode()), shapes=((3, 4), (), (0,), (5,))):
        try:
            node = example.node()
        except TypeRuleError:
            continue
        agree(node, example.feeds(), str(example))


X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x[::2, ::-1][1:, None],
        lambda x: ops.einsum("ij,kj->ik", x, x),
        lambda x: ops.take_along_axis(x, np.array([[4], [0], [1], [-1], [2], [3]]), 1),
        lambda x: losses.cross_entropy(x, np.array([0, 4, 2, 2, 1, 3], np.int32)),
        lambda x: x + random.normal(random.key(3), (6, 5)),
        lambda x: ops.scatter_add(ops.zeros((4, 5)), [0, 1, 1, 3, 0, -1], x),
        lambda x: ops.reshape(ops.transpose(x), (3, 10)) * 2,
        lambda x: ops.softmax(ops.concatenate([x, ops.pad(x[:, :3], ((0, 0), (1, 1)), -1.0)], axis=1)),
        lambda x: ops.var(ops.cumsum(x, 0), axis=0),
    ],
)
def test_mixtures_agree(f: Any) -> None:
    agree(f(ops.input("x", X.shape)), {"x": X}, "mixture")

"""Results in the memory of dying operands: refused where an element would be read after it was written, the same bits where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.driver import as_graph, build_loops
from graphc.loops.interpreter import run_kernel, run_program
from graphc.loops.ir import LoopProgram
from graphc.loops.parse import parse_kernel
from graphc.loops.verify import verify_program
from graphc.trace import Trace
from passes import inplace as module
from passes.inplace import merged

RNG = np.random.default_rng(7)


def kernel(body: str) -> Any:
    return parse_kernel(f"kernel k(in x: f32[4,6], out y: f32[4,6]) {{\n{body}\n}}")


SAME = "for i in 4 { for j in 6 { %0 = load x[i, j]  %1 = exp(%0)  store y[i, j] = %1 } }"
ROW = """for i in 4 {
  acc %a: f32 = maximum
  for j in 6 { %0 = load x[i, j]  %a maximum= %0 }
  %m = value %a
  for k in 6 { %1 = load x[i, k]  %2 = sub(%1, %m)  store y[i, k] = %2 }
}"""
REVERSED = "for i in 4 { for j in 6 { %0 = load x[i, -1*j+5]  store y[i, j] = %0 } }"
NEIGHBOUR = (
    "for i in 4 { for j in 5 { %0 = load x[i, j]  %1 = load x[i, j+1]  %2 = add(%0, %1)  store y[i, j+1] = %2 } }"
)
WHOLE_AFTER = """for i in 4 { for j in 6 { %0 = load x[i, j]  store y[i, j] = %0 } }
for i2 in 4 { for j2 in 6 { %1 = load x[i2, j2]  store y[i2, j2] = %1 } }"""
OTHER_ROWS = """for i in 4 {
  acc %a: f32 = add
  for r in 4 { for j in 6 { %0 = load x[r, j]  %a add= %0 } }
  %s = value %a
  for k in 6 { %1 = load x[i, k]  %2 = sub(%1, %s)  store y[i, k] = %2 }
}"""
READ_LATER = "for i in 4 { for j in 6 { %0 = load x[i, j]  store y[i, j] = %0 }\n for j2 in 6 { %1 = load x[i, j2]  store y[i, j2] += %1 } }"


@pytest.mark.parametrize("body", [SAME, ROW], ids=["pointwise", "rows"])
def test_allowed(body: str) -> None:
    made = merged(kernel(body), "x", "y")
    assert made is not None and [(p.name, p.access) for p in made.params] == [("x", "inout")]
    x = RNG.standard_normal((4, 6)).astype(np.float32)
    for order in ("sequential", "lanes"):
        got = run_kernel(made, {"x": x}, order=order)["x"]  # type: ignore[arg-type]
        np.testing.assert_array_equal(got, run_kernel(kernel(body), {"x": x})["y"])


@pytest.mark.parametrize("body", [REVERSED, NEIGHBOUR, WHOLE_AFTER, OTHER_ROWS, READ_LATER])
def test_refused(body: str) -> None:
    assert merged(kernel(body), "x", "y") is None


def built(outputs: Any) -> LoopProgram:
    graph, _ = as_graph(outputs, None, "f")
    return build_loops(graph, graphc.compile(outputs).options, Trace())


def normalised() -> Any:
    """Rows of a product, normalised and read by two products: they die where their normalised form is born."""
    rows = graphc.input("x", (64, 96)) @ graphc.input("k", (96, 80))
    weights = graphc.layer_norm(rows, np.ones(80, np.float32), np.zeros(80, np.float32))
    return {
        "y": graphc.relu(weights @ graphc.input("v", (80, 128))) @ graphc.input("o", (128, 8)),
        "z": weights.T @ weights,
    }


def test_a_program_keeps_its_bits_in_a_smaller_arena(monkeypatch: Any) -> None:
    arrays = {
        n: RNG.standard_normal(s).astype(np.float32)
        for n, s in {"x": (64, 96), "k": (96, 80), "v": (80, 128), "o": (128, 8)}.items()
    }
    packed = built(normalised())
    verify_program(packed)
    assert any("inplace" in launch.kernel for launch in packed.launches)
    got = graphc.compile(normalised(), cache=False)(**arrays)["y"]
    interpreted = next(iter(run_program(packed, arrays)[0].values()))
    monkeypatch.setattr(module, "LARGE", 1 << 60)
    plain = built(normalised())
    assert packed.arena_size < plain.arena_size and len(packed.launches) == len(plain.launches)
    np.testing.assert_array_equal(got, graphc.compile(normalised(), cache=False)(**arrays)["y"])
    np.testing.assert_array_equal(interpreted, next(iter(run_program(plain, arrays)[0].values())))


def test_what_lives_on_is_not_written_over() -> None:
    x = graphc.input("x", (96, 96))
    scores = x @ x
    outputs = {"y": graphc.softmax(scores, axis=-1) @ x, "z": scores.T @ x}
    array = RNG.standard_normal((96, 96)).astype(np.float32) / 10
    want = graphc.compile(outputs, target="interpreter")(x=array)
    for name, value in graphc.compile(outputs, cache=False)(x=array).items():
        np.testing.assert_allclose(value, want[name], rtol=1e-4, atol=1e-4)


def test_training_a_transformer_in_place_changes_no_bit(monkeypatch: Any) -> None:
    def train() -> tuple[list[float], int]:
        with graphc.seed(3):
            x, block = graphc.input("x", (2, 32, 64)), nn.TransformerBlock(4)
            loss = graphc.mean(graphc.square(block(x)))
            updates = optim.Adam(0.01).updates(loss, block.parameters())
            step = graphc.compile({"loss": loss}, updates=updates, cache=False)
        data = np.random.default_rng(0).standard_normal((2, 32, 64)).astype(np.float32)
        losses = [float(step(x=data)["loss"]) for _ in range(5)]
        return losses, sum("inplace" in launch.kernel for launch in step.loops.launches)

    shared, count = train()
    assert count
    monkeypatch.setattr(module, "LARGE", 1 << 60)
    assert train() == (shared, 0) and shared[-1] < shared[0]

"""Prepacked constants: the same bits as without, laid out as they are read, shared where they are read alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, ops
from graphc.driver import as_graph, build_loops, schedule
from graphc.freeze import freeze, snapshot
from graphc.loops.interpreter import run_program
from graphc.loops.ir import Alloc, LoopProgram
from graphc.loops.parse import parse_kernel
from graphc.loops.verify import verify_kernel, verify_program
from graphc.trace import Trace
from passes import prepack as module
from passes.prepack import pack_kernel, prepack

RNG = np.random.default_rng(5)


def weight(name: str, *shape: int) -> Any:
    return ops.parameter(name, shape, (RNG.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32))


def scheduled(outputs: Any, threads: int = 2) -> LoopProgram:
    graph, _ = as_graph(outputs, None, "f")
    options = graphc.compile(outputs, threads=threads, freeze=True).options
    return schedule(build_loops(freeze(graph, snapshot(graph)), options, Trace()), options)


def packed_names(program: LoopProgram) -> list[str]:
    return [slot.name for slot in program.role("constant") if "packed" in slot.name]


def strips(program: LoopProgram) -> list[str]:
    """Local buffers of packed operands."""
    found = [s for k in program.kernels.values() for s, _ in k.statements() if isinstance(s, Alloc)]
    return [s.buffer.name for s in found if s.buffer.name.startswith("strips")]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 300, 200), (1, 129, 257), (2, 784, 33), (17, 250, 100), (48, 515, 96), (100, 64, 64)]
)
def test_products_keep_their_bits(m: int, k: int, n: int, transposed: bool, threads: int, monkeypatch: Any) -> None:
    x, w = graphc.input("x", (m, k)), weight("w", *((n, k) if transposed else (k, n)))
    y = x @ (w.T if transposed else w)
    array = RNG.standard_normal((m, k)).astype(np.float32)
    got = graphc.compile(y, threads=threads, freeze=True, cache=False)(x=array)
    monkeypatch.setattr(module, "SMALLEST", 1 << 60)
    plain = graphc.compile(y, threads=threads, freeze=True, cache=False)(x=array)
    np.testing.assert_array_equal(got, plain)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 300, 200), (17, 250, 100), (64, 512, 128)])
def test_packed_loops_are_verified_and_mean_the_same(m: int, k: int, n: int) -> None:
    program = scheduled(graphc.relu(graphc.input("x", (m, k)) @ weight("w", k, n)))
    packed = prepack(program)
    verify_program(packed)
    assert packed_names(packed)
    array = RNG.standard_normal((m, k)).astype(np.float32)
    (want,), (got,) = (run_program(p, {"x": array})[0].values() for p in (program, packed))
    np.testing.assert_array_equal(got, want)


def test_panels_are_made_once_and_kernels_copy_nothing() -> None:
    program = scheduled(graphc.input("x", (64, 512)) @ weight("w", 512, 128))
    packed = prepack(program)
    assert len(strips(program)) == 1 and not strips(packed)
    (slot,) = packed.role("constant")
    assert slot.data.ctypes.data % 64 == 0 and not slot.data.flags.writeable
    assert slot.type.nbytes <= module.GROWTH * 512 * 128 * 4


def test_lanes_lie_side_by_side_in_a_product_with_one_row() -> None:
    (slot,) = prepack(scheduled(graphc.input("x", (1, 256)) @ weight("w", 256, 512))).role("constant")
    flat = slot.data.reshape(-1)
    original = scheduled(graphc.input("x", (1, 256)) @ weight("w", 256, 512)).role("constant")[0].data
    assert flat.size == original.size and slot.data.shape[-1] % 8 == 0


def test_a_layer_that_is_called_twice_is_packed_once() -> None:
    x, w = graphc.input("x", (32, 128)), weight("w", 128, 128)
    packed = prepack(scheduled(graphc.tanh(graphc.tanh(x @ w) @ w)))
    assert len(packed_names(packed)) == 1 and len(packed.role("constant")) == 1
    assert len(packed.kernels) == 1 and len(packed.launches) == 2


def test_a_kernel_that_was_packed_before_keeps_its_panels_apart() -> None:
    kernel = parse_kernel("""
kernel k(in a: f32[8, 16], in b: f32[8, 16], in x: f32[16], out y: f32[8]) {
  alloc local p: f32[8, 16]
  for i in 8 { for j in 16 { %0 = load a[i, j] store p[i, j] = %0 } }
  alloc local q: f32[8, 16]
  for i in 8 { for j in 16 { %1 = load b[i, j] store q[i, j] = %1 } }
  for i in 8 {
    acc %s: f32 = add
    for j in 16 { %2 = load p[i, j] %3 = load q[i, j] %4 = load x[j] %5 = mul(%2, %3) %6 = mul(%5, %4) %s add= %6 }
    %7 = value %s
    store y[i] = %7
  }
}
""")
    once, (first,) = pack_kernel(kernel, frozenset({"a"}))
    twice, (second,) = pack_kernel(once, frozenset({"b"}))
    verify_kernel(twice)
    assert first.name != second.name and {p.name for p in twice.params} == {"x", "y", first.name, second.name}


def test_equal_layers_share_a_kernel() -> None:
    value = graphc.input("x", (32, 128))
    for number in range(3):
        value = graphc.tanh(value @ weight(f"w{number}", 128, 128))
    packed = prepack(scheduled(value))
    assert len(packed_names(packed)) == 3 and len(packed.kernels) == 1


def test_a_constant_that_is_also_read_as_it_was_is_kept() -> None:
    x, w = graphc.input("x", (64, 128)), weight("w", 128, 128)
    outputs = {"y": x @ w, "z": x[:1].reshape((128, 1)) + w}
    packed = prepack(scheduled(outputs))
    verify_program(packed)
    assert len(packed.role("constant")) == 2
    array = RNG.standard_normal((64, 128)).astype(np.float32)
    got = graphc.compile(outputs, freeze=True, cache=False)(x=array)
    want = graphc.compile(outputs, target="interpreter")(x=array)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_nets_keep_their_values(threads: int, monkeypatch: Any) -> None:
    with graphc.seed(0):
        image = graphc.input("image", (3, 12, 12, 3))
        x = graphc.reshape(nn.Conv2D(32, 3, activation="relu")(image), (3, 50, 64))
        y = nn.Dense(10)(nn.LSTM(40, return_sequences=False)(x))
    array = RNG.standard_normal((3, 12, 12, 3)).astype(np.float32)
    monkeypatch.setattr(module, "SMALLEST", 256)
    got = graphc.compile(y, threads=threads, freeze=True, cache=False)(image=array)
    want = graphc.compile(y, target="interpreter")(image=array)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_new_values_are_packed_anew() -> None:
    x, w = graphc.input("x", (1, 256)), weight("w", 256, 256)
    frozen = graphc.compile(x @ w, freeze=True)
    array = RNG.standard_normal((1, 256)).astype(np.float32)
    frozen(x=array)
    w.attrs["variable"].value = np.eye(256, dtype=np.float32)
    frozen.refreeze()
    np.testing.assert_array_equal(frozen(x=array), array)

"""Hostile sizes, and memory: every remainder of lanes and tiles, empty axes, and proof that nothing outside is touched."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import interpreter, losses, ops
from graphc.ir import REGISTRY, Graph, Node
from passes.differentiate import grad
from tests.targets.agreement import Array, Batch, equal, identical, small_integers, within
from tests.targets.kernels import _Guarded as Guarded
from tests.targets.test_cpu import WIDTHS

SIZES = (0, 1, 2, 7, 8, 9, 15, 16, 17, 33, 100, 1000)
SIDES = (0, 1, 2, 5, 6, 7, 15, 16, 17, 48, 100)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("bits", "threads"), [(bits, 1) for bits in WIDTHS] + [(WIDTHS[0], 2)])
def test_pointwise_and_reductions_of_every_size(bits: int, threads: int) -> None:
    batch = Batch()
    for n in SIZES:
        x, y = small_integers(n), small_integers(n, seed=1)
        batch.add(f"pointwise.{n}", lambda x, y: ops.maximum(x * y + x, 0.0) - y, x, y, same=equal)
        batch.add(f"compare.{n}", lambda x, y: ops.where(x < y, x, y * 2.0), x, y)
        batch.add(f"bool.{n}", lambda x, y: ops.any((x < y) | ops.eq(x, 3.0)), x, y)
        batch.add(f"integers.{n}", lambda x: (x * x + 7) ^ x, x.astype(np.int32))
        batch.add(f"double.{n}", lambda x: ops.cast(x, "int64") * 2, x)
        for shape, axis in itertools.product(((n, 3), (3, n), (2, n, 5), (n,)), (0, 1, 2, None)):
            if axis is not None and axis >= len(shape):
                continue
            data = small_integers(*shape, seed=n)
            batch.add(f"sum.{shape}.{axis}", lambda x, a=axis: ops.sum(x, axis=a), data, same=equal)
            if data.size and n < 100:
                batch.add(f"max.{shape}.{axis}", lambda x, a=axis: ops.max(x, axis=a), data, same=equal)
    batch.check(vector_bits=bits, threads=threads, loops=bits == WIDTHS[-1])


@pytest.mark.parametrize("bits", WIDTHS)
def test_rows_of_every_size(bits: int) -> None:
    batch = Batch()
    for n in SIZES[1:-1]:
        for rows in (7,) if n not in (8, 17) else (1, 17):
            x = normal(rows, n, seed=n) * 4
            label = (np.arange(rows) * 5 % n).astype(np.int32)
            near = within(3e-5)
            batch.add(f"softmax.{rows}.{n}", lambda x: ops.softmax(x, axis=1), x, same=near)
            batch.add(f"log_softmax.{rows}.{n}", lambda x: ops.log_softmax(x, axis=1), x, same=near)
            batch.add(f"logsumexp.{rows}.{n}", lambda x: ops.logsumexp(x, axis=1), x, same=near)
            batch.add(f"loss.{rows}.{n}", lambda x, t: losses.cross_entropy(x, t), x, label, same=near)
            batch.add(
                f"gradient.{rows}.{n}", lambda x, t: grad(ops.sum(losses.cross_entropy(x, t)), x), x, label, same=near
            )
            batch.add(f"columns.{rows}.{n}", lambda x: ops.softmax(x, axis=0), x, same=near)
            batch.add(f"argmax.{rows}.{n}", lambda x: ops.argmax(x, axis=1), x)
    batch.check(vector_bits=bits, threads=1, loops=bits == WIDTHS[-1])


@pytest.mark.parametrize("bits", WIDTHS)
def test_movement_of_every_size(bits: int) -> None:
    batch = Batch()
    for n in SIZES[:-1]:
        m = 3 if n > 20 else n + 1
        x, y = small_integers(n, m, seed=n), small_integers(n, m, seed=n + 1)
        index = (np.arange(5) * 3 % max(n, 1)).astype(np.int32)
        batch.add(f"transpose.{n}", ops.transpose, x)
        batch.add(f"transpose3.{n}", lambda x: ops.transpose(x, (2, 0, 1)), small_integers(2, n, 3))
        batch.add(f"flip.{n}", lambda x: ops.flip(x) + 1.0, x)
        for axis in (0, 1):
            batch.add(f"concatenate.{n}.{axis}", lambda *x, a=axis: ops.concatenate(x, axis=a), x, y, x)
            batch.add(f"cumsum.{n}.{axis}", lambda x, a=axis: ops.cumsum(x, axis=a), x, same=equal)
            batch.add(f"backwards.{n}.{axis}", lambda x, a=axis: ops.cumsum(x, axis=a, reverse=True), x, same=equal)
        batch.add(f"pad.{n}", lambda x: ops.pad(x, ((1, 2), (0, 3)), 5.0), x)
        if n:
            batch.add(f"take.{n}", lambda x, i: ops.take(x, i, axis=0), x, index)
            batch.add(f"take.end.{n}", lambda x, i: ops.take(x, i, axis=0), x, index - n)
            batch.add(f"take.inner.{n}", lambda x, i: ops.take(x, i, axis=1), x.T.copy(), index)
            batch.add(
                f"take.grad.{n}", lambda x, i: grad(ops.sum(ops.take(x, i, axis=0) * 2.0), x), x, index, same=equal
            )
            batch.add(f"strided.{n}", lambda x: x[::2, ::-1], x)
            batch.add(f"none.{n}", lambda x, i: ops.take(x, i, axis=0), x, index[:0])
    batch.check(vector_bits=bits, threads=1, loops=bits == WIDTHS[-1])


def _triples(seed: int) -> list[tuple[int, int, int]]:
    """All sides against each other in pairs, without the full product of three."""
    chosen = np.random.default_rng(seed).permutation(list(itertools.product(SIDES, repeat=3)))[:24]
    corners = [(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1), (100, 1, 1), (1, 100, 1), (1, 1, 100), (6, 16, 100)]
    return corners + [(int(m), int(n), int(k)) for m, n, k in chosen]


@pytest.mark.parametrize("transposes", list(itertools.product((False, True), repeat=2)))
@pytest.mark.parametrize(("bits", "threads"), [(bits, 1) for bits in WIDTHS] + [(WIDTHS[0], 2)])
def test_matrix_products_of_every_remainder(transposes: tuple[bool, bool], bits: int, threads: int) -> None:
    first, second = transposes
    batch = Batch()
    for m, n, k in dict.fromkeys(_triples(seed=2 * first + second)):
        a = small_integers(*((k, m) if first else (m, k)), seed=1)
        b = small_integers(*((n, k) if second else (k, n)), seed=2)
        product = lambda a, b: REGISTRY["matmul"](a, b, transpose_a=first, transpose_b=second)  # noqa: E731
        batch.add(f"{m}.{n}.{k}", product, a, b, same=equal)
        if max(m, n, k) < 20:
            batch.add(f"batched.{m}.{n}.{k}", product, np.stack([a, a + 1, a]), np.stack([b, b, b - 1]), same=equal)
            bias = small_integers(n, seed=3)
            batch.add(f"bias.{m}.{n}.{k}", lambda a, b, c: ops.maximum(product(a, b) + c, 0.0), a, b, bias, same=equal)
    batch.check(vector_bits=bits, threads=threads, loops=bits == WIDTHS[0] and threads == 1)


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64"])
def test_matrix_products_of_other_dtypes(dtype: str) -> None:
    batch = Batch()
    for m, n, k in ((1, 1, 1), (5, 7, 6), (16, 17, 15), (7, 48, 100), (3, 4, 0)):
        a, b = small_integers(m, k, dtype=dtype), small_integers(k, n, seed=1, dtype=dtype)
        batch.add(f"{m}.{n}.{k}", ops.matmul, a, b, same=equal)
        turned = small_integers(n, m, seed=2, dtype=dtype)
        batch.add(f"t.{m}.{n}.{k}", lambda a, c: c @ a, a, turned, same=equal)
    batch.check(threads=1)


def test_the_error_of_long_sums_grows_like_a_tree() -> None:
    batch = Batch()
    for n in (1000, 30_000):
        x, y = normal(n), normal(n, seed=1)
        wide = within(0, 8 * np.finfo(np.float32).eps * np.sqrt(n))
        batch.add(f"dot.{n}", lambda x, y: ops.sum(x * y), x, y, same=wide)
        batch.add(f"mean.{n}", lambda x: ops.mean(x), x, same=within(0, 1e-6))
    batch.check(threads=1)


# --- memory --------------------------------------------------------------------------------------------------------


def everything(n: int) -> tuple[Graph, dict[str, Array]]:
    """A program of most kinds of kernels, with a variable that is overwritten."""
    w = ops.parameter("w", (n, 5), small_integers(n, 5, seed=4))
    x, y = ops.input("x", (7, n)), ops.input("y", (7, n))
    i = ops.input("i", (7,), "int32")
    flags = ops.input("flags", (n,), "bool")
    product = x @ w
    outputs: dict[str, Node] = {
        "product": product, "row": ops.sum(x, axis=0), "column": ops.sum(y, axis=1), "all": ops.sum(x * y),
        "softmax": ops.softmax(x, axis=1), "turned": ops.transpose(y), "taken": ops.take(ops.transpose(x), i, axis=0),
        "flags": flags & (ops.sum(x, axis=0) > 0.0), "pad": ops.pad(x, ((1, 1), (2, 3)), 1.0),
        "sums": ops.cumsum(y, axis=1), "both": ops.concatenate([x, y], axis=1), "argmax": ops.argmax(y, axis=1),
        "spread": grad(ops.sum(ops.square(ops.take(x, i % 7, axis=0))), x),
    }  # fmt: skip
    arrays = {
        "x": small_integers(7, n), "y": small_integers(7, n, seed=1),
        "i": (np.arange(7) % n).astype(np.int32), "flags": np.arange(n) % 3 == 0,
    }  # fmt: skip
    return Graph("everything", outputs, {w: w - 0.5 * ops.transpose(x) @ product}), arrays


def run_guarded(program: graphc.Program, arrays: Mapping[str, Array], fence: bool) -> dict[str, Array]:
    """Run machine code on arrays between canaries (or before a fence); results and new variables by slot name."""
    found = program.specialisations[0]
    assert found.loops is not None
    memory: dict[str, Any] = {}
    for slot in found.loops.role("input", "parameter", "output"):
        cell = Guarded(slot.type.static_shape, slot.type.dtype.numpy, fence)
        if slot.role == "input":
            cell.array[...] = arrays[slot.name]
        elif slot.role == "parameter":
            cell.array[...] = slot.variable.value
        memory[slot.name] = cell
    assert found.executable is not None
    found.executable.run([cell.array for cell in memory.values()])
    for name, cell in memory.items():
        assert cell.intact(), f"wrote outside of {name}"
    for name, array in arrays.items():
        np.testing.assert_array_equal(memory[name].array, array, err_msg=f"input {name} was changed")
    return {name: cell.array.copy() for name, cell in memory.items()}


@pytest.mark.parametrize("fence", [False, True], ids=["canaries", "fence"])
@pytest.mark.parametrize("n", [1, 7, 9, 17, 33])
def test_nothing_outside_is_written_or_read(n: int, fence: bool) -> None:
    graph, arrays = everything(n)
    want, updates = interpreter.run_with_updates(graph, arrays)
    for options in ({"threads": 1}, {"threads": 2}, {"threads": 1, "vector_bits": 128}, {"threads": 1, "fuse": False}):
        program = graphc.compile(graph, cache=False, **options)  # type: ignore[arg-type]
        got = run_guarded(program, arrays, fence)
        for name, value in want.items():
            close = within(1e-5) if name == "softmax" else equal if value.dtype.kind == "f" else identical
            assert close(got[f"out.{name}"], value), name
        for variable, value in updates.items():
            assert equal(got[variable.name], value)


@pytest.mark.parametrize(("m", "k", "n"), [(7, 320, 255), (7, 321, 255), (7, 333, 255), (7, 512, 257)])
def test_a_parallel_loop_takes_no_value_of_an_earlier_nest_that_had_the_same_name(m: int, k: int, n: int) -> None:
    """Products whose edges are unrolled nests before the parallel one."""
    a, b = small_integers(m, k), small_integers(n, k)
    program = graphc.compile(ops.input("a", (m, k)) @ ops.input("b", (n, k)).T, threads=2, cache=False)
    np.testing.assert_array_equal(program(a=a, b=b), a @ b.T)

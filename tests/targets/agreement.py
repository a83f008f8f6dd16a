"""Many small calls compiled as one program, and held to the interpreter on the way down.

What enters: calls by name, each a function of symbolic values with its arrays. What leaves: nothing, or one assertion
that lists every call that disagrees. Invariant: graph interpreter = loops interpreter (on scheduled loops) = machine
code; bit for bit (NaN = NaN, signs of zeros included) unless a call is added with a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import graphc
from graphc import interpreter, ops
from graphc.ir import Graph, Node
from graphc.loops.interpreter import run_program

Array = np.ndarray[Any, np.dtype[Any]]


class Batch:
    """Calls that share a program."""

    def __init__(self) -> None:
        self.outputs: dict[str, Node] = {}
        self.feeds: dict[str, Array] = {}
        self.bounds: dict[str, Callable[[Array, Array], bool]] = {}

    def add(
        self, name: str, call: Callable[..., Node], *arrays: Any, same: Callable[[Array, Array], bool] | None = None
    ) -> None:
        """``call`` on inputs of the arrays' types; ``same(got, want)`` replaces equality of bits."""
        assert name not in self.outputs, name
        nodes = []
        for array in map(np.asarray, arrays):
            given = f"x{len(self.feeds)}"
            self.feeds[given] = np.asarray(array, order="C")
            nodes.append(ops.input(given, array.shape, array.dtype))
        self.outputs[name] = call(*nodes)
        self.bounds[name] = same or identical

    def graph(self) -> Graph:
        return Graph("batch", self.outputs, {}, ())

    def check(self, *, loops: bool = True, **options: Any) -> graphc.Program:
        """Compile with these options and compare."""
        graph = self.graph()
        feeds = {node.name: self.feeds[node.name] for node in graph.inputs}
        want = interpreter.run(graph, feeds)
        program = graphc.compile(graph, cache=False, **options)
        results = {"machine code": program(**feeds)}
        if loops:
            state = {p.name: p.attrs["variable"].value.copy() for p in graph.parameters}
            raw = run_program(program.loops, {**feeds, **state})[0]
            results["loops"] = {name: raw[f"out.{name}"] for name in want}
        wrong = [
            f"{name} in {where}: got {got[name].ravel()[:8]}, not {value.ravel()[:8]}"
            for where, got in results.items()
            for name, value in want.items()
            if got[name].dtype != value.dtype or got[name].shape != value.shape
            or not self.bounds[name](got[name], value)
        ]  # fmt: skip
        assert not wrong, f"{len(wrong)} of {len(want)} calls with {options}:\n" + "\n".join(wrong[:20])
        return program


def identical(got: Array, want: Array) -> bool:
    """Equal bits, but for the payload and sign of NaN."""
    if want.dtype.kind != "f":
        return bool((got == want).all())
    nan = np.isnan(want)
    return bool(
        (np.isnan(got) == nan).all()
        and (got[~nan] == want[~nan]).all()
        and (np.signbit(got[~nan]) == np.signbit(want[~nan])).all()
    )


def equal(got: Array, want: Array) -> bool:
    """Equal values: +0 and -0 are one."""
    return bool(np.array_equal(got, want, equal_nan=want.dtype.kind == "f"))


def within(rtol: float, atol: float | None = None) -> Callable[[Array, Array], bool]:
    """Close, relatively or absolutely."""
    return lambda got, want: bool(
        np.allclose(got, want, rtol=rtol, atol=rtol if atol is None else atol, equal_nan=True)
    )


def ulps(bound: int) -> Callable[[Array, Array], bool]:
    """At most ``bound`` floats apart (of the want's own dtype); NaN and infinities in the same places."""

    def near(got: Array, want: Array) -> bool:
        if want.dtype.kind != "f":
            return identical(got, want)
        finite = np.isfinite(want)
        if not identical(got[~finite], want[~finite]):
            return False
        spacing = np.spacing(np.abs(want[finite]).astype(want.dtype))
        return bool((np.abs(got[finite] - want[finite]) <= bound * spacing).all())

    return near


def small_integers(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Whole numbers from -8 to 8: sums of products of them are exact in any order."""
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(dtype)

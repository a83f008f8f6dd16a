"""Random graphs and their gradients through the whole pipeline, every pass checked: machine code = interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphc
from graphc import interpreter, ops
from graphc.ir import Graph
from passes.differentiate import grad
from tests.strategies import Case, programs

OPTIONS = st.fixed_dictionaries({
    "threads": st.sampled_from([1, 2]), "vector_bits": st.sampled_from([None, 128]), "fuse": st.booleans(),
})  # fmt: skip


def agree(graph: Graph, arrays: dict[str, np.ndarray], options: dict[str, object], check: str = "every-pass") -> None:
    state = [p.attrs["variable"] for p in graph.parameters]
    before = [v.value.copy() for v in state]
    want, updates = interpreter.run_with_updates(graph, arrays)
    noise = sensitivity(graph, arrays, want, updates)
    program = graphc.compile(graph, cache=False, check=check, **options)  # type: ignore[arg-type]
    given_ = {node.name: arrays[node.name] for node in graph.inputs}
    kept = {name: array.copy() for name, array in given_.items()}
    for _ in range(2):  # a second call on the same state must not see what the first one left in its arena
        got = program(**given_)
        for name, value in want.items():
            _close(got[name], value, name, noise)
        for variable in state:
            _close(variable.value, updates.get(variable, before[state.index(variable)]), variable.name, noise)
        for variable, old in zip(state, before, strict=True):
            variable.value = old
    for name, array in kept.items():
        np.testing.assert_array_equal(given_[name], array, err_msg=f"input {name} was changed")


def sensitivity(
    graph: Graph, arrays: dict[str, np.ndarray], want: dict[str, np.ndarray], updates: dict[graphc.variables.Variable, np.ndarray]
) -> float:
    """How far the oracle itself moves, relative to its largest value, when inputs and parameters move by one part in 10^6.

    A random chain of thirty ops may be ill-conditioned; then two right answers differ by more than a few roundings.
    """
    rng = np.random.default_rng(0)

    def moved(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind != "f":
            return array
        return (array * (1 + 1e-6 * rng.choice([-1, 1], array.shape))).astype(array.dtype)

    state = [p.attrs["variable"] for p in graph.parameters]
    before = [v.value for v in state]
    worst = 0.0
    for _ in range(3):
        for variable, value in zip(state, before, strict=True):
            variable.value = moved(value)
        near, near_updates = interpreter.run_with_updates(graph, {n: moved(a) for n, a in arrays.items()})
        pairs = [(near[n], want[n]) for n in want] + [(near_updates[v], updates[v]) for v in updates]
        for a, b in pairs:
            if b.size and b.dtype.kind == "f" and np.isfinite(a).all() and np.isfinite(b).all():
                distance = np.abs(a.astype(np.float64) - b).max() / max(float(np.abs(b).max()), 1.0)
                worst = max(worst, float(distance))
    for variable, value in zip(state, before, strict=True):
        variable.value = value
    return worst


def _close(got: np.ndarray, want: np.ndarray, name: str, noise: float) -> None:
    assert got.dtype == want.dtype
    scale = max(float(np.abs(want).max(initial=0)), 1.0)
    tolerance = max(2e-4, 10 * noise)
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=tolerance * scale, err_msg=name)


def with_gradients(case: Case) -> Case:
    """The sum of the outputs, and its derivatives by everything that it depends on."""
    graph, arrays = case
    total = sum((ops.sum(ops.tanh(v)) for v in graph.outputs.values()), ops.constant(0.0))
    reached = Graph("total", {"total": total})
    wrt = [n for n in (*reached.inputs, *reached.parameters) if n.dtype.is_float]
    outputs = {"total": total, **{f"d_{n.name}": g for n, g in zip(wrt, grad(total, wrt) if wrt else [], strict=True)}}
    graph = Graph("gradients", outputs)
    return graph, {n.name: arrays[n.name] for n in graph.inputs}


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(programs(), OPTIONS)
def test_random_graphs(case: Case, options: dict[str, object]) -> None:
    agree(*case, options)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(programs(8), OPTIONS)
def test_gradients_of_random_graphs(case: Case, options: dict[str, object]) -> None:
    agree(*with_gradients(case), options)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(30), OPTIONS, st.booleans())
def test_many_random_graphs(case: Case, options: dict[str, object], derived: bool) -> None:
    agree(*(with_gradients(case) if derived else case), options, check="verify")

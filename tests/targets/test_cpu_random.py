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
    program = graphc.compile(graph, cache=False, check=check, **options)  # type: ignore[arg-type]
    given_ = {node.name: arrays[node.name] for node in graph.inputs}
    kept = {name: array.copy() for name, array in given_.items()}
    for _ in range(2):  # a second call on the same state must not see what the first one left in its arena
        got = program(**given_)
        for name, value in want.items():
            _close(got[name], value, name)
        for variable in state:
            _close(variable.value, updates.get(variable, before[state.index(variable)]), variable.name)
        for variable, old in zip(state, before, strict=True):
            variable.value = old
    for name, array in kept.items():
        np.testing.assert_array_equal(given_[name], array, err_msg=f"input {name} was changed")


def _close(got: np.ndarray, want: np.ndarray, name: str) -> None:
    assert got.dtype == want.dtype
    scale = max(float(np.abs(want).max(initial=0)), 1.0)
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4 * scale, err_msg=name)


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
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(30), OPTIONS, st.booleans())
def test_many_random_graphs(case: Case, options: dict[str, object], derived: bool) -> None:
    agree(*(with_gradients(case) if derived else case), options, check="verify")

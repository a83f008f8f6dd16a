"""Frozen programs: constants instead of parameters, a snapshot of their values, nothing of them in the code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc.errors import GraphError
from graphc.ops import parameter

RNG = np.random.default_rng(3)


def weights(name: str, *shape: int) -> Any:
    return parameter(name, shape, RNG.standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("target", ["cpu", "interpreter"])
def test_values_are_those_of_the_plain_program(target: Any) -> None:
    x = graphc.input("x", ("n", 9))
    w, v, scale = weights("w", 24, 9), weights("v", 24, 5), weights("scale")
    y = graphc.relu(x @ w.T) @ v * scale
    array = RNG.standard_normal((4, 9)).astype(np.float32)
    plain = graphc.compile(y, target=target)(x=array)
    frozen = graphc.compile(y, target=target, freeze=True)(x=array)
    np.testing.assert_allclose(frozen, plain, rtol=1e-5, atol=1e-5)


def test_what_depends_on_constants_alone_is_computed_once() -> None:
    x, a, b = graphc.input("x", (4, 32)), weights("a", 32, 32), weights("b", 32, 32)
    y = x + (a.T @ b).reshape((8, 128)).T.reshape((32, 32))[:4]
    frozen = graphc.compile(y, freeze=True, threads=1)
    assert len(graphc.compile(y, threads=1).loops.launches) > len(frozen.loops.launches) == 1
    assert not frozen.loops.role("parameter")
    array = np.zeros((4, 32), np.float32)
    expected = (a.attrs["variable"].value.T @ b.attrs["variable"].value).reshape(8, 128).T.reshape(32, 32)[:4]
    np.testing.assert_allclose(frozen(x=array), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", ["cpu", "interpreter"])
def test_snapshot_is_kept_until_refreeze(target: Any) -> None:
    x, w, c = graphc.input("x", (2, 3)), weights("w", 3, 2), weights("c")
    frozen = graphc.compile(x @ w + c, target=target, freeze=True)
    array = np.ones((2, 3), np.float32)
    before = frozen(x=array)
    w.attrs["variable"].value = np.zeros((3, 2), np.float32)
    c.attrs["variable"].value = 7.0
    np.testing.assert_array_equal(frozen(x=array), before)
    frozen.refreeze()
    np.testing.assert_array_equal(frozen(x=array), np.full((2, 2), 7, np.float32))
    np.testing.assert_array_equal(frozen.bind("x")(array), np.full((2, 2), 7, np.float32))


def test_symbolic_sizes_share_one_snapshot() -> None:
    x, w = graphc.input("x", ("n", 2)), weights("w", 2, 2)
    frozen = graphc.compile(x @ w, freeze=True)
    held = w.attrs["variable"].value.copy()
    first = frozen(x=np.eye(2, dtype=np.float32))
    w.attrs["variable"].value = held + 1
    np.testing.assert_array_equal(first, frozen(x=np.eye(3, 2, dtype=np.float32))[:2])
    frozen.refreeze()
    np.testing.assert_allclose(frozen(x=np.eye(2, dtype=np.float32)), held + 1, rtol=1e-6)


def test_updated_parameters_stay_variables() -> None:
    x, w, state = graphc.input("x", (3,)), weights("w", 3), parameter("state", (3,), 0.0)
    step = graphc.compile(state + x * w, updates={state: state + x * w}, freeze=True)
    held = w.attrs["variable"].value.copy()
    ones = np.ones(3, np.float32)
    step(x=ones)
    np.testing.assert_allclose(step(x=ones), 2 * held, rtol=1e-5)
    np.testing.assert_allclose(state.attrs["variable"].value, 2 * held, rtol=1e-5)
    assert [slot.variable.name for slot in step.loops.role("parameter")] == ["state"]


def test_code_holds_no_values(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    x, w, c = graphc.input("x", (2, 3)), weights("w", 3, 2), weights("c")
    frozen = graphc.compile((x @ w * c) + w.sum(), freeze=True)
    w.attrs["variable"].value = np.full((3, 2), 0.25, np.float32)
    c.attrs["variable"].value = 3.0
    frozen.refreeze()
    assert frozen.specialisations[-1].executable.cache == "hit"
    assert frozen(x=np.ones((2, 3), np.float32))[0, 0] == pytest.approx(3 * 0.75 + 1.5)


def test_only_frozen_programs_refreeze() -> None:
    program = graphc.compile(weights("w", 2) + 1)
    with pytest.raises(GraphError, match="not frozen"):
        program.refreeze()

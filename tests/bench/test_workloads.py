"""Every workload at tiny size: its versions agree with the float64 reference, and the reference with finite differences."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from bench.agreement import Errors, begin, compare, observe, read_reference, write_reference
from bench.executors import EXECUTORS, Unavailable
from bench.executors.numpy_runner import NumpyRunner
from bench.workload import Scratch, Workload
from bench.workloads import ENTRIES, select
from graphc.errors import GraphError

NAMES = [n for n, e in ENTRIES.items() if e.family is None] + [
    "matmul-64x64x64",
    "matmul-512x512x512-a",
    "matmul-2048x768x3072-g",
]
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def errors(name: str, executor: str, folder: Path) -> Errors:
    """What the worker does: two steps, observe, compare."""
    work = ENTRIES[name].make(True)
    write_reference(work, folder / "reference.npz")
    runner = EXECUTORS[executor].make(work, 1)
    first = begin(work, runner)
    runner.run()
    return compare(observe(work, runner, first), read_reference(folder / "reference.npz"), work.weights)


@pytest.mark.parametrize("executor", ["interpreter", "graphc", "numpy", "torch eager", "jax", "onnxruntime"])
@pytest.mark.parametrize("name", NAMES)
def test_versions_agree_with_float64(name: str, executor: str, tmp_path: Path) -> None:
    if missing := EXECUTORS[executor].missing():
        pytest.skip(f"{missing} is not installed")
    if name == "chain-1000" and executor != "numpy":
        pytest.skip("the shorter chains have the same code")
    try:
        found = errors(name, executor, tmp_path)
    except Unavailable as error:
        assert executor == "onnxruntime" or "graphc has no" in str(error)
        pytest.skip(str(error))
    assert found.refusal(1e-4) is None
    assert found.largest > 0 or name.startswith("matmul"), "float32 against float64 differs somewhere"


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith(("matmul", "chain-1000", "chain-100"))])
def test_the_reference_is_the_gradient(name: str) -> None:
    """Along a random direction, by central differences in float64."""
    work = ENTRIES[name].make(True)
    if work.kind == "inference":
        pytest.skip("has no gradient")
    weights = {n: a.astype(np.float64) for n, a in work.weights.items()}
    data = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in work.data.items()}
    rng = np.random.default_rng(3)
    direction = {n: rng.standard_normal(a.shape) for n, a in weights.items()}

    def loss(step: float) -> float:
        moved = {n: a + step * direction[n] for n, a in weights.items()}
        outputs, _ = work.numpy(moved, data, Scratch())
        return float(outputs["loss"] if work.cotangent is None else np.sum(outputs["y"] * data[work.cotangent]))

    _, gradients = work.numpy(weights, data, Scratch())
    slope = sum(float(np.sum(gradients[n] * direction[n])) for n in weights)
    step = 1e-6
    assert slope == pytest.approx((loss(step) - loss(-step)) / (2 * step), rel=1e-5, abs=1e-9)


def wrong(work: Workload, what: str) -> Errors:
    """Errors of NumPy in float32 with one thing made wrong."""
    folder_reference = NumpyRunner(work, np.float64)
    first = begin(work, folder_reference)
    folder_reference.run()
    reference = observe(work, folder_reference, first)
    runner = NumpyRunner(work)
    first = begin(work, runner)
    runner.run()
    found = observe(work, runner, first)
    name = next(n for n in found if n.startswith(what))
    found[name] = found[name] * 1.3 + 0.01 if what != "missing" else found[name]
    return compare(found, reference, work.weights)


@pytest.mark.parametrize(
    ("what", "says"),
    [("output", "outputs are off"), ("gradient", "gradients are off"), ("update", "updated weights are off")],
)
def test_what_is_wrong_is_refused(what: str, says: str) -> None:
    refusal = wrong(ENTRIES["mlp"].make(True), what).refusal(1e-3)
    assert refusal is not None
    assert refusal.startswith(says)


def test_nan_shapes_and_absence_are_infinite_errors() -> None:
    reference = {"output loss": np.float64(1.0), "gradient w": np.ones((2, 2))}
    weights = {"w": np.ones((2, 2), np.float32)}
    good = {"output loss": np.float32(1.0), "gradient w": np.ones((2, 2), np.float32)}
    assert compare(good, reference, weights).refusal(1e-6) is None
    for bad in ({"output loss": np.float32(np.nan)}, {"gradient w": np.ones(4, np.float32)}):
        assert compare({**good, **bad}, reference, weights).largest == np.inf
        assert compare({**good, **bad}, reference, weights).refusal(1e-3)
    assert compare({"output loss": np.float32(1.0)}, reference, weights).gradients == np.inf


def test_a_wrong_optimizer_is_refused(tmp_path: Path) -> None:
    """The loss and the gradients are right, the step is not."""
    work = ENTRIES["small"].make(True)
    write_reference(work, tmp_path / "reference.npz")
    assert work.rule is not None
    lazy = Workload(**{**vars(work), "rule": type(work.rule)("sgd", work.rule.rate / 2)})
    runner = NumpyRunner(lazy)
    first = begin(lazy, runner)
    runner.run()
    found = compare(observe(lazy, runner, first), read_reference(tmp_path / "reference.npz"), work.weights)
    assert found.updates > 0.4
    assert "updated weights" in str(found.refusal(0.05))


def test_erf_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import formulas

    x = np.linspace(-5, 5, 1001)
    monkeypatch.setattr(formulas, "_scipy_erf", lambda: None)
    exact = formulas.erf(x)
    assert np.max(np.abs(formulas.erf(x.astype(np.float32)) - exact)) < 1e-6
    if importlib.util.find_spec("scipy"):
        from scipy.special import erf

        assert np.max(np.abs(exact - erf(x))) < 1e-15


def test_selecting_workloads() -> None:
    assert [e.name for e in select(["small", "gpt"])] == ["small", "gpt", "gpt-inference"]
    assert len(select([])) == len(ENTRIES)
    with pytest.raises(GraphError, match="unknown workload 'mlpp'"):
        select(["mlpp"])

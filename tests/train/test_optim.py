"""Every optimizer against its formula written by hand in NumPy (float64), over several steps; clipping; refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from graphc import ops, optim, schedules
from graphc.driver import compile
from graphc.errors import GraphError
from graphc.interpreter import evaluate
from graphc.ir import Graph

START = np.array([1.5, -2.0, 0.3, 4.0])
CURVATURE = np.array([1.0, 10.0, 0.1, 3.0])
STEPS = 7
Rule = Callable[[np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray]


def gradient(w: np.ndarray) -> np.ndarray:
    return CURVATURE * w + np.cos(w)


def by_hand(rule: Rule) -> list[np.ndarray]:
    w, state, seen = START.copy(), {}, []
    for t in range(1, STEPS + 1):
        w = rule(w, gradient(w), state, t)
        seen.append(w)
    return seen


def sgd(momentum: float = 0.0, nesterov: bool = False, decay: float = 0.0) -> Rule:
    def rule(w: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
        g = g + decay * w
        s["v"] = momentum * s.get("v", 0.0) + g
        return w - 0.05 * (g + momentum * s["v"] if nesterov else s["v"])

    return rule


def adagrad(w: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
    s["n"] = s.get("n", 0.0) + g**2
    return w - 0.05 * g / (np.sqrt(s["n"]) + 1e-10)


def adadelta(w: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
    s["g"] = 0.9 * s.get("g", 0.0) + 0.1 * g**2
    d = np.sqrt(s.get("d", 0.0) + 1e-6) / np.sqrt(s["g"] + 1e-6) * g
    s["d"] = 0.9 * s.get("d", 0.0) + 0.1 * d**2
    return w - d


def rmsprop(momentum: float = 0.0, centered: bool = False) -> Rule:
    def rule(w: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
        s["v"] = 0.99 * s.get("v", 0.0) + 0.01 * g**2
        s["m"] = 0.99 * s.get("m", 0.0) + 0.01 * g
        size = s["v"] - s["m"] ** 2 if centered else s["v"]
        s["b"] = momentum * s.get("b", 0.0) + g / (np.sqrt(size) + 1e-8)
        return w - 0.05 * s["b"]

    return rule


def adam(decay: float = 0.0) -> Rule:
    def rule(w: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
        s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * g
        s["v"] = 0.999 * s.get("v", 0.0) + 0.001 * g**2
        step = 0.05 * (s["m"] / (1 - 0.9**t)) / (np.sqrt(s["v"] / (1 - 0.999**t)) + 1e-8)
        return w - 0.05 * decay * w - step

    return rule


CASES: dict[str, tuple[optim.Optimizer, Rule]] = {
    "sgd": (optim.SGD(0.05), sgd()),
    "momentum": (optim.SGD(0.05, momentum=0.9), sgd(0.9)),
    "nesterov": (optim.SGD(0.05, momentum=0.9, nesterov=True), sgd(0.9, True)),
    "sgd decay": (optim.SGD(0.05, momentum=0.5, weight_decay=0.1), sgd(0.5, decay=0.1)),
    "adagrad": (optim.Adagrad(0.05), adagrad),
    "adadelta": (optim.Adadelta(), adadelta),
    "rmsprop": (optim.RMSProp(0.05), rmsprop()),
    "rmsprop momentum": (optim.RMSProp(0.05, momentum=0.9), rmsprop(0.9)),
    "rmsprop centered": (optim.RMSProp(0.05, centered=True), rmsprop(centered=True)),
    "adam": (optim.Adam(0.05), adam()),
    "adamw": (optim.AdamW(0.05, weight_decay=0.1), adam(0.1)),
}


def steps(optimizer: optim.Optimizer, dtype: str) -> Iterator[np.ndarray]:
    w = ops.parameter("w", START.shape, START, dtype=dtype)
    c = ops.constant(CURVATURE.astype(dtype))
    loss = ops.sum(0.5 * c * w * w + ops.sin(w))
    program = compile({"loss": loss}, target="interpreter", updates=optimizer.updates(loss, [w]))
    for _ in range(STEPS):
        program()
        yield w.attrs["variable"].value.copy()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 3e-5)])
def test_against_the_formula(name: str, dtype: str, tolerance: float) -> None:
    optimizer, rule = CASES[name]
    for ours, expected in zip(steps(optimizer, dtype), by_hand(rule), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.torch
@pytest.mark.parametrize("name", CASES)
def test_against_torch(name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    made = {
        "sgd": lambda p: torch.optim.SGD(p, 0.05),
        "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
        "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
        "sgd decay": lambda p: torch.optim.SGD(p, 0.05, momentum=0.5, weight_decay=0.1),
        "adagrad": lambda p: torch.optim.Adagrad(p, 0.05),
        "adadelta": lambda p: torch.optim.Adadelta(p),
        "rmsprop": lambda p: torch.optim.RMSprop(p, 0.05),
        "rmsprop momentum": lambda p: torch.optim.RMSprop(p, 0.05, momentum=0.9),
        "rmsprop centered": lambda p: torch.optim.RMSprop(p, 0.05, centered=True),
        "adam": lambda p: torch.optim.Adam(p, 0.05),
        "adamw": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1),
    }
    w = torch.tensor(START, requires_grad=True)
    theirs = made[name]([w])
    for ours in steps(CASES[name][0], "float64"):
        w.grad = torch.tensor(gradient(w.detach().numpy()))
        theirs.step()
        np.testing.assert_allclose(ours, w.detach().numpy(), rtol=1e-9, atol=1e-9)


def test_first_step_of_adam_is_accurate_in_float32() -> None:
    """At t = 1 Adam's change is the rate, whatever beta2: the correction must not lose digits."""
    w = ops.parameter("w", (), 0.0)
    new = optim.Adam(1.0).updates(3.0 * w, [w])[w]
    assert evaluate(new).item() == pytest.approx(-1.0, abs=3e-7)


def test_a_schedule_drives_the_rate() -> None:
    w = ops.parameter("w", (), 0.0)
    optimizer = optim.SGD(schedules.piecewise([1, 2], [1.0, 0.5, 0.25]))
    program = compile({"w": w}, target="interpreter", updates=optimizer.updates(-1.0 * w, [w]))
    assert [program()["w"].item() for _ in range(4)] == [0.0, 1.0, 1.5, 1.75]


def test_state_is_named_after_optimizer_slot_and_parameter() -> None:
    w = ops.parameter("net/w", (2,), 1.0)
    updates = optim.Adam(name="inner").updates(ops.sum(w), [w])
    assert [n.name for n in updates] == ["net/w", "inner/first_moment/net/w", "inner/second_moment/net/w", "inner/step"]
    assert not any(n.attrs["variable"].trainable for n in list(updates)[1:])
    assert all(any(o.pass_name == "optimize" for o in new.origins) for new in updates.values())


def test_clip_by_value() -> None:
    clipped = optim.clip_by_value([ops.constant([-5.0, 0.5, 2.0])], 1.0)
    assert evaluate(clipped[0]).tolist() == [-1.0, 0.5, 1.0]


def test_clip_by_global_norm() -> None:
    gradients = [ops.constant([3.0]), ops.constant([[4.0]])]
    assert evaluate(optim.global_norm(gradients)).item() == 5.0
    small = [evaluate(g).item() for g in optim.clip_by_global_norm(gradients, 1.0)]
    np.testing.assert_allclose(small, [0.6, 0.8], rtol=1e-6)
    assert [evaluate(g).item() for g in optim.clip_by_global_norm(gradients, 10.0)] == [3.0, 4.0]
    zero = optim.clip_by_global_norm([ops.constant([0.0])], 1.0)
    assert evaluate(zero[0]).tolist() == [0.0]


def test_clip_in_updates() -> None:
    w = ops.parameter("w", (), 0.0)
    assert evaluate(optim.SGD(1.0).updates(100.0 * w, [w], clip=2.0)[w]).item() == pytest.approx(-2.0)
    halved = optim.SGD(1.0).updates(100.0 * w, [w], clip=lambda gs: [g * 0.5 for g in gs])[w]
    assert evaluate(halved).item() == pytest.approx(-50.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.SGD(-0.1),
        lambda: optim.SGD(math.inf),
        lambda: optim.SGD(0.1, nesterov=True),
        lambda: optim.SGD(0.1, momentum=-1.0),
        lambda: optim.Adam(0.1, beta1=1.0),
        lambda: optim.AdamW(0.1, weight_decay=-1.0),
        lambda: optim.AdamW(0.1, beta2=1.5),
        lambda: optim.RMSProp(0.1, rho=-0.1),
        lambda: optim.Adadelta(rho=1.0),
        lambda: optim.Adagrad(epsilon=-1.0),
        lambda: optim.clip_by_value([ops.constant([1.0])], 0.0),
        lambda: optim.clip_by_global_norm([], 1.0),
    ],
)
def test_bad_arguments_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(GraphError):
        make()


def test_what_cannot_be_updated_is_refused() -> None:
    w, x = ops.parameter("w", ()), ops.input("x")
    with pytest.raises(GraphError, match="no parameter"):
        optim.SGD(0.1).updates(w * x, [x])
    with pytest.raises(GraphError, match="given twice"):
        optim.SGD(0.1).updates(w * x, [w, w])
    with pytest.raises(GraphError, match="no parameters"):
        optim.SGD(0.1).updates(w * x, [])
    with pytest.raises(GraphError, match="0 gradients for 1"):
        optim.SGD(0.1).apply([], [w])
    with pytest.raises(GraphError, match="the gradient of w"):
        optim.SGD(0.1).apply([ops.constant([1.0])], [w])


def test_what_all_parameters_share_is_made_once() -> None:
    weights = [ops.parameter(f"w{n}", (3, n + 1), 1.0) for n in range(5)]
    loss = ops.sum(ops.concatenate([ops.reshape(w * w, (-1,)) for w in weights], axis=0))
    updates = optim.AdamW(1e-3).updates(loss, weights)
    graph = Graph("step", {"loss": loss}, updates)
    assert sum(node.op.name == "expm1" for node in graph.nodes) == 2
    doubles = [ops.parameter("d", (2,), 1.0, dtype="float64"), weights[0]]
    both = optim.AdamW(1e-3).apply(doubles, doubles)
    assert sum(node.op.name == "expm1" for node in Graph("two", {}, both).nodes) == 4

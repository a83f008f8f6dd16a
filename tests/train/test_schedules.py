"""Schedules against formulas written by hand, as numbers and inside a compiled program."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphc import ops, schedules
from graphc.errors import GraphError
from graphc.interpreter import evaluate
from graphc.schedules import Schedule

STEPS = np.arange(40)


def half_cosine(start: float, end: float, p: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(p, 1.0)))


def one_cycle(k: int) -> float:
    return half_cosine(0.5 / 25, 0.5, k / 6) if k < 6 else half_cosine(0.5, 0.5e-4, (k - 6) / 14)


CASES = [
    (schedules.constant(0.3), lambda k: 0.3),
    (schedules.piecewise([3, 10], [1.0, 0.5, 0.25]), lambda k: 1.0 if k < 3 else 0.5 if k < 10 else 0.25),
    (schedules.step_decay(0.1, every=7, factor=0.5), lambda k: 0.1 * 0.5 ** (k // 7)),
    (schedules.exponential(0.1, 0.9, 5), lambda k: 0.1 * 0.9 ** (k / 5)),
    (schedules.inverse_time(0.1, 2.0, 4), lambda k: 0.1 / (1 + 2 * k / 4)),
    (schedules.polynomial(0.4, 20, end=0.1), lambda k: 0.1 + 0.3 * (1 - min(k / 20, 1))),
    (schedules.polynomial(0.4, 20, power=2.0), lambda k: 0.4 * (1 - min(k / 20, 1)) ** 2),
    (schedules.cosine(0.4, 20, end=0.1), lambda k: half_cosine(0.4, 0.1, k / 20)),
    (
        schedules.linear_warmup(5, schedules.cosine(0.4, 20)),
        lambda k: 0.4 * (k + 1) / 5 if k < 5 else half_cosine(0.4, 0.0, (k - 5) / 20),
    ),
    (schedules.one_cycle(0.5, 20), one_cycle),
]


each_schedule = pytest.mark.parametrize(("schedule", "formula"), CASES, ids=[str(case[0]) for case in CASES])


@each_schedule
def test_against_the_formula(schedule: Schedule, formula: object) -> None:
    expected = [formula(int(k)) for k in STEPS]  # type: ignore[operator]
    np.testing.assert_allclose(schedule(STEPS), expected, rtol=1e-12, atol=1e-15)


@each_schedule
def test_of_a_step_node(schedule: Schedule, formula: object) -> None:
    step = ops.input("step", (), dtype="int32")
    rate = schedule(step) + 0.0 * ops.cast(step, "float32")  # a constant schedule does not read the step
    assert str(rate.type) == "f32[]"
    for k in (0, 4, 5, 6, 11, 39):
        value = evaluate(rate, {"step": np.int32(k)})
        assert value == pytest.approx(formula(k), rel=1e-5, abs=1e-7)  # type: ignore[operator]


def test_a_function_is_a_schedule() -> None:
    halved = schedules.as_schedule(lambda step: 1.0 / (1.0 + step))
    assert halved([0, 1]).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.constant(-1.0),
        lambda: schedules.constant(math.nan),
        lambda: schedules.piecewise([1], [0.1]),
        lambda: schedules.piecewise([3, 3], [0.1, 0.2, 0.3]),
        lambda: schedules.exponential(0.1, 0.0, 10),
        lambda: schedules.cosine(0.1, 0),
        lambda: schedules.cosine(0.1, 2.5),  # type: ignore[arg-type]
        lambda: schedules.one_cycle(0.1, 10, warmup=1.0),
        lambda: schedules.polynomial(0.1, 10, power=0.0),
        lambda: schedules.inverse_time(0.1, -1.0, 10),
    ],
)
def test_bad_arguments_are_refused(make: object) -> None:
    with pytest.raises(GraphError):
        make()  # type: ignore[operator]

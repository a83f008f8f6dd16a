"""Learning-rate schedules: the rate as a symbolic function of the number of updates already made.

What enters: a step, counted from 0 (a node inside a compiled training step; a number or an array when looking at it).
What leaves: the rate, in the same form. Invariant: a schedule holds no state, so a resumed run has the rate that the
unbroken run would have had.

>>> warm = linear_warmup(4, then=cosine(0.1, steps=10))
>>> [round(float(warm(k)), 4) for k in (0, 1, 3, 4, 9, 14)]
[0.025, 0.05, 0.1, 0.1, 0.05, 0.0]

Every schedule is usable as an optimizer's ``learning_rate``: ``optim.Adam(schedules.cosine(1e-3, steps=1000))``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias, overload

import numpy as np

from graphc import interpreter, ops, provenance
from graphc.errors import GraphError
from graphc.ir import Node


@dataclass(frozen=True)
class Schedule:
    """A rate as a function of the step.

    Attributes:
        label: how it was called.
        rate: from a floating step node to the rate, of the same dtype and shape.
    """

    label: str
    rate: Callable[[Node], Node]

    @overload
    def __call__(self, step: Node) -> Node: ...
    @overload
    def __call__(self, step: Any) -> np.ndarray: ...
    def __call__(self, step: Any) -> Node | np.ndarray:
        """The rate at a step: symbolic for a node (integers are cast to float32), a float64 array for numbers.

        >>> constant(0.5)([0, 1]).tolist()
        [0.5, 0.5]
        """
        if isinstance(step, Node):
            return self.rate(step if step.dtype.is_float else ops.cast(step, "float32"))
        return np.asarray(interpreter.evaluate(self.rate(ops.constant(np.asarray(step, np.float64)))))

    def __repr__(self) -> str:
        return self.label


AnySchedule: TypeAlias = "float | Schedule | Callable[[Node], Node]"


def as_schedule(rate: AnySchedule) -> Schedule:
    """A schedule from a number, a schedule, or a function of the step node.

    Raises:
        GraphError: the number is negative or not finite.

    >>> as_schedule(0.1)
    constant(0.1)
    """
    if isinstance(rate, Schedule):
        return rate
    if callable(rate):
        return Schedule(getattr(rate, "__name__", "schedule"), rate)
    return constant(rate)


def constant(rate: float) -> Schedule:
    """Always ``rate``."""
    _check_rate(rate)
    return Schedule(f"constant({rate})", lambda step: ops.full_like(step, rate))


def piecewise(boundaries: Sequence[int], rates: Sequence[float]) -> Schedule:
    """``rates[i]`` from step ``boundaries[i-1]`` on, up to ``boundaries[i]``.

    Raises:
        GraphError: the boundaries do not increase, or there is not one rate more than boundaries.

    >>> [float(piecewise([10, 20], [1.0, 0.1, 0.01])(k)) for k in (0, 9, 10, 20)]
    [1.0, 1.0, 0.1, 0.01]
    """
    if len(rates) != len(boundaries) + 1 or any(b >= a for b, a in pairwise(boundaries)):
        raise _error(
            f"piecewise: {len(boundaries)} boundaries and {len(rates)} rates",
            "boundaries increase, and there is one rate more than boundaries",
        )
    for rate in rates:
        _check_rate(rate)

    def at(step: Node) -> Node:
        value = ops.full_like(step, rates[0])
        for boundary, rate in zip(boundaries, rates[1:], strict=True):
            value = ops.where(step >= float(boundary), rate, value)
        return value

    return Schedule(f"piecewise({list(boundaries)}, {list(rates)})", at)


def step_decay(initial: float, every: int, factor: float = 0.1) -> Schedule:
    """``initial * factor ** floor(step / every)``: a staircase.

    >>> [round(float(step_decay(1.0, every=5)(k)), 3) for k in (4, 5, 10)]
    [1.0, 0.1, 0.01]
    """
    return exponential(initial, factor, every, staircase=True)


def exponential(initial: float, factor: float, steps: int, *, staircase: bool = False) -> Schedule:
    """``initial * factor ** (step / steps)``; with ``staircase`` the exponent is rounded down.

    Raises:
        GraphError: ``factor`` or ``steps`` is not positive.

    >>> float(exponential(0.8, 0.5, steps=10)(20))
    0.2
    """
    _check_rate(initial)
    _check_steps(steps)
    _require(math.isfinite(factor) and factor > 0, f"a decay factor is a positive number, not {factor}")

    def at(step: Node) -> Node:
        exponent = step / float(steps)
        whole = ops.floor(exponent) if staircase else exponent
        return initial * ops.exp2(whole * math.log2(factor))

    return Schedule(f"exponential({initial}, {factor}, {steps})", at)


def inverse_time(initial: float, factor: float, steps: int) -> Schedule:
    """``initial / (1 + factor * step / steps)`` (Robbins and Monro 1951 need such a decay for convergence).

    >>> float(inverse_time(1.0, 1.0, steps=10)(10))
    0.5
    """
    _check_rate(initial)
    _check_steps(steps)
    _require(math.isfinite(factor) and factor >= 0, f"a decay factor is a number from 0 on, not {factor}")
    return Schedule(
        f"inverse_time({initial}, {factor}, {steps})", lambda step: initial / (1.0 + step * (factor / steps))
    )


def polynomial(initial: float, steps: int, *, end: float = 0.0, power: float = 1.0) -> Schedule:
    """From ``initial`` to ``end`` along ``(1 - step / steps) ** power``, then ``end``. Linear at power 1.

    >>> [float(polynomial(1.0, 10)(k)) for k in (0, 5, 10, 99)]
    [1.0, 0.5, 0.0, 0.0]
    """
    _check_rate(initial)
    _check_rate(end)
    _check_steps(steps)
    _require(math.isfinite(power) and power > 0, f"a power is a positive number, not {power}")

    def at(step: Node) -> Node:
        left = 1.0 - _progress(step, steps)
        return end + (initial - end) * (left if power == 1.0 else left**power)

    return Schedule(f"polynomial({initial}, {steps}, end={end}, power={power})", at)


def cosine(initial: float, steps: int, *, end: float = 0.0) -> Schedule:
    """From ``initial`` to ``end`` along half a cosine wave, then ``end``.

    Source: Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, equation 5.

    >>> [round(float(cosine(1.0, 10)(k)), 3) for k in (0, 5, 10, 20)]
    [1.0, 0.5, 0.0, 0.0]
    """
    _check_rate(initial)
    _check_rate(end)
    _check_steps(steps)
    return Schedule(
        f"cosine({initial}, {steps}, end={end})", lambda step: _cosine_between(initial, end, _progress(step, steps))
    )


def linear_warmup(steps: int, then: AnySchedule) -> Schedule:
    """Rise in equal parts to ``then``'s first rate during the first ``steps`` updates; afterwards ``then``, from its 0.

    The first update has ``1 / steps`` of the rate, the last of the warm-up all of it.

    Source: Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017, section 2.2.

    >>> [float(linear_warmup(2, 0.5)(k)) for k in (0, 1, 2)]
    [0.25, 0.5, 0.5]
    """
    _check_steps(steps)
    after = as_schedule(then)

    def at(step: Node) -> Node:
        peak = after.rate(ops.zeros_like(step))
        rising = peak * ((step + 1.0) * (1.0 / steps))
        return ops.where(step < float(steps), rising, after.rate(ops.maximum(step - float(steps), 0.0)))

    return Schedule(f"linear_warmup({steps}, {after})", at)


def one_cycle(
    peak: float, steps: int, *, warmup: float = 0.3, start_divisor: float = 25.0, end_divisor: float = 1e4
) -> Schedule:
    """One rise and one fall, each half a cosine wave: ``peak / start_divisor`` -> ``peak`` -> ``peak / end_divisor``.

    Args:
        peak: highest rate, reached after ``warmup * steps`` updates.
        steps: length of the cycle; afterwards the rate stays at its end.

    Source: Smith, Topin, "Super-convergence: very fast training of neural networks using large learning rates", 2018.

    >>> [round(float(one_cycle(1.0, 100)(k)), 4) for k in (0, 30, 100)]
    [0.04, 1.0, 0.0001]
    """
    _check_rate(peak)
    _check_steps(steps)
    _require(0 < warmup < 1, f"warmup is a fraction between 0 and 1, not {warmup}")
    _require(start_divisor > 0 and end_divisor > 0, "divisors are positive")
    top = warmup * steps

    def at(step: Node) -> Node:
        rising = _cosine_between(peak / start_divisor, peak, _progress(step, top))
        falling = _cosine_between(peak, peak / end_divisor, _progress(ops.maximum(step - top, 0.0), steps - top))
        return ops.where(step < top, rising, falling)

    return Schedule(f"one_cycle({peak}, {steps})", at)


def _progress(step: Node, steps: float) -> Node:
    return ops.minimum(step / float(steps), 1.0)


def _cosine_between(start: float, end: float, progress: Node) -> Node:
    return end + (start - end) * (0.5 * (1.0 + ops.cos(progress * math.pi)))


def _check_rate(rate: float) -> None:
    number = isinstance(rate, (int, float, np.number)) and not isinstance(rate, bool)
    _require(
        number and math.isfinite(rate) and rate >= 0, f"a learning rate is a finite number from 0 on, not {rate!r}"
    )


def _check_steps(steps: int) -> None:
    whole = isinstance(steps, (int, np.integer)) and not isinstance(steps, bool)
    _require(whole and steps > 0, f"a number of steps is a positive integer, not {steps!r}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise _error(message, None)


def _error(message: str, help: str | None) -> GraphError:
    return GraphError(message, source=provenance.capture(), help=help)

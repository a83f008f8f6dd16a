"""Timing that can be trusted: warm-up, several rounds in turn, median and spread.

What enters: named callables. What leaves: a :class:`Timing` each. Invariant: executors run in turn (A B C A B C ...), so that
a machine whose speed drifts slows all of them alike; ratios within one run are what may be quoted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median over rounds, and the quartiles as spread."""

    name: str
    median: float
    low: float
    high: float
    calls: int

    @property
    def spread(self) -> str:
        """Quartiles around the median, as -x% +y%."""
        return f"-{1 - self.low / self.median:.0%} +{self.high / self.median - 1:.0%}"


def race(
    runners: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 9,
    warm_up: int = 3,
    round_seconds: float = 0.05,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Timing]:
    """Time each runner; a round repeats a call until ``round_seconds`` have passed.

    >>> times = race({"nothing": lambda: None}, rounds=3, round_seconds=0.001)
    >>> times["nothing"].median < 1e-3
    True
    """
    repeats = {}
    for name, run in runners.items():
        if progress:
            progress(f"warming up {name}")
        for _ in range(warm_up):
            run()
        start = perf_counter()
        run()
        once = max(perf_counter() - start, 1e-9)
        repeats[name] = max(1, int(round_seconds / once))
    samples: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds):
        for name, run in runners.items():
            if progress:
                progress(f"round {number + 1} of {rounds}: {name}")
            run()  # bring its code and data back into the caches
            start = perf_counter()
            for _ in range(repeats[name]):
                run()
            samples[name].append((perf_counter() - start) / repeats[name])
    result = {}
    for name, values in samples.items():
        low, median, high = np.percentile(values, [25, 50, 75])
        result[name] = Timing(name, float(median), float(low), float(high), rounds * repeats[name])
    return result

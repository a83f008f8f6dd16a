"""A profile's figures, ready to be shown: one :class:`Kernel` a row, numbers as text, sentences.

What enters: a :class:`graphc.profile.Profile` (pictures read what it holds and import nothing that makes it). What leaves: plain
figures. Invariant: launches of one kernel for the same lines are one row, as in the profile's own table. ::

    for kernel in kernels_of(profile): print(kernel.sentence())
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphc.ir import Node


@dataclass(frozen=True)
class Kernel:
    """One row of a profile.

    Attributes:
        name, runs, seconds, flops, bytes, threads: in a step. share: of the step's time.
        of_roof: the least time that the machine could need over the time taken.
        bound: "memory" or "arithmetic", whichever limit is nearer.
        lines: the user's. nodes: with the statements run for each. launches: their numbers.
        interpreted: what the interpreter spends on the same (seconds, bytes, flops), where it was timed.
    """

    name: str
    runs: int
    seconds: float
    share: float
    flops: int
    bytes: int
    of_roof: float
    bound: str
    threads: float
    lines: tuple[str, ...]
    nodes: dict[Node, float]
    launches: tuple[int, ...]
    interpreted: tuple[float, float, float] | None

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.flops / self.seconds if self.seconds else 0.0

    @property
    def faster(self) -> float:
        """The interpreter's time over the kernel's; 0 where it was not timed."""
        return self.interpreted[0] / self.seconds if self.interpreted and self.seconds else 0.0

    @property
    def title(self) -> str:
        """Name and number of runs."""
        return f"{self.name} ×{self.runs}" if self.runs > 1 else self.name

    def sentence(self) -> str:
        """Everything in words: a tooltip, and what a screen reader says."""
        parts = [f"{self.title}: {duration(self.seconds)}, {self.share:.1%} of the step"]
        if self.interpreted:
            parts.append(f"interpreted {duration(self.interpreted[0])}, {factor(self.faster)}")
        rate = f", {amount(self.rate, 'FLOP/s')}" if self.flops else ""
        parts.append(f"{amount(self.flops, 'FLOP')}, {amount(self.bytes, 'B')}{rate}")
        if self.threads > 1.05:
            parts.append(f"{self.threads:.1f} threads at work")
        parts.append(f"{self.of_roof:.0%} of the roof, whose limit here is {self.bound}")
        return "; ".join(parts) + (f". From {', '.join(self.lines[:3])}." if self.lines else ".")


def kernels_of(profile: Any) -> list[Kernel]:
    """The rows of a profile in the order of their first launch."""
    roof, total = profile.roofline(), profile.seconds or 1.0
    launches: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for row in profile.rows:
        launches.setdefault((row.kernel, row.sources), []).append(row.launch)
    found = []
    for row in profile.merged():
        runs = max(row.runs, 1)
        flops, size = row.flops / runs, row.bytes / runs
        arithmetic = flops * (row.itemsize / 4) / roof.flops
        spent = row.interpreted
        found.append(Kernel(
            row.kernel, row.runs, row.seconds, row.seconds / total, row.flops, row.bytes, row.share_of(roof),
            "arithmetic" if arithmetic > size / roof.bandwidth(size) else "memory", row.busy_threads, row.sources, dict(row.nodes),
            tuple(launches[row.kernel, row.sources]), (spent.seconds, spent.bytes, spent.flops) if spent is not None else None,
        ))  # fmt: skip
    return found


def duration(seconds: float) -> str:
    """A time in three digits.

    >>> duration(4.84e-4), duration(3e-7), duration(0.0021), duration(0.0)
    ('484 µs', '0.30 µs', '2.10 ms', '0 µs')
    """
    if seconds <= 0:
        return "0 µs"
    for scale, unit in ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s")):
        if seconds < 999.5 * scale or unit == "s":
            return f"{_digits(seconds / scale)} {unit}"
    raise AssertionError(seconds)


def amount(value: float, unit: str) -> str:
    """A count with its unit.

    >>> amount(26994688, "FLOP"), amount(512, "B"), amount(65536, "B")
    ('27.0 MFLOP', '512 B', '65.5 kB')
    """
    for scale, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * scale:
            return f"{_digits(value / scale)} {sign}{unit}"
    return f"{value:.0f} {unit}"


def factor(value: float) -> str:
    """How many times faster or slower.

    >>> factor(6.82), factor(472.6), factor(0.5)
    ('6.8 times faster', '473 times faster', '2.0 times slower')
    """
    if 0 < value < 1:
        return f"{times(1 / value)} times slower"
    return f"{times(value)} times faster"


def times(value: float) -> str:
    """A factor in two digits, or as a whole number from 10 on."""
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"

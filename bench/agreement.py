"""Whether an executor computes what it should: against float64, before anything is timed.

What enters: a workload's reference, and what an executor found after as many steps. What leaves: :class:`Errors`. Invariant: every
error is relative to the largest magnitude of its kind, and a missing, misshapen or non-finite value is an infinite error.

The reference is the hand-written NumPy version in float64; every other executor, with its own differentiation, vouches for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.executors import Runner
from bench.executors.numpy_runner import NumpyRunner
from bench.workload import Arrays, Workload

STEPS = 3
# An update may differ by this much: Adam divides by tiny gradients, and small rates round in float32 weights.
UPDATE_TOLERANCE = 0.1


@dataclass(frozen=True)
class Errors:
    """The worst relative errors of losses and outputs, of gradients, and of updates; ``worst`` names the worst gradient or output."""

    outputs: float
    gradients: float = 0.0
    updates: float = 0.0
    worst: str = ""
    losses: tuple[float, ...] = ()

    @property
    def largest(self) -> float:
        """The larger of the errors of outputs and gradients."""
        return max(self.outputs, self.gradients)

    def refusal(self, tolerance: float) -> str | None:
        """Why the executor must not be timed, if it must not.

        >>> Errors(0.5, worst="loss").refusal(1e-3)
        'outputs are off by 0.5 (loss); 0.001 is allowed'
        """
        for what, error, allowed in (
            ("outputs", self.outputs, tolerance),
            ("gradients", self.gradients, tolerance),
            ("updated weights", self.updates, UPDATE_TOLERANCE),
        ):
            if not error <= allowed:
                return f"{what} are off by {error:.2g} ({self.worst}); {allowed:g} is allowed"
        return None


def observe(work: Workload, runner: Runner, first: Arrays) -> Arrays:
    """What an executor finds, by kind and name: when it trains, in :data:`STEPS` steps, of which two have been made.

    ``first`` holds the outputs of the first of them.
    """
    if work.kind != "train":
        found = runner.outputs()
        return {f"gradient {n[2:]}" if n.startswith("d ") else f"output {n}": a for n, a in found.items()}
    found = {f"output 0 {n}": a for n, a in first.items()}
    found |= {f"output {STEPS - 1} {n}": a for n, a in runner.outputs().items()}
    found |= {f"update {n}": after - work.weights[n] for n, after in runner.weights().items()}
    return found | {f"gradient {n[2:]}": a for n, a in runner.gradients().items()}


def begin(work: Workload, runner: Runner) -> Arrays:
    """The first step; its outputs when it trains (otherwise every step has the same)."""
    if work.kind == "train":
        return runner.outputs()
    runner.run()
    return {}


def write_reference(work: Workload, file: Path) -> None:
    """The observations of NumPy in float64."""
    runner = NumpyRunner(work, np.float64)
    first = begin(work, runner)
    runner.run()
    np.savez(file, **observe(work, runner, first))  # type: ignore[arg-type]


def read_reference(file: Path) -> Arrays:
    """What :func:`write_reference` wrote; holds arrays only, never code."""
    with np.load(file, allow_pickle=False) as archive:
        return dict(archive)


def compare(found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], weights: Arrays) -> Errors:
    """The errors of an executor's observations."""
    outputs, worst_output = _worst(found, reference, "output ")
    gradients, worst_gradient = _worst(found, reference, "gradient ")
    losses = tuple(float(v) for n, v in found.items() if n.startswith("output ") and n.endswith(" loss"))
    worst = worst_gradient if gradients > outputs else worst_output
    return Errors(outputs, gradients, _update_error(found, reference, weights), worst, losses)


def _worst(found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], kind: str) -> tuple[float, str]:
    """The largest error among values of a kind. What is zero but for rounding is held to the largest of its kind."""
    wanted = {n: r for n, r in reference.items() if n.startswith(kind)}
    floor = 1e-4 * max((_size(r) for r in wanted.values()), default=0.0)
    errors = [(_error(found.get(n), r, max(_size(r), floor)), n.removeprefix(kind)) for n, r in wanted.items()]
    return max(errors, default=(0.0, ""))


def _size(array: np.ndarray) -> float:
    return float(np.max(np.abs(array), initial=0.0))


def _error(value: np.ndarray | None, reference: np.ndarray, scale: float) -> float:
    if value is None or value.shape != reference.shape:
        return math.inf
    error = float(np.max(np.abs(value - reference), initial=0.0))
    return error / (scale or 1.0) if math.isfinite(error) else math.inf


def _update_error(found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], weights: Arrays) -> float:
    """Of all updates together: the norm of the difference beyond what float32 rounds, over the norm."""
    names = [n for n in reference if n.startswith("update ")]
    if any(n not in found or found[n].shape != reference[n].shape for n in names):
        return math.inf
    off = _norm([found[n] - reference[n] for n in names])
    rounding = STEPS * float(np.finfo(np.float32).eps) * _norm([weights[n.removeprefix("update ")] for n in names])
    size = _norm([reference[n] for n in names])
    error = max(off - rounding, 0.0) / (size or 1.0)
    return error if math.isfinite(off) else math.inf


def _norm(arrays: Sequence[np.ndarray]) -> float:
    return math.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in arrays))

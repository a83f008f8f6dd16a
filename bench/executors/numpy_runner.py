"""NumPy by hand, as someone writes it who profiles: preallocated arrays, updates in place. In float64 it is the reference.

What enters: a workload. What leaves: a Runner. Invariant: nothing but the dtype differs between the timed version and the
reference.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from typing import Any

import numpy as np

from bench.executors import with_gradients
from bench.workload import Arrays, Rule, Scratch, Workload


def load() -> str:
    """NumPy's version and its BLAS."""
    blas: Any = np.show_config(mode="dicts")
    library = blas.get("Build Dependencies", {}).get("blas", {})
    erf = f", erf of scipy {version('scipy')}" if importlib.util.find_spec("scipy") else ""
    return f"numpy {np.__version__} ({library.get('name', 'no BLAS')} {library.get('version', '')}{erf})".replace(
        " )", ")"
    )


class NumpyRunner:
    """The hand-written function, and the optimizer in place."""

    def __init__(self, work: Workload, dtype: Any = np.float32) -> None:
        self.work = work
        self._initial = {n: a.astype(dtype) for n, a in work.weights.items()}
        self._weights = {n: a.copy() for n, a in self._initial.items()}
        self._data = {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in work.data.items()}
        self._scratch = Scratch()
        self._update = Update(work.rule, self._weights) if work.rule else None

    def run(self) -> tuple[Arrays, Arrays]:
        outputs, gradients = self.work.numpy(self._weights, self._data, self._scratch)
        if self._update is not None:
            self._update(gradients)
        return outputs, gradients

    def outputs(self) -> Arrays:
        outputs, gradients = self.run()
        found = with_gradients(outputs, gradients if self.work.kind == "gradient" else {})
        return {n: a.copy() for n, a in found.items()}

    def weights(self) -> Arrays:
        return {n: a.copy() for n, a in self._weights.items()}

    def gradients(self) -> Arrays:
        _, gradients = self.work.numpy(self._initial, self._data, Scratch())
        return with_gradients({}, gradients)


class Update:
    """An update rule in place, with two scratch arrays a parameter shape; Adam's corrections are folded into the rate."""

    def __init__(self, rule: Rule, weights: Arrays) -> None:
        self.rule = rule
        self.weights = weights
        self._moments = (
            {n: (np.zeros_like(a), np.zeros_like(a)) for n, a in weights.items()} if rule.kind != "sgd" else {}
        )
        self._scratch = {n: np.empty_like(a) for n, a in weights.items()}
        self._count = 0

    def __call__(self, gradients: Arrays) -> None:
        """Apply the rule; overwrites the gradients."""
        rule = self.rule
        self._count += 1
        if rule.kind == "sgd":
            for name, w in self.weights.items():
                g = gradients[name]
                g *= rule.rate
                w -= g
            return
        root = float(np.sqrt(1 - rule.beta2**self._count))
        scale, small = rule.rate * root / (1 - rule.beta1**self._count), rule.epsilon * root
        for name, w in self.weights.items():
            g, t, (m, v) = gradients[name], self._scratch[name], self._moments[name]
            m *= rule.beta1
            m += np.multiply(g, 1 - rule.beta1, out=t)
            v *= rule.beta2
            np.square(g, out=g)
            g *= 1 - rule.beta2
            v += g
            np.sqrt(v, out=t)
            t += small
            np.divide(m, t, out=t)
            t *= scale
            if rule.decay:
                w *= 1 - rule.rate * rule.decay
            w -= t


def make(work: Workload, threads: int, **options: Any) -> NumpyRunner:
    """The workload in NumPy; its BLAS takes its threads from the environment."""
    return NumpyRunner(work, **options)

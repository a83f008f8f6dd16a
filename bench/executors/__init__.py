"""Executors: what runs a workload. One file a framework; the framework is imported when a worker loads it, never before.

What enters: a :class:`~bench.workload.Workload`. What leaves: a :class:`Runner`. Invariant: ``run`` has finished all its work
when it returns; ``gradients`` are those at the initial weights.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from bench.workload import Arrays, Workload


class Runner(Protocol):
    """A workload on one executor."""

    def run(self) -> Any:
        """One step, finished when it returns."""
        ...

    def outputs(self) -> Arrays:
        """One step, and its outputs as arrays; for kind "gradient" with the gradients as ``d NAME``."""
        ...

    def weights(self) -> Arrays:
        """The present weights."""
        ...

    def gradients(self) -> Arrays:
        """The loss's gradients at the initial weights (kind "train")."""
        ...


@dataclass(frozen=True)
class Executor:
    """One way to run a workload.

    Attributes:
        name: in tables. module: a dotted name, with ``load()`` and ``make(workload, threads, **options)``.
        needs: packages that must be installed. peer: whether graphc is measured against it.
        caches: environment variables that lead its cache into a given folder.
    """

    name: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    peer: bool = True
    caches: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """The first package that is not installed."""
        return next((n for n in self.needs if importlib.util.find_spec(n) is None), None)

    def load(self) -> str:
        """Import the framework; its name and version."""
        return str(importlib.import_module(self.module).load())

    def make(self, work: Workload, threads: int) -> Runner:
        """The workload, declared and compiled as far as the framework does that before the first step."""
        make: Callable[..., Runner] = importlib.import_module(self.module).make
        return make(work, **{"threads": threads, **self.options})


GRAPHC = "graphc"
_CACHE = ("GRAPHC_CACHE_DIR",)
EXECUTORS: dict[str, Executor] = {
    e.name: e
    for e in (
        Executor("interpreter", f"{__name__}.graphc_runner", {"target": "interpreter"}, peer=False),
        Executor("graphc no fusion", f"{__name__}.graphc_runner", {"fuse": False}, peer=False, caches=_CACHE),
        Executor("graphc 1 thread", f"{__name__}.graphc_runner", {"threads": 1}, peer=False, caches=_CACHE),
        Executor(GRAPHC, f"{__name__}.graphc_runner", peer=False, caches=_CACHE),
        Executor("numpy", f"{__name__}.numpy_runner"),
        Executor("torch eager", f"{__name__}.torch_runner", needs=("torch",)),
        Executor(
            "torch.compile",
            f"{__name__}.torch_runner",
            {"compiled": True},
            ("torch",),
            caches=("TORCHINDUCTOR_CACHE_DIR",),
        ),
        Executor("jax", f"{__name__}.jax_runner", needs=("jax",), caches=("JAX_COMPILATION_CACHE_DIR",)),
        Executor("onnxruntime", f"{__name__}.onnx_runner", needs=("onnxruntime", "onnx")),
    )
}


class Unavailable(Exception):
    """This executor has no version of this workload; the message says why."""


def with_gradients(outputs: Mapping[str, Any], gradients: Mapping[str, Any]) -> Arrays:
    """Outputs and gradients as arrays of one dictionary.

    >>> sorted(with_gradients({"loss": 1.0}, {"w": np.zeros(2)}))
    ['d w', 'loss']
    """
    named = {**outputs, **{f"d {name}": g for name, g in gradients.items()}}
    return {name: np.asarray(value) for name, value in named.items()}

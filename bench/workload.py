"""What a workload is: one set of weights and data, and the same function written for every executor.

What enters: a declarative file of :mod:`bench.workloads`. What leaves: :class:`Entry` (its name, title and goal, cheap to list)
and :class:`Workload` (its arrays and functions). Invariant: all executors start from the same weights and data, in the same
layout up to a permutation of axes that the workload states; every function takes parameters and data by name and returns
outputs by name, "loss" among them where gradients are wanted. ::

    Entry("mlp-train", "MLP 784-512-256-10, batch 128, Adam", make=..., goal=0.7)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

Arrays: TypeAlias = dict[str, np.ndarray]
Function: TypeAlias = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
Kind: TypeAlias = Literal["train", "gradient", "inference"]


@dataclass(frozen=True)
class Rule:
    """How parameters are updated: ``kind`` with its rate; Adam's constants are those of its paper."""

    kind: Literal["sgd", "adam", "adamw"]
    # A small rate: thousands of timed steps on one batch must not fit it, or gradients become subnormal and slow everyone down.
    rate: float = 1e-6
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    decay: float = 0.0


class Scratch:
    """Arrays that a NumPy function keeps between its calls, by name: what an expert preallocates.

    >>> scratch = Scratch()
    >>> scratch("h", (2, 3), np.float32) is scratch("h", (2, 3), np.float32)
    True
    """

    def __init__(self) -> None:
        self._arrays: Arrays = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """The array of that name: uninitialised at first, afterwards as it was left."""
        found = self._arrays.get(name)
        if found is None or found.shape != shape or found.dtype != dtype:
            found = self._arrays[name] = np.empty(shape, dtype)
        return found


@dataclass(frozen=True)
class Workload:
    """One model with its data, written for every executor.

    Attributes:
        kind: "train" returns the loss and updates the weights; "gradient" returns outputs and gradients; "inference" outputs.
        weights: what gradients are taken in; data: what is fed. Integer data is int32.
        graphc: symbolic parameters and inputs -> symbolic outputs.
        numpy: arrays and scratch -> outputs and gradients (none for inference), in the dtype of the arrays: in float64 it is
            the reference.
        torch, jax: import the framework and return the function; None where there is no such version.
        onnx: adds the function to an :class:`bench.executors.onnx_graph.OnnxGraph`.
        cotangent: for kind "gradient", the data that is pulled back from the output "y"; without it the loss is differentiated.
        torch_axes: weights that torch keeps with their axes permuted.
        flops: multiplications and additions of one call, by formula.
        tolerance: largest error of a loss, output or gradient, relative to the largest magnitude of its kind.
    """

    kind: Kind
    weights: Arrays
    data: Arrays
    graphc: Function
    numpy: Callable[[Arrays, Arrays, Scratch], tuple[Arrays, Arrays]]
    torch: Callable[[], Function] | None = None
    jax: Callable[[], Function] | None = None
    onnx: Callable[[Any], None] | None = None
    rule: Rule | None = None
    cotangent: str | None = None
    torch_axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    flops: float = 0.0
    tolerance: float = 1e-3

    def in_torch_axes(self, name: str, array: np.ndarray) -> np.ndarray:
        """A weight as torch keeps it."""
        axes = self.torch_axes.get(name)
        return np.ascontiguousarray(array.transpose(axes)) if axes else array

    def from_torch_axes(self, name: str, array: np.ndarray) -> np.ndarray:
        """A weight, or its gradient, as everyone else keeps it."""
        axes = self.torch_axes.get(name)
        return np.ascontiguousarray(array.transpose(np.argsort(axes))) if axes else array


@dataclass(frozen=True)
class Entry:
    """A row of the benchmark: a workload that can be made, and the ratio to the best peer that is wanted.

    Attributes:
        make: makes the workload; True asks for tiny sizes, for tests.
        goal: graphc's time over the best peer's, at most.
        cold, warm: seconds of compilation, at most, with an empty and with a filled cache.
        cold_of: a peer, and the part of its cold compilation that graphc's may take.
        against: the goal compares with this peer instead of the best.
        family: rows of one family share worker processes, and their compilation is not measured cold.
        skip: executors that are not tried, with the reason.
    """

    name: str
    title: str
    make: Callable[[bool], Workload]
    goal: float | None = None
    cold: float | None = None
    warm: float | None = None
    cold_of: tuple[str, float] | None = None
    against: str | None = None
    family: str | None = None
    skip: Mapping[str, str] = field(default_factory=dict)


class Weights:
    """Draws weights and data from one seed, in float32.

    >>> Weights(0).normal(2, 3).dtype
    dtype('float32')
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        """Normal numbers of a standard deviation."""
        values = self._generator.standard_normal(shape, np.float32)
        values *= np.float32(scale)
        return values

    def dense(self, inputs: int, outputs: int, gain: float = 2.0) -> np.ndarray:
        """A matrix with variance gain / inputs (He et al., 2015, for gain 2)."""
        return self.normal(inputs, outputs, scale=(gain / inputs) ** 0.5)

    def uniform(self, *shape: int) -> np.ndarray:
        """Numbers in [0, 1)."""
        return self._generator.random(shape, np.float32)

    def integers(self, bound: int, *shape: int) -> np.ndarray:
        """int32 below a bound."""
        return self._generator.integers(0, bound, shape, np.int32)


def zeros(*shape: int) -> np.ndarray:
    """Zeros in float32."""
    return np.zeros(shape, np.float32)

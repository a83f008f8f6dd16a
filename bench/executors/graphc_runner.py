"""graphc, in each of its ways: interpreter, JIT, JIT without fusion, JIT on one thread.

What enters: a workload. What leaves: a Runner whose program does the whole step in one call. Invariant: gradients to check
come from a program of the same target and options as the timed one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.executors import Unavailable, with_gradients
from bench.workload import Arrays, Rule, Workload


def load() -> str:
    """Import the compiler and its target."""
    import graphc.driver
    import graphc.ops
    import graphc.optim
    import graphc.targets.cpu.program

    return f"graphc {graphc.__version__}"


class GraphcRunner:
    """A compiled program with its inputs."""

    def __init__(self, work: Workload, threads: int, **options: Any) -> None:
        import graphc

        self.work = work
        frozen = work.kind == "inference" and options.get("target", "cpu") == "cpu"
        self._options = {"threads": threads, "freeze": frozen, **options}
        self.parameters, self.symbols = self._declare()
        updates, gradients = None, {}
        wrt = list(self.parameters.values())
        if work.kind == "train":
            assert work.rule is not None
            updates = optimizer(work.rule).updates(self.symbols["loss"], wrt)
        if work.kind == "gradient":
            gradients = dict(zip(self.parameters, self._gradients(wrt), strict=True))
        outputs = {**self.symbols, **{f"d {n}": g for n, g in gradients.items()}}
        self.program = graphc.compile(outputs, updates=updates, **self._options)
        self._data = work.data
        self._results = {n: np.empty(v.type.static_shape, v.dtype.numpy) for n, v in outputs.items()}
        self._arrays = tuple(work.data.values())
        self._step = self._bound() if self.program.options.target == "cpu" else self._called

    def _bound(self) -> Any:
        """The program as a hot loop calls it: inputs by position, outputs into the caller's arrays."""
        return self.program.bind(*self._data, out=self._results)

    def _called(self, *arrays: np.ndarray) -> Any:
        return self.program(**dict(zip(self._data, arrays, strict=True)))

    def _declare(self) -> tuple[dict[str, Any], dict[str, Any]]:
        import graphc

        parameters = {n: graphc.parameter(n, a.shape, a) for n, a in self.work.weights.items()}
        inputs = {n: graphc.input(n, a.shape, str(a.dtype)) for n, a in self.work.data.items()}
        self._inputs = inputs
        try:
            return parameters, self.work.graphc(parameters, inputs)
        except AttributeError as error:
            if getattr(error.obj, "__name__", "").startswith("graphc"):
                raise Unavailable(f"graphc has no {error.name}") from None
            raise

    def _gradients(self, wrt: list[Any]) -> list[Any]:
        import graphc

        if self.work.cotangent is None:
            return list(graphc.grad(self.symbols["loss"], wrt))
        return list(graphc.vjp(self.symbols["y"], wrt, self._inputs[self.work.cotangent]))

    def run(self) -> Any:
        return self._step(*self._arrays)

    def outputs(self) -> Arrays:
        return {n: np.array(v) for n, v in self._step(*self._arrays).items()}

    def weights(self) -> Arrays:
        return {n: np.array(p.attrs["variable"].value) for n, p in self.parameters.items()}

    def gradients(self) -> Arrays:
        import graphc

        parameters, self.symbols = self._declare()
        found = dict(zip(parameters, self._gradients(list(parameters.values())), strict=True))
        used = set(graphc.Graph("gradients", found).inputs)
        program = graphc.compile(found, **self._options)
        names = {n.name for n in used}
        return with_gradients({}, program(**{n: a for n, a in self._data.items() if n in names}))


def optimizer(rule: Rule) -> Any:
    """graphc's optimizer of a rule."""
    from graphc import optim

    if rule.kind == "sgd":
        return optim.SGD(rule.rate)
    moments: dict[str, Any] = {"beta1": rule.beta1, "beta2": rule.beta2, "epsilon": rule.epsilon}
    if rule.kind == "adam":
        return optim.Adam(rule.rate, **moments)
    return optim.AdamW(rule.rate, **moments, weight_decay=rule.decay)


def make(work: Workload, threads: int, **options: Any) -> GraphcRunner:
    """The workload compiled by graphc."""
    return GraphcRunner(work, threads, **options)

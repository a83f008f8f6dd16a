"""JAX on the CPU: the whole step in one jitted function, compiled ahead, with donated state.

What enters: a workload. What leaves: a Runner. Invariant: a call waits for all results (``block_until_ready``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.executors import Unavailable, with_gradients
from bench.workload import Arrays, Rule, Workload


def load() -> str:
    """Import jax; every compilation goes to its cache folder, if one is set."""
    import jax
    import jax.numpy

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return f"jax {jax.__version__}"


class JaxRunner:
    """A compiled function and the state it passes on."""

    def __init__(self, work: Workload) -> None:
        import jax
        import jax.numpy as jnp

        if work.jax is None:
            raise Unavailable("no jax version of this workload")
        self.work = work
        self._jax = jax
        self._function = work.jax()
        self._data = {n: jnp.asarray(a) for n, a in work.data.items()}
        self._state = self._initial()
        step = {"train": self._train, "gradient": self._gradient, "inference": self._inference}[work.kind]
        donated = (0,) if work.kind == "train" else ()
        self._compiled = jax.jit(step, donate_argnums=donated).lower(self._state, self._data).compile()

    def _initial(self) -> Any:
        import jax.numpy as jnp

        weights = {n: jnp.array(a) for n, a in self.work.weights.items()}
        if self.work.kind != "train" or (self.work.rule and self.work.rule.kind == "sgd"):
            return (weights,)
        return (
            weights,
            {n: jnp.zeros_like(w) for n, w in weights.items()},
            {n: jnp.zeros_like(w) for n, w in weights.items()},
            jnp.float32(0),
        )

    def _losses(self, weights: Any, data: Any) -> Any:
        outputs = self._function(weights, data)
        return outputs["loss"], outputs

    def _train(self, state: Any, data: Any) -> Any:
        (_, outputs), gradients = self._jax.value_and_grad(self._losses, has_aux=True)(state[0], data)
        assert self.work.rule is not None
        return updated(self.work.rule, state, gradients), outputs

    def _gradient(self, state: Any, data: Any) -> Any:
        if self.work.cotangent is None:
            (_, outputs), gradients = self._jax.value_and_grad(self._losses, has_aux=True)(state[0], data)
            return state, (outputs, gradients)
        y, pull = self._jax.vjp(lambda w: self._function(w, data)["y"], state[0])
        return (), ({"y": y}, pull(data[self.work.cotangent])[0])

    def _inference(self, state: Any, data: Any) -> Any:
        return (), self._function(state[0], data)

    def _step(self) -> Any:
        state, results = self._compiled(self._state, self._data)
        if self.work.kind == "train":
            self._state = state
        return state, results

    def run(self) -> Any:
        return self._jax.block_until_ready(self._step())

    def outputs(self) -> Arrays:
        _, results = self._step()
        outputs, gradients = results if self.work.kind == "gradient" else (results, {})
        return with_gradients(_arrays(outputs), _arrays(gradients))

    def weights(self) -> Arrays:
        return _arrays(self._state[0])

    def gradients(self) -> Arrays:
        gradient = self._jax.jit(self._jax.grad(lambda w, d: self._losses(w, d)[0]))
        return with_gradients({}, _arrays(gradient(self._initial()[0], self._data)))


def _arrays(values: dict[str, Any]) -> Arrays:
    return {n: np.array(v) for n, v in values.items()}


def updated(rule: Rule, state: Any, gradients: Any) -> Any:
    """The state after one step of a rule, as optax would compute it."""
    import jax.numpy as jnp

    if rule.kind == "sgd":
        return ({n: w - rule.rate * gradients[n] for n, w in state[0].items()},)
    weights, first, second, count = state
    count = count + 1
    first = {n: rule.beta1 * m + (1 - rule.beta1) * gradients[n] for n, m in first.items()}
    second = {n: rule.beta2 * v + (1 - rule.beta2) * gradients[n] ** 2 for n, v in second.items()}
    c1, c2 = 1 - rule.beta1**count, 1 - rule.beta2**count
    weights = {
        n: w
        - rule.rate * (first[n] / c1 / (jnp.sqrt(second[n] / c2) + rule.epsilon) + rule.decay * w)
        for n, w in weights.items()
    }  # fmt: skip
    return weights, first, second, count


def make(work: Workload, threads: int, **options: Any) -> JaxRunner:
    """The workload in JAX; its threads follow the processors that the process may use."""
    return JaxRunner(work, **options)

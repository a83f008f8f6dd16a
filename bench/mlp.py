"""The MLP training step on every executor: forward, cross-entropy, backward and Adam, written the way each one's users would.

What enters: layer sizes, batch size. What leaves: for each executor a :class:`Candidate`: a call that does one step and
returns the loss, and what its compilation took. Invariant: all start from the same weights and data, so that losses
after the same number of steps agree; this is checked before anything is timed.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

import graphc
from graphc import optim
from graphc.driver import Target, default_threads

# A small rate: thousands of timed steps on one batch must not fit it, or gradients become subnormal and slow everyone down.
RATE, BETA1, BETA2, EPSILON = 1e-6, 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Workload:
    """A dense classifier with ReLU between its layers, and one batch of data."""

    sizes: tuple[int, ...] = (784, 512, 256, 10)
    batch: int = 128
    seed: int = 0
    weights: list[tuple[np.ndarray, np.ndarray]] = field(init=False)
    image: np.ndarray = field(init=False)
    label: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        generator = np.random.default_rng(self.seed)
        weights = [
            (
                (generator.standard_normal((m, n)) * np.sqrt(2 / m)).astype(np.float32),
                np.zeros(n, np.float32),
            )
            for m, n in zip(self.sizes, self.sizes[1:], strict=False)
        ]
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "image", generator.random((self.batch, self.sizes[0]), np.float32))
        object.__setattr__(self, "label", generator.integers(0, self.sizes[-1], self.batch).astype(np.int32))

    @property
    def name(self) -> str:
        return "-".join(map(str, self.sizes)) + f", batch {self.batch}, Adam"

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products, forward and backward."""
        pairs = list(zip(self.sizes, self.sizes[1:], strict=False))
        return sum(2 * self.batch * m * n * (2 if i == 0 else 3) for i, (m, n) in enumerate(pairs))


@dataclass(frozen=True)
class Candidate:
    """One executor, ready to step."""

    name: str
    step: Callable[[], float]
    compile_seconds: float | None = None
    note: str = ""


def declare(work: Workload) -> tuple[Any, list[Any]]:
    """The loss and the parameters of a workload as a graphc graph, from its weights."""
    value = graphc.input("image", (work.batch, work.sizes[0]))
    label = graphc.input("label", (work.batch,), "int32")
    parameters = []
    for number, (weight, bias) in enumerate(work.weights):
        w = graphc.parameter(f"w{number}", weight.shape, weight)
        b = graphc.parameter(f"b{number}", bias.shape, bias)
        parameters += [w, b]
        value = value @ w + b
        if number + 1 < len(work.weights):
            value = graphc.relu(value)
    return graphc.losses.cross_entropy(value, label), parameters


def graphc_step(work: Workload, target: Target, **options: Any) -> Candidate:
    """The step compiled by graphc for a target."""
    loss, parameters = declare(work)
    updates = optim.Adam(RATE, beta1=BETA1, beta2=BETA2, epsilon=EPSILON).updates(loss, parameters)
    start = perf_counter()
    program = graphc.compile({"loss": loss}, target=target, updates=updates, **options)
    seconds = perf_counter() - start
    cache = getattr(program.specialisations[0].executable, "cache", "")
    image, label = work.image, work.label
    return Candidate(
        "interpreter" if target == "interpreter" else "graphc",
        lambda: float(program(image=image, label=label)["loss"]),
        seconds,
        str(cache),
    )


def numpy_step(work: Workload) -> Candidate:
    """The step as textbooks write it in NumPy: one expression a formula."""
    parameters = [p.copy() for pair in work.weights for p in pair]
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    one_hot = np.eye(work.sizes[-1], dtype=np.float32)[work.label]
    count = 0

    def step() -> float:
        nonlocal count
        count += 1
        values = [work.image]
        for n in range(0, len(parameters), 2):
            z = values[-1] @ parameters[n] + parameters[n + 1]
            values.append(np.maximum(z, 0) if n + 2 < len(parameters) else z)
        shifted = values[-1] - values[-1].max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        loss = float(-(one_hot * log_p).sum(axis=1).mean())
        gradient = (np.exp(log_p) - one_hot) / np.float32(work.batch)
        gradients: list[np.ndarray] = []
        for n in range(len(parameters) - 2, -1, -2):
            below = values[n // 2]
            gradients[:0] = [below.T @ gradient, gradient.sum(axis=0)]
            if n:
                gradient = (gradient @ parameters[n].T) * (below > 0)
        for n, g in enumerate(gradients):
            first[n] = BETA1 * first[n] + (1 - BETA1) * g
            second[n] = BETA2 * second[n] + (1 - BETA2) * g**2
            m, v = first[n] / (1 - BETA1**count), second[n] / (1 - BETA2**count)
            parameters[n] -= RATE * m / (np.sqrt(v) + EPSILON)
        return loss

    return Candidate("numpy by hand", step)


def tuned_numpy_step(work: Workload) -> Candidate:
    """The same step in NumPy by someone who profiles it: in place throughout, Adam's corrections folded into the rate."""
    parameters = [p.copy() for pair in work.weights for p in pair]
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    rows = np.arange(work.batch)
    count = 0

    def step() -> float:
        nonlocal count
        count += 1
        values = [work.image]
        for n in range(0, len(parameters), 2):
            z = values[-1] @ parameters[n]
            z += parameters[n + 1]
            if n + 2 < len(parameters):
                np.maximum(z, 0, out=z)
            values.append(z)
        logits = values.pop()
        logits -= logits.max(axis=1, keepdims=True)
        p = np.exp(logits)
        total = p.sum(axis=1, keepdims=True)
        loss = float((np.log(total[:, 0]) - logits[rows, work.label]).mean())
        p /= total
        p[rows, work.label] -= 1
        p /= work.batch
        gradient = p
        gradients: list[np.ndarray] = []
        for n in range(len(parameters) - 2, -1, -2):
            below = values.pop()
            gradients[:0] = [below.T @ gradient, gradient.sum(axis=0)]
            if n:
                gradient = gradient @ parameters[n].T
                gradient *= below > 0
        scale = np.float32(RATE * np.sqrt(1 - BETA2**count) / (1 - BETA1**count))
        small = np.float32(EPSILON * np.sqrt(1 - BETA2**count))
        for w, g, m, v in zip(parameters, gradients, first, second, strict=True):
            m *= BETA1
            m += (1 - BETA1) * g
            v *= BETA2
            np.square(g, out=g)
            g *= 1 - BETA2
            v += g
            w -= scale * m / (np.sqrt(v) + small)
        return loss

    return Candidate("numpy in place", step)


def torch_step(work: Workload, compiled: bool) -> Candidate:
    """The step in PyTorch, eager or through torch.compile (forward and backward; the optimizer is its fused Adam)."""
    import torch

    torch.set_num_threads(default_threads())
    layers: list[torch.nn.Module] = []
    for number, (weight, bias) in enumerate(work.weights):
        layer = torch.nn.Linear(weight.shape[0], weight.shape[1])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight.T.copy()))
            layer.bias.copy_(torch.from_numpy(bias))
        layers.append(layer)
        if number + 1 < len(work.weights):
            layers.append(torch.nn.ReLU())
    net = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(net.parameters(), RATE, (BETA1, BETA2), EPSILON, fused=True)
    image, label = torch.from_numpy(work.image), torch.from_numpy(work.label.astype(np.int64))

    def loss_of(x: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(net(x), y)

    function = torch.compile(loss_of) if compiled else loss_of

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = function(image, label)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    seconds = None
    if compiled:  # the first call compiles; undo what it did to the weights
        start = perf_counter()
        function(image, label).backward()
        seconds = perf_counter() - start
        optimizer.zero_grad(set_to_none=True)
    return Candidate("torch.compile" if compiled else "torch eager", step, seconds, f"torch {torch.__version__}")


def jax_step(work: Workload) -> Candidate:
    """The step in JAX: value_and_grad and Adam in one jitted function with donated state."""
    import jax
    import jax.numpy as jnp

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        for number in range(0, len(parameters), 2):
            x = x @ parameters[number] + parameters[number + 1]
            if number + 2 < len(parameters):
                x = jnp.maximum(x, 0)
        return -jnp.mean(jax.nn.log_softmax(x)[jnp.arange(x.shape[0]), y])

    def update(state: Any, x: Any, y: Any) -> Any:
        parameters, first, second, count = state
        loss, gradients = jax.value_and_grad(loss_of)(parameters, x, y)
        count = count + 1
        first = [BETA1 * m + (1 - BETA1) * g for m, g in zip(first, gradients, strict=True)]
        second = [BETA2 * v + (1 - BETA2) * g * g for v, g in zip(second, gradients, strict=True)]
        c1, c2 = 1 - BETA1**count, 1 - BETA2**count
        parameters = [
            p - RATE * (m / c1) / (jnp.sqrt(v / c2) + EPSILON)
            for p, m, v in zip(parameters, first, second, strict=True)
        ]
        return (parameters, first, second, count), loss

    parameters = [jnp.asarray(p) for pair in work.weights for p in pair]
    zeros = [jnp.zeros_like(p) for p in parameters]
    state = (parameters, zeros, [jnp.zeros_like(p) for p in parameters], jnp.float32(0))
    image, label = jnp.asarray(work.image), jnp.asarray(work.label)
    start = perf_counter()
    compiled = jax.jit(update, donate_argnums=0).lower(state, image, label).compile()
    seconds = perf_counter() - start

    def step() -> float:
        nonlocal state
        state, loss = compiled(state, image, label)
        return float(loss)

    return Candidate("jax", step, seconds, f"jax {jax.__version__}")


PEERS: dict[str, tuple[str, Callable[[Workload], Candidate]]] = {
    "torch eager": ("torch", lambda work: torch_step(work, False)),
    "torch.compile": ("torch", lambda work: torch_step(work, True)),
    "jax": ("jax", jax_step),
}


def installed(module: str) -> bool:
    """Whether a peer's package can be imported (without importing it)."""
    return importlib.util.find_spec(module) is not None


def candidates(work: Workload, peers: Sequence[str] | None = None, threads: int | None = None) -> list[Candidate]:
    """The executors that can run here: graphc's interpreter and JIT, NumPy by hand, plain and in place, then the
    named peers that are installed."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    found = [graphc_step(work, "interpreter"), graphc_step(work, "cpu", threads=threads), numpy_step(work)]
    found.append(tuned_numpy_step(work))
    for name in PEERS if peers is None else peers:
        module, make = PEERS[name]
        if installed(module):
            found.append(make(work))
    return found


def disagreement(found: Sequence[Candidate], steps: int = 3) -> float:
    """The largest relative difference of any candidate's loss from the first's, over the first steps."""
    losses = np.array([[c.step() for _ in range(steps)] for c in found])
    return float(np.max(np.abs(losses / losses[0] - 1)))


def profile(work: Workload, threads: int) -> str:
    """The kernels of graphc's step with the time of each, as a table."""
    loss, parameters = declare(work)
    updates = optim.Adam(RATE, beta1=BETA1, beta2=BETA2, epsilon=EPSILON).updates(loss, parameters)
    program = graphc.compile({"loss": loss}, updates=updates, threads=threads)
    return str(program.profile(image=work.image, label=work.label))

"""Layer norm of 4,096 rows of 768, forward and backward.

What enters: sizes. What leaves: y, and the gradients in x, gain and shift of a given upstream gradient.
"""

from __future__ import annotations

from typing import Any

from bench import formulas
from bench.workload import Arrays, Entry, Function, Scratch, Weights, Workload


def graphc_function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
    import graphc

    return {"y": graphc.layer_norm(p["x"], p["gain"], p["shift"])}


def numpy_function(p: Arrays, d: Arrays, scratch: Scratch) -> tuple[Arrays, Arrays]:
    y, saved = formulas.layer_norm(p["x"], p["gain"], p["shift"])
    dx, d_gain, d_shift = formulas.layer_norm_gradient(d["upstream"], p["gain"], saved)
    return {"y": y}, {"x": dx, "gain": d_gain, "shift": d_shift}


def torch_function() -> Function:
    from torch.nn.functional import layer_norm

    return lambda p, d: {"y": layer_norm(p["x"], p["gain"].shape, p["gain"], p["shift"])}


def jax_function() -> Function:
    import jax.numpy as jnp

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        x = p["x"]
        mean = x.mean(axis=-1, keepdims=True)
        variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
        return {"y": (x - mean) * (variance + 1e-5) ** -0.5 * p["gain"] + p["shift"]}

    return function


def make(tiny: bool) -> Workload:
    """The workload."""
    rows, width = (5, 48) if tiny else (4096, 768)
    draw = Weights(3)
    return Workload(
        "gradient",
        {"x": draw.normal(rows, width) + 0.5, "gain": 1 + draw.normal(width, scale=0.1), "shift": draw.normal(width)},
        {"upstream": draw.normal(rows, width)},
        graphc_function, numpy_function, torch_function, jax_function, cotangent="upstream", flops=20.0 * rows * width,
    )  # fmt: skip


ENTRIES = (Entry("layernorm", "layer norm forward and backward, 4096 x 768", make, goal=0.7),)

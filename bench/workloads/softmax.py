"""Softmax and cross-entropy on 512 rows of 10,000 logits, with the gradient p - y.

What enters: sizes. What leaves: the mean loss and its gradient in the logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench import formulas
from bench.workload import Arrays, Entry, Function, Scratch, Weights, Workload


def graphc_function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
    import graphc

    return {"loss": graphc.losses.cross_entropy(p["logits"], d["label"])}


def numpy_function(p: Arrays, d: Arrays, scratch: Scratch) -> tuple[Arrays, Arrays]:
    logits = p["logits"]
    gradient = scratch("gradient", logits.shape, logits.dtype)
    np.copyto(gradient, logits)
    loss, gradient = formulas.cross_entropy(gradient, d["label"])
    return {"loss": loss}, {"logits": gradient}


def torch_function() -> Function:
    from torch.nn.functional import cross_entropy

    return lambda p, d: {"loss": cross_entropy(p["logits"], d["label"])}


def jax_function() -> Function:
    import jax.numpy as jnp
    from jax import nn

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        picked = jnp.take_along_axis(nn.log_softmax(p["logits"]), d["label"][:, None], 1)
        return {"loss": -picked.mean()}

    return function


def make(tiny: bool) -> Workload:
    """The workload."""
    rows, classes = (6, 50) if tiny else (512, 10_000)
    draw = Weights(2)
    return Workload(
        "gradient", {"logits": draw.normal(rows, classes, scale=2)}, {"label": draw.integers(classes, rows)},
        graphc_function, numpy_function, torch_function, jax_function, flops=8.0 * rows * classes,
    )  # fmt: skip


ENTRIES = (Entry("softmax", "softmax cross-entropy forward and backward, 512 x 10,000", make, goal=0.7),)

"""A recurrent net by backpropagation through 64 steps: h = tanh(x W + h U + b), hidden 128, batch 32, ten classes at the end.

What enters: sizes. What leaves: a step of SGD with its loss. The input's product is taken for all steps at once, by everyone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench import formulas
from bench.workload import Arrays, Entry, Function, Rule, Scratch, Weights, Workload, zeros


def graphc_function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
    import graphc

    rows = d["x"].shape[1]
    state = graphc.constant(zeros(rows, p["u"].shape[0]))
    drive = d["x"] @ p["w"] + p["b"]
    last, _ = graphc.scan(lambda h, x: (graphc.tanh(x + h @ p["u"]),) * 2, state, drive)
    return {"loss": graphc.losses.cross_entropy(last @ p["w_out"] + p["b_out"], d["label"])}


def numpy_function(p: Arrays, d: Arrays, scratch: Scratch) -> tuple[Arrays, Arrays]:
    x, u = d["x"], p["u"]
    steps, rows, inputs = x.shape
    flat = x.reshape(-1, inputs)
    states = scratch("states", (steps + 1, rows, len(u)), x.dtype)
    states[0] = 0
    drive = np.matmul(flat, p["w"], out=scratch("drive", (len(flat), len(u)), x.dtype)).reshape(steps, rows, -1)
    drive += p["b"]
    for t in range(steps):
        h = np.matmul(states[t], u, out=states[t + 1])
        h += drive[t]
        np.tanh(h, out=h)
    last = states[-1]
    loss, dy = formulas.cross_entropy(last @ p["w_out"] + p["b_out"], d["label"])
    g = {"w_out": last.T @ dy, "b_out": dy.sum(axis=0)}
    dh = dy @ p["w_out"].T
    before = np.subtract(1, np.square(states[1:]), out=drive)
    for t in range(steps - 1, -1, -1):
        before[t] *= dh
        np.matmul(before[t], u.T, out=dh)
    slopes = before.reshape(-1, len(u))
    g |= {"u": states[:-1].reshape(-1, len(u)).T @ slopes, "w": flat.T @ slopes, "b": slopes.sum(axis=0)}
    return {"loss": loss}, g


def torch_function() -> Function:
    import torch
    import torch.nn.functional as F

    # As torch.nn.RNN under torch.compile: a call of torch's own loop. Traced, its steps are unrolled, which takes minutes.
    recur = torch.compiler.disable(torch.rnn_tanh)

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        x, u = d["x"], p["u"]
        state = x.new_zeros(1, x.shape[1], u.shape[0])
        biases = [p["b"], torch.zeros_like(p["b"])]
        _, last = recur(x, state, [p["w"], u, *biases], True, 1, 0.0, True, False, False)
        return {"loss": F.cross_entropy(F.linear(last[0], p["w_out"], p["b_out"]), d["label"])}

    return function


def jax_function() -> Function:
    import jax.numpy as jnp
    from jax import lax, nn

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        drive = d["x"] @ p["w"] + p["b"]
        state = jnp.zeros((drive.shape[1], drive.shape[2]))
        last, _ = lax.scan(lambda h, x: (jnp.tanh(x + h @ p["u"]), None), state, drive)
        logits = last @ p["w_out"] + p["b_out"]
        return {"loss": -nn.log_softmax(logits)[jnp.arange(logits.shape[0]), d["label"]].mean()}

    return function


def make(tiny: bool) -> Workload:
    """The workload."""
    steps, rows, inputs, hidden, classes = (5, 3, 4, 6, 3) if tiny else (64, 32, 64, 128, 10)
    draw = Weights(10)
    weights = {
        "w": draw.dense(inputs, hidden, 1.0), "u": draw.dense(hidden, hidden, 1.0), "b": draw.normal(hidden, scale=0.1),
        "w_out": draw.dense(hidden, classes, 1.0), "b_out": zeros(classes),
    }  # fmt: skip
    data = {"x": draw.normal(steps, rows, inputs), "label": draw.integers(classes, rows)}
    return Workload(
        "train", weights, data, graphc_function, numpy_function, torch_function, jax_function, rule=Rule("sgd", 1e-3),
        torch_axes={n: (1, 0) for n in ("w", "u", "w_out")},
        flops=2.0 * steps * rows * (2 * inputs * hidden + 3 * hidden * hidden) + 6.0 * rows * hidden * classes,
    )  # fmt: skip


ENTRIES = (Entry("rnn", "RNN through 64 steps, hidden 128, batch 32, SGD", make, goal=0.5),)

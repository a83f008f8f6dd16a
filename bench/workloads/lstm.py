"""A character model: embedding 256, LSTM of 512 over 100 steps, 83 characters predicted at every step, batch 16, SGD.

What enters: sizes. What leaves: a step with its loss. Gates are in the order input, forget, cell, output (Hochreiter,
Schmidhuber, 1997, with the forget gate of Gers et al., 2000); time is the first axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench import formulas
from bench.workload import Arrays, Entry, Function, Rule, Scratch, Weights, Workload, zeros


def graphc_function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
    import graphc

    hidden, rows = p["u"].shape[0], d["text"].shape[1]
    drive = graphc.take(p["embedding"], d["text"], axis=0) @ p["w"] + p["b"]
    start = graphc.constant(zeros(rows, hidden))

    def cell(state: Any, x: Any) -> Any:
        h, c = state
        gates = x + h @ p["u"]
        i, f, g, o = (gates[:, n * hidden : (n + 1) * hidden] for n in range(4))
        c = graphc.sigmoid(f) * c + graphc.sigmoid(i) * graphc.tanh(g)
        h = graphc.sigmoid(o) * graphc.tanh(c)
        return (h, c), h

    _, states = graphc.scan(cell, (start, start), drive)
    logits = graphc.reshape(states, (-1, hidden)) @ p["w_out"] + p["b_out"]
    return {"loss": graphc.losses.cross_entropy(logits, graphc.reshape(d["next"], (-1,)))}


def _sigmoid_(x: np.ndarray) -> None:
    """1 / (1 + exp(-x)) in place."""
    np.negative(x, out=x)
    np.exp(x, out=x)
    x += 1
    np.reciprocal(x, out=x)


def _forward(p: Arrays, drive: np.ndarray, scratch: Scratch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden states and cells, one more than steps, and their tanh; ``drive`` becomes the gates."""
    steps, rows, width = drive.shape
    n = width // 4
    states, cells = (scratch(name, (steps + 1, rows, n), drive.dtype) for name in ("states", "cells"))
    squashed = scratch("squashed", (steps, rows, n), drive.dtype)
    states[0], cells[0] = 0, 0
    product, part = scratch("product", (rows, width), drive.dtype), scratch("part", (rows, n), drive.dtype)
    for t in range(steps):
        z = drive[t]
        z += np.matmul(states[t], p["u"], out=product)
        i, f, g, o = (z[:, k * n : (k + 1) * n] for k in range(4))
        _sigmoid_(z[:, : 2 * n])
        np.tanh(g, out=g)
        _sigmoid_(o)
        c = np.multiply(f, cells[t], out=cells[t + 1])
        c += np.multiply(i, g, out=part)
        np.multiply(o, np.tanh(c, out=squashed[t]), out=states[t + 1])
    return states, cells, squashed


def _backward(
    p: Arrays, gates: np.ndarray, cells: np.ndarray, squashed: np.ndarray, upstream: np.ndarray, scratch: Scratch
) -> None:
    """Overwrites the gates by the gradients before their nonlinearities."""
    steps, rows, width = gates.shape
    n = width // 4
    dh, dc = np.zeros((rows, n), gates.dtype), np.zeros((rows, n), gates.dtype)
    back = np.ascontiguousarray(p["u"].T)
    for t in range(steps - 1, -1, -1):
        i, f, g, o = (gates[t][:, k * n : (k + 1) * n] for k in range(4))
        dh += upstream[t]
        th = squashed[t]
        dc += dh * o * (1 - th * th)
        do = dh * th * o * (1 - o)
        df = dc * cells[t] * f * (1 - f)
        di = dc * g * i * (1 - i)
        dg = dc * i * (1 - g * g)
        dc *= f
        i[...], f[...], g[...], o[...] = di, df, dg, do
        np.matmul(gates[t], back, out=dh)


def numpy_function(p: Arrays, d: Arrays, scratch: Scratch) -> tuple[Arrays, Arrays]:
    text = d["text"]
    steps, rows = text.shape
    hidden, kind = len(p["u"]), p["u"].dtype
    x = p["embedding"][text].reshape(steps * rows, -1)
    drive = np.matmul(x, p["w"], out=scratch("drive", (steps * rows, 4 * hidden), kind))
    drive += p["b"]
    gates = drive.reshape(steps, rows, -1)
    states, cells, squashed = _forward(p, gates, scratch)
    flat = states[1:].reshape(-1, hidden)
    logits = flat @ p["w_out"]
    logits += p["b_out"]
    loss, dy = formulas.cross_entropy(logits, d["next"].reshape(-1))
    g = {"w_out": flat.T @ dy, "b_out": dy.sum(axis=0)}
    _backward(p, gates, cells, squashed, (dy @ p["w_out"].T).reshape(steps, rows, -1), scratch)
    g |= {"u": states[:-1].reshape(-1, hidden).T @ drive, "w": x.T @ drive, "b": drive.sum(axis=0)}
    g["embedding"] = one_hot(text.reshape(-1), len(p["embedding"]), kind) @ (drive @ p["w"].T)
    return {"loss": loss}, g


def one_hot(index: np.ndarray, classes: int, dtype: Any) -> np.ndarray:
    """A matrix [classes, positions] whose product with rows adds up the rows of each class.

    >>> one_hot(np.array([1, 0, 1]), 2, np.float32).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    matrix = np.zeros((classes, index.size), dtype)
    matrix[index, np.arange(index.size)] = 1
    return matrix


def torch_function() -> Function:
    import torch
    import torch.nn.functional as F

    # As torch.nn.LSTM under torch.compile: a call of torch's own loop. Traced, its steps are unrolled, which takes minutes.
    recur = torch.compiler.disable(torch.lstm)

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        x = F.embedding(d["text"], p["embedding"])
        start = x.new_zeros(1, x.shape[1], p["u"].shape[1])
        parameters = [p["w"], p["u"], p["b"], torch.zeros_like(p["b"])]
        states = recur(x, (start, start), parameters, True, 1, 0.0, True, False, False)[0]
        logits = F.linear(states.flatten(0, 1), p["w_out"], p["b_out"])
        return {"loss": F.cross_entropy(logits, d["next"].flatten())}

    return function


def jax_function() -> Function:
    import jax.numpy as jnp
    from jax import lax, nn

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        drive = p["embedding"][d["text"]] @ p["w"] + p["b"]

        def cell(state: Any, x: Any) -> Any:
            h, c = state
            i, f, g, o = jnp.split(x + h @ p["u"], 4, axis=1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((drive.shape[1], p["u"].shape[0]))
        _, states = lax.scan(cell, (start, start), drive)
        logits = states.reshape(-1, states.shape[-1]) @ p["w_out"] + p["b_out"]
        picked = jnp.take_along_axis(nn.log_softmax(logits), d["next"].reshape(-1, 1), 1)
        return {"loss": -picked.mean()}

    return function


def make(tiny: bool) -> Workload:
    """The workload."""
    characters, embed, hidden, steps, rows = (7, 5, 6, 4, 3) if tiny else (83, 256, 512, 100, 16)
    draw = Weights(7)
    weights = {
        "embedding": draw.normal(characters, embed),
        "w": draw.dense(embed, 4 * hidden, 1.0), "u": draw.dense(hidden, 4 * hidden, 1.0),
        "b": draw.normal(4 * hidden, scale=0.1),
        "w_out": draw.dense(hidden, characters, 1.0), "b_out": zeros(characters),
    }  # fmt: skip
    text = draw.integers(characters, steps + 1, rows)
    return Workload(
        "train", weights, {"text": text[:-1].copy(), "next": text[1:].copy()}, graphc_function, numpy_function,
        torch_function, jax_function, rule=Rule("sgd", 1e-2), torch_axes={n: (1, 0) for n in ("w", "u", "w_out")},
        flops=6.0 * steps * rows * (4 * hidden * (embed + hidden) + hidden * characters),
    )  # fmt: skip


ENTRIES = (Entry("lstm", "LSTM, 83 characters, embed 256, hidden 512, T=100, batch 16, SGD", make, goal=0.8),)

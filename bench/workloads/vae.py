"""A variational autoencoder 784-400-20-400-784 (Kingma, Welling, 2014), batch 128, Adam; the noise is an input.

What enters: sizes. What leaves: a step with its loss: binary cross-entropy of the reconstruction and KL divergence, a batch mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench import formulas
from bench.workload import Arrays, Entry, Function, Rule, Scratch, Weights, Workload


def graphc_function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
    import graphc

    x = d["image"]
    h = graphc.relu(x @ p["w0"] + p["b0"])
    mean, log_variance = h @ p["w_mean"] + p["b_mean"], h @ p["w_var"] + p["b_var"]
    z = mean + graphc.exp(0.5 * log_variance) * d["noise"]
    logits = graphc.relu(z @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
    rows = x.shape[0]
    reconstruction = graphc.losses.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    divergence = -0.5 * graphc.sum(1 + log_variance - mean * mean - graphc.exp(log_variance))
    return {"loss": (reconstruction + divergence) / rows}


def numpy_function(p: Arrays, d: Arrays, scratch: Scratch) -> tuple[Arrays, Arrays]:
    x, noise = d["image"], d["noise"]
    rows = len(x)
    h = x @ p["w0"]
    h += p["b0"]
    np.maximum(h, 0, out=h)
    mean, log_variance = h @ p["w_mean"] + p["b_mean"], h @ p["w_var"] + p["b_var"]
    deviation = np.exp(0.5 * log_variance)
    z = mean + deviation * noise
    up = z @ p["w1"]
    up += p["b1"]
    np.maximum(up, 0, out=up)
    logits = up @ p["w2"]
    logits += p["b2"]
    small = np.exp(-np.abs(logits))
    reconstruction = (np.maximum(logits, 0) - logits * x + np.log1p(small)).sum()
    variance = np.square(deviation)
    divergence = -0.5 * (1 + log_variance - np.square(mean) - variance).sum()
    dy = formulas.sigmoid(logits)
    dy -= x
    dy /= rows
    g = {"w2": np.matmul(up.T, dy, out=scratch("dw2", p["w2"].shape, dy.dtype)), "b2": dy.sum(axis=0)}
    dy = dy @ p["w2"].T
    dy *= up > 0
    g |= {"w1": z.T @ dy, "b1": dy.sum(axis=0)}
    dz = dy @ p["w1"].T
    d_mean = dz + mean / rows
    d_log = dz * noise * deviation * 0.5 + (variance - 1) * (0.5 / rows)
    g |= {"w_mean": h.T @ d_mean, "b_mean": d_mean.sum(axis=0), "w_var": h.T @ d_log, "b_var": d_log.sum(axis=0)}
    dh = d_mean @ p["w_mean"].T
    dh += d_log @ p["w_var"].T
    dh *= h > 0
    g |= {"w0": np.matmul(x.T, dh, out=scratch("dw0", p["w0"].shape, dh.dtype)), "b0": dh.sum(axis=0)}
    return {"loss": (reconstruction + divergence) / rows}, g


def torch_function() -> Function:
    import torch
    import torch.nn.functional as F

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        x = d["image"]
        h = F.relu(F.linear(x, p["w0"], p["b0"]))
        mean, log_variance = F.linear(h, p["w_mean"], p["b_mean"]), F.linear(h, p["w_var"], p["b_var"])
        z = mean + torch.exp(0.5 * log_variance) * d["noise"]
        logits = F.linear(F.relu(F.linear(z, p["w1"], p["b1"])), p["w2"], p["b2"])
        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        divergence = -0.5 * (1 + log_variance - mean * mean - log_variance.exp()).sum()
        return {"loss": (reconstruction + divergence) / x.shape[0]}

    return function


def jax_function() -> Function:
    import jax.numpy as jnp

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        x = d["image"]
        h = jnp.maximum(x @ p["w0"] + p["b0"], 0)
        mean, log_variance = h @ p["w_mean"] + p["b_mean"], h @ p["w_var"] + p["b_var"]
        z = mean + jnp.exp(0.5 * log_variance) * d["noise"]
        logits = jnp.maximum(z @ p["w1"] + p["b1"], 0) @ p["w2"] + p["b2"]
        reconstruction = jnp.sum(jnp.maximum(logits, 0) - logits * x + jnp.log1p(jnp.exp(-jnp.abs(logits))))
        divergence = -0.5 * jnp.sum(1 + log_variance - mean * mean - jnp.exp(log_variance))
        return {"loss": (reconstruction + divergence) / x.shape[0]}

    return function


def make(tiny: bool) -> Workload:
    """The workload."""
    pixels, hidden, latent, batch = (12, 10, 3, 4) if tiny else (784, 400, 20, 128)
    draw = Weights(9)
    sizes = {
        "0": (pixels, hidden),
        "_mean": (hidden, latent),
        "_var": (hidden, latent),
        "1": (latent, hidden),
        "2": (hidden, pixels),
    }
    weights: Arrays = {}
    for name, (inputs, outputs) in sizes.items():
        weights[f"w{name}"] = draw.dense(inputs, outputs, 1.0)
        weights[f"b{name}"] = draw.normal(outputs, scale=0.1)
    products = sum(m * n for m, n in sizes.values())
    return Workload(
        "train", weights, {"image": draw.uniform(batch, pixels), "noise": draw.normal(batch, latent)}, graphc_function,
        numpy_function, torch_function, jax_function, rule=Rule("adam"),
        torch_axes={n: (1, 0) for n in weights if n.startswith("w")},
        flops=2.0 * batch * (3 * products - pixels * hidden),
    )  # fmt: skip


ENTRIES = (Entry("vae", "VAE 784-400-20, batch 128, Adam", make, goal=0.7),)

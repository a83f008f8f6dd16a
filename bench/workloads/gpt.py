"""A small GPT (Radford et al., 2019): 4 layers of 256, 4 heads, 128 tokens of 65 characters, batch 8, AdamW; and its inference.

What enters: sizes. What leaves: a step with its loss, or logits. Pre-norm blocks, exact GELU, learned positions, causal attention.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench import formulas
from bench.workload import Arrays, Entry, Function, Kind, Rule, Scratch, Weights, Workload, zeros
from bench.workloads.lstm import one_hot


def layers(p: dict[str, Any]) -> range:
    """The numbers of the blocks."""
    return range(sum(name.endswith(".qkv") for name in p))


def graphc_function(heads: int, infer: bool, p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
    import graphc

    rows, length = d["text"].shape
    width = p["position"].shape[1]
    x = graphc.take(p["token"], d["text"], axis=0) + p["position"]

    def split(y: Any) -> Any:
        return graphc.transpose(graphc.reshape(y, (rows, length, heads, width // heads)), (0, 2, 1, 3))

    for n in layers(p):
        y = graphc.layer_norm(x, p[f"{n}.gain1"], p[f"{n}.shift1"]) @ p[f"{n}.qkv"]
        q, k, v = (split(y[:, :, i * width : (i + 1) * width]) for i in range(3))
        y = graphc.scaled_dot_product_attention(q, k, v, causal=True)
        y = graphc.reshape(graphc.transpose(y, (0, 2, 1, 3)), (rows, length, width))
        x = x + (y @ p[f"{n}.project"] + p[f"{n}.b_project"])
        y = graphc.layer_norm(x, p[f"{n}.gain2"], p[f"{n}.shift2"])
        y = graphc.gelu(y @ p[f"{n}.up"] + p[f"{n}.b_up"])
        x = x + (y @ p[f"{n}.down"] + p[f"{n}.b_down"])
    logits = graphc.layer_norm(x, p["gain"], p["shift"]) @ p["head"]
    if infer:
        return {"output": logits}
    logits = graphc.reshape(logits, (rows * length, p["head"].shape[1]))
    return {"loss": graphc.losses.cross_entropy(logits, graphc.reshape(d["next"], (rows * length,)))}


def _attend(y: np.ndarray, rows: int, heads: int, mask: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Causal attention of packed queries, keys and values; what the gradient needs."""
    length, size = mask.shape[0], y.shape[1] // 3 // heads
    q, k, v = np.ascontiguousarray(y.reshape(rows, length, 3, heads, size).transpose(2, 0, 3, 1, 4))
    q *= size**-0.5
    p = q @ k.swapaxes(-1, -2)
    p += mask
    p -= p.max(axis=-1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)
    out = (p @ v).transpose(0, 2, 1, 3).reshape(rows * length, -1)
    return out, (q, k, v, p)


def _attend_back(dy: np.ndarray, saved: tuple[np.ndarray, ...]) -> np.ndarray:
    """The gradient in the packed queries, keys and values."""
    q, k, v, p = saved
    rows, heads, length, size = q.shape
    dy = np.ascontiguousarray(dy.reshape(rows, length, heads, size).transpose(0, 2, 1, 3))
    packed = np.empty((3, *q.shape), q.dtype)
    np.matmul(p.swapaxes(-1, -2), dy, out=packed[2])
    dp = dy @ v.swapaxes(-1, -2)
    dp -= np.einsum("bhij,bhij->bhi", dp, p)[..., None]
    dp *= p
    np.matmul(dp, k, out=packed[0])
    packed[0] *= size**-0.5
    np.matmul(dp.swapaxes(-1, -2), q, out=packed[1])
    return packed.transpose(1, 3, 0, 2, 4).reshape(rows * length, -1)


def _block(
    p: Arrays, n: int, x: np.ndarray, rows: int, heads: int, mask: np.ndarray
) -> tuple[np.ndarray, tuple[Any, ...]]:
    y1, norm1 = formulas.layer_norm(x, p[f"{n}.gain1"], p[f"{n}.shift1"])
    a, attention = _attend(y1 @ p[f"{n}.qkv"], rows, heads, mask)
    x = x + a @ p[f"{n}.project"]
    x += p[f"{n}.b_project"]
    y2, norm2 = formulas.layer_norm(x, p[f"{n}.gain2"], p[f"{n}.shift2"])
    up = y2 @ p[f"{n}.up"]
    up += p[f"{n}.b_up"]
    u, slope = formulas.gelu(up)
    x = x + u @ p[f"{n}.down"]
    x += p[f"{n}.b_down"]
    return x, (y1, norm1, attention, a, y2, norm2, u, slope)


def _block_back(p: Arrays, n: int, dx: np.ndarray, saved: tuple[Any, ...], g: Arrays) -> np.ndarray:
    y1, norm1, attention, a, y2, norm2, u, slope = saved
    g[f"{n}.down"], g[f"{n}.b_down"] = u.T @ dx, dx.sum(axis=0)
    du = dx @ p[f"{n}.down"].T
    du *= slope
    g[f"{n}.up"], g[f"{n}.b_up"] = y2.T @ du, du.sum(axis=0)
    back, g[f"{n}.gain2"], g[f"{n}.shift2"] = formulas.layer_norm_gradient(du @ p[f"{n}.up"].T, p[f"{n}.gain2"], norm2)
    dx = dx + back
    g[f"{n}.project"], g[f"{n}.b_project"] = a.T @ dx, dx.sum(axis=0)
    dy = _attend_back(dx @ p[f"{n}.project"].T, attention)
    g[f"{n}.qkv"] = y1.T @ dy
    back, g[f"{n}.gain1"], g[f"{n}.shift1"] = formulas.layer_norm_gradient(dy @ p[f"{n}.qkv"].T, p[f"{n}.gain1"], norm1)
    return np.asarray(dx + back)


def numpy_function(heads: int, infer: bool, p: Arrays, d: Arrays, scratch: Scratch) -> tuple[Arrays, Arrays]:
    rows, length = d["text"].shape
    mask = np.triu(np.full((length, length), -np.inf, p["head"].dtype), 1)
    text = d["text"].reshape(-1)
    x = (p["token"][d["text"]] + p["position"]).reshape(rows * length, -1)
    saved = []
    for n in layers(p):
        x, kept = _block(p, n, x, rows, heads, mask)
        if not infer:
            saved.append(kept)
    y, norm = formulas.layer_norm(x, p["gain"], p["shift"])
    logits = y @ p["head"]
    if infer:
        return {"output": logits.reshape(rows, length, -1)}, {}
    loss, dy = formulas.cross_entropy(logits, d["next"].reshape(-1))
    g: Arrays = {"head": y.T @ dy}
    dx, g["gain"], g["shift"] = formulas.layer_norm_gradient(dy @ p["head"].T, p["gain"], norm)
    for n in reversed(layers(p)):
        dx = _block_back(p, n, dx, saved.pop(), g)
    g["token"] = one_hot(text, len(p["token"]), dx.dtype) @ dx
    g["position"] = dx.reshape(rows, length, -1).sum(axis=0)
    return {"loss": loss}, g


def torch_function(heads: int, infer: bool) -> Function:
    import torch.nn.functional as F

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        rows, length = d["text"].shape
        width = p["position"].shape[1]
        x = F.embedding(d["text"], p["token"]) + p["position"]
        for n in layers(p):
            y = F.layer_norm(x, (width,), p[f"{n}.gain1"], p[f"{n}.shift1"])
            y = F.linear(y, p[f"{n}.qkv"]).view(rows, length, 3, heads, width // heads)
            q, k, v = y.permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.linear(y.transpose(1, 2).reshape(rows, length, width), p[f"{n}.project"], p[f"{n}.b_project"])
            y = F.layer_norm(x, (width,), p[f"{n}.gain2"], p[f"{n}.shift2"])
            y = F.gelu(F.linear(y, p[f"{n}.up"], p[f"{n}.b_up"]))
            x = x + F.linear(y, p[f"{n}.down"], p[f"{n}.b_down"])
        logits = F.linear(F.layer_norm(x, (width,), p["gain"], p["shift"]), p["head"])
        return {"output": logits} if infer else {"loss": F.cross_entropy(logits.flatten(0, 1), d["next"].flatten())}

    return function


def jax_function(heads: int, infer: bool) -> Function:
    import jax.numpy as jnp
    from jax import nn

    def norm(x: Any, gain: Any, shift: Any) -> Any:
        mean = x.mean(axis=-1, keepdims=True)
        variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
        return (x - mean) * (variance + 1e-5) ** -0.5 * gain + shift

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        rows, length = d["text"].shape
        width = p["position"].shape[1]
        x = p["token"][d["text"]] + p["position"]
        for n in layers(p):
            y = norm(x, p[f"{n}.gain1"], p[f"{n}.shift1"]) @ p[f"{n}.qkv"]
            q, k, v = jnp.moveaxis(y.reshape(rows, length, 3, heads, width // heads), 2, 0)
            y = nn.dot_product_attention(q, k, v, is_causal=True).reshape(rows, length, width)
            x = x + y @ p[f"{n}.project"] + p[f"{n}.b_project"]
            y = norm(x, p[f"{n}.gain2"], p[f"{n}.shift2"])
            y = nn.gelu(y @ p[f"{n}.up"] + p[f"{n}.b_up"], approximate=False)
            x = x + y @ p[f"{n}.down"] + p[f"{n}.b_down"]
        logits = norm(x, p["gain"], p["shift"]) @ p["head"]
        if infer:
            return {"output": logits}
        picked = jnp.take_along_axis(nn.log_softmax(logits), d["next"][..., None], -1)
        return {"loss": -picked.mean()}

    return function


def onnx_function(heads: int, count: int, shape: tuple[int, int, int], graph: Any) -> None:
    rows, length, width = shape
    size = width // heads
    split = graph.constant(np.array([rows, length, 3, heads, size], np.int64))
    merge = graph.constant(np.array([rows, length, width], np.int64))
    parts = [graph.constant(np.array(i, np.int64)) for i in range(3)]
    scale = graph.constant(np.float32(size**-0.5))
    mask = graph.constant(np.triu(np.full((length, length), -np.inf, np.float32), 1))
    x = graph.op("Add", graph.op("Gather", "token", "text"), "position")
    for n in range(count):
        y = graph.op("LayerNormalization", x, f"{n}.gain1", f"{n}.shift1", epsilon=1e-5)
        y = graph.op("Reshape", graph.op("MatMul", y, f"{n}.qkv"), split)
        y = graph.op("Transpose", y, perm=[2, 0, 3, 1, 4])
        q, k, v = (graph.op("Gather", y, i) for i in parts)
        scores = graph.op("MatMul", graph.op("Mul", q, scale), graph.op("Transpose", k, perm=[0, 1, 3, 2]))
        y = graph.op("MatMul", graph.op("Softmax", graph.op("Add", scores, mask)), v)
        y = graph.op("Reshape", graph.op("Transpose", y, perm=[0, 2, 1, 3]), merge)
        x = graph.op("Add", x, graph.op("Add", graph.op("MatMul", y, f"{n}.project"), f"{n}.b_project"))
        y = graph.op("LayerNormalization", x, f"{n}.gain2", f"{n}.shift2", epsilon=1e-5)
        y = graph.op("Gelu", graph.op("Add", graph.op("MatMul", y, f"{n}.up"), f"{n}.b_up"))
        x = graph.op("Add", x, graph.op("Add", graph.op("MatMul", y, f"{n}.down"), f"{n}.b_down"))
    y = graph.op("LayerNormalization", x, "gain", "shift", epsilon=1e-5)
    graph.output("output", graph.op("MatMul", y, "head"))


def _weights(draw: Weights, count: int, width: int, length: int, characters: int) -> Arrays:
    def norm(prefix: str, suffix: str = "") -> Arrays:
        return {
            f"{prefix}gain{suffix}": 1 + draw.normal(width, scale=0.05),
            f"{prefix}shift{suffix}": draw.normal(width, scale=0.05),
        }  # fmt: skip

    found = {"token": draw.normal(characters, width, scale=0.5), "position": draw.normal(length, width, scale=0.1)}
    for n in range(count):
        found |= norm(f"{n}.", "1") | {f"{n}.qkv": draw.dense(width, 3 * width, 1.0)}
        found |= {f"{n}.project": draw.dense(width, width, 0.25), f"{n}.b_project": zeros(width)}
        found |= norm(f"{n}.", "2") | {f"{n}.up": draw.dense(width, 4 * width, 1.0), f"{n}.b_up": zeros(4 * width)}
        found |= {f"{n}.down": draw.dense(4 * width, width, 0.25), f"{n}.b_down": zeros(width)}
    return found | norm("") | {"head": draw.dense(width, characters, 1.0)}


def workload(kind: Kind, tiny: bool) -> Workload:
    """The model on random text."""
    infer = kind == "inference"
    count, width, heads, length, rows, characters = (2, 8, 2, 5, 2, 7) if tiny else (4, 256, 4, 128, 8, 65)
    draw = Weights(8)
    weights = _weights(draw, count, width, length, characters)
    text = draw.integers(characters, rows, length + 1)
    data = {"text": text[:, :-1].copy()} | ({} if infer else {"next": text[:, 1:].copy()})
    products = count * 12 * width * width + width * characters
    attention = count * 2 * length * width // 2  # causal: half of the scores
    return Workload(
        kind, weights, data, partial(graphc_function, heads, infer), partial(numpy_function, heads, infer),
        partial(torch_function, heads, infer), partial(jax_function, heads, infer),
        partial(onnx_function, heads, count, (rows, length, width)) if infer else None,
        None if infer else Rule("adamw", decay=0.01),
        torch_axes={n: (1, 0) for n, a in weights.items() if a.ndim == 2 and n not in ("token", "position")},
        flops=(2.0 if infer else 6.0) * rows * length * (products + attention),
    )  # fmt: skip


ENTRIES = (
    Entry(
        "gpt", "GPT 4 x 256, 4 heads, T=128, batch 8, AdamW", partial(workload, "train"), goal=0.75, cold=2.0, warm=0.05
    ),
    Entry("gpt-inference", "GPT inference, batch 8", partial(workload, "inference"), goal=0.75),
)

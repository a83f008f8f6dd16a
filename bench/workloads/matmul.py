"""Matrix products: squares from 64 to 2048, skinny ones, one row, transposed operands, and one with bias and GELU.

What enters: a shape. What leaves: the product. Whole calls are timed, of every executor alike; ``bench.kernels`` times the bare
kernels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench import formulas
from bench.workload import Arrays, Entry, Function, Scratch, Weights, Workload


def graphc_function(flags: str, p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
    import graphc

    a, b = d["a"], d["b"]
    y = (graphc.transpose(a) if "a" in flags else a) @ (graphc.transpose(b) if "b" in flags else b)
    return {"output": graphc.gelu(y + d["bias"]) if "g" in flags else y}


def numpy_function(flags: str, p: Arrays, d: Arrays, scratch: Scratch) -> tuple[Arrays, Arrays]:
    a, b = d["a"], d["b"]
    a, b = a.T if "a" in flags else a, b.T if "b" in flags else b
    y = np.matmul(a, b, out=scratch("y", (a.shape[0], b.shape[1]), a.dtype))
    if "g" in flags:
        y += d["bias"]
        for start in range(0, len(y), 8):
            y[start : start + 8] = formulas.gelu(y[start : start + 8])[0]
    return {"output": y}, {}


def torch_function(flags: str) -> Function:
    import torch
    from torch.nn.functional import gelu

    kept: dict[str, Any] = {}

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        a, b = d["a"], d["b"]
        a, b = a.T if "a" in flags else a, b.T if "b" in flags else b
        if "g" in flags:
            return {"output": gelu(torch.addmm(d["bias"], a, b))}
        if "y" not in kept:
            kept["y"] = a.new_empty(a.shape[0], b.shape[1])
        return {"output": torch.mm(a, b, out=kept["y"])}

    return function


def jax_function(flags: str) -> Function:
    from jax import nn

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        a, b = d["a"], d["b"]
        y = (a.T if "a" in flags else a) @ (b.T if "b" in flags else b)
        return {"output": nn.gelu(y + d["bias"], approximate=False) if "g" in flags else y}

    return function


def onnx_function(flags: str, graph: Any) -> None:
    if "g" in flags:
        graph.output("output", graph.op("Gelu", graph.op("Add", graph.op("MatMul", "a", "b"), "bias")))
    else:
        graph.output("output", graph.op("Gemm", "a", "b", transA=int("a" in flags), transB=int("b" in flags)))


def workload(m: int, k: int, n: int, flags: str, tiny: bool) -> Workload:
    """An [m, k] by [k, n] product; flags: "a", "b" for operands that are stored transposed, "g" for bias and GELU."""
    if tiny:
        m, k, n = (min(size, limit) for size, limit in zip((m, k, n), (9, 17, 11), strict=True))
    draw = Weights(11)
    data = {
        "a": draw.normal(*((k, m) if "a" in flags else (m, k))),
        "b": draw.normal(*((n, k) if "b" in flags else (k, n))),
    }
    if "g" in flags:
        data["bias"] = draw.normal(n)
    return Workload(
        "inference", {}, data, partial(graphc_function, flags), partial(numpy_function, flags),
        partial(torch_function, flags), partial(jax_function, flags), partial(onnx_function, flags), flops=2.0 * m * k * n,
    )  # fmt: skip


SHAPES: tuple[tuple[int, int, int, str], ...] = (
    *((size, size, size, "") for size in (64, 128, 256, 512, 1024, 2048)),
    (2048, 2048, 16, ""), (16, 2048, 2048, ""), (1, 2048, 2048, ""), (2048, 64, 2048, ""), (64, 8192, 64, ""),
    (1000, 1000, 1000, ""), (512, 512, 512, "a"), (512, 512, 512, "b"), (2048, 768, 3072, "g"),
)  # fmt: skip


def name(m: int, k: int, n: int, flags: str) -> str:
    """How tables call it.

    >>> name(512, 512, 512, "a")
    '512 x 512 x 512, A transposed'
    """
    marks = {"a": ", A transposed", "b": ", B transposed", "g": ", bias, GELU"}
    return f"{m} x {k} x {n}" + "".join(marks[f] for f in flags)


ENTRIES = tuple(
    Entry(
        f"matmul-{m}x{k}x{n}{'-' + flags if flags else ''}", f"product {name(m, k, n, flags)}",
        partial(workload, m, k, n, flags), goal=0.7 if "g" in flags else 0.95, family="matmul",
        skip={} if "g" in flags else {"torch.compile": "calls the same library as torch eager"},
    )
    for m, k, n, flags in SHAPES
)  # fmt: skip

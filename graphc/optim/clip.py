"""Gradient clipping: gradients in, gradients of bounded size out.

Invariant: gradients within the bound are unchanged bit for bit (they are multiplied by exactly 1).

>>> import graphc.ops as ops
>>> from graphc.interpreter import evaluate
>>> g = ops.constant([3.0, 4.0])
>>> evaluate(clip_by_global_norm([g], 1.0)[0], {}).round(3).tolist()
[0.6..., 0.8...]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from graphc import ops, provenance
from graphc.errors import GraphError
from graphc.ir import Node

Clip: TypeAlias = "float | Callable[[Sequence[Node]], list[Node]]"


def clip_by_value(gradients: Sequence[Node], limit: float) -> list[Node]:
    """Each element brought into ``-limit..limit``.

    Raises:
        GraphError: the limit is not positive.
    """
    _check(limit)
    clipped = []
    for gradient in gradients:
        with provenance.deriving("optimize", "clip_by_value", (gradient,)):
            clipped.append(ops.clip(gradient, -limit, limit))
    return clipped


def global_norm(gradients: Sequence[Node]) -> Node:
    """The Euclidean norm of all elements of all gradients together, a scalar.

    Raises:
        GraphError: no gradients.
    """
    if not gradients:
        raise GraphError("global_norm of no gradients", source=provenance.capture())
    with provenance.deriving("optimize", "global_norm", tuple(gradients)):
        total = ops.sum(gradients[0] * gradients[0])
        for gradient in gradients[1:]:
            total = total + ops.sum(gradient * gradient)
        return ops.sqrt(total)


def clip_by_global_norm(gradients: Sequence[Node], limit: float) -> list[Node]:
    """All gradients scaled by ``limit / max(norm, limit)``, where norm is their :func:`global_norm`.

    Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, algorithm 1.

    Raises:
        GraphError: the limit is not positive, or there are no gradients.
    """
    _check(limit)
    norm = global_norm(gradients)
    with provenance.deriving("optimize", "clip_by_global_norm", (norm, *gradients)):
        scale = limit / ops.maximum(norm, limit)
        return [gradient * scale for gradient in gradients]


def apply_clip(gradients: Sequence[Node], clip: Clip | None) -> list[Node]:
    """Gradients clipped as asked: a number bounds the global norm, a function maps gradients to gradients."""
    if clip is None:
        return list(gradients)
    if callable(clip):
        return list(clip(gradients))
    return clip_by_global_norm(gradients, clip)


def _check(limit: float) -> None:
    if not (math.isfinite(limit) and limit > 0):
        raise GraphError(f"a gradient is clipped to a positive number, not {limit}", source=provenance.capture())

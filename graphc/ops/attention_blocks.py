r"""Attention block by block: rows that see no future skip it, and long rows never stand in memory whole.

What enters: static queries ``[..., t, d]``, keys ``[..., s, d]``, values ``[..., s, e]``. What leaves: what
:mod:`graphc.ops.attention` defines, up to rounding, and its cotangents. Invariants: a causal chunk of queries reads the keys up to
its own end only; above :data:`LONG` keys the scores exist for one block of keys at a time, in a loop that carries the running
maximum ``m``, the running sum ``l`` and the rescaled result ``a``; the backward loop makes a block's weights again from the row's
log-sum-exp instead of keeping them. ::

    for keys k_j, values v_j of block j:
        s = q k_j^T        m' = max(m, max s)        p = exp(s - m')
        l' = l exp(m - m') + sum p                   a' = a exp(m - m') + p v_j
    result = a / l

Sources: Milakov, Gimelshein, "Online normalizer calculation for softmax" (2018); Dao, Fu, Ermon, Rudra, Re, "FlashAttention" (2022),
algorithms 1 and 4.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import graphc.ops as ops
from graphc.ir import Node
from graphc.ops.broadcasting import broadcast_to
from graphc.ops.contractions import matmul_op
from graphc.ops.scan import scan

CHUNK = 128  # causal queries in a piece, which reads the keys up to its end; passes/causal.py may ask for fewer
PIECES = 8  # at most so many
LONG = 1024  # keys above which a row of scores is made block by block
BLOCKS = (256, 512, 128, 64)  # keys in a block: the first that divides their number


def pieces(t: object, s: object, causal: bool, chunk: int = CHUNK) -> list[tuple[int, int]]:
    """Where causal queries are cut, into chunks of ``chunk`` or more: (first, last) of each; none if it does not pay.

    >>> pieces(512, 512, True), pieces(128, 128, True), pieces("batch", 512, True)
    ([(0, 128), (128, 256), (256, 384), (384, 512)], [], [])
    """
    if not causal or not isinstance(t, int) or t != s or t < 2 * chunk:
        return []
    count = min(PIECES, t // chunk)
    bounds = [t * k // count for k in range(count + 1)]
    return list(itertools.pairwise(bounds))


def block_of(s: object) -> int:
    """How many keys a block has; 0 where the row fits or nothing divides it.

    >>> block_of(4096), block_of(1024), block_of(2049)
    (256, 0, 0)
    """
    if not isinstance(s, int) or s <= LONG:
        return 0
    return next((b for b in BLOCKS if s % b == 0), 0)


def rows(x: Node, first: int, last: int) -> Node:
    """Rows ``first .. last-1`` of ``[..., rows, columns]``."""
    if (first, last) == (0, x.shape[-2]):
        return x
    return x[(slice(None),) * (x.ndim - 2) + (slice(first, last),)]


def in_pieces(q: Node, k: Node, v: Node, cuts: Sequence[tuple[int, int]], one: Callable[[Node, Node, Node], Node]) -> Node:
    """Causal attention piece by piece; ``one`` is causal attention of a piece whose last query is the last key."""
    return ops.concatenate([one(rows(q, a, b), rows(k, 0, b), rows(v, 0, b)) for a, b in cuts], axis=q.ndim - 2)


def gradients_in_pieces(
    q: Node, k: Node, v: Node, out: Node, ct: Node, cuts: Sequence[tuple[int, int]],
    one: Callable[[Node, Node, Node, Node, Node], tuple[Node, Node, Node]],
) -> tuple[Node, Node, Node]:  # fmt: skip
    """Cotangents of causal attention piece by piece: keys and values add up what each piece gives."""
    d_q: list[Node] = []
    d_k: Node | None = None
    d_v: Node | None = None
    for a, b in cuts:
        parts = one(rows(q, a, b), rows(k, 0, b), rows(v, 0, b), rows(out, a, b), rows(ct, a, b))
        d_q.append(parts[0])
        wide = [(0, 0)] * (k.ndim - 2) + [(0, int(k.shape[-2]) - b), (0, 0)]  # type: ignore[arg-type]
        spread = [ops.pad(p, wide) if wide[-2][1] else p for p in parts[1:]]
        d_k = spread[0] if d_k is None else ops.add(d_k, spread[0])
        d_v = spread[1] if d_v is None else ops.add(d_v, spread[1])
    assert d_k is not None and d_v is not None
    return ops.concatenate(d_q, axis=q.ndim - 2), d_k, d_v


# --- long rows -----------------------------------------------------------------------------------------------------


def _blocks(x: Node, size: int) -> Node:
    """``[..., s, d]`` as a sequence of blocks ``[s / size, ..., size, d]``."""
    *front, s, d = x.type.static_shape
    cut = ops.reshape(x, (*front, s // size, size, d))
    n = len(front)
    return ops.transpose(cut, (n, *range(n), n + 1, n + 2))


def _joined(stack: Node) -> Node:
    """The blocks of a loop as rows again."""
    count, *front, size, d = stack.type.static_shape
    n = len(front)
    return ops.reshape(ops.transpose(stack, (*range(1, n + 1), 0, n + 1, n + 2)), (*front, count * size, d))


def _scores(q: Node, keys: Node, start: Node, s: int, causal: bool, scale: float) -> Node:
    """Scores of all queries with one block of keys; -inf where a key lies in the future."""
    scores = ops.mul(matmul_op(q, keys, transpose_a=False, transpose_b=True), scale)
    if not causal:
        return scores
    t, size = scores.type.static_shape[-2:]
    own = ops.reshape(ops.arange(s - t, s), (t, 1))
    places = ops.add(ops.arange(size), start)
    return ops.where(ops.ge(own, places), scores, -math.inf)


def _spread(x: Node, like: Node) -> Node:
    return broadcast_to(x, like.shape)


def _statistics(m: Node, total: Node, scores: Node) -> tuple[Node, Node, Node, Node]:
    """The next maximum and sum, the block's weights, and the factor that old results are rescaled by."""
    top = ops.maximum(m, ops.max(scores, axis=-1, keepdims=True))
    safe = ops.where(ops.eq(top, -math.inf), 0.0, top)  # rows that have seen nothing yet
    weights = ops.exp(ops.sub(scores, _spread(safe, scores)))
    factor = ops.exp(ops.sub(m, safe))
    return top, ops.add(ops.mul(total, factor), ops.sum(weights, axis=-1, keepdims=True)), weights, factor


def _starts(q: Node) -> tuple[Node, Node]:
    shape = (*q.shape[:-1], 1)
    return ops.full(shape, -math.inf, q.dtype), ops.zeros(shape, q.dtype)


def streamed(q: Node, k: Node, v: Node, *, causal: bool, scale: float, size: int) -> Node:
    """Attention over blocks of ``size`` keys."""
    s = int(k.shape[-2])  # type: ignore[arg-type]

    def step(carry: tuple[Node, Node, Node], block: tuple[Node, Node, Node]) -> tuple[tuple[Node, Node, Node], None]:
        m, total, result = carry
        keys, values, start = block
        m, total, weights, factor = _statistics(m, total, _scores(q, keys, start, s, causal, scale))
        part = matmul_op(weights, values, transpose_a=False, transpose_b=False)
        return (m, total, ops.add(ops.mul(result, _spread(factor, result)), part)), None

    start = ops.arange(0, s, size)
    first = (*_starts(q), ops.zeros((*q.shape[:-1], v.shape[-1]), q.dtype))
    (_, total, result), _ = scan(step, first, (_blocks(k, size), _blocks(v, size), start))
    return ops.div(result, _spread(total, result))


def log_sum_exp(q: Node, k: Node, *, causal: bool, scale: float, size: int) -> Node:
    """The log-sum-exp of each row of scores, ``[..., t, 1]``, over blocks of keys."""
    s = int(k.shape[-2])  # type: ignore[arg-type]

    def step(carry: tuple[Node, Node], block: tuple[Node, Node]) -> tuple[tuple[Node, Node], None]:
        m, total, _, _ = _statistics(*carry, _scores(q, block[0], block[1], s, causal, scale))
        return (m, total), None

    (m, total), _ = scan(step, _starts(q), (_blocks(k, size), ops.arange(0, s, size)))
    return ops.add(ops.log(total), m)


def streamed_gradients(
    q: Node, k: Node, v: Node, out: Node, ct: Node, *, causal: bool, scale: float, size: int
) -> tuple[Node, Node, Node]:
    """Cotangents of queries, keys and values, the weights of each block made again."""
    s = int(k.shape[-2])  # type: ignore[arg-type]
    norm = log_sum_exp(q, k, causal=causal, scale=scale, size=size)
    delta = ops.sum(ops.mul(ct, out), axis=-1, keepdims=True)

    def step(d_q: Node, block: tuple[Node, Node, Node]) -> tuple[Node, tuple[Node, Node]]:
        keys, values, start = block
        scores = _scores(q, keys, start, s, causal, scale)
        weights = ops.exp(ops.sub(scores, _spread(norm, scores)))
        d_values = matmul_op(weights, ct, transpose_a=True, transpose_b=False)
        change = matmul_op(ct, values, transpose_a=False, transpose_b=True)
        d_scores = ops.mul(ops.mul(weights, ops.sub(change, _spread(delta, change))), scale)
        d_q = ops.add(d_q, matmul_op(d_scores, keys, transpose_a=False, transpose_b=False))
        return d_q, (matmul_op(d_scores, q, transpose_a=True, transpose_b=False), d_values)

    series = (_blocks(k, size), _blocks(v, size), ops.arange(0, s, size))
    d_q, (d_k, d_v) = scan(step, ops.zeros_like(q), series)
    return d_q, _joined(d_k), _joined(d_v)

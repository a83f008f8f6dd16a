r"""Symbolic differentiation: values in, values out, by reverse and forward accumulation over the DAG.

What enters: scalar ``y`` (or outputs with cotangents) and the values ``wrt`` which. What leaves: new nodes, which can
be printed, drawn, optimised and differentiated again. ::

    %0: f32[n] = exp(%x)                            d sum(exp(x)) / dx:
    %1: f32[] = sum(%0) {axes=(0,)}        -->        %3: f32[n] = broadcast(1.0) {shape=(n,)}     vjp:sum
                                                      %4: f32[n] = mul(%3, %0)                     vjp:exp

Invariants: every node that is made knows the rule that made it (``vjp:exp``, ``jvp:matmul``, ``accumulate``) and its
primal; only nodes on a path from ``wrt`` to ``y`` are visited, each once, so shared subgraphs are differentiated once
(linear time); nothing recurses over the graph. A derivative is the op's own data (:mod:`graphc.ops.declare`);
composites without one are differentiated through their expansion.

Conventions: a ``wrt`` on which ``y`` does not depend has derivative zero. All reads of one variable count as one value.
No NaN leaks out of the branch that a ``where`` did not take: behind it, products with cotangents are ``chain_product``,
in which an exact zero wins. (A matmul behind a ``where`` still mixes rows: mask its operands instead.)

Method: reverse accumulation after Speelpenning (1980), as in Griewank & Walther, *Evaluating Derivatives*, 2nd ed.,
2008, chapters 3 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphc import ops, provenance
from graphc.errors import DifferentiationError
from graphc.ir import Node
from graphc.types import SymDim
from graphc.variables import Variable
from passes.adjoints import reverse
from passes.structure import Wrt, flatten, label, require_float, require_node, seed_like, unflatten
from passes.tangents import forward

JACOBIAN_LIMIT = 4096


def grad(y: Node, wrt: Wrt) -> Any:
    """The gradient of a scalar.

    Args:
        y: a float scalar, shape ().
        wrt: a node, a variable, or a list, tuple or dict of them; inner values of the graph are allowed too.

    Returns:
        Nodes in the structure of ``wrt``, each of the type of the value it belongs to.

    Raises:
        DifferentiationError: ``y`` is no float scalar, a ``wrt`` is not a float, or the path between them holds an op
            without a derivative (the message shows the path).

    >>> from graphc import ops
    >>> x = ops.input("x", (3,)); str(grad(ops.sum(x * x), x).type)
    'f32[3]'
    """
    return value_and_grad(y, wrt)[1]


def value_and_grad(y: Node, wrt: Wrt) -> tuple[Node, Any]:
    """``(y, grad(y, wrt))``; see :func:`grad`."""
    require_node(y, "y")
    if not y.dtype.is_float:
        raise DifferentiationError(
            f"cannot differentiate {label(y)}: it is {y.type}, not a float", source=y.source,
            help="differentiate a real value; comparisons and integers have no gradient",
        )  # fmt: skip
    if y.shape != ():
        raise DifferentiationError(
            f"grad needs a scalar, {label(y)} is {y.type}", source=y.source,
            help="reduce it with graphc.sum or graphc.mean, or use graphc.vjp with a cotangent for each element",
        )  # fmt: skip
    with provenance.deriving("differentiate", "seed", parents=(y,), primal=y):
        one = ops.ones_like(y)
    targets = flatten(wrt)
    return y, unflatten(wrt, reverse([y], [one], targets))


def vjp(outputs: Wrt, wrt: Wrt, cotangents: Any) -> Any:
    """Cotangents of ``wrt`` for given cotangents of ``outputs``: the vector-Jacobian product.

    Args:
        outputs: a node, or a list, tuple or dict of nodes.
        wrt: as in :func:`grad`.
        cotangents: in the structure of ``outputs``: nodes, arrays or numbers of their types (scalars are broadcast).

    Raises:
        DifferentiationError: as :func:`grad`, or a cotangent does not fit its output.
    """
    ys = flatten(outputs)
    seeds = [seed_like(y, ct, "cotangent") for y, ct in _paired(ys, outputs, cotangents, "cotangents")]
    return unflatten(wrt, reverse(ys, seeds, flatten(wrt)))


def jvp(outputs: Wrt, wrt: Wrt, tangents: Any) -> Any:
    """Tangents of ``outputs`` for given tangents of ``wrt``: the Jacobian-vector product, by forward accumulation.

    Args:
        tangents: in the structure of ``wrt``: nodes, arrays or numbers of their types (scalars are broadcast).

    Returns:
        Nodes in the structure of ``outputs``.

    >>> from graphc import ops
    >>> x = ops.input("x", (3,)); str(jvp(ops.sin(x), x, 1.0).type)
    'f32[3]'
    """
    xs = flatten(wrt)
    seeds = [seed_like(x, t, "tangent") for x, t in _paired(xs, wrt, tangents, "tangents")]
    return unflatten(outputs, forward(flatten(outputs), xs, seeds))


def hvp(y: Node, wrt: Wrt, vectors: Any) -> Any:
    """Hessian times vector, ``d/dt grad(y)(wrt + t*vectors)``, forward over reverse: a small multiple of grad's cost.

    Source: Pearlmutter, *Fast exact multiplication by the Hessian*, Neural Computation 6 (1994).
    """
    return jvp(grad(y, wrt), wrt, vectors)


def jacobian(y: Node, wrt: Wrt, *, limit: int = JACOBIAN_LIMIT) -> Any:
    """All first derivatives: for ``y`` of shape S and a value of shape T, a node of shape S + T.

    One product a row or a column, whichever are fewer (at most ``limit`` of them), so shapes must be static.

    Raises:
        DifferentiationError: a symbolic shape, or too many rows and columns.

    >>> from graphc import ops
    >>> x = ops.input("x", (3,)); str(jacobian(ops.stack([ops.sum(x), ops.prod(x)]), x).type)
    'f32[2,3]'
    """
    require_node(y, "y")
    targets = flatten(wrt)
    for node in (y, *targets):
        if not node.type.is_static:
            raise DifferentiationError(
                f"jacobian needs static shapes, {label(node)} is {node.type}", source=node.source,
                help="give the sizes as numbers, or use vjp and jvp",
            )  # fmt: skip
        require_float(node)
    small = [t for t in targets if _size(t) < _size(y)]
    rows = _rows(y, [t for t in targets if _size(t) >= _size(y)], limit)
    made = dict(rows)
    for target in small:
        made[target] = _columns(y, target, limit)
    return unflatten(wrt, [made[t] for t in targets])


def hessian(y: Node, wrt: Wrt, *, limit: int = JACOBIAN_LIMIT) -> Any:
    """All second derivatives of a scalar: a node of shape T + T, or for several values a list of lists of blocks.

    Raises:
        DifferentiationError: as :func:`grad` and :func:`jacobian`.
    """
    if isinstance(wrt, (Node, Variable)):
        return jacobian(grad(y, wrt), wrt, limit=limit)
    gradients = flatten(grad(y, wrt))
    return unflatten(wrt, [jacobian(g, wrt, limit=limit) for g in gradients])


def _paired(nodes: Sequence[Node], like: Wrt, given: Any, what: str) -> list[tuple[Node, Any]]:
    if isinstance(like, (Node, Variable)):
        return [(nodes[0], given)]
    if isinstance(like, Mapping):
        if not isinstance(given, Mapping) or set(given) != set(like):
            raise DifferentiationError(f"{what} must be a dict with the keys {', '.join(map(str, like))}")
        return [(node, given[key]) for node, key in zip(nodes, like, strict=True)]
    if not isinstance(given, (list, tuple)) or len(given) != len(nodes):
        raise DifferentiationError(f"{what} must be a list of {len(nodes)}, one for each value")
    return list(zip(nodes, given, strict=True))


def _size(node: Node) -> int:
    size = node.type.size
    assert not isinstance(size, SymDim)
    return size


def _check_limit(count: int, y: Node, limit: int) -> None:
    if count > limit:
        raise DifferentiationError(
            f"the Jacobian of {label(y)} takes {count} products, the limit is {limit}", source=y.source,
            help="use vjp, jvp or hvp, which need no whole matrix, or raise limit=",
        )  # fmt: skip


def _unit(node: Node, i: int, n: int) -> Node:
    """The i-th basis vector of a value's space."""
    positions = ops.iota((n,), 0, "int64")
    hot = ops.cast(ops.eq(positions, i), node.dtype)
    return ops.reshape(hot, node.shape)


def _rows(y: Node, targets: list[Node], limit: int) -> dict[Node, Node]:
    if not targets:
        return {}
    n = _size(y)
    _check_limit(n, y, limit)
    rows: list[list[Node]] = []
    for i in range(n):
        with provenance.deriving("differentiate", "seed", parents=(y,), primal=y):
            seed = _unit(y, i, n)
        rows.append(reverse([y], [seed], targets))
    with provenance.deriving("differentiate", "jacobian", parents=(y, *targets), primal=y):
        if not rows:
            return {t: ops.zeros((*y.shape, *t.shape), t.dtype) for t in targets}
        return {
            t: ops.reshape(ops.stack([row[k] for row in rows]), (*y.shape, *t.shape)) for k, t in enumerate(targets)
        }


def _columns(y: Node, target: Node, limit: int) -> Node:
    n = _size(target)
    _check_limit(n, y, limit)
    columns: list[Node] = []
    for i in range(n):
        with provenance.deriving("differentiate", "seed", parents=(target,), primal=target):
            seed = _unit(target, i, n)
        columns += forward([y], [target], [seed])
    with provenance.deriving("differentiate", "jacobian", parents=(y, target), primal=y):
        if not columns:
            return ops.zeros((*y.shape, *target.shape), y.dtype)
        stacked = ops.reshape(ops.stack(columns), (n, *y.shape))
        last = ops.transpose(stacked, (*range(1, y.ndim + 1), 0))
        return ops.reshape(last, (*y.shape, *target.shape))

"""Reverse accumulation: cotangents of outputs in, cotangents of targets out (the engine of grad, vjp and jacobian).

Invariant: the node of every cotangent has the type of its value; a value's cotangent is complete (all its users were
visited) before it is passed on. ::

    ct(x) = sum over users u of x:   vjp of u's op for that operand, at ct(u)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from graphc import ops, provenance
from graphc.errors import DifferentiationError
from graphc.garbage import collector_paused
from graphc.ir import REGISTRY, Node
from graphc.ops.declare import Custom, NotDifferentiable, Partials, Region, Transpose, Zero
from graphc.patterns import literal
from passes.structure import aliases, bounded_order, carries, no_path, require_float

# ops whose cotangents are exact zeros where the other branch was taken
_SELECTS = ("where", "chain_product")
_ADD, _MUL = REGISTRY["add"], REGISTRY["mul"]  # operands have one type already: no promotion to be found out


@collector_paused()
def reverse(outputs: Sequence[Node], cotangents: Sequence[Node], targets: Sequence[Node]) -> list[Node]:
    """Cotangents of ``targets``, zeros where the outputs do not depend on them; linear in the nodes between."""
    for target in targets:
        require_float(target)
    order = bounded_order(outputs)
    alias = aliases(order, targets)
    sweep = _Sweep(order, alias)
    for output, ct in zip(outputs, cotangents, strict=True):
        sweep.contribute(output, ct, None, False)
    sweep.run()
    result: dict[Node, Node] = {}
    totals: dict[Node, list[Node]] = {}
    for node, target in alias.items():
        if node in sweep.total:
            totals.setdefault(target, []).append(sweep.total[node])
    for target in dict.fromkeys(targets):
        found = totals.get(target)
        with provenance.deriving("differentiate", "zero", parents=(target,), primal=target):
            result[target] = _sum(target, found) if found else ops.zeros_like(target)
    return [result[t] for t in targets]


def _sum(node: Node, parts: Sequence[Node]) -> Node:
    total = parts[0]
    if len(parts) > 1:
        with provenance.deriving("differentiate", "accumulate", parents=(node, *parts), primal=node):
            for part in parts[1:]:
                total = _ADD(total, part)
    return total


@dataclass
class _Pending:
    """Contributions to one value's cotangent, the user that sent the first one, and whether a where is behind them."""

    parts: list[Node] = field(default_factory=list)
    via: Node | None = None
    guarded: bool = False


class _Sweep:
    """One reverse sweep over ``order`` from its end; ``sinks`` are the values whose cotangents are wanted."""

    def __init__(self, order: Sequence[Node], sinks: Collection[Node]) -> None:
        self.order = order
        self.sinks = sinks
        self.pending: dict[Node, _Pending] = {}
        self.total: dict[Node, Node] = {}
        self.guarded: set[Node] = set()
        self.boundary: Collection[Node] = ()
        self.active: set[Node] = set(sinks)
        for node in order:
            if node not in self.active and carries(node) and any(i in self.active for i in node.inputs):
                self.active.add(node)

    def contribute(self, node: Node, ct: Node, via: Node | None, guarded: bool) -> None:
        if node not in self.active:
            return
        pending = self.pending.setdefault(node, _Pending(via=via))
        pending.parts.append(ct)
        pending.guarded |= guarded

    def run(self) -> None:
        for node in reversed(self.order):
            pending = self.pending.get(node)
            if pending is None:
                continue
            ct = _sum(node, pending.parts)
            if node in self.sinks:
                self.total[node] = ct
                if pending.guarded:
                    self.guarded.add(node)
            if node in self.boundary or not carries(node) or not any(i in self.active for i in node.inputs):
                continue
            guarded = pending.guarded or node.op.name in _SELECTS
            with provenance.deriving("differentiate", f"vjp:{node.op.name}", parents=(node, ct), primal=node):
                parts = self.pull(node, ct, pending.guarded)
            for operand, part, behind_where in parts:
                if part.type != operand.type:
                    raise _ill_typed(node, operand, part)
                self.contribute(operand, part, node, guarded or behind_where)

    def pull(self, node: Node, ct: Node, guarded: bool) -> list[tuple[Node, Node, bool]]:
        """(operand, its cotangent, whether a where was inside) for the active operands of one node."""
        match node.op.derivative:
            case Partials(fn=fn):
                partials = fn(node, *node.inputs)
                found = [None if p is None or i not in self.active else _product(ct, p, guarded)
                         for i, p in zip(node.inputs, partials, strict=True)]  # fmt: skip
            case Transpose(fn=fn, operands=operands):
                found = [fn(ct, node, k) if i in self.active and k in operands else None
                         for k, i in enumerate(node.inputs)]  # fmt: skip
                for k, operand in enumerate(node.inputs):
                    if operand in self.active and k not in operands:
                        raise self.error(node, f"it is linear in operand {operands[0]} only")
            case Custom(vjp=vjp):
                found = list(vjp(ct, node))
                if len(found) != len(node.inputs):
                    raise DifferentiationError(
                        f"the vjp of {node.op.name} gave {len(found)} cotangents for {len(node.inputs)} operands",
                        source=node.source, token=node.op.name,
                    )  # fmt: skip
            case Region():
                from passes.scans import scan_vjp  # differentiates the body with this very sweep

                found = scan_vjp(ct, node, {k for k, i in enumerate(node.inputs) if i in self.active})
            case Zero():
                found = []
            case NotDifferentiable(reason=reason):
                raise self.error(node, reason)
            case _:
                if node.op.expand is None:
                    raise self.error(node, "")
                return self.pull_expansion(node, ct, guarded)
        pairs = zip(node.inputs, found, strict=False)
        return [(i, part, False) for i, part in pairs if part is not None and i in self.active]

    def pull_expansion(self, node: Node, ct: Node, guarded: bool) -> list[tuple[Node, Node, bool]]:
        """The same through a composite's meaning; depth is the nesting of composites, not of the graph."""
        assert node.op.expand is not None
        root = node.op.expand(*node.inputs, **node.attrs)
        boundary = frozenset(node.inputs)
        inner = _Sweep(bounded_order([root], boundary), frozenset(i for i in boundary if i in self.active))
        inner.boundary = boundary
        inner.contribute(root, ct, None, guarded)
        inner.run()
        operands = dict.fromkeys(i for i in node.inputs if i in inner.total)
        return [(i, inner.total[i], i in inner.guarded) for i in operands]

    def error(self, node: Node, reason: str) -> DifferentiationError:
        up: list[Node] = []
        at = node
        while at not in self.sinks or at is node:
            below = next((i for i in at.inputs if i in self.active), None)
            if below is None:
                break
            at = below
            up.append(at)
        down: list[Node] = []
        user = self.pending[node].via
        while user is not None:
            down.append(user)
            user = self.pending[user].via
        return no_path(node, reason, up[::-1], down)


def _product(ct: Node, partial: Node, guarded: bool) -> Node | None:
    """``ct * partial``, without the product where the partial is a plain 1, -1 or 0."""
    number = literal(partial)
    if number is not None:
        if number == 1:
            return ct
        if number == -1:
            return ops.neg(ct)
        if number == 0:
            return None
        return _MUL(ct, partial)
    return ops.chain_product(ct, partial) if guarded else _MUL(ct, partial)


def _ill_typed(node: Node, operand: Node, part: Node) -> DifferentiationError:
    return DifferentiationError(
        f"the derivative of {node.op.name} gave a cotangent {part.type} for an operand {operand.type}",
        source=node.source, token=node.op.name, help=f"mend the derivative declared beside {node.op.name}",
    )  # fmt: skip

"""Forward accumulation: tangents of targets in, tangents of outputs out (the engine of jvp, hvp and tall jacobians).

Invariant: a value without a tangent in the table does not depend on the targets; linear ops are applied to tangents as
they are; a Custom derivative without a jvp is transposed twice. ::

    t(y) = sum over operands x of y:   jvp of y's op for that operand, at t(x)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from graphc import ops, provenance
from graphc.errors import DifferentiationError
from graphc.ir import Node, depends_on
from graphc.ops.declare import Custom, NotDifferentiable, Partials, Region, Transpose, placeholder
from graphc.patterns import literal
from passes.adjoints import reverse
from passes.structure import aliases, bounded_order, carries, no_path, require_float


def forward(outputs: Sequence[Node], targets: Sequence[Node], seeds: Sequence[Node]) -> list[Node]:
    """Tangents of ``outputs``, zeros where they do not depend on ``targets``; linear in the nodes below the outputs."""
    for target in targets:
        require_float(target)
    order = bounded_order(outputs)
    given: dict[Node, Node] = {}
    for target, seed in zip(targets, seeds, strict=True):  # a value given twice moves by both
        given[target] = ops.add(given[target], seed) if target in given else seed
    start = {n: given[t] for n, t in aliases(order, targets).items()}
    tangents = _push(order, start, start)
    result = []
    for output in outputs:
        with provenance.deriving("differentiate", "zero", parents=(output,), primal=output):
            result.append(tangents[output] if output in tangents else ops.zeros_like(output))
    return result


def _push(order: Sequence[Node], start: dict[Node, Node], sources: Collection[Node]) -> dict[Node, Node]:
    tangents = dict(start)
    via: dict[Node, Node] = {}
    for node in order:
        moving = [i for i in node.inputs if i in tangents]
        if not moving or not carries(node):
            continue
        via[node] = moving[0]
        parents = (node, *(tangents[i] for i in moving))
        with provenance.deriving("differentiate", f"jvp:{node.op.name}", parents=parents, primal=node):
            tangent = _tangent(node, tuple(tangents.get(i) for i in node.inputs), via)
        if tangent is not None and tangent.type != node.type:
            raise DifferentiationError(
                f"the derivative of {node.op.name} gave a tangent {tangent.type} for a value {node.type}",
                source=node.source, token=node.op.name, help=f"mend the derivative declared beside {node.op.name}",
            )  # fmt: skip
        if tangent is not None:
            # an inner target moves by its own seed and by what reaches it
            tangents[node] = ops.add(tangents[node], tangent) if node in sources else tangent
    return tangents


def _tangent(node: Node, tangents: tuple[Node | None, ...], via: dict[Node, Node]) -> Node | None:
    match node.op.derivative:
        case Partials(fn=fn):
            partials = fn(node, *node.inputs)
            terms = [_product(t, p) for t, p in zip(tangents, partials, strict=True) if t is not None and p is not None]
            return _add(terms)
        case Transpose(operands=operands, joint=joint):
            if any(t is not None and k not in operands for k, t in enumerate(tangents)):
                raise no_path(node, f"it is linear in operand {operands[0]} only", _path(node, via), ())
            return _linear(node, tangents, operands, joint)
        case Custom(vjp=vjp, jvp=jvp):
            found = None if jvp is None else jvp(tangents, node)
            return _twice_transposed(node, tangents, vjp) if found is None else found
        case Region():
            from passes.scans import scan_jvp

            return scan_jvp(tangents, node)
        case NotDifferentiable(reason=reason):
            raise no_path(node, reason, _path(node, via), ())
        case _:
            if node.op.expand is None:
                raise no_path(node, "", _path(node, via), ())
            return _through_expansion(node, tangents)


def _path(node: Node, via: dict[Node, Node]) -> list[Node]:
    path = []
    while node in via:
        node = via[node]
        path.append(node)
    return path[::-1]


def _product(tangent: Node, partial: Node) -> Node | None:
    number = literal(partial)
    if number is not None and number == 1:
        return tangent
    if number is not None and number == -1:
        return ops.neg(tangent)
    return None if number is not None and number == 0 else ops.mul(tangent, partial)


def _add(terms: Sequence[Node | None]) -> Node | None:
    total: Node | None = None
    for term in terms:
        if term is not None:
            total = term if total is None else ops.add(total, term)
    return total


def _linear(node: Node, tangents: tuple[Node | None, ...], operands: tuple[int, ...], joint: bool) -> Node | None:
    if joint:
        inputs = [
            i if k not in operands else ops.zeros_like(i) if t is None else t
            for k, (i, t) in enumerate(zip(node.inputs, tangents, strict=True))
        ]
        return node.op(*inputs, **node.attrs)
    terms: list[Node | None] = []
    for k, tangent in enumerate(tangents):
        if tangent is not None:
            inputs = [tangent if j == k else i for j, i in enumerate(node.inputs)]
            terms.append(node.op(*inputs, **node.attrs))
    return _add(terms)


def _twice_transposed(node: Node, tangents: tuple[Node | None, ...], vjp: object) -> Node | None:
    """jvp from vjp: ``u -> vjp(u)`` is linear, and its transpose at the tangents is the jvp (Christianson 1992)."""
    assert callable(vjp)
    dual = placeholder(node.type, "dual")
    terms = []
    for cotangent, tangent in zip(vjp(dual, node), tangents, strict=True):
        if cotangent is not None and tangent is not None:
            terms.append(ops.sum(ops.mul(cotangent, tangent)))
    total = _add(terms)
    if total is None:
        return None
    (tangent,) = reverse([total], [ops.ones_like(total)], [dual])
    if tangent in depends_on([tangent], [dual]):
        raise DifferentiationError(
            f"{node.op.name} declares no jvp, and its vjp is not linear in the cotangent", source=node.source,
            token=node.op.name, help=f"declare Custom(vjp=..., jvp=...) beside {node.op.name}",
        )  # fmt: skip
    return tangent


def _through_expansion(node: Node, tangents: tuple[Node | None, ...]) -> Node | None:
    assert node.op.expand is not None
    root = node.op.expand(*node.inputs, **node.attrs)
    start = {i: t for i, t in zip(node.inputs, tangents, strict=True) if t is not None}
    order = [n for n in bounded_order([root], frozenset(node.inputs)) if n not in node.inputs]
    return _push(order, start, ()).get(root)

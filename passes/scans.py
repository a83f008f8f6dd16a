"""The derivative of a loop is a loop: reverse and forward mode for scan.

What enters: a scan node and cotangents or tangents of its results. What leaves: cotangents of its operands, or a scan of values and
tangents. Invariants: the forward loop is run once more only on paper: the scan that also stacks what the backward needs has the same
body, and :func:`merge_scans` makes one of the two; the backward loop runs the other way, carries the cotangents of the carried
values, and adds the contributions to constants up as it goes. ::

    h' = f(h, x, w)        forward, also stacks what the derivative of f reads
    h- = h'- df/dh         backward, from the last step;  w- += h'- df/dw;  x- = h'- df/dx

What the backward reads of a step: elements of sequences and constants as they are; values that cost nothing to make again
(movement, casts, and whatever depends on constants alone) are made again; the rest is stacked.

Source: Werbos, "Backpropagation through time" (1990); for loops as values, Bradbury et al., JAX (2018), ``lax.scan``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc import ops
from graphc.ir import Graph, Node, make
from graphc.ops import declare
from graphc.ops.declare import placeholder
from graphc.ops.scan import cotangents, make_scan, scan_op, scan_result, substitute


def scan_vjp(ct: Node, node: Node, wanted: set[int]) -> list[Node | None]:
    """Cotangents of a scan's operands (None: not wanted, or none flows there).

    Args:
        ct: a sum of ``scan_cotangent`` nodes. wanted: positions of the operands that matter.
    """
    from passes.adjoints import reverse

    body, carries, sequences = _parts(node)
    given = {k: _total(parts) for k, parts in cotangents(ct).items()}
    outs, inputs = list(body.outputs.values()), body.declared_inputs
    seeds = {
        k: placeholder(v.type, f"ct{k}") for k, v in enumerate(outs) if v.dtype.is_float and (k < carries or k in given)
    }
    state = [k for k in range(carries) if k in seeds]
    moving = [k for k in range(carries, len(inputs)) if k in wanted and inputs[k].dtype.is_float]
    grads = reverse([outs[k] for k in seeds], list(seeds.values()), [inputs[k] for k in (*state, *moving)])
    local = dict(zip((*state, *moving), grads, strict=True))

    saved, again = _saved(grads, body, carries, sequences)
    full = _saving(node, saved)
    places = {v: placeholder(v.type, f"saved{k}") for k, v in enumerate(saved)}
    elements = {
        k: placeholder(inputs[k].type, f"x{k}") for k in range(carries, carries + sequences) if inputs[k] in again
    }
    mapping = {**places, **{inputs[k]: x for k, x in elements.items()}}
    mapping |= {inputs[k]: node.inputs[k] for k in range(carries + sequences, len(inputs))}  # constants, from outside
    made = substitute(grads, mapping)

    sums = [k for k in moving if k >= carries + sequences]
    totals = {k: placeholder(inputs[k].type, f"sum{k}") for k in sums}
    next_carry = [made[local[k]] for k in state] + [ops.add(totals[k], made[local[k]]) for k in sums]
    series = [k for k in moving if k < carries + sequences]
    results = [k for k in seeds if k >= carries]
    first = len(outs)
    back = make_scan(
        [given[k] if k in given else ops.zeros_like(node.inputs[k]) for k in state] + [ops.zeros_like(node.inputs[k]) for k in sums],
        [*(scan_result(full, first + k) for k in range(len(saved))), *(node.inputs[k] for k in elements), *(given[k] for k in results)],
        [*(seeds[k] for k in state), *totals.values()],
        [*places.values(), *elements.values(), *(seeds[k] for k in results)],
        next_carry, [made[local[k]] for k in series], node.attrs["length"], not node.attrs["reverse"],
    )  # fmt: skip
    place = {k: i for i, k in enumerate((*state, *sums, *series))}
    return [scan_result(back, place[k]) if k in place and k in wanted else None for k in range(len(inputs))]


def _parts(node: Node) -> tuple[Graph, int, int]:
    return node.attrs["body"], node.attrs["carries"], node.attrs["sequences"]


def _total(parts: Sequence[Node]) -> Node:
    total = parts[0]
    for part in parts[1:]:
        total = ops.add(total, part)
    return total


def _saved(grads: Iterable[Node], body: Graph, carries: int, sequences: int) -> tuple[list[Node], set[Node]]:
    """Values of the body that the backward stacks, and all that it reads of the body."""
    forward = set(body.nodes)
    inputs = body.declared_inputs
    changing: dict[Node, bool] = {}  # depends on more than constants
    for node in body.nodes:
        own = node.op.name == "input" and node in inputs[: carries + sequences]
        changing[node] = own or any(changing[i] for i in node.inputs)
    steps = set(inputs[carries : carries + sequences])
    read: dict[Node, None] = {}
    pending = list(grads)
    seen = set(pending)
    while pending:
        node = pending.pop()
        below: Iterable[Node] = node.inputs
        if node in forward:
            read[node] = None
            if not (_free(node) and changing[node]) and (changing[node] or node.op.name == "input"):
                below = ()
        for operand in below:
            if operand not in seen:
                seen.add(operand)
                pending.append(operand)
    order = {n: k for k, n in enumerate(body.nodes)}
    saved = [n for n in read if changing[n] and n not in steps and not _free(n)]
    return sorted(saved, key=order.__getitem__), set(read)


def _free(node: Node) -> bool:
    """Whether a value is made again for nothing where its operands are there."""
    return node.op.name != "input" and (
        node.op.name == "broadcast" or isinstance(node.op.lowering, (declare.Movement, declare.CastTo))
    )


def _saving(node: Node, saved: Sequence[Node]) -> Node:
    """The scan that also stacks ``saved``; the scan itself if there is nothing to save."""
    if not saved:
        return node
    body = node.attrs["body"]
    names = {f"saved{len(body.outputs) + k}": v for k, v in enumerate(saved)}
    attrs = {k: v for k, v in node.attrs.items() if k != "tangents"}
    return make(
        scan_op, node.inputs, {**attrs, "body": Graph(body.name, {**body.outputs, **names}, {}, body.declared_inputs)}
    )


def scan_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    """The scan of values and tangents: results as before, and after them their tangents (see ``tangents`` of the node)."""
    from passes.tangents import forward

    body, carries, sequences = _parts(node)
    inputs, outs = body.declared_inputs, list(body.outputs.values())
    state = [k for k in range(carries) if inputs[k].dtype.is_float]
    series = [k for k in range(carries, carries + sequences) if tangents[k] is not None]
    moved = {k: placeholder(inputs[k].type, f"d{k}") for k in (*state, *series)}
    moved |= {k: t for k, t in enumerate(tangents) if t is not None and k >= carries + sequences}
    constants = {inputs[k]: node.inputs[k] for k in range(carries + sequences, len(inputs))}
    floating = [k for k, v in enumerate(outs) if v.dtype.is_float]
    pushed = forward([outs[k] for k in floating], [inputs[k] for k in moved], list(moved.values()))
    made = substitute([*outs, *pushed], constants)
    change = dict(zip(floating, (made[p] for p in pushed), strict=True))
    stacked = [k for k in floating if k >= carries]
    place = {k: carries + i for i, k in enumerate(state)}
    after = carries + len(state)
    place |= {k: after + len(outs) - carries + i for i, k in enumerate(stacked)}
    # results: carried values, their tangents, stacked values, their tangents
    plain = [k if k < carries else k + len(state) for k in range(len(outs))]
    assert plain[:carries] == list(range(carries))
    dual = make_scan(
        [*node.inputs[:carries], *(ops.zeros_like(node.inputs[k]) if (t := tangents[k]) is None else t for k in state)],
        [*node.inputs[carries : carries + sequences], *(t for k in series if (t := tangents[k]) is not None)],
        [*inputs[:carries], *(moved[k] for k in state)],
        [*inputs[carries : carries + sequences], *(moved[k] for k in series)],
        [*(made[v] for v in outs[:carries]), *(change[k] for k in state)],
        [*(made[v] for v in outs[carries:]), *(change[k] for k in stacked)],
        node.attrs["length"], node.attrs["reverse"], tuple(place.get(k, -1) for k in range(len(outs))),
    )  # fmt: skip
    return dual


def merge_scans(graph: Graph) -> Graph:
    """One loop where several do the same: scans over one body and the same operands that differ in what they stack.

    Differentiation makes such pairs; they share the nodes of the body, by which they are recognised.
    """
    groups: dict[tuple[object, ...], list[Node]] = {}
    for node in graph.nodes:
        if node.op is scan_op:
            groups.setdefault(_same_loop(node), []).append(node)
    if all(len(g) == 1 for g in groups.values()):
        return graph
    merged: dict[Node, tuple[Node, dict[Node, int]]] = {}

    def visit(node: Node, inputs: tuple[Node, ...]) -> Node:
        if node.op is scan_op:
            group = groups[_same_loop(node)]
            if len(group) == 1:
                return node.with_inputs(inputs)
            if group[0] not in merged:
                merged[group[0]] = _union(group, inputs)
            return merged[group[0]][0]
        if node.op.name == "scan_result" and node.inputs[0].op is scan_op:
            group = groups[_same_loop(node.inputs[0])]
            if len(group) > 1:
                scan, places = merged[group[0]]
                carries, index = scan.attrs["carries"], node.attrs["index"]
                value = list(node.inputs[0].attrs["body"].outputs.values())[index]
                made = scan_result(scan, index if index < carries else places[value])
                return Node(
                    made.op,
                    made.inputs,
                    made.attrs,
                    made.type,
                    name=node.name,
                    source=node.source,
                    origins=node.origins,
                    copied=node.lineage,
                )
        return node.with_inputs(inputs)

    return graph.transform(visit)


def _same_loop(node: Node) -> tuple[object, ...]:
    body, carries, sequences = _parts(node)
    outs = list(body.outputs.values())[:carries]
    return (
        node.inputs,
        body.declared_inputs,
        tuple(outs),
        carries,
        sequences,
        node.attrs["length"],
        node.attrs["reverse"],
    )


def _union(group: Sequence[Node], inputs: tuple[Node, ...]) -> tuple[Node, dict[Node, int]]:
    """A scan that stacks all that any of the group stacks, and where each stacked value stands."""
    first = group[0]
    body, carries, _ = _parts(first)
    stacks: dict[Node, int] = {}
    for node in group:
        for value in list(node.attrs["body"].outputs.values())[carries:]:
            stacks.setdefault(value, carries + len(stacks))
    kept = dict(list(body.outputs.items())[:carries])
    outputs = {**kept, **{f"y{k - carries}": v for v, k in stacks.items()}}
    attrs = {k: v for k, v in first.attrs.items() if k != "tangents"}
    attrs["body"] = Graph(body.name, outputs, {}, body.declared_inputs)
    origins = tuple(dict.fromkeys(o for n in group for o in n.origins))
    copied = tuple(dict.fromkeys(uid for n in group for uid in n.lineage))
    made = Node(scan_op, inputs, attrs, first.type, name=first.name, source=first.source, origins=origins, copied=copied)
    return made, stacks

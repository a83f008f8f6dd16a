"""Loop passes: what a scan need not do in every step is done before or after it, all steps at once.

What enters: a primitive graph with static shapes and scans. What leaves: the same, where in every scan, innermost first

- results that nobody reads, and carried values that nothing needs, are gone (``prune``);
- a carried value that only adds up, ``s' = s + a_t^T b_t`` or ``s' = s + sum(v_t)``, is one product or sum over all steps
  after the loop, which stacks ``a_t`` and ``b_t`` (``sink``): the weights' gradients;
- a stacked product of a step's value with a constant is one large product of the stacked values after the loop (``delay``);
- products of the sequences with constants, and what is made from them alone, are one large product before the loop (``hoist``):
  the recurrent nets' inputs;
- what depends on constants alone, transposed weights above all, is made once (``invariants``).

Meaning is kept up to reassociated sums. Every step is linear in the body.

Source: the input product of all time steps at once is as old as GPU libraries; Appleyard, Kocisky, Blunsom, "Optimizing performance of
recurrent neural networks on GPUs" (2016), section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from graphc import ops, provenance
from graphc.ir import REGISTRY, Graph, Node, topological
from graphc.ops import declare
from graphc.ops.declare import placeholder
from graphc.ops.scan import make_scan, scan_op, scan_result, substitute
from graphc.rewrite import Context

STACKED = 1 << 16  # elements of a sum's term that may be stacked over all steps instead of being carried


def loops(
    graph: Graph, context: Context, optimise: Callable[[Graph], Graph], lay_out: Callable[[Graph], Graph]
) -> Graph:
    """The graph with all its scans worked over; the same object if there are none.

    Args:
        optimise: run on every body first. lay_out: run on what is left of it.
    """
    used: dict[Node, dict[int, None]] = {}
    for node in graph.nodes:
        if node.op.name == "scan_result":
            used.setdefault(node.inputs[0], {})[node.attrs["index"]] = None
    if not used:
        return graph
    results: dict[Node, dict[int, Node]] = {}

    def visit(node: Node, inputs: tuple[Node, ...]) -> Node:
        if node.op is scan_op:
            with provenance.deriving("loops", "scan", parents=(node,), primal=node.primal, source=node.source):
                loop = _Loop.of(node, inputs, list(used.get(node, ())), optimise(node.attrs["body"]))
                results[node] = loop.run(context, lay_out)
            return node.with_inputs(inputs)  # unread from here on
        if node.op.name == "scan_result":
            return results[node.inputs[0]][node.attrs["index"]]
        return node.with_inputs(inputs)

    return graph.transform(visit)


@dataclass(frozen=True)
class _Term:
    """A sum over the steps that can be made after the loop: of ``a^T b``, or of ``a`` over some axes."""

    a: Node
    b: Node | None
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def reads(self) -> tuple[Node, ...]:
        return (self.a,) if self.b is None else (self.a, self.b)

    def make(self, stacks: Mapping[Node, Node]) -> Node:
        """The sum from the stacked values."""
        if self.b is None:
            total = ops.sum(stacks[self.a], axis=(0, *(k + 1 for k in self.axes)))
        else:
            a, b = (_joined(stacks[v]) for v in (self.a, self.b))
            total = REGISTRY["matmul"](a, b, transpose_a=True, transpose_b=False)
        return total if total.shape == self.shape else ops.reshape(total, self.shape)


@dataclass
class _Loop:
    """A scan taken apart: what enters the body from outside, and what is wanted of it."""

    node: Node
    first: dict[Node, Node]  # carried input -> its first value
    after: dict[Node, Node]  # carried input -> its next value
    series: dict[Node, Node]  # element -> its sequence
    constants: dict[Node, Node]  # input -> the value outside
    finals: dict[int, Node]  # result -> carried input
    stacks: dict[int, Node]  # result -> value of each step
    totals: dict[int, tuple[Node, list[_Term]]] = field(default_factory=dict)  # result -> first value, terms of a sum
    delayed: dict[int, tuple[Node, Node]] = field(
        default_factory=dict
    )  # result -> a product that is made after the loop, its rows

    @staticmethod
    def of(node: Node, inputs: Sequence[Node], used: Sequence[int], body: Graph) -> _Loop:
        c, s = node.attrs["carries"], node.attrs["sequences"]
        names, outs = body.declared_inputs, list(body.outputs.values())
        pairs = list(zip(names, inputs, strict=True))
        return _Loop(
            node, dict(pairs[:c]), dict(zip(names[:c], outs[:c], strict=True)), dict(pairs[c : c + s]), dict(pairs[c + s :]),
            {k: names[k] for k in used if k < c}, {k: outs[k] for k in used if k >= c},
        )  # fmt: skip

    @property
    def length(self) -> int:
        return int(self.node.attrs["length"])

    @property
    def stacked(self) -> list[Node]:
        """The values of each step that must be stacked, each once."""
        rows = [v for _, v in self.delayed.values()]
        parts = [v for _, terms in self.totals.values() for t in terms for v in t.reads]
        wanted = [*self.stacks.values(), *rows, *parts]
        return [v for v in dict.fromkeys(wanted) if v not in self.series]

    @property
    def roots(self) -> list[Node]:
        return [*self.after.values(), *self.stacked]

    def run(self, context: Context, lay_out: Callable[[Graph], Graph]) -> dict[int, Node]:
        """Values of the used results, made by what is left of the loop and by what was taken out of it."""
        self.prune(context)
        self.sink(context)
        self.delay(context)
        self.hoist(context)
        self.lay_out(lay_out)
        self.invariants(context)
        return self.finish()

    def exchange(self, mapping: Mapping[Node, Node]) -> None:
        """Use other nodes in the body, and drop what it no longer reads."""
        made = substitute(self.roots, mapping)
        self.after = {k: made[v] for k, v in self.after.items()}
        self.stacks = {k: made.get(v, v) for k, v in self.stacks.items()}
        self.totals = {
            k: (first, [replace(t, a=made.get(t.a, t.a), b=None if t.b is None else made.get(t.b, t.b)) for t in terms])
            for k, (first, terms) in self.totals.items()
        }
        self.delayed = {k: (product, made.get(v, v)) for k, (product, v) in self.delayed.items()}
        self.forget()

    def forget(self) -> None:
        """Drop sequences and constants that nothing reads."""
        seen = {*topological(self.roots), *self.stacks.values()}
        seen |= {v for _, terms in self.totals.values() for t in terms for v in t.reads}
        seen |= {n for product, v in self.delayed.values() for n in (v, *topological((product.inputs[1],)))}
        self.series = {k: v for k, v in self.series.items() if k in seen}
        self.constants = {k: v for k, v in self.constants.items() if k in seen}

    def fixed(self) -> dict[Node, bool]:
        """Node of the body -> whether every step gives it the same value; in order."""
        found: dict[Node, bool] = {}
        for node in topological(self.roots):
            found[node] = node not in self.first and node not in self.series and all(found[i] for i in node.inputs)
        return found

    # --- prune -----------------------------------------------------------------------------------------------------

    def prune(self, context: Context) -> None:
        """Keep the carried values that a wanted result depends on, in however many steps."""
        seen: set[Node] = set()
        pending = [*self.finals.values(), *self.stacks.values()]
        while pending:
            node = pending.pop()
            if node not in seen:
                seen.add(node)
                pending += [*node.inputs, *((self.after[node],) if node in self.after else ())]
        dropped = [k for k in self.after if k not in seen]
        if dropped:
            context.fire(f"drop {len(dropped)} carried values that nothing reads", (self.node,), self.node)
        self.after = {k: v for k, v in self.after.items() if k in seen}
        self.first = {k: v for k, v in self.first.items() if k in seen}
        self.forget()

    # --- sink ------------------------------------------------------------------------------------------------------

    def sink(self, context: Context) -> None:
        """Take sums over the steps out of the loop."""
        users = _users(self.roots)
        fixed = self.fixed()
        for result, into in list(self.finals.items()):
            out = self.after[into]
            terms = _terms(into, out, users)
            if terms is None or self.roots.count(out) > 1 or users.get(out):
                continue
            found = [_term(t, self.length, fixed) for t in terms]
            if any(t is None for t in found):
                context.refuse("sum after the loop", "a term is no product or sum that the steps could share", (out,))
                continue
            self.totals[result] = (self.first[into], [t for t in found if t is not None])
            del self.finals[result], self.after[into], self.first[into]
            context.fire(f"a sum over all {self.length} steps, after the loop", (out,), out)

    # --- delay -----------------------------------------------------------------------------------------------------

    def delay(self, context: Context) -> None:
        """Stack the rows of a product with a constant instead of the product."""
        fixed, users = self.fixed(), _users(self.roots)
        carried = set(self.after.values())
        for result, value in list(self.stacks.items()):
            if value.op.name != "matmul" or value.ndim != 2 or value.attrs["transpose_a"] or value in carried:
                continue
            rows, matrix = value.inputs
            if users.get(value) or fixed[rows] or not fixed[matrix] or rows in self.series or self.length < 2:
                continue
            self.delayed[result] = (value, rows)
            del self.stacks[result]
            context.fire(f"{value.op.name} of all {self.length} steps at once, after the loop", (value,), value)

    # --- hoist -----------------------------------------------------------------------------------------------------

    def hoist(self, context: Context) -> None:
        """Make what depends on sequences alone for all steps at once, where a product is in it."""
        fixed = self.fixed()
        heavy: dict[Node, bool] = dict.fromkeys(self.series, False)  # movable node -> whether a product is in it
        for node in fixed:
            inside = [i for i in node.inputs if i in heavy]
            if inside and all(i in heavy or fixed[i] for i in node.inputs) and _can_batch(node, fixed):
                heavy[node] = node.op.name == "matmul" or any(heavy[i] for i in inside)
        users, roots = _users(self.roots), set(self.roots)
        edge = [n for n, h in heavy.items() if h and (n in roots or any(u not in heavy for u in users.get(n, ())))]
        if not edge or self.length < 2:
            return
        batcher = _Batcher(self.length, dict(self.series), self.constants)
        mapping: dict[Node, Node] = {}
        for node in edge:
            mapping[node] = element = placeholder(node.type, f"hoisted{len(self.series)}")
            self.series[element] = batcher.run(node)
            context.fire(
                f"{node.op.name} of all {self.length} steps at once, before the loop", (node,), self.series[element]
            )
        kept = {node: self.series[element] for node, element in mapping.items()}
        self.exchange(mapping)
        self.series |= {mapping[n]: v for n, v in kept.items() if mapping[n] in self.read()}

    def read(self) -> set[Node]:
        """Everything that the body or a result reads."""
        late = {v for _, v in self.delayed.values()}
        return late | {
            *topological(self.roots),
            *self.stacks.values(),
            *(v for _, ts in self.totals.values() for t in ts for v in t.reads),
        }

    # --- what is left ----------------------------------------------------------------------------------------------

    def lay_out(self, lay_out: Callable[[Graph], Graph]) -> None:
        """The body after layout: every result in memory of its own."""
        if not self.roots:
            return
        stacked = self.stacked
        names = [*(f"carry{k}" for k in range(len(self.after))), *(f"y{k}" for k in range(len(stacked)))]
        inputs = (*self.first, *self.series, *self.constants)
        body = lay_out(Graph("step", dict(zip(names, self.roots, strict=True)), {}, inputs))
        made = list(body.outputs.values())
        self.after = dict(zip(self.after, made[: len(self.after)], strict=True))
        place = dict(zip(stacked, made[len(self.after) :], strict=True))
        self.stacks = {k: place.get(v, v) for k, v in self.stacks.items()}
        self.totals = {
            k: (
                first,
                [replace(t, a=place.get(t.a, t.a), b=None if t.b is None else place.get(t.b, t.b)) for t in terms],
            )
            for k, (first, terms) in self.totals.items()
        }
        self.delayed = {k: (product, place.get(v, v)) for k, (product, v) in self.delayed.items()}

    def invariants(self, context: Context) -> None:
        """Make what depends on values from outside alone once, before the loop."""
        fixed, roots = self.fixed(), set(self.roots)
        users = _users(self.roots)
        outer = dict(self.constants)
        mapping: dict[Node, Node] = {}
        for node, same in fixed.items():
            if not same or node in outer or not any(i in outer for i in node.inputs):
                continue
            outer[node] = node.with_inputs(tuple(outer.get(i, i) for i in node.inputs))
            if node not in roots and any(not fixed[u] for u in users.get(node, ())):
                mapping[node] = placeholder(node.type, f"fixed{len(self.constants)}")
                self.constants[mapping[node]] = outer[node]
                context.fire(f"{node.op.name} once, before the loop", (node,), outer[node])
        if mapping:
            self.exchange(mapping)

    def finish(self) -> dict[int, Node]:
        """The new scan, and every wanted result."""
        found: dict[int, Node] = {}
        values = dict(self.series)
        stacked = self.stacked
        if self.roots:
            made = substitute(self.roots, self.constants)
            inside = set(topological(self.roots))
            series = {k: v for k, v in self.series.items() if k in inside}
            node = make_scan(
                list(self.first.values()), list(series.values()), list(self.first), list(series),
                [made[self.after[k]] for k in self.first], [made[v] for v in stacked], self.length, self.node.attrs["reverse"],
            )  # fmt: skip
            last = {into: scan_result(node, k) for k, into in enumerate(self.first) if into in self.finals.values()}
            found = {result: last[into] for result, into in self.finals.items()}
            values |= {v: scan_result(node, len(self.first) + k) for k, v in enumerate(stacked)}
        found |= {result: values[v] for result, v in self.stacks.items()}
        for result, (first, terms) in self.totals.items():
            total = None if _is_zero(first) else first
            for term in terms:
                part = term.make(values)
                total = part if total is None else ops.add(total, part)
            found[result] = first if total is None else total
        for result, (product, rows) in self.delayed.items():
            matrix = substitute([product.inputs[1]], self.constants)[product.inputs[1]]
            made_at_once = product.op(
                _joined(values[rows]), matrix, transpose_a=False, transpose_b=product.attrs["transpose_b"]
            )
            found[result] = ops.reshape(made_at_once, (self.length, *product.type.static_shape))
        return found


def _is_zero(node: Node) -> bool:
    """Whether a value is zeros, spread from one literal: what gradients start to add up from."""
    while node.op.name in ("broadcast", "reshape"):
        node = node.inputs[0]
    return node.op.name == "constant" and not node.attrs["value"].any()


# --- sums ----------------------------------------------------------------------------------------------------------


def _users(roots: Sequence[Node]) -> dict[Node, list[Node]]:
    found: dict[Node, list[Node]] = {}
    for node in topological(roots):
        for operand in node.inputs:
            found.setdefault(operand, []).append(node)
    return found


def _terms(into: Node, out: Node, users: Mapping[Node, list[Node]]) -> list[Node] | None:
    """``[t1, t2, ...]`` where ``out = into + t1 + t2 ...`` and nothing else reads ``into``; else None."""
    terms: list[Node] = []
    node = out
    while node is not into:
        if node.op.name != "add" or (node is not out and len(users.get(node, ())) != 1):
            return None
        a, b = node.inputs
        node, term = (a, b) if _leads(a, into) else (b, a)
        terms.append(term)
    return terms if len(users.get(into, ())) == 1 else None


def _leads(node: Node, into: Node) -> bool:
    """Whether a chain of additions leads down to ``into`` by first operands (or the last one by either)."""
    while node.op.name == "add":
        if into in node.inputs:
            return True
        node = node.inputs[0]
    return node is into


def _term(node: Node, length: int, fixed: Mapping[Node, bool]) -> _Term | None:
    """How a sum of this value over all steps is made after the loop; None if it is not."""
    shape = node.type.static_shape
    while node.op.name == "reshape":
        node = node.inputs[0]
    if any(fixed[i] for i in (node, *node.inputs)):
        return None
    if node.op.name == "matmul" and node.ndim == 2 and node.attrs["transpose_a"] and not node.attrs["transpose_b"]:
        return _Term(node.inputs[0], node.inputs[1], (), shape)
    if node.op.name == "sum":
        return _Term(node.inputs[0], None, node.attrs["axes"], shape)
    return _Term(node, None, (), shape) if length * prod(shape) <= STACKED else None


def _joined(stack: Node) -> Node:
    """``[steps, rows, columns]`` as one matrix of all rows."""
    steps, rows, columns = stack.type.static_shape
    return ops.reshape(stack, (steps * rows, columns))


# --- all steps at once ---------------------------------------------------------------------------------------------


def _can_batch(node: Node, fixed: Mapping[Node, bool]) -> bool:
    """Whether a node can be made for all steps at once."""
    if isinstance(node.op.lowering, (declare.Elementwise, declare.CastTo)):
        return True
    if node.op.name == "matmul":
        return node.ndim == 2 and not node.attrs["transpose_a"] and fixed[node.inputs[1]]
    return node.op.name in ("broadcast", "reshape", "transpose")


class _Batcher:
    """Makes nodes of a body over all steps; ``made`` holds what is known: elements and their sequences."""

    def __init__(self, length: int, made: dict[Node, Node], constants: Mapping[Node, Node]) -> None:
        self.length = length
        self.made = made
        self.constants = constants

    def run(self, root: Node) -> Node:
        """``[length, ...]`` of a node that :func:`_can_batch`."""
        if root in self.made:
            return self.made[root]
        below = topological((root,), lambda node: node not in self.made)
        plain = substitute([i for n in below for i in n.inputs if i not in self.made], self.constants)
        for node in below:
            moving = [i in self.made for i in node.inputs]
            if any(moving):
                self.made[node] = self.batch(node, moving, plain)
        return self.made[root]

    def batch(self, node: Node, moving: Sequence[bool], plain: Mapping[Node, Node]) -> Node:
        operands = [self.made[i] if m else plain[i] for i, m in zip(node.inputs, moving, strict=True)]
        shape = (self.length, *node.type.static_shape)
        match node.op.name:
            case "matmul":
                rows = _joined(operands[0])
                return ops.reshape(
                    node.op(rows, operands[1], transpose_a=False, transpose_b=node.attrs["transpose_b"]), shape
                )
            case "broadcast":
                inner = node.inputs[0].type.static_shape
                ones = (1,) * (len(shape) - 1 - len(inner))
                return ops.broadcast_to(ops.reshape(operands[0], (self.length, *ones, *inner)), shape)
            case "reshape":
                return ops.reshape(operands[0], shape)
            case "transpose":
                return ops.transpose(operands[0], (0, *(k + 1 for k in node.attrs["axes"])))
        spread = [
            o if m else ops.broadcast_to(o, (self.length, *o.shape)) for o, m in zip(operands, moving, strict=True)
        ]
        return node.op(*spread, **node.attrs)

"""What fusion decides: groups of nodes that share a kernel, and what each is expected to cost.

What enters: roots and what they inline (``passes/fuse.py``). What leaves: a :class:`Fusion`, groups in launch order, which lowering
turns into kernels and pictures draw. Invariant: a root's own loops are a prefix of its group's domain.

A group's *rows*: where it reduces along the trailing axes of its domain, ``depth`` says how many leading axes are left. All
values of a row are then made in as few passes over the row as their reductions allow::

    group 0 [512, 10000] reduction, rows of axis 1: makes f32[512], f32[512,10000]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from graphc.ir import Graph, Node, topological
from graphc.loops.index import Var
from graphc.ops import declare
from passes.access import IndexTuple, loop_variables, own_index

_COST = {
    "exp": 10, "log": 12, "tanh": 12, "sigmoid": 12, "erf": 14, "pow": 30, "sin": 12, "cos": 12, "log1p": 14, "expm1": 14,
    "div": 4, "sqrt": 5, "mod": 10, "floordiv": 10, "tan": 30, "asin": 30, "acos": 30, "atan": 30, "atan2": 30,
    "sinh": 30, "cosh": 30,
}  # fmt: skip


@dataclass
class Group:
    """Nodes that one kernel computes.

    Attributes:
        number: place in the launch order.
        domain: extents of the loops.
        roots: the nodes it makes, operands first. stored: those that reach memory.
        members: roots and inlined nodes (provenance).
        reads: node outside of the group -> the indices at which it is loaded.
        template: the template's name for a materialising op, else "".
        depth: how many leading axes its row reductions keep; None without them.
        blocks: into how many blocks the first loop is cut for partial results; 0 without them.
    """

    number: int
    domain: tuple[int, ...]
    roots: list[Node]
    members: dict[Node, None] = field(default_factory=dict)
    reads: dict[Node, set[IndexTuple]] = field(default_factory=dict)
    stored: tuple[Node, ...] = ()
    template: str = ""
    contraction: bool = False
    reduces: bool = False
    depth: int | None = None
    blocks: int = 0

    @property
    def variables(self) -> tuple[Var, ...]:
        return loop_variables(self.domain)

    def reads_at_identity(self, node: Node) -> bool:
        """Whether every read of ``node`` is of the element that the same iteration would write, in the same pass."""
        return self.depth is None and self.reads.get(node, set()) <= {own_index(self.variables, node)}

    @property
    def kind(self) -> str:
        """One word for what it does."""
        return self.template or ("contraction" if self.contraction else "reduction" if self.reduces else "pointwise")

    def text(self) -> str:
        """Three lines: loops and results; what is inlined; what it should cost."""
        stored = ", ".join(f"{n.op.name}: {n.type}" + (f" ({n.source})" if n.source else "") for n in self.stored)
        rows = "" if self.depth is None else f", rows of {list(self.domain[self.depth :])}"
        blocks = f", partial results of {self.blocks} blocks" if self.blocks else ""
        lines = [f"group {self.number} {list(self.domain)} {self.kind}{rows}{blocks}: makes {stored}"]
        inlined = [n.op.name for n in self.members if n not in self.stored]
        if inlined:
            lines.append(f"    inlines {', '.join(inlined)}")
        return "\n".join([*lines, f"    {estimate(self)}"])


@dataclass(frozen=True)
class Fusion:
    """The graph, its groups in launch order, and views (reshapes of stored values that cost nothing)."""

    graph: Graph
    groups: tuple[Group, ...]
    views: dict[Node, Node]

    def text(self) -> str:
        """What each group makes and inlines, what it should cost, and the total."""
        total = sum((estimate(g) for g in self.groups), Estimate(0, 0, 0))
        return "\n".join([*(g.text() for g in self.groups), f"total of {len(self.groups)} kernels: {total}"])


BANDWIDTH = 20e9  # bytes/s between memory and the cores, for estimates
RATE = 50e9  # units of work/s of a core's vector unit (an addition is 1): 2 registers of 8 lanes a cycle, half used


@dataclass(frozen=True)
class Estimate:
    """What a kernel moves and computes, by a roofline of :data:`BANDWIDTH` and :data:`RATE`.

    ``read`` and ``written`` count each array once: a row that is read in several passes stays in the cache.

    >>> print(Estimate(4_000_000, 4_000_000, 1_000_000))
    reads 4 MB, writes 4 MB, 1 Mop: 400 us, bound by memory
    """

    read: int
    written: int
    work: int

    @property
    def seconds(self) -> float:
        """The larger of the time to move and the time to compute, on one core."""
        return max((self.read + self.written) / BANDWIDTH, self.work / RATE)

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.read + other.read, self.written + other.written, self.work + other.work)

    def __str__(self) -> str:
        bound = "memory" if (self.read + self.written) / BANDWIDTH >= self.work / RATE else "arithmetic"
        moved = f"reads {self.read / 1e6:.3g} MB, writes {self.written / 1e6:.3g} MB, {self.work / 1e6:.3g} Mop"
        return f"{moved}: {self.seconds * 1e6:.3g} us, bound by {bound}"


def estimate(group: Group) -> Estimate:
    """The expected cost of a group's kernel."""
    return Estimate(
        sum(n.type.nbytes for n in group.reads),
        sum(n.type.nbytes for n in group.stored),
        sum(map(_work, group.members)),
    )


def _work(node: Node) -> int:
    match node.op.lowering:
        case declare.Reduction() | declare.Partial():
            return elements(node.inputs[0])
        case declare.Contraction(_, extents):
            return 2 * elements(node) * prod(extents(node))
    return own_cost(node) * elements(node)


def base_of(views: Mapping[Node, Node], node: Node) -> Node:
    """The stored value behind a chain of views."""
    while node in views:
        node = views[node]
    return node


def own_cost(node: Node) -> int:
    """Work units of one element of a node, its operands aside (an addition is 1)."""
    match node.op.lowering:
        case declare.Elementwise(primitive):
            return _COST.get(primitive, 1)
        case declare.Reduction() | declare.Contraction() | declare.Partial():
            return 100
        case declare.Gather():
            return 2
    return 0


def loops_of(node: Node) -> tuple[int, ...]:
    """Extents of the loops that make a node: its shape without trailing axes of size 1; a partial result's operand's.

    >>> from graphc.ops import input
    >>> loops_of(input("x", (4, 1))), loops_of(input("y", (1, 4)))
    ((4,), (1, 4))
    """
    shape = (
        node.inputs[0].type.static_shape if isinstance(node.op.lowering, declare.Partial) else node.type.static_shape
    )
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def elements(node: Node) -> int:
    """Elements of a static shape."""
    return prod(node.type.static_shape)


def computed_in_order(group: Group, views: Mapping[Node, Node]) -> tuple[Node, ...]:
    """What the kernel of a group makes, operands first: its members, and views of its roots that they read.

    Depth first from the roots, so that groups alike are numbered alike whatever the ages of their nodes: a node that several
    groups share is older than the rest of all of them but the first.
    """
    inside, roots = set(group.members), set(group.roots)

    def computed(node: Node) -> bool:
        return node in inside or (node in views and base_of(views, node) in roots)

    return topological(group.roots, computed)

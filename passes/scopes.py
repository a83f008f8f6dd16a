"""Parts of a kernel under construction: parameters, guard sites, blocks of statements, blocks of rows with partial results.

What enters: graph nodes and the names of their buffers; finished loop bodies. What leaves: parameters b0, b1, ... of a kernel and
statements. Invariant: one buffer is one parameter, so that no two parameters of a kernel share memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from graphc.ir import Node
from graphc.loops import ir
from graphc.loops.index import Index, Var
from graphc.loops.schedule import substitute
from graphc.types import TensorType
from passes.groups import base_of
from passes.nests import nested


@dataclass(frozen=True)
class Site:
    """A guard of the program: the node whose index is checked and the size of the axis."""

    node: Node
    extent: int

    @property
    def source(self) -> object:
        return self.node.source

    def message(self) -> str:
        """What to tell the user when the guard is violated."""
        return f"{self.node.op.name}: an index is out of range for an axis of size {self.extent}"


@dataclass(eq=False)
class Scope:
    """A block under construction: its loop variable (None at the top) and its statements."""

    var: Var | None
    parent: Scope | None
    depth: int
    body: list[ir.Stmt] = field(default_factory=list)


class Params:
    """Parameters b0, b1, ... of one kernel, one for each buffer; reading and writing one buffer makes it inout."""

    def __init__(self, names: Mapping[Node, str], views: dict[Node, Node]) -> None:
        self.names = names
        self.views = views
        self.params: dict[tuple[str, TensorType], ir.Buffer] = {}

    def use(self, node: Node, access: str) -> ir.Buffer:
        key = (self.names[base_of(self.views, node)], node.type)
        old = self.params.get(key)
        if old is None:
            made = ir.Buffer(f"b{len(self.params)}", node.type, access)  # type: ignore[arg-type]
        else:
            made = old if old.access in (access, "out") else replace(old, access="inout")
        self.params[key] = made
        return made

    @property
    def buffers(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.params)


def block_var(node: Node) -> Var:
    """The loop over the blocks of a partial result."""
    return Var("block", node.type.static_shape[0])


def in_blocks(
    var: Var, body: tuple[ir.Stmt, ...], partials: Sequence[tuple[Node, str]], params: Params, fresh: Callable[[], str]
) -> list[ir.Stmt]:
    """A loop over ``var`` cut into the blocks of its partial results: each node with its accumulator, or "" for columns."""
    size = partials[0][0].attrs["size"]
    whole, rest = divmod(var.extent, size)
    result: list[ir.Stmt] = []
    if whole:
        block = Var("block", whole)
        here = _one_block(var, Index.of(block), Var("row", size), body, partials, params, fresh)
        result.append(ir.For(block, "serial", here))
    if rest:
        result += _one_block(var, Index.of(whole), Var("row", rest), body, partials, params, fresh)
    return result


def _one_block(
    var: Var, block: Index, row: Var, body: tuple[ir.Stmt, ...], partials: Sequence[tuple[Node, str]], params: Params,
    fresh: Callable[[], str],
) -> tuple[ir.Stmt, ...]:  # fmt: skip
    before: list[ir.Stmt] = []
    after: list[ir.Stmt] = []
    for node, accumulator in partials:
        buffer, combiner = params.use(node, "out"), node.attrs["combiner"]
        kept = tuple(Var(f"j{n}", extent) for n, extent in enumerate(node.type.static_shape[1:]))
        index = (block, *(Index.of(v) for v in kept))
        if accumulator:
            before.append(ir.Accumulator(accumulator, combiner, node.dtype, (node,)))
            after.append(ir.ReadAccumulator(name := fresh(), accumulator, node.dtype, (node,)))
            after.append(ir.Store(buffer.name, (block,), name, nodes=(node,)))
        else:
            zero = ir.Lit(ir.identity(combiner, node.dtype), node.dtype)
            before += nested(kept, (ir.Store(buffer.name, index, zero, nodes=(node,)),))
    start = block * partials[0][0].attrs["size"]
    moved = substitute(body, {var: start + row, block_var(partials[0][0]): block})
    return (*before, ir.For(row, "serial", moved), *after)

"""Passes over a row: in which of them each value of a kernel is computed, and whether it is computed again or kept.

What enters: the elements a kernel needs (a node at an index), operands first, and its row variables. What leaves: a
:class:`RowPlan`. An element is *of the row* if its index moves with a row variable. Pass 0 needs the operands alone; what reads
the result of a reduction along the row runs in a later pass than that reduction. A value of the row that a later pass
needs as well is

- loaded, if it is stored for other kernels anyway;
- kept in a scratch row (cache memory), if computing it again costs more than a load and a store (:data:`KEEP`), while the
  scratch rows fit :data:`SCRATCH`;
- computed again otherwise.

Invariant: passes are as few as the chain of reductions is long, plus one. Example, softmax along rows::

    pass 0   max of x                    x is loaded
    pass 1   e = exp(x - max), sum of e  e is kept: an exponential costs more than 4 bytes to and from the cache
    pass 2   e / sum, stored             e is loaded from the scratch row
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

from graphc.ir import Node
from passes.access import IndexTuple
from passes.groups import own_cost

KEEP = 8  # cost units (an addition is 1) from which a value is kept rather than computed again
SCRATCH = 192 * 1024  # bytes of scratch rows in a kernel: they share a second-level cache with the rows that are read

Item: TypeAlias = tuple[Node, IndexTuple]


@dataclass
class RowPlan:
    """When each element is computed.

    Attributes:
        count: number of passes. runs: the passes in which an element is computed, most often one.
        kept: elements of the row that go through a scratch row.
        notes: what was not done, and why, for each value that several passes need.
    """

    count: int = 1
    natural: dict[Item, int] = field(default_factory=dict)
    runs: dict[Item, set[int]] = field(default_factory=dict)
    kept: dict[Item, None] = field(default_factory=dict)
    notes: list[tuple[str, str, Node]] = field(default_factory=list)


def plan_rows(
    order: Sequence[Item], operands: Mapping[Item, Sequence[Item]], row: set[Item], ends: set[Item], stored: set[Item],
    inner: set[Item], extents: tuple[int, ...], scratch: int = SCRATCH,
) -> RowPlan:  # fmt: skip
    """Decide the passes.

    Args:
        order: elements, operands first. operands: what each reads (of those in ``order``).
        row: elements of the row. ends: reductions along the row: their result is known in the next pass.
        stored: elements that are written to memory. inner: those in the loops of another reduction: they run when it does.
        extents: of the row. scratch: bytes for what is kept; 0 computes everything again, stored values too.
    """
    plan = RowPlan()
    users: dict[Item, list[Item]] = {item: [] for item in order}
    for item in order:
        known = [plan.natural[o] + (o in ends) for o in operands[item]]
        plan.natural[item] = max(known, default=0)
        for operand in operands[item]:
            users[operand].append(item)
    plan.count = 1 + max(plan.natural.values(), default=0)
    costs = _costs(order, operands, row, stored)
    free = scratch
    written = stored
    if not scratch:
        stored = set()
    for item in reversed(order):
        first = plan.natural[item]
        needed = {q for user in users[item] for q in plan.runs[user]}
        later = {q for q in needed if q > first}
        size = prod(extents) * item[0].dtype.itemsize
        if item in inner:
            plan.runs[item] = needed
        elif item not in row or item in stored or not later:
            plan.runs[item] = {first}
        elif costs[item] >= KEEP and size <= free:
            free -= size
            plan.kept[item] = None
            plan.runs[item] = {first}
            why = f"{costs[item]} units of work an element, from {KEEP} on its {size} bytes are kept in cache"
            plan.notes.append((f"compute {item[0].op.name} again in a later pass over the row", why, item[0]))
        else:
            plan.runs[item] = needed | {first} if item in written else needed
            if len(plan.runs[item]) < 2 or not own_cost(item[0]):
                continue
            why = f"computing it again costs {costs[item]} units of work an element, less than a store and a load"
            if costs[item] >= KEEP:
                why = f"its {size} bytes do not fit the {scratch} that a kernel may keep"
            plan.notes.append((f"keep {item[0].op.name} for {len(needed)} passes over the row", why, item[0]))
    return plan


def _costs(
    order: Sequence[Item], operands: Mapping[Item, Sequence[Item]], row: set[Item], stored: set[Item]
) -> dict[Item, int]:
    """What computing an element again costs, where its dear operands of the row are at hand."""
    costs: dict[Item, int] = {}
    for item in order:
        dear = [o for o in operands[item] if o in row and o not in stored and costs[o] < KEEP]
        costs[item] = own_cost(item[0]) + sum(costs[o] for o in dear) if item in row else 0
    return costs

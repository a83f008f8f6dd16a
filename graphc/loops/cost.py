"""What a kernel costs by its text: floating-point operations and bytes, counted and attributed to graph nodes.

What enters: a plain (unscheduled) kernel. What leaves: a :class:`KernelCost`. Invariants: counting runs nothing; every
statement counts once for each iteration of the loops around it, conditional ones as if their condition held.

Convention. One addition, product, comparison of floats or elementary function is one operation, so a multiply-add is
two. A buffer's bytes count once however often they are read (a perfect cache), and never more of them than are
accessed (a gather of few rows of a large table); a buffer that is read and written counts twice.

>>> from graphc.loops.parse import parse_kernel
>>> cost = kernel_cost(parse_kernel('''kernel k(in x: f32[8], out y: f32[8]) {
...   for i in 8 {
...     %0 = load x[i]
...     %1 = mul(%0, %0)
...     store y[i] = %1
...   }
... }'''))
>>> cost.flops, cost.bytes
(8, 64)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from graphc.loops.ir import Accumulate, Accumulator, Kernel, Let, Load, Store
from graphc.scalar import PRIMITIVES

__all__ = ["KernelCost", "kernel_cost"]

_FREE = frozenset({"cast", "where", "and", "or", "xor", "not", "shl", "shr"})


@dataclass(frozen=True)
class KernelCost:
    """Counts of one run of a kernel.

    Attributes:
        flops: floating-point operations. read, written: bytes.
        itemsize: bytes of the widest float that it computes with (4 if it has none).
        work: graph node -> statements run for it (how a kernel's time is shared out among the user's lines).
    """

    flops: int
    read: int
    written: int
    itemsize: int = 4
    work: Mapping[Any, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.read + self.written


def kernel_cost(kernel: Kernel) -> KernelCost:
    """Count the operations and bytes of one run of ``kernel``."""
    flops = 0
    read: Counter[str] = Counter()
    written: Counter[str] = Counter()
    work: Counter[Any] = Counter()
    floats: dict[str, bool] = {}
    for stmt, loops in kernel.statements():
        times = prod(loop.var.extent for loop in loops)
        match stmt:
            case Load(buffer=buffer):
                read[buffer] += times
            case Store(buffer=buffer, mode=mode):
                written[buffer] += times
                if mode == "add":
                    read[buffer] += times
                    flops += times
            case Accumulator(name=name, dtype=dtype):
                floats[name] = dtype.is_float
            case Accumulate(accumulator=name):
                flops += times * floats[name]
            case Let(primitive=primitive, dtype=dtype):
                compared = primitive in PRIMITIVES and PRIMITIVES[primitive].signature == "compare"
                flops += times * (primitive not in _FREE and (dtype.is_float or compared))
        for node in getattr(stmt, "nodes", ()):
            work[node] += times
    sizes = {p.name: (p.type.nbytes, p.dtype.itemsize) for p in kernel.params}
    itemsize = max((p.dtype.itemsize for p in kernel.params if p.dtype.is_float), default=4)
    moved = [
        sum(min(sizes[name][0], count * sizes[name][1]) for name, count in counts.items() if name in sizes)
        for counts in (read, written)
    ]
    return KernelCost(flops, moved[0], moved[1], itemsize, work)

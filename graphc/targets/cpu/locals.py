"""Places for the local buffers of one function: those that are never in use together share memory.

What enters: the statements of a function. What leaves: an offset for each buffer, and how many bytes they take in all. Invariant:
two buffers overlap only if the last use of one comes before the allocation of the other, or they stand in loops side by
side. A panel that peeled blocks copy anew each time therefore takes its room once, and a stack of 8 MiB is enough.

>>> from graphc.loops.parse import parse_kernel
>>> kernel = parse_kernel('''kernel k(out y: f32[8]) {
...   for i in 4 { alloc local a: f32[32]  store a[i] = 0.0:f32 }
...   for j in 4 { alloc local b: f32[32]  store b[j] = 0.0:f32 }
... }''')
>>> place_locals(kernel.body)
({'a': 0, 'b': 0}, 128)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphc.loops import ir
from graphc.targets.cpu.statements import within

ALIGNMENT = 64


def place_locals(body: Sequence[ir.Stmt], base: int = 0) -> tuple[dict[str, int], int]:
    """Offsets by name, and the highest byte in use (the bodies of parallel loops are functions of their own)."""
    offsets: dict[str, int] = {}
    live: dict[str, int] = {}  # name -> the byte after it
    peak = base
    last = _last_uses(body)
    for number, stmt in enumerate(body):
        live = {name: end for name, end in live.items() if last[name] >= number}
        start = max([base, *live.values()])
        if isinstance(stmt, ir.Alloc):
            offsets[stmt.buffer.name] = start
            size = max(stmt.buffer.type.nbytes, 1)
            live[stmt.buffer.name] = start + -(-size // ALIGNMENT) * ALIGNMENT
            peak = max(peak, live[stmt.buffer.name])
        elif isinstance(stmt, ir.If) or (isinstance(stmt, ir.For) and stmt.kind != "parallel"):
            inner, end = place_locals(stmt.body, start)
            offsets |= inner
            peak = max(peak, end)
    return offsets, peak


def apart(buffers: Sequence[ir.Buffer]) -> tuple[dict[str, int], int]:
    """A place of its own for every name, large enough for all that bear it (blocks side by side may use one name)."""
    offsets: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for buffer in buffers:
        sizes[buffer.name] = max(buffer.type.nbytes, 1, sizes.get(buffer.name, 0))
    total = 0
    for name, size in sizes.items():
        offsets[name] = total
        total += -(-size // ALIGNMENT) * ALIGNMENT
    return offsets, total


def own_statements(body: Sequence[ir.Stmt]) -> Iterator[ir.Stmt]:
    """All statements of a function, those of its parallel loops aside."""
    for stmt in body:
        if isinstance(stmt, ir.For) and stmt.kind == "parallel":
            continue
        yield stmt
        if isinstance(stmt, (ir.For, ir.If)):
            yield from own_statements(stmt.body)


def _last_uses(body: Sequence[ir.Stmt]) -> dict[str, int]:
    """For each buffer the number of the last statement in which it occurs."""
    last: dict[str, int] = {}
    for number, stmt in enumerate(body):
        for inner in within((stmt,)):
            if isinstance(inner, (ir.Load, ir.Store)):
                last[inner.buffer] = number
            elif isinstance(inner, ir.Alloc):
                last[inner.buffer.name] = number
    return last

"""Stream: large results that nobody reads again go around the caches.

What enters: a :class:`LoopProgram`. What leaves: the same, where stores into a large output have mode "stream". A plain store
first fetches its cache line and evicts data that is still wanted; a streamed one writes full lines to memory, which saves a
third of the traffic of a kernel that reads one array and writes one (softmax cross-entropy of 512 x 10,000 with its
gradient: 11% of the time). Invariant: a streamed buffer is an output of the program, written whole by one kernel in one
pass and loaded by none.
"""

from __future__ import annotations

from dataclasses import replace

from graphc.loops.dependence import inner_statements
from graphc.loops.ir import For, If, Kernel, Load, LoopProgram, Stmt, Store

LARGE = (
    8 * 1024 * 1024
)  # bytes from which an output outlives no cache that a core can count on (measured: break-even at 4-8 MiB)
MOST = 1  # streams at once: with two, write-combining buffers are emptied half full (measured: up to 3 times slower)


def stream_outputs(program: LoopProgram) -> LoopProgram:
    """Streamed stores where every launch of a kernel allows them."""
    uses: dict[str, int] = {}
    for launch in program.launches:
        for buffer in set(launch.buffers):
            uses[buffer] = uses.get(buffer, 0) + 1
    chosen: dict[str, set[str]] = {}
    for launch in program.launches:
        kernel = program.kernels[launch.kernel]
        slots = [program.buffers[b] for b in launch.buffers]
        fits = {
            param.name
            for param, slot in zip(kernel.params, slots, strict=True)
            if param.access == "out" and slot.role == "output" and uses[slot.name] == 1 and slot.type.nbytes >= LARGE
        }
        chosen[kernel.name] = chosen.get(kernel.name, fits) & fits
    kernels = {name: _streamed(kernel, chosen.get(name, set())) for name, kernel in program.kernels.items()}
    return replace(program, kernels=kernels)


def _streamed(kernel: Kernel, buffers: set[str]) -> Kernel:
    statements = list(inner_statements(kernel.body))
    again = {s.buffer for s in statements if isinstance(s, Load)}
    again |= {s.buffer for s in statements if isinstance(s, Store) and s.mode == "add"}
    stores = [s.buffer for s in statements if isinstance(s, Store)]
    once = {b for b in buffers - again if stores.count(b) == 1}
    return replace(kernel, body=_mark(kernel.body, once)) if 0 < len(once) <= MOST else kernel


def _mark(body: tuple[Stmt, ...], buffers: set[str]) -> tuple[Stmt, ...]:
    result: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, (For, If)):
            stmt = replace(stmt, body=_mark(stmt.body, buffers))
        elif isinstance(stmt, Store) and stmt.buffer in buffers:
            stmt = replace(stmt, mode="stream")
        result.append(stmt)
    return tuple(result)

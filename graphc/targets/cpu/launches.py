"""The order of a program's launches as data, and the small loop of machine code that runs them.

What enters: a program's launches and where its buffers are. What leaves: the launch list, an array of 64-bit words, and
LLVM text that reads it. Invariant: machine code holds kernels only. A thousand layers that share a dozen kernels are a
dozen kernels to LLVM, and programs of the same kernels share one entry of the object cache.

A row of the list, then the next; a negative kernel ends it::

    kernel, words in this row, number of the launch, site base, (place, byte offset) for each buffer

``place`` is the buffer's cell in the table of addresses; arena buffers share the arena's cell. Before the table's first
cell lie two words: the address of the launch list, and that of ``graphc_mark`` in profiles (else 0).

>>> from graphc.loops.ir import BufferSlot, Kernel, Launch, LoopProgram
>>> from graphc.types import TensorType, float32
>>> slots = {"x": BufferSlot("x", TensorType(float32, (4,)), "input"), "t": BufferSlot("t", TensorType(float32, (4,)), "arena", 64)}
>>> launch_list(LoopProgram("p", slots, {"k": Kernel("k", (), ())}, (Launch("k", ("x", "t")),), 128)).tolist()
[0, 8, 0, 0, 0, 0, 1, 64, -1]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.loops.ir import LoopProgram
from graphc.targets.cpu.llvm_text import Module, VType

__all__ = ["HEADER_WORDS", "launch_list", "listing", "places", "print_entry"]

HEADER_WORDS = 2  # before the table: launch list, mark
_ROW_HEAD = 4
_I64 = VType("i64")


def places(program: LoopProgram) -> dict[str, int]:
    """Each buffer's cell in the table of addresses."""
    found = {slot.name: n for n, slot in enumerate(b for b in program.buffers.values() if b.role != "arena")}
    arena = len(found)
    return {name: found.get(name, arena) for name in program.buffers}


def launch_list(program: LoopProgram) -> np.ndarray:
    """The launches of a program whose buffers are placed, i64."""
    numbers = {name: n for n, name in enumerate(program.kernels)}
    cells = places(program)
    refs = {
        name: (cells[name], slot.offset if slot.role == "arena" else 0) for name, slot in program.buffers.items()
    }  # fmt: skip
    words: list[int] = []
    for number, launch in enumerate(program.launches):
        words += (numbers[launch.kernel], _ROW_HEAD + 2 * len(launch.buffers), number, launch.site_base)
        for buffer, more in launch.placed():
            cell, offset = refs[buffer]
            words += (cell, offset + more)
    return np.array([*words, -1], np.int64)


def listing(program: LoopProgram) -> str:
    """The launches as LLVM comments, for readers of the text."""
    rows = []
    for launch in program.launches:
        placed = [(program.buffers[b], more) for b, more in launch.placed()]
        shown = (
            f"arena+{s.offset + more}" if s.role == "arena" else f"{s.name}+{more}" if more else s.name for s, more in placed
        )
        rows.append(f"; {launch.kernel}({', '.join(shown)})")
    return "\n".join(["; launches:", *rows, ""])


def print_entry(module: Module, functions: Sequence[tuple[str, int]], attributes: str) -> None:
    """Print ``graphc_entry`` and, for each kernel's function and number of buffers, the adapter that reads its row."""
    for number, (function, buffers) in enumerate(functions):
        _print_adapter(module, f"adapter{number}", function, buffers, attributes)
    adapters = ", ".join(f"ptr @adapter{n}" for n in range(len(functions)))
    table = module.define_global(
        "graphc_kernels", f"internal constant [{len(functions)} x ptr] [{adapters}]"
    ) if functions else "null"  # fmt: skip
    module.declare(_ENTRY.format(table=table, attributes=attributes))


def _print_adapter(module: Module, name: str, function: str, buffers: int, attributes: str) -> None:
    """A function that calls a kernel on the addresses that a row of the launch list stands for."""
    parameters: list[tuple[str | VType, str]] = [("ptr", n) for n in ("pointers", "pool", "status", "row")]
    f = module.function(name, parameters, linkage="internal", attributes=attributes)
    arguments = []
    for number in range(buffers):
        place = f.load(_I64, f.gep("%row", _ROW_HEAD + 2 * number, _I64))
        offset = f.load(_I64, f.gep("%row", _ROW_HEAD + 2 * number + 1, _I64))
        base = f.emit(f"load ptr, ptr {f.gep('%pointers', place, _I64)}, align 8")
        arguments.append(f"ptr {f.gep(base, offset, VType('i8'))}")
    site = f.load(_I64, f.gep("%row", 3, _I64))
    f.effect(f"call void @{function}({', '.join([*arguments, 'ptr %pool', 'ptr %status', f'i64 {site}'])})")
    f.ret()


_ENTRY = """define void @graphc_entry(ptr %pointers, ptr %pool, ptr %status) {attributes} {{
entry:
  %list.p = getelementptr i64, ptr %pointers, i64 -2
  %mark.p = getelementptr i64, ptr %pointers, i64 -1
  %list = load ptr, ptr %list.p, align 8
  %mark = load ptr, ptr %mark.p, align 8
  %quiet = icmp eq ptr %mark, null
  br label %loop
loop:
  %row = phi ptr [ %list, %entry ], [ %next, %run ]
  %kernel = load i64, ptr %row, align 8
  %over = icmp slt i64 %kernel, 0
  br i1 %over, label %end, label %step
step:
  br i1 %quiet, label %run, label %tell
tell:
  %number.p = getelementptr i64, ptr %row, i64 2
  %number = load i64, ptr %number.p, align 8
  call void %mark(ptr %pool, i64 %number)
  br label %run
run:
  %adapter.p = getelementptr ptr, ptr {table}, i64 %kernel
  %adapter = load ptr, ptr %adapter.p, align 8
  call void %adapter(ptr %pointers, ptr %pool, ptr %status, ptr %row)
  %length.p = getelementptr i64, ptr %row, i64 1
  %length = load i64, ptr %length.p, align 8
  %next = getelementptr i64, ptr %row, i64 %length
  br label %loop
end:
  br i1 %quiet, label %leave, label %close
close:
  call void %mark(ptr %pool, i64 -1)
  br label %leave
leave:
  ret void
}}"""

"""Kernels printed with debug locations, so that LLVM IR and assembly lead back to lines of the loop IR exactly.

What enters: a scheduled :class:`Kernel` and the machine it is for. What leaves: a :class:`Located`: the texts, and for each of
their lines the lines of the kernel's own text (:mod:`graphc.loops.text`) that it was printed for. Invariants: the instructions are
those of the program that runs (a line of metadata changes no code, which a test compares byte by byte); no line is guessed: the
printer names the statement that it is printing as ``!dbg !DILocation(line: ...)``, and LLVM carries that to ``.loc`` lines. ::

    loops 12:  %a0 add= %v2        llvm:  %v31 = call <8 x float> @llvm.fma.v8f32(...), !dbg !9      !9 = !DILocation(line: 12, ...)
                                   asm:   .loc 1 12 0
                                          vfmadd231ps (%rdi), %ymm1, %ymm0

An address that several statements share belongs to the one that needed it first. A product that is fused into a
sum has no instruction of its own: :attr:`Located.fused` names the sum's line for the product's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from graphc.loops import ir
from graphc.loops.text import kernel_lines
from graphc.targets.cpu.emit import KernelEmitter
from graphc.targets.cpu.frame import Frame
from graphc.targets.cpu.host import VectorTarget
from graphc.targets.cpu.jit import emit_assembly
from graphc.targets.cpu.lanes import Lanes
from graphc.targets.cpu.llvm_text import Carried, Function, LoopBody, Module, VType

__all__ = ["Located", "located", "located_text"]

_FIRST = 1_000_000  # number of the first node of metadata here
Lines = tuple[int, ...]
"""For each line of a text a line of the loop IR, counted from 1; 0 where it has none."""


@dataclass(frozen=True)
class Located:
    """One kernel's texts and where each of their lines came from.

    Attributes:
        loops: the scheduled kernel. llvm, asm: of the functions that it became, without directives.
        llvm_lines, asm_lines: for each line of a text the line of ``loops`` that it was printed for (from 1; 0: none).
        fused: (line of a product, line of the sum that it became one instruction with).
    """

    loops: str
    llvm: str
    asm: str
    llvm_lines: Lines
    asm_lines: Lines
    fused: tuple[tuple[int, int], ...]


def located(kernel: ir.Kernel, target: VectorTarget, threads: int = 1, opt_level: int = 2) -> Located:
    """Print a kernel and compile it to assembly with locations.

    Raises:
        CompileError: as :func:`graphc.targets.cpu.jit.emit_assembly`.
    """
    text, kernel, fused = located_text(kernel, target, threads)
    llvm, llvm_lines = _llvm_lines(text)
    asm, asm_lines = _asm_lines(emit_assembly(text, target, opt_level))
    loops = "\n".join(line for _, line in kernel_lines(kernel))
    return Located(loops, llvm, asm, llvm_lines, asm_lines, fused)


def located_text(
    kernel: ir.Kernel, target: VectorTarget, threads: int = 1
) -> tuple[str, ir.Kernel, tuple[tuple[int, int], ...]]:
    """A module of one kernel with debug locations; the kernel, each statement an object of its own; what was fused."""
    kernel = replace(kernel, body=_distinct(kernel.body))
    plain = target.module(kernel.name)
    module = _Module(plain.name, plain.triple, plain.layout, plain.fused, plain.scalef)
    emitter = _Emitter(module, kernel, target, threads)
    emitter.emit()
    return module.text(), kernel, tuple(dict.fromkeys(emitter.fused))


def _distinct(body: Iterable[ir.Stmt]) -> tuple[ir.Stmt, ...]:
    """The statements as new objects: schedules may put one object in two places, which are two lines."""
    return tuple(
        replace(s, body=_distinct(s.body)) if isinstance(s, (ir.For, ir.If)) else replace(s) for s in body
    )  # fmt: skip


# --- printing ------------------------------------------------------------------------------------------------------


@dataclass
class _Module(Module):
    """A module whose functions have locations: one file, which is the kernel's loop IR, and a subprogram a function."""

    marks: list[str] = field(default_factory=list)
    _locations: dict[tuple[str, int], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.file = self.own(f'!DIFile(filename: "{self.name}.loops", directory: "graphc")')
        self.unit = self.own(
            f'distinct !DICompileUnit(language: DW_LANG_C99, file: {self.file}, producer: "graphc", isOptimized: true, '
            "runtimeVersion: 0, emissionKind: LineTablesOnly, nameTableKind: None)"
        )
        self.type = self.own(f"!DISubroutineType(types: {self.own('!{null}')})")
        version = self.own('!{i32 2, !"Debug Info Version", i32 3}')
        self.marks += [f"!llvm.dbg.cu = !{{{self.unit}}}", f"!llvm.module.flags = !{{{version}}}"]

    def own(self, text: str) -> str:
        """A node of metadata beside those of the plain module, which keep their numbers."""
        name = f"!{_FIRST + len(self.marks)}"
        self.marks.append(f"{name} = {text}")
        return name

    def text(self) -> str:
        return super().text() + "\n".join(self.marks) + "\n"

    def function(
        self, name: str, parameters: Sequence[tuple[str | VType, str]], result: str | VType = "void",
        linkage: str = "", attributes: str = "",
    ) -> Function:  # fmt: skip
        scope = self.own(
            f'distinct !DISubprogram(name: "{name}", scope: {self.file}, file: {self.file}, line: 1, type: {self.type}, '
            f"scopeLine: 1, spFlags: DISPFlagDefinition | DISPFlagOptimized, unit: {self.unit})"
        )
        made = _Function(self, name, parameters, result, linkage, f"{attributes} !dbg {scope}".strip())
        made.scope, made.made_at = scope, {}
        made.at(1)
        return made

    def location(self, scope: str, line: int) -> str:
        key = (scope, line)
        if key not in self._locations:
            self._locations[key] = self.own(f"!DILocation(line: {line}, column: 0, scope: {scope})")
        return self._locations[key]


class _Function(Function):
    """A function that marks each instruction with the line in force."""

    module: _Module
    made_at: dict[str, int]
    scope = ""
    line = 1
    mark = ""

    def at(self, line: int) -> None:
        """What is printed from now on is for this line of the loop IR."""
        self.line = line
        self.mark = f", !dbg {self.module.location(self.scope, line)}"

    def emit(self, text: str, hint: str = "v") -> str:
        name = super().emit(text + self.mark, hint)
        self.made_at[name] = self.line
        return name

    def effect(self, text: str) -> None:
        super().effect(text + self.mark)

    def splat(self, type: VType, value: str) -> str:
        """A value in every lane belongs to the statement that made the value, whoever needs it so first."""
        before = self.line
        self.at(self.made_at.get(value, before))
        name = super().splat(type, value)
        self.at(before)
        return name

    def loop(
        self, start: str | int, stop: str | int, step: str | int, body: LoopBody, carried: Carried = (), *,
        nonempty: bool = False, metadata: str = "", hint: str = "i",
    ) -> tuple[str, ...]:  # fmt: skip
        begin, mark = len(self._lines), self.mark
        results = super().loop(
            start, stop, step, body, carried, nonempty=nonempty, metadata=metadata, hint=hint
        )  # fmt: skip
        for n in range(begin, len(self._lines)):
            if " = phi " in self._lines[n] and "!dbg" not in self._lines[n]:  # the inner loops' have theirs
                self._lines[n] += mark
        return results


class _Emitter(KernelEmitter):
    """Prints a kernel and says which statement it is printing."""

    def __init__(self, module: _Module, kernel: ir.Kernel, target: VectorTarget, threads: int) -> None:
        super().__init__(module, kernel, target, threads)
        lines = [stmt for stmt, _ in kernel_lines(kernel)]
        self.line_of = {id(stmt): n for n, stmt in enumerate(lines, 1) if stmt is not None}
        self.kept: list[object] = []  # objects whose ids are in use
        self.fused: list[tuple[int, int]] = []

    def statement(self, frame: Frame, stmt: ir.Stmt, lanes: Lanes) -> None:
        function = frame.function
        assert isinstance(function, _Function)
        before = function.line
        line = self.line_of.get(id(stmt), before)
        function.at(line)
        if isinstance(stmt, ir.Accumulate) and isinstance(stmt.value, str) and stmt.value in frame.waiting:
            self.fused.append((self.line_of[id(frame.waiting[stmt.value])], line))
        super().statement(frame, stmt, lanes)
        function.at(before)

    def parallel(self, frame: Frame, loop: ir.For) -> None:
        function = frame.function
        assert isinstance(function, _Function)
        before = function.line
        function.at(self.line_of[id(loop)])
        super().parallel(frame, loop)
        function.at(before)

    def outlined(self, name: str, loop: ir.For) -> Function:
        made = super().outlined(name, loop)
        assert isinstance(made, _Function)
        made.at(self.line_of[id(loop)])
        return made

    def parts(self, loop: ir.For) -> tuple[ir.Stmt, ...]:
        made = super().parts(loop)
        for part in made:  # a long lane loop is printed as a serial loop of short ones, each an image of its body
            inner = part.body if isinstance(part, ir.For) and part.kind == "serial" else (part,)
            for short in inner:
                assert isinstance(short, ir.For)
                for image in (part, short):
                    self.line_of[id(image)] = self.line_of[id(loop)]
                for old, new in zip(_flat(loop.body), _flat(short.body), strict=True):
                    self.line_of[id(new)] = self.line_of[id(old)]
        self.kept.append(made)
        return made


def _flat(body: Sequence[ir.Stmt]) -> Iterator[ir.Stmt]:
    """Statements in order, blocks after what opens them."""
    return (stmt for stmt, _ in ir.Kernel("", (), tuple(body)).statements())


# --- reading back --------------------------------------------------------------------------------------------------

_MARK = re.compile(r",? !dbg !(\d+)")
_LOCATION = re.compile(r"^!(\d+) = !DILocation\(line: (\d+)")


def _llvm_lines(text: str) -> tuple[str, Lines]:
    """The functions of a module without marks, and the line of each line."""
    rows = text.splitlines()
    lines = {m[1]: int(m[2]) for m in map(_LOCATION.match, rows) if m}
    kept: list[str] = []
    found: list[int] = []
    inside = False
    for row in rows:
        inside = inside or row.startswith("define")
        if inside:
            mark = _MARK.search(row)
            kept.append(_MARK.sub("", row))
            found.append(lines.get(mark[1], 1 if row.startswith("define") else 0) if mark else 0)
        inside = inside and row != "}"
    return "\n".join(kept), tuple(found)


_LOC = re.compile(r"\s*\.loc\s+\d+\s+(\d+)")
_LABEL = re.compile(r"[\w.$@]+:")
_NO_LABEL = re.compile(r"\.L(tmp|func_begin|func_end|cfi|info|debug|line|str|addr|rnglist)")


def _asm_lines(text: str) -> tuple[str, Lines]:
    """Labels and instructions of the functions, and the line of each; directives are left out.

    A ``.loc`` holds for the instructions after it, until the next or the end of the function.
    """
    kept: list[str] = []
    found: list[int] = []
    line, inside = 0, False
    for row in text.splitlines():
        body = row.strip()
        loc = _LOC.match(row)
        if loc:
            line = int(loc[1])
        elif body.startswith((".cfi_endproc", ".size", ".section", ".data", ".ident")) or body == ".text":
            inside, line = (inside and body.startswith(".cfi")), 0
        elif _LABEL.match(body):
            if _NO_LABEL.match(body):
                continue
            inside = inside or not body.startswith(".L")
            kept.append(body)
            found.append(0)
        elif inside and body and not body.startswith((".", "#", "//", "@")):
            kept.append("\t" + body)
            found.append(line)
    return "\n".join(kept), tuple(found)

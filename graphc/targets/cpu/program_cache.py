"""Whole programs on disk: a graph that has been compiled before runs again without its passes.

What enters: the structure of a declared graph (:mod:`graphc.structure`), its sizes and the options. What leaves: a program that runs,
or the reason why it has to be compiled. Invariant: an entry is found only by everything that decides what it holds: the graph, the
sizes, the options, the machine, and graphc's own source, Python, NumPy and LLVM. It is data (:mod:`graphc.targets.cpu.plan`) and the
key of object code; both are read under the rules of :mod:`graphc.targets.cpu.object_cache`, and so is any trouble with the disk.

Nothing in an entry leads to the user's lines: whoever asks for them derives the stages from the graph that is present, and
:meth:`ProgramCache.check` makes sure that they are the stages of the code that runs.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

import graphc
from graphc.errors import CompileError
from graphc.loops.ir import LoopProgram
from graphc.structure import Structure
from graphc.targets.cpu.emit import emit_program
from graphc.targets.cpu.jit import llvm_version
from graphc.targets.cpu.object_cache import cache_key
from graphc.targets.cpu.plan import LARGEST, Plan
from graphc.targets.cpu.program import CpuExecutable, CpuOptions, load_code, object_key

__all__ = ["ProgramCache", "source_fingerprint"]

_FOLDERS = ("graphc", "graphc/ops", "graphc/loops", "graphc/targets/cpu", "graphc/nn", "passes")


@functools.cache
def source_fingerprint() -> str:
    """A digest of all of graphc's source between a declared graph and machine code."""
    here = Path(__file__).resolve().parents[3]
    digest = hashlib.sha256()
    for folder in _FOLDERS:
        for file in sorted((here / folder).glob("*.py")):
            data = file.read_bytes()
            digest.update(b"%s/%s %d\0" % (folder.encode(), file.name.encode(), len(data)) + data)
    return digest.hexdigest()


@dataclass(frozen=True)
class ProgramCache:
    """The place of one program in the cache."""

    options: CpuOptions
    structure: Structure
    key: str

    @classmethod
    def of(cls, structure: Structure, sizes: Mapping[str, int], options: CpuOptions, choices: str) -> ProgramCache:
        """Args: choices: further options of the compilation that decide what it gives, as text."""
        vector = options.vector
        key = cache_key(
            "program", structure.digest, repr(sorted(sizes.items())), choices, str(options.thread_count),
            str(options.opt_level), vector.cpu, vector.features, vector.level, source_fingerprint(), graphc.__version__,
            sys.version, np.__version__, llvm_version(),
        )  # fmt: skip
        return cls(options, structure, key)

    def load(
        self, program: Callable[[], LoopProgram], scheduled: Callable[[], LoopProgram]
    ) -> tuple[CpuExecutable | None, str]:
        """The program, or None and why there is none.

        Args:
            program: gives its loops when somebody asks for them. scheduled: the same, mapped to vectors and threads.
        """
        start = perf_counter()
        cache = self.options.object_cache()
        found = cache.load(self.key)
        if found.data is None:
            return None, found.why
        try:
            plan, objects = Plan.read(found.data, self.structure.variables)
        except ValueError as error:
            return None, f"corrupt: {error}"
        code, why = load_code(objects, self.options, cache)
        if code is None:
            return None, f"its machine code: {why}"

        def text() -> str:
            return emit_program(scheduled(), self.options.vector, self.options.thread_count)

        executable = CpuExecutable(
            plan, program, self.options, functools.cache(text), code, perf_counter() - start
        )  # fmt: skip
        return executable, "hit"

    def store(self, executable: CpuExecutable) -> str:
        """Keep a program; returns "" or why it could not be kept."""
        plan = executable.plan
        if plan.constant_bytes() > LARGEST:
            return f"not kept: its constants are {plan.constant_bytes() >> 20} MB"
        return self.options.object_cache().store(self.key, self._written(plan, executable.key))

    def check(self, executable: CpuExecutable, program: LoopProgram) -> None:
        """Make sure that loops derived now are those that ``executable`` runs.

        Raises:
            CompileError: they are others.
        """
        derived = self._written(Plan.of(program), object_key(program, self.options))
        if derived != self._written(executable.plan, executable.key):
            raise CompileError(
                "the passes give another program now than the one that was kept and runs",
                help="compile with cache=False, and please report it: passes must be deterministic",
            )

    def _written(self, plan: Plan, objects: str) -> bytes:
        return plan.written({v: n for n, v in enumerate(self.structure.variables)}, objects)

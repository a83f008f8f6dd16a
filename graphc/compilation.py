"""Compilation: one set of sizes of a graph becomes something to call, from the cache or through the passes.

What enters: a declared graph, options, sizes. What leaves: a :class:`Specialisation`, bound to its variables' arrays.
Invariant: what comes from the cache is what the passes would make; whoever asks for its stages gets them derived, and checked
against the code that runs. ::

    compiler = Compiler(graph, Options(), single=True, observers=[], lock=RLock(), frozen={})
    compiler.compile({"batch": 32}, "first use").cache        # "miss: no entry", then "hit" in every later process
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from graphc.derivation import Derived, LoopStage, Options, build_loops, cpu_options, schedule
from graphc.freeze import Snapshot
from graphc.freeze import freeze as freeze_parameters
from graphc.garbage import collector_paused
from graphc.ir import Graph
from graphc.loops.ir import LoopProgram
from graphc.specialise import specialise
from graphc.structure import Structure, structure
from graphc.trace import Observer, Stage, Trace
from graphc.variables import Variable
from graphc.verify import verify
from passes.prepack import prepack
from passes.scans import merge_scans

if TYPE_CHECKING:
    from graphc.targets.cpu.plan import Plan
    from graphc.targets.cpu.program_cache import ProgramCache


class Executable(Protocol):
    """What a target makes of a loop program."""

    @property
    def compile_seconds(self) -> float:
        """How long making it took."""
        ...

    @property
    def cache(self) -> str:
        """ "hit", or "miss: why"."""
        ...

    def run(self, arrays: Sequence[np.ndarray]) -> None:
        """Run on arrays for the program's inputs, parameters and outputs, in the order of ``LoopProgram.role``."""
        ...

    def source(self, stage: str) -> str:
        """Text of a stage of the target ("llvm", "asm", "cuda")."""
        ...


@dataclass
class Specialisation:
    """A program compiled for one set of sizes.

    Attributes:
        reason: why it was compiled.
        types, results, variables: of the arrays that its code takes. graph_variables: those that the graph reads or updates.
        cache: "hit" if it came from the cache as a whole, so that no pass has run; else "miss: " and why.
        derive: gives what the passes make of it, at the first call if it came from the cache.
    """

    sizes: Mapping[str, int]
    reason: str
    derive: Callable[[], Derived]
    cache: str = ""
    executable: Executable | None = None
    seconds: float = 0.0
    types: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = field(default_factory=dict)
    variables: list[np.ndarray] = field(default_factory=list)
    graph_variables: tuple[Variable, ...] = ()
    results: list[tuple[str, tuple[int, ...], np.dtype[Any]]] = field(default_factory=list)
    native: Any = None  # graphc.targets.cpu.step.NativeStep, where the target has one
    call: Callable[..., Any] = field(default=lambda inputs, out=None: NotImplemented)

    @property
    def graph(self) -> Graph:
        """The graph with its sizes, before the passes."""
        return self.derive().graph

    @property
    def trace(self) -> Trace:
        """The stages of the compilation."""
        return self.derive().trace

    @property
    def loops(self) -> LoopProgram | None:
        """The loops before they are scheduled (None for the interpreter)."""
        return self.derive().loops


def _execute(derived: Derived, options: Options, cache: str) -> Executable:
    assert derived.loops is not None and derived.mapped is not None
    if options.target == "cuda":
        from graphc.targets.cuda import compile_program as compile_cuda

        return compile_cuda(derived.loops)
    from graphc.targets.cpu.program import compile_program

    mapping = 0.0

    def mapped(plain: LoopProgram) -> LoopProgram:
        nonlocal mapping
        begin = perf_counter()
        program = derived.scheduled()
        mapping = perf_counter() - begin
        return program

    start = perf_counter()
    plain = derived.runnable()  # scheduled already if its constants are large
    scheduling = perf_counter() - start
    executable = compile_program(plain, cpu_options(options), schedule=mapped)
    total = perf_counter() - start
    scheduling += mapping
    _add_code_stages(derived, executable, scheduling, total - scheduling, f"program {cache}")
    return executable


def _add_code_stages(derived: Derived, executable: Executable, scheduling: float, seconds: float, note: str) -> None:
    """The last two stages of a program for the cpu."""
    assert derived.loops is not None
    launches, kernels = len(derived.loops.launches), len(derived.loops.kernels)
    derived.trace.add(Stage("schedule", derived.mapped, scheduling, launches, launches))
    text = f"{kernels} kernels, cache {executable.cache}, {note}"
    derived.trace.add(Stage("machine code", text, seconds, kernels, kernels))


class Compiler:
    """Compiles one graph for any sizes.

    Attributes:
        graph: as declared. options: as given. frozen: the values of the variables that are constants of the program.
        refrozen: whether they have been taken anew: a file for each time would push everything else out of the cache.
    """

    def __init__(
        self, graph: Graph, options: Options, single: bool, observers: Sequence[Observer], lock: Any, frozen: Snapshot
    ) -> None:  # fmt: skip
        self.graph = graph
        self.options = options
        self.frozen = frozen
        self.refrozen = False
        self._single = single
        self._observers = observers
        self._lock = lock
        self._structure: Structure | None = None

    @collector_paused()
    def compile(self, sizes: dict[str, int], reason: str) -> Specialisation:
        """The program for these sizes; ``reason`` says why it is compiled."""
        start = perf_counter()
        place, why = self._place(sizes)
        made = self._restored(place, sizes, reason) if place is not None else None
        if isinstance(made, str):
            why = made
        if not isinstance(made, Specialisation):
            made = self._built(sizes, reason, place, why)
        self._connect(made)
        made.seconds = perf_counter() - start
        return made

    def _place(self, sizes: Mapping[str, int]) -> tuple[ProgramCache | None, str]:
        """Where the cache keeps the whole program; None, and why, where it does not."""
        options = self.options
        reasons = (
            (options.target != "cpu", f"the {options.target} target is not kept"),
            (not options.cache, "disabled"),
            (options.strict, "strict programs run on the interpreter"),
            (self.refrozen, "frozen anew: constants that change are not kept"),
            (options.check == "every-pass" or bool(self._observers), "its passes are observed"),
        )
        for holds, reason in reasons:
            if holds:
                return None, reason
        from graphc.targets.cpu.program_cache import ProgramCache

        if self._structure is None:
            self._structure = structure(self.graph)
        if self._structure.trouble:
            return None, self._structure.trouble
        choices = f"fuse={options.fuse}" + (f" frozen={self._frozen_digest()}" if options.freeze else "")
        return ProgramCache.of(self._structure, sizes, cpu_options(options), choices), ""

    def _frozen_digest(self) -> str:
        """Which variables are constants of the program, and the bytes of each."""
        assert self._structure is not None
        digest = hashlib.sha256()
        for number, variable in enumerate(self._structure.variables):
            value = self.frozen.get(variable)
            if value is not None:
                digest.update(b"%d %d\0" % (number, value.nbytes))
                digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()

    def _restored(self, place: ProgramCache, sizes: Mapping[str, int], reason: str) -> Specialisation | str:
        """The program from the cache, its passes left for whoever asks; or why it is not there."""
        derived: list[Derived] = []
        frozen = self.frozen  # later values are another program's

        def derive() -> Derived:
            with self._lock:
                if not derived:
                    assert executable is not None
                    made = self._derive(sizes, frozen)
                    place.check(executable, made.runnable())
                    _add_code_stages(made, executable, 0.0, executable.compile_seconds, "program hit")
                    derived.append(made)
                return derived[0]

        executable, why = place.load(lambda: derive().runnable(), lambda: derive().scheduled())
        return why if executable is None else Specialisation(sizes, reason, derive, "hit", executable)

    def _built(self, sizes: Mapping[str, int], reason: str, place: ProgramCache | None, why: str) -> Specialisation:
        """The program compiled, and kept if it has a place."""
        if self.options.target == "cpu" and not self.options.strict:  # strict mode runs on the interpreter
            from graphc.targets.cpu.program import prepare

            prepare(self.options.threads)
        derived = self._derive(sizes, self.frozen)
        made = Specialisation(sizes, reason, lambda: derived, f"miss: {why}")
        if derived.loops is not None:
            made.executable = _execute(derived, self.options, made.cache)
        if place is not None:
            trouble = place.store(made.executable)  # type: ignore[arg-type]
            made.cache += f"; {trouble}" if trouble else ""
        return made

    @collector_paused()
    def _derive(self, sizes: Mapping[str, int], frozen: Snapshot) -> Derived:
        """Run the passes."""
        start = perf_counter()
        verify(self.graph)
        trace = Trace(observers=list(self._observers))
        graph = specialise(merge_scans(self.graph), sizes)
        trace.add(Stage("declared", graph, perf_counter() - start, len(graph), len(graph)))
        if frozen:
            start_freeze, before = perf_counter(), len(graph)
            graph = freeze_parameters(graph, frozen)
            trace.add(Stage("freeze", graph, perf_counter() - start_freeze, before, len(graph)))
        if self.options.target == "interpreter":
            return Derived(graph, trace)
        loops = build_loops(graph, self.options, trace)
        return Derived(graph, trace, loops, LoopStage(lambda: prepack(schedule(loops, self.options))))

    def _connect(self, made: Specialisation) -> None:
        """Bind the program to the variables' arrays, and make its native callable."""
        made.graph_variables = tuple(node.attrs["variable"] for node in self.graph.parameters)
        if made.executable is None:
            made.types = {n.name: (n.dtype.numpy, n.type.static_shape) for n in made.graph.inputs}
            return
        slots: Plan | LoopProgram | None = getattr(made.executable, "plan", None) or made.loops
        assert slots is not None
        made.types = {s.name: (s.type.dtype.numpy, s.type.static_shape) for s in slots.role("input")}
        made.variables = [slot.variable.value for slot in slots.role("parameter")]
        made.results = [
            (name, slot.type.static_shape, slot.type.dtype.numpy)
            for name, slot in zip(self.graph.outputs, slots.role("output"), strict=True)
        ]
        native = getattr(made.executable, "native_step", None)
        if native is not None and not self.options.strict:
            made.native = native(made.variables, list(self.graph.outputs), self._single)
        if made.native is not None:
            made.call = made.native.step()

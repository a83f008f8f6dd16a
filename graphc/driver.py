"""The driver: from a declared graph to a callable :class:`Program`, through each target's pipeline of passes.

What enters: symbolic values (one, a dict, or a Graph), a target, options. What leaves: a Program, called with inputs by name.
Invariants: a program specialises itself to the sizes of its inputs on first use, keeps every specialisation, and can say
why it compiled again; variables are updated in place; every stage of every compilation stays in the trace. ::

    step = compile({"loss": loss}, updates=optimizer.updates(loss, parameters))
    step(image=x, label=y)["loss"]
    print(step.trace.table()); print(step.source("llvm"))
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

from graphc import interpreter, text
from graphc.binding import bind, check_outputs
from graphc.errors import CompileError, GraphError
from graphc.freeze import Snapshot, snapshot
from graphc.freeze import freeze as freeze_parameters
from graphc.garbage import collector_paused
from graphc.ir import Graph, Node, Variable
from graphc.loops.ir import Kernel, LoopProgram
from graphc.loops.text import print_program
from graphc.notebook import Pictured
from graphc.parallelism import default_threads
from graphc.specialise import specialise
from graphc.structure import Structure, structure
from graphc.trace import Observer, Stage, Trace
from graphc.verify import verify
from passes import GRAPH_PIPELINE, LAYOUT, LOOPS, SPLIT
from passes.bundle import bundle_launches
from passes.fuse import SMALL, fuse
from passes.inplace import in_place
from passes.lower import lower
from passes.memory import plan_memory, timeline
from passes.once import is_mapped, pack_once
from passes.pack import pack_panels
from passes.prepack import large_constants, prepack
from passes.rows import SCRATCH
from passes.scans import merge_scans
from passes.schedule import schedule_cpu
from passes.stream import stream_outputs

if TYPE_CHECKING:
    from graphc.profile import Profile
    from graphc.targets.cpu.plan import Plan
    from graphc.targets.cpu.program import CpuOptions
    from graphc.targets.cpu.program_cache import ProgramCache

Target: TypeAlias = Literal["interpreter", "cpu", "cuda"]
Check: TypeAlias = Literal["off", "verify", "every-pass"]


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


@dataclass(frozen=True)
class Options:
    """How to compile; equal options share nothing but mean the same code."""

    target: Target = "cpu"
    threads: int = 1
    check: Check = "verify"
    cache: bool = True
    strict: bool = False
    fuse: bool = True
    vector_bits: int | None = None
    freeze: bool = False


@dataclass(frozen=True)
class Derived:
    """What the passes make of a graph for one set of sizes.

    Attributes:
        graph: with sizes, before the passes. trace: their stages.
        loops: before they are scheduled (None for the interpreter). mapped: scheduled for the cpu.
    """

    graph: Graph
    trace: Trace
    loops: LoopProgram | None = None
    mapped: LoopStage | None = None

    def runnable(self) -> LoopProgram:
        """The loops that are compiled for the cpu: scheduled ones where only they say which constants there are."""
        assert self.loops is not None
        return self.scheduled() if large_constants(self.loops) else self.loops

    def scheduled(self) -> LoopProgram:
        """The loops mapped to vectors and threads, made once."""
        assert self.mapped is not None
        return self.mapped.program


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


class Program(Pictured):
    """A compiled graph: call it with its inputs by name.

    Attributes:
        graph: as declared. options: as given.
        trace: the stages of the latest compilation.

    Raises (when called):
        InputError: a missing, extra, misshapen or ill-typed input. IndexRangeError: an index out of range.
        NonFiniteError: a NaN or infinity, with ``strict=True``.

    >>> from graphc.ops import input
    >>> x = input("x", (3,)); double = compile(x + x, target="interpreter")
    >>> double(x=np.float32([1, 2, 3])).tolist()
    [2.0, 4.0, 6.0]
    """

    def __init__(self, graph: Graph, options: Options, single: bool, observers: Sequence[Observer] = ()) -> None:
        self.graph = graph
        self.options = options
        self._single = single
        self._observers = list(observers)
        self._lock = threading.RLock()
        self._specialisations: dict[tuple[Any, ...], Specialisation] = {}
        self._latest: Specialisation | None = None
        self._structure: Structure | None = None
        self._frozen: Snapshot = snapshot(graph) if options.freeze else {}
        self._call: Callable[..., Any] = lambda inputs, out=None: NotImplemented
        self._names = tuple(n.name for n in graph.inputs)
        self._expected = frozenset(self._names)
        if graph.symbols:
            verify(graph)
        else:
            self.specialise({})

    # --- calling ---------------------------------------------------------------------------------------------------

    def __call__(self, /, *, out: Any = None, **inputs: Any) -> Any:
        """Run once; returns the outputs by name (or the value itself if one node was compiled).

        Args:
            out: arrays to write outputs into, by name (``"result"`` if one node was compiled): C-contiguous, of the output's
                dtype and shape, apart from all other arrays of the call. Outputs that it does not name are made.
            inputs: by name.
        """
        # The latest specialisation's native callable looks first; it answers NotImplemented unless everything fits.
        if out is None:
            result = self._call(inputs)
        else:
            result = self._call(inputs, out) if type(out) is dict else NotImplemented
        return result if result is not NotImplemented else self._explain(inputs, out)

    def bind(
        self, *names: str, out: Mapping[str, np.ndarray] | None = None, **arrays: np.ndarray
    ) -> Callable[..., Any]:
        """A callable that takes the inputs ``names``, by position or name; the cheapest way to call a program often.

        Args:
            names: the inputs that each call gives, in the order of its positional arguments.
            out: arrays that every call writes its outputs into.
            arrays: inputs that stay the same arrays; each call reads their contents anew.

        Raises:
            InputError: an input is missing, given twice or unknown, or an array does not fit as it is.

        >>> from graphc.ops import input
        >>> x, y = input("x", (2,)), input("y", (2,))
        >>> add = compile(x + y).bind("x", y=np.float32([1, 2]))
        >>> add(np.float32([10, 20])).tolist()
        [11.0, 22.0]
        """
        return bind(self, names, arrays, out)

    def _explain(self, inputs: Mapping[str, Any], out: Mapping[str, Any] | None) -> Any:
        """What the native callable did not take: other sizes, arrays to convert, mistakes to explain."""
        if out is not None and "out" in self._expected:  # an input of that name
            inputs, out = {**inputs, "out": out}, None
        checked, sizes = interpreter.check_inputs(self.graph, inputs)
        found = self.specialise(sizes)
        arrays = {n: np.require(a, requirements=("C", "A", "E")) for n, a in checked.items()}
        given = check_outputs(out, found, arrays)
        result = found.call(arrays, given) if given else found.call(arrays)
        self._call = found.call
        if result is NotImplemented:
            outputs = self._run(found, arrays, given)
            result = next(iter(outputs.values())) if self._single else outputs
            if found.native is not None:
                found.native.widen()  # another call is in flight
        return result

    def _run(
        self, found: Specialisation, arrays: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        if self.options.strict or found.executable is None:
            outputs, updates = interpreter.run_with_updates(found.graph, dict(arrays), strict=self.options.strict)
            for variable, value in updates.items():
                variable.value = value
            for name, array in out.items():
                array[...] = outputs[name]
            return {**outputs, **out}
        results = {n: out[n] if n in out else np.empty(shape, dtype) for n, shape, dtype in found.results}
        found.executable.run([*(arrays[n] for n in self._names), *found.variables, *results.values()])
        return results

    # --- compiling -------------------------------------------------------------------------------------------------

    def specialise(self, sizes: Mapping[str, int]) -> Specialisation:
        """Compile for these sizes of the symbolic dimensions (once; later calls return the same object)."""
        key = tuple(sorted(sizes.items()))
        with self._lock:
            found = self._specialisations.get(key)
            if found is None:
                found = self._compile(dict(sizes))
                self._specialisations[key] = found
            self._latest = found
            self._call = found.call
            return found

    def refreeze(self) -> None:
        """Take the variables' present values into a program that was compiled with ``freeze=True``.

        Compiles anew (machine code comes from the cache) for the sizes last used. Call :meth:`bind` anew after it.

        Raises:
            GraphError: the program was compiled without ``freeze=True``: it reads its variables at every call.

        >>> from graphc.ops import parameter
        >>> w = parameter("w", (2,), 1.0); program = compile(w + w, freeze=True)
        >>> w.attrs["variable"].value = [5.0, 5.0]
        >>> program().tolist()
        [2.0, 2.0]
        >>> program.refreeze(); program().tolist()
        [10.0, 10.0]
        """
        if not self.options.freeze:
            raise GraphError(
                "the program is not frozen: it reads its variables at every call", help="compile(..., freeze=True)"
            )
        with self._lock:
            sizes = self._latest.sizes if self._latest is not None else None
            self._frozen = snapshot(self.graph)
            self._specialisations.clear()
            self._latest, self._call = None, lambda inputs, out=None: NotImplemented
            if sizes is not None:
                self.specialise(sizes)

    @collector_paused()
    def _compile(self, sizes: dict[str, int]) -> Specialisation:
        start = perf_counter()
        place, why = self._place(sizes)
        made = self._restored(place, sizes) if place is not None else None
        if isinstance(made, str):
            why = made
        if not isinstance(made, Specialisation):
            made = self._built(sizes, place, why)
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
            (options.freeze, "frozen: what depends on the parameters is computed anew"),
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
        return ProgramCache.of(self._structure, sizes, cpu_options(options), f"fuse={options.fuse}"), ""

    def _restored(self, place: ProgramCache, sizes: Mapping[str, int]) -> Specialisation | str:
        """The program from the cache, its passes left for whoever asks; or why it is not there."""
        derived: list[Derived] = []

        def derive() -> Derived:
            with self._lock:
                if not derived:
                    assert executable is not None
                    made = self._derive(sizes)
                    place.check(executable, made.runnable())
                    _add_code_stages(made, executable, 0.0, executable.compile_seconds, "program hit")
                    derived.append(made)
                return derived[0]

        executable, why = place.load(lambda: derive().runnable(), lambda: derive().scheduled())
        return why if executable is None else Specialisation(sizes, self._reason(sizes), derive, "hit", executable)

    def _built(self, sizes: Mapping[str, int], place: ProgramCache | None, why: str) -> Specialisation:
        """The program compiled, and kept if it has a place."""
        derived = self._derive(sizes)
        made = Specialisation(sizes, self._reason(sizes), lambda: derived, f"miss: {why}")
        if derived.loops is not None:
            made.executable = _execute(derived, self.options, made.cache)
        if place is not None:
            trouble = place.store(made.executable)  # type: ignore[arg-type]
            made.cache += f"; {trouble}" if trouble else ""
        return made

    @collector_paused()
    def _derive(self, sizes: Mapping[str, int]) -> Derived:
        """Run the passes."""
        start = perf_counter()
        verify(self.graph)
        trace = Trace(observers=list(self._observers))
        graph = specialise(merge_scans(self.graph), sizes)
        trace.add(Stage("declared", graph, perf_counter() - start, len(graph), len(graph)))
        if self._frozen:
            start_freeze, before = perf_counter(), len(graph)
            graph = freeze_parameters(graph, self._frozen)
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

    def _reason(self, sizes: Mapping[str, int]) -> str:
        if not self._specialisations:
            return "first use"
        before = list(self._specialisations.values())[-1].sizes
        changed = [f"{k} is {v}, was {before.get(k)}" for k, v in sizes.items() if before.get(k) != v]
        return "; ".join(changed) or "other sizes"

    # --- looking inside --------------------------------------------------------------------------------------------

    @property
    def trace(self) -> Trace:
        """The stages of the latest specialisation."""
        return self._current().trace

    @property
    def loops(self) -> LoopProgram:
        """The scheduled loop program of the latest specialisation.

        Raises:
            CompileError: the interpreter target has none.
        """
        current = self._current()
        if current.loops is None:
            raise CompileError("the interpreter target has no loops", help='compile with target="cpu"')
        if self.options.target != "cpu":
            return current.loops
        scheduled: LoopProgram = current.trace.stage("schedule").artifact.program
        return scheduled

    @property
    def specialisations(self) -> tuple[Specialisation, ...]:
        """Every specialisation with the reason it was compiled."""
        return tuple(self._specialisations.values())

    def source(self, stage: str = "graph") -> str:
        """Text of one level: "graph" (declared), "simplified", "loops", "memory" (the plan), "js", "llvm", "asm" or
        "cuda".

        Raises:
            GraphError: no such level.
        """
        if stage == "graph":
            return text.print_graph(self.graph)
        if stage == "simplified":
            return self.trace.stage(GRAPH_PIPELINE[-1].name).text()
        current = self._current()
        if stage == "loops":
            return print_program(self.loops)
        if stage == "memory" and current.loops is not None:
            return timeline(current.loops)
        if stage == "js":
            return js_source(current.graph, self.options)
        if stage == "cuda" and self.options.target != "cuda":
            return cuda_source(current.graph, self.options)
        if stage.partition(":")[0] in ("llvm", "asm", "cuda") and current.executable is not None:
            return current.executable.source(stage)
        raise GraphError(f"no source level {stage!r}", help="choose graph, simplified, loops, memory, js, llvm, asm or cuda")

    def profile(self, repeats: int = 20, *, interpreted: bool = False, **inputs: Any) -> Profile:
        """Time every kernel on the given inputs (zeros and the variables' present values where none are given).

        Args:
            repeats: steps that are timed. interpreted: time the interpreter too, node by node, to compare with.
            inputs: by name.

        Variables keep their values. See :class:`graphc.profile.Profile`.

        Raises:
            TargetUnavailable: another target than "cpu". InputError: inputs that the program does not take.
        """
        from graphc.profile import profile_program

        return profile_program(self, repeats, inputs, interpreted)

    def current(self, inputs: Mapping[str, Any] | None = None) -> Specialisation:
        """The specialisation for these inputs (all of them given), else the latest.

        Raises:
            GraphError: the program has not been compiled for any sizes yet.
        """
        if inputs and inputs.keys() == self._expected:
            return self.specialise(interpreter.check_inputs(self.graph, inputs)[1])
        return self._current()

    def _current(self) -> Specialisation:
        if self._latest is None:
            symbols = ", ".join(sorted(self.graph.symbols))
            raise GraphError(
                f"the program has not been compiled yet: it does not know {symbols}",
                help=f"call it once, or program.specialise({{{', '.join(f'{s!r}: 128' for s in sorted(self.graph.symbols))}}})",
            )
        return self._latest

    def page(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write the interactive page of this program, one HTML file; options as of :func:`viz.page`.

        >>> import tempfile, os
        >>> from graphc.ops import input
        >>> file = os.path.join(tempfile.mkdtemp(), "product.html")
        >>> compile(input("a") * input("b")).page(file, values={"a": 2.0, "b": 3.0})
        >>> os.path.getsize(file) > 10_000
        True
        """
        importlib.import_module("viz").page(self, path, **options)

    def __repr__(self) -> str:
        return f"<Program {self.graph.name} for {self.options.target}: {len(self._specialisations)} specialisations>"


def compile(
    outputs: Node | Mapping[str, Node] | Graph,
    *,
    target: Target = "cpu",
    updates: Mapping[Node, Node] | None = None,
    threads: int | None = None,
    check: Check = "verify",
    cache: bool = True,
    strict: bool = False,
    fuse: bool = True,
    vector_bits: int | None = None,
    freeze: bool = False,
    name: str = "program",
    observers: Sequence[Observer] = (),
) -> Program:
    """Compile symbolic values to a program.

    Args:
        outputs: one value, values by name, or a Graph.
        target: "cpu" (LLVM), "cuda" (needs a GPU to run; see ``cuda_source``), or "interpreter" (NumPy, the oracle).
        updates: parameter -> its next value, written after all reads.
        threads: threads of the cpu target, the caller's among them (default: :func:`graphc.threads`, else all processors).
        check: "verify" checks the IR after every pass; "every-pass" also runs it on data and names a guilty pass.
        cache: whether machine code is kept on disk for later processes.
        strict: stop with the user's line at the first NaN or infinity (runs on the interpreter).
        fuse: False gives one kernel a node, to see what fusion is worth.
        vector_bits: 128, 256 or 512 instead of the host's width.
        freeze: parameters that the program does not update become constants: it keeps the values that they have now (see
            :meth:`Program.refreeze`), and computes once, when compiling, what depends on them alone.

    Raises:
        GraphError: an unknown target, or outputs that are no symbolic values. TargetUnavailable: no toolchain or device.

    >>> from graphc.ops import input
    >>> import numpy as np
    >>> x = input("x", ("n",))
    >>> float(compile((x * x).sum())(x=np.float32([1, 2, 3])))
    14.0
    """
    if target not in ("interpreter", "cpu", "cuda"):
        raise GraphError(f"unknown target {target!r}", help='choose "cpu", "interpreter" or "cuda"')
    graph, single = as_graph(outputs, updates, name)
    chosen = threads if threads is not None else default_threads()
    if chosen < 1:
        raise GraphError(f"threads must be at least 1, got {chosen}")
    options = Options(target, chosen, check, cache, strict, fuse, vector_bits, freeze)
    return Program(graph, options, single, observers)


def as_graph(outputs: Any, updates: Mapping[Node, Node] | None, name: str) -> tuple[Graph, bool]:
    """A Graph from what :func:`compile` takes, and whether a single value was given."""
    if isinstance(outputs, Graph):
        if updates:
            raise GraphError("updates are part of the graph already", help="give them to Graph(..., updates=...)")
        return outputs, False
    single = isinstance(outputs, Node)
    named: Any = {"result": outputs} if single else outputs
    if not isinstance(named, Mapping) or not all(isinstance(v, Node) for v in named.values()):
        raise GraphError(
            f"cannot compile {type(outputs).__name__}", help="give a symbolic value, a dict of them, or a Graph"
        )
    for parameter in updates or {}:
        if parameter.op.name != "parameter":
            raise GraphError(f"{parameter!r} cannot be updated: it is no parameter", source=parameter.source)
    return Graph(name, dict(named), dict(updates or {})), single


def optimise(graph: Graph, trace: Trace, *, check: Check = "verify") -> Graph:
    """The graph-to-graph pipeline on a static graph, recorded in ``trace``."""
    return GRAPH_PIPELINE.run(graph, check=check, trace=trace)


def build_loops(graph: Graph, options: Options, trace: Trace) -> LoopProgram:
    """Everything between a static graph and plain loops: optimise, lay out, fuse, lower, plan memory."""
    graph = optimise(graph, trace, check=options.check)
    if any(node.op.name == "scan" for node in graph.nodes):
        graph = LOOPS.run(graph, check=options.check, trace=trace)
        graph = optimise(graph, trace, check=options.check)
    graph = LAYOUT.run(graph, check=options.check, trace=trace)
    if options.target == "cpu":
        graph = SPLIT.run(graph, check=options.check, trace=trace)
    small, scratch = (SMALL, SCRATCH) if options.target == "cpu" else (0, 0)  # on a grid a row is spread over threads
    fusion = _timed(trace, "fuse", lambda context: fuse(graph, context, enabled=options.fuse, small=small), len(graph))
    loops = _timed(trace, "lower", lambda context: lower(fusion, context, scratch=scratch), len(fusion.groups))
    if options.target == "cpu" and options.fuse:
        bits, threads = cpu_vector(options).bits, options.threads
        loops = pack_once(in_place(bundle_launches(loops)), lambda kernel: _mapped(kernel, bits, threads))
    loops = _timed(trace, "plan memory", lambda context: stream_outputs(plan_memory(loops)), len(loops.launches))
    return loops


def schedule(loops: LoopProgram, options: Options) -> LoopProgram:
    """Map every kernel's loops to the CPU's vectors, register tiles and threads."""
    return schedule_for(loops, cpu_vector(options).bits, options.threads)


def schedule_for(loops: LoopProgram, vector_bits: int, threads: int) -> LoopProgram:
    """The loops mapped for vectors of so many bits, whatever this machine has, and so many threads."""
    kernels = {name: _mapped(kernel, vector_bits, threads) for name, kernel in loops.kernels.items()}
    return replace(loops, kernels=kernels)


def _mapped(kernel: Kernel, vector_bits: int, threads: int) -> Kernel:
    """A kernel for the CPU; itself if it is mapped already (see :mod:`passes.once`)."""
    if is_mapped(kernel):
        return kernel
    return pack_panels(schedule_cpu(kernel, vector_bits=vector_bits, threads=threads).kernel)


def _timed(trace: Trace, name: str, run: Callable[[Any], Any], before: int) -> Any:
    from graphc.trace import Context

    context = Context(name)
    start = perf_counter()
    artifact = run(context)
    seconds = perf_counter() - start
    after = len(artifact.launches) if isinstance(artifact, LoopProgram) else len(artifact.groups)
    shown = LoopStage(lambda: artifact) if isinstance(artifact, LoopProgram) else artifact
    trace.add(Stage(name, shown, seconds, before, after, context.firings, context.refusals))
    return artifact


class LoopStage:
    """A loop program in the trace, made when it is first looked at (a cached program need not be scheduled again)."""

    def __init__(self, make: Callable[[], LoopProgram]) -> None:
        self._make = make

    @cached_property
    def program(self) -> LoopProgram:
        return self._make()

    def text(self) -> str:
        return print_program(self.program)


def cpu_vector(options: Options) -> Any:
    """The vector unit to compile for."""
    from graphc.targets.cpu.host import vector_target

    level = {512: "avx512", 256: "avx2", 128: "sse4.2"}.get(options.vector_bits or 0)
    return vector_target(level)


def cpu_options(options: Options) -> CpuOptions:
    """The options of the cpu target's code generator."""
    from graphc.targets.cpu.program import CpuOptions

    return CpuOptions(threads=options.threads, vector=cpu_vector(options), cache=options.cache)


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


def cuda_source(graph: Graph, options: Options) -> str:
    """The graph as one CUDA C++ file; needs neither a GPU nor a compiler."""
    from graphc.targets.cuda import program_source

    return program_source(build_loops(graph, replace(options, target="cuda"), Trace()))


def js_source(graph: Graph, options: Options) -> str:
    """The graph as one JavaScript expression; needs no JavaScript engine."""
    from graphc.targets.js import program_source

    return program_source(build_loops(graph, replace(options, target="interpreter"), Trace()))


__all__ = [
    "Options",
    "Program",
    "Specialisation",
    "as_graph",
    "build_loops",
    "compile",
    "cuda_source",
    "default_threads",
    "js_source",
    "optimise",
]

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
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc import interpreter, text
from graphc.binding import bind, check_outputs
from graphc.compilation import Compiler, Specialisation
from graphc.derivation import (
    Check,
    Options,
    Target,
    build_loops,
    cpu_options,
    cpu_vector,
    cuda_source,
    js_source,
    optimise,
    schedule,
    schedule_for,
)
from graphc.errors import CompileError, GraphError
from graphc.freeze import snapshot
from graphc.ir import Graph, Node
from graphc.loops.ir import LoopProgram
from graphc.loops.text import print_program
from graphc.notebook import Pictured
from graphc.parallelism import default_threads
from graphc.trace import Observer, Trace
from graphc.verify import verify
from passes import GRAPH_PIPELINE
from passes.memory import timeline

if TYPE_CHECKING:
    from graphc.links import Links
    from graphc.profile import Profile


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
        self._lock = threading.RLock()
        self._specialisations: dict[tuple[Any, ...], Specialisation] = {}
        self._latest: Specialisation | None = None
        frozen = snapshot(graph) if options.freeze else {}
        self._compiler = Compiler(graph, options, single, list(observers), self._lock, frozen)
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
                found = self._compiler.compile(dict(sizes), self._reason(sizes))
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
            self._compiler.frozen, self._compiler.refrozen = snapshot(self.graph), True
            self._specialisations.clear()
            self._latest, self._call = None, lambda inputs, out=None: NotImplemented
            if sizes is not None:
                self.specialise(sizes)


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

    def links(self, limit: int | None = None) -> Links:
        """Loops, LLVM IR, assembly and CUDA of every kernel, each line with what it was made for (:mod:`graphc.links`).

        Args:
            limit: characters of LLVM IR and assembly together, 600,000 unless said; later kernels go without.

        Raises:
            CompileError: another target than "cpu".
        """
        from graphc.links import LIMIT, links_of

        return links_of(self, LIMIT if limit is None else limit)

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


__all__ = [
    "Check",
    "Options",
    "Program",
    "Specialisation",
    "Target",
    "as_graph",
    "build_loops",
    "compile",
    "cpu_options",
    "cpu_vector",
    "cuda_source",
    "default_threads",
    "js_source",
    "optimise",
    "schedule",
    "schedule_for",
]

"""Passes and pipelines: valid graph in, valid graph out, every change recorded.

What enters: a :class:`Graph` and a tuple of passes. What leaves: the last pass's Graph, and a Stage a pass in the
Trace. Invariant: a pass that changes nothing returns the same Graph object; the pipeline verifies after every pass and names
the guilty one. ::

    @rule("exact")
    def neg_neg(x):
        return neg(neg(x)), x

    simplify = RewritePass("simplify", (neg_neg,), why="fewer nodes for everyone below")
    graph = Pipeline((simplify,)).run(graph, check="every-pass", trace=trace)

A :class:`RewritePass` visits operands before users and rewrites each node until no rule fits, including the nodes that
replacements bring in. As a rule reads only its root and what is below, one sweep reaches the fixpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from graphc import provenance
from graphc.errors import GraphError, PassError, VerifyError
from graphc.interpreter import random_inputs, run_with_updates
from graphc.ir import Graph, Node
from graphc.patterns import Match, Rule, rule
from graphc.trace import Context, Firing, Observer, Refusal, Stage, Trace
from graphc.verify import verify

__all__ = [
    "Context", "Firing", "Match", "Pass", "Pipeline", "Refusal", "RewritePass", "Rule", "Stage", "Trace", "rule",
]  # fmt: skip

Check: TypeAlias = Literal["off", "verify", "every-pass"]


@dataclass(frozen=True, eq=False)
class Pass:
    """One named step, graph to graph.

    Attributes:
        run: ``run(graph, context) -> Graph``; the same object when it changed nothing.
        requires, ensures: properties ("expanded", "typed") that must hold before, and that hold after.
        why: why it stands where it stands in its pipeline.
        rules: the rules it applies, if it is made of rules.
    """

    name: str
    run: Callable[[Graph, Context], Graph]
    requires: frozenset[str] = frozenset()
    ensures: frozenset[str] = frozenset()
    why: str = ""
    rules: tuple[Rule, ...] = ()

    def __call__(self, graph: Graph) -> Graph:
        """Run alone, without a trace."""
        return self.run(graph, Context(self.name))

    def __repr__(self) -> str:
        return f"<pass {self.name}>"


class RewritePass(Pass):
    """A pass made of rules, indexed by their root op, applied bottom-up to the fixpoint in near-linear time."""

    def __init__(
        self, name: str, rules: Sequence[Rule], *, requires: frozenset[str] = frozenset(),
        ensures: frozenset[str] = frozenset(), why: str = "",
    ) -> None:  # fmt: skip
        super().__init__(name, _Rewriter(name, tuple(rules)), requires, ensures, why, tuple(rules))


class _Rewriter:
    def __init__(self, name: str, rules: tuple[Rule, ...]) -> None:
        self.name = name
        self.rules = rules
        self.by_shape: dict[tuple[str, ...], tuple[Rule, ...]] = {}

    def candidates(self, root: Node) -> tuple[Rule, ...]:
        """The rules that the names of the root's op and of its operands' ops admit, in their order; indexed on use."""
        shape = (root.op.name, *[i.op.name for i in root.inputs])
        found = self.by_shape.get(shape)
        if found is None:
            found = tuple(each for each in self.rules if each.may_match(shape[0], shape[1:]))
            self.by_shape[shape] = found
        return found

    def __call__(self, graph: Graph, context: Context) -> Graph:
        return _Sweep(self.name, self.candidates, context, 64 * len(graph.nodes) + 1024).run(graph)


class _Sweep:
    """One bottom-up rewriting of one graph. ``final`` maps nodes to nodes that no rule fits any more."""

    def __init__(
        self, name: str, candidates: Callable[[Node], tuple[Rule, ...]], context: Context, budget: int
    ) -> None:  # fmt: skip
        self.name = name
        self.candidates = candidates
        self.context = context
        self.budget = budget
        self.final: dict[Node, Node] = {}
        self.forward: dict[Node, Node] = {}

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            self.settle(node)
        return graph.replace(self.final)

    def settle(self, start: Node) -> None:
        """Bring ``start`` and all below it to their final form (explicit stack: replacements may be deep)."""
        final, forward, stack = self.final, self.forward, [start]
        while stack:
            node = stack[-1]
            if node in final:
                stack.pop()
                continue
            if node in forward:
                target = forward[node]
                if target in final:
                    final[node] = final[target]
                    stack.pop()
                else:
                    stack.append(target)
                continue
            waiting = [i for i in node.inputs if i not in final]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            fresh = node.with_inputs([final[i] for i in node.inputs])
            replaced = self.apply(fresh)
            if replaced is not None:
                forward[node] = forward[fresh] = replaced
            else:
                final[node] = final[fresh] = fresh

    def apply(self, root: Node) -> Node | None:
        """The replacement by the first rule that fits, recorded; None if no rule does."""
        for each in self.candidates(root):
            for match in each.matches(root):
                with provenance.deriving(self.name, each.name, parents=match.nodes, primal=root.primal):
                    made = each.build(root, match)
                if made is None or made is root:
                    continue
                known = made in self.final or made in match.nodes
                if root.name and not made.name and not known:
                    made = made.named(root.name)
                self.context.fire(each.name, match.nodes, made)
                self.budget -= 1
                if self.budget < 0:
                    raise self.endless()
                return made
        return None

    def endless(self) -> PassError:
        last = dict.fromkeys(f.rule for f in self.context.firings[-50:])
        return PassError(
            f"pass {self.name} does not come to an end",
            notes=(f"rules that fire over and over: {', '.join(last)}",),
            help="a rule's replacement must be simpler than its pattern by one measure that all rules share",
        )


@dataclass(frozen=True)
class Pipeline:
    """Passes in order.

    >>> from graphc.ops.sources import input
    >>> x = input("x", (2,)); graph = Graph("g", {"y": x})
    >>> Pipeline((Pass("nothing", lambda graph, context: graph),)).run(graph) is graph
    True
    """

    passes: tuple[Pass, ...]

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    def __getitem__(self, index: int) -> Pass:
        return self.passes[index]

    def run(
        self, graph: Graph, *, check: Check = "verify", data: Mapping[str, np.ndarray] | None = None,
        trace: Trace | None = None, observers: Sequence[Observer] = (), given: frozenset[str] = frozenset(),
        target: str = "cpu", options: Mapping[str, Any] | None = None,
    ) -> Graph:  # fmt: skip
        """Run every pass.

        Args:
            check: "verify" the IR after each pass; "every-pass" also interprets the graph on ``data`` (random
                data of the inputs' types if absent) and compares; "off" trusts them.
            trace: where the stages go. observers: called with each stage as well.
            given: properties of ``graph`` that passes may require.

        Raises:
            PassError: a pass broke the IR, changed a value, or requires what no earlier pass ensures. Names the pass.
        """
        if check not in ("off", "verify", "every-pass"):
            raise GraphError(f"check={check!r} is unknown", help="choose 'off', 'verify' or 'every-pass'")
        oracle = _Oracle(graph, data) if check == "every-pass" else None
        if check != "off":
            verify(graph)
        holds, before = set(given), "the graph as it was declared"
        for each in self.passes:
            missing = each.requires - holds
            if missing:
                raise PassError(
                    f"pass {each.name} requires {', '.join(sorted(missing))}, which no earlier pass ensures",
                    help="put the pass that ensures it before",
                )
            graph, stage = _run_one(each, graph, target, options or {}, check, before)
            if oracle is not None:
                oracle.compare(each, graph, before)
            holds |= each.ensures
            before = each.name
            if trace is not None:
                trace.add(stage)
            for observer in observers:
                observer(stage)
        return graph


def _run_one(
    each: Pass, graph: Graph, target: str, options: Mapping[str, Any], check: Check, before: str
) -> tuple[Graph, Stage]:
    context = Context(each.name, target, options)
    size, start = len(graph), time.perf_counter()
    after = each.run(graph, context)
    seconds = time.perf_counter() - start
    if not isinstance(after, Graph):
        raise PassError(f"pass {each.name} returned {type(after).__name__}, not a Graph")
    if check != "off" and after is not graph:
        try:
            verify(after)
        except PassError:
            raise
        except VerifyError as error:
            raise _broke(each, error.message, before, error.notes) from error
    return after, Stage(each.name, after, seconds, size, len(after), context.firings, context.refusals)


def _broke(each: Pass, what: str, before: str, notes: tuple[str, ...] = ()) -> PassError:
    where = (f"was valid after: {before}", f"reproduce: graphc opt <graph.ir> --passes {each.name}")
    return PassError(f"pass {each.name} broke the IR: {what}", notes=(*notes, *where))


# "real" rules may reassociate: values agree, but not bit for bit
_TOLERANCE = {"float32": 1e-4, "float64": 1e-9}


class _Oracle:
    """Interprets a graph once, then each pass's result, and compares outputs and updates."""


    def __init__(self, graph: Graph, data: Mapping[str, np.ndarray] | None) -> None:
        self.data = random_inputs(graph) if data is None else data
        self.previous = graph
        self.expected = self.values(graph)

    def values(self, graph: Graph) -> dict[str, np.ndarray]:
        outputs, updates = run_with_updates(graph, self.data)
        return {**outputs, **{f"update of {state.name}": array for state, array in updates.items()}}

    def compare(self, each: Pass, graph: Graph, before: str) -> None:
        if graph is self.previous:
            return
        found = self.values(graph)
        if found.keys() != self.expected.keys():
            raise _broke(each, f"outputs were {sorted(self.expected)}, are {sorted(found)}", before)
        for name, want in self.expected.items():
            problem = difference(want, found[name], _TOLERANCE.get(want.dtype.name, 0.0))
            if problem:
                message = f"pass {each.name} changed the value of {name}: {problem}"
                raise PassError(message, notes=(f"was right after: {before}",), help=f"graphc opt --passes {each.name}")
        self.previous = graph


def difference(want: np.ndarray, got: np.ndarray, tolerance: float) -> str:
    """What differs between two arrays beyond a relative tolerance ("" if nothing); NaN equals NaN.

    >>> difference(np.float32([1, 2]), np.float32([1, 3]), 1e-3)
    '1 of 2 elements, first at (1,): 2.0 became 3.0'
    """
    if want.shape != got.shape or want.dtype != got.dtype:
        return f"{want.dtype}{list(want.shape)} became {got.dtype}{list(got.shape)}"
    if want.dtype.kind == "f":
        finite = np.abs(want[np.isfinite(want)])
        scale = float(finite.max()) if finite.size else 1.0
        bad = ~np.isclose(got, want, rtol=tolerance, atol=tolerance * max(scale, 1e-6), equal_nan=True)
    else:
        bad = got != want
    if not np.any(bad):
        return ""
    where = tuple(int(i[0]) for i in np.nonzero(np.atleast_1d(bad)))[: want.ndim]
    return f"{int(np.sum(bad))} of {want.size} elements, first at {where}: {want[where]} became {got[where]}"

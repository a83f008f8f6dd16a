"""The record of a compilation: a :class:`Stage` a pass, with every rule that fired and every refusal and its reason.

What enters: passes report to their :class:`Context`. What leaves: a :class:`Trace` for pictures, reports and tests.
Invariant: a stage holds the artifact as it was after its pass; artifacts are immutable, so old stages stay true.

>>> trace = Trace(); trace.add(Stage("parse", "text", 0.001, 3, 2)); trace.stage("parse").nodes_after
2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphc.errors import GraphError
from graphc.ir import Graph, Node
from graphc.text import print_graph


@dataclass(frozen=True)
class Firing:
    """One application of a rule: the nodes it matched (the root first) and the node that replaced the root."""

    rule: str
    before: tuple[Node, ...]
    after: Node


@dataclass(frozen=True)
class Refusal:
    """Something a pass could have done and did not: ``what``, the ``reason``, and the nodes concerned."""

    what: str
    reason: str
    nodes: tuple[Node, ...] = ()


@dataclass
class Stage:
    """What one pass made. ``artifact`` is a Graph, a Fusion, a LoopProgram or the text of a target."""

    name: str
    artifact: Any
    seconds: float
    nodes_before: int
    nodes_after: int
    firings: list[Firing] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def text(self) -> str:
        """The artifact in its text form."""
        if isinstance(self.artifact, Graph):
            return print_graph(self.artifact)
        printer = getattr(self.artifact, "text", None)
        return str(printer() if callable(printer) else self.artifact)

    @property
    def changed(self) -> bool:
        """Whether the pass did anything that can be seen: a firing, or another number of nodes."""
        return bool(self.firings) or self.nodes_before != self.nodes_after

    def rule_counts(self) -> dict[str, int]:
        """Rule -> how often it fired, most frequent first."""
        counts: dict[str, int] = {}
        for firing in self.firings:
            counts[firing.rule] = counts.get(firing.rule, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


Observer = Callable[[Stage], None]


@dataclass
class Trace:
    """The stages of one compilation in order; observers are called with each stage as it is added."""

    stages: list[Stage] = field(default_factory=list)
    observers: list[Observer] = field(default_factory=list)

    def add(self, stage: Stage) -> None:
        """Append a stage and tell the observers."""
        self.stages.append(stage)
        for observer in self.observers:
            observer(stage)

    def stage(self, name: str) -> Stage:
        """The last stage of that name.

        Raises:
            GraphError: there is none; lists those that are.
        """
        for stage in reversed(self.stages):
            if stage.name == name:
                return stage
        known = ", ".join(dict.fromkeys(s.name for s in self.stages)) or "none yet"
        raise GraphError(f"no stage is named {name!r}", help=f"the stages are: {known}")

    @property
    def seconds(self) -> float:
        """Time of all stages together."""
        return sum(s.seconds for s in self.stages)

    def table(self) -> str:
        """Stages as a plain-text table: milliseconds, nodes before and after, rules fired, refusals.

        >>> print(Trace([Stage("cse", "", 0.002, 9, 7)]).table())
        stage      ms  before  after  fired  refused
        cse      2.00       9      7      0        0
        """
        header = ("stage", "ms", "before", "after", "fired", "refused")
        rows = [
            (s.name, f"{s.seconds * 1e3:.2f}", *map(str, (s.nodes_before, s.nodes_after, len(s.firings), len(s.refusals))))
            for s in self.stages
        ]
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        widths[1] = max(widths[1], 6)
        lines = []
        for row in [header, *rows]:
            cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


@dataclass
class Context:
    """What a pass is told and what it reports to. One context a pass run."""

    pass_name: str
    target: str = "cpu"
    options: Mapping[str, Any] = field(default_factory=dict)
    firings: list[Firing] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def fire(self, rule: str, before: tuple[Node, ...], after: Node) -> None:
        """Record that ``rule`` replaced ``before[0]`` (having read all of ``before``) by ``after``."""
        self.firings.append(Firing(rule, tuple(before), after))

    def refuse(self, what: str, reason: str, nodes: tuple[Node, ...] = ()) -> None:
        """Record what was not done, and why."""
        self.refusals.append(Refusal(what, reason, tuple(nodes)))

"""The order in which a picture is told: forward node by node, then backward, with a sentence for each step.

What enters: a diagram. What leaves: a list of :class:`Step`. Invariants: every box and every edge belongs to exactly one step; a box
comes after all boxes that its forward and backward edges start from; sentences are plain words with formulas in Unicode, so that
they can be read aloud.

>>> from graphc import ops
>>> from viz.adapt import diagram_of
>>> a, b = ops.input("a"), ops.input("b")
>>> for step in steps_of(diagram_of(a * b, backward=True, values={"a": 2.0, "b": 3.0})):
...     print(step.side, "|", step.sentence)
forward | The inputs a = 2 and b = 3 are given.
forward | mul: loss = a · b = 6.
forward | The result is loss.
backward | The backward pass starts at loss: l̅o̅s̅s̅ = 1.
backward | Back through mul: ā = l̅o̅s̅s̅ · b = 1 · 3 = 3; b̄ = l̅o̅s̅s̅ · a = 1 · 2 = 2.
backward | The gradient of b is complete: b̄ = 2.
backward | The gradient of a is complete: ā = 3.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from viz.formula import unicode_formula
from viz.model import Box, Diagram, Edge, Line

SOURCES = ("input", "parameter", "constant")


@dataclass(frozen=True)
class Step:
    """What appears together: ids of boxes, indices of edges, and the sentence that says what happens."""

    boxes: tuple[str, ...]
    edges: tuple[int, ...]
    side: Literal["forward", "backward"]
    sentence: str


def steps_of(diagram: Diagram) -> list[Step]:
    """The steps of a diagram: its sources together, then a box at a time."""
    order = _ordered(diagram)
    sources = [b for b in order if b.role in SOURCES and not b.mirror_of]
    rest = [b for b in order if b not in sources]
    groups: list[list[Box]] = [sources] if sources else []
    for box in rest:
        if groups and box.role == "accumulate":
            groups.append([box])
        elif groups and groups[-1][0].role == "accumulate" and groups[-1][0].mirror_of == box.mirror_of:
            groups[-1].append(box)  # a sum and the gradient that it makes
        else:
            groups.append([box])
    when = {box.id: k for k, group in enumerate(groups) for box in group}
    edges: list[list[int]] = [[] for _ in groups]
    for index, edge in enumerate(diagram.edges):
        edges[max(when[edge.tail], when[edge.head])].append(index)
    return [
        Step(
            tuple(b.id for b in group), tuple(edges[k]), "backward" if group[0].mirror_of else "forward",
            _sentence(diagram, group),
        )
        for k, group in enumerate(groups)
    ]  # fmt: skip


def _ordered(diagram: Diagram) -> list[Box]:
    """Boxes after all that flows into them, forward ones first; ties by the diagram's order, reversed on the way back."""
    incoming: dict[str, int] = dict.fromkeys(diagram.boxes, 0)
    readers: dict[str, list[str]] = {}
    for edge in diagram.edges:
        if edge.kind != "correspondence":
            incoming[edge.head] += 1
            readers.setdefault(edge.tail, []).append(edge.head)
    place = {k: i for i, k in enumerate(diagram.boxes)}

    def rank(name: str) -> tuple[int, int, str]:
        primal = diagram.boxes[name].mirror_of
        return (1, -place[primal], name) if primal else (0, place[name], name)

    ready = [rank(k) for k, n in incoming.items() if n == 0]
    heapq.heapify(ready)
    found: list[Box] = []
    while ready:
        name = heapq.heappop(ready)[2]
        found.append(diagram.boxes[name])
        for reader in readers.get(name, ()):
            incoming[reader] -= 1
            if incoming[reader] == 0:
                heapq.heappush(ready, rank(reader))
    stuck = [b for k, b in diagram.boxes.items() if incoming[k] > 0]  # folded layers may read one another in turn
    forward = [b for b in (*found, *stuck) if not b.mirror_of]
    return forward + [b for b in (*found, *stuck) if b.mirror_of]


# --- words ---------------------------------------------------------------------------------------------------------


def plain(line: Line) -> str:
    """A line of a label as plain words."""
    return unicode_formula(line.text) if line.style == "formula" else line.text


def _name(box: Box) -> str:
    """What a box is called in a sentence."""
    return plain(box.lines[0]).removeprefix("∂ ") if box.lines else box.id


def _value(box: Box) -> str:
    """" = 3" where the box shows a number."""
    return next((f" {line.text}" for line in box.lines if line.style == "value"), "")


def _sentence(diagram: Diagram, group: list[Box]) -> str:
    box = group[-1]
    match box.role:
        case "input" | "parameter" | "constant" if not box.mirror_of:
            return _given(group)
        case "output":
            return f"The result is {_name(box)}."
        case "update":
            return f"The variable takes its next value: {_name(box)}"
        case "seed":
            return f"The backward pass starts at {_name(diagram.boxes[box.mirror_of])}: {plain(box.lines[0])}."
        case "gradient" | "parameter_gradient":
            return _complete(diagram, group)
        case "adjoint":
            return _backward(diagram, group)
        case "collapsed" | "kernel":
            return f"{_name(box)}: {', '.join(plain(line) for line in box.lines[1:])}."
    formula = next((plain(line) for line in box.lines if line.style == "formula"), "")
    return f"{_name(box)}: {formula}{_value(box)}." if formula else f"{_name(box)}{_value(box)}."


def _given(group: list[Box]) -> str:
    """The sources by role: "The inputs a and b and the parameter w are given.\""""
    words = []
    for role, one, many in (("input", "the input", "the inputs"), ("parameter", "the parameter", "the parameters")):
        names = [f"{_name(b)}{_value(b)}" for b in group if b.role == role]
        if names:
            words.append(f"{one if len(names) == 1 else many} {listed(names)}")
    if not words:
        return "The constants are given."
    text = " and ".join(words)
    alone = sum(b.role in ("input", "parameter") for b in group) == 1
    return f"{text[0].upper()}{text[1:]} {'is' if alone else 'are'} given."


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names as a list in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    shown = list(names)
    if len(shown) > most:
        return f"{', '.join(shown[:most])} and {len(shown) - most} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _complete(diagram: Diagram, group: list[Box]) -> str:
    box = group[-1]
    primal = _name(diagram.boxes[box.mirror_of])
    added = ""
    if group[0].role == "accumulate":
        parts = [e.label for e in _into(diagram, group[0].id) if e.label]
        added = f" Its contributions are added: {' + '.join(_bracketed(p) for p in parts)}." if parts else (
            " Its contributions are added."
        )  # fmt: skip
    return f"The gradient of {primal} is complete: {plain(box.lines[0])}{_value(box)}.{added}"


def _bracketed(number: str) -> str:
    return f"({number})" if number.startswith("−") else number


def _into(diagram: Diagram, box: str) -> list[Edge]:
    return [e for e in diagram.edges if e.head == box and e.kind == "backward"]


def _backward(diagram: Diagram, group: list[Box]) -> str:
    box = group[-1]
    rules: list[str] = []
    for line in box.lines[1:]:
        if line.style != "formula":
            continue
        text = plain(line)
        if text.startswith("=") and rules:
            rules[-1] += f" {text}"  # the same rule with its numbers
        else:
            rules.append(text)
    said = "; ".join(re.sub(r"\s*\+=\s*", " += ", r) for r in rules)
    return f"Back through {_name(box)}: {said}." if said else f"Back through {_name(box)}."

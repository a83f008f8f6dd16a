"""What is launched: kernels in order, the buffers between them; of a long program its stretches.

What enters: a loop program. What leaves: a :class:`Diagram`. Invariants: up to :data:`viz.collapse.LIMIT` launches and outside buffers
each have a box of their own, in launch order; above that consecutive launches of one layer and one direction share a box, and if that is
not enough, equal stretches of the program do; the work is linear in launches and their buffers. ::

    k0 matmul -> k1 softmax -> ...        or        block_0: 24 launches -> block_1: 24 launches -> ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphc.ir import Node
from graphc.loops.ir import Kernel, LoopProgram
from viz.collapse import BANDS, LIMIT
from viz.fonts import truncate
from viz.model import Box, Diagram, Edge, Line, Role
from viz.view import census, is_backward, scope_of

_MOST = 40  # stretches of a program that is not drawn launch by launch
_FEW = 2
_ROLES: dict[str, Role] = {"input": "input", "parameter": "parameter", "constant": "constant"}


def directions(kernel: Kernel) -> list[str]:
    """For each parameter whether the kernel reads it, writes it, or both: "in", "out", "inout"."""
    read, written = set(), set()
    for stmt, _ in kernel.statements():
        kind = type(stmt).__name__
        if kind == "Load":
            read.add(stmt.buffer)  # type: ignore[union-attr]
        elif kind == "Store":
            written.add(stmt.buffer)  # type: ignore[union-attr]
    return [("in" if b.name in read or b.name not in written else "") + ("out" if b.name in written else "")
            for b in kernel.params]  # fmt: skip


def launches(program: LoopProgram) -> Diagram:
    """Kernels as boxes in launch order, buffers as edges; what comes from outside and what leaves has a box of its own."""
    return _Picture(program).draw()


@dataclass
class _Stretch:
    """Launches that share a box."""

    title: str
    numbers: list[int] = field(default_factory=list)


class _Picture:
    def __init__(self, program: LoopProgram) -> None:
        self.program = program
        self.diagram = Diagram(program.name)
        self.made: dict[str, str] = {}  # buffer -> the box that made its latest value
        self.edges: set[tuple[str, str]] = set()
        self.sources = 0
        ways = {name: directions(kernel) for name, kernel in program.kernels.items()}
        self.flows = [list(zip(launch.buffers, ways[launch.kernel], strict=True)) for launch in program.launches]
        outside = [b for b in program.buffers.values() if b.role in ("input", "parameter", "constant", "output")]
        self.crowded = len(program.launches) + len(outside) > LIMIT

    def draw(self) -> Diagram:
        for stretch in self._stretches():
            self._box(stretch)
        outputs = [slot for slot in self.program.role("output") if slot.name in self.made]
        if self.crowded and len(outputs) > BANDS:
            outputs = []
        for i, slot in enumerate(outputs):
            lines = (Line(truncate(slot.name), "name"), Line(truncate(str(slot.type)), "shape"))
            self.diagram.add(Box(f"o{i}", "output", lines, f"output {slot.name}: {slot.type}"))
            self.diagram.edges.append(Edge(self.made[slot.name], f"o{i}", tooltip=str(slot.type)))
        count = len(self.program.launches)
        self.diagram.summary = f"Program {self.program.name}: {count} launches of {len(self.program.kernels)} kernels."
        return self.diagram

    def _stretches(self) -> Sequence[_Stretch]:
        """Each launch alone; in a crowd runs of one layer and direction, by the greatest depth of scopes that is few enough."""
        if not self.crowded:
            return [_Stretch("", [k]) for k in range(len(self.flows))]
        where = [_where(self._nodes(k)) for k in range(len(self.flows))]
        deepest = max((len(scope) for scope, _ in where), default=0)
        for depth in range(deepest, 0, -1):
            found = _runs([(scope[:depth], backward) for scope, backward in where])
            if len(found) <= _MOST:
                return found
        size = max(1, -(-len(where) // BANDS))
        return [_Stretch("", list(range(k, min(k + size, len(where))))) for k in range(0, len(where), size)]

    def _box(self, stretch: _Stretch) -> None:
        first, last = stretch.numbers[0], stretch.numbers[-1]
        nodes = [n for k in stretch.numbers for n in self._nodes(k)]
        backward = _where(nodes)[1]
        box_id = f"k{first}"
        lines: tuple[Line, ...]
        if first == last:
            kernel = self._kernel(first)
            lines = (Line(truncate(kernel.name), "title"), Line(census(nodes) or "kernel", "note"))
            tip = f"launch {first}: {kernel.name}({', '.join(self.program.launches[first].buffers)})"
            self.diagram.add(Box(box_id, "kernel", lines, tip, backward=backward))
        else:
            updates = any("out" in way and self.program.buffers[b].role == "parameter" for k in stretch.numbers for b, way in self.flows[k])
            title = stretch.title.strip() + (" ←" if updates and stretch.title.strip() else "") or f"launches {first} to {last}"
            tip = f"launches {first} to {last}{f' of {stretch.title}' if stretch.title.strip() else ''}: {census(nodes, 40)}"
            lines = (Line(truncate(title, 36), "title"), Line(f"{len(stretch.numbers)} launches", "note"), Line(census(nodes), "note"))
            self.diagram.add(Box(box_id, "collapsed", lines, tip, backward=backward))
        self._reads(stretch, box_id, backward)
        for k in stretch.numbers:
            self.made.update({buffer: box_id for buffer, way in self.flows[k] if "out" in way})

    def _kernel(self, number: int) -> Kernel:
        return self.program.kernels[self.program.launches[number].kernel]

    def _nodes(self, number: int) -> list[Node]:
        """What a launch computes."""
        nodes = self.program.launches[number].nodes or self._kernel(number).nodes
        return [n for n in nodes if n.op.name != "constant"]

    def _reads(self, stretch: _Stretch, box_id: str, backward: bool) -> None:
        inside: set[str] = set()  # written here, or read already
        fresh: dict[Role, list[str]] = {}  # what comes from outside, by its role
        arrived: list[str] = []
        for k in stretch.numbers:
            for buffer, way in self.flows[k]:
                if "in" in way and buffer not in inside:
                    inside.add(buffer)
                    arrived.append(buffer)
                    if buffer not in self.made:
                        fresh.setdefault(_ROLES.get(self.program.buffers[buffer].role, "buffer"), []).append(buffer)
            inside.update(buffer for buffer, way in self.flows[k] if "out" in way)
        for role, buffers in fresh.items():
            for some in [buffers] if self.crowded else [[b] for b in buffers]:
                box = self._source(role, some)
                self.made.update(dict.fromkeys(some, box))
        for buffer in arrived:
            slot = self.program.buffers[buffer]
            pair = self.made[buffer], box_id
            if pair[0] == box_id or (self.crowded and pair in self.edges):
                continue
            self.edges.add(pair)
            kind = "backward" if self.diagram.boxes[pair[0]].backward and backward else "forward"
            self.diagram.edges.append(Edge(*pair, kind, tooltip=f"{buffer}: {slot.type}"))  # type: ignore[arg-type]

    def _source(self, role: Role, buffers: list[str]) -> str:
        """A box of what comes from outside."""
        slots = [self.program.buffers[b] for b in buffers]
        if len(slots) == 1:
            name = Line(truncate(buffers[0]), "note" if role == "constant" else "name")
            lines: tuple[Line, ...] = (name, Line(truncate(str(slots[0].type)), "shape"))
        else:
            lines = (Line(f"{len(slots)} {role}s", "note" if role == "constant" else "name"), Line(_ends(buffers), "note"))
        tip = "\n".join(f"{slot.role} {slot.name}: {slot.type}" for slot in slots[:20])
        self.sources += 1
        return self.diagram.add(Box(f"b{self.sources - 1}", role, lines, tip)).id


def _ends(names: list[str]) -> str:
    return truncate(f"{names[0]} … {names[-1]}", 30)


def _runs(keys: Sequence[tuple[tuple[str, ...], bool]]) -> list[_Stretch]:
    """Runs of launches with one key; a few launches between two runs of one key belong to them."""
    runs: list[tuple[Any, list[int]]] = []
    for k, key in enumerate(keys):
        if runs and runs[-1][0] == key:
            runs[-1][1].append(k)
        elif len(runs) > 1 and runs[-2][0] == key and len(runs[-1][1]) <= _FEW:
            _, between = runs.pop()
            runs[-1][1].extend([*between, k])
        else:
            runs.append((key, [k]))
    return [_Stretch(f"{'∂ ' if backward else ''}{'/'.join(scope)}", numbers) for (scope, backward), numbers in runs]


def _where(nodes: Sequence[Node]) -> tuple[tuple[str, ...], bool]:
    """The scope that most of a launch's nodes are of, and whether they are for the derivative."""
    scopes = Counter(s for n in nodes for s in _scopes(n))
    common = max(scopes, key=scopes.__getitem__) if scopes else ()
    return common, bool(nodes) and 2 * sum(is_backward(n) for n in nodes) > len(nodes)


def _scopes(node: Node) -> Iterator[tuple[str, ...]]:
    """The scope of a node, or of what it was derived from."""
    for _ in range(8):
        found = scope_of(node)
        if found:
            yield found
            return
        parents = [p for o in node.origins for p in ((o.primal,) if o.primal is not None else o.parents)]
        if not parents:
            return
        node = parents[0]

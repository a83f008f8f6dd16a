"""What a picture is before it has a place: boxes and edges with roles, free of any engine.

What enters: adapters build it from graphs, traces, fusions and loop programs. What leaves: layout gives it geometry.
Invariants: box ids are ``n0, n1, ...`` in the deterministic order of the graph, never memory addresses; every edge joins
boxes of the diagram; a mirrored box names the box that it stands opposite to. ::

    Diagram("loss", boxes={"n0": Box("n0", "input", "x", ...), ...}, edges=[Edge("n0", "n1", "forward")])
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from graphc.errors import DrawError

Role = Literal[
    "input", "parameter", "constant", "op", "output", "update", "collapsed", "kernel", "buffer",
    "adjoint", "gradient", "parameter_gradient", "accumulate", "seed",
]  # fmt: skip
EdgeKind = Literal["forward", "backward", "correspondence", "saved"]
Direction = Literal["LR", "TB"]
BACKWARD_ROLES = frozenset({"adjoint", "gradient", "parameter_gradient", "accumulate", "seed"})


@dataclass(frozen=True)
class Cells:
    """A small heat map: rows of values from -1 to 1, 0 in the middle of the colours."""

    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Line:
    """One line of a label.

    ``style`` is title, name (italic), shape (monospace), code (monospace), note, formula (LaTeX), value (a number),
    stats (a tensor's summary) or cells (a heat map, in ``cells``).
    """

    text: str
    style: Literal["title", "name", "shape", "code", "note", "formula", "value", "stats", "cells"] = "title"
    cells: Cells | None = None


@dataclass
class Box:
    """One thing that is drawn.

    Attributes:
        id: unique in the diagram. role: decides shape and colour. lines: the label.
        tooltip: everything that the label has no room for.
        scope: path of the cluster it stands in.
        mirror_of: id of the forward box it stands opposite to ("" for forward boxes).
        backward: whether it belongs to the derivative (colour and dash).
    """

    id: str
    role: Role
    lines: tuple[Line, ...]
    tooltip: str = ""
    scope: tuple[str, ...] = ()
    mirror_of: str = ""
    backward: bool = False

    @property
    def title(self) -> str:
        """The first line as plain text."""
        return self.lines[0].text if self.lines else self.id


@dataclass(frozen=True)
class Edge:
    """An arrow from ``tail`` to ``head``; ``mirror_of`` is the index of the forward edge whose route it follows back.

    ``label`` stands at its middle; ``weight`` is its width relative to the theme's stroke; ``shade`` from -1 (the gradient vanishes) to 1
    (it explodes) is its colour on the scale of :attr:`Diagram.decades`, where the picture has one.
    """

    tail: str
    head: str
    kind: EdgeKind = "forward"
    label: str = ""
    tooltip: str = ""
    mirror_of: int | None = None
    weight: float = 1.0
    shade: float | None = None


@dataclass
class Diagram:
    """Boxes by id and edges, with a name, a flow direction and a sentence that says what is shown.

    ``decades`` is how many powers of ten a shade of 1 stands for; None: the picture has no such scale.
    """

    name: str
    boxes: dict[str, Box] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    direction: Direction = "TB"
    summary: str = ""
    decades: int | None = None

    def add(self, box: Box) -> Box:
        """Add a box; ids must be new."""
        if box.id in self.boxes:
            raise DrawError(f"two boxes are called {box.id}")
        self.boxes[box.id] = box
        return box

    @property
    def mirrored(self) -> bool:
        """Whether a backward part stands beside the forward one."""
        return any(b.mirror_of for b in self.boxes.values())

    def forward_boxes(self) -> list[Box]:
        """The boxes that layout places; the others follow from them."""
        return [b for b in self.boxes.values() if not b.mirror_of]

"""Landscape: the loss over two directions of the parameters' space.

What enters: a loss, data, and two scalar parameters or the plane of a recorded path. What leaves: a grid of losses. Invariants: the whole
grid is one call of one program, a scan over the points in whose body the parameters are shifted; the variables keep their values.

>>> import graphc.ops as ops
>>> w, b = ops.parameter("w", (), 3.0), ops.parameter("b", (), 1.0)
>>> found = landscape(w * w + b * b, (w, b), x=(-1, 1), y=(0, 2), points=3, target="interpreter")
>>> found.values.tolist()
[[1.0, 0.0, 1.0], [2.0, 1.0, 2.0], [5.0, 4.0, 5.0]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphc import ops, provenance
from graphc.driver import Target, compile
from graphc.errors import GraphError
from graphc.ir import Graph, Node
from graphc.nn.phase import with_phase
from graphc.ops.scan import scan, substitute
from graphc.train.feed import Data
from graphc.train.recorder import Recorder, feed_of


@dataclass(frozen=True)
class Plane:
    """Two directions in the space of some parameters, and the point that they start from.

    Attributes:
        parameters: the nodes. origin: a vector of all their elements. directions: ``[2, elements]``, orthonormal for a path's plane.
        names: of the axes. share: of the path's variance that lies in the plane (1 for two scalars).
    """

    parameters: tuple[Node, ...]
    origin: np.ndarray
    directions: np.ndarray
    names: tuple[str, str]
    share: float = 1.0

    @staticmethod
    def of_path(recorder: Recorder) -> Plane:
        """The plane of the two principal components of a recorded path, through its end.

        Source: Li et al., "Visualizing the loss landscape of neural nets" (2018), section 7.

        Raises:
            GraphError: fewer than 3 records.
        """
        path = recorder.path().astype(np.float64)
        if len(path) < 3 or path.shape[1] < 2:
            raise GraphError(
                f"a path of {len(path)} records of {path.shape[1]} elements spans no plane", source=provenance.capture(),
                help="record more often: Recorder(every=1, parameters=net.parameters())",
            )  # fmt: skip
        moved = path - path[-1]
        _, sizes, directions = np.linalg.svd(moved, full_matrices=False)
        signs = np.where(moved[0] @ directions[:2].T > 0, -1.0, 1.0)  # the path runs to the right and up
        share = float((sizes[:2] ** 2).sum() / max((sizes**2).sum(), 1e-300))
        return Plane(tuple(recorder.watched), path[-1], directions[:2] * signs[:, None], ("direction 1", "direction 2"), share)

    def project(self, path: np.ndarray) -> np.ndarray:
        """Points ``[steps, elements]`` as coordinates ``[steps, 2]`` in the plane (their nearest points in it)."""
        return np.linalg.lstsq(self.directions.T, (np.asarray(path, np.float64) - self.origin).T, rcond=None)[0].T


@dataclass(frozen=True)
class Landscape:
    """Losses ``values[len(y), len(x)]`` over two directions with their ``names``."""

    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    names: tuple[str, str]
    plane: Plane


def landscape(
    loss: Node, over: tuple[Node, Node] | Plane, data: Data | None = None, *, x: tuple[float, float] = (-1.0, 1.0),
    y: tuple[float, float] = (-1.0, 1.0), points: int = 61, target: Target = "cpu",
) -> Landscape:  # fmt: skip
    """The loss on a grid, for :func:`graphc.plots.loss_surface`.

    Args:
        loss: a floating scalar. over: two parameters of one element each, whose values are the coordinates, or a :class:`Plane`.
        data: what the loss reads, as one batch. x: and ``y``, the spans. points: in each direction.

    Raises:
        GraphError: the loss is no scalar, a span is empty, parameters of more elements, or on which the loss does not depend.
        DataError: the data does not fit.
    """
    plane = over if isinstance(over, Plane) else _of_scalars(over)
    if loss.shape != () or not loss.dtype.is_float:
        raise GraphError(f"a landscape is of a floating scalar, the loss is {loss.type}", source=loss.source)
    if points < 2 or not (x[0] < x[1] and y[0] < y[1]):
        raise GraphError(f"a landscape has 2 or more points on spans (low, high), not {points} on {x} and {y}", source=provenance.capture())
    plain = with_phase(loss, training=False)
    variables = {n.attrs["variable"]: n for n in Graph("loss", {"loss": plain}).parameters}
    missing = [p.name for p in plane.parameters if p.attrs["variable"] not in variables]
    if missing:
        reads = ", ".join(v.name for v in variables)
        raise GraphError(f"the loss does not depend on {missing[0]}", source=loss.source, help=f"it reads {reads}")
    xs, ys = np.linspace(*x, points), np.linspace(*y, points)
    corners = np.stack([np.tile(xs, points), np.repeat(ys, points)], axis=1).astype(loss.dtype.numpy)

    pairs = {variables[p.attrs["variable"]]: p for p in plane.parameters}

    def step(carry: Node, at: Node) -> tuple[Node, Node]:
        return carry, substitute([plain], _shifted(plane, pairs, at))[plain]

    where = ops.input("landscape_points", corners.shape, dtype=loss.dtype)
    _, losses = scan(step, ops.constant(np.zeros((), loss.dtype.numpy)), where)
    graph = Graph("landscape", {"losses": losses})
    feed = feed_of(Graph("loss", {"loss": plain}), data)
    values = np.asarray(compile(graph, target=target)(**feed, **{where.name: corners})["losses"])
    return Landscape(xs, ys, values.reshape(points, points), plane.names, plane)


def _of_scalars(pair: Sequence[Node]) -> Plane:
    scalars = [n for n in pair if isinstance(n, Node) and "variable" in n.attrs and n.attrs["variable"].value.size == 1]
    if len(pair) != 2 or len(scalars) != 2 or pair[0] is pair[1]:
        raise GraphError(
            "a landscape is over two parameters of one element each", source=provenance.capture(),
            help="for larger ones take the plane of a recorded path: Plane.of_path(recorder)",
        )  # fmt: skip
    return Plane(tuple(pair), np.zeros(2), np.eye(2), (pair[0].name, pair[1].name))


def _shifted(plane: Plane, nodes: Mapping[Node, Node], at: Node) -> dict[Node, Node]:
    """What stands for each parameter at a point of the plane: origin + a first + b second."""
    starts = np.cumsum([0] + [p.attrs["variable"].value.size for p in plane.parameters])
    span = {p: slice(int(a), int(b)) for p, a, b in zip(plane.parameters, starts, starts[1:], strict=False)}
    found = {}
    for node, parameter in nodes.items():
        shape = parameter.attrs["variable"].value.shape
        vectors = [v[span[parameter]].reshape(shape).astype(node.dtype.numpy) for v in (plane.origin, *plane.directions)]
        start, first, second = (ops.constant(v) for v in vectors)
        a, b = (ops.cast(at[k], node.dtype) for k in (0, 1))
        found[node] = start + a * first + b * second
    return found

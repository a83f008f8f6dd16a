"""Recorder: what a model looked like on its way, for plots.

What enters: parameters, a loss on probe data, a value on probe data; then a training run. What leaves, by the number of updates made:
parameters, norms of their gradients, predictions, losses. Invariants: looking changes nothing (a recorded run equals an unrecorded one bit
for bit); everything kept is a copy; step 0 is the model before the first update.

>>> import graphc.ops as ops
>>> from graphc import losses, optim
>>> from graphc.train import Trainer
>>> x, y = ops.input("x", ("batch",)), ops.input("y", ("batch",))
>>> w = ops.parameter("w", (), 0.0)
>>> recorder = Recorder(every=2, parameters=[w])
>>> history = Trainer(losses.mse(x * w, y), optim.SGD(0.25), target="interpreter").fit(
...     {"x": [1.0, 1.0], "y": [2.0, 2.0]}, epochs=4, callbacks=[recorder], progress=False)
>>> recorder.steps, recorder.path(w).ravel().tolist()
([0, 2, 4], [0.0, 1.5, 1.875])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc import ops, provenance
from graphc.driver import Program, Target, compile
from graphc.errors import DataError, GraphError
from graphc.ir import Graph, Node
from graphc.nn.phase import with_phase
from graphc.train.callbacks import Callback
from graphc.train.feed import Data, as_dataset
from passes.differentiate import grad

if TYPE_CHECKING:
    from graphc.train.trainer import Trainer


class Recorder(Callback):
    """A callback that keeps what plots of a training run need.

    Args:
        every: record before the first update and after each ``every`` updates.
        at: or just after these numbers of updates (0: before the first).
        parameters: whose values are kept.
        gradients: ``(loss, data)``: the norm of the gradient of each of the loss's parameters on this data.
        predictions: ``(value, data)``: what the model gives for this data, e.g. the logits on :func:`graphc.plots.grid`.
        target: where the probes run.

    Attributes:
        parameters, norms, predictions: ``{step: {name: array}}``, ``{step: {name: number}}``, ``{step: array}``.
        losses: ``{step: loss of the latest batch}``, from the first update on.

    Raises:
        GraphError: nothing to record, a number of steps below 1, a value that is no parameter. DataError: probe data does not fit.
    """

    def __init__(
        self, *, every: int = 1, at: Iterable[int] | None = None, parameters: Sequence[Node] = (),
        gradients: tuple[Node, Data] | None = None, predictions: tuple[Node, Data] | None = None, target: Target = "cpu",
    ) -> None:  # fmt: skip
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise GraphError(f"every is a number of updates from 1 on, not {every!r}", source=provenance.capture())
        if not parameters and gradients is None and predictions is None:
            raise GraphError(
                "a recorder of nothing", source=provenance.capture(),
                help="say what to keep: parameters=[w], gradients=(loss, data) or predictions=(logits, data)",
            )  # fmt: skip
        self.every, self.at = every, None if at is None else frozenset(at)
        self.watched = [_parameter(p) for p in parameters]
        self._gradients = _norms(*gradients, target) if gradients is not None else None
        self._predictions = _forward(*predictions, target) if predictions is not None else None
        self.parameters: dict[int, dict[str, np.ndarray]] = {}
        self.norms: dict[int, dict[str, float]] = {}
        self.predictions: dict[int, np.ndarray] = {}
        self.losses: dict[int, float] = {}

    @property
    def steps(self) -> list[int]:
        """The numbers of updates after which something was kept, in order."""
        return sorted({*self.parameters, *self.norms, *self.predictions})

    def wants(self, step: int) -> bool:
        """Whether this step is recorded."""
        return step in self.at if self.at is not None else step % self.every == 0

    def on_start(self, trainer: Trainer) -> None:
        self.take(trainer.steps)

    def on_batch(self, trainer: Trainer, epoch: int, batch: int, values: Mapping[str, float]) -> None:
        self.take(trainer.steps, values["loss"])

    def take(self, step: int, loss: float | None = None) -> None:
        """Record now, if the step is wanted: for loops without a trainer.

        Args:
            step: updates made so far. loss: of the latest batch.
        """
        if not self.wants(step):
            return
        if loss is not None:
            self.losses[step] = float(loss)
        if self.watched:
            self.parameters[step] = {p.name: p.attrs["variable"].value.copy() for p in self.watched}
        if self._gradients is not None:
            program, data = self._gradients
            self.norms[step] = {name: float(value) for name, value in program(**data).items()}
        if self._predictions is not None:
            program, data = self._predictions
            self.predictions[step] = np.array(program(**data))

    def path(self, *parameters: Node) -> np.ndarray:
        """The way of some parameters, all their elements side by side: ``[records, elements]``.

        Args:
            parameters: of those watched; all of them unless given.

        Raises:
            GraphError: nothing was recorded, or a parameter that is not watched.
        """
        names = [p.name for p in (parameters or self.watched)]
        unknown = [n for n in names if n not in {p.name for p in self.watched}]
        if unknown or not self.parameters:
            raise GraphError(
                f"{unknown[0] or 'this value'} was not recorded" if unknown else "no parameters were recorded yet",
                source=provenance.capture(), help="give Recorder(parameters=[...]) to fit() as a callback",
            )  # fmt: skip
        return np.stack([np.concatenate([row[n].ravel() for n in names]) for _, row in sorted(self.parameters.items())])


def _parameter(node: Node) -> Node:
    if not isinstance(node, Node) or "variable" not in node.attrs:
        raise GraphError(
            f"{getattr(node, 'name', '') or type(node).__name__} is no parameter", source=provenance.capture(),
            help="give parameters: net.parameters(), or graphc.parameter(...)",
        )  # fmt: skip
    return node


def trainable(loss: Node) -> list[Node]:
    """The trainable floating parameters that a value depends on, one node a variable."""
    found: dict[Any, Node] = {}
    for node in Graph("loss", {"loss": loss}).parameters:
        if node.attrs["variable"].trainable and node.dtype.is_float:
            found.setdefault(node.attrs["variable"], node)
    return list(found.values())


def feed_of(graph: Graph, data: Data | None) -> dict[str, np.ndarray]:
    """All examples of a data set as one batch for a graph; nothing for a graph without inputs.

    Raises:
        DataError: the graph has inputs and there is no data, or it does not fit.
    """
    inputs = sorted(graph.inputs, key=lambda n: n.uid)
    if not inputs:
        return {}
    if data is None:
        names = ", ".join(n.name for n in inputs)
        raise DataError(f"the loss reads {names}, and there is no data", source=inputs[0].source, help="give data=")
    return dict(as_dataset(data, inputs).arrays)


def _norms(loss: Node, data: Data, target: Target) -> tuple[Program, dict[str, np.ndarray]]:
    plain = with_phase(loss, training=False)
    wanted = trainable(plain)
    if not wanted:
        raise GraphError("the loss has no parameters, so there are no gradients to record", source=loss.source)
    gradients = grad(plain, wanted)
    outputs = {p.name: ops.sqrt(ops.sum(ops.square(g))) for p, g in zip(wanted, gradients, strict=True)}
    graph = Graph("gradient_norms", outputs)
    return compile(graph, target=target), feed_of(graph, data)


def _forward(value: Node, data: Data, target: Target) -> tuple[Program, dict[str, np.ndarray]]:
    plain = with_phase(value, training=False)
    return compile(plain, target=target, name="predictions"), feed_of(Graph("predictions", {"value": plain}), data)

"""Optimizer: what all update rules share - the learning rate, the step counter, state beside each parameter, checks.

What enters: gradients and parameters. What leaves: an :data:`Update`. Invariant: the state of a parameter is a variable
named ``<optimizer>/<slot>/<parameter>`` of the parameter's type, so that checkpoints find it again; every node is built
under the origin ``optimize:<optimizer>`` with the parameter and its gradient as parents.

    %w_next = sub(%w, mul(%rate, %gradient))      # optimize:sgd
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from graphc import ops, provenance
from graphc.errors import GraphError
from graphc.ir import Node
from graphc.ops.sources import parameter_node
from graphc.optim.clip import Clip, apply_clip
from graphc.schedules import AnySchedule, as_schedule
from graphc.types import DType, TensorType, int32
from graphc.variables import Variable, zeros
from passes.differentiate import grad

Update: TypeAlias = dict[Node, Node]


def state_variable(name: str, type: TensorType) -> Node:
    """A node that reads a new, untrained state variable of zeros."""
    return parameter_node(Variable(name, type, zeros, trainable=False))


@dataclass
class Slots:
    """The state that an optimizer keeps beside one parameter, and its next values.

    ``read`` declares a slot (zeros at first), ``write`` says what follows it; ``once`` makes what all parameters share.
    """

    optimizer: str
    parameter: Node
    count: Node
    common: dict[str, Node]
    nodes: dict[str, Node] = field(default_factory=dict)
    next: dict[str, Node] = field(default_factory=dict)

    def read(self, slot: str) -> Node:
        """The slot's present value."""
        if slot not in self.nodes:
            name = f"{self.optimizer}/{slot}/{self.parameter.name}"
            self.nodes[slot] = state_variable(name, self.parameter.type)
        return self.nodes[slot]

    def write(self, slot: str, value: Node) -> Node:
        """Make ``value`` the slot's next value, and return it."""
        self.next[slot] = value
        return value

    def once(self, name: str, make: Callable[[], Node]) -> Node:
        """A scalar of the step alone: the first parameter's rule makes it, the others' get the same node."""
        if name not in self.common:
            with provenance.deriving("optimize", f"{self.optimizer}:step", (self.count,)):
                self.common[name] = make()
        return self.common[name]

    def updates(self) -> Update:
        return {self.nodes[slot]: value for slot, value in self.next.items()}


@dataclass(frozen=True)
class Optimizer(ABC):
    """An update rule with a learning rate.

    Args:
        learning_rate: a number, a :class:`graphc.schedules.Schedule` or a function of the (floating) step node.
        name: first part of the names of its state. Two optimizers in one graph need two names.

    To write one, give :meth:`rule`.
    """

    learning_rate: AnySchedule
    name: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)  # refuses bad numbers
        if not self.name:
            object.__setattr__(self, "name", type(self).__name__.lower())
        self.check()

    def check(self) -> None:
        """Refuse bad hyperparameters (called when the optimizer is made)."""
        return None

    @abstractmethod
    def rule(self, parameter: Node, gradient: Node, rate: Node, count: Node, slots: Slots) -> Node:
        """The parameter's next value.

        Args:
            parameter: and ``gradient``, of one type.
            rate: this step's learning rate, a scalar of the parameter's dtype.
            count: 1 at the first update, 2 at the second; a scalar of the parameter's dtype.
            slots: state beside this parameter.
        """

    def rate(self, step: Node, dtype: DType) -> Node:
        """This step's learning rate as a scalar of ``dtype``; ``step`` counts the updates already made."""
        with provenance.deriving("optimize", f"{self.name}:rate", (step,)):
            return ops.cast(as_schedule(self.learning_rate)(ops.cast(step, dtype)), dtype)

    def updates(
        self, loss: Node, parameters: Sequence[Node], *, step: Node | None = None, clip: Clip | None = None
    ) -> Update:
        """Differentiate the loss and apply the rule.

        Args:
            loss: a floating scalar.
            parameters: distinct nodes of floating variables.
            step: a node that counts the updates made so far; whoever gives it also updates it. Without one, the
            optimizer
                keeps its own, ``<name>/step``.
            clip: bounds the gradients: a number for their global norm, or a function from gradients to gradients.

        Raises:
            GraphError: a value that is no parameter, or one given twice.
            DifferentiationError: the loss is no floating scalar, or has no derivative.
        """
        checked = _check_parameters(parameters)
        return self.apply(apply_clip(grad(loss, checked), clip), checked, step=step)

    def apply(self, gradients: Sequence[Node], parameters: Sequence[Node], *, step: Node | None = None) -> Update:
        """Apply the rule to given gradients, one a parameter (see :meth:`updates`).

        Raises:
            GraphError: a gradient of another type than its parameter, or another number of them.
        """
        checked = _check_parameters(parameters)
        _check_gradients(gradients, checked)
        updates: Update = {}
        count = step if step is not None else state_variable(f"{self.name}/step", TensorType(int32, ()))
        scalars: dict[DType, tuple[Node, Node]] = {}
        common: dict[DType, dict[str, Node]] = {}
        for parameter, gradient in zip(checked, gradients, strict=True):
            dtype = parameter.dtype
            if dtype not in scalars:
                with provenance.deriving("optimize", f"{self.name}:step", (count,)):
                    scalars[dtype] = self.rate(count, dtype), ops.cast(count, dtype) + 1.0
            slots = Slots(self.name, parameter, count, common.setdefault(dtype, {}))
            with provenance.deriving("optimize", self.name, (parameter, gradient)):
                updates[parameter] = self.rule(parameter, gradient, *scalars[dtype], slots)
            updates.update(slots.updates())
        if step is None:
            with provenance.deriving("optimize", f"{self.name}:step", (count,)):
                updates[count] = count + 1
        return updates


def _check_parameters(parameters: Sequence[Node]) -> list[Node]:
    seen: dict[Variable, Node] = {}
    for node in parameters:
        if not isinstance(node, Node) or node.op.name != "parameter":
            raise GraphError(
                f"{node!r} is no parameter and cannot be updated", source=provenance.capture(),
                help="pass net.parameters(), or nodes made by graphc.parameter",
            )  # fmt: skip
        if not node.dtype.is_float:
            raise GraphError(f"{node.name} is {node.type}: only floating parameters are trained", source=node.source)
        if seen.setdefault(node.attrs["variable"], node) is not node or list(parameters).count(node) > 1:
            raise GraphError(f"parameter {node.name} is given twice", source=provenance.capture())
    if not seen:
        raise GraphError(
            "there are no parameters to update", source=provenance.capture(),
            help="declare some with graphc.parameter or a layer of graphc.nn",
        )  # fmt: skip
    return list(parameters)


def _check_gradients(gradients: Sequence[Node], parameters: Sequence[Node]) -> None:
    if len(gradients) != len(parameters):
        raise GraphError(f"{len(gradients)} gradients for {len(parameters)} parameters", source=provenance.capture())
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient.type != parameter.type:
            raise GraphError(
                f"the gradient of {parameter.name} is {gradient.type}, the parameter {parameter.type}",
                source=provenance.capture(),
            )


def require(holds: bool, message: str) -> None:
    """Refuse a bad hyperparameter.

    Raises:
        GraphError: it does not hold.
    """
    if not holds:
        raise GraphError(message, source=provenance.capture())


def check_fraction(name: str, value: float) -> None:
    """A decay rate lies in [0, 1)."""
    require(0 <= value < 1, f"{name} is a number from 0 up to but not including 1, not {value}")


def check_nonnegative(values: Mapping[str, float]) -> None:
    """Numbers from 0 on."""
    for name, value in values.items():
        require(bool(np.isfinite(value)) and value >= 0, f"{name} is a finite number from 0 on, not {value}")

"""Stochastic gradient descent, with momentum.

What enters: a gradient. What leaves: ``w - rate * gradient`` and its kin. Invariant: without momentum there is no
state.

>>> SGD(0.1, momentum=0.9).name
'sgd'
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.ir import Node
from graphc.optim.base import Optimizer, Slots, check_nonnegative, require
from graphc.schedules import AnySchedule


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent: with ``g' = g + weight_decay w``, ``v' = momentum v + g'`` the step is::

        w <- w - rate v'                       (momentum)
        w <- w - rate (g' + momentum v')       (Nesterov)
        w <- w - rate g'                       (neither)

    Sources: Robbins, Monro, "A stochastic approximation method", 1951; Polyak, "Some methods of speeding up the
    convergence of iteration methods", 1964; Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and
    momentum in deep learning", ICML 2013, equations 3 and 4, with the velocity in units of gradients, as
    torch.optim.SGD has it.

    Raises:
        GraphError: a negative hyperparameter, or ``nesterov`` without momentum.

    >>> import graphc.ops as ops
    >>> from graphc.interpreter import evaluate
    >>> w = ops.parameter("w", (), 2.0)
    >>> evaluate(SGD(0.25).updates(w * w, [w])[w], {}).item()
    1.0
    """

    learning_rate: AnySchedule = 1e-2
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def check(self) -> None:
        check_nonnegative({"momentum": self.momentum, "weight_decay": self.weight_decay})
        require(not self.nesterov or self.momentum > 0, "nesterov needs a momentum above 0")

    def rule(self, parameter: Node, gradient: Node, rate: Node, count: Node, slots: Slots) -> Node:
        if self.weight_decay:
            gradient = gradient + self.weight_decay * parameter
        if not self.momentum:
            return parameter - rate * gradient
        velocity = slots.write("velocity", self.momentum * slots.read("velocity") + gradient)
        direction = gradient + self.momentum * velocity if self.nesterov else velocity
        return parameter - rate * direction

"""Adam and AdamW: steps along the mean of gradients, divided by the root of their mean square.

What enters: a gradient and the number of the update. What leaves: the next parameter and moments. Invariant: moments
start at 0 and are divided by what that start has taken from them.

The correction ``1 - beta**t`` loses digits in float32 (at beta 0.999 and t = 1 five of seven); it is computed as
``-expm1(t log beta)``, with the logarithm taken in float64 when the graph is declared.

>>> AdamW(1e-3).weight_decay
0.01
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphc import ops
from graphc.ir import Node
from graphc.optim.base import Optimizer, Slots, check_fraction, check_nonnegative
from graphc.schedules import AnySchedule


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adaptive moments::

        m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g²
        w <- w - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)

    Source: Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.

    Raises:
        GraphError: a beta outside of [0, 1), or a negative epsilon.

    >>> import graphc.ops as ops
    >>> from graphc.interpreter import evaluate
    >>> w = ops.parameter("w", (), 2.0)
    >>> round(evaluate(Adam(0.5).updates(w * w, [w])[w], {}).item(), 6)
    1.5
    """

    learning_rate: AnySchedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def check(self) -> None:
        check_fraction("beta1", self.beta1)
        check_fraction("beta2", self.beta2)
        check_nonnegative({"epsilon": self.epsilon})

    def rule(self, parameter: Node, gradient: Node, rate: Node, count: Node, slots: Slots) -> Node:
        return parameter - self.change(gradient, rate, count, slots)

    def change(self, gradient: Node, rate: Node, count: Node, slots: Slots) -> Node:
        """What Adam takes from the parameter."""
        first = slots.read("first_moment")
        second = slots.read("second_moment")
        mean = slots.write("first_moment", self.beta1 * first + (1.0 - self.beta1) * gradient)
        square = slots.write("second_moment", self.beta2 * second + (1.0 - self.beta2) * (gradient * gradient))
        root = ops.sqrt(square) / slots.once("root", lambda: ops.sqrt(_correction(self.beta2, count)))
        pace = slots.once("pace", lambda: rate / _correction(self.beta1, count))
        return pace * mean / (root + self.epsilon)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with weight decay that is decoupled from the gradient: ``w <- w - rate weight_decay w - Adam's change``.

    Source: Loshchilov, Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2, with the decay
    multiplied by the learning rate (as torch.optim.AdamW has it).

    Raises:
        GraphError: a beta outside of [0, 1), or a negative epsilon or weight decay.
    """

    weight_decay: float = 1e-2

    def check(self) -> None:
        Adam.check(self)
        check_nonnegative({"weight_decay": self.weight_decay})

    def rule(self, parameter: Node, gradient: Node, rate: Node, count: Node, slots: Slots) -> Node:
        decayed = parameter - slots.once("decay", lambda: rate * self.weight_decay) * parameter
        return decayed - self.change(gradient, rate, count, slots)


def _correction(beta: float, count: Node) -> Node:
    """``1 - beta ** count``, accurate in the count's dtype (see the module's docstring)."""
    if beta == 0.0:
        return ops.ones_like(count)
    return -ops.expm1(count * math.log(beta))

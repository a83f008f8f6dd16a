"""Rules that divide by a running size of the gradient: Adagrad, Adadelta, RMSProp.

What enters: a gradient. What leaves: the parameter's next value and the next averages. Invariant: all averages start at
0, and what stands under a root is never negative.

>>> RMSProp(1e-3, centered=True).name
'rmsprop'
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc import ops
from graphc.ir import Node
from graphc.optim.base import Optimizer, Slots, check_fraction, check_nonnegative
from graphc.schedules import AnySchedule


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """``G <- G + g²``, ``w <- w - rate g / (sqrt(G) + epsilon)``.

    Source: Duchi, Hazan, Singer, "Adaptive subgradient methods for online learning and stochastic optimization", JMLR
    2011, the diagonal form of section 1.1, with epsilon outside of the root.

    Raises:
        GraphError: a negative hyperparameter.
    """

    learning_rate: AnySchedule = 1e-2
    epsilon: float = 1e-10

    def check(self) -> None:
        check_nonnegative({"epsilon": self.epsilon})

    def rule(self, parameter: Node, gradient: Node, rate: Node, count: Node, slots: Slots) -> Node:
        total = slots.write("sum_of_squares", slots.read("sum_of_squares") + gradient * gradient)
        return parameter - rate * gradient / (ops.sqrt(total) + self.epsilon)


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """With the running mean ``E[x] <- rho E[x] + (1 - rho) x``::

        E[g²] from g,   d = sqrt(E[d²] + epsilon) / sqrt(E[g²] + epsilon) g,   E[d²] from d,   w <- w - rate d

    Source: Zeiler, "ADADELTA: an adaptive learning rate method", 2012, algorithm 1 (its rate is 1).

    Raises:
        GraphError: ``rho`` outside of [0, 1), or a negative epsilon.
    """

    learning_rate: AnySchedule = 1.0
    rho: float = 0.9
    epsilon: float = 1e-6

    def check(self) -> None:
        check_fraction("rho", self.rho)
        check_nonnegative({"epsilon": self.epsilon})

    def rule(self, parameter: Node, gradient: Node, rate: Node, count: Node, slots: Slots) -> Node:
        squares = slots.write("mean_square", _mean(slots.read("mean_square"), gradient * gradient, self.rho))
        before = slots.read("mean_square_change")
        change = ops.sqrt(before + self.epsilon) / ops.sqrt(squares + self.epsilon) * gradient
        slots.write("mean_square_change", _mean(before, change * change, self.rho))
        return parameter - rate * change


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """``v <- rho v + (1 - rho) g²``, ``d = g / (sqrt(v) + epsilon)``, ``w <- w - rate d``.

    Centred, ``v - m²`` stands under the root, with ``m <- rho m + (1 - rho) g``. With momentum, ``b <- momentum b + d``
    takes the place of d.

    Sources: Tieleman, Hinton, "Lecture 6.5: rmsprop", Coursera 2012; centred: Graves, "Generating sequences with
    recurrent neural networks", 2013, equations 38 to 41 (epsilon outside of the root, as torch.optim.RMSprop has it).

    Raises:
        GraphError: ``rho`` outside of [0, 1), or a negative epsilon or momentum.
    """

    learning_rate: AnySchedule = 1e-2
    rho: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0
    centered: bool = False

    def check(self) -> None:
        check_fraction("rho", self.rho)
        check_nonnegative({"epsilon": self.epsilon, "momentum": self.momentum})

    def rule(self, parameter: Node, gradient: Node, rate: Node, count: Node, slots: Slots) -> Node:
        size = slots.write("mean_square", _mean(slots.read("mean_square"), gradient * gradient, self.rho))
        if self.centered:
            mean = slots.write("mean", _mean(slots.read("mean"), gradient, self.rho))
            size = ops.maximum(size - mean * mean, 0.0)  # a variance; rounding may bring it below 0
        change = gradient / (ops.sqrt(size) + self.epsilon)
        if self.momentum:
            change = slots.write("velocity", self.momentum * slots.read("velocity") + change)
        return parameter - rate * change


def _mean(old: Node, new: Node, keep: float) -> Node:
    return keep * old + (1.0 - keep) * new

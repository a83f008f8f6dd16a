"""Optimizers as symbolic update rules: gradients in, the next values of parameters and of the optimizer's state out.

What enters: a loss (or gradients) and parameters. What leaves: ``{parameter node: node of its next value}``, which also
holds the optimizer's own state (moments, a step counter), for ``graphc.compile(..., updates=...)``. Invariant: nothing
is changed here; forward, backward and update compile into one program, and everything it depends on is a variable that
a checkpoint keeps.

>>> import graphc.ops as ops
>>> w = ops.parameter("w", (2,), 1.0)
>>> new = SGD(0.1).updates(ops.sum(w * w), [w])
>>> [node.name for node in new]
['w', 'sgd/step']
"""

from __future__ import annotations

from graphc.optim.adam import Adam, AdamW
from graphc.optim.adaptive import Adadelta, Adagrad, RMSProp
from graphc.optim.base import Optimizer, Update
from graphc.optim.clip import Clip, clip_by_global_norm, clip_by_value, global_norm
from graphc.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Clip",
    "Optimizer",
    "RMSProp",
    "Update",
    "clip_by_global_norm",
    "clip_by_value",
    "global_norm",
]

"""Training: a loss, an optimizer and data in; a trained model, a history and checkpoints out.

>>> import graphc.ops as ops
>>> from graphc import losses, nn, optim
>>> from graphc.data import xor
>>> point, label = ops.input("point", ("batch", 2)), ops.input("label", ("batch",), dtype="int32")
>>> logits = nn.Sequential(nn.Dense(8, activation="tanh"), nn.Dense(2), name="net")(point)
>>> trainer = Trainer(losses.cross_entropy(logits, label), optim.Adam(0.05), target="interpreter")
>>> history = trainer.fit(xor(200), epochs=2, progress=False)
>>> history["loss"][1] < history["loss"][0]
True
"""

from __future__ import annotations

from graphc.train.callbacks import Callback, EarlyStopping
from graphc.train.history import History
from graphc.train.plane import Landscape, Plane, landscape
from graphc.train.recorder import Recorder
from graphc.train.recurrence import through_time
from graphc.train.trainer import Trainer

__all__ = [
    "Callback", "EarlyStopping", "History", "Landscape", "Plane", "Recorder", "Trainer", "landscape", "through_time",
]  # fmt: skip

"""What can look on and step in while a model trains: callbacks, early stopping.

What enters: the rows of epochs. What leaves: a wish to stop. Invariant: early stopping's memory is plain data that a
checkpoint keeps, so that a resumed run stops where the unbroken run would have stopped.

>>> stopping = EarlyStopping("val_accuracy", patience=3)
>>> stopping.larger_is_better
True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from graphc.errors import GraphError

if TYPE_CHECKING:
    from graphc.train.trainer import Trainer


class Callback:
    """Base of callbacks; the methods do nothing until overridden. A plain function is called like ``on_epoch``."""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first update of a call of ``fit``."""
        return None

    def on_batch(self, trainer: Trainer, epoch: int, batch: int, values: Mapping[str, float]) -> None:
        """After each update: epoch (from 1), batch (from 1), the batch's loss and metrics."""
        return None

    def on_epoch(self, trainer: Trainer, row: Mapping[str, float]) -> None:
        """After each epoch, with its row of the history. ``trainer.stop()`` ends the training."""
        return None


AnyCallback: TypeAlias = "Callback | Callable[[Trainer, Mapping[str, float]], Any]"


class FunctionCallback(Callback):
    """A function as a callback."""

    def __init__(self, function: Callable[[Trainer, Mapping[str, float]], Any]) -> None:
        self.function = function

    def on_epoch(self, trainer: Trainer, row: Mapping[str, float]) -> None:
        self.function(trainer, row)


def as_callback(callback: AnyCallback) -> Callback:
    """A callback from a callback or a function of (trainer, row)."""
    return callback if isinstance(callback, Callback) else FunctionCallback(callback)


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when a number has not improved by more than ``min_delta`` for ``patience`` epochs.

    Args:
        monitor: a column of the history: "val_loss", "loss", "val_accuracy", ...
        patience: epochs without improvement before the run stops, at least 1.
        min_delta: what counts as an improvement.
        mode: whether smaller ("min") or larger ("max") is better; "auto" takes "max" for accuracies.
        restore_best: put the variables of the best epoch back when the run ends.

    Source: Prechelt, "Early stopping - but when?", in Neural Networks: Tricks of the Trade, 1998.

    Raises:
        GraphError: a patience below 1, a negative ``min_delta`` or an unknown mode.
    """

    monitor: str = "val_loss"
    patience: int = 5
    min_delta: float = 0.0
    mode: Literal["auto", "min", "max"] = "auto"
    restore_best: bool = True

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise GraphError(f"patience is at least 1 epoch, not {self.patience}")
        if not self.min_delta >= 0:
            raise GraphError(f"min_delta is a number from 0 on, not {self.min_delta}")
        if self.mode not in ("auto", "min", "max"):
            raise GraphError(f"unknown mode {self.mode!r}", help='choose "auto", "min" or "max"')

    @property
    def larger_is_better(self) -> bool:
        return self.mode == "max" or (self.mode == "auto" and "accuracy" in self.monitor)


@dataclass
class Watch:
    """Early stopping's memory: the best value, its epoch, and how many epochs have passed without improvement."""

    best: float | None = None
    epoch: int = 0
    waited: int = 0

    def see(self, rule: EarlyStopping, row: Mapping[str, float]) -> bool:
        """Take in an epoch's row; says whether it is the best so far. NaN is never an improvement.

        Raises:
            GraphError: the row does not have the number to be watched.
        """
        if rule.monitor not in row:
            has = ", ".join(name for name in row if name != "epoch")
            hint = "; give validation data to have val_ values" if rule.monitor.startswith("val_") else ""
            raise GraphError(
                f"early stopping watches {rule.monitor!r}, which is not measured", help=f"there are {has}{hint}"
            )
        value = row[rule.monitor]
        gain = math.inf if self.best is None else (value - self.best) * (1 if rule.larger_is_better else -1)
        if math.isnan(value) or not gain > rule.min_delta:
            self.waited += 1
            return False
        self.best, self.epoch, self.waited = value, int(row["epoch"]), 0
        return True

"""Run: where a training run stands, as plain data.

What enters: the values of each batch. What leaves: means, and a JSON-able state. Invariant: the state restored equals
the state saved (floats print and parse exactly), also in the middle of an epoch.

>>> run = Run(examples=10, batch_size=4, shuffle=True, drop_last=False, seed=0)
>>> run.record({"loss": 1.0}, 4); run.record({"loss": 2.0}, 2); round(run.means()["loss"], 4)
1.3333
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from graphc.errors import CheckpointError
from graphc.train.callbacks import Watch
from graphc.train.history import History

_SETTINGS = ("examples", "batch_size", "shuffle", "drop_last", "seed")


@dataclass
class Run:
    """A run's settings and position.

    Attributes:
        epoch: complete epochs. batch: complete batches of the epoch under way.
        totals: sums of the values times batch sizes in the epoch under way. seen: its examples.
        best: variables of the best epoch. stopped: whether something has ended the run early.
    """

    examples: int
    batch_size: int
    shuffle: bool
    drop_last: bool
    seed: int
    epoch: int = 0
    batch: int = 0
    seen: int = 0
    stopped: bool = False
    totals: dict[str, float] = field(default_factory=dict)
    watch: Watch = field(default_factory=Watch)
    history: History = field(default_factory=History)
    best: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return self.examples // self.batch_size if self.drop_last else -(-self.examples // self.batch_size)

    def record(self, values: Mapping[str, float], size: int) -> None:
        """Count a batch."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + value * size
        self.seen += size
        self.batch += 1

    def means(self) -> dict[str, float]:
        """Means over the examples of the epoch under way."""
        return {name: total / self.seen for name, total in self.totals.items()}

    def next_epoch(self, row: Mapping[str, float], seconds: float) -> None:
        """Close the epoch."""
        self.history.append(row, seconds)
        self.epoch += 1
        self.batch = self.seen = 0
        self.totals = {}

    def to_state(self) -> dict[str, Any]:
        """Everything but the variables, as JSON has it."""
        return {
            **{name: getattr(self, name) for name in (*_SETTINGS, "epoch", "batch", "seen", "stopped", "totals")},
            "watch": asdict(self.watch),
            "history": self.history.epochs,
            "seconds": self.history.seconds,
        }

    def check_compatible(self, state: Mapping[str, Any], path: str) -> None:
        """Refuse a state whose next batches would not be this run's.

        Raises:
            CheckpointError: a setting differs.
        """
        notes = tuple(
            f"{name}: {state.get(name)} in the checkpoint, {getattr(self, name)} now"
            for name in _SETTINGS
            if state.get(name) != getattr(self, name)
        )
        if notes:
            raise CheckpointError(
                f"{path} is of another run: it could not be continued bit for bit", notes=notes,
                help="use the same settings, or load only the weights with graphc.checkpoint.load_weights",
            )  # fmt: skip

    def from_state(self, state: Mapping[str, Any], best: dict[str, np.ndarray]) -> None:
        """Stand where the state says."""
        for name in ("epoch", "batch", "seen", "stopped"):
            setattr(self, name, state[name])
        self.totals = dict(state["totals"])
        self.watch = Watch(**state["watch"])
        self.history.epochs = [dict(row) for row in state["history"]]
        self.history.seconds = list(state["seconds"])
        self.best = best

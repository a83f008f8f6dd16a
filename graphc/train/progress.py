"""What a run shows while it runs: a progress bar on a terminal, lines in the log elsewhere.

What enters: batches and epochs. What leaves: a bar an epoch. Invariant: the bar is touched at most 20 times a second,
so that showing a run does not slow it down.

>>> with Reporter(10, 1, False, logging.getLogger("graphc.train")) as report:
...     report.batch(0, 1, 0.5)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import monotonic
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_INTERVAL = 0.05


class Reporter:
    """Shows a run of ``epochs`` epochs of ``batches`` batches; a context manager."""

    def __init__(self, batches: int, epochs: int, wanted: bool, logger: logging.Logger) -> None:
        self.batches, self.epochs, self.logger = batches, epochs, logger
        console = Console()
        self._bar: Progress | None = None
        if wanted and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("{task.fields[shown]}"), console=console,
            )  # fmt: skip
        self._task: TaskID | None = None
        self._last = 0.0

    def __enter__(self) -> Reporter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def batch(self, epoch: int, done: int, loss: float) -> None:
        """A batch of epoch ``epoch`` (from 0) is done; ``done`` of them now."""
        now = monotonic()
        if self._bar is None or (now - self._last < _INTERVAL and done > 1):
            return
        self._last = now
        if self._task is None:
            label = f"epoch {epoch + 1}/{self.epochs}"
            self._task = self._bar.add_task(label, total=self.batches, shown="")
        self._bar.update(self._task, completed=done, shown=f"loss {loss:.4f}")

    def epoch(self, row: Mapping[str, float], seconds: float) -> None:
        """An epoch is complete."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in row.items() if name != "epoch")
        self.logger.info("epoch %d/%d  %s  (%.2f s)", row["epoch"], self.epochs, shown, seconds)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.batches, shown=shown)
            self._bar.stop_task(self._task)
        self._task = None

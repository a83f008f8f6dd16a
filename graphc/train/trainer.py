"""Trainer: forward, backward and update as one compiled program, called once a batch.

What enters: a loss, an optimizer, metrics, data. What leaves: trained variables (in place), a History, checkpoints.
Invariants: a run is a function of the initial variables, the data, the seed and the arguments of ``fit``; its whole
state is the variables and a few numbers, so a run continued from a checkpoint equals the unbroken one bit for bit; an
interrupt is taken between two steps, never within one.

A last batch that is smaller than the others makes the program specialise once more; ``drop_last=True`` leaves it out.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, Literal

import numpy as np

from graphc import checkpoint as files
from graphc import provenance
from graphc.data.dataset import Dataset
from graphc.driver import Program, Target, compile
from graphc.errors import CheckpointError, DataError, GraphError
from graphc.ir import Graph, Node
from graphc.nn.phase import with_phase
from graphc.optim.base import Optimizer, state_variable
from graphc.optim.clip import Clip
from graphc.train.callbacks import AnyCallback, Callback, EarlyStopping, as_callback
from graphc.train.feed import Data, as_dataset
from graphc.train.history import VALIDATION, History
from graphc.train.interrupt import deferred_interrupt
from graphc.train.progress import Reporter
from graphc.train.run import Run
from graphc.types import TensorType, int32
from graphc.variables import Variable

logger = logging.getLogger("graphc.train")
_STEP = "trainer/step"


class Trainer:
    """Trains the parameters that a loss depends on.

    Args:
        loss: a floating scalar, a mean over the batch's examples (so that means weighted by batch sizes are right).
        optimizer: of :mod:`graphc.optim`.
        metrics: further scalars by name, means as well.
        parameters: what to train; by default every trainable parameter of the loss.
        target: "cpu", "cuda" or "interpreter".
        seed: of the order of the examples.
        clip: bounds the gradients: a number for their global norm, or a function from gradients to gradients.
        prediction: the value that :meth:`predict` computes unless told otherwise.
        threads: of the cpu target.

    Attributes:
        history: of the latest run. program: the compiled step.

    Raises:
        GraphError: a metric named "loss" or "epoch", no parameters, or two of one name.
        DifferentiationError: the loss is no floating scalar, or has no derivative.
    """

    def __init__(
        self,
        loss: Node,
        optimizer: Optimizer,
        *,
        metrics: Mapping[str, Node] | None = None,
        parameters: Sequence[Node] | None = None,
        target: Target = "cpu",
        seed: int = 0,
        clip: Clip | None = None,
        prediction: Node | None = None,
        threads: int | None = None,
    ) -> None:
        measured = dict(metrics or {})
        for name in ("loss", "epoch"):
            if name in measured:
                raise GraphError(f"a metric cannot be named {name!r}", source=provenance.capture())
        declared = {"loss": loss, **measured}
        graph = Graph("model", declared)
        self.seed = seed
        self.target: Target = target
        self.threads = threads
        self.prediction = prediction
        self.history = History()
        self.inputs = sorted(graph.inputs, key=lambda n: n.uid)
        self.model = list(dict.fromkeys(n.attrs["variable"] for n in graph.parameters))
        trained = list(parameters) if parameters is not None else _trainable(graph)
        self._stopped = False
        self.program, self.state = self._compile_step(declared, optimizer, trained, clip)
        self._evaluation = compile(
            with_phase(declared, training=False), target=target, threads=threads, name="evaluate"
        )
        self._predictors: dict[Node, Program] = {}

    def _compile_step(
        self, declared: dict[str, Node], optimizer: Optimizer, trained: list[Node], clip: Clip | None
    ) -> tuple[Program, list[Variable]]:
        step = state_variable(_STEP, TensorType(int32, ()))
        self._step: Variable = step.attrs["variable"]
        outputs = with_phase(declared, training=True, step=step)
        updates = optimizer.updates(outputs["loss"], trained, step=step, clip=clip)
        with provenance.deriving("optimize", "step", (step,)):
            updates[step] = step + 1
        graph = Graph("train_step", outputs, updates)
        state = list(dict.fromkeys([*self.model, *(n.attrs["variable"] for n in graph.parameters)]))
        return compile(graph, target=self.target, threads=self.threads), state

    @property
    def steps(self) -> int:
        """Updates made so far."""
        return int(self._step.value)

    def stop(self) -> None:
        """End the run after this epoch (for callbacks)."""
        self._stopped = True

    # --- training --------------------------------------------------------------------------------------------------

    def fit(
        self,
        data: Data,
        validation: Data | None = None,
        *,
        epochs: int = 1,
        batch_size: int = 128,
        shuffle: bool = True,
        drop_last: bool = False,
        callbacks: Sequence[AnyCallback] = (),
        early_stopping: EarlyStopping | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool | Literal["auto"] = False,
        progress: bool = True,
    ) -> History:
        """Train until the run has ``epochs`` epochs.

        Args:
            data: a Dataset, arrays by input name, or a tuple of arrays in the order of the inputs' declarations.
            validation: measured after every epoch, as "val_loss" and so on.
            epochs: length of the run, counted from its start (also when it is resumed).
            batch_size: examples in a batch; the last batch of an epoch may be smaller.
            shuffle: a new order every epoch, a function of the trainer's seed and the epoch.
            drop_last: leave out a last batch that is not full.
            callbacks: see :class:`graphc.train.Callback`.
            early_stopping: see :class:`graphc.train.EarlyStopping`.
            checkpoint: file to keep the run in, written after every epoch and on Ctrl-C.
            resume: continue the run kept in ``checkpoint``, bit for bit; "auto" starts anew where there is no file.
            Without
                it a new run begins, from the variables as they are.
            progress: a progress bar where there is a terminal; elsewhere lines to the log "graphc.train".

        Returns:
            The history, also in :attr:`history`.

        Raises:
            DataError: the data does not fit the model. CheckpointError: the checkpoint is missing, damaged or of
            another model or run. KeyboardInterrupt: after Ctrl-C, with a note that says how to go on.
        """
        train = as_dataset(data, self.inputs)
        valid = as_dataset(validation, self.inputs) if validation is not None else None
        if epochs < 0 or (drop_last and train.batch_count(batch_size, drop_last=True) == 0):
            raise DataError(f"{epochs} epochs of {len(train)} examples in batches of {batch_size} cannot be trained")
        run = Run(len(train), batch_size, shuffle, drop_last, self.seed)
        self._start(run, checkpoint, resume)
        self.history = run.history
        listeners = [as_callback(c) for c in callbacks]
        for listener in listeners:
            listener.on_start(self)
        with Reporter(run.batches, epochs, progress, logger) as report, deferred_interrupt() as interrupt:
            try:
                while run.epoch < epochs and not run.stopped:
                    row, seconds = self._epoch(run, train, valid, listeners, report, interrupt.check)
                    self._finish(run, row, seconds, early_stopping, listeners, checkpoint)
                    report.epoch(row, seconds)
                    interrupt.check()
            except KeyboardInterrupt as error:
                self._interrupted(error, run, checkpoint)
                raise
        if early_stopping is not None and early_stopping.restore_best and run.best:
            files.restore("the best epoch", run.best, self.model)
        return run.history

    def _epoch(
        self, run: Run, train: Dataset, valid: Dataset | None, listeners: list[Callback], report: Reporter, check: Any
    ) -> tuple[dict[str, float], float]:
        start = perf_counter()
        epoch = run.epoch
        seed = run.seed if run.shuffle else None
        for batch in train.batches(run.batch_size, seed, epoch, run.drop_last, start=run.batch):
            size = len(next(iter(batch.values())))
            values = {name: float(value) for name, value in self.program(**batch).items()}
            run.record(values, size)
            report.batch(epoch, run.batch, values["loss"])
            for listener in listeners:
                listener.on_batch(self, epoch + 1, run.batch, values)
            check()
        row: dict[str, float] = {"epoch": epoch + 1, **run.means()}
        if valid is not None:
            measured = self._measure(self._evaluation, valid, run.batch_size)
            row |= {VALIDATION + name: value for name, value in measured.items()}
        if not math.isfinite(row["loss"]):
            logger.warning(
                "the loss of epoch %d is %s: lower the learning rate or clip the gradients", epoch + 1, row["loss"]
            )
        return row, perf_counter() - start

    def _finish(
        self, run: Run, row: dict[str, float], seconds: float, rule: EarlyStopping | None, listeners: list[Callback],
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:  # fmt: skip
        """Close an epoch: the row, early stopping, callbacks, the checkpoint; only then the next epoch begins."""
        best = rule is not None and run.watch.see(rule, row)
        if best and rule is not None and rule.restore_best:
            run.best = {v.name: v.value.copy() for v in self.model}
        run.next_epoch(row, seconds)
        if rule is not None and run.watch.waited >= rule.patience:
            run.stopped = True
        self._stopped = False
        for listener in listeners:  # an interrupt in here finds the epoch complete
            listener.on_epoch(self, row)
        run.stopped = run.stopped or self._stopped
        if checkpoint is not None:
            self._save(run, checkpoint)

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def _save(self, run: Run, path: str | os.PathLike[str]) -> None:
        state = {**run.to_state(), "model": [v.name for v in self.model]}
        values = {v.name: v.value for v in self.state}
        files.write(path, files.Checkpoint("training", values, run.best, state))

    def _start(self, run: Run, path: str | os.PathLike[str] | None, resume: bool | str) -> None:
        if not resume:
            return
        if path is None:
            raise CheckpointError("resume needs to know the checkpoint", help="fit(..., checkpoint=path, resume=True)")
        if resume == "auto" and not os.path.exists(path):
            return
        found = files.read(path)
        if found.kind != "training":
            raise CheckpointError(
                f"{path} holds weights only, no training run", help="load it with graphc.checkpoint.load_weights"
            )
        run.check_compatible(found.state, str(path))
        files.restore(path, found.variables, self.state)
        run.from_state(found.state, dict(found.best))

    def _interrupted(self, error: KeyboardInterrupt, run: Run, path: str | os.PathLike[str] | None) -> None:
        place = f"epoch {run.epoch + 1}, batch {run.batch} of {run.batches}"
        where = f"training stopped after {int(self._step.value)} steps, in {place}"
        if path is None:
            note = f"{where}; nothing was saved: give fit(..., checkpoint=path) to be able to go on"
        else:
            self._save(run, path)
            note = f"{where}; saved to {path}. Go on with fit(..., checkpoint={os.fspath(path)!r}, resume=True)"
        logger.warning(note)
        error.add_note(note)

    # --- using -----------------------------------------------------------------------------------------------------

    def evaluate(self, data: Data, *, batch_size: int = 256) -> dict[str, float]:
        """Loss and metrics on data, as means over its examples, in inference (no dropout).

        Raises:
            DataError: the data does not fit the model.
        """
        return self._measure(self._evaluation, as_dataset(data, self.inputs), batch_size)

    def predict(self, data: Data, output: Node | None = None, *, batch_size: int = 256) -> np.ndarray:
        """A value for every example, in inference.

        Args:
            data: only the inputs that the value depends on are read.
            output: the value, ``[batch, ...]``; by default the trainer's ``prediction``.

        Raises:
            GraphError: no value is known. DataError: the data does not fit, or the value has no batch axis.
        """
        node = output if output is not None else self.prediction
        if node is None:
            raise GraphError(
                "predict what?", help="give trainer.predict(data, logits), or Trainer(..., prediction=logits)"
            )
        if node not in self._predictors:
            plain = with_phase(node, training=False)
            self._predictors[node] = compile(plain, target=self.target, threads=self.threads, name="predict")
        program = self._predictors[node]
        inputs = sorted(program.graph.inputs, key=lambda n: n.uid)
        parts = []
        for batch in as_dataset(data, inputs).batches(batch_size):
            part = np.asarray(program(**batch))
            if part.ndim == 0 or len(part) != len(next(iter(batch.values()))):
                raise DataError(f"{node.name or 'the value'} is {node.type}: it has no batch axis", source=node.source)
            parts.append(part)
        return np.concatenate(parts)

    @staticmethod
    def _measure(program: Program, data: Dataset, batch_size: int) -> dict[str, float]:
        totals: dict[str, float] = {}
        for batch in data.batches(batch_size):
            size = len(next(iter(batch.values())))
            for name, value in program(**batch).items():
                totals[name] = totals.get(name, 0.0) + float(value) * size
        return {name: total / len(data) for name, total in totals.items()}


def _trainable(graph: Graph) -> list[Node]:
    found: dict[Variable, Node] = {}
    for node in graph.parameters:
        state = node.attrs["variable"]
        if state.trainable and node.dtype.is_float:
            found.setdefault(state, node)
    return list(found.values())

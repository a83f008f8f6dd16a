"""``graphc demo``: declare, differentiate, compile, train on real digits, time, and report.

What enters: a folder. What leaves: a trained classifier's accuracy on the terminal and a report in the folder. The step
that is timed is the training step without its dropout, so that NumPy by hand does the same work.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import graphc
from graphc import metrics, nn, optim, schedules
from graphc.cli.report import write_report
from graphc.data import Dataset, load_digits
from graphc.driver import Program, default_threads
from graphc.errors import GraphcError
from graphc.ir import Node

BATCH = 128  # of the timed step
TRAINING_BATCH = 64
RATE = 3e-3
AGREEMENT = 1e-4


class Model:
    """The 784-128-10 classifier, its loss and its accuracy, declared once."""

    def __init__(self, seed: int) -> None:
        self.image = graphc.input("image", ("batch", 784))
        self.label = graphc.input("label", ("batch",), dtype="int32")
        with graphc.seed(seed):
            self.net = nn.Sequential(
                nn.Dropout(0.2), nn.Dense(128, activation="relu"), nn.Dropout(0.3), nn.Dense(10), name="classifier"
            )
            self.logits = self.net(self.image)
        self.loss = graphc.losses.cross_entropy(self.logits, self.label)
        self.accuracy = metrics.accuracy(self.logits, self.label)
        self.parameters: list[Node] = list(self.net.parameters())


def run_demo(out: Console, folder: Path, *, epochs: int, seed: int, threads: int | None) -> float:
    """The whole demo; returns the validation accuracy in percent.

    Raises:
        GraphcError: interpreter and JIT disagree, or the report cannot be written.
    """
    started = perf_counter()
    used = threads or default_threads()
    train, valid = load_digits(validation=1000, seed=seed)
    out.print(f"[bold]data[/]      {len(train)} training and {len(valid)} validation digits, 28 x 28 pixels each")
    model = Model(seed)
    count = sum(int(np.prod(p.type.static_shape)) for p in model.parameters)
    out.print(f"[bold]model[/]     784-128-10 with dropout, {count:,} parameters, cross-entropy, Adam")
    timing = time_steps(out, model, train, used)
    steps = epochs * train.batch_count(TRAINING_BATCH)
    trainer = graphc.Trainer(
        model.loss,
        optimizer=optim.Adam(schedules.cosine(RATE, steps)),
        metrics={"accuracy": model.accuracy},
        target="cpu",
        seed=seed,
        threads=used,
    )
    logging.getLogger("graphc").setLevel(logging.WARNING)
    start = perf_counter()
    history = trainer.fit(train, validation=valid, epochs=epochs, batch_size=TRAINING_BATCH)
    seconds = perf_counter() - start
    out.print(f"[bold]training[/]  {epochs} epochs in {seconds:.2f} s on {used} threads")
    accuracy = 100.0 * float(trainer.evaluate(valid)["accuracy"])
    with out.status("writing the report"):
        index = write_report(folder, model, timing, history, accuracy, seconds)
    out.print(f"[bold]report[/]    {index.resolve()}")
    out.print(f"demo took {perf_counter() - started:.1f} s")
    out.print(f"validation accuracy {accuracy:.1f}%", highlight=False)
    return accuracy


class StepTimes:
    """What timing the training step gave: the table's rows, the compiled program, and how far the targets differ."""

    def __init__(self, rows: list[dict[str, str]], program: Program, difference: float) -> None:
        self.rows = rows
        self.program = program
        self.difference = difference


def time_steps(out: Console, model: Model, train: Dataset, threads: int) -> StepTimes:
    """Time the training step on interpreter and JIT (and NumPy by hand), after checking that the two agree."""
    from bench.executors import EXECUTORS
    from bench.executors.numpy_runner import NumpyRunner
    from bench.timing import race
    from bench.workload import Rule
    from bench.workloads.mlp import workload

    batch = {"image": train["image"][:BATCH], "label": train["label"][:BATCH]}
    saved = _state(model)
    updates = optim.Adam(RATE).updates(model.loss, model.parameters)
    outputs: Mapping[str, Node] = {"loss": model.loss}
    with out.status("compiling"):
        interpreted = graphc.compile(outputs, target="interpreter", updates=updates)
        compiled = graphc.compile(outputs, target="cpu", updates=updates, threads=threads)
        special = compiled.specialise({"batch": BATCH})
    states = [*(p.attrs["variable"] for p in compiled.graph.parameters)]
    before = [v.value.copy() for v in states]
    difference = _difference(interpreted, compiled, states, before, batch)
    if difference > AGREEMENT:
        raise GraphcError(f"interpreter and JIT disagree: after one step they differ by {difference:.1e}")
    by_hand = NumpyRunner(workload("train", (784, 128, 10), BATCH, Rule("adam")))
    runners = {
        "interpreter": lambda: interpreted(**batch),
        "JIT (graphc)": lambda: compiled(**batch),
        "numpy by hand": by_hand.run,
    }
    with out.status("timing") as status:
        times = race(runners, rounds=7, round_seconds=0.03, progress=status.update)
    for variable, value in zip(states, before, strict=True):
        variable.value = value
    _restore(model, saved)
    rows = []
    slow = times["interpreter"].median
    for name, t in times.items():
        seconds = f"{special.seconds:.2f} s" if name.startswith("JIT") else ""
        rows.append(
            {
                "executor": name, "a step": f"{t.median * 1e6:.0f} µs", "spread": t.spread,
                "speed-up": f"{slow / t.median:.1f}x", "compile": seconds,
            }
        )  # fmt: skip
    table = Table(title=f"one training step, batch {BATCH}, {threads} threads")
    for column in rows[0]:
        table.add_column(column, justify="left" if column == "executor" else "right")
    for row in rows:
        table.add_row(*row.values())
    out.print(table)
    others = [e.name for e in EXECUTORS.values() if e.peer and not e.missing()]
    peers = f"to compare with {', '.join(others)}: graphc bench --models mlp"
    out.print(f"[bold]agreement[/] interpreter and JIT differ by {difference:.1e} after one step; {peers}")
    return StepTimes(rows, compiled, difference)


def _difference(a: Program, b: Program, states: list[Any], before: list[np.ndarray], batch: dict[str, Any]) -> float:
    """The largest difference of losses and updated variables after one step from the same state."""
    results = []
    for program in (a, b):
        for variable, value in zip(states, before, strict=True):
            variable.value = value
        loss = np.asarray(program(**batch)["loss"])
        results.append([loss, *(v.value.copy() for v in states)])
    for variable, value in zip(states, before, strict=True):
        variable.value = value
    return max(float(np.max(np.abs(x.astype(np.float64) - y), initial=0.0)) for x, y in zip(*results, strict=True))


def _state(model: Model) -> list[np.ndarray]:
    return [p.attrs["variable"].value.copy() for p in model.parameters]


def _restore(model: Model, saved: list[np.ndarray]) -> None:
    for parameter, value in zip(model.parameters, saved, strict=True):
        parameter.attrs["variable"].value = value

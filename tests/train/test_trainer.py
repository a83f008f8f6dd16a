"""Training small nets: it learns, repeats itself, resumes bit for bit, stops, and says what is wrong with data and files."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc import checkpoint, losses, metrics, nn, ops, optim, schedules
from graphc.data import Dataset, two_moons, xor
from graphc.errors import CheckpointError, DataError, GraphError
from graphc.train import Callback, EarlyStopping, History, Trainer

DATA = two_moons(150, noise=0.1)
VALID = two_moons(60, noise=0.1, seed=1)


def make(target: str = "interpreter", *, units: int = 8, dropout: float = 0.3, **options: Any) -> Trainer:
    point = ops.input("point", ("batch", 2))
    label = ops.input("label", ("batch",), dtype="int32")
    net = nn.Sequential(nn.Dense(units, activation="tanh"), nn.Dropout(dropout), nn.Dense(2), name="net")
    logits = net(point)
    optimizer = options.pop("optimizer", optim.Adam(schedules.cosine(0.03, 30)))
    measured = {"accuracy": metrics.accuracy(logits, label)}
    loss = losses.cross_entropy(logits, label)
    return Trainer(loss, optimizer, metrics=measured, target=target, prediction=logits, **options)


def content(trainer: Trainer) -> bytes:
    rows = json.dumps(trainer.history.epochs).encode()
    return rows + b"".join(v.value.tobytes() for v in trainer.state)


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
@pytest.mark.parametrize("data", [xor, two_moons])
def test_learns(target: str, data: Any) -> None:
    trainer = make(target, units=16, dropout=0.0, optimizer=optim.Adam(0.05))
    history = trainer.fit(data(256), epochs=40, batch_size=64, progress=False)
    assert history["accuracy"][-1] > 0.95
    measured = trainer.evaluate(data(100, seed=2))
    assert measured["accuracy"] > 0.93
    scores = trainer.predict(data(100, seed=2), batch_size=33)
    assert scores.shape == (100, 2)
    assert np.mean(scores.argmax(1) == data(100, seed=2)["label"]) == pytest.approx(measured["accuracy"])


def test_targets_agree() -> None:
    histories = [
        make(target).fit(DATA, VALID, epochs=2, batch_size=64, progress=False) for target in ("interpreter", "cpu")
    ]
    for name in ("loss", "accuracy", "val_loss"):
        np.testing.assert_allclose(histories[0][name], histories[1][name], rtol=1e-4)


def test_means_are_over_examples_also_with_a_smaller_last_batch() -> None:
    trainer = make(dropout=0.0, optimizer=optim.SGD(0.0))
    row = trainer.fit(DATA, epochs=1, batch_size=64, progress=False).epochs[0]  # 64 + 64 + 22
    whole = trainer.evaluate(DATA, batch_size=150)
    assert row["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert row["accuracy"] == pytest.approx(whole["accuracy"], rel=1e-6)
    assert trainer.evaluate(DATA, batch_size=7)["loss"] == pytest.approx(whole["loss"], rel=1e-6)


def test_equal_seeds_give_equal_runs() -> None:
    contents = []
    for seed in (0, 0, 1):
        trainer = make(seed=seed)
        trainer.fit(DATA, epochs=2, batch_size=32, progress=False)
        contents.append(content(trainer))
    assert contents[0] == contents[1] != contents[2]


def test_dropout_acts_in_training_only() -> None:
    trainer = make(dropout=0.5, optimizer=optim.SGD(0.0))
    trained = trainer.fit(DATA, epochs=2, batch_size=150, progress=False)["loss"]
    assert trained[0] != trained[1]  # another mask at every step
    assert trainer.evaluate(DATA) == trainer.evaluate(DATA)


# --- resuming


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
def test_resume_continues_bit_for_bit(tmp_path: Path, target: str) -> None:
    path = tmp_path / "run.safetensors"
    options: dict[str, Any] = {
        "batch_size": 32,
        "progress": False,
        "early_stopping": EarlyStopping(patience=9, restore_best=True),
    }
    straight = make(target)
    straight.fit(DATA, VALID, epochs=4, **options)
    make(target).fit(DATA, VALID, epochs=2, checkpoint=path, **options)
    resumed = make(target)
    resumed.fit(DATA, VALID, epochs=4, checkpoint=path, resume=True, **options)
    assert content(resumed) == content(straight)


class Interrupting(Callback):
    """Presses Ctrl-C after a batch."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.when = (epoch, batch)

    def on_batch(self, trainer: Trainer, epoch: int, batch: int, values: Any) -> None:
        if (epoch, batch) == self.when:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def default_interrupt() -> Iterator[None]:
    """Python's own handler of SIGINT, also where the tests run as a shell's background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_who_ignores_or_handles_an_interrupt_keeps_that(handler: Any) -> None:
    signal.signal(signal.SIGINT, handler)
    model = make()
    model.fit(DATA, VALID, epochs=1, batch_size=32, callbacks=[Interrupting(1, 1)], progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    straight = make()
    straight.fit(DATA, VALID, epochs=1, batch_size=32, progress=False)
    assert content(model) == content(straight)


def test_an_interrupt_saves_and_the_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    straight = make()
    straight.fit(DATA, VALID, epochs=3, batch_size=32, progress=False)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        make().fit(
            DATA, VALID, epochs=3, batch_size=32, checkpoint=path, callbacks=[Interrupting(2, 3)], progress=False
        )
    assert signal.getsignal(signal.SIGINT) is before
    (note,) = caught.value.__notes__
    assert "epoch 2, batch 3 of 5" in note
    assert "resume=True" in note
    resumed = make()
    resumed.fit(DATA, VALID, epochs=3, batch_size=32, checkpoint=path, resume=True, progress=False)
    assert content(resumed) == content(straight)


def test_an_interrupt_without_checkpoint_says_so() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        make().fit(DATA, epochs=1, batch_size=32, callbacks=[Interrupting(1, 1)], progress=False)
    assert "nothing was saved" in caught.value.__notes__[0]


def test_resume_refuses_what_it_cannot_continue(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        make().fit(DATA, epochs=1, checkpoint=path, resume=True, progress=False)
    with pytest.raises(CheckpointError, match="needs to know the checkpoint"):
        make().fit(DATA, epochs=1, resume=True, progress=False)
    make().fit(DATA, epochs=1, checkpoint=path, resume="auto", progress=False)
    with pytest.raises(CheckpointError, match="batch_size: 128 in the checkpoint, 16 now"):
        make().fit(DATA, epochs=2, batch_size=16, checkpoint=path, resume=True, progress=False)
    with pytest.raises(CheckpointError, match=r"net/dense_0/weight: f32\[2,9\] in the model"):
        make(units=9).fit(DATA, epochs=2, checkpoint=path, resume=True, progress=False)
    with pytest.raises(CheckpointError, match="only in the file: adam/first_moment"):
        make(optimizer=optim.SGD(0.1)).fit(DATA, epochs=2, checkpoint=path, resume=True, progress=False)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign", "headless"])
def test_damaged_checkpoints_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run.safetensors"
    make().fit(DATA, epochs=1, checkpoint=path, progress=False)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-3] ^= 1
    pieces = {"truncated": data[:-40], "flipped": data, "empty": b"", "foreign": b"PK" + data}
    pieces["headless"] = b"\x02" + b"\0" * 7 + b"{}"
    path.write_bytes(bytes(pieces[damage]))
    with pytest.raises(CheckpointError, match="damaged"):
        make().fit(DATA, epochs=2, checkpoint=path, resume=True, progress=False)


def test_weights_travel(tmp_path: Path) -> None:
    path, run = tmp_path / "w.safetensors", tmp_path / "run.safetensors"
    x = ops.input("x", ("batch", 2))
    nets = [nn.Sequential(nn.Dense(8), nn.Dense(2), name="net") for _ in range(2)]
    for net in nets:
        net(x)
    for node in nets[0].parameters():
        node.attrs["variable"].value = np.random.default_rng(0).normal(size=node.type.static_shape)
    checkpoint.save_weights(path, nets[0])
    checkpoint.load_weights(path, nets[1])
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        np.testing.assert_array_equal(a.attrs["variable"].value, b.attrs["variable"].value)
    make().fit(DATA, epochs=1, checkpoint=run, progress=False)
    checkpoint.load_weights(run, nets[1])  # a training checkpoint holds the weights as well
    assert sorted(tmp_path.iterdir()) == [run, path]  # no leftovers


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    w = ops.parameter("w", (2,), 1.0)
    checkpoint.save_weights(path, [w])
    old = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    w.attrs["variable"].value = [5, 5]
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.save_weights(path, [w])
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


# --- stopping


def test_early_stopping_stops_and_restores_the_best() -> None:
    trainer = make(dropout=0.0, optimizer=optim.SGD(0.5))
    best: dict[int, bytes] = {}

    def spoil(trainer: Trainer, row: Any) -> None:
        best[row["epoch"]] = b"".join(v.value.tobytes() for v in trainer.model)

    rule = EarlyStopping("loss", patience=2, min_delta=1e9)  # only the first epoch ever counts as an improvement
    history = trainer.fit(DATA, epochs=10, early_stopping=rule, callbacks=[spoil], progress=False)
    assert len(history) == 3
    assert b"".join(v.value.tobytes() for v in trainer.model) == best[1] != best[3]


def test_a_callback_may_stop() -> None:
    history = make().fit(DATA, epochs=5, callbacks=[lambda trainer, row: trainer.stop()], progress=False)
    assert len(history) == 1


def test_early_stopping_on_what_is_not_measured() -> None:
    with pytest.raises(GraphError, match="give validation data"):
        make().fit(DATA, epochs=1, early_stopping=EarlyStopping(), progress=False)


# --- data


def test_data_comes_as_dataset_dict_or_tuple() -> None:
    contents = []
    for data in (DATA, dict(DATA.arrays), (DATA["point"], DATA["label"].astype(np.int64))):
        trainer = make()
        trainer.fit(data, epochs=1, progress=False)
        contents.append(content(trainer))
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"point": DATA["point"]}, "no array for the input 'label'"),
        ((DATA["point"],), "1 arrays for 2 inputs"),
        ({"point": DATA["point"][:, :1], "label": DATA["label"]}, "has the shape"),
        ({"point": DATA["point"], "label": DATA["label"].astype(np.float32)}, "is float32, the input is i32"),
        ({"point": DATA["point"], "label": np.full(150, 2**40)}, "outside of i32"),
        ({"point": DATA["point"][:0], "label": DATA["label"][:0]}, "no examples"),
        (7, "int is no data set"),
    ],
)
def test_wrong_data_is_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make().fit(data, epochs=1, progress=False)


def test_predict_needs_a_value_with_a_batch_axis() -> None:
    w = ops.parameter("w", (2,), 1.0)
    x = ops.input("x", ("batch", 2))
    loss = ops.mean(x * w)
    trainer = Trainer(loss, optim.SGD(0.1), target="interpreter")
    data = Dataset(x=np.ones((5, 2), np.float32))
    with pytest.raises(GraphError, match="predict what"):
        trainer.predict(data)
    with pytest.raises(DataError, match="no batch axis"):
        trainer.predict(data, loss)
    assert trainer.predict(data, x * w, batch_size=2).shape == (5, 2)


def test_reserved_metric_names_and_no_parameters() -> None:
    x = ops.input("x", ("batch",))
    with pytest.raises(GraphError, match="cannot be named 'loss'"):
        Trainer(ops.mean(x), optim.SGD(0.1), metrics={"loss": ops.mean(x)})
    with pytest.raises(GraphError, match="no parameters"):
        Trainer(ops.mean(x), optim.SGD(0.1), target="interpreter")


# --- history


def test_history_plots_itself(tmp_path: Path) -> None:
    history = make().fit(DATA, VALID, epochs=2, progress=False)
    history.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    svg = history._repr_svg_()
    assert "validation" in svg
    assert svg == history._repr_svg_()
    page = history._repr_html_()
    assert page.count("<tr>") == 3
    assert "<svg" in page
    assert set(history.to_dict()) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"}
    with pytest.raises(GraphError, match="no 'f1'"):
        history["f1"]
    with pytest.raises(GraphError, match="nothing to plot"):
        History().plot()

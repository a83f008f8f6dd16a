"""The plots of the documents: real runs of small models, part of ``python -m viz.gallery``.

What enters: a folder and a theme. What leaves: a png of each plot. Everything that is drawn is computed here, by graphc.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import graphc
from viz import plots

SEED = 7


def activations(path: Path, theme: str) -> None:
    """Functions and their derivatives."""
    plots.activations(path=path, theme=theme)


def loss_surface(path: Path, theme: str) -> None:
    """Three optimizers on Rosenbrock's valley."""
    ways = {}
    rates = {"SGD": graphc.optim.SGD(0.0015), "momentum": graphc.optim.SGD(0.0006, momentum=0.9), "Adam": graphc.optim.Adam(0.05)}
    for name, rule in rates.items():
        x, y = graphc.parameter("x", (), -1.5), graphc.parameter("y", (), 2.0)
        loss = (1.0 - x) ** 2 + 20.0 * (y - x**2) ** 2
        step = graphc.compile({"loss": loss}, updates=rule.updates(loss, [x, y]))
        recorder = graphc.train.Recorder(parameters=[x, y])
        recorder.take(0)
        for k in range(1, 401):
            recorder.take(k, float(step()["loss"]))
        ways[name] = recorder.path(x, y)
    surface = graphc.train.landscape(loss, (x, y), x=(-2, 2), y=(-1, 3), points=121)
    plots.loss_surface(surface, path, paths=ways, theme=theme)


def decision_boundary(path: Path, theme: str) -> None:
    """A small net finds two moons."""
    graphc.seed(SEED)
    data = graphc.data.two_moons(300, noise=0.15)
    point, label = graphc.input("point", ("batch", 2)), graphc.input("label", ("batch",), dtype="int32")
    dense = graphc.nn.Dense
    logits = graphc.nn.Sequential(dense(16, activation="tanh"), dense(16, activation="tanh"), dense(2), name="moons")(point)
    over = plots.grid(data.arrays["point"])
    recorder = graphc.train.Recorder(at=(0, 10, 25, 50, 100, 300), predictions=(logits, {"point": over}))
    trainer = graphc.Trainer(graphc.losses.cross_entropy(logits, label), graphc.optim.Adam(0.01))
    trainer.fit(data, epochs=30, batch_size=30, callbacks=[recorder], progress=False)
    plots.decision_boundary(recorder, over, data.arrays["point"], data.arrays["label"], path, theme=theme)


def digits(folder: Path, theme: str) -> list[Path]:
    """A net reads digits: its curves, gradients, weights, feature maps and mistakes."""
    graphc.seed(SEED)
    train, valid = graphc.data.load_digits()
    image, label = graphc.input("image", ("batch", 784)), graphc.input("label", ("batch",), dtype="int32")
    nn = graphc.nn
    conv, first = nn.Conv2D(8, 5, activation="relu"), nn.Dense(32, activation="relu")
    maps = conv(graphc.reshape(image, (-1, 28, 28, 1)))
    logits = nn.Sequential(nn.MaxPool2D(4), nn.Flatten(), first, nn.Dense(10), name="head")(maps)
    loss = graphc.losses.cross_entropy(logits, label)
    recorder = graphc.train.Recorder(every=5, gradients=(loss, train[:200]))
    trainer = graphc.Trainer(loss, graphc.optim.Adam(0.003), metrics={"accuracy": graphc.metrics.accuracy(logits, label)})
    history = trainer.fit(train, valid, epochs=4, callbacks=[recorder], progress=False)
    names = ("history", "gradient_norms", "weights", "feature_maps", "confusion_matrix")
    made = {name: folder / f"plot_{name}.png" for name in names}
    plots.history(history, made["history"], theme=theme)
    plots.gradient_norms(recorder, made["gradient_norms"], theme=theme)
    plots.weights(conv.weight, made["weights"], columns=4, theme=theme)
    plots.feature_maps(maps, made["feature_maps"], inputs={"image": valid.arrays["image"][:1]}, columns=4, theme=theme)
    scores = trainer.predict(valid, logits)
    plots.confusion_matrix(valid.arrays["label"], scores, made["confusion_matrix"], theme=theme)
    return list(made.values())


def attention(path: Path, theme: str) -> None:
    """Two heads that have learnt to find the place where a letter stood before."""
    graphc.seed(SEED)
    length, letters = 12, 6
    text, wanted = (graphc.input(name, ("batch", length), dtype="int32") for name in ("text", "wanted"))
    nn = graphc.nn
    places = graphc.constant(np.eye(length, dtype=np.float32))
    embedded = nn.Embedding(letters, 20)(text)
    known = graphc.broadcast_to(places, (*embedded.shape[:2], length))
    mixed = nn.MultiHeadAttention(2)(graphc.concatenate([embedded, known], axis=-1))
    logits = nn.Dense(letters)(mixed)
    loss = graphc.mean(graphc.losses.cross_entropy(graphc.reshape(logits, (-1, letters)), graphc.reshape(wanted, (-1,))))
    rng = np.random.default_rng(SEED)
    rows = rng.integers(0, letters, (2000, length)).astype(np.int32)
    trainer = graphc.Trainer(loss, graphc.optim.Adam(0.01))
    trainer.fit({"text": rows, "wanted": rows[:, ::-1].copy()}, epochs=12, batch_size=100, progress=False)
    word = rows[:1]
    plots.attention(mixed, path, inputs={"text": word}, tokens=[chr(97 + k) for k in word[0]], theme=theme)


def through_time(path: Path, theme: str) -> None:
    """The gradient of a recurrent net's last state at each of 30 steps, for three sizes of its weights and for an LSTM."""
    series = graphc.input("series", ("batch", "time", 4))
    data = {"series": np.random.default_rng(SEED).normal(size=(8, 30, 4)).astype(np.float32) * 0.1}
    found = {}
    for name, scale in (("RNN, weights 0.6", 0.6), ("RNN, weights 1", 1.0), ("RNN, weights 1.5", 1.5)):
        graphc.seed(SEED)
        layer = graphc.nn.RNN(16, return_sequences=False)
        last = layer(series)
        variable = layer.recurrent_weight.attrs["variable"]
        variable.value = variable.value * np.float32(scale)
        found[name] = graphc.train.through_time(graphc.mean(last * last), data=data)["state"]
        found[name] /= found[name][-1]
    graphc.seed(SEED)
    last = graphc.nn.LSTM(16, return_sequences=False)(series)
    cells = graphc.train.through_time(graphc.mean(last * last), data=data)["state 2"]
    plots.gradients_through_time({**found, "LSTM's cell": cells / cells[-1]}, path, theme=theme)


PLOTS: dict[str, Callable[[Path, str], None]] = {
    "activations": activations, "loss_surface": loss_surface, "decision_boundary": decision_boundary, "attention": attention,
    "gradients_through_time": through_time,
}  # fmt: skip


def write(folder: Path, theme: str = "light") -> list[Path]:
    """Draw every plot; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [folder / f"plot_{name}.png" for name in PLOTS]
    for path, draw in zip(made, PLOTS.values(), strict=True):
        draw(path, theme)
    return made + digits(folder, theme)

"""Convolution and pooling: values and gradients against torch and against sums written out, options, errors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, ops
from graphc.driver import compile
from graphc.errors import AttributeRuleError, DTypeError, GraphcError, GraphError, ShapeError
from graphc.interpreter import evaluate
from graphc.ir import Node
from passes.differentiate import grad

RNG = np.random.default_rng(3)

# x, w, strides, padding, dilation, groups
CASES: list[Any] = [
    ((2, 7, 6, 3), (3, 3, 3, 4), 1, "valid", 1, 1),
    ((2, 7, 6, 3), (3, 2, 3, 4), 1, "same", 1, 1),
    ((1, 9, 8, 2), (3, 3, 2, 5), 2, 1, 1, 1),
    ((2, 9, 11, 2), (2, 3, 2, 1), (2, 3), ((1, 0), (2, 1)), (2, 1), 1),
    ((2, 5, 5, 4), (1, 1, 4, 3), 1, "valid", 1, 1),
    ((2, 5, 5, 4), (1, 1, 4, 3), 2, "valid", 1, 1),
    ((2, 6, 6, 4), (3, 3, 2, 6), 1, 1, 1, 2),
    ((2, 6, 6, 3), (3, 3, 1, 6), 2, "same", 1, 3),
    ((1, 8, 8, 1), (3, 3, 1, 17), 1, "valid", 2, 1),
    ((3, 5, 5, 16), (5, 5, 16, 16), 1, "valid", 1, 1),
    ((0, 5, 5, 2), (3, 3, 2, 4), 1, "same", 1, 1),
    ((1, 12, 12, 9), (3, 3, 9, 33), 1, 2, 1, 1),
    ((2, 10, 10, 3), (2, 2, 3, 4), 3, "valid", 1, 1),
]
POOLS: list[Any] = [
    ((2, 8, 6, 3), 2, None, "valid"),
    ((2, 7, 9, 3), 2, None, "valid"),
    ((1, 7, 9, 5), 3, 2, "valid"),
    ((1, 7, 8, 5), (3, 2), 1, "same"),
    ((2, 7, 7, 1), 3, 2, 1),
    ((2, 9, 9, 2), 2, 3, "valid"),
    ((0, 4, 4, 2), 2, None, "valid"),
    ((2, 5, 4, 17), (5, 4), None, "valid"),
]


def convolved(x: np.ndarray, w: np.ndarray, strides: Any, pads: Any, dilation: Any, groups: int) -> np.ndarray:
    """Convolution as the definition has it, one window at a time."""
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape, dilation, strict=False)]
    rows, columns = ((x.shape[1 + a] - reach[a]) // strides[a] + 1 for a in range(2))
    y = np.zeros((x.shape[0], rows, columns, w.shape[-1]))
    inputs, outputs = w.shape[2], w.shape[3] // groups
    for i, j, g in itertools.product(range(rows), range(columns), range(groups)):
        h, v = i * strides[0], j * strides[1]
        window = x[:, h : h + reach[0] : dilation[0], v : v + reach[1] : dilation[1], g * inputs : (g + 1) * inputs]
        y[:, i, j, g * outputs : (g + 1) * outputs] = np.einsum(
            "nhwc,hwco->no", window, w[..., g * outputs : (g + 1) * outputs]
        )
    return y


def pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def pads_of(x: Any, w: Any, strides: Any, padding: Any, dilation: Any) -> Any:
    if padding == "same":
        totals = [
            max((-(-x[1 + a] // strides[a]) - 1) * strides[a] + (w[a] - 1) * dilation[a] + 1 - x[1 + a], 0)
            for a in range(2)
        ]
        return tuple((t // 2, t - t // 2) for t in totals)
    if padding == "valid":
        return ((0, 0), (0, 0))
    return tuple(pair(p) for p in pair(padding))


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv2d_is_its_definition(case: Any, target: str) -> None:
    xs, ws, strides, padding, dilation, groups = case
    x, w = RNG.normal(size=xs), RNG.normal(size=ws)
    a, b = ops.input("x", xs, dtype="float64"), ops.input("w", ws, dtype="float64")
    y = ops.conv2d(a, b, strides=strides, padding=padding, dilation=dilation, groups=groups)
    pads = pads_of(xs, ws, pair(strides), padding, pair(dilation))
    expected = convolved(x, w, pair(strides), pads, pair(dilation), groups)
    assert y.shape == expected.shape
    np.testing.assert_allclose(compile(y, target=target)(x=x, w=w), expected, rtol=1e-12, atol=1e-12)


def test_conv1d_is_conv2d_on_one_row() -> None:
    x, w = RNG.normal(size=(2, 11, 3)), RNG.normal(size=(4, 3, 5))
    one = ops.conv1d(x, w, strides=2, padding=(1,), dilation=2)
    two = ops.conv2d(x[:, None], w[None], strides=(1, 2), padding=((0, 0), (1, 1)), dilation=(1, 2))
    np.testing.assert_allclose(evaluate(one), evaluate(two)[:, 0])


def loss(y: Node) -> Node:
    """A scalar whose second derivative does not vanish."""
    weights = np.cos(np.arange(int(np.prod(y.shape)), dtype=np.float64)).reshape(y.shape)
    return ops.sum(y * y * 0.5 + y * weights)


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv2d_and_its_gradients_against_torch(case: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    xs, ws, strides, padding, dilation, groups = case
    x, w = RNG.normal(size=xs), RNG.normal(size=ws)
    (top, bottom), (left, right) = pads_of(xs, ws, pair(strides), padding, pair(dilation))
    tx, tw = torch.tensor(x, requires_grad=True), torch.tensor(w, requires_grad=True)
    image = torch.nn.functional.pad(tx.permute(0, 3, 1, 2), (left, right, top, bottom))
    ty = torch.nn.functional.conv2d(
        image, tw.permute(3, 2, 0, 1), stride=strides, dilation=dilation, groups=groups
    ).permute(0, 2, 3, 1)
    weights = torch.tensor(np.cos(np.arange(ty.numel(), dtype=np.float64)).reshape(ty.shape))
    (ty * ty * 0.5 + ty * weights).sum().backward()
    a, b = ops.input("x", xs, dtype="float64"), ops.input("w", ws, dtype="float64")
    y = ops.conv2d(a, b, strides=strides, padding=padding, dilation=dilation, groups=groups)
    dx, dw = grad(loss(y), wrt=[a, b])
    for target in ("interpreter", "cpu"):
        got = compile({"y": y, "dx": dx, "dw": dw}, target=target)(x=x, w=w)
        for name, expected in (("y", ty.detach()), ("dx", tx.grad), ("dw", tw.grad)):
            np.testing.assert_allclose(got[name], expected.numpy(), rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["max", "avg", "avg counting padding"])
@pytest.mark.parametrize("case", [c for c in POOLS if c[3] != "same"], ids=str)
def test_pooling_and_its_gradients_against_torch(case: Any, kind: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    shape, window, strides, padding = case
    x = RNG.permutation(int(np.prod(shape))).astype(np.float64).reshape(shape)  # no ties
    tx = torch.tensor(x, requires_grad=True)
    width = 0 if padding == "valid" else padding
    if kind == "max":
        ty = torch.nn.functional.max_pool2d(tx.permute(0, 3, 1, 2), window, strides, width)
    else:
        ty = torch.nn.functional.avg_pool2d(
            tx.permute(0, 3, 1, 2), window, strides, width, count_include_pad=kind != "avg"
        )
    ty = ty.permute(0, 2, 3, 1)
    weights = torch.tensor(np.cos(np.arange(ty.numel(), dtype=np.float64)).reshape(ty.shape))
    (ty * ty * 0.5 + ty * weights).sum().backward()
    a = ops.input("x", shape, dtype="float64")
    pool: Any = ops.max_pool2d if kind == "max" else ops.avg_pool2d
    more = {} if kind == "max" else {"count_padding": kind != "avg"}
    y = pool(a, window, strides=strides, padding=padding, **more)
    for target in ("interpreter", "cpu"):
        got = compile({"y": y, "dx": grad(loss(y), wrt=a)}, target=target)(x=x)
        np.testing.assert_allclose(got["y"], ty.detach().numpy(), rtol=1e-12)
        np.testing.assert_allclose(got["dx"], tx.grad.numpy(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_pooling_gradients_against_finite_differences(case: Any, kind: str) -> None:
    shape, window, strides, padding = case
    x = RNG.permutation(int(np.prod(shape))).astype(np.float64).reshape(shape) / 7
    a = ops.input("x", shape, dtype="float64")
    pool: Any = ops.max_pool2d if kind == "max" else ops.avg_pool2d
    total = loss(pool(a, window, strides=strides, padding=padding))
    forward = compile(total, target="cpu")
    gradient = compile(grad(total, wrt=a), target="cpu")(x=x)
    for at in list(np.ndindex(shape))[:: max(1, x.size // 20)]:
        step = np.zeros(shape)
        step[at] = 1e-4
        slope = (forward(x=x + step) - forward(x=x - step)) / 2e-4
        np.testing.assert_allclose(gradient[at], slope, rtol=1e-5, atol=1e-5)


def test_ties_of_a_maximum_share_the_gradient() -> None:
    x = ops.input("x", (1, 2, 4, 1))
    feed = np.array([[1, 1, 5, 2], [1, 1, 3, 5]], np.float32).reshape(1, 2, 4, 1)
    gradient = grad(ops.sum(ops.max_pool2d(x, 2)), wrt=x)
    for target in ("interpreter", "cpu"):
        got = compile(gradient, target=target)(x=feed)
        np.testing.assert_array_equal(got[0, :, :, 0], [[0.25, 0.25, 0.5, 0], [0.25, 0.25, 0, 0.5]])


def test_padding_never_wins_and_nan_does() -> None:
    x = np.full((1, 3, 3, 1), -7.0, np.float32)
    assert (evaluate(ops.max_pool2d(x, 3, strides=1, padding="same")) == -7).all()
    x[0, 0, 0, 0] = np.nan
    assert np.isnan(compile(ops.max_pool2d(ops.input("x", x.shape), 3), target="cpu")(x=x)).all()
    small = np.full((1, 2, 2, 1), np.iinfo(np.int32).min, np.int32)
    assert (evaluate(ops.max_pool2d(small, 2, strides=1, padding=1)) == np.iinfo(np.int32).min).all()


def test_gradients_are_convolutions() -> None:
    x, w = ops.input("x", ("batch", 8, 8, 2)), ops.input("w", (3, 3, 2, 4))
    gradients = grad(ops.sum(ops.conv2d(x, w) ** 2), wrt=[x, w])
    nodes = graphc.Graph("g", {"dx": gradients[0], "dw": gradients[1]}).nodes
    specs = {n.attrs["spec"] for n in nodes if n.op.name == "convolve"}
    assert specs == {"n01c,01oc->n01o", "c01n,c01o->01no"} and any(n.op.name == "conv2d" for n in nodes)
    assert [g.type for g in gradients] == [x.type, w.type]


def test_second_derivatives_of_a_convolution() -> None:
    x, w = RNG.normal(size=(1, 5, 4, 2)), RNG.normal(size=(2, 3, 2, 2))
    a, b = ops.input("x", x.shape, dtype="float64"), ops.input("w", w.shape, dtype="float64")
    inner = grad(loss(ops.conv2d(a, b, strides=(2, 1), padding=1, dilation=(1, 2)) ** 2), wrt=[a, b])
    total = sum((ops.sum(g**2) for g in inner[1:]), ops.sum(inner[0] ** 2))
    value, gradients = (
        compile(total, target="cpu"),
        compile(dict(zip("xw", grad(total, wrt=[a, b]), strict=True)), target="cpu"),
    )
    got = gradients(x=x, w=w)
    for name, array in (("x", x), ("w", w)):
        for at in list(np.ndindex(array.shape))[::5]:
            step = np.zeros(array.shape)
            step[at] = 1e-6
            feeds = [{"x": x, "w": w, name: array + s * step} for s in (1, -1)]
            slope = (value(**feeds[0]) - value(**feeds[1])) / 2e-6
            np.testing.assert_allclose(got[name][at], slope, rtol=2e-5, atol=1e-4)


MISTAKES: list[tuple[Any, type[GraphcError], str]] = [
    (lambda x: ops.conv2d(x, np.ones((3, 3, 4, 2), "f4")), ShapeError, "the image has 3 channels, the kernel reads 4"),
    (lambda x: ops.conv2d(x, np.ones((9, 3, 3, 2), "f4")), ShapeError, "window of 9 is larger than axis 1, 8 padded to 8"),
    (lambda x: ops.conv2d(x, np.ones((5, 3, 3, 2), "f4"), dilation=2), ShapeError, r"5 \(spanning 9\) is larger"),
    (lambda x: ops.conv2d(x, np.ones((3, 3, 1, 2), "f4"), groups=2), ShapeError, "2 groups do not divide 3 channels"),
    (lambda x: ops.conv2d(x, np.ones((3, 3, 1, 4), "f4"), groups=3), ShapeError, "3 groups do not divide 3 channels and 4"),
    (lambda x: ops.conv2d(x, np.ones((3, 3, 3), "f4")), ShapeError, "kernel wants 4 fixed axes"),
    (lambda x: ops.conv2d(x, np.ones((0, 3, 3, 2), "f4")), ShapeError, "empty window"),
    (lambda x: ops.conv1d(x, np.ones((3, 3, 3), "f4")), ShapeError, r"wants 3 axes \(batch, length, channels\)"),
    (lambda x: ops.conv2d(x, np.ones((3, 3, 3, 2), "f4"), strides=0), AttributeRuleError, "strides must be a positive number"),
    (lambda x: ops.conv2d(x, np.ones((3, 3, 3, 2), "f4"), padding="full"), AttributeRuleError, "padding must be"),
    (lambda x: ops.conv2d(x, np.ones((3, 3, 3, 2), "f4"), padding=(1, 2, 3)), AttributeRuleError, "padding must be"),
    (lambda x: ops.conv2d(x, np.ones((3, 3, 3, 2), "f4"), padding=-1), AttributeRuleError, "padding must be"),
    (lambda x: ops.conv2d(x, np.ones((3, 3, 3, 2), "f4"), groups=0), AttributeRuleError, "groups must be a positive"),
    (lambda x: ops.max_pool2d(x, 9), ShapeError, "window of 9 is larger"),
    (lambda x: ops.max_pool2d(x, 2, padding=2), AttributeRuleError, "a window would hold nothing"),
    (lambda x: ops.max_pool2d(x, (2, 2, 2)), AttributeRuleError, "window must be"),
    (lambda x: ops.max_pool1d(x), ShapeError, "wants 3 axes"),
    (lambda x: ops.max_pool2d(ops.gt(x, 0)), DTypeError, "is defined on numbers"),
    (lambda x: ops.avg_pool2d(ops.cast(x, "int32")), DTypeError, "defined on floats"),
    (lambda x: ops.conv2d(ops.input("s", ("n", "h", 8, 3)), np.ones((3, 3, 3, 2), "f4")), ShapeError, "must be numbers"),
    (lambda x: nn.Conv2D(4, groups=3), GraphError, "3 groups do not divide 4 filters"),
    (lambda x: nn.Conv2D(0), GraphError, "positive number of filters"),
    (lambda x: nn.Conv2D(4, groups=2)(x), ShapeError, "2 groups do not divide the channels"),
    (lambda x: nn.Conv2D(4)(ops.cast(x, "int32")), DTypeError, "floating values"),
    (lambda x: nn.Conv2D(4)(ops.reshape(x, (2, -1))), ShapeError, "wants 4 axes"),
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=[m[2] for m in MISTAKES])
def test_mistakes_are_told_with_the_users_line(mistake: Any) -> None:
    act, kind, message = mistake
    with pytest.raises(kind, match=message) as caught:
        act(ops.input("x", (2, 8, 8, 3)))
    assert __file__ in str(caught.value) or "test_convolution.py" in str(caught.value)


def test_layers_are_their_ops() -> None:
    x = RNG.normal(size=(2, 9, 9, 4)).astype(np.float32)
    layer = nn.Conv2D(6, (3, 2), activation="relu", strides=2, padding="same", groups=2, bias_init="normal")
    y = layer(ops.input("x", x.shape))
    weight, bias = (p.attrs["variable"].value for p in layer.parameters())
    assert weight.shape == (3, 2, 2, 6) and bias.shape == (6,)
    pads = pads_of(x.shape, weight.shape, (2, 2), "same", (1, 1))
    expected = np.maximum(convolved(x, weight, (2, 2), pads, (1, 1), 2) + bias, 0)
    np.testing.assert_allclose(evaluate(y, {"x": x}), expected, rtol=1e-4, atol=1e-5)
    bound = np.sqrt(6 / (3 * 2 * 2 + 3 * 2 * 6))
    assert bound * 0.8 < np.abs(weight).max() <= bound
    np.testing.assert_allclose(
        evaluate(nn.GlobalAvgPool2D()(ops.input("x", x.shape)), {"x": x}), x.mean((1, 2)), rtol=1e-5
    )
    assert nn.Conv2D(6, 3, strides=2, padding="same", groups=2, activation="relu").describe() == (
        "6, 3 x 3, strides (2, 2), padding same, groups 2, relu"
    )
    with pytest.raises(ShapeError, match="was made for 4 channels"):
        layer(ops.input("z", (1, 9, 9, 2)))


def test_a_small_net_learns_on_every_target() -> None:
    """A step of a CNN with every kind of layer: the same loss and the same new parameters as interpreted."""
    images = RNG.normal(size=(4, 10, 10, 1)).astype(np.float32)
    labels = np.array([0, 2, 1, 2], np.int32)
    results = {}
    for target in ("interpreter", "cpu"):
        x, label = ops.input("image", ("batch", 10, 10, 1)), ops.input("label", ("batch",), dtype="int32")
        net = nn.Sequential(nn.Conv2D(5, 3, "relu"), nn.Conv2D(6, 3, "relu"), nn.MaxPool2D(2), nn.Conv2D(8, 3, "tanh", strides=2,
                            padding="same", groups=2), nn.AvgPool2D(2, strides=1, padding="same"), nn.Flatten(), nn.Dense(3), name="cnn")  # fmt: skip
        total = graphc.losses.cross_entropy(net(x), label)
        gradients = grad(total, wrt=net.parameters())
        outputs = {"loss": total, **{p.name: g for p, g in zip(net.parameters(), gradients, strict=True)}}
        results[target] = compile(outputs, target=target)(image=images, label=labels)
    for name, expected in results["interpreter"].items():
        np.testing.assert_allclose(results["cpu"][name], expected, rtol=2e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("strides", [1, 2])
def test_threads_share_a_convolution_and_agree(batch: int, strides: int) -> None:
    """Work enough for threads: forward and both gradients, float32, within a bound that grows as the root of the sum's length."""
    xs, ws = (batch, 33, 30, 17), (3, 3, 17, 40)
    x, w = ops.input("x", xs), ops.input("w", ws)
    y = ops.conv2d(x, w, strides=strides, padding=1)
    g = ops.input("g", y.shape)
    dx, dw = graphc.vjp(y, [x, w], g)
    feeds = {n.name: RNG.normal(size=n.shape).astype(np.float32) for n in (x, w, g)}
    outputs = {"y": y, "dx": dx, "dw": dw}
    want = compile(outputs, target="interpreter")(**feeds)
    depth = {"y": 9 * 17, "dx": 9 * 40, "dw": batch * y.shape[1] * y.shape[2]}
    for threads in (1, 2, 3):
        program = compile(outputs, target="cpu", threads=threads)
        got, again = program(**feeds), program(**feeds)
        for name, value in got.items():
            scale = float(np.abs(want[name]).max())
            assert np.abs(value - want[name]).max() <= 8 * 2.0**-23 * np.sqrt(depth[name]) * scale, (name, threads)
            np.testing.assert_array_equal(value, again[name])

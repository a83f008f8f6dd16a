"""Attention and the layers of transformers: against their definitions, against torch, and a tiny GPT that learns."""

from __future__ import annotations

import numpy as np
import pytest

import graphc
from graphc import nn, ops, optim
from graphc.errors import DTypeError, GraphError, ShapeError
from graphc.interpreter import evaluate

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool) -> np.ndarray:
    scores = q.astype(np.float64) @ np.swapaxes(k, -1, -2).astype(np.float64) / np.sqrt(q.shape[-1])
    if causal:
        t, s = scores.shape[-2:]
        scores[..., ~np.tri(t, s, s - t, dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


SHAPES = [(1, 1, 1, 1), (2, 15, 15, 8), (2, 16, 16, 20), (1, 17, 33, 1), (3, 5, 100, 64), (2, 100, 100, 16)]


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_is_its_definition(shape: tuple[int, ...], causal: bool, target: str) -> None:
    batch, t, s, d = shape
    q, k, v = normal(batch, t, d), normal(batch, s, d), normal(batch, s, d + 1)
    a, b, c = ops.input("q", q.shape), ops.input("k", k.shape), ops.input("v", v.shape)
    program = graphc.compile(ops.scaled_dot_product_attention(a, b, c, causal=causal), target=target, cache=False)
    np.testing.assert_allclose(program(q=q, k=k, v=v), attend(q, k, v, causal), rtol=2e-4, atol=2e-5)


def test_a_mask_takes_keys_away() -> None:
    q, k, v = normal(2, 3, 4), normal(2, 5, 4), normal(2, 5, 4)
    mask = np.array([True, True, False, True, False])
    got = evaluate(ops.scaled_dot_product_attention(q, k, v, mask=mask))
    np.testing.assert_allclose(got, attend(q, k[:, mask], v[:, mask], False), rtol=1e-5, atol=1e-6)
    with pytest.raises(DTypeError, match="mask must be bool"):
        ops.scaled_dot_product_attention(q, k, v, mask=np.ones(5, np.float32))


def test_no_query_sees_the_future() -> None:
    x = ops.input("x", (1, 6, 8))
    y = nn.TransformerBlock(2, causal=True)(x)
    program = graphc.compile(y, cache=False)
    a = normal(1, 6, 8)
    b = a.copy()
    b[:, 4:] += 1
    first, second = program(x=a), program(x=b)
    np.testing.assert_array_equal(first[:, :4], second[:, :4])
    assert np.abs(first[:, 4:] - second[:, 4:]).max() > 1e-3


def test_layer_norm_is_its_definition() -> None:
    x, gain, shift = normal(3, 4, 10) * 3 + 1, normal(10), normal(10)
    want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gain + shift
    np.testing.assert_allclose(evaluate(ops.layer_norm(x, gain, shift)), want, rtol=1e-4, atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("causal", [False, True])
def test_multi_head_attention_is_torch_s(causal: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = normal(2, 7, 12)
    layer = nn.MultiHeadAttention(3, causal=causal, name="mha")
    value = ops.input("x", x.shape)
    y = layer(value)
    weights = {p.name.removeprefix("mha/"): p.attrs["variable"].value for p in layer.parameters()}
    for array in weights.values():
        array[...] = normal(*array.shape)
    peer = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.tensor(weights["qkv/weight"].T))
        peer.in_proj_bias.copy_(torch.tensor(weights["qkv/bias"]))
        peer.out_proj.weight.copy_(torch.tensor(weights["project/weight"].T))
        peer.out_proj.bias.copy_(torch.tensor(weights["project/bias"]))
    there = torch.tensor(x, requires_grad=True)
    mask = torch.triu(torch.ones(7, 7, dtype=torch.bool), 1) if causal else None
    want, _ = peer(there, there, there, attn_mask=mask, need_weights=False)
    want.pow(2).sum().backward()
    loss = ops.sum(y * y)
    program = graphc.compile({"y": y, "dx": graphc.grad(loss, wrt=value)}, cache=False)
    got = program(x=x)
    np.testing.assert_allclose(got["y"], want.detach().numpy(), rtol=1e-3, atol=1e-4)
    scale = float(there.grad.abs().max())
    np.testing.assert_allclose(got["dx"] / scale, there.grad.numpy() / scale, atol=1e-4)


def test_a_tiny_gpt_learns_a_text_by_heart() -> None:
    text = np.frombuffer(b"to be or not to be ", np.uint8)
    letters, codes = np.unique(text, return_inverse=True)
    rows = np.stack([np.roll(codes, -k)[:13] for k in range(len(codes))]).astype(np.int32)
    tokens, target = (ops.input(n, ("batch", 12), dtype="int32") for n in ("tokens", "target"))
    with graphc.seed(3):
        net = nn.GPT(len(letters), 12, 16, 2, 2, tied=True, name="gpt")
        logits = net(tokens)
    loss = graphc.losses.cross_entropy(ops.reshape(logits, (-1, len(letters))), ops.reshape(target, (-1,)))

    def train() -> list[float]:
        step = graphc.compile({"loss": loss}, updates=optim.Adam(1e-2).updates(loss, net.parameters()), threads=1)
        return [float(step(tokens=rows[:, :-1], target=rows[:, 1:])["loss"]) for _ in range(80)]

    losses = train()
    assert losses[0] == pytest.approx(np.log(len(letters)), rel=0.05)
    assert losses[-1] < 0.5 < losses[10]


def test_wrong_calls_name_the_line() -> None:
    x = ops.input("x", ("batch", 5, 12))
    with pytest.raises(ShapeError, match="5 heads do not divide") as error:
        nn.MultiHeadAttention(5)(x)
    assert error.value.source is not None and error.value.source.file.endswith("test_transformer.py")
    with pytest.raises(DTypeError, match="integers"):
        nn.Embedding(3, 2)(x)
    with pytest.raises(GraphError, match="positive heads"):
        nn.MultiHeadAttention(0)
    with pytest.raises(ShapeError, match="t up to 4"):
        nn.GPT(10, 4, 8, 2, 1)(ops.input("tokens", ("batch", 5), dtype="int32"))
    with pytest.raises(ShapeError, match="keys and"):
        ops.scaled_dot_product_attention(normal(3, 4), normal(3, 4), normal(2, 4))
    with pytest.raises(ShapeError, match="the gain is"):
        ops.layer_norm(normal(3, 4), normal(3), normal(4))


def test_an_index_out_of_the_table_is_an_error() -> None:
    y = nn.Embedding(3, 2)(ops.input("i", (2,), dtype="int32"))
    with pytest.raises(IndexError):
        graphc.compile(y, cache=False)(i=np.int32([0, 3]))


@pytest.mark.parametrize(
    ("t", "s", "causal"), [(256, 256, True), (300, 300, True), (64, 1280, False), (1152, 1152, True), (40, 1152, True)]
)
def test_blocks_are_the_whole(t: int, s: int, causal: bool) -> None:
    """Chunks that skip the future, and rows that are streamed, with their gradients, against the plain formula."""
    q, k, v = normal(2, t, 8), normal(2, s, 8), normal(2, s, 4)
    a, b, c = (ops.input(n, x.shape) for n, x in (("q", q), ("k", k), ("v", v)))
    out = ops.scaled_dot_product_attention(a, b, c, causal=causal)
    mask = np.tri(t, s, s - t, dtype=bool) if causal else np.ones((t, s), bool)
    plain = ops.scaled_dot_product_attention(a, b, c, mask=mask)  # a mask of one's own is never cut
    found = []
    for y in (out, plain):
        gradients = graphc.grad(ops.sum(ops.sin(y)), wrt=[a, b, c])
        program = graphc.compile({"y": y, **dict(zip(("dq", "dk", "dv"), gradients, strict=True))}, cache=False)
        found.append(program(q=q, k=k, v=v))
    for name, want in found[1].items():
        np.testing.assert_allclose(found[0][name], want, rtol=2e-3, atol=2e-4, err_msg=name)


def test_long_rows_never_stand_in_memory() -> None:
    q = ops.input("q", (1, 2048, 16))
    program = graphc.compile(ops.scaled_dot_product_attention(q, q, q), cache=False)
    assert program.loops.arena_size < 2048 * 2048 * 4 / 2  # one row block of scores, not all

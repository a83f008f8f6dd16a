"""Shorter causal chunks: where nobody needs the weights, and nowhere else; the numbers stay."""

from __future__ import annotations

import numpy as np
import pytest

import graphc
from graphc import Node


def attend(length: int, **options: object) -> tuple[dict[str, Node], Node]:
    nodes = {name: graphc.input(name, (2, length, 8)) for name in "qkv"}
    return nodes, graphc.scaled_dot_product_attention(*nodes.values(), **{"causal": True, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [128, 130, 256, 301])
def test_inference_has_shorter_chunks_and_the_same_numbers(length: int) -> None:
    nodes, result = attend(length)
    program = graphc.compile(result)
    assert program.trace.stage("causal").rule_counts() == {"shorten causal chunks": 1}
    random = np.random.default_rng(length)
    data = {name: random.normal(size=(2, length, 8)).astype(np.float32) for name in nodes}
    want = graphc.compile(result, target="interpreter")(**data)
    np.testing.assert_allclose(program(**data), want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("length", [128, 256])
def test_what_is_differentiated_keeps_the_chunks_of_its_derivative(length: int) -> None:
    nodes, result = attend(length)
    gradients = graphc.grad(graphc.sum(result * result), list(nodes.values()))
    program = graphc.compile({"y": result, **dict(zip(nodes, gradients, strict=True))})
    assert not program.trace.stage("causal").rule_counts()


@pytest.mark.parametrize(("length", "options"), [(64, {}), (1024, {}), (256, {"causal": False})])
def test_attention_that_gains_nothing_stays(length: int, options: dict[str, object]) -> None:
    _, result = attend(length, **options)
    assert not graphc.compile(result).trace.stage("causal").rule_counts()


def test_a_mask_is_the_users_and_stays_whole() -> None:
    mask = graphc.input("mask", (256, 256), dtype="bool")
    _, result = attend(256, mask=mask)
    assert not graphc.compile(result).trace.stage("causal").rule_counts()

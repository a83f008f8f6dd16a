"""Initialisers: moments, bounds, fans, and values that depend on seed and name alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphc import init
from graphc.errors import GraphError
from graphc.types import float32, float64

SHAPE = (300, 500)
VARIANCE = {
    "glorot_uniform": 2 / 800,
    "glorot_normal": 2 / 800,
    "he_uniform": 2 / 300,
    "he_normal": 2 / 300,
    "lecun_uniform": 1 / 300,
    "lecun_normal": 1 / 300,
    "uniform": 0.1**2 / 12,
    "normal": 0.05**2,
    "truncated_normal": (0.05 * 0.8796) ** 2,
}


@pytest.mark.parametrize("name", sorted(VARIANCE))
def test_mean_and_variance(name: str) -> None:
    values = init.NAMES[name]()(SHAPE, float64, "w")
    std = math.sqrt(VARIANCE[name])
    assert abs(values.mean()) < 5 * std / math.sqrt(values.size)
    assert values.var() == pytest.approx(VARIANCE[name], rel=0.02)


@pytest.mark.parametrize("name", ["glorot_uniform", "he_uniform", "lecun_uniform"])
def test_uniform_values_fill_their_interval_and_stay_in_it(name: str) -> None:
    values = init.NAMES[name]()(SHAPE, float64, "w")
    limit = math.sqrt(3 * VARIANCE[name])
    assert np.abs(values).max() <= limit
    assert values.max() > 0.999 * limit
    assert values.min() < -0.999 * limit


def test_normals_are_normal() -> None:
    values = init.normal(0.0, 1.0)((200_000,), float64, "w")
    assert np.mean(np.abs(values) < 1) == pytest.approx(0.6827, abs=0.005)
    assert np.mean(np.abs(values) < 2) == pytest.approx(0.9545, abs=0.003)
    assert np.abs(values).max() > 3.5


def test_truncated_normal_stays_within_its_bound() -> None:
    values = init.truncated_normal(1.0, 0.5, bound=2.0)((100_000,), float64, "w")
    assert np.abs(values - 1.0).max() <= 1.0
    assert np.abs(values - 1.0).max() > 0.99


@pytest.mark.parametrize("shape", [(20, 20), (30, 10), (10, 30), (3, 3, 4, 8)])
def test_orthogonal_rows_or_columns(shape: tuple[int, ...]) -> None:
    matrix = init.orthogonal(2.0)(shape, float64, "w").reshape(-1, shape[-1])
    product = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)


def test_orthogonal_refuses_a_vector() -> None:
    with pytest.raises(GraphError, match="two axes"):
        init.orthogonal()((3,), float32, "bias")


def test_constants() -> None:
    assert (init.zeros()((2, 2), float32, "w") == 0).all()
    assert (init.ones()((2, 2), float32, "w") == 1).all()
    made = init.constant(0.25)((2, 3), float64, "w")
    assert made.dtype == np.float64
    assert (made == 0.25).all()


@pytest.mark.parametrize("name", sorted(init.NAMES))
def test_values_depend_on_seed_and_name_alone(name: str) -> None:
    shape = (8, 8)
    make = init.NAMES[name]
    one = make()(shape, float32, "a/weight")
    make()(shape, float32, "other")  # drawing something else in between changes nothing
    np.testing.assert_array_equal(one, make()(shape, float32, "a/weight"))
    if name not in ("zeros", "ones"):
        assert not np.array_equal(one, make()(shape, float32, "b/weight"))
        with init.seed(1):
            assert not np.array_equal(one, make()(shape, float32, "a/weight"))


def test_seed_is_captured_where_the_initialiser_is_made() -> None:
    with init.seed(5):
        inside = init.normal()
    np.testing.assert_array_equal(inside((4,), float32, "w"), init.normal(seed=5)((4,), float32, "w"))
    assert init.current_seed() == 0


def test_values_are_pinned() -> None:
    """The first words of a stream never change: old checkpoints and old lectures stay reproducible."""
    words = init.Stream(0, "classifier/dense_0/weight").words(2)
    assert [hex(int(w)) for w in words] == PINNED


PINNED = ["0x4966ace1954ea780", "0x4a61901b672aec0d"]


@pytest.mark.parametrize("bad", [-1, 1.5, True, "0"])
def test_bad_seeds_are_refused(bad: object) -> None:
    with pytest.raises(GraphError, match="seed is an integer"), init.seed(bad):  # type: ignore[arg-type]
        pass


def test_unknown_name_proposes_near_ones() -> None:
    with pytest.raises(GraphError, match="glorot_uniform"):
        init.get("glorot_unifrom")


def test_bad_arguments() -> None:
    with pytest.raises(GraphError, match="empty interval"):
        init.uniform(1.0, 0.0)
    with pytest.raises(GraphError, match="standard deviation"):
        init.normal(0.0, -1.0)
    with pytest.raises(GraphError, match="bound"):
        init.truncated_normal(bound=0.01)


def test_empty_shapes() -> None:
    assert init.glorot_uniform()((0, 3), float32, "w").shape == (0, 3)
    assert init.he_normal()((), float32, "w").shape == ()

"""Data sets: the order is a function of seed and epoch, mistakes are named, the digits are what they claim to be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.data import Dataset, blobs, load_digits, spirals, two_moons, xor
from graphc.data.streams import normal, permutation, uniform, words
from graphc.errors import DataError


def numbered(count: int) -> Dataset:
    return Dataset(x=np.arange(count, dtype=np.float32).reshape(count, 1), label=np.arange(count, dtype=np.int32))


def flat(data: Dataset, *args: object, **options: object) -> list[int]:
    return [int(value) for batch in data.batches(*args, **options) for value in batch["label"]]  # type: ignore[arg-type]


# --- the container


def test_arrays_keep_their_names_order_and_dtypes() -> None:
    data = numbered(3)
    assert data.names == ("x", "label") and "x" in data and "y" not in data
    assert data["x"].dtype == np.float32 and data["label"].dtype == np.int32
    assert repr(data) == "Dataset(3 examples: x f32[1], label i32[])"
    assert repr(Dataset(ok=[True])) == "Dataset(1 example: ok bool[])"


def test_different_lengths_name_every_array_and_both_lengths() -> None:
    with pytest.raises(DataError) as caught:
        Dataset(image=np.zeros((3, 784), np.float32), label=np.zeros(2, np.int32))
    text = str(caught.value)
    assert "differ in length: 3 against 2" in text
    assert "image: f32[3,784]  axis 0 is 3" in text and "label: i32[2]  axis 0 is 2" in text


@pytest.mark.parametrize(
    ("make", "words_of_it"),
    [
        (lambda: Dataset(), "at least one array"),
        (lambda: Dataset(x=np.float32(1)), "'x' is a single value"),
        (lambda: Dataset(x=["a", "b"]), "'x' has dtype <U1"),
        (lambda: Dataset(x=[[1, 2], [3]]), "'x' is not a rectangular array"),
        (lambda: Dataset(x=np.array([1, None])), "'x' has dtype object"),
        (lambda: numbered(3)["y"], "no array 'y'"),
        (lambda: numbered(3)[[0, 3]], "index 3 is outside of the data set's 3 examples"),
        (lambda: numbered(3)[[-4]], "index -4 is outside"),
        (lambda: numbered(3)[1], "data[i:i+1]"),  # type: ignore[call-overload]
        (lambda: numbered(3)[[0.5]], "indexed by a slice"),  # type: ignore[list-item]
        (lambda: numbered(3)[np.array([True, False])], "the mask has 2 entries, the data set 3 examples"),
        (lambda: list(numbered(3)), "data.batches(batch_size)"),
        (lambda: numbered(3).split(4), "cannot split off 4 of 3 examples"),
        (lambda: numbered(3).split(-1), "cannot split off -1 of 3 examples"),
        (lambda: numbered(3).split(0.5), "count is an integer, not 0.5"),  # type: ignore[arg-type]
        (lambda: numbered(3).batches(0), "batch_size is at least 1, not 0"),
        (lambda: numbered(3).batches(2.5), "batch_size is an integer, not 2.5"),  # type: ignore[arg-type]
        (lambda: numbered(3).batches(2, seed=-1), "a seed is an integer from 0 on, not -1"),
        (lambda: numbered(3).batches(2, seed=0, epoch=-1), "a seed is an integer from 0 on, not -1"),
        (lambda: numbered(3).batches(2, start=3), "batch 3 is outside of the epoch's 2 batches"),
        (lambda: load_digits(validation=5001), "validation takes 0 to 5000 examples, not 5001"),
        (lambda: two_moons(-1), "count is at least 0"),
        (lambda: blobs(3, centres=0), "at least one class"),
        (lambda: xor(3, noise=float("nan")), "noise is a finite number"),
    ],
)
def test_a_mistake_is_named_at_the_call(make: Callable[[], object], words_of_it: str) -> None:
    with pytest.raises(DataError) as caught:
        make()
    assert words_of_it in str(caught.value)


def test_slices_indices_and_masks_are_data_sets() -> None:
    data = numbered(5)
    assert data[1:3]["label"].tolist() == [1, 2]
    assert data[[4, 0, -1]]["label"].tolist() == [4, 0, 4]
    assert data[data["label"] % 2 == 0]["x"].tolist() == [[0.0], [2.0], [4.0]]
    assert len(data[[]]) == 0 and data[[]]["x"].shape == (0, 1)


def test_split_keeps_every_example_once() -> None:
    first, rest = numbered(5).split(2)
    assert first["label"].tolist() == [0, 1] and rest["label"].tolist() == [2, 3, 4]
    assert [len(part) for part in numbered(5).split(0)] == [0, 5]


# --- batches


@given(
    count=st.integers(0, 40), size=st.integers(1, 12), drop=st.booleans(), seed=st.one_of(st.none(), st.integers(0, 9))
)
def test_an_epoch_shows_each_example_once(count: int, size: int, drop: bool, seed: int | None) -> None:
    data = numbered(count)
    batches = list(data.batches(size, seed=seed, drop_last=drop))
    assert len(batches) == data.batch_count(size, drop_last=drop)
    assert all(len(batch["x"]) == size for batch in batches[: -1 if not drop else None])
    seen = [int(v) for batch in batches for v in batch["label"]]
    assert len(set(seen)) == len(seen) == (count - count % size if drop else count)
    for batch in batches:
        assert batch["x"][:, 0].tolist() == batch["label"].tolist()  # the arrays stay in step


def test_without_a_seed_the_order_is_the_arrays_own() -> None:
    assert flat(numbered(5), 2) == [0, 1, 2, 3, 4]


def test_seed_and_epoch_alone_decide_the_order() -> None:
    data = numbered(100)
    assert flat(data, 7, seed=3, epoch=2) == flat(data, 7, seed=3, epoch=2) == flat(data, 25, seed=3, epoch=2)
    orders = {tuple(flat(data, 7, seed=s, epoch=e)) for s in range(4) for e in range(4)}
    assert len(orders) == 16


def test_starting_within_an_epoch_gives_the_rest_of_it() -> None:
    data = numbered(20)
    whole = flat(data, 6, seed=1, epoch=4)
    assert flat(data, 6, seed=1, epoch=4, start=2) == whole[12:]
    assert flat(data, 6, start=4) == []


def test_shuffled_batches_are_copies() -> None:
    data = numbered(6)
    next(iter(data.batches(3, seed=0)))["x"][:] = -1
    assert data["x"].min() == 0


# --- random streams


def test_streams_are_pinned() -> None:
    """These numbers stand in checkpoints' futures: whoever changes them changes every run."""
    assert words(2, 0).tolist() == [259491006799949737, 4754966410622352325]
    assert permutation(8, 0, 1).tolist() == [7, 6, 2, 3, 1, 0, 4, 5]


def test_a_stream_and_its_zeroth_substream_differ() -> None:
    assert words(4, 5).tolist() != words(4, 5, 0).tolist() != words(4, 5, 0, 0).tolist()


def test_uniform_and_normal_have_their_moments() -> None:
    u, z = uniform(100_000, 1), normal(100_000, 1)
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / 1e5) ** 0.5
    assert abs(z.mean()) < 5 / 1e5**0.5 and abs(z.var() - 1) < 5 * (2 / 1e5) ** 0.5
    assert abs((z**3).mean()) < 5 * (15 / 1e5) ** 0.5 and abs((z**4).mean() - 3) < 5 * (96 / 1e5) ** 0.5


def test_permutations_of_three_are_equally_frequent() -> None:
    seen = [tuple(permutation(3, seed).tolist()) for seed in range(3000)]
    counts = [seen.count(order) for order in set(seen)]
    assert len(counts) == 6 and all(abs(count - 500) < 5 * (3000 * 5 / 36) ** 0.5 for count in counts)


# --- the digits


def test_digits_have_the_promised_types_and_range() -> None:
    train, valid = load_digits()
    assert (len(train), len(valid)) == (4000, 1000)
    for part in (train, valid):
        assert part["image"].dtype == np.float32 and part["image"].shape[1:] == (784,)
        assert part["image"].min() == 0.0 and part["image"].max() == 1.0
        assert part["label"].dtype == np.int32


@pytest.mark.parametrize("validation", [0, 1, 17, 1000, 5000])
def test_the_split_is_balanced_and_complete(validation: int) -> None:
    train, valid = load_digits(validation=validation, seed=3)
    assert (len(train), len(valid)) == (5000 - validation, validation)
    for part in (train, valid):
        counts = np.bincount(part["label"], minlength=10)
        assert counts.max() - counts.min() <= 1
    together = np.concatenate([train["image"], valid["image"]])
    everything = load_digits(validation=0, seed=9)[0]["image"]
    assert np.array_equal(np.sort(together.sum(axis=1)), np.sort(everything.sum(axis=1)))


def test_the_digits_are_mixed_by_the_seed() -> None:
    again, other = load_digits(seed=0)[0], load_digits(seed=1)[0]
    train, _ = load_digits(seed=0)
    assert np.array_equal(train["image"], again["image"]) and not np.array_equal(train["label"], other["label"])
    counts = np.bincount(train["label"][:500], minlength=10)
    assert counts.min() > 20 and counts.max() < 85  # a sorted file would show one class


def test_labels_belong_to_their_images() -> None:
    """Nearest class mean, a classifier without any training, is far above the 10% of a wrong pairing."""
    train, valid = load_digits()
    means = np.stack([train["image"][train["label"] == digit].mean(axis=0) for digit in range(10)])
    distance = (means**2).sum(axis=1) - 2 * valid["image"] @ means.T
    assert (distance.argmin(axis=1) == valid["label"]).mean() > 0.75


# --- made data


@pytest.mark.parametrize("make", [two_moons, spirals, blobs, xor])
def test_made_data_is_deterministic_balanced_and_mixed(make: Callable[..., Dataset]) -> None:
    data = make(301, noise=0.1, seed=4)
    same, other = make(301, noise=0.1, seed=4), make(301, noise=0.1, seed=5)
    assert np.array_equal(data["point"], same["point"]) and not np.array_equal(data["point"], other["point"])
    assert data["point"].shape == (301, 2) and data["point"].dtype == np.float32 and data["label"].dtype == np.int32
    counts = np.bincount(data["label"])
    assert len(counts) >= 2 and counts.max() - counts.min() <= 1
    assert len(set(data["label"][:20].tolist())) == len(counts)
    assert len(make(0)) == 0


def test_blobs_without_noise_are_their_centres() -> None:
    data = blobs(40, centres=4, noise=0.0)
    assert len(np.unique(data["point"], axis=0)) == 4
    assert np.allclose(np.hypot(*data["point"].T), 2, atol=1e-6)


def test_spiral_arms_do_not_meet_without_noise() -> None:
    data = spirals(600, arms=3, turns=0.75, noise=0.0, seed=2)
    angle = np.arctan2(data["point"][:, 1], data["point"][:, 0])
    radius = np.hypot(*data["point"].T)
    arm = (angle / (2 * np.pi) - 0.75 * radius) * 3 % 3
    far = np.minimum(np.abs(arm - data["label"]), 3 - np.abs(arm - data["label"]))
    assert far[radius > 0.01].max() < 1e-3

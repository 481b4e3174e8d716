import numpy as np
import pytest

from edgekit.bench import random_feeds
from edgekit.bench.runtimes import IoSpec
from edgekit.errors import UsageError

IMAGE = IoSpec("image", "float32", ("batch", 3, "32*h", "w"))


def test_named_dimensions_and_their_multiples_get_their_sizes():
    feeds = random_feeds([IMAGE], batch=2, dims={"h": 2, "w": 10})
    assert feeds["image"].shape == (2, 3, 64, 10)
    assert feeds["image"].dtype == np.float32


def test_a_name_given_beats_the_batch():
    assert random_feeds([("x", "float32", ("n", 4))], batch=2, dims={"n": 7})["x"].shape == (7, 4)


@pytest.mark.parametrize("dim", ["h", "", -1, "h+1"])
def test_a_dimension_without_a_size_is_named(dim):
    with pytest.raises(UsageError, match="Dimension 1 of input 'x'"):
        random_feeds([("x", "float32", ("batch", dim))], dims={"w": 3})


def test_the_same_seed_gives_the_same_inputs():
    specs = [("x", "float32", (3,)), ("i", "int64", (50,)), ("m", "bool", (50,))]
    first, again, other = (random_feeds(specs, seed=seed) for seed in (1, 1, 2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert not np.array_equal(first["x"], other["x"])
    assert set(first["i"].tolist()) == {0, 1}
    assert first["m"].dtype == np.bool_


def test_ranges_are_kept():
    feeds = random_feeds(
        [("i", "int64", (500,)), ("x", "float32", (500,))],
        ranges={"i": (5, 7), "x": (-1.0, -0.5)},
    )
    assert set(feeds["i"].tolist()) == {5, 6, 7}
    assert feeds["x"].max() <= -0.5


def test_an_input_beyond_memory_is_refused_before_it_is_made():
    with pytest.raises(UsageError, match="4 GiB"):
        random_feeds([("x", "float32", (1 << 20, 1 << 20))])

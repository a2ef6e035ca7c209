"""Places are ranked by how many voxels are likely to be wrong, and some of the list is drawn by lot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_memseg.geometry import Box
from napari_memseg.inference.ranking import LARGEST, RANDOM_EVERY, SMALLEST, Evidence, Ranking, blocks_of


@dataclass
class Known:
    """Evidence that lies in arrays."""

    labels: np.ndarray
    confidence: np.ndarray | None = None
    other: np.ndarray | None = None
    asked: np.ndarray | None = None

    @property
    def shape(self):
        return self.labels.shape

    def read(self, box):
        part = {name: None if array is None else array[box.slices] for name, array in vars(self).items()}
        asked = np.ones(box.shape, bool) if part["asked"] is None else part["asked"]
        differs = None if part["other"] is None else part["other"] != part["labels"]
        return Evidence(**{**part, "asked": asked, "differs": differs})


def ranked(source, most=20, seed=0):
    ranking = Ranking(most, seed)
    seen = list(ranking.look(source, blocks_of(source.shape)))
    assert sum(box.size for box in seen) == np.prod(source.shape)
    return ranking.places()


def organ(shape=(70, 130, 130)):
    labels = np.zeros(shape, np.uint8)
    labels[20:50, 20:110, 20:110] = 3
    return labels


def ball(shape, centre, radius):
    grid = np.indices(shape)
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2


def test_a_blob_that_is_unsure_comes_before_a_smaller_one_and_thin_borders_are_left_out():
    labels = organ()
    confidence = np.full(labels.shape, 250, np.uint8)
    confidence[19:21], confidence[49:51] = 20, 20  # the borders of the organ
    large, small = (30, 40, 40), (30, 90, 100)
    confidence[ball(labels.shape, large, 9)], confidence[ball(labels.shape, small, 6)] = 10, 10
    found = [place for place in ranked(Known(labels, confidence)) if place.kind == "unsure"]
    assert len(found) == 2
    for place, centre, radius in zip(found, (large, small), (9, 6), strict=True):
        assert np.abs(np.subtract(place.centre, centre)).max() <= 2
        assert place.label == 3
        assert place.score == pytest.approx(0.5 * 4.19 * radius**3 * 245 / 255, rel=0.45)


def test_where_two_predictions_differ_one_of_them_is_wrong():
    labels, other = organ(), organ()
    other[ball(labels.shape, (35, 64, 64), 8)] = 5
    other[20] = 0  # one slice of border: a matter of taste
    (place,) = [place for place in ranked(Known(labels, other=other)) if place.kind == "differs"][:1]
    assert (place.label, place.other) == (3, 5)
    assert np.abs(np.subtract(place.centre, (35, 60, 60))).max() <= 8


def test_nobody_is_taken_to_what_is_known():
    labels = organ()
    confidence = np.zeros(labels.shape, np.uint8)
    assert ranked(Known(labels, confidence, asked=np.zeros(labels.shape, bool))) == []


def test_every_fifth_place_is_drawn_from_the_foreground():
    shape = (128, 256, 256)
    labels = np.zeros(shape, np.uint8)
    labels[:, :, 128:] = 1
    confidence = np.full(shape, 0, np.uint8)
    places = ranked(Known(labels, confidence), most=20)
    assert [n for n, place in enumerate(places) if place.kind == "random"][:3] == [
        k * RANDOM_EVERY - 1 for k in (1, 2, 3)
    ]
    for place in places:
        if place.kind == "random":
            assert labels[place.centre] == 1
            assert place.score == 0


def test_random_places_are_spread_as_the_foreground_is_and_by_their_seed_alone():
    labels = np.zeros((64, 64, 256), np.uint8)
    labels[:, :, :64] = 1  # most of it in the first block
    labels[:8, :8, 64:] = 1
    drawn = [ranked(Known(labels), most=1, seed=seed)[0] for seed in range(60)]
    assert sum(place.centre[2] < 64 for place in drawn) > 50
    assert ranked(Known(labels), most=1, seed=7) == [drawn[7]]


@given(st.tuples(*[st.integers(1, 90)] * 3), st.integers(0, 99), st.integers(1, 12))
def test_places_lie_in_the_volume_can_be_looked_through_and_are_not_the_same(shape, seed, most):
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 3, shape, np.uint8)
    confidence = np.repeat(chance.integers(0, 255, (shape[0], 1, 1), np.uint8), shape[1], 1).repeat(
        shape[2], 2
    )
    places = ranked(Known(labels, confidence, other=np.roll(labels, 5, 0)), most=most)
    assert len(places) <= most
    for number, place in enumerate(places):
        assert Box.whole(shape).contains(place.box)
        assert place.box.contains(Box.at(place.centre, (1, 1, 1)))
        assert all(
            min(SMALLEST, n) <= length <= LARGEST for length, n in zip(place.box.shape, shape, strict=True)
        )
        assert all(2 * (place.box & other.box).size <= place.box.size for other in places[:number])
    kinds = [place.score for place in places if place.kind != "random"]
    assert kinds == sorted(kinds, reverse=True)

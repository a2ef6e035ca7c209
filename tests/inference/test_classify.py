"""Ids and confidence against a plain softmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_memseg.inference.classify import classify, to_ids
from napari_memseg.models.classes import ClassTable

TABLES = [[0], [0, 1], [0, 1, 2, 3, 15, 21], [0, 7, 40_000], [0, 1, 65_534]]


@settings(max_examples=30)
@given(ids=st.sampled_from(TABLES), seed=st.integers(0, 999), scale=st.sampled_from([0.1, 3.0, 200.0]))
def test_the_byte_and_the_id_are_those_of_the_softmax(ids, seed, scale):
    table = ClassTable.from_ids(ids)
    scores = scale * torch.randn((2, len(ids), 3, 4, 5), generator=torch.Generator().manual_seed(seed))
    found = classify(scores, table, confidence=True)
    chance = torch.softmax(scores.double(), 1).sort(dim=1, descending=True).values
    second = chance[:, 1] if len(ids) > 1 else 0
    expected = (255 * (chance[:, 0] - second)).clamp(max=254).numpy()
    labels = to_ids(found.ids, table)
    assert labels.dtype == table.dtype
    assert np.array_equal(labels, np.array(ids)[scores.argmax(1).numpy()])
    assert np.abs(found.confidence.numpy() - expected).max() <= 0.51
    assert found.finite.all()


def test_of_equal_scores_the_first_class_is_taken_with_no_confidence():
    found = classify(torch.zeros(1, 3, 1, 1, 2), ClassTable.from_ids([1, 2]), confidence=True)
    assert (found.ids == 0).all()
    assert (found.confidence == 0).all()


def test_255_is_never_a_confidence_since_it_means_not_predicted():
    scores = torch.tensor([1e4, -1e4]).reshape(1, 2, 1, 1, 1)
    assert classify(scores, ClassTable.from_ids([1]), confidence=True).confidence.max() == 254


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_scores_that_are_not_finite_are_told_for_the_sample_they_are_in(bad, channel):
    scores = torch.randn(3, 3, 2, 2, 2)
    scores[1, channel, 0, 1, 1] = bad
    assert classify(scores, ClassTable.from_ids([1, 2]), confidence=False).finite.tolist() == [
        True,
        False,
        True,
    ]


def test_a_class_that_is_ruled_out_does_no_harm():
    scores = torch.zeros(1, 3, 1, 1, 1)
    scores[:, 1], scores[:, 2] = -torch.inf, 1.0
    found = classify(scores, ClassTable.from_ids([1, 2]), confidence=True)
    assert found.finite.all()
    assert found.ids.item() == 2

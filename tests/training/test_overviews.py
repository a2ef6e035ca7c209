"""The coarse whole of a volume: mean grey values, classes that are there, nothing that is held back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learning import WINDOW, blocks, net, pair
from napari_memseg.geometry import Box
from napari_memseg.io.halving import halve_mean
from napari_memseg.models.base import SampleSpec
from napari_memseg.training.label_index import index_labels
from napari_memseg.training.overviews import overview_of
from napari_memseg.training.patches import PatchSampler
from napari_memseg.training.validation import Validation

SHAPE = (21, 18, 13)
CLASSES = net().classes


def labelled():
    return blocks(SHAPE, seed=2)


def test_it_is_the_mean_of_the_image_and_has_each_class_where_there_is_some():
    volume = labelled()
    found = overview_of(volume, 2, CLASSES, WINDOW, [])
    grey = volume.image.read(Box.whole(SHAPE)).astype(np.float32)
    np.testing.assert_allclose(found.image[0], halve_mean(halve_mean(grey)) / 200, rtol=1e-5)
    ids = volume.labels.read(Box.whole(SHAPE))
    for index, class_id in enumerate(CLASSES.ids):
        places = {tuple(place // 4) for place in np.argwhere(ids == class_id)}
        assert {tuple(place) for place in np.argwhere(found.presence[index].numpy())} == places


def test_what_is_held_back_or_unlabelled_is_nowhere_in_it():
    volume = labelled()
    half = Box((0, 0, 0), (21, 18, 8))
    found = overview_of(volume, 1, CLASSES, WINDOW, [half])
    assert not found.presence[..., :4].any()
    assert found.presence[..., 4:].any(0).all()
    grey, ids = volume.image.read(Box.whole(SHAPE)), volume.labels.read(Box.whole(SHAPE)).copy()
    ids[:8] = 99
    some = overview_of(pair(grey, ids, unlabelled=99), 3, CLASSES, WINDOW, [])
    assert not some.presence[:, 0].any()


def test_samples_bring_it_where_the_phase_asks_for_it():
    volume, spec = labelled(), SampleSpec(patch=(8, 8, 8), overview=1)
    index = index_labels([volume], CLASSES)
    held = np.arange(len(index)) == 0
    common = {"spec": spec, "classes": CLASSES, "window": WINDOW}
    sampler = PatchSampler(volumes=[volume], index=index.take(~held), held=index.take(held), **common)
    batch = sampler.batch(0, 3)
    assert len(batch.overviews) == 3
    expected = overview_of(volume, 1, CLASSES, WINDOW, index.take(held).boxes(0))
    assert all(torch.equal(one.presence, expected.presence) for one in batch.overviews)
    assert float(batch.frequencies.sum()) == pytest.approx(1)
    scored = next(Validation(volumes=[volume], cells=index.take(held), **common).samples())
    assert torch.equal(scored.overview.image, expected.image)
    assert not scored.overview.presence.any()


def test_a_flipped_sample_is_one_of_the_flipped_volume():
    volume, spec = labelled(), SampleSpec(patch=(8, 8, 8), overview=0)
    index = index_labels([volume], CLASSES)
    nothing = index.take(np.zeros(len(index), bool))
    sampler = PatchSampler(
        volumes=[volume],
        index=index,
        held=nothing,
        spec=spec,
        classes=CLASSES,
        window=WINDOW,
        mirror=frozenset("zyx"),
    )
    batch = sampler.batch(0, 16)
    plain = overview_of(volume, 0, CLASSES, WINDOW, []).image
    assert sum(not torch.equal(one.image, plain) for one in batch.overviews) > 4, "some are flipped"
    for image, where, one in zip(batch.image, batch.where, batch.overviews, strict=True):
        assert torch.equal(one.image[(slice(None), *where.box.slices)], image)

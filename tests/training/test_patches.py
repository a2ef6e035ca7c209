from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learning import WINDOW, blocks, pair
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, zyx
from napari_memseg.models.base import Grid, SampleSpec
from napari_memseg.models.classes import IGNORE, ClassTable
from napari_memseg.training.label_index import hold_back, index_labels
from napari_memseg.training.patches import PatchSampler, place_patch
from napari_memseg.training.samples import cut, flippable

CLASSES = ClassTable.from_ids([7, 200])
PATCH = (8, 12, 16)


class Made:
    """What an earlier stage wrote, in memory."""

    def __init__(self, data, grid=None):
        self.data, self.grid = np.asarray(data), grid or Grid()

    @property
    def shape(self):
        return self.data.shape

    def read(self, box=None):
        return self.data if box is None else self.data[(slice(None), *box.slices)]


def sampler_of(*volumes, patch=PATCH, arrays=(), held=0.0, classes=CLASSES, **options):
    index = index_labels(volumes, classes)
    away = hold_back(index, held, most=99, seed=3)
    return PatchSampler(
        volumes=volumes,
        index=index.take(~away),
        held=index.take(away),
        spec=SampleSpec(patch=patch, arrays=arrays),
        classes=classes,
        window=WINDOW,
        **options,
    )


def equal(a, b):
    return (
        torch.equal(a.image, b.image)
        and torch.equal(a.labels, b.labels)
        and list(a.where) == list(b.where)
        and all(torch.equal(a.arrays[name], b.arrays[name]) for name in a.arrays)
    )


@given(data=st.data())
def test_a_patch_lies_inside_and_holds_its_voxel(data):
    shape = data.draw(st.tuples(*[st.integers(1, 60)] * 3))
    patch = data.draw(st.tuples(*[st.integers(1, 70)] * 3))
    voxel = zyx(data.draw(st.integers(0, n - 1)) for n in shape)
    box = place_patch(voxel, patch, shape, (1, 1, 1), np.random.default_rng(data.draw(st.integers(0, 999))))
    assert Box.whole(shape).contains(box)
    assert box.contains(Box.at(voxel, (1, 1, 1)))
    assert box.shape == zyx(map(min, patch, shape))


@given(data=st.data())
def test_an_aligned_patch_starts_with_whole_voxels_of_coarser_arrays(data):
    shape = data.draw(st.tuples(*[st.integers(1, 60)] * 3))
    patch = data.draw(st.tuples(*[st.integers(1, 70)] * 3))
    align = data.draw(st.tuples(*[st.sampled_from([1, 2, 4])] * 3))
    voxel = zyx(data.draw(st.integers(0, n - 1)) for n in shape)
    box = place_patch(voxel, patch, shape, align, np.random.default_rng(0))
    assert Box.whole(shape).contains(box)
    assert all(a % step == 0 for a, step in zip(box.start, align, strict=True))
    assert box.shape == zyx(map(min, patch, shape))


def test_batches_are_a_function_of_seed_and_number_alone():
    volume = blocks()
    forward = [sampler_of(volume, seed=5, mirror=frozenset("zyx")).batch(n, 2) for n in range(4)]
    again = sampler_of(volume, seed=5, mirror=frozenset("zyx"))
    assert all(equal(forward[n], again.batch(n, 2)) for n in (3, 1, 2, 0))
    assert not equal(forward[0], forward[1])
    assert not equal(forward[0], sampler_of(volume, seed=6, mirror=frozenset("zyx")).batch(0, 2))


def test_a_patch_is_what_the_volume_holds_there():
    volume = blocks()
    batch = sampler_of(volume, augment=False).batch(0, 3)
    for image, labels, where in zip(batch.image, batch.labels, batch.where, strict=True):
        grey = volume.image.read(where.box).astype(np.float32) / 200
        assert np.allclose(image[0], grey)
        assert np.array_equal(labels, CLASSES.indices(volume.labels.read(where.box)))
        assert where.shape == volume.shape


def test_rare_classes_are_met_as_often_as_others():
    labels = np.zeros((32, 32, 32), np.uint16)
    labels[3, 4, 5], labels[20:24, 20:24, 20:24] = 7, 200
    sampler = sampler_of(pair(labels.astype(np.uint8), labels), patch=(4, 4, 4))
    batch = sampler.batch(0, 300)
    rare = sum(bool((patch == 1).any()) for patch in batch.labels)
    assert 40 < rare < 100  # two draws of three, of three classes: 67


def test_unlabelled_and_unknown_voxels_are_ignored():
    labels = np.full((16, 16, 16), 255, np.uint8)
    labels[8, 8, 4:7] = [0, 7, 200]
    labels[8, 8, 7] = 9
    batch = sampler_of(pair(labels, labels, 255), patch=(8, 8, 8)).batch(0, 4)
    for patch, where in zip(batch.labels, batch.where, strict=True):
        known = labels[where.box.slices]
        assert np.array_equal(patch != IGNORE, np.isin(known, [0, 7, 200]))
        assert (patch != IGNORE).any()


def test_held_back_voxels_are_never_shown():
    volume = blocks((32, 32, 32))
    sampler = sampler_of(volume, held=0.15, augment=False)
    secret = np.zeros(volume.shape, bool)
    for box in sampler.held.boxes(0):
        secret[box.slices] = True
    assert secret.any()
    batch = sampler.batch(0, 40)
    hidden = 0
    for labels, where in zip(batch.labels, batch.where, strict=True):
        here = torch.from_numpy(secret[where.box.slices])
        assert torch.equal(labels == IGNORE, here)
        hidden += int(here.any())
    assert hidden


@pytest.mark.parametrize("allowed", ["", "z", "y", "x", "zx", "zyx"])
def test_flips_go_along_allowed_axes_alone(allowed):
    volume = blocks((16, 24, 32))
    sampler = sampler_of(volume, mirror=frozenset(allowed), augment=False)
    batch = sampler.batch(0, 60)
    seen = set()
    for image, labels, where in zip(batch.image, batch.labels, batch.where, strict=True):
        plain = cut(volume, where.box, (), CLASSES, WINDOW)
        subsets = [[a for i, a in enumerate("zyx") if n >> i & 1] for n in range(8)]
        fits = [
            "".join(axes)
            for axes in subsets
            if torch.equal(image, plain.image.flip([1 + "zyx".index(a) for a in axes]))
        ]
        assert len(fits) == 1
        assert torch.equal(labels, plain.labels.flip(["zyx".index(a) for a in fits[0]]))
        seen.add(fits[0])
    assert {axis for axes in seen for axis in axes} == set(allowed)


def test_labels_are_never_changed_by_augmentation_of_grey_values():
    volume = blocks()
    plain, changed = (sampler_of(volume, augment=augment).batch(0, 8) for augment in (False, True))
    assert torch.equal(plain.labels, changed.labels)
    assert not torch.equal(plain.image, changed.image)
    assert changed.image.isfinite().all()


def test_a_batch_has_patches_of_one_size_where_one_volume_is_thin():
    thin, thick = blocks((5, 24, 24)), blocks((24, 24, 24), seed=1)
    sampler = sampler_of(thin, thick, patch=(16, 16, 16))
    sizes = {tuple(sampler.batch(n, 3).labels.shape) for n in range(40)}
    assert sizes == {(3, 5, 16, 16), (3, 16, 16, 16)}


def test_coarser_arrays_are_cut_and_flipped_at_the_same_place():
    volume = blocks((16, 16, 16))
    labels = volume.labels.read(Box.whole((16, 16, 16))).astype(np.float32)
    hint = Made(labels[None, ::2, ::2, ::2], Grid(factor=(2, 2, 2)))
    with_arrays = pair(labels.astype(np.uint8), labels.astype(np.uint16), hint=hint)
    sampler = sampler_of(
        with_arrays, patch=(8, 8, 8), arrays=("hint",), mirror=frozenset("zyx"), augment=False
    )
    batch = sampler.batch(0, 20)
    fine = batch.arrays["hint"].repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    assert torch.equal(fine / 200, batch.image)
    assert all(where.boxes["hint"].refine((2, 2, 2)) == where.box for where in batch.where)


def test_patches_with_a_vector_are_not_flipped_and_get_it_whole():
    labels = blocks((16, 16, 16)).labels.read(Box.whole((16, 16, 16)))
    volume = pair(labels.astype(np.uint8), labels, latent=Made(np.arange(5, dtype=np.float32)))
    sampler = sampler_of(volume, patch=(8, 8, 8), arrays=("latent",), mirror=frozenset("zyx"), augment=False)
    batch = sampler.batch(0, 8)
    assert batch.arrays["latent"].tolist() == [[0, 1, 2, 3, 4]] * 8
    for image, where in zip(batch.image, batch.where, strict=True):
        assert torch.equal(image, cut(volume, where.box, (), CLASSES, WINDOW).image)


def test_a_patch_that_cuts_a_coarse_voxel_is_not_flipped_there():
    labels = np.zeros((9, 8, 8), np.uint8)
    volume = pair(labels, labels, hint=Made(np.zeros((1, 5, 4, 4)), Grid(factor=(2, 2, 2))))
    assert flippable(volume, ("hint",), Box.whole((9, 8, 8))) == {"y", "x"}


def test_a_cropped_array_reads_as_zero_outside():
    labels = np.ones((8, 8, 8), np.uint8)
    crop = Made(np.ones((2, 4, 4, 4), np.float32), Grid(offset=(2, 2, 2), shape=(4, 4, 4)))
    found = cut(pair(labels, labels, crop=crop), Box.whole((8, 8, 8)), ("crop",), CLASSES, WINDOW)
    assert found.arrays["crop"].shape == (2, 8, 8, 8)
    assert found.arrays["crop"].sum() == 2 * 4**3
    assert found.arrays["crop"][:, 2:6, 2:6, 2:6].all()


def test_a_missing_array_is_refused_by_name():
    with pytest.raises(InputError, match="hint"):
        sampler_of(blocks(), arrays=("hint",))

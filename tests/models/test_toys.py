"""The toy model: it keeps the contract that it is there to prove."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

import toys
from napari_memseg.geometry import Box, cell_box, cells, zyx
from napari_memseg.models.base import SCORES, Batch, Where
from napari_memseg.models.checkpoint import Card, load_checkpoint, save_checkpoint
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.intensity import Window

BY_2 = (2, 2, 2)
CORE = (8, 6, 10)


@pytest.fixture
def image():
    return np.random.default_rng(3).random((17, 13, 23), np.float32)


def cut(array, box):
    return torch.from_numpy(array[(slice(None), *box.slices)])[None]


@torch.inference_mode()
def test_its_tiles_are_crops_of_the_whole(image):
    """The two tile stages, tile by tile with their exact halos, against one pass over everything."""
    model = toys.toy(1)
    shape = zyx(image.shape)
    coarse, first, second = model.stages
    quarter = toys.halve(toys.halve(torch.from_numpy(image)[None, None]))
    latent = coarse({"image@2": quarter}, [Where(box=Box.whole(shape), shape=shape)])["latent"]
    hint = np.full((3, *Box.whole(shape).coarsen(BY_2).shape), np.nan, np.float32)
    scores = np.full((3, *shape), np.nan, np.float32)
    cores = [cell_box(index, CORE, shape) for index in cells(Box.whole(shape), CORE)]
    for core in cores:
        box = core.grow(BY_2).clip(shape)
        made = first({"image@0": cut(image[None], box)}, [Where(box=box, shape=shape)])["hint"][0]
        inner = core.coarsen(BY_2)
        hint[(slice(None), *inner.slices)] = made[
            (slice(None), *inner.relative_to(box.coarsen(BY_2).start).slices)
        ]
    for core in cores:
        box = core.grow(BY_2).clip(shape)
        around = core.coarsen(BY_2).grow((1, 1, 1)).clip(zyx(hint.shape[1:]))
        where = Where(box=box, shape=shape, boxes={"image@0": box, "hint": around})
        inputs = {"image@0": cut(image[None], box), "hint": cut(hint, around), "latent": latent}
        made = second(inputs, [where])[SCORES][0]
        scores[(slice(None), *core.slices)] = made[(slice(None), *core.relative_to(box.start).slices)]
    np.testing.assert_allclose(scores, toys.whole_volume(model, image), atol=1e-4)


def test_every_stage_matters(image):
    model = toys.toy(0)
    before = toys.whole_volume(model, image)
    for part in (model.coarse, model.first, model.second):
        kept = part.out.bias.detach().clone()
        with torch.no_grad():
            part.out.bias += torch.arange(len(kept))
        assert np.abs(toys.whole_volume(model, image) - before).max() > 1e-3
        with torch.no_grad():
            part.out.bias[:] = kept
    assert np.array_equal(toys.whole_volume(model, image), before)


def test_noise_is_given_every_class(image):
    for model in (toys.toy(0), toys.random_unet(0, 2), toys.random_unet(1, 3)):
        counts = np.bincount(toys.whole_volume(model, image).argmax(0).ravel(), minlength=3)
        assert counts.min() > 0.01 * image.size


def test_the_same_seed_is_the_same_network(image):
    assert np.array_equal(toys.whole_volume(toys.toy(4), image), toys.whole_volume(toys.toy(4), image))
    assert not np.array_equal(toys.whole_volume(toys.toy(4), image), toys.whole_volume(toys.toy(5), image))


def test_each_phase_trains_its_own_part_from_any_origin():
    model = toys.toy(2)
    first, second = model.training_plan()
    assert first.needs == ()
    assert [stage.name for stage in second.needs] == ["coarse", "first"]
    assert second.sample.arrays == ("hint", "latent")
    box = Box.at((3, 4, 5), (7, 8, 9))
    around = box.coarsen(BY_2)
    batch = Batch(
        image=torch.rand(1, 1, *box.shape),
        labels=torch.randint(-1, 3, (1, *box.shape)),
        arrays={"hint": torch.rand(1, 3, *around.shape), "latent": torch.rand(1, toys.LATENT)},
        where=[Where(box=box, shape=(20, 20, 20), boxes={"image@0": box, "hint": around})],
    )
    for phase in (first, second):
        model.zero_grad()
        phase.step(batch).value.backward()
        learning = {id(p) for p in model.parameters() if p.grad is not None}
        assert learning == {id(p) for p in phase.parameters()}


def test_cells_are_placed_where_they_lie():
    cells_ = torch.arange(27.0).reshape(1, 3, 3, 3)
    have = Box.at((2, 2, 2), (6, 6, 6))
    out = toys.place(cells_, have, Box.at((3, 0, 5), (4, 4, 5)))
    assert out.shape == (1, 4, 4, 5)
    for z, y, x in product(range(4), range(4), range(5)):
        at = (z + 3, y, x + 5)
        inside = have.contains(Box.at(at, (1, 1, 1)))
        cell = [(a - 2) // 2 for a in at]
        assert out[0, z, y, x] == (cells_[0, cell[0], cell[1], cell[2]] if inside else 0)


def test_a_threshold_is_a_network_of_four_weights(image):
    labels = toys.whole_volume(toys.null(threshold=0.3), image).argmax(0)
    assert np.array_equal(labels, image > 0.3)


def test_registered_toys_can_be_saved_and_loaded(tmp_path, image, monkeypatch):
    monkeypatch.setattr("napari_memseg.models.registry._REGISTERED", {})
    toys.register()
    model = toys.toy(0)
    card = Card(
        architecture="toy",
        arguments=model.arguments,
        classes=ClassTable.from_ids([1, 2]),
        window=Window(0, 1, "float32"),
    )
    save_checkpoint(tmp_path / "toy.safetensors", model, card)
    copy, _ = load_checkpoint(tmp_path / "toy.safetensors")
    assert np.array_equal(toys.whole_volume(copy, image), toys.whole_volume(model, image))

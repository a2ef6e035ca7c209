"""A training step takes no more memory than there is."""

from __future__ import annotations

import pytest
import torch

from learning import blocks, spec_for
from napari_memseg.errors import DeviceMemoryError
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.meunet import MeUNet
from napari_memseg.models.unet3d import UNet3d
from napari_memseg.training.config import TrainConfig
from napari_memseg.training.loop import train_phase
from napari_memseg.training.memory import BYTES_A_WEIGHT
from napari_memseg.workflows import room

LONG = (500, 500, 500)


@pytest.fixture
def free(monkeypatch):
    def have(gib):
        monkeypatch.setattr(room, "free_bytes", lambda: int(gib * room.GIB))

    return have


def unet(**how):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet3d(ClassTable.from_ids([7, 200]), widths=(4, 6), **how)


def config(**how):
    return TrainConfig(**{"steps": 1, "device": "cpu", "amp": False, **how})


def test_the_batch_of_the_recipe_stays_where_it_fits(free):
    free(100)
    model = unet()
    (phase,) = model.training_plan()
    assert room.batch_that_fits(model, phase, config(), LONG) == phase.recipe.batch


def test_fewer_patches_are_taken_where_memory_is_scarce(free):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MeUNet(ClassTable.from_ids([7, 200]), widths=(4, 6), standard=64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (phase,) = model.training_plan()
    found = []
    for gib in (4.0, 0.25, 0.12):
        free(gib)
        found.append(room.batch_that_fits(model, phase, config(), LONG))
    assert found[0] == phase.recipe.batch == 4
    assert found[0] > found[1] > found[2] >= 1
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("gib", "asked", "advice"), [(0.5, 64, r"--batch \d+, or a smaller"), (0.01, None, "Choose a")]
)
def test_what_cannot_fit_is_refused_with_what_can(free, gib, asked, advice):
    free(gib)
    model = unet()
    (phase,) = model.training_plan()
    with pytest.raises(DeviceMemoryError, match=advice):
        room.batch_that_fits(model, phase, config(batch=asked), LONG)


def test_the_forecast_is_what_a_step_takes(tmp_path, free):
    free(100)
    model, patch = unet(), (64, 64, 64)
    (phase,) = model.training_plan()
    forecast = room._bytes_of_a_patch(model, phase, patch, config(), torch.device("cpu"))
    spec = spec_for(model, tmp_path / "net.safetensors")
    how = config(patch=patch, batch=2)
    list(train_phase(model, phase, [blocks(patch)], [], spec.card.window, how, spec))
    taken = spec.publish(model, [phase.name]).training[phase.name]["memory_gib"] * room.GIB
    assert forecast == pytest.approx((taken - BYTES_A_WEIGHT * model.parameter_count) / 2, rel=0.1)

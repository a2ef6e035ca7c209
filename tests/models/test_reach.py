"""How far a network looks, found by changing one voxel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import toys
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.reach import Weights, effective_reach, exact_reach, round_up
from napari_memseg.models.registry import create_model
from napari_memseg.models.scn_parts import UNet

LEVELS = [1, 2, 3, 4, 5]


def transparent_unet(levels):
    """A U-Net that passes everything on: all weights positive, so that no ReLU hides a voxel."""
    model = toys.random_unet(levels, levels, widths=[1] * levels).double()
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm3d):
            module.reset_running_stats()
            nn.init.constant_(module.weight, 1 / 9)
            nn.init.zeros_(module.bias)
    return model


class Averaging(UNet):
    """A U-Net that averages and interpolates, where the other one takes maxima and repeats."""

    def __init__(self, levels):
        super().__init__(1, 1, 1, levels, 0.0)
        self.multiple = 2 ** (levels - 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.constant_(module.weight, 1 / 3)
        self.double().eval()


NETWORKS = [(kind, levels) for kind in (transparent_unet, Averaging) for levels in LEVELS]


@torch.inference_mode()
def measured_reach(model, length, changed):
    """Change single voxels of a line; tell how far before and behind itself an output saw them."""
    flat = torch.ones(1, 1, length, 1, 1, dtype=torch.float64)
    lines = flat.repeat(len(changed), 1, 1, 1, 1)
    for line, at in zip(lines, changed, strict=True):
        line[0, at] = 1e6
    differs = (model(lines) != model(flat)).any(1)[:, :, 0, 0]  # (changed, length)
    touched = [(at, line.nonzero().ravel()) for at, line in zip(changed, differs, strict=True)]
    low = max(int(out.max()) - at for at, out in touched)
    high = max(at - int(out.min()) for at, out in touched)
    return low, high


@pytest.mark.parametrize(("kind", "levels"), NETWORKS)
def test_the_exact_reach_is_where_a_changed_voxel_ends_to_matter(kind, levels):
    model = kind(levels)
    reach = exact_reach(model.trace, model.multiple)
    middle = round_up(max(reach) + model.multiple, model.multiple)
    changed = range(middle, middle + model.multiple)
    assert measured_reach(model, 2 * middle + model.multiple, changed) == reach


@pytest.mark.parametrize(("kind", "levels"), [one for one in NETWORKS if one[1] < 5])
def test_no_voxel_of_an_odd_end_looks_further(kind, levels):
    model = kind(levels)
    low, high = exact_reach(model.trace, model.multiple)
    length = round_up(3 * max(low, high), model.multiple)
    for remainder in range(model.multiple):
        end = length + remainder
        far_low, far_high = measured_reach(model, end, range(end - 2 * low - 1, end))
        assert far_low <= low
        assert far_high <= high


def test_the_published_reach_of_the_five_level_unet():
    model = create_model("unet3d", ClassTable.from_ids([1, 2]))
    assert exact_reach(model.trace, 16) == (107, 107)
    read = model.stages[0].reads[0]
    assert read.halo_exact.low == read.halo_exact.high == (112, 112, 112)
    assert model.stages[0].multiple == (16, 16, 16)


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_a_mean_and_a_line_through_it_weigh_as_they_do(length):
    line = torch.rand(1, 1, length, generator=torch.Generator().manual_seed(0))
    mean = F.avg_pool1d(line, min(2, length), ceil_mode=True)
    doubled = F.interpolate(mean, scale_factor=2, mode="linear", align_corners=False)[..., :length]
    weights = Weights.image(length)
    averaged = weights.average()
    np.testing.assert_allclose(averaged.share @ line[0, 0].numpy(), mean[0, 0], rtol=1e-5)
    np.testing.assert_allclose(
        averaged.interpolate(weights).share @ line[0, 0].numpy(), doubled[0, 0], rtol=1e-5
    )


@pytest.mark.parametrize("levels", LEVELS)
def test_the_recommended_halo_is_no_longer_than_the_exact_one(levels):
    model = toys.random_unet(0, levels)
    exact, effective = exact_reach(model.trace, model.multiple), effective_reach(model.trace, model.multiple)
    assert 0 < effective[0] <= exact[0]
    assert 0 < effective[1] <= exact[1]


@torch.inference_mode()
def test_the_recommended_halo_removes_most_of_the_error_of_none():
    model = toys.random_unet(1, 3)
    x = torch.rand(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(2))
    core = model(x)[..., 24:40, 24:40, 24:40]

    def error(halo):
        tile, inner = slice(24 - halo, 40 + halo), slice(halo, halo + 16)
        return float(
            (model(x[..., tile, tile, tile])[..., inner, inner, inner] - core).square().mean().sqrt()
        )

    recommended = model.stages[0].reads[0].halo_recommended.low[0]
    assert error(recommended) < error(0) / 3

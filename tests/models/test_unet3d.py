"""The plain U-Net: its published size, and volumes that do not divide."""

from __future__ import annotations

import pytest
import torch

import toys
from napari_memseg.errors import InputError
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.registry import create_model
from napari_memseg.models.unet3d import UNet3d

THREE = ClassTable.from_ids([1, 2])


def test_the_published_number_of_weights():
    assert create_model("unet3d", THREE).parameter_count == 2_512_515


def test_the_small_network_is_small():
    assert create_model("small", THREE).parameter_count < 100_000


def test_a_decoder_ends_with_the_width_of_the_level_above():
    model = UNet3d(THREE, widths=(2, 3, 5, 7))
    ends = [(block[0].in_channels, block[0].out_channels) for block in model.decoder]
    assert ends == [(5 + 7, 3), (3 + 3, 2), (2 + 2, 2)]
    assert model.head.in_channels == 2


@pytest.mark.parametrize("widths", [(4,), (4, 4), (2, 4, 6, 8, 8, 8)])
def test_width_and_depth_are_free_and_given_back(widths):
    model = UNet3d(THREE, widths=widths)
    assert UNet3d(THREE, **model.arguments).widths == widths
    assert model.multiple == 2 ** (len(widths) - 1)
    assert model.eval()(torch.rand(1, 1, 9, 10, 11)).shape == (1, 3, 9, 10, 11)


@pytest.mark.parametrize("widths", [(), (4,) * 9, (4, 0), (4, -1), (4.0, 8), "48", 3])
def test_impossible_widths_are_refused(widths):
    with pytest.raises(InputError, match="width"):
        create_model("unet3d", THREE, widths=widths)


@torch.inference_mode()
def test_an_axis_shorter_than_the_poolings_keeps_its_last_plane():
    model = toys.random_unet(0, 5)
    for shape in [(1, 1, 1), (1, 20, 3), (2, 15, 31)]:
        assert model(torch.rand(1, 1, *shape)).shape == (1, 3, *shape)


@torch.inference_mode()
def test_an_odd_end_leaves_the_grid_before_it_alone():
    """Resizing to the skip's size would shift all planes of an odd axis."""
    model = toys.random_unet(0, 3)
    even = torch.rand(1, 1, 64, 4, 4, generator=torch.Generator().manual_seed(0))
    odd = even[:, :, :63]
    near = slice(0, 63 - 24)
    torch.testing.assert_close(model(odd)[:, :, near], model(even)[:, :, near], rtol=1e-4, atol=1e-4)

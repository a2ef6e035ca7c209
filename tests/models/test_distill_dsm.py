"""Distill DSM: published counts, eight slices of reach, and what its modules hand on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import toys
from napari_memseg.errors import InputError
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.distill_dsm import Distill, DistillDSM, Shift, ShiftUNet, UNet2d
from napari_memseg.models.reach import Span, exact_reach
from napari_memseg.models.registry import create_model

THREE = ClassTable.from_ids([1, 2])
MODULES = (32, 64, 128, 128, 128, 64, 32, 16)
"""Channels on which they sit."""


def weights(module):
    return sum(p.numel() for p in module.parameters())


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def narrow(**arguments):
    """A narrow network in eval mode, as if it had been trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DistillDSM(THREE, widths=(8,) * 5, **arguments)
        toys.randomise(model)
    return model


# --- published numbers


@pytest.mark.parametrize(
    ("channels", "arguments", "count"),
    [
        ((4, 3), {"shift": "none"}, 1_082_211),
        ((4, 3), {"shift": "residual"}, 1_082_211),
        ((1, 2), {"alpha": 0.5}, 1_216_266),
        ((2, 2), {"alpha": 0.25}, 1_115_606),
        ((2, 2), {"alpha": 1.0}, 1_619_330),
        ((4, 3), {"alpha": 0.5}, 1_216_715),
        ((1, 1), {"alpha": 0.5}, 1_216_249),
        ((1, 3), {"alpha": 0.5}, 1_216_283),
        ((1, 2), {"shift": "none"}, 1_081_762),
    ],
)
def test_as_many_weights_as_published_or_counted(channels, arguments, count):
    assert weights(ShiftUNet(*channels, **arguments)) == count


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("channels", [(1, 2), (3, 5)])
def test_the_closed_form_of_the_number_of_weights(alpha, channels):
    came, went = channels
    modules = sum(9 * (alpha * c) ** 2 + alpha * c for c in MODULES)
    assert weights(ShiftUNet(*channels, alpha=alpha)) == 1_081_584 + 144 * came + 17 * went + modules


def test_the_networks_by_name_have_one_channel_in_and_one_a_class_out():
    assert create_model("distill_dsm", THREE).parameter_count == 1_216_283
    assert create_model("unet2d", THREE).parameter_count == 1_081_584 + 144 + 17 * 3


@torch.inference_mode()
def test_the_published_multiply_adds_of_the_2d_unet():
    """38,662 a voxel in print, all but 0.06 % of them in convolutions."""
    net, done = ShiftUNet(4, 3, shift="none").eval(), []

    def count(conv, _, output):
        done.append(conv.weight[0].numel() * output.numel())

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    net(rand(2, 4, 32, 16), 2)
    per_voxel = sum(done) / (2 * 32 * 16)
    assert per_voxel == 38_640
    assert per_voxel == pytest.approx(38_662, rel=1e-3)


def test_the_published_reach_in_the_plane():
    """328 pixels in all: at the worst place 167 before a pixel and 160 behind it."""
    model = DistillDSM(THREE)
    assert exact_reach(model.trace, 16) == (167, 167)
    seen = model.trace(Span.image(1024))
    here = 512 + max(range(16), key=lambda n: 512 + n - seen.low[512 + n])
    assert (here - seen.low[here], seen.high[here] - here) == (167, 160)


@pytest.mark.parametrize("arguments", [{"shift": "none"}, {"shift": "plain"}, {"alpha": 0.0}])
def test_without_convolutions_between_slices_the_reach_is_shorter(arguments):
    assert exact_reach(DistillDSM(THREE, **arguments).trace, 16) == (122, 122)


@torch.inference_mode()
def test_samples_of_a_batch_know_nothing_of_each_other():
    model, image = narrow(), rand(2, 1, 10, 16, 16)
    alone = torch.cat([model(one) for one in image.split(1)])
    torch.testing.assert_close(model(image), alone, rtol=1e-4, atol=1e-4)


# --- modules


@torch.inference_mode()
def test_a_module_keeps_half_and_hands_a_quarter_to_each_side():
    module, slices = Distill(8), rand(5, 12, 6, 6)
    out = module(slices, 5)
    kept, back, forth = module.conv(slices[:, 4:]).tensor_split([4, 6], 1)
    assert torch.equal(out[:, :4], slices[:, :4])
    assert torch.equal(out[:, 4:8], kept)
    assert torch.equal(out[:-1, 8:10], back[1:])
    assert torch.equal(out[1:, 10:], forth[:-1])
    assert not out[-1, 8:10].any()
    assert not out[0, 10:].any()


def test_a_plain_shift_replaces_and_a_residual_one_adds():
    slices = rand(4, 8, 2, 2)
    plain, residual = (Shift(4, residual=adds)(slices, 4) for adds in (False, True))
    assert torch.equal(plain[:, :4], slices[:, :4])
    assert torch.equal(plain[:-1, 4:6], slices[1:, 4:6])
    assert torch.equal(plain[1:, 6:], slices[:-1, 6:])
    assert not plain[-1, 4:6].any()
    assert not plain[0, 6:].any()
    assert torch.equal(residual[:, :4], slices[:, :4])
    assert torch.equal(residual[:, 4:], slices[:, 4:] + plain[:, 4:])


@pytest.mark.parametrize("residual", [False, True])
def test_shifts_have_no_weights(residual):
    assert not list(Shift(8, residual=residual).parameters())


def test_without_a_share_of_the_channels_it_is_the_2d_unet():
    distilled, plain = narrow(alpha=0.0), UNet2d(THREE, widths=(8,) * 5).eval()
    plain.load_state_dict(distilled.state_dict())
    image = rand(1, 1, 5, 20, 21)
    with torch.inference_mode():
        assert torch.equal(distilled(image), plain(image))
    assert distilled.parameter_count == plain.parameter_count


# --- tiles, and arguments


@torch.inference_mode()
def scores_of_whole_and_tile(model):
    """Return scores of the same 32 columns, from whole slices and from a tile with 176 columns more."""
    image = rand(1, 1, 2, 16, 480)
    return model(image)[..., :32], model(image[..., :208])[..., :32]


def test_published_interpolation_depends_on_the_size_of_a_tile_and_ours_does_not():
    ours, published = (scores_of_whole_and_tile(narrow(align_corners=aligned)) for aligned in (False, True))
    torch.testing.assert_close(*ours, rtol=1e-4, atol=1e-4)
    assert (published[0] - published[1]).abs().max() > 1e-2


@torch.inference_mode()
def test_an_odd_end_leaves_the_grid_before_it_alone():
    model, even = narrow(), rand(1, 1, 2, 4, 512)
    near, odd = slice(0, 511 - 176), even[..., :511]
    torch.testing.assert_close(model(odd)[..., near], model(even)[..., near], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", ["distill", "residual", "plain", "none"])
def test_arguments_are_given_back(shift):
    model = DistillDSM(THREE, shift=shift, alpha=1, widths=(4, 8), axes="yx", align_corners=True)
    again = DistillDSM(THREE, **model.arguments)
    assert again.arguments == model.arguments
    assert again.multiple == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"shift": "shuffle"}, "distill, residual, plain, none"),
        ({"alpha": 1.5}, "alpha"),
        ({"alpha": "half"}, "alpha"),
        ({"alpha": 0.3}, "multiple of 4"),
        ({"widths": (8, 12)}, "multiple of 4"),
        ({"widths": ()}, "width"),
        ({"widths": (16.0,)}, "width"),
    ],
)
def test_impossible_arguments_are_refused(arguments, named):
    with pytest.raises(InputError, match=named):
        create_model("distill_dsm", THREE, **arguments)


def test_the_2d_unet_takes_any_width():
    assert UNet2d(THREE, widths=(3, 5)).eval()(rand(1, 1, 2, 5, 7)).shape == (1, 3, 2, 5, 7)


# --- loss


def test_the_loss_is_one_minus_the_dice_of_the_labelled_classes():
    model, labels = narrow(), torch.tensor([0, 0, 2, -1]).reshape(1, 1, 2, 2)
    perfect = 50.0 * nn.functional.one_hot(labels.clamp(min=0), 3).movedim(-1, 1)
    assert float(model.compare((perfect,), labels)) == pytest.approx(0, abs=1e-4)
    even = torch.zeros(1, 3, 1, 2, 2)
    dices = [2 * (2 / 3) / (3 / 3 + 2), 2 * (1 / 3) / (3 / 3 + 1)]
    assert float(model.compare((even,), labels)) == pytest.approx(1 - sum(dices) / 2, abs=1e-4)

"""Volumes as slices: orientations, what passes between neighbours, ends, and learning."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import toys
from napari_memseg.errors import InputError
from napari_memseg.models.base import Batch
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.distill_dsm import DistillDSM, UNet2d
from napari_memseg.models.reach import exact_reach, round_up
from napari_memseg.models.sau_net import SAUNet
from napari_memseg.models.slicewise import (
    SliceNorm,
    crop_or_replicate,
    from_next,
    from_previous,
    from_slices,
    halve_slices,
    to_slices,
)
from running import labels_of, noise, plan_of, run

THREE = ClassTable.from_ids([1, 2])


def net(axes="z", *, train=False):
    """Return a network of two narrow levels, with the same weights whatever its axes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trained = DistillDSM(THREE, widths=(8, 8))
        toys.randomise(trained)
    model = DistillDSM(THREE, axes=axes, widths=(8, 8))
    model.load_state_dict(trained.state_dict())
    return model.train(train)


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# --- slices of a volume


@pytest.mark.parametrize(("axis", "plane"), [("z", "yx"), ("y", "xz"), ("x", "zy")])
def test_an_axis_becomes_the_slices_and_comes_back(axis, plane):
    volume = rand(2, 3, 4, 5, 6)
    stacks = to_slices(volume, axis)
    assert torch.equal(stacks, torch.einsum(f"nczyx->n{axis}c{plane}", volume))
    assert torch.equal(from_slices(stacks, axis), volume)


def test_neighbours_hand_on_inside_their_own_stack_and_zeros_come_from_beyond():
    slices = torch.arange(1.0, 7.0).reshape(6, 1, 1, 1)  # two stacks of three
    assert from_previous(slices, 3).ravel().tolist() == [0, 1, 2, 0, 4, 5]
    assert from_next(slices, 3).ravel().tolist() == [2, 3, 0, 5, 6, 0]
    assert not from_previous(slices, 1).any()
    assert not from_next(slices, 1).any()


def test_a_short_axis_stays_and_an_odd_one_is_replicated():
    assert halve_slices(rand(1, 1, 1, 5)).shape == (1, 1, 1, 2)
    small, like = rand(1, 1, 2, 4), rand(1, 2, 3, 3)
    fitted = crop_or_replicate(small, like)
    assert torch.equal(fitted[:, :, :2], small[..., :3])
    assert torch.equal(fitted[:, :, 2], fitted[:, :, 1])


def test_the_norm_of_a_single_value_is_that_of_the_running_statistics():
    norm = SliceNorm(2).train()
    norm.running_mean += 1
    single = rand(1, 2, 1, 1)
    close(norm(single), (single - 1) / (1 + norm.eps) ** 0.5)
    many = rand(4, 2, 3, 3)
    close(norm(many), F.batch_norm(many, None, None, training=True))


# --- orientations


@pytest.mark.parametrize("axes", ["", "zz", "w", "zyxz", 3, ["z"]])
def test_impossible_axes_are_refused(axes):
    with pytest.raises(InputError, match="sliced along"):
        DistillDSM(THREE, axes=axes)


@pytest.mark.parametrize("axis", ["z", "y", "x"])
@torch.inference_mode()
def test_slicing_along_another_axis_is_turning_the_volume(axis):
    image = rand(1, 1, 6, 7, 8)
    turned = to_slices(image, axis).movedim(2, 1)  # that axis as z
    scores = net("z")(turned)
    close(net(axis)(image), from_slices(scores.movedim(1, 2), axis))


@torch.inference_mode()
def test_three_orientations_are_the_mean_of_their_probabilities():
    image = rand(2, 1, 6, 7, 8)
    single = [net(axis)(image).softmax(1) for axis in "zyx"]
    scores = net("zyx")(image)
    close(scores.exp(), torch.stack(single).mean(0))
    close(net("xz")(image).exp(), (single[0] + single[2]) / 2)


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 0, 1)])
@torch.inference_mode()
def test_three_orientations_turn_with_the_volume(order):
    image, model = rand(1, 1, 6, 7, 8), net("zyx")
    axes = (0, 1, *(2 + axis for axis in order))
    close(model(image.permute(axes)), model(image).permute(axes))


def test_the_order_of_the_axes_is_no_matter():
    image = rand(1, 1, 4, 5, 6)
    with torch.inference_mode():
        first, *others = (net("".join(axes))(image) for axes in permutations("zyx"))
    for scores in others:
        close(scores, first)


# --- grid, halo and patch


@pytest.mark.parametrize(
    ("axes", "multiple", "halo", "patch"),
    [
        ("z", (1, 16, 16), (8, 176, 176), (16, 128, 128)),
        ("y", (16, 1, 16), (176, 8, 176), (128, 16, 128)),
        ("x", (16, 16, 1), (176, 176, 8), (128, 128, 16)),
        ("zx", (16, 16, 16), (176, 176, 176), (64, 64, 64)),
        ("zyx", (16, 16, 16), (176, 176, 176), (64, 64, 64)),
    ],
)
def test_grid_halo_and_patch_follow_the_axes(axes, multiple, halo, patch):
    model = DistillDSM(THREE, axes=axes)
    (stage,), (phase,) = model.stages, model.training_plan()
    (read,) = stage.reads
    assert stage.multiple == multiple
    assert read.halo_exact.low == read.halo_exact.high == halo
    assert phase.sample.patch == patch
    assert model.ndim == 2


def test_the_recommended_halo_is_whole_in_depth_and_shorter_in_the_plane():
    (read,) = DistillDSM(THREE).stages[0].reads
    z, y, x = read.halo_recommended.low
    assert z == 8
    assert 0 < y == x < 176


@pytest.mark.parametrize("axes", ["y", "zyx"])
def test_tiles_with_exact_halos_are_crops_of_the_whole_for_any_axes(axes, tmp_path):
    model, data = net(axes), noise((50, 37, 41))
    plan = plan_of(model, data, tmp_path, tile=(16, 16, 16), halo="exact", chunk=16)
    assert plan.exact
    run(plan, data)
    scores = toys.whole_volume(model, data)
    second, best = np.sort(scores, 0)[-2:]
    wrong = labels_of(plan) != np.asarray(THREE.ids)[scores.argmax(0)]
    assert not (wrong & (best - second > 1e-4)).any()


# --- reach, found by changing one slice or one pixel

LOOK = {
    "distill": (lambda: DistillDSM(THREE, widths=(4,) * 5, alpha=1), 8),
    "residual": (lambda: DistillDSM(THREE, widths=(4,) * 5, alpha=1, shift="residual"), 8),
    "plain": (lambda: DistillDSM(THREE, widths=(8,) * 5, shift="plain"), 8),
    "sau": (lambda: SAUNet(THREE, width=1), 1),
    "features": (lambda: SAUNet(THREE, width=1, attention="features"), 1),
    "unet2d": (lambda: UNet2d(THREE, widths=(2,) * 5), 0),
}
"""Networks, and how many slices they look to either side."""


@pytest.fixture(params=LOOK)
def transparent(request):
    """A network that passes everything on: all weights positive, so that no ReLU hides a change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LOOK[request.param][0]().double().eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                most = 2 / module.weight[0].numel()
                nn.init.uniform_(module.weight, most / 2, most)
                nn.init.zeros_(module.bias)
    return model, LOOK[request.param][1]


@torch.inference_mode()
def changes(model, flat, other):
    """Return where scores differ, over all classes."""
    return (model(other) != model(flat)).any(1)


@pytest.mark.parametrize("at", [0, 1, 11, 23])
def test_a_changed_slice_matters_as_far_as_the_depth_says_and_does_not_wrap_around(transparent, at):
    model, depth = transparent
    assert model.depth == depth
    flat = torch.full((1, 1, 24, 16, 16), 0.1, dtype=torch.float64)
    other = flat.clone()
    other[:, :, at] = 0.2
    differs = changes(model, flat, other)[0].flatten(1).any(1).nonzero().ravel().tolist()
    assert differs == [n for n in range(24) if abs(n - at) <= depth]


def test_a_changed_pixel_matters_as_far_as_the_trace_says(transparent):
    model, _ = transparent
    reach = exact_reach(model.trace, 16)
    start = round_up(max(reach) + 16, 16)
    changed = range(start, start + 16)
    flat = torch.ones(16, 1, 1, 1, 2 * start + 16, dtype=torch.float64)
    lines = flat.clone()
    lines[range(16), 0, 0, 0, changed] = 1e9
    touched = [line.nonzero().ravel() for line in changes(model, flat, lines).flatten(1)]
    low = max(int(out.max()) - at for at, out in zip(changed, touched, strict=True))
    high = max(at - int(out.min()) for at, out in zip(changed, touched, strict=True))
    assert (low, high) == reach


# --- learning


def test_in_training_one_orientation_is_drawn_and_the_seed_says_which():
    image, model = rand(2, 1, 6, 8, 10), net("zyx", train=True)
    alone = {axis: net(axis, train=True)(image) for axis in "zyx"}

    def drawn(seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            scores = model(image)
        return next(axis for axis, own in alone.items() if torch.allclose(scores, own, atol=1e-5))

    axes = [drawn(seed) for seed in range(12)]
    assert set(axes) == set("zyx")
    assert axes == [drawn(seed) for seed in range(12)]


def test_validation_looks_along_all_axes():
    image, model = rand(1, 1, 8, 8, 8), net("zyx")
    (phase,) = model.training_plan()
    loss = phase.step(Batch(image=image, labels=torch.ones(1, 8, 8, 8, dtype=torch.long)))
    close(loss.scores, model(image))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 3), (5, 1, 16)])
def test_the_smallest_patches_can_be_learned_from(shape):
    model = UNet2d(THREE, widths=(8,) * 5).train()
    (phase,) = model.training_plan()
    labels = torch.ones(1, *shape, dtype=torch.long)
    phase.step(Batch(image=rand(1, 1, *shape), labels=labels)).value.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())

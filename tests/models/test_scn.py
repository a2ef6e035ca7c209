"""The SpatialConfiguration-Net: its published numbers, who sees what, and its two modes."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import toys
from learning import WINDOW, blocks
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.io.halving import halve_mean
from napari_memseg.models.base import SCORES, Batch, Overview, Where
from napari_memseg.models.blocks import double_linear
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.losses import masked_sigmoid_cross_entropy
from napari_memseg.models.reach import Span, exact_reach
from napari_memseg.models.registry import create_model
from napari_memseg.models.scn import Scn
from napari_memseg.models.scn_crop import (
    MOST_LOCALISED,
    MOST_SEGMENTED,
    enlarge,
    fit_area,
    fitted,
    pack,
    unpack,
    vector_length,
)
from napari_memseg.models.scn_parts import (
    SpatialNets,
    UNet,
    centred,
    cubic_weights,
    doubt,
    fuse,
    log_shares,
    pad_to,
    penalty,
    quadruple_cubic,
    quarter,
    salt_and_pepper,
)
from napari_memseg.models.scn_training import generalised_dice
from napari_memseg.training.label_index import index_labels
from napari_memseg.training.optimisation import only_training, set_training_mode
from napari_memseg.training.patches import PatchSampler
from running import expected, labels_of, noise, plan_of, run

TWO, THREE, FIVE = (ClassTable.from_ids(range(1, n)) for n in (2, 3, 5))
THIN = {"widths": (3, 2), "levels": (3, 2)}


def thin(seed=0, classes=THREE, **arguments):
    """A network of few channels and levels, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Scn(classes, **{**THIN, **arguments}).eval()


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def count(module):
    return sum(p.numel() for p in module.parameters())


# What is published.


def test_the_published_number_of_weights():
    model = create_model("scn", FIVE)
    assert model.parameter_count == 1_270_090
    assert count(model.network.local) == 637_573
    assert count(model.network.spatial) == 632_517


def test_the_localisation_network_comes_on_top():
    model = create_model("scn", FIVE, mode="crop")
    assert count(model.localiser) == 637_474
    assert model.parameter_count == 1_270_090 + 637_474


@pytest.mark.parametrize(("n", "weights"), [(2, 888_148), (3, 1_014_598), (5, 1_270_090), (10, 1_923_940)])
def test_the_number_of_weights_for_any_number_of_labels(n, weights):
    model = create_model("scn", ClassTable.from_ids(range(1, n)))
    assert model.parameter_count == weights
    assert weights == 637_408 + 33 * n + 124_689 * n + 432 * (n + (n - 1) ** 2)


@torch.inference_mode()
def test_the_published_number_of_operations_at_32_voxels():
    total = 0

    def multiply_adds(module, inputs, output):
        nonlocal total
        total += output[0, 0].numel() * module.weight.numel()

    model = create_model("scn", FIVE).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(multiply_adds)
    model.network(rand(1, 1, 32, 32, 32))
    assert total == 4_392_219_648
    assert 2 * total == pytest.approx(8_797_627_020, rel=0.002)


def test_the_published_reach():
    network = create_model("scn", FIVE).network
    assert exact_reach(network.local.trace, 16) == (154, 154)
    assert widest(network.local.trace, 16) == 300
    assert exact_reach(network.spatial.trace, 8) == (74, 74)
    assert widest(network.spatial.trace, 8) == 148


def widest(trace, multiple):
    """Return how many voxels one voxel sees, itself included; one at an end of a cell sees most."""
    span = trace(Span.image(64 * multiple))
    cell = slice(32 * multiple, 33 * multiple)
    return int((span.high - span.low)[cell].max()) + 1


def test_halos_are_whole_cells_of_each_network():
    local, spatial, fusion = create_model("scn", FIVE).stages
    assert [stage.multiple for stage in (local, spatial, fusion)] == [(16,) * 3, (32,) * 3, (16,) * 3]
    assert [read.halo_exact.low[0] for read in local.reads] == [160]
    assert [read.halo_exact.high[0] for read in spatial.reads] == [80, 80]
    assert [read.halo_exact.low[0] for read in fusion.reads] == [160, 2]
    assert local.reads[0].halo_recommended.low[0] <= 48


def test_weights_begin_as_he_et_al_have_them():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv = UNet(1, 2, 32, 1, 0.0).contracting[0][3].requires_grad_(False)
    assert float(conv.weight.std()) == pytest.approx((2 / (32 * 27)) ** 0.5, rel=0.02)
    assert float(conv.weight.abs().max()) < 2.3 * float(conv.weight.std())
    assert not conv.bias.any()


# Who sees what.


@torch.inference_mode()
@pytest.mark.parametrize("label", range(4))
def test_a_label_is_placed_by_the_maps_of_the_others(label):
    nets = SpatialNets(4, 3, 2, 0.0)
    image, maps = rand(1, 1, 6, 6, 6), rand(1, 4, 6, 6, 6, seed=1)
    before = nets(image, maps)[:, label]
    for changed in range(4):
        other = maps.clone()
        other[:, changed] = 1 - other[:, changed]
        same = torch.equal(nets(image, other)[:, label], before)
        assert same == (changed in (0, label)), changed


def test_the_spatial_part_teaches_the_local_one_nothing():
    model = thin()
    _, spatial = model.logits(rand(1, 1, 16, 16, 16))
    weights = list(model.network.local.parameters())
    assert all(g is None for g in torch.autograd.grad(spatial.sum(), weights, allow_unused=True))


def test_of_two_labels_the_second_is_placed_by_the_image_alone():
    model = thin(classes=TWO)
    assert [net.contracting[0][0].in_channels for net in model.network.spatial.nets] == [2, 1]
    assert toys.whole_volume(model, noise((9, 10, 11))).shape == (2, 9, 10, 11)


def test_maps_are_disturbed_while_the_network_learns_and_only_then():
    model, image = thin(dropout=0.0), rand(1, 1, 16, 16, 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        (local, spatial), (local_again, spatial_again) = (model.train().logits(image) for _ in range(2))
    torch.testing.assert_close(local, local_again)
    assert not torch.equal(spatial, spatial_again)
    torch.testing.assert_close(model.eval().logits(image), model.logits(image))


def test_salt_and_pepper_is_black_and_white_and_rare():
    grey = torch.full((1, 4, 32, 32, 32), 0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        noisy = salt_and_pepper(grey, 0.01)
    shares = [float((noisy == value).float().mean()) for value in (0.0, 0.5, 1.0)]
    assert sum(shares) == pytest.approx(1)
    assert shares[1] == pytest.approx(0.99**4, abs=0.01)
    assert shares[0] == pytest.approx(shares[2], abs=0.01)


# Fusion, and the ways up and down.


def test_an_undecided_spatial_part_leaves_it_to_the_local_one():
    local = 3 * rand(1, 3, 4, 4, 4) - 1
    y = local.sigmoid()
    torch.testing.assert_close(fuse(local, torch.zeros_like(local)), y / y.sum(1, keepdim=True))


@pytest.mark.parametrize("sure", [40.0, 1000.0])
def test_a_sure_spatial_part_is_believed(sure):
    local = 9 * rand(1, 3, 4, 4, 4) - 4
    spatial = torch.full_like(local, -sure)
    spatial[:, 1] = sure
    expected_share = torch.zeros_like(local)
    expected_share[:, 1] = 1
    torch.testing.assert_close(fuse(local, spatial), expected_share)


def test_doubt_is_an_entropy_in_bits():
    q = torch.tensor([0.5, 0.25, 0.9])
    bits = -(q * q.log2() + (1 - q) * (1 - q).log2())
    torch.testing.assert_close(doubt(torch.logit(q)), bits)
    assert doubt(torch.tensor([0.0, 1e4, -1e4])).tolist() == [1, 0, 0]


def test_the_softmax_of_scores_is_the_fused_share():
    shares = fuse(rand(1, 5, 3, 3, 3), rand(1, 5, 3, 3, 3, seed=1))
    torch.testing.assert_close(log_shares(shares).softmax(1), shares)
    assert log_shares(torch.zeros(1)).isfinite().all()


def test_cubic_weights_are_a_kernel_at_eighths():
    weights = np.array(cubic_weights())
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights, weights[::-1, ::-1])
    cells = np.arange(-2, 3)
    np.testing.assert_allclose(weights @ cells, (2 * np.arange(4) - 3) / 8)
    np.testing.assert_allclose(weights @ cells**2, ((2 * np.arange(4) - 3) / 8) ** 2, atol=1e-12)


def test_cubic_upsampling_continues_a_slope():
    slope = torch.arange(8.0)
    cells = (slope[:, None, None] + 10 * slope[:, None] - 3 * slope)[None, None]
    fine = (torch.arange(32.0) + 0.5) / 4 - 0.5
    expected_slope = fine[:, None, None] + 10 * fine[:, None] - 3 * fine
    inner = (..., *[slice(8, -8)] * 3)
    torch.testing.assert_close(quadruple_cubic(cells)[0, 0][inner], expected_slope[inner])


@pytest.mark.parametrize("start", [0, 3, 8])
def test_cubic_upsampling_needs_two_cells_around(start):
    cells = rand(1, 1, 1, 1, 12)
    tile = quadruple_cubic(cells[..., max(start - 2, 0) : start + 4 + 2])
    offset = 4 * min(start, 2)
    whole = quadruple_cubic(cells)[..., 4 * start : 4 * start + 16]
    torch.testing.assert_close(tile[..., offset : offset + whole.shape[-1]], whole)


@pytest.mark.parametrize("shape", [(8, 8, 8), (5, 6, 7), (1, 2, 3)])
def test_cells_are_those_of_the_image_twice_halved(shape):
    image = noise(shape)
    np.testing.assert_allclose(
        quarter(torch.from_numpy(image)[None, None])[0, 0], halve_mean(halve_mean(image)), rtol=1e-5
    )


def test_an_odd_end_leaves_the_grid_before_it_alone():
    x = rand(1, 2, 4, 4, 4)
    odd, even = double_linear(x, (7, 8, 5)), double_linear(x, (8, 8, 8))
    assert odd.shape == (1, 2, 7, 8, 5)
    assert torch.equal(odd, even[:, :, :7, :, :5])


def test_the_middle_of_the_window_is_zero_to_the_u_nets():
    assert centred(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1, 0, 1]
    models = [thin(), thin(mode="crop")]
    nets = [net for model in models for net in (model.network.local, *model.network.spatial.nets)]
    seen = []
    for net in (*nets, models[1].localiser):
        net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, :1]))
    for model in models:
        toys.whole_volume(model, np.zeros((16, 16, 16), np.float32))
        model.logits(torch.zeros(1, 1, 16, 16, 16))
    assert len(seen) == 4 + 1 + 4 + 1 + 4 + 4
    assert all((image == -1).any() and ((image == -1) | (image == 0)).all() for image in seen)


# Losses and recipes.


def test_the_recipes_are_the_published_ones():
    phases = thin(mode="crop").training_plan()
    assert [phase.recipe.learning_rate for phase in phases] == [1e-5, 1e-4]
    for recipe in (phase.recipe for phase in phases):
        assert (recipe.optimizer, recipe.schedule, recipe.batch) == ("adam", "constant", 1)
        assert (recipe.average, recipe.weight_decay) == (0.999, 0)


def test_the_penalty_is_on_the_squares_of_3_x_3_x_3_kernels_alone():
    net = thin().network.local
    penalty(net).backward()
    for p in net.parameters():
        if p.shape[2:] == (3, 3, 3):
            torch.testing.assert_close(p.grad, 2e-6 * p.detach())
        else:
            assert p.grad is None


def test_generalised_dice_weighs_small_labels_up():
    labels = torch.tensor([0, 0, 0, 1]).view(1, 1, 1, 4)
    shares = torch.tensor([[0.8, 0.8, 0.8, 0.4], [0.2, 0.2, 0.2, 0.6]]).view(1, 2, 1, 1, 4)
    weights = [1 / (9 + 1e-4), 1 / (1 + 1e-4)]
    both = weights[0] * 2.4 + weights[1] * 0.6
    either = weights[0] * (3 + 3 * 0.64 + 0.16) + weights[1] * (1 + 3 * 0.04 + 0.36)
    assert float(generalised_dice(shares, labels)) == pytest.approx(1 - 2 * both / either)


def test_a_perfect_answer_costs_nothing():
    labels = torch.tensor([0, 1, 2, 2]).view(1, 1, 2, 2)
    shares = F.one_hot(labels, 4).movedim(-1, 1).float()  # the fourth label does not occur
    assert float(generalised_dice(shares, labels)) == pytest.approx(0, abs=1e-6)
    assert float(masked_sigmoid_cross_entropy(200 * shares - 100, labels)) == pytest.approx(0, abs=1e-6)


def test_an_undecided_answer_costs_one_bit_a_label():
    assert float(
        masked_sigmoid_cross_entropy(torch.zeros(1, 3, 2, 2, 2), torch.zeros(1, 2, 2, 2).long())
    ) == (pytest.approx(log(2)))


def test_without_a_channel_of_its_own_background_is_none_of_the_others():
    labels = torch.tensor([[0, 1, 2]])
    logits = rand(1, 2, 3)
    both = torch.tensor([[[0.0, 1, 0], [0, 0, 1]]])
    expected_loss = F.binary_cross_entropy_with_logits(logits, both)
    torch.testing.assert_close(masked_sigmoid_cross_entropy(logits, labels, first=1), expected_loss)


@pytest.mark.parametrize("loss", [generalised_dice, masked_sigmoid_cross_entropy])
def test_where_nobody_has_an_opinion_nothing_is_learned(loss):
    labels = torch.tensor([0, 1, -1, -1]).view(1, 1, 2, 2)
    values = rand(1, 2, 1, 2, 2)
    spoiled = values.masked_fill((labels == -1)[:, None], torch.nan).requires_grad_()
    value = loss(spoiled, labels)
    value.backward()
    assert float(value.detach()) == pytest.approx(float(loss(values, labels)))
    assert not spoiled.grad[:, :, labels[0] == -1].any()
    assert spoiled.grad[:, :, labels[0] != -1].all()
    assert float(loss(values, torch.full_like(labels, -1))) == 0


# Mode "crop".


def seeing(threshold, **arguments):
    """A network whose first part passes grey values on: what is above a threshold is foreground, label 1."""
    model = thin(mode="crop", widths=(1, 1), levels=(1, 1), **arguments)
    for net in (model.localiser, model.network.local):
        for block in (*net.contracting, *net.expanding):
            for conv in (block[0], block[3]):
                nn.init.zeros_(conv.weight)
                conv.weight.data[0, 0, 1, 1, 1] = 1
        first = net.contracting[0][0]  # which undoes what is done to grey values
        first.weight.data *= 0.5
        first.bias.data += 0.5
    _answer(model.localiser.head, (-50, 50), threshold)
    _answer(model.network.local.head, (-50, 50, 0), threshold)
    model.network.local.head.bias.data[2] = -50
    for net in model.network.spatial.nets:
        nn.init.zeros_(net.head.weight)
    return model


def _answer(head, slopes, threshold):
    head.weight.data[:, 0, 0, 0, 0] = torch.tensor(slopes).float()
    head.bias.data[:] = -threshold * torch.tensor(slopes)


def bright_box(shape, box):
    data = np.zeros(shape, np.float32)
    data[box.slices] = 1
    return data


BRIGHT = Box((10, 20, 31), (24, 29, 40))


def test_the_bright_box_in_an_empty_volume_is_found(tmp_path):
    model, data = seeing(0.5), bright_box((41, 50, 63), BRIGHT)
    arrays = toys.all_arrays(model, data)
    assert (arrays[SCORES].argmax(0) == (data > 0.5)).all()
    outside = np.ones(data.shape, bool)
    outside[BRIGHT.grow((8, 8, 8)).slices] = False
    assert (arrays[SCORES][0][outside] == 0).all()
    assert (arrays[SCORES][1:, outside] < -18).all()
    plan = plan_of(model, data, tmp_path, tile=(16, 16, 16), confidence=True)
    run(plan, data)
    assert (labels_of(plan) == expected(model, data)).all()


@torch.inference_mode()
def test_the_box_has_a_margin_and_stays_in_the_volume():
    model, shape = seeing(0.5), (41, 50, 63)
    for box in (BRIGHT, Box((0, 0, 0), (3, 3, 3)), Box((38, 47, 60), shape)):
        half = halved(bright_box(shape, box))
        found = model.find_foreground(half, shape)
        assert found.contains(box.grow((5, 5, 5)).clip(shape))
        assert box.grow((9, 9, 9)).clip(shape).contains(found)


def halved(data):
    return toys.halve(torch.from_numpy(data)[None, None])


@torch.inference_mode()
def test_where_no_foreground_is_found_everything_is_segmented():
    shape = (20, 21, 22)
    assert seeing(2.0).find_foreground(torch.ones(1, 1, 10, 11, 11), shape) == Box.whole(shape)


@torch.inference_mode()
def test_no_network_sees_more_than_fits():
    """Memory of activations is bounded, whatever the volume."""
    seen = {}
    model = seeing(0.5)
    for net in (model.localiser, model.network):
        net.register_forward_pre_hook(lambda net, inputs: seen.__setitem__(net, inputs[0].shape[2:]))
    scores = toys.whole_volume(model, np.ones((30, 192, 60), np.float32))
    assert scores.shape == (3, 30, 192, 60)
    assert (scores.argmax(0) == 1).all()
    assert seen[model.localiser] == (12, MOST_LOCALISED[1], 28)
    assert seen[model.network] == (20, MOST_SEGMENTED[1], 40)


def test_what_would_be_shrunk_too_much_is_refused_with_a_level_to_take():
    with pytest.raises(InputError, match=r"12 x 600 x 8 .* 160 x 128 x 160.*1\.5.*coarser by 2"):
        toys.whole_volume(seeing(0.5), np.ones((12, 600, 8), np.float32))


def test_the_overview_takes_the_room_of_the_largest_crop_whatever_the_volume():
    overview, _ = thin(mode="crop").stages
    (writes,) = overview.writes
    assert (writes.vector, writes.dtype) == (True, "float32")
    assert writes.channels == vector_length(3) == 6 + 3 * 160 * 128 * 160


CROPPED = Box((3, 40, 7), (41, 231, 19))


def crop_of(box):
    return fuse(rand(1, 3, *fitted(box.shape, MOST_SEGMENTED)), torch.zeros(1))[0]


def test_a_vector_holds_a_crop_and_where_it_lies():
    shape, shares = (50, 240, 20), crop_of(CROPPED)
    found, box = unpack(pack(shares, CROPPED, shape), 3, shape)
    assert box == CROPPED
    assert torch.equal(found, shares)


def test_a_vector_of_zeros_is_read_as_well():
    shares, box = unpack(torch.zeros(vector_length(3)), 3, (50, 240, 20))
    assert box == Box.whole((50, 240, 20))
    assert log_shares(enlarge(shares, box, Box((0, 0, 0), (5, 5, 5)))).isfinite().all()


def test_a_crop_is_enlarged_linearly_and_is_background_around():
    shares, whole = crop_of(CROPPED), Box.whole((50, 240, 20))
    found = enlarge(shares, CROPPED, whole)
    linear = F.interpolate(shares[None], size=CROPPED.shape, mode="trilinear", align_corners=False)[0]
    torch.testing.assert_close(found[(..., *CROPPED.slices)], linear)
    found[(..., *CROPPED.slices)] = torch.tensor([1.0, 0, 0])[:, None, None, None]
    assert (found == torch.tensor([1.0, 0, 0])[:, None, None, None]).all()


@pytest.mark.parametrize("start", [(0, 0, 0), (0, 32, 0), (32, 208, 16), (0, 0, 19)])
def test_a_tile_of_what_is_enlarged_is_a_crop_of_the_whole(start):
    shares, whole = crop_of(CROPPED), Box.whole((50, 240, 20))
    tile = Box.at(start, (32, 32, 16)).clip(whole.shape)
    torch.testing.assert_close(
        enlarge(shares, CROPPED, tile), enlarge(shares, CROPPED, whole)[(..., *tile.slices)]
    )


def test_a_shrunk_crop_comes_out_of_tiles_as_of_the_whole(tmp_path):
    model, data = seeing(0.5), bright_box((22, 190, 21), Box((5, 9, 6), (17, 183, 15)))
    plan = plan_of(model, data, tmp_path, tile=(16, 32, 16))
    run(plan, data)
    found = labels_of(plan)
    assert (found == expected(model, data)).all()
    assert (found != (data > 0.5)).mean() < 0.03


@pytest.mark.parametrize(
    "size", [(160, 128, 160), (7, 8, 9), (161, 128, 160), (1072, 470, 470), (9, 9999, 9)]
)
def test_what_is_too_large_is_made_smaller_alike_along_all_axes(size):
    small = fitted(size, MOST_SEGMENTED)
    assert all(1 <= n <= most for n, most in zip(small, MOST_SEGMENTED, strict=True))
    times = max(1, *(n / most for n, most in zip(size, MOST_SEGMENTED, strict=True)))
    assert all(abs(n / times - s) <= 1 for n, s in zip(size, small, strict=True))
    assert any(s == most for s, most in zip(small, MOST_SEGMENTED, strict=True)) == (max(size) > 9)


def test_a_smaller_image_has_the_same_mean():
    image = rand(1, 1, 40, 20, 20)
    assert fit_area(image, (40, 20, 20)) is image
    assert float(fit_area(image, (20, 20, 20)).mean()) == pytest.approx(float(image.mean()), rel=1e-5)


def test_zeros_around_are_even_and_leave_the_image():
    padded, inside = pad_to(torch.ones(1, 1, 5, 8, 1), 4)
    assert padded.shape == (1, 1, 8, 8, 4)
    assert padded[(..., *inside)].shape == (1, 1, 5, 8, 1)
    assert padded.sum() == padded[(..., *inside)].sum() == 40


# Learning in mode "crop", which the contract's test does not ask for.


def batches(model):
    volume = blocks((40, 37, 35), ids=(0, 1, 2))
    index = index_labels([volume], THREE)
    held = index.take(np.zeros(len(index), bool))
    for phase in model.training_plan():
        spec = replace(phase.sample, patch=(32, 32, 32))
        sampler = PatchSampler(
            volumes=[volume], index=index, held=held, spec=spec, classes=THREE, window=WINDOW
        )
        yield phase, sampler.batch(0, 1)


def test_each_phase_trains_its_own_part_and_leaves_the_other():
    model = thin(mode="crop")
    trained = set()
    for phase, batch in batches(model):
        with only_training(model, phase.parameters()):
            set_training_mode(model)
            model.zero_grad()
            phase.step(batch).value.backward()
            found = {name for name, p in model.named_parameters() if p.grad is not None}
        assert trained.isdisjoint(found)
        trained |= found
    assert trained == {name for name, _ in model.named_parameters()}
    assert [phase.name for phase in model.training_plan()] == ["localisation", "segmentation"]


@torch.no_grad()
def test_the_penalty_is_a_part_of_either_loss():
    model = thin(mode="crop")
    for (phase, batch), network in zip(batches(model), (model.localiser, model.network), strict=True):
        loss = phase.step(batch)
        assert loss.parts["penalty"] == pytest.approx(float(penalty(network)))
        assert float(loss.value) == pytest.approx(sum(loss.parts.values()))


def test_a_volume_without_an_opinion_teaches_nothing():
    model = thin(mode="crop")
    for phase, batch in batches(model):
        overviews = [replace(o, presence=torch.zeros_like(o.presence)) for o in batch.overviews]
        nothing = replace(batch, labels=torch.full_like(batch.labels, -1), overviews=overviews)
        model.zero_grad()
        phase.step(nothing).value.backward()
        assert not any(p.grad.any() for p in phase.parameters())


@torch.no_grad()
def test_localisation_is_validated_by_the_patch_that_is_held_back():
    """Of a validation's overview no label is known, but those of its patch are."""
    phase, shape, box = seeing(0.5).training_plan()[0], (40, 40, 40), Box((9, 19, 29), (25, 31, 40))
    data = bright_box(shape, BRIGHT)
    batch = Batch(
        image=torch.zeros(1, 1, *box.shape),
        labels=torch.from_numpy(data[None, *box.slices]).long(),
        where=[Where(box=box, shape=shape)],
        overviews=[Overview(image=halved(data)[0], presence=torch.zeros(3, 20, 20, 20, dtype=torch.bool))],
    )
    right, wrong = (
        float(phase.step(replace(batch, labels=t)).value) for t in (batch.labels, 1 - batch.labels)
    )
    assert right < 0.2 < 0.8 < wrong


# Arguments.


@pytest.mark.parametrize("mode", ["tiled", "crop"])
def test_arguments_are_given_back(mode):
    model = thin(mode=mode, dropout=0.25)
    assert Scn(THREE, **model.arguments).arguments == model.arguments
    assert {k: v.shape for k, v in Scn(THREE, **model.arguments).state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "whole"},
        {"widths": (32,)},
        {"widths": (0, 4)},
        {"widths": 3},
        {"levels": (5, 9)},
        {"levels": (5.0, 4)},
        {"dropout": 1},
        {"dropout": "0.1"},
    ],
)
def test_impossible_arguments_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        create_model("scn", THREE, **wrong)


def test_a_tiled_network_does_not_look_for_the_foreground():
    with pytest.raises(InputError, match="crop"):
        thin().localise(torch.zeros(1, 1, 8, 8, 8))

"""OSS-Net: counted as published, asked as published, and never for more than is worth it."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter, maximum_filter
from torch import nn

import toys
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.models.base import SCORES, Batch, Overview, Where
from napari_memseg.models.classes import IGNORE, ClassTable
from napari_memseg.models.oss_net import ONet, OSSNet
from napari_memseg.models.oss_net_parts import (
    ConditionalNorm,
    Decoder,
    PatchMapping,
    PatchSource,
    PlainEncoder,
    SkipEncoder,
    latent_grid,
    shrink_to,
)
from napari_memseg.models.oss_net_search import NOT_ASKED
from napari_memseg.models.oss_net_training import EXPANSION, PATCH, border_zone, draw_points, map_loss
from napari_memseg.models.registry import create_model
from napari_memseg.training.samples import expanded
from running import labels_of, plan_of, run

TWO = ClassTable.from_ids([1])
THREE = ClassTable.from_ids([1, 2])
SMALL = {"encoder_shape": [16] * 3, "encoder_widths": [4, 8], "width": 16, "blocks": 2, "points": 2**10}
BRATS = (4, (16, 32, 64, 128), (128, 128, 80))
LITS = (1, (8, 16, 32, 64, 128), (256, 256, 256))
SHAPE = (27, 33, 30)


def follower(classes=THREE, **settings):
    """Return an OSS-Net whose decoder answers by hand: the brighter around a voxel, the surer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = OSSNet(classes, **{**SMALL, **settings}).eval()
    decoder = model.decoder
    with torch.no_grad():
        for conv, edge in ((decoder.patch.first, 3), (decoder.patch.second, 1)):
            near = slice(3 - edge // 2, 4 + edge // 2)
            conv.weight.zero_()[..., near, near, near] = edge**-3
            conv.bias.zero_()
        for block in decoder.blocks:
            nn.init.zeros_(block.norms[1].scale.bias)  # what goes around the layers is all there is
        side, head = decoder.blocks[0].side, decoder.head
        side.weight.zero_()[0, 3 + 171] = 1  # the middle of the patch, behind the coordinates
        side.bias.zero_()[1:3] = torch.tensor([0.45, 0.6])
        head.weight.zero_()[0, :2] = torch.tensor([20.0, -20.0])
        head.weight[1:, 0], head.weight[1:, 2] = 60, -60
        slope = model.encoder.map.weight.zero_()  # the map says yes where the deepest features rise
        for output, axis in zip(slope, ((2, 2, 1), (2, 1, 2)), strict=False):
            output[(slice(None), *axis)], output[(slice(None), *(4 - a for a in axis))] = -1, 1
    return model


def blobs(shape=SHAPE, seed=0):
    """Return bright blobs of a few sizes, in [0, 1]."""
    noise = np.random.default_rng(seed).random(shape)
    smooth = sum(gaussian_filter(noise, sigma) / noise.std() * sigma**1.5 for sigma in (1.5, 4))
    smooth -= smooth.min()
    return ((smooth / smooth.max()) ** 2).astype(np.float32)


def set_map(model, coarse):
    """Let the encoder's map be this one, whatever it sees."""

    class Fixed(nn.Module):
        def forward(self, x):
            return coarse.expand(len(x), *coarse.shape[1:])

    model.encoder.map = Fixed()


@torch.no_grad()
def answers_everywhere(model, image):
    """Return the logits (outputs, z, y, x) of a decoder that is asked for all voxels."""
    latents = torch.from_numpy(toys.all_arrays(model, image)["latents"])
    where = Where(box=Box.whole(image.shape), shape=image.shape)
    voxels = torch.cartesian_prod(*map(torch.arange, image.shape))
    vectors = latents.view(1, model.encoder.vectors, -1)
    answers = model.answer(torch.from_numpy(image)[None], where, voxels, vectors)
    return answers.view(-1, *image.shape).numpy()


def published(logits, allowed):
    """The search as the paper has it: on the whole volume at once, in one dense array a class."""
    found, asked = np.zeros(logits.shape, bool), np.zeros(logits.shape[1:], bool)
    for step in (4, 2, 1):
        grid = np.zeros(asked.shape, bool)
        grid[::step, ::step, ::step] = True
        if step == 4:
            now = grid & allowed
        else:
            width = 3**step
            dilated = maximum_filter(found, (1, width, width, width), mode="constant")
            now = grid & (dilated != found).any(0)
        found |= now & (logits > 0)
        asked |= now
    return found, asked


@torch.no_grad()
def allowed_by_map(model, image):
    """Return where the map, resized corner to corner to the grid it is kept on, is above one half."""
    factor = 2**model.settings.halvings
    coarse = torch.from_numpy(image)[None, None]
    for _ in range(model.settings.halvings):
        coarse = toys.halve(coarse)
    _, logits = model.encode([coarse])
    size = [-(-n // factor) for n in image.shape]
    fine = F.interpolate(logits.sigmoid(), size, mode="trilinear", align_corners=True)[0]
    for axis in (1, 2, 3):
        fine = fine.repeat_interleave(factor, axis)
    z, y, x = image.shape
    return (fine > 0.5).any(0)[:z, :y, :x].numpy()


@pytest.mark.parametrize(("data", "weights"), [(BRATS, 8_695_733), (LITS, 10_866_490)])
def test_the_weights_of_variant_c(data, weights):
    channels, widths, shape = data
    encoder = SkipEncoder(channels, widths, shape, vectors=6, outputs=1)
    decoder = Decoder(latent(data), patch_channels=channels, width=512, blocks=5, outputs=1)
    assert count(encoder, decoder) == weights


@pytest.mark.parametrize(("data", "weights"), [(BRATS, 6_890_753), (LITS, 9_057_237)])
def test_the_weights_of_the_o_net(data, weights):
    channels, widths, shape = data
    decoder = Decoder(latent(data), patch_channels=0, width=512, blocks=5, outputs=1)
    assert count(PlainEncoder(channels, widths, shape), decoder) == weights


def latent(data):
    return prod(latent_grid(data[2], len(data[1])))


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_the_published_sizes_can_be_asked_for():
    _, widths, shape = LITS
    model = create_model("oss_net", TWO, encoder_shape=shape, encoder_widths=widths, coordinates="raw")
    assert model.parameter_count == 10_866_490
    assert model.stages[0].writes[0].channels == 6 * 512


def test_a_patch_is_mapped_by_its_two_convolutions():
    mapping = PatchMapping(4)
    patches = torch.randn(5, 4, 7, 7, 7)
    first, second = mapping.activations
    wanted = second(mapping.second(first(mapping.first(patches)))).flatten(1)
    torch.testing.assert_close(mapping(patches.flatten(1)), wanted, rtol=1e-4, atol=1e-5)


def test_patches_are_those_of_the_padded_volume():
    image = torch.randn(2, 5, 4, 9)
    voxels = torch.tensor([[0, 0, 0], [4, 3, 8], [2, 1, 5]])
    padded = F.pad(image, [3] * 6)
    wanted = [padded[:, z : z + 7, y : y + 7, x : x + 7].flatten() for z, y, x in voxels.tolist()]
    assert torch.equal(PatchSource(image).patches(voxels), torch.stack(wanted))


@torch.no_grad()
def test_answers_do_not_depend_on_how_many_are_asked_at_once():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = OSSNet(THREE, **{**SMALL, "search": "all"})
        toys.randomise(model)
    image, found = blobs((9, 10, 11)), []
    for points in (2**4, 2**10, 2**14):
        model.settings = replace(model.settings, points=points)
        found.append(torch.from_numpy(answers_everywhere(model, image)))
    assert float(found[0].std()) > 0
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [TWO, THREE])
@pytest.mark.parametrize("halvings", [1, 2, 3])
@pytest.mark.parametrize("search", ["optimised", "all"])
def test_the_search_is_the_published_one(classes, halvings, search):
    model, image = follower(classes, halvings=halvings, search=search), blobs()
    everything = np.ones(image.shape, bool)
    allowed = allowed_by_map(model, image) if search == "optimised" else everything
    assert search == "all" or 0.1 < allowed.mean() < 0.9
    logits = answers_everywhere(model, image)
    found, asked = published(logits, allowed)
    scores = toys.whole_volume(model, image)
    assert 0.01 < found.any(0).mean() < 0.5
    assert np.array_equal(scores[1:] > 0, found)
    assert np.array_equal((scores[1:] != NOT_ASKED).any(0), asked)
    assert not scores[0].any()
    np.testing.assert_allclose(scores[1:][:, asked], logits[:, asked], rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("halvings", [2, 3])
def test_tiles_are_crops_of_the_whole(halvings, tmp_path):
    model, image = follower(halvings=halvings), blobs((53, 30, 27))
    plan = plan_of(model, image, tmp_path, tile=(16, 16, 16), chunk=16)
    assert plan.exact
    run(plan, image)
    wanted = toys.whole_volume(model, image).argmax(0)
    assert np.array_equal(labels_of(plan), wanted)
    assert len(np.unique(wanted)) == 3


@pytest.mark.parametrize("halvings", [0, 1, 3])
def test_tiles_without_context_answer_everywhere(halvings, tmp_path):
    model, image = follower(TWO, halvings=halvings, search="all"), blobs((39, 18, 17))
    side = model.decoder.blocks[0].side
    nn.init.zeros_(side.weight)
    nn.init.ones_(side.bias[:1])  # the answer is always yes
    plan = plan_of(model, image, tmp_path, tile=(16, 16, 16), chunk=16, halo=(0, 0, 0))
    run(plan, image)
    assert (labels_of(plan) == 1).all(), "a voxel that was never asked is background"


def test_the_map_saves_questions_where_it_covers_the_object():
    image = np.zeros((48, 48, 48), np.float32)
    image[6:18, 6:18, 6:18] = image[30:42, 30:42, 30:42] = 1
    scores = {}
    for search in ("optimised", "all"):
        model = follower(TWO, search=search, encoder_shape=[32] * 3)
        set_map(model, cover(image))
        scores[search] = toys.whole_volume(model, image)
    assert np.array_equal(scores["optimised"] > 0, scores["all"] > 0)
    assert (scores["optimised"][1] > 0).sum() >= 2 * 10**3
    asked = {search: (found[1] != NOT_ASKED).sum() for search, found in scores.items()}
    assert asked["optimised"] < asked["all"] < image.size / 3


def test_what_the_map_denies_is_lost():
    image = np.zeros((48, 48, 48), np.float32)
    image[6:18, 6:18, 6:18] = image[30:42, 30:42, 30:42] = 1
    seen = image.copy()
    seen[24:] = 0
    model = follower(TWO, encoder_shape=[32] * 3)
    set_map(model, cover(seen))
    found = toys.whole_volume(model, image)[1] > 0
    assert found[:24].any()
    assert not found[24:].any()


def cover(image):
    """Return a map of 8 x 8 x 8 cells that is sure of the object and what is next to it."""
    touched = F.adaptive_max_pool3d(torch.from_numpy(image)[None, None], 8)
    return F.max_pool3d(touched, 3, stride=1, padding=1) * 16 - 8


def test_no_patch_is_gathered_but_of_points_that_are_asked(monkeypatch):
    model, image, gathered = follower(points=500), blobs(), []
    patches = PatchSource.patches

    def counted(self, voxels):
        gathered.append(len(voxels))
        return patches(self, voxels)

    monkeypatch.setattr(PatchSource, "patches", counted)
    scores = toys.whole_volume(model, image)
    assert sum(gathered) == (scores[1] != NOT_ASKED).sum() < 0.6 * image.size
    assert max(gathered) == 500


def test_a_tile_that_the_map_denies_costs_nothing(monkeypatch):
    model = follower(TWO)
    set_map(model, torch.full((1, 1, 4, 4, 4), -5.0))
    monkeypatch.setattr(model.decoder, "forward", None)
    scores = toys.whole_volume(model, blobs())
    assert (scores[1] == NOT_ASKED).all()


def test_a_map_that_overflowed_denies_nothing():
    model, image = follower(), blobs()
    set_map(model, torch.full((1, 2, 4, 4, 4), torch.nan))
    everything = toys.whole_volume(follower(search="all"), image)
    assert np.array_equal(toys.whole_volume(model, image), everything)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_answers_that_overflowed_are_refused(value):
    model = follower(TWO, search="all")
    nn.init.constant_(model.decoder.head.weight, value)
    with pytest.raises(InputError, match="NaN or infinite"):
        toys.whole_volume(model, blobs())


def test_the_o_net_sees_no_voxel():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model("o_net", TWO, **SMALL).eval()
    assert model.stages[1].reads[0].halo_exact.low == (0, 0, 0)
    image = np.random.default_rng(0).random((9, 10, 11), np.float32)
    stage = model.stages[1]
    made = toys.all_arrays(model, image)
    where = Where(box=Box.whole(image.shape), shape=image.shape, boxes={"map": Box.whole((3, 3, 3))})
    inputs = {name: torch.from_numpy(made[name])[None] for name in ("image@0", "latents", "map")}
    with torch.inference_mode():
        found = stage(inputs, [where])["quarter"]
        blind = stage({**inputs, "image@0": torch.zeros_like(inputs["image@0"])}, [where])["quarter"]
    assert torch.equal(found, blind)
    assert not (found == NOT_ASKED).any(), "without a map, all is possible"


@pytest.mark.parametrize("have", [(64, 64, 64), (40, 33, 16), (5, 200, 1)])
def test_every_voxel_of_the_overview_counts(have):
    image = torch.zeros(1, 1, *have)
    image[0, 0, have[0] // 2, have[1] // 2, have[2] // 2] = 1
    small = shrink_to(image, (16, 16, 16))
    assert small.shape[2:] == (16, 16, 16)
    assert float(small.sum()) > 0


def test_coordinates_are_scaled_to_the_volume_or_raw():
    voxels = torch.tensor([[0, 0, 0], [9, 4, 0]])
    scaled = OSSNet(TWO, **SMALL).coordinates(voxels, (10, 5, 1))
    torch.testing.assert_close(scaled, torch.tensor([[-0.9, -0.8, 0.0], [0.9, 0.8, 0.0]]))
    raw = OSSNet(TWO, **SMALL, coordinates="raw").coordinates(voxels, (10, 5, 1))
    assert torch.equal(raw, voxels.float())


@torch.no_grad()
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("coordinates", ["scaled", "raw"])
def test_half_precision_tells_neighbouring_voxels_apart(coordinates, precision):
    model = OSSNet(TWO, **SMALL, coordinates=coordinates).eval()
    voxels = torch.arange(1072)[:, None].expand(-1, 3)
    seen, made = [], []

    def note(layer, given, out):
        seen.append(given[0])
        made.append(out.dtype)

    for layer in (model.decoder.blocks[0].first, model.decoder.blocks[0].side):
        layer.register_forward_hook(note)
    latents = torch.randn(1, 3, model.latent_length)
    with torch.autocast("cpu", precision):
        places = model.coordinates(voxels, (1072, 1072, 1072))[None]
        model.decoder(places, torch.randn(1, 1072, 343), latents.to(precision))
    assert all(len(x[0, :, 0].unique()) == 1072 for x in seen)
    assert made == [torch.float32] * 2, "or the layer would round what it is given"


@torch.no_grad()
def test_half_precision_takes_latent_vectors_as_they_are():
    norm = ConditionalNorm(4, latent=1).eval()
    nn.init.ones_(norm.shift.weight)
    latents = torch.tensor([[1.0], [1.0 + 2**-12]])
    with torch.autocast("cpu", torch.bfloat16):
        one, other = norm(torch.zeros(2, 3, 4), latents)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "wrong",
    [
        {"halvings": -1},
        {"halvings": True},
        {"points": 0},
        {"training_points": 2.0},
        {"width": 1.5},
        {"width": True},
        {"blocks": "2"},
        {"coordinates": "polar"},
        {"search": "some"},
        {"encoder_shape": [64, 64]},
        {"encoder_shape": [8, 8, 8], "encoder_widths": [4, 4, 4]},
        {"encoder_shape": 64},
        {"encoder_shape": [64, 64, 64.0]},
        {"encoder_widths": []},
        {"encoder_widths": 32},
        {"encoder_widths": [True]},
        {"depth": 3},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        create_model("oss_net", TWO, **{**SMALL, **wrong})


def test_background_alone_is_refused():
    with pytest.raises(InputError, match="besides background"):
        create_model("oss_net", ClassTable.from_ids([]))


def test_half_of_the_points_lie_near_a_border():
    labels = torch.full((40, 40, 40), IGNORE)
    labels[:30] = 0
    labels[4:8, 4:8, 4:8] = 1
    drawn = tuple(draw_points(labels, 1000).T)
    zone = border_zone(labels)
    assert bool((labels[drawn] != IGNORE).all())
    assert 500 <= int(zone[drawn].sum()) < 700
    assert not bool(zone[20:].any()), "where an opinion ends there is no border"
    assert bool(zone[4 - 7 + 1 : 8 + 6, 5, 5].all())


@pytest.mark.parametrize("value", [IGNORE, 1])
def test_points_can_be_drawn_where_there_is_no_border_or_no_label(value):
    labels = torch.full((3, 1, 9), value)
    assert bool((labels[tuple(draw_points(labels, 7).T)] == value).all())


def test_an_unlabelled_cell_of_the_map_takes_no_part():
    presence = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
    presence[0, :2, :2, :2] = presence[1, 2, 0, 0] = True  # one cell of background, one voxel of the class
    logits = torch.randn(1, 1, 2, 2, 2, requires_grad=True)
    map_loss(logits, [Overview(image=torch.zeros(1, 4, 4, 4), presence=presence)]).backward()
    taught = logits.grad[0, 0]
    assert float(taught[0, 0, 0]) > 0 > float(taught[1, 0, 0])
    assert int((taught != 0).sum()) == 2


def test_each_volume_has_a_map_of_its_own():
    model = OSSNet(THREE, **SMALL).eval()
    views = []
    for z, y, x in ((8, 8, 8), (12, 5, 9)):
        thirds = F.one_hot(torch.arange(z) * 3 // z, 3).bool().T  # (C, z)
        presence = thirds[..., None, None].expand(-1, -1, y, x)
        views.append(Overview(image=torch.rand(1, z, y, x), presence=presence))
    coarse = model.encode([view.image[None] for view in views])[1].detach()
    disturbed = replace(views[1], presence=views[1].presence.flip(0))
    before, after = (taught_by(coarse, both) for both in (views, [views[0], disturbed]))
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def taught_by(coarse, overviews):
    """Return the gradient of the map's loss."""
    logits = coarse.clone().requires_grad_()
    map_loss(logits, overviews).backward()
    return logits.grad


def batch_of(size, shape=(32, 32, 32)):
    """Return ``size`` patches that are whole volumes of blobs."""
    images = [torch.from_numpy(blobs(shape, seed)) for seed in range(size)]
    labels = [(image > 0.3).long() + (image > 0.55).long() for image in images]
    box, overviews = Box.whole(shape), []
    for image, truth in zip(images, labels, strict=True):
        there = F.max_pool3d(F.one_hot(truth, 3).movedim(-1, 0).float(), 4) > 0
        overviews.append(Overview(image=F.avg_pool3d(image[None], 4), presence=there))
    return Batch(
        image=torch.stack(images)[:, None],
        labels=torch.stack(labels),
        where=[Where(box=box, shape=shape, boxes={"image@0": box})] * size,
        overviews=overviews,
    )


def cut_out(batch, box, margin):
    """Return a part of a batch of one, with a margin that may leave the volume."""
    wide = box.grow(margin)
    ends = zip(wide.start, wide.stop, batch.labels.shape[1:], strict=True)
    beyond = [n for a, b, length in reversed(list(ends)) for n in (-a, b - length)]  # negative: cut off
    return replace(
        batch,
        image=F.pad(batch.image, beyond),
        labels=F.pad(batch.labels, beyond, value=IGNORE),
        where=[replace(batch.where[0], box=wide, boxes={"image@0": wide})],
        margin=margin,
    )


def test_it_learns_blobs():
    torch.manual_seed(0)
    model = OSSNet(THREE, **{**SMALL, "width": 32, "training_points": 256})
    (phase,) = model.training_plan()
    batch, losses = batch_of(2), []
    descent = torch.optim.RAdam(phase.parameters(), 1e-2)
    for _ in range(40):
        loss = phase.step(batch)
        assert loss.scores is None
        descent.zero_grad()
        loss.value.backward()
        descent.step()
        losses.append(loss.parts["points"])
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@torch.no_grad()
def test_validation_scores_every_voxel_with_a_label():
    batch = batch_of(1)
    batch.labels[0, 10:] = IGNORE
    model = follower()
    loss = model.training_plan()[0].step(batch)
    assert loss.scores.shape == (1, 3, 32, 32, 32)
    everywhere = answers_everywhere(model, batch.image[0, 0].numpy())
    known = (batch.labels[0] != IGNORE).numpy()
    np.testing.assert_allclose(loss.scores[0, 1:].numpy()[:, known], everywhere[:, known], atol=1e-4)
    assert not bool(loss.scores[0][:, ~known].any())


def test_a_batch_of_one_trains():
    model = OSSNet(THREE, **{**SMALL, "training_points": 8})
    model.training_plan()[0].step(batch_of(1)).value.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("shape", [PATCH, (32, 32, 32), (26, 40, 64)])
def test_what_the_decoder_sees_around_a_patch_comes_with_it(shape):
    _, margin = expanded(Box.whole(shape), EXPANSION)
    assert min(margin) >= 3
    assert OSSNet(TWO, **SMALL).training_plan()[0].sample.expansion == EXPANSION
    assert ONet(TWO, **SMALL).training_plan()[0].sample.expansion == 1


@torch.no_grad()
def test_answers_at_the_faces_of_a_patch_are_those_of_the_whole_volume():
    whole, box = batch_of(1), Box((0, 9, 3), (20, 32, 30))
    model = follower()
    loss = model.training_plan()[0].step(cut_out(whole, box, (3, 4, 5)))
    wanted = answers_everywhere(model, whole.image[0, 0].numpy())[(slice(None), *box.slices)]
    np.testing.assert_allclose(loss.scores[0, 1:, 3:-3, 4:-4, 5:-5].numpy(), wanted, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_points_come_from_the_patch_alone(training):
    batch = cut_out(batch_of(1), Box((8, 8, 8), (24, 24, 24)), (3, 3, 3))
    model = OSSNet(THREE, **{**SMALL, "training_points": 64}).train(training)
    around = batch.labels.clone()
    around[:, 3:-3, 3:-3, 3:-3] = IGNORE
    losses = [
        model.training_plan()[0].step(replace(batch, labels=labels)).parts["points"]
        for labels in (around, batch.labels)
    ]
    assert losses[0] == 0 < losses[1]


def test_points_learn_what_is_at_their_own_place(monkeypatch):
    batch = cut_out(batch_of(1), Box((0, 9, 3), (20, 32, 30)), (3, 4, 5))
    model, asked = OSSNet(THREE, **{**SMALL, "training_points": 64}), {}

    def noted(coordinates, patches, latents):
        asked.update(places=coordinates, middles=patches[..., 171])
        return torch.zeros(*coordinates.shape[:2], 2, requires_grad=True)

    monkeypatch.setattr(model.decoder, "forward", noted)
    model.training_plan()[0].step(batch)
    z, y, x = ((asked["places"][0] + 1) * 16).long().T
    assert torch.equal(asked["middles"][0], batch_of(1).image[0, 0][z, y, x])
    assert int(z.max()) < 20
    assert 9 <= int(y.min()) <= int(y.max()) < 32


def test_the_recipe_is_the_published_one():
    recipe = OSSNet(TWO, **SMALL).training_plan()[0].recipe
    assert (recipe.optimizer, recipe.lookahead, recipe.schedule) == ("radam", True, "steps")
    assert (recipe.learning_rate, recipe.weight_decay) == (3e-4, 0)
    assert set(recipe.rates.values()) == {1e-2}


def test_the_last_stage_writes_scores_of_all_classes():
    assert OSSNet(THREE, **SMALL).stages[-1].writes[0].array == SCORES

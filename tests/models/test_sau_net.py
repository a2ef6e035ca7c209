"""SAU-Net: counts of its build, one slice of reach, and what attention does to a slice."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import toys
from napari_memseg.errors import InputError
from napari_memseg.models.base import Batch
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.losses import masked_cross_entropy
from napari_memseg.models.reach import Span, exact_reach
from napari_memseg.models.registry import create_model
from napari_memseg.models.sau_net import AttentiveUNet, InterSliceAttention, SAUNet

THREE = ClassTable.from_ids([1, 2])
KINDS = ["logits", "features", "none"]


def weights(module):
    return sum(p.numel() for p in module.parameters())


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def narrow(attention="logits"):
    """A narrow network in eval mode, as if it had been trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SAUNet(THREE, width=2, attention=attention)
        toys.randomise(model)
    return model


# --- counted numbers: the paper gives no widths


@pytest.mark.parametrize(
    ("channels_out", "arguments", "count"),
    [
        (1, {}, 3_274_982),
        (1, {"attention": "none"}, 3_274_978),
        (1, {"attention": "features"}, 3_274_978 + 4_900),
        (3, {}, 3_275_102),
        (1, {"width": 32}, 13_067_718),
    ],
)
def test_as_many_weights_as_counted(channels_out, arguments, count):
    assert weights(AttentiveUNet(1, channels_out, **arguments)) == count


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_attention_costs_two_square_matrices_and_their_biases(classes):
    assert weights(InterSliceAttention(classes)) == 2 * (classes**2 + classes)


def test_levels_are_as_wide_as_described():
    dense = AttentiveUNet(1, 1).dense
    assert [block.first[0].in_channels for block in dense.down] == [1, 17, 49, 113]
    assert dense.bottom[0].in_channels == 241
    assert [block.first[0].in_channels for block in dense.up] == [369, 177, 81, 33]
    assert dense.channels_out == 49


def test_the_reach_in_the_plane():
    """204 pixels in all: at the worst place 107 before a pixel and 96 behind it."""
    model = SAUNet(THREE, width=1)
    assert exact_reach(model.trace, 16) == (107, 107)
    seen = model.trace(Span.image(1024))
    here = 512 + max(range(16), key=lambda n: 512 + n - seen.low[512 + n])
    assert (here - seen.low[here], seen.high[here] - here) == (107, 96)
    (stage,) = model.stages
    assert stage.multiple == (1, 16, 16)
    assert stage.reads[0].halo_exact.low == stage.reads[0].halo_exact.high == (1, 112, 112)


# --- depth


@pytest.mark.parametrize(("attention", "reach"), [("logits", 1), ("features", 1), ("none", 0)])
@torch.inference_mode()
def test_a_slice_matters_to_its_neighbours_alone(attention, reach):
    model, image = narrow(attention), rand(1, 1, 9, 16, 16)
    assert model.depth == reach
    for at in (0, 4, 8):
        other = image.clone()
        other[:, :, at] += 1
        differs = (model(other) != model(image)).any(1)[0].flatten(1).any(1)
        near = [n for n in range(9) if abs(n - at) <= reach]
        assert differs.nonzero().ravel().tolist() == near


@pytest.mark.parametrize("attention", KINDS)
@torch.inference_mode()
def test_slabs_with_a_slice_of_context_are_the_whole(attention):
    model, image = narrow(attention), rand(1, 1, 12, 17, 19)
    whole = model(image)
    cuts = [(0, 6, 0, 5), (4, 10, 1, 5), (8, 12, 1, 4)]  # box, and the core in it
    slabs = [model(image[:, :, a:b])[:, :, c:d] for a, b, c, d in cuts]
    torch.testing.assert_close(torch.cat(slabs, 2), whole, rtol=1e-4, atol=1e-4)


# --- attention


def attention_of(bias, channels=3):
    fuse = InterSliceAttention(channels)
    for conv in (fuse.previous, fuse.next):
        nn.init.zeros_(conv.weight)
        nn.init.constant_(conv.bias, bias)
    return fuse


@torch.inference_mode()
def test_closed_masks_leave_slices_as_they_are():
    slices = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attention_of(-100.0)(slices, 5), slices)


@torch.inference_mode()
def test_open_masks_triple_slices_and_double_those_at_the_ends():
    slices = torch.randn(10, 3, 4, 4, generator=torch.Generator().manual_seed(0))  # two stacks of five
    times = torch.tensor([2.0, 3, 3, 3, 2] * 2).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(attention_of(100.0)(slices, 5), times * slices)


@torch.inference_mode()
def test_a_single_slice_has_no_neighbours_to_heed():
    slices = rand(4, 3, 4, 4)
    assert torch.equal(attention_of(100.0)(slices, 1), slices)


@torch.inference_mode()
def test_masks_come_from_the_slice_before_and_the_slice_behind():
    fuse, slices = InterSliceAttention(2), rand(3, 2, 4, 4)
    before, behind = fuse.previous(slices[:1]).sigmoid(), fuse.next(slices[2:]).sigmoid()
    expected = slices[1:2] * (1 + before + behind)
    torch.testing.assert_close(fuse(slices, 3)[1:2], expected)


# --- loss


@pytest.mark.parametrize(("attention", "heads"), [("logits", 2), ("features", 2), ("none", 1)])
def test_the_rough_scores_have_half_a_say_in_the_loss(attention, heads):
    model, image = narrow(attention), rand(2, 1, 3, 16, 16)
    labels = torch.randint(-1, 3, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    (phase,) = model.training_plan()
    scores = model.all_heads(image)
    assert len(scores) == heads
    parts = [F.cross_entropy(one, labels, ignore_index=-1) for one in scores]
    loss = phase.step(Batch(image=image, labels=labels))
    torch.testing.assert_close(loss.value, parts[0] + 0.5 * sum(parts[1:]))
    torch.testing.assert_close(loss.scores, scores[0])


def test_voxels_without_a_label_pass_on_nothing_not_even_a_nan():
    scores = rand(1, 3, 2, 2, 2).requires_grad_()
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    labels[:, 1] = -1
    spoiled = scores.clone()
    spoiled[:, :, 1] = torch.nan
    loss = masked_cross_entropy(spoiled, labels)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad[:, :, 0].any()
    assert not scores.grad[:, :, 1].any()
    assert masked_cross_entropy(scores, torch.full_like(labels, -1)) == 0


# --- arguments


@pytest.mark.parametrize("attention", KINDS)
def test_arguments_are_given_back(attention):
    model = SAUNet(THREE, width=3, attention=attention, axes="yx")
    assert SAUNet(THREE, **model.arguments).arguments == model.arguments


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"width": 0}, "width"), ({"width": 16.0}, "width"), ({"attention": "self"}, "logits, features, none")],
)
def test_impossible_arguments_are_refused(arguments, named):
    with pytest.raises(InputError, match=named):
        create_model("sau_net", THREE, **arguments)

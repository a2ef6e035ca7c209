"""The loss: equal to MONAI's where all is known, blind where nobody has an opinion."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss

from napari_memseg.models.classes import IGNORE
from napari_memseg.models.losses import masked_dice_ce


@pytest.fixture
def scores():
    return 3 * torch.randn(2, 4, 5, 6, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    return torch.randint(0, 4, (2, 5, 6, 7), generator=torch.Generator().manual_seed(1))


def test_fully_labelled_it_is_monais_loss(scores, labels):
    theirs = DiceCELoss(softmax=True, to_onehot_y=True, batch=True)(scores, labels[:, None])
    torch.testing.assert_close(masked_dice_ce(scores, labels), theirs)


@pytest.mark.parametrize("noise", [1e3, float("inf"), float("nan")])
def test_scores_under_ignored_voxels_do_not_matter(scores, labels, noise):
    ignored = torch.rand(labels.shape, generator=torch.Generator().manual_seed(2)) < 0.7
    labels = labels.masked_fill(ignored, IGNORE)
    wild = scores.masked_fill(ignored[:, None], noise).requires_grad_()
    loss = masked_dice_ce(wild, labels)
    assert torch.equal(loss, masked_dice_ce(scores, labels))
    loss.backward()
    assert wild.grad is not None
    assert bool((wild.grad[ignored[:, None].expand_as(wild)] == 0).all())
    assert bool(wild.grad.isfinite().all())
    assert float(wild.grad.abs().sum()) > 0


def test_ignored_voxels_might_as_well_be_cut_off(scores, labels):
    masked = labels.clone()
    masked[:, 3:] = IGNORE
    torch.testing.assert_close(
        masked_dice_ce(scores, masked), masked_dice_ce(scores[:, :, :3], labels[:, :3])
    )


def test_with_nothing_labelled_the_loss_is_zero_and_so_are_its_gradients(scores, labels):
    scores.requires_grad_()
    loss = masked_dice_ce(scores, torch.full_like(labels, IGNORE))
    loss.backward()
    assert float(loss.detach()) == 0
    assert scores.grad is not None
    assert bool((scores.grad == 0).all())


def test_a_class_that_the_labels_do_not_hold_has_no_dice(scores, labels):
    present = labels.clamp(max=1)
    dice_of_all = masked_dice_ce(scores, present) - F.cross_entropy(scores, present)
    probability = scores.softmax(1)
    truth = F.one_hot(present, 4).movedim(-1, 1)
    both = (probability * truth).sum((0, 2, 3, 4))[:2]
    sizes = (probability + truth).sum((0, 2, 3, 4))[:2]
    torch.testing.assert_close(dice_of_all, (1 - 2 * both / sizes).mean())


def test_right_and_sure_is_a_loss_of_nothing(labels):
    sure = 50.0 * F.one_hot(labels, 4).movedim(-1, 1)
    assert float(masked_dice_ce(sure, labels)) < 1e-4
    assert float(masked_dice_ce(-sure, labels)) > 50


def test_weights_are_those_of_the_cross_entropy(scores, labels):
    labels[0, :2] = IGNORE
    weights = torch.tensor([0.1, 1.0, 2.0, 5.0])
    gained = masked_dice_ce(scores, labels, weights) - masked_dice_ce(scores, labels)
    theirs = F.cross_entropy(scores, labels, weights, ignore_index=IGNORE)
    torch.testing.assert_close(gained, theirs - F.cross_entropy(scores, labels, ignore_index=IGNORE))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_summed_in_single_precision(scores, labels, dtype):
    half = (scores * 20).to(dtype).repeat(1, 1, 8, 8, 8)
    many = labels.repeat(1, 8, 8, 8)
    loss = masked_dice_ce(half, many)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, masked_dice_ce(half.float(), many))

"""The cascade and its meU-nets: counts, what a step keeps and trains, maps that enter late, votes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import toys
from learning import WINDOW, blocks, pair
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.models.base import SCORES, Batch, Where
from napari_memseg.models.cascade import Cascade, GuidedUNet
from napari_memseg.models.classes import IGNORE, ClassTable
from napari_memseg.models.losses import masked_dice_ce
from napari_memseg.models.meunet import MeUNet, class_weights, halve_labels
from napari_memseg.models.unet3d import UNet3d
from napari_memseg.models.votes import Voting, window_starts
from napari_memseg.training.label_index import index_labels
from napari_memseg.training.memory import kept_for_backward
from napari_memseg.training.patches import PatchSampler
from running import labels_of, noise, plan_of, run

THREE = ClassTable.from_ids([1, 2])
WIDTHS = [4, 4, 6]


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def meunet(**how):
    return seeded(lambda: MeUNet(THREE, widths=WIDTHS, **how)).train()


def batch_of(*shape, seed=0, margin=(0, 0, 0)):
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (1, *shape), generator=drawn)
    return Batch(image=torch.rand((1, 1, *shape), generator=drawn), labels=labels, margin=margin)


# --- published and counted numbers


def test_a_meunet_is_the_plain_unet_with_one_head_more():
    assert UNet3d(THREE).parameter_count == 2_512_515
    assert MeUNet(THREE).parameter_count == 2_512_566


@pytest.mark.parametrize(
    ("branches", "post", "count"), [(2, True, 2_533_251), (1, True, 2_522_883), (2, False, 2_515_107)]
)
def test_the_second_stage_has_as_many_weights_as_counted(branches, post, count):
    second = GuidedUNet((16, 32, 64, 128, 128), 3, maps=branches, post=post)
    found = sum(p.numel() for p in second.parameters())
    assert found == count
    if post:
        assert found == 2_512_515 + 27 * 3 * branches * (64 + 32 + 16 + 16)


def test_a_step_of_a_meunet_keeps_little_more_than_half_of_what_the_unet_keeps_at_the_same_context():
    """At P = 64 and k = 1.5, in float32; published in memory of a GPU: 0.43 to 0.57."""
    batch = batch_of(96, 96, 96, margin=(16, 16, 16))
    plain, me = seeded(lambda: UNet3d(THREE)).train(), seeded(lambda: MeUNet(THREE, standard=64)).train()
    (phase,) = me.training_plan()
    assert (phase.sample.patch, phase.sample.expansion) == ((64, 64, 64), 1.5)
    whole = kept_for_backward(lambda: masked_dice_ce(plain(batch.image), batch.labels))
    ours = kept_for_backward(lambda: phase.step(batch).value)
    assert 0.45 < ours / whole <= 0.60


# --- what a step trains


def test_the_expanded_branch_alone_trains_nothing_of_the_finest_level():
    model = seeded(lambda: MeUNet(THREE, widths=WIDTHS)).train()
    model.expanded_scores(batch_of(24, 24, 24).image).sum().backward()
    silent = {name.rsplit(".", 2)[0] for name, p in model.named_parameters() if p.grad is None}
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in silent if "." in name} == {
        "encoder.0",
        f"decoder.{len(WIDTHS) - 2}",
    }
    assert model.head.weight.grad is None
    assert model.half_head.weight.grad is not None


def test_checkpointing_changes_no_gradient_and_no_statistic():
    kept, again = (meunet(checkpointing=c) for c in (False, True))
    batch = batch_of(24, 20, 25, margin=(4, 3, 4))
    losses = []
    for model in (kept, again):
        (phase,) = model.training_plan()
        loss = phase.step(batch).value
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] == losses[1]
    for (name, one), (_, two) in zip(kept.named_parameters(), again.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=name)
    for (name, one), (_, two) in zip(kept.named_buffers(), again.named_buffers(), strict=True):
        assert torch.equal(one, two), name


def test_checkpointing_keeps_less():
    batch = batch_of(32, 32, 32, margin=(5, 5, 5))
    sizes = []
    for checkpointing in (False, True):
        model = meunet(checkpointing=checkpointing)
        (phase,) = model.training_plan()
        sizes.append(kept_for_backward(lambda phase=phase: phase.step(batch).value))
    assert sizes[1] < 0.6 * sizes[0]


def test_halved_labels_are_every_second_one():
    labels = torch.arange(5 * 7 * 1).reshape(1, 5, 7, 1)
    assert torch.equal(halve_labels(labels, (2, 3, 1)), labels[:, :4:2, :6:2])


def test_labels_at_a_face_teach_the_finest_level():
    """The expanded patch reaches over the face, so that the standard one may touch it."""
    volume = blocks((40, 40, 40), ids=(0, 1, 2))
    ids = volume.labels.read(Box.whole(volume.shape)).copy()
    ids[4:] = 99
    volume = pair(volume.image.read(Box.whole(volume.shape)), ids, unlabelled=99)
    model = seeded(lambda: MeUNet(THREE, widths=WIDTHS, standard=16)).train()
    (phase,) = model.training_plan()
    index = index_labels([volume], THREE)
    sampler = PatchSampler(
        volumes=[volume],
        index=index,
        held=index.take(np.zeros(len(index), bool)),
        spec=phase.sample,
        classes=THREE,
        window=WINDOW,
        augment=False,
    )
    batch = sampler.batch(0, 4)
    assert batch.image.shape[2:] == (24, 24, 24)
    assert batch.margin == (4, 4, 4)
    for where, image, labels in zip(batch.where, batch.image, batch.labels, strict=True):
        beyond = -where.box.start[0]
        assert 0 < beyond <= 4
        assert not image[:, :beyond].any()
        assert image[:, beyond:, 8:16, 8:16].any()
        assert (labels[:beyond] == IGNORE).all()
    phase.step(batch).value.backward()
    assert model.head.weight.grad.abs().sum() > 0


def test_rare_classes_weigh_more_and_no_class_takes_all():
    weights = class_weights(torch.tensor([0.9, 0.09, 0.01, 0.0]))
    assert weights[0] < weights[1] < weights[2] < weights[3]
    assert float(weights.sum()) == pytest.approx(1)
    common = class_weights(torch.tensor([0.98, 0.01, 0.01]))
    assert float(common[1] / common[0]) == pytest.approx(float(torch.tensor(0.5 - 0.0051).exp()), rel=0.01)
    assert class_weights(None) is None


# --- the second stage


def encoded(second, image, maps):
    """Return the scores, and what each block of the encoder made meanwhile."""
    seen = []
    hooks = [block.register_forward_hook(lambda *a: seen.append(a[-1].clone())) for block in second.encoder]
    with torch.inference_mode():
        scores = second(image, maps)
    for hook in hooks:
        hook.remove()
    return scores, seen


@pytest.mark.parametrize("post", [True, False])
def test_maps_leave_the_encoder_alone_unless_they_stand_beside_the_image(post):
    second = seeded(lambda: GuidedUNet(WIDTHS, 3, maps=2, post=post)).eval()
    image = batch_of(16, 17, 19).image
    maps = [torch.randint(0, 3, (1, 1, 16, 17, 19), dtype=torch.uint8) for _ in range(4)]
    (before, one), (after, two) = encoded(second, image, maps[:2]), encoded(second, image, maps[2:])
    assert not torch.equal(before, after)
    assert len(one) == len(WIDTHS)
    assert all(torch.equal(a, b) == post for a, b in zip(one, two, strict=True))


def test_nan_is_no_background():
    model = seeded(lambda: Cascade(THREE, widths=WIDTHS)).eval()
    x = torch.full((1, 1, 8, 8, 8), float("nan"))
    with pytest.raises(InputError, match="branch1 are NaN"):
        model.stages[0]({"image@0": x}, [Where(box=Box.whole((8, 8, 8)), shape=(8, 8, 8))])


def test_pre_concatenation_shows_the_maps_to_the_encoder():
    second = GuidedUNet(WIDTHS, 3, maps=2, post=False)
    assert second.encoder[0][0].in_channels == 7


def test_phases_follow_the_stages_that_they_need():
    model = Cascade(THREE, widths=WIDTHS)
    assert [stage.name for stage in model.stages] == ["branch1", "branch2", "second"]
    one, two, last = model.training_plan()
    assert (one.needs, two.needs) == ((), ())
    assert [stage.name for stage in last.needs] == ["branch1", "branch2"]
    assert last.sample.arrays == ("branch1", "branch2")
    assert one.sample.patch == two.sample.patch == last.sample.patch == (112, 112, 112)
    assert (one.sample.expansion, two.sample.expansion, last.sample.expansion) == (1.5, 1.75, 1.0)


@pytest.mark.parametrize(
    "wrong",
    [{"expansions": []}, {"concatenation": "both"}, {"expansions": [9.0]}, {"standard": 0}, {"widths": [4]}],
)
def test_an_impossible_cascade_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong)).removesuffix("s")):
        Cascade(THREE, **wrong)


def test_more_classes_than_a_byte_counts_are_refused():
    with pytest.raises(InputError, match="256 classes"):
        Cascade(ClassTable.from_ids(range(1, 257)), widths=WIDTHS)


# --- votes


@pytest.mark.parametrize("length", [1, 7, 8, 9, 12, 31])
def test_windows_step_by_half_and_cover_an_axis_evenly(length):
    starts = window_starts(length, 8, 0, length)
    assert np.diff(starts).tolist() == [4] * (len(starts) - 1)
    before, behind = -starts[0], starts[-1] + 8 - length
    assert 0 <= behind - before <= 1
    assert before < 4 or length < 8


def voted(stage, image, classes, window):
    """Vote over a whole volume at once, as the paper says."""
    shape = image.shape
    axes = [window_starts(n, window, 0, n) for n in shape]
    pads = [(-a[0], a[-1] + window - n) for a, n in zip(axes, shape, strict=True)]
    x = F.pad(torch.from_numpy(image), [n for pair in reversed(pads) for n in pair])
    votes = torch.zeros((classes, *x.shape))
    middle = np.zeros(window)
    middle[window // 4 : window // 4 * 3] = 1
    weight = torch.from_numpy(1 + np.einsum("i,j,k->ijk", middle, middle, middle)).float()
    for start in product(*axes):
        at = tuple(slice(s + a, s + a + window) for s, (a, _) in zip(start, pads, strict=True))
        with torch.inference_mode():
            best = stage.network(x[None, None][(..., *at)])[0].argmax(0)
        votes[(slice(None), *at)] += F.one_hot(best, classes).movedim(-1, 0) * weight
    inside = tuple(slice(a, a + n) for (a, _), n in zip(pads, shape, strict=True))
    return votes[(slice(None), *inside)]


def test_votes_over_tiles_are_those_of_the_whole_volume():
    model = seeded(lambda: Cascade(THREE, widths=WIDTHS, standard=8, votes=True))
    toys.randomise(model)
    (first, *_) = model.stages
    assert isinstance(first, Voting)
    assert first.window == 12
    image = noise((25, 14, 19))
    expected = voted(first.stage, image, 3, 12)
    assert expected.sum(0).max() == 9
    box = Box((0, 0, 0), image.shape)
    found = first({"image@0": torch.from_numpy(image)[None, None]}, [Where(box=box, shape=image.shape)])
    assert torch.equal(found["branch1"][0, 0], expected.argmax(0).to(torch.uint8))


def test_a_run_by_votes_does_not_depend_on_its_tiles(tmp_path):
    model = seeded(lambda: Cascade(THREE, widths=WIDTHS, standard=8, votes=True))
    toys.randomise(model)
    image = noise((40, 21, 17))
    plan = plan_of(model, image, tmp_path, tile=(16, 16, 16), halo="exact")
    assert plan.exact
    run(plan, image)
    whole = toys.all_arrays(model, image)[SCORES]
    assert np.array_equal(labels_of(plan), np.asarray(THREE.ids)[whole.argmax(0)])

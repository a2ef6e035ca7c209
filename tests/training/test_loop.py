from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learning import blocks, config, net, pair, same, spec_for, train, train_steps, weights_of
from napari_memseg.errors import InputError, RunMismatchError, TrainingError
from napari_memseg.geometry import Box
from napari_memseg.models.base import Grid, Loss, Recipe, SampleSpec
from napari_memseg.models.checkpoint import load_checkpoint
from napari_memseg.models.losses import masked_dice_ce
from napari_memseg.training import loop
from napari_memseg.training.checkpoints import TrainingState
from napari_memseg.training.config import TrainConfig
from napari_memseg.training.optimisation import Stepper
from napari_memseg.workflows.train_job import discard
from toys import toy

TESTS = Path(__file__).parents[1]


def grey_and_ids(volume):
    whole = Box.whole(volume.shape)
    return volume.image.read(whole).copy(), volume.labels.read(whole).copy()


def state_of(model, out):
    return TrainingState.load(spec_for(model, out).state(model.training_plan()[-1].name))


@pytest.mark.slow
def test_it_learns_classes_whose_ids_are_not_contiguous(out):
    model = net()
    steps = train(model, [blocks((32, 32, 32))], out, steps=150, learning_rate=2e-2)
    dice = steps[-1].val_dice
    assert set(dice) == {0, 7, 200}
    assert min(dice.values()) > 0.9
    assert steps[-1].step == steps[-1].steps == 150
    assert state_of(model, out).scores["mean_dice"] > 0.9


def test_the_seed_decides_the_weights_and_threads_do_not(out, tmp_path):
    models = [net(), net(), net()]
    changes: list[dict[str, Any]] = [{}, {"threads": 3}, {"seed": 1}]
    for number, (model, change) in enumerate(zip(models, changes, strict=True)):
        train(model, [blocks()], tmp_path / f"{number}.safetensors", mirror="zyx", **change)
    assert same(weights_of(models[0]), weights_of(models[1]))
    assert not same(weights_of(models[0]), weights_of(models[2]))


def test_a_caller_who_draws_random_numbers_changes_nothing(out, tmp_path):
    quiet, noisy = net(), net()
    train(quiet, [blocks()], out)
    for _ in train_steps(noisy, [blocks()], tmp_path / "other.safetensors"):
        torch.rand(7)
    assert same(weights_of(quiet), weights_of(noisy))


@pytest.mark.parametrize("after", [1, 3, 5])
def test_stopped_and_resumed_it_ends_as_if_undisturbed(out, tmp_path, after):
    whole, first, second = net(), net(), net(seed=9)
    train(whole, [blocks()], out)
    parts = tmp_path / "parts.safetensors"
    counted = iter(range(1, 99))
    before = train(first, [blocks()], parts, stop=lambda: next(counted) >= after)
    rest = train(second, [blocks()], parts, resume=True)
    assert [step.step for step in before + rest] == [1, 2, 3, 4, 5, 6]
    assert same(weights_of(second), weights_of(whole))
    assert same(state_of(second, parts).model, state_of(whole, out).model)


@pytest.mark.parametrize("during", ["step", "yield", "end"])
def test_interrupted_by_ctrl_c_and_resumed_it_ends_as_if_undisturbed(out, tmp_path, monkeypatch, during):
    whole, first, second = net(), net(), net(seed=9)
    train(whole, [blocks()], out)
    parts = tmp_path / "parts.safetensors"
    seen, take = [], Stepper._descend
    last = {"step": 2, "yield": 2, "end": 6}[during]

    def pressed(stepper, batch, rate):
        if during != "yield" and len(seen) == last - 1:
            signal.raise_signal(signal.SIGINT)
        take(stepper, batch, rate)

    monkeypatch.setattr(Stepper, "_descend", pressed)

    def follow():
        with closing(train_steps(first, [blocks()], parts)) as steps:
            for step in steps:
                seen.append(step.step)
                if during == "yield" and step.step == last:
                    signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        follow()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert state_of(first, parts).step == last
    monkeypatch.undo()
    rest = train(second, [blocks()], parts, resume=True)
    assert [step.step for step in rest] == list(range(last + 1, 7))
    assert same(weights_of(second), weights_of(whole))
    assert same(state_of(second, parts).model, state_of(whole, out).model)


def test_a_second_ctrl_c_does_not_wait_and_saves_no_half_step(out, monkeypatch):
    model = net()
    steps = train_steps(model, [blocks()], out, validate_every=1)
    next(steps)

    def pressed_twice(stepper, batch, rate):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one was kept waiting")

    monkeypatch.setattr(Stepper, "_descend", pressed_twice)
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    assert state_of(model, out).step == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_killed_and_resumed_it_ends_as_if_undisturbed(out, tmp_path):
    whole, resumed = net(), net(seed=9)
    killed = tmp_path / "killed.safetensors"
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    command = [sys.executable, str(TESTS / "training" / "killed.py"), str(killed)]
    seen = []
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            seen += [int(child.stdout.readline()) for _ in range(4)]
            child.kill()
    assert seen[:4] == [1, 2, 3, 4]
    assert seen[4] >= 5
    train(whole, [blocks()], out, steps=12)
    rest = train(resumed, [blocks()], killed, steps=12, resume=True)
    assert rest[0].step > seen[-1]
    assert same(weights_of(resumed), weights_of(whole))
    assert same(state_of(resumed, killed).model, state_of(whole, out).model)


def test_a_finished_phase_says_so_and_gives_its_best_weights_back(out):
    model, again = net(), net(seed=9)
    train(model, [blocks()], out)
    assert spec_for(model, out).is_finished("network")
    assert train(again, [blocks()], out, resume=True) == []
    assert same(weights_of(again), weights_of(model))


def test_another_training_is_not_resumed_and_the_difference_is_named(out):
    train(net(), [blocks()], out, stop=lambda: True)
    with pytest.raises(RunMismatchError, match=r"learning_rate was 0\.005 and is 0\.5"):
        train(net(), [blocks()], out, learning_rate=0.5, resume=True)
    with pytest.raises(RunMismatchError, match="labels was"):
        train(net(), [blocks(seed=1)], out, resume=True)


def test_one_changed_label_or_grey_value_is_another_training(out):
    grey, ids = grey_and_ids(blocks())
    swapped, brighter = ids.copy(), grey.copy()
    ids[8, 8, 8:10], swapped[8, 8, 8:10] = (7, 200), (200, 7)
    train(net(), [pair(grey, ids)], out, stop=lambda: True)
    brighter[0, 0, 0] += 1
    with pytest.raises(RunMismatchError, match="labels was"):
        train(net(), [pair(grey, swapped)], out, resume=True)
    with pytest.raises(RunMismatchError, match=r"volumes was.*fingerprint"):
        train(net(), [pair(brighter, ids)], out, resume=True)
    assert train(net(), [pair(grey, ids)], out, resume=True)


def test_other_validation_labels_are_another_training(out):
    given, (grey, ids) = [blocks(seed=4)], grey_and_ids(blocks(seed=4))
    train(net(), [blocks()], out, validation=given, stop=lambda: True)
    ids[ids == 7] = 9
    with pytest.raises(RunMismatchError, match="validation was"):
        train(net(), [blocks()], out, validation=[pair(grey, ids)], resume=True)


@pytest.mark.slow
def test_labels_that_no_class_has_change_nothing(out, tmp_path):
    grey, ids = grey_and_ids(blocks((32, 32, 32)))
    hidden = np.random.default_rng(0).random(ids.shape) < 0.5
    models = []
    for number, (under, unlabelled) in enumerate([(255, 255), (9, None), (12, None)]):
        volume = pair(grey, np.where(hidden, under, ids).astype(np.uint16), unlabelled)
        models.append(net())
        train(models[-1], [volume], tmp_path / f"{number}.safetensors")
    states = [state_of(model, tmp_path / f"{n}.safetensors") for n, model in enumerate(models)]
    assert same(states[0].model, states[1].model)
    assert same(states[0].model, states[2].model)
    assert states[0].scores == states[1].scores == states[2].scores


@pytest.mark.slow
def test_validating_changes_no_weight(out, tmp_path):
    often, once = net(), net()
    other = tmp_path / "once.safetensors"
    train(often, [blocks()], out, validate_every=1)
    train(once, [blocks()], other, validate_every=99)
    assert same(state_of(often, out).model, state_of(once, other).model)


@pytest.mark.slow
def test_the_best_weights_are_kept_and_scored_on_the_volumes_given(out):
    model = net()
    steps = train(
        model, [blocks()], out, validation=[blocks(seed=4)], validate_every=1, learning_rate=0.1, steps=8
    )
    means = [np.mean([d for i, d in step.val_dice.items() if i]) for step in steps]
    found, card = load_checkpoint(spec_for(model, out).best("network"))
    assert card.scores["step"] == int(np.argmax(means)) + 1
    assert card.scores["mean_dice"] == pytest.approx(max(means))
    assert same(weights_of(found), weights_of(model))


def test_a_phase_without_class_scores_tells_its_loss_and_no_dice(out):
    model = net()
    train(model, [blocks()], out, phase=Scoreless(model))
    card = spec_for(model, out).publish(model, ["head"])
    assert card.scores.keys() == {"validation_loss", "step"}
    assert card.scores["validation_loss"] > 0


def test_validation_labels_of_other_classes_are_a_clear_end_that_names_them(out):
    grey, ids = grey_and_ids(blocks(seed=4))
    other = [pair(grey, np.where(ids == 0, 44, 45).astype(np.uint16))]
    unchanged_after(
        TrainingError, r"hold the ids \[44, 45\].*\[0, 7, 200\]", net(), [blocks()], out, validation=other
    )


def test_a_model_file_is_replaced_only_by_publishing(out):
    out.write_bytes(b"the old model")
    model = net()
    train(model, [blocks()], out)
    assert out.read_bytes() == b"the old model"
    files = spec_for(model, out)
    card = files.publish(model, ["network"])
    assert card.training["network"]["steps_done"] == 6
    assert same(weights_of(load_checkpoint(out)[0]), weights_of(model))
    discard(out)
    assert list(out.parent.iterdir()) == [out]


def test_too_few_labels_to_hold_any_back_still_train(out):
    labels = np.full((16, 16, 16), 255, np.uint16)
    labels[2, 2, 2], labels[9, 9, 9], labels[14, 4, 9] = 0, 7, 200
    model, before = net(), weights_of(net())
    steps = train(model, [pair(labels.astype(np.uint8), labels, 255)], out)
    assert steps[-1].val_dice is None
    assert not same(weights_of(model), before)


def test_at_its_end_a_model_is_in_eval_mode_and_all_its_weights_can_be_trained(out):
    model = net()
    train(model, [blocks()], out)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_minutes_end_when_they_are_over(out, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(loop, "monotonic", lambda: float(next(clock)))
    steps = train(net(), [blocks()], out, steps=None, minutes=0.2, validate_every=99)
    assert [step.seconds for step in steps] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]
    assert steps[-1].val_dice is not None
    assert steps[2].steps == 12


# --- parts of a model


RECIPE = Recipe()


@dataclass(frozen=True)
class HeadPhase:
    """Trains the last layer of a U-Net alone."""

    model: Any
    name: str = "head"
    needs: tuple[Any, ...] = ()
    recipe: Any = RECIPE

    @property
    def sample(self):
        return SampleSpec(patch=(16, 16, 16))

    def parameters(self):
        return list(self.model.head.parameters())

    def step(self, batch):
        scores = self.model(batch.image)
        return Loss(value=masked_dice_ce(scores, batch.labels), scores=scores)


class Scoreless(HeadPhase):
    """The same, keeping its scores to itself."""

    def step(self, batch):
        return Loss(value=super().step(batch).value)


def test_only_the_phase_learns_and_other_batch_norms_keep_their_statistics(out):
    model, before = net(), weights_of(net())
    train(model, [blocks()], out, phase=HeadPhase(model))
    changed = {name for name, tensor in weights_of(model).items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}


class Made:
    """What an earlier stage wrote, in memory."""

    def __init__(self, data, grid=None):
        self.data, self.grid = np.asarray(data, np.float32), grid or Grid()

    @property
    def shape(self):
        return self.data.shape

    def read(self, box=None):
        return self.data if box is None else self.data[(slice(None), *box.slices)]


def test_a_model_of_two_phases_trains_one_after_the_other(out):
    model = toy(ids=(7, 200))
    first, second = model.training_plan()
    grey, ids = grey_and_ids(blocks())
    before = weights_of(model)
    train(model, [pair(grey, ids)], out, phase=first)
    between = weights_of(model)
    hint = Made(np.random.default_rng(0).random((3, 12, 12, 12)), Grid(factor=(2, 2, 2)))
    with_arrays = pair(grey, ids, hint=hint, latent=Made(np.ones(4)))
    train(model, [with_arrays], out, phase=second, mirror="zyx")
    after = weights_of(model)
    assert {n.partition(".")[0] for n in before if not torch.equal(before[n], between[n])} == {"first"}
    assert {n.partition(".")[0] for n in before if not torch.equal(between[n], after[n])} == {"second"}
    files = spec_for(model, out)
    assert files.is_finished("first")
    assert files.is_finished("second")


def test_a_phase_whose_earlier_stages_have_not_run_is_refused(out):
    with pytest.raises(InputError, match=r"hint.*Run those stages"):
        train(toy(ids=(7, 200)), [blocks()], out)


# --- clear ends


def unchanged_after(error, match, model, volumes, out, **changes):
    out.write_bytes(b"the old model")
    with pytest.raises(error, match=match):
        train(model, volumes, out, **changes)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert out.read_bytes() == b"the old model"


def test_no_labelled_voxel_is_a_clear_end(out):
    grey, ids = grey_and_ids(blocks())
    unchanged_after(TrainingError, "No voxel is labelled", net(), [pair(grey, ids * 0 + 255, 255)], out)


def test_an_empty_class_is_a_clear_end(out):
    unchanged_after(TrainingError, r"33 \(class 33\)", net(ids=(7, 33, 200)), [blocks()], out)


def test_a_loss_that_is_not_finite_is_a_clear_end(out):
    unchanged_after(TrainingError, "diverged.*lower rate", net(), [blocks()], out, learning_rate=1e30)


def test_nan_in_the_image_is_named_as_the_cause(out):
    grey, ids = grey_and_ids(blocks())
    image = grey.astype(np.float32)
    image[::4, ::4, ::4] = np.nan
    unchanged_after(TrainingError, "image holds NaN.*0:", net(), [pair(image, ids)], out)


def test_a_training_that_diverges_keeps_the_last_good_state(out):
    train(net(), [blocks()], out, stop=lambda: True)
    files = spec_for(net(), out)
    before = files.state("network").read_bytes()
    with pytest.raises(TrainingError):
        train(net(), [blocks()], out, learning_rate=1e30)
    assert files.state("network").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"steps": None}, "steps or minutes"),
        ({"minutes": 3.0}, "steps or minutes"),
        ({"steps": 0}, "steps must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"batch": 0}, "batch must be above 0"),
        ({"mirror": "zq"}, "mirror"),
        ({"patch": (0, 8, 8)}, "at least one voxel"),
        ({"seed": -1}, "0 or more"),
    ],
)
def test_an_impossible_config_is_refused(changes, match):
    with pytest.raises(InputError, match=match):
        config(**changes)


def test_a_device_that_is_not_here_is_refused_with_those_that_are(out):
    with pytest.raises(InputError, match=r"'tpu'.*auto.*cpu"):
        train(net(), [blocks()], out, device="tpu")


def test_a_config_is_plain_json_with_its_defaults():
    found = TrainConfig(steps=5, mirror=frozenset("xz")).to_json()
    assert found["mirror"] == "zx"
    assert found["patch"] is None
    assert found["batch"] is None
    assert found["learning_rate"] is None

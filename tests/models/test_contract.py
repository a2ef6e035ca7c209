"""What the engine and the training loop may ask of every network, of one stage or of many."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

import toys
from learning import WINDOW, blocks
from napari_memseg.geometry import Box, zyx
from napari_memseg.inference.preview import Preview
from napari_memseg.models.base import SCORES, Grid, Recipe, Stage
from napari_memseg.models.checkpoint import Card, load_checkpoint, save_checkpoint
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.intensity import Window
from napari_memseg.models.registry import create_model, names
from napari_memseg.training.descent import OPTIMIZERS
from napari_memseg.training.label_index import index_labels
from napari_memseg.training.optimisation import only_training, set_training_mode
from napari_memseg.training.patches import PatchSampler
from running import UNIT_WINDOW, in_memory, labels_of, noise, plan_of, run

CLASSES = ClassTable.from_ids([7, 200])
OCCUPANCY = {"encoder_shape": [16] * 3, "encoder_widths": [4, 8], "blocks": 2, "coordinates": "raw"}
SMALLER: dict[str, dict[str, Any]] = {
    "oss_net": {**OCCUPANCY, "width": 32, "training_points": 256, "search": "all"},
    "o_net": {**OCCUPANCY, "width": 16, "training_points": 256},
    "scn": {"widths": [4, 3]},
    "sau_net": {"width": 4},
    "unet3d_residual": {"width": 3},
    "meunet": {"widths": [4, 4, 6, 8, 8], "standard": 32},
    "cascade": {"widths": [4, 4, 6, 8, 8], "standard": 32},
}
"""Arguments that make a large network quick to test; how far it looks must stay what it is."""
PATCH = (48, 48, 48)
SIZES = [(16, 16, 16), (17, 19, 23), (5, 33, 1)]


@pytest.fixture(params=sorted(names()))
def network(request):
    """An untrained network in eval mode, with batch norms as if it had been trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = create_model(request.param, CLASSES, **SMALLER.get(request.param, {}))
        toys.randomise(model)
    return model.eval()


@dataclass(frozen=True)
class Kept:
    """What a stage made of a whole volume."""

    data: np.ndarray
    grid: Grid

    @property
    def shape(self):
        return self.data.shape

    def read(self, box=None):
        return self.data if box is None else self.data[(slice(None), *box.slices)]


def batches(model):
    """Yield each phase of a network with a batch to learn from, made as in a training."""
    volume = blocks((56, 49, 52), ids=(0, *CLASSES.ids[1:]))
    grey = volume.image.read(Box.whole(volume.shape)) / 200.0
    made = toys.all_arrays(model, grey.astype(np.float32))
    grids = {w.array: w.grid for stage in model.stages for w in stage.writes}
    kept = {name: Kept(array, grids[name]) for name, array in made.items() if name in grids}
    index = index_labels([volume], CLASSES)
    for phase in model.training_plan():
        sampler = PatchSampler(
            volumes=[replace(volume, arrays=kept)],
            index=index,
            held=index.take(np.zeros(len(index), bool)),
            spec=replace(phase.sample, patch=PATCH),
            classes=CLASSES,
            window=WINDOW,
        )
        yield phase, sampler.batch(0, 2)


def test_stages_and_phases_are_what_they_should_be(network):
    assert all(isinstance(stage, Stage) for stage in network.stages)
    assert len({stage.name for stage in network.stages}) == len(network.stages)
    (scores,) = network.stages[-1].writes
    assert (scores.array, scores.channels) == (SCORES, len(CLASSES))
    assert not network.stages[-1].whole
    phases = network.training_plan()
    assert len({phase.name for phase in phases}) == len(phases)
    for phase in phases:
        assert isinstance(phase.recipe, Recipe)
        assert phase.recipe.optimizer in OPTIMIZERS
        assert set(phase.needs) <= set(network.stages)
    assert network.title
    assert network.paper
    assert network.advice.endswith(".")


@pytest.mark.parametrize("shape", SIZES)
def test_a_volume_of_any_size_has_scores_of_that_size(network, shape):
    scores = toys.whole_volume(network, noise(shape))
    assert scores.shape == (len(CLASSES), *shape)
    assert np.isfinite(scores).all()


def test_what_a_phase_trains_has_a_gradient_and_nothing_else(network):
    trained = set()
    for phase, batch in batches(network):
        with only_training(network, phase.parameters()):
            set_training_mode(network)
            network.zero_grad()
            loss = phase.step(batch)
            loss.value.backward()
            learning = {id(p) for p in phase.parameters()}
            for name, p in network.named_parameters():
                assert (p.grad is not None) == (id(p) in learning), name
                assert p.grad is None or bool(p.grad.isfinite().all()), name
            if loss.scores is not None:
                assert loss.scores.shape == (2, len(CLASSES), *batch.labels.shape[1:])
        trained |= learning
    assert trained == {id(p) for p in network.parameters()}


def test_a_patch_without_an_opinion_teaches_nothing(network):
    for phase, batch in batches(network):
        with only_training(network, phase.parameters()):
            set_training_mode(network)
            network.zero_grad()
            nothing = replace(
                batch,
                labels=torch.full_like(batch.labels, -1),
                overviews=[replace(o, presence=torch.zeros_like(o.presence)) for o in batch.overviews],
            )
            phase.step(nothing).value.backward()
            for name, p in network.named_parameters():
                assert p.grad is None or not p.grad.any(), name


def test_a_saved_copy_agrees_bit_by_bit(network, tmp_path):
    card = Card(
        architecture=network.architecture,
        arguments=network.arguments,
        classes=CLASSES,
        window=Window(0, 255, "uint8"),
    )
    written = save_checkpoint(tmp_path / "net.safetensors", network, card)
    copy, read = load_checkpoint(tmp_path / "net.safetensors")
    assert read == written
    assert read == replace(card, sha256=written.sha256)
    x = noise((17, 18, 19))
    assert np.array_equal(toys.whole_volume(copy.eval(), x), toys.whole_volume(network, x))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_tiles_with_exact_halos_are_crops_of_the_whole(network, axis, tmp_path):
    """Through the engine, all stages, on a volume that is thin along the other axes."""
    steps = [max(lengths) for lengths in zip(*(stage.multiple for stage in network.stages), strict=True)]
    shape, tile = [3, 3, 3], [-(-16 // step) * step for step in steps]
    tile[axis] = -(-32 // steps[axis]) * steps[axis]
    shape[axis] = reach(network, axis) + 3 * tile[axis] + 5
    data = noise(tuple(shape))
    plan = plan_of(network, data, tmp_path, tile=tuple(tile), halo="exact", chunk=16)
    assert plan.exact
    run(plan, data)
    scores = toys.whole_volume(network, data)
    wrong = labels_of(plan) != np.asarray(CLASSES.ids)[scores.argmax(0)]
    second, best = np.sort(scores, 0)[-2:]
    assert not (wrong & (best - second > 1e-4 * scores.std())).any()
    assert len(np.unique(scores.argmax(0))) > 1, "all of one class proves nothing"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_preview_of_a_box_is_a_crop_of_the_whole(network, axis):
    shape, stop = [5, 5, 5], [4, 5, 3]
    shape[axis] = reach(network, axis) + 57
    start, stop[axis] = zyx(shape[axis] // 2 if a == axis else 1 for a in range(3)), shape[axis] // 2 + 21
    box, data = Box(start, zyx(stop)), noise(tuple(shape))
    seen = Preview(network, in_memory(data), 0, UNIT_WINDOW, halo="exact")(box)
    scores = toys.whole_volume(network, data)[(slice(None), *box.slices)]
    wrong = seen != np.asarray(CLASSES.ids)[scores.argmax(0)]
    second, best = np.sort(scores, 0)[-2:]
    assert not (wrong & (best - second > 1e-4 * scores.std())).any()


def reach(network, axis):
    """Return the longest context of any read, in working voxels."""
    found = []
    grids = {w.array: w.grid.factor[axis] for stage in network.stages for w in stage.writes}
    for read in (read for stage in network.stages for read in stage.reads if not read.whole):
        factor = grids.get(read.array) or 2 ** int(read.array.partition("@")[2])
        found.append(factor * (read.halo_exact.low[axis] + read.halo_exact.high[axis]))
    return max(found)

"""What the engine and the training loop may ask of every network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import toys
from napari_memseg.geometry import Box, zyx
from napari_memseg.models.base import SCORES, Batch, Stage, Where
from napari_memseg.models.checkpoint import Card, load_checkpoint, save_checkpoint
from napari_memseg.models.classes import IGNORE, ClassTable
from napari_memseg.models.intensity import Window
from napari_memseg.models.plain import PlainModel
from napari_memseg.models.registry import create_model, names

CLASSES = ClassTable.from_ids([3, 15])
NETWORKS = sorted(names())


@pytest.fixture(params=NETWORKS)
def network(request):
    """An untrained network in eval mode, with batch norms as if it had been trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = create_model(request.param, CLASSES)
        assert isinstance(model, PlainModel)
        toys.randomise(model)
    return model.eval()


def image(*shape):
    return torch.rand((1, 1, *shape), generator=torch.Generator().manual_seed(5))


def run(stage, x):
    box = Box.whole(zyx(x.shape[2:]))
    return stage({"image@0": x}, [Where(box=box, shape=box.shape)] * len(x))[SCORES]


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 19, 23), (5, 33, 1)])
@torch.inference_mode()
def test_a_tile_in_is_scores_of_that_size_out(network, shape):
    (stage,) = network.stages
    assert isinstance(stage, Stage)
    scores = run(stage, image(*shape))
    assert scores.shape == (1, len(CLASSES), *shape)
    assert stage.writes[-1].array == SCORES
    assert stage.writes[-1].channels == len(CLASSES)
    assert bool(scores.isfinite().all())


def test_every_weight_learns(network):
    (phase,) = network.train().training_plan()
    labels = torch.randint(IGNORE, len(CLASSES), (2, 18, 16, 21), generator=torch.Generator().manual_seed(0))
    loss = phase.step(Batch(image=torch.rand(2, 1, 18, 16, 21), labels=labels))
    loss.value.backward()
    assert {id(p) for p in phase.parameters()} == {id(p) for p in network.parameters()}
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []
    assert loss.scores is not None
    assert loss.scores.shape == (2, len(CLASSES), 18, 16, 21)


@torch.inference_mode()
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
    x = image(17, 18, 19)
    assert torch.equal(copy(x), network(x))


@pytest.mark.parametrize("axis", [0, 1, 2])
@torch.inference_mode()
def test_a_tile_with_exact_halo_is_a_crop_of_the_whole(network, axis):
    (stage,) = network.stages
    step, halo = stage.multiple[axis], stage.reads[0].halo_exact
    low, high = halo.low[axis], halo.high[axis]
    assert low % step == 0
    assert high % step == 0
    shape = [3, 3, 3]
    shape[axis] = low + high + 4 * step + 1
    x = image(*shape)
    whole = run(stage, x)
    start = 2 * step
    tile = run(stage, x.narrow(2 + axis, start, low + step + high))
    difference = tile.narrow(2 + axis, low, step) - whole.narrow(2 + axis, start + low, step)
    assert float(difference.abs().max()) < 1e-4 * float(whole.std())
    last = run(stage, x.narrow(2 + axis, start, shape[axis] - start))
    difference = last.narrow(2 + axis, low, shape[axis] - start - low) - whole.narrow(
        2 + axis, start + low, shape[axis] - start - low
    )
    assert float(difference.abs().max()) < 1e-4 * float(whole.std())


@torch.inference_mode()
def test_samples_of_a_batch_do_not_see_each_other(network):
    (stage,) = network.stages
    x = torch.cat([image(16, 16, 16), 100 * image(16, 16, 16)])
    alone, together = run(stage, x[:1]), run(stage, x)[:1]
    assert float((alone - together).abs().max()) < 1e-4 * float(alone.std())

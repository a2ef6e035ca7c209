"""What networks cost on this machine is measured in a moment, and forecast for patches of their own size."""

import json
from math import isfinite

import pytest
import torch

import toys
from napari_memseg.errors import Cancelled, InputError
from napari_memseg.geometry import zyx
from napari_memseg.inference.control import Control
from napari_memseg.models import registry
from napari_memseg.models.registry import create_model, names
from napari_memseg.training.memory import BYTES_A_WEIGHT, kept_for_backward
from napari_memseg.training.optimisation import set_training_mode
from napari_memseg.training.rehearsal import rehearse, run_stages
from napari_memseg.workflows import costs as module
from napari_memseg.workflows.costs import CLASSES, GIB, costs

NUMBERS = ("train_memory_gib", "train_seconds_per_step", "segment_seconds_per_megavoxel")
ASKS_POINTS = {"encoder_shape": [16] * 3, "encoder_widths": [4, 8], "blocks": 2, "width": 8, "points": 4096}
SMALLER = {
    "oss_net": {**ASKS_POINTS, "training_points": 64},
    "o_net": {**ASKS_POINTS, "training_points": 64},
}
"""Arguments of the networks that take seconds for a point or for thousands."""


@pytest.fixture
def toy(monkeypatch):
    """A network of three stages and two phases, known while a test runs."""
    monkeypatch.setattr(registry, "_REGISTERED", {})
    toys.register()
    return toys.ToyModel


@pytest.fixture
def quick(monkeypatch):
    """Networks of the usual kind, those narrower that are slow by nature."""
    create = registry.create_model
    monkeypatch.setattr(registry, "create_model", lambda name, c: create(name, c, **SMALLER.get(name, {})))


def measure(*chosen, **how):
    (*_, last) = costs(chosen, "cpu", **how)
    return last.result["costs"]


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_network_has_costs(quick, name):
    (row,) = measure(name, edge=24)
    assert json.loads(json.dumps(row)) == row
    assert row.keys() == {"name", "device", *NUMBERS}
    assert (row["name"], row["device"]) == (name, "cpu")
    assert all(isfinite(row[number]) and row[number] > 0 for number in NUMBERS), row


def kept_by(network, edge):
    """Return the GiB of a step whose patches have an edge, counted on those themselves."""
    model = create_model(network, CLASSES)
    (phase,) = model.training_plan()
    batch = rehearse(phase, zyx([edge] * 3), len(CLASSES), samples=phase.recipe.batch)
    set_training_mode(model)
    kept = kept_for_backward(lambda: phase.step(batch).value)
    return (kept + BYTES_A_WEIGHT * model.parameter_count) / GIB


def test_memory_is_forecast_for_the_patches_of_the_recipe():
    forecast = measure("small", edge=24)[0]["train_memory_gib"]
    assert forecast == pytest.approx(kept_by("small", 48), rel=0.02)
    assert forecast > 5 * kept_by("small", 24)


def test_memory_grows_with_the_patch_in_the_phase_that_takes_most(toy, monkeypatch):
    small = measure("toy", edge=8)[0]
    monkeypatch.setattr(toy.__init__, "__kwdefaults__", {"patch": (64, 64, 64)})
    assert measure("toy", edge=8)[0]["train_memory_gib"] > 50 * small["train_memory_gib"]


def test_a_batch_has_all_that_a_phase_asks_for(toy):
    model = toy(CLASSES)
    first, second = model.training_plan()
    assert not rehearse(first, (8, 8, 8), 3).arrays
    batch = rehearse(second, (8, 10, 13), 3, samples=2)
    assert batch.arrays["hint"].shape == (2, 3, 4, 5, 7)
    assert batch.arrays["latent"].shape == (2, toys.LATENT)
    assert all(w.boxes["hint"].shape == (4, 5, 7) and "latent" not in w.boxes for w in batch.where)
    assert len(batch.where) == len(batch.image) == len(batch.labels) == 2


def test_stages_that_run_once_are_timed_by_themselves(toy):
    assert run_stages(toy(CLASSES).eval(), (8, 8, 8)).keys() == {"coarse", "first", "second"}


def test_what_takes_long_is_measured_once_and_all_else_three_times(monkeypatch):
    times = iter([0.1, 0.5, 0.2, 7.0])
    control = Control()
    assert module._median(lambda: next(times), control) == 0.2
    assert module._median(lambda: next(times), control) == 7.0


def test_the_process_draws_the_same_numbers_afterwards():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    measure("pixels", edge=8)
    assert torch.rand(1) == expected


def test_each_network_is_named_before_it_is_measured():
    steps = list(costs(["pixels", "small"], "cpu", edge=8))
    assert [(step.done, step.total, step.message) for step in steps] == [
        (0, 2, "pixels"),
        (1, 2, "small"),
        (2, 2, ""),
    ]


def test_it_can_be_cancelled():
    control = Control()
    steps = costs(["pixels", "small"], "cpu", edge=8, control=control)
    next(steps)
    control.cancel()
    with pytest.raises(Cancelled):
        next(steps)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"names": ["resnet"]}, "no network named"),
        ({"device": "tpu"}, "no device"),
        ({"edge": 1}, "Choose 2 or more"),
    ],
)
def test_what_is_not_possible_is_refused(what, words):
    with pytest.raises(InputError, match=words):
        list(costs(**what))


def test_a_shortage_of_memory_is_called_so(monkeypatch):
    def take_all(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte.")

    monkeypatch.setattr(module, "rehearse", take_all)
    with pytest.raises(InputError, match="does not suffice to measure small"):
        measure("small")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_is_measured_like_a_cpu():
    (*_, last) = costs(["cascade", "oss_net"], "cuda", edge=48)
    assert all(
        row["device"] == "cuda" and row[number] > 0 for row in last.result["costs"] for number in NUMBERS
    )

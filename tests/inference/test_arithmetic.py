"""Faster arithmetics change the last bits and nothing else."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import toys
from napari_memseg.inference import arithmetic
from napari_memseg.inference.arithmetic import (
    CHANNELS_LAST,
    CONTIGUOUS,
    REFERENCE,
    Arithmetic,
    arrange,
    candidates,
    computing,
    prepare,
    usual,
)
from running import expected, labels_of, noise, plan_of, run

pytestmark = pytest.mark.usefixtures("_no_flushes")

SHAPE = (37, 41, 29)
MODELS = {
    "four levels": lambda: toys.random_unet(1, 4),
    "one level": lambda: toys.random_unet(2, 1),
    "toy": toys.toy,
    "null": toys.null,
}
WAYS = {
    "folded": Arithmetic(folded=True),
    "channels last": Arithmetic(layout=CHANNELS_LAST),
    "both": Arithmetic(layout=CHANNELS_LAST, folded=True),
}


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_folding_and_layout_change_scores_by_rounding_alone(make, how):
    model, data = make(), noise(SHAPE)
    reference = toys.whole_volume(model, data)
    prepared = deepcopy(model)
    prepare(prepared, how)
    scores = toys.whole_volume(prepared, data)
    assert np.abs(scores - reference).max() < 1e-4 * np.abs(reference).max()


def test_every_norm_of_the_plain_network_is_folded():
    model = toys.random_unet(0, 4)
    prepare(model, WAYS["folded"])
    kinds = [type(module) for module in model.modules()]
    assert nn.BatchNorm3d not in kinds
    assert kinds.count(nn.Conv3d) == 2 * 7 + 1


def test_the_reference_leaves_a_network_as_it_was_trained():
    model = toys.random_unet(0, 2)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    prepare(model, REFERENCE)
    assert all((value == weights[name]).all() for name, value in model.state_dict().items())


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_a_run_in_another_layout_makes_the_labels_of_one_pass(tmp_path, how):
    model, data = toys.random_unet(1, 3), noise(SHAPE)
    plan = plan_of(model, data, tmp_path, tile=(32, 32, 32), halo="exact").computing(how)
    run(plan, data)
    assert np.mean(labels_of(plan) != expected(model, data)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_leaves_most_labels_of_an_untrained_network(tmp_path, precision):
    model, data = toys.random_unet(1, 2), noise(SHAPE)
    plan = plan_of(model, data, tmp_path, tile=(32, 32, 32), halo="exact")
    plan = plan.computing(Arithmetic(precision, CHANNELS_LAST, folded=True))
    run(plan, data)
    assert np.mean(labels_of(plan) == expected(model, data)) > 0.95


def test_other_arithmetics_are_other_runs(tmp_path):
    plan = plan_of(toys.null(), noise(SHAPE), tmp_path)
    plans = [plan, *(plan.computing(how) for how in WAYS.values())]
    assert len({plan.id for plan in plans}) == len(plans)
    assert plan.computing(plan.arithmetic) == plan
    assert replace(plan, layout=CHANNELS_LAST).arithmetic == WAYS["channels last"]


LAST, BFLOAT = (Arithmetic(name, CHANNELS_LAST, folded=True) for name in ("float32", "bfloat16"))
HALF = [Arithmetic("float16", layout, folded=True) for layout in (CONTIGUOUS, CHANNELS_LAST)]


@pytest.mark.parametrize(
    ("wanted", "device", "has_bfloat16", "tried"),
    [
        ("auto", "cpu", True, [REFERENCE, LAST, BFLOAT]),
        ("auto", "cpu", False, [REFERENCE, LAST]),
        ("auto", "mps", True, [REFERENCE, LAST]),
        ("auto", "cuda", False, [REFERENCE, *HALF, BFLOAT]),
        ("auto", "cuda:1", False, [REFERENCE, *HALF, BFLOAT]),
        ("float32", "cpu", True, [REFERENCE]),
        ("float32", "cuda", True, [REFERENCE]),
        ("float16", "cuda", False, HALF),
        ("bfloat16", "cpu", False, [replace(how, precision="bfloat16") for how in HALF]),
    ],
)
def test_what_is_worth_a_measurement_begins_with_the_usual(monkeypatch, wanted, device, has_bfloat16, tried):
    monkeypatch.setattr(arithmetic, "cpu_has_bfloat16", lambda: has_bfloat16)
    assert candidates(wanted, device) == tried
    assert usual(wanted) == tried[0]


def test_float32_is_not_shortened_and_what_is_shorter_is():
    x = torch.rand(4, 4)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with computing(Arithmetic(precision), torch.device("cpu")):
            assert (x @ x).dtype == dtype
            assert torch.backends.cudnn.allow_tf32 == (precision != "float32")
            assert torch.backends.cudnn.deterministic
            assert not torch.backends.cudnn.benchmark


def test_what_has_no_channels_keeps_its_layout():
    vector, image = torch.rand(2, 7), torch.rand(2, 3, 4, 5, 6)
    assert arrange(vector, LAST) is vector
    assert arrange(image, REFERENCE) is image
    assert arrange(image, LAST).is_contiguous(memory_format=torch.channels_last_3d)
    assert (arrange(image, LAST) == image).all()


def test_an_arithmetic_has_a_name_for_people():
    assert str(REFERENCE) == "float32, contiguous"
    assert str(BFLOAT) == "bfloat16, channels last, folded norms"

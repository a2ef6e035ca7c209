"""Presets by name, JSON and back, and what is refused."""

import json
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flies import whole
from napari_memseg.errors import InputError
from napari_memseg.phantom.parameters import (
    ANIMALS,
    DIFFICULTIES,
    SIZES,
    AnimalParameters,
    PhantomParameters,
    ScanParameters,
)


@st.composite
def presets(draw):
    return PhantomParameters.named(
        draw(st.sampled_from(sorted(SIZES)) | st.tuples(*[st.integers(1, 2**20)] * 3)),
        draw(st.sampled_from(sorted(DIFFICULTIES))),
        animal=draw(st.sampled_from(sorted(ANIMALS))),
        seed=draw(st.integers(0, 2**64 - 1)),
        voxel_um=draw(st.none() | st.floats(0.1, 100)),
    )


@given(presets())
def test_presets_are_their_values(parameters):
    assert parameters.shape in SIZES.values() or len(parameters.shape) == 3
    assert parameters.animal in ANIMALS.values()
    assert parameters.scan in DIFFICULTIES.values()


@given(presets())
def test_parameters_come_back_from_json_as_they_were(parameters):
    text = json.dumps(parameters.to_json())
    assert PhantomParameters.from_json(json.loads(text)) == parameters


def test_a_phantom_from_json_is_the_same_phantom():
    before = PhantomParameters.named((20, 20, 20), "hard", seed=7).with_animal(stain="pta", medium="agarose")
    after = PhantomParameters.from_json(json.loads(json.dumps(before.to_json())))
    whole.cache_clear()
    one = whole(before)
    whole.cache_clear()
    for first, second in zip(one, whole(after), strict=True):
        assert np.array_equal(first, second)


def test_json_names_every_parameter():
    values = PhantomParameters.named().to_json()
    assert set(values) == {field.name for field in fields(PhantomParameters)}
    assert set(values["animal"]) == {field.name for field in fields(AnimalParameters)}
    assert set(values["scan"]) == {field.name for field in fields(ScanParameters)}


@given(presets(), st.floats(0.1, 10))
@settings(max_examples=10)
def test_changing_the_scan_leaves_the_animal_alone_and_the_other_way_round(parameters, snr):
    scanned = parameters.with_scan(snr=snr)
    assert (scanned.scan.snr, scanned.animal) == (snr, parameters.animal)
    grown = parameters.with_animal(fibre_um=33.0)
    assert (grown.animal.fibre_um, grown.scan) == (33.0, parameters.scan)


def test_whole_numbers_of_numpy_are_whole_numbers():
    parameters = PhantomParameters(shape=tuple(np.full(3, 20)), seed=np.int64(3))
    assert json.loads(json.dumps(parameters.to_json()))["shape"] == [20, 20, 20]
    assert parameters == PhantomParameters(shape=(20, 20, 20), seed=3)


@pytest.mark.parametrize(
    ("wrong", "there_are"),
    [
        ({"size": "gigantic"}, "tiny, small, medium, large, huge"),
        ({"difficulty": "impossible"}, "easy, normal, hard"),
        ({"animal": "cow"}, "fly, beetle, larva"),
    ],
)
def test_an_unknown_preset_is_refused_with_those_there_are(wrong, there_are):
    with pytest.raises(InputError, match=there_are) as refused:
        PhantomParameters.named(**wrong)
    assert repr(next(iter(wrong.values()))) in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (0, 64, 64)},
        {"shape": (64, -1, 64)},
        {"shape": (64, 64)},
        {"shape": 64},
        {"shape": "huge"},
        {"shape": (64.0, 64, 64)},
        {"seed": 1.5},
        {"seed": -1},
        {"seed": "one"},
        {"shape": (64, 64, 64, 64)},
        {"shape": (64, 64, 2**20 + 1)},
        {"voxel_um": 0.0},
        {"voxel_um": -1.0},
        {"voxel_um": float("nan")},
        {"voxel_um": float("inf")},
        {"tilt_degrees": float("nan")},
        {"mode": "guess"},
        {"mode": "projection", "shape": (8, 1025, 8)},
    ],
    ids=str,
)
def test_an_impossible_volume_is_refused(wrong):
    with pytest.raises(InputError):
        PhantomParameters(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"length_um": 0.0},
        {"length_um": float("nan")},
        {"length_um": float("inf")},
        {"cuticle_um": -1.0},
        {"membrane_um": 0.0},
        {"fibre_um": 0.0},
        {"fibre_gap_um": -1.0},
        {"fat_cell_um": 0.0},
        {"fat_cell_um": 12.0},
        {"fibre_um": 2.0},
        {"facet_um": 2.0},
        {"kind": "../fly"},
        {"kind": ""},
        {"facet_um": -16.0},
        {"twig_um": 0.0},
        {"shrinkage_um": -5.0},
        {"stain_depth_um": 0.0},
        {"head": 0.0},
        {"spread": -0.1},
        {"attractors": 0},
        {"medium": "oil"},
        {"stain": "gold"},
    ],
    ids=str,
)
def test_an_impossible_animal_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        AnimalParameters(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"snr": 0.0},
        {"snr": float("nan")},
        {"clip": 0.5},
        {"clip": -0.1},
        {"blur": -1.0},
        {"blur": 4.5},
        {"blur_at_edge": -1.0},
        {"blur_z": -1.0},
        {"bits": 12},
        {"arc": 90},
        {"seam_every": -5},
        {"hardening": 1.5},
        {"ring": -0.1},
        {"noise_floor": 1.5},
        {"flicker": -0.1},
    ],
    ids=str,
)
def test_an_impossible_scan_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ScanParameters(**wrong)


def test_presets_get_harder():
    easy, normal, hard = DIFFICULTIES.values()
    for name in ("blur", "hardening", "ring", "strong_rings", "drift_voxels", "z_gain"):
        assert getattr(easy, name) < getattr(normal, name) <= getattr(hard, name), name
    assert easy.snr > normal.snr > hard.snr

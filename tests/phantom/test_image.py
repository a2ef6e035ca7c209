"""How an image is formed of what is there: noise as asked, blur, fringes, grey values."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flies import SMALL, clean, phantom, voxels, whole
from napari_memseg.geometry import Box
from napari_memseg.phantom.fly import Level
from napari_memseg.phantom.image import Imaging
from napari_memseg.phantom.parameters import DIFFICULTIES, PhantomParameters
from napari_memseg.phantom.prepass import Prepass
from napari_memseg.phantom.tissue import HAEMOLYMPH_VALUE, MUSCLE_VALUE
from napari_memseg.phantom.voxels import Voxels

CONTRAST = MUSCLE_VALUE - HAEMOLYMPH_VALUE
AIR = Prepass(1.0, np.zeros((1, 1, 1), np.float32), 1.0, np.zeros((0, 3)))


def attenuation(parameters):
    """Return the image as what its grey values stand for."""
    low, high = phantom(parameters).window
    image = whole(parameters).image
    return image / np.iinfo(image.dtype).max * (high - low) + low


def air(parameters):
    """Return the attenuation of two corners, in which there is no animal."""
    low, high = phantom(parameters).window
    found = [phantom(parameters).render(box) for box in (Box((0, 0, 0), (48, 9, 9)), Box((0, 39, 39), SMALL))]
    assert not any(corner.truth.any() for corner in found)
    return np.concatenate([corner.image.ravel() for corner in found]) / 65535 * (high - low) + low


def imaging(shape=(40, 40, 40), window=(-1.0, 3.0), **scan):
    return Imaging(clean(shape).with_scan(**scan), shape, 1, AIR, window)


def formed(image, box, values):
    """Return what becomes of an attenuation that is known in the whole volume and as at its faces beyond."""
    halo = image.halo
    around = np.pad(values, halo, mode="edge")[image.reads(box).relative_to((-halo,) * 3).slices]
    around = np.ascontiguousarray(around, np.float32)
    nothing = np.zeros(around.shape)
    found = Voxels(nothing.astype(np.uint8), nothing.astype(np.uint32), around, nothing.astype(np.float32))
    return image.form(box, found)


def grey(image, box, values, window=(-1.0, 3.0)):
    return formed(image, box, values) / 65535 * (window[1] - window[0]) + window[0]


@pytest.mark.parametrize("snr", [5.0, 2.0, 0.8])
def test_noise_in_air_is_the_contrast_of_muscle_over_the_signal_to_noise(snr):
    parameters = clean(SMALL).with_scan(snr=snr)
    assert air(parameters).std() == pytest.approx(CONTRAST / snr, rel=0.1)


def test_hard_is_noisier_than_normal_and_normal_than_easy():
    easy, normal, hard = (air(PhantomParameters.named(SMALL, name)).std() for name in DIFFICULTIES)
    assert 1.5 * easy < normal < hard / 1.5


def test_a_scan_without_effects_shows_the_attenuation():
    found = attenuation(clean().with_scan(clip=1e-6))
    level = voxels(clean())
    low, high = phantom(clean().with_scan(clip=1e-6)).window
    np.testing.assert_allclose(found, np.clip(level.light + level.heavy, low, high), atol=1e-4)


@pytest.mark.parametrize("name", list(DIFFICULTIES))
def test_no_more_voxels_are_clipped_at_either_end_than_asked_for(name):
    parameters = PhantomParameters.named(SMALL, name)
    image = whole(parameters).image
    for end in (0, 65535):
        assert (image == end).mean() < 2 * parameters.scan.clip


def test_clipping_follows_what_was_asked_for():
    for clip in (0.003, 0.01):
        image = whole(clean().with_scan(snr=2.0, clip=clip)).image
        assert (image == 0).mean() == pytest.approx(clip, rel=0.35)
        assert (image == 65535).mean() == pytest.approx(clip, rel=0.35)


def test_nothing_is_clipped_where_no_clipping_was_asked_for():
    image = whole(clean().with_scan(snr=2.0, clip=0.0)).image
    assert (image == 0).mean() < 1e-4
    assert (image == 65535).mean() < 1e-4


def test_eight_bits_show_what_sixteen_do():
    wide, narrow = (PhantomParameters.named(SMALL).with_scan(bits=bits) for bits in (16, 8))
    image, small = whole(wide).image, whole(narrow).image
    assert (image.dtype, small.dtype) == (np.uint16, np.uint8)
    assert phantom(narrow).dtype == np.uint8
    assert abs(image / 257 - small).max() < 0.51


def test_truth_knows_nothing_of_what_a_scanner_does_to_grey_values():
    parameters = PhantomParameters.named(SMALL)
    quiet = parameters.with_scan(blur=0.0, snr=1e9, ring=0.0, hardening=0.0, z_gain=0.0, bits=8)
    for name in ("truth", "instances"):
        assert np.array_equal(getattr(whole(parameters), name), getattr(whole(quiet), name))
    assert not np.array_equal(whole(parameters).image, whole(quiet).image)


def test_blur_softens_an_edge_more_at_the_rim_of_the_field_than_at_the_axis():
    step = np.zeros((40, 40, 40))
    step[20:] = 1
    edge = grey(
        imaging(blur=1.0, blur_at_edge=1.5, axis_offset=(0.0, 0.0)), Box((16, 0, 0), (24, 40, 40)), step
    )
    steepest = np.diff(edge, axis=0).max(0)
    assert steepest[20, 20] == pytest.approx(0.399, abs=0.005)  # of a Gaussian with sigma 1
    assert steepest[0, 0] == pytest.approx(0.266, abs=0.005)  # with sigma 1.5
    assert steepest[20, 20] > steepest[20, 30] > steepest[0, 0]


def test_blur_can_be_wider_along_z():
    step = np.zeros((40, 40, 40))
    step[20:] = 1
    box = Box((16, 19, 19), (24, 21, 21))
    narrow, wide = (grey(imaging(blur=0.8, blur_z=factor), box, step) for factor in (1.0, 2.0))
    assert np.diff(wide, axis=0).max() < 0.6 * np.diff(narrow, axis=0).max()


def test_phase_contrast_gives_an_edge_a_dark_and_a_bright_fringe():
    step = np.zeros((40, 40, 40))
    step[:, :, 20:] = 1
    box = Box((18, 18, 14), (22, 22, 26))
    plain, fringed = (grey(imaging(blur=0.8, phase=k), box, step)[1, 1] for k in (0.0, 0.4))
    assert plain.min() >= -1e-3
    assert plain.max() <= 1 + 1e-3
    assert fringed[:6].min() < -0.05
    assert fringed[6:].max() > 1.05
    assert fringed[0] == pytest.approx(0, abs=0.01)
    assert fringed[-1] == pytest.approx(1, abs=0.01)


@given(st.integers(0, 8), st.sampled_from([0.75, 1.0, 0.123]))
@settings(max_examples=15)
def test_a_box_of_one_value_is_that_of_the_whole_to_the_last_bit(start, value):
    values = np.full((40, 40, 40), 1.02, np.float32)
    values[:24] = value
    image = imaging(snr=2.0, blur=0.9, window=(-0.1, 1.2))
    large, small = Box((start, 0, 0), (40, 40, 40)), Box((start, 4, 4), (start + 8, 30, 30))
    alone = formed(image, small, values)
    assert np.array_equal(formed(image, large, values)[small.relative_to(large.start).slices], alone)


def test_rings_lie_about_the_axis_which_is_not_the_middle():
    parameters = clean(SMALL, wings=False, legs=False).with_scan(
        ring=0.02, strong_rings=0, axis_offset=(0.1, -0.1)
    )
    found, y_x = attenuation(parameters)[0], np.indices(SMALL[1:])
    assert not whole(parameters).truth[0].any()
    for middle, same in (((28.3, 18.7), True), ((23.5, 23.5), False)):
        column = (np.hypot(y_x[0] - middle[0], y_x[1] - middle[1]) + 0.5).astype(int).ravel()
        mean = np.bincount(column, found.ravel()) / np.maximum(np.bincount(column), 1)
        explained = 1 - (found.ravel() - mean[column]).var() / found.var()
        assert explained > 0.99 if same else explained < 0.7


def test_a_slice_of_a_coarse_level_has_less_noise():
    made = phantom(clean((16, 16, 300)).with_scan(snr=1.0))
    fine, coarse = made.levels
    assert fine.image(Box((0, 0, 0), (16, 16, 40))).std() > 2 * coarse.image(Box((0, 0, 0), (8, 8, 20))).std()


def test_streaks_go_out_from_the_grain_of_metal_at_every_level():
    parameters = clean(SMALL, dust=True).with_scan(streaks=0.1)
    made = phantom(parameters)
    z, y, x = made.prepass.densest[0]
    metal = voxels(parameters).heavy
    assert abs(np.array([z, y, x]) - np.argwhere(metal > 0.5 * metal.max()).mean(0)).max() < 1.5
    quiet = phantom(parameters.with_scan(streaks=0.0))
    for level in (Level(made, 1), Level(made, 2)):
        loud, still = (Level(one, level.step).render(Box.whole(level.shape)).image for one in (made, quiet))
        differ = (loud != still).any((1, 2))
        assert differ[int(z / level.step)]
        assert not differ.all()


def test_a_slice_of_a_coarse_level_that_is_projected_has_less_noise():
    parameters = replace(clean((8, 48, 48)), mode="projection").with_scan(snr=0.5)
    made = phantom(parameters)
    low, high = made.window

    def noise(step):
        level = Level(made, step)
        found = level.render(Box.whole(level.shape))
        return ((found.image / 65535.0) * (high - low) + low)[found.truth == 0].std()

    assert noise(2) < 0.6 * noise(1)

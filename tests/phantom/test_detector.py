"""What a scanner adds: rings about its axis, noise, streaks, gains, hardening."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flies import KEY
from napari_memseg.phantom.detector import (
    NOISE_RADIUS,
    Detector,
    expose,
    harden,
    noise_filter,
    slice_gains,
    white_noise,
)
from napari_memseg.phantom.hashing import field_key
from napari_memseg.phantom.prepass import Prepass, line_integrals

AIR = Prepass(1.0, np.zeros((1, 1, 1), np.float32), 1.0, np.zeros((0, 3)))
QUIET = Detector(
    hardening=0.0,
    ring=0.0,
    strong_rings=0,
    ring_run=120.0,
    halves=False,
    axis_y=20.0,
    axis_x=20.0,
    reach=20.0,
    step=1.0,
    noise=0.0,
    noise_floor=0.4,
    streaks=0.0,
    sources=np.zeros((0, 3)),
    source_reach=0.5,
    low=-1.0,
    high=1.0,
    top=65535.0,
    gains=np.ones(1000),
    noise_key=KEY,
    ring_key=field_key(0, "rings"),
    streak_key=field_key(0, "streaks"),
)
PLANE = (1, 41, 41)
Y, X = np.indices((41, 41))
FAR = np.hypot(Y - 20, X - 20)


def exposed(shape=PLANE, start=(0, 0, 0), value=0.0, white=None, coarse=AIR, **detector):
    """Return what the scanner makes of a constant, as attenuation."""
    found = QUIET._replace(**detector)
    out = np.empty(shape, np.uint16)
    white = np.zeros(shape, np.float32) if white is None else white
    expose(np.full(shape, value, np.float32), white, np.array(start), found, coarse, out)
    return out / found.top * (found.high - found.low) + found.low


def drawn(shape, start=(0, 0, 0), key=KEY):
    out = np.empty(shape, np.float32)
    white_noise(key, np.array(start), out)
    return out


def test_a_quiet_detector_only_maps_grey_values():
    np.testing.assert_allclose(exposed(value=0.25), 0.25, atol=2e-5)
    assert (exposed(value=7.0) == 1).all()
    assert (exposed(value=-7.0) == -1).all()


def test_the_noise_filter_sums_to_0_and_has_energy_1():
    weights = noise_filter().astype(np.float64)
    assert weights.shape == (2 * NOISE_RADIUS + 1,) * 2
    assert weights.sum() == pytest.approx(0, abs=1e-6)
    assert (weights**2).sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(weights, weights.T, atol=1e-7)


def test_the_noise_filter_passes_middle_frequencies_and_neither_low_nor_the_highest():
    spectrum = abs(np.fft.fft2(noise_filter(), (64, 64)))[0, :33]
    assert 5 <= spectrum.argmax() <= 12
    assert spectrum[:2].max() < 0.3 * spectrum.max()
    assert spectrum[26:].max() < 0.2 * spectrum.max()


def test_noise_has_variance_1_and_goes_over_from_slice_to_slice_only():
    noise = drawn((12, 60, 60))
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.var() == pytest.approx(1, abs=0.03)
    assert correlation(noise[1:], noise[:-1]) == pytest.approx(2 / 3, abs=0.03)
    assert correlation(noise[2:], noise[:-2]) == pytest.approx(1 / 6, abs=0.03)
    assert abs(correlation(noise[3:], noise[:-3])) < 0.03
    assert abs(correlation(noise[:, 1:], noise[:, :-1])) < 0.03
    assert abs(correlation(noise[:, :, 1:], noise[:, :, :-1])) < 0.03


def correlation(one, other):
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


@given(st.tuples(*[st.integers(-20, 20)] * 3), st.tuples(*[st.integers(0, 5)] * 3))
@settings(max_examples=20)
def test_noise_of_a_box_is_that_of_the_whole(start, inner):
    cut = tuple(slice(a, 8) for a in inner)
    alone = drawn(tuple(8 - a for a in inner), np.add(start, inner))
    assert alone.tobytes() == drawn((8, 8, 8), start)[cut].tobytes()


@pytest.mark.parametrize("passed", [0.0, 1.0, 2.0])
def test_noise_grows_with_what_the_beam_passed(passed):
    coarse = Prepass(1.0, np.full((1, 1, 1), passed, np.float32), 2.0, np.zeros((0, 3)))
    found = exposed(white=np.ones(PLANE, np.float32), coarse=coarse, noise=0.1)
    np.testing.assert_allclose(found, 0.1 * np.sqrt(0.4 + 0.6 * np.exp(passed)), rtol=1e-3)


def test_rings_are_alike_all_around_the_axis():
    rings = exposed(ring=0.02, strong_rings=3)[0]
    column = (FAR + 0.5).astype(int)
    strong = abs(rings) > 0.08
    for n in range(28):
        values = rings[(column == n) & ~strong]
        assert len(values) == 0 or np.ptp(values) < 1e-4


def test_rings_are_as_strong_as_asked_and_another_column_has_another():
    rings = exposed((1, 1, 2000), ring=0.02, axis_y=0.0, axis_x=0.0)[0, 0]
    assert rings.mean() == pytest.approx(0, abs=0.002)
    assert rings.std() == pytest.approx(0.02, rel=0.1)
    assert (np.diff(rings) != 0).mean() > 0.98


def test_strong_rings_are_few_and_stand_out():
    weak, strong = (exposed(ring=0.02, strong_rings=n)[0] for n in (0, 3))
    ringed = abs(strong - weak) > 0.05
    assert 1 <= len(np.unique(np.round(FAR[ringed]))) <= 9
    assert ringed.mean() < 0.2
    np.testing.assert_allclose(abs(strong - weak)[ringed], 6 * 0.02, atol=1e-3)


def test_rings_stay_over_a_run_of_slices_and_then_change():
    rings = exposed((800, 1, 15), ring=0.02, ring_run=100.0, axis_y=0.0, axis_x=-3.0)[:, 0]
    changes = (np.diff(rings, axis=0) != 0).sum(0)
    assert (changes >= 1).all()
    assert (changes <= 800 // 20).all()
    assert 800 / 300 < changes.mean() < 800 / 50
    for column in rings.T:
        starts = np.flatnonzero(np.diff(column)) + 1
        assert np.diff(starts).min(initial=400) >= 20


@pytest.mark.parametrize("halves", [False, True])
def test_half_rings_differ_from_side_to_side_and_whole_ones_do_not(halves):
    rings = exposed(ring=0.02, halves=halves)[0]
    mirrored = rings[:, ::-1]
    apart = abs(rings - mirrored)[:, 21:] > 1e-4
    assert apart.mean() > 0.9 if halves else not apart.any()


@given(st.tuples(*[st.integers(0, 6)] * 3))
@settings(max_examples=15)
def test_an_exposed_box_is_that_of_the_whole(start):
    sources = np.array([[4.0, 3.0, 5.0]])
    how = {"ring": 0.02, "strong_rings": 3, "streaks": 0.05, "sources": sources, "source_reach": 2.0}
    whole = exposed((9, 12, 12), axis_y=3.2, axis_x=8.0, halves=True, **how)
    shape = tuple(n - a for n, a in zip((9, 12, 12), start, strict=True))
    alone = exposed(shape, start, axis_y=3.2, axis_x=8.0, halves=True, **how)
    assert np.array_equal(alone, whole[tuple(slice(a, None) for a in start)])


def test_streaks_are_only_in_the_slices_of_what_makes_them():
    how = {"streaks": 0.1, "sources": np.array([[5.0, 20.0, 20.0]]), "source_reach": 1.5}
    streaks = exposed((12, 41, 41), **how)
    quiet = exposed((12, 41, 41))
    changed = (streaks != quiet).any((1, 2))
    assert np.flatnonzero(changed).tolist() == [4, 5, 6]


def test_streaks_weaken_with_distance_and_are_bright_and_dark():
    how = {"streaks": 0.1, "sources": np.array([[0.0, 60.0, 60.0]]), "source_reach": 0.5}
    streaks = exposed((1, 121, 121), **how)[0]
    far = np.hypot(*(np.indices((121, 121)) - 60))
    near_ring, far_ring = (abs(streaks[(far > a) & (far < a + 5)]).max() for a in (20, 50))
    assert far_ring < 0.6 * near_ring
    assert streaks.min() < -0.02
    assert streaks.max() > 0.02


def gains(depth=400, fine=400, step=1, z_gain=0.0, flicker=0.0, every=0, largest=0.0):
    return slice_gains(depth, fine, step, z_gain, flicker, (every, largest), KEY)


def test_slices_without_drift_flicker_and_seams_have_gain_1():
    assert (gains() == 1).all()


def test_gain_drifts_slowly_and_stays_near_1():
    found = gains(z_gain=0.02)
    assert 0.002 < abs(found - 1).max() <= 0.02
    assert abs(np.diff(found)).max() < 0.001


def test_gain_flickers_from_slice_to_slice():
    found = gains(flicker=0.005)
    assert found.std() == pytest.approx(0.005, rel=0.15)
    assert abs(correlation(found[1:], found[:-1])) < 0.2


def test_gain_steps_at_seams_and_nowhere_else():
    found = gains(every=90, largest=0.03)
    assert set(np.flatnonzero(np.diff(found)) + 1) <= {90, 180, 270, 360}
    assert len(np.unique(found)) >= 3
    assert abs(found - 1).max() <= 0.03 + 1e-9


def test_a_coarse_slice_has_the_gain_of_the_fine_ones():
    how = {"z_gain": 0.02, "every": 96, "largest": 0.03}
    fine, coarse = gains(**how), gains(depth=100, step=4, **how)
    np.testing.assert_allclose(coarse, fine.reshape(100, 4).mean(1), atol=1e-4)


def disc(radius=15, size=48, value=1.0):
    y, x = np.indices((size, size)) - (size - 1) / 2
    return np.where(np.hypot(y, x) <= radius, value, 0.0)[None]


def test_through_the_middle_of_a_disc_the_beam_passes_its_width():
    found = line_integrals(disc())
    assert found[0, 23:25, 23:25] == pytest.approx(30, rel=0.03)
    assert found.max() == pytest.approx(30, rel=0.03)
    assert found.min() >= 0


def test_hardening_darkens_the_middle_most_and_by_what_was_asked():
    integral = line_integrals(disc()).astype(np.float32)
    coarse = Prepass(1.0, integral, float(integral.max()), np.zeros((0, 3)))
    values = np.ones((1, 48, 48), np.float32)
    harden(values, np.zeros(3, np.int64), QUIET._replace(hardening=0.1), coarse)
    assert values.min() == pytest.approx(0.9, abs=1e-6)
    assert values[0, 23, 23] == pytest.approx(0.9, abs=0.002)
    assert values.max() < 1
    profile = values[0, 23, 24:]
    assert (np.diff(profile) > 0).all()


def test_no_hardening_changes_nothing():
    values = np.ones((1, 48, 48), np.float32)
    harden(values, np.zeros(3, np.int64), QUIET, AIR)
    assert (values == 1).all()

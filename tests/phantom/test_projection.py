"""A slice that went through the scanner: what is kept, and what the scanner does to it."""

from dataclasses import replace

import numpy as np
import pytest

from napari_memseg.errors import InputError
from napari_memseg.phantom.projection import ProjectionScan, reconstruct_slice
from napari_memseg.phantom.spectrum import ENERGIES_KEV, effective_water_per_cm, photon_weights

VOXEL_UM = 10.0
SIZE = 64
CLEAN = ProjectionScan(angles=90, counts=1e12, readout_sigma=0.0, gain_sigma=0.0)
NOISY = replace(CLEAN, counts=2e4)


def distance(middle=(31.5, 31.5), shape=(SIZE, SIZE)):
    y, x = np.indices(shape)
    return np.hypot(y - middle[0], x - middle[1])


def disc(radius, middle=(31.5, 31.5), shape=(SIZE, SIZE), value=1.0):
    """Draw a disc whose rim is spread over the voxels that it cuts."""
    return (value * np.clip(radius + 0.5 - distance(middle, shape), 0, 1)).astype(np.float32)


def scanned(light, scan, heavy=None, row=0, voxel_um=VOXEL_UM):
    heavy = np.zeros_like(light) if heavy is None else heavy
    return reconstruct_slice(light, heavy, row, voxel_um, scan)


def noise(scan, row=0):
    water = disc(24)
    return scanned(water, scan, row=row) - scanned(water, CLEAN)


def share_of_rings(residual):
    """Return how much of the variance the mean over each ring about the axis explains."""
    ring = np.rint(distance()).astype(int) - 1
    inside = ring < 30
    ring, residual = ring[inside], residual[inside]
    mean = np.bincount(ring, residual) / np.bincount(ring)
    return mean[ring].var() / residual.var()


@pytest.mark.parametrize("arc", [180, 360])
@pytest.mark.parametrize("window", ["hann", "hamming"])
def test_water_reads_one_and_air_nothing(arc, window):
    image = scanned(disc(24), replace(CLEAN, arc=arc, window=window))
    assert image.dtype == np.float32
    assert image[distance() < 20].mean() == pytest.approx(1.0, abs=0.02)
    assert image[distance() < 20].std() < 0.02
    assert abs(image[distance() > 28]).max() < 0.03


def test_a_slice_need_not_be_square():
    shape, middle = (40, 72), (18.0, 45.0)
    image = scanned(disc(12, middle, shape), CLEAN)
    assert image.shape == shape
    assert image[distance(middle, shape) < 9].mean() == pytest.approx(1.0, abs=0.02)
    assert abs(image[distance(middle, shape) > 16]).mean() < 0.01


@pytest.mark.parametrize("arc", [180, 360])
def test_a_disc_keeps_its_place_and_size(arc):
    drawn = disc(12, (25.3, 38.6))
    image = scanned(drawn, replace(CLEAN, arc=arc))
    near = distance((25.3, 38.6)) < 18
    y, x = np.indices(drawn.shape)[:, near]
    assert np.average(y, weights=image[near]) == pytest.approx(25.3, abs=0.05)
    assert np.average(x, weights=image[near]) == pytest.approx(38.6, abs=0.05)
    assert np.count_nonzero(image > 0.5) == pytest.approx(np.count_nonzero(drawn > 0.5), rel=0.03)


def test_a_heavy_disc_is_darker_within_and_water_hardly():
    def cupping(image):
        return 1 - image[distance() < 5].mean() / image[(distance() > 16) & (distance() < 20)].mean()

    nothing = np.zeros((SIZE, SIZE), np.float32)
    heavy = scanned(nothing, CLEAN, heavy=disc(24, value=20.0), voxel_um=20.0)
    light = scanned(disc(24), CLEAN, voxel_um=20.0)
    assert cupping(heavy) > 0.05
    assert abs(cupping(light)) < 0.01


def test_an_axis_off_the_centre_shifts_a_half_turn_and_smears_a_full_one():
    def steepest(image):
        return np.hypot(*np.gradient(image)).max()

    def middle_y(image):
        near = distance() < 20
        return np.average(np.indices(image.shape)[0][near], weights=image[near])

    half, full = (scanned(disc(12), replace(CLEAN, arc=arc, axis_offset=2.0)) for arc in (180, 360))
    sharp = scanned(disc(12), CLEAN)
    assert middle_y(half) - 31.5 > 0.5
    assert middle_y(full) == pytest.approx(31.5, abs=0.05)
    assert steepest(full) < 0.8 * steepest(sharp)


def test_gain_errors_are_rings_about_the_axis():
    scan = replace(NOISY, arc=360)
    with_gain = share_of_rings(noise(replace(scan, gain_sigma=2e-3)))
    without = share_of_rings(noise(scan))
    assert with_gain > 2 * without
    assert share_of_rings(noise(replace(CLEAN, arc=360, gain_sigma=2e-3))) > 0.5


def test_a_half_turn_leaves_half_rings():
    def likeness_of_sides(scan):
        y, x = np.indices((SIZE, SIZE)) - 31.5
        ring = np.rint(distance()).astype(int) - 1
        inside = (ring > 4) & (ring < 30)
        sides = [inside & (y > np.abs(x)), inside & (y < -np.abs(x))]
        residual = noise(scan)
        means = [np.bincount(ring[side], residual[side])[5:] / np.bincount(ring[side])[5:] for side in sides]
        return np.corrcoef(means)[0, 1]

    scan = replace(CLEAN, gain_sigma=2e-3)
    assert likeness_of_sides(replace(scan, arc=360)) > 0.8
    assert likeness_of_sides(scan) < 0.5


def test_noise_falls_with_the_root_of_the_counts():
    few, many = (noise(replace(NOISY, counts=counts)).std() for counts in (1e4, 16e4))
    assert few / many == pytest.approx(4.0, rel=0.1)
    assert noise(replace(NOISY, readout_sigma=200.0)).std() > 1.3 * noise(NOISY).std()


def test_a_call_can_be_repeated_and_each_row_has_its_own_noise():
    scan = replace(NOISY, gain_sigma=1e-3, dead_pixels=0.01, drift=0.01)
    first = scanned(disc(24), scan, row=7)
    assert first.tobytes() == scanned(disc(24), scan, row=7).tobytes()
    for other in (scanned(disc(24), scan, row=8), scanned(disc(24), replace(scan, seed=1), row=7)):
        water = distance() < 20
        between = np.corrcoef(first[water], other[water])[0, 1]
        assert abs(between) < 0.2


def test_dead_pixels_are_mended_from_their_neighbours():
    water = disc(24)
    image = scanned(water, replace(CLEAN, dead_pixels=0.1))
    assert np.isfinite(image).all()
    assert not np.array_equal(image, scanned(water, CLEAN))
    assert image[distance() < 20].mean() == pytest.approx(1.0, abs=0.05)


def test_starved_rays_stay_finite():
    lead = scanned(disc(24), replace(NOISY, counts=200.0), heavy=disc(6, value=500.0))
    assert np.isfinite(lead).all()


def test_air_is_only_noise():
    air = scanned(np.zeros((SIZE, SIZE), np.float32), NOISY)
    assert air.std() > 0
    assert abs(air.mean()) < 0.1 * air.std()


def test_drift_of_the_flat_field_changes_slowly_from_row_to_row():
    drifting = replace(CLEAN, drift=0.01)
    first, next_row, far = (noise(drifting, row) for row in (0, 1, 400))
    assert first.std() > 10 * noise(CLEAN).std()
    assert abs(next_row - first).std() < 0.1 * abs(far - first).std()


def test_the_beam_is_that_of_a_small_tube():
    weights = photon_weights()
    assert weights.sum() == pytest.approx(1.0)
    assert 20 < weights @ ENERGIES_KEV < 35
    assert 0.3756 < effective_water_per_cm() < 0.8096  # NIST's water at 30 and at 20 keV


@pytest.mark.parametrize(
    "wrong",
    [
        {"angles": 1},
        {"angles": 90.5},
        {"arc": 90},
        {"counts": 0},
        {"counts": float("nan")},
        {"readout_sigma": -1.0},
        {"axis_offset": 3.0},
        {"gain_sigma": 0.5},
        {"dead_pixels": 1.0},
        {"drift": -0.1},
        {"window": "box"},
    ],
)
def test_an_impossible_scan_is_refused(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))} must"):
        ProjectionScan(**wrong)


@pytest.mark.parametrize(
    ("light", "row", "voxel_um", "message"),
    [
        (np.zeros((4, 5), np.float32), 0, VOXEL_UM, "one size"),
        (np.zeros((5, 5, 5), np.float32), 0, VOXEL_UM, "two slices"),
        (np.zeros((5, 5), np.float32), -1, VOXEL_UM, "row must"),
        (np.zeros((5, 5), np.float32), 0, 0.0, "voxel_um must"),
    ],
)
def test_an_impossible_slice_is_refused(light, row, voxel_um, message):
    with pytest.raises(InputError, match=message):
        reconstruct_slice(light, np.zeros((5, 5), np.float32), row, voxel_um, CLEAN)

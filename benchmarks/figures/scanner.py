"""What the scanner does to grey values over long distances: rings about the axis, and cupping."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from figures.masks import BAND, NOISELESS, UNCLIPPED, Mask, body_of, inside_of, slices_of
from figures.renders import DIFFICULTIES
from figures.table import Table
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.labels import OUTSIDE
from napari_memseg.phantom.parameters import PhantomParameters

DENSE = 0.5
"""Attenuation below which ratios say little."""


def ring_table() -> Table:
    """Return what of the air's variance are rings, with rings and without."""
    rows = {}
    for name in DIFFICULTIES:
        parameters = PhantomParameters.named("small", name)
        for what, changed in {"on": parameters, "off": parameters.with_scan(ring=0.0)}.items():
            values, truth = slices_of(changed)
            rows[f"{name}, rings {what}"] = rings(values, inside_of(truth == OUTSIDE, 8), changed)
    return Table("rings in air, by angle and radius about the axis", rows)


def rings(values: NDArray[np.float32], air: Mask, parameters: PhantomParameters) -> dict[str, float]:
    """Return which part of the variance is of the radius alone, in a slice and from slice to slice."""
    dx, far = _polar(parameters)
    column = (far + 0.5).astype(int)
    if parameters.scan.arc == 180:
        column = 2 * column + (dx > 0)
    profiles, shares = [], []
    for plane, mask in zip(values, air, strict=True):
        count = np.bincount(column[mask], minlength=column.max() + 1)
        mean = np.bincount(column[mask], plane[mask], column.max() + 1) / np.maximum(count, 1)
        full = count > 100
        shares.append(
            np.average((mean[full] - plane[mask].mean()) ** 2, weights=count[full]) / plane[mask].var()
        )
        profiles.append(np.where(full, mean, np.nan))
    table = np.array(profiles)
    table = table[:, np.isfinite(table).all(axis=0)]
    table -= table.mean(axis=1, keepdims=True)
    return {
        "SD, attenuation": float(values[air].std()),
        "SD of the mean over angles": float(table.std()),
        "part of the variance": float(np.mean(shares)),
        "correlation to the next slice": _slices_apart(table, 1),
        "to the 20th": _slices_apart(table, 20),
    }


def _slices_apart(table: NDArray[np.float64], lag: int) -> float:
    return float((table[lag:] * table[:-lag]).mean() / (table**2).mean())


def _polar(parameters: PhantomParameters) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return dx and the distance from the rotation axis, in voxels, of each place in a plane."""
    _, ny, nx = parameters.shape
    middle = [
        (n - 1) / 2 + part * max(ny, nx)
        for n, part in zip((ny, nx), parameters.scan.axis_offset, strict=True)
    ]
    dy, dx = np.indices((ny, nx)) - np.array(middle)[:, None, None]
    return dx, np.hypot(dy, dx)


def cupping_table() -> Table:
    """Return c as it was set and as it is found."""
    rows = {}
    for name in DIFFICULTIES:
        parameters = PhantomParameters.named("small", name).with_scan(
            snr=NOISELESS, ring=0.0, streaks=0.0, clip=UNCLIPPED
        )
        rows[name] = {"c, set": parameters.scan.hardening} | cupping(parameters)
    return Table("beam hardening: values with it over values without", rows)


def cupping(parameters: PhantomParameters) -> dict[str, float]:
    """Return c as fitted to 1 - c P over the animal, and how the ratio falls from the skin to the middle."""
    hard, truth = slices_of(parameters)
    soft, _ = slices_of(parameters.with_scan(hardening=0.0))
    body = body_of(truth)[0]
    body &= soft > DENSE
    ratio = hard[body] / soft[body]
    coarse = Phantom(parameters).prepass
    places = (np.argwhere(body) + [BAND[0], 0, 0] + 0.5) / coarse.step - 0.5
    passed = ndimage.map_coordinates(coarse.integral, places.T, order=1, mode="nearest") / coarse.largest
    depth = ndimage.distance_transform_edt(body)[body]
    fitted = float((passed * (1 - ratio)).sum() / (passed**2).sum())
    return {
        "c, fitted": fitted,
        "error of 1 - c P, median": float(np.median(np.abs(ratio - 1 + parameters.scan.hardening * passed))),
        "ratio at the skin": float(np.median(ratio[depth < 2])),
        "ratio in the middle": float(np.median(ratio[depth > 0.9 * depth.max()])),
    }

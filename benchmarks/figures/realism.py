"""How like a scan it looks: noise, texture, edges, rings and cupping, beside real volumes if there are any.

Noise of the phantom is the difference of one box rendered twice, with the set noise and with next to none;
that of real volumes cannot be told from texture, and is taken as it is. Edges go by the distance from the
outer skin, or from the surface of a real volume's labels; in the phantom what is near legs and wings is left
out.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from figures.masks import Image, Mask, body_of, box_of, inside_of, noise_of
from figures.renders import DIFFICULTIES, attenuation, mode_b, small
from figures.scanner import cupping_table, ring_table
from figures.table import Table
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.labels import (
    FAT_BODY,
    FLIGHT_MUSCLE,
    GUT_CONTENT,
    HAEMOLYMPH,
    NAMES,
    NERVOUS_TISSUE,
    OUTSIDE,
)
from napari_memseg.phantom.parameters import PhantomParameters

REAL = {
    "LHDL bone": ("trabecular_bone_lhdl", 1),
    "LHDL marrow": ("trabecular_bone_lhdl", 0),
    "mouse skull": ("mouse_head_C57BL6J", 1),
    "mouse brain cavity": ("mouse_head_C57BL6J", 15),
    "cowry shell": ("cowry_shell", 1),
    "cowry air": ("cowry_shell", 0),
}
"""Folder and label of what is compared with."""
EDGES = "LHDL bone", "mouse skull", "cowry shell"
PATCH = 16
"""Edge in voxels of the squares whose spectrum is taken."""
BANDS = np.array([0.0, 0.08, 0.16, 0.24, 0.32, 0.40, 0.5])
"""Of spatial frequency, in 1/voxel."""
LAGS = 1, 2, 3
FEWEST = 500
"""Voxels that a class keeps when its border is left out; else all of it counts."""
REACH = 7
"""How far from an edge it is looked at, in voxels."""
MATERIALS = FLIGHT_MUSCLE, GUT_CONTENT, FAT_BODY, NERVOUS_TISSUE, HAEMOLYMPH


def measure(data: Path | None) -> Iterator[Table]:
    """Yield a table for each kind of figure; ``data`` holds the real volumes."""
    real = _real(data)
    yield _spectra(real)
    yield _correlations(real)
    yield _edges(real)
    yield _means(real)
    yield ring_table()
    yield cupping_table()


def _real(data: Path | None) -> dict[str, tuple[Image, Mask]]:
    found = {}
    for name, (folder, label) in REAL.items():
        files = [data / folder / f"{kind}.ome.tif" for kind in ("intensity", "labels")] if data else []
        if files and all(file.exists() for file in files):
            image, labels = (tifffile.imread(file) for file in files)
            found[name] = image, labels == label
    return found


def _spectra(real: dict[str, tuple[Image, Mask]]) -> Table:
    columns = {}
    for name in DIFFICULTIES:
        noise, truth = noise_of(name)
        columns[f"{name}, air"] = power(noise, inside_of(truth == OUTSIDE, 8))
        columns[f"{name}, animal"] = power(noise, inside_of(truth != OUTSIDE, 1))
    far = inside_of(small("normal").truth == OUTSIDE, 8)
    columns["normal, mode B, air"] = power(mode_b("normal").astype(np.float32), far)
    columns |= {
        name: power(image.astype(np.float32), inside_of(mask, 3)) for name, (image, mask) in real.items()
    }
    rows: dict[str, dict[str, Any]] = {
        f"{low:.2f} to {high:.2f}": {name: found[index] for name, found in columns.items()}
        for index, (low, high) in enumerate(pairwise(BANDS))
    }
    return Table("noise power in the plane, of its highest, by frequency (1/voxel)", rows)


def power(image: NDArray[np.float32], mask: Mask) -> list[float]:
    """Return the mean power in each band of frequency over squares in the mask, relative to the highest."""
    taper = np.hanning(PATCH + 2)[1:-1]
    f = np.fft.fftfreq(PATCH)
    far = np.hypot(f[:, None], f[None, :])
    total, count = np.zeros((PATCH, PATCH)), 0
    for z in range(len(image)):
        for y in range(0, image.shape[1] - PATCH + 1, PATCH // 2):
            for x in range(0, image.shape[2] - PATCH + 1, PATCH // 2):
                at = z, slice(y, y + PATCH), slice(x, x + PATCH)
                if mask[at].all():
                    square = image[at].astype(float)
                    spectrum = np.fft.fft2((square - square.mean()) * np.outer(taper, taper))
                    total, count = total + np.abs(spectrum) ** 2, count + 1
    if count < 8:
        return [float("nan")] * (len(BANDS) - 1)
    bands = [total[(far > low) & (far <= high)].mean() for low, high in pairwise(BANDS)]
    return [float(band / max(bands)) for band in bands]


def _correlations(real: dict[str, tuple[Image, Mask]]) -> Table:
    rows: dict[str, dict[str, float]] = {}
    for name in DIFFICULTIES:
        image, truth, _ = small(name)
        rows |= {f"{name}, {NAMES[c]}": correlation(image, truth == c) for c in MATERIALS}
        noise, around = noise_of(name)
        rows[f"{name}, noise alone in the animal"] = correlation(noise, around != OUTSIDE)
    projected, truth = mode_b("normal"), small("normal").truth
    rows |= {f"normal, mode B, {NAMES[c]}": correlation(projected, truth == c) for c in MATERIALS}
    rows |= {name: correlation(image, inside_of(mask, 3)) for name, (image, mask) in real.items()}
    return Table("autocorrelation within a material", rows)


def correlation(image: Image, mask: Mask) -> dict[str, float]:
    """Return the correlation of voxels of a material that lie 1, 2, 3 apart in the plane, and along z."""
    where = box_of(mask, 0)
    values, mask = image[where].astype(np.float32), mask[where]
    values = values - values[mask].mean()
    variance = float((values[mask] ** 2).mean())

    def at(axis: int, lag: int) -> float:
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(lag, None), slice(None, -lag)
        both = mask[tuple(ahead)] & mask[tuple(behind)]
        return float((values[tuple(ahead)][both] * values[tuple(behind)][both]).mean()) / variance

    in_plane = {f"in the plane, {lag}": (at(1, lag) + at(2, lag)) / 2 for lag in LAGS}
    return in_plane | {f"along z, {lag}": at(0, lag) for lag in LAGS[:2]}


def _edges(real: dict[str, tuple[Image, Mask]]) -> Table:
    rows = {}
    for name in DIFFICULTIES:
        image, truth, _ = small(name)
        rows[name] = edge(image, *body_of(truth))
    rows["normal, mode B"] = edge(mode_b("normal"), *body_of(small("normal").truth))
    rows |= {name: edge(*real[name], None) for name in EDGES if name in real}
    return Table("edge, mean grey values in % between the plateaus, by the distance in voxels", rows)


def edge(image: Image, mask: Mask, allowed: Mask | None) -> dict[str, float]:
    """Return mean grey values by distance from a mask's surface, and how far they rise from 10 to 90 %."""
    where = box_of(mask, REACH + 1)
    image, mask = image[where], mask[where]
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    distance = np.where(mask, inside - 0.5, 0.5 - outside)
    near = (np.abs(distance) < REACH) & (True if allowed is None else allowed[where])
    places, values = distance[near], image[near].astype(float)
    which = np.round(places * 2).astype(int)
    bins = np.unique(which)
    at = np.array([places[which == b].mean() for b in bins])
    grey = np.array([values[which == b].mean() for b in bins])
    low, high = grey[at < -4].mean(), grey[at > 0].max()
    share = 100 * (grey - low) / (high - low)
    steps = {f"{d:+d}": float(np.interp(d, at, share)) for d in (-3, -2, -1, 0, 1, 2, 3)}
    first, last = (_crossing(at, share, part) for part in (10, 90))
    return {**steps, "10 to 90 %": last - first}


def _crossing(at: NDArray[np.float64], share: NDArray[np.float64], part: float) -> float:
    """Return where the profile first exceeds a part of the rise."""
    k = max(int(np.argmax(share > part)), 1)
    return float(np.interp(part, share[k - 1 : k + 1], at[k - 1 : k + 1]))


def _means(real: dict[str, tuple[Image, Mask]]) -> Table:
    rows = {}
    phantom, found = Phantom(PhantomParameters.named("small", "normal")), small("normal")
    values = attenuation(phantom, found.image)
    for label, title in NAMES.items():
        mask = found.truth == label
        inner = inside_of(mask, 8 if label == OUTSIDE else 1)
        mask = inner if inner.sum() > FEWEST else mask
        grey = float(found.image[mask].mean()) * 255 / np.iinfo(found.image.dtype).max
        rows[f"normal, {title}"] = _stats(values[mask]) | {"as uint8": grey}
    for name, (image, mask) in real.items():
        inside = image[inside_of(mask, 3)]
        rows[name] = _stats(inside) | {"as uint8": float(inside.mean())}
    return Table("values within a material (attenuation; grey values of real volumes)", rows)


def _stats(values: Image) -> dict[str, float]:
    mean, spread = float(values.mean()), float(values.std())
    return {"mean": mean, "SD": spread, "SD / mean": spread / mean if abs(mean) > 0.1 else float("nan")}

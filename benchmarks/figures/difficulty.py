"""How hard it is: one threshold for each class, and a random forest that learns from 2000 scribbled voxels.

Both are scored by the Dice of each class over the whole volume, on the exact truth. Scribbled voxels are
shared out by the square root of each class's volume, as one paints more of what there is more of; the score
with even shares, which leave too little for large classes, is given as well. The forest sees filters of one
voxel's surroundings, as in ilastik (Berg et al. 2019, https://doi.org/10.1038/s41592-019-0582-9): the
smoothed image, the size of its gradient, its Laplacian, and the eigenvalues of Hessian and structure tensor,
each at four widths. It is tested on voxels drawn from near the animal and far from it, which count for as
many as they were drawn from.
"""

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

from figures.renders import DIFFICULTIES, mode_b, small
from figures.table import Table, spread
from napari_memseg.phantom.labels import NAMES, OUTSIDE

SIGMAS = (0.7, 1.6, 3.5, 10.0)
SCRIBBLED, STROKE, TREES = 2000, 10, 100
ROOT = 0.5
SEEDS = 3
"""Of scribbles and forest; the animal stays."""
NEAR, FAR = 300_000, 200_000
"""Voxels that a forest is tested on: within 4 of the animal, and elsewhere."""
BAR = 0.7
"""Dice that a threshold must miss."""
STRUCTURES = [label for label in NAMES if label != OUTSIDE]

Image = NDArray[Any]
Places = tuple[NDArray[np.int64], ...]


def measure() -> Iterator[Table]:
    """Yield Dice of thresholds and of forests, for each difficulty and in both modes."""
    thresholds, forests = {}, {}
    images = {f"{name}, mode A": small(name)[:2] for name in DIFFICULTIES}
    images["normal, mode B"] = mode_b("normal"), small("normal").truth
    for name, (image, truth) in images.items():
        thresholds[name] = [best_threshold(image, truth == label) for label in STRUCTURES]
        forests[name] = forest_dice(image, truth)
    forests["normal, even shares"] = forest_dice(*small("normal")[:2], power=0.0)
    yield _threshold_table(thresholds)
    yield Table(
        "mean Dice of a random forest",
        {
            name: {
                **spread(d[1:].mean() for d in found),
                "with outside": float(np.median([d.mean() for d in found])),
            }
            for name, found in forests.items()
        },
    )
    yield Table(
        "Dice of a random forest, median",
        {
            NAMES[label]: {
                name: float(np.median([d[label] for d in found])) for name, found in forests.items()
            }
            for label in NAMES
        },
    )


def _threshold_table(found: dict[str, list[tuple[float, float]]]) -> Table:
    rows: dict[str, dict[str, Any]] = {}
    for index, label in enumerate(STRUCTURES):
        rows[NAMES[label]] = {name: found[name][index][0] for name in found}
        rows[NAMES[label]] |= {f"{name}, interval": found[name][index][1] for name in found}
    columns = next(iter(rows.values()))
    rows[f"classes below {BAR}"] = {name: sum(row[name] < BAR for row in rows.values()) for name in columns}
    return Table("Dice of the best threshold", rows)


def best_threshold(image: Image, mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the highest Dice that one threshold reaches, from below or above, and that two reach."""
    edges = np.unique(np.quantile(image[mask], np.linspace(0, 1, 400)))
    edges = np.unique(np.concatenate([[-1], edges, [image.max()]]))
    inside = np.histogram(image[mask], edges + 0.5)[0].cumsum()
    both = np.histogram(image, edges + 0.5)[0].cumsum()
    inside, both = (np.concatenate([[0], counts]) for counts in (inside, both))
    hit, taken = inside[None, :] - inside[:, None], both[None, :] - both[:, None]
    dice = 2 * hit / np.maximum(taken + mask.sum(), 1)
    return float(max(dice[0].max(), dice[:, -1].max())), float(dice.max())


def forest_dice(
    image: Image, truth: NDArray[np.uint8], seeds: int = SEEDS, power: float = ROOT
) -> list[NDArray[np.float64]]:
    """Return the Dice of every class, one row for each seed."""
    scribbled = [scribble(truth, seed, power) for seed in range(seeds)]
    tested, weights = _drawn(truth)
    *known, asked = features(image, [*scribbled, tested])
    found = []
    for seed, (places, rows) in enumerate(zip(scribbled, known, strict=True)):
        forest = RandomForestClassifier(TREES, n_jobs=2, random_state=seed)
        forest.fit(rows, truth[places])
        found.append(_dice(forest.predict(asked), truth[tested], weights))
    return found


def scribble(truth: NDArray[np.uint8], seed: int, power: float = ROOT) -> Places:
    """Return the voxels of short strokes in single slices, each of one class; each ends with it.

    A class gets voxels in proportion to its volume to this ``power``; what is outside as the largest inside.
    """
    draw = np.random.default_rng(seed)
    voxels = {int(label): np.flatnonzero(truth == label) for label in np.unique(truth)}
    sizes = np.array([len(found) for found in voxels.values()], float)
    sizes[0] = sizes[1:].max()
    wanted = SCRIBBLED * sizes**power / (sizes**power).sum()
    strokes: list[set[tuple[int, ...]]] = [set() for _ in voxels]
    while sum(map(len, strokes)) < SCRIBBLED:
        poorest = int(np.argmax(wanted - [len(stroke) for stroke in strokes]))
        start = np.unravel_index(draw.choice(list(voxels.values())[poorest]), truth.shape)
        strokes[poorest].update(_stroke(truth, np.array(start), draw.uniform(0, 2 * np.pi)))
    return tuple(np.array(sorted(set.union(*strokes))).T)


def _stroke(truth: NDArray[np.uint8], start: NDArray[np.int64], angle: float) -> Iterator[tuple[int, ...]]:
    step = np.array([0.0, np.sin(angle), np.cos(angle)])
    for length in range(STROKE):
        place = tuple(int(n) for n in np.round(start + length * step))
        inside = all(0 <= n < size for n, size in zip(place, truth.shape, strict=True))
        if not inside or truth[place] != truth[tuple(start)]:
            return
        yield place


def _drawn(truth: NDArray[np.uint8]) -> tuple[Places, NDArray[np.float64]]:
    draw = np.random.default_rng(0)
    near = ndimage.binary_dilation(truth != OUTSIDE, iterations=4).ravel()
    places, weights = [], []
    for part, count in ((near, NEAR), (~near, FAR)):
        pool = np.flatnonzero(part)
        chosen = draw.choice(pool, min(count, len(pool)), replace=False)
        places.append(chosen)
        weights.append(np.full(len(chosen), len(pool) / len(chosen)))
    return np.unravel_index(np.concatenate(places), truth.shape), np.concatenate(weights)


def features(image: Image, wanted: list[Places]) -> list[NDArray[np.float32]]:
    """Return one row of features for each voxel, for each list of voxels."""
    values = image.astype(np.float32)
    columns: list[list[NDArray[np.float32]]] = [[] for _ in wanted]
    for sigma in SIGMAS:
        smooth = ndimage.gaussian_filter(values, sigma)
        tensor = _structure_tensor(smooth, sigma / 2)
        for into, places in zip(columns, wanted, strict=True):
            into += [
                smooth[places],
                *_derivatives(smooth, places),
                *_eigenvalues([t[places] for t in tensor]),
            ]
    return [np.stack(parts, axis=1).astype(np.float32) for parts in columns]


def _structure_tensor(smooth: NDArray[np.float32], sigma: float) -> list[NDArray[np.float32]]:
    slopes = np.gradient(smooth)
    return [ndimage.gaussian_filter(a * b, sigma) for a, b in combinations_with_replacement(slopes, 2)]


def _derivatives(smooth: NDArray[np.float32], places: Places) -> Iterator[NDArray[np.float32]]:
    """Yield size of the gradient, Laplacian, and the eigenvalues of the Hessian, by finite differences."""

    def at(*steps: tuple[int, int]) -> NDArray[np.float32]:
        moved = list(places)
        for axis, step in steps:
            moved[axis] = np.clip(moved[axis] + step, 0, smooth.shape[axis] - 1)
        return smooth[tuple(moved)]

    slopes = [at((a, 1)) - at((a, -1)) for a in range(3)]
    hessian = []
    for a, b in combinations_with_replacement(range(3), 2):
        if a == b:
            hessian.append(at((a, 1)) - 2 * at() + at((a, -1)))
        else:
            across = at((a, 1), (b, 1)) - at((a, 1), (b, -1)) - at((a, -1), (b, 1)) + at((a, -1), (b, -1))
            hessian.append(across / 4)
    yield np.sqrt(sum(s**2 for s in slopes))
    yield hessian[0] + hessian[3] + hessian[5]
    yield from _eigenvalues(hessian)


def _eigenvalues(parts: list[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Yield the three eigenvalues of symmetric matrices, given as zz, zy, zx, yy, yx, xx."""
    matrix = np.stack(parts, axis=-1)[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    yield from np.linalg.eigvalsh(matrix).T


def _dice(found: NDArray[Any], truth: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    counts = np.bincount(truth * 16 + found, weights, 256).reshape(16, 16)[: len(NAMES), : len(NAMES)]
    return np.asarray(2 * np.diag(counts) / np.maximum(counts.sum(0) + counts.sum(1), 1))

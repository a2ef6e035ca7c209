"""What a halo leaves wrong, and whether blending the same tiles by a gaussian leaves less: trained networks.

    OMP_NUM_THREADS=1 python benchmarks/halo.py DATA WORK

The labels of a run in tiles are compared with those of one float32 pass over the whole volume. Crop and
gaussian blend get the very same boxes, so that a difference is one of merging alone::

    ├─ halo ─┼──── core ────┼─ halo ─┤   crop    a voxel takes the scores of the tile whose core it lies in
       a voxel in a few tiles            blend   it takes their mean, weighted by a gaussian of sigma tile / 8

Three tables: halos; crop against blend far from the faces of the volume (a regular lattice in its
middle), beside the same cost spent on a larger tile; and the same in whole volumes, where tiles are shifted
inwards at the faces, with Dice. R is voxels run over voxels there are; n counts pairs of network and volume.

DATA holds trabecular_bone_lhdl, of which the bundled bone is a part, and the mouse heads (GPL-3.0, not part
of this repository). Trained networks are kept in WORK and used again. Some 25 minutes of one core, 4 GiB.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from halo_networks import NETWORKS, Network, trained
from numpy.typing import NDArray
from torch import Tensor

from napari_memseg.evaluation.metrics import confusion
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.inference.tiling import Tile, plan_tiles
from napari_memseg.io.formats import open_volume
from napari_memseg.io.intensity import sample_window
from napari_memseg.models.base import Halo, Model
from napari_memseg.models.checkpoint import Card, load_checkpoint
from napari_memseg.models.reach import round_up

NAN = math.nan


class Case(NamedTuple):
    """One way to tile: core and halo in voxels, and the edge of the whole volume that it fits."""

    core: int
    halo: int
    edge: int = 0

    @property
    def tile(self) -> int:
        """Edge of a regular tile."""
        return self.core + 2 * self.halo


EQUAL_COST = {
    "small": [Case(48, 8, 144), Case(40, 12, 160), Case(32, 16, 128)],
    "unet3d": [Case(64, 16, 192), Case(48, 16, 144), Case(32, 16, 128)],
}
LARGER = {
    "small": {48: [Case(72, 12), Case(96, 16)], 40: [Case(80, 24)], 32: [Case(48, 24)]},
    "unet3d": {64: [Case(86, 21)], 48: [Case(78, 25)], 32: [Case(64, 32)]},
}
"""Larger tiles at the cost, or a little less, of the case with that core."""
HALOS = {"small": (48, 144), "unet3d": (32, 160)}
"""Core, and edge of the volume, for the table of halos."""
COLUMN = (479, 48, 48)
"""A column of the volume, mirrored end to end: long enough for every exact halo, and odd."""


@dataclass(frozen=True)
class Scene:
    """A trained network and a volume that it is tried on."""

    network: Network
    volume: str
    model: Model
    image: Tensor
    """(z, y, x), normalised."""
    truth: NDArray[np.integer]
    """(z, y, x) class ids."""

    def middle(self, shape: Iterable[int]) -> "Scene":
        """Cut out the middle, no larger than it is."""
        lengths = zyx(map(min, shape, self.shape))
        box = Box.at(zyx((m - n) // 2 for n, m in zip(lengths, self.shape, strict=True)), lengths).slices
        return replace(self, image=self.image[box], truth=self.truth[box])

    def scores(self, box: Box) -> Tensor:
        """Run the network on a box: (C, z, y, x)."""
        tile = self.image[box.slices][None, None].to(memory_format=torch.channels_last_3d)
        with torch.inference_mode():
            return self.model(tile)[0]

    @property
    def multiple(self) -> Zyx:
        """Tiles begin on it."""
        return self.model.stages[0].multiple

    @property
    def shape(self) -> Zyx:
        """Of the volume, in voxels."""
        return zyx(self.image.shape)

    def dice(self, labels: Tensor) -> float:
        """Score class indices, mean over the classes without background."""
        ids = np.array(self.model.classes.ids)
        return confusion(ids[labels.numpy()], self.truth, ids.tolist()).mean_dice


@dataclass(frozen=True)
class Row:
    """What one network came to in one case on one volume."""

    table: str
    network: str
    data: str
    what: str
    values: tuple[float, ...]


def load(network: Network, data: Path, work: Path) -> Iterator[Scene]:
    """Train, or find again, and yield the volumes to try it on."""
    model, card = load_checkpoint(trained(network, data, work))
    model.eval().to(memory_format=torch.channels_last_3d)
    for volume in network.tried_on:
        yield Scene(network, volume, model, *_read(data / volume, card))


def _read(folder: Path, card: Card) -> tuple[Tensor, NDArray[np.integer]]:
    image, labels = (open_volume(folder / f"{name}.ome.tif") for name in ("intensity", "labels"))
    low, high = sample_window(image) if card.own_window else (card.window.low, card.window.high)
    grey = torch.from_numpy(image.read(Box.whole(image.shape)).astype(np.float32))
    return (grey - low) / (high - low), labels.read(Box.whole(labels.shape))


def whole_pass(scene: Scene) -> Tensor:
    """Return the labels of one pass over everything: what tiles are compared with."""
    return scene.scores(Box.whole(scene.shape)).argmax(0)


def merge(scene: Scene, tiles: list[Tile], *, blend: bool = True) -> tuple[Tensor, Tensor]:
    """Run every distinct box once; return the labels of cropping and those of blending."""
    crop = torch.zeros(scene.shape, dtype=torch.int64)
    total = torch.zeros((len(scene.model.classes) if blend else 0, *scene.shape))
    for box, group in groupby(sorted(tiles, key=lambda tile: tile.box), key=lambda tile: tile.box):
        scores = scene.scores(box)
        for tile in group:
            crop[tile.core.slices] = scores[(slice(None), *tile.core.relative_to(box.start).slices)].argmax(0)
        if blend:  # the sum of weights is the same for all classes: the largest stays the largest
            total[(slice(None), *box.slices)] += scores * gaussian(box.shape)
    return crop, total.argmax(0) if blend else crop


@lru_cache(maxsize=8)
def gaussian(shape: Zyx) -> Tensor:
    """Return the separable weight of a tile, sigma an eighth of its length."""
    z, y, x = (torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in shape)
    return z[:, None, None] * y[:, None] * x


def differing(labels: Tensor, truth: Tensor, box: Box | None = None) -> float:
    """Return the share of voxels that differ."""
    where = (slice(None),) * 3 if box is None else box.slices
    return float((labels[where] != truth[where]).float().mean())


def cost(tiles: list[Tile], voxels: int) -> float:
    """Return R: voxels run over voxels there are."""
    return sum(box.size for box in {tile.box for tile in tiles}) / voxels


def faced(scene: Scene, core: int, halo: int) -> list[Tile]:
    """Tile the whole volume by our rule: boxes at its faces are shifted inwards."""
    return plan_tiles(scene.shape, core=zyx([core] * 3), halo=Halo.even(*[halo] * 3), multiple=scene.multiple)


def lattice(scene: Scene, case: Case, inner: int, ring: int) -> tuple[list[Tile], Box] | None:
    """Lay regular tiles into the middle of a volume: ``inner`` cores per axis, ``ring`` more on each side.

    Returns
    -------
    tiles, scored
        ``scored`` are the inner cores. None where the volume is too small.
    """
    count = inner + 2 * ring
    room = [n - (count * case.core + 2 * case.halo) for n in scene.shape]
    if min(room) < 0:
        return None
    first = [n // 2 // m * m + case.halo for n, m in zip(room, scene.multiple, strict=True)]
    cores = [
        Box.at(zyx(f + i * case.core for f, i in zip(first, index, strict=True)), zyx([case.core] * 3))
        for index in product(range(count), repeat=3)
    ]
    scored = Box.at(zyx(f + ring * case.core for f in first), zyx([inner * case.core] * 3))
    return [Tile(core, core.grow(zyx([case.halo] * 3))) for core in cores], scored


def halos(scene: Scene) -> Iterator[Row]:
    """Measure halos: exact in a column, the others in a cube, all of it and its unshifted cores."""
    core, edge = HALOS[scene.network.architecture]
    read = scene.model.stages[0].reads[0]
    exact, recommended = read.halo_exact.low[0], read.halo_recommended.low[0]
    cube = scene.middle([edge] * 3)
    target = whole_pass(cube)
    for name, wanted in (("recommended", recommended), ("half of it", recommended // 2), ("none", 0)):
        halo = round_up(wanted, scene.multiple[0])
        tiles = faced(cube, core, halo)
        crop, _ = merge(cube, tiles, blend=False)
        inner = [t.core for t in tiles if t.box == t.core.grow(zyx([halo] * 3))]
        away = statistics.fmean(differing(crop, target, box) for box in inner)
        yield _row("halo", scene, f"{name}, {halo} | {core}", differing(crop, target), away)
    yield _row("halo", scene, f"exact, {exact} | {4 * scene.multiple[0]}", _exact(scene, exact), NAN)


def _exact(scene: Scene, halo: int) -> float:
    """Compare tiles along a mirrored column with one pass over it."""
    rod = scene.middle((200, *COLUMN[1:]))
    longer = np.pad(rod.image.numpy(), ((0, COLUMN[0] - rod.shape[0]), (0, 0), (0, 0)), "symmetric")
    column = replace(rod, image=torch.from_numpy(longer))
    crop, _ = merge(column, faced(column, 4 * scene.multiple[0], halo), blend=False)
    return differing(crop, whole_pass(column))


def interior(scene: Scene) -> Iterator[Row]:
    """Compare crop and blend far from the faces, and crop of larger tiles at the same cost."""
    target = whole_pass(scene)
    for case in EQUAL_COST[scene.network.architecture]:
        crop, blend = next(filter(None, (_both(scene, case, target, inner) for inner in (2, 1))), (NAN, NAN))
        if crop != crop:  # too small for neighbours on all sides
            crop = _alone(scene, case, target)
        yield _row("interior", scene, _words(case), crop, blend, crop / blend if blend else NAN)
        for larger in LARGER[scene.network.architecture][case.core]:
            yield _row("interior", scene, _words(larger), _alone(scene, larger, target), NAN, NAN)


def _both(scene: Scene, case: Case, target: Tensor, inner: int) -> tuple[float, float] | None:
    """Return what crop and blend get wrong in ``inner`` cores per axis that have all their neighbours."""
    if (laid := lattice(scene, case, inner, ring=1)) is None:
        return None
    crop, blend = (differing(labels, target, laid[1]) for labels in merge(scene, laid[0]))
    return crop, blend


def _alone(scene: Scene, case: Case, target: Tensor) -> float:
    """Return what crop gets wrong in one tile in the middle."""
    if (laid := lattice(scene, case, 1, ring=0)) is None:
        return NAN
    return differing(merge(scene, laid[0], blend=False)[0], target, laid[1])


def whole(scene: Scene) -> Iterator[Row]:
    """Compare crop and blend in whole volumes, faces included."""
    for case in EQUAL_COST[scene.network.architecture]:
        cube = scene.middle([case.edge] * 3)
        target, tiles = whole_pass(cube), faced(cube, case.core, case.halo)
        crop, blend = merge(cube, tiles)
        found = [differing(labels, target) for labels in (crop, blend)]
        dice = [cube.dice(labels) for labels in (target, crop, blend)]
        yield _row("whole", scene, _words(case), cost(tiles, cube.image.numel()), *found, *dice)


def _words(case: Case) -> str:
    return f"{(case.tile / case.core) ** 3:.2f} | {case.tile} = {case.core} + 2 x {case.halo}"


def _row(table: str, scene: Scene, what: str, *values: float) -> Row:
    row = Row(table, scene.network.title, scene.network.data, what, values)
    print(f"{time.process_time():.0f} s: seed {scene.network.seed}, {scene.volume}, {row}", file=sys.stderr)
    return row


HEADS = {
    "halo": "| network | data | n | halo | core | labels that differ, whole volume | unshifted tiles |",
    "interior": "| network | data | n | R | tile | crop differs | blend differs | crop / blend |",
    "whole": "| network | data | n | R far from faces | tile | R | crop differs | blend differs "
    "| Dice, one pass | Dice, crop | Dice, blend |",
}


def report(rows: list[Row]) -> None:
    """Print the tables: medians, and lowest and highest where there are several."""
    for table, head in HEADS.items():
        print(f"\n{head}\n|{'---|' * (head.count('|') - 1)}")
        cells: dict[tuple[str, str, str], list[tuple[float, ...]]] = {}
        for row in rows:
            if row.table == table:
                cells.setdefault((row.network, row.data, row.what), []).append(row.values)
        for (network, data, what), values in cells.items():
            told = " | ".join(map(_spread, zip(*values, strict=True)))
            print(f"| {network} | {data} | {len(values)} | {what} | {told} |")


def _spread(values: tuple[float, ...]) -> str:
    known = [v for v in values if v == v]
    if not known:
        return "-"
    middle, low, high = (_number(f(known)) for f in (statistics.median, min, max))
    return middle if low == high else f"{middle} [{low}, {high}]"


def _number(value: float) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 0.01 else f"{value:.4g}"


def main() -> None:
    """Train what is not there yet, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    scenes = (scene for network in NETWORKS for scene in load(network, args.data, args.work))
    report([row for scene in scenes for measure in (halos, interior, whole) for row in measure(scene)])


main()

"""Choose for a run what nobody said: level, tile, grey-value window, threads.

Each is chosen once, when the plan is made, and then frozen with it. What takes a
measurement is chosen in ``fit.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_memseg.errors import GeometryError, InputError
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.inference.stages import IMAGE, image_factor, read_halo
from napari_memseg.inference.tiling import common_multiple, fit_core, round_up
from napari_memseg.io.intensity import sample_window
from napari_memseg.io.units import METRES
from napari_memseg.models.intensity import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_memseg.inference.config import SegmentConfig
    from napari_memseg.io.volume import Volume
    from napari_memseg.models.base import Model, Reads, Stage
    from napari_memseg.models.checkpoint import Card

DEFAULT_TILE: Zyx = (128, 128, 128)
"""Core of a tile where nobody chose one and nothing could be measured."""
COARSEST = 16
"""Working voxels per voxel of the level on which empty tiles are told, at most."""


def choose_level(image: Volume, card: Card, wanted: int | None) -> int:
    """Return the level asked for, or the one whose voxels are nearest to the model's; 0 where unknown."""
    if wanted is None:
        size = in_unit(card.voxel_size, card.unit, image.unit)
        return 0 if size is None else image.nearest_level(size)
    if not 0 <= wanted < len(image.arrays):
        raise InputError(
            f"{image.source} has no level {wanted}. Its levels are 0, the finest, to {len(image.arrays) - 1}."
        )
    return wanted


def choose_stages(model: Model, until: Sequence[str] | None) -> list[Stage]:
    """Return the stages of those names and all that they need, in the model's order."""
    names = [stage.name for stage in model.stages]
    if unknown := sorted(set(until or ()) - set(names)):
        raise InputError(f"{model.architecture} has no stage {', '.join(unknown)}, but {', '.join(names)}.")
    wanted = set(names if until is None else until)
    chosen: list[Stage] = []
    for stage in reversed(model.stages):
        if stage.name in wanted:
            needed = {read.array for read in stage.reads}
            wanted |= {s.name for s in model.stages if needed & {writes.array for writes in s.writes}}
            chosen.insert(0, stage)
    return chosen


def core_unit(model: Model, chunk: Zyx) -> Zyx:
    """Return what a core must be a multiple of: of chunks, poolings and coarser grids."""
    grids = [writes.grid.factor for stage in model.stages for writes in stage.writes]
    grids += [image_factor(r.array) for s in model.stages for r in _tiled(s) if r.array.startswith(IMAGE)]
    return common_multiple(chunk, *(stage.multiple for stage in model.stages), *grids)


def choose_tile(model: Model, config: SegmentConfig, shape: Zyx, chunk: Zyx, region: Box) -> Zyx:
    """Return the core of a tile: the one asked for, or a usual one no larger than volume and region need.

    Raises
    ------
    GeometryError
        If the model cannot work with the one that is asked for.
    """
    unit = core_unit(model, chunk)
    if config.tile is None:
        last = model.stages[-1]
        halo = read_halo(last.reads[0], (1, 1, 1), config.halo)
        return fit_core(zyx(map(min, DEFAULT_TILE, region.shape)), shape, unit, halo, last.multiple)
    if any(n % s for n, s in zip(config.tile, unit, strict=True)):
        raise GeometryError(
            f"This model needs tiles whose cores are multiples of {unit} voxels, got {config.tile}. "
            f"The next larger one is {round_up(config.tile, unit)}."
        )
    return zyx(map(min, config.tile, round_up(shape, unit)))


def _tiled(stage: Stage) -> list[Reads]:
    return [] if stage.whole else [read for read in stage.reads if not read.whole]


def choose_window(image: Volume, level: int, card: Card, wanted: tuple[float, float] | None) -> Window:
    """Return the grey values asked for, the image's own, or those of the training, as the model wants it."""
    if wanted is not None:
        return Window(*wanted, image.dtype.name)
    if card.own_window:
        return Window(*sample_window(image, level), image.dtype.name)
    if image.dtype.name != card.window.dtype:
        raise InputError(
            f"The model was trained on {card.window.dtype} images, where grey values from "
            f"{card.window.low:g} to {card.window.high:g} count, but {image.source} holds "
            f"{image.dtype.name}. Say which of its grey values these are: --window LOW HIGH."
        )
    return card.window


def choose_threads(wanted: int | None, device: str, sharers: int = 1) -> int | None:
    """Return how many threads are asked for, or usual for one of so many processes; None beside a CPU."""
    usual = max(torch.get_num_threads() // sharers, 1)
    return (wanted or usual) if device == "cpu" else None


def choose_skip_level(image: Volume, level: int, skip_below: float | None) -> int | None:
    """Return the level on which empty tiles are told: the coarsest whose voxels are not too coarse.

    Raises
    ------
    InputError
        If there is none that is coarser than ``level``.
    """
    if skip_below is None:
        return None
    coarser = range(level + 1, len(image.arrays))
    fitting = [n for n in coarser if max(coarse_factor(image, level, n)) <= COARSEST]
    if not fitting:
        raise InputError(
            f"{image.source} has no coarser level on which empty tiles could be told without reading them. "
            "Build its pyramid first (napari-memseg convert SRC DST), or leave --skip-below out."
        )
    return fitting[-1]


def coarse_factor(image: Volume, level: int, coarse: int) -> Zyx:
    """Return how many voxels of one level make one of a coarser one, per axis."""
    return zyx(max(n // m, 1) for n, m in zip(image.scale(coarse), image.scale(level), strict=True))


def in_unit(
    size: tuple[float, float, float] | None, unit: str | None, wanted: str | None
) -> tuple[float, float, float] | None:
    """Return lengths in another unit; None where that cannot be known."""
    if size is None or unit == wanted:
        return size
    if unit not in METRES or wanted not in METRES:
        return None
    z, y, x = (length * METRES[unit] / METRES[wanted] for length in size)
    return z, y, x

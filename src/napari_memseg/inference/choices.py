"""Choose for a run what nobody said: level, tile, grey-value window, device, precision.

Each is chosen once, when the plan is made, and then frozen with it; so a later and
better way to choose (from free memory, from a probe) changes no run that is on disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_memseg.errors import GeometryError, InputError
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.inference.run_card import has_run_card, read_run_card
from napari_memseg.inference.stages import IMAGE, image_factor, read_halo
from napari_memseg.inference.tiling import common_multiple, fit_core, round_up
from napari_memseg.io.intensity import sample_window
from napari_memseg.io.units import METRES
from napari_memseg.models.intensity import Window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_memseg.inference.config import SegmentConfig
    from napari_memseg.io.volume import Volume
    from napari_memseg.models.base import Model, Reads, Stage
    from napari_memseg.models.checkpoint import Card

DEFAULT_TILE: Zyx = (128, 128, 128)
"""Core of a tile where nobody chose one."""


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


def choose_tile(model: Model, config: SegmentConfig, shape: Zyx, chunk: Zyx, region: Box) -> Zyx:
    """Return the core of a tile: the one asked for, or a usual one no larger than volume and region need.

    Raises
    ------
    GeometryError
        If the model cannot work with the one that is asked for.
    """
    grids = [writes.grid.factor for stage in model.stages for writes in stage.writes]
    grids += [image_factor(r.array) for s in model.stages for r in _tiled(s) if r.array.startswith(IMAGE)]
    multiple = common_multiple(*(stage.multiple for stage in model.stages), *grids)
    step = common_multiple(chunk, multiple)
    if config.tile is None:
        halo = read_halo(model.stages[-1].reads[0], (1, 1, 1), config.halo)
        return fit_core(zyx(map(min, DEFAULT_TILE, region.shape)), shape, step, halo, multiple)
    if any(n % s for n, s in zip(config.tile, step, strict=True)):
        raise GeometryError(
            f"This model needs tiles whose cores are multiples of {step} voxels, got {config.tile}. "
            f"The next larger one is {round_up(config.tile, step)}."
        )
    return zyx(map(min, config.tile, round_up(shape, step)))


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


def choose_precision(wanted: str, device: str) -> str:
    """Return the arithmetic asked for, or the usual one of a device."""
    if wanted != "auto":
        return wanted
    return "float16" if device.startswith("cuda") else "float32"


def choose_threads(wanted: int | None, device: str, destination: Path) -> int | None:
    """Return how many threads are asked for, began the run that is to go on, or are usual here."""
    if device != "cpu":
        return None
    begun = read_run_card(destination)["plan"].get("threads") if has_run_card(destination) else None
    return wanted or begun or torch.get_num_threads()


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

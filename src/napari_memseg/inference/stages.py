"""What each stage of a run reads and writes, and where: the plan's geometry, frozen.

All stages share one grid of cores. A stage that others read from covers what they
read, so that a run in a small region stays small all the way up::

    first    ├─────── region of first ───────┤     whole cores
    second        ├─halo─┼ region ┼─halo─┤         what second reads of first
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import GeometryError
from napari_memseg.geometry import Box, Zyx, ceil_div, zyx
from napari_memseg.inference.tiling import box_around, common_multiple
from napari_memseg.io.coarser import stored_level
from napari_memseg.models.base import SCORES, Grid, Halo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_memseg.io.volume import Volume
    from napari_memseg.models.base import Reads, Stage, Writes

IMAGE = "image@"
WHOLE_VOXELS = 2**29
"""The most voxels that a stage may ask to have whole, over all channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayPlan:
    """One array that a stage writes and the run keeps."""

    name: str
    dtype: str
    channels: int
    factor: Zyx
    """Working voxels per voxel of the array."""
    vector: bool

    def shape(self, volume: Zyx) -> tuple[int, ...]:
        """Return (C, z, y, x), or (length,) of a vector, for a volume of that shape."""
        return (self.channels,) if self.vector else (self.channels, *ceil_div(volume, self.factor))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPlan:
    """One array that a stage reads."""

    name: str
    factor: Zyx
    """Working voxels per voxel of the array."""
    halo: Halo
    """In voxels of the array."""
    whole: bool
    exact: bool
    """Whether the halo is as large as exactness needs."""
    level: int | None = None
    """For the image: the pyramid level that is read."""
    halvings: int = 0
    """For the image: how often what is read is then halved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage, with all its geometry."""

    name: str
    whole: bool
    multiple: Zyx
    """Boxes begin on it, in voxels of the working level."""
    reads: tuple[ReadPlan, ...]
    writes: tuple[ArrayPlan, ...]
    """Arrays that are kept; class scores are not."""
    region: Box
    """What it covers, in voxels of the working level."""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> StagePlan:
        """Read what ``asdict`` and JSON made of it."""
        reads = tuple(
            ReadPlan(
                **{
                    **read,
                    "factor": zyx(read["factor"]),
                    "halo": Halo(zyx(read["halo"]["low"]), zyx(read["halo"]["high"])),
                }
            )
            for read in row["reads"]
        )
        writes = tuple(ArrayPlan(**{**array, "factor": zyx(array["factor"])}) for array in row["writes"])
        region = Box(zyx(row["region"]["start"]), zyx(row["region"]["stop"]))
        return cls(
            name=row["name"],
            whole=row["whole"],
            multiple=zyx(row["multiple"]),
            reads=reads,
            writes=writes,
            region=region,
        )

    def box(self, read: ReadPlan, start: Zyx, core: Zyx, shape: Zyx) -> Box:
        """Return what to read of an array for the core that begins at ``start``, in the array's voxels.

        ``core`` and ``shape`` (of the volume) are in voxels of the working level.
        """
        there = ceil_div(shape, read.factor)
        if read.whole or self.whole:
            return Box.whole(there)
        own = zyx(lcm(m, f) // f for m, f in zip(self.multiple, read.factor, strict=True))
        inner = Box.at(start, core).coarsen(read.factor)
        return box_around(inner.start, there, inner.shape, read.halo, own)


def plan_stages(
    stages: Sequence[Stage],
    image: Volume,
    level: int,
    shape: Zyx,
    *,
    core: Zyx,
    halo: str | Zyx,
    region: Box,
) -> tuple[StagePlan, ...]:
    """Work out every stage's reads, writes and region.

    Parameters
    ----------
    stages : sequence of Stage
        Those that run, in order.
    image : Volume
        What is segmented, at ``level``, where it has ``shape`` voxels.
    core : (z, y, x)
        Of the tiles.
    halo : str or (z, y, x)
        "recommended", "exact", or voxels of the working level on both sides.
    region : Box
        What the last stage is to cover.

    Raises
    ------
    GeometryError
        If an array lies on a grid that this engine does not run, or is too large to be read whole.
    """
    kept = {w.array: _array(w) for stage in stages for w in stage.writes if w.array != SCORES}
    _check_order(stages)
    read_back: dict[str, list[Box]] = {name: [] for name in kept}
    plans: list[StagePlan] = []
    for number, stage in reversed(list(enumerate(stages))):
        reads = tuple(_read(read, kept, image, level, shape, halo) for read in stage.reads)
        plan = StagePlan(
            name=stage.name,
            whole=stage.whole,
            multiple=common_multiple(stage.multiple, *(w.grid.factor for w in stage.writes)),
            reads=reads,
            writes=tuple(kept[w.array] for w in stage.writes if w.array != SCORES),
            region=_region(stage, number == len(stages) - 1, region, read_back, core, shape),
        )
        _check_whole(plan, kept, shape)
        for read in reads:
            if read.name in read_back:
                read_back[read.name].append(_reach(plan, read, core, shape))
        plans.insert(0, plan)
    return tuple(plans)


def _check_order(stages: Sequence[Stage]) -> None:
    made: set[str] = set()
    for stage in stages:
        needed = {read.array for read in stage.reads if not read.array.startswith(IMAGE)}
        if lacking := sorted(needed - made):
            raise GeometryError(
                f"The stage {stage.name} reads {', '.join(lacking)}, which no stage before it writes. "
                f"There are: {', '.join(sorted(made)) or 'none'}, and the image as image@0, image@1, ..."
            )
        made |= {writes.array for writes in stage.writes}


def _array(writes: Writes) -> ArrayPlan:
    plain = Grid(factor=writes.grid.factor)
    if writes.grid != plain:
        raise GeometryError(
            f"The array {writes.array} is a crop of the volume ({writes.grid}), but this engine keeps arrays "
            "that reach over all of it. Let the stage write zeros outside of its crop."
        )
    return ArrayPlan(
        name=writes.array,
        dtype=writes.dtype,
        channels=writes.channels,
        factor=writes.grid.factor,
        vector=writes.vector,
    )


def _read(
    read: Reads, kept: Mapping[str, ArrayPlan], image: Volume, level: int, shape: Zyx, halo: str | Zyx
) -> ReadPlan:
    if not read.array.startswith(IMAGE):
        return ReadPlan(name=read.array, **_context(read, kept[read.array].factor, halo))
    factor = image_factor(read.array)
    halvings = factor[0].bit_length() - 1
    stored = stored_level(image, level, halvings)
    return ReadPlan(
        name=read.array,
        **_context(read, factor, halo),
        level=level if stored is None else stored,
        halvings=halvings if stored is None else 0,
    )


def image_factor(name: str) -> Zyx:
    """Return how many working voxels make one of ``image@L``."""
    return zyx([2 ** int(name.removeprefix(IMAGE))] * 3)


def _context(read: Reads, factor: Zyx, wanted: str | Zyx) -> dict[str, Any]:
    halo, needed = read_halo(read, factor, wanted), read.halo_exact
    enough = all(a >= b for a, b in zip(halo.low + halo.high, needed.low + needed.high, strict=True))
    return {"factor": factor, "halo": halo, "whole": read.whole, "exact": read.whole or enough}


def read_halo(read: Reads, factor: Zyx, wanted: str | Zyx) -> Halo:
    """Return the context to take: "exact", "recommended", or working voxels on both sides."""
    if wanted == "exact":
        return read.halo_exact
    if isinstance(wanted, str):
        return read.halo_recommended
    return Halo.even(*ceil_div(wanted, factor))


def _region(
    stage: Stage, last: bool, region: Box, read_back: Mapping[str, list[Box]], core: Zyx, shape: Zyx
) -> Box:
    """Return what a stage must cover: the run's region, or all that later stages read of it."""
    boxes = [box for writes in stage.writes for box in read_back.get(writes.array, [])]
    if stage.whole or (not boxes and not last):
        return Box.whole(shape)
    if last:
        return region
    low = zyx(map(min, *(box.start for box in boxes), boxes[0].start))
    high = zyx(map(max, *(box.stop for box in boxes), boxes[0].stop))
    return Box(low, high).snap(core).clip(shape)


def _reach(plan: StagePlan, read: ReadPlan, core: Zyx, shape: Zyx) -> Box:
    """Return all that the tiles of a stage read of an array, in voxels of the working level."""
    grid = plan.region.coarsen(core)
    corners = (grid.start, zyx(stop - 1 for stop in grid.stop))
    starts = [zyx(i * n for i, n in zip(index, core, strict=True)) for index in corners]
    first, last = (plan.box(read, start, core, shape) for start in starts)
    return Box(first.start, last.stop).refine(read.factor).clip(shape)


def _check_whole(plan: StagePlan, kept: Mapping[str, ArrayPlan], shape: Zyx) -> None:
    for read in plan.reads:
        array = kept.get(read.name)
        if not (read.whole or plan.whole) or (array is not None and array.vector):
            continue
        voxels = Box.whole(ceil_div(shape, read.factor)).size * (array.channels if array else 1)
        if voxels > WHOLE_VOXELS:
            raise GeometryError(
                f"The stage {plan.name} reads {read.name} whole: {voxels:.2g} values, and at most "
                f"{WHOLE_VOXELS:.2g} are held at once. Work at a coarser level: --level."
            )

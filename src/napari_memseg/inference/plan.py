"""Everything about a run that is decided before it starts, written down.

A plan is frozen: tile, halo, precision, grey-value window, region. Two runs of one
plan write the same bytes, whatever the order, the number of processes, or how often
they were killed; so a plan is also what an unfinished run on disk is compared with::

    checkpoint + image + SegmentConfig ──> Draft ──fit──> Plan ──> run_blocks, here or elsewhere
                                                           └─ id ──> run.json beside the labels
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash
import zarr

from napari_memseg.geometry import Box, Zyx, cells, zyx
from napari_memseg.inference.arithmetic import CONTIGUOUS, Arithmetic
from napari_memseg.inference.differences import differences
from napari_memseg.inference.run_card import FOLDER
from napari_memseg.inference.stages import StagePlan
from napari_memseg.inference.tiling import common_multiple
from napari_memseg.models.base import Grid
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.intensity import Window

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """One unit of work: a core of the plan's grid, in one stage."""

    stage: str
    index: Zyx


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that decides what a run writes, and where things lie."""

    image: str
    """Source that opens the image."""
    fingerprint: str
    """Of the image."""
    level: int
    shape: Zyx
    """Of the image at that level, in voxels."""
    voxel_size: tuple[float, float, float] | None
    """At that level."""
    unit: str | None
    model: str
    """Path of the checkpoint."""
    sha256: str
    """Of its weights."""
    network: str
    """Architecture and arguments, as JSON: some of them change what the same weights compute."""
    destination: str
    classes: ClassTable
    window: Window
    stages: tuple[StagePlan, ...]
    """Those that run, in order."""
    core: Zyx
    chunk: Zyx
    region: Box
    """What is predicted, in voxels: whole chunks."""
    segments: bool
    """Whether the model's last stage is among the stages, so that labels come out."""
    confidence: bool
    precision: str
    device: str
    threads: int | None
    """CPU threads, whose number can change the last bit of a sum; None where the device is no CPU."""
    layout: str = CONTIGUOUS
    """Of activations, see ``Arithmetic``."""
    folded: bool = False
    """Whether batch norms are folded into convolutions."""
    batch: int = 1
    """Tiles that are computed at once."""
    skip_below: float | None = None
    """Tiles that lie below this grey value are background without a look; None: none is."""
    skip_level: int | None = None
    """Pyramid level at which this is judged."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that can change a byte, by name, as JSON values; places and a device's number cannot."""
        row = self.to_json()
        return {
            **{name: value for name, value in row.items() if name not in ("image", "model", "destination")},
            "device": self.device.partition(":")[0],
        }

    @cached_property
    def id(self) -> str:
        """A hash of ``identity``."""
        return xxhash.xxh3_128_hexdigest(json.dumps(self.identity, sort_keys=True).encode())

    def differences(self, other: Plan) -> list[str]:
        """Say in words what makes ``other`` another run than this one; empty if it is the same."""
        return differences(self.identity, other.identity)

    @property
    def exact(self) -> bool:
        """Whether every tile sees enough to equal a pass over the whole volume."""
        return all(read.exact for stage in self.stages for read in stage.reads)

    @property
    def arithmetic(self) -> Arithmetic:
        """How the network computes."""
        return Arithmetic(self.precision, self.layout, self.folded)

    def computing(self, how: Arithmetic) -> Plan:
        """Return the same plan in another arithmetic."""
        return replace(self, **asdict(how))

    @property
    def step(self) -> Zyx:
        """Cores, and pieces of them, are multiples of it."""
        reads = (read.factor for stage in self.stages for read in stage.reads if not read.whole)
        return common_multiple(*(stage.multiple for stage in self.stages), *reads)

    @property
    def tiled(self) -> tuple[StagePlan, ...]:
        """The stages that run tile by tile."""
        return tuple(stage for stage in self.stages if not stage.whole)

    def stage(self, name: str) -> StagePlan:
        """Return the stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def folder(self) -> Path:
        """Where ledgers, run card and what stages keep lie."""
        return Path(self.destination) / FOLDER

    def array_path(self, name: str) -> Path:
        """Return where the array that a stage writes is kept."""
        return self.folder / "stages" / name

    def blocks(self) -> Iterator[Block]:
        """Yield every block of every stage, in storage order."""
        for stage in self.stages:
            for index in [(0, 0, 0)] if stage.whole else cells(stage.region, self.core):
                yield Block(stage.name, index)

    def open_array(self, name: str) -> tuple[zarr.Array[Any], Grid]:
        """Return what a stage wrote, and on which grid."""
        array = next(a for stage in self.stages for a in stage.writes if a.name == name)
        return zarr.open_array(self.array_path(name), mode="r"), Grid(factor=array.factor)

    def core_of(self, block: Block) -> Box:
        """Return the core of a block, which may reach over the faces of its stage's region."""
        if self.stage(block.stage).whole:
            return Box.whole(self.shape)
        return Box.at(zyx(i * n for i, n in zip(block.index, self.core, strict=True)), self.core)

    def box_of(self, block: Block) -> Box:
        """Return the voxels of the working level that a block is about."""
        return self.core_of(block) & self.stage(block.stage).region

    def boxes_along(self, axis: int, core: int) -> list[int]:
        """Return the lengths of the last stage's boxes along one axis, if its cores there were so long."""
        a, b = self.region.start[axis], self.region.stop[axis]
        return [self._box_length(axis, start, core) for start in range(a // core * core, b, core)]

    @property
    def box_voxels(self) -> int:
        """Voxels of a box of the last stage away from the faces."""
        return prod(self._box_length(axis, core, core) for axis, core in enumerate(self.core))

    def _box_length(self, axis: int, start: int, core: int) -> int:
        stage, starts, cores = self.stages[-1], [0, 0, 0], list(self.core)
        starts[axis], cores[axis] = start, core
        read = stage.reads[0]
        box = stage.box(read, zyx(starts), zyx(cores), self.shape).refine(read.factor)
        return box.shape[axis]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        row = {f.name: getattr(self, f.name) for f in fields(self)}
        row |= {
            "classes": self.classes.to_json(),
            "window": self.window.to_json(),
            "stages": [asdict(stage) for stage in self.stages],
            "region": str(self.region),
        }
        plain: dict[str, Any] = json.loads(json.dumps(row))
        return plain

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Plan:
        """Read what ``to_json`` wrote."""
        shape = zyx(row["shape"])
        known = {
            "shape": shape,
            "voxel_size": tuple(row["voxel_size"]) if row["voxel_size"] else None,
            "classes": ClassTable.from_json(row["classes"]),
            "window": Window.from_json(row["window"]),
            "stages": tuple(StagePlan.from_json(stage) for stage in row["stages"]),
            "core": zyx(row["core"]),
            "chunk": zyx(row["chunk"]),
            "region": Box.parse(row["region"], shape),
        }
        return cls(**{**row, **known})

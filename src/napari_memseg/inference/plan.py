"""Decide everything about a run before it starts, and write it down.

A plan is frozen: tile, halo, precision, grey-value window, region. Two runs of one
plan write the same bytes, whatever the order, the number of processes, or how often
they were killed; so a plan is also what an unfinished run on disk is compared with::

    checkpoint + image + SegmentConfig ──make_plan──> Plan ──> run_blocks, here or elsewhere
                                                       └─ id ──> run.json beside the labels
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash
import zarr

from napari_memseg.errors import GeometryError, InputError
from napari_memseg.geometry import Box, Zyx, cells, zyx
from napari_memseg.inference.stages import StagePlan, plan_stages
from napari_memseg.inference.tiling import common_multiple, fit_core, round_up
from napari_memseg.models.base import Grid
from napari_memseg.models.checkpoint import load_checkpoint
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.intensity import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_memseg.io.volume import Volume
    from napari_memseg.models.base import Model
    from napari_memseg.models.checkpoint import Card

SMALLEST_CHUNK = 16
DEFAULT_TILE: Zyx = (128, 128, 128)
"""Core of a tile where nobody chose one."""
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentConfig:
    """How to segment.

    Raises
    ------
    InputError
        If a value is impossible.
    """

    tile: Zyx | None = None
    """Core of a tile in voxels, a multiple of the chunk; None lets us choose."""
    chunk: int = 64
    """Edge of a stored chunk, in voxels."""
    halo: str | Zyx = "recommended"
    """Context around a core: "recommended", "exact", or voxels per axis on both sides."""
    precision: str = "auto"
    """Of the network's arithmetic. Auto: float32 on a CPU, float16 on a GPU."""
    device: str = "auto"
    """"auto", "cpu", "cuda", "cuda:1" or "mps"."""
    level: int | None = None
    """Pyramid level to work at; None takes the one nearest to the model's voxel size."""
    box: str | None = None
    """``Z0:Z1,Y0:Y1,X0:X1`` at that level; widened to whole chunks. None: everything."""
    window: tuple[float, float] | None = None
    """Grey values that the network sees as 0 and 1; None takes those it was trained with."""
    confidence: bool = False
    """Whether to store one byte of confidence per voxel as well."""

    def __post_init__(self) -> None:
        if self.chunk < SMALLEST_CHUNK:
            raise InputError(f"A chunk of {self.chunk} voxels is too small: choose {SMALLEST_CHUNK} or more.")
        if self.tile is not None and any(n < 1 or n % self.chunk for n in self.tile):
            raise InputError(
                f"A tile of {self.tile} voxels does not consist of whole chunks of {self.chunk}. "
                f"Choose multiples of {self.chunk}, or another chunk."
            )
        if self.precision not in PRECISIONS:
            raise InputError(f"There is no precision {self.precision!r}. Choose of {', '.join(PRECISIONS)}.")
        if isinstance(self.halo, str) and self.halo not in ("recommended", "exact"):
            raise InputError(f"There is no halo {self.halo!r}. Choose recommended, exact, or three numbers.")
        if not isinstance(self.halo, str) and min(self.halo) < 0:
            raise InputError(f"A halo cannot be negative, got {self.halo}. Use 0 for none.")


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
        mine, theirs = self.identity, other.identity
        return [
            f"{name} is {mine[name]} here and {theirs[name]} there"
            for name in mine
            if mine[name] != theirs[name]
        ]

    @property
    def exact(self) -> bool:
        """Whether every tile sees enough to equal a pass over the whole volume."""
        return all(read.exact for stage in self.stages for read in stage.reads)

    def stage(self, name: str) -> StagePlan:
        """Return the stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def folder(self) -> Path:
        """Where ledgers, run card and what stages keep lie."""
        return Path(self.destination) / "memseg"

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

    def box_of(self, block: Block) -> Box:
        """Return the voxels of the working level that a block is about."""
        stage = self.stage(block.stage)
        if stage.whole:
            return Box.whole(self.shape)
        start = zyx(i * n for i, n in zip(block.index, self.core, strict=True))
        return Box.at(start, self.core) & stage.region

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


def make_plan(
    checkpoint: str | Path,
    image: Volume,
    destination: str | Path,
    config: SegmentConfig,
    *,
    until: Sequence[str] | None = None,
) -> Plan:
    """Freeze a run.

    Parameters
    ----------
    checkpoint : path
        A trained model.
    image : Volume
        What to segment.
    destination : path
        Of the label group.
    config : SegmentConfig
        How.
    until : sequence of str, optional
        Names of the only stages to run, the first of the model; by default all.

    Raises
    ------
    InputError
        If image and model do not fit, or the level, box, tile or device is impossible.
    """
    model, card = load_checkpoint(checkpoint)
    level = _choose_level(image, card, config.level)
    shape = zyx(image.arrays[level].shape)
    chunk = zyx([config.chunk] * 3)
    planned = [stage for stage in model.stages if until is None or stage.name in until]
    core = _choose_core(model, config, shape, chunk)
    region = (Box.parse(config.box, shape) if config.box else Box.whole(shape)).snap(chunk).clip(shape)
    device = choose_device(config.device)
    return Plan(
        image=image.source,
        fingerprint=image.fingerprint,
        level=level,
        shape=shape,
        voxel_size=_voxel_size(image, level),
        unit=image.unit,
        model=str(checkpoint),
        sha256=card.sha256,
        destination=str(destination),
        classes=card.classes,
        window=_choose_window(image, card, config.window),
        stages=plan_stages(planned, image, level, shape, core=core, halo=config.halo, region=region),
        core=core,
        chunk=chunk,
        region=region,
        segments=len(planned) == len(model.stages),
        confidence=config.confidence,
        precision=_choose_precision(config.precision, device),
        device=device,
    )


def choose_device(name: str) -> str:
    """Return the device of that name; ``auto`` takes a GPU if there is one.

    Raises
    ------
    InputError
        If there is no such device here.
    """
    import torch

    there = [kind for kind, module in (("cuda", torch.cuda), ("mps", torch.mps)) if module.is_available()]
    there.append("cpu")
    wanted = there[0] if name == "auto" else name
    if wanted.partition(":")[0] not in there:
        raise InputError(f"There is no device {name!r} here. Possible are: auto, {', '.join(there)}.")
    return wanted


def _choose_level(image: Volume, card: Card, wanted: int | None) -> int:
    if wanted is None:
        known = card.voxel_size is not None and card.unit == image.unit and image.voxel_size is not None
        return image.nearest_level(card.voxel_size) if known and card.voxel_size else 0
    if not 0 <= wanted < len(image.arrays):
        raise InputError(
            f"{image.source} has no level {wanted}. Its levels are 0, the finest, to {len(image.arrays) - 1}."
        )
    return wanted


def _choose_core(model: Model, config: SegmentConfig, shape: Zyx, chunk: Zyx) -> Zyx:
    """Return the core of a tile: the one asked for, or a usual one that is no larger than the volume."""
    grids = [writes.grid.factor for stage in model.stages for writes in stage.writes]
    multiple = common_multiple(*(stage.multiple for stage in model.stages), *grids)
    step = common_multiple(chunk, multiple)
    if config.tile is None:
        halo = model.stages[-1].reads[0].halo_recommended
        return fit_core(DEFAULT_TILE, shape, step, halo, multiple)
    if any(n % s for n, s in zip(config.tile, step, strict=True)):
        raise GeometryError(
            f"This model needs tiles whose cores are multiples of {step} voxels, got {config.tile}. "
            f"The next larger one is {round_up(config.tile, step)}."
        )
    return zyx(map(min, config.tile, round_up(shape, step)))


def _choose_window(image: Volume, card: Card, wanted: tuple[float, float] | None) -> Window:
    if wanted is not None:
        return Window(*wanted, image.dtype.name)
    if image.dtype.name != card.window.dtype:
        raise InputError(
            f"The model was trained on {card.window.dtype} images, where grey values from "
            f"{card.window.low:g} to {card.window.high:g} count, but {image.source} holds "
            f"{image.dtype.name}. Say which of its grey values these are: --window LOW HIGH."
        )
    return card.window


def _choose_precision(wanted: str, device: str) -> str:
    if wanted != "auto":
        return wanted
    return "float16" if device.startswith("cuda") else "float32"


def _voxel_size(image: Volume, level: int) -> tuple[float, float, float] | None:
    if image.voxel_size is None:
        return None
    z, y, x = (size * factor for size, factor in zip(image.voxel_size, image.scale(level), strict=True))
    return z, y, x

"""Make a multiscale OME-Zarr of any volume that can be read, however large, through kills.

The volume flows by in rows of whole chunks, and a kill costs the row it fell in::

    DST.part/
    ├── image/           the OME-Zarr, growing     ──rename, last of all──>  DST
    ├── slab             raw planes, where those that are stored are too wide for memory
    ├── progress.json    which job this is, how its rows are cut, how many are on the disk
    └── lock             held by the one process that writes

Rows come in storage order, so that their number alone says which chunks are done, at
every level of the pyramid.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import InputError, RunMismatchError
from napari_memseg.geometry import Box, Zyx, cell_box, zyx
from napari_memseg.inference.heap import GIB
from napari_memseg.io.arrays import stored_bytes, sweep_partial
from napari_memseg.io.files import atomic_write, locked, refuse_to_overwrite, rename_folder
from napari_memseg.io.formats import open_volume
from napari_memseg.io.ome_zarr_metadata import VoxelSize, check_scale
from napari_memseg.io.pyramid import ALL_LEVELS, Pyramid, check_dtype, create_image, open_pyramid
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.rows import Rows, plan_rows
from napari_memseg.workflows.slabs import RowReader
from napari_memseg.workflows.words import gib_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_memseg.io.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertConfig:
    """How to convert.

    Raises
    ------
    InputError
        If a value is impossible.
    """

    chunk: int = 64
    """Edge of a stored chunk, in voxels; at least 16."""
    voxel_size: VoxelSize | None = None
    """Of level 0, (z, y, x), in ``unit``; default what the source says."""
    unit: str | None = None
    """A UDUNITS-2 name, "micrometer"; default what the source says."""
    box: str | None = None
    """``Z0:Z1,Y0:Y1,X0:X1``, the part to convert; default all of it."""

    def __post_init__(self) -> None:
        if self.chunk < 16:
            raise InputError(
                f"A chunk of {self.chunk} voxels is too small. Choose 16 or more; 64 suits most."
            )
        check_scale(self.voxel_size, self.unit)


def convert(
    source: str | os.PathLike[str] | Volume,
    destination: str | os.PathLike[str],
    config: ConvertConfig | None = None,
) -> Iterator[Progress]:
    """Write ``source`` as a multiscale OME-Zarr 0.5 image, or go on where a kill stopped it.

    Parameters
    ----------
    source : path-like or Volume
        Anything that ``open_volume`` reads. Its dtype is kept.
    destination : path-like
        A folder that does not exist yet. Until the end, ``<destination>.part`` stands in for it.
    config : ConvertConfig, optional
        How to do it.

    Yields
    ------
    Progress
        One for each row of chunks once it is on the disk, whose values tell ``disk_gib``, what all of it
        will take if what is left packs as what was written, and whose message warns where that is more
        than the disk has; then one with the ``result``: shape, voxel_size, unit, levels (their shapes),
        chunks (the shape of one), seconds, path.

    Raises
    ------
    SourceError
        If the source cannot be read.
    RunMismatchError
        If what is unfinished at the destination is another conversion.
    InputError
        If the destination exists, somebody is converting to it, or the voxels are no scalars.
    """
    started = monotonic()
    volume = open_volume(source) if isinstance(source, str | os.PathLike) else source
    job = _Job.of(volume, config or ConvertConfig())
    final = Path(destination)
    work = _Work.at(final.with_name(f"{final.name}.part"), job, volume)
    if not work.was_renamed(final):
        refuse_to_overwrite(final)
        with locked(work.folder):
            yield from work.write_rows(volume)
            rename_folder(work.image, final)
    shutil.rmtree(work.folder)
    result = job.result(open_pyramid(final)) | {"seconds": monotonic() - started}
    yield Progress(stage="convert", done=work.rows.count, total=work.rows.count, result=result)


@dataclass(frozen=True, slots=True)
class _Job:
    """What makes two conversions the same one, in plain JSON values."""

    fingerprint: str
    box: str
    chunk: int
    voxel_size: VoxelSize | None
    unit: str | None

    @classmethod
    def of(cls, volume: Volume, config: ConvertConfig) -> _Job:
        check_dtype(volume.dtype)
        volume.check()
        size = config.voxel_size or volume.voxel_size
        if config.unit and size is None:
            raise InputError(
                f"{volume.name} does not say how large its voxels are, so {config.unit} means nothing. "
                "Give the voxel size as well."
            )
        unit = (config.unit or volume.unit) if size else None
        check_scale(size, unit)
        box = Box.parse(config.box, volume.shape) if config.box else Box.whole(volume.shape)
        return cls(volume.fingerprint, str(box), config.chunk, size, unit)

    def region(self, volume: Volume) -> Box:
        """Return the part to convert, in voxels of the source."""
        return Box.parse(self.box, volume.shape)

    def result(self, image: Pyramid) -> dict[str, Any]:
        """Say what came of it, in plain JSON values."""
        return {
            "shape": list(image.shape),
            "voxel_size": list(self.voxel_size) if self.voxel_size else None,
            "unit": self.unit,
            "levels": [list(level.shape) for level in image.levels],
            "chunks": list(image.chunk),
            "path": str(image.path),
        }


class _Disk:
    """What a conversion takes on the disk, told from what was written of it."""

    def __init__(self, folder: Path, shape: Zyx) -> None:
        self._folder, self._voxels = folder, prod(shape)
        self._seen = self._stored = 0

    def note(self, box: Box, image: Pyramid) -> None:
        """Count the bytes of a row that was written."""
        self._seen += box.size
        self._stored += stored_bytes(image.levels[0], box.slices)

    @property
    def expected(self) -> float:
        """Bytes of all levels, the coarser ones packed as the finest."""
        return self._stored / self._seen * self._voxels * ALL_LEVELS

    def warning(self, done: float) -> str:
        """Say that there is too little room for what is left, or nothing."""
        needed, free = self.expected * (1 - done) / GIB, shutil.disk_usage(self._folder).free / GIB
        if needed <= free:
            return ""
        return (
            f"about {gib_text(needed)} are still to be written, and {gib_text(free)} are free: make room, "
            "or stop; the same command goes on from here"
        )


@dataclass(frozen=True, slots=True)
class _Work:
    """An unfinished conversion on disk."""

    folder: Path
    job: _Job
    rows: Rows
    done: int
    """Rows that an earlier process wrote."""

    @classmethod
    def at(cls, folder: Path, job: _Job, volume: Volume) -> _Work:
        """Read how far this job came, or plan it; refuse the folder of another."""
        record = folder / "progress.json"
        if record.exists():
            return cls._read(record, job, volume)
        if folder.exists() and any(
            path.name.split(".")[0] not in ("lock", "progress") for path in folder.iterdir()
        ):
            raise InputError(
                f"{folder} exists, but no conversion made it. Choose another destination, or move it away."
            )
        chunk = zyx([job.chunk] * 3)
        return cls(folder, job, plan_rows(job.region(volume), written=chunk, read=volume.arrays[0].chunks), 0)

    @classmethod
    def _read(cls, record: Path, job: _Job, volume: Volume) -> _Work:
        try:
            saved = json.loads(record.read_bytes())
            theirs, step, done = saved["job"], zyx(saved["step"]), int(saved["rows"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{record} is damaged ({error}). Delete {record.parent} to start afresh."
            ) from error
        mine = json.loads(json.dumps(asdict(job)))
        differences = [
            f"{key} {theirs.get(key)} there, {mine[key]} here" for key in mine if theirs.get(key) != mine[key]
        ]
        if differences:
            raise RunMismatchError(
                f"{record.parent} holds an unfinished conversion that is another one: "
                f"{'; '.join(differences)}. Ask for the same to go on with it, choose another destination, "
                "or delete that folder."
            )
        return cls(record.parent, job, Rows(job.region(volume).shape, step), done)

    @property
    def image(self) -> Path:
        return self.folder / "image"

    def was_renamed(self, final: Path) -> bool:
        """Whether a kill fell between the last two steps: everything is done but tidying up."""
        return self.done == self.rows.count and final.is_dir() and not self.image.exists()

    def write_rows(self, volume: Volume) -> Iterator[Progress]:
        """Convert the rows that are left, and yield each once it cannot be lost."""
        image = self._open_image(volume)
        reader = RowReader(volume, self.job.region(volume), self.rows, self.folder / "slab")
        started = monotonic()
        disk = _Disk(self.folder, self.rows.shape)
        for number, box in enumerate(self.rows.boxes(self.done), start=self.done):
            image.write(box, reader.read(box))
            for _ in image.propagate(box, self._is_done(number, image)):
                pass
            self._record(number + 1)
            pace = (monotonic() - started) / (number + 1 - self.done)
            left = pace * (self.rows.count - number - 1)
            disk.note(box, image)
            yield Progress(
                stage="convert",
                done=number + 1,
                total=self.rows.count,
                box=box,
                seconds_left=left,
                message=disk.warning((number + 1) / self.rows.count),
                values={"disk_gib": disk.expected / GIB},
            )

    def _is_done(self, row: int, image: Pyramid) -> Callable[[int, Zyx], bool]:
        """Tell which chunks are done: those of rows before ``row``, and at level 0 its own."""

        def is_done(level: int, index: Zyx) -> bool:
            voxels = cell_box(index, zyx(c * 2**level for c in image.chunk), image.shape)
            return self.rows.last(voxels) < row + (level == 0)

        return is_done

    def _open_image(self, volume: Volume) -> Pyramid:
        if self.image.exists():
            sweep_partial(self.image)
            return open_pyramid(self.image)
        self._record(0)
        return create_image(
            self.image,
            shape=self.rows.shape,
            dtype=volume.dtype,
            chunk=zyx([self.job.chunk] * 3),
            voxel_size=self.job.voxel_size,
            unit=self.job.unit,
            name=volume.name,
        )

    def _record(self, rows: int) -> None:
        record = {"job": asdict(self.job), "step": self.rows.step, "rows": rows}
        atomic_write(self.folder / "progress.json", json.dumps(record, indent=1).encode())

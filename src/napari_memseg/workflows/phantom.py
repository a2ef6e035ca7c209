"""Write a phantom to disk: image, truth and manifest, block by block, through kills.

Blocks are rendered in threads and stored in the order of their number; a kill costs those in flight::

    DST.part/
    ├── image/           the OME-Zarr, growing       ──rename, last of all──>  DST
    │   └── labels/truth
    ├── blocks.jsonl     per block: how many voxels of each class, a checksum per chunk
    ├── job.json         which phantom this is
    └── lock             held by the one process that writes

Files of other formats are written at the end, from raw voxels that lie in DST.part until then.
"""

from __future__ import annotations

import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, get_args

from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, Zyx, ceil_div, cell_box, cells, zyx
from napari_memseg.inference.control import Control
from napari_memseg.io.files import locked, refuse_to_overwrite, remove, rename_folder
from napari_memseg.io.stacks import Compression
from napari_memseg.phantom.compiled import is_kept
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.parameters import PhantomParameters
from napari_memseg.phantom.voxels import processors
from napari_memseg.workflows.phantom_stacks import StackStores
from napari_memseg.workflows.phantom_store import MANIFEST, BlockLog, Stores, ZarrStores, write_manifest
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterator

    from napari_memseg.phantom.fly import Rendered

Format = Literal["ome-zarr", "bigtiff", "slices", "raw"]

BLOCK = 128
"""Edge of a block that is rendered at once, in voxels; rounded to whole chunks."""
MOST_WORKERS = 4
"""Threads by default, at most, for blocks of 128³: each takes about 100 MB."""
LARGEST_CHUNK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomConfig:
    """How to store a phantom.

    Raises
    ------
    InputError
        If a value is impossible.
    """

    format: Format = "ome-zarr"
    """OME-Zarr 0.5, BigTIFF, folders of slices with a log as SkyScan's, or raw voxels with an MHD header."""
    chunk: int = 64
    """Edge of a stored chunk, in voxels; 16 to 256. Checksums are of such chunks in every format."""
    instances: bool = False
    """Whether to store the numbers of fibres, cells, facets, eggs and tracheal trees as well."""
    compression: Compression = "none"
    """Of TIFF files."""
    tile: int | None = None
    """Edge of the tiles of a BigTIFF, in voxels; by default it has none."""
    workers: int | None = None
    """Threads; by default one per processor, at most 4, and fewer where blocks are large."""

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise InputError(
                f"There is no format {self.format!r}. Choose one of {', '.join(get_args(Format))}."
            )
        if self.compression not in get_args(Compression):
            raise InputError(
                f"There is no compression {self.compression!r}. Choose one of "
                f"{', '.join(get_args(Compression))}."
            )
        if self.tile is not None and (self.tile < 16 or self.tile % 16):
            raise InputError(f"A tile of {self.tile} voxels is impossible. Choose a multiple of 16.")
        if not 16 <= self.chunk <= LARGEST_CHUNK:
            raise InputError(
                f"A chunk of {self.chunk} voxels is impossible. Choose 16 to {LARGEST_CHUNK}; 64 suits most."
            )
        if self.tile is not None and self.format != "bigtiff":
            raise InputError(
                f"Only a bigtiff has tiles. Leave the tile out, or choose bigtiff, not {self.format}."
            )
        if self.compression != "none" and self.format not in ("bigtiff", "slices"):
            raise InputError(
                f"The compression {self.compression!r} is one of TIFF files, and none of {self.format}. "
                "Leave it out; an OME-Zarr is compressed anyhow."
            )
        if self.workers is not None and self.workers < 1:
            raise InputError(f"{self.workers} workers do no work. Choose 1 or more.")

    def threads(self, block: Zyx) -> int:
        """Return how many blocks are rendered at a time."""
        suits = max(MOST_WORKERS * BLOCK**3 // prod(block), 1)
        return self.workers or min(processors(), MOST_WORKERS, suits)


def phantom(
    destination: str | os.PathLike[str],
    parameters: PhantomParameters | None = None,
    config: PhantomConfig | None = None,
    *,
    control: Control | None = None,
) -> Generator[Progress, None, None]:
    """Write a phantom with its truth and a manifest, or go on where a kill stopped it.

    Parameters
    ----------
    destination : path-like
        A folder that does not exist yet: an OME-Zarr image with ``labels/truth``, or a folder of files
        in another format. ``phantom.json`` in it is the manifest.
    parameters : PhantomParameters, optional
        Which phantom; by default the fly of 256³ voxels, normally hard.
    config : PhantomConfig, optional
        How to store it.
    control : Control, optional
        Cancelling ends it after a block; it can be resumed.

    Yields
    ------
    Progress
        Per block; the last carries the ``result``: shape, voxel_size, unit, classes (id: voxels), seconds,
        voxels_per_second, path, manifest.

    Raises
    ------
    InputError
        If something is at the destination, or what is unfinished there is another phantom.
    Cancelled
        If ``control`` was asked to cancel.
    """
    started, control = monotonic(), control or Control()
    fly, how = Phantom(parameters or PhantomParameters()), config or PhantomConfig()
    final = Path(destination)
    part = final.with_name(f"{final.name}.part")
    refuse_to_overwrite(final)
    with locked(part):
        refuse_to_overwrite(final)
        log = BlockLog.open(part, fly, asdict(how) | {"workers": None})
        stores = _stores(part / "image", fly, how)
        total = prod(ceil_div(fly.shape, _block(fly, how)))
        if not is_kept():
            text = "compiling what makes it, for a quarter of a minute, once"
            yield Progress(stage="phantom", done=0, total=total, message=text)
        for step in _render(fly, how, stores, log, total):
            yield step
            control.raise_if_cancelled()
        for left_by_a_kill in [*stores.folder.glob("*.part")]:
            remove(left_by_a_kill)
        for name in stores.finish():
            yield Progress(stage="phantom", done=total, total=total, message=f"{name} written")
        manifest = write_manifest(stores.folder, fly, asdict(how), log)
        rename_folder(stores.folder, final)
    shutil.rmtree(part)
    seconds = monotonic() - started
    result = _result(fly, manifest, final) | {
        "seconds": seconds,
        "voxels_per_second": prod(fly.shape) / seconds,
    }
    yield Progress(stage="phantom", done=total, total=total, result=result)


def _stores(folder: Path, fly: Phantom, config: PhantomConfig) -> Stores:
    if config.format == "ome-zarr":
        return ZarrStores(folder, fly, zyx([config.chunk] * 3), instances=config.instances)
    return StackStores(
        folder, fly, config.format, config.compression, config.tile, instances=config.instances
    )


def _block(fly: Phantom, config: PhantomConfig) -> Zyx:
    """Return what is rendered at once: whole chunks, of whole planes where these are projected."""
    edge = max(BLOCK // config.chunk, 1) * config.chunk
    if fly.parameters.mode == "image":
        return edge, edge, edge
    whole = (-(-n // config.chunk) * config.chunk for n in fly.shape[1:])
    return zyx((config.chunk, *whole))


def _render(
    fly: Phantom, config: PhantomConfig, stores: Stores, log: BlockLog, total: int
) -> Iterator[Progress]:
    """Render and store the blocks that are left."""
    block = _block(fly, config)
    boxes = [cell_box(index, block, fly.shape) for index in cells(Box.whole(fly.shape), block)]
    stores.resume([box for box in boxes if box in log.done])
    started, before = monotonic(), len(log.done)
    for box, found in _in_threads(fly, [box for box in boxes if box not in log.done], config.threads(block)):
        stores.write(box, found)
        log.add(box, found, zyx([config.chunk] * 3))
        done = len(log.done)
        left = (monotonic() - started) / (done - before) * (total - done)
        yield Progress(stage="phantom", done=done, total=total, box=box, seconds_left=left)


def _in_threads(fly: Phantom, boxes: list[Box], threads: int) -> Iterator[tuple[Box, Rendered]]:
    """Yield each box with what is in it, in order, rendered ahead by as many as there are threads."""
    fly.prepare()
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Any] = deque()
        for box in boxes:
            coming.append((box, pool.submit(fly.render, box)))
            if len(coming) > threads:
                first, found = coming.popleft()
                yield first, found.result()
        for first, found in coming:
            yield first, found.result()


def _result(fly: Phantom, manifest: dict[str, Any], path: Path) -> dict[str, Any]:
    return {
        "shape": list(fly.shape),
        "voxel_size": manifest["voxel_size"],
        "unit": manifest["unit"],
        "classes": {key: row["voxels"] for key, row in manifest["classes"].items()},
        "path": str(path),
        "manifest": str(path / MANIFEST),
    }

"""Where the blocks of a phantom go, and what is remembered of each."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from xxhash import xxh3_128

from napari_memseg.errors import InputError, RunMismatchError
from napari_memseg.geometry import Box, Zyx, cell_box, cells, zyx
from napari_memseg.inference.differences import differences
from napari_memseg.io.arrays import sweep_partial
from napari_memseg.io.files import atomic_write, remove
from napari_memseg.io.pyramid import create_image, create_labels, create_labels_group, open_pyramid
from napari_memseg.phantom import labels as L
from napari_memseg.phantom.fly import Rendered
from napari_memseg.phantom.parameters import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.phantom.fly import Phantom

MANIFEST = "phantom.json"
TRUTH_FILL, INSTANCES_FILL = 255, 2**32 - 1
"""What a missing chunk reads as: never a class, never an instance."""


class Stores(Protocol):
    """What blocks are written to."""

    folder: Path

    def resume(self, boxes: Sequence[Box]) -> None:
        """Take note of the blocks that an earlier process wrote."""

    def write(self, box: Box, found: Rendered) -> None:
        """Store one block."""

    def finish(self) -> Iterator[str]:
        """Complete the files, yielding the name of each."""


class ZarrStores:
    """An OME-Zarr image with its labels, pyramids and all."""

    def __init__(self, folder: Path, fly: Phantom, chunk: Zyx, *, instances: bool) -> None:
        self.folder = folder
        names = ["truth", "instances"] if instances else ["truth"]
        if not folder.exists():
            _create(folder, fly, chunk, names)
        sweep_partial(folder)
        self._pyramids = {"image": open_pyramid(folder)}
        self._pyramids |= {name: open_pyramid(folder / "labels" / name) for name in names}
        self._done: set[tuple[int, Zyx]] = set()

    def resume(self, boxes: Sequence[Box]) -> None:
        """Take note of the blocks that an earlier process wrote, and of the coarse chunks above them."""
        image = self._pyramids["image"]
        for box in boxes:
            self._done.update((0, chunk) for chunk in cells(box, image.chunk))
        for level in range(1, len(image.levels)):
            for index in cells(Box.whole(zyx(image.levels[level].shape)), image.chunk):
                if all((level - 1, child) in self._done for child in image.children(level, index)):
                    self._done.add((level, index))

    def write(self, box: Box, found: Rendered) -> None:
        """Store one block and the coarse chunks that it completes."""
        self._done.update((0, chunk) for chunk in cells(box, self._pyramids["image"].chunk))
        for name, pyramid in self._pyramids.items():
            pyramid.write(box, getattr(found, name))
            coarse = list(pyramid.propagate(box, lambda level, index: (level, index) in self._done))
        self._done.update(coarse)  # only now: they are the same in each pyramid

    def finish(self) -> Iterator[str]:
        """Nothing is left to do."""
        yield from ()


def _create(folder: Path, fly: Phantom, chunk: Zyx, names: Sequence[str]) -> None:
    size = float(fly.voxel_um)
    grid: dict[str, Any] = {
        "shape": fly.shape,
        "chunk": chunk,
        "voxel_size": (size,) * 3,
        "unit": "micrometer",
    }
    create_image(folder, **grid, dtype=fly.dtype, name=fly.name)
    create_labels_group(folder / "labels", names)
    for name in names:
        is_truth = name == "truth"
        create_labels(
            folder / "labels" / name,
            **grid,
            dtype=np.uint8 if is_truth else np.uint32,
            name=f"{fly.name} {name}",
            colors=L.COLORS if is_truth else {},
            names=L.NAMES if is_truth else {},
            fill_value=TRUTH_FILL if is_truth else INSTANCES_FILL,
        )


@dataclass(eq=False)
class BlockLog:
    """Which blocks are done, with the counts and checksums of each: one line of JSON per block."""

    path: Path
    done: dict[Box, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, fly: Phantom, config: Mapping[str, Any]) -> BlockLog:
        """Read how far this phantom came, or begin it.

        Raises
        ------
        InputError
            If something else is unfinished in the folder.
        """
        job = json.loads(
            json.dumps({"version": VERSION, "parameters": fly.parameters.to_json(), "config": config})
        )
        log = cls(folder / "blocks.jsonl")
        record = folder / "job.json"
        log._forget_what_is_gone(folder)
        if record.exists() and log.path.exists():
            theirs = json.loads(record.read_bytes())
            if theirs != job:
                raise RunMismatchError(
                    f"{folder} holds an unfinished phantom that is another one: "
                    f"{', '.join(differences(job, theirs))}. Ask for the same to go on with it, choose "
                    "another destination, or delete that folder."
                )
            log._read()
        elif not record.exists() and any(path.name != "lock" for path in folder.iterdir()):
            raise InputError(
                f"{folder} exists, but no phantom made it. Choose another destination, or move it away."
            )
        else:
            atomic_write(record, json.dumps(job, indent=1).encode())
        return log

    def _forget_what_is_gone(self, folder: Path) -> None:
        """Begin anew where no block is done, or the voxels of those that were are gone."""
        image = folder / "image"
        if not image.exists():
            self.path.unlink(missing_ok=True)
        if (folder / "job.json").exists() and not self.path.exists():
            for path in [image, *folder.glob("*.voxels")]:
                remove(path)

    def add(self, box: Box, found: Rendered, chunk: Zyx) -> None:
        """Remember a block that is stored."""
        sums = {}
        for index in cells(box, chunk):
            inner = (cell_box(index, chunk, box.stop) & box).relative_to(box.start).slices
            sums["/".join(map(str, index))] = [_sum(voxels[inner]) for voxels in found]
        counts = np.bincount(found.truth.ravel(), minlength=len(L.NAMES)).tolist()
        row = {"box": [box.start, box.stop], "counts": counts, "sums": sums}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.done[box] = row

    def _read(self) -> None:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        whole = []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:  # the last line, cut off by a kill
                break
            start, stop = (tuple(corner) for corner in row["box"])
            self.done[Box(start, stop)] = row
            whole.append(line)
        atomic_write(self.path, "".join(f"{line}\n" for line in whole).encode())


def write_manifest(folder: Path, fly: Phantom, config: Mapping[str, Any], log: BlockLog) -> dict[str, Any]:
    """Write down, in a finished folder, all that the phantom is a function of, and what it came to."""
    counts = np.sum([row["counts"] for row in log.done.values()], axis=0)
    sums = {index: pair for row in log.done.values() for index, pair in row["sums"].items()}
    order = sorted(sums, key=lambda index: tuple(map(int, index.split("/"))))
    manifest = {
        "synthetic": True,
        "name": fly.name,
        "software": f"napari-memseg {version('napari-memseg')}",
        "phantom_version": VERSION,
        "seed": fly.parameters.seed,
        "shape": list(fly.shape),
        "dtype": fly.dtype.name,
        "voxel_size": [float(fly.voxel_um)] * 3,
        "unit": "micrometer",
        "grey_window": list(fly.window),
        "classes": {str(i): {"name": name, "voxels": int(counts[i])} for i, name in L.NAMES.items()},
        "parameters": fly.parameters.to_json(),
        "storage": dict(config),
        "checksums": {
            "of": "xxh3_128 of the voxels of each chunk, in C order, little-endian",
            "chunk": config["chunk"],
            **{name: {key: sums[key][i] for key in order} for i, name in enumerate(Rendered._fields)},
        },
    }
    atomic_write(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def _sum(voxels: NDArray[Any]) -> str:
    little = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
    return str(xxh3_128(little.tobytes()).hexdigest())

"""Write labels as a file of their own, in the format that the ending of its name says.

They come from anything that can be sliced, piece by piece, and never as a whole::

    labels ──smallest dtype that holds them all──> name.<random>.part ──rename──> name

    .ome.zarr, .zarr                        block by block, with a pyramid, names and colours
    .ome.tif, .ome.tiff, .tif, .tiff        plane by plane, a BigTIFF with OME's description, zlib
    .nrrd                                   plane by plane, bare voxels behind a header of text
    .nii, .nii.gz                           plane by plane, bare or gzip, said to be labels
"""

from __future__ import annotations

import gzip
import os
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.errors import InputError
from napari_memseg.files import beside
from napari_memseg.geometry import Box, Zyx, cell_box, cells, zyx
from napari_memseg.io.files import part_files, part_folder, refuse_to_overwrite
from napari_memseg.io.pyramid import CHUNK, create_labels
from napari_memseg.io.stacks import Stack, write_bigtiff
from napari_memseg.io.units import METRES
from napari_memseg.workflows.exports import nifti, nrrd
from napari_memseg.workflows.exports.bare import write_planes
from napari_memseg.workflows.exports.layers import Layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from napari_memseg.io.units import VoxelSize
    from napari_memseg.workflows.exports.bare import Writable

BLOCK: Zyx = zyx(2 * n for n in CHUNK)
"""Voxels of a pyramid that are in memory at a time."""
MOST_NAME = 220
"""Bytes of a file's name: file systems take 255, and it has a longer one while it is written."""
GZIP_LEVEL = 6
"""Of masks of blobs, 1 leaves six times as many bytes, and is hardly faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is known of labels beside their voxels; what a format has no place for stays out."""

    voxel_size: VoxelSize | None = None
    """(z, y, x) in ``unit``; None where it is unknown."""
    unit: str | None = None
    """A UDUNITS-2 name, known if the voxel size is."""
    colors: Mapping[int, str] = field(default_factory=dict)
    """``#rrggbb`` by label; OME-Zarr keeps them."""
    names: Mapping[int, str] = field(default_factory=dict)
    """What a person calls each label; OME-Zarr keeps them."""


def write_labels(path: str | os.PathLike[str], labels: Any, about: About | None = None) -> None:
    """Write labels into a new file, or a new folder where the format is one.

    Parameters
    ----------
    path : path-like
        Its ending is one of ``ENDINGS`` and chooses the format; nothing may be there.
    labels : (z, y, x) array
        Whole numbers of any kind that can be sliced; yes and no are 1 and 0. The file has the labels' own
        dtype where that is unsigned and the format holds it, or else the smallest unsigned one that holds
        them all: no number is changed.
    about : About, optional
        Voxel size, colours and names.

    Raises
    ------
    InputError
        If something is at ``path``, its name is too long or ends in none of these, the labels are no
        volume, hold negative numbers or ones that the format cannot hold, or the format has no room for an
        axis. As when the labels cannot be read, nothing is left on disk.
    """
    final, about = Path(path), about or About()
    form, ending = _form_of(final)
    if (length := len(os.fsencode(final.name))) > MOST_NAME:
        raise InputError(
            f"The name {final.name[:40]}… is {length} bytes long, and {MOST_NAME} are possible. Shorten it."
        )
    refuse_to_overwrite(final)
    if len(labels.shape) != 3 or np.dtype(labels.dtype).kind not in "iub":
        raise InputError(
            "Only volumes (z, y, x) of whole numbers are written, and this is "
            f"{len(labels.shape)}-dimensional {labels.dtype}. Choose one time and channel first."
        )
    stack = Stack(
        shape=zyx(labels.shape),
        dtype=_dtype(labels, form),
        voxel_size=about.voxel_size,
        unit=about.unit,
        name=_one_line(final.name[: -len(ending)]),
    )
    form.write(final, stack, labels, about)


def _dtype(labels: Any, form: _Form) -> np.dtype[Any]:
    """Return the labels' own dtype, or the smallest unsigned one that holds them all."""
    own: np.dtype[Any] = np.dtype(np.dtype(labels.dtype).name)
    if own.kind == "b":
        return np.dtype(np.uint8)
    if own.kind == "u" and own.itemsize <= form.widest.itemsize:
        return own
    low, high = _extremes(labels)
    if low < 0:
        raise InputError(
            f"The labels hold negative numbers ({low}), which label images have none of. Renumber them."
        )
    if high > np.iinfo(form.widest).max:
        raise InputError(
            f"{form.name} holds labels up to {np.iinfo(form.widest).max:,}, and these go up to {high:,}. "
            "Write them as OME-Zarr, NRRD or NIfTI, or renumber them."
        )
    smallest: np.dtype[Any] = np.dtype(np.min_scalar_type(high).name)  # one of two C types that look alike
    return smallest


def _extremes(labels: Any) -> tuple[int, int]:
    """Return the lowest and the highest label, or 0 where that lies beyond them."""
    shape, chunk = zyx(labels.shape), _chunk(labels)
    block = chunk if prod(chunk) > prod(CHUNK) else BLOCK
    low, high = 0, 0
    for index in cells(Box.whole(shape), block):
        voxels = _read(labels, cell_box(index, block, shape))
        low, high = min(low, int(voxels.min())), max(high, int(voxels.max()))
    return low, high


def _read(labels: Any, box: Box) -> NDArray[Any]:
    return np.asarray(labels[box.slices])


def _chunk(labels: Any) -> Zyx:
    """Return the unit in which labels are stored, as dask, Zarr and HDF5 tell it; ours where nobody does."""
    match getattr(labels, "chunksize", getattr(labels, "chunks", None)):
        case (int(z), int(y), int(x)):
            return z, y, x
    return CHUNK


@contextmanager
def _planes(final: Path, stack: Stack, labels: Any) -> Iterator[Iterator[NDArray[Any]]]:
    """Give the planes of a file, each to be used before the next; what they waited in is gone at the end."""
    whole = Box.whole(stack.shape)
    layers = Layers(lambda box: _read(labels, box), whole, stack.dtype, _chunk(labels), beside(final))
    with closing(layers.planes()) as planes:
        yield planes


def _one_line(text: str) -> str:
    """Return what a file calls its content: no name is without a letter, or of two lines."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip() or "labels"


def _write_zarr(final: Path, stack: Stack, labels: Any, about: About) -> None:
    most = np.iinfo(stack.dtype).max
    colors, names = (
        {value: text for value, text in known.items() if 0 < value <= most}
        for known in (about.colors, about.names)
    )
    with part_folder(final) as part:
        pyramid = create_labels(
            part,
            shape=stack.shape,
            dtype=stack.dtype,
            voxel_size=stack.voxel_size,
            unit=stack.unit,
            name=stack.name,
            colors=colors,
            names=names,
            fill_value=0,
        )
        for _ in pyramid.fill(lambda box: _read(labels, box).astype(stack.dtype, copy=False), BLOCK):
            pass


def _write_tiff(final: Path, stack: Stack, labels: Any, _: About) -> None:
    with _planes(final, stack, labels) as planes:
        write_bigtiff(final, stack, planes, compression="zlib")


def _write_nrrd(final: Path, stack: Stack, labels: Any, _: About) -> None:
    _write_bare(final, nrrd.header(stack), stack, labels)


def _write_nifti(final: Path, stack: Stack, labels: Any, _: About) -> None:
    size, unit = stack.voxel_size, stack.unit or "millimeter"
    if size is not None and unit not in nifti.UNITS:
        factor = METRES[unit] / METRES["millimeter"]
        size, unit = (size[0] * factor, size[1] * factor, size[2] * factor), "millimeter"
    _write_bare(final, nifti.header(stack.shape, stack.dtype, size, unit, labels=True), stack, labels)


def _write_bare(final: Path, header: bytes, stack: Stack, labels: Any) -> None:
    with _planes(final, stack, labels) as planes, _new_file(final) as file:
        for _ in write_planes(file, header, stack.dtype, planes):
            pass


@contextmanager
def _new_file(final: Path) -> Iterator[Writable]:
    """Write a file under another name, which becomes ``final`` as the last step; gzip if that ends in gz."""
    with part_files(final) as (part,), part.open("xb") as file:
        if final.suffix.lower() == ".gz":
            with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:  # the same bytes each time
                yield packed
        else:
            yield file


@dataclass(frozen=True, slots=True)
class _Form:
    """A format that labels are written as."""

    name: str
    endings: tuple[str, ...]
    """The longest of those that end alike comes first."""
    widest: np.dtype[Any]
    """Of labels that it can hold."""
    write: Callable[[Path, Stack, Any, About], None]


FORMS = (
    _Form("OME-Zarr", (".ome.zarr", ".zarr"), np.dtype(np.uint64), _write_zarr),
    _Form("TIFF", (".ome.tif", ".ome.tiff", ".tif", ".tiff"), np.dtype(np.uint32), _write_tiff),
    _Form("NRRD", (".nrrd",), np.dtype(np.uint64), _write_nrrd),
    _Form("NIfTI", (".nii.gz", ".nii"), np.dtype(np.uint64), _write_nifti),
)
ENDINGS = tuple(ending for form in FORMS for ending in form.endings)
"""By which the format is chosen."""


def _form_of(path: Path) -> tuple[_Form, str]:
    for form in FORMS:
        for ending in form.endings:
            if path.name.lower().endswith(ending):
                return form, ending
    raise InputError(
        f"{path.name} has none of the endings that say how labels are written: {', '.join(ENDINGS)}. "
        "Add the one of the format that you want."
    )

"""Open any volume by the text that names it: the register of formats.

Each format says whether a path looks like one of its own, and opens it lazily. The first
that says yes is asked::

    open_volume("scan.ome.zarr::labels/bone@t=0") ──> Source ──> Format.open ──> Volume
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_memseg.errors import SourceError
from napari_memseg.io.amira import open_amira
from napari_memseg.io.content import check_content
from napari_memseg.io.dicom import is_dicom, open_dicom
from napari_memseg.io.hdf5 import open_hdf5
from napari_memseg.io.metaimage import open_metaimage
from napari_memseg.io.nifti import open_nifti
from napari_memseg.io.nikon import open_nikon
from napari_memseg.io.nrrd import open_nrrd
from napari_memseg.io.ome_zarr import is_zarr, open_zarr
from napari_memseg.io.slices import holds_slices, open_slices
from napari_memseg.io.source import Source, parse_source
from napari_memseg.io.tiff import open_tiff
from napari_memseg.io.vendor import is_other, refuse
from napari_memseg.io.vgi import open_vgi
from napari_memseg.io.volume import DECODING_ERRORS

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path

    from napari_memseg.io.volume import Volume

__all__ = ["ENDINGS", "FORMATS", "Format", "Source", "open_volume", "parse_source"]

_TIFF = (".tif", ".tiff", ".btf", ".tf8")
_META, _NRRD, _NIFTI, _HDF5 = (".mhd", ".mha"), (".nrrd", ".nhdr"), (".nii", ".nii.gz"), (".h5", ".hdf5")
_AMIRA, _VGI, _NIKON = (".am",), (".vgi",), (".xtekct",)
ENDINGS = (*_TIFF, *_META, *_NRRD, *_NIFTI, *_HDF5, *_AMIRA, *_VGI, *_NIKON)
"""Of files that hold or describe a volume."""


@dataclass(frozen=True, slots=True)
class Format:
    """One way to store a volume.

    Attributes
    ----------
    name : str
        What a person looks for.
    fits : callable of Path -> bool
        Whether a path that exists looks like this format.
    open : callable of Source -> Volume
        Raises SourceError where the look deceived.
    """

    name: str
    fits: Callable[[Path], bool]
    open: Callable[[Source], Volume]


def open_volume(source: str | os.PathLike[str]) -> Volume:
    """Open a volume; nothing is decoded until it is asked for.

    Parameters
    ----------
    source : path-like
        ``path``, ``path::inner`` (a group or an array in a Zarr, the number of a series in a TIFF),
        ``path@c=1,t=0`` (a channel and a time, counted from 0), or all three. A path that exists
        and holds "@" or "::" itself is that path.

    Returns
    -------
    Volume
        Whose ``source`` is the text that opens it again, from any folder.

    Raises
    ------
    SourceError
        If there is nothing, or nothing that is a volume of grey values, or there are several and
        none was chosen; the message says what to do.
    """
    found = parse_source(source)
    if found.path.is_file():
        check_content(found.path)
    try:
        chosen = next((form for form in FORMATS if form.fits(found.path)), None)
        if chosen is None:
            raise _unknown(found.path)
        return chosen.open(found)
    except SourceError:
        raise
    except (*DECODING_ERRORS, MemoryError) as error:
        raise SourceError(
            f"{found.path} cannot be read ({error}). Check that it is complete, and that you may read it."
        ) from error


def _is_tiff(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in _TIFF


def _ends(*endings: str) -> Callable[[Path], bool]:
    return lambda path: path.is_file() and path.name.lower().endswith(endings)


def _is_zarr(path: Path) -> bool:
    return path.is_dir() and is_zarr(path)


def _is_slices(path: Path) -> bool:
    return path.is_dir() and holds_slices(path)


def _unknown(path: Path) -> SourceError:
    known = "; ".join(form.name for form in FORMATS[1:])
    if path.is_dir():
        return SourceError(
            f"The folder {path} holds no volume: neither Zarr metadata nor slices (TIFF, PNG, BMP, DICOM) "
            f"lie in it. Known are: {known}."
        )
    return SourceError(
        f"{path} has the ending {path.suffix or 'of no format'}, which is not read. Known are: {known}. "
        "Export it as one of these, as a multi-page TIFF for example."
    )


FORMATS = (
    Format("other scanners' files", is_other, refuse),
    Format("MetaImage (.mhd, .mha)", _ends(*_META), open_metaimage),
    Format("NRRD (.nrrd, .nhdr)", _ends(*_NRRD), open_nrrd),
    Format("NIfTI (.nii, .nii.gz)", _ends(*_NIFTI), open_nifti),
    Format("HDF5 (.h5, .hdf5)", _ends(*_HDF5), open_hdf5),
    Format("Amira lattices (.am)", _ends(*_AMIRA), open_amira),
    Format("VGStudio volumes (.vgi)", _ends(*_VGI), open_vgi),
    Format("Nikon volumes (.xtekct)", _ends(*_NIKON), open_nikon),
    Format(f"TIFF ({' '.join(_TIFF)})", _is_tiff, open_tiff),
    Format("OME-Zarr and Zarr folders", _is_zarr, open_zarr),
    Format("folders of DICOM slices", is_dicom, open_dicom),
    Format("folders of TIFF, PNG or BMP slices", _is_slices, open_slices),
)
"""In the order in which they are asked."""

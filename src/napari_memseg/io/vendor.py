"""Recognise files that scanners write and that are not read here, and name the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from napari_memseg.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from napari_memseg.io.source import Source

OTHERS = {
    ".txrm": "raw projections of a Zeiss Xradia scan (TXRM), not a reconstruction. Reconstruct it, export "
    "the slices as TIFF",
    ".txm": "a reconstruction of a Zeiss Xradia scanner (TXM). Export its slices as TIFF",
    ".xrm": "a single picture of a Zeiss Xradia scanner (XRM). Export it as TIFF",
    ".aim": "a Scanco AIM file. Export it as MetaImage, DICOM or TIFF slices",
    ".isq": "a Scanco ISQ file. Export it as MetaImage, DICOM or TIFF slices",
    ".czi": "a Zeiss microscope file (CZI). Export it as OME-TIFF",
    ".nd2": "a Nikon microscope file (ND2). Export it as OME-TIFF",
    ".lif": "a Leica microscope file (LIF). Export it as OME-TIFF",
}
"""What a file is and what to do with it, by its ending."""


def is_other(path: Path) -> bool:
    """Whether a path has the ending of a format that is known and not read."""
    return path.is_file() and path.suffix.lower() in OTHERS


def refuse(source: Source) -> NoReturn:
    """Say what the file is, and what to export instead.

    Raises
    ------
    SourceError
        Always.
    """
    raise SourceError(f"{source.path} is {OTHERS[source.path.suffix.lower()]}, and open that.")

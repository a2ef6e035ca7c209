"""Find the voxel size of a folder of slices in the log that NRecon writes beside them.

The log is an INI file; a reconstruction is isotropic::

    [Reconstruction]
    Pixel Size (um)=19.50000
"""

from __future__ import annotations

import configparser
import re
from math import isfinite
from typing import TYPE_CHECKING

from napari_memseg.io.header import read_text

if TYPE_CHECKING:
    from pathlib import Path

MOST_LOGS = 20
"""Logs of a folder that are looked at."""
KEYS = (
    ("reconstruction", r"pixel size \((\w+)\)"),
    ("acquisition", r"image pixel size \((\w+)\)"),
)
"""Section, and key with its unit in brackets; the reconstruction's own first."""


def logged_pixel(folder: Path) -> tuple[float, str] | None:
    """Return the pixel size and its unit, as the logs of a folder say; None if they do not, or differ."""
    logs = sorted(one for one in folder.iterdir() if one.suffix.lower() == ".log" and one.is_file())
    found = {pixel for log in logs[:MOST_LOGS] if (pixel := _pixel(log)) is not None}
    return found.pop() if len(found) == 1 else None


def _pixel(log: Path) -> tuple[float, str] | None:
    parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    try:
        parser.read_string(read_text(log))
    except configparser.Error:
        return None
    sections = {name.lower(): parser[name] for name in parser.sections()}
    for section, pattern in KEYS:
        for key, text in sections.get(section, {}).items():
            unit = re.fullmatch(pattern, key.strip().lower())
            if unit and (length := _length(text)) is not None:
                return length, unit[1]
    return None


def _length(text: str | None) -> float | None:
    try:
        length = float(text or "")
    except ValueError:
        return None
    return length if isfinite(length) and length > 0 else None

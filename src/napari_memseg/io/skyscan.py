"""Find the voxel size of a folder of slices in the log that NRecon writes beside them.

The log is an INI file. Pixels are square; slices may be some sections apart::

    [Reconstruction]
    Pixel Size (um)=19.50000
    Section to Section Step=1
"""

from __future__ import annotations

import re
from math import isfinite
from typing import TYPE_CHECKING

from napari_memseg.io.header import read_ini

if TYPE_CHECKING:
    from pathlib import Path

MOST_LOGS = 20
"""Logs of a folder that are looked at."""
KEYS = (
    ("reconstruction", r"pixel size \((\w+)\)"),
    ("acquisition", r"image pixel size \((\w+)\)"),
)
"""Section, and key with its unit in brackets; what any reconstruction says comes first."""
STEP = "section to section step"


def logged_lengths(folder: Path) -> tuple[float, float, str] | None:
    """Return how far apart slices and pixels are, and the unit; None where the logs do not say, or differ."""
    logs = sorted(one for one in folder.iterdir() if one.suffix.lower() == ".log" and one.is_file())
    said = [read_ini(log) for log in logs[:MOST_LOGS]]
    for section, pattern in KEYS:
        found = {lengths for log in said if (lengths := _lengths(log.get(section, {}), pattern))}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _lengths(section: dict[str, str], pattern: str) -> tuple[float, float, str] | None:
    step = _number(section.get(STEP, "1"))
    for key, text in section.items():
        unit, pixel = re.fullmatch(pattern, key), _number(text)
        if unit and pixel and step:
            return pixel * step, pixel, unit[1]
    return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) and number > 0 else None

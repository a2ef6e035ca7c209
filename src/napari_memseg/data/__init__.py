"""A real microCT volume that comes with the package, for the demo and the sample menu.

Human trabecular bone and its published mask; README.md beside them says where they come from.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from napari_memseg.errors import InputError

NAMES = ("trabecular_bone.ome.tif", "trabecular_bone_labels.ome.tif")


def bundled(name: str) -> Path:
    """Return the path of a bundled volume.

    Parameters
    ----------
    name : str
        One of ``NAMES``: 160 x 160 x 160 voxels of uint8 at 19.5 µm, or its labels (1 bone, 0 marrow).

    Raises
    ------
    InputError
        If no such volume is bundled.
    """
    if name not in NAMES:
        raise InputError(f"There is no bundled volume {name!r}. There are {' and '.join(NAMES)}.")
    return Path(str(files(__package__) / name))

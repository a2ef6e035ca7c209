"""Write the header of a NIfTI-1 file: 352 bytes, behind which the voxels come plane by plane.

NIfTI names its axes x, y, z, the fastest first, which is how planes (y, x) lie in memory
anyway::

    header │ plane z=0: (y, x) │ plane z=1 │ ...          https://nifti.nimh.nih.gov/nifti-1
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.errors import InputError
from napari_memseg.io.nifti import LABELS

if TYPE_CHECKING:
    from napari_memseg.geometry import Zyx
    from napari_memseg.io.units import VoxelSize

CODES = {
    "uint8": 2, "int16": 4, "int32": 8, "float32": 16, "float64": 64,
    "int8": 256, "uint16": 512, "uint32": 768, "int64": 1024, "uint64": 1280,
}  # fmt: skip
"""How the format spells each dtype that it can hold."""
UNITS = {"meter": 1, "millimeter": 2, "micrometer": 3}
"""How it spells each unit that it knows."""
LONGEST = 2**15 - 1
"""The header counts the voxels of an axis with 16 bits."""
OFFSET = 352
_FIELDS = {
    "sizeof_hdr": (0, "<i4"), "dim": (40, "<8i2"), "intent_code": (68, "<i2"), "datatype": (70, "<i2"),
    "bitpix": (72, "<i2"), "pixdim": (76, "<8f4"), "vox_offset": (108, "<f4"), "scl_slope": (112, "<f4"),
    "xyzt_units": (123, "u1"), "sform_code": (254, "<i2"), "srow": (280, "<(3,4)f4"), "magic": (344, "S4"),
}  # fmt: skip
HEADER = np.dtype(
    {
        "names": list(_FIELDS),
        "offsets": [offset for offset, _ in _FIELDS.values()],
        "formats": [form for _, form in _FIELDS.values()],
        "itemsize": OFFSET,
    }
)
"""Fields that are written, at their offsets in bytes; all others are 0."""


def header(
    shape: Zyx,
    dtype: np.dtype[Any],
    voxel_size: VoxelSize | None,
    unit: str = "millimeter",
    *,
    labels: bool = False,
) -> bytes:
    """Return the header of a volume.

    Parameters
    ----------
    shape : (z, y, x)
        In voxels.
    dtype : dtype
        Of the voxels.
    voxel_size : (z, y, x) or None
        Lengths in ``unit``, kept in 32 bits; where it is unknown, lengths are 1 and so is the unit.
    unit : str
        One of ``UNITS``.
    labels : bool
        Whether the voxels are labels, which the header then says.

    Raises
    ------
    InputError
        If an axis is too long for the format, or it has no such dtype.
    """
    if dtype.name not in CODES or max(shape) > LONGEST:
        raise InputError(
            f"NIfTI cannot hold {dtype} voxels of shape {shape}: axes have {LONGEST} voxels at most, of "
            f"{', '.join(CODES)}. Choose a smaller region, or export it as ome-zarr."
        )
    z, y, x = voxel_size or (1.0, 1.0, 1.0)
    found = np.zeros((), HEADER)
    found["sizeof_hdr"], found["vox_offset"], found["magic"] = 348, OFFSET, b"n+1"
    found["dim"] = (3, *shape[::-1], 1, 1, 1, 1)
    found["intent_code"] = LABELS if labels else 0
    found["datatype"], found["bitpix"] = CODES[dtype.name], 8 * dtype.itemsize
    found["pixdim"] = (1, x, y, z, 0, 0, 0, 0)
    found["scl_slope"], found["sform_code"] = 1, 1
    found["xyzt_units"] = UNITS[unit] if voxel_size else 0
    found["srow"] = np.diag((x, y, z, 1.0))[:3]
    return found.tobytes()

"""A small network for a computer without a GPU.

The U-Net of ``unet3d.py`` with three levels and half the width: it looks 23 voxels
far, and learns textures and simple organs in minutes on two cores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from napari_memseg.models.unet3d import UNet3d

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_memseg.geometry import Zyx
    from napari_memseg.models.classes import ClassTable


class Small(UNet3d):
    """A U-Net of three levels, under 100,000 weights."""

    architecture: ClassVar[str] = "small"
    title: ClassVar[str] = "Small 3D U-Net, three levels, for a CPU"
    paper: ClassVar[str] = "Çiçek et al., MICCAI 2016, doi:10.1007/978-3-319-46723-8_49 (narrower)"
    advice: ClassVar[str] = (
        "The one to begin with on a computer without a GPU: textures and simple organs in minutes."
    )
    patch: ClassVar[Zyx] = (48, 48, 48)

    def __init__(self, classes: ClassTable, *, widths: Sequence[int] = (8, 16, 32)) -> None:
        super().__init__(classes, widths=widths)

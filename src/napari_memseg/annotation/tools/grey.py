"""A brush that sees grey: it paints only where the image is as bright as it should be.

A dab is a disc in a slice, or a ball in a box of several; the image says which of its
voxels are painted::

      dab          image              painted
     ▒▒▒▒         ░░██               ··██
    ▒▒▒▒▒▒   ∩    ░░░███       =     ···███
     ▒▒▒▒         ░██░               ·██·
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.annotation.tools.edit import Edit, Scene
from napari_memseg.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_memseg.annotation.composite import Composite
    from napari_memseg.geometry import Box, Zyx


@dataclass(frozen=True, slots=True)
class GreyRange:
    """Grey values from ``low`` to ``high``, both included, as the image stores them."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise InputError(
                f"No grey value is at least {self.low:g} and at most {self.high:g}. "
                "Choose a range from the darker to the brighter value."
            )

    @classmethod
    def about(cls, value: float, tolerance: float) -> GreyRange:
        """Return what differs from a value by no more than ``tolerance``."""
        return cls(value - tolerance, value + tolerance)

    def mask(self, grey: NDArray[Any]) -> NDArray[np.bool_]:
        """Return where grey values lie in the range, as large as ``grey``; never where they are NaN."""
        return np.asarray((grey >= self.low) & (grey <= self.high))


def ball(box: Box, at: Zyx, radius: float) -> NDArray[np.bool_]:
    """Return which voxels of a box lie within ``radius`` voxels of one of them: in a slice, a disc."""
    distances = [
        (np.arange(low, high) - c) ** 2 for low, high, c in zip(box.start, box.stop, at, strict=True)
    ]
    z, y, x = np.ix_(*distances)
    return np.asarray(z + y + x <= radius**2)


def dab(
    composite: Composite,
    box: Box,
    at: Zyx,
    class_id: int,
    radius: float,
    grey: NDArray[Any],
    wanted: GreyRange,
) -> Edit:
    """Paint a disc or a ball, but only where grey values agree.

    Parameters
    ----------
    composite : Composite
        What is shown.
    box : Box
        A slice or a box that holds the dab; what of it lies outside is not painted.
    at : (z, y, x)
        Its middle.
    class_id : int
        0 for background.
    radius : float
        In voxels.
    grey : (z, y, x) array
        The image in the box.
    wanted : GreyRange
        Which grey values are painted.
    """
    scene = Scene.of(composite, box)
    scene.value(class_id)
    return scene.edit(box, class_id, ball(box, at, radius) & wanted.mask(grey), "grey brush")

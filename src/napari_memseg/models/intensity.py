"""The window of grey values that a network sees as 0 to 1.

Two numbers, fixed for a whole run and stored with the weights: if every tile were
normalised by its own values, each seam would show. They are measured elsewhere
(``io/intensity.py``) and not clipped here, so that what lies outside stays visible::

    grey value   low ├──────────────┤ high
    network        0 ├──────────────┤ 1
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from napari_memseg.errors import InputError


@dataclass(frozen=True, slots=True)
class Window:
    """Grey values that become 0 and 1.

    Raises
    ------
    InputError
        If a bound is not finite, or ``high`` is not above ``low``.
    """

    low: float
    """Becomes 0."""
    high: float
    """Becomes 1."""
    dtype: str
    """Of the image on which it was measured, as numpy names it."""

    def __post_init__(self) -> None:
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise InputError(
                f"An intensity window needs a finite low below a finite high, got {self.low} to {self.high}. "
                "An image of one grey value has none: choose the window by hand."
            )

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Window:
        """Read what ``to_json`` wrote."""
        try:
            return cls(float(row["low"]), float(row["high"]), str(row["dtype"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"Not an intensity window: {row!r:.200}. Expected low < high, and a dtype."
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def normalise(self, image: Tensor) -> Tensor:
        """Return ``(image - low) / (high - low)`` in float32; ``image`` stays as it is."""
        return image.to(torch.float32, copy=True).sub_(self.low).div_(self.high - self.low)

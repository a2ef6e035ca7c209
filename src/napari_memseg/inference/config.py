"""How to segment: what a person chooses, with our defaults. Loads no torch: a viewer can fill it in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_memseg.errors import InputError

if TYPE_CHECKING:
    from napari_memseg.geometry import Zyx

SMALLEST_CHUNK = 16
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentConfig:
    """How to segment.

    Raises
    ------
    InputError
        If a value is impossible.
    """

    tile: Zyx | None = None
    """Core of a tile in voxels, a multiple of the chunk; None lets us choose."""
    chunk: int = 64
    """Edge of a stored chunk, in voxels."""
    halo: str | Zyx = "recommended"
    """Context around a core: "recommended", "exact", or voxels per axis on both sides."""
    precision: str = "auto"
    """Of the network's arithmetic. Auto: what is fastest on a tile and makes the same labels."""
    batch: int | None = None
    """Tiles that are computed at once; None lets us choose."""
    max_memory_gib: float | None = None
    """The most memory to take: a GPU's, or else the host's for the whole process. None: what is free."""
    device: str = "auto"
    """"auto", "cpu", "cuda", "cuda:1" or "mps"."""
    threads: int | None = None
    """CPU threads for the arithmetic; None: those of a run that is there already, else what torch takes."""
    level: int | None = None
    """Pyramid level to work at; None takes the one nearest to the model's voxel size."""
    box: str | None = None
    """``Z0:Z1,Y0:Y1,X0:X1`` at that level; widened to whole chunks. None: everything."""
    window: tuple[float, float] | None = None
    """Grey values that the network sees as 0 and 1; None takes those it was trained with."""
    confidence: bool = False
    """Whether to store one byte of confidence per voxel as well."""
    skip_below: float | None = None
    """Tiles whose grey values all lie below this, at a coarse level, are background without a look."""

    def __post_init__(self) -> None:
        if self.chunk < SMALLEST_CHUNK:
            raise InputError(f"A chunk of {self.chunk} voxels is too small: choose {SMALLEST_CHUNK} or more.")
        if self.tile is not None and any(n < 1 or n % self.chunk for n in self.tile):
            raise InputError(
                f"A tile of {self.tile} voxels does not consist of whole chunks of {self.chunk}. "
                f"Choose multiples of {self.chunk}, or another chunk."
            )
        if self.threads is not None and self.threads < 1:
            raise InputError(f"{self.threads} threads compute nothing. Choose 1 or more.")
        if self.batch is not None and self.batch < 1:
            raise InputError(f"A batch of {self.batch} tiles computes nothing. Choose 1 or more.")
        if self.max_memory_gib is not None and not self.max_memory_gib > 0:
            raise InputError(f"{self.max_memory_gib} GiB hold nothing. Choose more than 0.")
        if self.precision not in PRECISIONS:
            raise InputError(f"There is no precision {self.precision!r}. Choose of {', '.join(PRECISIONS)}.")
        if isinstance(self.halo, str) and self.halo not in ("recommended", "exact"):
            raise InputError(f"There is no halo {self.halo!r}. Choose recommended, exact, or three numbers.")
        if not isinstance(self.halo, str) and min(self.halo) < 0:
            raise InputError(f"A halo cannot be negative, got {self.halo}. Use 0 for none.")

"""One job, the same for every engine: what to segment, with what, into what."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zarr

from peers.volume import Shape, create_labels


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one engine has to do."""

    engine: str
    image: str
    """A zarr array (z, y, x) of uint16."""
    checkpoint: str
    net: str
    """Name of the network, for tables."""
    tile: int
    """Edge of what the network sees at once."""
    overlap: float
    """Share of a tile that it shares with the next one."""
    chunk: int
    """Edge of a chunk of labels."""
    device: str = "cpu"
    threads: int = 0
    """Of torch; 0 leaves that to each engine."""
    arithmetic: str = "float32"
    """Of the peers and the floor; see ``networks.Arithmetic``."""
    heap: bool = False
    """Whether peers and floor keep freed memory, too."""
    truth: str | None = None
    reference: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """More of our own engine's settings."""
    scratch: str = ""
    """A folder of this run alone."""

    @property
    def out(self) -> Path:
        """Where labels go."""
        return Path(self.scratch) / "labels.zarr"

    @property
    def halo(self) -> int:
        """What an engine that crops takes off a tile on each side."""
        return round(self.tile * self.overlap) // 2

    @property
    def core(self) -> int:
        """What is left of a tile, and how far one is from the next."""
        return self.tile - 2 * self.halo

    @property
    def shape(self) -> Shape:
        """Of the image, in voxels."""
        z, y, x = self.open().shape
        return z, y, x

    def open(self) -> zarr.Array[Any]:
        """Open the image."""
        return zarr.open_array(self.image, mode="r")

    def labels(self) -> zarr.Array[Any]:
        """Make the array that labels go to."""
        return create_labels(self.out, self.shape, self.chunk)

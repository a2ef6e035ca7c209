"""Find the volume behind a layer, whoever loaded it: by what it remembers, by its path, or in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray

from napari_memseg.errors import InputError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.io.formats import open_volume
from napari_memseg.io.units import unit_name
from napari_memseg.io.volume import Volume
from napari_memseg.widgets.reader import VOLUME

CHUNK: Zyx = (32, 128, 128)
"""What is read at once of an array in memory, in voxels."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """The volume that a layer shows."""

    volume: Volume
    in_memory: bool
    """Whether no file of it is known, so that a session keeps a copy."""


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What a layer says of itself, asked on the GUI thread; the rest may be found out elsewhere."""

    volume: Volume
    """Its voxels as they are in the layer."""
    known: Volume | None
    """The volume that our reader made it of, if it still shows that."""
    path: str | None
    """Where it was loaded from, by whatever reader."""

    @classmethod
    def of(cls, layer: Image) -> LayerFacts:
        """Ask a layer.

        Raises
        ------
        InputError
            If it is no grey volume (z, y, x).
        """
        if layer.rgb or layer.ndim != 3:
            what = "colour" if layer.rgb else f"{layer.ndim}-dimensional"
            raise InputError(
                f"The layer {layer.name!r} is {what}, and a session needs a grey volume (z, y, x). "
                "Choose one channel and one time first (Layers > Split Stack), then take that layer."
            )
        known = layer.metadata.get(VOLUME)
        same = isinstance(known, Volume) and _finest(layer) is known.levels[0]
        path = layer.metadata.get("source") or layer.source.path
        return cls(_in_memory(layer), known if same else None, str(path) if path else None)


def adopt(facts: LayerFacts) -> Adopted:
    """Return the volume that an image layer shows; takes as long as opening a file, in any thread."""
    if facts.known is not None:
        return Adopted(facts.known, in_memory=False)
    opened = _by_path(facts.path, facts.volume)
    return Adopted(opened or facts.volume, in_memory=opened is None)


def _finest(layer: Image) -> Any:
    return layer.data[0] if layer.multiscale else layer.data


def _by_path(path: str | None, shown: Volume) -> Volume | None:
    """Open the file that another reader loaded, if what the layer shows is still what it holds."""
    try:
        volume = open_volume(path) if path else None
        if volume is None or (volume.shape, volume.dtype) != (shown.shape, shown.dtype):
            return None
        alike = replace(shown, voxel_size=volume.voxel_size, unit=volume.unit)
        return volume if volume.fingerprint == alike.fingerprint else None
    except InputError:
        return None


def _in_memory(layer: Image) -> Volume:
    unit = unit_name(str(layer.units[-1])) if len({*map(str, layer.units)}) == 1 else None
    z, y, x = (float(length) for length in layer.scale)
    return Volume(
        arrays=[_Array(_finest(layer))],
        voxel_size=(z, y, x) if unit else None,
        unit=unit,
        name=layer.name,
        source=f"layer {layer.name!r}",
        format="memory",
    )


class _Array:
    """A numpy, dask or other array as formats give one."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.shape = zyx(data.shape)
        self.dtype = np.dtype(data.dtype)
        self.chunks = zyx(map(min, getattr(data, "chunksize", CHUNK), self.shape))

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        return np.array(self._data[index])

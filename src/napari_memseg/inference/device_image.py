"""The image on a GPU: raw voxels that cross the bus about once.

Boxes of neighbouring tiles overlap, so what is uploaded is not boxes but bricks, in the
image's own dtype, kept on the device while neighbours need them. A box is put
together there, by a stream of its own, while the network is busy with the one before::

    chunks ──decode──> brick ──pinned──> device (cached) ──┐
                                         brick, brick ... ─┴─> box ──event──> network
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from napari_memseg.geometry import Box, Zyx, cell_box, cells
from napari_memseg.inference.shortage import is_shortage
from napari_memseg.inference.tensors import is_finite, read_finite
from napari_memseg.io.volume import ChunkCache

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_memseg.io.volume import Volume

BRICK: Zyx = (64, 64, 64)
"""What is uploaded at once, in voxels."""
BRICK_BYTES = 2**28
"""Raw voxels of the image that a GPU keeps."""


@dataclass(frozen=True, slots=True, eq=False)
class Uploaded:
    """A tensor on the device, perhaps still being put together by another stream."""

    tensor: Tensor
    event: Any = None

    def wait(self) -> Tensor:
        """Return the tensor, to be used by the stream of the caller."""
        if self.event is not None:
            stream = torch.cuda.current_stream(self.tensor.device)
            stream.wait_event(self.event)
            self.tensor.record_stream(stream)
        return self.tensor


class DeviceImage:
    """Read boxes of an image as tensors on a device; from any thread.

    Parameters
    ----------
    image : Volume
        What to read.
    device : torch.device
        Where to.
    limit : int
        Bytes of bricks that are kept there.
    """

    def __init__(self, image: Volume, device: torch.device, limit: int) -> None:
        self._image, self._device = image, device
        self._bricks: ChunkCache[Tensor] = ChunkCache(limit)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._spoiled: set[tuple[int, Box]] = set()  # bricks with voxels that are no numbers

    def read(self, box: Box, level: int) -> Uploaded | NDArray[Any]:
        """Return the voxels of a box in the image's dtype; on the host, if the device has no memory for them.

        Raises
        ------
        InputError
            If the image holds NaN or infinity there.
        SourceError
            If it cannot be decoded there.
        """
        try:
            with self._streaming():
                return self._put_together(box, level)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            self._bricks.clear()  # the network needs room more than its neighbours' voxels do
            return read_finite(self._image, box, level)

    def _put_together(self, box: Box, level: int) -> Uploaded:
        shape = self._image.arrays[level].shape
        bricks = [(cell_box(index, BRICK, shape), index) for index in cells(box, BRICK)]
        parts = [(at, self._brick(at, level, index)) for at, index in bricks]
        if not self._spoiled.isdisjoint((level, at) for at, _ in bricks):
            read_finite(self._image, box, level)  # refuses the box, unless they lie outside of it
        found = torch.empty(box.shape, dtype=parts[0][1].dtype, device=self._device)
        for at, brick in parts:
            shared = at & box
            found[shared.relative_to(box.start).slices] = brick[shared.relative_to(at.start).slices]
        return Uploaded(found, self._stream.record_event() if self._stream is not None else None)

    def _brick(self, at: Box, level: int, index: Zyx) -> Tensor:
        return self._bricks.get((level, index), partial(self._upload, at, level))

    def _upload(self, at: Box, level: int) -> Tensor:
        grey = self._image.read(at, level)
        if not is_finite(grey):
            self._spoiled.add((level, at))
        brick = torch.from_numpy(grey)
        return (brick.pin_memory() if self._stream is not None else brick).to(self._device, non_blocking=True)

    def _streaming(self) -> Any:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

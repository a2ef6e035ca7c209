"""The phantom as a user meets it: any box of image, truth and instances, at any level, made when asked."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_memseg.errors import GeometryError
from napari_memseg.geometry import Box, Zyx, ceil_div, zyx
from napari_memseg.io.volume import ChunkCache, Volume
from napari_memseg.phantom.animal import build_animal
from napari_memseg.phantom.image import Imaging, grey_window
from napari_memseg.phantom.pose import build_pose, voxel_um
from napari_memseg.phantom.prepass import Prepass, look
from napari_memseg.phantom.projected import Projecting
from napari_memseg.phantom.voxels import Voxels, processors, sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_memseg.phantom.parameters import PhantomParameters
    from napari_memseg.phantom.pose import Pose
    from napari_memseg.phantom.tissue import Animal

COARSEST = 256
"""Levels are added until none of the axes is longer than this."""
PAD = 80
"""Slices beyond the volume that may be asked for: more than any halo."""
KEPT_BYTES = 32 * 2**20
"""Labels of boxes whose image was asked for, per level."""


class Rendered(NamedTuple):
    """One box of a phantom, (z, y, x) arrays."""

    image: NDArray[Any]
    truth: NDArray[np.uint8]
    instances: NDArray[np.uint32]


class Phantom:
    """A synthetic animal under microCT: a pure function of its parameters and of where one looks.

    Nothing is stored; threads may share it.

    Parameters
    ----------
    parameters : PhantomParameters
        Size, seed, animal and scan; ``PhantomParameters.named`` has presets.
    """

    def __init__(self, parameters: PhantomParameters) -> None:
        self.parameters = parameters
        self.voxel_um = voxel_um(parameters)

    @property
    def shape(self) -> Zyx:
        """Of level 0, in voxels."""
        return self.parameters.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the image."""
        return self.parameters.scan.dtype

    @property
    def name(self) -> str:
        """What it is called, with the word that says that it is none of an animal's."""
        return f"synthetic {self.parameters.animal.kind} {self.parameters.seed}"

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The finest level first; each is half the one before, and rendered at its own voxel size."""
        count = 1
        while max(ceil_div(self.shape, zyx([2 ** (count - 1)] * 3))) > COARSEST:
            count += 1
        return tuple(Level(self, 2**level) for level in range(count))

    @cached_property
    def prepass(self) -> Prepass:
        """The coarse look that hardening, noise and grey values need."""
        return look(self.parameters)

    @cached_property
    def window(self) -> tuple[float, float]:
        """Attenuation, relative to water, of the lowest and the highest grey value."""
        return grey_window(self.parameters, self.levels[0].animal, self.levels[0].pose(0))

    def prepare(self) -> None:
        """Make what all boxes share, before threads ask for it at once."""
        self.levels[0].voxels(Box((0, 0, 0), (1, 1, 1)))
        _ = self.levels[0].chunk

    def render(self, box: Box, level: int = 0) -> Rendered:
        """Return image, truth and instances of a box.

        Parameters
        ----------
        box : Box
            In voxels of ``level``, inside the volume.
        level : int
            0, the finest, to ``len(levels) - 1``.

        Raises
        ------
        GeometryError
            If the box leaves the volume, or there is no such level.
        """
        if not 0 <= level < len(self.levels):
            raise GeometryError(
                f"The phantom has no level {level}. Its levels are 0, the finest, to {len(self.levels) - 1}."
            )
        return self.levels[level].render(box)

    @cached_property
    def image(self) -> Volume:
        """The image as a lazy volume with all levels; nothing on disk."""
        return self._volume("image", lambda level: _Array(level, level.image, self.dtype))

    @cached_property
    def truth(self) -> Volume:
        """The labels, exact, as a lazy volume on the image's grid."""
        return self._volume("truth", lambda level: _Array(level, level.truth, np.dtype(np.uint8)))

    @cached_property
    def instances(self) -> Volume:
        """Fibres, cells, facets, eggs and trees of tracheae, each with a number, as a lazy volume."""
        return self._volume("instances", lambda level: _Array(level, level.instances, np.dtype(np.uint32)))

    def _volume(self, what: str, array: Callable[[Level], _Array]) -> Volume:
        size = float(self.voxel_um)
        return Volume(
            arrays=[array(level) for level in self.levels],
            voxel_size=(size, size, size),
            unit="micrometer",
            name=self.name if what == "image" else f"{self.name} {what}",
            source=f"{self.name} {what}",
            format="phantom",
            factors=[zyx([level.step] * 3) for level in self.levels],
            is_labels=what != "image",
            dask_voxels=1,
        )


class Level:
    """One resolution of a phantom: the same animal with voxels ``step`` times as long.

    A coarse level is no mean of the finer one, which would have to be computed for that: it is sampled at
    its own size, with blur and noise as they would be after averaging.
    """

    def __init__(self, phantom: Phantom, step: int) -> None:
        self.step = step
        self.shape = ceil_div(phantom.shape, zyx([step] * 3))
        self._phantom = phantom
        self._kept: ChunkCache[NDArray[np.uint8]] = ChunkCache(KEPT_BYTES)

    @cached_property
    def animal(self) -> Animal:
        """The animal with its grid for this voxel size."""
        parameters = self._phantom.parameters
        return build_animal(parameters.animal, parameters.seed, self._phantom.voxel_um * self.step)

    def pose(self, pad: int) -> Pose:
        """Return the map from voxels to the animal, for boxes that reach out of the volume by ``pad``."""
        return build_pose(self._phantom.parameters, self.shape, self.step, pad)

    @cached_property
    def _imaging(self) -> Imaging | Projecting:
        phantom = self._phantom
        if phantom.parameters.mode == "projection":
            return Projecting(phantom.parameters, self.shape, self.step, phantom.window)
        return Imaging(phantom.parameters, self.shape, self.step, phantom.prepass, phantom.window)

    @cached_property
    def _pose(self) -> Pose:
        return self.pose(PAD)

    @property
    def chunk(self) -> Zyx:
        """What is best rendered at once, in voxels."""
        return zyx(map(min, self._imaging.chunk, self.shape))

    def voxels(self, box: Box, threads: int = 1) -> Voxels:
        """Return labels, instances and attenuation of a box, before any effect on the image."""
        return sample(self.animal, self._pose, box, threads)

    def render(self, box: Box, threads: int = 1) -> Rendered:
        """Return image, truth and instances of a box; the voxels are sampled once for all."""
        self._check(box)
        around = self._imaging.reads(box)
        found = self.voxels(around, threads)
        inner = box.relative_to(around.start).slices
        return Rendered(
            self._imaging.form(box, found), found.labels[inner].copy(), found.instances[inner].copy()
        )

    def image(self, box: Box) -> NDArray[Any]:
        """Return the grey values of a box; its labels, which are likely to be asked for, are kept a while."""
        found = self.render(box, processors())
        self._kept.get(box, lambda: found.truth)
        return found.image

    def truth(self, box: Box) -> NDArray[np.uint8]:
        """Return the labels of a box."""
        self._check(box)
        return self._kept.get(box, lambda: self.voxels(box, processors()).labels).copy()

    def instances(self, box: Box) -> NDArray[np.uint32]:
        """Return the instances of a box."""
        self._check(box)
        return self.voxels(box, processors()).instances

    def _check(self, box: Box) -> None:
        if box.is_empty or not Box.whole(self.shape).contains(box):
            raise GeometryError(
                f"The box {box} is empty or leaves the phantom of {self.shape} voxels (z, y, x). "
                f"Choose it inside {Box.whole(self.shape)}."
            )


class _Array:
    """One level as formats give one: a box at a time."""

    def __init__(self, level: Level, render: Callable[[Box], NDArray[Any]], dtype: np.dtype[Any]) -> None:
        self._level = level
        self._render = render
        self.shape = level.shape
        self.dtype = dtype

    @property
    def chunks(self) -> Zyx:
        return self._level.chunk

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        box = Box(zyx(s.start for s in index), zyx(s.stop for s in index))
        return self._render(box)

"""What a tool sees, and what it returns: voxels of one box that change, as one undoable step.

A tool looks at what is shown (opinions over predictions), computes in that box alone, and
touches nothing. Who asked applies the edit, on the thread that paints, as one stroke::

    composite ──Scene.of(box)──> shown, opinions ──tool──> Edit(box, values, mask) ──apply──> one stroke
                                                                                   whole, or not at all

Values of an edit are opinions: class ids, ``background_opinion`` for background, and 0
where an opinion is taken back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.ndimage as ndi

from napari_memseg.annotation.cells import check_inside
from napari_memseg.errors import ClassTableError, GeometryError
from napari_memseg.geometry import Box, Zyx, zyx

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import ArrayLike, NDArray

    from napari_memseg.annotation.composite import Composite
    from napari_memseg.annotation.overlay import Overlay
    from napari_memseg.models.classes import ClassTable

MOST_VOXELS = 2**24
"""A tool never works on more at once: a plane of 4096², or a cube of 256³; some 0.5 GiB at the most."""


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """What a tool would paint.

    Attributes
    ----------
    box : Box
        Where, in voxels of the session's working level.
    values : (z, y, x) array
        Opinions, as large as the box.
    mask : (z, y, x) bool array
        Which of them; no other voxel changes.
    tool : str
        For the log.
    looked : Box
        All that the tool looked at: where something is painted there meanwhile, the edit is out of date.
    note : str
        What a user should know about it: a region that goes on beyond the box, for example.
    """

    box: Box
    values: NDArray[Any]
    mask: NDArray[np.bool_]
    tool: str
    looked: Box
    note: str = ""

    @property
    def count(self) -> int:
        """How many voxels it would paint."""
        return int(np.count_nonzero(self.mask))

    def changes(self, overlay: Overlay, part: Box) -> NDArray[np.bool_]:
        """Return which voxels of a part of the box it would change; a merged class is what it counts as."""
        here = part.relative_to(self.box.start).slices
        found = overlay.classes.resolve(overlay.read(part), opinions=True)
        return np.asarray(self.mask[here] & (self.values[here] != found))


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What is there in a box, frozen at one moment.

    Attributes
    ----------
    box : Box
        Where, in voxels of the working level.
    shape : (z, y, x)
        Of the volume, in voxels.
    shown : (z, y, x) array
        Class ids, 0 for background, ``classes.not_predicted`` where nobody knows.
    opinions : (z, y, x) array
        As they are painted, 0 where there is none.
    classes : ClassTable
        What the numbers mean.
    """

    box: Box
    shape: Zyx
    shown: NDArray[Any]
    opinions: NDArray[Any]
    classes: ClassTable

    @classmethod
    def of(cls, composite: Composite, box: Box) -> Scene:
        """Look at a box; from any thread.

        Raises
        ------
        GeometryError
            If the box is empty, leaves the volume, or has more than ``MOST_VOXELS``.
        """
        check_inside(box, composite.shape)
        check_room(box)
        opinions = composite.classes.resolve(composite.overlay.read(box), opinions=True)
        return cls(box, composite.shape, composite.read(box), opinions, composite.classes)

    def value(self, class_id: int) -> int:
        """Return the opinion that stands for a class.

        Raises
        ------
        ClassTableError
            If there is no such class.
        """
        if class_id not in self.classes.ids:
            raise ClassTableError(
                f"There is no class {class_id}. The session has {list(self.classes.ids)}; choose one of "
                "them, or add a class first."
            )
        return class_id or self.classes.background_opinion

    def silent(self, class_id: int) -> NDArray[np.bool_]:
        """Return where nobody holds another opinion than this class."""
        value = self.value(class_id)
        return np.asarray((self.opinions == 0) | (self.opinions == value))

    def free(self, class_id: int) -> NDArray[np.bool_]:
        """Return where a class may grow: no other class is shown, and nobody said "this is background"."""
        empty = (self.shown == 0) | (self.shown == self.classes.not_predicted) | (self.shown == class_id)
        return np.asarray(empty & self.silent(class_id))

    def cut(self, within: Box | None = None) -> list[tuple[int, int]]:
        """Return the faces behind which the volume (or ``within``) goes on, as (axis, 0 or -1).

        An axis of one voxel has none: a slice is looked at as a picture.
        """
        whole = within or Box.whole(self.shape)
        low = [(a, 0) for a in range(3) if self.box.start[a] > whole.start[a]]
        high = [(a, -1) for a in range(3) if self.box.stop[a] < whole.stop[a]]
        return [(axis, end) for axis, end in low + high if within or self.box.shape[axis] > 1]

    def edit(self, box: Box, values: ArrayLike, mask: NDArray[np.bool_], tool: str, note: str = "") -> Edit:
        """Make the edit that paints classes on a part of this scene.

        Parameters
        ----------
        box : Box
            Inside the scene: what lies outside of it was looked at, and stays.
        values : array
            Class ids, or ``not_predicted`` to take an opinion back; one, or as many as the scene has voxels.
        mask : bool array
            As large as the scene.
        tool, note : str
            As for ``Edit``.
        """
        inside = box.relative_to(self.box.start).slices
        painted = np.zeros(self.shown.shape, bool)
        painted[inside] = mask[inside]
        tight = bounds(painted)
        ids = np.broadcast_to(np.asarray(values, self.shown.dtype), self.shown.shape)[tight.slices]
        opinions = np.where(ids == 0, self.classes.background_opinion, ids)
        opinions[ids == self.classes.not_predicted] = 0
        at = Box.at(zyx(a + b for a, b in zip(self.box.start, tight.start, strict=True)), tight.shape)
        return Edit(at, opinions.astype(self.shown.dtype), painted[tight.slices], tool, self.box, note)


def painting(edit: Edit, overlay: Overlay) -> Generator[Box, None, None]:
    """Paint an edit as one stroke, cell by cell, on the thread that opened the session.

    Whoever stops on the way leaves everything as it was; all is on disk when the iteration has ended.

    Raises
    ------
    SessionError
        If it could not be stored: then nothing was painted.
    """

    def painted(part: Box) -> NDArray[Any]:
        values = edit.values[part.relative_to(edit.box.start).slices]
        return np.where(edit.changes(overlay, part), values, overlay.read(part))

    return overlay.fill_from(edit.box, painted, tool=edit.tool)


def apply(edit: Edit, overlay: Overlay) -> None:
    """Paint an edit at once; errors as for ``painting``."""
    for _ in painting(edit, overlay):
        pass


def around(box: Box, reach: int, shape: Zyx) -> Box:
    """Return a box with what a tool must see around it; an axis of one voxel stays a slice."""
    return box.grow(zyx(reach * (n > 1) for n in box.shape)).clip(shape)


def check_room(box: Box) -> None:
    """Raise GeometryError where a box has no voxel, or too many to work on at once."""
    if box.is_empty:
        raise GeometryError("There is no voxel in this box. Bring the volume into view first.")
    if box.size > MOST_VOXELS:
        raise GeometryError(
            f"{box.size:,} voxels {box.shape} are too many to work on at once: {MOST_VOXELS:,} is the most. "
            "Zoom in, or work on fewer slices."
        )


def index_in(box: Box, at: Zyx) -> Zyx:
    """Return a voxel of the volume as an index into a box.

    Raises
    ------
    GeometryError
        If the voxel lies outside.
    """
    if not box.contains(Box.at(at, (1, 1, 1))):
        raise GeometryError(f"The voxel {at} is not in {box}. Point at a place inside of it.")
    return zyx(a - b for a, b in zip(at, box.start, strict=True))


def bounds(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box around what is true, or an empty one."""
    found = ndi.find_objects(mask.view(np.uint8))
    spans = found[0] if found and found[0] is not None else (slice(0, 0),) * 3
    return Box(zyx(span.start for span in spans), zyx(span.stop for span in spans))

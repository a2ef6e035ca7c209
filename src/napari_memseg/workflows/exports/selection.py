"""What of a session is exported: which part, which labels, and what their values are called there.

::

    session   0   1   15   not predicted        a class keeps its id in OME-Zarr and TIFF;
              │   │    │      │                 nnU-Net and MONAI count from 0, without a gap,
    file      0   1    2      3                 and what nobody knows is the highest: ignore
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import fastremap
import numpy as np

from napari_memseg.annotation.indexing import CELL
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.io.names import safe_name
from napari_memseg.io.units import METRES
from napari_memseg.workflows.exports.layers import Layers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.annotation.session import Session
    from napari_memseg.annotation.snapshot import Snapshot
    from napari_memseg.models.classes import ClassTable

Which: TypeAlias = Literal["shown", "confirmed"]
"""All that is shown, or only what somebody painted or confirmed: what trainings learn from."""
WHICH: tuple[Which, ...] = ("shown", "confirmed")


@dataclass(frozen=True, slots=True)
class Values:
    """What classes are called in the files of an export.

    Attributes
    ----------
    of : dict of int to int
        The value in the files for each class id of the session.
    unknown : int
        The value of voxels that nobody predicted or painted: never background.
    dtype : dtype
        Unsigned; it holds all of these.
    """

    of: dict[int, int]
    unknown: int
    dtype: np.dtype[Any]

    @classmethod
    def own(cls, classes: ClassTable) -> Values:
        """Keep the ids of a session."""
        return cls({i: i for i in classes.ids}, classes.not_predicted, classes.dtype)

    @classmethod
    def counted(cls, classes: ClassTable) -> Values:
        """Count the classes from 0, without a gap; what is unknown comes last."""
        last = len(classes)
        return cls({i: n for n, i in enumerate(classes.ids)}, last, np.min_scalar_type(last))

    def put(self, labels: NDArray[Any], classes: ClassTable) -> NDArray[Any]:
        """Return labels of a session as they are called in the files.

        Raises
        ------
        InputError
            If there are labels that are no class of the session.
        """
        table = {**self.of, classes.not_predicted: self.unknown}
        if all(i == value for i, value in table.items()):
            return labels
        strangers = sorted({*fastremap.unique(labels).tolist()} - {*table})
        if strangers:
            raise InputError(
                f"The run that is exported found {strangers}, which are no classes of this session. "
                f"Its classes are {list(classes.ids)}: add the missing ones to it, and export again."
            )
        found: NDArray[Any] = fastremap.remap(labels, table)
        return found.astype(self.dtype)


@dataclass(frozen=True)
class Part:
    """An array of a session that can be read region by region, in voxels of the session."""

    read: Callable[[Box], NDArray[Any]]
    region: Box
    dtype: np.dtype[Any]
    chunks: Zyx

    def read_from_start(self, box: Box) -> NDArray[Any]:
        """Return the voxels of a box that counts from the start of the region."""
        return self.read(box.relative_to(zyx(-n for n in self.region.start)))

    def layers(self, scratch: Path) -> Layers:
        """Return it as layers of whole planes."""
        return Layers(self.read, self.region, self.dtype, self.chunks, scratch)


@dataclass(frozen=True)
class Selection:
    """What is exported of a session, at one moment.

    Attributes
    ----------
    session : Session
        Open while the export lasts.
    snapshot : Snapshot
        Of its corrections, over a run.
    region : Box
        In voxels of the working level.
    which : "shown" or "confirmed"
        All that is shown, or only what somebody painted or confirmed.
    values : Values
        What the files call the classes.
    """

    session: Session
    snapshot: Snapshot
    region: Box
    which: Which
    values: Values

    @property
    def classes(self) -> ClassTable:
        """Of the session."""
        return self.session.classes

    @property
    def image(self) -> Part:
        """The image at the session's level."""
        image, level = self.session.image, self.session.level
        return Part(
            lambda box: image.read(box, level), self.region, image.dtype, zyx(image.arrays[level].chunks)
        )

    @cached_property
    def labels(self) -> Part:
        """The labels as the files call them."""
        source = self.snapshot.composite if self.which == "shown" else self.snapshot
        return Part(
            lambda box: self.values.put(source.read(box), self.classes), self.region, self.values.dtype, CELL
        )

    @property
    def name(self) -> str:
        """Of the image, as the name of a file on every system."""
        return safe_name(self.session.image.name, "scan", letters="A-Za-z0-9-")

    @property
    def voxel_size(self) -> tuple[float, float, float] | None:
        """At the session's level, in the unit of the image; None where nobody knows."""
        return self.session.image.voxel_size_at(self.session.level)

    @property
    def millimetres(self) -> tuple[float, float, float] | None:
        """The voxel size in millimetres; in its own numbers where the unit is unknown, None where all is."""
        size, unit = self.voxel_size, self.session.image.unit
        if size is None:
            return None
        factor = METRES[unit] * 1000 if unit in METRES else 1.0
        z, y, x = (float(f"{length * factor:.9g}") for length in size)
        return z, y, x

    @cached_property
    def identity(self) -> str:
        """What makes two exports the same one."""
        image, values = self.session.image, self.values
        merged = [(c.id, c.merged_into) for c in self.classes.merged]
        moment = (self.snapshot.seq, self.snapshot.run_id, merged, self.which, str(self.region))
        return repr((image.fingerprint, self.session.level, *moment, values.of, values.unknown))

    def names(self) -> dict[str, int]:
        """Return the value of each class by its name, each name once, background and ignore as such."""
        found: dict[str, int] = {"background": 0}
        for one in list(self.classes)[1:]:
            taken = {*found, "ignore"}
            name = one.name if one.name not in taken else f"{one.name} ({one.id})"
            found[name] = self.values.of[one.id]
        return {**found, "ignore": self.values.unknown}

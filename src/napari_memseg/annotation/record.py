"""``session.json``: which image the corrections belong to, and what their numbers mean."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_memseg.annotation.corrections import now_utc
from napari_memseg.annotation.database import SCHEMA
from napari_memseg.errors import ClassTableError, InputError, SessionError
from napari_memseg.files import from_checked_json, to_checked_json
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.io.files import atomic_write
from napari_memseg.models.classes import PALETTE, ClassTable, LabelClass

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from napari_memseg.io.volume import Volume

NAME = "session.json"
CORRECTIONS = "corrections.sqlite"
IMAGE = "image.ome.zarr"
"""In a session: its image, where it came from memory, or the pyramid that was built of it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """What is remembered of the image, to open it again and to know it again."""

    source: str
    """Opens it again, from any folder; a relative one lies in the session."""
    name: str
    fingerprint: str
    shape: tuple[int, ...]
    """Of level 0, in voxels."""
    dtype: str
    voxel_size: tuple[float, float, float] | None
    """Of level 0, in ``unit``: what the source says, or where it is silent, a person."""
    unit: str | None

    @classmethod
    def of(cls, image: Volume) -> ImageRecord:
        """Describe an open image."""
        return cls(
            source=image.source,
            name=image.name,
            fingerprint=image.fingerprint,
            shape=tuple(image.shape),
            dtype=str(image.dtype),
            voxel_size=image.voxel_size,
            unit=image.unit,
        )

    def completed(self, image: Volume) -> Volume:
        """Return an image with the voxel size that was told for it, where its source says none."""
        return image.completed(self.voxel_size, self.unit)

    def check(self, image: Volume, folder: Path) -> None:
        """Refuse any image but this one: corrections drawn on one mean nothing on another.

        Raises
        ------
        SessionError
            If the fingerprints differ.
        """
        if image.fingerprint != self.fingerprint:
            raise SessionError(
                f"The session {folder} belongs to {self.name!r} ({self.source}: {self.dtype}, "
                f"{self.shape}), and {image.source} ({image.dtype}, {tuple(image.shape)}) is another image, "
                "or was changed since. Put the original back, or begin a new session for this one."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """The content of ``session.json``."""

    schema: int = SCHEMA
    created: str
    image: ImageRecord
    level: int
    """Of the image's pyramid: its grid is that of overlay and runs."""
    shape: Zyx
    """Of that level, in voxels."""
    classes: ClassTable

    @classmethod
    def new(cls, image: Volume, classes: ClassTable, level: int) -> SessionRecord:
        """Describe a session that begins.

        Raises
        ------
        SessionError
            If the image has no such level.
        """
        if not 0 <= level < len(image.arrays):
            raise SessionError(
                f"{image.name!r} has no level {level}. It has {len(image.arrays)}, and 0 is the finest."
            )
        shape = zyx(image.arrays[level].shape)
        about = ImageRecord.of(image)
        return cls(created=now_utc(), image=about, level=level, shape=shape, classes=classes)

    @classmethod
    def load(cls, folder: Path) -> SessionRecord:
        """Read the record of a session folder; keys that a newer program added are passed over.

        Raises
        ------
        SessionError
            If the folder is no session, or its record is damaged.
        """
        try:
            row = from_checked_json((folder / NAME).read_bytes())
            return cls(
                schema=int(row["schema"]),
                created=str(row["created"]),
                image=_image(row["image"]),
                level=int(row["level"]),
                shape=zyx(row["shape"]),
                classes=ClassTable.from_json(row["classes"]),
            )
        except FileNotFoundError:
            raise SessionError(
                f"{folder} is no session: there is no {NAME} in it. Make one with `napari-memseg session "
                "FOLDER new IMAGE` or Session.create()."
            ) from None
        except (OSError, ValueError, KeyError, TypeError, ClassTableError) as error:
            raise SessionError(
                f"{folder / NAME} cannot be read ({type(error).__name__}: {error}). The strokes in "
                "corrections.sqlite are safe; restore the file from a copy of the session."
            ) from error

    def save(self, folder: Path) -> None:
        """Write the record, all at once."""
        row = {**asdict(self), "classes": self.classes.to_json()}
        atomic_write(folder / NAME, to_checked_json(row))

    def describe(self) -> dict[str, Any]:
        """Return what a person would ask for, in plain JSON values."""
        about = self.image
        return {
            "schema": self.schema,
            "created": self.created,
            "image": about.source,
            "name": about.name,
            "dtype": about.dtype,
            "voxel_size": None if about.voxel_size is None else list(about.voxel_size),
            "unit": about.unit,
            "level": self.level,
            "shape": list(self.shape),
            "classes": self.classes.to_json(),
        }

    def open_image(self, folder: Path, image: Volume | None = None) -> Volume:
        """Return the session's image: what is given, the pyramid in its folder, or what its source opens.

        Raises
        ------
        SessionError
            If it cannot be found, or is another one.
        """
        if image is None and (built := self._pyramid(folder)) is not None:
            return built
        image = self.image.completed(image or _reopen(self.image.source, folder))
        self.image.check(image, folder)
        if not self._fits(image):
            raise SessionError(
                f"The session {folder} works at level {self.level} of {image.source}, of {self.shape} "
                "voxels, and the image has no such level any more. Put the original back."
            )
        return self._named(image) if self.image.source == IMAGE else image

    def _pyramid(self, folder: Path) -> Volume | None:
        """Return the pyramid that was built of the image, if there is one of these very voxels."""
        if not (folder / IMAGE).exists() or self.image.source == IMAGE:
            return None
        try:
            image = self.image.completed(_reopen(IMAGE, folder))
            self.image.check(image, folder)
        except SessionError as error:
            _log.warning("The pyramid in %s is passed over: %s", folder, error)
            return None
        return self._named(image) if self._fits(image) else None

    def _fits(self, image: Volume) -> bool:
        """Whether an image has the working level."""
        return self.level < len(image.arrays) and tuple(image.arrays[self.level].shape) == self.shape

    def _named(self, image: Volume) -> Volume:
        """Return a copy in the session under the name of what it is a copy of."""
        return replace(image, name=self.image.name)

    def with_class(self, class_id: int, name: str, color: str | None = None) -> SessionRecord:
        """Return the record with one class more.

        Raises
        ------
        ClassTableError
            If the id has a meaning already, which it keeps for ever.
        """
        self._check_not_merged(class_id)
        if class_id in self.classes.ids:
            raise ClassTableError(
                f"Class {class_id} exists already. An id keeps its meaning: use another, or rename the class."
            )
        _check_name(name)
        taken = {c.color for c in (*self.classes, *self.classes.merged)}
        free = [c for c in PALETTE if c not in taken] or [PALETTE[len(self.classes) % len(PALETTE)]]
        new = LabelClass(class_id, name, color or free[0])
        rising = sorted((*self.classes, new), key=lambda c: c.id)
        return replace(self, classes=replace(self.classes, classes=tuple(rising)))

    def with_class_renamed(self, class_id: int, name: str, color: str | None = None) -> SessionRecord:
        """Return the record with another name, and perhaps colour, for a class.

        Raises
        ------
        ClassTableError
            If there is no such class.
        """
        self._check_not_merged(class_id)
        if class_id not in self.classes.ids:
            raise ClassTableError(f"There is no class {class_id}. There are: {list(self.classes.ids)}.")
        _check_name(name)
        rows = (LabelClass(c.id, name, color or c.color) if c.id == class_id else c for c in self.classes)
        return replace(self, classes=replace(self.classes, classes=tuple(rows)))

    def with_class_merged(self, class_id: int, into: int) -> SessionRecord:
        """Return the record in which a class, and what was merged into it, counts as another one.

        Raises
        ------
        ClassTableError
            If one of them is no class, or both are the same, or the first is background.
        """
        own = {c.id: c for c in self.classes}
        if class_id not in own or into not in own or class_id in (0, into):
            raise ClassTableError(
                f"Class {class_id} cannot be merged into {into}. Choose two of the classes {list(own)}; "
                "background can only be the second."
            )
        moved = [own.pop(class_id), *(c for c in self.classes.merged if c.merged_into == class_id)]
        others = (c for c in self.classes.merged if c.merged_into != class_id)
        merged = (*others, *(replace(c, merged_into=into) for c in moved))
        return replace(self, classes=ClassTable(tuple(own.values()), merged))

    def _check_not_merged(self, class_id: int) -> None:
        for one in self.classes.merged:
            if one.id == class_id:
                raise ClassTableError(
                    f"Class {class_id} ({one.name}) is merged into {one.merged_into}. Take it out first."
                )

    def with_class_apart(self, class_id: int) -> SessionRecord:
        """Return the record in which a merged class is one of its own again.

        Raises
        ------
        ClassTableError
            If it was not merged.
        """
        merged = {c.id: c for c in self.classes.merged}
        if class_id not in merged:
            raise ClassTableError(f"Class {class_id} is not merged. Merged are: {list(merged) or 'none'}.")
        again = replace(merged.pop(class_id), merged_into=None)
        rising = sorted((*self.classes, again), key=lambda c: c.id)
        return replace(self, classes=ClassTable(tuple(rising), tuple(merged.values())))


def _check_name(name: str) -> None:
    if not name.strip():
        raise ClassTableError("A class needs a name. Type one that says what is to be painted.")


def _reopen(source: str, folder: Path) -> Volume:
    from napari_memseg.io.formats import open_volume  # late: most of what a session does needs no format

    try:
        return open_volume(folder / source if source == IMAGE else source)
    except (InputError, OSError) as error:
        raise SessionError(
            f"The image of {folder} is no longer at {source} ({error}). Put it back, or open the session "
            "with image= and the image from its new place."
        ) from error


def _image(row: dict[str, Any]) -> ImageRecord:
    size = row["voxel_size"]
    return ImageRecord(
        source=str(row["source"]),
        name=str(row["name"]),
        fingerprint=str(row["fingerprint"]),
        shape=tuple(int(n) for n in row["shape"]),
        dtype=str(row["dtype"]),
        voxel_size=None if size is None else _three(size),
        unit=row["unit"],
    )


def _three(lengths: Iterable[float]) -> tuple[float, float, float]:
    z, y, x = (float(n) for n in lengths)
    return z, y, x

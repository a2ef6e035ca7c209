"""What a person asks of a session folder: make it, inspect it, keep a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_memseg.annotation.session import Session
from napari_memseg.io.formats import open_volume
from napari_memseg.models.classes import ClassTable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def new_session(folder: Path, image: str, names: Mapping[int, str], level: int) -> dict[str, Any]:
    """Begin a session on ``image``; without class names there is one class beside the background."""
    classes = ClassTable.from_ids(names or (1,), dict(names))
    with Session.create(folder, open_volume(image), classes, level=level) as session:
        return session.info()


def info(folder: Path) -> dict[str, Any]:
    """Tell what the session holds."""
    with Session.open(folder, read_only=True) as session:
        return session.info()


def verify(folder: Path) -> dict[str, Any]:
    """Check that the painted cells equal the replay of all strokes."""
    with Session.open(folder, read_only=True) as session:
        return session.verify()


def log(folder: Path) -> list[dict[str, Any]]:
    """List the strokes, oldest first."""
    with Session.open(folder, read_only=True) as session:
        return list(session.log())


def backup(folder: Path, destination: Path) -> dict[str, Any]:
    """Copy the corrections, whole, to a file."""
    with Session.open(folder, read_only=True) as session:
        session.backup(destination)
    return {"backup": str(destination)}

"""What a person asks of a session folder: where it would lie, make it, inspect it, keep a copy."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_memseg.annotation.counts import ClassCounts
from napari_memseg.annotation.record import IMAGE, SessionRecord
from napari_memseg.annotation.record import NAME as SESSION
from napari_memseg.annotation.session import Session, lay_out
from napari_memseg.errors import InputError
from napari_memseg.inference.control import Control
from napari_memseg.io.files import part_folder
from napari_memseg.io.formats import open_volume
from napari_memseg.io.names import safe_name
from napari_memseg.io.ome_zarr_metadata import check_scale, level_shapes
from napari_memseg.io.pyramid import CHUNK
from napari_memseg.io.source import parse_source
from napari_memseg.models.classes import ClassTable
from napari_memseg.workflows.convert import ConvertConfig, convert
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.train_job import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from napari_memseg.io.volume import Volume

ENDING = ".memseg"
"""Of a session folder that we name."""
ASIDE = "set-aside"
"""In the folder of models: those that somebody rolled back."""
HOME = "napari-memseg"
"""In the user's home: sessions whose images lie where nothing can be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a session and a pyramid of an image would take, before anything is made."""

    folder: Path
    image_bytes: int
    """A copy of an image that is in memory alone, uncompressed; 0 where there is a file."""
    pyramid_bytes: int
    """All levels of a pyramid, uncompressed: what compression leaves is less."""
    free_bytes: int
    """On the disk of the folder."""


def folder_for(name: str, source: str | None = None, sessions: Path | None = None) -> Path:
    """Return where the session of an image would lie: a name that is free.

    Parameters
    ----------
    name : str
        Of the image, as a person calls it.
    source : str, optional
        Of the image; None where it is in memory alone.
    sessions : Path, optional
        A folder for all sessions; by default that of the image, or ``~/napari-memseg`` where that of the
        image cannot be written to, or belongs to a Python package.
    """
    place = sessions or _beside(source) or Path.home() / HOME
    stem = safe_name(name, "session")
    folder, number = place / f"{stem}{ENDING}", 1
    while folder.exists():
        number += 1
        folder = place / f"{stem}-{number}{ENDING}"
    return folder


def _beside(source: str | None) -> Path | None:
    if source is None:
        return None
    folder = parse_source(source).path.absolute().parent
    if (folder / SESSION).exists():  # the image of a session: not inside of that
        folder = folder.parent
    inside_a_package = Path(__file__).parents[1] in (folder, *folder.parents)
    return folder if os.access(folder, os.W_OK) and not inside_a_package else None


def forecast(image: Volume, folder: Path, *, in_memory: bool = False) -> Forecast:
    """Say what a session of ``image`` in ``folder`` would take, and a pyramid in it."""
    above = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    sizes = [z * y * x * image.dtype.itemsize for z, y, x in level_shapes(image.shape, CHUNK)]
    return Forecast(
        folder=folder,
        image_bytes=sum(sizes) if in_memory else 0,
        pyramid_bytes=0 if len(image.arrays) > 1 or in_memory else sum(sizes),
        free_bytes=shutil.disk_usage(above).free,
    )


def new_session(
    folder: Path,
    image: str,
    names: Mapping[int, str],
    level: int,
    voxel_size: tuple[float, float, float] | None = None,
    unit: str | None = None,
) -> dict[str, Any]:
    """Begin a session on ``image``; without class names there is one class beside the background.

    A voxel size is for images whose source says none.
    """
    check_scale(voxel_size, unit)
    if unit and voxel_size is None:
        raise InputError(f"The unit {unit} means nothing without a voxel size. Give both, or neither.")
    volume = open_volume(image)
    if voxel_size is not None:
        volume = volume.with_voxel_size(voxel_size, unit or volume.unit)
    classes = ClassTable.from_ids(names or (1,), dict(names))
    with Session.create(folder, volume, classes, level=level) as session:
        return session.info()


def begin_session(
    folder: Path, image: Volume, classes: ClassTable, level: int = 0, *, keep: bool = False
) -> Iterator[Progress]:
    """Begin a session on an open image; the last step carries ``session``, the path of the folder.

    Parameters
    ----------
    folder : Path
        Of the session; it appears when all of it is written.
    image : Volume
        To be segmented.
    classes : ClassTable
        To paint with.
    level : int
        The working level; 0 where the image is kept.
    keep : bool
        Whether the session keeps a copy of the image, which is in memory alone.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if keep:
        yield from keep_image(folder, image, classes)
        return
    Session.create(folder, image, classes, level=level).close()
    yield Progress(stage="begin session", done=1, total=1, result={"session": str(folder)})


def keep_image(folder: Path, image: Volume, classes: ClassTable) -> Iterator[Progress]:
    """Begin a session on an image that is in memory alone: it is kept in the session, with a pyramid.

    Parameters
    ----------
    folder : Path
        Of the session; it appears when all of it is written.
    image : Volume
        Which need not open again by its source.
    classes : ClassTable
        To paint with.

    Yields
    ------
    Progress
        Of writing the image; the last carries ``session``, the path of the folder.
    """
    with part_folder(folder) as part:
        for step in convert(image, part / IMAGE, ConvertConfig()):
            yield replace(step, stage="save image", result=None)
        record = SessionRecord.new(open_volume(part / IMAGE), classes, level=0)
        lay_out(part, replace(record, image=replace(record.image, source=IMAGE, name=image.name)))
    yield Progress(stage="save image", done=1, total=1, result={"session": str(folder)})


def build_pyramid(folder: Path, *, control: Control | None = None) -> Iterator[Progress]:
    """Build the pyramid of a session's image in the session, or go on where it was stopped or killed.

    The image is the same to all who use it, at once and from then on. Steps and result as for ``convert``.

    Raises
    ------
    Cancelled
        If ``control`` was asked to cancel; what is finished stays.
    """
    control = control or Control()
    with Session.open(folder, read_only=True) as session:
        image = session.image
    config = ConvertConfig(voxel_size=image.voxel_size, unit=image.unit)
    for step in convert(image, folder / IMAGE, config):
        yield replace(step, stage="build pyramid")
        if step.result is None:
            control.raise_if_cancelled()


def models_in(folder: Path) -> list[Path]:
    """Return the models that were trained in a session, the newest first."""
    files = (path for path in (folder / "models").glob(f"*{SUFFIX}") if path.name.count(".") == 1)
    return sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)


def set_aside(model: Path) -> Path:
    """Put a model of a session where it is no longer offered, so that the one before it is the newest again.

    Returns
    -------
    Path
        Where it lies now: nothing is deleted.
    """
    folder = model.parent / ASIDE
    folder.mkdir(exist_ok=True)
    number, place = 1, folder / model.name
    while place.exists():
        number += 1
        place = folder / f"{model.stem}.{number}{model.suffix}"
    model.rename(place)
    return place


def unfinished_trainings(folder: Path) -> list[Path]:
    """Return the models whose training was stopped and can go on, the newest first."""
    states = sorted(
        (folder / "models").glob("*.training"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    names = (state.name.removesuffix(".training").rpartition(".")[0] for state in states)
    return list(dict.fromkeys(folder / "models" / f"{name}{SUFFIX}" for name in names))


def next_model(folder: Path, architecture: str) -> Path:
    """Return a free name for a model that is to be trained in a session: ``models/small-3.safetensors``."""
    places = (folder / "models", folder / "models" / ASIDE)
    taken = [path.name for place in places for path in place.glob("*")]
    numbers = [int(n) for name in taken for n in re.findall(r"-(\d+)\.", name)[:1]]
    return folder / "models" / f"{architecture}-{max(numbers, default=0) + 1}{SUFFIX}"


def info(folder: Path) -> dict[str, Any]:
    """Tell what the session holds, and how many voxels of each class were painted."""
    with Session.open(folder, read_only=True) as session:
        counts = ClassCounts(session.overlay)
        counts.recount()
        painted = {str(class_id): n for class_id, n in counts.by_class(session.classes).items()}
        return {**session.info(), "painted_voxels": painted}


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

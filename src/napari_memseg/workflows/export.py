"""Export a session's corrected labels: one snapshot over one run, and where they come from.

What is written is the composite after one stroke over one run, so that a second
export of the same pair is equal byte for byte::

    DST/
    ├── image.ome.zarr            the image at the session's level
    │   └── labels/corrected      the composite; "not predicted" stays so, and is never background
    └── provenance.json           image, classes, stroke number, the runs that show through each other
"""

from __future__ import annotations

import json
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, Any

from napari_memseg.annotation.runs import run_chain
from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, Zyx, ceil_div, zyx
from napari_memseg.inference.control import Control
from napari_memseg.inference.run_card import has_run_card, read_run_card
from napari_memseg.io.files import atomic_write, part_folder
from napari_memseg.io.pyramid import CHUNK, create_image, create_labels, create_labels_group
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.annotation.runs import Run
    from napari_memseg.annotation.snapshot import Snapshot
    from napari_memseg.io.pyramid import Pyramid
    from napari_memseg.models.classes import ClassTable

FORMATS = ("ome-zarr",)
IMAGE, LABELS = "image.ome.zarr", "corrected"
BLOCK: Zyx = zyx(2 * n for n in CHUNK)
"""Voxels that are copied at a time."""


def export(
    session: Path,
    destination: Path,
    kind: str = "ome-zarr",
    *,
    run: str | None = None,
    control: Control | None = None,
) -> Iterator[Progress]:
    """Write image, corrected labels and provenance of a session to a new folder.

    Parameters
    ----------
    session : Path
        Its folder; it is only read, as it is when the export begins.
    destination : Path
        Must not exist; it appears when all of it is written.
    kind : str
        "ome-zarr": an OME-Zarr 0.5 image with the labels in it.
    run : str, optional
        The newest run that is exported; by default the newest there is.
    control : Control, optional
        Cancelling ends it after a block.

    Yields
    ------
    Progress
        Per block; the last carries ``path``, ``seq`` (the last stroke) and ``run``.

    Raises
    ------
    InputError
        If something is at ``destination``, the kind is unknown, or the run is not finished.
    Cancelled
        If ``control`` was asked to cancel; nothing is left behind.
    """
    control = control or Control()
    if kind not in FORMATS:
        raise InputError(f"There is no export format {kind!r}. Choose one of: {', '.join(FORMATS)}.")
    with Session.open(session, read_only=True) as opened, opened.snapshot(run=run) as snapshot:
        runs = _finished_chain(opened, snapshot.run_id)
        with part_folder(destination) as part:
            image = _copy("export image", _new_image(part / IMAGE, opened), _LevelOf(opened))
            labels = _copy("export labels", _new_labels(part / IMAGE / "labels", opened), snapshot.composite)
            for step in chain(image, labels):
                yield step
                control.raise_if_cancelled()
            provenance = _provenance(opened, snapshot, runs)
            atomic_write(part / "provenance.json", json.dumps(provenance, indent=1).encode())
        facts = {"path": str(destination), "seq": snapshot.seq, "run": snapshot.run_id}
    yield Progress(stage="export", done=1, total=1, result=facts)


class _LevelOf:
    """The image of a session at its working level."""

    def __init__(self, session: Session) -> None:
        self._image, self._level = session.image, session.level

    def read(self, box: Box) -> NDArray[Any]:
        return self._image.read(box, self._level)


def _new_image(path: Path, session: Session) -> Pyramid:
    return create_image(path, **_grid(session), dtype=session.image.dtype, name=session.image.name)


def _new_labels(group: Path, session: Session) -> Pyramid:
    """Make the group that lists the labels, and the labels in it."""
    create_labels_group(group, [LABELS])
    classes: ClassTable = session.classes
    return create_labels(
        group / LABELS,
        **_grid(session),
        dtype=classes.dtype,
        name=LABELS,
        colors={c.id: c.color for c in classes},
        names={c.id: c.name for c in classes},
        fill_value=classes.not_predicted,
    )


def _grid(session: Session) -> dict[str, Any]:
    size = session.image.voxel_size_at(session.level)
    return {"shape": session.shape, "voxel_size": size, "unit": session.image.unit}


def _copy(stage: str, pyramid: Pyramid, source: Any) -> Iterator[Progress]:
    """Copy a whole volume, telling each block."""
    total = prod(ceil_div(pyramid.shape, BLOCK))
    for number, box in enumerate(pyramid.fill(source.read, BLOCK), start=1):
        yield Progress(stage=stage, done=number, total=total, box=box)


def _finished_chain(session: Session, newest: str | None) -> tuple[Run, ...]:
    """Return a run and what shows through it; what is still written to is not exported."""
    runs = session.runs()
    chain = run_chain(runs, newest)
    if chain and not chain[0].is_finished:
        others = ", ".join(run.id for run in runs if run.is_finished) or "none"
        raise InputError(
            f"Run {newest} of {session.path} is not finished, so a second export would be another. "
            f"Finish it with 'segment --session', or name an earlier run. Finished are: {others}."
        )
    return chain


def _provenance(session: Session, snapshot: Snapshot, runs: Sequence[Run]) -> dict[str, Any]:
    """Say where the labels come from; nothing that changes from one export to the next."""
    image = session.image
    return {
        "image": {"source": session.source, "fingerprint": image.fingerprint, "level": session.level},
        "classes": session.classes.to_json(),
        "not_predicted": session.classes.not_predicted,
        "stroke": snapshot.seq,
        "run": snapshot.run_id,
        "runs": [_origin(run) for run in runs],
    }


def _origin(run: Run) -> dict[str, Any]:
    """Say which model made a run by which plan; a run that never began has neither."""
    card = read_run_card(run.path) if has_run_card(run.path) else None
    return {
        "id": run.id,
        "model_sha256": None if card is None else card["plan"]["sha256"],
        "plan": None if card is None else card["id"],
        "finished": run.is_finished,
    }

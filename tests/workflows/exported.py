"""A small session with opinions, a confirmed box and a run that has gaps, for the tests of exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from annotation.helpers import make_run
from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Box
from napari_memseg.inference.run_card import begin_run_card, finish_run_card
from napari_memseg.io.formats import open_volume
from napari_memseg.models.classes import ClassTable
from napari_memseg.workflows.export import export
from volumes import noise, ome_tiff

SHAPE = (70, 20, 24)
"""Two layers of an export."""
CLASSES = ClassTable.from_ids([1, 2, 15], {1: "bone", 2: "bone", 15: "ignore"})
"""Ids with a gap, and names that a list of labels cannot have as they are."""
PREDICTED = Box((0, 0, 0), (66, 20, 24))
CONFIRMED = Box((60, 2, 3), (70, 9, 11))


def make_session(folder: Path, dtype: str = "uint16") -> Path:
    """Make a session, not open, on an image of noise whose voxels are 2.5 x 0.5 x 0.25 um."""
    image = open_volume(ome_tiff(folder, noise(SHAPE, dtype)))
    with Session.create(folder / "session", image, CLASSES) as session:
        _predict(session)
        session.overlay[5, 2:9, 3:8] = 15
        session.overlay[6, 2:9, 3:8] = CLASSES.background_opinion
        session.overlay[69, 0, :] = 2
        session.confirm(CONFIRMED)
    return folder / "session"


def _predict(session: Session) -> None:
    path = session.new_run()[1]
    found = np.random.default_rng(1).choice(CLASSES.ids, SHAPE).astype("uint8")
    make_run(path, SHAPE)[PREDICTED.slices] = found[PREDICTED.slices]
    (path / "memseg").mkdir()
    begin_run_card(path, "stand-in", {"sha256": "0" * 64})
    finish_run_card(path, result={}, seconds=1.0)


def shown(folder: Path, labels: str = "shown") -> np.ndarray:
    """Return what an export should hold, in the session's own ids."""
    with Session.open(folder, read_only=True) as session, session.snapshot() as snapshot:
        source = snapshot.composite if labels == "shown" else snapshot
        return source.read(Box.whole(SHAPE))


def export_to(destination: Path, folder: Path, kind: str, **settings) -> Path:
    list(export(folder, destination, kind, **settings))
    return destination


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

"""The predictions of a session: each run a folder of its own, never changed afterwards.

A run shows what it has predicted, and through its gaps the run it replaces::

    0003 ── parent ──> 0002 ── parent ──> 0001
    newest                                 what was there first

Runs are ordered by their number; clocks jump.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import zarr

from napari_memseg.annotation.corrections import now_utc
from napari_memseg.errors import SessionError
from napari_memseg.files import from_checked_json, hash_of, to_checked_json
from napari_memseg.geometry import Box, Zyx, ceil_div, cell_box, cells, zyx
from napari_memseg.io.files import fsync_path
from napari_memseg.io.volume import DECODING_ERRORS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.models.classes import ClassTable


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a session, begun or finished.

    Attributes
    ----------
    id : str
        Its number, as text.
    path : Path
        Of the label group: level 0 is the array ``0`` in it, once there is one.
    parent : str or None
        The run that shows through where this one has predicted nothing.
    created : str
        When; UTC.
    """

    id: str
    path: Path
    parent: str | None
    created: str

    @property
    def is_finished(self) -> bool:
        """Whether its card, beside the labels, says that nothing is added any more."""
        return bool(self._card.get("finished"))

    @property
    def failures(self) -> int:
        """How many tiles of it have failed, once it is finished."""
        result = self._card.get("result")
        found = result.get("failures") if isinstance(result, dict) else None
        return len(found) if isinstance(found, list) else 0

    @property
    def can_go_on(self) -> bool:
        """Whether something is left to do: it was not finished, or tiles of it have failed."""
        return not self.is_finished or self.failures > 0

    def check_description(self, level: int) -> None:
        """Refuse a level whose array describes itself in other words than when the run began.

        Raises
        ------
        ValueError
            If it does: a shape, or what is not predicted, would be another.
        """
        name = f"{level}/zarr.json"
        known = self._card.get("descriptions")
        if isinstance(known, dict) and known.get(name, said := hash_of(self.path / name)) != said:
            raise ValueError("it is not what the run began with")

    @property
    def _card(self) -> dict[str, Any]:
        try:
            return from_checked_json((self.path / "memseg" / "run.json").read_bytes())
        except (OSError, ValueError):
            return {}


def list_runs(folder: Path) -> tuple[Run, ...]:
    """Return the runs that were begun in ``folder``, the oldest first.

    Raises
    ------
    SessionError
        If the note of a run is damaged.
    """
    return tuple(_read(note) for note in sorted(folder.glob("*.json"), key=lambda p: _number(p.stem)))


def _read(note: Path) -> Run:
    try:
        row = from_checked_json(note.read_bytes())
        return Run(note.stem, note.with_suffix(""), row["parent"], str(row["created"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SessionError(
            f"{note} is damaged ({error}). Move it and the folder of that name out of the session, "
            "or restore it from a copy of the session."
        ) from error


def new_run(folder: Path, parent: str | None = None) -> Run:
    """Claim the next number for a run; two processes never get the same one.

    Parameters
    ----------
    folder : Path
        The ``runs`` of a session.
    parent : str, optional
        What shows through; by default the newest run there is.

    Returns
    -------
    Run
        With a path at which nothing is yet.

    Raises
    ------
    SessionError
        If there is no such parent.
    """
    known = list_runs(folder)
    if parent is not None:
        run_chain(known, parent)
    while True:
        taken = [_number(p.name.split(".")[0]) for p in folder.iterdir()]
        newest = list_runs(folder)[-1:]
        below = parent or (newest[0].id if newest else None)
        note = folder / f"{max(taken, default=0) + 1:04d}.json"
        if _claim(note, {"parent": below, "created": now_utc()}):
            return _read(note)


def _number(name: str) -> int:
    return int(name) if name.isdecimal() else 0


def _claim(note: Path, row: dict[str, Any]) -> bool:
    """Write a note that must not exist yet; return False if somebody was faster."""
    part = note.with_name(f".{note.name}.{uuid4().hex[:8]}.part")
    part.write_bytes(to_checked_json(row))
    fsync_path(part)
    try:
        os.link(part, note)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        part.rename(note)
    finally:
        part.unlink(missing_ok=True)
    fsync_path(note.parent)
    return True


def run_chain(runs: Sequence[Run], newest: str | None) -> tuple[Run, ...]:
    """Return a run and what shows through it, one after the other.

    Raises
    ------
    SessionError
        If a run is missing, or is its own ancestor.
    """
    known = {run.id: run for run in runs}
    chain: list[Run] = []
    while newest is not None:
        if newest not in known or known[newest] in chain:
            raise SessionError(
                f"There is no run {newest!r} to show. The runs are: {', '.join(known) or 'none'}."
            )
        chain.append(known[newest])
        newest = chain[-1].parent
    return tuple(chain)


class RunLabels:
    """What one run has predicted so far, in the dtype of the session.

    Parameters
    ----------
    run : Run
        It may not have begun to write: then nothing is predicted.
    shape : (z, y, x)
        Of the session's working level.
    classes : ClassTable
        Of the session.
    """

    def __init__(self, run: Run, shape: Zyx, classes: ClassTable) -> None:
        self.run, self.shape, self.classes = run, shape, classes
        self._levels: dict[int, zarr.Array[Any]] = {}

    def read(self, box: Box, stride: Zyx = (1, 1, 1), level: int = 0) -> NDArray[Any]:
        """Return class ids, ``not_predicted`` where the run has not been; merged classes are resolved.

        Parameters
        ----------
        box, stride
            In voxels of ``level``: every ``stride``-th voxel of the box.
        level : int
            Of the run's pyramid, for display: a coarse voxel shows once the run has built it.

        Raises
        ------
        SessionError
            If the run is of another shape, or has classes that the session's dtype cannot hold; or if it
            is damaged in the box.
        """
        there = next((k for k in range(level, -1, -1) if self._at(k) is not None), None)
        array = None if there is None else self._at(there)
        if there is None or array is None:
            return np.full(ceil_div(box.shape, stride), self.classes.not_predicted, self.classes.dtype)
        factor = 2 ** (level - there)
        spans = zip(box.start, box.stop, stride, array.shape, strict=True)
        index = tuple(slice(a * factor, min(b * factor, n), s * factor) for a, b, s, n in spans)
        try:
            return self._in_session(np.asarray(array[index]))
        except DECODING_ERRORS as error:
            where = Box(zyx(s.start for s in index), zyx(s.stop for s in index))
            raise SessionError(self._damage(array, where, there)) from error

    def _at(self, level: int) -> zarr.Array[Any] | None:
        if level not in self._levels and (self.run.path / str(level) / "zarr.json").exists():
            self._levels[level] = self._open(level)
        return self._levels.get(level)

    def _open(self, level: int) -> zarr.Array[Any]:
        folder = self.run.path / str(level)
        try:
            self.run.check_description(level)
            array = zarr.open_array(folder, mode="r")
        except DECODING_ERRORS as error:
            raise SessionError(
                f"{folder / 'zarr.json'} is damaged ({error!s:.200}), so nothing of run {self.run.id} can be "
                "shown. Restore that file from a copy of the session, or show another run."
            ) from error
        self._check(array, level)
        return array

    def _damage(self, array: zarr.Array[Any], box: Box, level: int) -> str:
        """Say which of the chunks that a box touches cannot be read."""
        chunk, shape = zyx(array.chunks), zyx(array.shape)
        for index in cells(box, chunk):
            try:
                array[cell_box(index, chunk, shape).slices]
            except DECODING_ERRORS as error:
                file = self.run.path / str(level) / array.metadata.encode_chunk_key(index)
                return (
                    f"{file} is damaged ({error!s:.200}): what run {self.run.id} predicted there is lost. "
                    "Delete that file, and the place counts as not predicted; going on with the run predicts "
                    "it again."
                )
        return f"Run {self.run.id} could not be read at {box}, and can be now. Try again."

    def _check(self, array: zarr.Array[Any], level: int) -> None:
        wanted = ceil_div(self.shape, zyx([2**level] * 3))
        if (
            array.shape != wanted
            or array.dtype.kind != "u"
            or array.dtype.itemsize > self.classes.dtype.itemsize
        ):
            raise SessionError(
                f"Run {self.run.id} holds {array.dtype} labels of shape {array.shape} at level {level}, but "
                f"the session needs {wanted} and at most {self.classes.dtype}. If the model has classes "
                "with larger ids, add them to the session; a run of another shape does not belong here."
            )

    def _in_session(self, values: NDArray[Any]) -> NDArray[Any]:
        wide = values.astype(self.classes.dtype, copy=False)
        if wide.dtype != values.dtype:
            wide[values == np.iinfo(values.dtype).max] = self.classes.not_predicted
        return self.classes.resolve(wide)

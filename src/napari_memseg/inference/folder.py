"""The folder of a run: made all at once, or found to be that of the same run.

It is built beside its name, which it receives as the last step::

    labels.ome.zarr/          OME-Zarr label group; chunks that are missing are not predicted
        confidence/           one byte per voxel, where wanted
        memseg/run.json       the plan
        memseg/stages/NAME    what earlier stages keep
        memseg/ledger-*.sqlite
        memseg/writer.lock    held while a process does the run alone
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import contextmanager, suppress
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from filelock import FileLock, Timeout

from napari_memseg.errors import InputError, RunMismatchError
from napari_memseg.inference.plan import Plan
from napari_memseg.inference.run_card import (
    CONFIDENCE,
    FOLDER,
    MIXED,
    begin_run_card,
    note_on_run_card,
    read_run_card,
)
from napari_memseg.inference.same_image import same_image
from napari_memseg.io.arrays import refuse_link, sweep_partial
from napari_memseg.io.files import part_folder
from napari_memseg.io.pyramid import create_array, create_confidence, create_labels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_memseg.inference.stages import ArrayPlan
    from napari_memseg.io.volume import Volume

LOCK = "writer.lock"
_RUBBISH = ".discarded.part"
_log = logging.getLogger(__name__)


@contextmanager
def alone(plan: Plan, *, restart: bool = False) -> Iterator[None]:
    """Prepare a run, and be the only process that writes it; the lock dies with its process.

    Workers that share a plan hold no lock: each block has one writer.

    Raises
    ------
    RunMismatchError
        If a run of another plan is there; nothing is changed.
    InputError
        If another process is writing it, or what is there is no run of ours.
    """
    prepare(plan, restart=restart)
    destination = Path(plan.destination)
    with locked(destination):
        _compare(plan, read_run_card(destination))
        sweep_partial(destination)
        yield


@contextmanager
def watched(plan: Plan, image: Volume) -> Iterator[None]:
    """Look, when the blocks of a run were computed or it was left, whether it has read one image.

    Raises
    ------
    RunMismatchError
        If some of the image was changed meanwhile, and nobody can go on with this run; or if it is gone.
    """
    try:
        yield
    except RunMismatchError:  # before anything came of it
        raise
    except BaseException:
        with suppress(RunMismatchError):  # another error is on its way
            _refuse_changed(plan, image)
        raise
    _refuse_changed(plan, image)


def _refuse_changed(plan: Plan, image: Volume) -> None:
    if same_image(image, plan.fingerprint).is_another():
        note_on_run_card(Path(plan.destination), **{MIXED: True})
        raise RunMismatchError(
            f"{image.source} was changed while the run read it, so some of its labels may be of other "
            "voxels. Begin another run, or the same with --restart."
        )


def prepare(plan: Plan, *, restart: bool = False) -> None:
    """Make the folders of a run, or make sure that those on disk belong to it.

    Raises
    ------
    RunMismatchError
        If a run of another plan is there; nothing is changed.
    InputError
        If something that is no run of ours is there, or a link, or one to be discarded is being written.
    """
    destination = Path(plan.destination)
    refuse_link(destination)
    _sweep(destination)
    if restart and _is_filled(destination):
        read_run_card(destination)
        with locked(destination) as lock:
            if os.name == "nt":  # where a folder with an open file cannot be renamed
                lock.release()
            _discard(destination)
    if _is_filled(destination):
        _compare(plan, read_run_card(destination))
    else:
        _create(plan, destination)


def _is_filled(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _discard(destination: Path) -> None:
    """Delete a run; its name is free at once, so that a kill leaves no half of it there."""
    rubbish = destination.with_name(f"{destination.name}.{uuid4().hex[:8]}{_RUBBISH}")
    destination.rename(rubbish)
    shutil.rmtree(rubbish)


def _sweep(destination: Path) -> None:
    """Delete what is left of discarded runs, where a kill came in between."""
    if destination.parent.is_dir():
        for path in destination.parent.iterdir():
            if path.name.startswith(f"{destination.name}.") and path.name.endswith(_RUBBISH):
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def locked(destination: Path) -> Iterator[FileLock]:
    """Hold the lock of a run that is there, or refuse at once."""
    lock = FileLock(destination / FOLDER / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"Another process is writing the run at {destination}. Wait for it or stop it, "
            "or choose another destination."
        ) from None
    except NotImplementedError:
        _log.warning("The disk of %s has no locks: let no second process write this run.", destination)
    try:
        yield lock
    finally:
        lock.release()


def _compare(plan: Plan, card: dict[str, Any]) -> None:
    try:
        differences = plan.differences(Plan.from_json(card["plan"]))
    except (KeyError, TypeError, ValueError):
        differences = [f"it was begun by version {card.get('versions', {}).get('napari-memseg', 'unknown')}"]
    if card.get(MIXED):
        differences.append("its image was changed while it was read, so its labels are of two images")
    if differences:
        raise RunMismatchError(
            f"{plan.destination} holds a run of another kind: {'; '.join(differences)}. Ask for the same "
            "again to go on with it, choose another destination, or discard it with --restart."
        )


def _create(plan: Plan, destination: Path) -> None:
    """Make everything beside the final name, then rename."""
    with part_folder(destination) as part:
        if plan.segments:
            _create_outputs(plan, part, destination.name.partition(".")[0])
        stages = part / FOLDER / "stages"
        stages.mkdir(parents=True)
        for array in (array for stage in plan.stages for array in stage.writes):
            _create_array(plan, array, stages / array.name)
        begin_run_card(part, plan.id, plan.to_json())


def _create_outputs(plan: Plan, folder: Path, name: str) -> None:
    grid: dict[str, Any] = {
        "shape": plan.shape,
        "chunk": plan.chunk,
        "voxel_size": plan.voxel_size,
        "unit": plan.unit,
    }
    create_labels(
        folder,
        **grid,
        dtype=plan.classes.dtype,
        name=name,
        colors={c.id: c.color for c in plan.classes},
        names={c.id: c.name for c in plan.classes},
        fill_value=plan.classes.not_predicted,
    )
    if plan.confidence:
        create_confidence(folder / CONFIDENCE, **grid)


def _create_array(plan: Plan, array: ArrayPlan, path: Path) -> None:
    """Make an array whose chunks are parts of cores, so that each has one writer."""
    inner = [gcd(n // f, c) for n, f, c in zip(plan.core, array.factor, plan.chunk, strict=True)]
    chunks = [array.channels] if array.vector else [array.channels, *inner]
    create_array(path, shape=array.shape(plan.shape), dtype=array.dtype, chunks=chunks)

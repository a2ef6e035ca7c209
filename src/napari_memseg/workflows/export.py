"""Export a session's corrected labels: one snapshot over one run, and where they come from.

What is written is the composite after one stroke over one run, or of that only what somebody
painted or confirmed, so that a second export of the same is equal byte for byte::

    DST/
    ├── image and labels     as the format has them; what nobody knows is never background
    └── provenance.json      image, region, what the values mean, stroke number, the runs that show
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_memseg.annotation.runs import run_chain
from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.inference.control import Control
from napari_memseg.inference.run_card import has_run_card, read_run_card
from napari_memseg.io.files import atomic_write, part_folder
from napari_memseg.io.pyramid import ALL_LEVELS
from napari_memseg.workflows.exports.monai import write_monai
from napari_memseg.workflows.exports.nnunet import write_nnunet
from napari_memseg.workflows.exports.ome_zarr import write_ome_zarr
from napari_memseg.workflows.exports.selection import WHICH, Selection, Values, Which
from napari_memseg.workflows.exports.tiff import write_tiff
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari_memseg.annotation.runs import Run
    from napari_memseg.models.classes import ClassTable

PROVENANCE = "provenance.json"


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write an export.

    Attributes
    ----------
    about : str
        What a person chooses it by, in a few words.
    write : callable of (folder, Selection) -> iterator of Progress
        Fills an empty folder.
    values : callable of ClassTable -> Values
        What its files call the classes.
    """

    about: str
    write: Callable[[Path, Selection], Iterator[Progress]]
    values: Callable[[ClassTable], Values]


FORMATS = {
    "ome-zarr": Format("OME-Zarr, image and labels", write_ome_zarr, Values.own),
    "nnunet": Format("nnU-Net v2, raw dataset", write_nnunet, Values.counted),
    "monai": Format("MONAI, data list and NIfTI", write_monai, Values.counted),
    "tiff": Format("TIFF, two OME-TIFF stacks", write_tiff, Values.own),
}
"""By the name that the terminal knows."""


def export(
    session: Path,
    destination: Path,
    kind: str = "ome-zarr",
    *,
    run: str | None = None,
    box: str | None = None,
    labels: Which = "shown",
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
        One of ``FORMATS``: "ome-zarr", "nnunet", "monai", "tiff".
    run : str, optional
        The newest run that is exported; by default the newest there is.
    box : str, optional
        ``Z0:Z1,Y0:Y1,X0:X1`` in voxels of the working level; default all of it.
    labels : "shown" or "confirmed"
        All that is shown, or only what somebody painted or confirmed; the rest is as not predicted.
    control : Control, optional
        Cancelling ends it after a block or plane.

    Yields
    ------
    Progress
        Per block or plane; the last carries ``path``, ``seq`` (the last stroke) and ``run``.

    Raises
    ------
    InputError
        If something is at ``destination``, the kind is unknown or cannot hold this, the box is none of
        the volume, or a run is not finished.
    Cancelled
        If ``control`` was asked to cancel; nothing is left behind.
    """
    control = control or Control()
    form = _format(kind, labels)
    with Session.open(session, read_only=True) as opened, opened.snapshot(run=run) as snapshot:
        region = Box.parse(box, opened.shape) if box else Box.whole(opened.shape)
        chosen = Selection(opened, snapshot, region, labels, form.values(opened.classes))
        runs = _finished_runs(chosen)
        with part_folder(destination) as part:
            for step in form.write(part, chosen):
                yield step
                control.raise_if_cancelled()
            provenance = {"format": kind, **_provenance(chosen, runs)}
            atomic_write(part / PROVENANCE, json.dumps(provenance, indent=1).encode())
        facts = {"path": str(destination), "seq": snapshot.seq, "run": snapshot.run_id}
    yield Progress(stage="export", done=1, total=1, result=facts)


def forecast_bytes(session: Session, kind: str, region: Box) -> int:
    """Say what an export takes on the disk at most: image and labels, of which compression leaves less."""
    dtypes = (session.image.dtype, FORMATS[kind].values(session.classes).dtype)
    size = region.size * sum(dtype.itemsize for dtype in dtypes)
    return round(size * ALL_LEVELS) if kind == "ome-zarr" else size


def _format(kind: str, labels: str) -> Format:
    if kind not in FORMATS:
        raise InputError(f"There is no export format {kind!r}. Choose one of: {', '.join(FORMATS)}.")
    if labels not in WHICH:
        raise InputError(f"There are no labels {labels!r} to export. Choose one of: {', '.join(WHICH)}.")
    return FORMATS[kind]


def _finished_runs(chosen: Selection) -> tuple[Run, ...]:
    """Return the runs that are exported and what shows through them; what is written to is refused.

    Where only confirmed voxels are exported, those are the runs of the time of each confirmation.
    """
    snapshot, runs = chosen.snapshot, chosen.session.runs()
    shown, confirmed = [snapshot.run_id], [one.run_id for one in snapshot.confirmed]
    newest = dict.fromkeys(shown if chosen.which == "shown" else confirmed)
    chains = [run_chain(runs, run_id) for run_id in newest]
    for chain in chains:
        if chain and not chain[0].is_finished:
            raise _unfinished(chosen.session, chain[0])
    return tuple(dict.fromkeys(run for chain in chains for run in chain))


def _unfinished(session: Session, run: Run) -> InputError:
    others = ", ".join(one.id for one in session.runs() if one.is_finished) or "none"
    return InputError(
        f"Run {run.id} of {session.path} is not finished, so a second export would be another. "
        f"Finish it with 'segment --session', or name an earlier run. Finished are: {others}."
    )


def _provenance(chosen: Selection, runs: tuple[Run, ...]) -> dict[str, Any]:
    """Say where the labels come from; nothing that changes from one export to the next."""
    session, snapshot, image = chosen.session, chosen.snapshot, chosen.session.image
    return {
        "image": {"source": session.source, "fingerprint": image.fingerprint, "level": session.level},
        "region": str(chosen.region),
        "labels": chosen.which,
        "classes": chosen.classes.to_json(),
        "values": {str(class_id): value for class_id, value in chosen.values.of.items()},
        "not_predicted": chosen.values.unknown,
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

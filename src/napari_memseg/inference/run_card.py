"""What a run says of itself: its plan, its versions, and whether it is finished.

One JSON file beside the labels, replaced whole. It is made with the run's folder, so
a folder without it is no run of ours.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import InputError
from napari_memseg.files import from_checked_json, hash_of, to_checked_json
from napari_memseg.io.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "memseg"
"""Where, inside a run, its card, ledgers and intermediate arrays lie."""
CONFIDENCE = "confidence"
"""Name of the group, and of the output, of one byte of certainty per voxel."""
MIXED = "mixed"
"""On the card of a run whose image was changed while it was read: nobody goes on with it."""
_NAME = "run.json"
_PARTS = ("napari-memseg", "torch", "numpy", "zarr")


def read_run_card(destination: Path) -> dict[str, Any]:
    """Return what a run says of itself.

    Raises
    ------
    InputError
        If there is no run of ours, or its card is damaged.
    """
    try:
        return from_checked_json((destination / FOLDER / _NAME).read_bytes())
    except OSError as error:
        raise InputError(
            f"{destination} exists and is no run of napari-memseg, so nothing is written to it. "
            "Choose another destination."
        ) from error
    except ValueError as error:
        raise InputError(
            f"{destination / FOLDER / _NAME} is damaged ({error}), so nothing is written to this run. "
            "Restore the file from a copy, or begin another run."
        ) from error


def has_run_card(destination: Path) -> bool:
    """Whether there is a run of ours."""
    return (destination / FOLDER / _NAME).exists()


def begin_run_card(destination: Path, plan_id: str, plan: dict[str, Any]) -> None:
    """Write the card of a run that is about to start, with a hash of how each array describes itself."""
    versions = {name: version(name) for name in _PARTS}
    found = sorted(destination.rglob("zarr.json"))
    described = {path.relative_to(destination).as_posix(): hash_of(path) for path in found}
    begun = {"finished": False, "seconds": 0.0, "versions": versions, "descriptions": described}
    _write(destination, {"id": plan_id, "plan": plan, **begun})


def note_on_run_card(destination: Path, **facts: Any) -> None:
    """Add facts to the card of a run."""
    _write(destination, {**read_run_card(destination), **facts})


def finish_run_card(destination: Path, *, result: dict[str, Any], seconds: float) -> None:
    """Note what a finished run came to; ``seconds`` of this attempt are added to those of earlier ones."""
    before = read_run_card(destination)["seconds"]
    note_on_run_card(destination, finished=True, result=result, seconds=before + seconds)


def _write(destination: Path, card: dict[str, Any]) -> None:
    atomic_write(destination / FOLDER / _NAME, to_checked_json(card))

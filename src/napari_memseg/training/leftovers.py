"""What unfinished trainings keep beside the model that will be, by name alone; loads no torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from napari_memseg.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def beside(out: Path) -> list[Path]:
    """Return the files that trainings of the model ``out`` left beside it, of whatever phases."""
    stem, part = re.escape(out.stem), r"\.[0-9a-f]{8}\.part"
    kept = rf"{stem}\.([^.]+\.(training|best\.safetensors)|asked\.json)({part})?|{stem}\.safetensors{part}"
    found = out.parent.iterdir() if out.parent.is_dir() else ()
    return sorted(path for path in found if re.fullmatch(kept, path.name))


def refuse_unfinished(out: Path) -> None:
    """Make sure that a new training of the model ``out`` discards no other.

    Raises
    ------
    InputError
        If a state is there to go on from.
    """
    if states := [path for path in beside(out) if path.suffix == ".training"]:
        raise InputError(
            f"An unfinished training of {out.name} is there: {', '.join(map(str, states))}. "
            "Go on with it: --resume (resume=True). Or discard it: --restart (restart=True)."
        )

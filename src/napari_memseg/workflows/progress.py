"""The one thing that a workflow says while it works."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from napari_memseg.geometry import Box


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One step of a job: what was just finished, and how much there is.

    Workflows yield these; terminals print them, Python loops over them, napari
    receives them from a child process. The last one of a job carries ``result``.
    """

    stage: str
    """What is being done: "convert", "train small", "segment"."""
    done: int
    total: int
    box: Box | None = None
    """The voxels that were just finished, at the run's level."""
    seconds_left: float | None = None
    message: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    """Named numbers of this step: loss, Dice."""
    voxels: NDArray[Any] | None = None
    """What is shown in ``box`` before it is stored anywhere: class ids (z, y, x) of a preview."""
    result: Mapping[str, Any] | None = None
    """What the job came to, in plain JSON values; on the last step only."""

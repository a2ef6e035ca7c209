"""Segment a volume tile by tile, into a folder of its own or as a new run of a session.

Start it again after an interruption, with the same arguments, and it goes on
where it stopped; with others it is refused, and nothing on disk changes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from napari_memseg.annotation.session import Session
from napari_memseg.inference.control import Control
from napari_memseg.inference.executors import in_process
from napari_memseg.inference.plan import Plan, SegmentConfig, make_plan
from napari_memseg.io.formats import open_volume
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.resources import peak_device_gib, peak_rss_gib


def segment(
    image: str | Path,
    destination: Path,
    model: Path,
    config: SegmentConfig | None = None,
    *,
    restart: bool = False,
    control: Control | None = None,
) -> Iterator[Progress]:
    """Segment ``image`` into an OME-Zarr 0.5 label group.

    Parameters
    ----------
    image : str or Path
        Any readable source.
    destination : Path
        Of the label group, ``labels.ome.zarr``; an unfinished run of the same kind goes on.
    model : Path
        A checkpoint.
    config : SegmentConfig, optional
        Tile, halo, precision, device, level, box.
    restart : bool
        Discard an unfinished or finished run at ``destination`` first.
    control : Control, optional
        To pause, cancel, or look at a place first.

    Yields
    ------
    Progress
        One per finished block; the last carries the result.

    Raises
    ------
    RunMismatchError
        If ``destination`` holds a run of another image, model or plan.
    Cancelled
        If ``control`` was asked to cancel; what is finished stays.
    """
    plan = make_plan(model, open_volume(image), destination, config or SegmentConfig())
    yield from _follow(plan, restart, control or Control())


def segment_session(
    session: Path,
    model: Path,
    config: SegmentConfig | None = None,
    *,
    restart: bool = False,
    control: Control | None = None,
) -> Iterator[Progress]:
    """Segment a session's image into a new run, or go on with its unfinished one of the same kind.

    Parameters and errors as for ``segment``. Corrections are neither read nor touched.
    """
    with Session.open(session, read_only=True) as opened:
        plan = _plan_in(opened, model, config or SegmentConfig(), restart)
    yield from _follow(plan, restart, control or Control())

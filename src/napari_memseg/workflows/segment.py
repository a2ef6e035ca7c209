"""Segment a volume tile by tile, into a folder of its own or as a new run of a session.

Start it again after an interruption, with the same arguments, and it goes on
where it stopped; with others it is refused, and nothing on disk changes.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError
from napari_memseg.inference.control import Control
from napari_memseg.inference.executors import RunStep, in_process
from napari_memseg.inference.plan import Plan, SegmentConfig, make_plan
from napari_memseg.inference.run_card import read_run_card
from napari_memseg.io.formats import open_volume
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.resources import peak_device_gib, peak_rss_gib

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_memseg.io.volume import Volume


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
        image = opened.image
    yield from _follow(plan, restart, control or Control(), image)


def resume_run(session: Path, run: str, *, control: Control | None = None) -> Iterator[Progress]:
    """Go on with a run of a session by the very plan that it was begun with, whatever that was.

    Parameters
    ----------
    session : Path
        Its folder.
    run : str
        The run's id: "0002".
    control : Control, optional
        As for ``segment``; steps and errors too.

    Raises
    ------
    InputError
        If there is no such run, or it never began.
    """
    with Session.open(session, read_only=True) as opened:
        path = opened.path / "runs" / run
        image = opened.image
    try:
        plan = Plan.from_json(read_run_card(path)["plan"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"The plan of run {run} cannot be read by this version ({error}). Begin another run."
        ) from error
    yield from _follow(replace(plan, destination=str(path)), False, control or Control(), image)


def _plan_in(session: Session, model: Path, config: SegmentConfig, restart: bool) -> Plan:
    """Plan a new run of a session, or find its unfinished one of the same plan."""
    if config.level not in (None, session.level):
        raise InputError(
            f"The session works at level {session.level}, so its runs do too; got level {config.level}. "
            "Leave the level out, or segment the image by its path."
        )
    config = replace(config, level=session.level)
    for run in [] if restart else _unfinished(session):
        plan = make_plan(model, session.image, run, config)
        if plan.id == read_run_card(run)["id"]:
            return plan
    plan = make_plan(model, session.image, session.path, config)
    if unknown := sorted(set(plan.classes.ids) - set(session.classes.ids)):
        raise InputError(
            f"The model tells apart the classes {list(plan.classes.ids)}, and the session at {session.path} "
            f"has no class {', '.join(map(str, unknown))}. Add it there first, or choose another model."
        )
    return replace(plan, destination=str(session.new_run()[1]))


def _unfinished(session: Session) -> list[Path]:
    """Return the runs that were begun and not finished, the newest first."""
    begun = [run.path for run in reversed(session.runs()) if run.path.exists()]
    return [path for path in begun if not read_run_card(path)["finished"]]


def _follow(plan: Plan, restart: bool, control: Control, image: Volume | None = None) -> Iterator[Progress]:
    """Do a plan, telling each block and the time left, then what it came to."""
    began = time.monotonic()
    for step in in_process(plan, control, restart=restart, image=image):
        fresh = step.done - step.resumed
        pace = (time.monotonic() - began) / fresh if fresh else None
        left = None if pace is None else pace * (step.total - step.done)
        yield Progress(
            stage="segment",
            done=step.done,
            total=step.total,
            box=step.box,
            seconds_left=left,
            message="" if step.block else f"into {plan.destination}",
        )
    result = _result(plan, time.monotonic() - began, step)
    yield Progress(stage="segment", done=step.done, total=step.total, result=result)


def _result(plan: Plan, seconds: float, last: RunStep) -> dict[str, Any]:
    halo = plan.stages[-1].reads[0].halo
    share = (last.done - last.resumed) / last.total
    return {
        "voxels": plan.region.size,
        "tiles": last.total,
        "tiles_done": last.done,
        "tiles_skipped": 0,
        "seconds": seconds,
        "voxels_per_second": plan.region.size * share / seconds,
        "tile": list(plan.core),
        "halo": [max(sides) for sides in zip(halo.low, halo.high, strict=True)],
        "halo_exact": plan.exact,
        "device": plan.device,
        "precision": plan.precision,
        "forecast_memory_gib": None,
        "peak_memory_gib": peak_device_gib(plan.device),
        "peak_rss_gib": peak_rss_gib(),
        "out_of_memory_retries": 0,
        "resumed": last.resumed > 0,
        "labels": plan.destination,
    }

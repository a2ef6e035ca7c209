"""Segment a volume tile by tile, into a folder of its own or as a new run of a session.

Start it again after an interruption, with the same arguments, and it goes on
where it stopped; with others it is refused, and nothing on disk changes.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.control import Control
from napari_memseg.inference.draft import make_plan
from napari_memseg.inference.executors import RunStep, in_process
from napari_memseg.inference.forecast import Forecast, check_disk, forecast
from napari_memseg.inference.plan import Plan
from napari_memseg.inference.run_card import MIXED, has_run_card, note_on_run_card, read_run_card
from napari_memseg.io.formats import open_volume
from napari_memseg.workflows.need import order_of_need
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.run_report import counts_of, ending, result_of, said_of, table
from napari_memseg.workflows.train_job import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_memseg.io.volume import Volume


@dataclass(frozen=True, slots=True)
class Cluster:
    """Who computes, if not this process.

    Raises
    ------
    InputError
        If both are given.
    """

    scheduler: str | None = None
    """Address of a dask scheduler, ``tcp://host:8786``."""
    workers: int | None = None
    """So many processes of this machine, one per GPU."""

    def __post_init__(self) -> None:
        if self.scheduler is not None and self.workers is not None:
            raise InputError("Give --scheduler for a cluster that is there, or --workers to start one here.")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"{self.workers} workers compute nothing. Choose 1 or more.")


def segment(
    image: str | Path,
    destination: Path,
    model: Path,
    config: SegmentConfig | None = None,
    *,
    restart: bool = False,
    control: Control | None = None,
    cluster: Cluster | None = None,
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
        Tile, halo, precision, device, memory, level, box.
    restart : bool
        Discard an unfinished or finished run at ``destination`` first.
    control : Control, optional
        To pause, cancel, or look at a place first.
    cluster : Cluster, optional
        Compute with the workers of a cluster; by default in this process.

    Yields
    ------
    Progress
        First the forecast, as a message; one per finished block; the last carries the result.

    Raises
    ------
    RunMismatchError
        If ``destination`` holds a run of another image, model or plan.
    Cancelled
        If ``control`` was asked to cancel; what is finished stays.
    """
    volume, config = open_volume(image), config or SegmentConfig()
    how: dict[str, Any] = {"sharers": _sharers(cluster), "control": control}
    plan = make_plan(model, volume, destination, config, fresh=restart, **how)
    expected = _expected(plan, volume, restart, control)
    yield from _follow(plan, volume, expected, restart=restart, control=control, cluster=cluster)


def segment_session(
    session: Path,
    model: Path,
    config: SegmentConfig | None = None,
    *,
    restart: bool = False,
    control: Control | None = None,
    cluster: Cluster | None = None,
) -> Iterator[Progress]:
    """Segment a session's image into a new run, or go on with its unfinished one of the same kind.

    Where there is an older run, what is needed most is predicted first (``order_of_need``). Parameters and
    errors as for ``segment``. Corrections are not touched.
    """
    control = control or Control()
    with Session.open(session, read_only=True) as opened:
        control.need = order_of_need(opened)
        how: dict[str, Any] = {"sharers": _sharers(cluster), "control": control}
        plan = _plan_in(opened, model, config or SegmentConfig(), restart, **how)
        image, is_new = opened.image, Path(plan.destination) == opened.path
        expected = _expected(plan, image, restart, control)
        control.raise_if_cancelled()
        if is_new:  # numbered last, so that who cancels before leaves no empty run behind
            plan = _claimed(plan, opened.new_run()[1])
    yield from _follow(plan, image, expected, restart=restart, control=control, cluster=cluster)


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
    control = control or Control()
    with Session.open(session, read_only=True) as opened:
        control.need = order_of_need(opened)
        path = opened.path / "runs" / run
        image = opened.image
    try:
        plan = Plan.from_json(read_run_card(path)["plan"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"The plan of run {run} cannot be read by this version ({error}). Begin another run."
        ) from error
    plan = replace(plan, destination=str(path))
    yield from _follow(plan, image, _expected(plan, image, False, control), control=control)


def forecast_session(
    session: Path, model: Path, config: SegmentConfig | None = None, *, control: Control | None = None
) -> Iterator[Progress]:
    """Say what segmenting a session's image would take; nothing is begun.

    Parameters and errors as for ``segment``.

    Yields
    ------
    Progress
        Once, with the forecast as a message and, by name, as a result.
    """
    with Session.open(session, read_only=True) as opened:
        config = replace(config or SegmentConfig(), level=opened.level)
        image = opened.image
        plan = make_plan(model, image, opened.path, config, control=control)
    expected = forecast(plan, image, control)
    result = {**asdict(expected), "tile": list(plan.core), "arithmetic": str(plan.arithmetic)}
    message = table(plan, expected)
    yield Progress(stage="forecast", done=1, total=1, message=message, result=result)


def _plan_in(session: Session, model: Path, config: SegmentConfig, restart: bool, **how: Any) -> Plan:
    """Find the unfinished run of a session that is of the same plan; else plan one that has no folder yet."""
    if config.level not in (None, session.level):
        raise InputError(
            f"The session works at level {session.level}, so its runs do too; got level {config.level}. "
            "Leave the level out, or segment the image by its path."
        )
    config = replace(config, level=session.level)
    for run in [] if restart else _unfinished(session):
        plan = make_plan(model, session.image, run, config, **how)
        if plan.id == read_run_card(run)["id"]:
            return plan
    plan = make_plan(model, session.image, session.path, config, **how)
    if unknown := sorted(set(plan.classes.ids) - set(session.classes.known_ids)):
        raise InputError(
            f"The model tells apart the classes {list(plan.classes.ids)}, and the session at {session.path} "
            f"has no class {', '.join(map(str, unknown))}. Add it there first, or choose another model."
        )
    return plan


def _claimed(plan: Plan, run: Path) -> Plan:
    """Return a plan for a run of a session, with a model of its own: others may be replaced or set aside."""
    kept = run.with_name(f"{run.name}{SUFFIX}")
    try:
        os.link(plan.model, kept)
    except OSError:  # on another disk, or one without hard links
        shutil.copyfile(plan.model, kept)
    return replace(plan, destination=str(run), model=str(kept))


def _unfinished(session: Session) -> list[Path]:
    """Return the runs that were begun and not finished, the newest first; none that read two images."""
    begun = [run.path for run in reversed(session.runs()) if has_run_card(run.path) and not run.is_finished]
    return [path for path in begun if not read_run_card(path).get(MIXED)]


def _sharers(cluster: Cluster | None) -> int:
    """Return how many processes share the memory and the cores of this machine."""
    return 1 if cluster is None or cluster.workers is None else cluster.workers


def _follow(
    plan: Plan,
    image: Volume,
    expected: Forecast,
    *,
    restart: bool = False,
    control: Control | None = None,
    cluster: Cluster | None = None,
) -> Iterator[Progress]:
    """Do a plan: say what it will take, tell each block and the time left, then what it came to."""
    began = time.monotonic()
    yield Progress(stage="forecast", done=1, total=1, message=table(plan, expected))
    for step in _execute(plan, image, restart, control or Control(), cluster):
        if step.block is None:
            note_on_run_card(Path(plan.destination), forecast=asdict(expected))
        fresh = step.done + step.failed - step.resumed
        pace = (time.monotonic() - began) / fresh if fresh else None
        left = None if pace is None else pace * (step.total - step.done - step.failed)
        yield Progress(
            stage="segment",
            done=step.done,
            total=step.total,
            box=None if step.reason else step.box,
            seconds_left=left,
            message=said_of(step, plan),
            values=counts_of(step),
        )
    result = result_of(plan, expected, time.monotonic() - began, step)
    if step.done > step.resumed or "measured" not in read_run_card(Path(plan.destination)):
        note_on_run_card(Path(plan.destination), measured=result)
    yield Progress(stage="segment", done=step.done, total=step.total, result=result, message=ending(result))


def _expected(plan: Plan, image: Volume, restart: bool, control: Control | None) -> Forecast:
    """Return the forecast that a run began with, or make one and see that there is room."""
    destination = Path(plan.destination)
    if has_run_card(destination) and not restart:
        known = Forecast.from_json(read_run_card(destination).get("forecast"))
        if known is not None:
            return known
    expected = forecast(plan, image, control)
    check_disk(plan, expected)
    return expected


def _execute(
    plan: Plan, image: Volume, restart: bool, control: Control, cluster: Cluster | None
) -> Iterator[RunStep]:
    if cluster is None:
        return in_process(plan, control, restart=restart, image=image)
    from napari_memseg.inference.cluster import on_cluster

    return on_cluster(
        plan, control, restart=restart, scheduler=cluster.scheduler, workers=cluster.workers, image=image
    )

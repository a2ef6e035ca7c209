"""Jobs in place of training and segmenting, where those are not the point: no torch, a moment each."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zarr

from napari_memseg.annotation.session import Session
from napari_memseg.errors import DeviceMemoryError, InputError
from napari_memseg.geometry import Box, Zyx, ceil_div, cell_box, cells, zyx
from napari_memseg.inference.control import Control
from napari_memseg.inference.run_card import begin_run_card, finish_run_card
from napari_memseg.models.registry import names
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.train_job import TrainJob, discard, remember

BLOCKS = 8
"""Of a run: halves along each axis."""
STOPS_AT = 5
"""Step at which a training waits to be stopped, if it has more than ``PATIENT`` steps."""
PATIENT = 10
EMPTY = 3
"""Blocks at the end that a run skips if it skips any."""
NEEDS_GIB = 2.0
"""Memory of a run that may take what it likes."""
PACE = 0.15
"""Seconds that a block takes: more than the viewer waits between two looks."""


def forecast(session: Path, model: Path, config: Any) -> Iterator[Progress]:
    """Note what was asked, wait while a file stands beside the model, refuse where memory is short."""
    with model.with_suffix(".asked").open("a") as asked:
        asked.write(f"{config.skip_below} {config.max_memory_gib} {config.box} {config.confidence}\n")
    _wait(Control(), model.with_suffix(".measuring"))
    if model.stem == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if (config.max_memory_gib or NEEDS_GIB) < NEEDS_GIB:
        raise DeviceMemoryError(f"The smallest tile needs {NEEDS_GIB} GiB, more than the memory there is.")
    yield Progress(stage="forecast", done=1, total=1, result=_forecast(config))


def _forecast(config: Any) -> dict[str, Any]:
    numbers = {"tiles": BLOCKS, "redundancy": 1.449, "seconds": 120.0, "disk_gib": 0.12}
    return {**numbers, "memory_gib": config.max_memory_gib or 1.62}


def segment(
    session: Path, model: Path, config: Any, *, restart: bool = False, control: Control
) -> Iterator[Progress]:
    """Predict class 1; wait in the middle while a file stands beside the model. A "faulty" one fails once."""
    if model.stem == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    with Session.open(session, read_only=True) as opened:
        shape, run = opened.shape, opened.new_run()[1]
    half = ceil_div(shape, (2, 2, 2))
    array, coarse = _level(run, shape, half, 0), _level(run, half, half, 1)
    (run / "memseg").mkdir()
    begin_run_card(run, "stand-in", {})
    yield Progress(stage="forecast", done=1, total=1, message="a table")
    yield Progress(stage="segment", done=0, total=BLOCKS, message=f"into {run}")
    values: dict[str, float] = {}
    for done, index in enumerate(cells(Box.whole(shape), half), start=1):
        _wait(control, model.with_suffix(".hold") if done > BLOCKS // 2 else None)
        box = cell_box(index, half, shape)
        if model.stem == "faulty" and done == 2:
            values = {"failed": 1}
            message = f"failed at {box}: it holds no numbers"
            yield Progress(stage="segment", done=done - 1, total=BLOCKS, message=message, values=values)
            continue
        if config.skip_below is not None and done > BLOCKS - EMPTY:
            values = {**values, "skipped": done - BLOCKS + EMPTY}
        array[box.slices] = 0 if "skipped" in values else 1
        done -= "failed" in values
        yield Progress(stage="segment", done=done, total=BLOCKS, box=box, values=values)
    coarse[:] = 1
    finish_run_card(run, result={"blocks": BLOCKS}, seconds=1.0)
    result = _result(box, values)
    yield Progress(stage="segment", done=done, total=BLOCKS, result=result, values=values)


def _result(box: Box, values: dict[str, float]) -> dict[str, Any]:
    counts = {f"tiles_{name}": values.get(name, 0) for name in ("skipped", "failed")}
    taken = {"seconds": 1.0, "forecast_seconds": 2.0, "peak_memory_gib": 1.5, "forecast_memory_gib": 1.62}
    return {"voxels": box.size, "device": "cpu", "tiles": BLOCKS, "resumed": False, **counts, **taken}


def train(job: TrainJob, *, control: Control) -> Iterator[Progress]:
    """Lose ever less; a long one waits to be stopped, and goes to its end when it is continued."""
    assert job.session is not None
    assert job.learning.steps is not None
    state, steps = job.out.with_name(f"{job.out.stem}.net.training"), job.learning.steps
    first = int(state.read_text()) + 1 if job.resume else 1
    with Session.open(job.session, read_only=True) as opened:
        remember(job, job.seq or opened.corrections.seq)
    for step in range(first, steps + 1):
        state.write_text(str(step))
        yield Progress(stage="train", done=step, total=steps, values={"loss": 1 / step})
        while step == STOPS_AT and steps > PATIENT:
            control.raise_if_cancelled()
            time.sleep(0.01)
    discard(job.out)
    job.out.write_text(f"from {job.init and job.init.stem}")
    result = {"checkpoint": str(job.out), "steps": steps, "best_val_dice": None}
    yield Progress(stage="train", done=steps, total=steps, result=result)


def describe(device: str = "auto") -> Iterator[Progress]:
    """Describe every network alike, but for the number of its phases."""
    models = [
        {
            "name": name,
            "title": f"The title of {name}",
            "advice": "Take it at leisure.",
            "parameters": 1_234_567,
            "halo_recommended": (16, 16, 8),
            "phases": 3 if name == "cascade" else 1,
            "paper": "Wang et al., MIDL 2022, arXiv:2205.15941",
        }
        for name in names()
    ]
    yield Progress(stage="describe", done=1, total=1, result={"device": "a CPU", "models": models})


def describe_in_vain(device: str = "auto") -> Iterator[Progress]:
    """Find no device."""
    raise InputError("There is no device 'tpu' here.")
    yield


def costs(networks: list[str], device: str, *, control: Control) -> Iterator[Progress]:
    """Tell what a network costs, once a file that the environment names is gone; of two it is too much."""
    (name,) = networks
    yield Progress(stage="measure", done=0, total=1, message=name)
    _wait(control, Path(os.environ.get("MEMSEG_MEASURING", "nowhere")))
    if name == "o_net":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "oss_net":
        raise DeviceMemoryError("Memory does not suffice to measure oss_net.")
    numbers = {"train_memory_gib": 3.1, "train_seconds_per_step": 4.0, "segment_seconds_per_megavoxel": 0.25}
    result = {"costs": [{"name": name, "device": "cpu", **numbers}]}
    yield Progress(stage="measure", done=1, total=1, result=result)


def _level(run: Path, shape: Zyx, chunks: Zyx, level: int) -> Any:
    return zarr.create_array(
        run / str(level), shape=shape, chunks=zyx(map(min, chunks, shape)), dtype="uint8", fill_value=255
    )


def _wait(control: Control, hold: Path | None) -> None:
    time.sleep(PACE)
    while hold is not None and hold.exists():
        control.raise_if_cancelled()
        time.sleep(0.01)
    control.wait_if_paused()
    control.raise_if_cancelled()

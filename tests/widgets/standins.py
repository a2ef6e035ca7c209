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
from napari_memseg.geometry import Box, Zyx, ceil_div, cell_box, cells, zyx
from napari_memseg.inference.control import Control
from napari_memseg.inference.run_card import begin_run_card, finish_run_card
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.train_job import TrainJob, discard, remember

BLOCKS = 8
"""Of a run: halves along each axis."""
STOPS_AT = 5
"""Step at which a training waits to be stopped, if it has more than ``PATIENT`` steps."""
PATIENT = 10
PACE = 0.15
"""Seconds that a block takes: more than the viewer waits between two looks."""


def segment(
    session: Path, model: Path, config: Any, *, restart: bool = False, control: Control
) -> Iterator[Progress]:
    """Predict class 1 everywhere; stop in the middle while a file stands beside the model."""
    if model.stem == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    with Session.open(session, read_only=True) as opened:
        shape, run = opened.shape, opened.new_run()[1]
    half = ceil_div(shape, (2, 2, 2))
    array, coarse = _level(run, shape, half, 0), _level(run, half, half, 1)
    (run / "memseg").mkdir()
    begin_run_card(run, "stand-in", {})
    yield Progress(stage="segment", done=0, total=BLOCKS)
    for done, index in enumerate(cells(Box.whole(shape), half), start=1):
        _wait(control, model.with_suffix(".hold") if done > BLOCKS // 2 else None)
        box = cell_box(index, half, shape)
        array[box.slices] = 1
        yield Progress(stage="segment", done=done, total=BLOCKS, box=box)
    coarse[:] = 1
    finish_run_card(run, blocks=BLOCKS, seconds=1.0)
    result = {"voxels": box.size, "seconds": 1.0, "device": "cpu"}
    yield Progress(stage="segment", done=BLOCKS, total=BLOCKS, result=result)


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

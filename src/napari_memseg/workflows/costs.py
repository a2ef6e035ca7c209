"""What each network costs on this machine, measured on made-up voxels in a moment.

A training step is taken with smaller patches than its own, and forecast for those. Most of what it keeps
grows with the patch, and some does not, as what is made of a whole volume: a second, still smaller patch
tells them apart. Time is taken to grow as memory does::

    kept │                           ● forecast: own patch
         │              ● edge
         │       ● 2/3 edge
         └───────────────────────────── voxels of a patch

To segment is timed on one box without halos; stages that run once a volume do not count. Weights are random,
which changes the time of networks that look only where they have found something (OSS-Net). All in float32,
by as many threads as torch takes.
"""

from __future__ import annotations

from math import lcm, prod
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from napari_memseg.errors import DeviceMemoryError, InputError
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.inference.control import Control
from napari_memseg.inference.shortage import is_shortage
from napari_memseg.models import registry
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.device import choose_device
from napari_memseg.training.memory import BYTES_A_WEIGHT, counted, kept_for_backward, line_through
from napari_memseg.training.optimisation import Stepper, only_training, set_training_mode
from napari_memseg.training.rehearsal import rehearse, run_stages, wait_for
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from napari_memseg.models.base import Batch, Model, TrainingPhase

EDGES = {"cpu": 48, "cuda": 96, "mps": 96}
"""Longest edge of a patch or box that is measured, in voxels: less does not keep a GPU busy."""
LONG_SECONDS = 2.0
"""What takes longer is measured once."""
TIMES = 3
"""That all else is measured; the median is told."""
CLASSES = ClassTable.from_ids([1, 2])
"""Three with background, as papers count."""
SAMPLES = 2
"""The most patches of a step that is measured; a batch norm wants more than one."""
GIB = 2**30


def costs(
    names: Sequence[str] | None = None,
    device: str = "auto",
    *,
    edge: int | None = None,
    control: Control | None = None,
) -> Iterator[Progress]:
    """Measure what networks cost to train and to segment with, as they are by default.

    Parameters
    ----------
    names : sequence of str, optional
        Of networks; all by default.
    device : str
        "auto", or a device as ``choose_device`` knows it.
    edge : int, optional
        Longest edge of what is measured, in voxels; by default as large as the device is quick.
    control : Control, optional
        To cancel it.

    Yields
    ------
    Progress
        Before each network, named by ``message``, and at the end with ``costs``, a list of rows: ``name``,
        ``device``, ``train_memory_gib`` (what a step of its own patches keeps, with weights, gradient and
        moments; of the phase that takes most), ``train_seconds_per_step`` (of the longest phase) and
        ``segment_seconds_per_megavoxel`` (all tiled stages, without halos).

    Raises
    ------
    InputError
        If there is no such network, no such device, or nothing to measure on.
    DeviceMemoryError
        If memory does not suffice.
    Cancelled
        If ``control`` was asked to cancel.
    """
    chosen, where = list(registry.names() if names is None else names), torch.device(choose_device(device))
    largest = EDGES[where.type] if edge is None else edge
    if largest < 2:
        raise InputError(f"Nothing can be measured on {edge=} voxels. Choose 2 or more, or leave it out.")
    control = control or Control()
    rows: list[dict[str, Any]] = []
    for name in chosen:
        control.raise_if_cancelled()
        yield Progress(stage="measure", done=len(rows), total=len(chosen), message=name)
        rows.append({"name": name, "device": str(where), **_row(name, where, largest, control)})
    yield Progress(stage="measure", done=len(rows), total=len(chosen), result={"costs": rows})


def _row(name: str, device: torch.device, edge: int, control: Control) -> dict[str, float]:
    """Measure one network."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = registry.create_model(name, CLASSES).to(device)
            steps = [_step(model, phase, edge, control) for phase in model.training_plan()]
            kept, seconds = (max(most) for most in zip(*steps, strict=True))
            return {
                "train_memory_gib": (kept + BYTES_A_WEIGHT * model.parameter_count) / GIB,
                "train_seconds_per_step": seconds,
                "segment_seconds_per_megavoxel": _pass(model.eval(), edge, control),
            }
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        raise DeviceMemoryError(
            f"Memory of {device} does not suffice to measure {name} on {edge} voxels along an edge. "
            "Free some memory, or choose another device."
        ) from error


def _step(model: Model, phase: TrainingPhase, edge: int, control: Control) -> tuple[float, float]:
    """Return the bytes that a step of a phase keeps, and its seconds, forecast for its own patches."""
    own, samples = phase.sample.patch, min(phase.recipe.batch, SAMPLES)
    large, small = _at_most(own, edge), _at_most(own, edge * 2 // 3)
    with only_training(model, phase.parameters()):
        stepper = Stepper.build(model, phase, phase.recipe, device=model.device, amp=False)
        batch = rehearse(phase, small, len(CLASSES), samples=samples, device=model.device)
        set_training_mode(model)
        few = kept_for_backward(lambda: phase.step(batch).value)
        control.raise_if_cancelled()
        batch = rehearse(phase, large, len(CLASSES), samples=samples, device=model.device)
        with counted() as kept:
            seconds = _timed(stepper, batch)
        if seconds < LONG_SECONDS:
            seconds = _median(lambda: _timed(stepper, batch), control)
    forecast = line_through((prod(small), few), (prod(large), kept.bytes), prod(own))
    times = phase.recipe.batch / samples
    return times * forecast, times * seconds * forecast / kept.bytes


def _timed(stepper: Stepper, batch: Batch) -> float:
    """Return the seconds of one step, with its gradient and the change of the weights."""
    began = perf_counter()
    stepper.step(batch, rate=0.0, seed=0)
    wait_for(stepper.device)
    return perf_counter() - began


def _pass(model: Model, edge: int, control: Control) -> float:
    """Return the seconds of segmenting a million voxels; on a smaller box where even that takes long."""
    tiled = [stage.name for stage in model.stages if not stage.whole]
    step = zyx(lcm(*along) for along in zip(*(stage.multiple for stage in model.stages), strict=True))

    def seconds_of(shape: Zyx) -> float:
        took = run_stages(model, shape)
        return sum(took[name] for name in tiled)

    small, large = (Box.whole(zyx([n] * 3)).snap(step).shape for n in (edge * 2 // 3, edge))
    control.raise_if_cancelled()
    seconds = seconds_of(small)
    if seconds > LONG_SECONDS:
        return seconds / prod(small) * 1e6
    return _median(lambda: seconds_of(large), control) / prod(large) * 1e6


def _median(measure: Callable[[], float], control: Control) -> float:
    """Measure three times, but what takes long only once."""
    found: list[float] = []
    while len(found) < TIMES and not (found and found[-1] > LONG_SECONDS):
        control.raise_if_cancelled()
        found.append(measure())
    return median(found)


def _at_most(shape: Zyx, edge: int) -> Zyx:
    return zyx(min(n, edge) for n in shape)

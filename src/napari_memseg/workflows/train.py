"""Train a network on pairs of image and labels, or on what a person corrected in a session.

A model says in which phases it learns. Before a phase that builds on earlier
stages, those stages run over the training volumes by the ordinary engine, and
what they wrote is read patch by patch::

    phase 1 ──> [run its stages over each volume] ──> phase 2 ──> ... ──> one checkpoint

Everything lies beside the checkpoint until it is finished, so that a training that
was interrupted or killed goes on with ``resume``. Another one in its place discards
it only when asked to ``restart``.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError
from napari_memseg.geometry import zyx
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.control import Control
from napari_memseg.inference.draft import make_plan
from napari_memseg.inference.executors import in_process
from napari_memseg.inference.preview import Preview
from napari_memseg.io.formats import open_volume
from napari_memseg.io.intensity import sample_window
from napari_memseg.models.checkpoint import Card, load_checkpoint, save_checkpoint
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.intensity import Window
from napari_memseg.models.registry import create_model
from napari_memseg.training.agreement import check_dtypes, check_voxel_sizes
from napari_memseg.training.checkpoints import CheckpointSpec, TrainingState
from napari_memseg.training.leftovers import refuse_unfinished
from napari_memseg.training.loop import train_phase
from napari_memseg.training.sources import TrainingVolume, VolumeLabels, ZarrArray, count_ids
from napari_memseg.workflows.previewing import Previews
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.room import batch_that_fits
from napari_memseg.workflows.train_job import (
    DEFAULT_ARCHITECTURE,
    TrainJob,
    discard,
    remember,
    seq_of,
    stages_folder,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from napari_memseg.io.volume import Volume
    from napari_memseg.models.base import Model, TrainingPhase
    from napari_memseg.training.config import TrainConfig

SAME_GREYS = 1.5
"""Images whose windows differ by a larger factor were not taken on one scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Material:
    """What there is to learn from."""

    volumes: Sequence[TrainingVolume]
    validation: Sequence[TrainingVolume]
    classes: ClassTable


def train(job: TrainJob, *, control: Control | None = None) -> Generator[Progress, None, None]:
    """Train all phases of a model and write its checkpoint.

    Parameters
    ----------
    job : TrainJob
        What, on what, and where to.
    control : Control, optional
        Cancelling stops after a step; ``resume`` goes on from there. What is looked at is previewed.

    Yields
    ------
    Progress
        One per step, with the loss, and Dice per class where the step validates; pieces of a preview, where
        somebody looks; the last carries the result.

    Raises
    ------
    InputError
        If an unfinished training is there, and ``job`` says neither to resume it nor to restart;
        if the model cannot be put where it should go; if images, labels and ``init`` do not fit together.
    TrainingError
        If there is nothing to learn from, or learning diverges. No checkpoint is replaced.
    RunMismatchError
        If the training to resume is another one.
    Cancelled
        If ``control`` was asked to cancel.
    """
    control = control or Control()
    _check_folder(job.out.parent)
    if not (job.resume or job.restart):
        refuse_unfinished(job.out)
    with ExitStack() as stack:
        material, seq = _open_material(job, stack)
        model, init = _build(job, material.classes)
        check_dtypes(
            [*material.volumes, *material.validation], None if init is None else init.window, job.init
        )
        material, window, own = _see(material, init)
        card = _card(model, material, window, own_window=own)
        spec = CheckpointSpec(out=job.out, card=card, init="" if init is None else init.sha256)
        job.out.parent.mkdir(parents=True, exist_ok=True)
        if not job.resume:
            discard(job.out)
        if seq is not None:
            remember(job, seq)
        last: Progress | None = None
        for phase in model.training_plan():
            material = yield from _prepare(job, model, phase, material, spec, control)
            with closing(_learn(job, model, phase, material, spec, control)) as steps:
                for step in steps:
                    last = step if "loss" in step.values else last
                    yield step
        yield _finish(job, model, spec, last)


def _check_folder(folder: Path) -> None:
    """Make sure that a folder can be made and written to, before hours are spent for it."""
    above = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        wrong = "cannot be written to" if above.is_dir() else "is no folder"
        raise InputError(f"The model cannot be put into {folder}: {above} {wrong}. Choose another --out.")


def _open_material(job: TrainJob, stack: ExitStack) -> tuple[_Material, int | None]:
    """Return what there is to learn from; of a session with the last stroke that counts."""
    if job.session is not None:
        session = stack.enter_context(Session.open(job.session, read_only=True))
        seq = job.seq if job.seq is not None or not job.resume else seq_of(job.out)
        snapshot = stack.enter_context(session.snapshot(seq=seq))
        volumes = [TrainingVolume(session.image, session.level, snapshot)]
        validation = _paired(job, job.val_pairs, session.level)
        check_voxel_sizes([*volumes, *validation])
        return _Material(volumes=volumes, validation=validation, classes=session.classes), snapshot.seq
    volumes, validation = (_paired(job, pairs, job.level or 0) for pairs in (job.pairs, job.val_pairs))
    check_voxel_sizes([*volumes, *validation])
    classes = ClassTable.from_ids(i for volume in volumes for i in count_ids(volume.labels))
    return _Material(volumes=volumes, validation=validation, classes=classes), None


def _paired(job: TrainJob, pairs: Sequence[tuple[str, str]], level: int) -> list[TrainingVolume]:
    return [
        TrainingVolume(open_volume(image), level, _labels(open_volume(labels), level, job.unlabelled))
        for image, labels in pairs
    ]


def _labels(labels: Volume, level: int, unlabelled: int | None) -> VolumeLabels:
    """Take labels with a pyramid of their own at the image's level, others as they are."""
    return VolumeLabels(labels, level if 0 <= level < len(labels.arrays) else 0, unlabelled)


def _build(job: TrainJob, classes: ClassTable) -> tuple[Model, Card | None]:
    """Return the network to begin with: a new one, or that of the checkpoint to start from, with its card."""
    torch.manual_seed(job.learning.seed)
    if job.init is None:
        return create_model(job.architecture or DEFAULT_ARCHITECTURE, classes, **job.arguments), None
    model, card = load_checkpoint(job.init)
    if card.classes.ids != classes.ids:
        raise InputError(
            f"{job.init} tells apart the classes {list(card.classes.ids)}, but these labels hold "
            f"{list(classes.ids)}. Start from a model of the same classes, or from none."
        )
    return model, card


def _card(model: Model, material: _Material, window: Window, *, own_window: bool) -> Card:
    first = material.volumes[0]
    return Card(
        architecture=model.architecture,
        arguments=model.arguments,
        classes=material.classes,
        window=window,
        own_window=own_window,
        voxel_size=first.voxel_size,
        unit=first.image.unit,
    )


def _see(material: _Material, init: Card | None) -> tuple[_Material, Window, bool]:
    """Choose the grey values that become 0 and 1: those of all images, or in each its own where they differ.

    Returns
    -------
    material, window, own
        With a window for every volume if ``own``; the mean of the windows, or that of ``init``.
    """
    if init is not None and not init.own_window:
        return material, init.window, False
    windows = [_window(volume) for volume in material.volumes]
    spans = [window.high - window.low for window in windows]
    lows, highs = zip(*((window.low, window.high) for window in windows), strict=True)
    mean = Window(sum(lows) / len(lows), sum(highs) / len(highs), windows[0].dtype)
    if init is None and max(spans) <= SAME_GREYS * min(spans):
        return material, mean, False
    training = [replace(v, window=window) for v, window in zip(material.volumes, windows, strict=True)]
    validation = [replace(volume, window=_window(volume)) for volume in material.validation]
    return replace(material, volumes=training, validation=validation), mean, True


def _window(volume: TrainingVolume) -> Window:
    return Window(*sample_window(volume.image, volume.level), volume.image.dtype.name)


def _prepare(
    job: TrainJob,
    model: Model,
    phase: TrainingPhase,
    material: _Material,
    spec: CheckpointSpec,
    control: Control,
) -> Generator[Progress, None, _Material]:
    """Run the stages that a phase needs over every volume; return the volumes with what they wrote."""
    if not phase.needs:
        return material
    checkpoint = stages_folder(job.out) / f"{phase.name}.safetensors"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(checkpoint, model, spec.card)
    fresh: dict[str, list[TrainingVolume]] = {"train": [], "validate": []}
    for role, volumes in (("train", material.volumes), ("validate", material.validation)):
        for number, volume in enumerate(volumes):
            folder = checkpoint.with_name(f"{phase.name}-{role}-{number}.ome.zarr")
            fresh[role].append((yield from _run_stages(job, phase, volume, checkpoint, folder, control)))
    return replace(material, volumes=fresh["train"], validation=fresh["validate"])


def _run_stages(
    job: TrainJob,
    phase: TrainingPhase,
    volume: TrainingVolume,
    checkpoint: Path,
    folder: Path,
    control: Control,
) -> Generator[Progress, None, TrainingVolume]:
    """Run the engine up to the last stage that a phase needs; return the volume with its arrays."""
    config = SegmentConfig(level=volume.level, device=job.learning.device)
    plan = make_plan(checkpoint, volume.image, folder, config, until=[stage.name for stage in phase.needs])
    for step in in_process(plan, control):
        yield Progress(stage=f"prepare {phase.name}", done=step.done, total=step.total, box=step.box)
    arrays = {name: ZarrArray(*plan.open_array(name)) for name in phase.sample.arrays}
    return replace(volume, arrays=arrays)


def _learn(
    job: TrainJob,
    model: Model,
    phase: TrainingPhase,
    material: _Material,
    spec: CheckpointSpec,
    control: Control,
) -> Generator[Progress, None, None]:
    """Train one phase, telling each step."""
    learning = _in_the_room(job, model, phase, material, spec)
    if learning.batch != job.learning.over(phase.recipe).batch:
        text = f"{learning.batch} patches a step, since memory does not suffice for those of the recipe"
        yield Progress(stage=f"train {phase.name}", done=0, total=learning.steps or 1, message=text)
    steps = train_phase(
        model,
        phase,
        material.volumes,
        material.validation,
        spec.card.window,
        learning,
        spec,
        resume=job.resume,
        stop=lambda: control.cancelled,
    )
    previews = _previews(model, phase, material, spec, control)
    for step in steps:
        values = {"loss": step.loss, **{f"dice {i}": dice for i, dice in (step.val_dice or {}).items()}}
        left = step.seconds / step.step * (step.steps - step.step)
        yield Progress(
            stage=f"train {phase.name}", done=step.step, total=step.steps, seconds_left=left, values=values
        )
        if previews is not None:
            yield from previews.while_learning()
        control.wait_if_paused()
    control.raise_if_cancelled()


def _previews(
    model: Model, phase: TrainingPhase, material: _Material, spec: CheckpointSpec, control: Control
) -> Previews | None:
    """Return what shows the first volume to whoever looks; before the last phase there is no answer yet."""
    if phase.name != model.training_plan()[-1].name:
        return None
    volume = material.volumes[0]
    preview = Preview(model, volume.image, volume.level, volume.window or spec.card.window)
    return Previews(preview, volume.shape, control)


def _in_the_room(
    job: TrainJob, model: Model, phase: TrainingPhase, material: _Material, spec: CheckpointSpec
) -> TrainConfig:
    """Return how to learn, with as many patches a step as fit, or as an interrupted training began with."""
    state = spec.state(phase.name)
    if job.resume and state.exists():
        begun = TrainingState.load(state).identity.get("batch")
        return replace(job.learning, batch=job.learning.batch or begun)
    longest = zyx(max(lengths) for lengths in zip(*(v.shape for v in material.volumes), strict=True))
    return replace(job.learning, batch=batch_that_fits(model, phase, job.learning, longest))


def _finish(job: TrainJob, model: Model, spec: CheckpointSpec, last: Progress | None) -> Progress:
    """Put the model in its place, remove what it took, and tell what it came to."""
    phases = [phase.name for phase in model.training_plan()]
    card = spec.publish(model, phases)
    discard(job.out)
    trained = [card.training[phase] for phase in phases if phase in card.training]
    steps = sum(phase["steps_done"] for phase in trained)
    return Progress(
        stage="train",
        done=steps,
        total=steps,
        result={
            "steps": steps,
            "seconds": sum(phase["seconds"] for phase in trained),
            "final_loss": last.values["loss"] if last else None,
            "best_val_dice": card.scores.get("mean_dice"),
            "val_dice_before": trained[-1].get("mean_dice_before") if trained else None,
            "parameters": model.parameter_count,
            "training_memory_gib": max((phase["memory_gib"] for phase in trained), default=None),
            "checkpoint": str(job.out),
        },
    )

"""The main job once, on a bundled microCT volume, without GUI or GPU.

Human trabecular bone at 19.5 µm (Living Human Digital Library), with its published
mask: three slices of it play the annotator, the rest is what the result is scored
on::

    open ─> annotate 3 slices ─> train ─> segment tile by tile ─> correct ─> evaluate ─> export ─> report
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops
from skimage.morphology import disk

from napari_memseg.annotation.session import Session
from napari_memseg.data import bundled
from napari_memseg.errors import InputError
from napari_memseg.evaluation.metrics import confusion
from napari_memseg.geometry import Box
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.resources import peak_rss_gib
from napari_memseg.io.files import atomic_write
from napari_memseg.io.formats import open_volume
from napari_memseg.models.classes import ClassTable
from napari_memseg.training.loop import TrainConfig
from napari_memseg.workflows.child_process import child_process, start_child
from napari_memseg.workflows.export import export
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.report import draw_contours, draw_errors, draw_learning, write_report
from napari_memseg.workflows.segment import segment_session
from napari_memseg.workflows.train import train
from napari_memseg.workflows.train_job import TrainJob

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.evaluation.metrics import Readable
    from napari_memseg.io.volume import Volume

BONE = 1
ANNOTATED = (30, 80, 130)
"""Slices that the annotator paints whole."""
CORRECTED = 105
"""The slice on which the annotator mends the prediction."""
SHOWN = 55
"""A slice that nobody painted on."""
DABS = 12
"""How many brush dabs the correction takes."""
BRUSH = disk(6).astype(bool)
STEPS = 120
LEARNING_RATE = 1e-2
TILE = (64, 64, 64)
MEMORY_CEILING_GIB = 1.0
"""What the process that segments may take, Python and torch included."""


@dataclass(slots=True)
class _Demo:
    """What the steps of the demo hand on."""

    folder: Path
    image: Volume
    truth: Volume
    facts: dict[str, Any] = field(default_factory=dict)
    losses: list[tuple[int, float]] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)

    @property
    def session(self) -> Path:
        return self.folder / "session"

    @property
    def model(self) -> Path:
        return self.session / "models" / "bone.safetensors"


def demo(folder: Path) -> Iterator[Progress]:
    """Open, train, segment, correct, evaluate and export the bundled bone.

    Parameters
    ----------
    folder : Path
        A new or empty folder, for the session, the export, the pictures and ``report.html``.

    Yields
    ------
    Progress
        Of every step; the last carries ``dice`` (bone, on voxels that nobody painted), ``seconds``,
        ``peak_rss_gib`` (of the larger of its two processes) and ``report``.

    Raises
    ------
    InputError
        If the folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty. Name a new folder: napari-memseg demo NEW_FOLDER.")
    start = time.monotonic()
    child = start_child()
    demo = _Demo(folder, open_volume(bundled("trabecular_bone.ome.tif")), _truth())
    try:
        for step in (_annotate, _train, _segment, _correct, _export):
            yield from step(demo)
    finally:
        child.close()
    demo.facts["peak memory of the rest, GiB"] = peak_rss_gib() or 0.0
    demo.facts["seconds in all"] = time.monotonic() - start
    yield Progress(stage="demo", done=1, total=1, result=_report(demo))


def _truth() -> Volume:
    return open_volume(bundled("trabecular_bone_labels.ome.tif"))


def _annotate(demo: _Demo) -> Iterator[Progress]:
    """Paint three slices of the published mask: bone as bone, the rest as background."""
    classes = ClassTable.from_ids([BONE], {BONE: "bone"})
    with Session.create(demo.session, demo.image, classes) as session:
        for number, z in enumerate(ANNOTATED, start=1):
            opinion = np.where(_plane(demo.truth, z) == BONE, BONE, classes.background_opinion)
            with session.overlay.stroke(tool="slice"):
                session.overlay[z] = opinion
            yield Progress(stage="annotate", done=number, total=len(ANNOTATED), message=f"slice {z}")


def _train(demo: _Demo) -> Iterator[Progress]:
    """Learn from the painted slices alone."""
    learning = TrainConfig(steps=STEPS, mirror=frozenset("zyx"), learning_rate=LEARNING_RATE)
    for step in train(TrainJob(out=demo.model, session=demo.session, learning=learning)):
        if "loss" in step.values:
            demo.losses.append((step.done, step.values["loss"]))
        if f"dice {BONE}" in step.values:
            demo.scores.append((step.done, step.values[f"dice {BONE}"]))
        if step.result:
            demo.facts["weights in the network"] = step.result["parameters"]
            demo.facts["seconds of training"] = step.result["seconds"]
        yield _within(step)


def _segment(demo: _Demo) -> Iterator[Progress]:
    """Predict the whole volume tile by tile, in a process of its own whose memory is watched."""
    config = SegmentConfig(tile=TILE, confidence=True)
    for step in child_process(segment_session, demo.session, demo.model, config):
        if step.result:
            demo.facts["tiles"] = step.result["tiles"]
            demo.facts["seconds of segmenting"] = step.result["seconds"]
            demo.facts["peak memory of segmenting, GiB"] = step.result["peak_rss_gib"]
            demo.facts["memory ceiling, GiB"] = MEMORY_CEILING_GIB
        yield _within(step)


def _correct(demo: _Demo) -> Iterator[Progress]:
    """Brush over the largest mistakes of one slice, and score before and after on what nobody painted."""
    with Session.open(demo.session) as session:
        composite, truth = session.composite(), _plane(demo.truth, CORRECTED)
        mistakes = _largest_mistakes(_plane(composite, CORRECTED), truth)
        for number, (y, x) in enumerate(mistakes, start=1):
            _dab(session, truth, y, x)
            yield Progress(stage="correct", done=number, total=len(mistakes), message=f"dab at y {y}, x {x}")
        demo.facts["brush dabs"] = len(mistakes)
        demo.facts["voxels painted"] = _painted(session)
        _score(demo, session)
        _draw(demo, session)


def _largest_mistakes(labels: NDArray[Any], truth: NDArray[Any]) -> list[tuple[int, int]]:
    """Return the centres (y, x) of the largest connected mistakes on a slice."""
    regions = sorted(regionprops(label(labels != truth)), key=lambda region: -region.area)
    return [(int(y), int(x)) for y, x in (region.centroid for region in regions[:DABS])]


def _dab(session: Session, truth: NDArray[Any], y: int, x: int) -> None:
    """Paint one brush dab with what the annotator sees: bone where there is bone, else background."""
    radius = BRUSH.shape[0] // 2
    box = Box((CORRECTED, y - radius, x - radius), (CORRECTED + 1, y + radius + 1, x + radius + 1))
    inside = box.clip(session.image.shape)
    brush = BRUSH[inside.relative_to(box.start).slices[1:]]
    seen = truth[inside.slices[1:]]
    overlay = session.overlay
    with overlay.stroke(tool="brush"):
        opinion = np.where(seen == BONE, BONE, session.classes.background_opinion)
        overlay[inside.slices] = np.where(brush, opinion, overlay[inside.slices])


def _painted(session: Session) -> int:
    whole = Box.whole(session.image.shape)
    return int(np.count_nonzero(session.overlay[whole.slices]))


def _score(demo: _Demo, session: Session) -> None:
    """Score what nobody painted: the result, and a global Otsu threshold for comparison."""

    def unpainted(box: Box) -> NDArray[np.bool_]:
        return np.asarray(session.overlay[box.slices] == 0)

    found = confusion(session.composite(), demo.truth, (0, BONE), mask=unpainted)
    demo.facts["dice"] = found.dice[BONE]
    demo.facts["voxels scored"] = found.voxels
    grey = demo.image.read(Box.whole(demo.image.shape))
    otsu = confusion((grey > threshold_otsu(grey)).astype(np.uint8), demo.truth, (0, BONE), mask=unpainted)
    demo.facts["dice of a global Otsu threshold"] = otsu.dice[BONE]


def _draw(demo: _Demo, session: Session) -> None:
    """Draw what a person would look at."""
    composite = session.composite()
    for z, name in ((SHOWN, "unseen"), (CORRECTED, "corrected")):
        grey, labels, truth = (_plane(v, z) for v in (demo.image, composite, demo.truth))
        outlines = {"published mask": (truth == BONE, "#44bb99"), "result": (labels == BONE, "#ee6677")}
        draw_contours(demo.folder / f"contours_{name}.png", grey, outlines, f"slice {z}")
        draw_errors(demo.folder / f"errors_{name}.png", grey, labels == BONE, truth == BONE, f"slice {z}")
    painted = session.overlay[ANNOTATED[0]]
    strokes = {"bone": (np.asarray(painted) == BONE, "#ee6677")}
    grey = _plane(demo.image, ANNOTATED[0])
    draw_contours(demo.folder / "annotated.png", grey, strokes, f"slice {ANNOTATED[0]}, annotated")
    draw_learning(demo.folder / "learning.png", demo.losses, demo.scores)


def _export(demo: _Demo) -> Iterator[Progress]:
    """Write the corrected labels and where they come from."""
    yield from map(_within, export(demo.session, demo.folder / "export", "ome-zarr"))


def _report(demo: _Demo) -> dict[str, Any]:
    """Write report.html and demo.json; return what the demo came to."""
    page = demo.folder / "report.html"
    pictures = {
        "contours_unseen.png": f"Slice {SHOWN}, which nobody painted: the result on the published mask.",
        "errors_unseen.png": "Where they disagree.",
        "learning.png": "Learning from three slices: the loss, and Dice on held-back parts of them.",
        "annotated.png": "One of the three annotated slices.",
        "contours_corrected.png": f"Slice {CORRECTED}, after correction.",
        "errors_corrected.png": "What the corrections left.",
    }
    lead = (
        f"{len(ANNOTATED)} slices of {demo.image.shape[0]} were annotated; all scores are on voxels that "
        "nobody painted. Human trabecular bone, Living Human Digital Library; mask as published with ciclope."
    )
    write_report(page, title="napari-memseg demo", lead=lead, facts=demo.facts, pictures=pictures)
    result = {
        "dice": demo.facts["dice"],
        "seconds": demo.facts["seconds in all"],
        "peak_rss_gib": max(
            demo.facts["peak memory of segmenting, GiB"], demo.facts["peak memory of the rest, GiB"]
        ),
        "report": str(page),
    }
    atomic_write(demo.folder / "demo.json", json.dumps({**result, "facts": demo.facts}, indent=1).encode())
    return result


def _plane(volume: Readable, z: int) -> NDArray[Any]:
    """Return one (y, x) slice."""
    _, height, width = volume.shape
    return np.asarray(volume.read(Box((z, 0, 0), (z + 1, height, width)))[0])


def _within(step: Progress) -> Progress:
    """Pass on a step of one of the demo's jobs: its result is not yet that of the demo."""
    return replace(step, result=None)

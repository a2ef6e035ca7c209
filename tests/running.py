"""Volumes in memory or on disk, checkpoints of toys, and runs of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

import toys
from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Box
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.draft import make_plan
from napari_memseg.inference.executors import in_process
from napari_memseg.inference.plan import Plan
from napari_memseg.io.formats import open_volume
from napari_memseg.io.volume import Volume
from napari_memseg.models.checkpoint import Card, save_checkpoint
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.intensity import Window
from napari_memseg.workflows.segment import segment_session

UNIT_WINDOW = Window(0.0, 1.0, "float32")


@dataclass
class InMemory:
    """A numpy array with chunks, as a format would give it."""

    data: np.ndarray
    chunks: tuple[int, int, int] = (16, 16, 16)

    @property
    def shape(self):
        return self.data.shape

    @property
    def dtype(self):
        return self.data.dtype

    def __getitem__(self, index):
        return self.data[index].copy()


def in_memory(data: np.ndarray, **facts: Any) -> Volume:
    """Return a volume over an array; it cannot be opened again by its source."""
    known = {"voxel_size": None, "unit": None, "name": "noise", "source": "memory", "format": "memory"}
    return Volume(arrays=[InMemory(data)], **{**known, **facts})


def noise(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def checkpoint_of(model, folder: Path, window: Window = UNIT_WINDOW) -> Path:
    card = Card(
        architecture=model.architecture, arguments=model.arguments, classes=model.classes, window=window
    )
    path = folder / f"{model.architecture}.safetensors"
    save_checkpoint(path, model, card)
    return path


def plan_of(model, data: np.ndarray, folder: Path, name: str = "labels.ome.zarr", **settings: Any) -> Plan:
    usual = {"chunk": 16, "device": "cpu", "precision": "float32", "batch": 1}
    config = SegmentConfig(**{**usual, **settings})
    return make_plan(checkpoint_of(model, folder), in_memory(data), folder / name, config)


def run(plan: Plan, data: np.ndarray, **settings: Any) -> list:
    return list(in_process(plan, image=in_memory(data), **settings))


def labels_of(plan: Plan, level: int = 0) -> np.ndarray:
    return np.asarray(zarr.open_array(Path(plan.destination) / str(level), mode="r")[...])


def expected(model, data: np.ndarray) -> np.ndarray:
    """Return the labels of one whole-volume pass in float32."""
    return np.asarray(model.classes.ids)[toys.whole_volume(model, data).argmax(0)]


def stored_bytes(plan: Plan) -> dict[str, bytes]:
    """Return every chunk and description of a run, by path; ledgers and the card are about its making."""
    root = Path(plan.destination)
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in files
        if ".sqlite" not in path.name and path.name != "run.json"
    }


def session_of_two_runs(folder: Path, shape: tuple[int, int, int], changed: Box) -> Session:
    """Begin a session with two runs by thresholds; grey values lie between both in a box."""
    grey = np.full(shape, 0.1, np.float32)
    grey[:, :, shape[2] // 2 :] = 0.9
    grey[changed.slices] = 0.5
    tifffile.imwrite(folder / "image.tif", grey, photometric="minisblack")
    classes = ClassTable.from_ids(toys.null().classes.ids[1:])
    session = Session.create(folder / "session", open_volume(folder / "image.tif"), classes)
    for threshold in (0.6, 0.3):
        model = checkpoint_of(toys.null(threshold=threshold), folder)
        config = SegmentConfig(chunk=16, tile=(32, 32, 32), device="cpu", confidence=True)
        list(segment_session(session.path, model, config))
    return session

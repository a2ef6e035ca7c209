"""Small volumes that a network can learn in seconds, and one call that learns them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_memseg.geometry import Zyx
from napari_memseg.io.volume import Volume
from napari_memseg.models.base import Model
from napari_memseg.models.checkpoint import Card
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.intensity import Window
from napari_memseg.models.unet3d import UNet3d
from napari_memseg.training.checkpoints import CheckpointSpec
from napari_memseg.training.config import TrainConfig
from napari_memseg.training.loop import TrainStep, train_phase
from napari_memseg.training.sources import TrainingVolume, VolumeLabels

WINDOW = Window(0.0, 200.0, "uint8")


@dataclass(frozen=True, eq=False)
class MemoryArray:
    """What a format gives, without a file; it counts what is asked for."""

    data: NDArray[Any]
    chunks: Zyx = (8, 8, 8)

    @property
    def shape(self) -> Zyx:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        return self.data[index]


def volume_of(*levels: NDArray[Any], name: str = "memory", chunks: Zyx = (8, 8, 8)) -> Volume:
    arrays = tuple(MemoryArray(np.asarray(data), chunks) for data in levels)
    return Volume(arrays, (1.0, 1.0, 1.0), "micrometer", name, name, "memory")


def pair(
    image: NDArray[Any], labels: NDArray[Any], unlabelled: int | None = None, **arrays: Any
) -> TrainingVolume:
    found = VolumeLabels(volume_of(labels, name="labels"), unlabelled=unlabelled)
    return TrainingVolume(volume_of(image, name="image"), 0, found, arrays)


def blocks(shape: Zyx = (24, 24, 24), ids: tuple[int, ...] = (0, 7, 200), seed: int = 0) -> TrainingVolume:
    """Blocks of 8 voxels, each a class with a grey value of its own, under noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.permuted(np.resize(np.arange(len(ids)), [-(-n // 8) for n in shape]))
    index = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)[tuple(map(slice, shape))]
    grey = 30 + 60 * index + rng.normal(0, 12, shape)
    return pair(grey.clip(0, 255).astype(np.uint8), np.array(ids, np.uint16)[index])


def net(ids: tuple[int, ...] = (7, 200), seed: int = 0) -> UNet3d:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet3d(ClassTable.from_ids(ids), widths=(4, 8))


def spec_for(model: Model, out: str | Path) -> CheckpointSpec:
    card = Card(
        architecture=model.architecture, arguments=model.arguments, classes=model.classes, window=WINDOW
    )
    return CheckpointSpec(out=Path(out), card=card)


def config(**changes: Any) -> TrainConfig:
    defaults: dict[str, Any] = {"steps": 6, "patch": (16, 16, 16), "device": "cpu", "threads": 1}
    return TrainConfig(**(defaults | changes))


def train_steps(
    model: Model, volumes: list[TrainingVolume], out: str | Path, **changes: Any
) -> Iterator[TrainStep]:
    """Train the last phase of a model."""
    options = {name: changes.pop(name) for name in ("resume", "stop") if name in changes}
    validation, phase = changes.pop("validation", []), changes.pop("phase", model.training_plan()[-1])
    files = spec_for(model, out)
    return train_phase(model, phase, volumes, validation, WINDOW, config(**changes), files, **options)


def train(model: Model, volumes: list[TrainingVolume], out: str | Path, **changes: Any) -> list[TrainStep]:
    """Train the last phase of a model to its end."""
    return list(train_steps(model, volumes, out, **changes))


def weights_of(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

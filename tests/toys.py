"""Tiny networks that use all of the model contract, and the answer the engine must reach.

``ToyModel`` has what no plain network has: a coarse stage that runs once, a vector
for all tiles, an intermediate array on a coarser grid, and a second training phase
that needs the first stage's output::

    image@2 ──> coarse (whole) ──> latent (vector) ──┐
    image@0 ──> first (tiles) ───> hint (by 2) ──────┤
    image@0 ──> second (tiles) <─────────────────────┘ ──> scores

``whole_volume`` runs any model over a whole volume at once. Nothing here is known
by name until ``register()`` has run, in each process that loads such a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.models import registry
from napari_memseg.models.base import (
    SCORES,
    Batch,
    Grid,
    Halo,
    Loss,
    Model,
    Reads,
    Recipe,
    SampleSpec,
    Stage,
    TrainingPhase,
    Where,
    Writes,
)
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.losses import masked_dice_ce
from napari_memseg.models.plain import PlainModel
from napari_memseg.models.reach import L
from napari_memseg.models.unet3d import UNet3d

LATENT = 4
"""Length of the toy's vector."""
HIDDEN = 4
"""Channels inside the toy."""
BY_2: Zyx = (2, 2, 2)
RECIPE = Recipe()


def register() -> None:
    """Make the toys known to the registry of this process."""
    registry.register(ToyModel)
    registry.register(NullModel)


class ToyModel(Model):
    """Three stages, two phases, a few hundred weights."""

    architecture: ClassVar[str] = "toy"
    title: ClassVar[str] = "Toy that uses all of the contract"
    paper: ClassVar[str] = "none"

    def __init__(self, classes: ClassTable, *, patch: Sequence[int] = (16, 16, 16)) -> None:
        super().__init__(classes)
        self.patch = zyx(patch)
        self.coarse = _Coarse()
        self.first = _First(len(classes))
        self.second = _Second(len(classes))

    @property
    def arguments(self) -> dict[str, Any]:
        return {"patch": list(self.patch)}

    @property
    def stages(self) -> Sequence[Stage]:
        n = len(self.classes)
        return (
            _ToyStage(
                name="coarse",
                network=self.coarse,
                reads=(Reads(array="image@2", whole=True),),
                writes=(Writes(array="latent", channels=LATENT, vector=True),),
                multiple=(1, 1, 1),
                whole=True,
            ),
            _ToyStage(
                name="first",
                network=self.first,
                reads=(_needs("image@0", exact=2, recommended=2),),
                writes=(Writes(array="hint", channels=n, grid=Grid(factor=BY_2)),),
                multiple=BY_2,
            ),
            _ToyStage(
                name="second",
                network=self.second,
                reads=(
                    _needs("image@0", exact=2, recommended=2),
                    _needs("hint", exact=1, recommended=1),
                    Reads(array="latent", whole=True),
                ),
                writes=(Writes(array=SCORES, channels=n),),
                multiple=BY_2,
            ),
        )

    def training_plan(self) -> Sequence[TrainingPhase]:
        return (_FirstPhase(self), _SecondPhase(self))


def _needs(array: str, *, exact: int, recommended: int) -> Reads:
    return Reads(
        array=array,
        halo_exact=Halo.even(exact, exact, exact),
        halo_recommended=Halo.even(recommended, recommended, recommended),
    )


@dataclass(frozen=True, kw_only=True)
class _ToyStage:
    name: str
    network: nn.Module
    reads: tuple[Reads, ...]
    writes: tuple[Writes, ...]
    multiple: Zyx
    whole: bool = False

    def __call__(self, inputs: dict[str, Tensor], where: Sequence[Where]) -> dict[str, Tensor]:
        assert set(inputs) == {read.array for read in self.reads}, (self.name, sorted(inputs))
        return {self.writes[0].array: self.network(inputs, where)}


class _Coarse(nn.Module):
    """The whole coarse image as one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, HIDDEN, 3, padding=1)
        self.out = nn.Linear(HIDDEN, LATENT)

    def forward(self, inputs: Mapping[str, Tensor], where: Sequence[Where]) -> Tensor:
        latent: Tensor = self.out(self.conv(inputs["image@2"]).relu().mean((2, 3, 4)))
        return latent


class _First(nn.Module):
    """Class scores on cells of 2 x 2 x 2 voxels; a cell at the far face may be cut."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, HIDDEN, 3, padding=1)
        self.out = nn.Conv3d(HIDDEN, classes, 1)

    def forward(self, inputs: Mapping[str, Tensor], where: Sequence[Where]) -> Tensor:
        hint: Tensor = self.out(halve(self.conv(inputs["image@0"]).relu()))
        return hint


class _Second(nn.Module):
    """Class scores from the image, the cells around, and the vector."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.image = nn.Conv3d(1, HIDDEN, 3, padding=1)
        self.hint = nn.Conv3d(classes, HIDDEN, 3, padding=1)
        self.out = nn.Conv3d(2 * HIDDEN + LATENT, classes, 1)

    def forward(self, inputs: Mapping[str, Tensor], where: Sequence[Where]) -> Tensor:
        image = self.image(inputs["image@0"]).relu()
        cells = self.hint(inputs["hint"]).relu()
        hint = torch.stack(
            [place(one, w.boxes["hint"].refine(BY_2), w.box) for one, w in zip(cells, where, strict=True)]
        )
        latent = inputs["latent"][:, :, None, None, None].expand(-1, -1, *image.shape[2:])
        scores: Tensor = self.out(torch.cat([image, hint, latent], 1))
        return scores


@dataclass(frozen=True)
class _FirstPhase:
    """The first stage alone."""

    model: ToyModel
    name: str = "first"
    needs: Sequence[Stage] = ()
    recipe: Recipe = RECIPE

    @property
    def sample(self) -> SampleSpec:
        return SampleSpec(patch=self.model.patch)

    def parameters(self) -> Sequence[nn.Parameter]:
        return list(self.model.first.parameters())

    def step(self, batch: Batch) -> Loss:
        hint = self.model.first({"image@0": batch.image}, batch.where)
        z, y, x = batch.image.shape[2:]
        scores = repeat(hint)[..., :z, :y, :x]
        return Loss(value=masked_dice_ce(scores, batch.labels), scores=scores)


@dataclass(frozen=True)
class _SecondPhase:
    """The second stage, on what the others made of the training volumes."""

    model: ToyModel
    name: str = "second"
    recipe: Recipe = RECIPE
    sample: SampleSpec = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sample", SampleSpec(patch=self.model.patch, arrays=("hint", "latent")))

    @property
    def needs(self) -> Sequence[Stage]:
        return self.model.stages[:2]

    def parameters(self) -> Sequence[nn.Parameter]:
        return list(self.model.second.parameters())

    def step(self, batch: Batch) -> Loss:
        inputs = {"image@0": batch.image, **batch.arrays}
        scores = self.model.second(inputs, batch.where)
        value = masked_dice_ce(scores, batch.labels)
        return Loss(value=value, scores=scores, parts={"dice_ce": float(value.detach())})


class NullModel(PlainModel):
    """One weight and one bias a class: costs nothing, so the engine itself is seen."""

    architecture: ClassVar[str] = "null"
    title: ClassVar[str] = "A 1 x 1 x 1 convolution"
    paper: ClassVar[str] = "none"
    patch: ClassVar[Zyx] = (16, 16, 16)

    def __init__(self, classes: ClassTable) -> None:
        super().__init__(classes)
        self.head = nn.Conv3d(1, len(classes), 1)

    @property
    def arguments(self) -> dict[str, Any]:
        return {}

    @property
    def multiple(self) -> int:
        return 1

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(image)
        return scores

    def trace(self, line: L) -> L:
        return line


def toy(seed: int = 0, *, ids: Sequence[int] = (1, 2), patch: Sequence[int] = (16, 16, 16)) -> ToyModel:
    """Return a toy in eval mode; same seed, same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ToyModel(ClassTable.from_ids(ids), patch=patch).eval()
        balance(model, model.second.out)
    return model


def null(*, threshold: float = 0.5) -> NullModel:
    """Return a network that finds class 1 above a threshold of the normalised image."""
    model = NullModel(ClassTable.from_ids([1]))
    with torch.no_grad():
        model.head.weight[:] = torch.tensor([-8.0, 8.0])[:, None, None, None, None]
        model.head.bias[:] = torch.tensor([8.0, -8.0]) * threshold
    return model.eval()


def random_unet(
    seed: int = 0, levels: int = 2, *, ids: Sequence[int] = (1, 2), widths: Sequence[int] | None = None
) -> UNet3d:
    """Return a U-Net in eval mode, whose batch norms hold statistics as if it had been trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UNet3d(ClassTable.from_ids(ids), widths=widths or [8] * levels)
        randomise(model)
        balance(model, model.head)
    return model


@torch.no_grad()
def randomise(model: Model) -> None:
    """Give every batch norm the statistics of noise, then disturb them, and random weights."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    norms = [module for module in model.modules() if isinstance(module, kinds)]
    for norm in norms:
        norm.momentum = 1.0
    edge = max(32, *(2 * step for stage in model.stages for step in stage.multiple))
    whole_volume(model.train(), np.random.default_rng(0).random((edge,) * 3))
    for norm in norms:
        norm.momentum = 0.1
        norm.running_mean += 0.3 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
    model.eval()


def balance(model: Model, head: nn.Conv3d) -> None:
    """Make the scores of noise uncorrelated and even, so that every class is found about as often."""
    scores = whole_volume(model, np.random.default_rng(0).random((24, 24, 24))).reshape(head.out_channels, -1)
    mean = scores.mean(1, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov(scores))
    whiten = torch.from_numpy(vectors / np.sqrt(values.clip(1e-6 * values.max())) @ vectors.T)
    with torch.no_grad():
        head.weight[:] = torch.einsum("ij,j...->i...", whiten, head.weight.double())
        head.bias[:] = whiten @ (head.bias.double() - torch.from_numpy(mean))


@torch.inference_mode()
def whole_volume(model: Model, image: NDArray[Any]) -> NDArray[np.float32]:
    """Run all stages over a whole volume at once.

    Parameters
    ----------
    model : Model
        In eval mode.
    image : ndarray
        (z, y, x), normalised.

    Returns
    -------
    ndarray
        (C, z, y, x) float32 scores.
    """
    return all_arrays(model, image)[SCORES]


@torch.inference_mode()
def all_arrays(model: Model, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return what all stages make of a whole volume, by name: (C, z, y, x), or (length,) of a vector."""
    arrays = {"image@0": torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]}
    for stage in model.stages:
        for read in stage.reads:
            if read.array.startswith("image@"):
                arrays[read.array] = _halved(arrays["image@0"], int(read.array.partition("@")[2]))
        inputs = {read.array: arrays[read.array] for read in stage.reads}
        made = stage(inputs, [_everywhere(inputs, zyx(image.shape))])
        arrays |= {w.array: made[w.array].to(getattr(torch, w.dtype)) for w in stage.writes}
    return {name: array[0].float().numpy() for name, array in arrays.items()}


def _everywhere(inputs: Mapping[str, Tensor], shape: Zyx) -> Where:
    boxes = {name: Box.whole(zyx(x.shape[2:])) for name, x in inputs.items() if x.ndim == 5}
    return Where(box=Box.whole(shape), shape=shape, boxes=boxes)


def _halved(image: Tensor, times: int) -> Tensor:
    for _ in range(times):
        image = halve(image)
    return image


def halve(x: Tensor) -> Tensor:
    """Take the mean of 2 x 2 x 2 voxels, of fewer at a far face of odd size: (N, C, z, y, x)."""
    return F.avg_pool3d(x, [min(2, n) for n in x.shape[2:]], ceil_mode=True)


def repeat(x: Tensor) -> Tensor:
    """Repeat every voxel twice along each of the last three axes."""
    for axis in (-3, -2, -1):
        x = x.repeat_interleave(2, axis)
    return x


def place(cells: Tensor, have: Box, want: Box) -> Tensor:
    """Repeat cells that cover ``have`` and cut out ``want``; zeros where they do not reach.

    Parameters
    ----------
    cells : Tensor
        (C, z, y, x), each covering 2 x 2 x 2 voxels.
    have, want : Box
        In voxels of the volume.
    """
    shared = have & want
    fine = repeat(cells)[(slice(None), *shared.relative_to(have.start).slices)]
    ends = zip(shared.start, shared.stop, want.start, want.stop, strict=True)
    missing = [n for a, b, c, d in reversed(list(ends)) for n in (a - c, d - b)]
    return F.pad(fine, missing)

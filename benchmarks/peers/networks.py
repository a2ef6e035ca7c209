"""The networks of the benchmarks: the same weights for every engine, by way of one checkpoint.

Ours loads the checkpoint as it would any other; peers are given the network in it. Each is
trained for a few steps on the volume's own classes, so that labels mean something::

    null     1 x 1 x 1 convolution, nearest grey value of four: what is left is the engine itself
    unet3d   three levels, 85,000 weights, transposed convolutions, four classes
    plain    the package's plain 3D U-Net, five levels, 2.5 million weights, three classes
"""

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_memseg.geometry import Zyx
from napari_memseg.models.blocks import trace_double_conv
from napari_memseg.models.checkpoint import Card, save_checkpoint
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.intensity import Window
from napari_memseg.models.losses import masked_dice_ce
from napari_memseg.models.plain import PlainModel
from napari_memseg.models.reach import L
from napari_memseg.models.registry import create_model, register
from peers.volume import GREY, HIGH, LOW, classes_of_slice, grey_of_slice, normalise

NAMES = {
    "null": ("bench-null", 4),
    "sleeping": ("bench-sleeping", 4),
    "unet3d": ("bench-unet3d", 4),
    "plain": ("unet3d", 3),
}
"""By the name on the command line: architecture and number of classes."""
PATCH, BATCH, SCENE = 32, 4, 144
"""Edge of what a step of training sees, how many of them, and the edge of the volume they are cut from."""
SLEEP = 0.25
"""Seconds that ``sleeping`` waits for every tile."""
RAREST = 0.01
"""Share of a patch that every class has at least."""
LEARNING_RATE = 5e-3
CALIBRATION = 8
"""Batches that the batch norms' statistics are of."""


@register
class Null(PlainModel):
    """One weight and one bias a class."""

    architecture: ClassVar[str] = "bench-null"
    title: ClassVar[str] = "A 1 x 1 x 1 convolution"
    paper: ClassVar[str] = "none"
    patch: ClassVar[Zyx] = (16, 16, 16)

    def __init__(self, classes: ClassTable) -> None:
        super().__init__(classes)
        self.head = nn.Conv3d(1, len(classes), 1)

    @property
    def arguments(self) -> dict[str, Any]:
        """None."""
        return {}

    @property
    def multiple(self) -> int:
        """There is no pooling."""
        return 1

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, z, y, x) to (N, C, z, y, x)."""
        scores: Tensor = self.head(image)
        return scores

    def trace(self, line: L) -> L:
        """See one voxel."""
        return line


@register
class Sleeping(Null):
    """As null, after a while in which a processor has nothing to do: what is left is scheduling."""

    architecture: ClassVar[str] = "bench-sleeping"
    title: ClassVar[str] = "A 1 x 1 x 1 convolution that waits first"

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, z, y, x) to (N, C, z, y, x), and take ``SLEEP`` seconds more for it."""
        time.sleep(SLEEP)
        return super().forward(image)


@register
class BenchUNet(PlainModel):
    """A U-Net of three levels as many write it."""

    architecture: ClassVar[str] = "bench-unet3d"
    title: ClassVar[str] = "U-Net of the benchmarks, three levels"
    paper: ClassVar[str] = "Çiçek et al., MICCAI 2016, doi:10.1007/978-3-319-46723-8_49 (narrower)"
    patch: ClassVar[Zyx] = (48, 48, 48)

    def __init__(self, classes: ClassTable, *, width: int = 8) -> None:
        super().__init__(classes)
        self.width = width
        a, b, c = width, 2 * width, 4 * width
        self.pool = nn.MaxPool3d(2)
        self.enc0, self.enc1, self.enc2 = _block(1, a), _block(a, b), _block(b, c)
        self.up1, self.dec1 = nn.ConvTranspose3d(c, b, 2, stride=2), _block(2 * b, b)
        self.up0, self.dec0 = nn.ConvTranspose3d(b, a, 2, stride=2), _block(2 * a, a)
        self.head = nn.Conv3d(a, len(classes), 1)

    @property
    def arguments(self) -> dict[str, Any]:
        """Channels of the finest level."""
        return {"width": self.width}

    @property
    def multiple(self) -> int:
        """Two poolings."""
        return 4

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, z, y, x) to (N, C, z, y, x)."""
        e0 = self.enc0(image)
        e1 = self.enc1(self.pool(e0))
        e2 = self.enc2(self.pool(e1))
        d1 = self.dec1(_join(self.up1(e2), e1))
        scores: Tensor = self.head(self.dec0(_join(self.up0(d1), e0)))
        return scores

    def trace(self, line: L) -> L:
        """Follow ``forward``; a transposed convolution of stride and kernel two sees its own cell."""
        e0 = trace_double_conv(line)
        e1 = trace_double_conv(e0.pool())
        e2 = trace_double_conv(e1.pool())
        d1 = trace_double_conv(e2.repeat(e1).join(e1))
        return trace_double_conv(d1.repeat(e0).join(e0))


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (channels_in, channels_out):
        convolution = nn.Conv3d(channels, channels_out, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm3d(channels_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _join(x: Tensor, skip: Tensor) -> Tensor:
    """Replicate the last plane where an odd size was halved, and put both side by side."""
    missing = [
        end for n, have in zip(skip.shape[:1:-1], x.shape[:1:-1], strict=True) for end in (0, n - have)
    ]
    return torch.cat([F.pad(x, missing, mode="replicate") if any(missing) else x, skip], 1)


def checkpoint(folder: Path, name: str, steps: int) -> Path:
    """Return the checkpoint of a network that learned so many steps; made if it is not there."""
    path = folder / f"{name}-{steps}.safetensors"
    if not path.exists():
        architecture, count = NAMES[name]
        torch.manual_seed(0)
        classes = ClassTable.from_ids(range(1, count))
        model = create_model(architecture, classes)
        if isinstance(model, Null):
            _nearest_grey(model)
        else:
            _learn(model, steps)
        window = Window(LOW, HIGH, "uint16")
        card = Card(architecture=architecture, arguments=model.arguments, classes=classes, window=window)
        save_checkpoint(path, model.eval(), card)
    return path


@torch.no_grad()
def _nearest_grey(model: Null) -> None:
    """Let the highest score be that of the nearest grey value: ``m x - m^2 / 2``."""
    means = torch.from_numpy(normalise(GREY))
    model.head.weight[:] = means[:, None, None, None, None]
    model.head.bias[:] = -(means**2) / 2


def _learn(model: Any, steps: int) -> None:
    """Learn the classes of small cut-outs, then give the batch norms the statistics of such."""
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    batches = _batches(len(model.classes))
    model.train()
    for _ in range(steps):
        image, truth = next(batches)
        masked_dice_ce(model(image), truth).backward()
        optimizer.step()
        optimizer.zero_grad()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.reset_running_stats()
            module.momentum = None  # an even mean over all that follows
    with torch.no_grad():
        for _ in range(CALIBRATION):
            model(next(batches)[0])


def _batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images (N, 1, z, y, x) and classes (N, z, y, x), cut where a small volume has every class."""
    shape = (SCENE,) * 3
    truth = np.stack([classes_of_slice(z, shape) for z in range(SCENE)])
    image = normalise(np.stack([grey_of_slice(z, classes) for z, classes in enumerate(truth)]))
    truth = truth.clip(max=count - 1)
    rng = np.random.default_rng(0)
    cuts: list[tuple[slice, ...]] = []
    while True:
        cut = tuple(slice(n, n + PATCH) for n in rng.integers(0, SCENE - PATCH + 1, 3))
        if np.bincount(truth[cut].ravel(), minlength=count).min() >= RAREST * PATCH**3:
            cuts.append(cut)
        if len(cuts) == BATCH:
            images, classes = (np.stack([array[cut] for cut in cuts]) for array in (image, truth))
            yield torch.from_numpy(images)[:, None], torch.from_numpy(classes.astype(np.int64))
            cuts.clear()


KINDS: dict[str, dict[str, Any]] = {
    "float32": {},
    "folded": {"layout": "channels_last", "folded": True},
    "autocast": {"precision": "autocast"},
    "fast": {"precision": "bfloat16", "layout": "channels_last", "folded": True},
}
"""What peers can be given: as trained; batch norms folded, channels last; 16 bits by autocast; all of it."""


class Arithmetic(nn.Module):
    """A network in some arithmetic; float32 in and out, so that engines need not know. It counts its voxels.

    Parameters
    ----------
    net : nn.Module
        In eval mode; stays as it is.
    precision : str
        ``float32``; ``bfloat16`` of weights and activations; ``autocast`` to what is usual on the device.
    layout : str
        ``contiguous`` or ``channels_last``.
    folded : bool
        Whether batch norms are made part of the convolutions before them.
    """

    def __init__(
        self, net: nn.Module, precision: str = "float32", layout: str = "contiguous", folded: bool = False
    ) -> None:
        super().__init__()
        self.precision = precision
        self.voxels = self.calls = 0
        self.format = torch.channels_last_3d if layout == "channels_last" else torch.contiguous_format
        self.net = _arranged(_folded(net) if folded else copy.deepcopy(net), self.format)
        if precision == "bfloat16":
            self.net.bfloat16()

    def forward(self, image: Tensor) -> Tensor:
        """Compute, and count what was computed."""
        self.calls += 1
        self.voxels += image[:, 0].numel()
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        half = torch.float16 if image.is_cuda else torch.bfloat16
        with torch.autocast(image.device.type, half, enabled=self.precision == "autocast"):
            scores = self.net(image.to(dtype, memory_format=self.format))
        return scores.float().contiguous()


def _folded(net: nn.Module) -> nn.Module:
    """Return a copy whose batch norms are part of the convolutions before them."""
    net = copy.deepcopy(net)
    for block in net.modules():
        if isinstance(block, nn.Sequential):
            for n in range(len(block) - 1):
                if isinstance(block[n], nn.Conv3d) and isinstance(block[n + 1], nn.BatchNorm3d):
                    block[n] = nn.utils.fusion.fuse_conv_bn_eval(block[n], block[n + 1])
                    block[n + 1] = nn.Identity()
    return net


def _arranged(net: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    for parameter in net.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)
    return net


def labels_of(scores: Tensor) -> Tensor:
    """Return the class of the largest score of (C, z, y, x), as bytes.

    In vectorised passes: ``argmax`` over the class axis costs fifty times as much on a CPU, and that is not
    what engines are compared by.
    """
    best = scores[0]
    found = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for k in range(1, len(scores)):
        torch.maximum(found, (scores[k] > best).view(torch.uint8).mul_(k), out=found)
        best = torch.maximum(best, scores[k])
    return found

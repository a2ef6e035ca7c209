"""The peers, each the way its users run it: on the GPU whatever they keep there, if there is one.

An engine is a function of a job and a network, under ``@engine``; it leaves labels at
``job.out``. To add one is to write one.
"""

import importlib
import importlib.util
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from threading import Thread
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peers.job import Job
from peers.networks import labels_of
from peers.volume import normalise

Engine = Callable[[Job, nn.Module], dict[str, Any]]
ENGINES: dict[str, Engine] = {}
IMPORTS: dict[str, str] = {}
"""What an engine needs, loaded before its base of memory is taken."""
FREE = 0.85
"""Share of a GPU's free memory that somebody who knows it would fill with a volume."""


def engine(name: str, module: str | None = None) -> Callable[[Engine], Engine]:
    """Add an engine, and what it needs to be imported."""

    def add(function: Engine) -> Engine:
        ENGINES[name] = function
        if module is not None:
            IMPORTS[name] = module
        return function

    return add


def load(name: str) -> None:
    """Import what an engine needs."""
    if name.startswith("torchem"):
        _torch_em()
    elif name in IMPORTS:
        importlib.import_module(IMPORTS[name])


def _whole(job: Job) -> Tensor:
    """Return the volume as normalised float32 (1, 1, z, y, x): what engines in memory begin with."""
    return torch.from_numpy(normalise(job.open()[:]))[None, None]


def _write(scores: Tensor, job: Job) -> None:
    """Write the labels of (C, z, y, x), one row of chunks at a time."""
    labels = job.labels()
    for z in range(0, scores.shape[1], job.chunk):
        labels[z : z + job.chunk] = labels_of(scores[:, z : z + job.chunk]).cpu().numpy()


def _fits(job: Job, bytes_per_voxel: int) -> bool:
    """Whether a GPU can hold so much, and something for the network beside it."""
    if not job.device.startswith("cuda"):
        return False
    free, _ = torch.cuda.mem_get_info(job.device)
    return math.prod(job.shape) * bytes_per_voxel < FREE * free


def _classes(net: nn.Module) -> int:
    return len(next(module.classes for module in net.modules() if hasattr(module, "classes")))


# MONAI: https://monai.readthedocs.io/en/stable/inferers.html


@engine("monai", "monai.inferers")
def monai(job: Job, net: nn.Module) -> dict[str, Any]:
    """Keep image, sums and weights on the GPU if they fit, else on the host."""
    return _monai(job, net, job.device if _fits(job, 4 + 4 * _classes(net) + 4) else "cpu")


@engine("monai-buffered", "monai.inferers")
def monai_buffered(job: Job, net: nn.Module) -> dict[str, Any]:
    """Sum up one row of windows at a time on the GPU, everything else on the host."""
    return _monai(job, net, "cpu", buffer_steps=1, buffer_dim=0)


def _monai(job: Job, net: nn.Module, keep: str, **buffer: int) -> dict[str, Any]:
    from monai.inferers import sliding_window_inference

    scores = sliding_window_inference(
        _whole(job).to(keep),
        (job.tile,) * 3,
        1,
        net,
        overlap=job.overlap,
        mode="gaussian",
        sw_device=job.device,
        device=keep,
        **buffer,
    )
    _write(scores[0], job)
    return {"kept_on": keep}


@engine("monai-patch-zarr", "monai.inferers")
def monai_patch_zarr(job: Job, net: nn.Module) -> dict[str, Any]:
    """Sum up on disk; chunks are set to those of the labels, since those it guesses are slower."""
    from monai.inferers import PatchInferer, SlidingWindowSplitter, ZarrAvgMerger

    stores = {name: f"{job.scratch}/{name}.zarr" for name in ("store", "value_store", "count_store")}
    inferer = PatchInferer(
        SlidingWindowSplitter(job.tile, overlap=job.overlap),
        ZarrAvgMerger,
        preprocessing=lambda patch: patch.to(job.device),
        postprocessing=lambda scores: scores.cpu(),
        chunks=(1, _classes(net)) + (job.chunk,) * 3,
        **stores,
    )
    merged = inferer(_whole(job), net)
    labels = job.labels()
    for z in range(0, job.shape[0], job.chunk):
        scores = torch.from_numpy(np.asarray(merged[0, :, z : z + job.chunk]))
        labels[z : z + job.chunk] = labels_of(scores).numpy()
    files = (path for store in stores.values() for path in Path(store).rglob("*") if path.is_file())
    return {"scratch_bytes": sum(path.stat().st_size for path in files)}


# nnU-Net: its predict_sliding_window_return_logits, https://github.com/MIC-DKFZ/nnUNet


@engine("nnunet")
def nnunet(job: Job, net: nn.Module) -> dict[str, Any]:
    """Keep results on the GPU; if they do not fit, begin again with results on the host."""
    image = _whole(job)[0]
    if job.device.startswith("cuda"):
        try:
            return _nnunet(job, net, image, job.device)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    return _nnunet(job, net, image, "cpu")


def _nnunet(job: Job, net: nn.Module, image: Tensor, keep: str) -> dict[str, Any]:
    """Add up in half precision what a thread cuts two tiles ahead; gaussian weights, no mirroring."""
    image = image.to(keep)
    grid = list(itertools.product(*(_even_starts(n, job.tile, job.overlap) for n in image.shape[1:])))
    scores = torch.zeros((_classes(net), *image.shape[1:]), dtype=torch.half, device=keep)
    weights = torch.zeros(image.shape[1:], dtype=torch.half, device=keep)
    gaussian = _gaussian(job.tile).to(keep)
    queue: Queue[tuple[Tensor, tuple[slice, ...]]] = Queue(maxsize=2)

    def cut() -> None:
        for start in grid:
            place = (slice(None), *(slice(a, a + job.tile) for a in start))
            tile = image[place][None].clone(memory_format=torch.contiguous_format)
            queue.put((tile.to(job.device), place))

    Thread(target=cut, daemon=True).start()
    for _ in grid:
        tile, place = queue.get()
        found = net(tile)[0].to(keep)
        found *= gaussian
        scores[place] += found
        weights[place[1:]] += gaussian
    torch.div(scores, weights, out=scores)
    if torch.any(torch.isinf(scores)):
        raise RuntimeError("overflow in half precision")
    _write(scores, job)
    return {"kept_on": keep}


def _even_starts(size: int, tile: int, overlap: float) -> list[int]:
    count = math.ceil((size - tile) / (tile * (1 - overlap))) + 1
    step = (size - tile) / max(count - 1, 1)
    return [round(step * n) for n in range(count)]


def _gaussian(size: int) -> Tensor:
    """Return its importance map: a peak of ten, an eighth of the tile wide."""
    at = torch.arange(size) - (size - 1) / 2
    line = torch.exp(-0.5 * (at / (size / 8)) ** 2)
    return (10 * line[:, None, None] * line[:, None] * line).half().clamp(min=1e-4)


# TorchIO: https://docs.torchio.org/patches/patch_inference.html


@engine("torchio-crop", "torchio")
def torchio_crop(job: Job, net: nn.Module) -> dict[str, Any]:
    """Crop tiles, as by default."""
    return _torchio(job, net, "crop")


@engine("torchio-hann", "torchio")
def torchio_hann(job: Job, net: nn.Module) -> dict[str, Any]:
    """Blend tiles with a window."""
    return _torchio(job, net, "hann")


def _torchio(job: Job, net: nn.Module, mode: str) -> dict[str, Any]:
    import torchio

    subject = torchio.Subject(image=torchio.ScalarImage(tensor=_whole(job)[0]))
    sampler = torchio.GridSampler(subject, job.tile, 2 * job.halo)
    aggregator = torchio.GridAggregator(sampler, overlap_mode=mode)
    for batch in torchio.SubjectsLoader(sampler, batch_size=1):
        scores = net(batch["image"][torchio.DATA].to(job.device))
        aggregator.add_batch(scores, batch[torchio.LOCATION])
    _write(aggregator.get_output_tensor(), job)
    return {}


# torch_em: https://github.com/constantinpape/torch-em


@engine("torchem")
def torchem(job: Job, net: nn.Module) -> dict[str, Any]:
    """Read, predict and write one block after the other."""
    return _predict_with_halo(job, net, "predict_with_halo")


@engine("torchem-pipelined")
def torchem_pipelined(job: Job, net: nn.Module) -> dict[str, Any]:
    """Read and write in threads."""
    return _predict_with_halo(job, net, "predict_with_halo_pipelined")


def _predict_with_halo(job: Job, net: nn.Module, function: str) -> dict[str, Any]:
    device = next(net.parameters()).device
    getattr(_torch_em(), function)(
        job.open(),
        net,
        [device],
        (job.core,) * 3,
        (job.halo,) * 3,
        output=job.labels(),
        preprocess=normalise,
        postprocess=lambda scores: labels_of(torch.from_numpy(scores)).numpy(),
        disable_tqdm=True,
    )
    return {}


def _torch_em() -> ModuleType:
    """Return ``torch_em.util.prediction`` alone: what trains needs far more packages and memory."""
    if "torch_em" not in sys.modules:
        found = importlib.util.find_spec("torch_em")
        if found is None or found.origin is None:
            raise ModuleNotFoundError("torch_em is not installed: see benchmarks/requirements.txt")
        for name in ("torch_em", "torch_em.util", "torch_em.transform"):
            module = ModuleType(name)
            module.__path__ = [str(Path(found.origin).parent.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = module
        raw: Any = ModuleType("torch_em.transform.raw")
        raw.standardize = normalise  # a default of theirs that is never used here
        sys.modules["torch_em.transform.raw"] = raw
    return importlib.import_module("torch_em.util.prediction")

"""What nobody can go below: read, compute without overlap, write; and what a tile alone costs.

floor      every voxel read once + run once, in tiles that do not overlap + written once
bare tile  the network on a tile that is in memory, over and over, in the run's own process
"""

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from peers.job import Job
from peers.measure import Stopwatch
from peers.networks import Arithmetic
from peers.volume import normalise

LEAST_CALLS, LEAST_SECONDS, LEAST_SHARE = 3, 1.0, 0.1
"""A bare tile is run so often, so long, and over so much of the volume at least."""


def floor(job: Job, net: nn.Module) -> dict[str, Any]:
    """Do the three parts one after the other, each timed."""
    image = job.open()
    with Stopwatch() as read:
        for z in range(0, image.shape[0], image.chunks[0]):
            rows = image[z : z + image.chunks[0]]
    seconds = bare(job, net, (job.tile,) * 3, least_share=1.0)
    row = (rows > 16000).astype(np.uint8) + (rows > 30000)
    with Stopwatch() as write:
        labels = job.labels()
        for z in range(0, image.shape[0], job.chunk):
            labels[z : z + job.chunk] = np.resize(row, (min(job.chunk, image.shape[0] - z), *image.shape[1:]))
    voxels = math.prod(image.shape)
    return {
        "read_wall": read.wall,
        "read_cpu": read.cpu,
        "write_wall": write.wall,
        "write_cpu": write.cpu,
        "forward_wall": seconds["wall"] * voxels,
        "forward_cpu": seconds["cpu"] * voxels,
        "floor_wall": read.wall + write.wall + seconds["wall"] * voxels,
        "floor_cpu": read.cpu + write.cpu + seconds["cpu"] * voxels,
    }


@torch.inference_mode()
def bare(
    job: Job, net: nn.Module, box: tuple[int, int, int], least_share: float = LEAST_SHARE
) -> dict[str, float]:
    """Return wall and CPU seconds per voxel of a box that is on the device already."""
    cut = job.open()[tuple(slice(0, n) for n in box)]
    image = torch.from_numpy(normalise(cut))[None, None].to(job.device)
    _call(net, image)
    wall = cpu = 0.0
    calls, enough = 0, least_share * math.prod(job.shape) / image.numel()
    while calls < max(LEAST_CALLS, enough) or (least_share < 1 and wall < LEAST_SECONDS):
        with Stopwatch() as watch:
            _call(net, image)
        wall, cpu, calls = wall + watch.wall, cpu + watch.cpu, calls + 1
    return {"wall": wall / calls / image.numel(), "cpu": cpu / calls / image.numel()}


def _call(net: nn.Module, image: torch.Tensor) -> None:
    net(image)
    if image.is_cuda:
        torch.cuda.synchronize(image.device)


def bare_of_ours(
    job: Job, net: nn.Module, how: dict[str, Any], box: tuple[int, int, int]
) -> dict[str, float]:
    """Return the same for the arithmetic of one of our plans; of two ways to 16 bits, the faster one."""
    precisions = ["float32"] if how["precision"] == "float32" else ["autocast", "bfloat16"]
    nets = (Arithmetic(net, **{**how, "precision": precision}).eval() for precision in precisions)
    return min((bare(job, one, box) for one in nets), key=lambda seconds: seconds["wall"])

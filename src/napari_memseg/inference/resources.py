"""How much memory a process has held at most."""

from __future__ import annotations

import re
import sys
from dataclasses import astuple, dataclass
from pathlib import Path

from napari_memseg.inference.heap import GIB


@dataclass(frozen=True, slots=True)
class Peaks:
    """The most that a process has held since it was started, in GiB; None where the system does not tell."""

    rss_gib: float | None = None
    """Resident, of the host's memory."""
    device_gib: float | None = None
    """Taken by tensors, of a GPU's."""

    @classmethod
    def here(cls, device: str) -> Peaks:
        """Return those of this process, which computes on ``device``."""
        return cls(peak_rss_gib(), peak_device_gib(device))

    def __or__(self, other: Peaks) -> Peaks:
        """Return the larger of each."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Peaks(*(max((a for a in pair if a is not None), default=None) for pair in pairs))


def peak_rss_gib() -> float | None:
    """Return the largest resident memory of this process so far, in GiB; None where the system does not tell.

    Linux's own count is read from ``/proc``, since the one of ``getrusage`` starts with that of the parent.
    """
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(peak[1]) * 1024 / GIB
    if sys.platform != "darwin":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB


def peak_device_gib(device: str) -> float | None:
    """Return the largest memory that tensors took on a CUDA device, in GiB; None elsewhere."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.max_memory_allocated(device) / GIB

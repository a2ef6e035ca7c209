"""How much memory a process has held at most."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import psutil

from napari_memseg.inference.heap import GIB

_before_gib = 0.0
"""The peak when ``begin_peaks`` was called."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """The most that a process has held since ``begin_peaks``, in GiB; None where the system does not tell."""

    rss_gib: float | None = None
    """Resident, of the host's memory."""
    device_gib: float | None = None
    """Taken by tensors, of a GPU's."""

    @classmethod
    def here(cls, device: str) -> Peaks:
        """Return those of this process, which computes on ``device``."""
        return cls(_rss_gib(), peak_device_gib(device))

    def __or__(self, other: Peaks) -> Peaks:
        """Return the larger of each."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Peaks(*(max((a for a in pair if a is not None), default=None) for pair in pairs))


def begin_peaks(device: str) -> None:
    """Let peaks begin with what is held now, as far as the system lets: what came before was other work."""
    global _before_gib
    _before_gib = peak_rss_gib() or 0.0
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device.startswith("cuda"):
        import torch

        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats(device)


def peak_rss_gib() -> float | None:
    """Return the largest resident memory of this process since its start, in GiB; None if nobody tells."""
    now = _rss_gib()
    return None if now is None else max(now, _before_gib)


def _rss_gib() -> float | None:
    """Return the largest since ``begin_peaks``.

    Linux's own count is read from ``/proc``, since the one of ``getrusage`` starts with that of the parent.
    """
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(peak[1]) * 1024 / GIB
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / GIB
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

"""What a run cost this process: seconds of the clock and of all its cores, and memory.

Linux keeps the peak of resident memory in ``/proc``; the one of ``getrusage`` would start
with that of the parent.
"""

import os
import re
import time
from pathlib import Path
from typing import Any, Self


class Stopwatch:
    """Wall and CPU seconds of a with-block; the CPU's are those of all threads and ended children."""

    def __enter__(self) -> Self:
        self._wall, self._cpu = time.perf_counter(), sum(os.times()[:4])
        return self

    def __exit__(self, *_: Any) -> None:
        self.wall = time.perf_counter() - self._wall
        self.cpu = sum(os.times()[:4]) - self._cpu


def resident() -> int:
    """Return the bytes that this process has in memory."""
    return _status("VmRSS")


def peak_resident() -> int:
    """Return the most bytes that it had since ``forget_peak``."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let the peak begin with what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "benchmarks need Linux"
    return int(found[1]) * 1024


def machine() -> dict[str, Any]:
    """Return what figures depend on: processor, cores, memory, GPU, versions."""
    import torch

    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu[1] if cpu else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }

"""A scheduler and two workers in processes of their own, which know the toys."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

import toys
from napari_memseg.models import registry
from napari_memseg.models.classes import ClassTable

WORKERS = 2


class LosesItsDevice(toys.NullModel):
    """Raises, the first so many times that anybody asks it, what CUDA says of a GPU that is gone."""

    architecture: ClassVar[str] = "lost"

    def __init__(self, classes: ClassTable, *, log: str, times: int) -> None:
        super().__init__(classes)
        self._log, self._times = Path(log), times

    @property
    def arguments(self) -> dict[str, Any]:
        return {"log": str(self._log), "times": self._times}

    def forward(self, image: Tensor) -> Tensor:
        with self._log.open("ab") as log:
            if log.tell() < self._times:
                log.write(b"x")
                raise RuntimeError("CUDA error: unspecified launch failure")
        return super().forward(image)


class TakesSmallTiles(toys.NullModel):
    """Raises what torch says where memory does not suffice, for every tile of more than so many voxels."""

    architecture: ClassVar[str] = "small tiles"

    def __init__(self, classes: ClassTable, *, log: str, most: int) -> None:
        super().__init__(classes)
        self._log, self._most = Path(log), most

    @property
    def arguments(self) -> dict[str, Any]:
        return {"log": str(self._log), "most": self._most}

    def forward(self, image: Tensor) -> Tensor:
        if image.numel() > self._most:
            with self._log.open("ab") as log:
                log.write(b"x")
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return super().forward(image)


def register() -> None:
    """Make all of these networks known to this process."""
    toys.register()
    registry.register(LosesItsDevice)
    registry.register(TakesSmallTiles)


def dask_setup(worker: Any) -> None:
    """Do so in a worker, which is started with this module as its preload."""
    register()


@contextmanager
def cluster(folder: Path, workers: int = WORKERS) -> Iterator[str]:
    """Start a cluster on loopback, whose nannies replace workers that die; give its address."""
    with scheduler_alone(folder) as address, at_work(folder, workers):
        yield address


@contextmanager
def scheduler_alone(folder: Path) -> Iterator[str]:
    """Start a scheduler that has no workers yet; give its address."""
    with _process(folder, "scheduler", *_about(folder), *_SCHEDULER), _client(folder) as client:
        yield client.scheduler.address


@contextmanager
def at_work(folder: Path, workers: int) -> Iterator[None]:
    """Have so many workers for the scheduler of that folder."""
    with _process(folder, "worker", *_about(folder), *_WORKER, "--nworkers", str(workers)):
        with _client(folder) as client:
            client.wait_for_workers(workers, timeout=120)
        yield


def _about(folder: Path) -> list[str]:
    return ["--scheduler-file", str(folder / "scheduler.json"), "--no-dashboard"]


def _client(folder: Path) -> Any:
    from distributed import Client

    return Client(scheduler_file=str(folder / "scheduler.json"), timeout=120, set_as_default=False)


_SCHEDULER = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
_WORKER = ("--nthreads", "1", "--memory-limit", "0", "--preload", "clusters", "--host", "127.0.0.1")


def python_path() -> str:
    """Return where a process of its own finds the helpers of the tests."""
    return os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextmanager
def _process(folder: Path, *words: str) -> Iterator[None]:
    """Run dask with these words, until the end of the ``with`` block."""
    settings = {"TEMPORARY_DIRECTORY": str(folder), "DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    env = {
        **os.environ,
        "PYTHONPATH": python_path(),
        **{f"DASK_{name}": value for name, value in settings.items()},
    }
    with (folder / f"{words[0]}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *words], env=env, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait()

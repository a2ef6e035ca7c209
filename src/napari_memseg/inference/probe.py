"""What one tile costs, measured with this network on this device, and remembered.

Shapes alone mispredict memory by up to 63 % (workspaces, copies for other layouts), so
a tile of the image itself is run through the network, and its time and memory are noted. What was
measured is kept in a small file of the user's cache folder, by model, device, arithmetic,
threads and shape of the tile, so that the next run need not wait for it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import platformdirs
import torch
from numcodecs import Zstd

from napari_memseg.errors import DeviceMemoryError, InputError
from napari_memseg.geometry import Box, zyx
from napari_memseg.inference.control import Control, Interrupted
from napari_memseg.inference.heap import GIB, PAGING, HeapMeter
from napari_memseg.inference.network import Network, cpu_threads
from napari_memseg.inference.shortage import is_shortage, raise_if_lost
from napari_memseg.inference.tensors import Reader
from napari_memseg.inference.tiling import round_up
from napari_memseg.io.files import atomic_write
from napari_memseg.models.base import SCORES, Halo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from napari_memseg.inference.plan import Plan
    from napari_memseg.inference.tensors import Sample
    from napari_memseg.io.volume import Volume

PLACES = (0.5, 0.25, 0.75)
"""Where in a region a tile is taken from: the first that can be read."""
WARM_SECONDS = 1.0
"""A pass that took less is repeated, since the first one pays for memory and kernels; what a longer one paid
for memory is known."""
LEAST_BYTES = 4
"""A voxel takes, whatever was seen: it is normalised to float32."""
MOST_ROWS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What one pass of one tile (or of one batch of them) through all tiled stages costs."""

    seconds: float
    read_seconds: float
    """To read and decode one tile."""
    bytes: int | None
    """Memory of the device that was taken, weights included; None where the system does not tell."""
    voxels: int
    """Of the boxes that were run, all tiled stages and the whole batch together."""
    stored: float
    """Bytes on disk per voxel of labels."""
    labels: NDArray[Any] | None = None
    """Of the tile, None where no class could be told; not remembered."""


class ProbeCache:
    """Rows of numbers in one JSON file; a damaged or read-only one counts as empty."""

    def __init__(self, path: Path | None = None) -> None:
        folder = platformdirs.user_cache_dir("napari-memseg", appauthor=False)
        self._path = path or Path(folder) / "probes.json"

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was noted under a key."""
        row = self._rows().get(key)
        return row if isinstance(row, dict) else None

    def put(self, key: str, row: dict[str, Any]) -> None:
        """Note something under a key, and forget the oldest where there are too many."""
        rows = {**{k: v for k, v in self._rows().items() if k != key}, key: row}
        kept = dict(list(rows.items())[-MOST_ROWS:])
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self._path, json.dumps(kept).encode())
        except OSError:
            return  # a cache that cannot be written only costs time

    def _rows(self) -> dict[str, Any]:
        try:
            rows = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return rows if isinstance(rows, dict) else {}


def machine_of(plan: Plan) -> str:
    """Return what tells this model on this device from others."""
    kind = torch.cuda.get_device_name(plan.device) if plan.device.startswith("cuda") else plan.device
    return f"{plan.sha256[:16]} {plan.network} {torch.__version__} {kind} {plan.threads}"


class Prober:
    """Probe plans of one image.

    Parameters
    ----------
    image : Volume
        Tiles are taken from it.
    cache : ProbeCache, optional
        Where costs are remembered.
    control : Control, optional
        Whoever cancels is heard between two layers; whoever pauses has the tile measured again later.
    """

    def __init__(
        self, image: Volume, cache: ProbeCache | None = None, *, control: Control | None = None
    ) -> None:
        self._image, self._control = image, control or Control()
        self.cache = cache or ProbeCache()

    def __call__(self, plan: Plan, *, labels: bool = False) -> Probe:
        """Return what a tile of a plan costs; with its labels, if these are wanted, and thus not from memory.

        Raises
        ------
        DeviceMemoryError
            If memory does not suffice.
        DeviceLostError
            If the device is gone.
        Cancelled
            If somebody asked for it.
        """
        probe = None if labels else self.known(plan)
        if probe is None:
            probe = self._measured(plan)
            numbers = asdict(replace(probe, labels=None))
            self.cache.put(self._key(plan), numbers)
            self.cache.put(self._rate_key(plan), numbers)
        return probe

    def tried(self, plan: Plan, *, labels: bool = False) -> Probe | None:
        """Return what a tile of a plan costs; None if memory does not suffice for it."""
        try:
            return self(plan, labels=labels)
        except DeviceMemoryError:
            return None

    def known(self, plan: Plan) -> Probe | None:
        """Return what is remembered of this very tile."""
        return _probe(self.cache.get(self._key(plan)))

    def rate(self, plan: Plan) -> Probe | None:
        """Return what is remembered of any tile of these stages, on this device, in this arithmetic."""
        return _probe(self.cache.get(self._rate_key(plan)))

    def _rate_key(self, plan: Plan) -> str:
        stages = " ".join(stage.name for stage in plan.tiled)
        return f"rate {machine_of(plan)} {plan.arithmetic} {stages}"

    def _key(self, plan: Plan) -> str:
        return f"{machine_of(plan)} {plan.arithmetic} {plan.batch} {self._shapes(plan)}"

    def _shapes(self, plan: Plan) -> str:
        reader = Reader(plan, self._image)
        core = middle(plan)
        boxes = [reader.where(stage, core).boxes for stage in plan.tiled]
        return " ".join(f"{name}{box.shape}" for found in boxes for name, box in found.items())

    def _measured(self, plan: Plan) -> Probe:
        while True:
            try:
                return self._measure(plan)
            except Interrupted:
                self._control.wait_if_paused()
            except (RuntimeError, MemoryError) as error:
                raise_if_lost(error, torch.device(plan.device))
                if not is_shortage(error):
                    raise
                raise DeviceMemoryError(
                    f"Memory does not suffice for a tile of {plan.core} voxels, {plan.batch} at a time, on "
                    f"{plan.device}. Choose a smaller --tile, or leave it out; or free some memory."
                ) from error

    def _measure(self, plan: Plan) -> Probe:
        began = perf_counter()
        samples = self._samples(plan)
        read_seconds = perf_counter() - began
        with cpu_threads(plan.threads):
            meter = _meter(plan.device)
            with meter:
                network = Network(plan, control=self._control)
                seconds, labels = _timed(network, samples, plan.batch)
                again = seconds < WARM_SECONDS
                if again:
                    seconds, labels = _timed(network, samples, plan.batch)
        if not again and plan.device == "cpu":  # the first pass has paid for its memory
            seconds = max(seconds - PAGING * (meter.most_bytes or 0) / GIB, seconds / 2)
        voxels = sum(sample.where.box.size for sample in samples) * plan.batch
        return Probe(
            seconds=seconds,
            read_seconds=read_seconds,
            bytes=None if meter.most_bytes is None else max(meter.most_bytes, voxels * LEAST_BYTES),
            voxels=voxels,
            stored=1.0 if labels is None else _stored(labels),
            labels=labels,
        )

    def _samples(self, plan: Plan) -> list[Sample]:
        """Read a tile for each tiled stage, where the image can be read; what it holds hardly counts."""
        for share in PLACES:
            with suppress(InputError):
                return _read(_BlindReader(plan, self._image), core_at(plan, share))
        return _read(_BlindReader(plan, self._image, blank=True), middle(plan))


def scout(plan: Plan, edge: int) -> Plan:
    """Return a plan of small tiles without context, to measure what a voxel costs."""
    stages = tuple(
        replace(stage, reads=tuple(replace(read, halo=Halo()) for read in stage.reads))
        for stage in plan.stages
    )
    core = round_up(zyx(min(edge, n) for n in plan.region.shape), plan.step)
    return replace(plan, core=core, stages=stages, batch=1)


def middle(plan: Plan) -> Box:
    """Return the core in the middle of a plan's region."""
    return core_at(plan, 0.5)


def core_at(plan: Plan, share: float) -> Box:
    """Return the core at a share of the way through a plan's region, in [0, 1), along all axes."""
    along = zip(plan.region.start, plan.region.stop, plan.core, strict=True)
    start = zyx((a + int(share * (b - 1 - a) + 0.5)) // n * n for a, b, n in along)
    return Box.at(start, plan.core)


def _probe(row: dict[str, Any] | None) -> Probe | None:
    """Read a row; one of another version counts as none."""
    try:
        return None if row is None else Probe(**row)
    except TypeError:
        return None


def _read(reader: Reader, core: Box) -> list[Sample]:
    return [reader.sample(stage, core) for stage in reader.plan.tiled]


def _timed(network: Network, samples: list[Sample], batch: int) -> tuple[float, NDArray[Any] | None]:
    """Run a tile through all tiled stages; return how long it took, and its labels."""
    seconds, labels = 0.0, None
    for n, sample in enumerate(samples):
        began, made = perf_counter(), {}
        result = network([sample], batch)[0]
        with suppress(InputError):  # where no class can be told, there are no labels to compare
            made = result.arrays()
        seconds += perf_counter() - began
        labels = made.get(SCORES)
        for later in samples[n + 1 :]:
            _hand_on(sample, made, later)
    return seconds, labels


def _hand_on(sample: Sample, made: Mapping[str, NDArray[Any]], later: Sample) -> None:
    """Put what a stage made into what a later one reads, as far as that is the same place."""
    for array in sample.stage.writes:
        if array.name in made and (want := later.where.boxes.get(array.name)) is not None:
            have = sample.written.coarsen(array.factor)
            shared = have & want
            target = later.arrays[array.name]
            assert isinstance(target, np.ndarray)
            inside = shared.relative_to(have.start)
            target[(..., *shared.relative_to(want.start).slices)] = made[array.name][(..., *inside.slices)]


def _stored(labels: NDArray[Any]) -> float:
    """Return the bytes that a voxel of labels takes on disk, once compressed, coarse levels included."""
    packed = len(Zstd(level=3).encode(np.ascontiguousarray(labels)))
    return packed / labels.size * 8 / 7


class _BlindReader(Reader):
    """A reader that sees the image alone: what earlier stages make is zeros; where ``blank``, it is too."""

    def __init__(self, plan: Plan, image: Volume, *, blank: bool = False) -> None:
        super().__init__(plan, image)
        self._blank = blank

    def _stored(self, name: str, box: Box | None) -> NDArray[Any]:
        array = next(a for stage in self.plan.stages for a in stage.writes if a.name == name)
        shape = array.shape(self.plan.shape) if box is None else (array.channels, *box.shape)
        return np.zeros(shape, array.dtype)

    def _halved(self, box: Box, level: int, halvings: int) -> NDArray[Any]:
        if not self._blank:
            return super()._halved(box, level, halvings)
        return np.zeros(box.shape, np.float32 if halvings else self.image.dtype)


class _CudaMeter:
    """As ``HeapMeter``, of a GPU's memory."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.most_bytes: int | None = None

    def __enter__(self) -> _CudaMeter:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        self.most_bytes = torch.cuda.max_memory_allocated(self._device) - self._before
        torch.cuda.empty_cache()


class _NoMeter:
    """Where nobody tells how much is taken."""

    most_bytes: int | None = None

    def __enter__(self) -> _NoMeter:
        return self

    def __exit__(self, *_: object) -> None:
        return


def _meter(device: str) -> Any:
    if device.startswith("cuda"):
        return _CudaMeter(device)
    return HeapMeter() if device == "cpu" else _NoMeter()

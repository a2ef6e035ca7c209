"""Where memory does not suffice, go on with less of it: a ladder that a run climbs down.

A batch is taken apart, then a tile is computed in halves, and halves of those; on the
last rung a GPU's work is done by the CPU, which begins with whole tiles and has a ladder
of its own. What did not fit once is not tried again, nor by who takes over the footing::

    batch of 4 ──> 2 x 2 ──> 4 x 1 ──> 2 x (64, 128, 128) ──> ... ──> CPU ──> the block failed
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from napari_memseg.errors import DeviceMemoryError
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.inference.network import Network
from napari_memseg.inference.shortage import is_shortage, raise_if_lost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_memseg.inference.control import Control
    from napari_memseg.inference.plan import Plan
    from napari_memseg.inference.tensors import Reader, Sample

_log = logging.getLogger(__name__)


class Result(Protocol):
    """What a stage made of one sample."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return it on the host, by name."""


@dataclass(eq=False)
class Footing:
    """Where on its ladder a process stands; kept from one call of ``run_blocks`` to the next."""

    batch: int
    """The most samples at once that were not found to be too many."""
    largest: Zyx
    """The largest core that was not found to be too large, in voxels."""
    retries: int = 0
    """How often memory did not suffice."""
    least_batch: int = 0
    """The smallest batch so far; ``batch`` grows again where nothing sufficed, since others took it all."""
    least_tile: Zyx = (0, 0, 0)
    """The smallest of the largest cores so far, likewise."""
    gave_up: bool = False
    """Whether the device takes no tile, so that all are the CPU's from then on."""
    without_device: bool = False
    """Whether not even the network found room on the device, so that the CPU computes all."""
    on_cpu: Ladder | None = None
    """What the CPU computes with, once it was needed."""

    @classmethod
    def of(cls, plan: Plan) -> Footing:
        """Return the top of the ladder: all is tried as it was planned."""
        return cls(plan.batch, plan.core, least_batch=plan.batch, least_tile=plan.core)

    def begin_anew(self, plan: Plan) -> None:
        """Go back to the top."""
        self.batch, self.largest = plan.batch, plan.core

    def shrink(self, *, batch: int | None = None, largest: Zyx | None = None) -> None:
        """Go on with less."""
        self.batch, self.largest = batch or self.batch, largest or self.largest
        self.least_batch = min(self.least_batch, self.batch)
        self.least_tile = min(self.least_tile, self.largest, key=prod)

    @property
    def notes(self) -> dict[str, Any]:
        """What a run card says of it: how often, and how small batch and tile became."""
        cpu = None if self.on_cpu is None else self.on_cpu.footing
        last = cpu if cpu is not None and self.gave_up else self
        retries = self.retries + (cpu.retries if cpu is not None else 0)
        by_cpu = cpu is not None or self.without_device
        at_last = {"batch": last.least_batch, "tile": list(last.least_tile), "cpu": by_cpu}
        return {"retries": retries} | (at_last if retries else {})


def load_network(plan: Plan, control: Control, footing: Footing) -> Network:
    """Load the network of a plan; where its device has no room for it, on the CPU, and take note.

    Raises
    ------
    DeviceMemoryError
        If the host has none either.
    DeviceLostError
        If the device is gone.
    """
    device = torch.device(plan.device)
    try:
        return Network(plan, control=control)
    except (RuntimeError, MemoryError) as error:
        raise_if_lost(error, device)
        if not is_shortage(error):
            raise
        if device.type == "cpu":
            raise DeviceMemoryError(
                f"The host's memory does not suffice for the weights of {plan.model}. Close other programs."
            ) from error
    _log.warning("%s has no memory for the network: the CPU computes", device)
    footing.retries, footing.without_device = footing.retries + 1, True
    return Network(plan, device="cpu", control=control)


class Ladder:
    """Compute samples in the memory that there is.

    Parameters
    ----------
    plan : Plan
        Of the run.
    reader, network
        What reads samples, and computes them.
    control : Control, optional
        Who may interrupt the CPU's network.
    footing : Footing, optional
        Where to begin, and what to keep up to date; by default the top.
    """

    def __init__(
        self,
        plan: Plan,
        reader: Reader,
        network: Network,
        control: Control | None = None,
        footing: Footing | None = None,
    ) -> None:
        self._plan, self._control = plan, control
        self.reader, self.network = reader, network
        self.footing = footing or Footing.of(plan)

    def __call__(self, samples: Sequence[Sample]) -> list[Result]:
        """Return what a stage makes of each sample.

        Raises
        ------
        DeviceMemoryError
            If even the smallest piece does not fit.
        DeviceLostError
            If the device is gone.
        """
        if self.footing.gave_up:
            return [self._by_cpu(sample) for sample in samples]
        while self._fits(samples):
            try:
                return list(self.network(samples, 1 if samples[0].stage.whole else self.footing.batch))
            except (RuntimeError, MemoryError) as error:
                raise_if_lost(error, self.network.device)
                if not is_shortage(error):
                    raise
            if not self._step_down(samples):
                break
        return self._in_parts(samples)

    def _fits(self, samples: Sequence[Sample]) -> bool:
        first, at = samples[0], self.footing
        return len(samples) <= at.batch and (first.stage.whole or _holds(at.largest, first.core.shape))

    def _step_down(self, samples: Sequence[Sample]) -> bool:
        """Remember what did not fit, and free what the device keeps for later; False on the last rung."""
        self.footing.retries += 1
        if self.network.device.type == "cuda":
            torch.cuda.empty_cache()
        first = samples[0]
        _log.warning(
            "Memory did not suffice for %s tiles of %s: going on with less", len(samples), first.core
        )
        if first.stage.whole:
            return False
        if self.footing.batch > 1:
            self.footing.shrink(batch=max(len(samples) // 2, 1))
            return True
        pieces = self._halves(first)
        self.footing.shrink(largest=pieces[0].shape if pieces else None)
        return bool(pieces)

    def _in_parts(self, samples: Sequence[Sample]) -> list[Result]:
        if len(samples) > 1:
            groups = range(0, len(samples), self.footing.batch)
            return [made for n in groups for made in self(samples[n : n + self.footing.batch])]
        (sample,) = samples
        pieces = self._halves(sample)
        if not pieces:
            return [self._last_resort(sample)]
        inside = [piece for piece in pieces if not (piece & sample.stage.region).is_empty]
        return [Whole(sample, [self._piece(sample, piece) for piece in inside])]

    def _piece(self, sample: Sample, core: Box) -> tuple[Box, Result]:
        (made,) = self([self.reader.sample(sample.stage, core)])
        return core & sample.stage.region, made

    def _halves(self, sample: Sample) -> list[Box]:
        """Return two halves of a core along its longest axis; none if the network takes no smaller one."""
        return [] if sample.stage.whole else halves(sample.core, self._plan.step)

    def _last_resort(self, sample: Sample) -> Result:
        if self.network.device.type == "cpu":
            self.footing.begin_anew(self._plan)  # others have taken all memory, and may give it back
            raise DeviceMemoryError(
                f"The host's memory does not suffice for a tile of {sample.core.shape} voxels, the smallest "
                "that this network takes. Close other programs, or work at a coarser level: --level."
            )
        self.footing.gave_up = not sample.stage.whole
        return self._by_cpu(sample)

    def _by_cpu(self, sample: Sample) -> Result:
        if self.footing.on_cpu is None:
            plan, reader = replace(self._plan, batch=1), self.reader.on_host()
            network = Network(plan, device="cpu", control=self._control)
            self.footing.on_cpu = Ladder(plan, reader, network, self._control)
        on_host = self.footing.on_cpu.reader.sample(sample.stage, sample.core)
        return self.footing.on_cpu([on_host])[0]


class Whole:
    """What a stage made of one sample, in pieces."""

    def __init__(self, sample: Sample, pieces: Sequence[tuple[Box, Result]]) -> None:
        self._sample, self._pieces = sample, pieces

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the pieces put together; see ``Made.arrays``."""
        parts = [(box, made.arrays()) for box, made in self._pieces]
        factors = {array.name: array.factor for array in self._sample.stage.writes}
        box = self._sample.written
        return {name: _joined(name, parts, box, factors.get(name, (1, 1, 1))) for name in parts[0][1]}


def halves(core: Box, step: Zyx) -> list[Box]:
    """Cut a box in two, on a multiple of ``step`` along its longest axis; none if it is one step long."""
    counts = [n // s for n, s in zip(core.shape, step, strict=True)]
    axis = max(range(3), key=lambda a: (counts[a] > 1, core.shape[a]))
    if counts[axis] < 2:
        return []
    cut = list(core.shape)
    cut[axis] = -(-counts[axis] // 2) * step[axis]
    first = Box.at(core.start, zyx(cut))
    second = list(core.start)
    second[axis] = first.stop[axis]
    return [first, Box(zyx(second), core.stop)]


def _holds(larger: Zyx, shape: Zyx) -> bool:
    return all(n <= most for n, most in zip(shape, larger, strict=True))


def _joined(name: str, parts: Sequence[tuple[Box, dict[str, NDArray[Any]]]], box: Box, factor: Zyx) -> Any:
    whole = box.coarsen(factor)
    first = parts[0][1][name]
    joined = np.empty((*first.shape[:-3], *whole.shape), first.dtype)
    for at, arrays in parts:
        inner = at.coarsen(factor).relative_to(whole.start)
        joined[(..., *inner.slices)] = arrays[name]
    return joined

"""Networks that fail when they are told to, and a note of all that they were asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from napari_memseg.geometry import Box
from napari_memseg.inference.network import Network

NO_MEMORY = {
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "torch on a CPU": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."),
    "numpy": MemoryError("Unable to allocate 2.00 GiB for an array"),
}
LOST = RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA.")


@dataclass(frozen=True)
class Call:
    """What a network was asked once."""

    number: int
    """Counted from 1, over all networks."""
    stage: str
    cores: list[Box]
    boxes: list[Box]
    batch: int
    device: str


def watched(
    monkeypatch: pytest.MonkeyPatch, trouble: Callable[[Call], Exception | None] = lambda call: None
) -> list[Call]:
    """Note what every network is asked from now on; a call fails with the error that ``trouble`` returns."""
    calls: list[Call] = []
    compute = Network.__call__

    def asked(network, samples, batch=1):
        cores, boxes = [s.core for s in samples], [s.where.box for s in samples]
        call = Call(len(calls) + 1, samples[0].stage.name, cores, boxes, batch, network.device.type)
        calls.append(call)
        if (error := trouble(call)) is not None:
            raise error
        return compute(network, samples, batch)

    monkeypatch.setattr(Network, "__call__", asked)
    return calls


def on_calls(error: Exception, *numbers: int) -> Callable[[Call], Exception | None]:
    """Let the calls of those numbers fail."""
    return lambda call: error if call.number in numbers else None


def in_box(error: Exception, box: Box) -> Callable[[Call], Exception | None]:
    """Let every call fail that writes into a box."""
    return lambda call: error if any(not (core & box).is_empty for core in call.cores) else None


def larger_than(core: tuple[int, int, int], error: Exception) -> Callable[[Call], Exception | None]:
    """Let every call of a tiled stage fail whose cores are larger."""

    def trouble(call: Call) -> Exception | None:
        fits = all(n <= most for n, most in zip(call.cores[0].shape, core, strict=True))
        return None if fits or call.stage == "coarse" else error

    return trouble

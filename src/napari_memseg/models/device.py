"""Which device a network runs on, to train and to predict alike."""

from __future__ import annotations

import os

import torch

from napari_memseg.errors import InputError


def choose_device(name: str) -> str:
    """Return the device of that name; ``auto`` takes a GPU if there is one.

    Raises
    ------
    InputError
        If there is no such device here; the CPU is one, and takes no index.
    """
    there = [kind for kind, module in (("cuda", torch.cuda), ("mps", torch.mps)) if module.is_available()]
    there.append("cpu")
    wanted = there[0] if name == "auto" else name
    kind, _, index = wanted.partition(":")
    if kind not in there or (kind == "cpu" and index):
        raise InputError(f"There is no device {name!r} here. Possible are: auto, {', '.join(there)}.")
    return wanted


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def describe_device(name: str = "auto") -> str:
    """Say which device that name means here, and why.

    Raises
    ------
    InputError
        As for ``choose_device``.
    """
    chosen = choose_device(name)
    kind = chosen.partition(":")[0]
    why = "as asked" if name != "auto" else _WHY[kind]
    if kind == "cuda":
        about = torch.cuda.get_device_properties(chosen)
        return f"{about.name}, {about.total_memory / 2**30:.0f} GiB ({chosen}): {why}"
    if kind == "mps":
        return f"Apple GPU ({chosen}): {why}"
    return f"CPU, {torch.get_num_threads()} of {os.cpu_count()} cores: {why}"


_WHY = {
    "cuda": "PyTorch found a CUDA GPU",
    "mps": "PyTorch found an Apple GPU and no CUDA GPU",
    "cpu": "PyTorch found neither a CUDA nor an Apple GPU",
}

"""Which device a network runs on, to train and to predict alike."""

from __future__ import annotations

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

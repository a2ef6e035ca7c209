"""What an error of torch means: too little memory, or a device that is gone.

Both come under many names, and mostly as a plain ``RuntimeError``.
"""

from __future__ import annotations

import torch

from napari_memseg.errors import DeviceLostError

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "alloc_failed")
"""How those say it that raise a plain RuntimeError."""
LOST = ("unspecified launch failure", "device-side assert", "gpu is lost", "has fallen off the bus",
        "illegal memory access", "launch timed out", "ecc error", "driver shutting down")  # fmt: skip
"""How CUDA says that nothing more can be computed in this process."""


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    text = str(error).lower()
    by_name = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return by_name or (isinstance(error, RuntimeError) and any(part in text for part in OUT_OF_MEMORY))


def raise_if_lost(error: Exception, device: torch.device) -> None:
    """Call an error by its name if it means that the device is gone, whoever hears of it first.

    CUDA may say so in many words; but whatever it said, a GPU that is gone cannot even be waited for.

    Raises
    ------
    DeviceLostError
        If it is.
    """
    if not isinstance(error, RuntimeError) or is_shortage(error):
        return
    said = str(error) if any(part in str(error).lower() for part in LOST) else _complaint(device)
    if said:
        raise DeviceLostError(
            f"This process can no longer use the GPU ({' '.join(said.split())[:200]}). What is finished "
            "is kept: start the same again to go on from there, or with --device cpu in another destination."
        ) from error


def _complaint(device: torch.device) -> str:
    """Return what a GPU says that cannot be waited for; nothing if it can."""
    if device.type != "cuda":
        return ""
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return str(error)
    return ""

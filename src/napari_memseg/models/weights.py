"""The tensors of a checkpoint, and what is checked before they are believed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from napari_memseg.errors import CheckpointError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

_NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors calls the dtypes of a network."""


def refuse_other_tensors(
    path: str | os.PathLike[str], expected: Mapping[str, Tensor], slices: Mapping[str, Any]
) -> None:
    """Compare names, shapes and dtypes with those of the network, before any value is read.

    Parameters
    ----------
    path : path-like
        Of the file, for the message.
    expected : mapping of Tensor
        The network's own; may lie on torch's meta device.
    slices : mapping
        What safetensors knows of each tensor in the file.

    Raises
    ------
    CheckpointError
        If any differs, is missing, or is too many.
    """
    found = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    wanted = {name: (tuple(t.shape), _NAMES[t.dtype]) for name, t in expected.items()}
    differing = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{path} does not hold the weights of the network on its card: {len(differing)} tensors differ, "
            f"first {name!r:.80} ({found.get(name, 'missing')}, expected {wanted.get(name, 'none')}). "
            "Choose a checkpoint that training wrote."
        )


def refuse_non_finite(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are NaN or infinite.

    Raises
    ------
    CheckpointError
        Which names the first of them.
    """
    bad = [n for n, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if bad:
        raise CheckpointError(
            f"{path}: {len(bad)} of {len(tensors)} tensors hold NaN or infinite weights, first {bad[0]}. "
            "Such a network predicts nothing: train again with a lower learning rate."
        )


def sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, dtypes, shapes and values of CPU tensors, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

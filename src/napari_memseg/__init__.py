"""Segment volumes larger than memory: the public face, each name loaded when first used.

``import napari_memseg`` loads neither torch nor napari; ``napari_memseg.train`` loads what training needs.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_memseg.annotation.session import Session
    from napari_memseg.io.formats import open_volume
    from napari_memseg.models.base import Model
    from napari_memseg.models.registry import create_model
    from napari_memseg.phantom.fly import Phantom
    from napari_memseg.workflows.convert import convert
    from napari_memseg.workflows.evaluate import evaluate
    from napari_memseg.workflows.segment import segment
    from napari_memseg.workflows.train import train

__all__ = [
    "Phantom",
    "Session",
    "convert",
    "create_model",
    "evaluate",
    "load_model",
    "open_volume",
    "phantom",
    "segment",
    "train",
]

_MODULES = {
    "Phantom": "phantom.fly",
    "Session": "annotation.session",
    "convert": "workflows.convert",
    "create_model": "models.registry",
    "evaluate": "workflows.evaluate",
    "open_volume": "io.formats",
    "segment": "workflows.segment",
    "train": "workflows.train",
}


def load_model(path: str | Path) -> Model:
    """Return the network in a checkpoint, ready to predict.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file that ``train`` wrote. Nothing in it is executed.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint of ours, or of a network that is not registered.
    """
    from napari_memseg.models.checkpoint import load_checkpoint

    model, _ = load_checkpoint(Path(path))
    return model


def phantom(
    size: str | tuple[int, int, int] = "small", difficulty: str = "normal", **choices: Any
) -> Phantom:
    """Return a synthetic animal under microCT, whose image and exact labels are made when read.

    Parameters
    ----------
    size : str or (z, y, x)
        "tiny" (64³), "small" (256³), "medium" (1024³), "large" (4096³), "huge" (8192 x 8192 x 16384),
        or a shape in voxels. The animal fills it.
    difficulty : str
        "easy", "normal" or "hard": blur, noise and artefacts.
    **choices
        ``animal`` ("fly", "beetle", "larva"), ``seed``, ``voxel_um`` (edge of a voxel in µm), ``mode``
        ("image" or "projection").

    Returns
    -------
    Phantom
        With ``image``, ``truth`` and ``instances``, lazy volumes that need no disk, and ``render(box)``.

    Raises
    ------
    InputError
        If there is no such preset, or the shape is impossible.
    """
    from napari_memseg.phantom.fly import Phantom
    from napari_memseg.phantom.parameters import PhantomParameters

    return Phantom(PhantomParameters.named(size, difficulty, **choices))


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

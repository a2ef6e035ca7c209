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
    from napari_memseg.phantom import make_phantom as phantom
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
    "phantom": "phantom",  # a package that can be called
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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    module = import_module(f"{__name__}.{_MODULES[name]}")
    return module if name == _MODULES[name] else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

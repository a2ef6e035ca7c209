"""Import a library of the extra ``io``, or say how to install it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import SourceError

if TYPE_CHECKING:
    from napari_memseg.io.source import Source


def need(module: str, source: Source) -> Any:
    """Return an imported module.

    Raises
    ------
    SourceError
        With the line that installs it, if it is not there.
    """
    try:
        return import_module(module)
    except ImportError:
        raise SourceError(
            f"{source.path} is read with the package {module}, which is not installed. Install it with: "
            "python -m pip install 'napari-memseg[io]'"
        ) from None

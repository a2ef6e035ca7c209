"""What a person chose in napari's Preferences, with our defaults; the manifest describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari.settings import get_plugin_settings


def setting(name: str) -> Any:
    """Return one of our settings: sessions_folder, device, steps, brush_size, confidence."""
    return getattr(get_plugin_settings("napari-memseg").workbench, name)


def sessions_folder() -> Path | None:
    """Return the folder in which all sessions shall lie; None where each lies beside its image."""
    chosen = str(setting("sessions_folder")).strip()
    return Path(chosen).expanduser() if chosen else None

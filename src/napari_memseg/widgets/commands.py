"""What napari's menus call."""

from __future__ import annotations

from napari import Viewer

PLUGIN, DOCK = "napari-memseg", "Memory-efficient segmentation"


def show_workbench(viewer: Viewer) -> None:
    """Open the dock, or bring it to the front."""
    viewer.window.add_plugin_dock_widget(PLUGIN, DOCK)

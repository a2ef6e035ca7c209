"""Volumes of the menu File > Open Sample."""

from __future__ import annotations

from napari_memseg.data import bundled
from napari_memseg.io.formats import open_volume
from napari_memseg.widgets.reader import LayerData, layer, read


def trabecular_bone() -> list[LayerData]:
    """Open the bundled microCT of human trabecular bone, and its published mask (1 bone, 0 marrow)."""
    labels = open_volume(str(bundled("trabecular_bone_labels.ome.tif")))
    return [*read(str(bundled("trabecular_bone.ome.tif"))), layer(labels, "labels")]

"""The layers of a session: its image, the result, and the corrections on top.

Only the corrections can be painted on, and they hold nothing but a person's opinions;
the result shows them over what was predicted::

    corrections   the overlay      editable
    result        the composite    read-only, multiscale
    confidence    of a run         read-only, optional
    image         as it was        read-only
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from napari.components import LayerList
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import DirectLabelColormap

from napari_memseg.annotation.composite import Composite
from napari_memseg.annotation.session import Session
from napari_memseg.io.intensity import sample_window
from napari_memseg.io.volume import Volume
from napari_memseg.models.classes import ClassTable
from napari_memseg.widgets.reader import layer as layer_of
from napari_memseg.widgets.reader import overview

BACKGROUND_TINT = "#8fa3b8"
"""Of voxels that a person declared background."""
TRANSPARENT = "transparent"


def image_layer(volume: Volume, **arguments: Any) -> Image:
    """Make the layer of an image, with grey values from a sample of it unless they are given."""
    if "contrast_limits" not in arguments:
        arguments["contrast_limits"] = sample_window(volume, overview(volume))
    data, settings, _ = layer_of(volume, "image", **arguments)
    return Image(data, **settings)


def result_layer(session: Session, levels: tuple[Composite, ...]) -> Labels:
    """Make the read-only layer of what is to be seen: opinions over predictions."""
    pyramid = len(levels) > 1
    found = Labels(
        list(levels) if pyramid else levels[0],
        multiscale=pyramid,
        name="result",
        opacity=0.45,
        colormap=result_colors(session.classes),
        **grid(session),
    )
    found.editable = False
    return found


def corrections_layer(session: Session, brush_size: int) -> Labels:
    """Make the layer that is painted on."""
    found = Labels(
        session.overlay,
        name="corrections",
        opacity=0.7,
        colormap=corrections_colors(session.classes),
        **grid(session),
    )
    found.brush_size = brush_size
    found.selected_label = value_of(session.classes, session.classes.ids[-1])
    found.editable = not session.read_only and session.overlay.state != "failed"
    return found


def confidence_layer(session: Session, run: Volume) -> Image:
    """Make the layer of how sure a run is: 0 to 254; hidden until somebody looks."""
    pyramid = len(run.levels) > 1
    return Image(
        list(run.levels) if pyramid else run.levels[0],
        multiscale=pyramid,
        cache=False,
        name="confidence",
        colormap="inferno",
        contrast_limits=(0, 254),
        visible=False,
        opacity=0.6,
        **grid(session),
    )


def grid(session: Session) -> dict[str, Any]:
    """Say where a session's voxels lie: each in the middle of those of level 0 that it covers."""
    image = session.image
    finest, factors = image.voxel_size or (1.0, 1.0, 1.0), image.scale(session.level)
    scale = tuple(length * factor for length, factor in zip(finest, factors, strict=True))
    middle = tuple(length * (factor - 1) / 2 for length, factor in zip(finest, factors, strict=True))
    units = {"units": (image.unit,) * 3} if image.unit else {}
    return {"scale": scale, "translate": middle, "axis_labels": ("z", "y", "x"), **units}


def result_colors(classes: ClassTable, hidden: Collection[int] = ()) -> DirectLabelColormap:
    """Return the colours of a result: background and what nobody predicted cannot be seen."""
    return _colors(classes, {}, hidden)


def corrections_colors(classes: ClassTable, hidden: Collection[int] = ()) -> DirectLabelColormap:
    """Return the colours of corrections, where "this is background" shows as a tint."""
    tint = TRANSPARENT if 0 in hidden else BACKGROUND_TINT
    return _colors(classes, {classes.background_opinion: tint}, hidden)


def _colors(classes: ClassTable, more: dict[int | None, str], hidden: Collection[int]) -> DirectLabelColormap:
    """Return colours by value: of merged classes those that they are in, of hidden ones none."""
    colors: dict[int | None, str] = {c.id: TRANSPARENT if c.id in hidden else c.color for c in classes}
    colors.update({None: TRANSPARENT, 0: TRANSPARENT})
    colors.update(more)
    background = colors.get(classes.background_opinion, TRANSPARENT)
    colors.update({c.id: colors[c.merged_into] if c.merged_into else background for c in classes.merged})
    return DirectLabelColormap(color_dict=colors)


def value_of(classes: ClassTable, class_id: int) -> int:
    """Return what is painted for a class: its id, or for background the opinion that says so."""
    return class_id or classes.background_opinion


def insert(layers: LayerList, layer: Layer, below: Layer | None = None) -> None:
    """Put a layer below another one, or on top, and leave the chosen one chosen: somebody may be painting.

    napari chooses what is inserted.
    """
    with same_active(layers):
        layers.insert(len(layers) if below is None or below not in layers else layers.index(below), layer)


@contextmanager
def same_active(layers: LayerList) -> Iterator[None]:
    """Leave the chosen layer chosen, whatever is inserted in the ``with`` body."""
    active = layers.selection.active
    yield
    if active is not None and active in layers:
        layers.selection.active = active


def bytes_of(layer: Any) -> int:
    """Return how large an image or labels layer would be in memory at its finest level."""
    finest = layer.data[0] if layer.multiscale else layer.data
    return int(np.prod(finest.shape, dtype=np.int64)) * int(np.dtype(finest.dtype).itemsize)

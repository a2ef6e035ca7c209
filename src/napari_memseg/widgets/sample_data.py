"""Volumes of the menu File > Open Sample: a real one, and a synthetic fly, made when first asked for."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from napari.utils import progress
from napari.utils.colormaps import DirectLabelColormap
from platformdirs import user_cache_path
from qtpy.QtCore import QEventLoop

from napari_memseg.data import bundled
from napari_memseg.errors import Cancelled
from napari_memseg.io.formats import open_volume
from napari_memseg.phantom.labels import COLORS
from napari_memseg.phantom.parameters import VERSION, PhantomParameters
from napari_memseg.widgets.reader import LayerData, layer, read
from napari_memseg.widgets.relay import JobRelay, Outcome
from napari_memseg.workflows.progress import Progress

PHANTOM = "napari_memseg.workflows.phantom:phantom"


def trabecular_bone() -> list[LayerData]:
    """Open the bundled microCT of human trabecular bone, and its published mask (1 bone, 0 marrow)."""
    labels = open_volume(str(bundled("trabecular_bone_labels.ome.tif")))
    return [*read(str(bundled("trabecular_bone.ome.tif"))), layer(labels, "labels")]


def fly_tiny() -> list[LayerData]:
    """Open a synthetic fly of 64³ voxels with its truth, once it is made."""
    return _fly("tiny")


def fly_small() -> list[LayerData]:
    """Open a synthetic fly of 256³ voxels with its truth, once it is made."""
    return _fly("small")


def fly_path(size: str) -> Path:
    """Return where a synthetic fly is kept after it was made once."""
    return user_cache_path("napari-memseg", appauthor=False) / f"synthetic_fly_{size}_{VERSION}.ome.zarr"


def fly_layers(path: Path) -> list[LayerData]:
    """Return image and truth of a fly on disk."""
    truth = layer(open_volume(f"{path}::labels/truth"), "labels", opacity=0.5, colormap=_colors())
    return [*read(str(path)), truth]


def _colors() -> DirectLabelColormap:
    colors: dict[int | None, str] = {label: color for label, color in COLORS.items() if label}
    return DirectLabelColormap(color_dict={**colors, None: "transparent", 0: "transparent"})


def _fly(size: str) -> list[LayerData]:
    """Return the layers of a fly, which is made in the child process where it is not there yet."""
    path = fly_path(size)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _make(f"making a {size} synthetic fly", path, PhantomParameters.named(size))
    return fly_layers(path)


def _make(title: str, path: Path, parameters: PhantomParameters) -> None:
    """Wait for the fly with a bar in napari, which goes on drawing and listening meanwhile."""
    relay, loop, outcomes = JobRelay(), QEventLoop(), list[Outcome]()
    with progress(total=0, desc=title) as bar:
        relay.stepped.connect(partial(_show, bar))
        relay.ended.connect(outcomes.append)
        relay.ended.connect(lambda _: loop.quit())
        relay.start(title, PHANTOM, path, parameters)
        loop.exec()
    if not outcomes:
        raise Cancelled("The synthetic fly was not made, since napari was closed.")
    if outcomes[0].error is not None:
        raise outcomes[0].error
    if outcomes[0].cancelled:
        raise Cancelled("The synthetic fly was not made, since napari was told to stop.")


def _show(bar: progress, step: Progress) -> None:
    bar.total = step.total
    bar.update(step.done - bar.n)

"""Drop a volume on napari and see it at once: every format of ``io``, lazily, with its voxel size.

napari asks ``get_reader`` for anything that matches the manifest and for every folder; a path that is no
volume by its looks is declined, one that turns out to be broken says what is wrong when it is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from math import prod
from pathlib import Path
from typing import Any

from napari import current_viewer
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from qtpy.QtCore import QCoreApplication

from napari_memseg.annotation.record import NAME as SESSION
from napari_memseg.errors import SourceError
from napari_memseg.io.formats import FORMATS, open_volume
from napari_memseg.io.intensity import sample_window
from napari_memseg.io.volume import Volume

OVERVIEW_VOXELS = 2**18
"""A level with fewer says too little of the grey values."""
VOLUME = "napari-memseg volume"
"""In the metadata of a layer: the open volume that it shows."""
LayerData = tuple[Any, dict[str, Any], str]
"""What napari makes a layer of: the data, its arguments, the type of layer."""


def get_reader(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """Return the reader for ``path``, or None where it is neither a volume nor a session by its looks."""
    if not isinstance(path, str) or not Path(path).exists():
        return None
    if (Path(path) / SESSION).is_file():
        return read_session
    return read if any(known.fits(Path(path)) for known in FORMATS) else None


def read(path: str) -> list[LayerData]:
    """Open a volume as one layer: of labels if it says that it holds some, else an image.

    Raises
    ------
    SourceError
        If it cannot be read as a volume; the message says what to do.
    """
    volume = open_volume(path)
    _check_rest(volume)
    if volume.is_labels and volume.dtype.kind in "iu":  # napari's labels are whole numbers
        return [layer(volume, "labels")]
    return [layer(volume, "image", contrast_limits=sample_window(volume, overview(volume)))]


def _check_rest(volume: Volume) -> None:
    """Look in a thread at what opening left for later, and tell what does not belong; at once without Qt."""
    if volume.check_rest is None:
        return
    if QCoreApplication.instance() is None:
        volume.check()
    else:
        create_worker(_wrong, volume, _connect={"returned": _tell})


def _wrong(volume: Volume) -> Generator[None, None, str]:
    """Return what ``Volume.checks`` finds; napari's own way to tell errors of a thread fails."""
    try:
        yield from volume.checks()
    except SourceError as error:
        return str(error)
    return ""


def _tell(wrong: str) -> None:
    if wrong:
        show_error(wrong)


def read_session(path: str) -> list[Any]:
    """Open a session in the dock of the viewer at hand, which adds its layers itself."""
    from napari_memseg.widgets.commands import show_workbench
    from napari_memseg.widgets.desk import desk_of

    viewer = current_viewer()
    if viewer is not None:
        show_workbench(viewer)
        desk_of(viewer).open_session(Path(path))
    return [(None,)]


def layer(volume: Volume, kind: str, **arguments: Any) -> LayerData:
    """Describe a layer of ``volume`` with its pyramid and physical axes.

    napari keeps nothing of it in a cache of its own: ours is bounded in bytes.

    The unit is left out where it is unknown: napari then shows voxels.
    """
    units = {"units": (volume.unit,) * 3} if volume.unit else {}
    multiscale = len(volume.levels) > 1
    physical = {"scale": volume.voxel_size or (1.0, 1.0, 1.0), "axis_labels": ("z", "y", "x"), **units}
    about = {"source": volume.source, VOLUME: volume}
    own = {"name": volume.name, "multiscale": multiscale, "metadata": about, "cache": False}
    return list(volume.levels) if multiscale else volume.levels[0], {**own, **physical, **arguments}, kind


def overview(volume: Volume) -> int:
    """Return the coarsest level that is still an image, since it is read soonest; 0 where none is."""
    sizes = [prod(array.shape) for array in volume.arrays]
    return max((level for level, size in enumerate(sizes) if size >= OVERVIEW_VOXELS), default=0)

"""What large planes cost the viewer: the next slice, and a dab of the brush.

    xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/planes.py [--times 10] [EDGE ...]

Volumes of 32 planes of EDGE x EDGE voxels, of which nothing is stored, each in a session of its own in a real
viewer that shows the whole plane. A time runs until napari has drawn, so the software renderer of a machine
without a screen is in it. Memory is that of the process after all of an edge. Needs the extra for the viewer.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import napari
import psutil
from dock import begin
from figures.table import Table, print_table, spread
from qtpy.QtWidgets import QApplication

from napari_memseg.io.pyramid import create_image

PLANES, BRUSH = 32, 10
EDGES = (2048, 4096, 8192, 16384)


def main() -> None:
    """Measure each edge in turn, and print a table of the slices and one of the dabs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("edges", nargs="*", type=int, default=EDGES, metavar="EDGE")
    parser.add_argument("--times", type=int, default=10)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="planes-"))
    slices, dabs = {}, {}
    for edge in asked.edges:
        name = f"{edge} x {edge}"
        slices[name], dabs[name] = _measure(edge, asked.times, folder / str(edge))
    shutil.rmtree(folder)
    print_table(Table("next slice", slices))
    print_table(Table("a dab", dabs))


def _measure(edge: int, times: int, folder: Path) -> tuple[dict[str, object], dict[str, object]]:
    """Open a volume in a viewer, and return rows about its slices and about dabs on the last of them."""
    folder.mkdir()
    image, shape = folder / "image.ome.zarr", (PLANES, edge, edge)
    create_image(image, shape=shape, dtype="uint8", voxel_size=(1.0, 1.0, 1.0), unit="micrometer")
    viewer = napari.Viewer()
    viewer.window.resize(1600, 1000)
    _, workbench = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
    begin(viewer, workbench, image, folder / "session")
    workbench.desk.choose(1)
    layer, middle = workbench.desk.shown.corrections, edge // 2
    layer.brush_size = BRUSH
    slices = [_seconds(lambda z=z: viewer.dims.set_current_step(0, z)) for z in range(times)]
    places = [(times - 1, middle + 2 * BRUSH * n, middle) for n in range(times)]
    dabs = [_seconds(lambda place=place: layer.paint(place, 1)) for place in places]
    memory = psutil.Process().memory_info().rss / 2**30
    viewer.close()
    QApplication.processEvents()
    return spread(slices, "s"), {**spread(dabs, "s"), "memory at the end, GiB": memory}


def _seconds(does: Callable[[], object]) -> float:
    began = time.perf_counter()
    does()
    QApplication.processEvents()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

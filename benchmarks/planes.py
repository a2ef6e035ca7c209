"""What large planes cost the viewer: the next slice, and a dab of the brush.

    xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/planes.py [--times 10] [EDGE ...]

Volumes of 32 planes of EDGE x EDGE voxels, of which nothing is stored, each in a session of its own in a real
viewer that shows the whole plane. A time runs until napari has drawn; so the software renderer of a machine
without a screen is in it. Memory is that of the process. A plane of opinions is as large as the slice, but the
system gives no memory for what nobody painted on. Needs the extra for the viewer, and 2 GiB.
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
from figures.table import print_table
from qtpy.QtWidgets import QApplication

from napari_memseg.io.pyramid import create_image

PLANES, BRUSH = 32, 10


def main() -> None:
    """Measure each edge in turn, and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("edges", nargs="*", type=int, default=[2048, 4096, 8192, 16384], metavar="EDGE")
    parser.add_argument("--times", type=int, default=10)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="planes-"))
    rows = {f"{edge}²": _measure(edge, asked.times, folder / str(edge)) for edge in asked.edges}
    shutil.rmtree(folder)
    print_table("planes", rows)


def _measure(edge: int, times: int, folder: Path) -> dict[str, list[float]]:
    """Open a volume in a viewer, and return seconds of each slice and dab, and the memory at the end in GiB."""
    folder.mkdir()
    image = folder / "image.ome.zarr"
    create_image(
        image, shape=(PLANES, edge, edge), dtype="uint8", voxel_size=(1.0, 1.0, 1.0), unit="micrometer"
    )
    viewer = napari.Viewer()
    viewer.window.resize(1600, 1000)
    _, workbench = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
    begin(viewer, workbench, image, folder / "session")
    workbench.desk.choose(1)
    corrections = workbench.desk.shown.corrections
    corrections.brush_size = BRUSH
    slices = [_seconds(lambda z=z: viewer.dims.set_current_step(0, z)) for z in range(times)]
    dabs = [
        _seconds(lambda n=n: corrections.paint((times - 1, edge // 2 + 2 * BRUSH * n, edge // 2), 1))
        for n in range(times)
    ]
    memory = psutil.Process().memory_info().rss / 2**30
    viewer.close()
    QApplication.processEvents()
    return {"next slice, s": slices, "dab, s": dabs, "memory, GiB": [memory]}


def _seconds(does: Callable[[], object]) -> float:
    began = time.perf_counter()
    does()
    QApplication.processEvents()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

"""What a brush dab costs over 10^10 voxels, and over 3·10^6 beside it.

    xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/painting.py [--json FILE]

In a real viewer with the dock, a session is begun on an OME-Zarr image without a single stored chunk. The
mouse draws, by events of Qt on the canvas, strokes of 8 and of 96 dabs, brush 20, on ever new slices; the
same ones over both volumes, relative to the cells in which corrections are stored. Timed are a dab as napari
takes it (``Labels.paint``) and our part of it (reads and writes of the overlay, with all that listens to
them), storing a stroke at button up, and a long stroke from button down to button up, with the drawing on
the screen in between. Times are in milliseconds.

Needs the extra for the viewer and Xvfb (or a screen). About three minutes and a few MB of disk.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import napari
import numpy as np
import psutil
from dock import (
    BRUSH,
    SNAKE,
    STEP,
    Stopwatch,
    begin,
    by_name,
    expect,
    mouse,
    outer,
    print_table,
    quantiles,
    zoom_to,
)
from napari.layers import Labels
from qtpy.QtWidgets import QApplication

from napari_memseg.annotation.overlay import Overlay
from napari_memseg.io.pyramid import create_image
from napari_memseg.widgets.workbench import Workbench

SIDES = (144, 2160)
"""Voxels along each axis of the cubes."""
LONG, SHORT = 12, 30
"""Strokes of 96 and of 8 dabs."""
DASH = [(0.0, float(STEP * n)) for n in range(8)]
OURS = "Overlay.__getitem__", "Overlay.__setitem__", "Overlay.commit", "Overlay.begin_stroke", "Overlay._tell"


def main() -> None:
    """Paint over each volume, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the numbers into this file")
    target = parser.parse_args().json
    watch = Stopwatch()
    watch.watch_dock()
    watch.watch(Labels, "paint", "Labels.paint", ours=False)
    for name in OURS:
        owner = next(base for base in Overlay.__mro__ if name.split(".")[1] in vars(base))
        watch.watch(owner, name.split(".")[1], name)
    viewer = napari.Viewer()
    viewer.window.resize(1400, 900)
    _, workbench = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
    facts = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            facts[side] = paint_over(viewer, workbench, side, Path(folder), watch)
        viewer.close()
    for side, found in facts.items():
        print_table(f"{side}^3 voxels, ms", found["times"])
        print_table(f"{side}^3: own time within dabs, ms", found["within dabs"])
        print_table(f"{side}^3: own time, whole strokes, ms", found["within strokes"])
        print_table(f"{side}^3: MiB", {"RSS": found["rss"]})
    if target:
        target.write_text(json.dumps(facts, indent=1))


def paint_over(
    viewer: Any, workbench: Workbench, side: int, folder: Path, watch: Stopwatch
) -> dict[str, Any]:
    """Begin a session on an empty cube and paint in it."""
    image = folder / f"{side}.ome.zarr"
    create_image(image, shape=(side,) * 3, dtype="uint8", voxel_size=(1.0, 1.0, 1.0), unit="micrometer")
    begin(viewer, workbench, image, folder / f"session-{side}")
    desk = workbench.desk
    desk.choose(1)
    viewer.layers["corrections"].brush_size = BRUSH
    expect(lambda: desk.counting.voxels, "voxels are counted")
    rss = _rss_mib()
    rng = np.random.default_rng(0)
    watch.calls.clear()
    strokes = [
        _stroke(viewer, _place(side, rng), SNAKE if n < LONG else DASH, watch) for n in range(LONG + SHORT)
    ]
    after = _rss_mib()
    long = [stroke for stroke in strokes if stroke["dabs"] > 50]
    dabs = [call for call in watch.calls if call.name == "Labels.paint"]
    times = {
        "a dab, our part": quantiles([call.total - call.own for call in dabs]),
        "a dab in all, as napari takes it": quantiles([call.total for call in dabs]),
        "storing a long stroke at button up": quantiles([stroke["store"] for stroke in long]),
        "storing a short stroke": quantiles([stroke["store"] for stroke in strokes if stroke not in long]),
        "a long stroke, our part": quantiles([stroke["ours"] for stroke in long]),
        "a long stroke, handling of mouse events": quantiles([stroke["events"] for stroke in long]),
        "a long stroke in all, with drawing": quantiles([stroke["whole"] for stroke in long]),
        "dabs of a long stroke (number)": quantiles([stroke["dabs"] for stroke in long]),
        "to another slice and place, napari": quantiles([stroke["travel"] for stroke in strokes]),
    }
    assert desk.session.overlay.state == "saved"
    rss_row = {"before": rss, "after": after, "grown": after - rss}
    desk.close_session()
    viewer.layers.clear()
    return {
        "times": times,
        "within dabs": by_name([call for call in watch.calls if call.root == "Labels.paint"]),
        "within strokes": by_name(watch.calls),
        "rss": rss_row,
    }


def _place(side: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Return a slice, and a corner between four cells."""
    z = int(rng.integers(side))
    y, x = (int(n) * 64 for n in rng.integers(1, side // 64, 2))
    return z, y, x


def _stroke(viewer: Any, place: tuple[int, int, int], path: list[Any], watch: Stopwatch) -> dict[str, Any]:
    """Go there, draw, and return what it took."""
    start = time.perf_counter()
    zoom_to(viewer, *place)
    QApplication.processEvents()
    travelled = time.perf_counter()
    first = len(watch.calls)
    events = 0.0
    steps, going = mouse(viewer, path), True
    while going:
        before = time.perf_counter()
        going = next(steps, "end") != "end"
        events += time.perf_counter() - before
        QApplication.processEvents()
    calls = watch.calls[first:]
    whole = (time.perf_counter() - travelled) * 1000
    return {
        "travel": (travelled - start) * 1000,
        "whole": whole,
        "events": events * 1000,
        "ours": sum(call.total for call in outer(calls)),
        "dabs": sum(call.name == "Labels.paint" for call in calls),
        "store": max(call.total for call in calls if call.name == "Overlay.commit"),
    }


def _rss_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20


if __name__ == "__main__":
    main()

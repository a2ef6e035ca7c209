"""How long the event loop of the viewer is held while anything runs, and by which slot of ours.

    xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/event_loop.py [PART ...] [--json FILE]

In a real viewer with the dock::

    bone      nothing happens, a network is trained, the volume is segmented while its result fills in, and it
              is segmented again while the mouse paints: all on the bundled bone
    large     the same bone in the middle of 10^10 voxels, of which nothing else is stored: the mouse paints
              alone, while a network learns and previews what is looked at, while it learns live from each
              stroke, and while the volume is segmented
    preview   how long it takes from pressing Train to the first preview, after ten strokes in the bone

In each phase of the first two a timer of 2 ms notes the gaps between its ticks: what a person feels, drawing
and napari included. Beside that every method of ours that Qt or napari calls is timed, with and without what
napari does inside it (adding, removing or refreshing a layer), and those by themselves. Where the mouse
paints, the time from letting go of the button to the stroke on disk is noted too. Times are in milliseconds.

Needs the extra for the viewer and Xvfb (or a screen). Two minutes for bone, four for large, six for preview.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import psutil
from dock import (
    BRUSH,
    SNAKE,
    Stopwatch,
    begin,
    by_name,
    expect,
    mouse,
    outer,
    print_table,
    quantiles,
    run_until,
    zoom_to,
)
from figures import first_preview
from figures.table import print_table as print_spread
from napari.components.layerlist import LayerList
from napari.layers import Labels
from napari.layers.base import Layer
from napari.qt import get_qapp
from qtpy.QtCore import Qt, QTimer

from napari_memseg.annotation.overlay import Overlay
from napari_memseg.data import bundled
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.io.formats import open_volume
from napari_memseg.io.pyramid import create_image

IDLE_SECONDS, TRAIN_MINUTES, LONGEST = 15, 0.35, 90
SOME_SECONDS = 30
"""Of what does not end by itself."""
MOUSE_MS, MEMORY_MS = 16, 250
"""Time between two moves of the mouse, and between two looks at memory."""
SIDE = 2160
"""Of the large cube, in voxels."""
SLICES = (30, 80, 130)
"""Of the bone, whose labels are copied to be learned from."""
PARTS = ("bone", "large", "preview")
NAPARI = ("napari: add a layer", "napari: remove a layer", "napari: refresh a layer", "napari: Labels.paint")


class Gaps:
    """Notes the time between two ticks of the event loop, in milliseconds."""

    def __init__(self) -> None:
        self.found: list[float] = []
        self._last = time.perf_counter()
        self._timer = QTimer(interval=2, timerType=Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._timer.start()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.found.append((now - self._last) * 1000)
        self._last = now


class Memory:
    """Notes the most memory that the viewer and its children take, in MiB."""

    def __init__(self) -> None:
        self.viewer = self.children = 0.0
        self._timer = QTimer(interval=MEMORY_MS)
        self._timer.timeout.connect(self._look)
        self._timer.start()

    def clear(self) -> None:
        """Forget what was."""
        self.viewer = self.children = 0.0

    def _look(self) -> None:
        process = psutil.Process()
        self.viewer = max(self.viewer, _rss_mib(process))
        self.children = max(self.children, sum(_rss_mib(child) for child in process.children(recursive=True)))


def _rss_mib(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


class Hand:
    """Paints strokes one after another, a move of the mouse every ``MOUSE_MS``.

    Attributes
    ----------
    to_disk : list of float
        From letting go of the button to the stroke on disk, in milliseconds.
    """

    def __init__(self, viewer: Any, corner: Zyx = (0, 0, 0)) -> None:
        self.to_disk: list[float] = []
        self._viewer, self._corner, self._strokes = viewer, corner, 0
        self._steps = iter(())
        self._timer = QTimer(interval=MOUSE_MS)
        self._timer.timeout.connect(self._move)

    def start(self) -> None:
        """Paint until ``stop``."""
        self._timer.start()

    def stop(self) -> None:
        """Let go of the button."""
        self._timer.stop()
        list(self._steps)

    def _move(self) -> None:
        before = time.perf_counter()
        if next(self._steps, "up") == "up":
            if self._strokes:
                self.to_disk.append((time.perf_counter() - before) * 1000)
            self._strokes += 1
            z, y, x = self._corner
            zoom_to(self._viewer, z + 20 + 7 * self._strokes % 120, y + 80, x + 80)
            self._steps = mouse(self._viewer, SNAKE)


class Probe:
    """What is noted in each phase.

    Attributes
    ----------
    phases : dict
        What was found, by name of the phase.
    """

    def __init__(self, watch: Stopwatch) -> None:
        self.phases: dict[str, Any] = {}
        self._watch, self._gaps, self._memory = watch, Gaps(), Memory()

    def __call__(self, name: str, work: Callable[[], Any], hand: Hand | None = None) -> None:
        """Do something, perhaps while a hand paints."""
        self._watch.calls.clear()
        self._gaps.found.clear()
        self._memory.clear()
        if hand is not None:
            hand.start()
        work()
        self.phases[name] = _found(self._watch, self._gaps)
        if hand is not None:
            hand.stop()
            self.phases[name]["stroke to disk"] = quantiles(hand.to_disk)
        self.phases[name]["RSS"] = {"viewer": self._memory.viewer, "children": self._memory.children}


def main() -> None:
    """Go through the parts, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, help="also write the numbers into this file")
    parser.add_argument("--times", type=int, default=3, help="that a preview is waited for, of each kind")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    watch = Stopwatch()
    watch.watch_dock()
    watch.watch(Overlay, "__setitem__", "Overlay.__setitem__")
    watch.watch(LayerList, "insert", "napari: add a layer", ours=False)
    holder = next(base for base in LayerList.__mro__ if "__delitem__" in vars(base))
    watch.watch(holder, "__delitem__", "napari: remove a layer", ours=False)
    watch.watch(Layer, "refresh", "napari: refresh a layer", ours=False)
    watch.watch(Labels, "paint", "napari: Labels.paint", ours=False)
    get_qapp()  # timers need one
    probe, tables = Probe(watch), []
    for part in asked.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            if part == "preview":
                tables = list(first_preview.measure(_open_viewer, Path(folder), asked.times))
            else:
                viewer, workbench = _open_viewer()
                (_bone if part == "bone" else _large)(viewer, workbench, Path(folder), probe)
                viewer.close()
    _print(probe.phases)
    for table in tables:
        print_spread(table)
    if asked.json:
        rows = probe.phases | {table.title: dict(table.rows) for table in tables}
        asked.json.write_text(json.dumps(rows, indent=1))


def _open_viewer() -> tuple[Any, Any]:
    """Return a viewer and the workbench in its dock."""
    viewer = napari.Viewer()
    viewer.window.resize(1400, 900)
    _, workbench = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
    return viewer, workbench


def _bone(viewer: Any, workbench: Any, folder: Path, probe: Probe) -> None:
    """Go through the phases on the bundled bone."""
    source = folder / "bone.ome.tif"
    shutil.copy(bundled("trabecular_bone.ome.tif"), source)
    probe("open", lambda: begin(viewer, workbench, source, folder / "session"))
    _paint_three_slices(workbench.desk, (0, 0, 0))
    probe("idle", lambda: run_until(lambda: False, IDLE_SECONDS))
    probe("train", lambda: _train(workbench))
    probe("segment", lambda: _segment(workbench))
    _take_brush(viewer, workbench)
    probe("paint while segmenting", lambda: _segment(workbench), Hand(viewer))


def _large(viewer: Any, workbench: Any, folder: Path, probe: Probe) -> None:
    """Go through the phases on 10^10 voxels."""
    image, corner = folder / "large.ome.zarr", _make_large(folder / "large.ome.zarr")
    probe("large: open", lambda: begin(viewer, workbench, image, folder / "session"))
    _paint_three_slices(workbench.desk, corner)
    _take_brush(viewer, workbench)
    zoom_to(viewer, *(c + 80 for c in corner))
    some = lambda: run_until(lambda: False, SOME_SECONDS)  # noqa: E731
    probe("large: idle", lambda: run_until(lambda: False, IDLE_SECONDS))
    probe("large: paint", some, Hand(viewer, corner))
    probe("large: train, preview, paint", lambda: _train(workbench), Hand(viewer, corner))
    probe("large: live, preview, paint", lambda: _live(workbench), Hand(viewer, corner))
    probe("large: segment, paint", lambda: _segment(workbench, SOME_SECONDS), Hand(viewer, corner))


def _make_large(path: Path) -> Zyx:
    """Write the bundled bone into the middle of a large cube, and return where it begins."""
    bone = open_volume(bundled("trabecular_bone.ome.tif"))
    scale: dict[str, Any] = {"voxel_size": bone.voxel_size, "unit": bone.unit}
    made = create_image(path, shape=(SIDE,) * 3, dtype="uint8", **scale)
    corner = zyx(SIDE // 2 // c * c for c in made.chunk)
    padding = [(0, -n % c) for n, c in zip(bone.shape, made.chunk, strict=True)]
    voxels = np.pad(bone.read(Box.whole(bone.shape)), padding)
    place = Box.at(corner, zyx(voxels.shape))
    made.write(place, voxels)

    def is_done(level: int, chunk: Zyx) -> bool:
        """Whether there is nothing to be made of a chunk: it is of level 0, or does not touch the bone."""
        size = zyx(c * 2**level for c in made.chunk)
        here = Box.at(zyx(n * s for n, s in zip(chunk, size, strict=True)), size)
        return level == 0 or (here & place).is_empty

    for _ in made.propagate(place, is_done):
        pass
    return corner


def _paint_three_slices(desk: Any, corner: Zyx) -> None:
    """Copy opinions from the labels that came with the bone, which begins at a corner."""
    truth = open_volume(bundled("trabecular_bone_labels.ome.tif"))
    for z in SLICES:
        bone = np.asarray(truth.levels[0][z : z + 1]) == 1
        with desk.session.overlay.stroke(tool="slice"):
            place = Box.at(zyx((corner[0] + z, *corner[1:])), zyx(bone.shape))
            desk.session.overlay[place.slices] = np.where(bone, 1, desk.session.classes.background_opinion)
    expect(lambda: all(desk.counting.voxels.get(i) for i in (0, 1)), "voxels are counted")
    expect(lambda: not desk.machine.busy, "the machine is known")


def _take_brush(viewer: Any, workbench: Any) -> None:
    workbench.desk.choose(1)
    viewer.layers["corrections"].brush_size = BRUSH


def _train(workbench: Any) -> None:
    page = workbench.train
    workbench.show_page(page)
    page.budget.setCurrentText("minutes")
    page.minutes.setValue(TRAIN_MINUTES)
    page.train.click()
    expect(lambda: not workbench.desk.training.busy, "trained")
    run_until(lambda: False, 1)


def _live(workbench: Any) -> None:
    page = workbench.train
    workbench.show_page(page)
    page.live.setChecked(True)
    page.train.click()
    run_until(lambda: False, SOME_SECONDS)
    page.stop.click()
    expect(lambda: not workbench.desk.training.busy, "stopped")


def _segment(workbench: Any, seconds: float = LONGEST) -> None:
    workbench.show_page(workbench.segment)
    workbench.segment.segment.click()
    run_until(lambda: not workbench.desk.segmenting.relay.busy, seconds)
    workbench.desk.segmenting.relay.cancel()
    expect(lambda: not workbench.desk.segmenting.relay.busy, "segmented, or stopped")
    run_until(lambda: False, 1)


def _found(watch: Stopwatch, gaps: Gaps) -> dict[str, Any]:
    slots = [call for call in outer(watch.calls) if not call.name.endswith(("eventFilter", "sizeHint"))]
    slowest = max(slots, key=lambda call: call.without_napari, default=None)
    over = {}
    for call in sorted(slots, key=lambda call: -call.without_napari)[:12]:
        over.setdefault(call.name, {"slowest": call.without_napari, "with napari": call.total})
    return {
        "gaps": quantiles(gaps.found),
        "slots": {
            **quantiles([call.without_napari for call in slots]),
            "slowest": slowest.name if slowest else "",
        },
        "slots with napari": quantiles([call.total for call in slots]),
        "slowest": over,
        "own": by_name([call for call in watch.calls if not call.name.startswith("napari")], 10),
        "napari": {
            name: quantiles([call.total for call in watch.calls if call.name == name]) for name in NAPARI
        },
    }


def _print(phases: dict[str, Any]) -> None:
    print_table("gaps of the event loop, ms", {name: found["gaps"] for name, found in phases.items()})
    print_table("our slots, without napari, ms", {name: found["slots"] for name, found in phases.items()})
    print_table(
        "our slots, napari in them, ms", {name: found["slots with napari"] for name, found in phases.items()}
    )
    strokes = {name: found["stroke to disk"] for name, found in phases.items() if "stroke to disk" in found}
    print_table("from letting go of the button to the stroke on disk, ms", strokes)
    print_table("most RSS, MiB", {name: found["RSS"] for name, found in phases.items()})
    for name, found in phases.items():
        print_table(f"{name}: slowest slots, ms", found["slowest"])
        print_table(f"{name}: own time, ms", found["own"])
        print_table(f"{name}: napari, ms", found["napari"])


if __name__ == "__main__":
    main()

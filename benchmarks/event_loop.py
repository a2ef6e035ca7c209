"""How long the event loop of the viewer is held while anything runs, and by which slot of ours.

    xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/event_loop.py [--json FILE]

In a real viewer with the dock, on the bundled bone: nothing happens, a network is trained, the volume is
segmented while its result fills in, and it is segmented again while the mouse paints. In each phase a timer
of 2 ms notes the gaps between its ticks: what a person feels, drawing and napari included. Beside that every
method of ours that Qt or napari calls is timed, with and without what napari does inside it (adding a layer,
refreshing one), and those two by themselves. Times are in milliseconds.

Needs the extra for the viewer and Xvfb (or a screen). About two minutes.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import napari
import numpy as np
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
from napari.components.layerlist import LayerList
from napari.layers import Labels
from napari.layers.base import Layer
from qtpy.QtCore import Qt, QTimer

from napari_memseg.annotation.overlay import Overlay
from napari_memseg.data import bundled
from napari_memseg.io.formats import open_volume

IDLE_SECONDS, TRAIN_MINUTES, LONGEST = 15, 0.35, 90
MOUSE_MS = 16
"""Time between two moves of the mouse."""


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


class Hand:
    """Paints strokes one after another, a move of the mouse every ``MOUSE_MS``."""

    def __init__(self, viewer: Any) -> None:
        self._viewer, self._strokes = viewer, 0
        self._steps = iter(())
        self._timer = QTimer(interval=MOUSE_MS)
        self._timer.timeout.connect(self._move)

    def start(self) -> None:
        """Paint until ``stop``."""
        self._timer.start()

    def stop(self) -> int:
        """Let go of the button, and return how many strokes were made."""
        self._timer.stop()
        list(self._steps)
        return self._strokes

    def _move(self) -> None:
        if next(self._steps, "up") == "up":
            self._strokes += 1
            zoom_to(self._viewer, 20 + 7 * self._strokes % 120, 80, 80)
            self._steps = mouse(self._viewer, SNAKE)


def main() -> None:
    """Go through the phases, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the numbers into this file")
    target = parser.parse_args().json
    watch = Stopwatch()
    watch.watch_dock()
    watch.watch(Overlay, "__setitem__", "Overlay.__setitem__")
    watch.watch(LayerList, "insert", "napari: add a layer", ours=False)
    watch.watch(Layer, "refresh", "napari: refresh a layer", ours=False)
    watch.watch(Labels, "paint", "napari: Labels.paint", ours=False)
    viewer = napari.Viewer()
    viewer.window.resize(1400, 900)
    _, workbench = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
    phases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "bone.ome.tif"
        shutil.copy(bundled("trabecular_bone.ome.tif"), source)
        gaps = Gaps()

        def phase(name: str, work: Any) -> None:
            watch.calls.clear()
            gaps.found.clear()
            work()
            phases[name] = _found(watch, gaps)

        phase("open", lambda: begin(viewer, workbench, source, Path(folder) / "session"))
        _paint_three_slices(workbench.desk)
        phase("idle", lambda: run_until(lambda: False, IDLE_SECONDS))
        phase("train", lambda: _train(workbench))
        phase("segment", lambda: _segment(workbench))
        phase("paint while segmenting", lambda: _paint_and_segment(viewer, workbench))
        viewer.close()
    _print(phases)
    if target:
        target.write_text(json.dumps(phases, indent=1))


def _paint_three_slices(desk: Any) -> None:
    """Copy opinions from the labels that came with the bone."""
    truth = open_volume(bundled("trabecular_bone_labels.ome.tif"))
    for z in (30, 80, 130):
        bone = np.asarray(truth.levels[0][z]) == 1
        with desk.session.overlay.stroke(tool="slice"):
            desk.session.overlay[z] = np.where(bone, 1, desk.session.classes.background_opinion)
    expect(lambda: all(desk.counting.voxels.get(i) for i in (0, 1)), "voxels are counted")
    expect(lambda: not desk.machine.busy, "the machine is known")


def _train(workbench: Any) -> None:
    page = workbench.train
    workbench.show_page(page)
    page.budget.setCurrentText("minutes")
    page.minutes.setValue(TRAIN_MINUTES)
    page.train.click()
    expect(lambda: not workbench.desk.training.busy, "trained")
    run_until(lambda: False, 1)


def _segment(workbench: Any) -> None:
    workbench.show_page(workbench.segment)
    workbench.segment.segment.click()
    run_until(lambda: not workbench.desk.segmenting.relay.busy, LONGEST)
    run_until(lambda: False, 1)


def _paint_and_segment(viewer: Any, workbench: Any) -> None:
    workbench.desk.choose(1)
    viewer.layers["corrections"].brush_size = BRUSH
    hand = Hand(viewer)
    hand.start()
    _segment(workbench)
    print(f"{hand.stop()} strokes painted while segmenting")


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
            name: quantiles([call.total for call in watch.calls if call.name == name])
            for name in ("napari: add a layer", "napari: refresh a layer", "napari: Labels.paint")
        },
    }


def _print(phases: dict[str, Any]) -> None:
    print_table("gaps of the event loop, ms", {name: found["gaps"] for name, found in phases.items()})
    print_table("our slots, without napari, ms", {name: found["slots"] for name, found in phases.items()})
    print_table(
        "our slots, napari in them, ms", {name: found["slots with napari"] for name, found in phases.items()}
    )
    for name, found in phases.items():
        print_table(f"{name}: slowest slots, ms", found["slowest"])
        print_table(f"{name}: own time, ms", found["own"])
        print_table(f"{name}: napari, ms", found["napari"])


if __name__ == "__main__":
    main()

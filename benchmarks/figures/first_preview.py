"""How long it takes from pressing Train to the first preview, after ten strokes, in the viewer.

Each time a viewer is opened and a session begun on the bundled bone, and the mouse paints ten short strokes,
bone and marrow in turn, each on a slice of its own. The slice that is looked at then is previewed in pieces;
it is said how much of it was right the first time that all of it was shown, and at the bar. The child process
that learns is there already, as it is when a person has painted: it starts with the dock.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dock import begin, expect, mouse, run_until, zoom_to
from numpy.typing import NDArray
from qtpy.QtWidgets import QApplication
from scipy import ndimage

from figures.table import Table, spread
from napari_memseg.data import bundled
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.io.formats import open_volume
from napari_memseg.workflows.progress import Progress

NETWORKS, STROKES, BRUSH = ("pixels", "small"), 10, 3
DASH = [(0.0, float(x)) for x in range(-4, 5, 2)]
"""A stroke of 9 voxels along x."""
DEEP = 5.0
"""So far from any other class a stroke begins, in voxels of its slice."""
BAR, LONGEST = 30, 120
"""Seconds."""


class Came(NamedTuple):
    """Seconds from pressing Train, and which share of the voxels of the view were right."""

    first_step: float
    first_preview: float
    steps_then: float
    whole_view: float
    right_then: float
    right_at_bar: float


def measure(open_viewer: Callable[[], tuple[Any, Any]], folder: Path, times: int) -> Iterator[Table]:
    """Yield seconds for each network, live and not; each time in a new viewer with its dock."""
    source = folder / "bone.ome.tif"
    shutil.copy(bundled("trabecular_bone.ome.tif"), source)
    labels = open_volume(bundled("trabecular_bone_labels.ome.tif"))
    truth = np.asarray(labels.levels[0]) == 1
    for network, live in product(NETWORKS, (False, True)):
        came = []
        for n in range(times):
            viewer, workbench = open_viewer()
            begin(viewer, workbench, source, folder / f"{network}-{live}-{n}")
            paint_ten(viewer, workbench, truth, np.random.default_rng(n))
            came.append(press_train(viewer, workbench, truth, network, live=live))
            print(f"{network}, {'live' if live else 'not live'}: {came[-1]}", flush=True)
            viewer.close()
            QApplication.processEvents()
        yield _table(f"{network}{', live' * live}", came)


def _table(title: str, came: list[Came]) -> Table:
    rows = {
        "to the first step, s": spread([one.first_step for one in came]),
        f"to the first preview, s (bar: {BAR})": spread([one.first_preview for one in came]),
        "steps learned by then": spread([one.steps_then for one in came]),
        "until all that is looked at was shown, s": spread([one.whole_view for one in came]),
        "of that is right, %": spread([100 * one.right_then for one in came]),
        f"is right after {BAR} s, %": spread([100 * one.right_at_bar for one in came]),
    }
    return Table(f"from pressing Train, {title}", rows)


def paint_ten(viewer: Any, workbench: Any, truth: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Draw ten strokes with the mouse, each within its class."""
    desk = workbench.desk
    for n, z in enumerate(rng.choice(np.arange(10, len(truth) - 10), STROKES, replace=False)):
        label = n % 2
        desk.choose(label)
        viewer.layers["corrections"].brush_size = BRUSH
        zoom_to(viewer, *_place(truth[z] == label, int(z), rng))
        QApplication.processEvents()
        for _ in mouse(viewer, DASH):
            QApplication.processEvents()
    made = len(list(desk.session.corrections.steps()))
    if made != STROKES:
        raise RuntimeError(f"{made} strokes were painted, not {STROKES}.")
    expect(lambda: all(desk.counting.voxels.get(i) for i in (0, 1)), "voxels are counted")
    expect(lambda: not desk.machine.busy, "the machine is known")


def _place(mask: NDArray[np.bool_], z: int, rng: np.random.Generator) -> Zyx:
    """Return a voxel well inside of a mask of one slice."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    inside = np.flatnonzero(distance >= min(DEEP, distance.max()))
    y, x = np.unravel_index(rng.choice(inside), mask.shape)
    return zyx((z, int(y), int(x)))


def press_train(viewer: Any, workbench: Any, truth: NDArray[np.bool_], network: str, *, live: bool) -> Came:
    """Press Train, look until the bar and until all was shown once, stop, and say what came when."""
    page, desk = workbench.train, workbench.desk
    workbench.show_page(page)
    page.network.choose(network)
    page.live.setChecked(live)
    expect(page.train.isEnabled, "the page lets one train")
    viewer.reset_view()
    QApplication.processEvents()
    z = viewer.dims.current_step[0]
    eye = _Eye(truth[z], z)
    desk.training.stepped.connect(eye.see)
    eye.began = time.perf_counter()
    page.train.click()
    run_until(lambda: False, BAR)
    at_bar = eye.right
    expect(lambda: "all" in eye.came, "a preview of all that is looked at", LONGEST)
    desk.training.stepped.disconnect(eye.see)
    page.stop.click()
    expect(lambda: not desk.training.busy, "stopped")
    return Came(
        first_step=eye.came["step"],
        first_preview=eye.came["preview"],
        steps_then=eye.came["steps"],
        whole_view=eye.came["all"],
        right_then=eye.right_then,
        right_at_bar=at_bar,
    )


class _Eye:
    """Notes what is seen of one slice, and when."""

    def __init__(self, truth: NDArray[np.bool_], z: int) -> None:
        self.came: dict[str, float] = {}
        self.began = self.right_then = 0.0
        self._steps = 0
        self._truth, self._z = truth, z
        self._shown = np.full(truth.shape, 255, np.uint8)

    @property
    def right(self) -> float:
        """Share of the slice; what is not shown yet is not right."""
        return float((self._shown == self._truth).mean())

    def see(self, step: Progress) -> None:
        """Take a step of the training, or a piece of its preview."""
        now = time.perf_counter() - self.began
        if step.voxels is None or step.box is None:
            if "loss" in step.values:
                self.came.setdefault("step", now)
                self._steps = step.done
            return
        self.came.setdefault("preview", now)
        self.came.setdefault("steps", float(self._steps))
        if step.box.start[0] == self._z:
            self._shown[step.box.slices[1:]] = step.voxels[0]
        if step.done == step.total and "all" not in self.came:
            self.came["all"], self.right_then = now, self.right

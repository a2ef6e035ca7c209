"""Make the pictures of README and first_steps.md anew: walk the whole road, and look at each page.

xvfb-run -a -s "-screen 0 1920x1080x24" python docs/pictures.py FOLDER

Every page is pictured in two sizes and two themes, into FOLDER; those that the texts show are copied to
docs/images. The walk is real: the bundled bone, dabs of a brush where the published mask says what is what, a
training, a run. A few minutes on two cores.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from napari.settings import get_settings
from qtpy.QtCore import QElapsedTimer
from qtpy.QtWidgets import QApplication
from skimage.morphology import disk

from napari_memseg.data import bundled
from napari_memseg.io.formats import open_volume
from napari_memseg.widgets.pages.page import Page
from napari_memseg.widgets.workbench import Workbench

SIZES = {"1280": (1280, 800), "1920": (1920, 1080)}
THEMES = ("dark", "light")
KEPT = {
    "segmenting-1280-dark": "dock",
    "empty-1280-dark": "dock-empty",
    "open-1280-dark": "dock-open",
    "annotate-1280-dark": "dock-annotate",
    "training-1280-dark": "dock-train",
    "segmented-1280-light": "dock-segment",
    "correct-1280-dark": "dock-correct",
    "export-1280-light": "dock-export",
}
"""What README and first_steps.md show, and under which name."""
SLICES = (40, 80, 120)
"""That are annotated."""
DABS = 60
"""Of each class, on each of them."""
BRUSH = disk(4).astype(bool)
STEPS = 200


class Photographer:
    """A viewer with the dock, and a folder for pictures of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.viewer = napari.Viewer(title="napari")
        _, self.dock = self.viewer.window.add_plugin_dock_widget(
            "napari-memseg", "Memory-efficient segmentation"
        )
        assert isinstance(self.dock, Workbench)
        self.desk = self.dock.desk
        self.window = self.viewer.window._qt_window

    def picture(self, name: str, page: Page | None = None) -> None:
        """Take a page in every size and theme."""
        if page is not None:
            self.dock.show_page(page)
        for size, pixels in SIZES.items():
            self.window.resize(*pixels)
            wait(300)
            self.viewer.fit_to_view()
            for theme in THEMES:
                get_settings().appearance.theme = theme
                self.viewer.theme = theme
                wait(500)
                self.window.grab().save(str(self.folder / f"{name}-{size}-{theme}.png"))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Let the viewer live until something is so."""
        while not condition():
            wait(20)


def wait(milliseconds: int) -> None:
    """Let the viewer live for a while."""
    timer = QElapsedTimer()
    timer.start()
    while timer.elapsed() < milliseconds:
        QApplication.processEvents()


def walk(photographer: Photographer, stack: Path) -> None:
    """Open, annotate, train, segment, correct and export, with a picture of each."""
    dock, desk, viewer = photographer.dock, photographer.desk, photographer.viewer
    photographer.wait_for(lambda: not desk.machine.busy)
    photographer.picture("empty", dock.open)
    viewer.open(str(stack), plugin="napari-memseg")
    photographer.wait_for(dock.open.start.isEnabled)
    photographer.picture("open", dock.open)
    dock.open.start.click()
    photographer.wait_for(lambda: desk.session is not None)
    annotate(photographer)
    photographer.picture("annotate", dock.annotate)
    train(photographer)
    segment(photographer)
    photographer.picture("correct", dock.correct)
    dock.show_page(dock.export)
    dock.export.export.click()
    photographer.wait_for(lambda: not desk.exporting.busy)
    photographer.picture("export", dock.export)
    build_pyramid(photographer)


def annotate(photographer: Photographer) -> None:
    """Dab a brush where the published mask has bone and where it has none."""
    session = photographer.desk.session
    photographer.desk.rename_class(1, "bone", "#ee6677")
    truth = np.asarray(open_volume(bundled("trabecular_bone_labels.ome.tif")).levels[0])
    draw = np.random.default_rng(7)
    for z in SLICES:
        for value, mask in ((1, truth[z] == 1), (session.classes.background_opinion, truth[z] == 0)):
            with session.overlay.stroke(tool="brush"):
                for y, x in draw.permutation(np.argwhere(mask))[:DABS]:
                    dab(session.overlay, mask, z, y, x, value)
    photographer.viewer.dims.set_current_step(0, SLICES[1])
    photographer.desk.choose(1)
    photographer.desk.shown.corrections.refresh()
    photographer.wait_for(lambda: all(photographer.desk.counting.voxels.get(n) for n in (0, 1)))


def dab(overlay, mask, z: int, y: int, x: int, value: int) -> None:
    """Paint one dab of the brush, as far as it lies on the mask."""
    r = BRUSH.shape[0] // 2
    rows, columns = slice(max(y - r, 0), y + r + 1), slice(max(x - r, 0), x + r + 1)
    on = mask[rows, columns]
    brush = BRUSH[rows.start - y + r :, columns.start - x + r :][: on.shape[0], : on.shape[1]]
    overlay[z, rows, columns] = np.where(brush & on, value, overlay[z, rows, columns])


def train(photographer: Photographer) -> None:
    """Train, with a picture in the middle of it."""
    page = photographer.dock.train
    photographer.dock.show_page(page)
    page.steps.setValue(STEPS)
    for box in page.flips.values():
        box.setChecked(True)
    page.train.click()
    photographer.wait_for(lambda: len(page.curve.scores) >= 2)
    photographer.picture("training", page)
    photographer.wait_for(lambda: not photographer.desk.training.busy)


def segment(photographer: Photographer) -> None:
    """Segment, with a picture while tiles come in, and one of the end."""
    dock, desk = photographer.dock, photographer.desk
    photographer.viewer.dims.set_current_step(0, 60)
    photographer.picture("segment", dock.segment)
    dock.segment.segment.click()
    photographer.wait_for(lambda: desk.shown.live.refreshes >= 2)
    photographer.picture("segmenting", dock.segment)
    photographer.wait_for(lambda: not desk.segmenting.relay.busy)
    photographer.picture("segmented", dock.segment)


def build_pyramid(photographer: Photographer) -> None:
    """Build the pyramid, and look at the result in 3D."""
    dock, desk = photographer.dock, photographer.desk
    dock.show_page(dock.open)
    dock.open.pyramid.click()
    photographer.wait_for(lambda: not desk.building.busy)
    for name in ("image", "corrections"):
        getattr(desk.shown, name).visible = False
    desk.shown.result.opacity = 1.0
    photographer.viewer.dims.ndisplay = 3
    photographer.viewer.scene.camera.angles = (20, 35, 125)
    photographer.picture("volume", dock.open)


def main(folder: Path) -> None:
    """Take all pictures, and copy those that the texts show."""
    folder.mkdir(parents=True, exist_ok=True)
    stack = folder / "bone.ome.tif"
    shutil.copy(bundled("trabecular_bone.ome.tif"), stack)
    photographer = Photographer(folder)
    walk(photographer, stack)
    photographer.viewer.close()
    for name, kept in KEPT.items():
        shutil.copy(folder / f"{name}.png", Path(__file__).parent / "images" / f"{kept}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

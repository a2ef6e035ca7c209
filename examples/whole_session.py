"""A whole session in napari by mouse and keys: from ten strokes to a corrected volume that is exported.

    xvfb-run -a -s "-screen 0 1920x1080x24" python examples/whole_session.py [bone|fly] [--pictures FOLDER]

What a person does is done as she does it, through Qt: files are dropped, buttons clicked, brushes dragged
over the picture, keys pressed. The "person" knows the truth (the published mask of the bundled bone, the
labels of a synthetic fly) and paints it where she is taken:

    open ─> ten strokes ─> live preview ─> train ─> segment ─> review, correct ─> retrain ─> again ─> export

Ends with one line of JSON: what was seen on the way, and the Dice before and after the corrections. Two or
three minutes on two cores.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # hands

from napari_memseg.data import bundled
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.parameters import PhantomParameters
from widgets.hands import click, drop, press, stroke, type_into

CTRL = Qt.KeyboardModifier.ControlModifier
PATIENCE_SECONDS = 240.0
STEPS = {"train": 80, "retrain": 60}
STROKES, LENGTH = 10, 12
"""How many are painted first, and how long they are at the most, in voxels."""
JUDGED = 4
"""Places that are corrected and accepted."""
NEARLY = 0.97
"""Of the voxels in a frame that must be right for it to be accepted."""
GUT = (4, 5)
"""Classes of a fly that the second example tells from the rest."""


def bone(folder: Path) -> tuple[Path, np.ndarray]:
    """Lay the bundled microCT of trabecular bone into a folder; return it and its published mask."""
    image = folder / "bone.ome.tif"
    shutil.copy(bundled("trabecular_bone.ome.tif"), image)
    return image, np.asarray(open_volume(bundled("trabecular_bone_labels.ome.tif")).levels[0])


def fly(folder: Path) -> tuple[Path, np.ndarray]:
    """Make the abdomen of a synthetic fly; return it and where its gut is."""
    phantom = Phantom(PhantomParameters.named((536, 235, 235), "easy", seed=1))
    phantom.prepare()
    made = phantom.render(Box.at((300, 70, 70), (64, 96, 96)))
    image = folder / "fly.ome.tif"
    size = {f"PhysicalSize{axis}": phantom.parameters.voxel_um for axis in "XYZ"}
    tifffile.imwrite(image, made.image, ome=True, metadata={"axes": "ZYX"} | size)
    return image, np.isin(made.truth, GUT).astype(np.uint8)


class Person:
    """Somebody with a mouse, a keyboard, and knowledge of the truth.

    Parameters
    ----------
    truth : (z, y, x) array
        1 in the one class there is, else 0.
    pictures : Path, optional
        A folder for screenshots.
    """

    def __init__(self, truth: np.ndarray, pictures: Path | None) -> None:
        self.truth, self._pictures = truth, pictures
        self.viewer = napari.Viewer(title="napari")
        self.window = self.viewer.window._qt_window
        self.window.resize(1280, 800)
        _, self.dock = self.viewer.window.add_plugin_dock_widget(
            "napari-memseg", "Memory-efficient segmentation"
        )
        self.desk = self.dock.desk
        self._chance = np.random.default_rng(0)

    def wait_for(self, what: str, condition: Callable[[], Any]) -> float:
        """Let the viewer live until something is so; return the seconds that it took."""
        began = time.monotonic()
        while not condition():
            QApplication.processEvents()
            QTest.qWait(20)
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise TimeoutError(f"{what}: not within {PATIENCE_SECONDS:.0f} s. {self.dock.train.bar.text}")
        return time.monotonic() - began

    def picture(self, name: str) -> None:
        """Take a screenshot of the whole window, where somebody wants them."""
        if self._pictures is not None:
            QTest.qWait(500)
            self.window.grab().save(str(self._pictures / f"session-{name}.png"))

    def go_to(self, z: int) -> None:
        """Move the slider to a slice, by the arrow keys."""
        key = Qt.Key.Key_Right if z > self.viewer.dims.current_step[0] else Qt.Key.Key_Left
        for _ in range(abs(z - self.viewer.dims.current_step[0])):
            press(self.viewer, key)

    def paint(self, row: int, z: int, y: int, x: int) -> bool:
        """Drag the brush of a class (row of the table) along voxels of it; return whether there are any."""
        line = self.truth[z, y] == row
        if not line[x]:
            return False
        start = x - min(int(np.argmin(line[x::-1])) - 1 if not line[: x + 1].all() else x, LENGTH // 2)
        stop = x + min(int(np.argmin(line[x:])) - 1 if not line[x:].all() else len(line) - 1 - x, LENGTH // 2)
        press(self.viewer, Qt.Key.Key_2 if row else Qt.Key.Key_1, CTRL)
        stroke(self.viewer, [self._place(z, y, s) for s in np.linspace(start, stop, 4)])
        return True

    def paint_somewhere(self, row: int, z: int) -> None:
        """Paint a stroke of a class somewhere on a slice, inside of what is visible."""
        inside = np.zeros(self.truth.shape[1:], bool)
        inside[4:-4, 4:-4] = True
        places = np.argwhere((self.truth[z] == row) & inside)
        y, x = places[self._chance.integers(len(places))]
        self.paint(row, z, int(y), int(x))

    def _place(self, z: int, y: int, x: float) -> tuple[float, float]:
        """Return where a voxel is in the picture, in shares of its width and height."""
        world = self.desk.shown.image.data_to_world((z, y, x))
        camera, size = self.viewer.scene.camera, np.asarray(self.viewer.canvas.size, float)  # height, width
        pixel = (np.asarray(world[-2:]) - camera.center[-2:]) * camera.zoom + size / 2
        return float(pixel[1] / size[1]), float(pixel[0] / size[0])

    def agrees(self) -> bool:
        """Return whether all that is shown in the frame, but for a few voxels, is true."""
        box = self.desk.reviewing.accepted_box()
        shown = self.desk.session.composite().read(box) == 1
        return bool((shown == (self.truth[box.slices] == 1)).mean() > NEARLY)

    def dice(self) -> float:
        """Return how far the result agrees with the truth."""
        found = self.desk.session.composite().read(Box.whole(self.truth.shape)) == 1
        return float(2 * (found & (self.truth == 1)).sum() / (found.sum() + (self.truth == 1).sum()))


def walk(person: Person, image: Path) -> dict[str, Any]:
    """Do the whole session, and tell what was seen."""
    facts: dict[str, Any] = {"voxels": person.truth.size}
    open_and_paint(person, image)
    facts |= look_live(person)
    train(person, "small", STEPS["train"])
    segment(person)
    facts["dice_first_run"] = round(person.dice(), 3)
    facts |= review(person)
    retrain(person, STEPS["retrain"])
    segment(person)
    facts["dice_second_run"] = round(person.dice(), 3)
    compare(person)
    facts |= export(person)
    return facts


def open_and_paint(person: Person, image: Path) -> None:
    """Drop the file, begin a session, and paint strokes on three slices."""
    dock, desk = person.dock, person.desk
    drop(person.viewer, image)
    person.wait_for("a session can be begun", dock.open.start.isEnabled)
    person.picture("open")
    click(dock.open.start)
    person.wait_for("the session is open", lambda: desk.session is not None)
    depth = person.truth.shape[0]
    for number in range(STROKES):
        person.go_to(depth // 4 * (1 + number * 3 // STROKES))
        person.paint_somewhere(number % 2, person.viewer.dims.current_step[0])
    person.wait_for("strokes are counted", lambda: all(desk.counting.voxels.get(n) for n in (0, 1)))
    person.picture("strokes")


def look_live(person: Person) -> dict[str, Any]:
    """Train live, see the preview, add a stroke, and stop."""
    dock, desk = person.dock, person.desk
    dock.show_page(dock.train)
    dock.train.network.choose("pixels")
    click(dock.train.live)
    person.wait_for("training can begin", dock.train.train.isEnabled)
    click(dock.train.train)
    seconds = person.wait_for("there is a preview", lambda: desk.previewing.layer is not None)
    person.wait_for("a round is done", lambda: any((desk.session.path / "models").glob("*.safetensors")))
    learned = len(dock.train.curve.losses)
    person.paint_somewhere(1, person.viewer.dims.current_step[0])
    person.wait_for("it learns from the stroke", lambda: len(dock.train.curve.losses) > learned)
    person.picture("live")
    click(dock.train.stop)
    person.wait_for("it stops", lambda: not desk.training.busy)
    click(dock.train.live)
    return {"first_preview_seconds": round(seconds, 1)}


def train(person: Person, network: str, steps: int) -> None:
    """Train a network from the strokes."""
    page = person.dock.train
    page.network.choose(network)
    page.origin.choose(None)
    _train(person, steps)


def retrain(person: Person, steps: int) -> None:
    """Go on learning from the model of the last run, with the corrections."""
    dock = person.dock
    dock.show_page(dock.correct)
    click(dock.correct.retrain)
    _train(person, steps)
    person.picture("retrained")


def _train(person: Person, steps: int) -> None:
    dock, desk = person.dock, person.desk
    dock.show_page(dock.train)
    type_into(dock.train.steps, str(steps))
    person.wait_for("training can begin", dock.train.train.isEnabled)
    click(dock.train.train)
    person.wait_for("it learns", lambda: len(dock.train.curve.losses) > 0)
    person.wait_for("it is trained", lambda: not desk.training.busy)


def segment(person: Person) -> None:
    """Segment all of it; what is visible comes first."""
    dock, desk = person.dock, person.desk
    dock.show_page(dock.segment)
    person.wait_for("a run can begin", dock.segment.segment.isEnabled)
    click(dock.segment.segment)
    person.wait_for("the run has begun", lambda: desk.segmenting.relay.busy)
    person.wait_for("the run is done", lambda: not desk.segmenting.relay.busy)
    person.picture(f"segmented-{len(desk.session.runs())}")


def review(person: Person) -> dict[str, Any]:
    """Be taken to the worst places, correct each, undo and redo once, and accept."""
    dock, desk = person.dock, person.desk
    dock.show_page(dock.review)
    click(dock.review.find_places)
    person.wait_for("there are places", lambda: desk.reviewing.place is not None)
    painted = 0
    for number in range(JUDGED):
        place = desk.reviewing.place
        if place is None or place.number in desk.reviewing.review.verdicts:
            break
        z, y, x = place.centre
        painted += person.paint(int(person.truth[z, y, x]), z, y, x)
        if number == 0:
            person.picture("review")
            press(person.viewer, Qt.Key.Key_Z, CTRL)
            press(person.viewer, Qt.Key.Key_Z, CTRL | Qt.KeyboardModifier.ShiftModifier)
        press(person.viewer, Qt.Key.Key_Y if person.agrees() else Qt.Key.Key_K)
    verdicts = [verdict.verdict for verdict in desk.reviewing.review.verdicts.values()]
    counts = {
        "corrected": painted,
        "accepted": verdicts.count("accepted"),
        "skipped": verdicts.count("skipped"),
    }
    return {"places": len(desk.reviewing.review.places), **counts}


def compare(person: Person) -> None:
    """Show where the second run differs from the first."""
    choice = person.dock.segment.run_choice.other
    choice.choose("0001")
    choice.activated.emit(choice.currentIndex())
    person.picture("compared")
    person.viewer.layers.remove("difference")


def export(person: Person) -> dict[str, Any]:
    """Export the corrected labels."""
    dock, desk = person.dock, person.desk
    dock.show_page(dock.export)
    person.wait_for("an export can begin", dock.export.export.isEnabled)
    click(dock.export.export)
    person.wait_for("it has begun", lambda: desk.exporting.busy)
    person.wait_for("it is exported", lambda: not desk.exporting.busy)
    person.picture("exported")
    (made,) = (desk.session.path / "exports").iterdir()
    verified = desk.session.verify()
    return {"export": made.name, "strokes": verified["strokes"], "verified": verified["ok"]}


def main() -> None:
    """Walk through one of the two volumes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("volume", nargs="?", choices=("bone", "fly"), default="bone")
    parser.add_argument("--pictures", type=Path)
    asked = parser.parse_args()
    if asked.pictures is not None:
        asked.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        image, truth = {"bone": bone, "fly": fly}[asked.volume](Path(folder))
        person = Person(truth, asked.pictures)
        began = time.monotonic()
        facts = walk(person, image)
        person.desk.close_session()
        person.viewer.close()
    print(json.dumps(facts | {"seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()

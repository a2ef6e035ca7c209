"""A whole session in napari by mouse and keys: from ten strokes to a corrected volume that is exported.

    xvfb-run -a -s "-screen 0 1920x1080x24" python examples/whole_session.py bone --pictures FOLDER

What a person does is done as she does it, through Qt: files are dropped, buttons clicked, brushes dragged
over the picture, keys pressed. The "person" knows the truth (the published mask of the bundled bone, the
labels of a synthetic fly) and paints it where she is taken:

    open ─> ten strokes ─> live preview ─> train ─> segment ─> review, correct ─> tools, orthogonal views
         ─> retrain ─> segment again, compare ─> export

The other volume is "fly". Ends with one line of JSON: what was seen on the way, and the Dice before and after
the corrections. Two or three minutes on two cores; ``--quick`` trains for fewer steps, on a part of the bone.
docs/session_pictures.py takes the same walk.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from person import BRUSH, CTRL, SHIFT, Person
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QColorDialog, QLineEdit

from napari_memseg.data import bundled
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.parameters import PhantomParameters
from napari_memseg.widgets.class_list import COLOR, LOCKED, NAME
from napari_memseg.widgets.orthogonal import OrthogonalViews
from widgets.hands import LEFT, answering, click, click_row, drop, press, type_into

STEPS, QUICK = {"train": 80, "retrain": 60}, {"train": 40, "retrain": 80}
STROKES, JUDGED = 10, 4
"""Strokes that are painted first, and places that are corrected and accepted."""
PART = (64, 96, 96)
"""Voxels of the fly that are worked on, and of the bone where it is to be quick."""
FAT_BODY = 6
"""The class of a fly that the second example tells from the rest."""
RED = "#ee6677"


def bone(folder: Path, quick: bool) -> tuple[Path, np.ndarray]:
    """Lay the bundled microCT of trabecular bone, or a part of it, into a folder; return it and its mask."""
    image, mask = (open_volume(bundled(f"trabecular_bone{name}.ome.tif")) for name in ("", "_labels"))
    box = Box.at((32, 32, 32), PART) if quick else Box.whole(image.shape)
    size = {f"PhysicalSize{axis}": length for axis, length in zip("ZYX", image.voxel_size, strict=True)}
    path = folder / "bone.ome.tif"
    tifffile.imwrite(path, image.read(box), ome=True, metadata={"axes": "ZYX", **size})
    return path, mask.read(box)


def fly(folder: Path, quick: bool) -> tuple[Path, np.ndarray]:
    """Make the abdomen of a synthetic fly; return it and where its fat body is."""
    phantom = Phantom(PhantomParameters.named((536, 235, 235), "easy", seed=1))
    phantom.prepare()
    made = phantom.render(Box.at((300, 70, 70), PART))
    image = folder / "fly.ome.tif"
    tifffile.imwrite(image, made.image, ome=True, metadata={"axes": "ZYX"})
    return image, (made.truth == FAT_BODY).astype(np.uint8)


def walk(person: Person, image: Path, steps: dict[str, int]) -> dict[str, Any]:
    """Do the whole session, and tell what was seen."""
    facts: dict[str, Any] = {"voxels": person.truth.size}
    open_and_paint(person, image)
    facts |= look_live(person)
    train(person, "small", steps["train"])
    segment(person)
    facts["dice_first_run"] = round(person.dice(), 3)
    facts |= review(person)
    facts |= interpolate(person)
    look_across(person)
    retrain(person, steps["retrain"])
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
    name_class(person)
    press(person.viewer, Qt.Key.Key_R, CTRL)
    while desk.shown.corrections.brush_size > BRUSH:
        press(person.viewer, Qt.Key.Key_BracketLeft)
    depth = person.truth.shape[0]
    for number in range(STROKES):
        person.go_to(depth // 4 * (1 + number * 3 // STROKES))
        person.paint_somewhere(number % 2, person.viewer.dims.current_step[0])
    person.wait_for("strokes are counted", lambda: all(desk.counting.voxels.get(n) for n in (0, 1)))
    lock_background(person)
    person.picture("strokes")
    lock_background(person)


def name_class(person: Person) -> None:
    """Give the class a name and a colour, by double clicks in the table."""
    table = person.dock.annotate.classes
    for column in (NAME, COLOR):
        click_row(table, 1, column)
        with answering(_choose_red):
            where = table.visualItemRect(table.item(1, column)).center()
            QTest.mouseDClick(table.viewport(), LEFT, pos=where)
            if column == NAME:
                editor = table.findChild(QLineEdit)
                QTest.keyClicks(editor, person.called)
                QTest.keyClick(editor, Qt.Key.Key_Return)


def _choose_red(dialog: QColorDialog) -> None:
    dialog.setCurrentColor(QColor(RED))
    dialog.accept()


def lock_background(person: Person) -> None:
    """Tick, or untick, that nothing is painted over opinions of background."""
    table = person.dock.annotate.classes
    table.setCurrentCell(0, LOCKED)
    QTest.keyClick(table, Qt.Key.Key_Space)


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
        painted += person.correct()
        if number == 0:
            person.picture("review", fit=False)
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


def interpolate(person: Person) -> dict[str, Any]:
    """Paint on two slices, and let the tool paint between them."""
    dock, tools = person.dock, person.dock.correct.tools
    dock.show_page(dock.correct)
    press(person.viewer, Qt.Key.Key_R, CTRL)
    low = person.truth.shape[0] // 2 + 6
    y, x = person.thickest(low, low + 2, low + 4)
    for z in (low, low + 4):
        person.go_to(z)
        person.paint(1, z, y, x)
    person.go_to(low + 2)
    press(person.viewer, Qt.Key.Key_I, SHIFT)
    person.wait_for("it is painted between", lambda: "Interpolate:" in tools.status.text())
    person.picture("tools")
    return {"tool": tools.status.text()}


def look_across(person: Person) -> None:
    """Open the two other planes, go to a place in all three by Shift and a click, and close them."""
    z = person.viewer.dims.current_step[0]
    click(person.dock.planes)
    (views,) = [w for w in person.viewer.window.dock_widgets.values() if isinstance(w, OrthogonalViews)]
    QTest.qWait(200)
    person.go_to(z)
    press(person.viewer, Qt.Key.Key_R, CTRL)
    person.look_at(z, *person.thickest(z))
    layers = [layer for plane in views.planes for layer in plane.viewer.layers]
    person.wait_for("the planes are read", lambda: all(layer.loaded for layer in layers))
    person.picture("orthogonal")
    click(person.dock.planes)


def compare(person: Person) -> None:
    """Show where the second run differs from the first."""
    person.go_to(person.truth.shape[0] // 2)
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
    parser.add_argument("--quick", action="store_true", help="train for fewer steps, on a part")
    parser.add_argument("--pictures", type=Path, help="a folder for screenshots")
    asked = parser.parse_args()
    if asked.pictures is not None:
        asked.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        image, truth = {"bone": bone, "fly": fly}[asked.volume](Path(folder), asked.quick)
        person = Person(truth, {"bone": "bone", "fly": "fat body"}[asked.volume], asked.pictures)
        began = time.monotonic()
        facts = walk(person, image, QUICK if asked.quick else STEPS)
        person.desk.close_session()
        person.viewer.close()
    print(json.dumps(facts | {"seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()

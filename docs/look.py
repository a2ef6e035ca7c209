"""Look at the dock: every page in two sizes and themes, and the orthogonal views, without a run.

xvfb-run -a -s "-screen 0 1920x1080x24" python docs/look.py FOLDER

A minute on two cores, where pictures.py walks the whole road. Look at each picture for clipped words, cut
names, weak contrast and scroll bars that need not be.
"""

import shutil
import sys
from pathlib import Path

from pictures import Photographer, annotate, wait

from napari_memseg.data import bundled
from napari_memseg.widgets.orthogonal import OrthogonalViews, toggle


def look(photographer: Photographer, stack: Path) -> None:
    """Take each page, first without a session, then with one that has a few strokes."""
    dock, desk, viewer = photographer.dock, photographer.desk, photographer.viewer
    photographer.wait_for(lambda: not desk.machine.busy)
    for page in (dock.open, dock.models):
        photographer.picture(f"empty-{page.title.lower()}", page)
    viewer.open(str(stack), plugin="napari-memseg")
    photographer.wait_for(dock.open.start.isEnabled)
    dock.open.start.click()
    photographer.wait_for(lambda: desk.session is not None)
    annotate(photographer)
    desk.add_class(2, "a class whose name is rather long")
    for page in dock.pages:
        photographer.picture(page.title.lower(), page)
    look_across(photographer)


def look_across(photographer: Photographer) -> None:
    """Show the two other planes, with a stroke of the brush across the slices."""
    viewer, session = photographer.viewer, photographer.desk.session
    toggle(viewer)
    (views,) = [w for w in viewer.window.dock_widgets.values() if isinstance(w, OrthogonalViews)]
    z, y, x = views.place.voxel
    with session.overlay.stroke(tool="brush"):
        session.overlay[z - 20 : z + 20, y - 4 : y + 4, x - 30 : x + 30] = 2
    photographer.wait_for(lambda: all(one.loaded for plane in views.planes for one in plane.viewer.layers))
    photographer.picture("orthogonal", photographer.dock.annotate)


def main(folder: Path) -> None:
    """Take all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    stack = folder / "bone.ome.tif"
    shutil.rmtree(stack.with_name("bone.memseg"), ignore_errors=True)
    shutil.copy(bundled("trabecular_bone.ome.tif"), stack)
    photographer = Photographer(folder)
    look(photographer, stack)
    wait(100)
    photographer.viewer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Make the pictures of session.md anew: the walk of examples/whole_session.py, in napari's dark theme.

xvfb-run -a -s "-screen 0 1920x1080x24" python docs/session_pictures.py FOLDER

The volume, its session and all screenshots lie in FOLDER; those that the text shows go to docs/images, in 256
colours. Five minutes on two cores. Look at each picture for clipped words and weak contrast.
"""

import shutil
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from person import Person
from whole_session import STEPS, bone, walk

SHOWN = (
    "strokes",
    "live",
    "segmented-1",
    "review",
    "tools",
    "orthogonal",
    "retrained",
    "compared",
    "exported",
)
IMAGES, COLORS = Path(__file__).parent / "images", 256


def main(folder: Path) -> None:
    """Walk, and copy what the text shows."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "bone.memseg", ignore_errors=True)
    image, truth = bone(folder, quick=False)
    person = Person(truth, "bone", folder)
    person.viewer.theme = "dark"
    facts = walk(person, image, STEPS)
    person.desk.close_session()
    person.viewer.close()
    for name in SHOWN:
        with Image.open(folder / f"session-{name}.png") as picture:
            few = picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
        few.save(IMAGES / f"session-{name}.png", optimize=True)
    sys.stdout.write(f"{facts}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

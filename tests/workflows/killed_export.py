"""Export a session, telling each step: the process that the tests kill."""

import sys
from pathlib import Path

from napari_memseg.workflows.export import export

for step in export(Path(sys.argv[1]), Path(sys.argv[2])):
    sys.stdout.write(f"{step.stage} {step.done}\n")
    sys.stdout.flush()

"""Do the run of a plan, telling each finished block: the process that the tests kill."""

import json
import sys
from pathlib import Path

import toys
from napari_memseg.inference.executors import in_process
from napari_memseg.inference.plan import Plan

toys.register()
plan = Plan.from_json(json.loads(Path(sys.argv[1]).read_text()))
for step in in_process(plan):
    name = step.block.stage if step.block else "start"
    sys.stdout.write(f"{name} {step.done} {step.total}\n")
    sys.stdout.flush()

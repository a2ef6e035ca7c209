"""Do the run of a plan on a cluster, telling each finished block: the client that the tests kill."""

import json
import sys
from pathlib import Path

import clusters
from napari_memseg.inference.cluster import on_cluster
from napari_memseg.inference.plan import Plan

if __name__ == "__main__":
    clusters.register()
    plan = Plan.from_json(json.loads(Path(sys.argv[1]).read_text()))
    for step in on_cluster(plan, scheduler=sys.argv[2]):
        sys.stdout.write(f"{step.done} {step.total}\n")
        sys.stdout.flush()

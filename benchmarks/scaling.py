"""Whether memory grows with the volume, and whether the last tile takes as long as the first.

    python benchmarks/scaling.py WORK [--edges 216 464 1000] [--workers 0 1 2]
    python benchmarks/scaling.py WORK --edges 2160 --workers 0
    python benchmarks/scaling.py WORK --edges 928 --workers 1 2 4 --net sleeping

Cubes of 10^7, 10^8 and 10^9 voxels (an edge of 2160 is 10^10) are segmented by the public call, each in a
process of its own, with the null network of ``peers``; tile, batch and arithmetic are the same for all. One
chunk in a hundred is stored, the others are missing and read as zero, so that the large ones are cheap on
disk. A network that sleeps takes nothing but time: several workers share a core, and what is seen is how
well they are kept at work. Workers are processes of a local cluster; 0 computes in the process itself.
Peaks of memory are the system's own (VmHWM), seconds per tile those between two steps of the workflow.

Needs Linux. 10^9 voxels take some minutes on 2 cores, 10^10 most of an hour; 100 MB of images and as much
of labels per 10^10.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from peers.networks import checkpoint

import napari_memseg
from napari_memseg.geometry import Box, cell_box, cells, zyx
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.heap import keep_heap
from napari_memseg.inference.resources import peak_rss_gib
from napari_memseg.io.pyramid import create_image
from napari_memseg.workflows.segment import Cluster

CHUNK, TILE = (64, 64, 64), (128, 128, 128)
STORED = 100
"""One chunk of so many holds noise."""
NETWORKS = "peers.networks"
"""Registers the network, in every worker too."""
LOOK_SECONDS = 0.2
"""Between two looks at the workers' memory, whose peaks the system keeps meanwhile."""
MIB = 2**20


def main() -> None:
    """Run every edge with every number of workers, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder for images and labels")
    parser.add_argument("--edges", type=int, nargs="+", default=[216, 464, 1000], help="of the cubes, voxels")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--net", choices=["null", "sleeping"], default="null")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("NAME", "JSON"))
    parser.add_argument("--json", type=Path, help="add the runs to this file, one line each")
    parser.add_argument("--one", nargs=2, type=int, help=argparse.SUPPRESS)  # an edge, a number of workers
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(_segment(asked, *asked.one)))
        return
    rows = []
    for edge in asked.edges:
        _make(asked.work, edge)
        for _ in range(asked.rounds):
            for workers in asked.workers:
                rows += _in_own_process(edge, workers, asked.json)
    print(_table(rows))


def _make(work: Path, edge: int) -> None:
    """Make a cube, unless it is there."""
    work.mkdir(parents=True, exist_ok=True)
    if not (image := work / f"{edge}.ome.zarr").exists():
        pyramid = create_image(image, shape=(edge,) * 3, dtype="uint16", chunk=CHUNK)
        rng = np.random.default_rng(0)
        for index in list(cells(Box.whole(pyramid.shape), CHUNK))[STORED // 2 :: STORED]:
            box = cell_box(index, CHUNK, pyramid.shape)
            pyramid.write(box, rng.integers(0, 40000, box.shape, np.uint16), durable=False)


def _in_own_process(edge: int, workers: int, json_lines: Path | None) -> list[dict[str, Any]]:
    """Call this script again for one run; an empty list if it fails, which is told."""
    call = [sys.executable, __file__, *sys.argv[1:], "--one", str(edge), str(workers)]
    done = subprocess.run(call, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        print(f"{edge}^3, {workers} workers: failed\n{done.stderr[-2000:]}", file=sys.stderr)
        return []
    row = json.loads(done.stdout.splitlines()[-1])
    print(row, file=sys.stderr, flush=True)
    if json_lines is not None:
        with json_lines.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return [row]


def _environment() -> dict[str, str]:
    """Return that of a process of ours, in which workers find the network."""
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": os.pathsep.join(path),
        "DASK_DISTRIBUTED__WORKER__PRELOAD": f"[{NETWORKS!r}]",
    }


def _segment(asked: argparse.Namespace, edge: int, workers: int) -> dict[str, Any]:
    """Segment one cube, and say what it took."""
    keep_heap()
    config = SegmentConfig(
        **{
            "tile": TILE,
            "chunk": CHUNK[0],
            "batch": 1,
            "precision": "float32",
            "threads": 1,
            "device": asked.device,
        }
        | {name: json.loads(value) for name, value in asked.set}
    )
    cluster = Cluster(workers=workers) if workers else None
    image, model = asked.work / f"{edge}.ome.zarr", checkpoint(asked.work, asked.net, 0)
    times, result = [], {}
    with tempfile.TemporaryDirectory(dir=asked.work) as folder, _Family() as family:
        labels = Path(folder) / "labels.ome.zarr"
        for step in napari_memseg.segment(image, labels, model, config, cluster=cluster):
            if step.stage == "segment" and step.result is None:
                times.append(time.perf_counter())
            result = step.result or result
    tenth = ceil((len(times) - 1) / 10)
    return {
        "edge": edge,
        "workers": workers,
        "tiles": result["tiles"],
        "seconds": result["seconds"],
        "span": times[-1] - times[1],
        "first": (times[tenth] - times[0]) / tenth,
        "last": (times[-1] - times[-1 - tenth]) / tenth,
        "peak": max(_peak(os.getpid()), int((peak_rss_gib() or 0) * 2**30)),
        "peak_workers": family.peaks,
        "forecast": (result.get("forecast_memory_gib") or 0) * 2**30,
        "tile": zyx(result["tile"]),
    }


class _Family:
    """Keep the peak of memory of every child, as long as it lives."""

    def __enter__(self) -> "_Family":
        self._seen: dict[int, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def peaks(self) -> list[int]:
        """In bytes, one per child, the largest first."""
        return sorted(self._seen.values(), reverse=True)

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            for child in psutil.Process().children(recursive=True):
                self._seen[child.pid] = max(_peak(child.pid), self._seen.get(child.pid, 0))


def _peak(pid: int) -> int:
    """Return the most memory that a process had, in bytes; 0 if it is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| voxels | workers | tiles | seconds | from the first tile | s per tile, first tenth | last tenth "
        "| last / first | peak RSS MiB | of a worker | forecast |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        worker = f"{max(row['peak_workers']) / MIB:.0f}" if row["workers"] and row["peak_workers"] else ""
        cells_ = [
            f"{row['edge'] ** 3:.2g}",
            row["workers"] or "in process",
            row["tiles"],
            f"{row['seconds']:.1f}",
            f"{row['span']:.1f}",
            f"{row['first']:.3f}",
            f"{row['last']:.3f}",
            f"{row['last'] / row['first']:.2f}",
            f"{row['peak'] / MIB:.0f}",
            worker,
            f"{row['forecast'] / MIB:.0f}",
        ]
        lines.append("| " + " | ".join(map(str, cells_)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Our engine beside those that people use today: time, memory, and equal labels.

    python benchmarks/inference.py WORK --edge 288 --net unet3d --tile 96 --threads 1
    python benchmarks/inference.py WORK --edge 480 --net null --tile 64 --threads 1
    python benchmarks/inference.py WORK --shape 1072 470 470 --net plain --tile 256 --device cuda

All segment the same synthetic volume on disk with the same network, tile and overlap into chunks of the same
size; each run is a process of its own, and in every round all of them run, the floor first
(``peers/floor.py``). Ours runs by its public call. In WORK the volume, the networks and the reference labels
are kept; the runs (JSON lines), the table and the plot are written to --out, where the runs of an earlier
call are added to, not replaced.

With --peer-arithmetic fast --keep-heap peers and floor are given the levers that ours pulls by itself, which
leaves the engines to differ. Ours measures tiles before it begins, anew in each run; with --keep-probes it
remembers, as it does for a person's second run. CPU seconds with --threads 1 are the figures to trust on a
shared machine.

Needs ``benchmarks/requirements.txt`` and Linux. With all engines a round of 288^3 takes five to ten minutes
on 2 cores, one of 480^3 five times that, the first one longer; on a GPU minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path
from typing import Any

from peers import engines, table, volume
from peers.agreement import make_reference
from peers.job import Job
from peers.measure import machine
from peers.networks import KINDS, NAMES, checkpoint
from peers.ours import VARIANTS

from napari_memseg.models.checkpoint import load_checkpoint

HERE = Path(__file__).parent
ALL = ["floor", *VARIANTS, *engines.ENGINES]


def main() -> None:
    """Prepare, run, report."""
    asked = _parser().parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    out = asked.out or asked.work
    out.mkdir(parents=True, exist_ok=True)
    job = _prepared(asked)
    about = {"machine": machine(), "shape": job.shape, "steps": asked.steps}
    for row in _rounds(job, asked):
        with (out / "runs.jsonl").open("a") as file:
            file.write(json.dumps({**about, **row}) + "\n")
    rows = table.read([out / "runs.jsonl"])
    (out / "table.md").write_text(table.tables(rows) + "\n")
    table.plot(rows, out / "plot.png")
    print(table.tables(rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("work", type=Path, help="folder for volume, networks, reference and scratch")
    add("--out", type=Path, help="folder for runs.jsonl, table.md and plot.png; WORK by default")
    add("--edge", type=int, default=288, help="of a cube, in voxels")
    add("--shape", type=int, nargs=3, metavar=("Z", "Y", "X"), help="in place of a cube")
    add("--net", choices=NAMES, default="unet3d")
    add("--steps", type=int, default=60, help="of training; 0 leaves weights at random")
    add("--tile", type=int, default=96)
    add("--overlap", type=float, default=0.25)
    add(
        "--chunk",
        type=int,
        help="edge of a chunk of labels and of the volume; tile x (1 - overlap) by default",
    )
    add("--engines", nargs="+", choices=ALL, default=ALL, metavar="NAME", help=f"of {', '.join(ALL)}")
    add("--rounds", type=int, default=3)
    add("--threads", type=int, default=0, help="of torch; 0 leaves it to each engine")
    add("--device", default="cpu", help="cpu, cuda or cuda:1")
    add("--peer-arithmetic", choices=KINDS, default="float32")
    add("--keep-heap", action="store_true", help="for peers and floor too; ours does so by itself")
    add("--keep-probes", action="store_true", help="let runs of ours remember what earlier ones measured")
    add("--set", nargs=2, action="append", default=[], metavar=("NAME", "JSON"), help="a setting of ours")
    add("--no-reference", action="store_true", help="do not compare labels with a whole-volume pass")
    add("--timeout", type=float, default=3600, help="seconds of one run")
    return parser


def _prepared(asked: argparse.Namespace) -> Job:
    """Make what all runs share, and check that all engines can run the same tiles."""
    shape = tuple(asked.shape or [asked.edge] * 3)
    overlap = asked.tile * asked.overlap
    core = asked.tile - round(overlap)
    network = checkpoint(asked.work, asked.net, asked.steps)
    multiple = load_checkpoint(network)[0].stages[0].multiple[0]
    lengths = {"tile": asked.tile, "half the overlap": overlap / 2}
    if wrong := [name for name, length in lengths.items() if length % multiple]:
        raise SystemExit(
            f"{asked.net} needs multiples of {multiple}: change {', '.join(wrong)} of {lengths}."
        )
    if uneven := [n for n in shape if n < asked.tile or ceil(n / core) != ceil((n - asked.tile) / core) + 1]:
        print(
            f"Along {uneven} voxels those that crop need more tiles than those that blend.", file=sys.stderr
        )
    image, truth = volume.make(asked.work, shape, asked.chunk or core)
    reference = None
    if not asked.no_reference:
        reference = str(make_reference(image, network, asked.work, asked.chunk or core, asked.device))
    return Job(
        engine="",
        image=str(image.absolute()),
        checkpoint=str(network.absolute()),
        net=asked.net,
        tile=asked.tile,
        overlap=asked.overlap,
        chunk=asked.chunk or core,
        device=asked.device,
        threads=asked.threads,
        arithmetic=asked.peer_arithmetic,
        heap=asked.keep_heap,
        truth=str(truth.absolute()),
        reference=reference and str(Path(reference).absolute()),
        settings={name: json.loads(value) for name, value in asked.set},
    )


def _rounds(job: Job, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run all engines, round by round, each time beginning with another one behind the floor."""
    others = [name for name in asked.engines if name != "floor"]
    floor = [name for name in asked.engines if name == "floor"]
    first = _rounds_before(asked.out or asked.work)
    for number in range(first, first + asked.rounds):
        shift = number % max(len(others), 1)
        for name in floor + others[shift:] + others[:shift]:
            with tempfile.TemporaryDirectory(dir=asked.work) as scratch:
                this = replace(job, engine=name, scratch=str(Path(scratch).absolute()))
                row = _run(this, asked.timeout, asked.work.absolute() if asked.keep_probes else None)
            if row is not None:
                print(f"round {number} {name}: {_line(row)}", file=sys.stderr, flush=True)
                yield {"round": number, **_kind(job), **row}


def _rounds_before(out: Path) -> int:
    rows = table.read([out / "runs.jsonl"]) if (out / "runs.jsonl").exists() else []
    return 1 + max((row["round"] for row in rows), default=0)


def _kind(job: Job) -> dict[str, Any]:
    names = ("net", "tile", "overlap", "chunk", "device", "arithmetic", "heap", "settings")
    return {"threads_asked": job.threads, **{name: getattr(job, name) for name in names}}


def _run(job: Job, timeout: float, cache: Path | None) -> dict[str, Any] | None:
    """Run one engine in a process of its own; None if it fails, which is told."""
    ask, answer = (Path(job.scratch) / name for name in ("job.json", "row.json"))
    ask.write_text(json.dumps(asdict(job)))
    call = [sys.executable, "-m", "peers.run", str(ask), str(answer)]
    env = {**os.environ, "XDG_CACHE_HOME": str(cache or job.scratch)}
    if job.engine.startswith("ours") or job.heap:
        env["OMP_WAIT_POLICY"] = "PASSIVE"
    try:
        done = subprocess.run(call, cwd=HERE, env=env, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        print(f"{job.engine}: not done after {timeout:g} s", file=sys.stderr, flush=True)
        return None
    if done.returncode:
        print(f"{job.engine}: failed ({done.returncode})\n{done.stderr[-2000:]}", file=sys.stderr, flush=True)
        return None
    row: dict[str, Any] = json.loads(answer.read_text())
    return row


def _line(row: dict[str, Any]) -> str:
    mib, equal = row["peak_rss"] / 2**20, row.get("equal")
    same = "" if equal is None else f", {equal:.6f} of labels equal"
    return f"{table.wall(row):.2f} s, CPU {row.get('floor_cpu', row['cpu']):.2f} s, peak {mib:.0f} MiB{same}"


if __name__ == "__main__":
    main()

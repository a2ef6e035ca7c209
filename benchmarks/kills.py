"""Random SIGKILLs over runs, in one process and with two dask workers: no byte may differ.

    python benchmarks/kills.py [--kills 50] [--seed 0] [--json FILE]

A volume of noise, 224^3, is segmented once undisturbed by ``napari-memseg segment``. Then the same command is
started again and again and killed after a random time: half of the kills in one process; the other half with
``--workers 2``, where it is the client or one of the workers that dies. After so many kills a run is
let finish, and every stored chunk is compared, byte for byte, with the undisturbed run's.

Needs the extra ``cluster``. About twenty minutes on two cores, and 100 MB of disk.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import torch

from napari_memseg.io.pyramid import create_image
from napari_memseg.models.checkpoint import Card, save_checkpoint
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.intensity import Window
from napari_memseg.models.registry import create_model

SHAPE = (224, 224, 224)
PER_RUN = 5
"""Kills before a run may finish."""
STARTING = 4.0
"""Seconds that a command needs until it computes, about."""


def main() -> None:
    """Kill, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the numbers into this file")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        seconds = finish(folder, "undisturbed", [])
        rows = [
            row
            for how in ([], ["--workers", "2"])
            for row in campaign(folder, how, arguments.kills // 2, seconds, chance)
        ]
    report(rows, seconds)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def prepare(folder: Path) -> None:
    """Write noise with a pyramid, and a network that finds something in it."""
    pyramid = create_image(folder / "noise.ome.zarr", shape=SHAPE, dtype="uint16")
    rng = np.random.default_rng(0)
    for _ in pyramid.fill(lambda box: rng.integers(0, 1000, box.shape).astype(np.uint16), (64, 64, 64)):
        pass
    torch.manual_seed(0)
    model = create_model("small", ClassTable.from_ids([1, 2]), widths=[4, 8]).eval()
    card = Card(
        architecture=model.architecture,
        arguments=model.arguments,
        classes=model.classes,
        window=Window(0, 1000, "uint16"),
    )
    save_checkpoint(folder / "small.safetensors", model, card)


def labels(folder: Path, run: str) -> Path:
    """Return where a run goes; its name is stored with it, so that all have one."""
    path = folder / run / "labels.ome.zarr"
    path.parent.mkdir(exist_ok=True)
    return path


def command(folder: Path, run: str, how: list[str]) -> list[str]:
    """Return the command line of a run; the plan is the same for all of them."""
    fixed = ["--tile", "64", "64", "64", "--precision", "float32", "--threads", "1", "--device", "cpu"]
    paths = [str(folder / "noise.ome.zarr"), str(labels(folder, run))]
    return [
        *(sys.executable, "-m", "napari_memseg.cli", "segment", *paths),
        *("--model", str(folder / "small.safetensors"), "--confidence", "--json", *fixed, *how),
    ]


def start(folder: Path, run: str, how: list[str]) -> subprocess.Popen[str]:
    """Start a run in a session of its own, so that all of it can be ended."""
    code = "from napari_memseg.cli import main; main()"
    words = [sys.executable, "-c", code, *command(folder, run, how)[3:]]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finish(folder: Path, run: str, how: list[str]) -> float:
    """Let a run come to its end, and return how long it took by its own clock."""
    with start(folder, run, how) as process:
        told, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the run ended with status {process.returncode}:\n{errors}")
    return float(json.loads(told.splitlines()[-1])["seconds"])


def campaign(folder: Path, how: list[str], kills: int, seconds: float, chance: random.Random) -> list[dict]:
    """Kill so many times, over as many runs as that takes; return a row a run."""
    rows = []
    while kills > 0:
        run = f"killed-{len(how)}-{len(rows)}"
        victims = []
        for _ in range(min(PER_RUN, kills)):
            victims.append(kill_once(folder, run, how, seconds, chance))
        finish(folder, run, how)
        kills -= len(victims)
        different = differences(labels(folder, "undisturbed"), labels(folder, run))
        rows.append({"how": " ".join(how) or "one process", "victims": victims, "different": different})
        shutil.rmtree(labels(folder, run).parent)
        print(rows[-1], flush=True)
    return rows


def kill_once(folder: Path, run: str, how: list[str], seconds: float, chance: random.Random) -> str:
    """Start a run, end one of its processes after a while, and wait until all of it is over."""
    process = start(folder, run, how)
    with suppress(subprocess.TimeoutExpired):
        process.wait(chance.uniform(STARTING, STARTING + (1 + len(how)) * seconds / PER_RUN))
    family = [process.pid]
    with suppress(psutil.NoSuchProcess):
        workers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        family += [pid for pid in workers if "spawn_main" in " ".join(psutil.Process(pid).cmdline())]
    victim = chance.choice(family)
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    if victim != process.pid:
        process.communicate(timeout=600)  # the others go on
        return "worker"
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL) if not how else None
    process.communicate(timeout=600)
    return "client"


def differences(one: Path, other: Path) -> int:
    """Count the stored files that differ; ledgers and run cards are about the making."""
    stored = [stored_files(one), stored_files(other)]
    names = set(stored[0]) | set(stored[1])
    return sum(stored[0].get(name) != stored[1].get(name) for name in names)


def stored_files(root: Path) -> dict[str, bytes]:
    """Return every chunk and description by path."""
    files = (path for path in root.rglob("*") if path.is_file() and "memseg" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def report(rows: list[dict], seconds: float) -> None:
    """Print the table."""
    print(f"\nundisturbed: {seconds:.1f} s\n\n| how | runs | kills | of workers | files that differ |")
    print("|---|---|---|---|---|")
    for how in dict.fromkeys(row["how"] for row in rows):
        mine = [row for row in rows if row["how"] == how]
        victims = [victim for row in mine for victim in row["victims"]]
        different = sum(row["different"] for row in mine)
        print(f"| {how} | {len(mine)} | {len(victims)} | {victims.count('worker')} | {different} |")


if __name__ == "__main__":
    main()

"""A whole fly of 1072 x 470 x 470 voxels through the two-stage cascade: forecast against what happened.

    python benchmarks/whole_fly.py WORK [--widths 6,8,12,16,16] [--minutes 3] [--device auto] [--picture FILE]

The cascade's paper segmented gut in microCT of that size (Wang et al., MIDL 2022). Here the fly is synthetic
(seed 5), and the network learns from a box of 256^3 of another (seed 6) to tell gut, tracheae and tubules
from the rest. Reduced widths suit a CPU; the published ones are 16,32,64,128,128. Takes about half an hour on
2 cores, most of it to make the fly; what is there is not made again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import tifffile
from figures.renders import render
from figures.table import Table, print_table

from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.labels import EXCRETORY, GUT_CONTENT, GUT_WALL, TRACHEAE
from napari_memseg.phantom.parameters import PhantomParameters

SHAPE = (1072, 470, 470)
FLY, TEACHER = 5, 6
"""Seeds of what is segmented, and of what is learned from."""
LEARNED = Box.at((450, 107, 107), (256, 256, 256))
"""Of the teacher: the front of its abdomen and the back of its thorax."""
CLASSES = {GUT_WALL: 1, GUT_CONTENT: 1, TRACHEAE: 2, EXCRETORY: 3}
NAMES = {1: "gut", 2: "tracheae and air sacs", 3: "tubules and vessel"}


def ask(*words: object) -> tuple[dict[str, Any], str]:
    """Run one command; return its result and what it told on the way."""
    call = [Path(sys.executable).with_name("napari-memseg"), *map(str, words), "--json"]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def main() -> None:
    """Make, learn, segment, compare and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--widths", default="6,8,12,16,16")
    parser.add_argument("--minutes", type=float, default=3.0, help="of each of the three trainings")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    fly, model, found = (
        asked.work / name for name in ("fly.ome.zarr", "cascade.safetensors", "found.ome.zarr")
    )
    if not fly.exists():
        ask("phantom", fly, "--shape", *SHAPE, "--seed", FLY)
    if not model.exists():
        image, labels = _teacher(asked.work)
        how = ["--minutes", asked.minutes, "--batch", 1, "--learning-rate", 2e-3, "--device", asked.device]
        trained, _ = ask(
            "train", "--pair", image, labels, "--model", "cascade", "--widths", asked.widths,
            "--set", "standard=64", "--out", model, "--restart", *how,
        )  # fmt: skip
        print(json.dumps(trained))
    run, told = ask("segment", fly, found, "--model", model, "--device", asked.device, "--restart")
    print(told)
    print_table(Table("forecast against what happened", {"cascade": _compared(run)}))
    print_table(Table("Dice", _dice(found, fly)))
    if asked.picture:
        _draw(fly, found, asked.picture)


def _teacher(work: Path) -> tuple[Path, Path]:
    """Write the box that is learned from, and return its image and labels."""
    made = render(Phantom(PhantomParameters.named(SHAPE, seed=TEACHER)), LEARNED)
    image, labels = work / "teacher.tif", work / "teacher_labels.tif"
    tifffile.imwrite(image, made.image, photometric="minisblack")
    tifffile.imwrite(labels, _merged(made.truth), photometric="minisblack")
    return image, labels


def _merged(truth: np.ndarray) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for theirs, ours in CLASSES.items():
        table[theirs] = ours
    return table[truth]


def _compared(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "voxels": run["voxels"],
        "tiles": run["tiles"],
        "tile": " x ".join(map(str, run["tile"])),
        "seconds": run["seconds"],
        "forecast memory, GiB": run["forecast_memory_gib"],
        "peak memory, GiB": run["peak_memory_gib"],
        "peak RSS, GiB": run["peak_rss_gib"],
    }


def _dice(found: Path, fly: Path) -> dict[str, dict[str, float]]:
    """Return the Dice of each class, slab by slab."""
    labels, truth = open_volume(str(found)), open_volume(f"{fly}::labels/truth")
    counts = np.zeros((4, 4), np.int64)
    for z in range(0, SHAPE[0], 64):
        box = Box((z, 0, 0), (min(z + 64, SHAPE[0]), *SHAPE[1:]))
        pairs = 4 * _merged(truth.read(box)).astype(np.int64) + labels.read(box)
        counts += np.bincount(pairs.ravel(), minlength=16).reshape(4, 4)
    sizes = counts.sum(0) + counts.sum(1)
    return {name: {"Dice": 2 * float(counts[i, i]) / float(sizes[i])} for i, name in NAMES.items()}


def _draw(fly: Path, found: Path, file: Path) -> None:
    """Draw a slice along the body: image, truth and what was found."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import ListedColormap

    middle = SHAPE[1] // 2
    box = Box((0, middle, 0), (SHAPE[0], middle + 1, SHAPE[2]))
    grey = open_volume(str(fly)).read(box)[:, 0]
    truth = _merged(open_volume(f"{fly}::labels/truth").read(box))[:, 0]
    labels = open_volume(str(found)).read(box)[:, 0]
    colors = ListedColormap(["#00000000", "#9acd32", "#4fc3f7", "#ff9f40"])
    figure, axes = plt.subplots(3, 1, figsize=(10, 13.5), layout="constrained")
    for axis, over, title in zip(axes, (None, truth, labels), ("image", "truth", "cascade"), strict=True):
        axis.imshow(grey.T, cmap="gray", vmin=np.percentile(grey, 1), vmax=np.percentile(grey, 99.5))
        if over is not None:
            axis.imshow(over.T, cmap=colors, vmin=0, vmax=3, alpha=0.75, interpolation="nearest")
        axis.set_title(title)
        axis.axis("off")
    figure.savefig(file, dpi=90)


if __name__ == "__main__":
    main()

"""Every network on the same data in the same time: what it costs, and what it finds.

    python benchmarks/models.py WORK [--heads DIR] [--minutes 5] [--device cpu] [--only NAME ...]

Two kinds of data: mouse heads at half resolution (trained on the template and C57BL6J, tested on BALBcJ; DIR
holds ``mouse_head_NAME/intensity.ome.tif`` and ``labels.ome.tif``, from muratmaga/mouse_CT_atlas, GPL-3.0,
not part of this repository) and boxes of 128^3 voxels of the abdomens of synthetic flies of 804 x 352 x 352
voxels (trained on the seeds 0, 1, 2, tested on 3 and 4): gut, tracheae and tubules, tubes from thick to thin.
Everything goes through the command line; a network of several phases shares its minutes out among them.
Recipes are as published but for the learning rate, which is one for all: the published ones are made for
days.

Results are kept in WORK/results.json, one network after the other; what is there is not done again. Each
takes a minute or two more than its training, on both kinds of data. Needs 4 GiB.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from figures.costs import costs_of
from figures.renders import render
from figures.surfaces import surface_scores
from figures.table import Table, print_table

from napari_memseg.console import settings_of
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.io.halving import halve_mean
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.registry import create_model
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.labels import EXCRETORY, GUT_CONTENT, GUT_WALL, TRACHEAE
from napari_memseg.phantom.parameters import PhantomParameters

HEADS = {1: "skull", 2: "right mandible", 3: "neck", 15: "endocranium", 21: "left mandible"}
TUBES = {1: "gut", 2: "tracheae and air sacs", 3: "tubules and vessel"}
MERGED = np.zeros(256, np.uint8)
MERGED[[GUT_WALL, GUT_CONTENT, TRACHEAE, EXCRETORY]] = 1, 1, 2, 3
TRAINED, TESTED = (0, 1, 2), (3, 4)
"""Seeds of flies."""
FLY, ABDOMEN = (804, 352, 352), Box.at((440, 112, 112), (128, 128, 128))
LEARNED, JUDGED = ("C57BL6J", "template"), ("BALBcJ",)
"""Mouse heads."""
RATE = 2e-3
NARROW: list[Any] = [
    word
    for setting in ("encoder_widths=[16,32,64]", "width=128", "training_points=1024")
    for word in ("--set", setting)
] + ["--batch", 1]
"""Of occupancy networks: their published width takes 10 s a step on a CPU."""
SETTINGS: dict[str, tuple[str, list[Any]]] = {
    "pixels": ("pixels", []),
    "small": ("small", []),
    "unet3d": ("unet3d", ["--patch", 64, 64, 64, "--batch", 1]),
    "unet3d_residual": ("unet3d_residual", ["--patch", 64, 64, 64, "--batch", 1]),
    "meunet": ("meunet", ["--set", "standard=64", "--batch", 1]),
    "cascade, post": ("cascade", ["--set", "standard=64", "--batch", 1]),
    "cascade, pre": ("cascade", ["--set", "standard=64", "--set", "concatenation=pre", "--batch", 1]),
    "unet2d": ("unet2d", ["--patch", 16, 96, 96, "--batch", 1]),
    "distill_dsm": ("distill_dsm", ["--patch", 16, 96, 96, "--batch", 1]),
    "sau_net": ("sau_net", ["--patch", 16, 96, 96, "--batch", 1]),
    "sau_net without attention": (
        "sau_net",
        ["--patch", 16, 96, 96, "--batch", 1, "--set", "attention=none"],
    ),
    "scn": ("scn", ["--patch", 64, 64, 64]),
    "oss_net": ("oss_net", NARROW),
    "o_net": ("o_net", NARROW),
}
"""Architecture and arguments of train: patches of about a quarter of a million voxels."""


def ask(*words: object) -> dict[str, Any]:
    """Run one command and return its result."""
    call = [Path(sys.executable).with_name("napari-memseg"), *map(str, words), "--json"]
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Train, segment and score whatever is not done yet, then print all tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--heads", type=Path)
    parser.add_argument("--flies", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--report", action="store_true", help="only print what was measured")
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS))
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    kept = asked.work / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for data, (pairs, tests) in ({} if asked.report else _data(asked)).items():
        for name in asked.only or SETTINGS:
            if f"{data}: {name}" not in results:
                results[f"{data}: {name}"] = _measured(asked, data, name, pairs, tests)
                kept.write_text(json.dumps(results, indent=1))
    for name in [] if asked.report else SETTINGS:
        if f"costs: {name}" not in results:
            architecture, words = SETTINGS[name]
            results[f"costs: {name}"] = costs_of(architecture, _arguments(words))
            kept.write_text(json.dumps(results, indent=1))
    for table in _tables(results):
        print_table(table)


def _data(asked: argparse.Namespace) -> dict[str, tuple[list[Any], list[tuple[Any, Any]]]]:
    """Return the words that name what is trained on, and pairs to test on."""
    found = {}
    if asked.flies:
        flies = {seed: _fly(asked.work, seed) for seed in TRAINED + TESTED}
        pairs = [word for seed in TRAINED for word in ("--pair", *flies[seed])]
        found["flies"] = pairs, [flies[seed] for seed in TESTED]
    if asked.heads:
        heads = {name: _head(asked.work, asked.heads / f"mouse_head_{name}") for name in LEARNED + JUDGED}
        pairs = [word for name in LEARNED for word in ("--pair", *heads[name])]
        found["heads"] = pairs, [heads[name] for name in JUDGED]
    return found


def _fly(work: Path, seed: int) -> tuple[Path, Path]:
    """Return the image and the labels of the box of one fly, made where they are not there yet."""
    image, labels = (work / f"fly_{seed}_{kind}.ome.tif" for kind in ("image", "labels"))
    if not labels.exists():
        phantom = Phantom(PhantomParameters.named(FLY, seed=seed))
        made = render(phantom, ABDOMEN)
        size = {f"PhysicalSize{axis}": phantom.parameters.voxel_um for axis in "XYZ"}
        for file, values in ((image, made.image), (labels, MERGED[made.truth])):
            tifffile.imwrite(file, values, ome=True, metadata={"axes": "ZYX"} | size)
    return image, labels


def _head(work: Path, folder: Path) -> tuple[Path, Path]:
    """Return the image and the labels of a head at half its resolution, made where they are not there yet."""
    image, labels = (work / f"{folder.name}_{kind}.ome.tif" for kind in ("image", "labels"))
    if not labels.exists():
        grey, ids = (open_volume(folder / f"{kind}.ome.tif") for kind in ("intensity", "labels"))
        size = {f"PhysicalSize{a}": 2 * n for a, n in zip("ZYX", grey.voxel_size or (1, 1, 1), strict=True)}
        half = halve_mean(grey.read(Box.whole(grey.shape)))
        every_second = ids.read(Box.whole(ids.shape))[::2, ::2, ::2]
        for file, values in ((image, half.astype(np.float32)), (labels, every_second)):
            tifffile.imwrite(file, values, ome=True, metadata={"axes": "ZYX"} | size)
    return image, labels


def _measured(
    asked: argparse.Namespace, data: str, name: str, pairs: list[Any], tests: list[tuple[Any, Any]]
) -> dict[str, Any]:
    """Train one network and score it."""
    architecture, words = SETTINGS[name]
    stem = f"{data}_{name}".replace(", ", "_").replace(" ", "_")
    model = asked.work / f"{stem}.safetensors"
    arguments = _arguments(words)
    phases = len(create_model(architecture, ClassTable.from_ids([1]), **arguments).training_plan())
    trained = ask(
        "train", *pairs, "--model", architecture, "--out", model, "--minutes", asked.minutes / phases,
        "--learning-rate", RATE, "--device", asked.device, "--restart", *words,
    )  # fmt: skip
    runs, scores = [], []
    for number, (image, truth) in enumerate(tests):
        out = asked.work / f"{stem}_{number}.ome.zarr"
        how = ["--precision", "float32", "--tile", 128, 128, 128, "--device", asked.device, "--restart"]
        runs.append(ask("segment", image, out, "--model", model, *how))
        scores.append(_scores(out, truth))
    print(f"{data}: {name}: {trained['steps']} steps", file=sys.stderr, flush=True)
    return {
        "steps": trained["steps"],
        "seconds per 10⁶ voxels": float(np.mean([1e6 * r["seconds"] / r["voxels"] for r in runs])),
        "peak RSS, GiB": max(run["peak_rss_gib"] for run in runs),
        "scores": {key: _mean([score[key] for score in scores if key in score]) for key in scores[0]},
    }


def _arguments(words: list[Any]) -> dict[str, Any]:
    """Return the network's own arguments among those of train."""
    return settings_of([words[i + 1] for i, word in enumerate(words) if word == "--set"])


def _scores(labels: Path, truth: str | Path) -> dict[str, dict[str, float]]:
    found, expected = open_volume(str(labels)), open_volume(str(truth))
    whole = Box.whole(found.shape)
    return surface_scores(found.read(whole), expected.read(whole), expected.voxel_size or (1.0, 1.0, 1.0))


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each number, of those that are some."""
    return {key: _mean_of([row[key] for row in rows]) for key in rows[0]}


def _tables(results: dict[str, Any]) -> list[Table]:
    costs = {key.partition(": ")[2]: row for key, row in results.items() if key.startswith("costs")}
    tables = [Table("network", costs)]
    for data, classes in (("flies", TUBES), ("heads", HEADS)):
        rows = {key.partition(": ")[2]: row for key, row in results.items() if key.startswith(data)}
        if not rows:
            continue
        foreground = [str(i) for i in classes if i]
        summary = {name: _summary(row, foreground) for name, row in rows.items()}
        tables.append(Table(f"{data}: network", summary))
        for what in ("dice", "hd95", "nsd"):
            of_network = {
                name: {classes[int(i)]: row["scores"].get(i, {}).get(what, float("nan")) for i in foreground}
                for name, row in rows.items()
            }
            tables.append(Table(f"{data}, {what}: network", of_network))
    return tables


def _mean_of(values: list[float]) -> float:
    """Return the mean of those that are numbers; NaN where none is."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _summary(row: dict[str, Any], foreground: list[str]) -> dict[str, Any]:
    scores = row["scores"]
    found = {
        f"mean {what}": _mean_of([scores[i][what] for i in foreground if i in scores])
        for what in ("dice", "hd95", "nsd")
    }
    plain = {key: value for key, value in row.items() if key != "scores"}
    return plain | found


if __name__ == "__main__":
    main()

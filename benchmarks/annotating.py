"""How good a volume gets for so many strokes, by where they are painted.

    OMP_NUM_THREADS=1 python benchmarks/annotating.py WORK [--picture FILE] [--seeds 3] [--edge 96]

A simulated person paints short straight strokes of the true class: 15 voxels long, 3 wide, in one slice,
along whichever of eight directions stays longest inside the class. The first ten are spread over the classes.
After 10, 20, 30, 50, 75 and 100 strokes a network learns from all of them (60 steps, then 30 from the weights
of the one before, as live training does), and predicts everything, with its confidence::

    10 strokes ──> train ──> segment ──> Dice ──> where next? ──> 10 strokes ──> train ──> ...

    review          at the places of find_places, in its order, in the class that is true at the centre;
                    where the list is at its end, at random
    random          half of the strokes in the foreground, half in the background, each somewhere there
    pixels          the very strokes of random, but learned by the pixel classifier
    pixels-review   strokes as for review, learned by the pixel classifier

Volumes: a cube of the bundled bone, and one of the abdomen of a synthetic fly with gut, tracheae and tubules,
another fly for each seed. Dice is that of the whole cube, painted voxels included, and its mean that of the
classes without background. Results are kept in WORK/results.json, series by series; what is there is not done
again. Takes about half an hour on one core that is free, and 3 GiB.
"""

import argparse
import json
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import numpy as np
import tifffile
import torch
from figures.renders import render
from figures.table import Table, print_table
from numpy.typing import NDArray
from scipy import ndimage

from models import ABDOMEN, FLY, MERGED, TUBES
from napari_memseg.annotation.session import Session
from napari_memseg.data import bundled
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.io.formats import open_volume
from napari_memseg.models.classes import ClassTable
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.parameters import PhantomParameters
from napari_memseg.training.config import TrainConfig
from napari_memseg.workflows.live import FIRST_STEPS, STEPS, VALIDATION_PATCHES
from napari_memseg.workflows.review import find_places
from napari_memseg.workflows.segment import segment_session
from napari_memseg.workflows.train import train
from napari_memseg.workflows.train_job import TrainJob

STROKES = (10, 20, 30, 50, 75, 100)
"""After so many the network learns, and the volume is scored."""
LENGTH, WIDTH, DIRECTIONS = 15, 3, 8
PLANS = {"review": "small", "random": "small", "pixels-review": "pixels", "pixels": "pixels"}
"""Where strokes are painted, and by which network they are learned."""
VOLUMES: dict[str, dict[int, str]] = {"bone": {1: "bone"}, "fly": TUBES}
COLORS = {"review": "#0072b2", "random": "#d55e00", "pixels-review": "#56b4e9", "pixels": "#e69f00"}


def main() -> None:
    """Paint, learn and score whatever is not done yet; then print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--edge", type=int, default=96, help="of the cubes, in voxels, at most 128")
    parser.add_argument("--only", nargs="*", default=list(VOLUMES), choices=list(VOLUMES))
    parser.add_argument("--plans", nargs="*", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    kept = asked.work / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for seed in range(asked.seeds):
        for name in asked.only:
            for plan in asked.plans:
                key = f"{name} {plan} {seed}"
                if key not in results:
                    print(key, file=sys.stderr, flush=True)
                    results[key] = _Person.begin(asked.work, name, plan, seed, asked.edge).work()
                    kept.write_text(json.dumps(results, indent=1))
    for name in VOLUMES:
        for table in _tables(name, results):
            print_table(table)
    if asked.picture:
        draw(results, asked.picture)


@dataclass(eq=False, kw_only=True)
class _Person:
    """Somebody who knows the truth, and paints a little of it."""

    folder: Path
    truth: NDArray[np.uint8]
    plan: str
    seed: int
    rng: np.random.Generator
    painted: Counter[str] = field(default_factory=Counter)
    """Strokes by why they were painted where they are."""

    @classmethod
    def begin(cls, work: Path, name: str, plan: str, seed: int, edge: int) -> "_Person":
        """Begin a session on a volume, in place of one that was interrupted."""
        image, truth = cube(work, name, seed, edge)
        folder = work / f"{name}-{plan}-{seed}.memseg"
        shutil.rmtree(folder, ignore_errors=True)
        classes = ClassTable.from_ids(list(VOLUMES[name]), VOLUMES[name])
        Session.create(folder, open_volume(image), classes).close()
        rng = np.random.default_rng(seed)
        return cls(folder=folder, truth=truth, plan=plan, seed=seed, rng=rng)

    def work(self) -> list[dict[str, Any]]:
        """Paint, learn and predict, round after round; return what each came to."""
        found, done = [], 0
        for number, strokes in enumerate(STROKES):
            before = Counter(self.painted)
            self._paint(strokes - done, number)
            done = strokes
            learned = self._learn(number)
            dice = self._predict()
            said = {"strokes": strokes, "dice": dice, **learned, "why": dict(self.painted - before)}
            print(json.dumps(said), file=sys.stderr, flush=True)
            found.append(said)
        shutil.rmtree(self.folder)
        return found

    def _paint(self, strokes: int, number: int) -> None:
        places = self._places(strokes, number)
        with Session.open(self.folder) as session:
            for n in range(strokes):
                kind, at = (
                    places[n] if n < len(places) else ("random", self._anywhere(n if not number else None))
                )
                box, mask = stroke(self.truth, at, self.rng)
                value = int(self.truth[at]) or session.classes.background_opinion
                session.overlay.fill(box, value, mask, tool="brush")
                self.painted[kind] += 1

    def _places(self, most: int, number: int) -> list[tuple[str, Zyx]]:
        """Return where the review sends a person, and why."""
        if "review" not in self.plan or number == 0:
            return []
        *_, last = find_places(self.folder, most=most, seed=self.seed)
        assert last.result is not None
        return [(f"list: {place['kind']}", zyx(place["centre"])) for place in last.result["places"]]

    def _anywhere(self, turn: int | None) -> Zyx:
        """Return a voxel: of each class in turn, or of foreground and background alike often."""
        if turn is not None:
            classes = np.unique(self.truth)
            wanted = self.truth == classes[turn % len(classes)]
        else:
            wanted = (self.truth != 0) == (self.rng.random() < 0.5)
        return zyx(map(int, np.unravel_index(self.rng.choice(np.flatnonzero(wanted)), self.truth.shape)))

    def _learn(self, number: int) -> dict[str, float]:
        """Train on all strokes so far, from the weights of the round before."""
        models = self.folder / "models"
        init = models / f"{number - 1}.safetensors" if number else None
        steps = STEPS if number else FIRST_STEPS
        learning = TrainConfig(
            steps=steps,
            seed=self.seed + number,
            device="cpu",
            threads=1,
            validate_every=steps,
            validation_patches=VALIDATION_PATCHES,
        )
        job = TrainJob(
            out=models / f"{number}.safetensors",
            session=self.folder,
            learning=learning,
            architecture=None if init else PLANS[self.plan],
            init=init,
        )
        *_, last = train(job)
        assert last.result is not None
        return {"steps": last.result["steps"], "loss": last.result["final_loss"]}

    def _predict(self) -> dict[str, float]:
        """Segment everything by the newest model, and return the Dice of each class."""
        model = max((self.folder / "models").glob("*.safetensors"), key=lambda path: int(path.stem))
        config = SegmentConfig(confidence=True, device="cpu", threads=1, precision="float32")
        for _ in segment_session(self.folder, model, config):
            pass
        with Session.open(self.folder, read_only=True) as session:
            labels = open_volume(session.runs()[-1].path)
            found = labels.read(Box.whole(labels.shape))
        return {str(i): dice(found == i, self.truth == i) for i in np.unique(self.truth).tolist() if i}


def stroke(truth: NDArray[np.uint8], at: Zyx, rng: np.random.Generator) -> tuple[Box, NDArray[np.bool_]]:
    """Return a box of one slice, and which of its voxels a stroke through ``at`` paints.

    Of the directions that stay longest inside the class that is there, one is drawn; what would lie in
    another class is left out, and what lies behind that too.
    """
    reach = (0, LENGTH // 2 + 1, LENGTH // 2 + 1)
    box = Box.at(at, (1, 1, 1)).grow(reach).clip(zyx(truth.shape))
    y, x = np.indices(box.shape[1:]) + np.reshape(box.start[1:], (2, 1, 1)) - np.reshape(at[1:], (2, 1, 1))
    same = truth[box.slices][0] == truth[at]
    here = at[1] - box.start[1], at[2] - box.start[2]
    best: NDArray[np.bool_] = np.zeros(same.shape, bool)
    for turn in rng.permutation(DIRECTIONS) * np.pi / DIRECTIONS:
        along, across = y * np.sin(turn) + x * np.cos(turn), y * np.cos(turn) - x * np.sin(turn)
        line = (np.abs(along) <= LENGTH / 2) & (np.abs(across) <= WIDTH / 2) & same
        pieces, _ = ndimage.label(line)
        mask = pieces == pieces[here]
        best = mask if mask.sum() > best.sum() else best
    return box, best[None]


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Return the Dice of two masks that are not both empty."""
    return 2 * int((found & truth).sum()) / int(found.sum() + truth.sum())


# The volumes


def cube(work: Path, name: str, seed: int, edge: int) -> tuple[Path, NDArray[np.uint8]]:
    """Return the image of a cube, made where it is not there yet, and its labels."""
    stem = "bone" if name == "bone" else f"fly-{seed}"
    image, labels = (work / f"{stem}-{edge}-{kind}.tif" for kind in ("image", "labels"))
    if not labels.exists():
        for file, values in zip(
            (image, labels), (_bone if name == "bone" else _fly)(seed, edge), strict=True
        ):
            tifffile.imwrite(file, values, photometric="minisblack")
    return image, np.asarray(tifffile.imread(labels))


def _bone(_seed: int, edge: int) -> tuple[NDArray[Any], NDArray[Any]]:
    image, labels = (open_volume(bundled(f"trabecular_bone{kind}.ome.tif")) for kind in ("", "_labels"))
    middle = Box.at(zyx((n - edge) // 2 for n in image.shape), zyx([edge] * 3))
    return image.read(middle), labels.read(middle)


def _fly(seed: int, edge: int) -> tuple[NDArray[Any], NDArray[Any]]:
    start = zyx(a + (n - edge) // 2 for a, n in zip(ABDOMEN.start, ABDOMEN.shape, strict=True))
    made = render(Phantom(PhantomParameters.named(FLY, seed=seed)), Box.at(start, zyx([edge] * 3)))
    return made.image, MERGED[made.truth]


# What it came to


def _tables(name: str, results: dict[str, Any]) -> list[Table]:
    """Return the mean Dice, and that of each class, after so many strokes, by plan."""
    rows: dict[str, dict[str, Any]] = {}
    for plan in PLANS:
        series = _series(name, plan, results)
        for what in (
            ("mean", *VOLUMES[name]) if series and len(VOLUMES[name]) > 1 else ("mean",) * bool(series)
        ):
            title = "mean" if what == "mean" else VOLUMES[name][what]
            cells = {
                str(strokes): _spread([_dice_of(rounds[n], what) for rounds in series])
                for n, strokes in enumerate(STROKES)
            }
            rows[f"{plan}, {title}"] = {"n": len(series), **cells}
    reasons = {
        f"{plan}, strokes {a + 1} to {b}": {"why": _reasons(series, n + 1)}
        for plan in ("review", "pixels-review")
        if (series := _series(name, plan, results))
        for n, (a, b) in enumerate(pairwise(STROKES))
    }
    tables = {
        f"{name}: Dice after so many strokes, median (lowest to highest)": rows,
        f"{name}: review": reasons,
    }
    return [Table(title, found) for title, found in tables.items() if found]


def _series(name: str, plan: str, results: dict[str, Any]) -> list[list[dict[str, Any]]]:
    return [rounds for key, rounds in results.items() if key.startswith(f"{name} {plan} ")]


def _dice_of(row: dict[str, Any], what: int | str) -> float:
    return float(np.mean(list(row["dice"].values())) if what == "mean" else row["dice"][str(what)])


def _spread(values: list[float]) -> str:
    return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _reasons(series: list[list[dict[str, Any]]], number: int) -> str:
    whole: Counter[str] = sum((Counter(rounds[number]["why"]) for rounds in series), Counter())
    return ", ".join(f"{kind} {count / len(series):.1f}" for kind, count in sorted(whole.items()))


def draw(results: dict[str, Any], file: Path) -> None:
    """Draw the mean Dice against strokes: a line through the medians, a band from lowest to highest."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(VOLUMES), figsize=(9, 3.6), layout="constrained", sharex=True)
    for axis, name in zip(axes, VOLUMES, strict=True):
        for plan, network in PLANS.items():
            if series := _series(name, plan, results):
                scores = np.array([[_dice_of(row, "mean") for row in rounds] for rounds in series])
                title = "review order" if "review" in plan else "random"
                axis.plot(
                    STROKES, np.median(scores, 0), "o-", color=COLORS[plan], label=f"{title}, {network}"
                )
                axis.fill_between(STROKES, scores.min(0), scores.max(0), color=COLORS[plan], alpha=0.15, lw=0)
        axis.set(title=name, xlabel="strokes", ylabel="mean Dice of the whole volume", xlim=(0, 105))
        axis.grid(alpha=0.3)
    axes[0].legend(loc="lower right")
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    main()

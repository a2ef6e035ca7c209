"""Train on two mouse heads for some minutes, score on a third that the network never saw: Dice per class.

    python benchmarks/mouse_heads.py DATA WORK [--minutes 15] [-- more arguments of train]

DATA holds mouse_head_C57BL6J, mouse_head_template and mouse_head_BALBcJ, each with intensity.ome.tif
and labels.ome.tif (from muratmaga/mouse_CT_atlas, GPL-3.0: not part of this repository). Everything
goes through the command line, with the labels' own ids; left and right are classes, so nothing is mirrored.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

NAMES = {0: "background", 1: "skull", 2: "right mandible", 3: "neck", 15: "endocranium", 21: "left mandible"}
SETTINGS = ["--widths", "8,16,32,64,64", "--patch", 80, 80, 80, "--batch", 2, "--learning-rate", 0.005]


def ask(*words: object) -> dict:
    """Run one command and return its result."""
    call = [Path(sys.executable).with_name("napari-memseg"), *map(str, words), "--json"]
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("data", type=Path)
parser.add_argument("work", type=Path)
parser.add_argument("--minutes", type=float, default=15)
parser.add_argument("more", nargs="*", default=SETTINGS)
args = parser.parse_args()

heads = [args.data / f"mouse_head_{name}" for name in ("C57BL6J", "template", "BALBcJ")]
image, labels = zip(*((head / "intensity.ome.tif", head / "labels.ome.tif") for head in heads), strict=True)
model, found = args.work / "mouse.safetensors", args.work / "BALBcJ.ome.zarr"
pairs = ["--pair", image[0], labels[0], "--pair", image[1], labels[1]]
trained = ask("train", *pairs, "--out", model, "--minutes", args.minutes, *args.more)
run = ask("segment", image[2], found, "--model", model, "--restart")
scores = ask("evaluate", found, labels[2])

print(f"{trained['steps']} steps, {trained['parameters']} weights, {run['seconds']:.0f} s to segment\n")
print("| class | name | Dice | IoU |")
print("|---|---|---|---|")
for class_id, row in scores["classes"].items():
    print(f"| {class_id} | {NAMES[int(class_id)]} | {row['dice']:.3f} | {row['iou']:.3f} |")
print(f"| mean | without background | {scores['mean']['dice']:.3f} | {scores['mean']['iou']:.3f} |")

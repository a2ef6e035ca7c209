"""The networks of ``halo.py``, trained by the public command, once, into a folder where they are found again.

Bone is learnt from three slices, as in the demo; mouse heads from all labels of two.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from napari_memseg.data import bundled
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume

ANNOTATED = (30, 80, 130)
"""Slices of the bundled bone that the network learns from."""
UNLABELLED = 255


@dataclass(frozen=True)
class Network:
    """What to train, on what, and how."""

    title: str
    architecture: str
    data: str
    tried_on: tuple[str, ...]
    """Folders of the volumes that it is shown."""
    seed: int
    settings: tuple[object, ...]


NARROW = "8,16,32,64,64"
BONE, LHDL = ("--mirror", "zyx", "--learning-rate", 0.01), ("trabecular_bone_lhdl",)
UNSEEN, SEEN = "mouse_head_BALBcJ", "mouse_head_C57BL6J"
HEADS = ("--steps", 300, "--patch", 64, 64, 64)
DEEP = ("--steps", 250, "--batch", 1, "--widths", NARROW)
NETWORKS = [
    *(Network("small", "small", "bone", LHDL, seed, ("--steps", 120, *BONE)) for seed in range(3)),
    Network("small", "small", "heads", (UNSEEN, SEEN), 0, HEADS),
    Network("unet3d", "unet3d", "bone", LHDL, 0, ("--steps", 100, "--batch", 1, *BONE)),
    Network(f"unet3d {NARROW}", "unet3d", "heads", (UNSEEN,), 0, DEEP),
]


def trained(network: Network, data: Path, work: Path) -> Path:
    """Return the checkpoint of a network, trained if it is not there yet."""
    out = work / f"{network.architecture}_{network.data}_{network.seed}.safetensors"
    if not out.exists():
        pairs = _bone(work) if network.data == "bone" else _heads(data)
        words = ["train", *pairs, "--model", network.architecture, "--out", out, "--seed", network.seed]
        call = [Path(sys.executable).with_name("napari-memseg"), *words, *network.settings]
        subprocess.run(list(map(str, call)), check=True, stdout=sys.stderr)
    return out


def _bone(work: Path) -> list[object]:
    """Write the labels of three slices, everything else unlabelled."""
    truth = open_volume(bundled("trabecular_bone_labels.ome.tif"))
    known, few = truth.read(Box.whole(truth.shape)), work / "three_slices.tif"
    labels = np.full(truth.shape, UNLABELLED, np.uint8)
    labels[list(ANNOTATED)] = known[list(ANNOTATED)]
    few.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(few, labels, compression="zlib")
    return ["--pair", bundled("trabecular_bone.ome.tif"), few, "--unlabelled", UNLABELLED]


def _heads(data: Path) -> list[object]:
    heads = [data / f"mouse_head_{name}" for name in ("C57BL6J", "template")]
    return [w for h in heads for w in ("--pair", h / "intensity.ome.tif", h / "labels.ome.tif")]

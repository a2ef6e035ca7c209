"""Draw what each network found on one slice: ``python docs/models_pictures.py WORK docs/images``.

WORK is the folder of ``benchmarks/models.py``, in which the networks were trained on flies and a fly that
they never saw was segmented.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap

from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume

matplotlib.use("Agg")
COLUMNS = 4
COLORS = ["#00000000", "#9acd32", "#4fc3f7", "#ff9f40"]
"""Of nothing, gut, tracheae, and tubules and vessel."""


def main() -> None:
    """Draw image, truth and the labels of every network."""
    from matplotlib import pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    results = json.loads((asked.work / "results.json").read_text())
    shape = open_volume(asked.work / "fly_3_image.ome.tif").shape
    box = Box((0, shape[1] // 2, 0), (shape[0], shape[1] // 2 + 1, shape[2]))
    grey = open_volume(asked.work / "fly_3_image.ome.tif").read(box)[:, 0]
    truth = open_volume(asked.work / "fly_3_labels.ome.tif").read(box)[:, 0]
    panels = {"image": None, "truth": truth}
    for key in results:
        data, _, name = key.partition(": ")
        found = asked.work / f"flies_{name.replace(', ', '_').replace(' ', '_')}_0.ome.zarr"
        if data == "flies" and found.exists():
            panels[name] = open_volume(str(found)).read(box)[:, 0]
    rows = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(11, 2.9 * rows), layout="constrained")
    colors = ListedColormap(COLORS)
    for axis, (name, labels) in zip(axes.ravel(), panels.items(), strict=False):
        axis.imshow(grey, cmap="gray", vmin=np.percentile(grey, 1), vmax=np.percentile(grey, 99.8))
        if labels is not None:
            axis.imshow(labels, cmap=colors, vmin=0, vmax=len(COLORS) - 1, alpha=0.8, interpolation="nearest")
        axis.set_title(name, fontsize=10)
    for axis in axes.ravel():
        axis.axis("off")
    asked.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(asked.out / "models.png", dpi=80)


if __name__ == "__main__":
    main()

"""Other animals by parameters alone: which part of each is what, beside the fly."""

from collections.abc import Iterator

import numpy as np

from figures.renders import truths
from figures.table import Table
from napari_memseg.geometry import Box
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.labels import NAMES, OUTSIDE
from napari_memseg.phantom.parameters import ANIMALS, PhantomParameters


def measure() -> Iterator[Table]:
    """Yield the part of each class in each animal, outside left out."""
    parts = {}
    for animal in ANIMALS:
        phantom = Phantom(PhantomParameters.named("small", "normal", animal=animal))
        counts = np.bincount(truths(phantom, Box.whole(phantom.shape))[0].ravel(), minlength=len(NAMES))
        parts[animal] = 100 * counts / counts[1:].sum()
    yield Table(
        "part of the animal's voxels, %",
        {
            title: {name: float(found[label]) for name, found in parts.items()}
            | {
                f"{name} / fly": float(found[label] / parts["fly"][label])
                for name, found in parts.items()
                if name != "fly"
            }
            for label, title in NAMES.items()
            if label != OUTSIDE
        },
    )

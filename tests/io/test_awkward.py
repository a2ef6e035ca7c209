"""Files that readers meet, each opened or refused as a good reader does; see data/awkward/README.md."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Box, zyx
from napari_memseg.io.formats import open_volume
from napari_memseg.io.units import METRES

HERE = Path(__file__).parents[1] / "data" / "awkward"
WHOLE_SET = Path(__file__).parents[3] / "shared" / "data"
"""Beside this repository, perhaps: the same files and those whose licences keep them out of it."""
ROOT, EXPECTED = HERE, HERE / "expected.json"
if (WHOLE_SET / "expected.json").exists():
    ROOT, EXPECTED = WHOLE_SET / "awkward", WHOLE_SET / "expected.json"
ITEMS = json.loads(EXPECTED.read_text())
ITEMS = ITEMS if isinstance(ITEMS, list) else ITEMS["items"]
TARGETS = [target for item in ITEMS for target in item["targets"]]
MICROMETRE = 1e-6
CLOSE = 1e-5
"""Relative difference between sums of floats."""


def opened(path):
    """Return a volume, or None and why it is refused."""
    try:
        return open_volume(path), ""
    except SourceError as error:
        return None, str(error)


def size_is(volume, allowed):
    """Whether a voxel size is what one allowed answer says; unknown is always honest where it is allowed."""
    if allowed == "any":
        return True
    options = [None if option is None or None in option["voxel_size"] else option for option in allowed]
    if volume.voxel_size is None or (volume.unit is None and None in options):
        return None in options
    return any(option is not None and _matches(volume, option) for option in options)


def _matches(volume, option):
    wanted, said = option["voxel_size"], volume.voxel_size
    if option["unit"] is not None:
        if volume.unit is None:
            return False
        said = [length * METRES[volume.unit] / MICROMETRE for length in said]
    near = (w == "any" or abs(s - w) <= option["tolerance"] * w for s, w in zip(said, wanted, strict=True))
    return (option["unit"] is None) == (volume.unit is None) and all(near)


def says(text, groups):
    """Whether one word of each group is in a text."""
    return all(any(word.lower() in text.lower() for word in group) for group in groups)


def box_of(text, shape):
    if text is None:
        return Box.whole(shape)
    spans = [[int(n) for n in span.split(":")] for span in text.split(",")]
    return Box(zyx(a for a, _ in spans), zyx(b for _, b in spans))


def reads_as(voxels, wanted):
    """Whether voxels have the sum, the ends and the first moments that other readers found."""
    values = voxels.astype(np.float64 if voxels.dtype.kind == "f" else np.int64)
    found = [values.sum(), values.min(), values.max()]
    expected = [wanted["sum"], wanted["min"], wanted["max"]]
    for axis, moment in enumerate(wanted.get("moments", [])):
        lengths = [-1 if a == axis else 1 for a in range(3)]
        found.append((values * np.arange(values.shape[axis]).reshape(lengths)).sum())
        expected.append(moment)
    return np.allclose(found, expected, rtol=CLOSE, atol=1e-6)


def voxels_are(volume, target):
    """Whether each box that is asked for reads as allowed."""
    for part in target.get("converts", []):
        box = box_of(part.get("box"), volume.shape)
        try:
            voxels = volume.read(box)
        except SourceError as error:
            refusals = (one for one in part["allowed"] if one["outcome"] == "refuses")
            if not any(says(str(error), one["words"]) for one in refusals):
                return False
            continue
        writes = (wanted for one in part["allowed"] if one["outcome"] == "writes" for wanted in one["voxels"])
        if not any(reads_as(voxels, wanted) for wanted in writes):
            return False
    return True


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target["path"])
def test_an_awkward_file_is_opened_or_refused_as_it_should(target):
    volume, refusal = opened(ROOT / target["path"])
    if volume is None:
        refusals = [one for one in target["allowed"] if one["outcome"] == "refuses"]
        assert any(says(refusal, one["words"]) for one in refusals), refusal
        assert "\n\n" not in refusal
        return
    opens = (one for one in target["allowed"] if one["outcome"] == "opens")
    fitting = [one for one in opens if one["shape"] == list(volume.shape)]
    assert fitting, f"opened as {volume.shape}"
    assert any(volume.dtype.name in one["dtypes"] for one in fitting), volume.dtype
    assert any(size_is(volume, one["voxel"]) for one in fitting), (volume.voxel_size, volume.unit)
    assert any(voxels_are(volume, one) for one in fitting)

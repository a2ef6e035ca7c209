"""The image changes while a run reads it: the run ends in words, and stores nothing of another image."""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

import toys
from napari_memseg.errors import MemsegError, RunMismatchError
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.draft import make_plan
from napari_memseg.inference.executors import in_process
from napari_memseg.inference.plan import Plan
from napari_memseg.inference.run_card import read_run_card
from napari_memseg.io.formats import open_volume
from napari_memseg.io.pyramid import create_image
from napari_memseg.io.stacks import Stack, write_raw
from running import checkpoint_of, labels_of, noise

pytestmark = pytest.mark.usefixtures("_no_flushes")

SHAPE, CHUNK = (64, 32, 32), (16, 16, 16)
DATA = noise(SHAPE)
ANOTHER = 1 - DATA
NAMES = {"a tiff": "scan.tif", "a zarr": "scan.ome.zarr", "slices": "scan"}
BEFORE = 4
"""Steps of a run before something happens to its image."""


def write(path: Path, data: np.ndarray, kind: str) -> None:
    if kind == "a tiff":
        tifffile.imwrite(path, data, photometric="minisblack")
    elif kind == "a zarr":
        image = create_image(path, shape=SHAPE, dtype="float32", chunk=CHUNK)
        list(image.fill(lambda box: data[box.slices], CHUNK))
    else:
        path.mkdir()
        for number, slice_ in enumerate(data):
            tifffile.imwrite(path / f"{number:03}.tif", slice_, photometric="minisblack")


def voxel_files(path: Path) -> list[Path]:
    inside = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json")
    return inside if path.is_dir() else [path]


def cut_off(path: Path, kind: str) -> None:
    for file in voxel_files(path):
        os.truncate(file, file.stat().st_size // 2)


def take_away(path: Path, kind: str) -> None:
    path.rename(path.with_name("elsewhere"))


def replace(path: Path, kind: str) -> None:
    take_away(path, kind)
    write(path, ANOTHER, kind)


def begun(folder: Path, kind: str) -> tuple[Plan, Path]:
    path = folder / NAMES[kind]
    write(path, DATA, kind)
    return plan_of_file(folder, path), path


def plan_of_file(folder: Path, path: Path) -> Plan:
    config = SegmentConfig(chunk=16, tile=CHUNK, device="cpu")
    model = checkpoint_of(toys.null(), folder)
    return make_plan(model, open_volume(path), folder / "labels.ome.zarr", config)


def finished(plan: Plan) -> bool:
    return read_run_card(Path(plan.destination))["finished"]


def assert_nothing_wrong(plan: Plan) -> None:
    labels = labels_of(plan)
    predicted = labels != plan.classes.not_predicted
    assert predicted.any()
    assert (labels == (DATA > 0.5))[predicted].all()


@pytest.mark.parametrize("happens", [cut_off, take_away, replace])
@pytest.mark.parametrize("kind", NAMES)
def test_an_image_that_goes_or_changes_ends_the_run_and_nothing_wrong_is_stored(tmp_path, kind, happens):
    plan, path = begun(tmp_path, kind)
    steps = in_process(plan)
    for _ in range(BEFORE):
        next(steps)
    happens(path, kind)
    with pytest.raises(RunMismatchError, match=r"can no longer be read|was changed while"):
        list(steps)
    assert not finished(plan)
    assert_nothing_wrong(plan)
    with pytest.raises(MemsegError, match=NAMES[kind]):
        list(in_process(plan))


@pytest.mark.parametrize("kind", NAMES)
def test_an_image_that_is_back_is_gone_on_with(tmp_path, kind):
    plan, path = begun(tmp_path, kind)
    image = open_volume(path)
    steps = in_process(plan, image=image)
    for _ in range(BEFORE):
        next(steps)
    take_away(path, kind)
    with pytest.raises(RunMismatchError, match="Put it back"):
        list(steps)
    path.with_name("elsewhere").rename(path)
    last = list(in_process(plan, image=image))[-1]
    assert last.done == last.total
    assert last.resumed
    assert (labels_of(plan) == (DATA > 0.5)).all()


def test_an_image_that_was_merely_copied_anew_is_the_same(tmp_path):
    plan, path = begun(tmp_path, "a tiff")
    steps = in_process(plan)
    next(steps)
    shutil.copy(path, tmp_path / "copy.tif")
    (tmp_path / "copy.tif").replace(path)
    assert list(steps)[-1].done == len(list(plan.blocks()))
    assert finished(plan)


def overwrite(folder: Path, path: Path) -> None:
    """Put slices of another image in the place of those that are there."""
    write(folder / "another", ANOTHER, "slices")
    for file in voxel_files(path):
        file.write_bytes((folder / "another" / file.name).read_bytes())


def test_a_run_that_read_slices_of_two_images_is_never_finished(tmp_path):
    plan, path = begun(tmp_path, "slices")
    steps = in_process(plan)
    for _ in range(BEFORE):
        next(steps)
    overwrite(tmp_path, path)
    with pytest.raises(RunMismatchError, match="may be of other voxels"):
        list(steps)
    assert not finished(plan)
    with pytest.raises(RunMismatchError, match="labels are of two images"):
        list(in_process(plan))


def test_a_run_that_was_left_while_its_image_was_another_is_not_gone_on_with(tmp_path):
    plan, path = begun(tmp_path, "slices")
    steps = in_process(plan)
    for _ in range(BEFORE):
        next(steps)
    shutil.copytree(path, tmp_path / "kept")
    overwrite(tmp_path, path)
    next(steps)
    steps.close()
    shutil.copytree(tmp_path / "kept", path, dirs_exist_ok=True)
    with pytest.raises(RunMismatchError, match="labels are of two images"):
        list(in_process(plan))


def test_voxels_beside_a_header_are_watched(tmp_path):
    path = tmp_path / "scan.mhd"
    stack = Stack(shape=SHAPE, dtype=np.dtype(np.float32), voxel_size=None, unit=None, name="scan")
    write_raw(path, stack, DATA)
    plan = plan_of_file(tmp_path, path)
    steps = in_process(plan)
    for _ in range(BEFORE):
        next(steps)
    (tmp_path / "scan.raw").write_bytes(ANOTHER.tobytes())
    with pytest.raises(RunMismatchError, match="was changed while"):
        list(steps)
    assert_nothing_wrong(plan)


def test_an_image_that_is_read_once_and_whole_is_not_opened_again(tmp_path, monkeypatch):
    path = tmp_path / "scan.mha"
    size = " ".join(map(str, reversed(SHAPE)))
    header = f"ObjectType = Image\nNDims = 3\nCompressedData = True\nDimSize = {size}\n"
    header += "ElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    path.write_bytes(header.encode() + zlib.compress(DATA.tobytes()))
    plan = plan_of_file(tmp_path, path)
    image = open_volume(path)
    assert image.fingerprint == plan.fingerprint
    path.unlink()
    list(in_process(plan, image=image))
    assert finished(plan)

"""Links inside of a Zarr: reading follows them, and nothing is written to where they lead."""

from __future__ import annotations

import numpy as np
import pytest

import toys
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.io.pyramid import create_image, open_pyramid
from running import noise, plan_of, run

CHUNK = (8, 8, 8)
FIRST, LAST = Box.at((0, 0, 0), CHUNK), Box.at((8, 0, 0), CHUNK)


@pytest.fixture
def image(tmp_path):
    """An image of two chunks of ones; the second link or folder is made by the tests."""
    image = create_image(tmp_path / "image.zarr", shape=(16, 8, 8), dtype="uint8", chunk=CHUNK)
    image.write(FIRST, np.ones(CHUNK, np.uint8))
    image.write(LAST, np.ones(CHUNK, np.uint8))
    return image


def lead_outside(path, tmp_path):
    """Move a file or folder to somebody else's place, and leave a link to it."""
    outside = tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    return outside


def content(path):
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {file: file.read_bytes() for file in files}


@pytest.mark.parametrize("part", ["0/c/1/0/0", "0/c/1/0", "0/c/1", "0/c", "0"])
def test_what_a_link_leads_to_is_read(image, tmp_path, part):
    lead_outside(image.path / part, tmp_path)
    assert (open_volume(image.path).read(Box.whole(image.shape)) == 1).all()


def test_a_link_in_place_of_a_chunk_is_replaced_by_the_chunk(image, tmp_path):
    outside = lead_outside(image.path / "0/c/1/0/0", tmp_path)
    before = content(outside)
    image.write(LAST, np.full(CHUNK, 2, np.uint8))
    assert content(outside) == before
    assert not (image.path / "0/c/1/0/0").is_symlink()
    assert (open_pyramid(image.path).levels[0][8:] == 2).all()


def test_a_link_that_leads_nowhere_makes_no_file_there(image, tmp_path):
    chunk = image.path / "0/c/1/0/0"
    chunk.unlink()
    chunk.symlink_to(tmp_path / "nowhere")
    image.write(LAST, np.full(CHUNK, 2, np.uint8))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("part", ["0/c/1/0", "0/c/1", "0/c", "0"])
def test_a_link_in_place_of_a_folder_is_refused_and_what_is_there_stays(image, tmp_path, part):
    outside = lead_outside(image.path / part, tmp_path)
    before = content(outside)
    with pytest.raises(InputError, match=r"is a link to .* nothing is written through a link"):
        image.write(LAST, np.full(CHUNK, 2, np.uint8))
    assert content(outside) == before


def test_a_pyramid_that_is_a_link_is_not_opened_for_writing(image, tmp_path):
    lead_outside(image.path, tmp_path)
    with pytest.raises(InputError, match="nothing is written through a link"):
        open_pyramid(image.path)


@pytest.mark.parametrize("restart", [False, True])
def test_a_run_whose_folder_is_a_link_is_refused_and_what_is_there_stays(tmp_path, monkeypatch, restart):
    toys.register()
    monkeypatch.setattr("os.fsync", lambda _: None)
    data = noise((16, 16, 16))
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    run(plan, data)
    outside = lead_outside(tmp_path / "labels.ome.zarr", tmp_path)
    before = content(outside)
    with pytest.raises(InputError, match=r"is a link to .* nothing is written through a link"):
        run(plan, data, restart=restart)
    assert content(outside) == before

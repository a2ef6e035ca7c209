"""What an HDF5 file may hold packed, and what not."""

from __future__ import annotations

import zlib

import h5py
import numpy as np
import pytest

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Box
from napari_memseg.io import hdf5
from napari_memseg.io.formats import open_volume
from volumes import noise

VOXELS = noise((4, 16, 16))


def everything(source):
    volume = open_volume(source)
    return volume.read(Box.whole(volume.shape))


def filtered(path, *filters):
    """Write a dataset of one chunk as filters would pack it, whether they are there or not."""
    with h5py.File(path, "w") as file:
        steps = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        steps.set_chunk(VOXELS.shape)
        for number, *values in filters:
            steps.set_filter(number, h5py.h5z.FLAG_OPTIONAL, tuple(values))
        space = h5py.h5s.create_simple(VOXELS.shape)
        h5py.h5d.create(file.id, b"raw", h5py.h5t.STD_U16LE, space, steps)
    return path


def put(path, packed):
    """Replace the bytes of the only chunk."""
    with h5py.File(path, "r+") as file:
        file["raw"].id.write_direct_chunk((0, 0, 0), packed)
    return path


@pytest.mark.parametrize(
    ("number", "name"), [(32001, "blosc"), (32004, "lz4"), (307, "bzip2"), (299, "of no name")]
)
def test_a_filter_that_is_missing_is_named_when_the_file_is_opened(tmp_path, number, name):
    path = filtered(tmp_path / "scan.h5", (number,))
    with pytest.raises(
        SourceError, match=rf"filter {name} \(number {number}\).*pip install hdf5plugin.*gzip"
    ):
        open_volume(path)


@pytest.mark.parametrize("checksum", [False, True])
def test_a_chunk_that_inflates_to_far_more_than_a_chunk_is_not_decoded(tmp_path, monkeypatch, checksum):
    monkeypatch.setattr(hdf5, "HARMLESS", 2**16)
    path = filtered(tmp_path / "scan.h5", (2, 2), (1, 4), *([(3,)] if checksum else []))
    put(path, zlib.compress(bytes(2**20)))
    volume = open_volume(path)
    with pytest.raises(SourceError, match=r"may become more than 65,536 bytes.* was not decoded"):
        volume.read(Box.whole(volume.shape))


def test_a_chunk_that_becomes_as_much_as_it_should_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "HARMLESS", 0)
    path = filtered(tmp_path / "scan.h5", (1, 4))
    put(path, zlib.compress(VOXELS.tobytes()))
    np.testing.assert_array_equal(everything(path), VOXELS, strict=True)


def test_an_ordinary_chunk_is_not_inflated_to_be_counted(tmp_path, monkeypatch):
    voxels = noise((1, 1024, 1024), "uint8")
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("raw", data=voxels, chunks=voxels.shape, compression="gzip")
    monkeypatch.setattr(hdf5, "inflated_size", None)
    np.testing.assert_array_equal(everything(tmp_path / "scan.h5"), voxels, strict=True)


def test_a_chunk_that_was_never_written_is_zeros(tmp_path):
    assert not everything(filtered(tmp_path / "scan.h5", (1, 4))).any()


def test_what_is_deflated_before_it_is_shuffled_is_believed_only_while_it_is_small(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        steps = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        steps.set_chunk(VOXELS.shape)
        steps.set_deflate(4)
        steps.set_shuffle()
        made = h5py.h5d.create(
            file.id, b"raw", h5py.h5t.STD_U16LE, h5py.h5s.create_simple(VOXELS.shape), steps
        )
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, VOXELS)
    np.testing.assert_array_equal(everything(tmp_path / "scan.h5"), VOXELS, strict=True)
    monkeypatch.setattr(hdf5, "HARMLESS", 0)
    with pytest.raises(SourceError, match="may become more"):
        everything(tmp_path / "scan.h5")


def test_what_is_deflated_twice_is_refused(tmp_path):
    with pytest.raises(SourceError, match="packed several times over"):
        open_volume(filtered(tmp_path / "scan.h5", (1, 4), (1, 4)))

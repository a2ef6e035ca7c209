"""Bare voxels, and voxels that are compressed as a whole: what they take, and files that change."""

from __future__ import annotations

import bz2
import gzip
import os
import pickle
import tracemalloc
import zlib
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_memseg import memory
from napari_memseg.errors import SourceError
from napari_memseg.geometry import Box
from napari_memseg.io import raw
from napari_memseg.io.amira import _run_lengths
from napari_memseg.io.formats import open_volume
from napari_memseg.io.header import Header, lengths_zyx
from napari_memseg.io.raw import RawArray, bunzip, inflate, unpacked
from volumes import metaimage, noise, nrrd

VOXELS = noise()
LARGE = np.random.default_rng(0).integers(0, 2**16, (8, 1024, 1024), np.uint16)
"""Which no one can compress."""
NO_WINDOWS = pytest.mark.skipif(os.name == "nt", reason="it has no such files")


def everything(source):
    volume = open_volume(source)
    return volume.read(Box.whole(volume.shape))


# Bare voxels


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Voxels behind 3 bytes, so wide that rows are read one by one where little of them is asked for."""
    voxels = noise((3, 4, 20_000), ">u2")
    path = tmp_path_factory.mktemp("bare") / "voxels"
    path.write_bytes(b"123" + voxels.tobytes())
    return RawArray(path, 3, voxels.shape, voxels.dtype), voxels


@given(data=st.data())
def test_any_box_of_bare_voxels_reads_as_numpy_would_cut_it(bare, data):
    array, voxels = bare
    spans = [sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2))) for n in array.shape]
    box = tuple(slice(*span) for span in spans)
    np.testing.assert_array_equal(array[box], voxels[box].astype("u2"), strict=True)


def test_bare_voxels_that_are_cut_off_while_they_are_open_are_an_error_not_the_end(tmp_path):
    volume = open_volume(metaimage(tmp_path, VOXELS))
    os.truncate(tmp_path / "scan.raw", 100)
    with pytest.raises(SourceError, match=r"shorter since it was opened: it has 100 bytes now"):
        volume.read(Box.whole(volume.shape))


# Compressed as a whole


def mha(folder, voxels):
    return metaimage(folder, voxels, compressed=True)


def nii(folder, voxels, slope=None):
    import nibabel

    image = nibabel.Nifti1Image(voxels.T, np.eye(4))
    image.header.set_slope_inter(slope, 0 if slope else None)
    path = folder / "scan.nii"
    nibabel.save(image, path)
    (folder / "scan.nii.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    return folder / "scan.nii.gz"


def run_lengths(folder, voxels):
    """Write an Amira lattice in which no byte is repeated."""
    data = voxels.view(np.uint8).reshape(-1, 64)
    packed = np.insert(data, 0, 128 + 64, axis=1).tobytes()
    lattice = " ".join(map(str, (2 * voxels.shape[2], *voxels.shape[1::-1])))
    (folder / "scan.am").write_bytes(
        f"# AmiraMesh BINARY-LITTLE-ENDIAN 2.1\ndefine Lattice {lattice}\n"
        f"Lattice {{ byte Data }} @1(HxByteRLE,{len(packed)})\n@1\n".encode()
        + packed
    )
    return folder / "scan.am"


@pytest.mark.parametrize(
    ("write", "becomes"),
    [
        (nrrd("gzip"), 1),
        (nrrd("bzip2"), 1),
        (mha, 1),
        (run_lengths, 1),
        (nii, 1),
        (partial(nii, slope=0.5), 2),
    ],
    ids=["nrrd, gzip", "nrrd, bzip2", "mha", "run lengths", "nifti", "nifti, scaled to floats"],
)
def test_what_can_only_be_read_whole_takes_little_more_memory_than_its_voxels(tmp_path, write, becomes):
    array = open_volume(write(tmp_path, LARGE)).arrays[0]
    tracemalloc.start()
    try:
        _ = array[:1, :1, :1]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * becomes * LARGE.nbytes


def test_a_scaled_nifti_reads_the_same_compressed_or_not(tmp_path):
    path = nii(tmp_path, VOXELS, slope=0.3)
    np.testing.assert_array_equal(everything(path), (VOXELS * np.float64(np.float32(0.3))).astype("f4"))
    np.testing.assert_array_equal(everything(path.with_suffix("")), everything(path), strict=True)


def test_one_time_of_a_compressed_nifti_is_chosen(tmp_path):
    path = nii(tmp_path, np.stack([[VOXELS, VOXELS + 1], [VOXELS + 2, VOXELS + 3], [VOXELS, VOXELS]]))
    np.testing.assert_array_equal(everything(f"{path}@t=1,c=1"), VOXELS + 3, strict=True)


def test_a_compressed_nifti_that_ends_early_is_refused(tmp_path):
    path = nii(tmp_path, VOXELS)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-2]))
    with pytest.raises(SourceError, match=r"cut off or damaged \(it ends at voxel 5,364\)"):
        everything(path)


@pytest.mark.parametrize(
    ("unpack", "pack"), [(inflate, gzip.compress), (inflate, zlib.compress), (bunzip, bz2.compress)]
)
@pytest.mark.parametrize("piece", [7, 2**20])
def test_several_streams_are_unpacked_one_after_the_other(tmp_path, monkeypatch, unpack, pack, piece):
    monkeypatch.setattr(raw, "PIECE_BYTES", piece)
    content = VOXELS.tobytes()
    (tmp_path / "file").write_bytes(b"head" + pack(content[:999]) + pack(bytes(2)) + pack(content[1001:]))
    found = unpacked(tmp_path / "file", 4, unpack, VOXELS.shape, VOXELS.dtype).ravel()
    np.testing.assert_array_equal(found.view(np.uint8)[1001:], VOXELS.view(np.uint8).ravel()[1001:])


@given(
    runs=st.lists(st.binary(min_size=1, max_size=127) | st.tuples(st.integers(0, 127), st.binary(max_size=1)))
)
def test_run_lengths_may_be_cut_anywhere(runs):
    runs = [run for run in runs if isinstance(run, bytes) or len(run[1])]
    plain = b"".join(run if isinstance(run, bytes) else run[1] * run[0] for run in runs)
    packed = b"".join(
        bytes([128 + len(run)]) + run if isinstance(run, bytes) else bytes([run[0]]) + run[1] for run in runs
    )
    assert b"".join(_run_lengths([packed])) == plain
    assert b"".join(_run_lengths([packed[n : n + 1] for n in range(len(packed))])) == plain


def test_a_whole_volume_travels_to_another_process(tmp_path):
    volume = pickle.loads(pickle.dumps(open_volume(nii(tmp_path, VOXELS))))
    np.testing.assert_array_equal(volume.read(Box.whole(volume.shape)), VOXELS)


def test_memory_that_has_gone_by_the_first_voxel_is_told(tmp_path, monkeypatch):
    volume = open_volume(nrrd("gzip")(tmp_path, VOXELS))
    monkeypatch.setattr(raw, "np", SimpleNamespace(empty=no_memory, uint8=np.uint8))
    with pytest.raises(SourceError, match=r"scan.nrrd is compressed as a whole and becomes .* Save it unc"):
        volume.read(Box.whole(volume.shape))


def no_memory(*_):
    raise MemoryError


def test_a_container_may_leave_too_little_memory(tmp_path, monkeypatch):
    path = nii(tmp_path, VOXELS)
    for name, text in {
        "memory.max": "40000",
        "memory.current": "30000",
        "memory.stat": "inactive_file 9000",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free_bytes() == 19_000
    with pytest.raises(SourceError, match="compressed as a whole"):
        open_volume(path)


# Files beside a header


def test_a_link_beside_a_header_is_followed_to_another_disk(tmp_path):
    (tmp_path / "here").mkdir()
    path = metaimage(tmp_path / "here", VOXELS)
    voxels = (tmp_path / "here" / "scan.raw").rename(tmp_path / "elsewhere.raw")
    (tmp_path / "here" / "scan.raw").symlink_to(voxels)
    np.testing.assert_array_equal(everything(path), VOXELS, strict=True)


@NO_WINDOWS
@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/dev/zero", "a link to /dev/zero and no file"),
        ("/nowhere", "a link to /nowhere, which is not there"),
    ],
)
def test_a_link_to_anything_but_a_file_is_refused(tmp_path, target, said):
    (tmp_path / "scan.raw").symlink_to(target)
    with pytest.raises(SourceError, match=said):
        Header(tmp_path / "scan.mhd", {}).beside("scan.raw")


@NO_WINDOWS
def test_a_pipe_beside_a_header_is_refused(tmp_path):
    os.mkfifo(tmp_path / "scan.raw")
    with pytest.raises(SourceError, match="there and no file"):
        Header(tmp_path / "scan.mhd", {}).beside("scan.raw")


@pytest.mark.parametrize("wrong", [(1, 2), (1, 2, 0), (1, 2, float("nan")), (1, 2, "a"), (1, None, 2)])
def test_three_good_lengths_or_none(wrong):
    assert lengths_zyx(("1", 2.0, 3)) == (3, 2, 1)
    assert lengths_zyx(wrong) is None

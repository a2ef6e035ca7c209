"""What every format promises: the voxels that were written, and nothing that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_memseg.errors import GeometryError
from napari_memseg.geometry import Box, zyx
from napari_memseg.io import volume as module
from napari_memseg.io.formats import open_volume
from napari_memseg.io.units import METRES
from napari_memseg.io.volume import ChunkCache, Volume
from volumes import FORMATS, KNOW_NOTHING, SIZE, UNIT, noise

VOXELS = noise()


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch) -> ChunkCache:
    own = ChunkCache(2**24)
    monkeypatch.setattr(module, "CACHE", own)
    return own


@pytest.fixture(scope="module", params=FORMATS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def source(kind: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return FORMATS[kind](tmp_path_factory.mktemp("scan"), VOXELS)


@pytest.fixture(scope="module")
def volume(source: str) -> Volume:
    return open_volume(source)


def written(kind: str, folder: Path, name: str, voxels: NDArray[Any]) -> Volume:
    (folder / name).mkdir()
    return open_volume(FORMATS[kind](folder / name, voxels))


def test_the_shape_and_the_dtype_are_those_that_were_written(volume: Volume) -> None:
    assert volume.shape == VOXELS.shape
    assert volume.dtype == VOXELS.dtype
    assert volume.dtype.isnative


@given(data=st.data())
def test_any_box_reads_as_numpy_would_cut_it(volume: Volume, data: st.DataObject) -> None:
    corners = [sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2))) for n in volume.shape]
    box = Box(zyx(a for a, _ in corners), zyx(b for _, b in corners))
    np.testing.assert_array_equal(volume.read(box), VOXELS[box.slices], strict=True)


def test_a_box_that_leaves_the_volume_is_refused(volume: Volume) -> None:
    with pytest.raises(GeometryError, match="Choose a box inside 0:5,0:37,0:29"):
        volume.read(Box((0, 0, 0), (5, 37, 30)))


def test_the_voxel_size_is_the_one_that_was_written_or_unknown(volume: Volume, kind: str) -> None:
    if kind in KNOW_NOTHING:
        assert (volume.voxel_size, volume.unit) == (None, None)
    else:
        assert volume.voxel_size is not None
        metres = [length * METRES[str(volume.unit)] for length in volume.voxel_size]
        assert metres == pytest.approx([length * METRES[UNIT] for length in SIZE])


def test_the_source_opens_the_same_volume_from_any_folder(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(Path(source).parent)
    first = open_volume(Path(source).name)
    monkeypatch.chdir(tmp_path)
    again = open_volume(first.source)
    assert (again.source, again.name, again.format) == (first.source, first.name, first.format)
    assert again.fingerprint == first.fingerprint


def test_opening_decodes_nothing_and_a_voxel_decodes_one_chunk(source: str, cache: ChunkCache) -> None:
    volume = open_volume(source)
    assert cache.misses == 0
    volume.read(Box((2, 9, 9), (3, 10, 10)))
    assert cache.misses == 1
    assert 0 < cache.held_bytes < VOXELS.nbytes


def test_the_fingerprint_depends_on_the_voxels_and_on_nothing_else_that_changes(
    kind: str, volume: Volume, tmp_path: Path
) -> None:
    other = VOXELS.copy()
    other[2, 18, 14] ^= 1
    assert written(kind, tmp_path, "copy", VOXELS).fingerprint == volume.fingerprint
    assert written(kind, tmp_path, "other", other).fingerprint != volume.fingerprint


def test_the_dask_levels_hold_the_same_voxels(volume: Volume) -> None:
    assert len(volume.levels) == len(volume.arrays)
    np.testing.assert_array_equal(volume.levels[0].compute(scheduler="synchronous"), VOXELS, strict=True)
    picked = volume.levels[0][3, 30:2:-5, ::7].compute(scheduler="synchronous")
    np.testing.assert_array_equal(picked, VOXELS[3, 30:2:-5, ::7])


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_other_dtypes_are_kept(kind: str, dtype: str, tmp_path: Path) -> None:
    voxels = noise(dtype=dtype)
    found = written(kind, tmp_path, dtype, voxels)
    np.testing.assert_array_equal(found.read(Box.whole(found.shape)), voxels, strict=True)

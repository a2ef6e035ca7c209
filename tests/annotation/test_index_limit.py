"""A volume larger than memory is never read at once by mistake; a plane of it is."""

from __future__ import annotations

import numpy as np
import pytest

from annotation.helpers import SHAPE, Picture
from napari_memseg.annotation.session import Session
from napari_memseg.errors import GeometryError

LARGEST_PLANE = 70 * 130


@pytest.fixture(params=["overlay", "composite"])
def small_limit(request, session, monkeypatch):
    """An array of a session that is too large to be read at once, as no plane of it is."""
    monkeypatch.setattr("napari_memseg.annotation.indexing.MOST_VOXELS", LARGEST_PLANE)
    session.overlay[3, 4, 5] = 15
    return session.overlay if request.param == "overlay" else session.composite()


@pytest.mark.parametrize(
    "look",
    [
        np.asarray,
        lambda array: array[...],
        lambda array: array[:],
        lambda array: array[::-1, 1:],
        lambda array: array[:2, :, :],
    ],
)
def test_more_than_the_limit_is_refused_with_a_way_out(small_limit, look):
    with pytest.raises(GeometryError, match=r"too many to read at once.*on slices.*coarser level"):
        np.asarray(look(small_limit))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_plane_is_read(small_limit, axis):
    index = tuple((3, 4, 5)[k] if k == axis else slice(None) for k in range(3))
    plane = small_limit[index]
    assert plane.shape == tuple(n for k, n in enumerate(SHAPE) if k != axis)
    assert np.count_nonzero(plane == 15) == 1
    assert (np.asarray(small_limit[3]) == 15).any()


def test_every_so_many_voxels_of_the_whole_are_read(small_limit):
    assert small_limit[::8, ::8, ::8].shape == (9, 9, 17)


@pytest.mark.parametrize("kind", ["overlay", "composite"])
def test_the_whole_of_a_huge_volume_is_refused_before_anything_is_read(tmp_path, classes, kind):
    with Session.create(tmp_path / "huge", Picture((2**14,) * 3), classes) as session:
        array = session.overlay if kind == "overlay" else session.composite()
        with pytest.raises(GeometryError, match="4,398,046,511,104 voxels"):
            np.asarray(array)
        assert array[5, 100:200, 7:9].shape == (100, 2)


def test_a_plane_that_is_itself_too_large_is_refused_however_it_is_asked_for(session, monkeypatch):
    monkeypatch.setattr("napari_memseg.annotation.indexing.MOST_VOXELS", 1000)
    for array in (session.overlay, session.composite()):
        with pytest.raises(GeometryError, match="too many to read at once"):
            array[3, :, :]
        with pytest.raises(GeometryError, match="too many to read at once"):
            np.asarray(array[3])

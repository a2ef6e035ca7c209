"""Boxes, levels, the cache and the fingerprint, over arrays in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier, Event
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_memseg.errors import GeometryError, SourceError
from napari_memseg.geometry import Box, Zyx
from napari_memseg.io import volume as module
from napari_memseg.io.intensity import sample_window
from napari_memseg.io.volume import ChunkCache, Volume, set_cache_bytes
from volumes import noise


@dataclass(eq=False)
class Counted:
    """An array in memory that notes what is decoded."""

    data: NDArray[Any]
    chunks: Zyx = (4, 4, 4)
    decoded: list[tuple[slice, ...]] = field(default_factory=list)

    @property
    def shape(self) -> Zyx:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        self.decoded.append(index)
        return self.data[index]


class Damaged(Counted):
    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        raise RuntimeError("bad checksum")


def volume_of(*arrays: Counted, **changes: Any) -> Volume:
    about: dict[str, Any] = {"voxel_size": (1.0, 1.0, 1.0), "unit": "micrometer", "name": "scan"}
    about |= {"source": "/data/scan", "format": "memory"}
    return Volume(arrays, **(about | changes))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch) -> ChunkCache:
    own = ChunkCache(2**20)
    monkeypatch.setattr(module, "CACHE", own)
    return own


@given(data=st.data())
def test_a_box_decodes_just_the_chunks_that_it_touches(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 13)] * 3))
    chunks = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    corners = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in shape]
    box = Box(tuple(a for a, _ in corners), tuple(b for _, b in corners))
    array = Counted(noise(shape), chunks)
    np.testing.assert_array_equal(volume_of(array).read(box), array.data[box.slices], strict=True)
    for index in array.decoded:
        read = Box(tuple(s.start for s in index), tuple(s.stop for s in index))
        assert not (read & box).is_empty
    assert len(array.decoded) == len({tuple((s.start, s.stop) for s in i) for i in array.decoded})


def test_a_chunk_is_decoded_once_for_boxes_that_share_it(cache: ChunkCache) -> None:
    array = Counted(noise((4, 4, 8)))
    volume = volume_of(array)
    volume.read(Box((0, 0, 0), (2, 4, 8)))
    volume.read(Box((2, 0, 0), (4, 4, 8)))
    assert len(array.decoded) == 2
    assert (cache.misses, cache.hits) == (2, 2)


def test_what_is_read_is_a_copy_that_may_be_changed() -> None:
    array = Counted(noise((4, 4, 4)))
    volume = volume_of(array)
    volume.read(Box.whole((4, 4, 4)))[:] = 0
    np.testing.assert_array_equal(volume.read(Box.whole((4, 4, 4))), array.data)


def test_the_cache_never_holds_more_than_its_bytes_and_drops_what_was_used_longest_ago() -> None:
    cache = ChunkCache(100)
    for key in "abc":
        cache.get(key, lambda: np.zeros(40, np.uint8))
        cache.get("a", lambda: np.zeros(40, np.uint8))
    assert cache.held_bytes == 80
    assert (cache.misses, cache.hits) == (3, 3)
    cache.get("b", lambda: np.zeros(40, np.uint8))
    assert cache.misses == 4


def test_a_chunk_larger_than_the_cache_is_returned_and_not_kept() -> None:
    cache = ChunkCache(10)
    assert cache.get("large", lambda: np.ones(11, np.uint8)).sum() == 11
    assert cache.held_bytes == 0


def test_a_smaller_cache_gives_its_bytes_back(cache: ChunkCache) -> None:
    volume_of(Counted(noise((8, 8, 8)))).read(Box.whole((8, 8, 8)))
    assert cache.held_bytes == 8**3 * 2
    set_cache_bytes(300)
    assert 0 < cache.held_bytes <= 300
    cache.clear()
    assert (cache.held_bytes, cache.hits, cache.misses) == (0, 0, 0)


def test_threads_that_want_one_chunk_decode_it_once() -> None:
    cache, together = ChunkCache(2**20), Barrier(4)

    def decode() -> NDArray[Any]:
        return np.arange(5)

    def want(_: int) -> int:
        together.wait()
        return int(cache.get("chunk", decode).sum())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(want, range(4))) == [10] * 4
    assert (cache.misses, cache.hits) == (1, 3)


def test_a_failed_decoding_reaches_all_who_wait_and_is_tried_again() -> None:
    cache = ChunkCache(2**20)

    def fail() -> NDArray[Any]:
        raise ValueError("damaged")

    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            cache.get("chunk", fail)
    assert cache.get("chunk", lambda: np.ones(3)).sum() == 3


def test_volumes_do_not_share_chunks() -> None:
    one, two = Counted(np.zeros((4, 4, 4))), Counted(np.ones((4, 4, 4)))
    assert volume_of(one).read(Box.whole((4, 4, 4))).sum() == 0
    assert volume_of(two).read(Box.whole((4, 4, 4))).sum() == 64


def test_a_damaged_chunk_is_named_by_file_and_box() -> None:
    volume = volume_of(Damaged(noise((8, 8, 8))))
    with pytest.raises(SourceError, match=r"/data/scan cannot be decoded at 4:8,0:4,0:4 .*bad checksum"):
        volume.read(Box((5, 0, 0), (6, 1, 1)))


def test_a_chunk_of_another_shape_than_promised_is_damage() -> None:
    class Short(Counted):
        def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
            return self.data[index][1:]

    with pytest.raises(SourceError, match="instead of"):
        volume_of(Short(noise((4, 4, 4)))).read(Box((0, 0, 0), (1, 1, 1)))


@pytest.mark.parametrize("level", [-1, 2])
def test_a_level_that_is_not_there_is_refused(level: int) -> None:
    volume = volume_of(Counted(noise((4, 4, 4))), Counted(noise((2, 2, 2))))
    with pytest.raises(GeometryError, match="levels are 0, the finest, to 1"):
        volume.read(Box((0, 0, 0), (1, 1, 1)), level)


def test_the_scale_of_a_level_is_a_whole_number_per_axis() -> None:
    shapes = [(5, 101, 64), (5, 51, 32), (3, 26, 16)]
    volume = volume_of(*(Counted(np.zeros(shape)) for shape in shapes))
    assert [volume.scale(level) for level in range(3)] == [(1, 1, 1), (1, 2, 2), (2, 4, 4)]


@pytest.mark.parametrize(
    ("wanted", "level"),
    [((1, 1, 1), 0), ((2.7, 2.7, 2.7), 1), ((3, 3, 3), 2), ((99, 99, 99), 2), ((1e-9,) * 3, 0)],
)
def test_the_nearest_level_is_nearest_by_ratio(wanted: tuple[float, float, float], level: int) -> None:
    arrays = [Counted(np.zeros((n, n, n))) for n in (64, 32, 16)]
    assert volume_of(*arrays).nearest_level(wanted) == level


def test_level_0_is_nearest_where_the_voxel_size_is_unknown() -> None:
    arrays = [Counted(np.zeros((n, n, n))) for n in (64, 32)]
    assert volume_of(*arrays, voxel_size=None, unit=None).nearest_level((9, 9, 9)) == 0


@pytest.mark.parametrize("wanted", [(0, 1, 1), (1, -1, 1), (1, 1, float("nan"))])
def test_an_impossible_voxel_size_has_no_nearest_level(wanted: tuple[float, float, float]) -> None:
    with pytest.raises(GeometryError, match="three positive lengths"):
        volume_of(Counted(np.zeros((4, 4, 4)))).nearest_level(wanted)


def test_the_fingerprint_is_of_the_voxels_their_type_and_their_size() -> None:
    data = noise((8, 8, 8), "uint8")
    same = volume_of(Counted(data)).fingerprint
    assert volume_of(Counted(data.copy(), (8, 8, 8)), name="other", source="elsewhere").fingerprint == same
    different = [
        volume_of(Counted(data), voxel_size=(1.0, 1.0, 2.0)),
        volume_of(Counted(data), unit="millimeter"),
        volume_of(Counted(data), voxel_size=None, unit=None),
        volume_of(Counted(data.view(np.int8))),
        volume_of(Counted(data.reshape(4, 16, 8))),
        volume_of(Counted(data[::-1])),
    ]
    assert len({same, *(volume.fingerprint for volume in different)}) == 7


def test_the_fingerprint_of_a_large_volume_reads_little_of_it() -> None:
    array = Counted(np.broadcast_to(np.uint8(3), (400, 1000, 1000)), (50, 50, 50))
    assert len(volume_of(array).fingerprint) == 32
    assert sum(1 for _ in array.decoded) <= 27 * 4


def test_the_window_leaves_the_rarest_values_out() -> None:
    data = noise((40, 40, 40), "float32")
    data[0, 0, :3] = (-1e6, 1e6, np.nan)
    low, high = sample_window(volume_of(Counted(data, (8, 8, 8))))
    assert (low, high) == pytest.approx(tuple(np.nanpercentile(data, (0.5, 99.5))), abs=3)


def test_the_window_is_the_same_each_time_and_follows_the_level() -> None:
    fine, coarse = noise((40, 40, 40)), noise((20, 20, 20)) + 1000
    volume = volume_of(Counted(fine, (2, 2, 2)), Counted(coarse, (2, 2, 2)))
    again = volume_of(Counted(fine, (2, 2, 2)), Counted(coarse, (2, 2, 2)))
    assert sample_window(volume) == sample_window(again)
    assert sample_window(volume, 1)[0] >= 1000


@pytest.mark.parametrize(
    ("value", "window"), [(7, (7.0, 8.0)), (0, (0.0, 1.0)), (np.nan, (0.0, 1.0)), (np.inf, (0.0, 1.0))]
)
def test_the_window_of_an_image_of_one_value_is_not_empty(value: float, window: tuple[float, float]) -> None:
    assert sample_window(volume_of(Counted(np.full((9, 9, 9), value, np.float32)))) == window


def test_the_window_of_a_huge_constant_is_not_empty() -> None:
    low, high = sample_window(volume_of(Counted(np.full((3, 3, 3), 1e30, np.float64))))
    assert low < high


def test_the_window_of_a_large_volume_reads_little_of_it() -> None:
    array = Counted(np.broadcast_to(np.uint8(3), (4000, 1000, 1000)), (50, 50, 50))
    sample_window(volume_of(array))
    assert len(array.decoded) <= 64


def test_the_window_of_large_chunks_decodes_few_of_them_the_middle_one_for_sure() -> None:
    data = np.broadcast_to(np.uint16(3), (1280, 1280, 1280))
    array = Counted(data, (256, 256, 256))
    sample_window(volume_of(array))
    decoded = sum(data[index].nbytes for index in array.decoded)
    assert 0 < decoded <= 64 * 2**20
    assert (slice(512, 768),) * 3 in array.decoded


def test_the_window_of_one_enormous_chunk_decodes_it_once() -> None:
    array = Counted(np.broadcast_to(np.float64(3), (300, 300, 300)), (300, 300, 300))
    sample_window(volume_of(array))
    assert len(array.decoded) == 1


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [(1, 1, 1), (1, 2, 3), (1, 1, 60)])
def test_the_window_of_tiny_chunks_sees_many_voxels(chunks: Zyx) -> None:
    data = noise((60, 60, 60), "float32")
    low, high = sample_window(volume_of(Counted(data, chunks)))
    assert (low, high) == pytest.approx(tuple(np.percentile(data, (0.5, 99.5))), abs=2)


def test_a_volume_that_is_being_checked_holds_up_no_other() -> None:
    def going_on() -> Iterator[None]:
        assert volume_of(Counted(noise())).fingerprint
        yield

    volume_of(Counted(noise()), check_rest=going_on).check()
    slow = volume_of(Counted(noise()))
    inside, leave = Event(), Event()
    slow.arrays[0].decoded = type("Waiting", (list,), {"append": lambda *_: (inside.set(), leave.wait(20))})()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: slow.fingerprint)
        assert inside.wait(20)
        assert volume_of(Counted(noise())).fingerprint
        assert not first.done()
        leave.set()


def test_no_two_processes_give_their_volumes_one_name_in_the_cache() -> None:
    code = """
import numpy as np
from napari_memseg.io.volume import Volume
voxels = np.zeros((1, 1, 1))
voxels_with_chunks = type("Array", (), {"shape": voxels.shape, "dtype": voxels.dtype, "chunks": (1, 1, 1)})
print(Volume((voxels_with_chunks,), None, None, "a", "a", "a").levels[0].name)
"""
    call = [sys.executable, "-c", code]
    first, second = (subprocess.run(call, capture_output=True, check=True).stdout for _ in range(2))
    assert first != second

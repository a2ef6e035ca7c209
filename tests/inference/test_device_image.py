"""The image on a device: each brick crosses the bus once while there is room for it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_memseg.errors import InputError, SourceError
from napari_memseg.geometry import Box
from napari_memseg.inference import device_image
from napari_memseg.inference.device_image import DeviceImage, Uploaded
from napari_memseg.io.volume import Volume
from running import InMemory, in_memory, noise
from trouble import NO_MEMORY

SHAPE = (37, 41, 29)
CPU = torch.device("cpu")
LIMIT = 2**20


@pytest.fixture(autouse=True, scope="module")
def _small_bricks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_image, "BRICK", (16, 16, 16))
        yield


@pytest.fixture
def uploads(monkeypatch) -> Counter:
    """Count how often each box is uploaded."""
    count, upload = Counter(), DeviceImage._upload

    def counted(image, at, level):
        count[at] += 1
        return upload(image, at, level)

    monkeypatch.setattr(DeviceImage, "_upload", counted)
    return count


def box_in(shape: tuple[int, int, int]) -> st.SearchStrategy[Box]:
    """Return boxes of one voxel or more inside a volume."""
    spans = [st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True).map(sorted) for n in shape]
    return st.tuples(*spans).map(lambda spans: Box(*zip(*spans, strict=True)))


@settings(max_examples=50)
@given(boxes=st.lists(box_in(SHAPE), max_size=4), limit=st.sampled_from([1, 40_000, LIMIT]))
def test_a_box_is_what_the_volume_holds_there(boxes, limit):
    volume = in_memory(noise(SHAPE))
    image = DeviceImage(volume, CPU, limit)
    for box in boxes:
        assert (image.read(box, 0).wait().numpy() == volume.read(box)).all()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32", "float32", "float64"])
def test_voxels_keep_their_dtype(dtype):
    data = (noise(SHAPE) * 200).astype(dtype)
    found = DeviceImage(in_memory(data), CPU, LIMIT).read(Box((3, 4, 5), (30, 20, 29)), 0).wait().numpy()
    assert found.dtype == dtype
    assert (found == data[3:30, 4:20, 5:29]).all()


def test_a_coarse_level_has_bricks_of_its_own():
    fine, coarse = noise((32, 32, 32)), noise((16, 16, 16), 1)
    facts = {"voxel_size": None, "unit": None, "name": "n", "source": "n", "format": "n"}
    image = DeviceImage(Volume(arrays=[InMemory(fine), InMemory(coarse)], **facts), CPU, LIMIT)
    whole = Box.whole((16, 16, 16))
    assert (image.read(whole, 0).wait().numpy() == fine[:16, :16, :16]).all()
    assert (image.read(whole, 1).wait().numpy() == coarse).all()


def test_each_brick_is_uploaded_once_while_there_is_room(uploads):
    image = DeviceImage(in_memory(noise(SHAPE)), CPU, LIMIT)
    for start in np.ndindex(3, 3, 3):
        image.read(Box.at(tuple(8 * n for n in start), (20, 20, 12)), 0)
    assert len(uploads) == 3 * 3 * 2
    assert set(uploads.values()) == {1}


def test_without_room_a_brick_is_uploaded_again(uploads):
    image = DeviceImage(in_memory(noise(SHAPE)), CPU, 1)
    box = Box.whole((16, 16, 16))
    image.read(box, 0)
    image.read(box, 0)
    assert uploads == {box: 2}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused_where_it_lies_and_nowhere_else(bad):
    data = noise(SHAPE)
    data[20, 20, 20] = bad
    image = DeviceImage(in_memory(data), CPU, LIMIT)
    with pytest.raises(InputError, match="1 voxels that are NaN or infinite in the box 0:37,0:41,0:29"):
        image.read(Box.whole(SHAPE), 0)
    assert (image.read(Box.whole((16, 16, 16)), 0).wait().numpy() == data[:16, :16, :16]).all()
    beside = Box((18, 21, 0), SHAPE)
    assert (image.read(beside, 0).wait().numpy() == data[beside.slices]).all()


def test_what_cannot_be_decoded_is_named():
    class Damaged(InMemory):
        def __getitem__(self, index):
            raise OSError("checksum mismatch")

    volume = in_memory(noise(SHAPE))
    volume.arrays[0] = Damaged(volume.arrays[0].data)
    with pytest.raises(SourceError, match="checksum mismatch"):
        DeviceImage(volume, CPU, LIMIT).read(Box.whole(SHAPE), 0)


@pytest.mark.parametrize("error", NO_MEMORY.values(), ids=NO_MEMORY)
def test_where_the_device_has_no_memory_for_a_box_it_stays_on_the_host(monkeypatch, error):
    data, memory = noise(SHAPE), iter([False, True])
    image, upload = DeviceImage(in_memory(data), CPU, LIMIT), DeviceImage._upload

    def upload_if_there_is_room(image, at, level):
        if not next(memory, True):
            raise error
        return upload(image, at, level)

    monkeypatch.setattr(DeviceImage, "_upload", upload_if_there_is_room)
    box = Box((3, 4, 5), (30, 20, 29))
    on_host, on_device = image.read(box, 0), image.read(box, 0)
    assert isinstance(on_host, np.ndarray)
    assert isinstance(on_device, Uploaded)
    assert (on_host == data[box.slices]).all()
    assert (on_device.wait().numpy() == data[box.slices]).all()

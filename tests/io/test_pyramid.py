import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_memseg.errors import GeometryError, InputError, SourceError
from napari_memseg.geometry import Box, cell_box, cells
from napari_memseg.io import arrays
from napari_memseg.io.pyramid import (
    create_array,
    create_confidence,
    create_image,
    create_labels,
    open_pyramid,
    write_durable,
)

CHUNK = (4, 4, 4)
CLASSES = {
    "colors": {0: "#000000", 3: "#4477aa", 15: "#ee6677"},
    "names": {0: "background", 3: "bone", 15: "marrow"},
}


def labels(path, shape, chunk=CHUNK):
    return create_labels(path, shape=shape, dtype=np.uint8, chunk=chunk, fill_value=255, **CLASSES)


def fill(pyramid, data, order=None):
    """Write all chunks of level 0 in an order, propagating each; return the coarse chunks built."""
    whole = Box.whole(pyramid.shape)
    done, built = set(), []
    for index in order or list(cells(whole, pyramid.chunk)):
        box = cell_box(index, pyramid.chunk, pyramid.shape)
        pyramid.write(box, data[box.slices])
        done.add((0, index))
        for coarse in pyramid.propagate(box, lambda level, at: (level, at) in done):
            done.add(coarse)
            built.append(coarse)
    return built


def mean_of_those_that_exist(fine):
    """Average 2 x 2 x 2 voxels the slow way, integers rounded half up."""
    coarse = np.empty([-(-n // 2) for n in fine.shape], fine.dtype)
    for at in np.ndindex(coarse.shape):
        block = [v.item() for v in fine[tuple(slice(2 * i, 2 * i + 2) for i in at)].flat]
        exact = sum(block) / len(block)
        coarse[at] = exact if fine.dtype.kind == "f" else (2 * sum(block) + len(block)) // (2 * len(block))
    return coarse


def every_second(fine):
    return fine[::2, ::2, ::2]


def shapes(largest=23):
    return st.tuples(*[st.integers(1, largest)] * 3)


@given(shape=shapes(), data=st.data())
@settings(max_examples=15, deadline=None)
def test_blocks_in_any_order_make_the_pyramid_of_the_whole_array(shape, data):
    order = data.draw(st.permutations(list(cells(Box.whole(shape), CHUNK))))
    voxels = np.random.default_rng(0).integers(0, 65535, shape, np.uint16)
    with TemporaryDirectory() as folder:
        image = create_image(Path(folder) / "image", shape=shape, dtype=np.uint16, chunk=CHUNK)
        built = fill(image, voxels, order)
        for level in image.levels:
            assert np.array_equal(level[...], voxels)
            voxels = mean_of_those_that_exist(voxels)
    coarse = [
        (level, at)
        for level, array in enumerate(image.levels)
        if level
        for at in product(*map(range, array.cdata_shape))
    ]
    assert sorted(built) == coarse


@pytest.mark.slow
@given(shape=shapes(), data=st.data())
@settings(max_examples=10, deadline=None)
def test_labels_are_picked_and_their_files_do_not_depend_on_the_order(shape, data):
    order = data.draw(st.permutations(list(cells(Box.whole(shape), CHUNK))))
    voxels = np.random.default_rng(1).choice(np.array([0, 3, 15], np.uint8), shape)
    with TemporaryDirectory() as folder:
        one, two = (labels(Path(folder) / name, shape) for name in "ab")
        fill(one, voxels)
        fill(two, voxels, order)
        for level in one.levels:
            assert np.array_equal(level[...], voxels)
            voxels = every_second(voxels)
        assert files(one.path) == files(two.path)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint32", "int64", "uint64", ">u2"])
def test_means_are_exact_up_to_the_limits_of_every_dtype(tmp_path, dtype):
    kind = np.dtype(dtype)
    limits = np.iinfo(kind)
    rng = np.random.default_rng(2)
    voxels = rng.choice(np.array([limits.min, 0, 1, 2, limits.max - 1, limits.max], kind), (9, 5, 7))
    image = create_image(tmp_path / "image", shape=(9, 5, 7), dtype=kind, chunk=CHUNK)
    fill(image, voxels)
    native = voxels.astype(kind.newbyteorder("="))
    assert image.levels[1].dtype == native.dtype
    assert np.array_equal(image.levels[1][...], mean_of_those_that_exist(native))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_means_of_floats_are_as_exact_as_the_dtype(tmp_path, dtype):
    voxels = np.random.default_rng(2).normal(size=(9, 5, 7)).astype(dtype)
    image = create_image(tmp_path / "image", shape=voxels.shape, dtype=dtype, chunk=CHUNK)
    fill(image, voxels)
    expected = mean_of_those_that_exist(voxels.astype(np.float64))
    np.testing.assert_allclose(image.levels[1][...], expected, rtol=np.finfo(dtype).eps, atol=1e-15)


def test_opposite_infinities_average_to_nan_without_a_warning(tmp_path):
    voxels = np.zeros((9, 1, 1), np.float32)
    voxels[0], voxels[1], voxels[2] = np.inf, -np.inf, np.inf
    image = create_image(tmp_path / "image", shape=(9, 1, 1), dtype=np.float32, chunk=CHUNK)
    fill(image, voxels)
    np.testing.assert_array_equal(image.levels[1][:3, 0, 0], [np.nan, np.inf, 0])


def test_levels_are_halved_until_every_axis_is_two_chunks_long(tmp_path):
    image = create_image(tmp_path / "image", shape=(3, 17, 37), dtype=np.uint8, chunk=CHUNK)
    assert [level.shape for level in image.levels] == [(3, 17, 37), (2, 9, 19), (1, 5, 10), (1, 3, 5)]
    assert all(level.chunks == CHUNK for level in image.levels)


def test_a_mean_lies_between_its_voxels_and_a_label_where_it_was_picked(tmp_path):
    size = {"voxel_size": (2.0, 0.5, 0.25), "unit": "micrometer"}
    image = create_image(tmp_path / "image", shape=(20, 20, 20), dtype=np.uint8, chunk=CHUNK, **size)
    picked = create_confidence(tmp_path / "confidence", shape=(20, 20, 20), chunk=CHUNK, **size)
    rows = [dataset(image.path, level) for level in range(3)]
    assert [row["scale"] for row in rows] == [[2.0, 0.5, 0.25], [4.0, 1.0, 0.5], [8.0, 2.0, 1.0]]
    assert [row.get("translation") for row in rows] == [None, [1.0, 0.25, 0.125], [3.0, 0.75, 0.375]]
    assert [dataset(picked.path, level).get("translation") for level in range(3)] == [None] * 3


def dataset(path, level):
    steps = ome(path)["multiscales"][0]["datasets"][level]["coordinateTransformations"]
    return {step["type"]: step[step["type"]] for step in steps}


def ome(path):
    return json.loads((path / "zarr.json").read_text())["attributes"]["ome"]


def test_an_unknown_voxel_size_is_scale_one_without_a_unit(tmp_path):
    path = create_image(tmp_path / "image", shape=(9, 9, 9), dtype=np.uint8, chunk=CHUNK, unit="meter").path
    assert dataset(path, 0) == {"scale": [1.0, 1.0, 1.0]}
    assert all("unit" not in axis for axis in ome(path)["multiscales"][0]["axes"])
    yaozarrs.validate_zarr_store(str(path))


def test_everything_written_is_valid_ome_zarr(tmp_path):
    size = {"voxel_size": (2.0, 0.5, 0.25), "unit": "micrometer", "chunk": CHUNK}
    shape = (11, 13, 17)
    image = create_image(tmp_path / "i.ome.zarr", shape=shape, dtype=np.float32, name="bone", **size)
    run = create_labels(
        tmp_path / "l.ome.zarr", shape=shape, dtype=np.uint8, fill_value=255, **CLASSES, **size
    )
    confidence = create_confidence(run.path / "confidence", shape=shape, **size)
    for pyramid in (image, run, confidence):
        fill(pyramid, np.ones(shape, pyramid.dtype))
        yaozarrs.validate_zarr_store(str(pyramid.path))
    scales = ome(image.path)["multiscales"][0]
    assert scales["name"] == "bone"
    assert scales["axes"][2] == {
        "name": "x",
        "type": "space",
        "unit": "micrometer",
    }
    assert "image-label" not in ome(confidence.path)


def test_labels_say_what_they_are_called_and_look_like(tmp_path):
    run = labels(tmp_path / "run", (5, 5, 5))
    assert isinstance(yaozarrs.validate_ome_object(ome(run.path)), yaozarrs.v05.LabelImage)
    assert ome(run.path)["image-label"]["colors"] == [
        {"label-value": 0, "rgba": [0, 0, 0, 0]},
        {"label-value": 3, "rgba": [0x44, 0x77, 0xAA, 255]},
        {"label-value": 15, "rgba": [0xEE, 0x66, 0x77, 255]},
    ]
    assert ome(run.path)["image-label"]["properties"][1] == {"label-value": 3, "name": "bone"}


def test_arrays_carry_a_checksum_and_the_names_of_their_axes(tmp_path):
    run = labels(tmp_path / "run", (20, 20, 20))
    fill(run, np.full((20, 20, 20), 3, np.uint8))
    described = json.loads((run.path / "1" / "zarr.json").read_text())
    assert [codec["name"] for codec in described["codecs"]] == ["bytes", "zstd", "crc32c"]
    assert described["dimension_names"] == ["z", "y", "x"]
    assert described["fill_value"] == 255
    chunk = run.path / "0" / "c" / "0" / "0" / "0"
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    chunk.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"[Cc]hecksum"):
        run.levels[0][:4, :4, :4]


def test_what_nobody_wrote_reads_as_not_predicted_and_has_no_file(tmp_path):
    run = labels(tmp_path / "run", (9, 9, 9))
    run.write(Box((0, 0, 0), (4, 4, 4)), np.zeros((4, 4, 4), np.uint8))
    assert (run.levels[0][:4, :4, :4] == 0).all()
    assert (run.levels[0][4:] == run.fill_value).all()
    assert [name for name in files(run.path) if "c/" in name] == ["0/c/0/0/0"]


@pytest.mark.parametrize("reopened", [False, True])
def test_a_chunk_that_holds_nothing_but_fill_value_is_a_file_all_the_same(tmp_path, reopened):
    image = create_image(tmp_path / "image", shape=(9, 4, 4), dtype=np.uint8, chunk=CHUNK)
    image = open_pyramid(image.path) if reopened else image
    fill(image, np.zeros((9, 4, 4), np.uint8))
    chunks = sorted(name for name in files(image.path) if "c/" in name)
    assert chunks == ["0/c/0/0/0", "0/c/1/0/0", "0/c/2/0/0", "1/c/0/0/0", "1/c/1/0/0"]


def test_confidence_never_reads_as_not_predicted_where_it_was_written(tmp_path):
    confidence = create_confidence(tmp_path / "confidence", shape=(4, 4, 4), chunk=CHUNK)
    values = np.arange(192, 256, dtype=np.uint8).reshape(4, 4, 4)
    for pyramid in (confidence, open_pyramid(confidence.path)):
        pyramid.write(Box.whole((4, 4, 4)), values)
        assert np.array_equal(pyramid.levels[0][...], np.minimum(values, 254))


@given(start=st.tuples(*[st.integers(-1, 12)] * 3), stop=st.tuples(*[st.integers(-1, 12)] * 3))
@settings(max_examples=60, deadline=None)
def test_a_box_that_cuts_a_chunk_is_refused_and_any_other_is_written(start, stop, tmp_path_factory):
    shape = (7, 11, 8)
    image = create_image(tmp_path_factory.mktemp("p") / "i", shape=shape, dtype=np.uint8, chunk=CHUNK)
    box = Box(start, stop)
    on_chunks = all(
        0 <= a < b <= n and a % 4 == 0 and (b % 4 == 0 or b == n)
        for a, b, n in zip(start, stop, shape, strict=True)
    )
    data = np.ones(box.shape, np.uint8)
    if on_chunks:
        image.write(box, data)
        assert image.levels[0][...].sum() == box.size
    else:
        with pytest.raises(GeometryError, match="must begin and end at a chunk"):
            image.write(box, data)
        assert not image.levels[0][...].any()


def test_data_of_another_shape_or_a_wider_dtype_are_refused(tmp_path):
    image = create_image(tmp_path / "image", shape=(8, 8, 8), dtype=np.uint8, chunk=CHUNK)
    with pytest.raises(GeometryError, match=r"\(4, 4, 8\) cannot be written to 0:4,0:4,0:4"):
        image.write(Box.at((0, 0, 0), CHUNK), np.zeros((4, 4, 8), np.uint8))
    with pytest.raises(InputError, match="int64 values do not all fit an array of uint8"):
        image.write(Box.at((0, 0, 0), CHUNK), np.zeros(CHUNK, np.int64))


def test_a_finished_pyramid_is_never_overwritten(tmp_path):
    run = labels(tmp_path / "run", (5, 5, 5))
    before = files(run.path)
    for create in (lambda: labels(run.path, (5, 5, 5)), lambda: create_confidence(run.path, shape=(5, 5, 5))):
        with pytest.raises(InputError, match="exists already"):
            create()
    assert files(run.path) == before


def test_a_kill_while_a_pyramid_is_made_leaves_nothing_under_its_name(tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(zarr, "create_group", killed)
    with pytest.raises(KeyboardInterrupt):
        labels(tmp_path / "run", (5, 5, 5))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shape": (0, 4, 4)}, "three lengths"),
        ({"chunk": (0, 4, 4)}, "three lengths"),
        ({"dtype": bool}, "cannot be stored"),
        ({"dtype": np.complex64}, "cannot be stored"),
        ({"voxel_size": (1.0, 0.0, 1.0)}, "impossible"),
        ({"voxel_size": (1.0, float("nan"), 1.0)}, "impossible"),
        ({"unit": "um"}, "micrometer"),
    ],
)
def test_what_no_image_can_be_is_refused_before_anything_is_written(tmp_path, change, says):
    with pytest.raises(InputError, match=says):
        create_image(tmp_path / "image", **{"shape": (4, 4, 4), "dtype": np.uint8, **change})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fill_value", [15, 256, -1])
def test_not_predicted_must_be_a_value_of_its_own(tmp_path, fill_value):
    with pytest.raises(InputError, match="'not predicted' beside the classes"):
        create_labels(tmp_path / "run", shape=(4, 4, 4), dtype=np.uint8, fill_value=fill_value, **CLASSES)


def test_a_colour_is_written_in_hexadecimal(tmp_path):
    with pytest.raises(InputError, match=r"'red' is no colour for label 1.*#rrggbb"):
        create_labels(
            tmp_path / "run", shape=(4, 4, 4), dtype=np.uint8, fill_value=9, colors={1: "red"}, names={}
        )


def test_only_what_we_wrote_is_opened_for_writing(tmp_path):
    zarr.create_group(tmp_path / "group")
    for name in ("group", "nothing"):
        with pytest.raises(SourceError, match=f"{name} is no pyramid that napari-memseg wrote"):
            open_pyramid(tmp_path / name)


def test_an_opened_pyramid_is_the_one_that_was_made(tmp_path):
    run = labels(tmp_path / "run", (20, 13, 9))
    again = open_pyramid(str(run.path))
    assert (again.path, again.shape, again.chunk, again.method) == (run.path, (20, 13, 9), CHUNK, "nearest")
    assert (again.fill_value, again.dtype) == (255, np.uint8)


def test_propagating_again_builds_only_what_a_kill_left_undone(tmp_path):
    run = labels(tmp_path / "run", (17, 17, 17))
    whole = Box.whole(run.shape)
    done = {(0, index) for index in cells(whole, CHUNK)}
    run.write(whole, np.full(run.shape, 3, np.uint8))

    def is_done(level, index):
        return (level, index) in done

    first = run.propagate(whole, is_done)
    done |= {next(first) for _ in range(7)}
    first.close()
    rest = list(run.propagate(whole, is_done))
    assert done.isdisjoint(rest)
    assert len(done) + len(rest) == sum(level.nchunks for level in run.levels)
    done |= set(rest)
    assert list(run.propagate(whole, is_done)) == []
    assert (run.levels[-1][...] == 3).all()


def test_a_coarse_chunk_waits_for_all_of_its_children(tmp_path):
    run = labels(tmp_path / "run", (9, 4, 4))
    box = Box.at((0, 0, 0), CHUNK)
    run.write(box, np.zeros(CHUNK, np.uint8))
    assert run.children(1, (0, 0, 0)) == [(0, 0, 0), (1, 0, 0)]
    assert run.children(1, (1, 0, 0)) == [(2, 0, 0)]
    assert list(run.propagate(box, lambda level, index: (level, index) == (0, (0, 0, 0)))) == []
    assert (run.levels[1][...] == run.fill_value).all()


def test_threads_may_write_at_once(tmp_path):
    voxels = np.random.default_rng(3).integers(0, 255, (24, 24, 24), np.uint8)
    image = create_image(tmp_path / "image", shape=voxels.shape, dtype=np.uint8, chunk=CHUNK)
    boxes = [cell_box(index, CHUNK, image.shape) for index in cells(Box.whole(image.shape), CHUNK)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda box: image.write(box, voxels[box.slices]), boxes))
    assert np.array_equal(image.levels[0][...], voxels)


WRITER = """
import sys, numpy as np
from napari_memseg.geometry import Box, cell_box, cells
from napari_memseg.io.pyramid import open_pyramid
image = open_pyramid(sys.argv[1])
for n, index in enumerate(cells(Box.whole(image.shape), image.chunk)):
    if n % 2 == int(sys.argv[2]):
        box = cell_box(index, image.chunk, image.shape)
        image.write(box, np.full(box.shape, n + 1, image.dtype))
"""


@pytest.mark.slow
def test_processes_may_write_at_once(tmp_path):
    image = create_image(tmp_path / "image", shape=(16, 16, 16), dtype=np.uint8, chunk=CHUNK)
    call = [sys.executable, "-c", WRITER, str(image.path)]
    writers = [subprocess.Popen([*call, str(part)]) for part in (0, 1)]
    assert [writer.wait() for writer in writers] == [0, 0]
    boxes = [cell_box(index, CHUNK, image.shape) for index in cells(Box.whole(image.shape), CHUNK)]
    values = [image.levels[0][box.slices] for box in boxes]
    assert [np.unique(v).tolist() for v in values] == [[n + 1] for n in range(64)]


def test_a_durable_write_flushes_each_chunk_and_then_every_folder_above_it(tmp_path, monkeypatch):
    array = create_array(tmp_path / "array", shape=(2, 8, 4, 4), dtype=np.float16, chunks=(2, 4, 4, 4))
    flushed = []
    monkeypatch.setattr(arrays, "fsync_path", lambda path: flushed.append(str(path.relative_to(tmp_path))))
    spans = (slice(0, 2), slice(0, 8), slice(0, 4), slice(0, 4))
    write_durable(array, spans, np.ones((2, 8, 4, 4), np.float16))
    assert flushed[:2] == ["array/c/0/0/0/0", "array/c/0/1/0/0"]
    assert sorted(flushed[2:4]) == ["array/c/0/0/0", "array/c/0/1/0"]
    assert sorted(flushed[4:6]) == ["array/c/0/0", "array/c/0/1"]
    assert flushed[6:] == ["array/c/0", "array/c", "array"]
    flushed.clear()
    write_durable(array, spans, np.ones((2, 8, 4, 4), np.float16), durable=False)
    assert flushed == []


def test_a_plain_array_of_any_dimensions_is_written_by_whole_chunks(tmp_path):
    vector = create_array(tmp_path / "latent", shape=(5,), dtype=np.float32, chunks=(64,), fill_value=np.nan)
    assert vector.chunks == (5,)
    assert np.isnan(vector[...]).all()
    write_durable(vector, (slice(0, 5),), np.arange(5, dtype=np.float32))
    assert vector[...].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="exists already"):
        create_array(tmp_path / "latent", shape=(5,), dtype=np.float32, chunks=(5,))

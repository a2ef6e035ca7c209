"""OME-Zarr and plain Zarr: levels, scales, labels, and descriptions that cannot be believed."""

from __future__ import annotations

import bz2
import gzip
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.io.pyramid import create_image, create_labels
from napari_memseg.io.volume import Volume
from volumes import SIZE, UNIT, edit_json, noise, write_ome_zarr, write_zarr

VOXELS = noise((9, 20, 24), "uint8")
LEVELS = [VOXELS, VOXELS[::2, ::2, ::2], VOXELS[::4, ::4, ::4]]


def voxels_of(volume: Volume, level: int = 0) -> np.ndarray:
    return volume.read(Box.whole(volume.arrays[level].shape), level)


@pytest.fixture(params=["0.4", "0.5"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def attributes_of(path: Path) -> tuple[Path, Any]:
    """Return the file with a group's attributes, and how to find the image in them."""
    if (path / "zarr.json").exists():
        return path / "zarr.json", lambda said: said["attributes"]["ome"]["multiscales"][0]
    return path / ".zattrs", lambda said: said["multiscales"][0]


def change_image(path: Path, **changes: Any) -> Path:
    file, image_of = attributes_of(path)
    edit_json(file, lambda said: image_of(said).update(changes))
    return path


def test_every_level_is_read_with_its_factor(version: str, tmp_path: Path) -> None:
    volume = open_volume(write_ome_zarr(tmp_path / "a.zarr", LEVELS, version))
    assert [volume.scale(level) for level in range(3)] == [(1, 1, 1), (2, 2, 2), (4, 4, 4)]
    for level, voxels in enumerate(LEVELS):
        np.testing.assert_array_equal(voxels_of(volume, level), voxels, strict=True)
    assert volume.format == f"ome-zarr {version}"


def test_factors_that_contradict_the_shapes_are_not_believed(tmp_path: Path) -> None:
    ones = [[1.0, 1.0, 1.0]] * 3
    volume = open_volume(write_ome_zarr(tmp_path / "a.zarr", LEVELS, scales=ones))
    assert volume.scale(1) == (2, 2, 2)


def test_an_axis_that_is_not_halved_keeps_its_factor(tmp_path: Path) -> None:
    levels = [VOXELS, VOXELS[:, ::2, ::2]]
    scales = [list(SIZE), [SIZE[0], 2 * SIZE[1], 2 * SIZE[2]]]
    assert open_volume(write_ome_zarr(tmp_path / "a.zarr", levels, scales=scales)).scale(1) == (1, 2, 2)


def test_the_scale_of_the_image_multiplies_that_of_the_levels(version: str, tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", LEVELS, version)
    change_image(path, coordinateTransformations=[{"type": "scale", "scale": [2, 2, 4]}])
    assert open_volume(path).voxel_size == pytest.approx((5.0, 1.0, 1.0))


def test_units_that_differ_become_the_one_of_x(tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", LEVELS)
    axes = zip("zyx", ("millimeter", "nanometer", "micrometer"), strict=True)
    change_image(path, axes=[{"name": name, "type": "space", "unit": unit} for name, unit in axes])
    volume = open_volume(path)
    assert volume.voxel_size == pytest.approx((2500.0, 0.0005, 0.25))
    assert volume.unit == "micrometer"


@pytest.mark.parametrize("scale", [[0, 1, 1], [-1.0, 1, 1], [float("nan"), 1, 1]])
def test_a_scale_that_is_no_length_is_an_unknown_voxel_size(scale: list[float], tmp_path: Path) -> None:
    volume = open_volume(write_ome_zarr(tmp_path / "a.zarr", LEVELS[:1], scales=[scale]))
    assert (volume.voxel_size, volume.unit) == (None, None)


def test_ones_without_a_unit_are_unknown_and_other_lengths_have_none(tmp_path: Path) -> None:
    unknown = open_volume(
        write_ome_zarr(tmp_path / "a.zarr", LEVELS[:1], unit=None, scales=[[1.0, 1.0, 1.0]])
    )
    unitless = open_volume(write_ome_zarr(tmp_path / "b.zarr", LEVELS[:1], unit=None))
    assert (unknown.voxel_size, unknown.unit) == (None, None)
    assert (unitless.voxel_size, unitless.unit) == (pytest.approx(SIZE), None)


@pytest.mark.parametrize("text", ["{}.zarr::labels/bone", "{}.zarr/labels/bone"])
def test_labels_open_by_their_name_and_by_their_path(text: str, version: str, tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", LEVELS, version)
    write_ome_zarr(path / "labels" / "bone", [level % 2 for level in LEVELS], version)
    volume = open_volume(text.format(tmp_path / "a"))
    np.testing.assert_array_equal(voxels_of(volume), VOXELS % 2)
    assert volume.voxel_size == pytest.approx(SIZE)
    assert open_volume(volume.source).fingerprint == volume.fingerprint


def test_a_label_image_says_that_it_is_one(version: str, tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", LEVELS, version)
    assert not open_volume(path).is_labels
    name = "zarr.json" if version == "0.5" else ".zattrs"
    edit_json(
        path / name,
        lambda said: (said["attributes"]["ome"] if version == "0.5" else said).update({"image-label": {}}),
    )
    assert open_volume(path).is_labels


def test_what_is_not_inside_is_refused_with_what_is(version: str, tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", LEVELS, version)
    write_ome_zarr(path / "labels" / "bone", LEVELS, version)
    with pytest.raises(SourceError, match=r"no array or group 'labels/skin'.*0, 1, 2"):
        open_volume(f"{path}::labels/skin")


def test_a_group_without_an_image_says_what_it_holds(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "a.zarr")
    write_ome_zarr(tmp_path / "a.zarr" / "series0", LEVELS)
    with pytest.raises(SourceError, match=r"no image of its own.*series0"):
        open_volume(tmp_path / "a.zarr")


def test_a_level_can_be_opened_by_itself(tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", LEVELS)
    volume = open_volume(f"{path}::1")
    np.testing.assert_array_equal(voxels_of(volume), LEVELS[1])
    assert volume.voxel_size is None


@pytest.mark.parametrize("inner", ["../b.zarr", "0/../../b.zarr", "labels\\bone", "C:x"])
def test_nothing_outside_is_reached(inner: str, tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", LEVELS)
    write_ome_zarr(tmp_path / "b.zarr", LEVELS)
    with pytest.raises(SourceError, match="leads out of"):
        open_volume(f"{path}::{inner}")


def test_a_level_outside_the_group_is_not_reached(version: str, tmp_path: Path) -> None:
    write_zarr(tmp_path / "secret", VOXELS, 2 if version == "0.4" else 3)
    path = write_ome_zarr(tmp_path / "a.zarr", LEVELS, version)
    row = {"path": "../secret", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}
    with pytest.raises(SourceError, match="leads out of"):
        open_volume(change_image(path, datasets=[row]))


@pytest.mark.parametrize("said", ["0.1", "0.3", "0.6", "0.6.dev1", "latest"])
def test_other_versions_are_refused(said: str, tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", LEVELS)
    edit_json(path / "zarr.json", lambda content: content["attributes"]["ome"].update(version=said))
    with pytest.raises(SourceError, match=rf"OME-Zarr {said}, but only 0\.4 and 0\.5"):
        open_volume(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"datasets": []},
        {"datasets": [{"path": "0"}] * 65},
        {"datasets": "0"},
        {"datasets": [{}]},
        {"datasets": [{"path": "9", "coordinateTransformations": []}]},
        {"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}]},
        {"datasets": [{"path": "0", "coordinateTransformations": [{"type": "rotation", "rotation": []}]}]},
        {"axes": None},
        {"axes": [{"name": "z"}, {"name": "y"}]},
        {"axes": [{"name": "x"}, {"name": "x"}, {"name": "y"}]},
        {"axes": ["z", "y", "x"]},
    ],
)
def test_a_description_that_contradicts_itself_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    path = change_image(write_ome_zarr(tmp_path / "a.zarr", LEVELS), **changes)
    with pytest.raises(SourceError, match=r"a\.zarr"):
        open_volume(path)


def test_levels_of_different_dtypes_are_refused(tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", [VOXELS, LEVELS[1].astype(np.uint16)])
    with pytest.raises(SourceError, match="differ in dtype"):
        open_volume(path)


def test_a_single_plane_is_one_slice(version: str, tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", [VOXELS[0]], version, axes="yx")
    np.testing.assert_array_equal(voxels_of(open_volume(path)), VOXELS[:1])


def test_chunks_that_were_never_written_are_fill_value(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(8, 8, 8), chunks=(4, 4, 4), dtype="uint8", fill_value=7)
    assert (voxels_of(open_volume(tmp_path / "a.zarr")) == 7).all()


def test_what_this_package_writes_is_read_again(tmp_path: Path) -> None:
    about: dict[str, Any] = {"shape": (70, 33, 40), "chunk": (16, 16, 16), "voxel_size": SIZE, "unit": UNIT}
    create_image(tmp_path / "image.ome.zarr", dtype="uint16", name="bone", **about)
    create_labels(
        tmp_path / "run.ome.zarr",
        dtype="uint8",
        name="labels",
        colors={1: "#ff0000"},
        names={1: "bone"},
        fill_value=255,
        **about,
    )
    for name in ("image.ome.zarr", "run.ome.zarr"):
        volume = open_volume(tmp_path / name)
        assert (volume.shape, volume.voxel_size, volume.unit) == ((70, 33, 40), SIZE, UNIT)
        assert [volume.scale(level) for level in range(3)] == [(1, 1, 1), (2, 2, 2), (4, 4, 4)]
        assert volume.is_labels == (name == "run.ome.zarr")
    assert (voxels_of(volume) == 255).all()


def test_axes_that_an_array_names_are_followed(tmp_path: Path) -> None:
    four = noise((3, 4, 5, 2))
    path = write_zarr(tmp_path / "a.zarr", four, 3, dimension_names=("z", "y", "x", "c"))
    np.testing.assert_array_equal(voxels_of(open_volume(f"{path}@c=1")), four[..., 1])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["complex64", "S3", "datetime64[s]"])
def test_values_that_are_no_grey_are_refused(zarr_format: Any, dtype: str, tmp_path: Path) -> None:
    if zarr_format == 2:
        zarr.create_array(tmp_path / "a.zarr", shape=(4, 4, 4), dtype=dtype, zarr_format=2)
    else:
        write_zarr(tmp_path / "a.zarr", VOXELS, 3)
        edit_json(tmp_path / "a.zarr" / "zarr.json", lambda said: said.update(data_type=dtype))
    with pytest.raises(SourceError, match="a voxel is one integer or float"):
        open_volume(tmp_path / "a.zarr")


class Explosive:
    """What a chunk could hold: unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("where", ["object", "compressor", "filters"])
def test_no_chunk_is_ever_unpickled(where: str, tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", VOXELS, 2)
    codec = {"id": "pickle", "protocol": 5}
    changes: dict[str, Any] = {"compressor": codec} if where == "compressor" else {"filters": [codec]}
    edit_json(
        path / ".zarray", lambda said: said.update(changes | ({"dtype": "|O"} if where == "object" else {}))
    )
    for chunk in path.rglob("0*"):
        if chunk.is_file():
            chunk.write_bytes(pickle.dumps(Explosive(tmp_path / "exploded")))
    with pytest.raises(SourceError, match=r"a voxel is one integer|not known to be safe"):
        open_volume(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("place", ["codecs", "shard"])
def test_an_unknown_codec_is_refused_by_name(place: str, tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", np.zeros((8, 8, 8), np.uint8), 3, shards=(8, 8, 8))
    codec = {"name": "numcodecs.pickle", "configuration": {}}

    def change(said: dict[str, Any]) -> None:
        inside = said["codecs"][0]["configuration"]["codecs"]
        (said["codecs"] if place == "codecs" else inside).append(codec)

    edit_json(path / "zarr.json", change)
    with pytest.raises(SourceError, match=r"'numcodecs\.pickle', which is not known to be safe"):
        open_volume(path)


@pytest.mark.parametrize(
    "shape", [[0, 4, 4], [-1, 4, 4], [2.5, 4, 4], [], [4], ["4", 4, 4], None, [10**9, 10**9, 10**9]]
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_impossible_lengths_are_refused(shape: Any, zarr_format: int, tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", VOXELS, zarr_format)
    edit_json(path / ("zarr.json" if zarr_format == 3 else ".zarray"), lambda said: said.update(shape=shape))
    with pytest.raises(SourceError, match=r"a\.zarr"):
        open_volume(path)


def test_a_chunk_too_large_to_decode_is_refused_before_it_is(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(4096,) * 3, chunks=(4096,) * 3, dtype="uint8")
    with pytest.raises(SourceError, match=r"64 GiB each"):
        open_volume(tmp_path / "a.zarr")


def zstd_without_size(data: bytes) -> bytes:
    """Compress zeros as a stream does that does not know how long it becomes."""
    blocks = [(2**17 << 3 | 2 | (end >= len(data))) for end in range(2**17, len(data) + 1, 2**17)]
    return b"\x28\xb5\x2f\xfd\x00\x58" + b"".join(block.to_bytes(3, "little") + b"\0" for block in blocks)


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "blosc": numcodecs.Blosc().encode,
    "bz2": bz2.compress,
    "gzip": gzip.compress,
    "lz4": numcodecs.LZ4().encode,
    "zlib": zlib.compress,
    "zstd": numcodecs.Zstd().encode,
}
BOMBS = [
    *PACKED.items(),
    ("gzip", lambda data: gzip.compress(b"small") + bytes(9) + gzip.compress(data)),
    ("bz2", lambda data: bz2.compress(b"small") + bz2.compress(data)),
    ("zstd", zstd_without_size),
    ("zstd", lambda data: b"\x50\x2a\x4d\x18\x02\0\0\0ab" + numcodecs.Zstd().encode(data)),
    ("zstd", lambda data: numcodecs.Zstd().encode(b"small") + zstd_without_size(data)),
    ("zstd", lambda data: b"\x28\xb5\x2f\xfd\xe0" + (2**40).to_bytes(8, "little") + b"\1\0\0"),
]
ZEROS = bytes(2**25)


@pytest.mark.parametrize(("codec", "pack"), BOMBS)
def test_a_chunk_that_would_inflate_is_not_decoded(
    codec: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    zarr.create_array(
        tmp_path / "a.zarr",
        data=np.ones((8, 8, 8), np.uint8),
        chunks=(8, 8, 8),
        compressors=[numcodecs.get_codec({"id": codec})],
        zarr_format=2,
    )
    assert (voxels_of(open_volume(tmp_path / "a.zarr")) == 1).all()
    (tmp_path / "a.zarr/0.0.0").write_bytes(pack(ZEROS))
    with pytest.raises(SourceError, match="claims to hold"):
        voxels_of(open_volume(tmp_path / "a.zarr"))


@pytest.mark.parametrize("codec", PACKED)
@pytest.mark.parametrize("shape", [(8, 8, 8), (96, 96, 96)])
@pytest.mark.parametrize("flat", [False, True])
def test_what_is_packed_as_usual_is_read(codec: str, shape: Any, flat: bool, tmp_path: Path) -> None:
    voxels = np.zeros(shape, np.uint16) if flat else noise(shape)
    compressors = [numcodecs.get_codec({"id": codec})]
    zarr.create_array(
        tmp_path / "a.zarr", data=voxels, chunks=shape, compressors=compressors, zarr_format=2, fill_value=7
    )
    np.testing.assert_array_equal(voxels_of(open_volume(tmp_path / "a.zarr")), voxels)


def write_shards(path: Path, voxels: np.ndarray, **options: Any) -> Path:
    zarr.create_array(path, data=voxels, chunks=(4, 4, 4), shards=(8, 8, 16), **options)
    return path


@pytest.mark.parametrize("location", ["start", "end"])
def test_only_the_chunk_of_a_shard_that_would_inflate_is_not_decoded(location: str, tmp_path: Path) -> None:
    voxels = noise((16, 16, 16), "uint8")
    path = write_shards(tmp_path / "a.zarr", voxels, compressors=zarr.codecs.GzipCodec())
    if location == "start":
        codec = zarr.codecs.ShardingCodec(
            chunk_shape=(4, 4, 4), codecs=[BytesCodec(), zarr.codecs.GzipCodec()], index_location="start"
        )
        path = tmp_path / "b.zarr"
        made = zarr.create_array(
            path, shape=voxels.shape, dtype="u1", chunks=(8, 8, 16), serializer=codec, compressors=None
        )
        made[...] = voxels
    np.testing.assert_array_equal(voxels_of(open_volume(path)), voxels)
    shard, bomb = path / "c/1/0/0", gzip.compress(ZEROS)
    content = bytearray(shard.read_bytes())
    index = 0 if location == "start" else len(content) - 4 - 16 * 16
    end = index + 16 * 16
    entry = index + 16 * 5  # the chunk at 0, 1, 1 of 2 x 2 x 4
    if location == "start":
        struct.pack_into("<QQ", content, entry, len(content), len(bomb))
        content[end : end + 4] = google_crc32c.value(bytes(content[index:end])).to_bytes(4, "little")
        content += bomb
    else:
        struct.pack_into("<QQ", content, entry, index, len(bomb))
        content[end:] = google_crc32c.value(bytes(content[index:end])).to_bytes(4, "little")
        content[index:index] = bomb
    shard.write_bytes(content)
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(Box((8, 0, 0), (16, 4, 16))), voxels[8:, :4])
    with pytest.raises(SourceError, match="claims to hold"):
        volume.read(Box((8, 4, 4), (9, 5, 5)))


def test_shards_that_were_never_written_are_fill_value(tmp_path: Path) -> None:
    about: dict[str, Any] = {"dtype": "uint8", "chunks": (4, 4, 4), "shards": (8, 8, 8), "fill_value": 7}
    array = zarr.create_array(tmp_path / "a.zarr", shape=(16, 16, 16), **about)
    array[:4, :4, :4] = 1
    expected = np.full((16, 16, 16), 7)
    expected[:4, :4, :4] = 1
    np.testing.assert_array_equal(voxels_of(open_volume(tmp_path / "a.zarr")), expected)


def test_a_shard_whose_index_is_cut_off_is_named(tmp_path: Path) -> None:
    path = write_shards(tmp_path / "a.zarr", noise((16, 16, 16)))
    (path / "c/0/0/0").write_bytes(b"cut off")
    with pytest.raises(SourceError, match="cannot be decoded"):
        voxels_of(open_volume(path))


def test_shards_of_too_many_chunks_are_refused(tmp_path: Path) -> None:
    about: dict[str, Any] = {"shape": (1024,) * 3, "chunks": (2,) * 3, "shards": (1024,) * 3}
    zarr.create_array(tmp_path / "a.zarr", dtype="uint8", **about)
    with pytest.raises(SourceError, match="chunks at most"):
        open_volume(tmp_path / "a.zarr")


@pytest.mark.parametrize("codec", ["lzma", "zfpy", "pcodec"])
def test_codecs_that_take_any_memory_are_refused_by_name(codec: str, tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", VOXELS, 2)
    edit_json(path / ".zarray", lambda said: said.update(compressor={"id": codec}))
    with pytest.raises(SourceError, match=rf"'{codec}', which is not known to be safe.*zstd"):
        open_volume(path)


@pytest.mark.parametrize(
    ("filters", "compressor"),
    [([{"id": "gzip"}], {"id": "zstd"}), ([{"id": "zlib"}], {"id": "shuffle"}), ([{"id": "bz2"}] * 2, None)],
)
def test_what_is_packed_twice_or_hidden_is_refused(filters: Any, compressor: Any, tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", VOXELS, 2)
    edit_json(path / ".zarray", lambda said: said.update(filters=filters, compressor=compressor))
    with pytest.raises(SourceError, match="one compressor, the last codec"):
        open_volume(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda codecs: codecs.append({"name": "gzip", "configuration": {"level": 1}}),
        lambda codecs: codecs[0]["configuration"]["codecs"].insert(0, {"name": "sharding_indexed"}),
        lambda codecs: codecs[0]["configuration"]["index_codecs"].append({"name": "gzip"}),
        lambda codecs: codecs[0]["configuration"].pop("index_codecs"),
    ],
)
def test_shards_that_hide_their_chunks_are_refused(change: Any, tmp_path: Path) -> None:
    path = write_shards(tmp_path / "a.zarr", noise((16, 16, 16)))
    edit_json(path / "zarr.json", lambda said: change(said["codecs"]))
    with pytest.raises(SourceError, match="shards that are packed once more"):
        open_volume(path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"zarr_format": 3}']
)
@pytest.mark.parametrize("name", ["zarr.json", ".zarray", ".zgroup"])
def test_a_damaged_description_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / name).write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.zarr"):
        open_volume(tmp_path / "a.zarr")


def test_a_description_that_is_too_long_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_memseg.io.zarr_nodes.MAX_TEXT_BYTES", 100)
    with pytest.raises(SourceError, match="more than 100 is not believed"):
        open_volume(write_zarr(tmp_path / "a.zarr", VOXELS, 3))


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", VOXELS, 3)
    (path / "c/1/0/0").write_bytes(b"damaged")
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), (8, 20, 24))), VOXELS[:8])
    with pytest.raises(SourceError, match=r"a\.zarr cannot be decoded at 8:9,0:8,0:8"):
        voxels_of(volume)

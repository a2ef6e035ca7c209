"""Phantoms on disk: every format gives back what was rendered, and a kill costs nothing but time."""

import json
from itertools import islice

import numpy as np
import pytest
from xxhash import xxh3_128

from napari_memseg.errors import Cancelled, InputError, RunMismatchError
from napari_memseg.geometry import Box
from napari_memseg.inference.control import Control
from napari_memseg.io.files import remove
from napari_memseg.io.formats import open_volume
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.parameters import PhantomParameters
from napari_memseg.workflows.phantom import PhantomConfig, phantom

SHAPE = (40, 37, 33)
PARAMETERS = PhantomParameters.named(SHAPE, "easy", seed=5)
SMALL = {"chunk": 16, "workers": 2}


def written(path, parameters=PARAMETERS, **how):
    *_, last = phantom(path, parameters, PhantomConfig(**SMALL | how))
    return last.result


@pytest.fixture(scope="module")
def rendered():
    return Phantom(PARAMETERS).render(Box.whole(SHAPE))


def whole(source):
    volume = open_volume(source)
    return volume.read(Box.whole(volume.shape))


def test_an_ome_zarr_holds_image_truth_and_instances(tmp_path, rendered):
    written(tmp_path / "fly", instances=True)
    for name, source in (("image", ""), ("truth", "::labels/truth"), ("instances", "::labels/instances")):
        assert np.array_equal(whole(f"{tmp_path / 'fly'}{source}"), getattr(rendered, name)), name
    volume = open_volume(tmp_path / "fly")
    assert volume.unit == "micrometer"
    assert volume.voxel_size == (pytest.approx(Phantom(PARAMETERS).voxel_um),) * 3


@pytest.mark.parametrize(("kind", "ending"), [("bigtiff", ".tif"), ("slices", "")])
def test_stacks_hold_image_and_truth_and_say_that_they_are_synthetic(tmp_path, rendered, kind, ending):
    written(tmp_path / "fly", format=kind)
    assert np.array_equal(whole(tmp_path / "fly" / f"synthetic_fly_5{ending}"), rendered.image)
    assert np.array_equal(whole(tmp_path / "fly" / f"synthetic_fly_5_truth{ending}"), rendered.truth)


def test_raw_voxels_lie_beside_their_header(tmp_path, rendered):
    written(tmp_path / "fly", format="raw")
    voxels = np.fromfile(tmp_path / "fly" / "synthetic_fly_5.raw", "<u2").reshape(SHAPE)
    assert np.array_equal(voxels, rendered.image)
    assert "DimSize = 33 37 40" in (tmp_path / "fly" / "synthetic_fly_5.mhd").read_text()


def test_the_manifest_makes_the_same_phantom_again(tmp_path, rendered):
    result = written(tmp_path / "fly")
    manifest = json.loads((tmp_path / "fly" / "phantom.json").read_bytes())
    assert PhantomParameters.from_json(manifest["parameters"]) == PARAMETERS
    assert manifest["synthetic"] is True
    counts = np.bincount(rendered.truth.ravel(), minlength=13)
    assert [row["voxels"] for row in manifest["classes"].values()] == counts.tolist()
    assert result["classes"] == {str(i): int(n) for i, n in enumerate(counts)}


def test_checksums_are_those_of_the_chunks(tmp_path, rendered):
    written(tmp_path / "fly", instances=True)
    sums = json.loads((tmp_path / "fly" / "phantom.json").read_bytes())["checksums"]
    chunk = Box((16, 0, 16), (32, 16, 32)).slices
    for name, voxels in rendered._asdict().items():
        assert sums[name]["1/0/1"] == xxh3_128(voxels[chunk].tobytes()).hexdigest()
    assert len(sums["image"]) == 3 * 3 * 3


def test_a_phantom_that_was_interrupted_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_memseg.workflows.phantom.BLOCK", 16)
    written(tmp_path / "at once")
    steps = phantom(tmp_path / "fly", PARAMETERS, PhantomConfig(**SMALL))
    before = len(list(islice(steps, 7)))
    steps.close()
    assert not (tmp_path / "fly").exists()
    after = list(phantom(tmp_path / "fly", PARAMETERS, PhantomConfig(**SMALL)))
    assert len(after) == 27 - before + 1
    for file in (tmp_path / "at once").rglob("*"):
        if file.is_file():
            assert (
                file.read_bytes() == (tmp_path / "fly" / file.relative_to(tmp_path / "at once")).read_bytes()
            )
    assert not list(tmp_path.glob("*.part"))


def test_another_phantom_does_not_go_on_where_one_stopped(tmp_path):
    next(steps := phantom(tmp_path / "fly", PARAMETERS, PhantomConfig(**SMALL)))
    steps.close()
    with pytest.raises(RunMismatchError, match="seed is 6 here and 5 there"):
        written(tmp_path / "fly", PhantomParameters.named(SHAPE, "easy", seed=6))


def test_cancelling_ends_it_after_a_block(tmp_path):
    control = Control()
    steps = phantom(tmp_path / "fly", PARAMETERS, PhantomConfig(**SMALL), control=control)
    next(steps)
    control.cancel()
    with pytest.raises(Cancelled):
        list(steps)
    assert not (tmp_path / "fly").exists()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "fly").mkdir()
    (tmp_path / "fly" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        written(tmp_path / "fly")
    assert [path.name for path in tmp_path.iterdir()] == ["fly"]


@pytest.mark.parametrize("lost", ["image", "image/labels", "blocks.jsonl"])
def test_what_a_kill_left_half_made_is_made_anew(tmp_path, rendered, monkeypatch, lost):
    monkeypatch.setattr("napari_memseg.workflows.phantom.BLOCK", 16)
    next(steps := phantom(tmp_path / "fly", PARAMETERS, PhantomConfig(**SMALL)))
    steps.close()
    remove(tmp_path / "fly.part" / lost)
    if lost == "image/labels":  # before the first block was done
        remove(tmp_path / "fly.part" / "blocks.jsonl")
    written(tmp_path / "fly")
    assert np.array_equal(whole(tmp_path / "fly"), rendered.image)
    assert np.array_equal(whole(f"{tmp_path / 'fly'}::labels/truth"), rendered.truth)


def test_files_that_a_kill_cut_off_do_not_stay(tmp_path, rendered):
    next(steps := phantom(tmp_path / "fly", PARAMETERS, PhantomConfig(**SMALL, format="raw")))
    steps.close()
    image = tmp_path / "fly.part" / "image"
    for name in ("synthetic_fly_5.raw", "synthetic_fly_5.mhd.0a0a0a0a.part"):
        (image / name).write_bytes(b"half")
    written(tmp_path / "fly", format="raw")
    voxels = np.fromfile(tmp_path / "fly" / "synthetic_fly_5.raw", "<u2").reshape(SHAPE)
    assert np.array_equal(voxels, rendered.image)
    assert not list((tmp_path / "fly").glob("*.part"))


@pytest.mark.parametrize(
    "how",
    [
        {"format": "jpeg"},
        {"format": "bigtiff", "tile": 100},
        {"format": "slices", "tile": 64},
        {"chunk": 8},
        {"chunk": 512},
        {"workers": 0},
        {"format": "slices", "compression": "lzma"},
        {"format": "raw", "compression": "zlib"},
    ],
    ids=str,
)
def test_an_impossible_storage_is_refused(tmp_path, how):
    with pytest.raises(InputError):
        written(tmp_path / "fly", **how)
    assert not (tmp_path / "fly").exists()


def test_planes_that_are_projected_are_written_whole(tmp_path):
    parameters = PhantomParameters.named((18, 24, 24), "easy", mode="projection")
    written(tmp_path / "fly", parameters)
    image = Phantom(parameters).render(Box.whole(parameters.shape)).image
    assert np.array_equal(whole(tmp_path / "fly"), image)

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
from filelock import FileLock

from napari_memseg.errors import InputError, RunMismatchError
from napari_memseg.io.pyramid import open_pyramid
from napari_memseg.workflows import convert as module
from napari_memseg.workflows.convert import ConvertConfig, convert

SMALL = ConvertConfig(chunk=16)


class Source:
    """A volume in memory that counts what is read of it."""

    def __init__(self, shape=(50, 37, 33), dtype=np.uint16, chunks=(16, 16, 16), seed=0):
        voxels = np.random.default_rng(seed).integers(0, 100, shape)
        self.voxels = voxels.astype(dtype)
        self.shape, self.dtype, self.chunks, self.seed = shape, self.voxels.dtype, chunks, seed
        self.arrays = [self]
        self.voxel_size, self.unit, self.name = (2.0, 0.5, 0.5), "micrometer", "bone"
        self.read_voxels = self.largest = 0

    def check(self):
        pass

    @property
    def fingerprint(self):
        return f"{self.shape} {self.dtype} {self.voxel_size} {self.seed}"

    def read(self, box, level=0):
        self.read_voxels += box.size
        self.largest = max(self.largest, box.size)
        return self.voxels[box.slices]


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


@pytest.fixture
def small_rows(monkeypatch):
    """Cut volumes that are small enough for a test into many rows."""
    plan = module.plan_rows
    monkeypatch.setattr(module, "plan_rows", lambda *args, **kw: plan(*args, **kw, limit=16 * 16 * 48))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">u2", np.uint32, np.float32])
def test_the_copy_is_the_original_with_a_valid_pyramid(tmp_path, dtype):
    source, copy = Source(dtype=dtype), tmp_path / "copy.ome.zarr"
    list(convert(source, copy, SMALL))
    image = open_pyramid(copy)
    assert image.dtype == source.dtype.newbyteorder("=")
    assert np.array_equal(image.levels[0][...], source.voxels)
    assert [level.shape for level in image.levels] == [(50, 37, 33), (25, 19, 17)]
    assert all(level.nchunks_initialized == level.nchunks for level in image.levels)
    yaozarrs.validate_zarr_store(str(copy))
    assert os.listdir(tmp_path) == ["copy.ome.zarr"]
    assert source.read_voxels == source.voxels.size


def test_the_steps_tell_what_was_done_and_the_last_what_came_of_it(tmp_path, small_rows):
    steps = list(convert(Source(), tmp_path / "copy.ome.zarr", SMALL))
    rows, last = steps[:-1], steps[-1]
    assert len(rows) == 12
    assert [step.done for step in rows] == list(range(1, 13))
    assert sum(step.box.size for step in rows) == 50 * 37 * 33
    assert {(step.stage, step.total) for step in steps} == {("convert", 12)}
    assert rows[-1].seconds_left == 0
    assert all(step.result is None for step in rows)
    result = dict(last.result)
    assert result.pop("seconds") > 0
    assert json.loads(json.dumps(result)) == {
        "shape": [50, 37, 33],
        "voxel_size": [2.0, 0.5, 0.5],
        "unit": "micrometer",
        "levels": [[50, 37, 33], [25, 19, 17]],
        "chunks": [16, 16, 16],
        "path": str(tmp_path / "copy.ome.zarr"),
    }


def test_each_step_tells_what_all_of_it_will_take_on_the_disk(tmp_path, small_rows):
    steps = list(convert(Source(), tmp_path / "copy.ome.zarr", SMALL))
    taken = sum(len(content) for name, content in files(tmp_path).items() if "/c/" in name)
    for step in steps[:-1]:
        assert step.values["disk_gib"] * 2**30 == pytest.approx(taken, rel=0.3)
        assert step.message == ""


def test_a_disk_that_is_too_small_is_told_before_it_is_full(tmp_path, small_rows, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=20_000))
    messages = [step.message for step in convert(Source(), tmp_path / "copy.ome.zarr", SMALL)]
    assert "still to be written" in messages[0]
    assert messages[-2:] == ["", ""]


def test_nothing_is_under_the_final_name_before_the_end(tmp_path, small_rows):
    copy = tmp_path / "copy.ome.zarr"
    steps = convert(Source(), copy, SMALL)
    for step in steps:
        assert copy.exists() == (step.result is not None)


def test_a_box_is_converted_alone(tmp_path, small_rows):
    source, copy = Source(), tmp_path / "copy.ome.zarr"
    list(convert(source, copy, ConvertConfig(chunk=16, box="5:50,0:20,3:33")))
    assert np.array_equal(open_pyramid(copy).levels[0][...], source.voxels[5:50, 0:20, 3:33])


@pytest.mark.parametrize("dtype", [np.uint8, ">u2"])
@pytest.mark.parametrize("box", [None, "3:50,5:37,7:30"])
def test_pages_wider_than_a_row_are_read_once_and_never_all_at_once(tmp_path, small_rows, dtype, box):
    source = Source(dtype=dtype, chunks=(1, 37, 33))
    steps = list(convert(source, tmp_path / "copy", ConvertConfig(chunk=16, box=box)))
    image = open_pyramid(tmp_path / "copy").levels[0][...]
    expected = source.voxels if box is None else source.voxels[3:50, 5:37, 7:30]
    assert len(steps) > 6
    assert np.array_equal(image, expected)
    assert source.read_voxels == expected.size
    assert source.largest <= 16 * 16 * 48
    assert os.listdir(tmp_path) == ["copy"]


def test_pages_are_gone_on_from_in_the_middle_of_a_slab(tmp_path, small_rows):
    pages = {"chunks": (1, 37, 33)}
    first = convert(Source(**pages), tmp_path / "copy", SMALL)
    for _ in range(4):
        next(first)
    first.close()
    assert (tmp_path / "copy.part" / "slab").exists()
    list(convert(Source(**pages), tmp_path / "copy", SMALL))
    list(convert(Source(), tmp_path / "undisturbed", SMALL))
    assert files(tmp_path / "copy") == files(tmp_path / "undisturbed")


def test_voxel_size_and_unit_may_be_given_or_stay_unknown(tmp_path):
    source = Source()
    given = ConvertConfig(chunk=16, voxel_size=(3.0, 1.0, 1.0), unit="millimeter")
    result = list(convert(source, tmp_path / "given", given))[-1].result
    assert (result["voxel_size"], result["unit"]) == ([3.0, 1.0, 1.0], "millimeter")
    source.voxel_size = None
    result = list(convert(source, tmp_path / "unknown", SMALL))[-1].result
    assert (result["voxel_size"], result["unit"]) == (None, None)
    with pytest.raises(InputError, match=r"does not say how large its voxels are.*Give the voxel size"):
        next(convert(source, tmp_path / "unit", ConvertConfig(unit="meter")))


def test_a_path_is_opened_by_its_format(tmp_path, monkeypatch):
    source = Source()
    monkeypatch.setattr(module, "open_volume", {"scan.tif": source}.__getitem__)
    list(convert("scan.tif", tmp_path / "copy", SMALL))
    assert np.array_equal(open_pyramid(tmp_path / "copy").levels[0][...], source.voxels)


@pytest.mark.parametrize("stop_after", [0, 1, 5, 12])
def test_it_goes_on_where_it_was_left_and_ends_byte_equal(tmp_path, small_rows, stop_after):
    list(convert(Source(), tmp_path / "undisturbed", SMALL))
    first = convert(Source(), tmp_path / "copy", SMALL)
    for _ in range(stop_after):
        next(first)
    first.close()
    assert not (tmp_path / "copy").exists()
    second = Source()
    left = list(convert(second, tmp_path / "copy", SMALL))
    assert [step.done for step in left] == [*range(stop_after + 1, 13), 12]
    assert files(tmp_path / "copy") == files(tmp_path / "undisturbed")
    assert (second.read_voxels == second.voxels.size) == (stop_after == 0)
    assert sorted(os.listdir(tmp_path)) == ["copy", "undisturbed"]


def test_an_error_at_any_flush_can_be_gone_on_from(tmp_path, small_rows, monkeypatch):
    list(convert(Source(), tmp_path / "undisturbed", SMALL))
    expected, flush, allowed = files(tmp_path / "undisturbed"), os.fsync, 0

    def failing(descriptor):
        nonlocal allowed
        allowed -= 1
        if allowed < 0:
            raise OSError(28, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    for attempt in range(100):
        allowed = 7 + 5 * attempt
        try:
            list(convert(Source(), tmp_path / "copy", SMALL))
        except OSError:
            continue
        break
    assert attempt > 3
    assert files(tmp_path / "copy") == expected


def test_a_kill_between_the_last_two_steps_leaves_only_the_tidying(tmp_path, small_rows, monkeypatch):
    copy = tmp_path / "copy"

    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            list(convert(Source(), copy, SMALL))
    assert sorted(os.listdir(tmp_path)) == ["copy", "copy.part"]
    (last,) = convert(Source(), copy, SMALL)
    assert last.result["shape"] == [50, 37, 33]
    assert os.listdir(tmp_path) == ["copy"]


def test_what_exists_is_never_overwritten(tmp_path):
    copy = tmp_path / "copy"
    list(convert(Source(), copy, SMALL))
    before = files(tmp_path)
    with pytest.raises(InputError, match=r"copy exists already, and nothing is overwritten"):
        next(convert(Source(), copy, SMALL))
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("source", "config", "says"),
    [
        (Source(seed=1), SMALL, r"fingerprint .* 0 there, .* 1 here"),
        (Source(), ConvertConfig(chunk=32), "chunk 16 there, 32 here"),
        (Source(), ConvertConfig(chunk=16, box="0:9,:,:"), r"box 0:50,0:37,0:33 there, 0:9,0:37,0:33 here"),
        (Source(), ConvertConfig(chunk=16, unit="meter"), "unit micrometer there, meter here"),
    ],
)
def test_the_unfinished_work_of_another_job_is_refused_and_kept(tmp_path, small_rows, source, config, says):
    first = convert(Source(), tmp_path / "copy", SMALL)
    next(first)
    first.close()
    before = files(tmp_path)
    with pytest.raises(RunMismatchError, match=says):
        next(convert(source, tmp_path / "copy", config))
    assert files(tmp_path) == before


def test_a_box_spelled_otherwise_is_the_same_job(tmp_path, small_rows):
    first = convert(Source(), tmp_path / "copy", SMALL)
    next(first)
    first.close()
    again = next(convert(Source(), tmp_path / "copy", ConvertConfig(chunk=16, box=":,0:37,:33")))
    assert again.done == 2


def test_a_folder_that_no_conversion_made_and_a_damaged_record_are_refused(tmp_path):
    part = tmp_path / "copy.part"
    part.mkdir()
    (part / "holiday.jpg").touch()
    with pytest.raises(InputError, match=r"copy\.part exists, but no conversion made it"):
        next(convert(Source(), tmp_path / "copy", SMALL))
    (part / "progress.json").write_text("{")
    with pytest.raises(InputError, match=r"progress\.json is damaged"):
        next(convert(Source(), tmp_path / "copy", SMALL))
    assert sorted(os.listdir(part)) == ["holiday.jpg", "progress.json"]


def test_two_at_once_are_refused(tmp_path):
    (tmp_path / "copy.part").mkdir()
    with (
        FileLock(tmp_path / "copy.part" / "lock"),
        pytest.raises(InputError, match="Another process is writing"),
    ):
        next(convert(Source(), tmp_path / "copy", SMALL))
    list(convert(Source(), tmp_path / "copy", SMALL))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"chunk": 8}, "chunk of 8 voxels is too small"),
        ({"voxel_size": (0.0, 1.0, 1.0)}, "impossible"),
        ({"unit": "um"}, "'um' is no unit"),
    ],
)
def test_an_impossible_config_is_refused(values, says):
    with pytest.raises(InputError, match=says):
        ConvertConfig(**values)


def test_a_box_outside_and_voxels_without_a_mean_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="leaves the volume"):
        next(convert(Source(), tmp_path / "copy", ConvertConfig(box="0:51,:,:")))
    with pytest.raises(InputError, match="complex64 cannot be stored"):
        next(convert(Source(dtype=np.complex64), tmp_path / "copy", SMALL))
    assert os.listdir(tmp_path) == []


CHILD = """
import os, signal, sys
from pathlib import Path
from test_convert import SMALL, Source, module
plan, left = module.plan_rows, int(sys.argv[2])
module.plan_rows = lambda *args, **kw: plan(*args, **kw, limit=16 * 16 * 48)

def deadly(call):
    def counted(*args):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args)
    return counted

os.fsync, Path.replace = deadly(os.fsync), deadly(Path.replace)  # zarr renames its chunks by the latter
list(module.convert(Source(), sys.argv[1], SMALL))
"""


@pytest.mark.slow
def test_killed_again_and_again_it_ends_byte_equal_to_an_undisturbed_copy(tmp_path, small_rows):
    list(convert(Source(), tmp_path / "undisturbed", SMALL))
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done, torn = [], 0
    for flushes_and_renames in (2, 17, 31, 45, 62, 80):
        call = [sys.executable, "-c", CHILD, str(tmp_path / "copy"), str(flushes_and_renames)]
        assert subprocess.run(call, env=here, check=False).returncode == -signal.SIGKILL
        record = tmp_path / "copy.part" / "progress.json"
        done.append(json.loads(record.read_bytes())["rows"] if record.exists() else 0)
        torn += len(list((tmp_path / "copy.part").rglob("*.partial")))
        assert not (tmp_path / "copy").exists()
    assert torn > 0
    assert done == sorted(done)
    assert 0 < done[-1] < 12
    list(convert(Source(), tmp_path / "copy", SMALL))
    assert files(tmp_path / "copy") == files(tmp_path / "undisturbed")

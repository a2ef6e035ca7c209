"""Corrections made elsewhere come in as opinions: one step, whole or not at all, over nobody's own."""

from __future__ import annotations

import json
from uuid import uuid4

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_memseg.annotation.session import Session
from napari_memseg.errors import Cancelled, ClassTableError, GeometryError, InputError, SessionLockedError
from napari_memseg.geometry import Box
from napari_memseg.inference.control import Control
from napari_memseg.io.formats import open_volume
from napari_memseg.workflows.corrections_import import import_corrections
from napari_memseg.workflows.exports import layers
from napari_memseg.workflows.label_meaning import ImportConfig, renamed_of
from volumes import noise, write_zarr
from workflows.exported import CLASSES, SHAPE, export_to, make_session, shown

BACKGROUND = CLASSES.background_opinion
CORNER = Box((60, 3, 4), (70, 12, 17))


@pytest.fixture
def folder(tmp_path):
    """A session on noise, with a few opinions."""
    tifffile.imwrite(tmp_path / "scan.tif", noise(SHAPE), photometric="minisblack")
    with Session.create(tmp_path / "session", open_volume(tmp_path / "scan.tif"), CLASSES) as session:
        session.overlay[5, 2:9, 3:8] = 15
        session.overlay[69, 0, :] = 2
    return tmp_path / "session"


@pytest.fixture
def theirs():
    return np.random.default_rng(2).choice([0, 1, 2, 15, 255], SHAPE).astype("uint8")


def save(folder, labels: np.ndarray) -> str:
    path = folder.parent / "theirs.tif"
    tifffile.imwrite(path, labels, photometric="minisblack", compression="zlib")
    return str(path)


def opinions(folder) -> np.ndarray:
    with Session.open(folder, read_only=True) as session:
        return np.asarray(session.overlay)


def take(folder, labels: str, **config) -> dict:
    *_, last = import_corrections(folder, labels, ImportConfig(**config))
    return dict(last.result)


def meant(labels: np.ndarray, ours: np.ndarray, *, overwrite: bool = False) -> np.ndarray:
    """Return the overlay that labels of our own ids lead to."""
    wanted = np.where(labels == 255, 0, np.where(labels == 0, BACKGROUND, labels))
    return np.where((wanted != 0) & (overwrite | (ours == 0)), wanted, ours)


@pytest.mark.parametrize("overwrite", [False, True])
def test_every_value_becomes_an_opinion_over_nobodys_own_in_one_step(folder, theirs, overwrite):
    before = opinions(folder)
    told = take(folder, save(folder, theirs), overwrite=overwrite)
    after = opinions(folder)
    np.testing.assert_array_equal(after, meant(theirs, before, overwrite=overwrite))
    assert told["imported"] == (after != before).sum() == sum(told["classes"].values())
    differ = (before != 0) & (theirs != 255) & (meant(theirs, before, overwrite=True) != before)
    assert told["kept"] == (0 if overwrite else differ.sum())
    assert told["classes"].keys() == {"0", "1", "2", "15"}
    with Session.open(folder) as session:
        (*_, last) = session.log()
        assert (last["kind"], last["tool"], last["seq"], told["seq"]) == ("import", "import", 3, 3)
        assert session.verify()["ok"]
        session.overlay.undo()
    np.testing.assert_array_equal(opinions(folder), before)


def test_zero_can_be_no_opinion_and_other_values_too(folder, theirs):
    before = opinions(folder)
    take(folder, save(folder, theirs), zero_is="no-opinion", unlabelled=(2, 15))
    np.testing.assert_array_equal(opinions(folder), np.where((theirs == 1) & (before == 0), 1, before))


def test_a_map_says_which_class_is_meant_and_background_is_one(folder):
    labels = np.full(SHAPE, 3, "int32")
    labels[0], labels[1], labels[2] = 77_000, -4, 1
    before = opinions(folder)
    take(folder, save(folder, labels), renamed={3: 15, 77_000: 0, 1: 2}, unlabelled=(-4,))
    expected = np.full(SHAPE, 15)
    expected[0], expected[1], expected[2] = BACKGROUND, 0, 2
    np.testing.assert_array_equal(opinions(folder), np.where(before == 0, expected, before))


def test_unknown_values_are_named_and_nothing_is_changed(folder, theirs):
    theirs[69, 19, 23], theirs[3, 3, 3] = 9, 200
    before = opinions(folder)
    with pytest.raises(ClassTableError, match=r"hold \[9, 200\].*classes are \[0, 1, 2, 15\].*map 9=15"):
        take(folder, save(folder, theirs))
    with pytest.raises(ClassTableError, match=r"map leads to \[8\]"):
        take(folder, save(folder, theirs), renamed={9: 8, 200: 0})
    np.testing.assert_array_equal(opinions(folder), before)
    with Session.open(folder, read_only=True) as session:
        assert session.corrections.seq == 2


@pytest.mark.parametrize("as_large_as", ["box", "session"])
def test_a_box_takes_labels_of_its_own_shape_or_that_part_of_all(folder, theirs, as_large_as):
    labels = theirs[CORNER.slices] if as_large_as == "box" else theirs
    before = opinions(folder)
    take(folder, save(folder, labels), box=str(CORNER))
    expected = before.copy()
    expected[CORNER.slices] = meant(theirs, before)[CORNER.slices]
    np.testing.assert_array_equal(opinions(folder), expected)


def test_labels_of_another_shape_or_no_whole_numbers_are_refused(folder, theirs):
    with pytest.raises(GeometryError, match=r"has \(69, 20, 24\).*session has \(70, 20, 24\).*no box"):
        take(folder, save(folder, theirs[1:]))
    with pytest.raises(GeometryError, match=r"the box 0:5,0:20,0:24 has \(5, 20, 24\)"):
        take(folder, save(folder, theirs[1:]), box="0:5,:,:")
    with pytest.raises(InputError, match="float32 voxels, but labels are whole numbers"):
        take(folder, save(folder, theirs.astype("float32")))


def test_yes_and_no_are_class_one_and_background(folder):
    yes = np.random.default_rng(3).random(SHAPE) < 0.5
    path = folder.parent / "yes.zarr"
    zarr.create_array(path, shape=SHAPE, dtype=bool, chunks=(32, 8, 8))[...] = yes
    before = opinions(folder)
    take(folder, str(path))
    expected = np.where(yes, 1, BACKGROUND)
    np.testing.assert_array_equal(opinions(folder), np.where(before == 0, expected, before))


def test_the_corrections_of_another_session_keep_their_opinion_of_background(folder):
    labels = np.zeros(SHAPE, "uint8")
    labels[7], labels[8] = BACKGROUND, 1
    before = opinions(folder)
    take(folder, save(folder, labels), zero_is="no-opinion")
    np.testing.assert_array_equal(opinions(folder), np.where(before == 0, labels, before))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_stopping_anywhere_leaves_everything_as_it_was(folder, theirs, steps):
    before, control = opinions(folder), Control()
    running = import_corrections(folder, save(folder, theirs), control=control)
    for _ in range(steps):
        next(running)
    control.cancel()
    with pytest.raises(Cancelled):
        next(running)
    np.testing.assert_array_equal(opinions(folder), before)
    abandoned = import_corrections(folder, save(folder, theirs))
    for _ in range(steps):
        next(abandoned)
    abandoned.close()
    np.testing.assert_array_equal(opinions(folder), before)
    assert not list(folder.glob("import*"))
    Session.open(folder).close()  # nobody holds it any more


def test_a_session_that_somebody_edits_is_refused(folder, theirs):
    path = save(folder, theirs)
    with Session.open(folder), pytest.raises(SessionLockedError):
        take(folder, path)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_box_and_any_memory_come_to_the_same(folder, theirs, data):
    spans = [sorted(data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in SHAPE]
    box = Box(*zip(*spans, strict=True))
    before = opinions(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "LAYER_BYTES", data.draw(st.sampled_from([0, 2**28])))
        path = write_zarr(folder.parent / f"{uuid4()}.zarr", theirs[box.slices], 3)
        take(folder, str(path), box=str(box))
    expected = before.copy()
    expected[box.slices] = meant(theirs, before)[box.slices]
    np.testing.assert_array_equal(opinions(folder), expected)


# Out and in again


@pytest.mark.parametrize("box", [None, CORNER])
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("nnunet", "labelsTr/scan.tif"),
        ("tiff", "labels.ome.tif"),
        ("ome-zarr", "image.ome.zarr::labels/corrected"),
        ("ome-zarr", "image.ome.zarr/labels/corrected"),
        ("ome-zarr", "image.ome.zarr/labels/corrected/0"),
    ],
)
def test_what_was_exported_and_comes_back_is_known_by_what_lies_beside_it(tmp_path, kind, place, box):
    folder = make_session(tmp_path)
    exported = export_to(tmp_path / "out", folder, kind, box=box and str(box))
    before, labels = opinions(folder), shown(folder)
    take(folder, f"{exported}/{place}")
    expected = before.copy()
    region = box or Box.whole(SHAPE)
    expected[region.slices] = meant(labels, before)[region.slices]
    np.testing.assert_array_equal(opinions(folder), expected)
    np.testing.assert_array_equal(shown(folder), labels)


@pytest.mark.parametrize(
    ("kind", "place"), [("tiff", "labels.ome.tif"), ("ome-zarr", "image.ome.zarr/labels/corrected")]
)
def test_labels_that_were_exported_from_another_image_are_refused(folder, tmp_path, kind, place):
    other = tmp_path / "other"
    other.mkdir()
    exported = export_to(tmp_path / "out", make_session(other, "uint8"), kind)
    with pytest.raises(InputError, match="exported from another image"):
        take(folder, str(exported / place))


def test_the_ignore_label_of_a_raw_dataset_is_no_opinion(folder, theirs, tmp_path):
    labels = np.where(theirs == 255, 3, np.where(theirs == 15, 2, theirs)).astype("uint8")
    (tmp_path / "set" / "labelsTr").mkdir(parents=True)
    named = {"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(named))
    path = tmp_path / "set" / "labelsTr" / "scan.tif"
    tifffile.imwrite(path, labels, photometric="minisblack")
    before = opinions(folder)
    take(folder, str(path))
    expected = meant(np.where(theirs == 15, 2, theirs), before)
    np.testing.assert_array_equal(opinions(folder), expected)


def test_a_map_is_read_from_a_line_of_text():
    assert renamed_of("") == {}
    assert renamed_of("3=15, -1=0,") == {3: 15, -1: 0}
    for text in ("3", "3=a", "1=2=3"):
        with pytest.raises(InputError, match="theirs=ours"):
            renamed_of(text)


def test_labels_from_before_a_merge_come_in_as_what_their_class_counts_as(folder):
    labels = np.full(SHAPE, 255, np.uint8)
    labels[5, 2:9, 3:8], labels[0, 0, :4] = 2, 2
    with Session.open(folder) as session:
        session.merge_class(2, 15)
    told = take(folder, save(folder, labels), overwrite=True)
    assert (told["classes"], told["kept"]) == ({"15": 4}, 0)
    found = opinions(folder)
    assert (found[0, 0, :4] == 15).all()
    assert (found[69, 0] == 2).all()

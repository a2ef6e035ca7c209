"""Where a session would lie, what it would take, and what is found in it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

import toys
from annotation.helpers import Picture
from napari_memseg.annotation.record import IMAGE
from napari_memseg.annotation.session import Session
from napari_memseg.data import NAMES, bundled
from napari_memseg.errors import Cancelled, InputError
from napari_memseg.geometry import Box
from napari_memseg.inference.control import Control
from napari_memseg.io.formats import open_volume
from napari_memseg.models.classes import ClassTable
from napari_memseg.training.config import TrainConfig
from napari_memseg.workflows import convert as converting
from napari_memseg.workflows.session import (
    build_pyramid,
    folder_for,
    forecast,
    info,
    keep_image,
    models_in,
    next_model,
    set_aside,
    unfinished_trainings,
)
from napari_memseg.workflows.train import train
from napari_memseg.workflows.train_job import TrainJob
from running import in_memory, noise

LONG = (300, 12, 14)
CLASSES = ClassTable.from_ids([1, 2], {1: "bone", 2: "marrow"})


@pytest.fixture
def scan(tmp_path):
    tifffile.imwrite(tmp_path / "scan.tif", noise(LONG), photometric="minisblack")
    return tmp_path / "scan.tif"


@pytest.fixture
def folder(tmp_path, scan):
    """Make a session on the scan."""
    Session.create(tmp_path / "scan.memseg", open_volume(scan), CLASSES).close()
    return tmp_path / "scan.memseg"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Give the user another home."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    return tmp_path / "home"


# Where


def test_a_session_lies_beside_its_image(scan):
    assert folder_for("scan", str(scan)) == scan.parent / "scan.memseg"


def test_what_is_inside_an_image_and_which_channel_makes_no_other_place(scan):
    assert folder_for("scan", f"{scan}::0@c=1").parent == scan.parent


def test_a_name_that_is_taken_is_numbered(scan, folder):
    assert folder_for("scan", str(scan)).name == "scan-2.memseg"
    (scan.parent / "scan-2.memseg").mkdir()
    assert folder_for("scan", str(scan)).name == "scan-3.memseg"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("bone [1] of 3", "bone_1_of_3"),
        ("a/b\\c:d", "a_b_c_d"),
        ("../../etc", "etc"),
        ("Fühler 7µm", "Fühler_7µm"),
        ("scan.v2", "scan.v2"),
        ("  .hidden.  ", "hidden"),
        ("???", "session"),
        ("", "session"),
    ],
)
def test_any_name_becomes_one_that_a_folder_can_have(tmp_path, name, stem):
    assert folder_for(name, sessions=tmp_path) == tmp_path / f"{stem}.memseg"


@pytest.mark.parametrize("letter", ["a", "漢", "𠀋"])
def test_a_session_can_be_made_under_a_name_of_any_length(tmp_path, letter):
    for _ in range(2):
        folder = folder_for(300 * letter, sessions=tmp_path)
        Session.create(folder, Picture((4, 4, 4)), CLASSES).close()
    assert len(list(tmp_path.iterdir())) == 2


def test_an_image_from_memory_has_its_session_at_home(home):
    assert folder_for("layer") == home / "napari-memseg" / "layer.memseg"


def test_an_image_whose_folder_cannot_be_written_to_has_its_session_at_home(home, scan, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != scan.parent)
    assert folder_for("scan", str(scan)) == home / "napari-memseg" / "scan.memseg"


def test_an_image_that_came_with_the_package_has_its_session_at_home(home):
    assert folder_for("bone", str(bundled(NAMES[0]))) == home / "napari-memseg" / "bone.memseg"


def test_a_folder_for_all_sessions_goes_before_all_else(tmp_path, scan):
    assert folder_for("scan", str(scan), tmp_path / "all") == tmp_path / "all" / "scan.memseg"


def test_asking_where_makes_nothing(home, tmp_path):
    folder_for("layer")
    assert not home.exists()


# What it would take


def bytes_of_levels(path):
    return sum(array.dtype.itemsize * int(np.prod(array.shape)) for array in open_volume(path).arrays)


def test_a_pyramid_takes_what_was_forecast(folder):
    with Session.open(folder, read_only=True) as session:
        told = forecast(session.image, folder)
    list(build_pyramid(folder))
    assert told.pyramid_bytes == bytes_of_levels(folder / IMAGE)
    assert told.image_bytes == 0
    assert told.free_bytes > 0


def test_an_image_from_memory_takes_what_was_forecast(tmp_path):
    image, folder = in_memory(noise(LONG)), tmp_path / "not" / "there" / "yet"
    told = forecast(image, folder, in_memory=True)
    assert not folder.parent.exists()
    list(keep_image(folder, image, CLASSES))
    assert (told.folder, told.image_bytes) == (folder, bytes_of_levels(folder / IMAGE))
    assert told.pyramid_bytes == 0


def test_an_image_that_has_a_pyramid_takes_nothing(folder):
    list(build_pyramid(folder))
    told = forecast(open_volume(folder / IMAGE), folder)
    assert (told.image_bytes, told.pyramid_bytes) == (0, 0)


# A pyramid, in spite of interruptions


@pytest.fixture
def rows(monkeypatch):
    """Cut the scan into rows of one chunk."""
    plan = converting.plan_rows
    monkeypatch.setattr(converting, "plan_rows", lambda *args, **kw: plan(*args, **kw, limit=64**3))


def stop_in_the_middle(folder):
    steps = build_pyramid(folder)
    done = [next(steps).done for _ in range(2)]
    steps.close()
    assert done == [1, 2]


def test_a_pyramid_that_was_stopped_goes_on_and_the_scan_serves_until_then(folder, scan, rows):
    stop_in_the_middle(folder)
    with Session.open(folder) as session:
        assert session.image.source == str(scan)
    steps = list(build_pyramid(folder))
    assert {step.stage for step in steps} == {"build pyramid"}
    assert [step.done for step in steps] == [3, 4, 5, 5]
    with Session.open(folder) as session:
        assert session.image.source == str(folder / IMAGE)
        np.testing.assert_array_equal(session.image.read(Box.whole(LONG)), noise(LONG))
    assert not (folder / f"{IMAGE}.part").exists()


def test_a_pyramid_that_was_stopped_yesterday_goes_on(folder, rows):
    stop_in_the_middle(folder)
    part = folder / f"{IMAGE}.part"
    for path in (*part.rglob("*"), part):
        os.utime(path, (1, 1))
    Session.open(folder).close()
    assert next(build_pyramid(folder)).done == 3


def test_a_pyramid_of_an_image_that_was_changed_meanwhile_is_not_gone_on_with(folder, scan, rows):
    stop_in_the_middle(folder)
    tifffile.imwrite(scan, noise(LONG, seed=1), photometric="minisblack")
    with pytest.raises(InputError, match="another image"):
        next(build_pyramid(folder))


def test_a_pyramid_is_not_built_twice(folder):
    list(build_pyramid(folder))
    with pytest.raises(InputError, match="exists already"):
        next(build_pyramid(folder))


# What is in it


def put(folder, *names):
    """Write files into a session's models, each a second younger than the one before."""
    for second, name in enumerate(names):
        (folder / "models" / name).touch()
        os.utime(folder / "models" / name, (second, second))
    return folder / "models"


def test_models_are_listed_with_the_newest_first_and_nothing_that_is_unfinished(folder):
    models = put(
        folder,
        *("small-1.safetensors", "bone.safetensors", "small-2.safetensors"),
        *("small-3.first.best.safetensors", "small-3.first.training", "notes.txt"),
    )
    assert models_in(folder) == [
        models / name for name in ("small-2.safetensors", "bone.safetensors", "small-1.safetensors")
    ]


def test_unfinished_trainings_are_named_by_the_model_that_they_will_be(folder):
    models = put(
        folder,
        *("toy-2.first.training", "toy-2.second.training", "toy-2.first.best.safetensors"),
        *("small-1.main.training", "small-3.safetensors"),
    )
    assert unfinished_trainings(folder) == [models / "small-1.safetensors", models / "toy-2.safetensors"]


def test_a_session_without_models_has_none(folder):
    assert models_in(folder) == unfinished_trainings(folder) == []
    assert next_model(folder, "small") == folder / "models" / "small-1.safetensors"


@pytest.mark.parametrize("taken", ["small-7.safetensors", "small-7.main.training", "unet3d-7.safetensors"])
def test_the_next_model_takes_a_number_that_no_other_has(folder, taken):
    put(folder, "small-2.safetensors", taken, "bone.safetensors")
    assert next_model(folder, "small").name == "small-8.safetensors"


def test_what_lies_inside_an_unfinished_training_takes_no_number(folder):
    put(folder, "small-2.main.training")
    guesses = folder / "models" / "small-2.teacher.guesses"
    guesses.mkdir()
    (guesses / "chunk-41.0.0").touch()
    assert next_model(folder, "small").name == "small-3.safetensors"


def test_painted_voxels_are_told_for_each_class(folder):
    with Session.open(folder) as session:
        session.overlay[0, 0, :9] = 1
        session.overlay[100, 0, :3] = 2
        session.overlay[200, :2, 0] = session.classes.background_opinion
        session.overlay[0, 0, :2] = 0
    assert info(folder)["painted_voxels"] == {"0": 2, "1": 7, "2": 3}


def test_a_training_that_was_stopped_goes_on_when_a_pyramid_was_built_meanwhile(folder):
    toys.register()
    with Session.open(folder) as session:
        session.overlay[:40] = session.classes.background_opinion
        session.overlay[40:80] = 1
        session.overlay[80:120] = 2
    steps = TrainConfig(steps=6, batch=1, threads=1, device="cpu", patch=(8, 8, 8))
    job = TrainJob(session=folder, out=next_model(folder, "null"), architecture="null", learning=steps)
    control = Control()
    stopped = train(job, control=control)
    next(stopped)
    control.cancel()
    with pytest.raises(Cancelled):
        list(stopped)
    assert unfinished_trainings(folder) == [job.out]
    list(build_pyramid(folder))
    list(train(replace(job, resume=True)))
    assert (models_in(folder), unfinished_trainings(folder)) == ([job.out], [])


def test_a_model_that_was_rolled_back_is_set_aside_and_its_number_not_given_again(folder):
    for _ in range(2):
        for name in ("small-1", "small-2"):
            (folder / "models" / f"{name}.safetensors").write_text(name)
        kept = set_aside(folder / "models" / "small-2.safetensors")
        assert kept.read_text() == "small-2"
        assert [path.stem for path in models_in(folder)] == ["small-1"]
    assert sorted(p.name for p in kept.parent.iterdir()) == ["small-2.2.safetensors", "small-2.safetensors"]
    assert next_model(folder, "small").name == "small-3.safetensors"

"""The session folder: made, shared, opened again, and never another image's."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from annotation.helpers import SHAPE, Picture, after_a_kill, make_run, publish
from napari_memseg.annotation import runs
from napari_memseg.annotation.lock import Holder
from napari_memseg.annotation.recovery import restore
from napari_memseg.annotation.session import Session
from napari_memseg.errors import ClassTableError, InputError, SessionError, SessionLockedError
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume


def test_a_session_is_a_folder_with_a_place_for_everything(session):
    assert {path.name for path in session.path.iterdir()} >= {
        *("session.json", "corrections.sqlite", "runs", "models", "exports", ".lock")
    }


def test_nothing_is_overwritten_by_a_new_session(session, picture, classes):
    session.overlay[0, 0, 0] = 1
    with pytest.raises(InputError, match="exists already"):
        Session.create(session.path, picture, classes)
    assert session.overlay[0, 0, 0] == 1


def test_a_session_that_could_not_be_made_leaves_nothing(folder, picture, classes):
    with pytest.raises(SessionError, match="has no level 3"):
        Session.create(folder, picture, classes, level=3)
    assert not folder.exists()


def test_overlay_and_runs_are_on_the_grid_of_the_working_level(folder, picture, classes):
    with Session.create(folder, picture, classes, level=1) as session:
        assert session.level == 1
        assert session.overlay.shape == session.shape == session.composite().shape == (35, 33, 65)


def test_what_was_painted_is_there_when_it_is_opened_again(session, picture):
    session.overlay[1:3, 4, 5:9] = 15
    session.close()
    with Session.open(session.path, image=picture) as again:
        assert (again.overlay[1:3, 4, 5:9] == 15).all()
        assert again.recovered == 0
        assert again.classes == session.classes
        assert again.notes == []


def test_closing_stores_the_open_stroke_and_a_second_close_does_nothing(session, picture):
    session.overlay.begin_stroke()
    session.overlay[0, 0, 0] = 1
    session.close()
    session.close()
    with Session.open(session.path, image=picture) as again:
        assert again.overlay[0, 0, 0] == 1


def test_info_log_and_verify_are_plain_json(session):
    session.overlay[0, 0, 0] = 1
    session.new_run()
    told = json.loads(
        json.dumps({"info": session.info(), "log": list(session.log()), "verify": session.verify()})
    )
    assert told["info"]["strokes"] == 1
    assert told["info"]["shape"] == list(SHAPE)
    assert told["info"]["runs"] == ["0001"]
    assert told["info"]["voxel_size"] == [2.0, 1.0, 1.0]
    assert told["log"][0]["kind"] == "paint"
    assert told["verify"] == {"ok": True, "strokes": 1, "cells": 1, "faults": [], "integrity": "ok"}


# Who edits


def test_a_second_editor_is_refused_with_the_first_one_named(session, picture):
    with pytest.raises(SessionLockedError, match=f"process {os.getpid()} of"):
        Session.open(session.path, image=picture)
    with pytest.raises(SessionLockedError, match="read_only=True"):
        Session.open(session.path, image=picture, takeover=True)


def test_a_second_viewer_reads_while_the_first_one_paints(session, picture):
    session.overlay[0, 0, 0] = 1
    with Session.open(session.path, None, image=picture) as reader:
        assert reader.read_only
        assert "being edited by process" in reader.notes[0]
        assert reader.overlay[0, 0, 0] == 1
        session.overlay[0, 0, 1] = 2
        reader.overlay.refresh()
        assert reader.overlay[0, 0, 1] == 2
        with pytest.raises(SessionError, match="reading only"):
            reader.overlay[0, 0, 0] = 2


def test_without_another_editor_none_means_editing(session, picture):
    session.close()
    with Session.open(session.path, None, image=picture) as again:
        assert not again.read_only


def test_a_lock_of_a_dead_process_is_taken_over_and_that_is_logged(session, picture, caplog):
    session.close()
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from napari_memseg.annotation.lock import SessionLock\n"
        "lock = SessionLock(Path(sys.argv[1]))\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(session.path)], check=True)
    dead = Holder.read(session.path)
    with caplog.at_level(logging.WARNING), Session.open(session.path, image=picture) as again:
        assert not again.read_only
    assert f"process {dead.pid}" in caplog.text


def another_host(folder):
    note = json.dumps({"pid": 1, "host": "elsewhere", "user": "bob", "start": "2026-11-01T10:00:00+00:00"})
    (folder / ".holder.json").write_text(note)


def test_an_editor_on_another_machine_is_believed(session, picture):
    session.close()
    another_host(session.path)
    with pytest.raises(SessionLockedError, match=r"process 1 of bob on elsewhere.*takeover=True"):
        Session.open(session.path, image=picture)
    with Session.open(session.path, image=picture, takeover=True) as again:
        again.overlay[0, 0, 0] = 1
    with Session.open(session.path, image=picture) as again:
        assert again.overlay[0, 0, 0] == 1


def test_a_failed_opening_gives_the_lock_back(session, picture):
    session.close()
    with pytest.raises(SessionError, match="another image"):
        Session.open(session.path, image=Picture(fingerprint="other"))
    Session.open(session.path, image=picture).close()


def test_a_folder_that_cannot_be_written_to_is_read(session, picture, monkeypatch):
    session.overlay[0, 0, 0] = 1
    session.close()

    def refuse(_):
        raise PermissionError("read-only file system")

    monkeypatch.setattr("napari_memseg.annotation.lock.FileLock.acquire", refuse)
    with pytest.raises(SessionError, match="read_only=True"):
        Session.open(session.path, image=picture)
    with Session.open(session.path, None, image=picture) as reader:
        assert reader.read_only
        assert reader.overlay[0, 0, 0] == 1


# What is opened


def test_a_folder_that_is_no_session_is_refused(tmp_path):
    with pytest.raises(SessionError, match=r"no session: there is no session\.json"):
        Session.open(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"schema": 1}', "[]"])
def test_a_damaged_record_is_refused(session, picture, text):
    session.close()
    (session.path / "session.json").write_text(text)
    with pytest.raises(SessionError, match="cannot be read"):
        Session.open(session.path, image=picture)


def test_the_image_is_opened_by_its_source_and_refused_once_it_was_changed(tmp_path, folder, classes):
    voxels = np.arange(4 * 20 * 30, dtype=np.uint16).reshape(4, 20, 30)
    tifffile.imwrite(tmp_path / "scan.tif", voxels, photometric="minisblack")
    Session.create(folder, open_volume(tmp_path / "scan.tif"), classes).close()
    with Session.open(folder) as again:
        assert again.shape == (4, 20, 30)
        np.testing.assert_array_equal(again.image.read(Box.whole(again.shape)), voxels)
        again.overlay[0, 0, 0] = 1
    tifffile.imwrite(tmp_path / "scan.tif", voxels + 1, photometric="minisblack")
    with pytest.raises(SessionError, match="another image, or was changed"):
        Session.open(folder)


def test_a_reader_needs_the_image_only_when_it_looks_at_it(session):
    session.close()
    with Session.open(session.path, True) as reader:
        assert reader.verify()["ok"]
        with pytest.raises(SessionError, match=r"no longer at /data/picture\.tif"):
            reader.image  # noqa: B018 - looking at it is what is tested


def test_strokes_after_a_kill_are_recovered_and_counted(session, picture, tmp_path):
    session.overlay[0, 0, 0] = 1
    session.overlay[0, 0, 1] = 1
    left = after_a_kill(session.path, tmp_path / "left")
    with Session.open(left, image=picture) as again:
        assert again.recovered == 2
        assert "recovered 2 strokes: the session was not closed" in again.notes
        assert (again.overlay[0, 0, :2] == 1).all()


def test_what_a_kill_left_unfinished_is_deleted_and_what_is_being_made_is_not(session, picture):
    session.close()
    old, new = session.path / "exports" / "old.part", session.path / "models" / "new.part"
    for part in (old, new):
        part.mkdir()
        (part / "0").write_text("half")
    file = session.path / "models" / "net.safetensors.1234.partial"
    file.write_text("half")
    for path in (old / "0", old, file, new):
        os.utime(path, (1, 1))
    with Session.open(session.path, image=picture) as again:
        assert sorted(again.notes) == [f"deleted the unfinished {path.name}" for path in (file, old)]
    assert not old.exists()
    assert not file.exists()
    assert new.exists()


def test_corrections_that_contradict_their_log_are_not_edited_but_can_be_read(session, picture):
    session.overlay[0, 0, 0] = 1
    session.corrections.connection.execute("UPDATE patch SET after = before")
    session.close()
    with pytest.raises(SessionError, match="contradict their log"):
        Session.open(session.path, image=picture)
    with Session.open(session.path, True, image=picture) as reader:
        assert not reader.verify()["ok"]
        assert reader.notes


# Damage, and what is put in its place


def test_damaged_corrections_are_kept_aside_when_a_backup_takes_their_place(session, picture, tmp_path):
    session.overlay[0, 0, 0] = 1
    session.backup(tmp_path / "backup.sqlite")
    session.close()
    database = session.path / "corrections.sqlite"
    database.write_bytes(b"ruin" + database.read_bytes()[4:])
    ruin = database.read_bytes()
    with pytest.raises(SessionError, match=r"recovery\.restore"):
        Session.open(session.path, image=picture)
    assert database.read_bytes() == ruin
    aside = restore(session.path, tmp_path / "backup.sqlite")
    assert (aside / "corrections.sqlite").read_bytes() == ruin
    with Session.open(session.path, image=picture) as again:
        assert again.overlay[0, 0, 0] == 1
        assert again.verify()["ok"]


def test_a_session_can_begin_again_without_corrections(session, picture):
    session.overlay[0, 0, 0] = 1
    session.close()
    aside = [restore(session.path, None), restore(session.path, None)]
    assert [path.name for path in aside] == ["corrections.aside-1", "corrections.aside-2"]
    with Session.open(session.path, image=picture) as again:
        assert again.corrections.seq == 0


def test_a_damaged_backup_replaces_nothing(session, tmp_path):
    session.close()
    (tmp_path / "backup.sqlite").write_bytes(b"ruin")
    before = (session.path / "corrections.sqlite").read_bytes()
    with pytest.raises(SessionError, match="damaged"):
        restore(session.path, tmp_path / "backup.sqlite")
    assert (session.path / "corrections.sqlite").read_bytes() == before


def test_corrections_that_somebody_edits_are_not_replaced(session):
    with pytest.raises(SessionLockedError):
        restore(session.path, None)


# Classes


def test_a_class_can_be_added_and_painted_at_once(session, picture):
    session.add_class(7, "nerve")
    session.overlay[0, 0, 0] = 7
    session.close()
    with Session.open(session.path, image=picture) as again:
        assert [c.name for c in again.classes] == ["background", "bone", "marrow", "nerve", "cartilage"]


def test_an_id_keeps_its_meaning(session):
    with pytest.raises(ClassTableError, match="keeps its meaning"):
        session.add_class(2, "nerve")
    session.rename_class(2, "bone marrow", "#123456")
    assert [(c.name, c.color) for c in session.classes if c.id == 2] == [("bone marrow", "#123456")]
    with pytest.raises(ClassTableError, match="no class 9"):
        session.rename_class(9, "nerve")


def test_a_large_id_widens_the_overlay_and_loses_nothing(session):
    session.overlay[0, 0, :2] = [2, session.classes.background_opinion]
    session.overlay[0, 0, 0] = 1
    session.add_class(1000, "nerve")
    assert session.overlay.dtype == np.uint16
    assert session.overlay[0, 0, :3].tolist() == [1, 65534, 0]
    session.overlay[0, 0, 2] = 1000
    session.overlay.undo()
    session.overlay.undo()
    assert session.overlay[0, 0, :3].tolist() == [2, 65534, 0]
    assert session.verify()["ok"]
    assert session.snapshot(seq=2).counts() == {0: 1, 1: 1}


def test_a_reader_cannot_change_classes(session, picture):
    before = (session.path / "session.json").read_bytes()
    with Session.open(session.path, True, image=picture) as reader:
        with pytest.raises(SessionError, match="reading only"):
            reader.add_class(7, "nerve")
        with pytest.raises(SessionError, match="reading only"):
            reader.confirm(Box((0, 0, 0), (1, 1, 1)))
    assert (session.path / "session.json").read_bytes() == before


# Runs


def test_runs_are_ordered_by_number_whatever_the_clock_says(session, monkeypatch):
    for when in ("2026-11-03T10:00:00", "1970-01-01T00:00:00", "1970-01-01T00:00:00"):
        monkeypatch.setattr(runs, "now_utc", lambda when=when: when)
        session.new_run()
    assert [(run.id, run.parent) for run in session.runs()] == [
        ("0001", None),
        ("0002", "0001"),
        ("0003", "0002"),
    ]


def test_a_run_may_name_another_parent_if_there_is_one(session):
    session.new_run()
    session.new_run()
    run_id, path = session.new_run(parent="0001")
    assert (session.runs()[-1].id, session.runs()[-1].parent) == (run_id, "0001")
    assert path == session.path / "runs" / "0003"
    assert not path.exists()
    with pytest.raises(SessionError, match="no run 'nine'"):
        session.new_run(parent="nine")


def test_a_number_is_never_given_twice(session, picture, monkeypatch):
    make_run(session.path / "runs" / "0004")
    assert session.new_run()[0] == "0005"
    claim, stolen = runs._claim, []

    def faster(note, row):
        if not stolen:
            stolen.append(claim(note, {**row, "created": "by somebody else"}))
        return claim(note, row)

    monkeypatch.setattr(runs, "_claim", faster)
    assert session.new_run()[0] == "0007"
    assert session.runs()[-1].parent == "0006"


def test_a_run_can_be_begun_beside_the_editor(session, picture):
    with Session.open(session.path, True, image=picture) as beside:
        assert beside.new_run()[0] == "0001"
    session.overlay[0, 0, 0] = 1
    assert [run.id for run in session.runs()] == ["0001"]


def test_a_stroke_remembers_the_run_that_was_seen(session):
    session.overlay[0, 0, 0] = 1
    session.new_run()
    session.overlay[0, 0, 1] = 1
    assert [row["run_id"] for row in session.log()] == [None, "0001"]


def test_a_box_in_which_an_older_run_still_shows_cannot_be_confirmed(session):
    _, first = session.new_run()
    publish(make_run(first), Box((0, 0, 0), (64, 64, 128)), 2)
    newest, second = session.new_run()
    box, filled = Box((0, 0, 0), (4, 4, 128)), Box((0, 0, 0), (4, 4, 64))
    labels = make_run(second)
    publish(labels, Box((0, 0, 0), (64, 64, 64)), 15)
    with pytest.raises(SessionError, match=rf"Run {newest} has not predicted all.*Wait.*smaller box"):
        session.confirm(box)
    assert session.confirmed() == []
    session.confirm(filled)
    publish(labels, Box((0, 0, 64), (64, 64, 128)), 15)
    session.confirm(box)
    assert [one.box for one in session.confirmed()] == [filled, box]


def test_a_finished_run_of_a_part_lets_what_shows_around_it_be_confirmed(session):
    _, first = session.new_run()
    publish(make_run(first), Box((0, 0, 0), (64, 64, 128)), 2)
    _, second = session.new_run()
    publish(make_run(second), Box((0, 0, 0), (64, 64, 64)), 15)
    (second / "memseg").mkdir()
    (second / "memseg" / "run.json").write_text('{"finished": true}')
    box = Box((0, 0, 0), (4, 4, 128))
    session.confirm(box)
    assert [one.box for one in session.confirmed()] == [box]

"""The corrections file: opened safely, or not at all."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest

from annotation.helpers import SHAPE, after_a_kill
from napari_memseg.annotation import database
from napari_memseg.annotation.corrections import Corrections
from napari_memseg.annotation.database import on_network, open_database
from napari_memseg.annotation.overlay import Overlay
from napari_memseg.annotation.replay import check_replay
from napari_memseg.errors import InputError, SessionError

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/export /data nfs4 rw 0 0
//pc/share /data/with\\040space cifs rw 0 0
/dev/sdb1 /data/local xfs rw 0 0
"""


@pytest.fixture
def corrections(tmp_path, classes):
    folder = tmp_path / "live"
    folder.mkdir()
    opened = Corrections.create(folder / "corrections.sqlite")
    Overlay(opened, SHAPE, classes)[3:66, 5:9, :] = 2
    yield opened
    opened.close()


def pragma(corrections, name):
    return corrections.connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_a_local_database_flushes_its_log_at_every_commit(corrections):
    assert (pragma(corrections, "journal_mode"), pragma(corrections, "synchronous")) == ("wal", 2)


def test_a_database_on_a_share_keeps_no_log_that_machines_would_have_to_share(tmp_path, monkeypatch, classes):
    monkeypatch.setattr(database, "on_network", lambda _: True)
    corrections = Corrections.create(tmp_path / "corrections.sqlite")
    assert (pragma(corrections, "journal_mode"), pragma(corrections, "synchronous")) == ("delete", 2)
    Overlay(corrections, SHAPE, classes)[0] = 1
    assert [path.name for path in tmp_path.iterdir()] == ["corrections.sqlite"]
    corrections.close()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/ada/scan", False),
        ("/data/scan", True),
        ("/data", True),
        ("/database/scan", False),
        ("/data/with space/scan", True),
        ("/data/local/scan", False),
    ],
)
def test_the_innermost_mount_says_whether_a_path_is_on_a_share(path, expected):
    assert on_network(path, MOUNTS) is expected


def test_a_missing_file_is_refused_and_not_made_anew(tmp_path):
    with pytest.raises(SessionError, match="missing"):
        Corrections(tmp_path / "corrections.sqlite")
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_not_overwritten(corrections):
    with pytest.raises(InputError, match="exists already"):
        Corrections.create(corrections.path)


def test_a_damaged_file_is_refused_and_left_as_it_is(corrections, tmp_path):
    copy = tmp_path / "copy.sqlite"
    corrections.backup(copy)
    whole = copy.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"not a database" + whole[14:], b""):
        copy.write_bytes(damaged)
        for read_only in (False, True):
            with pytest.raises(SessionError, match="damaged"):
                Corrections(copy, read_only=read_only)
        assert copy.read_bytes() == damaged


def test_a_file_of_some_other_program_is_refused(tmp_path):
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE songs (name)")
    connection.close()
    with pytest.raises(SessionError, match="tables are missing"):
        Corrections(other)


def test_a_backup_holds_what_is_committed_and_appears_whole(corrections, classes, tmp_path):
    overlay = Overlay(corrections, SHAPE, classes)
    overlay.begin_stroke()
    overlay[0, 0, 0] = 1
    corrections.backup(tmp_path / "backup.sqlite")
    copy = Corrections(tmp_path / "backup.sqlite", read_only=True)
    assert copy.seq == 1
    assert check_replay(copy) == []
    copy.close()
    with pytest.raises(InputError, match="exists already"):
        corrections.backup(tmp_path / "backup.sqlite")
    assert not list(tmp_path.glob("*.part"))


def test_a_backup_that_breaks_off_leaves_nothing(corrections, tmp_path, monkeypatch):
    def refuse(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(database, "fsync_path", refuse)
    with pytest.raises(OSError, match="no space"):
        corrections.backup(tmp_path / "backup.sqlite")
    assert [path.name for path in tmp_path.iterdir()] == ["live"]


def test_reading_writes_nothing_not_even_through_sql(corrections):
    reader = Corrections(corrections.path, read_only=True)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.connection.execute("DELETE FROM stroke")
    with pytest.raises(SessionError, match="reading only"):
        reader.probe()
    reader.close()


def cannot_be_locked(monkeypatch):
    """Let SQLite meet a folder in which it can make no file: mode=ro has no log's index to share."""
    connect = database._connect

    def refuse(uri, *factory):
        if uri.endswith("mode=ro"):
            raise sqlite3.OperationalError("unable to open database file")
        return connect(uri, *factory)

    monkeypatch.setattr(database, "_connect", refuse)


def test_a_closed_database_in_a_read_only_folder_is_read_where_it_is(corrections, classes, monkeypatch):
    corrections.close()
    cannot_be_locked(monkeypatch)
    reader = Corrections(corrections.path, read_only=True)
    assert "immutable=1" in reader.uri
    assert (np.asarray(Overlay(reader, SHAPE, classes))[3:66, 5:9] == 2).all()
    reader.close()


def test_strokes_in_a_log_that_was_left_in_a_read_only_folder_are_seen(
    corrections, classes, monkeypatch, tmp_path
):
    left = after_a_kill(corrections.path.parent, tmp_path / "left")
    assert (left / "corrections.sqlite-wal").stat().st_size > 0
    before = {path.name: path.read_bytes() for path in left.iterdir()}
    cannot_be_locked(monkeypatch)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    reader = Corrections(left / "corrections.sqlite", read_only=True)
    assert (np.asarray(Overlay(reader, SHAPE, classes))[3:66, 5:9] == 2).all()
    assert len(list(tmp_path.glob("napari-memseg-*"))) == 1
    reader.close()
    assert not list(tmp_path.glob("napari-memseg-*"))
    assert {path.name: path.read_bytes() for path in left.iterdir()} == before


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE cell SET data = (SELECT data FROM cell ORDER BY z DESC LIMIT 1) WHERE z = 0",
        "UPDATE cell SET data = x'28b52ffd' WHERE z = 0",
        "DELETE FROM cell WHERE z = 0 AND y = 0 AND x = 1",
        "UPDATE patch SET after = before WHERE x = 1",
        "UPDATE patch SET before = after WHERE x = 1",
        "DELETE FROM patch WHERE x = 2",
    ],
)
def test_cells_that_are_not_the_replay_of_their_strokes_are_named(corrections, harm):
    assert check_replay(corrections) == []
    corrections.connection.execute(harm)
    faults = check_replay(corrections)
    assert faults
    assert all(fault.startswith("cell (") for fault in faults)


def test_a_connection_that_fails_its_check_is_closed(corrections, tmp_path):
    corrections.backup(tmp_path / "copy.sqlite")
    connection, uri = open_database(tmp_path / "copy.sqlite", read_only=True)
    assert uri.endswith("mode=ro")
    connection.close()

"""Corrections that were closed are sealed: what was not written by us is told, and looked at as a whole."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from napari_memseg.annotation.session import Session
from napari_memseg.errors import SessionError


def painted(session):
    """Paint two cells in two strokes, close the session, and return its database."""
    session.overlay[0, 0, 0] = 1
    session.overlay[0, 0, 100] = 1
    session.close()
    return session.path / "corrections.sqlite"


@pytest.mark.parametrize("read_only", [False, True])
def test_it_is_told_that_another_program_wrote_to_the_corrections(session, picture, read_only):
    with closing(sqlite3.connect(painted(session))) as other, other:
        other.execute("INSERT INTO meta VALUES ('by', 'another')")
    with Session.open(session.path, image=picture, read_only=read_only) as opened:
        assert any("is not the file that was closed" in note for note in opened.notes)
        assert opened.overlay[0, 0, 0] == 1
        assert opened.verify()["ok"]


def test_all_strokes_are_replayed_where_another_program_wrote(session, picture, monkeypatch):
    monkeypatch.setattr("napari_memseg.annotation.session.SAMPLE", 0)
    with closing(sqlite3.connect(painted(session))) as other, other:
        other.execute("DELETE FROM cell WHERE x = 0")
    with pytest.raises(SessionError, match="contradict their log"):
        Session.open(session.path, image=picture)


def test_another_program_that_only_looks_spoils_no_seal(session, picture):
    other = sqlite3.connect(session.path / "corrections.sqlite")
    other.execute("SELECT count(*) FROM stroke").fetchone()
    painted(session)
    other.close()
    with Session.open(session.path, image=picture) as opened:
        assert opened.notes == []


def test_while_corrections_are_edited_nothing_is_sealed(session, picture):
    seal = session.path / "corrections.sqlite.xxh3"
    assert not seal.exists()
    session.close()
    assert seal.exists()
    with Session.open(session.path, image=picture):
        assert not seal.exists()

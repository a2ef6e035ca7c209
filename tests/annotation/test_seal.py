"""Corrections that were closed are sealed: what was not written by us is not believed."""

from __future__ import annotations

import pytest

from napari_memseg.annotation.session import Session
from napari_memseg.errors import SessionError


def test_corrections_that_another_program_wrote_to_are_refused_and_can_be_looked_at(session, picture):
    session.overlay[0, 0, 0] = 1
    session.close()
    path = session.path / "corrections.sqlite"
    path.write_bytes(path.read_bytes() + bytes(4096))
    with pytest.raises(SessionError, match=r"is not the file that was closed.*corrections\.sqlite\.xxh3"):
        Session.open(session.path, image=picture)
    with Session.open(session.path, read_only=True) as reader:
        assert any("is not the file that was closed" in note for note in reader.notes)
        assert reader.overlay[0, 0, 0] == 1


def test_while_corrections_are_edited_nothing_is_sealed(session, picture):
    seal = session.path / "corrections.sqlite.xxh3"
    assert not seal.exists()
    session.close()
    assert seal.exists()
    with Session.open(session.path, image=picture):
        assert not seal.exists()

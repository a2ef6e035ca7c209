import os

import pytest

from napari_memseg.files import atomic_write


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "card.json"
    for content in (b"old", b"new and longer"):
        atomic_write(path, content)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["card.json"]


def test_a_file_that_cannot_be_finished_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "card.json"
    atomic_write(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["card.json"]


def test_the_content_is_flushed_before_its_name_and_its_name_before_returning(tmp_path, monkeypatch):
    steps = []
    names = {"fsync": os.fsync, "replace": os.replace}

    def fsync(descriptor):
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        names["fsync"](descriptor)

    def replace(old, new):
        steps.append("rename")
        names["replace"](old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    atomic_write(tmp_path / "a", b"content")
    assert steps == ["file", "rename", "folder"]

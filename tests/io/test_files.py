import os

import pytest

from napari_memseg.errors import InputError
from napari_memseg.files import fsync_path
from napari_memseg.io.files import fsync_tree, part_folder, refuse_to_overwrite


def test_a_folder_appears_only_once_it_is_whole(tmp_path):
    final = tmp_path / "above" / "export"
    with part_folder(final) as part:
        assert part.parent == final.parent
        assert part.name.startswith("export.")
        assert part.name.endswith(".part")
        (part / "inner").mkdir()
        (part / "inner" / "data").write_bytes(b"1")
        assert not final.exists()
    assert (final / "inner" / "data").read_bytes() == b"1"
    assert os.listdir(final.parent) == ["export"]


def test_a_folder_that_failed_leaves_nothing(tmp_path):
    def build():
        with part_folder(tmp_path / "export") as part:
            (part / "data").write_bytes(b"1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build()
    assert os.listdir(tmp_path) == []


def test_a_folder_with_something_in_it_is_never_replaced(tmp_path):
    final = tmp_path / "export"
    final.mkdir()
    with part_folder(final) as part:
        (part / "mine").touch()
    with pytest.raises(InputError, match=r"export exists already.*another name"), part_folder(final):
        pytest.fail("nothing must be built")
    assert os.listdir(final) == ["mine"]


def test_a_folder_that_somebody_else_finished_first_is_never_replaced(tmp_path):
    final = tmp_path / "export"

    def build():
        with part_folder(final) as part:
            (part / "mine").touch()
            final.mkdir()
            (final / "theirs").touch()

    with pytest.raises(InputError, match="exists already"):
        build()
    assert os.listdir(final) == ["theirs"]
    assert os.listdir(tmp_path) == ["export"]


def test_a_file_or_a_dangling_link_is_in_the_way_too(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(InputError, match="exists already"):
            refuse_to_overwrite(tmp_path / name)
    refuse_to_overwrite(tmp_path / "nothing")


def test_a_whole_tree_is_flushed_files_before_the_folders_that_name_them(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    flushed = []
    monkeypatch.setattr("napari_memseg.io.files.fsync_path", lambda path: flushed.append(str(path)))
    fsync_tree(tmp_path)
    assert flushed == [str(tmp_path / rest) for rest in ("a/b/c", "a/b", "a", "")]
    monkeypatch.undo()
    fsync_path(tmp_path)

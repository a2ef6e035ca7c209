"""A session on a small image in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from annotation.helpers import Picture
from napari_memseg.annotation.session import Session
from napari_memseg.models.classes import ClassTable


@pytest.fixture
def picture() -> Picture:
    return Picture()


@pytest.fixture
def classes() -> ClassTable:
    return ClassTable.from_ids([1, 2, 15], {1: "bone", 2: "marrow", 15: "cartilage"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "session"


@pytest.fixture
def session(folder, picture, classes):
    with Session.create(folder, picture, classes, user="ada") as opened:
        yield opened

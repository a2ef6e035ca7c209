"""What a session shows of a run that lost a chunk, or has a damaged one: never another label."""

from __future__ import annotations

import json

import numpy as np
import pytest

from annotation.helpers import SHAPE
from napari_memseg.errors import SessionError
from napari_memseg.geometry import Box
from napari_memseg.inference.run_card import begin_run_card
from napari_memseg.io.pyramid import create_labels

WHOLE, LOST = Box.whole(SHAPE), Box((0, 0, 64), (64, 64, 128))
GONE = "0/c/0/0/1"


@pytest.fixture
def run(session):
    """A run that has predicted class 1 everywhere."""
    path = session.new_run()[1]
    names = {c.id: c.name for c in session.classes}
    colors = {c.id: c.color for c in session.classes}
    ids = {"names": names, "colors": colors, "fill_value": session.classes.not_predicted}
    labels = create_labels(path, shape=SHAPE, dtype="uint8", **ids)
    (path / "memseg").mkdir()
    begin_run_card(path, "stand-in", {})
    labels.write(WHOLE, np.ones(SHAPE, np.uint8), durable=False)
    return path


def test_a_deleted_chunk_is_not_predicted_and_never_background(session, run):
    (run / GONE).unlink()
    shown = session.composite().read(WHOLE)
    assert (shown[LOST.slices] == session.classes.not_predicted).all()
    shown[LOST.slices] = 1
    assert (shown == 1).all()


def test_a_damaged_chunk_is_named_with_what_to_do_and_the_rest_is_shown(session, run):
    (run / GONE).write_bytes((run / GONE).read_bytes()[:-1] + b"\0")
    with pytest.raises(SessionError, match=f"{GONE} is damaged .* Delete that file"):
        session.composite().read(WHOLE)
    assert (session.composite().read(Box((0, 0, 0), (64, 64, 64))) == 1).all()


@pytest.mark.parametrize(
    ("name", "value"), [("fill_value", 0), ("attributes", {"a": 1}), ("shape", [9, 9, 9])]
)
def test_a_run_that_describes_itself_otherwise_than_when_it_began_is_refused(session, run, name, value):
    path = run / "0" / "zarr.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(SessionError, match=r"zarr\.json is damaged .* not what the run began with"):
        session.composite().read(WHOLE)

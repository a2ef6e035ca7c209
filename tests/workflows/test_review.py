"""A list of places is made once, judged one by one, and its numbers say how the review goes."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from imagecodecs import png_decode

import toys
from napari_memseg.annotation.review import ACCEPTED, SKIPPED, Review, reviews_in
from napari_memseg.annotation.session import Session
from napari_memseg.errors import Cancelled, InputError, SessionError
from napari_memseg.geometry import Box
from napari_memseg.inference.control import Control
from napari_memseg.io.formats import open_volume
from napari_memseg.models.classes import ClassTable
from napari_memseg.workflows import review
from napari_memseg.workflows.review import find_places
from napari_memseg.workflows.review_statistics import minutes_of, statistics
from running import session_of_two_runs

SHAPE = (40, 48, 80)
CHANGED = Box((5, 5, 20), (35, 40, 60))
"""Where grey values lie between the thresholds of both models."""


@pytest.fixture(autouse=True, scope="module")
def _register():
    toys.register()


@pytest.fixture
def session(tmp_path):
    """A session with two runs that differ in a box, and one stroke in it."""
    with session_of_two_runs(tmp_path, SHAPE, CHANGED) as opened:
        yield opened


def found(session, **settings):
    *steps, last = find_places(session.path, **settings)
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))
    return Review.load(reviews_in(session.path)[0]), last.result


def test_places_are_where_the_runs_differ_and_each_has_a_picture_and_a_reason(session):
    made, result = found(session)
    first = made.places[0]
    foreground = session.classes.ids[1]
    assert first.kind == "differs"
    assert (first.label, first.other) == (foreground, 0)
    assert CHANGED.contains(Box.at(first.centre, (1, 1, 1)))
    assert first.score == pytest.approx(CHANGED.size / 2, rel=0.3)
    background = next(c.name for c in session.classes if c.id == 0)
    assert f"before: {background}" in result["places"][0]["reason"]
    picture = png_decode(made.thumbnail(0).read_bytes())
    assert picture.shape == (48, 80, 3)
    assert (picture[..., 0] != picture[..., 2]).any(), "labels show in colour"
    assert made.run == "0002"


def test_what_is_painted_or_confirmed_is_not_shown_again(session):
    session.overlay[CHANGED.slices] = session.classes.ids[1]
    session.confirm(Box((0, 0, 40), SHAPE))
    made, _ = found(session)
    assert made.places == []


def test_a_volume_too_large_is_weighed_at_a_coarser_level(session, monkeypatch):
    fine, _ = found(session)
    monkeypatch.setattr(review, "MOST_VOXELS", np.prod(SHAPE) // 8)
    coarse, result = found(session)
    assert result["level"] == 1
    assert CHANGED.contains(Box.at(coarse.places[0].centre, (1, 1, 1)))
    assert coarse.places[0].score == pytest.approx(fine.places[0].score, rel=0.3)
    assert all(Box.whole(SHAPE).contains(place.box) for place in coarse.places)


def test_verdicts_outlive_a_restart_and_lead_on(session):
    made, _ = found(session)
    assert made.next().number == 0
    made.judge(0, ACCEPTED, seconds=3.21, changed=False)
    made.judge(made.places[-1].number, SKIPPED, seconds=1.0, changed=False)
    again = Review.load(made.path)
    assert again.verdicts == made.verdicts
    assert again.verdicts[0].seconds == 3.2
    left = [place.number for place in again.places[1:-1]]
    assert (again.next() and again.next().number) == (left[0] if left else None)
    for number in left:
        again.judge(number, SKIPPED, seconds=0, changed=False)
    assert again.next() is None


def test_random_places_that_were_right_as_they_were_tell_how_good_the_prediction_is(session):
    made, _ = found(session)
    random = [place.number for place in made.places if place.kind == "random"]
    assert random
    made.judge(random[0], ACCEPTED, seconds=1, changed=False)
    assert made.honest == (1, 1)
    made.judge(random[0], ACCEPTED, seconds=1, changed=True)
    assert made.honest == (0, 1)


def test_without_a_prediction_there_is_nothing_to_review(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", np.zeros((4, 5, 6), np.uint8), photometric="minisblack")
    Session.create(tmp_path / "s", open_volume(tmp_path / "image.tif"), ClassTable.from_ids([1])).close()
    with pytest.raises(InputError, match="Segment first"):
        list(find_places(tmp_path / "s"))
    assert not (tmp_path / "s" / "reviews").exists()


def test_who_cancels_leaves_nothing_behind(session):
    control = Control()
    steps = find_places(session.path, control=control)
    next(steps)
    control.cancel()
    with pytest.raises(Cancelled):
        list(steps)
    assert reviews_in(session.path) == []


def test_a_damaged_list_is_refused_in_words(session):
    made, _ = found(session)
    (made.path / "places.json").write_text("{")
    with pytest.raises(SessionError, match="Move the folder away"):
        Review.load(made.path)


def test_statistics_compare_the_first_and_the_last_run_on_what_is_known(session):
    foreground, background = session.classes.ids[1], session.classes.background_opinion
    session.overlay[10:20, 10:20, 45:55] = foreground  # grey 0.5: only the last run says so
    session.overlay[0:4, 0:10, 0:10] = background
    session.overlay[0:4, 0:10, 60:70] = background  # both runs are wrong
    *_, last = statistics(session.path)
    result, rows = last.result, last.result["classes"]
    assert (result["known"], result["strokes"]) == (1800, 3)
    assert result["reviewed"] == pytest.approx(1800 / np.prod(SHAPE))
    assert rows[str(foreground)] == {
        "known": 1000,
        "changed": 0,
        "dice_before": 0.0,
        "dice_after": pytest.approx(2 * 1000 / 2400),
    }
    assert rows["0"]["changed"] == result["changed"] == 400


def test_breaks_are_no_work():
    moments = [f"2026-01-01T10:{minute:02d}:00+00:00" for minute in (0, 1, 2, 40, 41)]
    assert minutes_of(moments) == 3
    assert minutes_of([]) == 0

"""Edit tools: what each paints, what it never touches, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation.helpers import make_run, publish
from napari_memseg.annotation.tools import between, fill, grey, outline, parts
from napari_memseg.annotation.tools.edit import MOST_VOXELS, Scene, apply
from napari_memseg.annotation.tools.split import split
from napari_memseg.errors import ClassTableError, GeometryError, InputError
from napari_memseg.geometry import Box

BONE, MARROW, CARTILAGE, BACKGROUND = 1, 2, 15, 254
"""What is painted for the classes of the session."""
NOBODY = 255
SLICE = Box((10, 0, 0), (11, 66, 130))
CUBE = Box((0, 0, 0), (40, 60, 60))


def box(z, y, x):
    """Return the box of three spans."""
    return Box(
        *zip(*(span if isinstance(span, tuple) else (span, span + 1) for span in (z, y, x)), strict=True)
    )


@pytest.fixture
def predict(session):
    """Begin a run that says background everywhere, but for boxes of classes; return what is shown."""

    def run(*objects):
        _, path = session.new_run()
        array = make_run(path)
        labels = np.zeros(array.shape, np.uint8)
        for where, class_id in objects:
            labels[where.slices] = class_id
        publish(array, Box.whole(array.shape), labels)
        return session.composite()

    return run


@pytest.fixture
def paint(session):
    def on(where, value):
        session.overlay.fill(where, value)

    return on


def did(session, edit):
    """Apply an edit and return the boolean array of what changed in what is painted."""
    before = np.asarray(session.overlay)
    apply(edit, session.overlay)
    return np.asarray(session.overlay) != before


# What all edits are


def test_an_edit_is_one_step_that_undo_takes_back(session, predict, paint):
    paint(box((0, 40), 20, (3, 9)), MARROW)
    composite = predict((box((5, 30), (10, 60), (0, 100)), BONE))
    before = np.asarray(session.overlay)
    steps = session.corrections.seq
    assert did(session, fill.recolor_object(composite, (6, 11, 1), CARTILAGE)).any()
    assert session.corrections.seq == steps + 1
    session.overlay.undo()
    assert (np.asarray(session.overlay) == before).all()


def test_a_tool_touches_nothing_itself(session, predict):
    composite = predict((box((5, 30), (10, 60), (0, 100)), BONE))
    fill.recolor_object(composite, (6, 11, 1), MARROW)
    assert not np.asarray(session.overlay).any()


def test_too_many_voxels_are_refused_before_they_are_read(session, monkeypatch):
    composite = session.composite()
    monkeypatch.setattr(type(composite), "read", lambda *_: pytest.fail("it was read"))
    monkeypatch.setattr("napari_memseg.annotation.tools.edit.MOST_VOXELS", 1000)
    with pytest.raises(GeometryError, match=r"too many to work on at once.*fewer slices"):
        Scene.of(composite, CUBE)


def test_a_class_that_is_not_there_is_refused(session):
    with pytest.raises(ClassTableError, match="no class 7"):
        parts.remove_islands(session.composite(), 7, CUBE, 10)


# Regions


def test_a_slice_is_filled_inside_a_contour(session, paint):
    ring = box(10, (20, 40), (30, 60))
    paint(ring, BONE)
    paint(box(10, (22, 38), (32, 58)), 0)
    edit = fill.fill(session.composite(), (10, 30, 45), BONE, SLICE)
    assert edit.note == ""
    did(session, edit)
    opinions = np.asarray(session.overlay)
    assert (opinions[ring.slices] == BONE).all()
    assert opinions.astype(bool).sum() == ring.size


def test_a_fill_that_reaches_the_border_of_the_view_says_so(session):
    view = box(10, (10, 30), (10, 30))
    edit = fill.fill(session.composite(), (10, 20, 20), BONE, view)
    assert "move the view" in edit.note
    assert edit.count == view.size
    assert view.contains(edit.box)


def test_a_fill_in_three_dimensions_stays_in_its_box(session, predict):
    composite = predict((box((2, 70), (5, 60), (5, 120)), BONE))
    within = box((0, 20), (0, 66), (0, 130))
    edit = fill.fill(composite, (3, 6, 6), MARROW, within)
    assert edit.count == 18 * 55 * 115
    assert edit.note


def test_a_fill_paints_background_as_an_opinion(session, predict):
    composite = predict((box((2, 9), (5, 20), (5, 20)), BONE))
    did(session, fill.fill(composite, (3, 6, 6), 0, box((0, 20), (0, 66), (0, 130))))
    opinions = np.asarray(session.overlay)
    assert (opinions[2:9, 5:20, 5:20] == BACKGROUND).all()


def test_the_whole_object_changes_however_long_it_is(session, predict):
    snake = [
        box((30, 33), (0, 66), (4, 6)),
        box((30, 33), (64, 66), (4, 128)),
        box((30, 70), (64, 66), (126, 128)),
    ]
    composite = predict(*((part, BONE) for part in snake), (box((0, 10), (0, 10), (0, 10)), BONE))
    changed = did(session, fill.recolor_object(composite, (31, 0, 5), CARTILAGE))
    expected = np.zeros(changed.shape, bool)
    for part in snake:
        expected[part.slices] = True
    assert (changed == expected).all()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_region_is_found_as_a_look_at_everything_finds_it(session, monkeypatch, data):
    monkeypatch.setattr(fill, "FIRST", (4, 4, 4))
    seed = data.draw(st.integers(0, 2**32 - 1))
    labels = (np.random.default_rng(seed).random((20, 24, 28)) < 0.4).astype(np.uint8) * BONE
    labels[10, 12, 14] = BONE
    session.overlay[:20, :24, :28] = np.where(labels, BONE, BACKGROUND).astype(np.uint8)
    scene, region = fill.region_at(session.composite(), (10, 12, 14), Box.whole(session.shape))
    found = np.zeros(session.shape, bool)
    found[scene.box.slices] = region
    parts_of_all = ndi.label(labels)[0]
    assert (found[:20, :24, :28] == (parts_of_all == parts_of_all[10, 12, 14])).all()
    assert not found[20:].any()


def test_an_object_that_is_too_large_is_refused(session, predict):
    composite = predict((box((0, 70), (0, 66), (0, 130)), BONE))
    with pytest.raises(GeometryError, match=r"reaches beyond.*Fill it in a slice"):
        fill.region_at(composite, (35, 30, 60), Box.whole(session.shape), most=64**3)


@pytest.mark.parametrize(("predicted", "told"), [(False, "Nothing is shown"), (True, "There is background")])
def test_no_object_under_the_cursor_is_said(session, predict, predicted, told):
    composite = predict() if predicted else session.composite()
    with pytest.raises(InputError, match=told):
        fill.recolor_object(composite, (3, 3, 3), BONE)


def test_a_class_is_merged_into_another_in_a_box(session, predict):
    composite = predict((box((0, 30), (0, 30), (0, 30)), BONE), (box((0, 9), (40, 50), (0, 9)), CARTILAGE))
    changed = did(session, fill.merge(composite, (5, 1, 1), MARROW, box((5, 9), (0, 66), (0, 130))))
    assert changed.sum() == changed[5:9, :30, :30].sum() == 4 * 30 * 30


# Small parts


def test_islands_become_what_surrounds_them(session, predict):
    composite = predict(
        (box((0, 30), (0, 30), (0, 30)), MARROW),
        (box((5, 7), (5, 7), (5, 7)), BONE),
        (box((20, 30), (40, 50), (40, 50)), BONE),
        (box((5, 7), (50, 52), (50, 52)), BONE),
    )
    did(session, parts.remove_islands(composite, BONE, CUBE, 9))
    shown = session.composite()
    assert (shown.read(box((5, 7), (5, 7), (5, 7))) == MARROW).all()
    assert (shown.read(box((5, 7), (50, 52), (50, 52))) == 0).all()
    assert (shown.read(box((20, 30), (40, 50), (40, 50))) == BONE).all()


def test_a_part_that_the_view_cuts_off_is_no_island(session, predict):
    composite = predict((box((10, 60), (10, 60), (10, 60)), BONE))
    assert parts.remove_islands(composite, BONE, box((0, 11), (0, 66), (0, 130)), 10_000).count == 0


def test_an_island_in_nowhere_is_taken_back(session, paint):
    paint(box(10, (5, 7), (5, 7)), BONE)
    did(session, parts.remove_islands(session.composite(), BONE, SLICE, 9))
    assert not np.asarray(session.overlay).any()


def test_small_holes_are_closed_and_large_ones_stay(session, predict):
    composite = predict(
        (box((5, 35), (5, 55), (5, 55)), BONE),
        (box((8, 10), (8, 10), (8, 10)), 0),
        (box((20, 30), (20, 30), (20, 30)), 0),
    )
    changed = did(session, parts.close_holes(composite, BONE, CUBE, 100))
    assert changed.sum() == changed[8:10, 8:10, 8:10].sum() == 8


def test_a_hole_that_holds_another_class_or_an_opinion_is_left(session, predict, paint):
    composite = predict(
        (box((5, 35), (5, 55), (5, 55)), BONE),
        (box((8, 10), (8, 10), (8, 10)), MARROW),
        (box((20, 22), (20, 22), (20, 22)), 0),
    )
    paint(box(20, 20, 20), BACKGROUND)
    assert parts.close_holes(composite, BONE, CUBE, 100).count == 0


def test_holes_of_a_slice_are_those_of_the_picture(session, predict):
    composite = predict((box((0, 70), (5, 55), (5, 55)), BONE), (box((0, 70), (8, 10), (8, 10)), 0))
    edit = parts.close_holes(composite, BONE, SLICE, 100)
    assert edit.box == box(10, (8, 10), (8, 10))


# Outlines


def test_growing_stops_at_other_classes_and_at_opinions(session, predict, paint):
    composite = predict(
        (box((10, 20), (10, 20), (10, 20)), BONE), (box((10, 20), (10, 20), (21, 25)), MARROW)
    )
    paint(box((10, 20), (10, 20), 9), BACKGROUND)
    did(session, outline.grow(composite, BONE, CUBE, 3))
    shown = session.composite().read(CUBE)
    assert (shown[10:20, 10:20, 20] == BONE).all()
    assert (shown[10:20, 10:20, 21:25] == MARROW).all()
    assert (shown[10:20, 10:20, 9] == 0).all()
    assert (shown[10:20, 7:10, 10:20] == BONE).all()
    assert (shown[10:20, 6, 10:20] == 0).all()


def test_growing_goes_over_other_classes_if_it_is_asked_to(session, predict):
    composite = predict(
        (box((10, 20), (10, 20), (10, 20)), BONE), (box((10, 20), (10, 20), (20, 25)), MARROW)
    )
    did(session, outline.grow(composite, BONE, CUBE, 2, over=True))
    assert (session.composite().read(CUBE)[12, 12, 20:22] == BONE).all()


def test_what_lies_just_outside_of_the_view_grows_into_it(session, predict):
    composite = predict((box((0, 70), (0, 66), (0, 10)), BONE))
    edit = outline.grow(composite, BONE, box(10, (20, 30), (11, 30)), 3)
    assert edit.box == box(10, (20, 30), (11, 13))


def test_shrinking_takes_the_rim_and_no_face_of_the_volume(session, predict):
    composite = predict((box((0, 40), (0, 66), (0, 30)), BONE))
    did(session, outline.shrink(composite, BONE, box((0, 35), (0, 66), (0, 60)), 2))
    shown = session.composite().read(box((0, 35), (0, 66), (0, 60)))
    assert (shown[:, :, :28] == BONE).all()
    assert (shown[:, :, 28:] == 0).all()


def test_smoothing_takes_spikes_and_leaves_flat_faces(session, predict):
    composite = predict((box((0, 70), (0, 66), (0, 30)), BONE), (box(10, 20, (30, 36)), BONE))
    did(session, outline.smooth(composite, BONE, CUBE, 1))
    shown = session.composite().read(box((0, 40), (0, 60), (0, 60)))
    assert (shown[:, :, :30] == BONE).all()
    assert (shown[:, :, 31:] == 0).all()


def test_smoothing_overrules_no_opinion(session, predict, paint):
    composite = predict((box((0, 70), (0, 66), (0, 30)), BONE))
    paint(box(10, 20, 10), MARROW)
    assert outline.smooth(composite, BONE, CUBE, 2).count == 0


@pytest.mark.parametrize("radius", [0, 33])
def test_an_impossible_radius_is_refused(session, radius):
    with pytest.raises(InputError, match="choose 1 to 32"):
        outline.grow(session.composite(), BONE, CUBE, radius)


# Between slices


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_between_two_equal_shapes_lies_the_same_shape(session, paint, axis):
    stack = [(5, 25), (8, 30), (10, 40)]
    for at in (stack[axis][0], stack[axis][1] - 1):
        spans = list(stack)
        spans[axis] = at
        paint(box(*spans), BONE)
    did(session, between.interpolate(session.composite(), BONE, CUBE, axis))
    opinions = np.asarray(session.overlay)
    assert (opinions[5:25, 8:30, 10:40] == BONE).all()
    assert opinions.astype(bool).sum() == 20 * 22 * 30


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(r0=st.integers(2, 14), r1=st.integers(2, 14))
def test_a_shape_goes_over_to_a_larger_one_in_steps(r0, r1):
    planes = np.zeros((7, 41, 41), bool)
    for at, radius in ((0, r0), (6, r1)):
        planes[at] = grey.ball(box(0, (0, 41), (0, 41)), (0, 20, 20), radius)[0]
    between._go_over(planes[0], planes[6], planes[1:6])
    areas = planes.sum(axis=(1, 2)).tolist()
    assert areas in (sorted(areas), sorted(areas, reverse=True))
    assert abs(np.sqrt(areas[3] / np.pi) - (r0 + r1) / 2) < 1


def test_a_shape_that_moved_away_is_followed(session, paint):
    paint(box(5, (5, 10), (5, 10)), BONE)
    paint(box(9, (25, 30), (5, 10)), BONE)
    did(session, between.interpolate(session.composite(), BONE, CUBE))
    opinions = np.asarray(session.overlay)
    assert (opinions[7, 15:20, 5:10] == BONE).all()


def test_interpolation_overrules_no_opinion_but_predictions(session, predict, paint):
    composite = predict((CUBE, MARROW))
    for z in (5, 9):
        paint(box(z, (5, 15), (5, 15)), BONE)
    paint(box(7, 8, (5, 10)), CARTILAGE)
    paint(box(7, 9, (5, 10)), BACKGROUND)
    did(session, between.interpolate(composite, BONE, CUBE))
    opinions = np.asarray(session.overlay)
    assert (opinions[7, 8, 5:10] == CARTILAGE).all()
    assert (opinions[7, 9, 5:10] == BACKGROUND).all()
    assert (opinions[7, 10:15, 5:15] == BONE).all()


def test_all_consecutive_slices_are_joined_each_class_for_itself(session, paint):
    for z, value in ((2, BONE), (4, BONE), (6, BONE), (3, MARROW), (5, MARROW)):
        paint(box(z, (5, 9), (5, 9)) if value == BONE else box(z, (20, 24), (5, 9)), value)
    did(session, between.interpolate(session.composite(), BONE, CUBE))
    opinions = np.asarray(session.overlay)
    assert (opinions[2:7, 5:9, 5:9] == BONE).all()
    assert not opinions[4, 20:24].any()


@pytest.mark.parametrize(("at", "found"), [(20, (10, 31)), (10, (10, 31)), (31, (30, 31)), (5, (10, 11))])
def test_the_painted_slices_around_one_are_found(session, paint, at, found):
    for z in (10, 30):
        paint(box(z, (5, 9), (5, 9)), BONE)
    paint(box(at, 40, 40), MARROW)
    around = between.painted_around(session.composite(), BONE, box(at, (0, 66), (0, 130)))
    assert around == box(found, (5, 9), (5, 9))


def test_where_nothing_is_painted_around_the_view_is_all_there_is(session):
    assert between.painted_around(session.composite(), BONE, SLICE) == SLICE


def test_painted_slices_beyond_reach_are_not_looked_for(session, paint, monkeypatch):
    monkeypatch.setattr(between, "REACH", 5)
    paint(box(20, (5, 9), (5, 9)), BONE)
    assert between.painted_around(session.composite(), BONE, SLICE) == SLICE


def test_interpolation_needs_two_slices_with_a_gap(session, paint):
    paint(box(5, (5, 10), (5, 10)), BONE)
    with pytest.raises(InputError, match="painted in 1 slices here"):
        between.interpolate(session.composite(), BONE, CUBE)


def test_the_labels_of_a_slice_are_carried_to_the_next(session, predict, paint):
    composite = predict((box((0, 70), (30, 40), (30, 40)), MARROW))
    paint(box(10, (5, 10), (5, 10)), BONE)
    paint(box(11, 5, 5), CARTILAGE)
    did(session, between.copy_slice(composite, SLICE, 0, 10, 11))
    opinions = np.asarray(session.overlay)[11]
    assert opinions[5, 5] == CARTILAGE
    assert (opinions == BONE).sum() == 24
    assert not (opinions == MARROW).any()


def test_all_that_is_shown_can_be_carried_on(session, predict):
    composite = predict((box(10, (30, 40), (30, 40)), MARROW))
    did(session, between.copy_slice(composite, SLICE, 0, 10, 9, "shown"))
    opinions = np.asarray(session.overlay)[9]
    assert (opinions == MARROW).sum() == 100
    assert (opinions == BACKGROUND).sum() == opinions.size - 100


def test_there_is_no_slice_beyond_the_last(session, paint):
    with pytest.raises(InputError, match="no slice 70"):
        between.copy_slice(session.composite(), SLICE, 0, 69, 70)


# Splitting


@pytest.fixture
def dumbbell(predict):
    """Two cubes that hang together by a bridge, 30 voxels from the first to the last."""
    return predict(
        (box((5, 17), (5, 17), (5, 17)), BONE),
        (box((10, 12), (10, 12), (17, 23)), BONE),
        (box((5, 17), (5, 17), (23, 35)), BONE),
    )


def test_a_bridge_is_where_an_object_parts(session, dumbbell, paint):
    paint(box(10, 10, (7, 10)), BONE)
    paint(box(10, 10, (30, 33)), MARROW)
    did(session, split(dumbbell, (6, 6, 6), MARROW))
    shown = session.composite().read(CUBE)
    assert (shown[5:17, 5:17, 5:17] == BONE).all()
    assert (shown[5:17, 5:17, 23:35] == MARROW).all()


def test_an_edge_of_the_image_is_where_an_object_parts(session, predict, paint):
    composite = predict((box(10, (5, 15), (5, 45)), BONE))
    paint(box(10, 10, (6, 8)), BONE)
    paint(box(10, 10, (40, 43)), MARROW)
    image = np.zeros(session.shape, np.uint8)
    image[..., 12:] = 200
    edit = split(composite, (10, 6, 20), MARROW, SLICE, lambda where: image[where.slices])
    did(session, edit)
    shown = session.composite().read(box(10, (5, 15), (5, 45)))[0]
    assert (shown[:, :6] == BONE).all()
    assert (shown[:, 8:] == MARROW).all()


def test_a_split_says_which_stroke_is_missing(session, dumbbell, paint):
    paint(box(10, 10, (7, 10)), BONE)
    with pytest.raises(InputError, match="Missing here: class 2"):
        split(dumbbell, (6, 6, 6), MARROW)


def test_a_split_begins_on_the_object(session, dumbbell, paint):
    with pytest.raises(InputError, match="nobody painted"):
        split(dumbbell, (0, 0, 0), MARROW)
    with pytest.raises(InputError, match="class 1 already"):
        split(dumbbell, (6, 6, 6), BONE)


# Grey values


def test_a_dab_is_painted_where_grey_values_agree(session):
    where = box(10, (10, 21), (10, 21))
    image = np.tile(np.arange(11), (1, 11, 1))
    edit = grey.dab(session.composite(), where, (10, 15, 15), BONE, 5, image, grey.GreyRange.about(6, 1))
    assert edit.box == box(10, (10, 21), (15, 18))


def test_a_ball_has_its_radius_along_each_axis():
    cube = grey.ball(box((0, 11), (0, 11), (0, 11)), (5, 5, 5), 3)
    assert cube[5, 5].sum() == cube[5, :, 5].sum() == cube[:, 5, 5].sum() == 7


def test_a_range_of_grey_values_has_a_lower_and_an_upper_end():
    with pytest.raises(InputError, match="from the darker to the brighter"):
        grey.GreyRange(5, 3)


def test_a_brush_paints_only_where_it_is_allowed(session):
    overlay = session.overlay
    overlay[0, 0, 0:4] = MARROW
    overlay.only_where = lambda where: np.broadcast_to(np.arange(where.shape[2]) % 2 == 0, where.shape)
    overlay[0, 0:1, 0:6] = BONE
    assert overlay[0, 0, 0:6].tolist() == [BONE, MARROW, BONE, MARROW, BONE, 0]
    overlay[0, 0:1, 0:6] = 0
    assert not np.asarray(overlay).any()
    overlay.undo()
    assert overlay[0, 0, 0:6].tolist() == [BONE, MARROW, BONE, MARROW, BONE, 0]


def test_a_large_plane_may_be_worked_on():
    assert MOST_VOXELS >= 4096**2

"""A network learns while somebody paints, and shows what it thinks of what is looked at."""

from __future__ import annotations

from dataclasses import replace
from itertools import count, pairwise

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from napari_memseg.annotation.session import Session
from napari_memseg.errors import Cancelled, InputError
from napari_memseg.geometry import Box
from napari_memseg.inference.control import Control
from napari_memseg.io.formats import open_volume
from napari_memseg.models.checkpoint import read_card
from napari_memseg.models.classes import ClassTable
from napari_memseg.training.config import TrainConfig
from napari_memseg.workflows import live as live_module
from napari_memseg.workflows.live import live
from napari_memseg.workflows.previewing import FIRST_SECONDS, FIRST_STEPS, Previews, pieces_of
from napari_memseg.workflows.train import train
from napari_memseg.workflows.train_job import TrainJob

SHAPE = (40, 150, 150)
PLANE = Box((20, 0, 0), (21, 150, 150))


@pytest.fixture
def session(tmp_path):
    """A session on an image that is dark on the left and bright on the right, a stroke on either side."""
    grey = np.random.default_rng(0).integers(0, 60, SHAPE).astype(np.uint8)
    grey[:, :, 75:] += 150
    tifffile.imwrite(tmp_path / "image.tif", grey, photometric="minisblack")
    opened = Session.create(
        tmp_path / "work.memseg", open_volume(tmp_path / "image.tif"), ClassTable.from_ids([1])
    )
    with opened:
        opened.overlay[18:22, 40:60, 10:30] = opened.classes.background_opinion
        opened.overlay[18:22, 40:60, 110:130] = 1
        yield opened


def job(session, **more):
    quick = TrainConfig(steps=40, batch=4, threads=1, device="cpu", patch=(16, 16, 16))
    out = session.path / "models" / "live-1.safetensors"
    return TrainJob(
        **{"session": session.path, "out": out, "architecture": "pixels", "learning": quick, **more}
    )


def looking(box=PLANE):
    control = Control()
    control.look_at(box)
    return control


def agree(steps):
    """Return the share of previewed voxels that are told apart as they should be."""
    right = total = 0
    for step in steps:
        truth = np.broadcast_to(np.arange(step.box.start[2], step.box.stop[2]) >= 75, step.voxels.shape)
        right, total = right + int((step.voxels == truth).sum()), total + truth.size
    return right / total


@pytest.mark.slow
def test_a_training_shows_what_is_looked_at_and_learns_the_same(session, monkeypatch):
    monkeypatch.setattr("napari_memseg.workflows.previewing.FIRST_SECONDS", 0.0)
    shown = list(train(job(session), control=looking()))
    unseen = list(train(job(session, out=session.path / "models" / "other.safetensors")))
    pieces = [step for step in shown if step.voxels is not None]
    assert pieces
    assert all(step.voxels.shape == step.box.shape and PLANE.contains(step.box) for step in pieces)
    assert not any(step.voxels is not None for step in unseen)
    assert shown[-1].result["final_loss"] == unseen[-1].result["final_loss"]


@pytest.mark.slow
def test_live_learns_from_each_stroke_and_follows_the_view(session, monkeypatch):
    monkeypatch.setattr(live_module, "FIRST_STEPS", 30)
    monkeypatch.setattr(live_module, "STEPS", 10)
    control, other = looking(), Box((5, 0, 0), (6, 150, 150))
    seen, story = [], iter(["paint", "look away", "stop"])
    for step in live(job(session), control=control):
        seen.append(step)
        if step.stage != "preview" or step.done < step.total:
            continue
        match next(story):
            case "paint":
                session.overlay[5, 40:60, 110:130] = 1
            case "look away":
                control.look_at(other)
            case "stop":
                control.cancel()
    pieces = [step for step in seen if step.voxels is not None]
    assert agree([step for step in pieces if other.contains(step.box)]) > 0.9
    assert seen[-1].result["rounds"] == 2
    numbers = [step.done for step in seen if "loss" in step.values]
    assert numbers == list(range(1, 41)), "steps are numbered on from round to round"
    assert read_card(session.path / "models" / "live-1.safetensors").architecture == "pixels"


def test_live_waits_for_strokes_of_every_class_and_says_so(session):
    session.add_class(2, "not painted yet")
    control, said = looking(), list[str]()
    steps = live(job(session), control=control)
    said.append(next(steps).message)
    control.cancel()
    with pytest.raises(Cancelled):
        next(steps)
    assert "not painted yet" in said[0]
    assert not (session.path / "models" / "live-1.safetensors").exists()


def test_stopping_in_a_later_round_keeps_the_model_of_the_last_whole_one(session, monkeypatch):
    monkeypatch.setattr(live_module, "FIRST_STEPS", 5)
    control, rounds = looking(None), count()
    for step in live(job(session), control=control):
        if step.stage == "live" and step.done == step.total and next(rounds) == 0:
            session.overlay[5, 40:60, 110:130] = 1
        if step.done == 8:
            control.cancel()
    assert step.result["rounds"] == 1
    assert [path.name for path in (session.path / "models").iterdir()] == ["live-1.safetensors"]


def test_the_model_that_it_began_with_is_what_live_is_compared_with(session, monkeypatch):
    scores = iter([0.25, 0.75])

    def scored(job, *, control):
        for step in train(job, control=control):
            found = step.result and {**step.result, "val_dice_before": next(scores)}
            yield replace(step, result=found)

    for name, value in {"FIRST_STEPS": 3, "STEPS": 3, "train": scored}.items():
        monkeypatch.setattr(live_module, name, value)
    control, rounds = looking(None), count()
    for step in live(job(session), control=control):
        if step.result is None and step.done == step.total and not step.values:
            session.overlay[5, 40:60, 110:130] = 1
            if next(rounds) == 1:
                control.cancel()
    assert (step.result["rounds"], step.result["val_dice_before"]) == (2, 0.25)


def test_learning_gets_twice_the_time_that_looking_takes():
    now = [0.0]

    def preview(box):
        now[0] += 1.0
        return np.zeros(box.shape, np.uint8)

    control = looking(Box((0, 0, 0), (1, 600, 600)))
    previews = Previews(preview, (8, 600, 600), control, clock=lambda: now[0])
    looked = []
    for _ in range(60):
        now[0] += 0.5  # a step of learning
        looked.append(len(list(previews.while_learning())))
    assert max(looked) == 3, "a few seconds in one go"
    assert sum(looked) <= 0.5 * 0.5 * len(looked) + 3
    assert sum(looked) > 9, "and it goes on"


def test_the_first_look_waits_for_some_steps_or_some_seconds():
    def looks(seconds_of_a_step):
        now = [0.0]
        previews = Previews(lambda box: np.zeros(box.shape, np.uint8), SHAPE, looking(), clock=lambda: now[0])
        for step in range(1, 100):
            now[0] += seconds_of_a_step
            if list(previews.while_learning()):
                return step
        return None

    assert looks(0.01) == FIRST_STEPS
    assert looks(2.0) == FIRST_SECONDS / 2


def test_who_looks_elsewhere_is_followed_at_once():
    control = looking(Box((0, 0, 0), (1, 600, 600)))
    previews = Previews(lambda box: np.zeros(box.shape, np.uint8), (8, 600, 600), control)
    elsewhere = Box((3, 0, 0), (4, 100, 100))
    steps = previews.all_of()
    assert next(steps).box.start[0] == 0
    control.look_at(elsewhere)
    assert [step.box for step in steps] == [elsewhere]
    assert not previews.moved


def test_what_cannot_be_previewed_is_told_and_learning_goes_on():
    def preview(box):
        if box.start[2] == 0:
            raise InputError("NaN")
        return np.zeros(box.shape, np.uint8)

    previews = Previews(preview, SHAPE, looking())
    told = [(step.message, step.voxels is None) for step in previews.all_of()]
    assert sorted(told) == [("", False)] * 2 + [("No preview here: NaN", True)] * 2


def test_where_nothing_is_looked_at_nothing_has_moved():
    control = looking(None)
    previews = Previews(lambda box: np.zeros(box.shape, np.uint8), SHAPE, control)
    assert not previews.moved
    control.look_at(PLANE)
    assert previews.moved
    assert len(list(previews.all_of())) == 4
    control.look_at(None)
    assert not previews.moved


lengths = st.integers(1, 700)


@given(st.tuples(st.integers(1, 60), lengths, lengths), st.data())
def test_pieces_cover_the_view_once_from_the_middle_outwards(shape, data):
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    view = Box(start, stop)
    times = np.zeros(shape, np.uint8)
    pieces = pieces_of(view, shape)
    for piece in pieces:
        times[piece.slices] += 1
    assert (times[view.slices] == 1).all()
    assert times.sum() == view.size
    middle = [(a + b) // 2 for a, b in zip(start, stop, strict=True)]
    distance = [
        max(abs((a + b) / 2 - m) for a, b, m in zip(p.start, p.stop, middle, strict=True)) for p in pieces
    ]
    assert all(a <= b + 1 for a, b in pairwise(distance))

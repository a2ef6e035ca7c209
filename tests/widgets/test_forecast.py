"""Before a run the page Segment says what it would take, and afterwards what it took."""

import threading

import pytest

from napari_memseg.inference.config import SegmentConfig
from napari_memseg.workflows import child_process as children
from widgets.hands import click, close, line, stroke, type_into

pytestmark = pytest.mark.qt

FORECAST = "8 tiles, about 1.6 GiB of memory, 0.1 GiB of disk, about 2 min; overlap 1.45"
MEASURING = "Measuring what the run takes…"


@pytest.fixture
def measuring(model):
    """A file that keeps the child measuring until it is deleted."""
    path = model.with_suffix(".measuring")
    path.touch()
    return path


@pytest.fixture
def open_page(until, open_dock, folder, model):
    """Open the page Segment on a session, with a model to choose."""

    def make(path=model):
        viewer, dock = open_dock(folder)
        dock.segment.model.addItem(path.stem, path)
        dock.segment.confidence.setChecked(False)
        dock.show_page(dock.segment)
        until(dock.segment.isVisible)
        return viewer, dock

    return make


def asked(model):
    """What the child was asked: skip below, most memory, region, confidence."""
    path = model.with_suffix(".asked")
    return path.read_text().splitlines() if path.exists() else []


def test_what_a_run_takes_is_measured_in_a_child_and_said_beside_the_button(
    until, open_page, model, measuring, monkeypatch
):
    from napari_memseg.widgets import relay

    threads, start = [], relay.child_process
    monkeypatch.setattr(
        relay, "child_process", lambda *a, **k: threads.append(threading.current_thread()) or start(*a, **k)
    )
    viewer, dock = open_page()
    page = dock.segment
    assert page.forecast.text() == MEASURING
    assert page.segment.isEnabled()
    until(lambda: asked(model) == ["None None None False"])
    assert page.forecast.text() == MEASURING
    measuring.unlink()
    until(lambda: page.forecast.text() == FORECAST)
    assert page.forecast.isVisible()
    assert threading.main_thread() not in threads
    close(viewer)


def test_a_page_that_nobody_looks_at_asks_nothing(until, open_page, model):
    viewer, dock = open_page()
    until(lambda: dock.segment.forecast.text() == FORECAST)
    dock.show_page(dock.annotate)
    dock.segment.confidence.setChecked(True)
    assert dock.desk.forecasting._question.config.confidence is False
    dock.show_page(dock.segment)
    until(lambda: asked(model) == ["None None None False", "None None None True"])
    close(viewer)


def test_only_the_newest_of_several_questions_counts(until, open_page, model, measuring):
    viewer, dock = open_page()
    page = dock.segment
    until(lambda: len(asked(model)) == 1)
    type_into(page.most_memory, "3")
    dock.desk.forecasting.go_on()
    type_into(page.most_memory, "4,5")
    measuring.unlink()
    until(lambda: "about 4.5 GiB of memory" in page.forecast.text())
    assert asked(model) == ["None None None False", "None 4.5 None False"]
    close(viewer)


def test_what_decides_on_it_changes_it(until, open_page, model):
    viewer, dock = open_page()
    page = dock.segment
    until(lambda: len(asked(model)) == 1)
    type_into(page.skip_below, "-500")
    until(lambda: len(asked(model)) == 2)
    page.region.kind.setCurrentText("what is visible")
    until(lambda: len(asked(model)) == 3)
    viewer.dims.set_current_step(0, 39)
    until(lambda: len(asked(model)) == 4)
    _, second, third, fourth = asked(model)
    assert second == "-500.0 None None False"
    assert third.startswith("-500.0 None 0:")
    assert fourth.startswith("-500.0 None 8:40,")
    until(lambda: page.forecast.text() == FORECAST)
    close(viewer)


def test_a_run_that_would_be_refused_cannot_be_begun_and_the_button_says_why(until, open_page):
    viewer, dock = open_page()
    page = dock.segment
    type_into(page.most_memory, "1")
    until(lambda: not page.segment.isEnabled())
    assert page.segment.reason.text() == page.segment.toolTip()
    assert "The smallest tile needs 2.0 GiB" in page.segment.reason.text()
    assert page.forecast.isHidden()
    page.most_memory.clear()
    assert page.segment.isEnabled()
    until(lambda: page.forecast.text() == FORECAST)
    close(viewer)


def test_what_was_refused_is_asked_again_when_somebody_comes_back(until, open_page, model):
    viewer, dock = open_page()
    type_into(dock.segment.most_memory, "1")
    until(lambda: not dock.segment.segment.isEnabled())
    times = len(asked(model))
    dock.show_page(dock.train)
    dock.show_page(dock.segment)
    until(lambda: len(asked(model)) == times + 1 and not dock.segment.segment.isEnabled())
    close(viewer)


@pytest.mark.parametrize(
    ("field", "text", "why"),
    [
        ("skip_below", "dark", "Skip below is a number"),
        ("skip_below", "nan", "Skip below is a number"),
        ("most_memory", "much", "Most memory is a number"),
        ("most_memory", "0", "hold nothing"),
    ],
)
def test_what_is_no_number_is_not_asked_and_nothing_is_begun(until, open_page, model, field, text, why):
    viewer, dock = open_page()
    until(lambda: dock.segment.forecast.text() == FORECAST)
    type_into(getattr(dock.segment, field), text)
    assert why in dock.segment.segment.reason.text()
    assert not dock.segment.segment.isEnabled()
    assert dock.segment.forecast.isHidden()
    getattr(dock.segment, field).clear()
    until(lambda: dock.segment.forecast.text() == FORECAST)
    close(viewer)


def test_a_child_that_dies_of_measuring_says_so_and_a_run_may_be_tried_all_the_same(until, open_page, model):
    viewer, dock = open_page(model.with_name("deadly.safetensors"))
    until(lambda: "could not be measured" in dock.segment.forecast.text())
    assert "SIGKILL" in dock.segment.forecast.text()
    assert dock.segment.segment.isEnabled()
    close(viewer)


# Beside other work


def test_nothing_is_measured_while_other_work_goes_on(until, open_page, model):
    viewer, dock = open_page()
    page = dock.segment
    until(lambda: page.forecast.text() == FORECAST)
    for class_id, y in ((0, 0.5), (1, 0.7)):
        dock.desk.choose(class_id)
        stroke(viewer, line(0.4, y, 0.6, y))
    until(dock.train.train.isEnabled)
    dock.show_page(dock.train)
    type_into(dock.train.steps, "20")
    click(dock.train.train)
    until(lambda: len(dock.train.curve.losses) == 5)
    dock.show_page(page)
    page.confidence.setChecked(True)
    until(lambda: page.forecast.text() == "What the run takes is measured after the training.")
    assert not dock.desk.forecasting.relay.busy
    dock.desk.training.cancel()
    until(lambda: page.forecast.text() == FORECAST)
    assert asked(model) == ["None None None False", "None None None True"]
    close(viewer)


def test_a_run_that_is_begun_while_it_is_measured_follows_in_the_same_child(
    until, open_page, model, measuring
):
    viewer, dock = open_page()
    until(lambda: len(asked(model)) == 1)
    click(dock.segment.segment)
    assert dock.segment.bar.text == "Planning the run…"
    assert dock.desk.segmenting.relay.busy
    assert not dock.desk.session.runs()
    measuring.unlink()
    until(lambda: not dock.desk.segmenting.relay.busy)
    assert dock.desk.session.runs()[-1].is_finished
    assert dock.segment.forecast.text() == FORECAST
    assert len(children._children) == 1
    close(viewer)


def test_a_run_that_waits_for_the_measurement_can_be_cancelled(until, open_page, model, measuring):
    viewer, dock = open_page()
    until(lambda: len(asked(model)) == 1)
    click(dock.segment.segment)
    click(dock.segment.cancel)
    until(lambda: not dock.desk.segmenting.relay.busy)
    assert "Cancelled" in dock.segment.bar.text
    assert not dock.desk.session.runs()
    measuring.unlink()
    until(lambda: dock.segment.forecast.text() == FORECAST)
    close(viewer)


def test_a_window_that_is_closed_while_it_is_measured_gives_its_session_back(open_page, folder, measuring):
    from napari_memseg.annotation.session import Session

    viewer, _ = open_page()
    close(viewer)
    measuring.unlink()
    Session.open(folder).close()


# The run


def test_the_fields_are_off_until_something_is_typed_and_then_the_run_follows_them(
    open_page,
):
    viewer, dock = open_page()
    begun = []
    dock.desk.segmenting.start = lambda model, config: begun.append(config)
    click(dock.segment.segment)
    type_into(dock.segment.skip_below, "12.5")
    type_into(dock.segment.most_memory, "3")
    click(dock.segment.segment)
    off, on = begun
    assert off == SegmentConfig()
    assert (on.skip_below, on.max_memory_gib) == (12.5, 3.0)
    for field in (dock.segment.skip_below, dock.segment.most_memory):
        assert field.toolTip()
    close(viewer)


def test_afterwards_it_is_said_what_the_run_took_beside_what_was_forecast(until, open_page):
    viewer, dock = open_page()
    click(dock.segment.segment)
    until(lambda: not dock.desk.segmenting.relay.busy)
    assert dock.segment.bar.text == (
        "Done: 13,440 voxels in 1 s (forecast 2 s) on cpu, 1.5 GiB of memory (forecast 1.6 GiB)."
    )
    assert dock.segment.failures.isHidden()
    close(viewer)


def test_empty_tiles_are_counted_while_they_are_skipped_and_at_the_end(until, open_page):
    viewer, dock = open_page()
    said, say = [], dock.segment.bar._text.say
    dock.segment.bar._text.say = lambda text: (said.append(text), say(text))
    type_into(dock.segment.skip_below, "5")
    click(dock.segment.segment)
    until(lambda: not dock.desk.segmenting.relay.busy)
    assert any(text.startswith("segment: ") and "of 8 tiles empty, skipped" in text for text in said)
    assert dock.segment.bar.text.endswith("\n3 of 8 tiles empty, skipped.")
    close(viewer)


def test_a_tile_that_fails_is_told_at_once_stays_told_and_is_counted_at_the_end(
    until, open_page, model, said
):
    faulty = model.with_name("faulty.safetensors")
    hold = faulty.with_suffix(".hold")
    hold.touch()
    viewer, dock = open_page(faulty)
    click(dock.segment.segment)
    words = "A tile failed at 0:20,0:24,28:56: it holds no numbers"
    until(lambda: dock.segment.failures.text() == words)
    assert dock.desk.segmenting.relay.busy
    assert said == [words]
    hold.unlink()
    until(lambda: not dock.desk.segmenting.relay.busy)
    assert dock.segment.bar.text.startswith("Done with 1 failure: ")
    assert dock.segment.failures.text() == words
    assert dock.segment.failures.isVisible()
    dock.segment.model.addItem(model.stem, model)
    dock.segment.model.setCurrentIndex(1)
    click(dock.segment.segment)
    assert dock.segment.failures.isHidden()
    until(lambda: not dock.desk.segmenting.relay.busy)
    assert said == [words]
    close(viewer)

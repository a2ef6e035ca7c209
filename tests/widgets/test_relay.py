"""What a child process says is heard on the GUI thread, whatever becomes of the child."""

import threading
from pathlib import Path

import pytest
from qtpy.QtCore import QObject, QThreadPool

from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.widgets.relay import JobRelay
from napari_memseg.workflows import child_process as children
from napari_memseg.workflows.child_process import ChildProcessDied, ChildProcessFailed, close_children

pytestmark = pytest.mark.qt

PATIENCE = 30_000
"""Milliseconds until something that goes on in another process must have happened."""
STEER = "widgets.errands:steer"


class Page(QObject):
    """Who listens: notes what it hears, and on which thread."""

    def __init__(self, relay):
        super().__init__()
        self.steps, self.outcomes, self.threads, self.busy = [], [], set(), []
        self.relay = relay
        relay.stepped.connect(self.on_step)
        relay.ended.connect(self.on_end)

    def on_step(self, step):
        self.threads.add(threading.current_thread())
        self.steps.append(step)

    def on_end(self, outcome):
        self.threads.add(threading.current_thread())
        self.busy.append(self.relay.busy)
        self.outcomes.append(outcome)


@pytest.fixture(autouse=True)
def light_children(monkeypatch):
    """Let children find the jobs of the tests, and leave none behind."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setattr(children, "_CHILD", "widgets.errands")
    close_children()
    yield
    close_children()


@pytest.fixture
def page(qtbot):
    return Page(JobRelay())


def outcome_of(qtbot, page):
    qtbot.waitUntil(lambda: bool(page.outcomes), timeout=PATIENCE)
    (outcome,) = page.outcomes
    return outcome


def until_a_step(qtbot, page, said=lambda step: True):
    qtbot.waitUntil(lambda: any(map(said, page.steps)), timeout=PATIENCE)


def test_steps_and_outcome_arrive_in_order_on_the_gui_thread(qtbot, page):
    page.relay.start("counting", "workflows.jobs:count", 3)
    assert page.relay.busy
    assert outcome_of(qtbot, page).result["pid"] > 0
    assert [step.done for step in page.steps] == [1, 2, 3]
    assert page.threads == {threading.main_thread()}
    assert page.busy == [False]


def test_the_next_job_can_be_started_when_the_last_one_has_ended(qtbot, page):
    pids = set()
    for _ in range(2):
        page.outcomes.clear()
        page.relay.start("counting", "workflows.jobs:count", 1)
        pids.add(outcome_of(qtbot, page).result["pid"])
    assert len(pids) == 1


def test_a_second_job_at_once_is_refused_by_the_name_of_the_first(qtbot, page, tmp_path):
    page.relay.start("counting sheep", STEER, str(tmp_path / "end"))
    with pytest.raises(RuntimeError, match="counting sheep is not finished"):
        page.relay.start("counting", "workflows.jobs:count", 1)
    page.relay.cancel()
    assert outcome_of(qtbot, page).cancelled


@pytest.mark.parametrize(
    ("workflow", "error", "words"),
    [
        ("workflows.jobs:refuse", InputError, "no such thing"),
        ("workflows.jobs:break_down", ChildProcessFailed, "ZeroDivisionError"),
        ("workflows.jobs:die", ChildProcessDied, "SIGKILL"),
        ("workflows.jobs:nothing", ChildProcessFailed, "nothing"),
    ],
)
def test_what_goes_wrong_in_the_child_is_the_outcome(qtbot, page, workflow, error, words):
    page.relay.start("failing", workflow)
    outcome = outcome_of(qtbot, page)
    assert isinstance(outcome.error, error)
    assert words in str(outcome.error)
    assert (outcome.result, outcome.cancelled, page.relay.busy) == (None, False, False)
    assert page.threads == {threading.main_thread()}


def test_after_a_killed_child_the_next_job_gets_another(qtbot, page):
    page.relay.start("dying", "workflows.jobs:die")
    assert outcome_of(qtbot, page).error
    page.outcomes.clear()
    page.relay.start("counting", "workflows.jobs:count", 1)
    assert outcome_of(qtbot, page).result


def test_what_cannot_be_sent_is_an_outcome_and_not_a_job_without_end(qtbot, page):
    page.relay.start("sending", "workflows.jobs:count", lambda: None)
    assert "pickle" in str(outcome_of(qtbot, page).error)
    assert not page.relay.busy


def test_a_job_is_cancelled_between_two_steps(qtbot, page, tmp_path):
    page.relay.start("waiting", STEER, str(tmp_path / "end"))
    until_a_step(qtbot, page)
    page.relay.cancel()
    outcome = outcome_of(qtbot, page)
    assert (outcome.cancelled, outcome.error, outcome.result) == (True, None, None)
    assert (tmp_path / "end").read_text() == "ended"


def test_orders_given_before_the_child_has_begun_reach_it(qtbot, page, tmp_path, monkeypatch):
    may_begin = threading.Event()
    start = children.start_child

    def start_late():
        assert may_begin.wait(PATIENCE / 1000)
        return start()

    monkeypatch.setattr(children, "start_child", start_late)
    page.relay.start("waiting", STEER, str(tmp_path / "end"))
    page.relay.cancel()
    assert page.relay.busy
    may_begin.set()
    assert outcome_of(qtbot, page).cancelled


def test_a_job_that_is_to_follow_another_begins_when_that_has_ended_in_the_same_child(qtbot, tmp_path):
    first = Page(JobRelay())
    page = Page(JobRelay(after=first.relay))
    first.relay.start("waiting", STEER, str(tmp_path / "end"))
    until_a_step(qtbot, first)
    page.relay.start("counting", "workflows.jobs:count", 1)
    assert page.relay.busy
    assert not (tmp_path / "end").exists()
    first.relay.cancel()
    assert outcome_of(qtbot, page).result
    assert (tmp_path / "end").exists()
    assert len(children._children) == 1


def test_a_job_that_waits_for_another_is_cancelled_at_once(qtbot, tmp_path):
    first = Page(JobRelay())
    page = Page(JobRelay(after=first.relay))
    first.relay.start("waiting", STEER, str(tmp_path / "end"))
    page.relay.start("counting", "workflows.jobs:count", 1)
    page.relay.cancel()
    assert outcome_of(qtbot, page).cancelled
    assert page.steps == []
    assert first.relay.busy
    first.relay.cancel()
    assert outcome_of(qtbot, first).cancelled


def test_a_job_hears_pause_resume_and_what_is_looked_at(qtbot, page, tmp_path):
    page.relay.start("waiting", STEER, str(tmp_path / "end"))
    page.relay.look_at(Box((1, 2, 3), (4, 5, 6)))
    until_a_step(qtbot, page, lambda step: step.message == "False 1:4,2:5,3:6")
    page.relay.pause()
    assert page.relay.paused
    until_a_step(qtbot, page, lambda step: step.message.startswith("True"))
    page.relay.resume()
    assert not page.relay.paused
    page.steps.clear()
    until_a_step(qtbot, page, lambda step: step.message.startswith("False"))
    page.relay.cancel()
    assert outcome_of(qtbot, page).cancelled


def test_steering_without_a_job_does_nothing(page):
    page.relay.cancel()
    page.relay.look_at(Box((0, 0, 0), (1, 1, 1)))
    assert not page.relay.busy


def test_three_jobs_at_once_do_not_wait_for_a_place_among_two_threads(qtbot, tmp_path):
    pool = QThreadPool.globalInstance()
    places = pool.maxThreadCount()
    pool.setMaxThreadCount(2)
    pages = [Page(JobRelay()) for _ in range(3)]
    try:
        for number, page in enumerate(pages):
            page.relay.start("waiting", STEER, str(tmp_path / str(number)))
        for page in pages:
            until_a_step(qtbot, page)
        for page in pages:
            page.relay.cancel()
        assert all(outcome_of(qtbot, page).cancelled for page in pages)
        qtbot.waitUntil(lambda: pool.activeThreadCount() == 0, timeout=PATIENCE)
    finally:
        pool.setMaxThreadCount(places)


def test_closing_the_viewer_cancels_and_says_what_goes_on(qtbot, make_napari_viewer, page, tmp_path):
    viewer = make_napari_viewer()
    page.relay.start("segmenting bone", STEER, str(tmp_path / "end"))
    until_a_step(qtbot, page)
    assert any("segmenting bone" in task for task in viewer.window._task_status_manager.get_status())
    viewer.close()
    assert outcome_of(qtbot, page).cancelled
    assert (tmp_path / "end").read_text() == "ended"


def test_a_job_whose_dock_is_gone_is_cancelled(qtbot, tmp_path):
    page = Page(JobRelay())
    page.relay.start("waiting", STEER, str(tmp_path / "end"))
    until_a_step(qtbot, page)
    page.relay.deleteLater()
    del page
    qtbot.waitUntil((tmp_path / "end").exists, timeout=PATIENCE)

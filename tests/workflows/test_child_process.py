import sys
from pathlib import Path

import pytest

from napari_memseg.errors import Cancelled, InputError
from napari_memseg.workflows.child_process import (
    Child,
    ChildProcessDied,
    ChildProcessFailed,
    child_process,
    close_children,
)

sys.path.insert(0, str(Path(__file__).parent))
import jobs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def reachable_jobs():
    """Let the child import this folder's jobs, and leave no child behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        yield
        close_children()


def pid_of(job) -> int:
    return list(job)[-1].result["pid"]


def test_steps_arrive_in_order_and_the_result_last():
    steps = list(child_process(jobs.count, 5))
    assert [step.done for step in steps] == [1, 2, 3, 4, 5]
    assert [step.result is None for step in steps] == [True] * 4 + [False]


def test_one_child_is_kept_between_jobs():
    assert pid_of(child_process(jobs.count, 1)) == pid_of(child_process(jobs.count, 1))


def test_cancel_crosses_the_process_border():
    job = child_process(jobs.until_cancelled)
    steps = iter(job)
    assert next(steps).done == 1
    job.control.cancel()
    with pytest.raises(Cancelled, match="as asked"):
        list(steps)


def test_a_refusal_arrives_as_itself():
    with pytest.raises(InputError, match="no such thing"):
        list(child_process(jobs.refuse))


def test_a_fault_brings_the_childs_traceback():
    with pytest.raises(ChildProcessFailed, match="break_down"):
        list(child_process(jobs.break_down))


def test_a_killed_child_ends_its_job_in_words_and_the_next_job_gets_a_new_one():
    with pytest.raises(ChildProcessDied, match="SIGKILL"):
        list(child_process(jobs.die))
    assert pid_of(child_process(jobs.count, 1)) > 0


def test_a_job_left_early_does_not_leak_into_the_next():
    for step in child_process(jobs.until_cancelled):
        if step.done == 2:
            break
    assert [step.stage for step in child_process(jobs.count, 2)] == ["count", "count"]


def test_a_late_control_of_a_finished_job_does_not_touch_the_next():
    old = child_process(jobs.count, 1)
    list(old)
    job = child_process(jobs.count, 50)
    old.control.cancel()
    assert len(list(job)) == 50


def test_steering_a_dead_child_is_no_error():
    job = child_process(jobs.die)
    with pytest.raises(ChildProcessDied):
        list(job)
    job.control.cancel()


def test_two_jobs_at_once_get_two_children():
    waiting = child_process(jobs.until_cancelled)
    steps = iter(waiting)
    assert int(next(steps).message) != pid_of(child_process(jobs.count, 1))
    waiting.control.cancel()
    with pytest.raises(Cancelled):
        list(steps)


def test_a_child_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr("napari_memseg.workflows.child_process._CHILD", "napari_memseg.no_such_module")
    with pytest.raises(ChildProcessDied, match="status 1"):
        list(Child().start(jobs.count, 1))

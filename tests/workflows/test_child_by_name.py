import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pytest

from napari_memseg.workflows.child_process import (
    Child,
    ChildProcessFailed,
    child_process,
    close_children,
    start_child,
)

pytestmark = pytest.mark.slow

NEED_NO_TORCH = (
    "napari_memseg.workflows.train_job",
    "napari_memseg.inference.config",
    "napari_memseg.workflows.child_process",
    "napari_memseg.annotation.session",
    "napari_memseg.workflows.session",
)


@pytest.fixture(scope="module", autouse=True)
def reachable_jobs():
    """Let the child import this folder's jobs, and leave no child behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        yield
        close_children()


def test_a_workflow_is_found_by_its_name_and_takes_its_arguments():
    steps = list(child_process("jobs:count", 3))
    assert [(step.stage, step.done) for step in steps] == [("count", 1), ("count", 2), ("count", 3)]
    assert steps[-1].result["pid"] > 0


def test_a_workflow_that_was_named_can_be_steered():
    job = child_process("jobs:until_cancelled")
    for step in job:
        assert step.done == 1
        break
    job.control.cancel()
    assert len(list(child_process("jobs:count", 2))) == 2


@pytest.mark.parametrize("name", ["jobs:no_such_thing", "no_such_module:count", "jobs"])
def test_a_name_that_leads_nowhere_fails_in_the_child_and_the_child_lives_on(name):
    child = start_child()
    with pytest.raises(ChildProcessFailed):
        list(child_process(name))
    assert start_child() is child


def test_two_threads_that_start_jobs_at_once_get_two_children(monkeypatch):
    start_child()  # one that both would take, if nothing kept them apart
    start, chosen, both_chose = Child.start, [], Barrier(2)

    def start_late(child, *call):
        chosen.append(child)
        with suppress(BrokenBarrierError):
            both_chose.wait(timeout=0.2)
        return start(child, *call)

    monkeypatch.setattr(Child, "start", start_late)
    with ThreadPoolExecutor(2) as pool:
        jobs = list(pool.map(child_process, ["jobs:until_cancelled"] * 2))
    assert chosen[0] is not chosen[1]
    followed = [iter(job) for job in jobs]
    assert len({next(steps).message for steps in followed}) == 2
    for steps in followed:
        steps.close()


def test_what_a_viewer_fills_in_loads_no_torch():
    code = (
        "import sys\n"
        "from importlib import import_module\n"
        f"for name in {NEED_NO_TORCH}:\n"
        "    import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

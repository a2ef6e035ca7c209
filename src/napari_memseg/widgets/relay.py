"""Run a workflow in a child process, and say on the GUI thread what it says.

A thread of Qt's pool waits for the child; only signals come from it::

    page ──start──> JobRelay ──> thread ──> child process
    page <──stepped, ended── (queued into the GUI thread) <──┘

Whatever happens in the child, the viewer and every stroke stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Event, Lock
from typing import Any

from napari.qt.threading import FunctionWorker, create_worker
from qtpy.QtCore import QObject, QThreadPool, Signal

from napari_memseg.errors import Cancelled
from napari_memseg.geometry import Box
from napari_memseg.workflows.child_process import Job, child_process
from napari_memseg.workflows.progress import Progress

WAIT_SECONDS = 0.1
"""Time between two looks whether a job that waits for another is cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended: with a result, because somebody stopped it, or with an error."""

    result: Mapping[str, Any] | None = None
    cancelled: bool = False
    error: Exception | None = None


class JobRelay(QObject):
    """One kind of job of one dock, at most one at a time.

    Parameters
    ----------
    parent : QObject, optional
        Its owner.
    after : JobRelay, optional
        Whose job, if it has one, is to end before one of this begins: in the same child, without a rival.

    Signals
    -------
    stepped : Progress
        Each step of the job.
    ended : Outcome
        Once, after the last step; ``busy`` is False by then.
    """

    stepped = Signal(object)
    ended = Signal(object)

    def __init__(self, parent: QObject | None = None, *, after: JobRelay | None = None) -> None:
        super().__init__(parent)
        self._errand: _Errand | None = None
        self._after = after
        self.paused = False

    @property
    def busy(self) -> bool:
        """Whether a job is being done."""
        return self._errand is not None

    def start(self, title: str, workflow: str, *args: Any, **kwargs: Any) -> None:
        """Begin a job; the last one must have ended.

        Parameters
        ----------
        title : str
            What napari says when it is asked to close meanwhile.
        workflow : str
            "package.module:name" of a generator of Progress.
        *args, **kwargs
            Of the workflow.
        """
        if self._errand is not None:
            raise RuntimeError(f"{self._errand} is not finished: wait for it, or cancel it.")
        self.paused = False
        before = None if self._after is None else self._after._errand
        self._errand = _Errand(self, title, (workflow, args, kwargs), before)
        worker = create_worker(
            self._errand,
            _start_thread=False,
            _worker_class=_Worker,
        )
        worker.returned.connect(self._finish)
        worker.start()

    def pause(self) -> None:
        """Let the job wait once the step at hand is done."""
        self.paused = True
        self._steer("pause")

    def resume(self) -> None:
        """Let it go on."""
        self.paused = False
        self._steer("resume")

    def cancel(self) -> None:
        """End the job after the step at hand; it can be continued later."""
        self._steer("cancel")

    def look_at(self, box: Box) -> None:
        """Do what lies in ``box`` (voxels of the working level) next."""
        self._steer("look_at", box)

    def _steer(self, call: str, *args: Any) -> None:
        if self._errand is not None:
            self._errand.steer(call, *args)

    def _finish(self, outcome: Outcome) -> None:
        self._errand = None
        self.paused = False
        self.ended.emit(outcome)


class _Errand:
    """The thread's part: start the job, follow it, and never raise."""

    def __init__(
        self,
        relay: JobRelay,
        title: str,
        call: tuple[str, tuple[Any, ...], Mapping[str, Any]],
        before: _Errand | None = None,
    ) -> None:
        self._relay, self._title, self._call, self._before = relay, title, call, before
        self._over = Event()
        self._job: Job | None = None
        self._orders: list[tuple[str, tuple[Any, ...]]] = []
        self._lock = Lock()

    def __repr__(self) -> str:
        return self._title

    def steer(self, call: str, *args: Any) -> None:
        """Send an order to the child; kept for it if it has not begun."""
        with self._lock:
            if self._job is None:
                self._orders.append((call, args))
            else:
                getattr(self._job.control, call)(*args)

    def __call__(self) -> Outcome:
        """Follow the job; this thread only waits, so it gives its place in the pool to another."""
        pool = QThreadPool.globalInstance()
        pool.releaseThread()
        try:
            return Outcome(result=self._follow())
        except Cancelled:
            return Outcome(cancelled=True)
        except Exception as error:  # noqa: BLE001 - the page must hear of every end
            return Outcome(error=error)
        finally:
            self._over.set()
            pool.reserveThread()

    def _wait(self) -> None:
        """Let another job end first."""
        while self._before is not None and not self._before._over.wait(WAIT_SECONDS):
            with self._lock:
                if ("cancel", ()) in self._orders:
                    raise Cancelled("The job was cancelled before it began.")

    def _follow(self) -> Mapping[str, Any] | None:
        self._wait()
        workflow, args, kwargs = self._call
        job = child_process(workflow, *args, **kwargs)
        with self._lock:
            self._job = job
            for call, values in self._orders:
                getattr(job.control, call)(*values)
        result = None
        for step in job:
            self._tell(step)
            result = step.result or result
        return result

    def _tell(self, step: Progress) -> None:
        try:
            self._relay.stepped.emit(step)
        except RuntimeError:  # the dock is gone, and with it whoever wanted to know
            self.steer("cancel")


class _Worker(FunctionWorker[Outcome]):
    """What napari's list of tasks stops when its window is closed."""

    def __init__(self, func: _Errand) -> None:
        super().__init__(func)
        self._errand = func

    def quit(self) -> None:
        """End the job; the thread ends with it, and still says how: it is not aborted."""
        self._errand.steer("cancel")

    def run(self) -> None:
        """Do the job and say so.

        Unlike its base it leaves the process's warnings as they are, since a job may take hours; and it is
        silent where the application ended meanwhile, and nobody is left to tell.
        """
        with contextlib.suppress(RuntimeError):
            self.started.emit()
            self.returned.emit(self.work())
            self.finished.emit()
            self._finished.emit(self)

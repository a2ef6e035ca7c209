"""Run any workflow in a process of its own, so that nothing it does takes the viewer with it.

One child is started early (``start_child``) and kept between jobs, since importing
torch takes seconds. Steps come back as they are yielded; the controls of a job go
the other way::

    job = child_process(segment, image, labels, config)      parent │ child
    for step in job: ...              <── Progress ──────────────────┤ for step in segment(...)
    job.control.cancel()              ─── ("cancel",) ──────────────>│ Control

A child that dies (out of memory, a driver's crash) ends its job with
``ChildProcessDied``; the next job starts a new child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client, Connection, Listener
from secrets import token_bytes
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import MemsegError
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    from napari_memseg.geometry import Box

Workflow = Callable[..., Iterator[Progress]] | str
"""A generator function of a module, or where it is: "package.module:name". It takes ``control`` if it can be
steered. By its name a caller asks for it without loading what it needs, torch for example."""

_CHILD = "napari_memseg.workflows.child_main"


class ChildProcessDied(MemsegError, RuntimeError):
    """The process that did the work is gone; what it finished is on disk."""


class ChildProcessFailed(MemsegError, RuntimeError):
    """The work failed by a fault of ours; the message holds the child's traceback."""


class RemoteControl:
    """The parent's end of a job's ``Control``: the same calls, carried across; none once the job is over."""

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection = connection
        self._number = number
        self._lock = threading.Lock()

    def pause(self) -> None:
        """Stop between two blocks, until ``resume``."""
        self._send("pause")

    def resume(self) -> None:
        """Go on."""
        self._send("resume")

    def cancel(self) -> None:
        """End the job after the blocks in flight; it can be resumed later."""
        self._send("cancel")

    def look_at(self, box: Box) -> None:
        """Do what lies in ``box`` (voxels of the working level) next."""
        self._send("look_at", box)

    def _send(self, name: str, *args: object) -> None:
        with self._lock, contextlib.suppress(OSError):  # a dead child needs no steering
            self._connection.send((name, self._number, *args))


class Job:
    """A workflow at work in a child: iterate to follow it, ``control`` to steer it."""

    def __init__(self, child: Child, connection: Connection, number: int) -> None:
        self.control = RemoteControl(connection, number)
        self._child = child
        self._connection = connection

    def __iter__(self) -> Iterator[Progress]:
        try:
            while (step := self._next()) is not None:
                yield step
        finally:
            if self._child.busy:
                self.control.cancel()
                with contextlib.suppress(MemsegError):
                    while self._next() is not None:
                        pass

    def _next(self) -> Progress | None:
        """Return the next step, or None at the end; raise what the workflow raised."""
        try:
            kind, content = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._child.busy = False
            raise ChildProcessDied(self._child.obituary()) from None
        if kind == "progress":
            step: Progress = content
            return step
        self._child.busy = False
        if kind == "error":
            raise content
        return None


class Child:
    """One worker process, idle or busy with one job."""

    def __init__(self) -> None:
        key = token_bytes(32)
        with Listener(authkey=key) as listener:
            self.process = subprocess.Popen(
                [sys.executable, "-m", _CHILD, str(listener.address)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")},
            )
            assert self.process.stdin is not None
            self.process.stdin.write(key.hex().encode())
            self.process.stdin.close()
            threading.Thread(target=_unblock, args=(self.process, listener.address, key), daemon=True).start()
            self._connection = listener.accept()
        self.busy = False
        self._jobs = 0

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self.process.poll() is None

    def start(self, workflow: Workflow, *args: Any, **kwargs: Any) -> Job:
        """Begin a job; the child must be idle."""
        self._jobs += 1
        call = (*_address(workflow), args, kwargs)
        try:
            self._connection.send(("run", self._jobs, *call))
        except OSError:
            raise ChildProcessDied(self.obituary()) from None
        self.busy = True
        return Job(self, self._connection, self._jobs)

    def close(self) -> None:
        """End the process, politely first."""
        self._connection.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def obituary(self) -> str:
        """Say how the process ended, and what a person can do."""
        code = self.process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        memory = " The system may have run out of memory: choose a smaller tile." if code == -9 else ""
        return (
            f"The process that did the work ended {how}.{memory} What it finished is on disk: "
            "start the same job again to go on from there."
        )


def _address(workflow: Workflow) -> tuple[str, str]:
    """Return the module of a workflow, and its name there."""
    if isinstance(workflow, str):
        module, _, name = workflow.partition(":")
        return module, name
    return workflow.__module__, workflow.__qualname__


def _unblock(process: subprocess.Popen[bytes], address: Any, key: bytes) -> None:
    """Knock in place of a child that died before it could, so that nobody waits for it for ever."""
    process.wait()
    with contextlib.suppress(OSError, EOFError):
        Client(address, authkey=key).close()


_children: list[Child] = []
_choosing = threading.RLock()
"""Held while a child is chosen and set to work, so that two threads never take the same one."""


def start_child() -> Child:
    """Return an idle child, starting one if there is none; call it early to save the wait."""
    with _choosing:
        _children[:] = [child for child in _children if child.alive]
        for child in _children:
            if not child.busy:
                return child
        _children.append(Child())
        return _children[-1]


def close_children() -> None:
    """End every child."""
    with _choosing:
        while _children:
            _children.pop().close()


def child_process(workflow: Workflow, *args: Any, **kwargs: Any) -> Job:
    """Start ``workflow(*args, **kwargs)`` in a child process.

    Parameters
    ----------
    workflow : callable or str
        A generator function of a module, reached there by its name; or "package.module:name".
        If it takes ``control``, it is given one that the job's ``control`` steers.
    *args, **kwargs
        Its arguments; they are sent, so no open files or arrays on disk.

    Returns
    -------
    Job
        Iterate over it for the workflow's ``Progress``. What the workflow raises is
        raised there; ``ChildProcessDied`` if the process is lost.
    """
    with _choosing:
        return start_child().start(workflow, *args, **kwargs)

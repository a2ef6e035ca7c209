"""The child's side of ``child_process``: take one job after another until the parent hangs up."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Client, Connection
from queue import SimpleQueue
from typing import Any

from napari_memseg.errors import MemsegError
from napari_memseg.inference.control import Control
from napari_memseg.inference.heap import keep_heap
from napari_memseg.workflows.child_process import ChildProcessFailed

_CONTROLS = ("pause", "resume", "cancel", "look_at")


def main(address: str, key: bytes) -> None:
    """Be the child: take jobs until the parent hangs up; Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_heap()
    with Client(address, authkey=key) as connection:
        importlib.import_module("torch")
        inbox = _Inbox(connection)
        while (job := inbox.next_job()) is not None:
            _work(connection, inbox, *job)


class _Inbox:
    """Listen to the parent in a thread: controls act at once, jobs wait their turn."""

    def __init__(self, connection: Connection) -> None:
        self.control = Control()
        self._number = 0
        self._connection = connection
        self._jobs: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def next_job(self) -> tuple[Any, ...] | None:
        return self._jobs.get()

    def _listen(self) -> None:
        try:
            while True:
                self._take(*self._connection.recv())
        except (EOFError, OSError):
            self.control.cancel()
            self._jobs.put(None)

    def _take(self, name: str, number: int, *args: Any) -> None:
        if name == "run":
            self.control, self._number = Control(), number
            self._jobs.put(args)
        elif number == self._number and name in _CONTROLS:  # else it is about a job that is over
            getattr(self.control, name)(*args)


def _work(
    connection: Connection,
    inbox: _Inbox,
    module: str,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """Run one job and tell the parent each step, then how it ended."""
    try:
        workflow = getattr(importlib.import_module(module), name)
        if "control" in workflow.__annotations__:
            kwargs = {**kwargs, "control": inbox.control}
        for step in workflow(*args, **kwargs):
            connection.send(("progress", step))
        connection.send(("done", None))
    except BrokenPipeError:
        return
    except MemsegError as error:
        connection.send(("error", error))
    except Exception:  # noqa: BLE001 - the parent must hear of every end
        connection.send(("error", ChildProcessFailed(traceback.format_exc())))


if __name__ == "__main__":
    main(sys.argv[1], bytes.fromhex(sys.stdin.read()))

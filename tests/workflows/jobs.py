"""Workflows that a child process runs in the tests."""

import os
import signal
from collections.abc import Iterator

from napari_memseg.errors import Cancelled, InputError
from napari_memseg.inference.control import Control
from napari_memseg.workflows.progress import Progress


def count(total: int) -> Iterator[Progress]:
    for done in range(1, total + 1):
        yield Progress(
            stage="count", done=done, total=total, result={"pid": os.getpid()} if done == total else None
        )


def until_cancelled(*, control: Control) -> Iterator[Progress]:
    done = 0
    while not control.cancelled:
        done += 1
        yield Progress(stage="wait", done=done, total=done + 1, message=str(os.getpid()))
    raise Cancelled("as asked")


def refuse() -> Iterator[Progress]:
    yield Progress(stage="refuse", done=0, total=1)
    raise InputError("no such thing")


def break_down() -> Iterator[Progress]:
    yield Progress(stage="break", done=0, total=1)
    raise ZeroDivisionError("ours")


def die() -> Iterator[Progress]:
    yield Progress(stage="die", done=0, total=1)
    os.kill(os.getpid(), signal.SIGKILL)

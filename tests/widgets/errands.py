"""A child process that begins at once, since it knows no torch, and a job for the tests of the relay."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from napari_memseg.inference.control import Control
from napari_memseg.workflows.progress import Progress


def steer(file: str, *, control: Control) -> Iterator[Progress]:
    """Say what was asked of it, until it is cancelled; write a word when it ends."""
    try:
        done = 0
        while True:
            control.raise_if_cancelled()
            done += 1
            yield Progress(stage="steer", done=done, total=done + 1, message=said(control))
            time.sleep(0.01)
    finally:
        Path(file).write_text("ended")


def said(control: Control) -> str:
    return f"{control.paused} {control.box}"


if __name__ == "__main__":
    sys.modules["torch"] = ModuleType("torch")
    from napari_memseg.workflows.child_main import main

    main(sys.argv[1], bytes.fromhex(sys.stdin.read()))

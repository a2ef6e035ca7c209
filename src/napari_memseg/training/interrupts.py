"""Let Ctrl-C wait for the end of a step, so that what is saved then is whole.

A step that is cut short leaves weights, statistics and optimiser that belong to no
moment of the training. So the first Ctrl-C is remembered, and raised when the step
is done; a second one is not kept waiting.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@contextmanager
def interrupted_afterwards() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` at the end of the block if Ctrl-C was pressed in it.

    Does nothing in other threads than the main one, which get no signals, nor where
    somebody else handles Ctrl-C.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    pressed: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if pressed:
            signal.default_int_handler(number, frame)
        pressed.append(number)

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt

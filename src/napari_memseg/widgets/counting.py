"""Count painted voxels per class in a thread, as strokes come in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from qtpy.QtCore import QObject, QTimer, Signal

from napari_memseg.annotation.counts import ClassCounts
from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Box

INTERVAL_MS = 500
"""Time between two counts."""


class Counting(QObject):
    """Keeps the voxels per class of a session's overlay; nothing is ``known`` before the first count.

    Signals
    -------
    counted : dict of int to int
        Class id to voxels, when they may have changed.
    """

    counted = Signal(object)

    def __init__(self, session: Session, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.voxels: dict[int, int] = {}
        self.known = False
        self._session = session
        self._counts = ClassCounts(session.overlay)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memseg-count")
        self._pending: dict[Box, None] = {}
        self._timer = QTimer(self, interval=INTERVAL_MS, singleShot=True)
        self._timer.timeout.connect(self._start)
        self._ended = False
        self.counted.connect(self._keep)
        self.changed(Box.whole(session.shape))

    def changed(self, box: Box) -> None:
        """Take note that opinions in ``box`` changed."""
        self._pending[box] = None
        if not self._timer.isActive():
            self._timer.start()

    def close(self) -> None:
        """Count no more."""
        self._ended = True
        self._timer.stop()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self.deleteLater()

    def _start(self) -> None:
        boxes, self._pending = list(self._pending), {}
        self._thread.submit(self._count, boxes)

    def _count(self, boxes: list[Box]) -> None:
        for box in boxes:
            self._counts.recount(box, stop=lambda: self._ended)
        if not self._ended:
            self.counted.emit(self._counts.by_class(self._session.classes))

    def _keep(self, voxels: dict[int, int]) -> None:
        self.voxels, self.known = voxels, True

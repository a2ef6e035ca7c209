"""Corrections made elsewhere, on their way into a session.

Only one process may paint in a session, and labels may be larger than memory. So the
session is lent to a child process, and the viewer goes on meanwhile without it::

    store, close ──> child: opens it, imports as one step, closes it ──> open again
                     whatever happens there, the session is as before or has all of it

It belongs to the desk: a dock that is closed meanwhile takes no session along.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Layer
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal

from napari_memseg.io.volume import Volume
from napari_memseg.widgets.relay import JobRelay, Outcome
from napari_memseg.workflows.label_meaning import ImportConfig

if TYPE_CHECKING:
    from napari_memseg.widgets.desk import Desk


class Importing(QObject):
    """The session that is lent while labels are imported into it.

    Attributes
    ----------
    relay : JobRelay
        Imports; it can be cancelled.

    Signals
    -------
    begun
        The session is lent, and the job goes on.
    ended : str
        The session is open again; what the import came to.
    """

    begun = Signal()
    ended = Signal(str)

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._desk = desk
        self._lent: tuple[Path, Volume, Layer | None] | None = None
        self.relay = JobRelay(self)
        self.relay.ended.connect(self._take_back)

    @property
    def busy(self) -> bool:
        """Whether the session is lent."""
        return self._lent is not None

    def start(self, labels: str, config: ImportConfig) -> None:
        """Lend the session that is open to a child process, which imports ``labels`` into it."""
        desk, session = self._desk, self._desk.session
        if session is None or desk.why_not_close():
            return
        desk.save()
        self._lent = (session.path, session.image, None if desk.shown is None else desk.shown.image)
        desk.close_session()
        workflow = "napari_memseg.workflows.corrections_import:import_corrections"
        self.relay.start(f"importing into {session.path.name}", workflow, session.path, labels, config)
        self.begun.emit()

    def _take_back(self, outcome: Outcome) -> None:
        """Open the session again, however the import ended, and say what it came to."""
        if self._lent is None:
            return
        (folder, image, layer), self._lent = self._lent, None
        if self._desk.ended:
            return
        self._desk.open_session(
            folder, image=image, layer=layer if layer in self._desk.viewer.layers else None
        )
        if outcome.error is not None:
            show_error(str(outcome.error))
        self.ended.emit(_ending(outcome))


def _ending(outcome: Outcome) -> str:
    if outcome.error is not None:
        return str(outcome.error)
    if outcome.result is None:
        return "Cancelled; nothing was changed."
    imported, kept = outcome.result["imported"], outcome.result["kept"]
    stays = f"; {kept:,} say otherwise here and stay" if kept else ""
    return f"{imported:,} voxels were imported{stays}. Undo takes them back."

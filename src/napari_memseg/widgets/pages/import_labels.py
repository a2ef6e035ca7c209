"""Import corrections made elsewhere, from the page Export.

Only one process may paint in a session, and labels may be larger than memory. So the
session is lent to a child process, and the viewer goes on meanwhile without it::

    store, close ──> child: opens it, imports as one step, closes it ──> open again
                     whatever happens there, the session is as before or has all of it
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from napari.layers import Labels, Layer
from napari.utils.notifications import show_error
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QFileDialog, QLineEdit, QVBoxLayout, QWidget

from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError
from napari_memseg.io.volume import Volume
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.layers import grid
from napari_memseg.widgets.pages.page import why_read_only
from napari_memseg.widgets.parts import Button, column, form, group, row
from napari_memseg.widgets.relay import Outcome
from napari_memseg.workflows.label_meaning import ImportConfig, renamed_of

STAND_IN = "importing"
"""A layer in place of those of the session: software OpenGL dies where labels that were painted on are
taken away, a picture is drawn without any, and others come (napari 0.9, also without this plugin)."""
KINDS = "Labels (*.tif *.tiff *.btf *.tf8);;All files (*)"


class ImportLabels(QWidget):
    """What to import, what its values mean, and the button that does it.

    Parameters
    ----------
    desk : Desk
        Whose session takes the labels; its job ``exporting`` is used for it.

    Signals
    -------
    begun
        The session is lent, and the job goes on.
    """

    begun = Signal()

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._lent: tuple[Path, Volume, Layer | None] | None = None
        self._stand_in: Labels | None = None
        self.file = QLineEdit()
        self.file.setPlaceholderText("labels.tif, or a folder .ome.zarr")
        self.file.setToolTip("As large as the session; or an export of this session that was edited")
        self.browse = Button("…", self._browse, "Choose a TIFF; the path of a folder can be typed")
        self.map = QLineEdit()
        self.map.setPlaceholderText("as classes are numbered here")
        self.map.setToolTip("Their value = class here: 3=15, 4=2")
        self.unlabelled = QLineEdit()
        self.unlabelled.setPlaceholderText("none")
        self.unlabelled.setToolTip("Values that mean that nobody knows: 255")
        self.zero = QCheckBox("0 means background; otherwise, no opinion")
        self.zero.setChecked(True)
        self.overwrite = QCheckBox("also replace what is painted here")
        self.start = Button("Import", self._start, "One step, which Undo takes back")
        for field in (self.file, self.map, self.unlabelled):
            field.textChanged.connect(self.allow)
        layout: QVBoxLayout = column(self)
        fields = {"Labels": row(self.file, self.browse), "Values": self.map, "Ignored": self.unlabelled}
        layout.addWidget(
            group(
                "Import corrections", form(**fields), self.zero, self.overwrite, self.start, self.start.reason
            )
        )

    @property
    def busy(self) -> bool:
        """Whether the session is lent."""
        return self._lent is not None

    def allow(self, _: str = "") -> None:
        """Make the button work, or say why it does not."""
        self.start.allow(self._why_not(), quiet=not self.file.text().strip())

    def config(self) -> ImportConfig:
        """Return what was chosen.

        Raises
        ------
        InputError
            If a field cannot be read.
        """
        return ImportConfig(
            unlabelled=_numbers(self.unlabelled.text()),
            renamed=renamed_of(self.map.text()),
            zero_is="background" if self.zero.isChecked() else "no-opinion",
            overwrite=self.overwrite.isChecked(),
        )

    def _why_not(self) -> str:
        session = self._desk.session
        if session is None:
            return "Open a session first."
        if session.read_only:
            return why_read_only(session)
        if not self.file.text().strip():
            return "Name a file of labels, or a folder."
        try:
            self.config()
        except InputError as error:
            return str(error)
        return self._desk.why_not_close()

    def _browse(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "Labels made elsewhere", filter=KINDS)
        if chosen:
            self.file.setText(chosen)

    def _start(self) -> None:
        """Lend the session to a child process."""
        desk, session = self._desk, self._desk.session
        self.allow()
        if session is None or not self.start.isEnabled():
            return
        desk.save()
        self._lent = (session.path, session.image, None if desk.shown is None else desk.shown.image)
        labels, config = self.file.text().strip(), self.config()
        self._stand_in = _stand_in(session)
        desk.viewer.add_layer(self._stand_in)
        desk.close_session()
        workflow = "napari_memseg.workflows.corrections_import:import_corrections"
        desk.exporting.start(f"importing into {session.path.name}", workflow, session.path, labels, config)
        self.begun.emit()

    def take_back(self, outcome: Outcome) -> str:
        """Open the session again, however the import ended, and say what it came to."""
        if self._lent is None:
            return ""
        (folder, image, layer), self._lent = self._lent, None
        if self._desk.ended:
            return ""
        shown = layer if layer in self._desk.viewer.layers else None
        self._desk.open_session(folder, image=image, layer=shown)
        if self._stand_in in self._desk.viewer.layers:
            self._desk.viewer.layers.remove(self._stand_in)
        self._stand_in = None
        if outcome.error is not None:
            show_error(str(outcome.error))
            return str(outcome.error)
        if outcome.result is None:
            return "Cancelled; nothing was changed."
        imported, kept = outcome.result["imported"], outcome.result["kept"]
        stays = f"; {kept:,} say otherwise here and stay" if kept else ""
        return f"{imported:,} voxels were imported{stays}. Undo takes them back."


def _stand_in(session: Session) -> Labels:
    """Return labels that say nothing: one voxel, as large as the volume, and so on every slice."""
    place = grid(session)
    sizes = list(zip(session.shape, place["scale"], place["translate"], strict=True))
    place["scale"] = tuple(n * length for n, length, _ in sizes)
    place["translate"] = tuple(start + (n - 1) / 2 * length for n, length, start in sizes)
    return Labels(np.zeros((1, 1, 1), np.uint8), name=STAND_IN, **place)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InputError(f"“{text}” is no list of values. Divide whole numbers by commas: 0, 255.") from error

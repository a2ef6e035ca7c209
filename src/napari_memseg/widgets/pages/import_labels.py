"""Import corrections made elsewhere, from the page Export.

What is asked of a person is what the labels cannot say of themselves::

    Labels    theirs.tif
    Values    3=15, 4=2      their value = class here
    Ignored   255            nobody knows
    [x] 0 means background   [ ] also replace what is painted here
"""

from __future__ import annotations

from qtpy.QtWidgets import QCheckBox, QFileDialog, QLineEdit, QVBoxLayout, QWidget

from napari_memseg.errors import InputError
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.pages.page import why_read_only
from napari_memseg.widgets.parts import VOLUMES, Button, column, form, group, row
from napari_memseg.workflows.label_meaning import ImportConfig, renamed_of


class ImportLabels(QWidget):
    """What to import, what its values mean, and the button that does it.

    Parameters
    ----------
    desk : Desk
        Whose session takes the labels.
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
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
        chosen, _ = QFileDialog.getOpenFileName(self, "Labels made elsewhere", filter=VOLUMES)
        if chosen:
            self.file.setText(chosen)

    def _start(self) -> None:
        self.allow()
        if self.start.isEnabled():
            self._desk.importing.start(self.file.text().strip(), self.config())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InputError(f"“{text}” is no list of values. Divide whole numbers by commas: 0, 255.") from error

"""Export: corrected labels and where they come from, to a folder that others can read."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import ClassVar

from napari.utils.notifications import show_error
from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QLineEdit

from napari_memseg.annotation.session import Session
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.pages.page import NO_SESSION, Page
from napari_memseg.widgets.parts import Button, Choice, JobBar, form, group, row
from napari_memseg.widgets.relay import Outcome
from napari_memseg.workflows.export import FORMATS


class ExportPage(Page):
    """What is shown, written once more for use elsewhere."""

    title: ClassVar[str] = "Export"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._made: Path | None = None
        self.format = Choice(FORMATS, "ome-zarr: the image with the corrected labels in it")
        self.run_choice = Choice(tip="Corrections over this run, and over those that it replaced")
        self.place = QLineEdit()
        self.place.textChanged.connect(self._allow)
        self.browse = Button("…", self._ask_place, "Choose where the export lies")
        self.choices = group(
            "Export", form(Format=self.format, Run=self.run_choice, Folder=row(self.place, self.browse))
        )
        self.export = Button("Export", self._export, "Corrected labels as they are now")
        self.cancel = Button("Cancel", desk.exporting.cancel, "Nothing is left behind")
        self.bar = JobBar()
        self.show_folder = Button("Show in file manager", self._show_made)
        self.job = group(
            "Progress", row(self.export, self.cancel), self.export.reason, self.bar, self.show_folder
        )
        self.add(self.choices, self.job)
        self.column.addStretch()
        desk.exporting.stepped.connect(self.bar.show_step)
        desk.exporting.ended.connect(self._on_end)
        desk.session_changed.connect(self._forget)
        self.refresh()

    def refresh(self) -> None:
        """List what can be exported."""
        session, busy = self.desk.session, self.desk.exporting.busy
        self.choices.setVisible(session is not None)
        self.job.setVisible(session is not None)
        self.choices.setEnabled(not busy)
        self.export.setVisible(not busy)
        self.cancel.setVisible(busy)
        self.show_folder.setVisible(self._made is not None and not busy)
        if session is None:
            self.hint.say(NO_SESSION)
            return
        self._list_runs(session)
        if not self.place.text() or Path(self.place.text()).exists():
            self.place.setText(str(free_name(session)))
        self.hint.say(
            "Image, corrected labels and their provenance. What nobody painted or predicted stays "
            "“not predicted”, and never becomes background."
        )
        self._allow()

    def _forget(self) -> None:
        """Clear what was named and made for a session that is closed."""
        if self.desk.session is None:
            self._made = None
            self.place.clear()
            self.bar.clear()

    def _list_runs(self, session: Session) -> None:
        finished = [run.id for run in reversed(session.runs()) if run.is_finished]
        known = [self.run_choice.itemData(n) for n in range(self.run_choice.count())]
        if known != finished or not known:
            self.run_choice.clear()
            for run in finished:
                self.run_choice.addItem(f"over run {run}", run)
            if not finished:
                self.run_choice.addItem("corrections alone", None)

    def _allow(self) -> None:
        self.export.allow(self._why_not())

    def _why_not(self) -> str:
        session = self.desk.session
        if session is None:
            return NO_SESSION
        if session.runs() and self.run_choice.currentData() is None:
            return "No run is finished yet: let it finish, on the page Segment."
        if not self.place.text().strip():
            return "Name a folder that does not exist yet."
        if self._folder.exists():
            return "This folder exists already, and nothing is overwritten: name a new one."
        return ""

    @property
    def _folder(self) -> Path:
        return Path(self.place.text().strip()).expanduser().absolute()

    def _ask_place(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Where shall the export lie?")
        if chosen:
            self.place.setText(str(Path(chosen) / Path(self.place.text()).name))

    def _export(self) -> None:
        session = self.desk.session
        if session is None:
            return
        self.desk.save()
        workflow = "napari_memseg.workflows.export:export"
        title = f"exporting {session.path.name}"
        run, kind = self.run_choice.currentData(), self.format.currentText()
        self.desk.exporting.start(title, workflow, session.path, self._folder, kind, run=run)
        self.bar.wait("Exporting…")
        self.refresh()

    def _on_end(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            show_error(str(outcome.error))
            self.bar.clear(str(outcome.error))
        elif outcome.result is not None:
            self._made = Path(outcome.result["path"])
            self.bar.clear(f"Written to {self._made}.")
        else:
            self.bar.clear("Cancelled; nothing was left behind.")
        self.refresh()

    def _show_made(self) -> None:
        if self._made is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._made)))


def free_name(session: Session) -> Path:
    """Return a name for a new export of a session, after the day and the hour."""
    stamp, number = datetime.now().strftime("%Y-%m-%d-%H%M"), 1
    folder = session.path / "exports" / stamp
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{stamp}-{number}")
    return folder

"""Export: corrected labels and where they come from, for others to use; and theirs, back in."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from napari.utils.notifications import show_error
from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QLineEdit

from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Box
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.pages.import_labels import ImportLabels
from napari_memseg.widgets.pages.page import NO_SESSION, Page
from napari_memseg.widgets.parts import Button, Choice, Hint, JobBar, form, group, row, size_text
from napari_memseg.widgets.region import RegionChoice
from napari_memseg.widgets.relay import Outcome
from napari_memseg.workflows.export import FORMATS, forecast_bytes

WHAT = {"all that is shown": "shown", "what was painted or confirmed": "confirmed"}
LENT = (
    "Labels are being imported; the session opens again by itself. Until then nothing can be painted in it."
)


class ExportPage(Page):
    """What is shown, written once more for use elsewhere."""

    title: ClassVar[str] = "Export"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._made: Path | None = None
        self._build_choices()
        self._build_job()
        self.imports = ImportLabels(desk)
        self.add(self.choices, self.job, self.imports)
        self.column.addStretch()
        desk.exporting.ended.connect(self._on_end)
        desk.importing.begun.connect(self._on_import)
        desk.importing.ended.connect(self._on_imported)
        for relay in (desk.exporting, desk.importing.relay):
            relay.stepped.connect(self.bar.show_step)
        desk.session_changed.connect(self._forget)
        self.refresh()
        if desk.importing.busy:
            self._on_import()

    def _build_choices(self) -> None:
        self.format = Choice(tip="What it is to be used for")
        for name, form_ in FORMATS.items():
            self.format.addItem(form_.about, name)
        self.region = RegionChoice(self.desk)
        self.what = Choice(tip="What is left out counts as not predicted, never as background")
        for text, name in WHAT.items():
            self.what.addItem(text, name)
        self.run_choice = Choice(tip="Corrections over this run, and over those that it replaced")
        self.place = QLineEdit()
        self.browse = Button("…", self._ask_place, "Choose where the export lies")
        self.format.currentIndexChanged.connect(self._allow)
        self.what.currentIndexChanged.connect(self._allow)
        self.region.changed.connect(self._allow)
        self.place.textChanged.connect(self._allow)
        fields = {"Format": self.format, "Region": self.region, "Labels": self.what, "Run": self.run_choice}
        self.choices = group("Export", form(**fields, Folder=row(self.place, self.browse)))

    def _build_job(self) -> None:
        self.export = Button("Export", self._export, "Corrected labels as they are now")
        self.cancel = Button("Cancel", self._cancel, "Nothing is left behind")
        self.forecast = Hint()
        self.bar = JobBar()
        self.show_folder = Button("Show in file manager", self._show_made)
        self.job = group(
            "Progress",
            row(self.export, self.cancel),
            self.export.reason,
            self.forecast,
            self.bar,
            self.show_folder,
        )

    def refresh(self) -> None:
        """List what can be exported."""
        session, lent = self.desk.session, self.desk.importing.busy
        busy = lent or self.desk.exporting.busy
        self.choices.setVisible(session is not None)
        self.imports.setVisible(session is not None)
        self.job.setVisible(session is not None or lent)
        self.imports.setEnabled(not busy)
        self.choices.setEnabled(not busy)
        self.export.setVisible(not busy)
        self.cancel.setVisible(busy)
        self.show_folder.setVisible(self._made is not None and not busy)
        if session is None:
            self.hint.say(LENT if lent else NO_SESSION)
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
            self.forecast.say("")
            if not self.desk.importing.busy:
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
        self.imports.allow()
        if self.desk.session is not None:
            self.forecast.say(self._forecast(self.desk.session))

    def _forecast(self, session: Session) -> str:
        """Say what the export takes on the disk."""
        region = self.region.box() or Box.whole(session.shape)
        size = forecast_bytes(session, self.format.currentData(), region)
        above = next((folder for folder in self._folder.parents if folder.is_dir()), session.path)
        return f"At most {size_text(size)} on the disk; {size_text(shutil.disk_usage(above).free)} are free."

    def _why_not(self) -> str:
        session = self.desk.session
        if session is None:
            return NO_SESSION
        if why := self.region.why_not():
            return why
        if self.what.currentData() == "shown" and session.runs() and self.run_choice.currentData() is None:
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
        region = self.region.box()
        how = {
            "run": self.run_choice.currentData(),
            "box": None if region is None else str(region),
            "labels": self.what.currentData(),
        }
        kind = self.format.currentData()
        self.desk.exporting.start(title, workflow, session.path, self._folder, kind, **how)
        self.bar.wait("Exporting…")
        self.refresh()

    def _on_import(self) -> None:
        self.bar.wait("Importing…")
        self.refresh()

    def _on_imported(self, text: str) -> None:
        self.bar.clear(text)
        self.refresh()

    def _cancel(self) -> None:
        for relay in (self.desk.exporting, self.desk.importing.relay):
            relay.cancel()

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

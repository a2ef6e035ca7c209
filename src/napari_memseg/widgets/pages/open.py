"""Open: choose a volume, say where its session lies, begin or open it, build its pyramid."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import ClassVar

from napari.layers import Image, Layer
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from qtpy.QtWidgets import QFileDialog, QLineEdit

from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError, MemsegError
from napari_memseg.io.units import METRES
from napari_memseg.io.volume import Volume
from napari_memseg.models.classes import ClassTable
from napari_memseg.widgets.adopt import Adopted, LayerFacts, adopt
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.pages.page import Page, why_read_only
from napari_memseg.widgets.parts import (
    VOLUMES,
    Button,
    Choice,
    Hint,
    JobBar,
    form,
    group,
    row,
    shape_text,
    size_of,
    size_text,
)
from napari_memseg.widgets.reader import VOLUME
from napari_memseg.widgets.settings import sessions_folder
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.session import begin_session, folder_for, forecast


@dataclass(frozen=True, slots=True)
class _Begun:
    """A session that is being made; meanwhile another layer may be chosen."""

    folder: Path
    layer: Layer
    volume: Volume
    in_memory: bool


EMPTY = (
    "Drop a TIFF stack, a folder of slices, an OME-Zarr or a session folder on the window, or choose one. "
    "At the first drop napari asks for a reader: choose “Memory-efficient segmentation”, to be remembered."
)
UNITS = ("micrometer", "nanometer", "millimeter")


class OpenPage(Page):
    """From a file to a session."""

    title: ClassVar[str] = "Open"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._adopted: Adopted | None = None
        self._begun: _Begun | None = None
        self._build_volume()
        self._build_session()
        self._build_opened()
        self.column.addStretch()
        desk.viewer_layers_changed.connect(self._on_layers)
        desk.building.stepped.connect(self._on_pyramid_step)
        desk.building.ended.connect(self.refresh)
        desk.session_changed.connect(self._on_session)
        self._on_layers()
        self.refresh()

    def _build_volume(self) -> None:
        self.layers = Choice(tip="The image layer that a session is to be begun on")
        self.layers.currentIndexChanged.connect(self._examine)
        self.file = Button("Open file…", self._ask_file, "A TIFF stack, opened lazily")
        self.folder = Button("Open folder…", self._ask_folder, "Slices, an OME-Zarr, or a session")
        self.facts = Hint()
        self.sizes = [QLineEdit() for _ in "zyx"]
        for edit, axis in zip(self.sizes, "zyx", strict=True):
            edit.setPlaceholderText(axis)
            edit.textChanged.connect(self._allow)
        self.unit = Choice(UNITS)
        self.unit.currentIndexChanged.connect(self._show_pixels)
        self.size_form = form(Voxel_size=row(*self.sizes, self.unit))
        self.volume_group = group(
            "Volume", row(self.file, self.folder), self.layers, self.facts, self.size_form
        )
        self.add(self.volume_group)

    def _build_session(self) -> None:
        self.level = Choice(tip="Painting and predicting happen at this resolution, which the session keeps")
        self.place = QLineEdit()
        self.place.setToolTip("A new folder for strokes, models and runs")
        self.place.textChanged.connect(self._foretell)
        self.browse = Button("…", self._ask_place, "Choose where the session lies")
        self.forecast = Hint()
        self.start = Button("Start session", self._start, "Make the folder and begin to annotate")
        self.progress = JobBar()
        self.level_form = form(Level=self.level)
        self.session_group = group(
            "New session",
            self.level_form,
            form(Folder=row(self.place, self.browse)),
            self.forecast,
            self.start,
            self.start.reason,
            self.progress,
        )
        self.add(self.session_group)

    def _build_opened(self) -> None:
        self.about = Hint()
        self.pyramid = Button(
            "Build pyramid",
            self._build,
            "Coarser copies, for fast zooming and 3D; it can be continued",
        )
        self.stop = Button("Stop", self.desk.building.cancel, "It can be continued later")
        self.again = Button("Show layers again", self.desk.show_layers)
        self.close_button = Button("Close session", self.desk.close_session, "Everything is stored")
        self.pyramid_bar = JobBar()
        self.opened_group = group(
            "Session",
            self.about,
            self.again,
            row(self.pyramid, self.stop),
            self.pyramid.reason,
            self.pyramid_bar,
            self.close_button,
            self.close_button.reason,
        )
        self.add(self.opened_group)

    # What is there

    def refresh(self) -> None:
        """Show the volume or the session."""
        session = self.desk.session
        self.opened_group.setVisible(session is not None)
        self.volume_group.setVisible(session is None)
        self.session_group.setVisible(session is None and self._adopted is not None)
        self.size_form.setVisible(self._lacks_size)
        self.layers.setVisible(self.layers.count() > 0)
        if session is not None:
            self._show_session(session)
        elif not self.layers.count():
            self.hint.say(EMPTY)
        elif self._adopted is None:
            self.hint.say("Choose the image that you want to work on.")
        else:
            self.hint.say("Start a session on this volume: a folder that keeps every stroke, model and run.")
        self._allow()

    def _show_session(self, session: Session) -> None:
        missing = self.desk.shown.missing if self.desk.shown else []
        self.hint.say(
            "The session is open; the pages that follow are the steps of its work."
            if not session.read_only
            else why_read_only(session)
        )
        image = session.image
        size = size_of(image, session.level)
        self.about.say(
            f"{session.path}\n{image.name}: {shape_text(session.shape)}, {image.dtype.name}, {size}"
            + (f", level {session.level}" if session.level else "")
        )
        self.again.setVisible(bool(missing))
        self.again.setText(f"Show again: {', '.join(missing)}")
        building = self.desk.building.busy
        has_pyramid = len(image.arrays) > 1
        self.pyramid.setVisible(not building and not has_pyramid)
        self.pyramid.allow(self._why_no_pyramid(session))
        self.stop.setVisible(building)
        if not building:
            needed = forecast(image, session.path).pyramid_bytes
            self.pyramid_bar.clear(
                "" if has_pyramid else f"The pyramid would take up to {size_text(needed)}, in {session.path}."
            )
        self.close_button.allow(self.desk.why_not_close())

    def _why_no_pyramid(self, session: Session) -> str:
        wanted = forecast(session.image, session.path)
        if wanted.pyramid_bytes > wanted.free_bytes:
            return f"The disk has {size_text(wanted.free_bytes)} free: too little for a pyramid."
        return ""

    @property
    def _lacks_size(self) -> bool:
        return self._adopted is not None and self._adopted.volume.voxel_size is None

    # The volume

    def _on_layers(self) -> None:
        """List the images that a session could be begun on; the newest is chosen."""
        ours = self.desk.shown.image if self.desk.shown else None
        found = [layer for layer in self.desk.viewer.layers if isinstance(layer, Image) and layer is not ours]
        known = [self.layers.itemData(n) for n in range(self.layers.count())]
        if found != known:
            self.layers.blockSignals(True)
            self.layers.clear()
            for layer in found:
                self.layers.addItem(layer.name, layer)
            self.layers.setCurrentIndex(len(found) - 1)
            self.layers.blockSignals(False)
            self._examine()

    def _on_session(self) -> None:
        """After a session, its image is one that another could be begun on."""
        if not self.desk.ended:
            self._on_layers()
            if self._adopted is None:
                self._examine()

    def _examine(self, _: int = -1) -> None:
        """Find out in a thread what a layer shows: a folder of many files takes a while."""
        self._adopted = None
        layer = self.layers.currentData()
        if layer is not None and self.desk.session is None:
            self._look_at(layer)
        else:
            self.facts.say("")
        self.refresh()

    def _look_at(self, layer: Image) -> None:
        try:
            facts = LayerFacts.of(layer)
        except InputError as error:
            self.facts.say(str(error))
            return
        self.facts.say("Looking at the volume…")
        create_worker(_adopt, layer, facts, _connect={"returned": self._on_examined})

    def _on_examined(self, examined: tuple[Layer, Adopted | Exception]) -> None:
        layer, found = examined
        if layer is not self.layers.currentData():
            return
        if isinstance(found, Exception):
            self.facts.say(str(found))
            self.refresh()
            return
        self._adopted = found
        for edit in self.sizes:
            edit.clear()
        volume = found.volume
        size = size_of(volume, 0)
        where = "in memory: it will be copied into the session" if found.in_memory else volume.source
        self.facts.say(f"{shape_text(volume.shape)}, {volume.dtype.name}, {size}\n{where}")
        self._show_pixels()
        self._list_levels(found)
        place = folder_for(volume.name, None if found.in_memory else volume.source, sessions_folder())
        self.place.setText(str(place))
        self.refresh()

    def _show_pixels(self, _: int = 0) -> None:
        """Show what the file says of pixels but not of slices: it is taken where nothing else is typed."""
        pixels = self._pixels()
        texts = ("z", *(f"{length:g}" for length in pixels)) if pixels else "zyx"
        for edit, text in zip(self.sizes, texts, strict=True):
            edit.setPlaceholderText(text)
        self._allow()

    def _pixels(self) -> tuple[float, float] | None:
        """Return how long pixels are along y and x in the chosen unit, if the file says it."""
        known = self._adopted.volume.pixel_size if self._adopted is not None else None
        return known.in_unit(self.unit.currentText())[:2] if known else None

    def _list_levels(self, found: Adopted) -> None:
        volume = found.volume
        count = 1 if found.in_memory else len(volume.arrays)
        self.level.clear()
        for level in range(count):
            size = f", {size_of(volume, level)}" if volume.voxel_size else ""
            self.level.addItem(f"{level}: {shape_text(volume.arrays[level].shape)}{size}")
        self.level_form.setVisible(count > 1)

    def _ask_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a volume", filter=VOLUMES)
        self._open(path)

    def _ask_folder(self) -> None:
        self._open(QFileDialog.getExistingDirectory(self, "Open slices, an OME-Zarr or a session"))

    def _open(self, path: str) -> None:
        try:
            if path:
                self.desk.viewer.open(path, plugin="napari-memseg")
        except (MemsegError, OSError, ValueError) as error:
            show_error(str(error))

    # The session

    def _ask_place(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Where shall the session lie?")
        if chosen:
            self.place.setText(str(Path(chosen) / Path(self.place.text()).name))

    def _foretell(self) -> None:
        """Say what the session and a pyramid would take, before anything is made."""
        if self._adopted is not None and self.place.text().strip():
            needed = forecast(self._adopted.volume, self._folder, in_memory=self._adopted.in_memory)
            parts = ["The session begins with less than 1 MB and grows with strokes, models and runs."]
            if needed.image_bytes:
                parts = [f"A copy of the image takes up to {size_text(needed.image_bytes)} in it."]
            elif needed.pyramid_bytes:
                parts.append(
                    f"A pyramid, if you build one, takes up to {size_text(needed.pyramid_bytes)} in it."
                )
            self.forecast.say(" ".join([*parts, f"{size_text(needed.free_bytes)} are free there."]))
        self._allow()

    @property
    def _folder(self) -> Path:
        return Path(self.place.text().strip()).expanduser().absolute()

    def _allow(self) -> None:
        self.start.allow(self._why_not_start())

    def _why_not_start(self) -> str:
        if self._adopted is None or not self.place.text().strip():
            return "No volume is chosen yet."
        if self._begun is not None:
            return "The session is being made."
        if self._folder.exists():
            return "This folder exists already: name a new one, or drop it on the window to open it."
        try:
            self._told_size()
        except ValueError:
            return "A voxel size is three positive numbers (z, y, x). Leave all three empty if it is unknown."
        return ""

    def _told_size(self) -> tuple[float, float, float] | None:
        """Return the voxel size that was typed; None where nothing was."""
        texts = [edit.text().strip().replace(",", ".") for edit in self.sizes]
        if texts[0] and not any(texts[1:]) and (pixels := self._pixels()):
            texts[1:] = map(str, pixels)
        if not self._lacks_size or not any(texts):
            return None
        z, y, x = (float(text) for text in texts)
        if not (min(z, y, x) > 0 and isfinite(z + y + x)):
            raise ValueError
        return z, y, x

    def _start(self) -> None:
        if self._adopted is None:
            return
        volume, size = self._adopted.volume, self._told_size()
        assert self.unit.currentText() in METRES
        if size is not None:
            volume = volume.with_voxel_size(size, self.unit.currentText())
        self.progress.wait("Making the session…")
        begun = _Begun(self._folder, self.layers.currentData(), volume, self._adopted.in_memory)
        connections = {"yielded": self.progress.show_step, "returned": self._on_begun}
        level = max(self.level.currentIndex(), 0)
        create_worker(_begin, begun.folder, volume, level, begun.in_memory, _connect=connections)
        self._begun = begun
        self._allow()

    def _on_begun(self, error: Exception | None) -> None:
        begun, self._begun = self._begun, None
        self.progress.clear()
        if error is not None:
            show_error(str(error))
        elif begun is not None:
            self._open_begun(begun)
        self.refresh()

    def _open_begun(self, begun: _Begun) -> None:
        """Open the new session on the layer that was chosen, or in its place where it shows another."""
        layers = self.desk.viewer.layers
        keep = begun.layer in layers and begun.layer.metadata.get(VOLUME) is begun.volume
        image = None if begun.in_memory else begun.volume
        shown = begun.layer if keep else None
        opened = self.desk.open_session(begun.folder, image=image, layer=shown)
        if opened and not keep and begun.layer in layers:
            layers.remove(begun.layer)
        self._on_layers()

    # The pyramid

    def _build(self) -> None:
        if self.desk.session is not None:
            folder = self.desk.session.path
            workflow = "napari_memseg.workflows.session:build_pyramid"
            self.desk.building.start(f"building the pyramid of {folder.name}", workflow, folder)
            self.pyramid_bar.wait("Building the pyramid…")
            self.refresh()

    def _on_pyramid_step(self, step: Progress) -> None:
        self.pyramid_bar.show_step(step, step.message)


def _adopt(layer: Image, facts: LayerFacts) -> tuple[Layer, Adopted | Exception]:
    """Find the volume in a thread; say of which layer it is, since another may be chosen meanwhile."""
    try:
        return layer, adopt(facts)
    except Exception as error:  # noqa: BLE001 - a layer of anybody's making
        return layer, error


def _begin(
    folder: Path, volume: Volume, level: int, keep: bool
) -> Generator[Progress, None, Exception | None]:
    """Make a session, in a thread; return what went wrong."""
    try:
        yield from begin_session(folder, volume, ClassTable.from_ids([1]), level, keep=keep)
    except (InputError, OSError) as error:
        return error
    return None
